from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpipso.config import Limit, ObjectiveSection
from mpipso.errors import UserError
from mpipso.evaluation import FIRST_PART, Evaluation, Failure, Metrics
from mpipso.score import Score
from mpipso.search.objective import Objective

SLO = ObjectiveSection(
    maximize="output_throughput", slo=(Limit(metric="ttft_p99_ms", max=1000.0), Limit(metric="completed", min=32.0))
)


def measured(**metrics: float) -> Evaluation:
    return Evaluation(number=1, attempt=1, group=0, configuration={}, metrics=metrics)


def judged(throughput: float, ttft: float, completed: float = 32.0) -> Score:
    evaluation = measured(output_throughput=throughput, ttft_p99_ms=ttft, completed=completed)
    return Objective(SLO).judge(evaluation, None)


def test_of_two_feasible_results_the_higher_throughput_is_better() -> None:
    assert judged(200.0, 999.0) < judged(100.0, 1.0)
    assert judged(200.0, 1000.0).feasible
    assert judged(200.0, 1000.0).fitness == -200.0


def test_a_minimised_metric_is_its_own_fitness() -> None:
    score = Objective(ObjectiveSection(minimize="e2e_mean_ms")).judge(measured(e2e_mean_ms=12.5), None)
    assert score.feasible
    assert score.fitness == 12.5


def test_any_feasible_result_beats_any_that_breaks_a_limit() -> None:
    assert judged(1.0, 1000.0) < judged(1e9, 1000.1)


def test_broken_limits_compare_by_their_total_relative_violation() -> None:
    ten_per_cent_late, half_unanswered = judged(1.0, 1100.0), judged(1e9, 500.0, completed=16.0)
    assert ten_per_cent_late.violation == pytest.approx(0.1)
    assert half_unanswered.violation == 1.0, "half of a least is as far off as twice a most"
    assert ten_per_cent_late < half_unanswered < judged(1e9, 1100.0, completed=16.0)


def test_metrics_may_be_computed_from_metrics_and_parameters() -> None:
    derived = {"per_device": "output_throughput / (tp * pp)", "cost": "price * duration", "odd": "kind / 2"}
    objective = Objective(ObjectiveSection(maximize="per_device", derived=derived))
    configuration = {"tp": 4, "pp": 2, "kind": "a"}
    found = objective.derived({"output_throughput": 100.0}, configuration)
    assert found == {"per_device": 12.5}
    evaluation = replace(measured(output_throughput=100.0, **found), configuration=configuration)
    assert objective.judge(evaluation, None).fitness == -12.5
    with pytest.raises(ValueError, match=r"per_device: expression .* division by zero \(with output_throughput = 100"):
        objective.derived({"output_throughput": 100.0}, {**configuration, "pp": 0})
    with pytest.raises(UserError, match=r"^objective\.derived\.x: expression '1 \+'"):
        Objective(ObjectiveSection(maximize="x", derived={"x": "1 +"}))


@pytest.mark.parametrize("value", ["1.7e308", "-1e101"])
def test_a_derived_metric_beyond_what_any_measurement_is_has_no_value(value: str) -> None:
    """Means and squares of such would be no numbers any more."""
    derived = {"rate": f"{value} if duration > 5 else 7.0", "other": value}
    objective = Objective(ObjectiveSection(maximize="rate", derived=derived))
    assert objective.derived({"duration": 1.0}, {}) == {"rate": 7.0}
    with pytest.raises(ValueError, match=r"^objective\.derived\.rate: its value is .*, which no measurement is$"):
        objective.derived({"duration": 9.0}, {})


def test_derived_metrics_are_added_at_each_load_of_a_sweep_that_has_one() -> None:
    objective = Objective(ObjectiveSection(maximize="rate", derived={"rate": "completed / duration"}))
    loads = {"concurrency 1": {"completed": 4.0, "duration": 2.0}, "concurrency 2": {"completed": 4.0, "duration": 0.0}}
    evaluation = replace(measured(**loads["concurrency 1"]), loads=loads)
    completed = objective.completed(evaluation)
    assert completed.metrics["rate"] == 2.0
    assert completed.loads == {"concurrency 1": {"completed": 4.0, "duration": 2.0, "rate": 2.0}}
    failed = objective.completed(replace(measured(**loads["concurrency 2"]), loads=loads))
    assert failed.failure is not None and not failed.metrics and not failed.loads


