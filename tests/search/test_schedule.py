"""Which results a proposal may see."""

from __future__ import annotations

import pytest

from mpipso.config import ScheduleKind
from mpipso.search.schedule import Schedule


def test_a_generation_sees_all_earlier_generations_and_nothing_of_its_own() -> None:
    schedule = Schedule("generation", 4)
    assert [schedule.sees(number) for number in range(10)] == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]


def test_a_generation_is_proposed_together_also_from_its_middle_on() -> None:
    schedule = Schedule("generation", 4)
    assert [schedule.together(number) for number in range(6)] == [4, 3, 2, 1, 4, 3]


def test_a_window_sees_all_but_those_that_may_be_out_at_once() -> None:
    schedule = Schedule("window", 4)
    assert [schedule.sees(number) for number in range(8)] == [0, 0, 0, 0, 1, 2, 3, 4]
    assert all(schedule.together(number) == 1 for number in range(8))


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_window_lets_exactly_its_size_be_out_at_once(size: int) -> None:
    schedule = Schedule("window", size)
    for number in range(3 * size):
        seen = schedule.sees(number)
        assert seen is not None
        assert number - seen <= size - 1 or seen == 0
        assert number - seen == min(number, size - 1)


def test_asynchronous_proposals_see_whatever_is_there() -> None:
    schedule = Schedule("async", 4)
    assert schedule.sees(0) is None
    assert schedule.sees(9) is None


@pytest.mark.parametrize("kind", ["generation", "window"])
@pytest.mark.parametrize("size", [1, 3, 16])
def test_later_proposals_see_no_less(kind: ScheduleKind, size: int) -> None:
    schedule = Schedule(kind, size)
    seen = [schedule.sees(number) for number in range(50)]
    assert all(count is not None and count <= number for number, count in enumerate(seen))
    assert seen == sorted(seen, key=lambda count: -1 if count is None else count)
