"""Which line of a log says best why a process has ended."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from mpipso.logtext import PROCESS, lacks_memory, parted
from mpipso.service.boxes import unboxed

MEMORY, NAMED, ERROR, ENDED, ELSEWHERE, OTHER = range(6)
"""How far a line is from the cause of an end: memory was missing; an exception with what it says; another error; the
end of a process that may have said nothing, as one that is killed; an error that only points to another, or only says
what could not begin for it; anything else."""


class Reason(NamedTuple):
    """A line that says why a process has ended, and how far it is from the cause; what is nearer compares as less."""

    remoteness: int
    line: str


def remoteness(line: str) -> int:
    """How far a line of a log is from the cause of an end, by what it says behind its logger's prefix."""
    prefix, said = parted(line.strip())
    if _ENDED.search(said):  # vLLM only warns of it
        return ENDED
    if _HARMLESS_LEVEL.search(prefix) or _HARMLESS.search(said):
        return OTHER
    named = _NAMED.search(said)
    elsewhere = _ELSEWHERE.search(said)
    if lacks_memory(said):  # the errors of those that wait for the engine follow
        if named or not _ADVICE.search(said):
            return NAMED if elsewhere else MEMORY
        return OTHER  # it speaks of memory, and of no error
    if not _ERROR.search(f"{prefix}{said}"):
        return NAMED if _REFUSAL.search(said) else OTHER
    if elsewhere:
        return ELSEWHERE
    return NAMED if _WITH_TEXT.search(said) or _REFUSAL.search(said) else ERROR


def telling(log: str, first: bool = False) -> str:
    """The line of a log that says best why the process ended.

    That is one of the nearest of all; of several the last one, or the ``first`` if whatever follows an error is its
    doing. An exception that was survived is no reason if another error follows, nor is a line that only has the word
    where others state an error. Without any error it is the last line.
    """
    said = [line for line in unboxed(log.splitlines()) if line.strip() and not _LEFT_OUT.fullmatch(line.strip())]
    lines = list(_messages(said)) or said
    if not lines:
        return "its log is empty"
    ranks = list(map(remoteness, lines))
    nearest = min(ranks)
    if first and nearest <= ERROR:
        return lines[ranks.index(nearest)].strip()
    if nearest == NAMED:
        return lines[_not_survived(lines, ranks)].strip()
    last = [line for line, rank in zip(lines, ranks, strict=True) if rank == nearest]
    stated = list(filter(states, last)) if nearest == ERROR else []
    return (stated or last)[-1].strip()


def only_named(line: str) -> bool:
    """Whether a line ends with the name of an exception, of which it says nothing."""
    return bool(_ONLY_NAMED.search(line))


def of_peer(line: str) -> bool:
    """Whether a line only says that a process on another node has ended."""
    return bool(_PEER.search(line))


def states(line: str) -> bool:
    """Whether a line that tells of an error is one by its level or its form, and does not only have the word."""
    prefix, said = parted(line.strip())
    return bool(_LEVEL.search(prefix) or _STATED.search(said))


def _not_survived(lines: Sequence[str], ranks: Sequence[int]) -> int:
    """The index of the last exception that was not survived; without any, of the last error.

    One is survived if its process goes on before the last error: it says something that is no error, does not belong to
    one, and does not speak of its end.
    """
    last = max(index for index, rank in enumerate(ranks) if rank in (NAMED, ERROR, ENDED))
    went_on: set[str] = set()
    for index in range(last, -1, -1):
        process = _PROCESS.match(lines[index])
        name = process[0] if process else ""
        if ranks[index] == NAMED and not (name in went_on if name else went_on):
            return index
        # A single space is what parts a message from its prefix.
        if ranks[index] == OTHER and _indentation(lines[index]) <= 1 and not _ENDING.search(lines[index]):
            went_on.add(name)
    return last


def _messages(lines: Iterable[str]) -> Iterator[str]:
    """Those that say something: no code of a traceback, no empty message; with its field where one is refused."""
    frame: int | None = None  # the indentation of the frame of a traceback whose code follows
    before = ""
    for line in map(str.rstrip, lines):
        indentation, said = _indentation(line), parted(line.strip())[1]
        if said.startswith('File "'):
            frame = indentation
        elif (frame is None or indentation <= frame) and not _EMPTY.fullmatch(said):
            frame = None
            refusal = _REFUSAL.search(said)
            if refusal and _FIELD.fullmatch(before):
                said = f"{before}: {said}"
            yield _OBJECT.sub("", said) if refusal else line
            before = said


def _indentation(line: str) -> int:
    """How many spaces stand before what a line says, behind the bracket that ends its logger's prefix if it has one."""
    prefix, said = parted(line)
    return len(prefix) - len(prefix.rstrip()) if prefix else len(said) - len(said.lstrip())


