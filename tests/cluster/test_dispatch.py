"""Particles out and evaluations back: one queue, no waves, and what happens to what fails or comes late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from mpipso.cluster.dispatch import (
    PROBE,
    RESTS,
    SUSPENSIONS,
    Assigned,
    Cancel,
    Dispatcher,
    Evaluated,
    Event,
    GivenUp,
    Probed,
    Progress,
    Quarantined,
    Readmitted,
    Retried,
)
from mpipso.cluster.health import ServiceGroupHealthMonitor
from mpipso.errors import FailureKind
from mpipso.evaluation import Assignment, Evaluation, Failure

PAUSE = 10.0


class Groups:
    """A dispatcher with its groups, whose leaders a test plays; ``now`` is the time."""

    def __init__(self, count: int, *, retries: int = 2, after: int = 100, rolling: bool = False) -> None:
        self.now = 0.0
        self.health = ServiceGroupHealthMonitor(after=after, pause=PAUSE)
        self.dispatcher = Dispatcher(self._post, self.health, retries=retries, rolling=rolling)
        self.running: dict[int, Assignment] = {}
        self.cancelled: list[int] = []
        for group in range(count):
            self.dispatcher.join(group)

    def _post(self, group: int, message: object) -> None:
        if isinstance(message, Assignment):
            assert group not in self.running, "a group gets one assignment at a time"
            self.running[group] = message
        else:
            assert isinstance(message, Cancel)
            self.cancelled.append(group)

    def step(self) -> list[Event]:
        return self.dispatcher.step(self.now)

    def submit(self, numbers: Sequence[int]) -> None:
        self.dispatcher.submit([Assignment(number, 1, {"batch": number}) for number in numbers])

    def report(
        self,
        group: int,
        kind: FailureKind | None = None,
        assignment: Assignment | None = None,
        *,
        suspended: bool = False,
    ) -> list[Event]:
        """The group's leader reports its evaluation, or another one, late."""
        done = assignment or self.running.pop(group)
        failure = None if kind is None else Failure("it broke", kind)
        told = Evaluation(
            done.number, done.attempt, group, done.configuration, done.label, {}, failure, suspended=suspended
        )
        return self.dispatcher.take(group, told, self.now)

    def lose(self, group: int) -> list[Event]:
        self.running.pop(group, None)
        return self.dispatcher.leave(group, "the rank died", self.now, self.now)

    def say(self, group: int, number: int, attempt: int, phase: str = "measuring") -> list[Event]:
        return self.dispatcher.take(group, Progress(group, number, attempt, phase), self.now)

    def numbers(self) -> dict[int, int]:
        return {group: assignment.number for group, assignment in self.running.items()}


def kinds(events: Sequence[Event]) -> list[type]:
    return [type(event) for event in events]


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
    events = [event for group in (2, 0, 1) for event in groups.report(group)]
    assert {event.evaluation.number for event in events if isinstance(event, Evaluated)} == {0, 2, 4}
    groups.step()
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
        groups.step()
        turn += 1
        events = groups.report(sorted(groups.running)[turn * 7 % len(groups.running)])
        done += [event.evaluation.number for event in events if isinstance(event, Evaluated)]
    assert sorted(done) == list(range(32))


def test_an_infrastructure_failure_is_retried_on_another_group() -> None:
    groups = Groups(2)
    groups.submit([0, 1])
    groups.step()
    assert kinds(groups.report(0, "infrastructure")) == [Retried]
    groups.step()
    assert groups.numbers() == {1: 1}, "group 0 stays free rather than fail with it again"
    groups.report(1)
    groups.step()
    assert groups.running == {1: Assignment(0, 2, {"batch": 0})}
    (evaluated,) = groups.report(1)
    assert isinstance(evaluated, Evaluated)
    assert (evaluated.evaluation.number, evaluated.evaluation.attempt) == (0, 2)


def test_a_suspension_counts_neither_as_a_retry_nor_against_the_group() -> None:
    groups = Groups(1, retries=1, after=2)
    groups.dispatcher.known_good = {"batch": 0}
    groups.submit([0, 1])
    for _ in range(SUSPENSIONS):
        groups.step()
        assert groups.numbers() == {0: 0}
        assert kinds(groups.report(0, "infrastructure", suspended=True)) == [Retried]
    groups.step()
    assert groups.running == {0: Assignment(0, SUSPENSIONS + 1, {"batch": 0})}
    assert kinds(groups.report(0)) == [Evaluated]


