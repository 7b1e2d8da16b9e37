from __future__ import annotations

import math

import numpy as np
import pytest

from mpipso.search.racing import Noise, beats, pooled_noise, still_racing


def test_the_deviation_is_relative_and_pooled_over_candidates() -> None:
    noise = pooled_noise([[90.0, 110.0], [9.0, 11.0], [5.0]])
    assert noise == Noise(pytest.approx(math.sqrt(2 * 0.1**2)), 2, relative=True)
    assert noise.error([100.0, 100.0]) == pytest.approx(10.0)


def test_a_maximised_metric_has_negative_fitness_and_the_same_deviation() -> None:
    assert pooled_noise([[-90.0, -110.0]]) == pooled_noise([[90.0, 110.0]])
    assert pooled_noise([[-0.09, -0.11]]) == pooled_noise([[0.09, 0.11]]) == Noise(pytest.approx(math.sqrt(0.02)), 1)


def test_the_deviation_of_values_around_zero_is_absolute() -> None:
    """A candidate near zero would make that in proportion as large as one likes, and nothing would beat anything."""
    noise = pooled_noise([[0.01, -0.012], [5.0, 5.4], [-40.0]])
    assert noise == Noise(pytest.approx(math.sqrt((0.022**2 / 2 + 0.4**2 / 2) / 2)), 2, relative=False)
    assert noise.error([-40.0, -40.0]) == pytest.approx(noise.deviation / math.sqrt(2))
    assert not pooled_noise([[0.01, -0.012]]).relative
    assert beats([-40.0], [-5.25], noise)
    assert pooled_noise([[100.0, 150.0], [10.0, 10.5], [0.0], [-9.0]]).relative, "those that were measured twice count"
    assert still_racing([[0.01, -0.012], [5.0, 5.4], [-40.0, -40.1]]) == [False, False, True]


@pytest.mark.parametrize("values", [[], [[]], [[1.0], [2.0]]])
def test_without_repetition_the_noise_is_unknown(values: list[list[float]]) -> None:
    assert pooled_noise(values) == Noise(0.0, 0)


def test_the_deviation_is_estimated_without_bias() -> None:
    random = np.random.default_rng(0)
    measured = 50.0 * (1 + 0.05 * random.standard_normal((4000, 3)))
    assert pooled_noise(measured.tolist()).deviation == pytest.approx(0.05, rel=0.03)


def test_a_challenger_has_to_win_by_more_than_the_noise() -> None:
    assert beats([-101.0], [-100.0], Noise(0.0))
    assert not beats([-100.0], [-100.0], Noise(0.0))
    assert not beats([-101.0], [-100.0], Noise(0.05))
    assert beats([-120.0], [-100.0], Noise(0.05))
    assert beats([-105.0] * 20, [-100.0] * 20, Noise(0.05))
    assert not beats([-90.0], [-100.0], Noise(0.05))


def test_of_equals_few_challengers_win() -> None:
    random = np.random.default_rng(1)
    pairs = 100 * (1 + 0.05 * random.standard_normal((4000, 2, 2)))
    wins = np.mean([beats(one.tolist(), other.tolist(), Noise(0.05)) for one, other in pairs])
    assert wins == pytest.approx(0.1, abs=0.02)


def test_a_clear_loser_drops_out_and_the_leader_stays() -> None:
    assert still_racing([[-100.0, -102.0], [-99.0, -101.0], [-50.0, -51.0]]) == [True, True, False]


def test_more_measurements_tell_apart_what_few_do_not() -> None:
    few, many = (still_racing([[99.0, 101.0] * n, [100.5, 102.5] * n]) for n in (1, 8))
    assert (few, many) == ([True, True], [True, False])


def test_nobody_drops_out_while_the_noise_is_unknown() -> None:
    assert still_racing([[1.0], [5.0]]) == [True, True]


def test_the_best_seldom_drops_out() -> None:
    random = np.random.default_rng(3)
    kept = [still_racing(random.normal([[100.0], [103.0], [110.0]], 4.0, (3, 3)).tolist())[0] for _ in range(500)]
    assert np.mean(kept) > 0.9
