"""The classic swarm: how its particles move. What it has in common with others is in test_strategies.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import qmc

from mpipso.config import Parameter, SwarmSection
from mpipso.score import Score
from mpipso.search.space import Space
from mpipso.search.swarm import Swarm, _reflect, constriction

Judge = Callable[[np.ndarray], Score]


def cube(dimensions: int) -> Space:
    return Space([Parameter(name=f"x{i}", type="float", min=0, max=1) for i in range(dimensions)])


def swarm(dimensions: int, particles: int, seed: int = 1, opening: Any = (), **section: Any) -> Swarm:
    return Swarm(cube(dimensions), particles, seed, SwarmSection(**section), opening=opening)


def bowl(point: np.ndarray) -> Score:
    return Score(failed=False, fitness=float(((point - 0.37) ** 2).sum()))


def run(searching: Swarm, iterations: int, particles: int, judge: Judge = bowl) -> np.ndarray:
    """Every proposal, of shape (iterations, particles, dimensions)."""
    proposed = []
    for iteration in range(iterations):
        points = searching.ask(particles)
        proposed.append(points)
        for i, point in enumerate(points):
            searching.tell(iteration * particles + i, judge(point))
    return np.array(proposed)


@pytest.mark.parametrize("form", ["constriction", "inertia"])
@pytest.mark.parametrize("topology", ["global", "ring", "random"])
@pytest.mark.parametrize("moves", ["synchronous", "asynchronous"])
def test_every_kind_of_swarm_closes_in_on_the_optimum(form: str, topology: str, moves: str) -> None:
    proposed = run(swarm(3, 12, form=form, topology=topology, moves=moves), 50, 12)
    assert np.abs(proposed - 0.37).max(axis=2).min() < 0.02


@pytest.mark.parametrize(("phi", "chi"), [(4.1, 0.7298), (5.0, 0.382), (6.0, 0.2679)])
def test_the_constriction_follows_from_the_weights(phi: float, chi: float) -> None:
    assert constriction(phi) == chi
    weights = {"phi1": phi / 2, "phi2": phi / 2}
    found, wanted = (run(swarm(3, 4, form="constriction", **weights, **more), 5, 4) for more in ({}, {"chi": chi}))
    np.testing.assert_array_equal(found, wanted)


def test_the_first_points_are_more_even_than_random_ones() -> None:
    rng = np.random.default_rng(0)
    ours = [qmc.discrepancy(swarm(6, 32, seed=seed).ask(32)) for seed in range(20)]
    random = [qmc.discrepancy(rng.random((32, 6))) for _ in range(20)]
    assert max(ours) < np.median(random)


def test_particle_0_begins_at_the_baseline() -> None:
    start = np.array([0.1, 0.9, 0.5])
    with_start, without = swarm(3, 8, opening=[start]).ask(8), swarm(3, 8).ask(8)
    assert with_start[0] == pytest.approx(start)
    assert np.array_equal(with_start[1:], without[1:])


def test_an_asynchronous_particle_sees_what_others_have_just_found() -> None:
    """Particle 0 finds the best place in its second move; particle 1 moves next."""
    moves = {}
    for kind in ("synchronous", "asynchronous"):
        for found in (0.5, -1.0):
            searching = swarm(3, 4, moves=kind)
            run(searching, 1, 4)
            searching.ask(1)
            searching.tell(4, Score(failed=False, fitness=found))
            moves[kind, found] = searching.ask(1)[0]
    assert np.array_equal(moves["synchronous", 0.5], moves["synchronous", -1.0])
    assert not np.array_equal(moves["asynchronous", 0.5], moves["asynchronous", -1.0])


def test_random_numbers_are_those_of_the_proposal_not_of_the_order_of_calls() -> None:
    one, other = swarm(3, 8), swarm(3, 8)
    for searching in (one, other):
        run(searching, 1, 8)
    together = one.ask(8)
    apart = np.concatenate([other.ask(3), other.ask(5)])
    assert np.array_equal(together, apart)


def test_what_leaves_the_cube_is_thrown_back_with_its_velocity_reversed() -> None:
    x, v = _reflect(np.array([-0.2, 0.5, 1.3]), np.array([-0.4, 0.1, 0.5]))
    assert x == pytest.approx(np.array([0.2, 0.5, 0.7]))
    assert v.tolist() == [0.4, 0.1, -0.5]


def test_no_step_is_longer_than_the_limit() -> None:
    proposed = run(swarm(4, 10, max_velocity=0.03), 12, 10, lambda point: Score(failed=False, fitness=-point.sum()))
    steps = np.abs(np.diff(proposed, axis=0))
    # Where a particle would rest, one coordinate is drawn anew.
    assert np.mean(steps > 0.03 + 1e-6) < 0.05
    assert np.median(steps) > 0.01


def test_every_proposal_is_in_the_unit_cube_and_none_sticks_to_its_walls() -> None:
    proposed = run(swarm(5, 12), 40, 12, lambda point: Score(failed=False, fitness=float(point.sum())))
    assert proposed.min() >= 0.0
    assert proposed.max() <= 1.0
    assert np.mean((proposed == 0.0) | (proposed == 1.0)) < 0.01


def test_particles_are_drawn_to_what_works_and_away_from_what_fails() -> None:
    searching = swarm(2, 8)
    points = searching.ask(8)
    for i in range(8):
        searching.tell(i, Score(failed=False, infeasible=True, violation=2.0) if i == 3 else Score(failed=True))
    later = searching.ask(8)
    away = [np.abs(batch - points[3]).sum(axis=1) for batch in (points, later)]
    assert np.mean(away[1]) < np.mean(away[0])


def test_while_everything_fails_the_swarm_looks_elsewhere() -> None:
    proposed = run(swarm(2, 8), 8, 8, lambda _: Score(failed=True)).reshape(-1, 2)
    cells = {tuple(np.minimum((point * 4).astype(int), 3).tolist()) for point in proposed}
    assert cells == {(i, j) for i in range(4) for j in range(4)}


def test_a_narrow_ring_keeps_the_swarm_spread_for_longer() -> None:
    spread = [run(swarm(2, 20, **kind), 12, 20)[-1].std(axis=0).mean() for kind in ({}, {"topology": "ring"})]
    assert spread[1] > spread[0]


def test_a_measurement_from_elsewhere_draws_the_particles() -> None:
    searching, places = swarm(3, 6), np.tile(np.linspace(0.88, 0.92, 5)[:, None], 3)
    searching.learn(places, [Score(failed=False, fitness=-100.0)] * 5)
    proposed = run(searching, 12, 6)
    assert np.abs(proposed[-6:] - 0.9).mean() < np.abs(proposed[0] - 0.9).mean() / 2
