"""What a rank is in the run: one process, with channels that need no MPI."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bed.job import wait_until
from cluster.local_channel import LocalChannel
from faults.course import Course

from mpipso.cluster.dispatch import Progress
from mpipso.cluster.health import Leases
from mpipso.cluster.membership import Membership
from mpipso.cluster.plan import PlacedGroup, PlacedNode, Plan
from mpipso.config.file import load
from mpipso.config.parallel import LEAST_LEASE
from mpipso.evaluation import Assignment, Evaluation, Failure
from mpipso.links import SharedLink
from mpipso.messages import ROOT, Alive, Depart, Disband, Finish, Fled, Form, Interrupted, Order, Within
from mpipso.rendezvous import Place
from mpipso.roles import Leader, Member, Station
from mpipso.service.clients.base import CLIENTS
from mpipso.service.engines.base import ENGINES
from mpipso.service.local import LocalNode
from mpipso.service.remote import RemoteNode, Request
from mpipso.signals import Interrupts


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Any]:
    """Rank 1 of three, each of which leads a group with a host that is reached over ssh; its links are not used."""
    course = Course(tmp_path, parallel__lease=LEAST_LEASE)
    config = load(course.config, overrides={}, engines=ENGINES.names(), clients=CLIENTS.names())
    groups = [PlacedGroup(rank, (placed(rank, f"h{rank}"), placed(-rank - 1, f"s{rank}"))) for rank in range(3)]
    node = LocalNode(placed(1, "h1"))
    channels = LocalChannel.connected(3)
    yield SimpleNamespace(
        config=config,
        plan=Plan(tuple(groups)),
        place=Place(groups[1].nodes[0], Form(1, groups[1])),
        group=None,
        node=node,
        work_dirs={0: "", 1: node.work_dir, 2: ""},
        ssh_nodes=SimpleNamespace(nodes={1: RemoteNode(placed(-2, "s1"), "", lambda message: None)}),
        everyone=channels[1],
        root=channels[0],
        other=channels[2],
        world=SimpleNamespace(rank=1, wake=lambda: None),
    )
    node.close()


def placed(rank: int, host: str) -> PlacedNode:
    return PlacedNode(rank, host, host, (0,), ())


def spare(context: Any, clock: Callable[[], float]) -> Station:
    """What the rank is without a group."""
    context.place = Place(context.place.node)
    return Station(context, Interrupts(), clock)


def played(monkeypatch: pytest.MonkeyPatch, evaluate: Callable[..., Evaluation] | None = None) -> list[Any]:
    """The groups that leaders make from now on: what they are made of, and evaluations of their ``progress``."""
    made: list[Any] = []

    def group(
        number: int, nodes: Any, master: int, config: Any, engine: Any, client: Any, judge: Any, progress: Any, **_: Any
    ) -> Any:
        others = [node.share.address for node in nodes[1:]]
        made.append(SimpleNamespace(others=others, evaluate=lambda *_: evaluate(progress) if evaluate else None))
        return made[-1]

    monkeypatch.setattr("mpipso.roles.ServiceGroup", group)
    return made


def told(context: Any, count: int) -> list[Any]:
    """So many messages to the root."""
    heard: list[Any] = []

    def enough() -> bool:
        heard.extend(message for _, message in context.root.take())
        return len(heard) >= count

    wait_until(enough, 10, "the root is told")
    return heard


def test_a_rank_that_was_stopped_itself_does_not_take_the_root_for_dead(context: Any) -> None:
    lease, now = context.config.parallel.lease, 0.0
    station = spare(context, lambda: now)
    now = 5 * lease
    station.step()
    assert not station.forsaken
    for _ in range(39):  # but it does when it is there and hears nothing
        now += 0.1 * lease
        station.step()
        assert not station.forsaken
    now += 0.2 * lease
    station.step()
    assert station.forsaken


@pytest.mark.parametrize("departing", [False, True], ids=["forsaken", "not waited for"])
def test_a_rank_that_flees_tells_a_root_that_may_only_have_stood_still(context: Any, departing: bool) -> None:
    station = spare(context, lambda: 0.0)
    if departing:
        station.hear(ROOT, Depart())
    station.flee()
    assert [message for _, message in context.root.take()] == ([] if departing else [Fled()])


def test_the_shortest_lease_outlasts_a_late_sign_of_life(context: Any) -> None:
    """The rank is slow: between two of its turns 0.9 s go by."""
    now = 0.0
    station = spare(context, lambda: now)
    leases = Leases([1], context.config.parallel.lease, now)
    for turn in range(1, 41):
        now = 0.9 * turn
        station.step()
        for source, message in context.root.take():
            assert isinstance(message, Alive)
            leases.renew(source, now)
        assert leases.expired(now) == []


def test_the_hosts_over_ssh_stay_with_the_group_that_they_were_reached_for(
    context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = played(monkeypatch)
    Leader(context, Form(1, context.plan.groups[1]), context.everyone)
    membership = Membership(context.plan)
    for rank in (1, 2):
        membership.lose(rank, dead=False)
    for rank in (1, 2):
        membership.free(rank)
    ((number, group),) = membership.form()
    Leader(context, Form(number, group), context.everyone)
    assert [each.others for each in made] == [["s1"], ["h2"]]


def test_what_is_secret_here_does_not_travel_to_the_root(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault is injected: a benchmark that has printed its environment and then failed."""
    monkeypatch.setenv("HF_TOKEN", "hf_of_this_node")
    failure = Failure("it said hf_of_this_node", "measurement", "HF_TOKEN=hf_of_this_node")

    def fails(progress: Callable[[str, str], None]) -> Evaluation:
        progress("starting", "the service says: hf_of_this_node")
        return Evaluation(0, 1, 1, {}, failure=failure, files={"benchmark.log": b"hf_of_this_node"})

    played(monkeypatch, fails)
    Leader(context, Form(1, context.plan.groups[1]), context.everyone).obey(Assignment(0, 1, {}))
    messages = told(context, 2)
    assert [type(message) for message in messages] == [Progress, Evaluation]
    assert "hf_of_this_node" not in repr(messages) + repr(messages[1].files)


