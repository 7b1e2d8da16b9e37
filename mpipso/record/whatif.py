"""What another schedule would have cost: the measured durations, scheduled again on as many groups.

Pure computing: list scheduling (R. L. Graham, "Bounds for certain multiprocessing anomalies", Bell System Technical
Journal 45 (1966) 1563-1581) of evaluations in the order of their proposal. Left out is what is the same for all
schedules: faults, confirmations, the time between evaluations. Left out too is what matters most, which other
configurations would have been proposed: a proposal that sees fewer results learns less.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mpipso.config import ScheduleKind
from mpipso.record.figures import duration

IDLE = 0.10
"""Groups that idled for a smaller share of their time are busy enough."""
WORTH = 0.05
"""What another schedule has to save, as a share of the makespan, to be worth a line."""


@dataclass(frozen=True)
class ScheduleChoice:
    """Which results a proposal may see, as a user chooses it.

    Attributes
    ----------
    kind:
        ``generation``, ``window`` or ``async``: what they mean is in :class:`mpipso.config.Search`.
    size:
        Particles of a generation, proposals of a window, or groups that ``async`` would keep busy. Where ``async`` was
        used nothing looks at it, and it is any number.
    """

    kind: ScheduleKind
    size: int

    @property
    def unseen(self) -> float:
        """How many earlier proposals' results a proposal does not see, on average."""
        return (self.size - 1) / 2 if self.kind == "generation" else float(self.size - 1)


@dataclass(frozen=True)
class Saving:
    """A schedule that would have saved time, and the one that was used, each with its makespan in seconds.

    As text it is the end of a sentence that tells a user what to set, what that saves and what it costs.
    """

    choice: ScheduleChoice
    seconds: float
    used: ScheduleChoice
    used_seconds: float

    def __str__(self) -> str:
        choice = self.choice
        settings = [] if choice.kind == self.used.kind else [f'schedule = "{choice.kind}"']
        if choice.kind != "async":
            settings.append(f"{'particles' if choice.kind == 'generation' else 'window'} = {choice.size}")
        return (
            f"with {' and '.join(settings)} the search would have taken about {duration(self.seconds)} instead of "
            f"{duration(self.used_seconds)}, {self._price()}"
        )

    def _price(self) -> str:
        if self.choice.kind == "async":
            return "but its result would depend on timing, not on the seed alone"
        fewer = self.choice.unseen - self.used.unseen
        return f"but a proposal then sees {fewer:.3g} results fewer" if fewer > 0 else "and a proposal sees as much"


def makespan(durations: Sequence[float], groups: int, choice: ScheduleChoice) -> float:
    """Seconds from the first start to the last end, if the evaluations followed a schedule.

    Parameters
    ----------
    durations:
        Seconds of each evaluation, in the order of proposal.
    groups:
        How many evaluations run at a time.
    choice:
        The schedule.
    """
    if choice.kind == "generation":
        batches = [durations[first : first + choice.size] for first in range(0, len(durations), choice.size)]
        # Of the first one nothing can be predicted; of the others the longest begin first.
        return sum(
            _queue(sorted(each, reverse=True) if number else each, groups) for number, each in enumerate(batches)
        )
    if choice.kind == "async":
        return _queue(durations, groups)
    free = [0.0] * groups
    # When everything up to this proposal was back.
    back: list[float] = []
    for index, seconds in enumerate(durations):
        seen = back[index - choice.size] if index >= choice.size else 0.0
        end = max(heapq.heappop(free), seen) + seconds
        heapq.heappush(free, end)
        back.append(max(end, back[-1] if back else 0.0))
    return back[-1] if back else 0.0


def saving(durations: Sequence[float], groups: int, used: ScheduleChoice) -> Saving | None:
    """The schedule that would have saved most; None when none would have saved :data:`WORTH`, or ``async`` was used.

    Of schedules that save about as much it is the one whose proposals see most; ``async`` only where no other is worth
    it, because its result depends on timing. Parameters are those of :func:`makespan`, with the schedule that was used.
    """
    if used.kind == "async" or not durations:
        return None
    now = makespan(durations, groups, used)
    found = [(makespan(durations, groups, choice), choice) for choice in _others(len(durations), groups, used)]
    worth = [(seconds, choice) for seconds, choice in found if seconds <= (1 - WORTH) * now]
    candidates = [pair for pair in worth if pair[1].kind != "async"] or worth
    if not candidates:
        return None
    fastest = min(seconds for seconds, _ in candidates)
    close = [pair for pair in candidates if pair[0] <= fastest + WORTH * now]
    seconds, choice = min(close, key=lambda pair: (pair[1].unseen, pair[0]))
    return Saving(choice, seconds, used, now)


def _others(count: int, groups: int, used: ScheduleChoice) -> Iterator[ScheduleChoice]:
    """Swarms and windows of one to six times the groups, as long as they leave three generations to learn from."""
    for size in range(groups, 6 * groups + 1, groups):
        for choice in (ScheduleChoice("generation", size), ScheduleChoice("window", size)):
            if choice != used and 2 <= size <= count / 3:
                yield choice
    yield ScheduleChoice("async", groups)


def _queue(durations: Sequence[float], groups: int) -> float:
    """Seconds until all are done if every group, when it is free, takes the next evaluation of a queue."""
    free = [0.0] * groups
    for seconds in durations:
        heapq.heappush(free, heapq.heappop(free) + seconds)
    return max(free)
