"""Messages between a leader and an agent as lines of JSON, for carriers that reach out of the job.

What is read here is data and never becomes code: a line is one of the messages below or an error, and it is bounded.
Bytes travel as ``{"$bytes": base64}``, what a command printed as ``{"$completed": {...}}``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

from mpipso.errors import EvaluationFailed, FailureKind
from mpipso.service.process import Completed
from mpipso.service.remote import Abandon, Answer, Request

LINE_LIMIT = 1 << 24
"""Bytes of a line: a chunk of a file needs 1.4 million, both outputs of a command 12 million at worst."""


@dataclass(frozen=True)
class Ready:
    """Agent to leader, as its first message: it runs, and it is this edition of mpipso."""

    edition: str


@dataclass(frozen=True)
class Alive:
    """Leader to agent, every few seconds: a sign of life, without which the agent ends."""


Message = Request | Answer | Abandon | Ready | Alive


def encode(message: Message) -> bytes:
    """A message as one line.

    Raises
    ------
    ValueError
        The line would be longer than ``LINE_LIMIT``, or the message holds something that has no place in JSON.
    """
    line = json.dumps(_table(message), default=_special, separators=(",", ":")).encode() + b"\n"
    if len(line) > LINE_LIMIT:
        raise ValueError(f"a message of {len(line)} bytes, {LINE_LIMIT} are allowed")
    return line


def tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a frozen dataclass that came as lists."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def decode(line: bytes) -> Message:
    """The message of a line.

    Raises
    ------
    ValueError
        The line is no message.
    """
    try:
        table = json.loads(line, object_hook=_restored)
    except (ValueError, RecursionError, TypeError):
        table = None
    match table:
        case {"request": int(number), "method": str(method), "args": list(args), "kwargs": dict(kwargs)}:
            return Request(number, method, tuple(args), kwargs)
        case {"abandon": int(number)}:
            return Abandon(number)
        case {"answer": int(number), "failure": {"cause": str(cause), "kind": kind, "detail": str(detail)}}:
            if kind in get_args(FailureKind):
                return Answer(number, failure=EvaluationFailed(cause, kind=kind, detail=detail))
        case {"answer": int(number), "value": value}:
            return Answer(number, value)
        case {"ready": str(edition)}:
            return Ready(edition)
        case {"alive": True}:
            return Alive()
    raise ValueError(f"not a message: {line[:100]!r}")


class Lines:
    """Cuts a stream of bytes into lines."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that ``data`` completes, without their ends.

        Raises
        ------
        ValueError
            A line is longer than ``LINE_LIMIT``.
        """
        *ends, rest = data.split(b"\n")
        lines = []
        for end in ends:
            lines.append(bytes(self._rest + end))
            self._rest.clear()
        self._rest += rest
        if max(map(len, [*lines, self._rest])) > LINE_LIMIT:
            raise ValueError(f"a line of more than {LINE_LIMIT} bytes")
        return lines


def _table(message: Message) -> dict[str, Any]:
    match message:
        case Request(number, method, args, kwargs):
            return {"request": number, "method": method, "args": args, "kwargs": dict(kwargs)}
        case Abandon(number):
            return {"abandon": number}
        case Answer(number, _, EvaluationFailed() as failure):
            return {
                "answer": number,
                "failure": {"cause": failure.cause, "kind": failure.kind, "detail": failure.detail},
            }
        case Answer(number, value):
            return {"answer": number, "value": value}
        case Ready(edition):
            return {"ready": edition}
        case Alive():
            return {"alive": True}


def _special(value: object) -> dict[str, Any]:
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, Completed):
        return {"$completed": asdict(value)}
    raise ValueError(f"{type(value).__name__} is nothing that can be sent")


def _restored(table: dict[str, Any]) -> Any:
    match table:
        case {"$bytes": str(text), **rest} if not rest:
            return base64.b64decode(text, validate=True)
        case {
            "$completed": {
                "exit_code": int(code),
                "stdout": str(out),
                "stderr": str(err),
                "timed_out": bool(timed_out),
                "cut": bool(cut),
            },
            **rest,
        } if not rest:
            return Completed(code, out, err, timed_out, cut)
    return table
