"""A process of the service while it runs, and what its log says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpipso.errors import EvaluationFailed
from mpipso.service.engines.base import Engine, remoteness
from mpipso.service.node import TAIL_LINES, Node, last_lines, quoted

LOG_BYTES = 256 * 1024
"""How much of the end of a log travels into the evaluation's folder."""
_MARK = 64
"""Bytes of these that are kept for the line that tells what is missing."""
REASON_LINES = 200
"""Among how many of a log's last lines the telling one is looked for: tracebacks of several processes follow it."""


@dataclass(frozen=True)
class Running:
    """A process of the service: where it runs, what it is there, how it is addressed, its log."""

    node: Node
    role: str
    handle: str
    log: str

    def log_end(self) -> bytes:
        """The end of its log, or why there is none: a log that cannot be read explains nothing, and fails nothing."""
        try:
            size = self.node.file_size(self.log)
            return _whole_lines(self.node.read_chunk(self.log, -LOG_BYTES, LOG_BYTES), size)
        except EvaluationFailed as error:
            return f"{error.cause}\n".encode()

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines of its log."""
        return last_lines(self.log_end().decode(errors="replace"), lines)

    def reason(self, engine: Engine) -> tuple[int, str]:
        """The line of its log that tells most: its :func:`remoteness`, and as a cause quotes it."""
        line = engine.reason(self.tail(REASON_LINES))
        return remoteness(line), quoted(line)


def tails(several: Sequence[Running]) -> str:
    """The last lines of several logs."""
    if len(several) == 1:
        return several[0].tail()
    return "\n".join(f"--- {each.role} on {each.node.name}\n{each.tail()}" for each in several)


def _whole_lines(end: bytes, size: int) -> bytes:
    """The end of a log of so many bytes, from the start of a line on if it has one, and what is missing in the first.

    The keeper of a service writes the same where it cuts a log.
    """
    if size <= len(end):
        return end
    end = end[_MARK:]
    kept = end.partition(b"\n")[2] or end
    return f"[... {size - len(kept)} bytes left out ...]\n".encode() + kept
