"""Particles out and evaluations back: one queue, no waves, and what happens to what fails or comes late."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mpipso.cluster.dispatch import Assigned, Cancel, Dispatcher, Evaluated, Event, Finish, Progress, Retried
from mpipso.cluster.world import LocalChannel
from mpipso.errors import FailureKind
from mpipso.evaluation import Assignment, Evaluation, Failure


class Groups:
    """A dispatcher with the leaders' ends of its channels, which a test plays."""

    def __init__(self, count: int, *, retries: int = 2) -> None:
        self._orders = LocalChannel.connected(count)
        self._reports = LocalChannel.connected(count)
        self.dispatcher = Dispatcher(self._orders[0], self._reports[0], retries=retries)
        self.running: dict[int, Assignment] = {}
        self.cancelled: list[int] = []
        self.finished: list[int] = []

    def step(self) -> list[Event]:
        events = self.dispatcher.step()
        for group, end in enumerate(self._orders):
            for source, message in end.take():
                assert source == 0
                if isinstance(message, Assignment):
                    assert group not in self.running, "a group gets one assignment at a time"
                    self.running[group] = message
                elif isinstance(message, Cancel):
                    self.cancelled.append(group)
                else:
                    assert isinstance(message, Finish)
                    self.finished.append(group)
        return events

    def submit(self, numbers: Sequence[int]) -> None:
        self.dispatcher.submit([Assignment(number, 1, {"batch": number}) for number in numbers])

    def report(self, group: int, kind: FailureKind | None = None, assignment: Assignment | None = None) -> None:
        """The group's leader reports its evaluation, or another one, late."""
        done = assignment or self.running.pop(group)
        failure = None if kind is None else Failure("it broke", kind)
        self._reports[group].post(
            0, Evaluation(done.number, done.attempt, group, done.configuration, done.label, {}, failure)
        )

    def say(self, group: int, number: int, attempt: int, phase: str = "measuring") -> None:
        self._reports[group].post(0, Progress(group, number, attempt, phase))

    def numbers(self) -> dict[int, int]:
        return {group: assignment.number for group, assignment in self.running.items()}


def test_the_queue_is_served_in_order_and_a_group_takes_the_next_when_it_is_free() -> None:
    groups = Groups(3)
    groups.submit(range(6))
    assert groups.step() == [Assigned(g, Assignment(g, 1, {"batch": g})) for g in range(3)]
    assert groups.numbers() == {0: 0, 1: 1, 2: 2}
    groups.report(1)
    groups.step()
    assert groups.numbers() == {0: 0, 2: 2, 1: 3}, "no waiting for the others: never waves"
    groups.report(1)
    groups.step()
    assert groups.numbers() == {0: 0, 2: 2, 1: 4}
    for group in (2, 0, 1):
        groups.report(group)
    events = groups.step()
    assert {event.evaluation.number for event in events if isinstance(event, Evaluated)} == {0, 2, 4}
    assert groups.numbers() == {0: 5}
    assert groups.dispatcher.busy
    groups.report(0)
    groups.step()
    assert not groups.dispatcher.busy


def test_every_particle_is_evaluated_once_whatever_the_order_of_the_reports() -> None:
    groups = Groups(4)
    groups.submit(range(32))
    done: list[int] = []
    turn = 0
    while groups.dispatcher.busy:
        done += [event.evaluation.number for event in groups.step() if isinstance(event, Evaluated)]
        if groups.running:
            turn += 1
            groups.report(sorted(groups.running)[turn * 7 % len(groups.running)])
    assert sorted(done) == list(range(32))


def test_an_infrastructure_failure_is_retried_on_another_group() -> None:
    groups = Groups(2)
    groups.submit([0, 1])
    groups.step()
    groups.report(0, "infrastructure")
    (retried,) = groups.step()
    assert isinstance(retried, Retried)
    assert groups.numbers() == {1: 1}, "group 0 stays free rather than fail with it again"
    groups.report(1)
    groups.step()
    assert groups.running == {1: Assignment(0, 2, {"batch": 0})}
    groups.report(1)
    (evaluated,) = groups.step()
    assert isinstance(evaluated, Evaluated)
    assert (evaluated.evaluation.number, evaluated.evaluation.attempt) == (0, 2)


