"""Particles out to the groups, evaluations back: one queue, and a group takes the next particle when it is free.

This is the scatter and gather of each iteration, point to point: a blocking collective would keep a core busy on every
node and could not lose a rank. The dispatcher never waits and knows no clock: the root tells it the time.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from mpipso.cluster.health import ServiceGroupHealthMonitor
from mpipso.evaluation import CONFIRM, PROBE, Assignment, Configuration, Evaluation, Failure

SUSPENSIONS = 5
"""How often an evaluation is repeated because the job was suspended, before that counts like any other failure."""
RESTS = (5.0, 15.0)
"""Seconds that pass after the first, and after each further, failure of infrastructure of an evaluation until the group
on which it failed may try it again, so that a passing cause passes."""


@dataclass(frozen=True)
class Progress:
    """A leader tells what its evaluation is doing now, ``starting``, ``measuring``, ..., and what that waits for."""

    group: int
    number: int
    attempt: int
    phase: str
    detail: str = ""


@dataclass(frozen=True)
class Assigned:
    """The dispatcher has sent an assignment to a group."""

    group: int
    assignment: Assignment


@dataclass(frozen=True)
class Evaluated:
    """An evaluation has come back and will not be repeated."""

    evaluation: Evaluation


@dataclass(frozen=True)
class Retried:
    """An evaluation failed for a reason that lies outside its configuration; it is in the queue again."""

    evaluation: Evaluation


@dataclass(frozen=True)
class GivenUp:
    """An evaluation that the end of the run has cut short: it has no result, but files that tell how far it came."""

    evaluation: Evaluation


@dataclass(frozen=True)
class Quarantined:
    """A group gets no particles until a probe of it passes, the next one in ``pause`` seconds."""

    group: int
    cause: str
    pause: float


@dataclass(frozen=True)
class Probed:
    """A group in quarantine has measured a configuration that is known to be good."""

    evaluation: Evaluation


@dataclass(frozen=True)
class Readmitted:
    """A group gets particles again."""

    group: int


Event = Progress | Assigned | Evaluated | Retried | GivenUp | Quarantined | Probed | Readmitted


@dataclass(frozen=True)
class Cancel:
    """Root to leader: give up the evaluation that runs."""


class Dispatcher:
    """The root's side of the groups.

    Parameters
    ----------
    post:
        Sends a message to the leader of a group.
    health:
        Decides which groups get particles.
    retries:
        How often an evaluation that failed for reasons of infrastructure is repeated, on another group if there is one.
        A measurement that did not come about is repeated once. Repetitions after a suspension do not count.
    rolling:
        Whether more is submitted before all is done, as in a window: then the evaluation that all others wait for goes
        first, and after it those that are expected to take longest. Otherwise, and in a final race, which may be cut
        short, the queue is served in its order.
    """

    def __init__(
        self,
        post: Callable[[int, Assignment | Cancel], None],
        health: ServiceGroupHealthMonitor,
        *,
        retries: int,
        rolling: bool = False,
    ) -> None:
        self._post = post
        self._health = health
        self._retries = retries
        self._rolling = rolling
        self._queue: deque[Assignment] = deque()
        self._running: dict[int, tuple[Assignment, float]] = {}
        self._failed_on: dict[int, list[int]] = {}
        self._rests: dict[tuple[int, int], float] = {}  # by evaluation and group: the time at which it is over
        self._unmeasured: set[int] = set()
        self._suspended: Counter[int] = Counter()
        self._cancelled: set[int] = set()
        self._ending = False
        self._probes = 0
        self.known_good: Configuration | None = None
        """What a group in quarantine is probed with; without one it gets particles again after its pause."""

    @property
    def busy(self) -> bool:
        """Whether any evaluation is queued or under way."""
        return bool(self._queue) or any(assignment.label != PROBE for assignment, _ in self._running.values())

    def idle(self, now: float) -> int:
        """How many healthy groups have nothing to do and will find nothing in the queue that they may take."""
        healthy = self._health.get_healthy_groups()
        free = healthy - self._running.keys()
        takers = [group for group in free if any(self._may_take(each, group, healthy, now) for each in self._queue)]
        taken = [each for each in self._queue if any(self._may_take(each, group, healthy, now) for group in takers)]
        return len(free) - min(len(takers), len(taken))

    @property
    def running(self) -> Collection[Assignment]:
        """What the groups evaluate now, probes included."""
        return tuple(assignment for assignment, _ in self._running.values())

    def overdue(self, now: float, limit: float) -> list[int]:
        """The groups whose evaluation has run for more than ``limit`` seconds at the time ``now``."""
        return [group for group, (_, since) in self._running.items() if now - since > limit]

    def join(self, group: int) -> None:
        """A group is ready to work; its number was never used before."""
        self._health.join(group)

    def leave(self, group: int, cause: str, now: float, ended: float) -> list[Event]:
        """A group has ended, for a reason in words (``cause``): the assignment that it ran goes back to the queue.

        ``ended`` is the Unix time at the time ``now``, for the evaluation that is lost.
        """
        self._health.leave(group)
        assignment, since = self._running.pop(group, (None, now))
        if assignment is None or assignment.label == PROBE:
            return []
        failure = Failure(cause, "infrastructure")
        lost = replace(assignment.evaluation(group), failure=failure, started=ended - (now - since), ended=ended)
        return self._settle(lost, assignment, now)

    def submit(self, assignments: Iterable[Assignment]) -> None:
        """Put assignments at the end of the queue."""
        for assignment in assignments:
            self._ending = False
            self._queue.append(assignment)

    def take(self, group: int, message: Progress | Evaluation, now: float) -> list[Event]:
        """What a leader reports. What comes late, from an attempt that was given up, is dropped."""
        assignment, _ = self._running.get(group, (None, now))
        if assignment is None or (assignment.number, assignment.attempt) != (message.number, message.attempt):
            return []
        if isinstance(message, Progress):
            return [message]
        del self._running[group]
        if assignment.label == PROBE:
            return self._probed(message, now)
        return [*self._settle(message, assignment, now), *self._judge_health(message, now)]

    def step(self, now: float) -> list[Event]:
        """Give what is queued to the groups that are free, and probe those in quarantine."""
        events: list[Event] = []
        for group in sorted(self._health.get_healthy_groups() - self._running.keys()):
            assignment = self._next_for(group, now)
            if assignment is not None:
                self._assign(group, assignment, now)
                events.append(Assigned(group, assignment))
        for group in self._health.due(now):
            if group in self._running or self._ending:
                continue
            if self.known_good is None:
                self._health.readmit(group)
                events.append(Readmitted(group))
            else:
                self._probes += 1
                self._assign(group, Assignment(-self._probes, 1, self.known_good, PROBE), now)
        return events

    def drop_queue(self) -> None:
        """Start nothing more, not even again, until there is a new submission; what runs goes on."""
        self._ending = True
        self._queue.clear()

    def cancel(self) -> None:
        """Start nothing more, and have every group give up what it runs; their reports still come back. Idempotent."""
        self.drop_queue()
        for group in self._running.keys() - self._cancelled:
            self._cancelled.add(group)
            self._post(group, Cancel())

    def _assign(self, group: int, assignment: Assignment, now: float) -> None:
        self._running[group] = (assignment, now)
        if assignment.label == CONFIRM:  # several turns of a race may stand in the queue
            for index, other in enumerate(self._queue):
                if other.configuration == assignment.configuration:
                    self._queue[index] = replace(other, elsewhere=(*other.elsewhere, group))
        self._cancelled.discard(group)
        self._post(group, assignment)

    def _settle(self, evaluation: Evaluation, assignment: Assignment, now: float) -> list[Event]:
        failure = evaluation.failure
        failed_on = self._failed_on.pop(evaluation.number, [])
        if failure is None or failure.kind == "configuration":
            return [Evaluated(evaluation)]
        if failure.kind == "cancelled" or self._ending:
            # It has no result, and says nothing: a resumed run tries it again.
            return [GivenUp(evaluation)] if evaluation.files else []
        if evaluation.suspended and self._suspended[evaluation.number] < SUSPENSIONS:
            self._suspended[evaluation.number] += 1
            return self._again(evaluation, assignment, failed_on)
        measurement = failure.kind == "measurement"
        if len(failed_on) >= self._retries or (measurement and evaluation.number in self._unmeasured):
            return [Evaluated(evaluation)]
        if measurement:
            self._unmeasured.add(evaluation.number)
        else:
            self._rests[evaluation.number, evaluation.group] = now + RESTS[min(len(failed_on), len(RESTS) - 1)]
        return self._again(evaluation, assignment, [*failed_on, evaluation.group])

    def _again(self, evaluation: Evaluation, assignment: Assignment, failed_on: list[int]) -> list[Event]:
        self._failed_on[evaluation.number] = failed_on
        self._queue.appendleft(replace(assignment, attempt=assignment.attempt + 1))
        return [Retried(evaluation)]

    def _judge_health(self, evaluation: Evaluation, now: float) -> list[Event]:
        if evaluation.suspended or (evaluation.failure is not None and evaluation.failure.kind == "cancelled"):
            return []
        known_good = self.known_good is not None and evaluation.configuration == self.known_good
        if not self._health.record(evaluation, now, known_good=known_good):
            return []
        return [self._quarantined(evaluation.group)]

    def _probed(self, evaluation: Evaluation, now: float) -> list[Event]:
        group, failure = evaluation.group, evaluation.failure
        if failure is None:
            self._health.readmit(group)
            return [Probed(evaluation), Readmitted(group)]
        if evaluation.suspended or failure.kind == "cancelled":
            return []
        self._health.mark_unhealthy(group, f"the probe failed: {failure.cause}", now, node_lost=failure.node_lost)
        return [Probed(evaluation), self._quarantined(group)]

    def _quarantined(self, group: int) -> Quarantined:
        return Quarantined(group, self._health.cause(group), self._health.pause(group))

    def _next_for(self, group: int, now: float) -> Assignment | None:
        """The next assignment for a group: none that has failed on it, as long as another group may still take it.

        One that has failed on all healthy groups rests (:data:`RESTS`) before the group takes it again, while it may
        take others. One that the group has measured before, and another has not, waits for that one behind the others.
        """
        healthy = self._health.get_healthy_groups()
        fits = [i for i, assignment in enumerate(self._queue) if self._may_take(assignment, group, healthy, now)]
        if not fits:
            return None
        index = min(fits, key=lambda index: (self._is_for_another(index, group, healthy), self._turn(index)))
        assignment = self._queue[index]
        del self._queue[index]
        return assignment

    def _may_take(self, assignment: Assignment, group: int, healthy: frozenset[int], now: float) -> bool:
        failed_on = self._failed_on.get(assignment.number, [])
        rested = now >= self._rests.get((assignment.number, group), now)
        return group not in failed_on or (healthy.issubset(failed_on) and rested)

    def _is_for_another(self, index: int, group: int, healthy: frozenset[int]) -> bool:
        """Whether the group has measured before what stands at ``index`` of the queue, and another group has not."""
        elsewhere = self._queue[index].elsewhere
        return group in elsewhere and not healthy.issubset(elsewhere)

    def _turn(self, index: int) -> float:
        """When what stands at ``index`` of the queue is to begin: the least goes first."""
        assignment = self._queue[index]
        if not self._rolling or assignment.label == CONFIRM:
            return index
        running = [each for each, _ in self._running.values() if each.label != PROBE]
        oldest = min(each.number for each in [*self._queue, *running])
        return -math.inf if assignment.number == oldest else -assignment.seconds
