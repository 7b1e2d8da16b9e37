from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from record.written import drawn

from mpipso.config import Limit
from mpipso.errors import UserError
from mpipso.evaluation import CONFIRM, FIRST_PART, Evaluation, Failure
from mpipso.record.judged import Judged
from mpipso.record.outcome import Outcome
from mpipso.record.pareto import front, pareto
from mpipso.score import Score

OBJECTIVE, METRIC = "output_throughput", "ttft_p99_ms"


def measured(number: int, tokens: float, ttft: float, **more: float) -> Judged:
    metrics = {OBJECTIVE: tokens, METRIC: ttft, **more}
    label = "" if number else "baseline"
    return Judged(Evaluation(number, 1, 0, {"n": number}, label, metrics), Score(False, fitness=-tokens))


def outcome(*evaluations: Judged, incumbent: int | None = None, limits: tuple[Limit, ...] = ()) -> Outcome:
    directions = {OBJECTIVE: True, METRIC: False, "answers_right": True}
    return Outcome(evaluations, incumbent, OBJECTIVE, directions.get, Path("runs/night"), slo=limits)


def numbers(found: Outcome, metric: str = METRIC) -> list[int]:
    return [point.measured.number for point in front(found, metric)]


def test_what_another_one_beats_in_both_is_not_on_the_front() -> None:
    found = [measured(0, 100.0, 50.0), measured(1, 300.0, 400.0), measured(2, 200.0, 60.0), measured(3, 190.0, 60.0)]
    failed = Evaluation(4, 1, 0, {"n": 4}, failure=Failure("out of memory", "configuration"))
    found += [Judged(failed, Score(failed=True)), measured(5, 300.0, 500.0), measured(6, 250.0, 300.0)]
    assert numbers(outcome(*found)) == [0, 2, 6, 1]


def test_of_a_metric_that_is_good_when_high_the_highest_comes_first() -> None:
    found = [measured(0, 100.0, 1.0, answers_right=0.9), measured(1, 300.0, 1.0, answers_right=0.5)]
    found.append(measured(2, 90.0, 1.0, answers_right=0.8))
    assert numbers(outcome(*found), "answers_right") == [0, 1]


def test_several_measurements_of_a_configuration_are_a_point() -> None:
    again = measured(1, 50.0, 20.0)
    again = replace(again, evaluation=replace(again.evaluation, configuration={"n": 0}, label="repeat"))
    (point,) = front(outcome(measured(0, 100.0, 40.0), again), METRIC)
    assert (point.metrics, len(point.among)) == ({OBJECTIVE: 75.0, METRIC: 30.0}, 2)


def test_limits_on_other_metrics_are_kept_and_those_on_the_two_are_told() -> None:
    limits = Limit(metric=METRIC, max=100.0), Limit(metric="answers_right", min="baseline", factor=0.9)
    found = outcome(
        measured(0, 100.0, 50.0, answers_right=0.8),
        measured(1, 900.0, 40.0, answers_right=0.71),
        measured(2, 200.0, 150.0, answers_right=0.73),
        incumbent=0,
        limits=limits,
    )
    assert numbers(found) == [0, 2]
    lines = drawn(pareto(found, METRIC), width=120)
    assert lines[2].split() == ["0", "50", "ms", "100", "tok/s", "the", "baseline"]
    assert lines[3].split("  ")[-1].strip() == "breaks a limit: ttft_p99_ms 150 > 100"
    assert lines[3].split()[5:8] == ["+100.0", "%", "n=2"]
    assert lines[4].startswith("Nothing else that was measured is better in one of ttft_p99_ms and output_throughput")


def again(judged: Judged, number: int, **metrics: float) -> Judged:
    """A confirmation that finds other metrics."""
    found = {**judged.evaluation.metrics, **metrics}
    loads = {load: {**there, **metrics} for load, there in judged.evaluation.loads.items()}
    return replace(
        judged, evaluation=replace(judged.evaluation, number=number, label=CONFIRM, metrics=found, loads=loads)
    )


def test_limits_relative_to_the_baseline_are_those_of_the_time_of_each_measurement() -> None:
    limits = (Limit(metric="itl_p99_ms", max="baseline"),)
    search = [measured(n, 100.0 + n, 50.0 + n, itl_p99_ms=9.5) for n in range(4)]
    # The machine is faster in the race.
    race = [
        again(search[0], 4, itl_p99_ms=5.0),
        again(search[1], 5, itl_p99_ms=6.0),
        again(search[3], 6, itl_p99_ms=5.0),
    ]
    assert numbers(outcome(*search, *race, incumbent=3, limits=limits)) == [0, 2, 3]


def test_the_baseline_keeps_limits_relative_to_itself_however_its_measurements_vary() -> None:
    first, limits = measured(0, 100.0, 50.0, itl_p99_ms=5.0), (Limit(metric="itl_p99_ms", max="baseline"),)
    repeat = replace(
        first.evaluation, number=1, label="repeat", metrics={**first.evaluation.metrics, "itl_p99_ms": 6.0}
    )
    assert numbers(outcome(first, replace(first, evaluation=repeat), limits=limits)) == [0]