def test_an_evaluation_is_given_up_if_suspensions_leave_no_time_for_it() -> None:
    groups = Groups(1, retries=1)
    groups.submit([0])
    for _ in range(SUSPENSIONS + 1):
        groups.step()
        assert kinds(groups.report(0, "infrastructure", suspended=True)) == [Retried]
    groups.now += RESTS[0]
    groups.step()
    assert kinds(groups.report(0, "infrastructure", suspended=True)) == [Evaluated]
    assert groups.health.check_all() == {0: True}


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


def test_a_retry_keeps_what_is_known_of_the_assignment() -> None:
    groups = Groups(2)
    first = Assignment(0, 1, {"batch": 1}, "confirm", seconds=12.0, elsewhere=(1,))
    groups.dispatcher.submit([first])
    groups.step()
    groups.report(0, "infrastructure")
    groups.step()
    assert groups.running == {1: replace(first, attempt=2)}


def test_the_only_group_retries_its_own_failures() -> None:
    groups = Groups(1, retries=2)
    groups.submit([0])
    attempts = []
    events: list[Event] = []
    while groups.dispatcher.busy:
        groups.step()
        attempts.append(groups.running[0].attempt)
        events = groups.report(0, "infrastructure")
        groups.now += max(RESTS)
    assert attempts == [1, 2, 3]
    (final,) = events
    assert isinstance(final, Evaluated)
    assert final.evaluation.failure == Failure("it broke", "infrastructure")


def test_the_only_group_does_other_work_before_it_tries_again_what_has_just_failed() -> None:
    groups = Groups(1, retries=3)
    groups.submit([0, 1, 2])
    groups.step()
    began = []
    for rest in (RESTS[0], RESTS[1], RESTS[-1]):
        groups.report(0, "infrastructure")
        failed_at = groups.now
        while groups.running.get(0, Assignment(-1, 1, {})).number != 0:
            began.append(groups.numbers())
            if groups.running:
                groups.report(0)
            groups.now += 0.5
            groups.step()
        assert groups.now == failed_at + rest
    assert groups.running[0].attempt == 4
    assert {0: 1} in began and {0: 2} in began
    assert RESTS[0] < RESTS[1]


def test_a_measurement_and_another_group_do_not_wait() -> None:
    groups = Groups(1)
    groups.submit([0])
    groups.step()
    groups.report(0, "measurement")
    groups.step()
    assert groups.running[0].attempt == 2
    groups.report(0, "infrastructure")
    groups.step()
    assert groups.running == {}
    groups.dispatcher.join(1)
    groups.step()
    assert groups.numbers() == {1: 0}


def test_a_configuration_failure_is_not_retried() -> None:
    groups = Groups(2)
    groups.submit([0])
    groups.step()
    assert kinds(groups.report(0, "configuration")) == [Evaluated]
    assert not groups.dispatcher.busy


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (1, 2), (5, 2)])
def test_a_measurement_that_fails_is_retried_once_on_another_group(retries: int, attempts: int) -> None:
    groups = Groups(2, retries=retries)
    groups.submit([0])
    tried = []
    while groups.dispatcher.busy:
        groups.step()
        ((group, assignment),) = groups.running.items()
        tried.append((group, assignment.attempt))
        groups.report(group, "measurement")
    assert tried == [(0, 1), (1, 2)][:attempts]


def test_a_measurement_that_fails_after_a_lost_rank_is_still_retried_once() -> None:
    groups = Groups(3, retries=2)
    groups.submit([0])
    groups.step()
    assert kinds(groups.lose(0)) == [Retried]
    groups.step()
    assert kinds(groups.report(1, "measurement")) == [Retried]
    groups.step()
    assert groups.running[2].attempt == 3
    assert kinds(groups.report(2, "measurement")) == [Evaluated]


def test_one_that_the_group_has_measured_waits_for_another_behind_the_others() -> None:
    groups = Groups(2)
    groups.submit([7, 8])
    groups.step()
    again = [Assignment(number, 1, {"batch": number}, "confirm", elsewhere=(0,)) for number in (0, 1)]
    groups.dispatcher.submit([*again, Assignment(2, 1, {"batch": 2}, "confirm")])
    groups.report(0)
    groups.step()
    assert groups.numbers() == {1: 8, 0: 2}
    groups.report(0)
    groups.step()
    assert groups.numbers() == {1: 8, 0: 0}, "the group measures it all the same where there is nothing else"
    groups.report(1)
    groups.step()
    assert groups.numbers() == {0: 0, 1: 1}


