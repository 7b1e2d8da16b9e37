"""Whatever happens in whatever order, no evaluation is lost and none is counted twice.

A model-based test of dispatcher, health monitor and membership together, on the one-process twin of the channel between
the ranks: the test plays the ranks, of which any may die, fall silent, come back, and speak late or twice.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from cluster.local_channel import LocalChannel
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mpipso.cluster.dispatch import (
    PROBE,
    Assigned,
    Cancel,
    Dispatcher,
    Evaluated,
    Event,
    Probed,
    Progress,
    Quarantined,
    Readmitted,
    Retried,
)
from mpipso.cluster.health import Leases, ServiceGroupHealthMonitor
from mpipso.cluster.membership import Membership
from mpipso.cluster.plan import PlacedGroup, PlacedNode, Plan, Spare
from mpipso.errors import FailureKind
from mpipso.evaluation import Assignment, Evaluation, Failure

LEASE = 10.0
PAUSE = 7.0
RETRIES = 2
GOOD = {"batch": -1}


@dataclass(frozen=True)
class Free:
    """A rank has left its group."""


@dataclass
class Rank:
    """What a rank does: the group it leads with the assignment it works on, and whether it lives and is heard of."""

    alive: bool = True
    silent: bool = False
    work: dict[int, Assignment] = field(default_factory=dict)
    said: list[object] = field(default_factory=list)


class Protocol(RuleBasedStateMachine):
    """The root's side is real; ``ranks`` are played."""

    @initialize(
        pairs=st.integers(1, 3),
        spares=st.integers(0, 2),
        after=st.integers(1, 3),
        known_good=st.booleans(),
    )
    def begin(self, pairs: int, spares: int, after: int, known_good: bool) -> None:
        # The root is rank 0 and has no group here: it can neither die nor be silent.
        ranks = range(1, 2 * pairs + spares + 1)
        nodes = [PlacedNode(rank, f"host{rank}", "", (0,), ()) for rank in ranks]
        groups = tuple(PlacedGroup(i, tuple(nodes[2 * i : 2 * i + 2])) for i in range(pairs))
        self.membership = Membership(Plan(groups, tuple(Spare("", n) for n in nodes[2 * pairs :])))
        self.channel = LocalChannel.connected(len(nodes) + 1)
        self.health = ServiceGroupHealthMonitor(after=after, pause=PAUSE)
        self.dispatcher = Dispatcher(self._order, self.health, retries=RETRIES)
        self.dispatcher.known_good = GOOD if known_good else None
        self.leases = Leases(ranks, LEASE, 0.0)
        self.now = 0.0
        self.ranks = {rank: Rank() for rank in ranks}
        self.submitted = 0
        self.unsettled: set[int] = set()
        self.given_up: set[int] = set()
        self.attempts: dict[int, int] = defaultdict(int)
        self.failed_on: dict[int, set[int]] = defaultdict(set)
        self.working: dict[int, Assignment] = {}
        self.ending = False
        self.used = set(self.membership.groups)
        for group in self.membership.groups:
            self.dispatcher.join(group)

    # The root

    def _order(self, group: int, message: object) -> None:
        assert group in self.membership.groups, "nothing is sent to a group that is no more"
        if isinstance(message, Assignment):
            assert group not in self.working, "one assignment per group at a time"
            healthy = self.health.check_all()[group]
            assert healthy == (message.label != PROBE), "a group in quarantine gets probes and nothing else"
            if message.label != PROBE:
                assert not self.ending
                assert message.number in self.unsettled
                assert message.attempt > self.attempts[message.number], "attempts of a number strictly increase"
                self.attempts[message.number] = message.attempt
                others = self.health.get_healthy_groups() - self.failed_on[message.number]
                assert group in others or not others, "a retry goes to another group if a healthy one is left"
            self.working[group] = message
        else:
            assert isinstance(message, Cancel)
        self.channel[0].post(self.membership.leader(group), (group, message))

    def _settle(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case Evaluated():
                    number = event.evaluation.number
                    assert number in self.unsettled, "none is counted twice, and no probe is"
                    self.unsettled.discard(number)
                case Retried():
                    assert event.evaluation.number in self.unsettled
                    assert event.evaluation.attempt == self.attempts[event.evaluation.number]
                    self.failed_on[event.evaluation.number].add(event.evaluation.group)
                case Assigned():
                    assert self.working[event.group] == event.assignment
                case Quarantined():
                    assert self.health.cause(event.group)
                case Probed():
                    assert event.evaluation.number < 0
                case Readmitted():
                    assert not self.health.cause(event.group)

    def _give_up(self, number: int) -> None:
        """It has no result: a resumed run would try it again."""
        if number in self.unsettled:
            self.unsettled.discard(number)
            self.given_up.add(number)

    def _lose(self, rank: int, *, dead: bool) -> None:
        loss = self.membership.lose(rank, dead=dead)
        if loss is None:
            return
        if loss.ended and loss.group is not None:
            lost = self.working.pop(loss.group, None)
            self._settle(self.dispatcher.leave(loss.group, "lost", self.now, self.now))
            if lost is not None and self.ending:
                self._give_up(lost.number)

    def _form(self) -> None:
        for number, group in self.membership.form():
            assert number not in self.used, "numbers of groups are never used again"
            assert not {node.rank for node in group.nodes} & self.membership.lost
            self.used.add(number)
            self.dispatcher.join(number)

    def _hear(self) -> None:
        for source, message in self.channel[0].take():
            self.leases.renew(source, self.now)
            if isinstance(message, Free):
                self.membership.free(source)
            elif isinstance(message, (Evaluation, Progress)):
                running = self.working.get(message.group)
                current = running is not None and (running.number, running.attempt) == (message.number, message.attempt)
                # As the root sees it: a group that was lost is not in ``working`` any more.
                if current and isinstance(message, Evaluation):
                    del self.working[message.group]
                events = self.dispatcher.take(message.group, message, self.now)
                assert current or events == [], "what comes late is dropped"
                self._settle(events)
                failure = message.failure if current and isinstance(message, Evaluation) else None
                if failure is not None and (failure.kind == "cancelled" or self.ending):
                    self._give_up(message.number)
        self._form()

    def _step(self) -> None:
        for rank, player in self.ranks.items():
            if player.alive and not player.silent:
                self._obey(rank, player)
        self._hear()
        self._settle(self.dispatcher.step(self.now))

    # The ranks

    def _obey(self, rank: int, player: Rank) -> None:
        self.channel[rank].post(0, None)
        for _, message in self.channel[rank].take():
            group, content = message
            if isinstance(content, Assignment):
                player.work[group] = content
            elif group in player.work:
                self._report(rank, group, "cancelled")
        gone = [group for group in player.work if group not in self.membership.groups]
        for group in gone:
            del player.work[group]
        if self.membership.group_of(rank) is None and rank not in self.membership.spares:
            self.channel[rank].post(0, Free())

    def _report(self, rank: int, group: int, kind: FailureKind | None) -> None:
        player = self.ranks[rank]
        work = player.work.pop(group)
        failure = None if kind is None else Failure("it broke", kind)
        done = Evaluation(work.number, work.attempt, group, work.configuration, work.label, {}, failure)
        player.said.append(done)
        self.channel[rank].post(0, done)

    def _workers(self) -> list[int]:
        return [rank for rank, player in self.ranks.items() if player.alive and player.work]

    # What may happen

    @rule(count=st.integers(1, 5))
    def submit(self, count: int) -> None:
        numbers = range(self.submitted, self.submitted + count)
        self.submitted += count
        self.unsettled.update(numbers)
        self.ending = False
        self.dispatcher.submit([Assignment(number, 1, {"batch": number}) for number in numbers])

    @rule()
    def step(self) -> None:
        self._step()

    @rule(seconds=st.sampled_from([1.0, 4.0, PAUSE]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self._step()
        for rank in self.leases.expired(self.now):
            self._lose(rank, dead=False)
        self._step()

    @precondition(lambda self: self._workers())
    @rule(
        data=st.data(),
        kind=st.sampled_from([None, None, None, "configuration", "measurement", "infrastructure"]),
    )
    def finish(self, data: st.DataObject, kind: FailureKind | None) -> None:
        rank = data.draw(st.sampled_from(self._workers()))
        group = data.draw(st.sampled_from(sorted(self.ranks[rank].work)))
        self._report(rank, group, kind)

    @precondition(lambda self: any(player.said for player in self.ranks.values()))
    @rule(data=st.data(), heard=st.booleans())
    def speak_again(self, data: st.DataObject, heard: bool) -> None:
        rank = data.draw(st.sampled_from([rank for rank, player in self.ranks.items() if player.said]))
        self.channel[rank].post(0, data.draw(st.sampled_from(self.ranks[rank].said)))
        if heard:
            self._hear()

    @precondition(lambda self: self._workers())
    @rule(data=st.data())
    def tell_progress(self, data: st.DataObject) -> None:
        rank = data.draw(st.sampled_from(self._workers()))
        ((group, work), *_) = self.ranks[rank].work.items()
        self.channel[rank].post(0, Progress(group, work.number, work.attempt, "measuring"))

    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        living = [rank for rank, player in self.ranks.items() if player.alive]
        if len(living) > 2:
            rank = data.draw(st.sampled_from(living))
            self.ranks[rank].alive = False
            self._lose(rank, dead=True)

    @rule(data=st.data())
    def fall_silent_or_speak(self, data: st.DataObject) -> None:
        living = [rank for rank, player in self.ranks.items() if player.alive]
        player = self.ranks[data.draw(st.sampled_from(living))]
        player.silent = not player.silent

    @rule()
    def drop_queue(self) -> None:
        self.ending = True
        running = {work.number for work in self.working.values()}
        for number in self.unsettled - running:
            self._give_up(number)
        self.dispatcher.drop_queue()

    @rule()
    def cancel(self) -> None:
        self.drop_queue()
        self.dispatcher.cancel()

    # What always holds

    @invariant()
    def agrees_on_what_runs(self) -> None:
        if hasattr(self, "dispatcher"):
            ours = sorted((work.number, work.attempt) for work in self.working.values())
            assert sorted((work.number, work.attempt) for work in self.dispatcher.running) == ours
            assert set(self.health.check_all()) == set(self.membership.groups)
            assert self.dispatcher.busy == bool(self.unsettled), "what is not settled is queued or runs"

    def teardown(self) -> None:
        """With every rank that lives heard of and doing its work, everything that was submitted comes to its end."""
        if not hasattr(self, "dispatcher"):
            return
        for player in self.ranks.values():
            player.silent = False
        for _ in range(40 * (len(self.unsettled) + 5)):
            if not self.dispatcher.busy:
                break
            self.wait(1.0)
            for rank in self._workers():
                for group in list(self.ranks[rank].work):
                    self._report(rank, group, None)
        if self.membership.groups:
            assert not self.unsettled, "no evaluation is lost"
        assert self.given_up.isdisjoint(self.unsettled)


TestProtocol = Protocol.TestCase
TestProtocol.settings = settings(
    max_examples=120,
    stateful_step_count=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
