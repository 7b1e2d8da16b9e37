"""How numbers, lists, long texts, foreign texts, hosts and what may be meant by a word are told in messages."""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Collection, Sequence

_MOST_NAMED = 40
"""Of the names that a user may have meant: all keys of a table, and all metrics, as ``tps`` is like no throughput."""


def ranges(numbers: tuple[int, ...]) -> str:
    """Numbers that ascend as text, with a dash for those that follow each other: ``0-3,8`` for 0, 1, 2, 3, 8."""
    if not numbers:
        return "none"
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs)


def listed(words: Sequence[str], separator: str = ", ", most: int = 10) -> str:
    """The first ``most`` words, and how many more there are: ``a, b, 3 more``."""
    more = [f"{len(words) - most} more"] if len(words) > most else []
    return separator.join([*words[:most], *more])


def counted(number: int, noun: str) -> str:
    """A number with its noun: ``1 rank``, ``2 ranks``, ``no ranks``."""
    return f"{number or 'no'} {plural(number, noun)}"


def plural(number: int, noun: str) -> str:
    """The noun as it goes with a number: ``rank`` for 1, ``ranks`` for any other."""
    return noun if number == 1 else f"{noun}s"


def shortened(text: str, most: int) -> str:
    """The text, of which three dots take the place of the end if it has more than ``most`` characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def printable(text: str) -> str:
    """One line of foreign text, with a space for each character that is none to be seen.

    Control characters could reach a terminal's cursor, title and clipboard.
    """
    return "".join(character if character.isprintable() else " " for character in text)


def clean(text: str) -> str:
    """Any text on one line, with single spaces."""
    return " ".join(printable(text).split())


def short_host(host: str) -> str:
    """The name of a host without its domain; an IP address has none, and stays whole."""
    return host if is_address(host) else host.partition(".")[0]


def is_address(host: str) -> bool:
    """Whether a host, or ``user@host``, is named by its IP address."""
    try:
        ipaddress.ip_address(host.rpartition("@")[2])
    except ValueError:
        return False
    return True


def suggestion(word: str, known: Collection[str]) -> str:
    """What a user may have meant by ``word``, as the end of a message; of many names those that are most like it."""
    every = sorted(set(known))
    close = difflib.get_close_matches(word, every, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    nearest = sorted(difflib.get_close_matches(word, every, n=_MOST_NAMED, cutoff=0.0))
    more = [f"{len(every) - len(nearest)} more"] if len(every) > len(nearest) else []
    return f"; known are: {', '.join([*nearest, *more])}" if every else ""
