"""The estimate by which the longest evaluations begin first."""

from __future__ import annotations

import numpy as np
import pytest

from mpipso.search.durations import Durations


def test_nothing_is_known_before_the_first_evaluation() -> None:
    assert Durations().predict(np.array([0.5, 0.5])) == 0.0


def test_a_measured_point_is_predicted_as_measured() -> None:
    durations = Durations()
    for x, seconds in ((0.1, 10.0), (0.5, 20.0), (0.9, 90.0)):
        durations.tell(np.array([x]), seconds)
    assert durations.predict(np.array([0.9])) == pytest.approx(90.0, rel=1e-3)


def test_the_nearest_points_weigh_most() -> None:
    durations = Durations()
    for x in np.linspace(0.0, 1.0, 11):
        durations.tell(np.array([x, 0.5]), 100.0 * float(x))
    predictions = [durations.predict(np.array([x, 0.5])) for x in (0.12, 0.47, 0.93)]
    assert predictions == sorted(predictions)
    assert predictions[0] < 30 < predictions[1] < 70 < predictions[2]


def test_how_long_evaluations_are_is_told_by_those_whose_benchmark_went_to_its_end() -> None:
    durations = Durations()
    durations.tell(np.array([0.1]), 5.0, stopped=True)
    assert durations.long == 0.0
    for seconds in range(10, 20):
        durations.tell(np.array([0.9]), float(seconds))
    assert durations.long == 19.0
    durations.tell(np.array([0.1]), 1000.0, stopped=True)
    assert durations.long == 19.0
    assert durations.predict(np.array([0.1])) == pytest.approx(502.5, abs=0.1), "but there it takes as long as it took"