@pytest.mark.parametrize("rolling", [False, True])
def test_a_race_begins_with_the_baseline_and_the_best_though_all_groups_have_measured_them(rolling: bool) -> None:
    """Or take least time: it may be cut short."""
    groups = Groups(2, rolling=rolling)
    measured = [((0, 1), 1.0), ((1,), 2.0), ((0, 1), 9.0), ((1,), 5.0)]
    turn = [Assignment(4 + i, 1, {"batch": i}, "confirm", seconds, on) for i, (on, seconds) in enumerate(measured)]
    groups.dispatcher.submit(turn)
    groups.step()
    assert groups.numbers() == {0: 4, 1: 6}, "the best is for the group that has not measured it"
    groups.report(0)
    groups.step()
    assert groups.numbers() == {0: 5, 1: 6}


@pytest.mark.parametrize(("number", "attempt"), [(0, 1), (1, 2), (7, 1)])
def test_a_late_or_foreign_result_is_dropped(number: int, attempt: int) -> None:
    groups = Groups(1)
    groups.submit([1])
    groups.step()
    assert groups.report(0, assignment=Assignment(number, attempt, {})) == []
    assert groups.say(0, number, attempt) == []
    assert groups.dispatcher.running == (groups.running[0],)
    (event,) = groups.report(0)
    assert isinstance(event, Evaluated)
    assert event.evaluation.number == 1


def test_the_late_result_of_a_first_attempt_does_not_count_for_the_second() -> None:
    groups = Groups(1)
    groups.submit([0])
    groups.step()
    first = groups.running[0]
    groups.report(0, "infrastructure")
    groups.now += RESTS[0]
    groups.step()
    assert groups.running[0].attempt == 2
    assert groups.report(0, assignment=first) == []
    (event,) = groups.report(0)
    assert isinstance(event, Evaluated)
    assert event.evaluation.attempt == 2


def test_a_result_that_comes_twice_counts_once() -> None:
    groups = Groups(1)
    groups.submit([0])
    groups.step()
    assignment = groups.running.pop(0)
    assert kinds(groups.report(0, assignment=assignment)) == [Evaluated]
    assert groups.report(0, assignment=assignment) == []
    assert not groups.dispatcher.busy


def test_progress_of_what_runs_is_passed_on() -> None:
    groups = Groups(2)
    groups.submit([0, 1])
    groups.step()
    assert groups.say(1, 1, 1, "starting") == [Progress(1, 1, 1, "starting")]


def test_what_a_lost_group_was_doing_goes_to_another_one_and_its_late_result_is_dropped() -> None:
    groups = Groups(2)
    groups.submit([0, 1])
    groups.now = 3.0
    groups.step()
    lost = groups.running[0]
    groups.now = 7.0
    (retried,) = groups.lose(0)
    assert isinstance(retried, Retried)
    assert (retried.evaluation.started, retried.evaluation.ended) == (3.0, 7.0)
    assert retried.evaluation.failure == Failure("the rank died", "infrastructure")
    assert groups.report(0, assignment=lost) == []
    groups.report(1)
    groups.step()
    assert groups.running == {1: Assignment(0, 2, {"batch": 0})}
    assert groups.report(0, assignment=lost) == []
    assert kinds(groups.report(1)) == [Evaluated]


def test_a_particle_that_no_group_survives_is_given_up() -> None:
    groups = Groups(4, retries=2)
    groups.submit([0])
    events: list[Event] = []
    for group in range(3):
        groups.step()
        events += groups.lose(group)
    assert kinds(events) == [Retried, Retried, Evaluated]
    assert not groups.dispatcher.busy


def test_a_new_group_takes_part_at_once() -> None:
    groups = Groups(1)
    groups.submit([0, 1])
    groups.step()
    groups.lose(0)
    assert groups.step() == []
    assert groups.dispatcher.busy, "nothing is lost while there is no group"
    groups.dispatcher.join(1)
    groups.step()
    assert groups.numbers() == {1: 0}
    assert groups.health.check_all() == {1: True}


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
    assert sorted(groups.cancelled) == [0, 1]
    assert groups.report(0, "cancelled") == [], "what was given up says nothing"
    assert kinds(groups.report(1, "infrastructure")) == [], "and what broke is for a resumed run to try again"
    groups.step()
    assert groups.running == {}
    assert not groups.dispatcher.busy
    groups.submit([9])
    groups.step()
    groups.dispatcher.cancel()
    assert sorted(groups.cancelled) == [0, 0, 1], "what begins later can be given up too"


