"""What the service groups did with their time, from a run's journal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpipso.evaluation import CLOCK_JUMP, CONFIRM, LONGEST_DURATION
from mpipso.record.judged import from_fields

Event = Mapping[str, Any]

BEGINNINGS = ("started", "resumed")
"""Events that begin a session of a run."""
ENDINGS = ("finished", "interrupted", "failed")
"""Events that end a session in good order."""
_PHASES = {"starting": "start", "measuring": "benchmark", "stopping": "stop"}


@dataclass
class GroupUsage:
    """A service group and what it did with its time, in seconds, from when it was formed until it or its session ended.

    Attributes
    ----------
    session:
        In which session of the run it was, from 1 on; group numbers begin anew in each.
    group:
        Its number.
    hosts:
        The names of its nodes' hosts.
    seconds:
        How long the group existed.
    start, benchmark, stop, other:
        Seconds of the evaluations that have a result: until the service was ready, measuring it, stopping it, the rest.
    lost:
        Seconds of attempts that were repeated or cut short, and of quarantines.
    running:
        Seconds of an attempt that was under way when the journal was read.
    evaluations:
        How many evaluations of the group have a result.
    """

    session: int
    group: int
    hosts: tuple[str, ...] = ()
    seconds: float = 0.0
    start: float = 0.0
    benchmark: float = 0.0
    stop: float = 0.0
    other: float = 0.0
    lost: float = 0.0
    running: float = 0.0
    evaluations: int = 0

    @property
    def useful(self) -> float:
        """Seconds of the evaluations that have a result."""
        return self.start + self.benchmark + self.stop + self.other

    @property
    def idle(self) -> float:
        """Seconds in which it had nothing to do."""
        return max(0.0, self.seconds - self.useful - self.lost - self.running)


@dataclass(frozen=True)
class Loss:
    """Ranks that were lost at once, their hosts, the numbers of the groups that ended with them, and the cause."""

    ranks: tuple[int, ...]
    hosts: tuple[str, ...]
    groups: tuple[int, ...]
    cause: str


@dataclass(frozen=True)
class Quarantine:
    """A group, by its number, that got no evaluations for ``seconds``, and why.

    ``readmitted`` is False when it stayed out until it or its session ended.
    """

    group: int
    cause: str
    seconds: float
    readmitted: bool


@dataclass
class Usage:
    """What all groups of all sessions of a run did with their time.

    Attributes
    ----------
    groups, losses, quarantines:
        The groups in the order in which they were formed; what was lost, and which groups were left out for a while.
    sessions:
        How many sessions the run has had.
    wall:
        Seconds at work: from the beginning of each session to its last event or, if it was cut short and the run has
        gone on, its last sign of life.
    durations:
        The seconds that each of the search's evaluations took which have a result, without confirmations, in the order
        of their numbers, in which they were proposed.
    """

    groups: list[GroupUsage] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    quarantines: list[Quarantine] = field(default_factory=list)
    sessions: int = 0
    wall: float = 0.0
    durations: list[float] = field(default_factory=list)

    @property
    def speed_up(self) -> float | None:
        """How many times longer one group alone would have taken for the same evaluations; None for an empty run."""
        useful = sum(group.useful for group in self.groups)
        return useful / self.wall if self.wall > 0 and useful > 0 else None

    @property
    def idle_share(self) -> float:
        """The share of all groups' time in which they had nothing to do, from 0 to 1."""
        seconds = sum(group.seconds for group in self.groups)
        return sum(group.idle for group in self.groups) / seconds if seconds > 0 else 0.0

    @property
    def width(self) -> int:
        """How many groups there were at a time, on average over the wall time; at least 1."""
        return max(1, round(sum(group.seconds for group in self.groups) / self.wall)) if self.wall > 0 else 1


def busy_share(groups: Sequence[GroupUsage]) -> float:
    """The useful share of the groups' time, from 0 to 1; 0 for groups that existed for no time."""
    seconds = sum(group.seconds for group in groups)
    return min(1.0, sum(group.useful for group in groups) / seconds) if seconds > 0 else 0.0


def usage(events: Sequence[Event]) -> Usage:
    """Account for the time of every group, from all events of a run's journal.

    Durations are differences of one clock each: an evaluation's times are its leader's, all others the root's, and of a
    clock that is never set but in journals of earlier versions.

    Raises
    ------
    KeyError, TypeError, AttributeError
        An event lacks a field, or one has another shape, as in a journal that was written by somebody else.
    """
    total = Usage()
    search: dict[int, float] = {}
    for number, (session, lived) in enumerate(_sessions(events), start=1):
        _Session(number, _timed(session), total, lived).account()
        for event in session:
            if event["event"] == "evaluated" and event["label"] != CONFIRM:
                evaluation = from_fields(event).evaluation
                if not evaluation.silent:
                    search[evaluation.number] = evaluation.seconds
    total.durations = [search[number] for number in sorted(search)]
    return total


