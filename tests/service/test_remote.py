"""The node interface on the leader's own node and on a member's, and what only a member can do wrong."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bed.job import alive, wait_until
from cluster.local_channel import LocalChannel
from service.node_interface import (
    TestExecute,
    TestFiles,
    TestService,
    TestUpdateConfig,
    python,
)

from mpipso.errors import Cancelled, EvaluationFailed
from mpipso.service import remote
from mpipso.service.local import LocalNode
from mpipso.service.node import Node, Share
from mpipso.service.remote import Agent, Answer, Request
from mpipso.service.remote import RemoteNode as Remote

__all__ = ["TestExecute", "TestFiles", "TestService", "TestUpdateConfig"]

LEADER, MEMBER = 0, 1


class Member:
    """A member of a group in this process: its node, its agent, and the leader's object for it.

    Messages are pickled on their way, as MPI does it.
    """

    def __init__(self, node: LocalNode) -> None:
        self._ends = LocalChannel.connected(2)
        self._agent = Agent(node, lambda answer: self._post(MEMBER, LEADER, answer))
        self.remote = Remote(node.share, node.work_dir, lambda message: self._post(LEADER, MEMBER, message))
        self.silent = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._pump)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._agent.close()

    def _post(self, source: int, dest: int, message: object) -> None:
        self._ends[source].post(dest, pickle.dumps(message))

    def _pump(self) -> None:
        while not self._over.wait(0.002):
            for _, message in self._ends[MEMBER].take():
                if not self.silent.is_set():
                    self._agent.handle(pickle.loads(message))  # noqa: S301
            for _, message in self._ends[LEADER].take():
                self.remote.answered(pickle.loads(message))  # noqa: S301


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalNode]:
    node = LocalNode(Share("node7", devices=(2, 5), device_variable="TINY_DEVICES"), str(tmp_path / "work"))
    yield node
    node.close()


@pytest.fixture
def member(local: LocalNode) -> Iterator[Member]:
    member = Member(local)
    yield member
    member.close()


@pytest.fixture(params=["local", "remote"])
def node(request: pytest.FixtureRequest, local: LocalNode) -> Node:
    if request.param == "local":
        return local
    member: Member = request.getfixturevalue("member")
    return member.remote


class TestMember:
    """What only a member can do wrong."""

    def test_calls_from_several_threads_are_answered_each(self, member: Member) -> None:
        answers: dict[int, str] = {}

        def ask(number: int) -> None:
            answers[number] = member.remote.execute(python("import sys; print(sys.argv[1])", number), 30).stdout

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == {number: f"{number}\n" for number in range(4)}

    def test_a_look_at_the_service_does_not_wait_for_a_command(self, member: Member, tmp_path: Path) -> None:
        handle = member.remote.start_service(python("import time; time.sleep(60)"), {}, log="log", grace=1.0)
        cancel, mark = threading.Event(), tmp_path / "mark"

        def endless() -> None:
            with pytest.raises(Cancelled):
                member.remote.execute(["sh", "-c", 'touch "$0"; sleep 1000', str(mark)], 60, cancel=cancel)

        thread = threading.Thread(target=endless)
        thread.start()
        wait_until(mark.exists, what="the command runs")
        assert member.remote.poll_service(handle) is None
        assert thread.is_alive()
        cancel.set()
        thread.join()

    def test_a_defect_on_the_member_is_raised_at_the_leader(self, member: Member) -> None:
        with pytest.raises(EvaluationFailed, match=r"^node7: write_chunk failed: TypeError") as caught:
            member.remote._call("write_chunk", "a file", 0, None)
        assert caught.value.kind == "infrastructure"

    def test_a_start_that_is_answered_too_late_leaves_nothing(
        self, member: Member, local: LocalNode, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(remote, "ANSWER_TIMEOUT", 0.2)
        monkeypatch.setattr(remote, "START_TIMEOUT", 0.0)
        settled = threading.Event()
        start = local.start_service

        def slowly(*args: Any, **kwargs: Any) -> str:
            assert settled.wait(20)
            return start(*args, **kwargs)

        monkeypatch.setattr(local, "start_service", slowly)
        with pytest.raises(EvaluationFailed, match="no answer to start_service"):
            member.remote.start_service(["sleep", "1000"], {}, log="log", grace=1000.0)
        settled.set()
        wait_until(lambda: (Path(local.work_dir) / "log").exists(), what="it is started")
        wait_until(lambda: not local._services, what="it is stopped")

    def test_only_the_methods_of_a_node_can_be_asked_for(self, local: LocalNode) -> None:
        answers: list[remote.Answer] = []
        agent = Agent(local, answers.append)
        agent.handle(Request(1, "_path", ("x",), {}))
        agent.close()
        (answer,) = answers
        assert answer.failure is not None
        assert answer.failure.cause == "node7: unknown request '_path'"

    def test_a_member_that_is_lost_fails_every_call_now_and_later(self, member: Member) -> None:
        member.silent.set()
        failures: list[EvaluationFailed] = []

        def ask() -> None:
            with pytest.raises(EvaluationFailed) as caught:
                member.remote.execute(["true"], 600)
            failures.append(caught.value)

        thread = threading.Thread(target=ask)
        thread.start()
        wait_until(lambda: member.remote._waiting, what="it has asked")
        member.remote.lost("its link is down")
        thread.join(10)
        assert [(failure.cause, failure.kind) for failure in failures] == [
            ("node7: node lost: its link is down", "infrastructure")
        ]
        with pytest.raises(EvaluationFailed, match="node7: node lost: its link is down"):
            member.remote.free_port(0)
        member.remote.close()

    def test_a_member_that_does_not_answer_in_time(self, member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(remote, "ANSWER_TIMEOUT", 0.3)
        member.silent.set()
        with pytest.raises(EvaluationFailed, match=r"node7: no answer to free_port within 0\.3 s") as caught:
            member.remote.free_port(0)
        assert caught.value.kind == "infrastructure"

    def test_without_a_further_thread_requests_wait_in_line_and_without_any_they_fail(
        self, local: LocalNode, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The fault is injected: from some moment on the host lets no thread begin, as Python tells it."""
        answers: list[Answer] = []
        go_on = threading.Event()
        monkeypatch.setattr(local, "stopped", lambda: float(go_on.wait(60)))

        def refused(_thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        agent, later = Agent(local, answers.append), Agent(local, answers.append)
        with monkeypatch.context() as full:
            later.handle(Request(1, "stopped", (), {}))
            full.setattr(threading.Thread, "start", refused)
            later.handle(Request(2, "free_port", (0,), {}))
            agent.handle(Request(3, "start_folder", (), {}))
            assert [(each.number, each.failure is None) for each in answers] == [(3, False)]
            go_on.set()
            wait_until(lambda: len(answers) == 3, what="all are answered")
        assert {each.number: each.failure is None for each in answers} == {1: True, 2: True, 3: False}
        agent.handle(Request(4, "free_port", (0,), {}))
        wait_until(lambda: len(answers) == 4, what="it is answered, and no other one after all")
        agent.close()
        later.close()
        assert [each.number for each in answers].count(3) == 1

    def test_an_agent_that_is_closed_gives_up_its_commands(self, local: LocalNode, tmp_path: Path) -> None:
        mark = tmp_path / "pid"
        agent = Agent(local, lambda answer: None)
        program = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
        agent.handle(Request(1, "execute", (python(program), 60.0), {}))
        wait_until(lambda: mark.exists() and mark.read_text(), what="the command runs")
        agent.close()
        assert not alive(int(mark.read_text()))