@pytest.mark.parametrize("kind", ["cancelled", "infrastructure"])
def test_of_what_is_given_up_the_files_are_passed_on_and_nothing_else(kind: FailureKind) -> None:
    groups = Groups(1)
    groups.submit([0])
    groups.step()
    groups.dispatcher.cancel()
    done = groups.running.pop(0)
    told = replace(done.evaluation(0), failure=Failure("it broke", kind), files={"service.log": b"loading"})
    assert groups.dispatcher.take(0, told, groups.now) == [GivenUp(told)]
    assert groups.step() == [] and not groups.dispatcher.busy


def test_a_result_that_comes_after_the_order_to_give_up_counts() -> None:
    groups = Groups(1)
    groups.submit([0])
    groups.step()
    groups.dispatcher.cancel()
    assert kinds(groups.report(0)) == [Evaluated]


def test_after_the_queue_is_dropped_nothing_starts_until_more_is_submitted() -> None:
    groups = Groups(2)
    groups.submit(range(4))
    groups.step()
    groups.dispatcher.drop_queue()
    assert groups.report(0, "infrastructure") == []
    groups.step()
    assert groups.numbers() == {1: 1}
    groups.submit([9])
    groups.step()
    assert groups.numbers() == {1: 1, 0: 9}
    assert kinds(groups.report(0, "infrastructure")) == [Retried]


def test_nothing_comes_of_a_group_that_is_lost_while_the_run_ends() -> None:
    groups = Groups(2)
    groups.submit([0])
    groups.step()
    groups.dispatcher.cancel()
    assert groups.lose(0) == []
    assert not groups.dispatcher.busy


def test_idle_counts_the_groups_that_find_nothing_in_the_queue() -> None:
    groups = Groups(3)
    assert groups.dispatcher.idle(groups.now) == 3
    groups.submit([0])
    assert groups.dispatcher.idle(groups.now) == 2
    groups.step()
    assert groups.dispatcher.idle(groups.now) == 2
    groups.submit(range(1, 9))
    assert groups.dispatcher.idle(groups.now) == 0


@pytest.mark.parametrize("count", [1, 2])
def test_a_group_that_may_not_take_what_is_queued_is_idle(count: int) -> None:
    """As it has failed there, and is to be repeated by another group that is at work, or when it has rested."""
    groups = Groups(count)
    groups.submit(range(count))
    groups.step()
    groups.report(0, "infrastructure")
    groups.step()
    assert (groups.dispatcher.busy, groups.dispatcher.idle(groups.now)) == (True, 1)
    groups.now += RESTS[0]
    assert groups.dispatcher.idle(groups.now) == count - 1, "the only group may try it again"
    if count == 2:
        groups.submit([2])
        groups.step()
        groups.report(0, "infrastructure")
        groups.report(1)
        assert groups.dispatcher.idle(groups.now) == 1, "one of both retries is for the other group, and one waits"


def test_an_evaluation_that_runs_for_too_long_is_overdue() -> None:
    groups = Groups(2)
    groups.submit([0])
    groups.step()
    groups.now = 5.0
    groups.submit([1])
    groups.step()
    assert groups.dispatcher.overdue(11.0, 10.0) == [0]


def test_a_group_in_quarantine_gets_probes_alone_and_is_readmitted_when_one_passes() -> None:
    groups = Groups(2, after=2)
    groups.dispatcher.known_good = {"batch": 8}
    groups.submit(range(8))
    groups.step()
    groups.report(0, "infrastructure")
    groups.step()
    events = groups.report(0, "infrastructure")
    assert kinds(events) == [Retried, Quarantined]
    assert events[1] == Quarantined(0, "failures in a row, the last one: it broke", PAUSE)
    groups.step()
    assert set(groups.running) == {1}

    groups.now = PAUSE
    groups.step()
    assert groups.running[0].label == PROBE
    assert groups.running[0].configuration == {"batch": 8}
    events = groups.report(0, "infrastructure")
    assert kinds(events) == [Probed, Quarantined]
    assert isinstance(events[1], Quarantined)
    assert events[1].pause == 2 * PAUSE

    groups.now = 2 * PAUSE
    groups.step()
    assert 0 not in groups.running
    groups.now = 3 * PAUSE
    groups.step()
    assert groups.running[0].label == PROBE
    assert PROBE in [assignment.label for assignment in groups.dispatcher.running]
    events = groups.report(0)
    assert kinds(events) == [Probed, Readmitted]
    groups.step()
    assert groups.running[0].label != PROBE