def test_a_baseline_that_fails_half_of_the_time_is_compared_with_but_is_not_on_the_front() -> None:
    first = measured(0, 100.0, 10.0)
    lost = replace(first.evaluation, number=3, label="repeat", metrics={}, failure=Failure("killed", "configuration"))
    found = outcome(first, measured(1, 110.0, 50.0), Judged(lost, Score(failed=True)), incumbent=1)
    assert numbers(found) == [1]
    rows = [" ".join(line.split()) for line in drawn(pareto(found, METRIC))]
    assert "1 50 ms 110 tok/s +10.0 % n=1" in rows
    assert "0 10 ms 100 tok/s the baseline failed in 1 of 2 measurements" in rows


def test_without_what_it_takes_of_the_baseline_the_front_stands_alone() -> None:
    whole = [measured(1, 110.0, 50.0), measured(2, 120.0, 60.0)]
    less = Evaluation(0, 1, 0, {"n": 0}, "baseline", {OBJECTIVE: 100.0})
    for baseline, gain in ([], []), ([Judged(less, Score(False, fitness=-100.0))], ["+10.0", "%"]):
        lines = drawn(pareto(outcome(*baseline, *whole), METRIC))
        assert lines[2].split() == ["1", "50", "ms", "110", "tok/s", *gain, "n=1"]
        assert lines[4].startswith("Nothing else")


def test_what_was_measured_once_for_all_loads_and_breaks_a_limit_in_the_race_is_on_the_front_at_none() -> None:
    def swept(number: int, answers_right: float) -> Judged:
        """At two loads, and the answers are checked once."""
        judged = measured(number, 100.0 + number, 10.0, answers_right=answers_right)
        low, high = ({**judged.evaluation.metrics, "concurrency": n, METRIC: 10.0 * n} for n in (1.0, 2.0))
        loads = {"concurrency 1": low, "concurrency 2": high}
        return replace(judged, evaluation=replace(judged.evaluation, metrics=high, loads=loads))

    limits = (Limit(metric="answers_right", min=0.9),)
    lucky, other = swept(2, 0.99), swept(1, 0.95)
    assert numbers(outcome(lucky, other, limits=limits)) == [2]
    race = again(lucky, 3, answers_right=0.85), again(other, 4)
    assert numbers(outcome(lucky, other, *race, limits=limits)) == [1]


def test_every_load_of_a_sweep_is_a_point() -> None:
    def swept(number: int, *rates: float) -> Judged:
        loads = {
            f"concurrency {2**n}": {OBJECTIVE: rate, METRIC: 10.0 * 2**n, "concurrency": 2.0**n}
            for n, rate in enumerate(rates)
        }
        last = loads[f"concurrency {2 ** (len(rates) - 1)}"]
        judged = measured(number, 0.0, 0.0)
        return replace(judged, evaluation=replace(judged.evaluation, metrics=last, loads=loads))

    found = outcome(swept(0, 100.0, 150.0), swept(1, 90.0, 180.0, 260.0), incumbent=1)
    points = [(point.measured.number, point.load) for point in front(found, METRIC)]
    assert points == [(0, "concurrency 1"), (1, "concurrency 2"), (1, "concurrency 4")]
    lines = drawn(pareto(found, METRIC), width=120)
    assert [line.split()[:3] for line in lines[2:5]] == [
        ["0", "concurrency", "1"],
        ["1", "concurrency", "2"],
        ["1", "concurrency", "4"],
    ]
    # The baseline as it counts in the run is below the front.
    assert lines[6].split()[:7] == ["0", "concurrency", "2", "20", "ms", "150", "tok/s"]


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (OBJECTIVE, "--pareto output_throughput: is the objective; name another metric"),
        ("ttft_p9_ms", "--pareto ttft_p9_ms: has not been measured; did you mean 'ttft_p99_ms'?"),
        ("nonsense", "--pareto nonsense: has not been measured; known are: ttft_p99_ms"),
        ("completed", "--pareto completed: nothing tells whether more of it is better"),
    ],
)
def test_a_metric_that_cannot_be_weighed_is_refused(metric: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        front(outcome(measured(0, 100.0, 50.0, completed=32.0)), metric)
    assert str(refused.value).startswith(message)


def test_that_nothing_keeps_the_other_limits_is_told() -> None:
    found = outcome(measured(0, 100.0, 50.0, answers_right=0.5), limits=(Limit(metric="answers_right", min=0.9),))
    assert drawn(pareto(found, METRIC)) == ["Nothing that was measured keeps the other limits."]


def test_what_was_stopped_early_is_no_point() -> None:
    stopped = Evaluation(2, 1, 0, {"n": 2}, first=900.0, expected=900.0)
    early = Judged(stopped, Score(False, fitness=-900.0, fidelity=FIRST_PART))
    whole = [measured(0, 100.0, 50.0), measured(1, 300.0, 400.0)]
    assert numbers(outcome(*whole, early)) == [0, 1]
    assert drawn(pareto(outcome(*whole, early), METRIC)) == drawn(pareto(outcome(*whole), METRIC))
