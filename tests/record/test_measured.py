from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpipso.errors import FailureKind
from mpipso.evaluation import FIRST_PART, Configuration, Evaluation, Failure
from mpipso.record import figures
from mpipso.record.judged import Judged
from mpipso.record.measured import Measured, by_configuration
from mpipso.score import Score


def good(number: int, tokens: float, label: str = "", *violations: str, n: int = 1) -> Judged:
    evaluation = Evaluation(number, 1, 0, {"n": n}, label, {"tokens": tokens})
    return Judged(evaluation, Score(False, bool(violations), math.inf if violations else 0.0, -tokens, violations))


def bad(number: int, label: str = "", kind: FailureKind = "configuration", cause: str = "out of memory") -> Judged:
    return Judged(Evaluation(number, 1, 0, {"n": 1}, label, failure=Failure(cause, kind)), Score(failed=True))


def test_measurements_of_one_configuration_are_averaged() -> None:
    measured = Measured((good(0, 100.0, "baseline"), good(5, 110.0, "repeat")))
    assert measured.metrics == {"tokens": 105.0} and measured.values("tokens") == [100.0, 110.0]
    assert measured.number == 0 and not measured.confirmed and measured.score == Score(False, False, 0.0, -105.0)


def test_confirmations_alone_count_where_there_are_any() -> None:
    (measured,) = by_configuration([good(3, 130.0), good(9, 118.0, "confirm"), good(12, 122.0, "confirm")])
    assert measured.confirmed and measured.metrics == {"tokens": 120.0}


def test_a_confirmation_that_says_nothing_leaves_the_search_s_measurements() -> None:
    (measured,) = by_configuration([good(3, 130.0), bad(9, "confirm", "infrastructure")])
    assert not measured.confirmed and measured.metrics == {"tokens": 130.0} and not measured.failed


def test_of_several_races_the_last_one_counts_that_compares_at_all() -> None:
    first = [good(0, 100.0), good(1, 130.0, n=2), good(2, 101.0, "confirm"), good(3, 121.0, "confirm", n=2)]
    second = [good(4, 300.0, n=3), good(5, 202.0, "confirm"), good(6, 242.0, "confirm", n=2)]
    cut = [good(7, 90.0, n=4), good(8, 50.0, "confirm")]
    told = [{each.number: each.metrics["tokens"] for each in by_configuration(run)} for run in (first, first + second)]
    assert told == [{0: 101.0, 1: 121.0}, {0: 202.0, 1: 242.0, 4: 300.0}]
    assert {each.number: each.metrics["tokens"] for each in by_configuration(first + second + cut)} == {
        **told[1],
        7: 90.0,
    }


def test_a_race_in_which_it_was_not_measured_leaves_the_search_s_measurements() -> None:
    run = [good(0, 100.0), good(1, 130.0, n=2), good(2, 101.0, "confirm"), good(3, 121.0, "confirm", n=2)]
    (one, _) = by_configuration([*run, good(4, 99.0, "repeat"), good(5, 242.0, "confirm", n=2)])
    assert one.metrics == {"tokens": 101.0}
    assert replace(one, race=5).metrics == {"tokens": 99.5}
    (one,) = by_configuration([bad(0, kind="infrastructure"), good(2, 101.0, "confirm")])
    assert replace(one, race=5).metrics == {"tokens": 101.0}, "where no other tells anything"


def test_a_configuration_that_fails_half_of_the_time_has_failed() -> None:
    assert Measured((good(1, 100.0), bad(2, "repeat"))).failed
    assert not Measured((good(1, 100.0), bad(2, "repeat"), good(3, 90.0, "repeat"))).failed
    once = Measured((good(1, 100.0), bad(2, "repeat"), good(3, 90.0, "repeat"), bad(4, "repeat")))
    assert once.failures == "failed in 2 of 4 measurements" and once.score.failed
    assert once.good_score == Score(False, False, 0.0, -95.0)
    failed = Measured((bad(1), bad(2, cause="no answer"), bad(3, cause="no answer")))
    assert failed.failed and failed.cause == "no answer" and failed.metrics == {} and failed.score.failed