def test_broken_limits_are_told_in_words() -> None:
    assert judged(1.0, 1520.0).violations == ("ttft_p99_ms 1520 > 1000",)
    assert judged(1.0, 5.0, completed=8.0).violations == ("completed 8 < 32",)
    assert judged(1.0, 1000.0000001).violations == ("ttft_p99_ms 1000.0000001 > 1000.0",)


def test_a_limit_of_zero_is_broken_by_the_amount_itself() -> None:
    section = ObjectiveSection(maximize="request_throughput", slo=(Limit(metric="failed", max=0.0),))
    assert Objective(section).judge(measured(request_throughput=1.0, failed=3.0), None).violation == 3.0


@pytest.mark.parametrize(
    ("limit", "value", "ratio"),
    [
        ({"max": 200.0}, 400.0, 2.0),
        ({"max": 200.0}, 50.0, 0.25),
        ({"min": 200.0}, 50.0, 4.0),
        ({"min": 200.0}, 400.0, 0.5),
        ({"max": 200.0}, 0.0, 1e-3),
        ({"min": 200.0}, -7.0, 1e3),
        ({"max": 0.0}, 3.0, 4.0),
        ({"max": 0.0}, 0.0, 1.0),
        ({"max": -2.0}, -4.0, 0.5),
        ({"min": "baseline", "factor": 0.5}, 25.0, 2.0),
    ],
)
def test_how_far_each_limit_is_from_being_broken_is_told_as_a_logarithm(
    limit: dict[str, Any], value: float, ratio: float
) -> None:
    section = ObjectiveSection(maximize="rate", slo=(Limit(metric="x", **limit),))
    score = Objective(section).judge(measured(rate=1.0, x=value), {"x": 100.0})
    assert score.log_ratios == pytest.approx((math.log(ratio),))
    assert score.infeasible == (ratio > 1.0)


@pytest.mark.parametrize(
    ("evaluation", "cause"),
    [
        (
            Evaluation(1, 1, 0, {}, failure=Failure("out of memory", "configuration")),
            "out of memory",
        ),
        (measured(output_throughput=5.0, ttft_p99_ms=0.0, completed=0.0), "no request was completed"),
        (measured(ttft_p99_ms=5.0, completed=32.0), "output_throughput was not measured"),
        (measured(output_throughput=5.0, completed=32.0), "ttft_p99_ms was not measured"),
        (measured(output_throughput=math.nan, ttft_p99_ms=5.0, completed=32.0), "output_throughput is nan"),
        (measured(output_throughput=math.inf, ttft_p99_ms=5.0, completed=32.0), "output_throughput is inf"),
        (measured(output_throughput=5.0, ttft_p99_ms=math.nan, completed=32.0), "ttft_p99_ms is nan"),
    ],
)
def test_an_evaluation_without_usable_metrics_has_failed(evaluation: Evaluation, cause: str) -> None:
    score = Objective(SLO).judge(evaluation, None)
    assert score.failed
    assert not score.feasible
    assert score.fitness is None
    assert score.cause == cause
    assert judged(1e-9, 1e12, completed=1.0) < score


def test_all_failures_are_equally_bad() -> None:
    one, other = Score(failed=True, cause="out of memory"), Score(failed=True, cause="no port")
    assert one == other
    assert not one < other
    assert not other < one


scores = st.one_of(
    st.just(Score(failed=True)),
    st.builds(lambda f: Score(failed=False, fitness=f), st.floats(-1e6, 1e6)),
    st.builds(
        lambda v, f: Score(failed=False, infeasible=True, violation=v, fitness=f), st.floats(0, 9), st.floats(-9, 9)
    ),
)


@given(st.lists(scores, min_size=2, max_size=8))
def test_scores_sort_feasible_then_infeasible_then_failed(found: list[Score]) -> None:
    for a, b in itertools.pairwise(sorted(found)):
        assert (a < b) + (b < a) + (a == b) == 1
        assert (not a.feasible, a.failed) <= (not b.feasible, b.failed)


