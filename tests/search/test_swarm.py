from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import qmc

from mpipso.search.objective import Score
from mpipso.search.swarm import Swarm, _reflect

Judge = Callable[[np.ndarray], Score]


def bowl(point: np.ndarray) -> Score:
    return Score(failed=False, fitness=float(((point - 0.37) ** 2).sum()))


def run(swarm: Swarm, iterations: int, judge: Judge = bowl) -> list[np.ndarray]:
    proposed = []
    for _ in range(iterations):
        points = swarm.ask()
        proposed.append(points)
        swarm.tell(points, [judge(point) for point in points])
    return proposed


def cells(per_axis: int) -> Callable[[np.ndarray], tuple[int, ...]]:
    return lambda point: tuple(np.minimum((point * per_axis).astype(int), per_axis - 1).tolist())


def test_the_swarm_closes_in_on_the_optimum() -> None:
    swarm = Swarm(4, 16, seed=1)
    run(swarm, 60)
    assert swarm.best is not None
    assert swarm.best.point == pytest.approx(np.full(4, 0.37), abs=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_the_swarm_finds_better_points_than_uniform_random_search(seed: int) -> None:
    swarm = Swarm(6, 16, seed=seed)
    run(swarm, 16)
    random = np.random.default_rng(seed).random((256, 6))
    assert swarm.best is not None
    assert swarm.best.score < min(bowl(point) for point in random)


def test_the_first_points_are_more_even_than_random_ones() -> None:
    rng = np.random.default_rng(0)
    ours = [qmc.discrepancy(Swarm(6, 32, seed=s).ask()) for s in range(20)]
    random = [qmc.discrepancy(rng.random((32, 6))) for _ in range(20)]
    assert max(ours) < np.median(random)


def test_two_seeds_begin_at_different_points() -> None:
    assert not np.array_equal(Swarm(3, 8, seed=1).ask(), Swarm(3, 8, seed=2).ask())


def test_particle_0_begins_at_the_baseline() -> None:
    start = np.array([0.1, 0.9, 0.5])
    with_start, without = Swarm(3, 8, seed=1, start=start).ask(), Swarm(3, 8, seed=1).ask()
    assert with_start[0] == pytest.approx(start)
    assert np.array_equal(with_start[1:], without[1:])


def test_a_swarm_told_the_same_scores_again_proposes_the_same_points() -> None:
    def judge(point: np.ndarray) -> Score:
        return Score(failed=True) if point[0] > 0.8 else bowl(point)

    first = Swarm(3, 8, seed=7, distinct=cells(4))
    before = run(first, 6, judge)
    resumed = Swarm(3, 8, seed=7, distinct=cells(4))
    for points in before[:3]:
        resumed.ask()
        resumed.tell(points, [judge(point) for point in points])
    assert np.array_equal(run(resumed, 3, judge), before[3:])


def test_random_numbers_are_those_of_the_particle_not_of_the_order_of_calls() -> None:
    swarms = [Swarm(3, 8, seed=3) for _ in range(2)]
    for swarm in swarms:
        swarm.tell(swarm.ask(), [Score(failed=False, fitness=float(i)) for i in range(8)])
    second = [swarm.ask() for swarm in swarms]
    # Particle 5 finds a better place of its own in one of the swarms; the best of all stays where it is.
    for swarm, points, found in zip(swarms, second, (5.0, 4.5), strict=True):
        scores = [Score(failed=False, fitness=9.0) for _ in range(8)]
        scores[5] = Score(failed=False, fitness=found)
        swarm.tell(points, scores)
    differs = (swarms[0].ask() != swarms[1].ask()).any(axis=1)
    assert differs.tolist() == [i == 5 for i in range(8)]


def test_every_particle_draws_new_numbers_in_every_iteration() -> None:
    """With the pull of the own best switched off, the number behind each step can be read from the step."""
    swarm = Swarm(1, 6, seed=3, phi1=0.0, phi2=0.1, max_velocity=1.0)
    x = swarm.ask()
    best = int(np.argmin(np.abs(x - 0.5)))
    v, drawn = np.zeros_like(x), []
    for _ in range(3):
        swarm.tell(x, [Score(failed=False, fitness=float(i != best)) for i in range(6)])
        following = swarm.ask()
        step, others = following - x, np.arange(6) != best
        pulled = step / 0.7298 - v
        drawn += (pulled[others] / (0.1 * (x[best] - x[others]))).ravel().tolist()
        x, v = following, step
    assert min(drawn) >= 0.0
    assert max(drawn) <= 1.0
    assert len(set(np.round(drawn, 6))) == 15


def test_what_leaves_the_cube_is_thrown_back_with_its_velocity_reversed() -> None:
    x, v = _reflect(np.array([-0.2, 0.5, 1.3]), np.array([-0.4, 0.1, 0.5]))
    assert x == pytest.approx(np.array([0.2, 0.5, 0.7]))
    assert v.tolist() == [0.4, 0.1, -0.5]


def test_every_proposal_is_in_the_unit_cube_and_none_sticks_to_its_walls() -> None:
    proposed = np.array(run(Swarm(5, 12, seed=2), 40, lambda point: Score(failed=False, fitness=float(point.sum()))))
    assert proposed.min() >= 0.0
    assert proposed.max() <= 1.0
    assert np.mean((proposed == 0.0) | (proposed == 1.0)) < 0.01


def test_a_failed_point_is_nobodys_best_while_there_is_a_better_one() -> None:
    swarm = Swarm(2, 8, seed=1)
    points = swarm.ask()
    scores = [Score(failed=True)] * 8
    scores[3] = Score(failed=False, infeasible=True, violation=2.0, fitness=1e9)
    swarm.tell(points, scores)
    assert swarm.best is not None
    assert np.array_equal(swarm.best.point, points[3])

    later = swarm.ask()
    away = [np.abs(batch - points[3]).sum(axis=1) for batch in (points, later)]
    assert np.mean(away[1]) < np.mean(away[0])
    swarm.tell(later, [Score(failed=True)] * 8)
    assert np.array_equal(swarm.best.point, points[3])


def test_while_everything_fails_the_swarm_looks_elsewhere() -> None:
    proposed = np.array(run(Swarm(2, 8, seed=4), 8, lambda _: Score(failed=True))).reshape(-1, 2)
    assert set(map(cells(4), proposed)) == {(i, j) for i in range(4) for j in range(4)}


def test_the_best_is_the_earliest_of_equals_and_none_at_first() -> None:
    swarm = Swarm(2, 4, seed=1)
    assert swarm.best is None
    points = swarm.ask()
    assert swarm.best is None
    swarm.tell(points, [Score(failed=False, fitness=fitness) for fitness in (3.0, 2.0, 1.0, 1.0)])
    run(swarm, 2, lambda _: Score(failed=False, fitness=1.0))
    assert swarm.best is not None
    assert np.array_equal(swarm.best.point, points[2])


def test_no_cell_is_proposed_twice_while_there_are_new_ones() -> None:
    cell = cells(3)
    proposed = np.array(run(Swarm(3, 6, seed=5, distinct=cell), 4)).reshape(-1, 3)
    assert len(set(map(cell, proposed))) == 24


def test_a_particle_remembers_the_point_it_was_moved_to() -> None:
    taken = [cells(4), np.ndarray.tobytes]  # coarse cells for the first batch, none that matter for the second
    swarm = Swarm(2, 16, seed=5, phi2=0.0, distinct=lambda point: taken[0](point))
    points = swarm.ask()
    assert not np.array_equal(points, Swarm(2, 16, seed=5).ask())
    swarm.tell(points, [bowl(point) for point in points])
    taken.pop(0)
    assert np.array_equal(swarm.ask(), points)  # drawn to its own best alone, it rests there


def test_only_a_proposal_that_was_made_before_is_moved() -> None:
    plain = Swarm(3, 8, seed=6)
    careful = Swarm(3, 8, seed=6, distinct=lambda point: point.tobytes())
    first, second = run(plain, 2)
    repeated = [i for i in range(8) if np.array_equal(first[i], second[i])]
    assert len(repeated) == 1  # the best particle rests on its own best
    moved = (run(careful, 2)[1] != second).any(axis=1)
    assert np.flatnonzero(moved).tolist() == repeated


def test_a_swarm_goes_on_when_every_cell_has_been_proposed() -> None:
    cell = cells(2)
    proposed = np.array(run(Swarm(2, 4, seed=5, distinct=cell), 5))
    assert proposed.shape == (5, 4, 2)
    assert len(set(map(cell, proposed.reshape(-1, 2)))) == 4


def test_a_narrow_ring_keeps_the_swarm_spread_for_longer() -> None:
    spread = {}
    for neighbours in (None, 1):
        swarm = Swarm(2, 20, seed=9, neighbours=neighbours)
        spread[neighbours] = run(swarm, 12)[-1].std(axis=0).mean()
    assert spread[1] > spread[None]


def test_ask_and_tell_take_turns() -> None:
    swarm = Swarm(2, 4, seed=1)
    scores = [Score(failed=False, fitness=1.0)] * 4
    with pytest.raises(ValueError, match="nothing has been asked"):
        swarm.tell(np.zeros((4, 2)), scores)
    points = swarm.ask()
    with pytest.raises(ValueError, match="have not been told"):
        swarm.ask()
    with pytest.raises(ValueError, match="one score each"):
        swarm.tell(points, scores[:3])
    with pytest.raises(ValueError, match="in its order"):
        swarm.tell(points[::-1], scores)
    swarm.tell(points, scores)
    with pytest.raises(ValueError, match="nothing has been asked"):
        swarm.tell(points, scores)


def test_changing_the_returned_points_does_not_change_the_swarm() -> None:
    swarm = Swarm(2, 4, seed=1)
    points = swarm.ask()
    kept = points.copy()
    points += 1.0
    swarm.tell(kept, [Score(failed=False, fitness=1.0)] * 4)
    assert swarm.best is not None
    assert np.array_equal(swarm.best.point, kept[0])
