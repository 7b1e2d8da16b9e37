from __future__ import annotations

import math

import numpy as np
import pytest

from mpipso.config import Constraint, Limit, ObjectiveSection, Parameter
from mpipso.evaluation import FIRST_PART, Expected
from mpipso.search.knowledge import knowledge
from mpipso.search.objective import Objective
from mpipso.search.space import Space

SPACE = Space(
    [
        Parameter(name="seqs", type="int", min=10, max=100, step=10, default=50),
        Parameter(name="share", type="float", min=0.5, max=0.9, default=0.8),
        Parameter(name="cache", type="bool", default=True),
        Parameter(name="kv", type="choice", choices=("auto", "fp8", 8), default="auto"),
        Parameter(name="twice", type="int", expression="2 * seqs"),
    ],
    [Constraint(expression="seqs <= 80 or cache")],
)
GOOD = {"seqs": 20, "share": 0.75, "cache": False, "kv": "fp8"}
PLAIN = Objective(ObjectiveSection(maximize="output_throughput"))
RELATIVE = Objective(
    ObjectiveSection(maximize="output_throughput", slo=(Limit(metric="ttft_p99_ms", max="baseline", factor=2.0),))
)


def test_results_become_points_and_scores() -> None:
    found = knowledge(SPACE, PLAIN, [(GOOD, {"output_throughput": 7.0}), ({**GOOD, "seqs": 30}, None)])
    assert [SPACE.decode(point) for point in found.points] == [
        {**GOOD, "twice": 40},
        {**GOOD, "seqs": 30, "twice": 60},
    ]
    assert found.scores[0].feasible
    assert found.scores[0].fitness == -7.0
    assert found.scores[1].failed
    assert found.skipped == ()


def test_derived_metrics_of_results_are_computed_anew() -> None:
    derived = Objective(ObjectiveSection(maximize="each", derived={"each": "output_throughput / twice"}))
    found = knowledge(SPACE, derived, [(GOOD, {"output_throughput": 80.0, "each": 99.0})])
    assert found.scores[0].fitness == -2.0
    unknown = Objective(ObjectiveSection(maximize="each", derived={"each": "output_throughput / (seqs - 20)"}))
    found = knowledge(SPACE, unknown, [(GOOD, {"output_throughput": 80.0})])
    assert found.scores == () and "division by zero" in found.skipped[0]


def test_numbers_count_by_their_value() -> None:
    found = knowledge(SPACE, PLAIN, [({**GOOD, "seqs": 20.0, "kv": 8.0, "twice": 999}, {"output_throughput": 7.0})])
    assert SPACE.decode(found.points[0]) == {**SPACE.decode(SPACE.encode(GOOD)), "seqs": 20, "kv": 8, "twice": 40}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seqs": 25}, "seqs: 25 is not one of the values that can be set"),
        ({"seqs": 110}, "seqs: 110 is out of bounds"),
        ({"seqs": "20"}, "seqs: '20' is not of type int"),
        ({"seqs": 20.5}, "seqs: 20.5 is not of type int"),
        ({"share": float("nan")}, "share: nan is not of type float"),
        ({"share": 0.95}, "share: 0.95 is out of bounds"),
        ({"cache": "true"}, "cache: 'true' is not of type bool"),
        ({"cache": 1}, "cache: 1 is not of type bool"),
        ({"kv": "8"}, "kv: '8' is none of auto, fp8, 8"),
        ({"kv": True}, "kv: True is none of auto, fp8, 8"),
        ({"kv": "int4"}, "kv: 'int4' is none of auto, fp8, 8"),
        ({"seqs": 90}, "constraint: expression 'seqs <= 80 or cache' does not hold"),
    ],
)
def test_what_does_not_fit_is_skipped_with_a_reason(change: dict[str, object], reason: str) -> None:
    found = knowledge(SPACE, PLAIN, [({**GOOD, **change}, {"output_throughput": 7.0}), (GOOD, None)])
    assert found.skipped == (reason,)
    assert found.points.shape == (1, SPACE.dimensions)


def test_a_lacking_parameter_is_told() -> None:
    assert knowledge(SPACE, PLAIN, [({"seqs": 20}, None)]).skipped == ("share is missing",)


def test_nothing_is_known_of_nothing() -> None:
    found = knowledge(SPACE, PLAIN, [])
    assert found.points.shape == (0, SPACE.dimensions)
    assert found.scores == found.skipped == ()


