"""The root, with channels that need no MPI: what the other ranks say is played, and the faults are injected."""

from __future__ import annotations

import contextlib
import io
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cluster.local_channel import LocalChannel
from faults.course import Course

from mpipso.cluster.dispatch import Cancel
from mpipso.cluster.plan import PlacedGroup, PlacedNode, Plan, Spare
from mpipso.config import Config
from mpipso.config.file import load
from mpipso.config.parallel import LEAST_LEASE
from mpipso.errors import Alone, RunFailed
from mpipso.evaluation import Assignment, Evaluation, Failure
from mpipso.farewell import GOODBYE
from mpipso.launched import RESTARTS
from mpipso.messages import ROOT, Alive, Depart, Disband, Finish, Fled, Free, Left, Order
from mpipso.record.journal import FILE, Journal, read
from mpipso.record.monitor import Monitor
from mpipso.record.screen import Screen
from mpipso.redact import Redactor
from mpipso.rendezvous import Place
from mpipso.roles import BEAT
from mpipso.root import Root
from mpipso.service.clients.base import CLIENTS
from mpipso.service.engines.base import ENGINES
from mpipso.signals import Interrupts
from mpipso.timelimits import TimeLimits


class Others(LocalChannel):
    """The root's end of a channel whose other two ends are played: :meth:`told` says what they do."""

    def __init__(self) -> None:
        super().__init__(ROOT, LocalChannel.connected(3)[ROOT]._mailboxes)

    def post(self, dest: int, message: object) -> None:
        if dest == ROOT:
            super().post(dest, message)
        else:
            self.told(dest, message)

    def told(self, rank: int, message: object) -> None:
        """A rank gets a message; it does as little as it can and leaves at the end."""
        if isinstance(message, Finish):
            self.say(rank, Left())

    def say(self, rank: int, message: object) -> None:
        self._mailboxes[ROOT].append((rank, message))


class Ranks(Others):
    """The root's end: rank 1 dies of what it is told at a time, and rank 2 does as it is told."""

    failed: frozenset[int] = frozenset()

    def __init__(self, deadly: type) -> None:
        super().__init__()
        self._deadly = deadly
        self.departed = False

    def told(self, rank: int, message: object) -> None:
        match rank, message:
            case 1, Order() if isinstance(message.content, self._deadly):
                self.failed = frozenset({1})
            case 2, Order(content=Cancel()):
                self.say(2, Evaluation(1, 1, 1, {}, failure=Failure("cancelled", "cancelled")))
            case 2, Finish():
                self.say(2, Left())
            case 2, Depart():
                self.departed = True