def test_a_relative_limit_is_a_multiple_of_the_baseline() -> None:
    section = ObjectiveSection(
        maximize="output_throughput", slo=(Limit(metric="tpot_p99_ms", max="baseline", factor=1.5),)
    )
    objective = Objective(section)
    assert objective.relative
    baseline = {"tpot_p99_ms": 20.0}
    assert objective.judge(measured(output_throughput=1.0, tpot_p99_ms=30.0), baseline).feasible
    broken = objective.judge(measured(output_throughput=1.0, tpot_p99_ms=33.0), baseline)
    assert broken.violation == pytest.approx(0.1)
    assert broken.violations == ("tpot_p99_ms 33 > 30 (1.5 x baseline)",)


@pytest.mark.parametrize("baseline", [None, {}, {"tpot_p99_ms": math.nan}])
def test_a_relative_limit_needs_the_baseline_metric(baseline: dict[str, float] | None) -> None:
    section = ObjectiveSection(maximize="output_throughput", slo=(Limit(metric="tpot_p99_ms", max="baseline"),))
    with pytest.raises(ValueError, match="baseline"):
        Objective(section).judge(measured(output_throughput=1.0, tpot_p99_ms=30.0), baseline)


def test_a_baseline_that_lacks_a_metric_has_failed_by_its_own_measure() -> None:
    section = ObjectiveSection(maximize="output_throughput", slo=(Limit(metric="tpot_p99_ms", max="baseline"),))
    baseline = measured(output_throughput=1.0)
    assert Objective(section).judge(baseline, baseline.metrics).failed


STOPPED = Evaluation(1, 1, 0, {}, first=40.0, expected=50.0)


@pytest.mark.parametrize(("direction", "fitness"), [("maximize", -50.0), ("minimize", 50.0)])
def test_a_benchmark_that_was_stopped_early_counts_by_what_was_expected(direction: str, fitness: float) -> None:
    limits = (Limit(metric="ttft_p99_ms", max=1000.0), Limit(metric="completed", min=32.0))
    section = ObjectiveSection.model_validate({direction: "output_throughput", "slo": limits})
    score = Objective(section).judge(STOPPED, None)
    assert (score.failed, score.infeasible, score.fitness, score.violation) == (False, False, fitness, 0.0)
    assert score.fidelity == FIRST_PART and not score.feasible, "nobody knows whether it keeps the limits"
    assert len(score.log_ratios) == 2 and all(map(math.isnan, score.log_ratios))
    assert Objective(section.model_copy(update={"slo": ()})).judge(STOPPED, None).log_ratios == ()


def test_nor_is_it_judged_before_the_baseline_is_known() -> None:
    limit = Limit(metric="ttft_p99_ms", max="baseline")
    relative = Objective(ObjectiveSection(maximize="output_throughput", slo=(limit,)))
    with pytest.raises(ValueError, match="relative to the baseline"):
        relative.judge(STOPPED, None)
    assert relative.judge(STOPPED, {"ttft_p99_ms": 1.0}).fitness == -50.0


@pytest.mark.parametrize(
    ("metrics", "value"),
    [
        ({"output_throughput": 8.0, "ttft_p99_ms": 1.0}, 8.0),
        ({"output_throughput": 0.0}, None),
        ({"output_throughput": -8.0}, None),
        ({"output_throughput": math.nan}, None),
        ({"output_throughput": math.inf}, None),
        ({"ttft_p99_ms": 8.0}, None),
        ({}, None),
    ],
)
def test_the_value_is_the_metric_that_is_optimised_if_it_is_above_0(metrics: Metrics, value: float | None) -> None:
    assert Objective(SLO).value({"output_throughput": 7}, metrics) == value
    derived = ObjectiveSection(maximize="each", derived={"each": "output_throughput / (tp - 2)"})
    assert Objective(derived).value({"tp": 4}, metrics) == (None if value is None else value / 2)
    assert Objective(derived).value({"tp": 2}, metrics) is None, "it has none"