def test_limits_relative_to_the_baseline_are_judged_by_the_baseline_of_that_run() -> None:
    baseline = SPACE.baseline
    assert baseline is not None
    metrics = [{"output_throughput": 5.0, "ttft_p99_ms": ttft} for ttft in (100.0, 150.0, 250.0)]
    results = [({**baseline, "seqs": 20 + 10 * i}, found) for i, found in enumerate(metrics[1:])]
    found = knowledge(SPACE, RELATIVE, [(baseline, metrics[0]), *results])
    assert [score.feasible for score in found.scores] == [True, True, False]
    without = knowledge(SPACE, RELATIVE, results)
    assert len(without.skipped) == 2
    assert all("relative to the baseline" in reason for reason in without.skipped)


def test_metrics_without_what_the_objective_needs_are_a_failure() -> None:
    assert knowledge(SPACE, PLAIN, [(GOOD, {"duration": 1.0})]).scores[0].failed


def test_points_are_centres_of_cells() -> None:
    found = knowledge(SPACE, PLAIN, [(GOOD, None)])
    assert np.array_equal(found.points[0], SPACE.encode(SPACE.decode(found.points[0])))


def test_several_results_of_one_configuration_count_together() -> None:
    """As in the search: by their mean, and failed unless most of them succeeded; the baseline's make the reference."""
    baseline = SPACE.baseline
    assert baseline is not None
    other, unsure = {**GOOD, "kv": "auto"}, {**GOOD, "seqs": 30}
    rows = [(GOOD, 100.0), (other, 50.0), (GOOD, 102.0), (unsure, 1.0), (GOOD, None), (unsure, None), (GOOD, 101.0)]
    results = [(c, None if value is None else {"output_throughput": value, "ttft_p99_ms": 30.0}) for c, value in rows]
    results += [(baseline, {"output_throughput": 1.0, "ttft_p99_ms": latency}) for latency in (10.0, 30.0)]
    found = knowledge(SPACE, RELATIVE, results)
    assert [score.fitness for score in found.scores] == [-101.0, -50.0, None, -1.0]
    assert [score.feasible for score in found.scores] == [True, True, False, True], "30 ms are within twice 20 ms"


@pytest.mark.parametrize("derived", [{}, {"each": "output_throughput / twice", "two": "seqs"}])
def test_a_result_with_the_objective_s_metric_alone_is_one_of_a_benchmark_that_was_stopped(
    derived: dict[str, str],
) -> None:
    """However much is computed from that."""
    limit = Limit(metric="ttft_p99_ms", max=1000.0)
    limited = Objective(ObjectiveSection(maximize="output_throughput", slo=(limit,), derived=derived))
    found = knowledge(SPACE, limited, [(GOOD, {"output_throughput": 7.0})])
    (score,) = found.scores
    assert (score.failed, score.fitness, score.fidelity, score.feasible) == (False, -7.0, FIRST_PART, False)
    assert len(score.log_ratios) == 1 and math.isnan(score.log_ratios[0])
    (whole,) = knowledge(SPACE, limited, [(GOOD, {"output_throughput": 7.0, "ttft_p99_ms": 9.0})]).scores
    assert whole.fidelity == 1.0 and whole.feasible
    plain = Objective(ObjectiveSection(maximize="output_throughput", derived=derived))
    (whole,) = knowledge(SPACE, plain, [(GOOD, {"output_throughput": 7.0})]).scores
    assert whole.fidelity == 1.0 and whole.feasible, "without limits it lacks nothing"
    found = knowledge(SPACE, plain, [(GOOD, Expected(output_throughput=7.0))])
    assert [(score.fidelity, score.feasible) for score in found.scores] == [(FIRST_PART, False)], "but that says so"


@pytest.mark.parametrize("order", [1, -1])
def test_a_whole_result_counts_beside_one_that_was_stopped(order: int) -> None:
    limit = Limit(metric="ttft_p99_ms", max=1000.0)
    limited = Objective(ObjectiveSection(maximize="output_throughput", slo=(limit,)))
    whole = {"output_throughput": 9.0, "ttft_p99_ms": 50.0}
    (score,) = knowledge(SPACE, limited, [(GOOD, whole), (GOOD, {"output_throughput": 5.0})][::order]).scores
    assert score.feasible and (score.fitness, score.fidelity) == (-9.0, 1.0)
    (score,) = knowledge(SPACE, PLAIN, [(GOOD, whole), (GOOD, Expected(output_throughput=5.0))][::order]).scores
    assert score.feasible and (score.fitness, score.fidelity) == (-9.0, 1.0)


def test_also_where_limits_are_relative_to_a_baseline_among_them() -> None:
    baseline = SPACE.baseline
    assert baseline is not None
    both = {"output_throughput": 5.0, "ttft_p99_ms": 9.0}
    found = knowledge(SPACE, RELATIVE, [(baseline, both), (GOOD, {"output_throughput": 7.0})])
    assert [score.fidelity for score in found.scores] == [1.0, FIRST_PART]
