"""The processes of the service while they run, and what their logs say of their ends."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mpipso.errors import EvaluationFailed
from mpipso.logtext import IN_USE, says_in_use
from mpipso.service.engines.base import Engine
from mpipso.service.node import TAIL_LINES, Node, last_lines, quoted
from mpipso.service.reasons import ELSEWHERE, ENDED, MEMORY, NAMED, OTHER, Reason, of_peer, only_named

LOG_BYTES = 256 * 1024
"""How much of a log travels into the evaluation's folder."""
REASON_LINES = 2000
"""Among how many of a log's last lines the telling one is looked for: tracebacks of several processes follow it."""
LOAD_BYTES = 4 << 20
"""Bytes of the log since the benchmark began that are searched: half at its beginning, where the cause is, half at its
end."""
LEAD_BYTES = 16 * 1024
"""How much is kept before the telling line: the traceback that ends with it."""


@dataclass
class Running:
    """A process of the service that was started.

    ``role`` is what it is, in words (``the master``), ``handle`` what the node calls it by, and ``log`` the path of its
    log on the node.
    """

    node: Node
    role: str
    handle: str
    log: str
    ready: int | None = None
    """Bytes of the log when the benchmark began."""
    told: int | None = None
    """From which byte on the log says why the process ended under load."""

    def begin(self) -> None:
        """The benchmark begins: what is said from now on is said under load."""
        with contextlib.suppress(EvaluationFailed):
            self.ready = self.node.log_size(self.log)

    def kept(self) -> bytes:
        """What is kept of its log: its end and, if that lacks them, the lines that say why it ended under load.

        A log that cannot be read explains nothing, and fails nothing: it is why it cannot.
        """
        try:
            if self.told is None:
                return self.node.log_text(self.log, -LOG_BYTES, LOG_BYTES)
            since = max(0, min(self.told, self.node.log_size(self.log) - LOG_BYTES))
            return self.node.log_text(self.log, since, LOG_BYTES)
        except EvaluationFailed as error:
            return f"{error.cause}\n".encode()

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines of its log."""
        return last_lines(self._text(-LOG_BYTES, LOG_BYTES), lines)

    def reason(self, engine: Engine, lately: bool = False) -> Reason:
        """The line of its log that tells most, as a cause quotes it.

        Under load that is one that was said since the benchmark began, unless nothing was that tells of an error; with
        ``lately`` even then.
        """
        found = None if self.ready is None else self._reason_under_load(engine, self.ready)
        if found is None or (found.remoteness == OTHER and not lately):
            found = engine.reason(self.tail(REASON_LINES))
        line = quoted(found.line)
        # What is to blame hangs on these words, so that they must not be what is cut.
        lost = says_in_use(found.line) and not says_in_use(line)
        return Reason(found.remoteness, f"{line} ({IN_USE})" if lost else line)

    def _reason_under_load(self, engine: Engine, ready: int) -> Reason:
        """The first line of those that tell most since the benchmark began; notes where it is."""
        with contextlib.suppress(EvaluationFailed):
            # In a log that was cut meanwhile nothing is where it was; what is new is in its end.
            if (size := self.node.log_size(self.log)) < ready:
                ready = max(0, size - LOAD_BYTES)
        said = self._text(ready, LOAD_BYTES)
        reason = engine.reason(said, first=True)
        before, found, after = said.partition(reason.line)
        if found:
            begin = len(before.encode())
            with contextlib.suppress(EvaluationFailed):  # what is left out of a long log is in the middle of the text
                size = self.node.log_size(self.log)
                begin = ready + begin if begin < LOAD_BYTES // 2 else size - len(f"{found}{after}".encode())
                self.told = max(ready, begin - LEAD_BYTES)
        return reason

    def _text(self, since: int, most: int) -> str:
        try:
            return self.node.log_text(self.log, since, most).decode(errors="replace")
        except EvaluationFailed as error:
            return f"{error.cause}\n"


class _End(NamedTuple):
    """How a process has ended, in words, with what its log ``said`` of it; ``remoteness`` as of a :class:`Reason`."""

    remoteness: int
    ended: str
    said: str = ""

    @property
    def line(self) -> str:
        return self.ended + self.said


def tails(several: Sequence[Running]) -> str:
    """The last lines of the logs of these processes; of several, each log is under a line that names its process."""
    if len(several) == 1:
        return several[0].tail()
    return "\n".join(f"--- {each.role} on {each.node.name}\n{each.tail()}" for each in several)


def ends(several: Sequence[Running], engine: Engine, when: str, *, heard: bool) -> tuple[list[str], list[Running]]:
    """Why the service has ended, in words, the nearest cause first, and the processes whose logs tell; none if it runs.

    Of causes that are equally near, a port that was in use goes first: others lose their connection to who wanted it.
    It has ended as soon as one of its processes has. ``heard`` says whether anybody has listened where it should: else
    a process that ended well may have gone to the background.
    """
    codes = [(running, running.node.poll_service(running.handle)) for running in several]
    told = [running for running, code in codes if code is not None]
    if not told:
        return [], []
    causes: list[_End] = []
    for running, code in codes:
        if code is not None:
            remoteness, line = running.reason(engine)
            how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
            gone = code == 0 and not heard and remoteness > ELSEWHERE
            hint = " (its command has to stay in the foreground)" if gone else ""
            # What says only that another process has ended comes after what that one says itself.
            remoteness = max(ENDED, remoteness) if of_peer(line) else remoteness
            # One that is killed has said nothing, and is still no less of a reason than the error of another.
            mute = code == -signal.SIGKILL and remoteness == OTHER
            remoteness = remoteness if code >= 0 or of_peer(line) else min(NAMED, remoteness)
            said = "" if mute else f": {line}"  # what it did at last is no reason for that
            causes.append(_End(remoteness, f"{running.node.name}: {running.role} {how} {when}{hint}", said))
    nearest = min(cause.remoteness for cause in causes)
    tells = nearest < ENDED and not all(only_named(each.line) for each in causes if each.remoteness == nearest)
    for running, code in codes:
        # One that lives on may have told why the others have ended. But it may as well have survived what it told,
        # unless that is missing memory: it comes after a reason that one of them has told itself in more than a name.
        if code is None and (reason := running.reason(engine, lately=True)).remoteness < min(nearest, ELSEWHERE):
            remoteness = nearest if reason.remoteness > MEMORY and tells else reason.remoteness
            causes.append(_End(remoteness, f"{running.node.name}: {running.role} says: {reason.line}"))
            told.append(running)
    causes.sort(key=lambda each: (each.remoteness, not says_in_use(each.line)))
    # What several say is quoted once.
    first = {each.said: each for each in reversed(causes)}
    return [each.line if each is first[each.said] else each.ended for each in causes], told