class Clock:
    """Goes on by half a second at each nap."""

    def __init__(self) -> None:
        self.now = 0.0

    def nap(self) -> None:
        self.now += 0.5

    def rule(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The root has no other clock from now on."""
        monkeypatch.setattr("mpipso.root.time", SimpleNamespace(monotonic=lambda: self.now, time=lambda: self.now))
        monkeypatch.setattr("mpipso.root.awake", lambda: self.now)


class Distant(Others):
    """The root's end: nothing is ever heard of rank 1, and rank 2 gives signs of life until some moment."""

    def __init__(self, clock: Clock, until: float) -> None:
        super().__init__()
        self._clock = clock
        self._until = until

    def take(self) -> list[tuple[int, Any]]:
        speaks = self._clock.now <= self._until and self._clock.now % BEAT == 0
        return [*super().take(), *([(2, Alive())] if speaks else [])]


def job(config: Config, plan: Plan, own: PlacedNode, everyone: LocalChannel, nap: Callable[[], None]) -> Any:
    """The context of a root that leads no group."""
    return SimpleNamespace(
        config=config,
        plan=plan,
        place=Place(own),
        group=None,
        node=SimpleNamespace(close=lambda: None),
        everyone=everyone,
        world=SimpleNamespace(rank=0, size=3, nap=nap, tolerant=True),
    )


class Failing(Others):
    """The root's end: whatever ranks 1 and 2 are told to measure fails at once."""

    def __init__(self, failure: Failure) -> None:
        super().__init__()
        self._failure = failure

    def told(self, rank: int, message: object) -> None:
        match message:
            case Order(group=group, content=Assignment() as assignment):
                failed = replace(assignment.evaluation(group), failure=self._failure)
                self.say(rank, failed)
            case Finish():
                self.say(rank, Left())


def played(channel: LocalChannel, folder: Path, nap: Callable[[], None] = lambda: None, **changes: object) -> Any:
    """The context of a root that is a spare, and without cores forms no group; ranks 1 and 2 are groups."""
    config = load(Course(folder, **changes).config, overrides={}, engines=ENGINES.names(), clients=CLIENTS.names())
    nodes = [PlacedNode(rank, f"h{rank}", f"h{rank}", (0,) if rank else (), ()) for rank in range(3)]
    plan = Plan((PlacedGroup(0, (nodes[1],)), PlacedGroup(1, (nodes[2],))), (Spare("left over", nodes[0]),))
    return job(config, plan, nodes[0], channel, nap)


@pytest.mark.parametrize(
    ("until", "lost", "when"),
    [
        (0.0, "rank 1 on h1, rank 2 on h2", 3.5),
        (2.0, "rank 1 on h1, rank 2 on h2", 5.5),
        (1000.0, "rank 1 on h1", 4.0),
    ],
)
def test_a_launcher_may_find_the_last_group_again_and_a_spare_that_is_as_silent_is_not_taken_to_be_there(
    until: float, lost: str, when: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    course = Course(tmp_path, parallel__lease=LEAST_LEASE)
    config = load(course.config, overrides={}, engines=ENGINES.names(), clients=CLIENTS.names())
    # Without cores, the spares form no group.
    nodes = [PlacedNode(rank, f"h{rank}", f"h{rank}", (0,) if rank == 1 else (), ()) for rank in range(3)]
    spares = tuple(Spare("left over", nodes[rank]) for rank in (0, 2))
    clock = Clock()
    clock.rule(monkeypatch)
    context = job(config, Plan((PlacedGroup(0, (nodes[1],)),), spares), nodes[0], Distant(clock, until), clock.nap)
    tuning: Any = SimpleNamespace(
        cause="", evaluation_seconds=0.0, race_seconds=lambda groups: (0.0, 0.0), known_good=lambda: None
    )
    tuning.propose = lambda idle: []
    with Journal.create(tmp_path, Redactor({})) as journal:
        monitor = Monitor(2, {0: "h1"}, io.StringIO(), Screen("plain"))
        root = Root(context, tuning, journal, monitor, Interrupts(), TimeLimits(None, 0.0, {}), beat=tmp_path / "beat")
        monkeypatch.setattr(root, "_send_home", lambda: None)
        with pytest.raises(Alone, match=f"no service group is left: lost {lost}$"):
            root.run()
    assert clock.now - 0.5 == when, "each turn ends with a nap"


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        ("h1: node lost: its agent ended", Alone),
        ("h1: port 8000 is in use by pid 7 (redis-server)", RunFailed),
        ("h1: the service ended with code 1 before it was ready: [Errno 98] address in use; node lost: 3", RunFailed),
    ],
)
def test_a_launcher_may_find_a_node_again_that_all_groups_have_lost(cause: str, kind: type, tmp_path: Path) -> None:
    channel = Failing(Failure(cause, "infrastructure"))
    context = played(channel, tmp_path, parallel__quarantine_after=1, parallel__probe_pause=0.01)
    ignored = dict.fromkeys(("assigned", "retried", "given_up", "probed"), lambda *_: None)
    tuning: Any = SimpleNamespace(
        cause="",
        evaluation_seconds=0.0,
        race_seconds=lambda groups: (0.0, 0.0),
        known_good=lambda: {"n": 1},
        propose=lambda idle: [Assignment(number, 1, {}) for number in range(idle)],
        **ignored,
    )
    with Journal.create(tmp_path, Redactor({})) as journal:
        monitor = Monitor(2, {0: "h1", 1: "h2"}, io.StringIO(), Screen("plain"))
        root = Root(context, tuning, journal, monitor, Interrupts(), TimeLimits(None, 0.0, {}), beat=tmp_path / "beat")
        told = "every service group is in quarantine:\ngroup 0: the probe failed: h1: "
        with pytest.raises(RunFailed, match=told) as raised:
            root.run()
    assert type(raised.value) is kind