_LEVEL = re.compile(r"\b(ERROR|FATAL|CRITICAL)\b")
_STATED = re.compile(
    r"(?i)\b(\w*(error|exception)|fatal): \S|^reason: \S|^[\w.]*(error|exception)$"
    # How runtimes begin what they say last, whatever a service has logged before.
    r"|^(terminate called|exception in thread|panic|fatal error)\b|^(cuda|nccl|hip|cann|acl|hccl) error\b"
    # What is said of a process that can say nothing itself, as it hangs or has died.
    r"|\bwatchdog timeout \(.{0,300}\bsoft=False\b|\bcrashed with exit code -?\d"
    r"|\bScheduler or DataParallelController \d+ terminated with (?!0\b)"
)
_ERROR = re.compile(rf"{_STATED.pattern}|\b\w*(error|exception)\b|out of memory|\bfatal\b")
_HARMLESS_LEVEL = re.compile(r"\b(INFO|WARN|WARNING|DEBUG)\b")
# Prefixes of glog and of Python's warnings, what a web server says of each request, a model that is left out, and how
# many errors there were: none.
_HARMLESS = re.compile(
    r'^[IW]\d{4} |^\S+:\d+: \w*Warning: |"[A-Z]+ \S+ HTTP/[\d.]+"|^Ignore import error when loading '
    r"|(?i:\berrors?\b[ \w]{0,40}[:=]\s*0(\.0+)?\s*%?$|\b0 errors?$|^errors? set:$)"
)
_ENDED = re.compile(r"(?i)\bengine core (proc \S+ )?(exited|died) unexpectedly\b")
# What Gloo, NCCL and PyTorch's store say on one node of what has ended on another.
_PEER = re.compile(
    r"(?i)\bgloo/\S+ ((Read error|writev) \[\S+: )?(Connection (closed|reset) by peer|Broken pipe)\b"
    r"|\bremote process (exited|exiting)\b"
    r"|\bConnection was likely closed\. Did the remote server shutdown or crash\b"
)
_NAMED = re.compile(r"(?i)\b\w+(error|exception)\b|bad_alloc")
_ONLY_NAMED = re.compile(r"\b[A-Z]\w*(Error|Exception):?$")
_WITH_TEXT = re.compile(r"(?:^|[\s.:'\"(])(?:[A-Z]\w*(?:Error|Exception)|Exception): \S")
# What Pydantic says of a value, and the objects that it was given, which say nothing.
_REFUSAL = re.compile(r"^(\w[\w.]*: )?(Value error|Assertion failed), |\[type=\w+, input_value=")
_OBJECT = re.compile(r" \[type=(value|assertion)_error, input_value=.*")
_FIELD = re.compile(r"[a-z]\w*(\.\w+)*")
_ADVICE = re.compile(r"(?i)\b(hint|avoid|prevent|handler)\b")
_ELSEWHERE = re.compile(
    r"(?i)\bsee (the )?((root cause|errors?|error messages?|logs?) )?above\b|\babove exception\b|^raise \w"
    r"|\b(stack ?trace|traceback) \(?above\b|\bfor further information visit\b|\bvalidation errors? for \S+$"
    r"|^EOFError$|\bChildFailedError\b|\bApplication startup failed\b"
    r"|\boutput_handler failed\b|\bError in (chat )?completion stream generator\b"
    r"|\bscheduler died during initialization\b|\bother ranks that didn't finish loading\b"
    # What AIPerf says of an error beside its reason, and of one that another of its services has told.
    r"|^Error: (Unknown|\w+Error|\w+Exception)$|\bfailed to perform operation '[^']*'\W*(\(\S+\))?$"
    # What gunicorn says of its workers.
    r"|\bworker failed to boot\b|\bworker \(pid:\d+\) exited with code\b|^shutting down: master$"
    # Nothing follows that would say why.
    r"|\b(failed to (init|initiali[sz]e|start|create)\b|init fail)(?!.{0,300} (because|due to) )[^:;,(]{0,300}$"
)
_PROCESS = re.compile(PROCESS)
# What is said by one that ends, and about each request.
_ENDING = re.compile(
    r"(?i)\b(kill(ed|ing)|abort\w*|core dumped|shut(ting)? ?down|exit\w*|clos(ed|ing)|clean\w* ?up|stopp(ed|ing)|ended"
    r"|ending|terminat\w*|signal|sig[a-z]{3,4}|destroy\w*|died|dead|lost|leaked)\b|^(\(.*\) )?Process \S+:$"
    r'|"[A-Z]+ \S+ HTTP/[\d.]+"'
)
# How a node and the keeper of a service mark what a log lacks.
_LEFT_OUT = re.compile(r"\[\.\.\. \d+ bytes left out \.\.\.\]")
# Marks below code, and what is left of a line that has a prefix alone: its place in the code, its level.
_EMPTY = re.compile(
    r"\W*|\[\S+:\d+\]|(DEBUG|INFO|WARN(ING)?|ERROR|FATAL|CRITICAL):?|Traceback \(most recent call last\):"
)
