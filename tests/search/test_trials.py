"""Configurations and their measurements, and what these are worth together."""

from __future__ import annotations

import pytest
from search.asked import Record

from mpipso.evaluation import CONFIRM, FIRST_PART, Evaluation, Failure


def test_measurements_of_one_configuration_are_one_trial_named_by_the_first() -> None:
    record = Record()
    first, other, again = record.ask(8), record.ask(9), record.ask(8, "repeat")
    trial = record.trials.of(again)
    assert trial is record.trials.of(first)
    assert (trial.number, trial.numbers, trial.proposal) == (first, [first, again], 0)
    assert [each.number for each in record.trials] == [first, other]
    assert record.trials.baseline is trial


def test_sweeps_of_a_configuration_are_compared_at_one_load() -> None:
    record = Record()
    for rates, counts in (((100.0, 300.0), 1), ((120.0, 80.0), 0), ((140.0,), 0)):
        number = record.ask(9)
        loads = {
            f"concurrency {load}": {"output_throughput": rate, "completed": 1.0, "concurrency": float(load)}
            for load, rate in enumerate(rates, 1)
        }
        metrics = [*loads.values()][counts]
        configuration = record.trials.of(number).configuration
        record.trials.take(Evaluation(number, 1, 0, configuration, metrics=metrics, loads=loads))
    trial = record.trials.of(0)
    assert record.trials.values(trial, range(3)) == [-100.0, -120.0, -140.0]
    assert record.trials.values(trial, range(1)) == [-300.0]
    score = record.trials.score(trial, range(3))
    assert score is not None and score.fitness == -120.0


def test_what_has_no_result_is_waited_for() -> None:
    record = Record()
    numbers = [record.ask(batch) for batch in (8, 9, 10)]
    record.take(numbers[1], 1.0)
    assert record.trials.waiting == [0, 2]
    assert record.trials.result(0) is None


def test_confirmations_are_no_part_of_the_search() -> None:
    record = Record()
    record.measure(8, 1.0)
    record.measure(8, 1.0, label="repeat")
    confirmation = record.ask(8, "confirm")
    assert record.trials.searched == [0, 1]
    trial = record.trials.of(0)
    assert record.trials.confirmations(trial) == [confirmation]
    record.measure(9, 1.0)
    assert record.trials.confirmations(trial) == [], "they are of a race before"
    assert [record.trials.confirmations(trial, race) for race in record.trials.races] == [[confirmation]]


def test_the_score_of_a_trial_is_that_of_the_mean_of_the_measurements_asked_about() -> None:
    record = Record()
    for throughput in (100.0, 200.0, 600.0):
        record.measure(9, throughput)
    trial = record.trials.of(0)
    means = {2: -150.0, 3: -300.0}
    for count, fitness in means.items():
        score = record.trials.score(trial, range(count))
        assert score is not None
        assert score.fitness == fitness
    assert record.trials.score(trial, []) is None
    assert record.trials.values(trial, range(3)) == [-100.0, -200.0, -600.0]


def test_a_lost_node_does_not_undo_what_was_measured() -> None:
    record = Record()
    measured, lost, alone = record.measure(9, 5.0), record.ask(9, "repeat"), record.ask(10)
    for number in (lost, alone):
        configuration = record.trials.of(number).configuration
        failure = Failure("the rank died", "infrastructure")
        record.trials.take(Evaluation(number, 3, 0, configuration, failure=failure))
    score = record.trials.score(record.trials.of(measured), {measured, lost})
    assert score is not None and score.fitness == -5.0
    gone = record.trials.score(record.trials.of(alone), {alone})
    assert gone is not None and gone.failed, "nothing has ever come of it"


@pytest.mark.parametrize(("results", "failed"), [([1.0, 1.0, None], False), ([1.0, None], True), ([None], True)])
def test_a_trial_has_failed_unless_most_of_its_measurements_succeeded(
    results: list[float | None], failed: bool
) -> None:
    record = Record()
    for result in results:
        record.measure(9, result)
    score = record.trials.score(record.trials.of(0), range(len(results)))
    assert score is not None
    assert score.failed is failed
    assert score.cause == ("it broke" if failed else "")


def test_groups_that_have_measured_it_are_told_once() -> None:
    record = Record()
    for group in (2, 0, 2):
        record.take(record.ask(9), 1.0, group=group)
    number = record.ask(9)
    assert record.trials.groups(record.trials.of(0), number) == (2, 0)


def test_for_a_confirmation_those_of_its_race_are_told() -> None:
    record = Record()
    record.take(record.ask(9), 1.0, group=2)
    for group in (0, 3):
        number = record.ask(9, CONFIRM)
        record.take(number, 1.0, group=group)
    assert record.trials.groups(record.trials.of(0), record.ask(9, CONFIRM)) == (0, 3)


