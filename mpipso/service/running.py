"""A process of the service while it runs, and what its log says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpipso.errors import EvaluationFailed
from mpipso.service.engines.base import Engine, remoteness
from mpipso.service.node import TAIL_LINES, Node, last_lines, quoted

LOG_BYTES = 256 * 1024
"""How much of the end of a log travels into the evaluation's folder."""
REASON_LINES = 200
"""Among how many of a log's last lines the telling one is looked for: tracebacks of several processes follow it."""


@dataclass(frozen=True)
class Running:
    """A process of the service that was started.

    ``role`` is what it is, in words (``the master``), ``handle`` what the node calls it by, and ``log`` the path of its
    log on the node.
    """

    node: Node
    role: str
    handle: str
    log: str

    def log_end(self) -> bytes:
        """The end of its log, or why there is none: a log that cannot be read explains nothing, and fails nothing."""
        try:
            return self.node.log_end(self.log, LOG_BYTES)
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
    """The last lines of the logs of these processes; of several, each log is under a line that names its process."""
    if len(several) == 1:
        return several[0].tail()
    return "\n".join(f"--- {each.role} on {each.node.name}\n{each.tail()}" for each in several)
