"""Lines of logs, and causes of failures that quote them, without what differs each time the same thing is said."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")

IN_USE = "address already in use"
"""The system's words for a port that another socket has."""
_IN_USE = re.compile(
    rf"(?i)\b{IN_USE}\b|\bEADDRINUSE\b|\berrno\W{{0,2}}98\b|\bport( \d+)? is already (in use|allocated|occupied)\b"
)
_MEMORY = re.compile(
    r"(?i)out ?of ?memory|\b(no available|not enough|insufficient|cannot allocate|failed to allocate) (gpu )?memory"
    r"|\bmemory is insufficient|\bblock num is 0\b|memoryerror|bad_alloc"
    r"|\b(free|available) memory on .* is less than\b|\blarger than the available \w+ cache memory\b"
    r"|\bleaves no room for the full KV pool\b|\bleave no (GPU )?memory for\b"
)
_PERHAPS_MEMORY = re.compile(rf"{_MEMORY.pattern}|memory|\boom\b|alloc|killed by signal 9\b")
_NUMBER = re.compile(r"\d+")
_HEX = "[0-9a-fA-F]"
_IDENTIFIER = re.compile(
    rf"(?<![0-9A-Za-z])(?:{_HEX}{{8}}(?:-{_HEX}{{4}}){{3}}-{_HEX}{{12}}|(?:0x)?(?={_HEX}*\d){_HEX}{{8,}})(?![0-9A-Za-z])"
)
"""One that was drawn, or an address, in hexadecimal digits: no word has as many of these letters and a digit."""
_TEMPORARY = re.compile(r"(?<=[/-])(?:(?:mpipso|start)-\w{8}|tmp\.?\w{8,})\b")
_CLOCK = r"(?:\d{4}-)?\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z| ?[+-]\d\d:?\d\d)?"
# The name of a time zone and the number of a process in brackets is how PostgreSQL goes on.
_LEVEL = r"(?:[\w.]+ - )?\[?(?:DEBUG|INFO|WARN(?:ING)?|ERROR|FATAL|CRITICAL)\]?"
# A time without a date is one of a logger where a level follows.
_TIME = (
    rf"(?:\[{_CLOCK}(?: \w+)*\]|{_CLOCK}(?: (?:[A-Z]{{3,5}}|[+-]\d\d)(?= \[\d+\]))?"
    rf"|\d\d:\d\d:\d\d(?:[.,]\d+)?(?=\s+{_LEVEL}\s))"
)
_HARMLESS = re.compile(r"\b(?:DEBUG|INFO|WARN(?:ING)?)\b")
PROCESS = r"\(\w+ pid=\d+\)"
"""A pattern of a named process."""
# Brackets with a number, a module or a place in the code; those of an error's code are part of its message.
_FIELD = r"\[(?:\d+|[a-z_]+|\S+:\d+)\]"
_GAP = r"(?:\s?[:|-])?\s+"
_LOGGED = re.compile(
    rf"(?:^|(?<=[:;] ))(?:{_FIELD}{_GAP})*(?:(?:{_TIME}|{_LEVEL}|{PROCESS}){_GAP}(?:{_FIELD}{_GAP})*)+(?=\S)"
)


def unprefixed(text: str) -> str:
    """The text without what loggers put before their messages.

    A logger's prefix is the time, with process, thread, module, level and place in the code, or a level or a named
    process alone. It is found at the beginning of the text, and after a colon or semicolon, as where a cause of a
    failure quotes a line of a log. Of a line that is no error the level stays.
    """
    return _LOGGED.sub(_harmless_level, text)


def parted(line: str) -> tuple[str, str]:
    """A line of a log in two: what its logger put before its message, empty if nothing, and the message."""
    logged = _LOGGED.match(line)
    end = logged.end() if logged else 0
    return line[:end], line[end:]


def _harmless_level(logged: re.Match[str]) -> str:
    level = _HARMLESS.search(logged[0])
    return f"{level[0]}: " if level else ""


def says_in_use(text: str) -> bool:
    """Whether a line of a log, or a cause that quotes it, says that a port was in use already."""
    return bool(_IN_USE.search(text))


def lacks_memory(text: str) -> bool:
    """Whether a line of a log says that memory is short."""
    return bool(_MEMORY.search(text))


def may_lack_memory(cause: str) -> bool:
    """Whether the cause of a failure may be that memory was short, which a smaller setting may cure."""
    return bool(_PERHAPS_MEMORY.search(cause))


def essence(cause: str) -> str:
    """The text that failures of one and the same cause have in common.

    It is the cause without loggers' prefixes, with ``#`` for every number (ports, process ids) and hexadecimal
    identifier (requests), and without the random part of names of temporary files.
    """
    return _NUMBER.sub("#", _IDENTIFIER.sub("#", _TEMPORARY.sub("", unprefixed(cause))))


def alike(caused: Iterable[tuple[str, T]]) -> dict[str, list[T]]:
    """What has causes of one :func:`essence`, together, by the first of these causes."""
    found: dict[str, tuple[str, list[T]]] = {}
    for cause, what in caused:
        found.setdefault(essence(cause), (cause, []))[1].append(what)
    return dict(found.values())