def test_a_signal_ends_what_runs_here_and_is_told_once(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def until_cancelled(_: object, assignment: Assignment, cancel: threading.Event) -> Evaluation:
        assert cancel.wait(5)
        return assignment.evaluation(1)

    monkeypatch.setattr("mpipso.roles.ServiceGroup.evaluate", until_cancelled)
    interrupts = Interrupts()
    station = Station(context, interrupts)
    station.hear(ROOT, Order(1, Assignment(0, 1, {})))
    station.step()
    interrupts.ask(signal.SIGTERM)
    station.step()
    station.step()
    messages = told(context, 3)
    assert [type(message) for message in messages] == [Alive, Interrupted, Evaluation]
    assert messages[1].signal == signal.SIGTERM and messages[2].failure is None


def test_a_defect_is_told_by_name(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault is injected: one of ours."""

    def broken(*_: Any) -> Evaluation:
        raise KeyError("port")

    played(monkeypatch, broken)
    Leader(context, Form(1, context.plan.groups[1]), context.everyone).obey(Assignment(0, 1, {}))
    (evaluation,) = told(context, 1)
    assert evaluation.failure.cause == "internal error: KeyError('port')" and "Traceback" in evaluation.failure.detail


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host lets no thread of a leader begin, as Python tells it."""

    def refused(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)


def test_an_evaluation_that_no_thread_can_do_fails_and_the_next_one_may_succeed(
    context: Any, no_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = Leader(context, Form(1, context.plan.groups[1]), context.everyone)
    monkeypatch.setattr(leader._group, "evaluate", lambda assignment, _: assignment.evaluation(1))
    leader.obey(Assignment(0, 1, {}))
    ((_, told),) = context.root.take()
    assert (told.number, told.attempt, told.group, told.failure.kind) == (0, 1, 1, "infrastructure")
    assert told.failure.cause == "h1: can't start new thread (ulimit -u, or a limit of the job)"
    monkeypatch.undo()
    monkeypatch.setattr(leader._group, "evaluate", lambda assignment, _: assignment.evaluation(1))
    leader.obey(Assignment(0, 2, {}))
    wait_until(lambda: not leader._busy, 10, "it is done")
    ((_, told),) = context.root.take()
    assert (told.attempt, told.failure) == (2, None)


@pytest.mark.parametrize("close", [True, False])
def test_a_group_ends_without_a_thread_and_without_what_only_a_thread_can_wait_for(
    context: Any, no_thread: None, close: bool
) -> None:
    """The other node is a rank of its own, whose answers the leader's main thread would have to hear."""
    form = Form(2, PlacedGroup(2, (placed(1, "h1"), placed(2, "h2"))))
    leader = Leader(context, form, SharedLink(context.everyone, form))
    leader.obey(Assignment(0, 1, {}))
    leader.end(close=close)
    leader.step()
    assert leader.over
    ((_, told),) = context.other.take()
    assert told == Within(2, Finish() if close else Disband(2))


def test_a_member_without_a_thread_leaves_its_group(context: Any, no_thread: None) -> None:
    form = Form(2, PlacedGroup(2, (placed(2, "h2"), placed(1, "h1"))))
    member = Member(context, form, SharedLink(context.everyone, form))
    member.hear(0, Request(7, "free_port", (0,), {}))
    member.end(close=False)
    assert member.over
    ((_, told),) = context.other.take()
    assert told.content.number == 7
    assert told.content.failure.cause == "h1: can't start new thread (ulimit -u, or a limit of the job)"


def test_what_only_the_root_needs_is_not_imported_by_the_others() -> None:
    """It takes a second, which is too much for a thousand ranks at once."""
    code = "import sys, mpipso.run; print(*{'scipy', 'rich', 'mpipso.runrecord'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "\n"