@pytest.mark.parametrize("deadly", [Assignment, Cancel], ids=["the run", "its end"])
def test_all_are_sent_home_if_a_rank_is_lost_and_the_journal_cannot_be_written(
    deadly: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = Ranks(deadly)

    def full(*args: object, **fields: object) -> None:
        raise RunFailed("the disk is full")

    def assigned(group: int, assignment: Assignment) -> None:
        if deadly is Cancel:
            full()

    context = played(channel, tmp_path)
    tuning: Any = SimpleNamespace(
        cause="",
        evaluation_seconds=0.0,
        race_seconds=lambda groups: (0.0, 0.0),
        known_good=lambda: None,
        propose=lambda idle: [Assignment(number, 1, {}) for number in range(2)],
        assigned=assigned,
    )
    interrupts, limits = Interrupts(), TimeLimits(None, 0.0, {})
    with Journal.create(tmp_path, Redactor({})) as journal:
        monkeypatch.setattr(journal, "write", full)
        monitor = Monitor(2, {0: "h1", 1: "h2"}, io.StringIO(), Screen("plain"))
        root = Root(context, tuning, journal, monitor, interrupts, limits, beat=tmp_path / "beat")
        with pytest.raises(RunFailed, match="the disk is full"):
            root.run()
    assert channel.departed


class Stuck(Others):
    """The root's end: what rank 1 evaluates never ends, and it falls silent some day; rank 2 does as it is told.

    ``signs`` has the moments at which rank 1 was sent a sign of life.
    """

    def __init__(self, clock: Clock, until: float) -> None:
        super().__init__()
        self._clock = clock
        self._until = until
        self.signs: list[float] = []

    def told(self, rank: int, message: object) -> None:
        match rank, message:
            case 1, Alive():
                self.signs.append(self._clock.now)
            case 2, Order(group=group, content=Assignment() as assignment):
                self.say(rank, assignment.evaluation(group))
            case 2, Finish():
                self.say(rank, Left())

    def take(self) -> list[tuple[int, Any]]:
        speaking = (1, 2) if self._clock.now <= self._until else (2,)
        return [*super().take(), *((rank, Alive()) for rank in speaking)]


def test_a_rank_that_is_lost_hears_of_the_root_for_as_long_as_it_is_heard_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would take the root for dead, and most kinds of MPI end the whole job then."""
    clock = Clock()
    clock.rule(monkeypatch)
    monkeypatch.setattr("mpipso.overdue.SLACK", 0.0)
    changes = {"parallel__lease": LEAST_LEASE, "search__evaluation_timeout": 8.0, "service__stop_grace": 2.0}
    channel, interrupts = Stuck(clock, 60.0), Interrupts()

    def nap() -> None:
        clock.nap()
        if clock.now == 120.0:
            interrupts.ask(signal.SIGINT)

    tuning: Any = SimpleNamespace(
        cause="",
        evaluation_seconds=0.0,
        race_seconds=lambda groups: (0.0, 0.0),
        known_good=lambda: None,
        propose=lambda idle: [Assignment(0, 1, {})] if not clock.now else [],
        assigned=lambda group, assignment: None,
        retried=lambda evaluation: None,
        evaluated=lambda evaluation: None,
    )
    with Journal.create(tmp_path, Redactor({})) as journal:
        monitor = Monitor(2, {0: "h1", 1: "h2"}, io.StringIO(), Screen("plain"))
        limits, context = TimeLimits(None, 0.0, {}), played(channel, tmp_path, nap, **changes)
        root = Root(context, tuning, journal, monitor, interrupts, limits, beat=tmp_path / "beat")
        monkeypatch.setattr(root, "_send_home", lambda: None)
        root.run()
    ((lost, cause),) = [(event["ranks"], event["cause"]) for event in read(tmp_path / FILE) if event["event"] == "lost"]
    assert (lost, cause) == ([1], "its evaluation does not end")
    assert 60.0 <= max(channel.signs) <= 60.0 + LEAST_LEASE + BEAT


def test_the_end_of_a_run_does_not_wait_for_a_rank_that_cannot_give_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have a group in quarantine to probe when all that was wanted is measured."""
    clock = Clock()
    clock.rule(monkeypatch)
    monkeypatch.setattr("mpipso.farewell.time", SimpleNamespace(monotonic=lambda: clock.now))

    def evaluated(evaluation: Evaluation) -> None:
        raise RunFailed("it fails")

    tuning: Any = SimpleNamespace(
        cause="",
        evaluation_seconds=0.0,
        race_seconds=lambda groups: (0.0, 0.0),
        known_good=lambda: None,
        propose=lambda idle: [Assignment(number, 1, {}) for number in range(2)] if not clock.now else [],
        assigned=lambda group, assignment: None,
        evaluated=evaluated,
    )
    context = played(Stuck(clock, 1e9), tmp_path, clock.nap)
    with Journal.create(tmp_path, Redactor({})) as journal:
        monitor = Monitor(2, {0: "h1", 1: "h2"}, io.StringIO(), Screen("plain"))
        limits, beat = TimeLimits(None, 0.0, {}), tmp_path / "beat"
        root = Root(context, tuning, journal, monitor, Interrupts(), limits, beat=beat)
        with pytest.raises(RunFailed, match="it fails"):
            root.run()
    assert root.abandoned, "the others end it"
    assert clock.now < 2 * GOODBYE + 5.0


class Fleeing(Others):
    """The root's end: rank 1 says nothing but, at some moment, that it flees; rank 2 gives signs of life."""

    def __init__(self, clock: Clock, after: float) -> None:
        super().__init__()
        self._clock = clock
        self._after = after

    def take(self) -> list[tuple[int, Any]]:
        fled = [(1, Fled())] if self._clock.now == self._after else []
        return [*super().take(), *fled, (2, Alive())]


@pytest.mark.parametrize(
    ("tolerant", "after", "restarts", "alone"),
    [
        (True, 1.0, "3", True),
        (True, 1.0, "0", False),
        (True, 8.0, "3", False),
        (False, 1.0, "0", True),
        (False, 8.0, "3", True),
    ],
)
def test_a_root_that_was_taken_for_dead_leaves_it_to_the_launcher_unless_the_job_survives_a_rank_that_is_lost(
    tolerant: bool, after: float, restarts: str, alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RESTARTS, restarts)
    clock, interrupts = Clock(), Interrupts()
    clock.rule(monkeypatch)

    def nap() -> None:
        clock.nap()
        if clock.now == 12.0:
            interrupts.ask(signal.SIGINT)

    tuning: Any = SimpleNamespace(
        cause="", evaluation_seconds=0.0, race_seconds=lambda groups: (0.0, 0.0), known_good=lambda: None
    )
    tuning.propose = lambda idle: []
    context = played(Fleeing(clock, after), tmp_path, nap, parallel__lease=LEAST_LEASE)
    context.world.tolerant = tolerant
    with Journal.create(tmp_path, Redactor({})) as journal:
        monitor = Monitor(2, {0: "h1", 1: "h2"}, io.StringIO(), Screen("plain"))
        root = Root(context, tuning, journal, monitor, interrupts, TimeLimits(None, 0.0, {}), beat=tmp_path / "beat")
        told = "the root stood still or was cut off for too long: rank 1 on h1 left"
        with pytest.raises(Alone, match=f"^{told}$") if alone else contextlib.nullcontext():
            root.run()


class Struck(Others):
    """The root's end: ranks 1 and 2 die when they are told to give up what they evaluate."""

    failed: frozenset[int] = frozenset()

    def told(self, rank: int, message: object) -> None:
        match message:
            case Order(content=Cancel()):
                self.failed = frozenset({1, 2})


def test_a_run_that_a_signal_ends_is_not_left_to_the_launcher_though_its_groups_are_lost(tmp_path: Path) -> None:
    interrupts = Interrupts()
    tuning: Any = SimpleNamespace(
        cause="",
        evaluation_seconds=0.0,
        race_seconds=lambda groups: (0.0, 0.0),
        known_good=lambda: None,
        propose=lambda idle: [Assignment(number, 1, {}) for number in range(2)],
        assigned=lambda group, assignment: interrupts.ask(signal.SIGTERM),
    )
    limits, context = TimeLimits(None, 0.0, {}), played(Struck(), tmp_path)
    with Journal.create(tmp_path, Redactor({})) as journal:
        monitor = Monitor(2, {0: "h1", 1: "h2"}, io.StringIO(), Screen("plain"))
        root = Root(context, tuning, journal, monitor, interrupts, limits, beat=tmp_path / "beat")
        root.run()
    assert not root.complete
    assert [event["ranks"] for event in read(tmp_path / FILE) if event["event"] == "lost"] == [[1], [2]]


class Widowed(Others):
    """The root's end: rank 2 is dead, and rank 1 leaves what it was in as it is told."""

    failed: frozenset[int] = frozenset({2})

    def told(self, rank: int, message: object) -> None:
        match rank, message:
            case 1, Disband():
                self.say(rank, Free())
            case 1, Finish():
                self.say(rank, Left())


def test_no_group_is_formed_that_would_have_been_refused_at_the_start(tmp_path: Path) -> None:
    """The spare has no address at which the other could reach it."""
    context = played(Widowed(), tmp_path)
    nodes = [PlacedNode(rank, f"h{rank}", "10.0.0.1" if rank else "127.0.0.1", (0,)) for rank in range(3)]
    context.plan = Plan((PlacedGroup(0, tuple(nodes[1:])),), (Spare("left over", nodes[0]),))
    tuning: Any = SimpleNamespace(
        cause="", evaluation_seconds=0.0, race_seconds=lambda groups: (0.0, 0.0), known_good=lambda: None
    )
    tuning.propose = lambda idle: []
    limits = TimeLimits(None, 0.0, {})
    with Journal.create(tmp_path, Redactor({})) as journal:
        monitor = Monitor(2, {0: "h1+h2"}, io.StringIO(), Screen("plain"))
        with pytest.raises(Alone, match="no service group is left: lost rank 2 on h2"):
            Root(context, tuning, journal, monitor, Interrupts(), limits, beat=tmp_path / "beat").run()
    assert not [event for event in read(tmp_path / FILE) if event["event"] == "formed"]


class Working(Others):
    """The root's end: ranks 1 and 2 evaluate for as long as they are not told to :meth:`report`."""

    def __init__(self) -> None:
        super().__init__()
        self.working: list[tuple[int, Assignment]] = []

    def told(self, rank: int, message: object) -> None:
        match message:
            case Order(content=Assignment() as assignment):
                self.working.append((rank, assignment))
            case Disband():
                raise AssertionError(f"rank {rank} is given up")
            case Finish():
                self.say(rank, Left())

    def report(self) -> None:
        for rank, assignment in self.working:
            self.say(rank, assignment.evaluation(rank - 1))
        self.working = []


def test_a_night_for_which_the_job_is_suspended_is_not_taken_for_evaluations_that_never_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, night = Working(), [0.0]
    monotonic, clock_gettime = time.monotonic, time.clock_gettime
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + night[0])
    monkeypatch.setattr(time, "clock_gettime", lambda clock: clock_gettime(clock) + night[0])

    def nap() -> None:
        if night[0]:
            channel.report()
        elif channel.working:
            night[0] = 8 * 3600.0

    evaluated: list[Evaluation] = []
    tuning: Any = SimpleNamespace(
        cause="budget",
        evaluation_seconds=0.0,
        race_seconds=lambda groups: (0.0, 0.0),
        known_good=lambda: None,
        propose=lambda idle: [] if evaluated or channel.working else [Assignment(number, 1, {}) for number in range(2)],
        confirmations=lambda groups: [],
        assigned=lambda group, assignment: None,
        evaluated=evaluated.append,
    )
    interrupts, limits = Interrupts(), TimeLimits(None, 0.0, {})
    with Journal.create(tmp_path, Redactor({})) as journal:
        monitor = Monitor(2, {0: "h1", 1: "h2"}, io.StringIO(), Screen("plain"))
        Root(played(channel, tmp_path, nap), tuning, journal, monitor, interrupts, limits, beat=tmp_path / "beat").run()
    assert [evaluation.number for evaluation in evaluated] == [0, 1]
    assert night[0]


