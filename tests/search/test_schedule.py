"""Which results a proposal may see."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from search.asked import BATCH

from mpipso.config import Limit, ObjectiveSection, Parameter, ScheduleKind, Search
from mpipso.evaluation import BASELINE, CONFIRM, REPEAT, Evaluation, Pace
from mpipso.search.agenda import Agenda
from mpipso.search.objective import Objective
from mpipso.search.schedule import Schedule
from mpipso.search.space import Space
from mpipso.search.strategies import create


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


# --- the best that a proposal could know of, for which its benchmark is stopped early ---------------------------------


class Asked:
    """Evaluations that were asked for, by batch: 8 is the baseline, 32 beyond the limit."""

    def __init__(self, kind: ScheduleKind, size: int = 4, *, labels: Mapping[int, str] | None = None) -> None:
        space = Space((Parameter.model_validate(BATCH),), ())
        limit = Limit(metric="ttft_p99_ms", max=100.0)
        objective = Objective(ObjectiveSection(maximize="output_throughput", slo=(limit,)))
        window = size if kind == "window" else None
        search = Search(strategy="pso", schedule=kind, particles=size, window=window, baseline_repeats=1)
        self.agenda = Agenda(search, space, objective, create(search, space, in_flight=size))
        batches = [8, 9, 10, 11, 12, 13, 14, 15, 16, 17]
        labels = {0: "baseline", **(labels or {})}
        asked = [
            {"number": n, "configuration": {"batch": b}, "label": labels.get(n, "")} for n, b in enumerate(batches)
        ]
        self.agenda.enter(asked)

    def ask(self, batch: int, label: str) -> int:
        number = self.agenda.trials.next_number
        self.agenda.enter([{"number": number, "configuration": {"batch": batch}, "label": label}])
        return number

    def take(self, number: int, rate: float, first: float | None, *, latency: float = 50.0) -> None:
        configuration = self.agenda.trials.of(number).configuration
        metrics = {"output_throughput": rate, "ttft_p99_ms": latency}
        self.agenda.trials.take(Evaluation(number, 1, 0, configuration, metrics=metrics, first=first))


@pytest.mark.parametrize(
    ("kind", "paces"),
    [
        ("generation", [None, None, None, None, (20.0, 2.0), (20.0, 2.0), (20.0, 2.0), (20.0, 2.0), (50.0, 5.0)]),
        ("window", [None, None, None, None, (10.0, 1.0), (20.0, 2.0), (20.0, 2.0), (20.0, 2.0), (30.0, 3.0)]),
        ("async", [None, *8 * [(90.0, 9.0)]]),
    ],
)
def test_the_pace_is_that_of_the_best_that_the_proposal_could_know_of(
    kind: ScheduleKind, paces: list[tuple[float, float] | None]
) -> None:
    """Whatever else is known by then; the baseline itself goes to its end."""
    asked = Asked(kind)
    for number, rate in enumerate((1.0, 2.0, 0.5, 0.6, 3.0, 5.0, 0.7, 0.8, 0.9, 9.0)):
        asked.take(number, rate, 10.0 * rate)
    found = [asked.agenda.pace(number) for number in range(9)]
    assert [each and (each.first, each.whole) for each in found] == paces


def test_without_one_that_is_feasible_or_was_looked_at_there_is_none() -> None:
    asked = Asked("generation")
    assert asked.agenda.pace(4) is None, "nothing is known"
    asked.take(1, 5.0, 50.0, latency=101.0)
    assert asked.agenda.pace(4) is None, "the only one breaks a limit"
    asked.take(2, 3.0, 30.0)
    assert asked.agenda.pace(4) == Pace(30.0, 3.0)
    asked.take(3, 4.0, None)
    assert asked.agenda.pace(4) == Pace(30.0, 3.0), "of the best nobody knows what it was after the first part"


def test_nor_of_what_is_not_above_0() -> None:
    """As a derived metric may be: of that there is no share."""
    asked = Asked("generation")
    asked.take(1, -2.0, 3.0)
    assert asked.agenda.pace(4) is None


def test_what_is_measured_again_goes_to_its_end() -> None:
    asked = Asked("generation", labels={5: REPEAT})
    asked.take(1, 5.0, 50.0)
    assert asked.agenda.pace(4) == asked.agenda.pace(6) == Pace(50.0, 5.0)
    assert asked.agenda.pace(5) is None
    assert asked.agenda.pace(asked.ask(9, CONFIRM)) is None
    assert asked.agenda.pace(asked.ask(8, BASELINE)) is None


def test_of_a_best_that_was_measured_again_it_is_the_mean() -> None:
    asked = Asked("async")
    again, third = asked.ask(9, REPEAT), asked.ask(9, REPEAT)
    asked.take(1, 5.0, 50.0)
    asked.take(again, 7.0, 30.0)
    assert asked.agenda.pace(4) == Pace(40.0, 6.0)
    asked.take(third, 100.0, None)
    assert asked.agenda.pace(4) == Pace(40.0, 6.0), "of those that were looked at"


def test_what_was_stopped_early_sets_no_pace() -> None:
    asked = Asked("generation")
    asked.take(1, 5.0, 50.0)
    asked.agenda.trials.take(Evaluation(2, 1, 0, {"batch": 10}, first=900.0, expected=90.0))
    assert asked.agenda.pace(4) == Pace(50.0, 5.0)
    asked = Asked("async")
    asked.take(1, 5.0, 50.0)
    asked.agenda.trials.take(Evaluation(asked.ask(9, ""), 1, 0, {"batch": 9}, first=900.0, expected=90.0))
    assert asked.agenda.pace(4) == Pace(50.0, 5.0), "also where it is the same configuration"
