"""The root, with channels that need no MPI: what the other ranks say is played, and the faults are injected."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faults.course import Course

from mpipso.cluster.channel import LocalChannel
from mpipso.cluster.dispatch import Cancel
from mpipso.cluster.plan import PlacedGroup, PlacedNode, Plan, Spare
from mpipso.config.file import load
from mpipso.errors import RunFailed
from mpipso.evaluation import Assignment, Evaluation, Failure
from mpipso.messages import ROOT, Depart, Finish, Left, Order
from mpipso.record.journal import Journal
from mpipso.record.monitor import Monitor
from mpipso.record.screen import Screen
from mpipso.redact import Redactor
from mpipso.rendezvous import Place
from mpipso.root import Root
from mpipso.service.clients.base import CLIENTS
from mpipso.service.engines.base import ENGINES
from mpipso.signals import Interrupts
from mpipso.timelimits import TimeLimits


class Ranks(LocalChannel):
    """The root's end: rank 1 dies of what it is told at a time, and rank 2 does as it is told."""

    failed: frozenset[int] = frozenset()

    def __init__(self, deadly: type) -> None:
        super().__init__(ROOT, LocalChannel.connected(3)[ROOT]._mailboxes)
        self._deadly = deadly
        self.departed = False

    def post(self, dest: int, message: object) -> None:
        match dest, message:
            case 0, _:
                super().post(dest, message)
            case 1, Order() if isinstance(message.content, self._deadly):
                self.failed = frozenset({1})
            case 2, Order(content=Cancel()):
                self._say(Evaluation(1, 1, 1, {}, failure=Failure("cancelled", "cancelled")))
            case 2, Finish():
                self._say(Left())
            case 2, Depart():
                self.departed = True

    def _say(self, message: object) -> None:
        self._mailboxes[ROOT].append((2, message))


@pytest.mark.parametrize("deadly", [Assignment, Cancel], ids=["the run", "its end"])
def test_all_are_sent_home_if_a_rank_is_lost_and_the_journal_cannot_be_written(
    deadly: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(Course(tmp_path).config, overrides={}, engines=ENGINES.names(), clients=CLIENTS.names())
    nodes = [PlacedNode(rank, f"h{rank}", f"h{rank}", (0,), ()) for rank in range(3)]
    channel = Ranks(deadly)

    def full(*args: object, **fields: object) -> None:
        raise RunFailed("the disk is full")

    def assigned(group: int, assignment: Assignment) -> None:
        if deadly is Cancel:
            full()

    context: Any = SimpleNamespace(
        config=config,
        plan=Plan((PlacedGroup(0, (nodes[1],)), PlacedGroup(1, (nodes[2],))), (Spare("left over", nodes[0]),)),
        place=Place(nodes[0]),
        group=None,
        node=SimpleNamespace(close=lambda: None),
        everyone=channel,
        world=SimpleNamespace(rank=0, size=3, nap=lambda: None),
    )
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