class Stopping(Working):
    """The root's end: ranks 1 and 2 evaluate until they are told to give up, and report what there is by then."""

    def told(self, rank: int, message: object) -> None:
        super().told(rank, message)
        if isinstance(message, Order) and isinstance(message.content, Cancel):
            for assignment in [assignment for worker, assignment in self.working if worker == rank]:
                failure, files = Failure("cancelled", "cancelled"), {"service.log": b"loading"}
                self.say(rank, replace(assignment.evaluation(rank - 1), failure=failure, files=files))


@pytest.mark.parametrize("failed", [False, True], ids=["interrupted", "failed"])
def test_what_is_cut_short_by_the_end_of_the_run_is_kept(failed: bool, tmp_path: Path) -> None:
    channel, interrupts = Stopping(), Interrupts()
    given_up: list[Evaluation] = []

    def assigned(group: int, assignment: Assignment) -> None:
        if group == 1 and failed:
            raise RunFailed("it fails")
        if group == 1:
            interrupts.ask(signal.SIGINT)

    tuning: Any = SimpleNamespace(
        cause="",
        evaluation_seconds=0.0,
        race_seconds=lambda groups: (0.0, 0.0),
        known_good=lambda: None,
        propose=lambda idle: [] if channel.working else [Assignment(number, 1, {}) for number in range(2)],
        assigned=assigned,
        given_up=given_up.append,
    )
    with Journal.create(tmp_path, Redactor({})) as journal:
        monitor = Monitor(2, {0: "h1", 1: "h2"}, io.StringIO(), Screen("plain"))
        limits = TimeLimits(None, 0.0, {})
        root = Root(played(channel, tmp_path), tuning, journal, monitor, interrupts, limits, beat=tmp_path / "beat")
        with pytest.raises(RunFailed, match="it fails") if failed else contextlib.nullcontext():
            root.run()
    assert [(each.number, dict(each.files)) for each in given_up] == [(n, {"service.log": b"loading"}) for n in (0, 1)]