def test_a_retry_goes_before_what_is_queued_and_a_free_group_takes_other_work() -> None:
    groups = Groups(2)
    groups.submit([0, 1, 2, 3])
    groups.step()
    groups.report(0, "infrastructure")
    groups.step()
    assert groups.numbers() == {1: 1, 0: 2}
    groups.report(1)
    groups.step()
    assert groups.numbers() == {0: 2, 1: 0}


def test_the_only_group_retries_its_own_failures() -> None:
    groups = Groups(1, retries=2)
    groups.submit([0])
    attempts = []
    while groups.dispatcher.busy:
        events = groups.step()
        if groups.running:
            attempts.append(groups.running[0].attempt)
            groups.report(0, "infrastructure")
    assert attempts == [1, 2, 3]
    (final,) = [event for event in events if isinstance(event, Evaluated)]
    assert final.evaluation.failure == Failure("it broke", "infrastructure")


def test_a_configuration_failure_is_not_retried() -> None:
    groups = Groups(2)
    groups.submit([0])
    groups.step()
    groups.report(0, "configuration")
    (event,) = groups.step()
    assert isinstance(event, Evaluated)
    assert not groups.dispatcher.busy


@pytest.mark.parametrize(("number", "attempt"), [(0, 1), (1, 2), (7, 1)])
def test_a_late_or_foreign_result_is_dropped(number: int, attempt: int) -> None:
    groups = Groups(1)
    groups.submit([1])
    groups.step()
    groups.report(0, assignment=Assignment(number, attempt, {}))
    groups.say(0, number, attempt)
    assert groups.step() == []
    assert groups.dispatcher.running == (groups.running[0],)
    groups.report(0)
    (event,) = groups.step()
    assert isinstance(event, Evaluated)
    assert event.evaluation.number == 1


def test_the_late_result_of_a_first_attempt_does_not_count_for_the_second() -> None:
    groups = Groups(1)
    groups.submit([0])
    groups.step()
    first = groups.running[0]
    groups.report(0, "infrastructure")
    groups.step()
    assert groups.running[0].attempt == 2
    groups.report(0, assignment=first)
    assert groups.step() == []
    groups.report(0)
    (event,) = groups.step()
    assert isinstance(event, Evaluated)
    assert event.evaluation.attempt == 2


def test_a_result_that_comes_twice_counts_once() -> None:
    groups = Groups(1)
    groups.submit([0])
    groups.step()
    assignment = groups.running.pop(0)
    groups.report(0, assignment=assignment)
    groups.report(0, assignment=assignment)
    assert len(groups.step()) == 1
    assert not groups.dispatcher.busy


def test_progress_of_what_runs_is_passed_on() -> None:
    groups = Groups(2)
    groups.submit([0, 1])
    groups.step()
    groups.say(1, 1, 1, "starting")
    assert groups.step() == [Progress(1, 1, 1, "starting")]


def test_cancel_reaches_every_running_group_once_and_ends_the_queue() -> None:
    groups = Groups(3)
    groups.submit(range(8))
    groups.step()
    groups.report(2)
    groups.dispatcher.drop_queue()
    groups.step()
    for _ in range(3):
        groups.dispatcher.cancel()
        groups.step()
    assert groups.cancelled == [0, 1]
    groups.report(0, "cancelled")
    groups.report(1, "infrastructure")
    events = groups.step()
    assert [type(event) for event in events] == [Evaluated], "what was given up says nothing; nothing is tried again"
    assert groups.running == {}
    assert not groups.dispatcher.busy


def test_after_the_queue_is_dropped_nothing_starts_until_more_is_submitted() -> None:
    groups = Groups(2)
    groups.submit(range(4))
    groups.step()
    groups.dispatcher.drop_queue()
    groups.report(0, "infrastructure")
    assert [type(event) for event in groups.step()] == [Evaluated]
    assert groups.numbers() == {1: 1}
    groups.submit([9])
    groups.step()
    assert groups.numbers() == {1: 1, 0: 9}
    groups.report(0, "infrastructure")
    assert [type(event) for event in groups.step()] == [Retried]


def test_every_leader_is_sent_home() -> None:
    groups = Groups(3)
    groups.dispatcher.finish()
    groups.step()
    assert groups.finished == [0, 1, 2]
