"""Particles out to the groups, evaluations back: one queue, and a group takes the next particle when it is free.

This is the scatter and gather of each iteration, point to point: a blocking collective would keep a core busy on every
node and could not lose a rank. The dispatcher never waits; the root calls :meth:`Dispatcher.step` between naps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from mpipso.cluster.world import Channel
from mpipso.evaluation import Assignment, Evaluation


@dataclass(frozen=True)
class Progress:
    """A leader tells what its evaluation is doing now: ``starting``, ``measuring``, ..."""

    group: int
    number: int
    attempt: int
    phase: str


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


Event = Progress | Assigned | Evaluated | Retried


@dataclass(frozen=True)
class Cancel:
    """Root to leader: give up the evaluation that runs."""


@dataclass(frozen=True)
class Finish:
    """Root to leader, leader to member, root to spare: the run is over, leave."""


class Dispatcher:
    """The root's side of the groups.

    Parameters
    ----------
    orders, reports:
        The channels of the leaders, by group index: assignments go out on one, evaluations come back on the other.
    retries:
        How often an evaluation that failed for reasons of infrastructure is repeated, on another group if there is one.
    """

    def __init__(self, orders: Channel, reports: Channel, *, retries: int) -> None:
        self._orders = orders
        self._reports = reports
        self._retries = retries
        self._queue: deque[Assignment] = deque()
        self._running: dict[int, Assignment] = {}
        self._failed_on: dict[int, list[int]] = {}
        self._cancelled: set[int] = set()
        self._ending = False
        self.groups = frozenset(range(orders.size))

    @property
    def busy(self) -> bool:
        """Whether anything is queued or under way."""
        return bool(self._queue or self._running)

    @property
    def running(self) -> Collection[Assignment]:
        return tuple(self._running.values())

    def submit(self, assignments: Iterable[Assignment]) -> None:
        """Put assignments at the end of the queue."""
        self._ending = False
        self._queue.extend(assignments)

    def step(self) -> list[Event]:
        """Take what has come back, give what is queued to the groups that are free."""
        events: list[Event] = []
        for group, message in self._reports.take():
            if not isinstance(message, Progress | Evaluation) or not self._expects(group, message):
                continue
            if isinstance(message, Progress):
                events.append(message)
            else:
                del self._running[group]
                events += self._settle(group, message)
        for group in sorted(self.groups - self._running.keys()):
            assignment = self._next_for(group)
            if assignment is not None:
                self._running[group] = assignment
                self._cancelled.discard(group)
                self._orders.post(group, assignment)
                events.append(Assigned(group, assignment))
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
            self._orders.post(group, Cancel())

    def finish(self) -> None:
        """Send every leader home."""
        for group in self.groups:
            self._orders.post(group, Finish())

    def _expects(self, group: int, message: Progress | Evaluation) -> bool:
        # What comes late from an attempt that was given up must not count for the attempt that replaced it.
        assignment = self._running.get(group)
        return assignment is not None and (assignment.number, assignment.attempt) == (message.number, message.attempt)

    def _settle(self, group: int, evaluation: Evaluation) -> list[Event]:
        failure = evaluation.failure
        if failure is not None and failure.kind == "cancelled":
            self._failed_on.pop(evaluation.number, None)
            return []
        failed_on = self._failed_on.setdefault(evaluation.number, [])
        final = failure is None or failure.kind == "configuration"
        if final or self._ending or len(failed_on) >= self._retries:
            del self._failed_on[evaluation.number]
            return [Evaluated(evaluation)]
        failed_on.append(group)
        self._queue.appendleft(
            Assignment(evaluation.number, evaluation.attempt + 1, evaluation.configuration, evaluation.label)
        )
        return [Retried(evaluation)]

    def _next_for(self, group: int) -> Assignment | None:
        """The first assignment that has not failed on this group, as long as another group may still take it."""
        for index, assignment in enumerate(self._queue):
            failed_on = self._failed_on.get(assignment.number, [])
            if group not in failed_on or self.groups.issubset(failed_on):
                del self._queue[index]
                return assignment
        return None