def test_probes_have_numbers_of_their_own_and_do_not_keep_the_run_busy() -> None:
    groups = Groups(1, after=1)
    groups.dispatcher.known_good = {"batch": 0}
    groups.submit([0])
    groups.step()
    assert kinds(groups.report(0, "configuration")) == [Evaluated, Quarantined]
    groups.now = PAUSE
    assert groups.step() == []
    assert groups.running[0].number < 0
    assert not groups.dispatcher.busy


def test_a_group_that_fails_what_works_elsewhere_goes_into_quarantine_at_once() -> None:
    groups = Groups(2, after=5)
    groups.dispatcher.known_good = {"batch": 1}
    groups.submit([0, 1])
    groups.step()
    assert kinds(groups.report(0, "configuration")) == [Evaluated]
    assert kinds(groups.report(1, "configuration")) == [Evaluated, Quarantined]


def test_a_group_gets_particles_after_its_pause_as_long_as_nothing_is_known_to_work() -> None:
    groups = Groups(1, after=1)
    groups.submit([0])
    groups.step()
    assert kinds(groups.report(0, "infrastructure")) == [Retried, Quarantined]
    assert groups.step() == []
    groups.now = PAUSE
    assert groups.step() == [Readmitted(0)]
    assert kinds(groups.step()) == [Assigned]


def test_what_is_cancelled_does_not_count_against_a_group() -> None:
    groups = Groups(1, after=1)
    groups.submit([0])
    groups.step()
    groups.dispatcher.cancel()
    groups.report(0, "cancelled")
    assert groups.health.check_all() == {0: True}


def probing(count: int) -> Groups:
    """So many groups, the first of which is in quarantine and measures something that is known to work."""
    groups = Groups(count, after=1)
    groups.dispatcher.known_good = {"batch": 8}
    groups.submit([0])
    groups.step()
    groups.report(0, "infrastructure")
    groups.now = PAUSE
    groups.step()
    assert groups.running[0].label == PROBE
    return groups


def test_a_probe_that_is_cancelled_says_nothing_of_its_group() -> None:
    groups = probing(1)
    groups.dispatcher.cancel()
    assert groups.report(0, "cancelled") == []
    assert (groups.health.check_all(), groups.health.pause(0)) == ({0: False}, PAUSE)


def test_a_probe_during_which_the_job_was_suspended_is_repeated_at_once() -> None:
    groups = probing(1)
    assert groups.report(0, "infrastructure", suspended=True) == []
    assert (groups.health.check_all(), groups.health.pause(0)) == ({0: False}, PAUSE)
    groups.step()
    assert groups.running[0].label == PROBE


def test_a_lost_probe_is_nobodys_result() -> None:
    groups = probing(2)
    assert groups.lose(0) == []


def test_in_a_window_what_all_wait_for_goes_first_and_then_what_takes_longest() -> None:
    posted: list[int] = []
    health = ServiceGroupHealthMonitor(after=3, pause=1.0)
    dispatcher = Dispatcher(
        lambda group, message: posted.append(getattr(message, "number", -1)), health, retries=0, rolling=True
    )
    dispatcher.join(0)
    dispatcher.submit([Assignment(number, 1, {}, "", seconds) for number, seconds in enumerate((1.0, 2.0, 9.0, 3.0))])
    for _ in range(4):
        dispatcher.step(0.0)
        (running,) = dispatcher.running
        dispatcher.take(0, Evaluation(running.number, 1, 0, {}), 0.0)
    assert posted == [0, 1, 2, 3], "one group alone: each is the oldest in its turn"

    dispatcher.join(1)
    dispatcher.submit([Assignment(number, 1, {}, "", seconds) for number, seconds in ((4, 1.0), (5, 2.0), (6, 9.0))])
    dispatcher.step(0.0)
    assert posted[4:] == [4, 6], "the oldest, and beside it the longest"


def test_and_a_probe_is_not_what_all_wait_for() -> None:
    posted: list[int] = []
    health = ServiceGroupHealthMonitor(after=2, pause=1.0)
    dispatcher = Dispatcher(
        lambda group, message: posted.append(getattr(message, "number", 0)), health, retries=0, rolling=True
    )
    dispatcher.join(0)
    dispatcher.join(1)
    dispatcher.known_good = {}
    health.mark_unhealthy(1, "it is sick", 0.0)
    dispatcher.step(2.0)
    dispatcher.submit([Assignment(7, 1, {}, "", 1.0), Assignment(8, 1, {}, "", 9.0)])
    dispatcher.step(2.1)
    assert posted == [-1, 7]