def test_most_measurements_decide_about_the_limits_and_each_break_is_told() -> None:
    once = Measured((good(1, 1.0), good(2, 1.0, "repeat", "ttft 9 > 5"), good(3, 1.0, "repeat")))
    assert once.score == Score(False, False, 0.0, -1.0) and once.violations == "ttft 9 > 5 (in 1 of 3 measurements)"
    assert not Measured((good(1, 1.0), good(2, 1.0, "repeat", "late"))).score.feasible
    assert Measured((good(1, 1.0, "", "late"),)).violations == "late"
    assert Measured((good(1, 1.0),)).violations == ""


@pytest.mark.parametrize("feasible", [True, False])
def test_what_the_search_made_of_all_measurements_counts_more_than_most_of_them(feasible: bool) -> None:
    together = Score(False, not feasible, 0.0 if feasible else 0.2, -1.0)
    one, other = good(1, 1.0), replace(good(2, 1.0, "repeat", "late"), together=together)
    lost = bad(3, "repeat", "infrastructure")
    for measured in (Measured((one, other)), Measured((one, one, other)), Measured((one, other, lost))):
        assert measured.score == together


def test_of_two_that_break_limits_the_better_one_is_closer_to_them() -> None:
    fast, close = (
        Measured((Judged(good(1, 1.0).evaluation, Score(False, True, by, -tokens)),))
        for tokens, by in ((400.0, 8.0), (300.0, 0.001))
    )
    assert Measured((good(1, 100.0),)).score < close.score < fast.score
    old = [Measured((good(1, tokens, "", "late"),)) for tokens in (400.0, 300.0)]
    assert old[0].score < old[1].score, "where nobody wrote down how far, by what they measured"


def stopped(number: int, expected: float, label: str = "") -> Judged:
    """Of a benchmark that was stopped early."""
    evaluation = Evaluation(number, 1, 0, {"n": 1}, label, first=1.0, expected=expected)
    return Judged(evaluation, Score(False, fitness=-expected, fidelity=FIRST_PART))


def test_a_benchmark_that_was_stopped_early_neither_works_nor_fails() -> None:
    measured = Measured((stopped(1, 300.0),))
    assert measured.stopped and not measured.failed and measured.good == () == measured.broken
    assert measured.metrics == {} and measured.values("tokens") == [] and measured.cause == ""
    assert (measured.score.fitness, measured.score.fidelity, measured.score.feasible) == (-300.0, FIRST_PART, False)


def test_it_counts_only_where_no_other_measurement_does() -> None:
    lost = bad(3, "repeat", "infrastructure")
    for several in ((good(1, 100.0), stopped(2, 300.0)), (stopped(2, 300.0), good(1, 100.0), lost)):
        measured = Measured(several)
        assert not measured.stopped and not measured.failed and measured.metrics == {"tokens": 100.0}
        assert (measured.score.fitness, measured.score.fidelity) == (-100.0, 1.0)
    assert Measured((bad(1), stopped(2, 300.0))).failed
    assert Measured((lost, stopped(2, 300.0))).stopped
    (raced,) = by_configuration([stopped(1, 300.0), good(2, 100.0, "confirm")])
    assert not raced.stopped and raced.confirmed and raced.metrics == {"tokens": 100.0}


VALUES = st.one_of(st.booleans(), st.integers(0, 2), st.sampled_from([0.0, 1.0, 0.5]), st.sampled_from(["a", "1"]))
CONFIGURATIONS = st.dictionaries(st.sampled_from("xy"), VALUES, min_size=1)


@given(st.lists(CONFIGURATIONS, max_size=8))
def test_results_are_grouped_by_equal_configurations_and_none_gets_lost(configurations: list[dict[str, int]]) -> None:
    results = [Judged(Evaluation(number, 1, 0, each)) for number, each in enumerate(configurations)]
    groups = by_configuration(results)
    assert sorted(j.evaluation.number for each in groups for j in each.measurements) == list(range(len(results)))
    for one in groups:
        assert all(alike(one.configuration, j.evaluation.configuration) for j in one.measurements)
        assert not any(alike(one.configuration, other.configuration) for other in groups if other is not one)


def alike(one: Configuration, other: Configuration) -> bool:
    return one.keys() == other.keys() and not figures.changes(one, other)
