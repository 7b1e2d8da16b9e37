"""Who races at the end, and who has won or lost there."""

from __future__ import annotations

import pytest
from search.asked import Record

from mpipso.search.leaders import Leaders


class Course:
    """A search and its races, by batch: 8 is the baseline."""

    def __init__(self, *, relative: bool = False, most: int = 1, confirm: int = 1) -> None:
        self.record = Record(relative=relative)
        self.leaders = Leaders(self.record.trials, self.record.objective, most, confirm)

    def search(self, **measured: tuple[float | None, float]) -> None:
        for batch, values in measured.items():
            self.record.measure(int(batch[1:]), *values)

    def race(self, **measured: tuple[float | None, float]) -> None:
        for batch, values in measured.items():
            self.record.measure(int(batch[1:]), *values, label="confirm")

    def racing(self) -> list[int]:
        return [int(str(trial.configuration["batch"])) for trial in self.leaders.racing()]

    def beaten_by(self, batch: int) -> list[int]:
        winner = next(trial for trial in self.record.trials if trial.configuration == {"batch": batch})
        return [int(str(trial.configuration["batch"])) for trial in self.leaders.beaten_by(winner)]


@pytest.fixture
def slower() -> Course:
    """The race was on a machine of half the speed, by whose limit all are fast enough, but not by that before."""
    course = Course(relative=True)
    course.search(_8=(10.0, 100.0), _9=(50.0, 140.0), _10=(40.0, 140.0))
    course.race(_8=(9.0, 200.0), _9=(45.0, 280.0), _10=(30.0, 280.0))
    return course


def test_who_is_beaten_is_judged_by_the_baseline_of_the_race(slower: Course) -> None:
    assert slower.beaten_by(9) == [8, 10]
    assert slower.beaten_by(10) == [8]


def test_so_is_who_has_won_an_earlier_race_and_is_in_the_next_one(slower: Course) -> None:
    slower.search(_12=(60.0, 140.0))
    assert slower.racing() == [8, 12, 9]
    assert slower.leaders.most_racers() == 3


def test_a_race_that_came_to_the_baseline_alone_has_no_winner(slower: Course) -> None:
    slower.search(_12=(60.0, 140.0))
    slower.race(_8=(10.0, 100.0))
    slower.search(_13=(70.0, 140.0))
    assert slower.racing() == [8, 13, 9]


def test_a_baseline_that_has_won_an_earlier_race_is_in_the_next_one_once() -> None:
    course = Course()
    course.search(_8=(10.0, 1.0), _9=(50.0, 1.0))
    course.race(_8=(50.0, 1.0), _9=(45.0, 1.0))
    course.search(_12=(60.0, 1.0))
    assert course.racing() == [8, 12]
    assert course.leaders.most_racers() == 2


def test_a_leader_gives_way_when_all_its_confirmations_are_in_and_refute_it() -> None:
    course = Course(confirm=2)
    course.search(_8=(10.0, 1.0), _9=(50.0, 1.0), _10=(40.0, 1.0))
    course.race(_9=(None, 1.0))
    assert course.racing() == [8, 9]
    second = course.record.ask(9, "confirm")
    assert course.racing() == [8, 9]
    course.record.take(second, None)
    assert course.racing() == [8, 10]


def test_what_was_stopped_early_leads_nobody_however_good_it_was_expected_to_be() -> None:
    course = Course(most=3)
    record = course.record
    record.stop(record.ask(9), 1000.0)
    assert course.leaders.leader([0]) is None
    assert course.racing() == []
    course.search(_8=(10.0, 1.0), _10=(20.0, 1.0))
    leader = course.leaders.leader(range(3))
    assert leader is not None and leader.configuration == {"batch": 10}
    assert course.racing() == [8, 10]
    assert course.leaders.succeeds(leader, record.trials.of(0))
