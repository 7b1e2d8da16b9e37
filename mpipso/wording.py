"""Numbers and lists in messages."""

from __future__ import annotations

from collections.abc import Sequence


def ranges(numbers: tuple[int, ...]) -> str:
    """``0-3,8`` for 0, 1, 2, 3, 8."""
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
    """The first of them, and how many more there are."""
    more = [f"{len(words) - most} more"] if len(words) > most else []
    return separator.join([*words[:most], *more])


def counted(number: int, noun: str) -> str:
    """``1 rank``, ``2 ranks``, ``no ranks``."""
    return f"{number or 'no'} {plural(number, noun)}"


def plural(number: int, noun: str) -> str:
    return noun if number == 1 else f"{noun}s"
