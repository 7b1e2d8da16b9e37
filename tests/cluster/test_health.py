"""Who is heard of, and which groups get particles."""

from __future__ import annotations

import pytest

from mpipso.cluster.health import HOPELESS, LONGEST_PAUSE, Leases, ServiceGroupHealthMonitor
from mpipso.errors import FailureKind
from mpipso.evaluation import Evaluation, Failure

LEASE = 10.0
PAUSE = 30.0


def told(group: int, kind: FailureKind | None = None) -> Evaluation:
    return Evaluation(0, 1, group, {}, failure=None if kind is None else Failure("it broke", kind))


class Course:
    """A monitor of some groups; ``fail`` and ``succeed`` are reports of theirs."""

    def __init__(self, groups: int, *, after: int = 3) -> None:
        self.monitor = ServiceGroupHealthMonitor(after=after, pause=PAUSE)
        for group in range(groups):
            self.monitor.join(group)

    def fail(self, group: int, kind: FailureKind = "infrastructure", *, known_good: bool = False) -> bool:
        return self.monitor.record(told(group, kind), 0.0, known_good=known_good)

    def succeed(self, group: int) -> bool:
        return self.monitor.record(told(group), 0.0, known_good=False)


class TestLeases:
    def test_a_rank_that_is_silent_for_longer_than_the_lease_has_expired(self) -> None:
        leases = Leases([1, 2, 3], LEASE, 0.0)
        for now in (4.0, 8.0):
            leases.renew(2, now)
            assert leases.expired(now) == []
        assert leases.expired(LEASE) == []
        assert leases.expired(LEASE + 0.1) == [1, 3]

    def test_a_rank_that_is_heard_of_again_is_no_longer_expired(self) -> None:
        leases = Leases([1], LEASE, 0.0)
        for now in (4.0, 8.0, 11.0):
            expired = leases.expired(now)
        assert expired == [1]
        leases.renew(1, 12.0)
        assert leases.expired(12.0) == []

    def test_whoever_was_heard_of_at_a_moment_or_later_is_not_silent_since_then(self) -> None:
        leases = Leases([1, 2, 3], LEASE, 0.0)
        leases.renew(2, 4.0)
        leases.renew(3, 5.0)
        assert [leases.silent_since(moment) for moment in (4.0, 4.1, 6.0)] == [{1}, {1, 2}, {1, 2, 3}]

    def test_only_those_that_have_a_lease_expire(self) -> None:
        leases = Leases([1], LEASE, 0.0)
        leases.renew(0, 1.0)
        assert [leases.expired(now) for now in (5.0, 10.0, 12.0)] == [[], [], [1]]

    def test_nobody_expires_because_this_process_was_stopped_itself(self) -> None:
        leases = Leases([1], LEASE, 0.0)
        assert leases.expired(LEASE / 2) == []
        assert leases.expired(LEASE + 0.1) == [], "half a lease is enough"
        leases = Leases([1, 2], LEASE, 0.0)
        leases.expired(1.0)
        assert leases.expired(1000.0) == [], "it could not hear anybody meanwhile"
        assert leases.expired(1004.0) == []
        leases.renew(2, 1008.0)
        assert leases.expired(1008.0) == []
        assert leases.expired(1011.0) == [1]


class TestMonitor:
    def test_groups_are_healthy_at_first(self) -> None:
        monitor = Course(2).monitor
        assert monitor.check_all() == {0: True, 1: True}
        assert monitor.get_healthy_groups() == {0, 1}
        assert monitor.cause(0) == ""

    def test_failures_in_a_row_end_in_quarantine(self) -> None:
        course = Course(2)
        assert [course.fail(0) for _ in range(3)] == [False, False, True]
        assert course.monitor.check_all() == {0: False, 1: True}
        assert course.monitor.cause(0) == "failures in a row, the last one: it broke"

    def test_a_success_in_between_begins_the_row_anew(self) -> None:
        course = Course(1)
        assert not any([course.fail(0), course.fail(0), course.succeed(0), course.fail(0), course.fail(0)])
        assert course.fail(0)

    def test_failures_of_different_groups_do_not_add_up(self) -> None:
        course = Course(3)
        assert not any(course.fail(group) for group in range(3) for _ in range(2))

    def test_failures_that_may_lie_in_the_configuration_count_half(self) -> None:
        course = Course(1)
        assert [course.fail(0, "configuration") for _ in range(6)] == [False] * 5 + [True]

    @pytest.mark.parametrize("kind", ["configuration", "measurement", "infrastructure"])
    def test_one_failure_of_what_is_known_to_be_good_is_enough(self, kind: FailureKind) -> None:
        course = Course(1)
        assert course.fail(0, kind, known_good=True)
        assert course.monitor.cause(0).startswith("a configuration that works elsewhere failed")

    def test_probes_are_due_after_pauses_that_grow(self) -> None:
        monitor = Course(1).monitor
        now, pauses = 0.0, []
        for _ in range(9):
            monitor.mark_unhealthy(0, "it broke", now)
            pauses.append(monitor.pause(0))
            assert monitor.due(now + pauses[-1] - 0.1) == []
            now += pauses[-1]
            assert monitor.due(now) == [0]
        assert pauses[:3] == [PAUSE, 2 * PAUSE, 4 * PAUSE]
        assert pauses[-1] == LONGEST_PAUSE

    def test_a_group_that_is_readmitted_starts_afresh(self) -> None:
        course = Course(1)
        course.monitor.mark_unhealthy(0, "it broke", 0.0)
        course.monitor.mark_unhealthy(0, "still", 0.0)
        course.monitor.readmit(0)
        assert course.monitor.get_healthy_groups() == {0}
        assert course.monitor.due(1e9) == []
        assert [course.fail(0) for _ in range(3)] == [False, False, True]
        assert course.monitor.pause(0) == PAUSE

    def test_it_is_hopeless_once_every_group_has_failed_its_probes_again_and_again(self) -> None:
        monitor = Course(2).monitor
        for group in (0, 1):
            for _ in range(1 + HOPELESS):
                assert not monitor.hopeless
                monitor.mark_unhealthy(group, "it broke", 0.0)
        assert monitor.hopeless
        monitor.join(2)
        assert not monitor.hopeless
        monitor.leave(2)
        assert monitor.hopeless
        monitor.readmit(1)
        assert not monitor.hopeless

    def test_without_groups_it_is_not_quarantine_that_makes_it_hopeless(self) -> None:
        monitor = Course(1).monitor
        monitor.leave(0)
        assert not monitor.hopeless
        assert monitor.check_all() == {}
