from __future__ import annotations

import pytest

from mpipso.evaluation import Evaluation, mean, works


@pytest.mark.parametrize(
    ("elapsed", "phases", "seconds"),
    [
        (5.0, {}, 5.0),
        (5.0, {"starting": 2.0, "measuring": 2.5}, 5.0),
        (-3600.0, {"starting": 2.0, "measuring": 2.5}, 4.5),
        (3600.0, {"starting": 2.0, "measuring": 2.5}, 4.5),
        (-1.0, {}, 0.0),
        (1e9, {}, 0.0),
        (1e9, {"starting": -2.0}, 0.0),
    ],
)
def test_an_evaluation_during_which_the_clock_was_set_took_as_long_as_its_phases(
    elapsed: float, phases: dict[str, float], seconds: float
) -> None:
    assert Evaluation(0, 1, 0, {}, started=1e9, ended=1e9 + elapsed, phases=phases).seconds == seconds


def test_a_configuration_works_that_fails_less_than_half_of_the_time() -> None:
    assert works("g", "g") and works("gg", "ggb")
    assert not works("g", "gb") and not works("", "b") and not works("", "")


@pytest.mark.parametrize(("value", "count"), [(0.95, 3), (0.94, 5), (0.98, 7)])
def test_the_mean_of_equal_values_is_that_value(value: float, count: int) -> None:
    """A sum that is rounded and divided is a little less, and would break a limit that all of them keep."""
    assert mean([{"success_rate": value}] * count) == {"success_rate": value}
