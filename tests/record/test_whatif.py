from __future__ import annotations

import heapq

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpipso.record.whatif import Saving, ScheduleChoice, makespan, saving

DURATIONS = st.lists(st.floats(0.1, 100.0), max_size=40)
GROUPS = st.integers(1, 6)
SIZES = st.integers(1, 20)


def generation(size: int) -> ScheduleChoice:
    return ScheduleChoice("generation", size)


def window(size: int) -> ScheduleChoice:
    return ScheduleChoice("window", size)


ASYNC = ScheduleChoice("async", 1)


def test_a_generation_ends_with_its_slowest_and_later_ones_begin_with_it() -> None:
    # First in the order of proposal (nothing can be predicted yet): 1 1 6 on two groups; then 6 first.
    assert makespan([1, 1, 1, 6, 1, 1, 1, 6], 2, generation(4)) == 7 + 6


def test_a_window_waits_for_the_results_that_a_proposal_sees_and_for_no_others() -> None:
    # The third sees the first, so it waits for it, although the second group is free long before.
    assert makespan([10, 1, 1], 2, window(2)) == 11
    assert makespan([10, 1, 1], 2, window(3)) == 10


@given(DURATIONS, GROUPS, SIZES)
def test_no_schedule_beats_the_bounds(durations: list[float], groups: int, size: int) -> None:
    for choice in (generation(size), window(size), ASYNC):
        seconds = makespan(durations, groups, choice)
        assert seconds >= max([sum(durations) / groups, *durations], default=0.0) - 1e-6
        assert seconds <= sum(durations) + 1e-6


@given(DURATIONS, GROUPS)
def test_what_nothing_holds_back_is_a_queue(durations: list[float], groups: int) -> None:
    free = [0.0] * groups
    for seconds in durations:
        heapq.heappush(free, heapq.heappop(free) + seconds)
    assert makespan(durations, groups, ASYNC) == makespan(durations, groups, window(99)) == max(free)
    assert makespan(durations, groups, window(1)) == pytest.approx(sum(durations))
    assert makespan(durations, groups, generation(1)) == pytest.approx(sum(durations))


@given(DURATIONS, GROUPS, SIZES)
def test_a_larger_window_takes_no_longer(durations: list[float], groups: int, size: int) -> None:
    assert makespan(durations, groups, window(size + 1)) <= makespan(durations, groups, window(size)) + 1e-6


@pytest.mark.parametrize(("choice", "share"), [(generation(4), 0.52), (generation(16), 0.91), (window(12), 0.91)])
def test_log_normal_durations_keep_four_groups_as_busy_as_they_should(choice: ScheduleChoice, share: float) -> None:
    shares = []
    for seed in range(60):
        durations = np.random.default_rng(seed).lognormal(0, 0.8, 64).tolist()
        shares.append(sum(durations) / 4 / makespan(durations, 4, choice))
    assert np.median(shares) == pytest.approx(share, abs=0.03)


def test_the_cheapest_schedule_that_saves_about_as_much_is_named() -> None:
    durations = np.random.default_rng(3).lognormal(4.5, 0.8, 64).tolist()
    found = saving(durations, 4, generation(4))
    assert found is not None and found.choice.kind in ("generation", "window")
    assert found.seconds < 0.75 * found.used_seconds == 0.75 * makespan(durations, 4, generation(4))
    fastest = min(makespan(durations, 4, choice) for choice in (generation(20), window(16), window(20)))
    assert found.seconds <= fastest + 0.05 * found.used_seconds


def test_only_async_helps_a_run_that_is_too_short_for_anything_else() -> None:
    found = saving([1, 9, 1, 1, 1, 9, 1, 1], 4, generation(4))
    assert found is not None and found.choice == ScheduleChoice("async", 4)


def test_nothing_is_said_where_nothing_would_have_helped() -> None:
    assert saving([5.0] * 16, 4, generation(4)) is None  # no group ever waits
    assert saving([5.0, 50.0, 5.0, 70.0], 1, generation(2)) is None  # one group is always busy
    assert saving([1, 9, 1, 1, 1, 9, 1, 1], 4, ScheduleChoice("async", 4)) is None
    assert saving([], 4, generation(4)) is None


def test_a_saving_says_what_it_costs() -> None:
    used = generation(16)
    assert str(Saving(window(12), 2460.0, used, 3120.0)) == (
        'with schedule = "window" and window = 12 the search would have taken about 41m00s instead of 52m00s, '
        "but a proposal then sees 3.5 results fewer"
    )
    assert str(Saving(generation(8), 2460.0, used, 3120.0)).endswith("and a proposal sees as much")
    assert "with particles = 24 the search" in str(Saving(generation(24), 2460.0, used, 3120.0))
    assert "with window = 16 the search" in str(Saving(window(16), 2460.0, window(8), 3120.0))
    assert 'with schedule = "generation" and particles = 24 ' in str(Saving(generation(24), 1.0, window(8), 2.0))
    assert str(Saving(ScheduleChoice("async", 4), 2460.0, used, 3120.0)).endswith(
        "but its result would depend on timing, not on the seed alone"
    )
