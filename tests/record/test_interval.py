from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mpipso.record.interval import ratio_interval


def test_the_interval_is_student_s_on_logarithms() -> None:
    before, after = [100.0, 104.0, 97.0], [131.0, 128.0, 135.0, 130.0]
    found = stats.ttest_ind(np.log(after), np.log(before)).confidence_interval(0.95)
    assert ratio_interval(before, after) == pytest.approx((math.exp(found.low), math.exp(found.high)))


def test_it_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(2000):
        before = 100 * np.exp(random.normal(0, 0.05, 3))
        after = 130 * np.exp(random.normal(0, 0.05, 3))
        interval = ratio_interval(before.tolist(), after.tolist())
        assert interval is not None
        covered += interval[0] <= 1.3 <= interval[1]
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)


def test_the_best_of_several_claims_a_gain_that_is_not_there_no_more_often_than_it_says() -> None:
    random = np.random.default_rng(2)
    claimed = alone = 0
    for _ in range(2000):
        before, *contenders = np.exp(random.normal(0, 0.05, (4, 2))).tolist()
        best, *others = sorted(contenders, key=sum, reverse=True)
        interval, naive = ratio_interval(before, best, others), ratio_interval(before, best)
        assert interval is not None and naive is not None
        claimed += interval[0] > 1.0
        alone += naive[0] > 1.0
    assert claimed / 2000 <= 0.025
    assert alone / 2000 > 0.04, "which it does when nobody tells that it was chosen"


def test_the_noise_of_all_contenders_is_pooled() -> None:
    before, best, other = [100.0, 104.0], [131.0, 128.0, 135.0], [120.0, 118.0]
    logs = [np.log(values) for values in (before, best, other)]
    deviation = np.sqrt(sum(len(values) * np.var(values) for values in logs) / 4)
    half = stats.t.ppf(1 - 0.05 / 2 / 2, 4) * deviation * np.sqrt(1 / 2 + 1 / 3)
    middle = logs[1].mean() - logs[0].mean()
    assert ratio_interval(before, best, [other]) == pytest.approx((math.exp(middle - half), math.exp(middle + half)))


def test_one_repeated_measurement_is_enough_to_know_the_noise() -> None:
    interval = ratio_interval([100.0], [130.0, 131.0])
    assert interval is not None and interval[0] < 1.305 < interval[1]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([100.0], [130.0]),
        ([100.0, 100.0], [130.0]),
        ([], [1.0, 2.0]),
        ([1.0, 2.0], []),
        ([1.0, 0.0], [1.0, 2.0]),
        ([1.0, -1.0], [2.0]),
    ],
)
def test_there_is_no_interval_without_noise_or_scale(before: list[float], after: list[float]) -> None:
    assert ratio_interval(before, after) is None


def test_an_interval_without_bounds_is_none() -> None:
    assert ratio_interval([1.0], [1e-300, 1e300]) is None