def _sessions(events: Iterable[Event]) -> Iterator[tuple[list[Event], float | None]]:
    """The events of each session, and how many seconds it lived on after them; None for the last one."""
    session: list[Event] = []
    for event in events:
        if event["event"] in BEGINNINGS and session:
            yield session, event.get("lived", 0.0)
            session = []
        session.append(event)
    if session:
        yield session, None


def _timed(session: Sequence[Event]) -> list[Event]:
    """The events with seconds since the first one as their ``t``.

    Where ``t`` is all there is, the clock may have been set: what then seems to be between two events is left out.
    """
    clock = "up" if all("up" in event for event in session) else "t"
    timed: list[Event] = []
    since, before = 0.0, session[0][clock]
    for event in session:
        gap = event[clock] - before
        if 0 <= gap <= LONGEST_DURATION:
            since += gap
        if not -CLOCK_JUMP <= gap < 0:
            before = event[clock]
        timed.append({**event, "t": since})
    return timed


@dataclass
class _Life:
    """A group while it exists."""

    usage: GroupUsage
    born: float
    attempt: tuple[int, int] | None = None
    since: float = 0.0
    """When the attempt was assigned."""
    quarantined: Event | None = None


class _Session:
    """Goes through one session's events, and adds what it finds to the ``total``."""

    def __init__(self, number: int, events: Sequence[Event], total: Usage, lived: float | None) -> None:
        self._number = number
        self._events = events
        self._total = total
        # Without an ending the last session may still go on; an earlier one was cut short.
        self._open = lived is None and events[-1]["event"] not in ENDINGS
        self._lived = lived or 0.0
        self._lives: dict[int, _Life] = {}

    def account(self) -> None:
        begun, ended = 0.0, self._events[-1]["t"] + self._lived
        self._total.sessions += 1
        self._total.wall += ended
        for group in self._events[0].get("plan", {}).get("groups", ()):
            self._form(group["group"], group["hosts"], begun)
        for event in self._events[1:]:
            self._take(event)
        for life in list(self._lives.values()):
            self._end(life, ended, still_running=self._open)

    def _take(self, event: Event) -> None:
        kind = event["event"]
        if kind == "formed":
            self._form(event["group"], event["hosts"], event["t"])
        elif kind == "lost":
            self._total.losses.append(
                Loss(tuple(event["ranks"]), tuple(event["hosts"]), tuple(event["groups"]), event["cause"])
            )
            for group in event["groups"]:
                if group in self._lives:
                    self._end(self._lives.pop(group), event["t"])
        elif event.get("group") in self._lives:
            self._of_group(self._lives[event["group"]], event)

    def _of_group(self, life: _Life, event: Event) -> None:
        kind = event["event"]
        if kind == "quarantined" and life.quarantined is None:
            life.quarantined = event
        elif kind == "readmitted":
            self._leave_quarantine(life, event["t"], readmitted=True)
        elif kind == "assigned" and life.quarantined is None:
            life.attempt, life.since = (event["number"], event["attempt"]), event["t"]
        elif kind == "retried" and life.attempt == (event["number"], event["attempt"]):
            life.attempt = None
            life.usage.lost += event["t"] - life.since
        elif kind == "evaluated":
            life.attempt = None
            self._evaluated(life.usage, event)

    def _form(self, group: int, hosts: Sequence[str], at: float) -> None:
        if group in self._lives:
            self._end(self._lives[group], at)
        self._lives[group] = _Life(GroupUsage(self._number, group, tuple(hosts)), at)
        self._total.groups.append(self._lives[group].usage)

    def _evaluated(self, group: GroupUsage, event: Event) -> None:
        judged = from_fields(event)
        seconds = judged.evaluation.seconds
        if judged.evaluation.silent:
            group.lost += seconds
            return
        group.evaluations += 1
        known = 0.0
        for phase, name in _PHASES.items():
            spent = min(max(0.0, event.get("phases", {}).get(phase, 0.0)), seconds - known)
            setattr(group, name, getattr(group, name) + spent)
            known += spent
        group.other += seconds - known

    def _end(self, life: _Life, at: float, still_running: bool = False) -> None:
        life.usage.seconds = at - life.born
        self._leave_quarantine(life, at, readmitted=False)
        if life.attempt is None:
            return
        if still_running:
            life.usage.running += at - life.since
        else:
            life.usage.lost += at - life.since

    def _leave_quarantine(self, life: _Life, at: float, *, readmitted: bool) -> None:
        event = life.quarantined
        if event is None:
            return
        seconds = at - event["t"]
        life.quarantined = None
        life.usage.lost += seconds
        self._total.quarantines.append(Quarantine(event["group"], event["cause"], seconds, readmitted))