class TestReference:
    def test_limits_refer_to_the_mean_of_the_baseline_s_first_measurements(self) -> None:
        record = Record(relative=True, baseline_repeats=2)
        record.measure(8, 10.0, 100.0)
        assert record.trials.reference() is None, "one is still missing"
        with pytest.raises(ValueError, match="baseline"):
            record.trials.judge(Evaluation(9, 1, 0, {"batch": 9}, metrics={"output_throughput": 1.0}))
        record.measure(8, 20.0, 300.0, "repeat")
        assert record.trials.reference() == {"output_throughput": 15.0, "ttft_p99_ms": 200.0}
        record.measure(9, 50.0, 299.0)
        record.measure(10, 50.0, 301.0)
        scores = [record.trials.score(record.trials.of(number), [number]) for number in (2, 3)]
        assert [score is not None and score.feasible for score in scores] == [True, False]

    def test_for_what_was_confirmed_it_is_what_was_confirmed_of_the_baseline(self) -> None:
        record = Record(relative=True)
        record.measure(8, 10.0, 100.0)
        record.measure(8, 30.0, 500.0, "confirm")
        assert record.trials.reference() == {"output_throughput": 10.0, "ttft_p99_ms": 100.0}
        assert record.trials.reference(record.trials.race) == {"output_throughput": 30.0, "ttft_p99_ms": 500.0}

    def test_the_best_is_compared_with_all_that_the_baseline_measured(self) -> None:
        record = Record(relative=True)
        assert record.trials.compared(None) is None
        for tokens, label in ((10.0, ""), (30.0, "repeat"), (50.0, "confirm"), (None, "confirm")):
            record.measure(8, tokens, 100.0, label)
        assert record.trials.reference() == {"output_throughput": 10.0, "ttft_p99_ms": 100.0}
        compared = [record.trials.compared(race) for race in (None, record.trials.race)]
        assert compared == [{"output_throughput": mean, "ttft_p99_ms": 100.0} for mean in (20.0, 50.0)]

    def test_confirmations_of_the_baseline_that_failed_leave_its_first_measurements(self) -> None:
        record = Record(relative=True)
        record.measure(8, 10.0, 100.0)
        record.measure(8, None, label="confirm")
        assert record.trials.reference(record.trials.race) == {"output_throughput": 10.0, "ttft_p99_ms": 100.0}

    def test_a_baseline_that_failed_is_known_and_empty(self) -> None:
        record = Record(relative=True)
        record.measure(8, None)
        assert record.trials.reference() == {}

    def test_a_failed_repeat_leaves_the_others(self) -> None:
        record = Record(relative=True, baseline_repeats=2)
        record.measure(8, None)
        record.measure(8, 20.0, 300.0, "repeat")
        assert record.trials.reference() == {"output_throughput": 20.0, "ttft_p99_ms": 300.0}

    def test_what_arrives_first_does_not_matter(self) -> None:
        orders = []
        for order in ((0, 1, 2), (2, 1, 0)):
            record = Record(relative=True, baseline_repeats=2)
            for batch in (8, 8, 9):
                record.ask(batch)
            for number in order:
                record.take(number, 10.0 * (number + 1), 100.0 * (number + 1))
            orders.append((record.trials.reference(), record.trials.score(record.trials.of(2), [2])))
        assert orders[0] == orders[1]


@pytest.mark.parametrize("before", [True, False])
def test_a_benchmark_that_was_stopped_early_counts_only_where_there_is_no_whole_one(before: bool) -> None:
    record = Record()
    first, second = record.ask(9), record.ask(9)
    stopped, whole = (first, second) if before else (second, first)
    record.stop(stopped, 5.0)
    trial = record.trials.of(first)
    score = record.trials.score(trial, [0, 1])
    assert score is not None and (score.fitness, score.fidelity, score.feasible) == (-5.0, FIRST_PART, False)
    assert record.trials.values(trial, [0, 1]) == []
    record.take(whole, 100.0)
    score = record.trials.score(trial, [0, 1])
    assert score is not None and (score.fitness, score.fidelity, score.feasible) == (-100.0, 1.0, True)
    assert record.trials.values(trial, [0, 1]) == [-100.0]
    for number in (first, second):
        result = record.trials.result(number)
        assert result is not None and record.trials.together(result) is None
        assert record.trials.counted_with(result) == [result]
    third = record.measure(9, 200.0, label="repeat")
    result = record.trials.result(third)
    assert result is not None
    score = record.trials.together(result)
    assert score is not None and (score.failed, score.fitness) == (False, -150.0)


def test_a_baseline_of_which_a_benchmark_was_stopped_is_no_reference() -> None:
    record = Record(relative=True)
    record.stop(record.ask(8), 5.0)
    assert not record.trials.reference()
