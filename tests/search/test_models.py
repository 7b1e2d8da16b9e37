"""The models that the surrogate-assisted swarm flies over, and how it flies."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import norm
from search.scored import limited

from mpipso.config import Constraint, Parameter
from mpipso.evaluation import FIRST_PART
from mpipso.score import Score
from mpipso.search.acquisition import InnerSwarm, log_expected_improvement
from mpipso.search.gp import GaussianProcess, Prior, _Posterior, fit
from mpipso.search.kernel import _ROWS, Covariance, Kernel, squared_distances
from mpipso.search.lattice import LEVELS, Lattice
from mpipso.search.models import Models, clearance, targets
from mpipso.search.space import Space


def integers(*levels: int, constraint: str | None = None) -> Space:
    parameters = [Parameter(name=f"p{i}", type="int", min=0, max=n - 1) for i, n in enumerate(levels)]
    return Space(parameters, [] if constraint is None else [Constraint(expression=constraint)])


# --- the process --------------------------------------------------------------------------------------------------


def test_the_process_interpolates_and_is_unsure_where_nothing_was_measured() -> None:
    x = np.random.default_rng(0).random((30, 3))
    y = np.sin(4 * x[:, 0]) + x[:, 1]
    process = fit(x, y, np.ones(30), np.arange(3), Prior())
    mean, deviation = process.predict(np.vstack([x[:5], [[9.0, 9.0, 9.0]]]))
    assert mean[:5] == pytest.approx(y[:5], abs=0.05)
    assert deviation[:5].max() < deviation[5] / 5


def test_the_process_sees_which_dimension_matters() -> None:
    random = np.random.default_rng(1)
    x, unseen = random.random((60, 4)), random.random((200, 4))
    process = fit(x, np.sin(6 * x[:, 2]), np.ones(60), np.arange(4), Prior())
    assert process.predict(unseen)[0] == pytest.approx(np.sin(6 * unseen[:, 2]), abs=0.1)


def test_noisy_points_pull_less() -> None:
    x = np.array([[0.2], [0.5], [0.5], [0.8]])
    y = np.array([0.0, 1.0, -1.0, 0.0])
    trusting = [fit(x, y, np.array([1.0, *w, 1.0]), np.array([0]), Prior()) for w in ([1.0, 50.0], [50.0, 1.0])]
    means = [float(process.predict(np.array([[0.5]]))[0][0]) for process in trusting]
    assert means[0] > 0.2 > -0.2 > means[1]


@pytest.mark.parametrize("share", [0.0, 0.6])
@pytest.mark.parametrize("samples", [(), (3,)])
def test_imagined_points_give_the_process_that_is_fitted_to_them(share: float, samples: tuple[int, ...]) -> None:
    random = np.random.default_rng(7)
    x, y = random.random((14, 3)), random.normal(size=(14, *samples))
    y -= y[:12].mean(axis=0)
    y[12:] -= y[12:].mean(axis=0)  # the mean is that of what was measured
    kernel = Kernel(np.array([0.3, 0.5, 1.0]), np.array([0.5, 0.0, 1.0]), share, np.arange(3))
    factors = np.append(np.ones(12), np.zeros(2))
    whole = GaussianProcess(x, y, factors, kernel, 2.0, 0.1)
    grown = GaussianProcess(x[:12], y[:12], factors[:12], kernel, 2.0, 0.1).imagine(x[12], y[12]).imagine(x[13], y[13])
    unseen = random.random((20, 3))
    for found, expected in zip(grown.predict(unseen), whole.predict(unseen), strict=True):
        assert found == pytest.approx(expected)


def test_an_imagined_result_is_as_good_as_a_measured_one() -> None:
    random = np.random.default_rng(2)
    x = random.random((20, 2))
    process = fit(x, x.sum(axis=1), np.ones(20), np.arange(2), Prior())
    at, results = np.array([0.95, 0.02]), np.array([0.5, 1.0, 2.0])
    mean, deviation = process.imagine(at, results).predict(np.vstack([at, x[:3]]))
    assert mean[0] == pytest.approx(results, abs=1e-3)
    assert mean[1:].shape == (3, 3)
    assert deviation[0] < process.predict(at[None])[1][0] / 5


def test_an_imagined_result_may_be_one_for_all_samples() -> None:
    x = np.random.default_rng(2).random((20, 2))
    process = fit(x, x.sum(axis=1), np.ones(20), np.arange(2), Prior())
    at = np.array([0.95, 0.02])
    sampled = process.imagine(at, np.array([0.5, 0.5]))
    assert process.imagine(at, 0.5).predict(x)[0] == pytest.approx(sampled.predict(x)[0][:, 0])
    assert sampled.imagine(at, 0.5).predict(x)[0].shape == (20, 2)


def test_the_gradient_of_the_posterior_is_that_of_its_loss() -> None:
    random = np.random.default_rng(0)
    x, groups = random.random((15, 6)), np.array([0, 1, 2, 2, 2, 3])
    x[:, 2:5] = np.eye(3)[random.integers(0, 3, 15)] / np.sqrt(2.0)
    for share in (0.0, 0.75):
        posterior = _Posterior(x, random.normal(size=15), random.random(15) + 0.5, groups, Prior(share=share))
        theta = posterior._middle + 0.3 * random.normal(size=len(posterior._middle))
        steps = 1e-5 * np.eye(len(theta))
        numeric = [(posterior.loss(theta + step)[0] - posterior.loss(theta - step)[0]) / 2e-5 for step in steps]
        assert posterior.loss(theta)[1] == pytest.approx(np.array(numeric), abs=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.75])
@pytest.mark.parametrize("stretched", [0.0, 20.0])
def test_the_same_points_without_noise_have_a_loss_and_a_slope(share: float, stretched: float) -> None:
    """Their covariances make a matrix that would be singular; so does a length scale that knows no distance."""
    random = np.random.default_rng(6)
    x = np.repeat(random.random((20, 3)), 4, axis=0)
    posterior = _Posterior(x, random.normal(size=80), np.zeros(80), np.arange(3), Prior(share=share))
    theta = np.array(posterior._middle)
    theta[:3] += stretched
    loss, slope = posterior.loss(theta)
    assert np.isfinite(loss) and np.isfinite(slope).all()
    process = fit(x, np.repeat(x[::4].sum(axis=1), 4), np.zeros(80), np.arange(3), Prior(share=share))
    assert process.predict(x)[0] == pytest.approx(x.sum(axis=1), abs=0.01)


def test_main_effects_are_learned_from_few_points() -> None:
    """Of eight switches whose effects add up, from 20 points."""
    random = np.random.default_rng(3)
    effects = random.normal(size=8)
    x, unseen = (random.integers(0, 2, (count, 8)).astype(float) for count in (20, 200))
    errors = [
        np.abs(fit(x, x @ effects, np.ones(20), np.arange(8), Prior(share=share)).predict(unseen)[0] - unseen @ effects)
        for share in (0.75, 0.0)
    ]
    assert errors[0].mean() < 0.7 * errors[1].mean()


def test_the_covariance_is_that_of_its_formula_whatever_is_remembered() -> None:
    random = np.random.default_rng(4)
    groups, share, scales = np.array([0, 1, 1, 1, 1, 2, 2, 3]), 0.6, np.array([0.3, 0.5, 1.0, 0.7])
    direction = np.array([0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])

    def points(count: int) -> np.ndarray:
        four, two = np.eye(4)[random.integers(0, 4, count)], np.eye(2)[random.integers(0, 2, count)]
        ends = random.random((2, count, 1))
        return np.hstack([ends[0], four / np.sqrt(2.0), two / np.sqrt(2.0), ends[1]])

    def formula(a: np.ndarray, b: np.ndarray) -> float:
        each = np.bincount(groups, (a - b) ** 2) / scales**2
        far = np.sqrt(5.0 * np.append(each, each.sum() + ((a - b) @ direction) ** 2))
        values = (1.0 + far + far**2 / 3.0) * np.exp(-far)
        return float(share * values[:-1].mean() + (1.0 - share) * values[-1])

    given, one_more = points(10), points(1)[0]
    used = Covariance(Kernel(scales, direction, share, groups), given)
    most = 0
    for _ in range(100):
        at = points(10)
        expected = [[formula(a, b) for b in [*given, one_more]] for a in at]
        assert used(at) == pytest.approx(np.array(expected)[:, :10])
        assert used.extended(one_more)(at) == pytest.approx(np.array(expected))
        forgot, most = len(used._keys) < most, max(most, len(used._keys))
        if forgot:
            break
    assert forgot
    assert most <= 4 * _ROWS + 40
    assert used(given).diagonal() == pytest.approx(np.ones(10))


def test_distances_are_euclidean() -> None:
    a, b = np.random.default_rng(0).random((2, 5, 3))
    assert squared_distances(a, b) == pytest.approx(((a[:, None] - b) ** 2).sum(axis=2))


# --- targets ------------------------------------------------------------------------------------------------------


def test_targets_keep_the_order_and_tame_the_tails() -> None:
    values = np.array([3.0, 1.0, 2.0, 1e9, 2.0])
    found = targets(values)
    assert np.argsort(found, kind="stable").tolist() == [1, 2, 4, 0, 3]
    assert found[2] == pytest.approx(found[4])
    assert np.abs(found).max() < 4


@pytest.mark.parametrize("values", [[1.0, 1.0], [1.0, 1.0, 1.0, 5.0], [0.0, 0.0, 0.0]])
def test_targets_of_equal_values_are_finite(values: list[float]) -> None:
    assert np.isfinite(targets(np.array(values))).all()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_clearance_of_a_limit_keeps_its_edge_and_tells_how_far_it_is_broken(scale: float) -> None:
    found = clearance(scale * np.array([-0.9, -0.1, 0.0, 0.1, 8.0, 40.0, 1e200]))
    assert np.sign(found).tolist() == [1.0, 1.0, 0.0, -1.0, -1.0, -1.0, -1.0]
    assert np.all(np.diff(found) < 0.0), "latencies of an overloaded service are many times their limits"
    assert np.abs(found).max() < 10.0
    assert clearance(np.array([1e-320, 1e-320, -1e300])).tolist() == pytest.approx([-0.88, -0.88, 7.6], abs=0.01)


def test_a_limit_that_can_only_just_be_kept_is_kept() -> None:
    """As that no request may fail: what is at the limit is as clearly within it as what breaks it is not."""
    found = clearance(np.array([0.0, 3.0, 0.0, 5.0, 4.0]))
    assert found[0] == found[2] == -found[4] > 0.5
    lattice = Lattice(integers(40, 40))
    points = lattice.sample(np.random.default_rng(1), 20)
    scores = [limited(-float(p.sum()), max(1.0, np.floor(20 * (p[0] - 0.7)))) for p in points]
    unseen = lattice.snap(np.array([[0.1, 0.3], [0.4, 0.8], [0.95, 0.5]]))
    likely = Models(lattice, points, scores, np.random.default_rng(0)).likely(unseen)
    assert likely[0] > 0.8 and likely[1] > 0.8 and likely[2] < 0.3


def limited_by(ratio: Callable[[np.ndarray], float], points: np.ndarray) -> list[Score]:
    return [limited(-float(point.sum()), 0.1, ratio(point)) for point in points]


def test_what_keeps_a_limit_tells_where_its_edge_is() -> None:
    """Two of the points that keep it are nearly beyond it, all others are far from it."""
    lattice = Lattice(integers(40, 40))
    points = lattice.snap(np.array([[0.1, 0.1], [0.1, 0.9], [0.3, 0.5], [0.69, 0.2], [0.69, 0.8], [0.99, 0.5]]))
    models = Models(lattice, points, limited_by(lambda p: p[0] / 0.7, points), np.random.default_rng(0))
    near = lattice.snap(np.array([[0.6, 0.5], [0.8, 0.5]]))
    assert np.array_equal(models.likely(near) > 0.9, [True, False])
    assert models.likely(near)[1] < 0.1


def test_a_limit_that_nobody_has_broken_and_one_that_is_not_known_have_no_model() -> None:
    lattice = Lattice(integers(40, 40))
    points = lattice.sample(np.random.default_rng(1), 8)
    kept = Models(lattice, points, limited_by(lambda p: 0.99, points), np.random.default_rng(0))
    assert kept.likely(points) == pytest.approx(1.0)
    unknown = [limited(-1.0, 1.5, math.nan), *(limited(-1.0, 0.5) for _ in points[1:])]
    assert Models(lattice, points, unknown, np.random.default_rng(0)).likely(points)[0] < 0.5


def test_what_was_stopped_early_tells_models_of_values_and_that_it_works_but_of_no_limit() -> None:
    lattice = Lattice(integers(40, 40))
    points = lattice.sample(np.random.default_rng(1), 12)
    whole = limited_by(lambda p: p[0] / 0.5, points[:8])
    stopped = [Score(False, fitness=-1.0, fidelity=0.25, log_ratios=(math.nan, math.nan)) for _ in points[8:]]
    without = Models(lattice, points[:8], whole, np.random.default_rng(0))
    models = Models(lattice, points, [*whole, *stopped], np.random.default_rng(0))
    unseen = lattice.sample(np.random.default_rng(2), 50)
    assert models.conditions == without.conditions == 1
    assert np.array_equal(models.likely(unseen), without.likely(unseen))
    assert not np.array_equal(models.promise(unseen), without.promise(unseen))
    points = lattice.snap(np.array([[0.1, 0.2], [0.2, 0.8], [0.3, 0.5], [0.7, 0.3], [0.9, 0.7]]))
    scores = [*(Score(failed=True) for _ in points[:3]), *stopped[:2]]
    likely = Models(lattice, points, scores, np.random.default_rng(0)).likely(points)
    assert likely[:3].max() < 0.5 < likely[3:].min()


def test_and_as_a_noisier_measurement_than_a_whole_one() -> None:
    lattice = Lattice(integers(40))
    points = lattice.snap(np.array([[0.1], [0.3], [0.5], [0.5], [0.7], [0.9]]))

    def predicted(*fidelity: float) -> float:
        """Half way between those of two measurements there, of a whole one and of one that was stopped."""
        values = zip((0.0, 0.0, 1.0, -1.0, 0.0, 0.0), (1.0, 1.0, *fidelity, 1.0, 1.0), strict=True)
        scores = [Score(False, fitness=value, fidelity=share) for value, share in values]
        value = Models(lattice, points, scores, np.random.default_rng(0))._value
        assert value is not None
        return float(value.predict(lattice.features(points[2:3]))[0][0])

    assert predicted(1.0, FIRST_PART) > 0.05 > -0.05 > predicted(FIRST_PART, 1.0)


def test_the_best_is_one_of_a_whole_benchmark() -> None:
    lattice = Lattice(integers(40))
    points = lattice.snap(np.array([[0.1], [0.3], [0.5], [0.7], [0.9]]))
    found = []
    for fidelity in (1.0, FIRST_PART):
        scores = [Score(False, fitness=value) for value in (3.0, 2.0, 1.0, 2.0)]
        scores.append(Score(False, fitness=-5.0, fidelity=fidelity))
        models = Models(lattice, points, scores, np.random.default_rng(0))
        assert models._best is not None and models._value is not None
        found.append(np.isclose(models._best[0], models._value.predict(lattice.features(points[4:]))[0][0]))
    assert found == [True, False]


@pytest.mark.parametrize("z", [-30.0, -5.0, -1.001, -0.999, 0.0, 3.0])
def test_the_logarithm_of_the_expected_improvement(z: float) -> None:
    found = log_expected_improvement(np.array([-2.0 * z]), np.array([2.0]), 0.0)[0]
    if z > -10:
        assert found == pytest.approx(np.log(2.0 * (norm.pdf(z) + z * norm.cdf(z))))
    assert np.isfinite(found)


# --- the lattice --------------------------------------------------------------------------------------------------


def test_snapped_points_are_centres_of_cells() -> None:
    space = Space(
        [
            Parameter(name="a", type="int", min=1, max=500, scale="log"),
            Parameter(name="f", type="float", min=0, max=1),
            Parameter(name="c", type="choice", choices=("x", "y", "z")),
            Parameter(name="r", type="int", min=1, max=4, ratio_of="a"),
            Parameter(name="t", type="choice", choices=(1, 2, 4)),
            Parameter(name="u", type="choice", choices=(1, 2, 4)),
            Parameter(name="v", type="choice", choices=(1, 2, 4)),
        ],
        [Constraint(product=("t", "u", "v"), equals=4)],
    )
    lattice = Lattice(space)
    snapped = lattice.snap(np.random.default_rng(0).random((300, space.dimensions)))
    assert np.array_equal(snapped, np.array([lattice.centre(point) for point in snapped]))
    assert all(len(np.unique(snapped[:, axis])) <= LEVELS for axis in (0, 1, 2))
    assert lattice.ordered.tolist() == [True, True, False, True, True, True]


@pytest.mark.parametrize("count", [2, 3])
def test_no_value_of_a_product_is_out_of_sight_however_many_there_are(count: int) -> None:
    """Of each member that is a dimension 60, the divisors of 5040; of the second, as many as the first leaves it."""
    names = ("a", "b", "c")[:count]
    numbers = [Parameter(name=name, type="int", min=1, max=5040) for name in names]
    space = Space(numbers, [Constraint(product=names, equals=5040)])
    lattice = Lattice(space)
    around = [lattice.centre(np.zeros(space.dimensions))]
    for _ in range(space.dimensions):
        around = [point for each in around for point in (each, *lattice.neighbours(each))]
    seen = {space.key(space.decode(point)) for point in around}
    assert len(seen) == space.size()


def test_of_a_product_with_more_values_than_can_be_looked_at_some_are_seen_at_a_time() -> None:
    numbers = [Parameter(name=name, type="int", min=1, max=735134400) for name in "ab"]
    (levels,) = Space(numbers, [Constraint(product=("a", "b"), equals=735134400)]).levels(33)
    assert 128 < len(levels) <= 256, "of 1344"


def test_categories_are_all_at_the_same_distance() -> None:
    space = Space([Parameter(name="c", type="choice", choices=("x", "y", "z")), *integers(3)._parameters.values()])
    lattice = Lattice(space)
    points = np.array([[(i + 0.5) / 3, 0.5] for i in range(3)])
    features = lattice.features(points)
    assert lattice.groups.tolist() == [0, 0, 0, 1]
    assert squared_distances(features, features) == pytest.approx(1.0 - np.eye(3))


def test_neighbours_differ_in_one_dimension() -> None:
    lattice = Lattice(integers(4, 3))
    point = lattice.centre(np.array([0.1, 0.9]))
    around = lattice.neighbours(point)
    assert len(around) == 3 + 2
    assert ((around != point).sum(axis=1) == 1).all()


def test_samples_are_valid() -> None:
    lattice = Lattice(integers(20, 20, constraint="p0 + p1 == 19"))
    points = lattice.sample(np.random.default_rng(0), 10)
    assert len(points) == 10
    assert lattice.valid(points).all()


# --- the flight ---------------------------------------------------------------------------------------------------


def test_where_few_points_are_valid_samples_are_from_what_is_known_to_be() -> None:
    switches = [Parameter(name=f"s{i}", type="bool") for i in range(14)]
    one = Constraint(expression=" + ".join(f"s{i}" for i in range(14)) + " == 1")
    lattice = Lattice(Space([*switches, Parameter(name="x", type="float", min=0, max=1)], [one]))
    found = lattice.sample(np.random.default_rng(0), 30)
    assert len(found) == 30 and lattice.valid(found).all()
    assert len(np.unique(np.round(found[:, :14]), axis=0)) > 5
    assert np.ptp(found[:, 14]) > 0.5


def test_the_inner_swarm_finds_the_most_promising_valid_point_that_is_not_taken() -> None:
    lattice = Lattice(integers(30, 30, 30, constraint="p0 <= p1"))
    peak = lattice.centre(np.array([0.4, 0.7, 0.2]))
    elite = lattice.sample(np.random.default_rng(0), 8)

    def promise(points: np.ndarray) -> np.ndarray:
        return -np.asarray(((points - peak) ** 2).sum(axis=1))

    visited = InnerSwarm(lattice, np.vstack([elite, peak]), elite).fly(promise, np.random.default_rng(1))
    assert np.abs(visited[0] - peak).sum() == pytest.approx(1 / 30)
    assert lattice.valid(visited).all()
    assert squared_distances(visited, elite).min() > 0


def test_of_a_million_values_the_one_next_to_a_taken_one_is_not_taken() -> None:
    space = Space([Parameter(name="n", type="int", min=1, max=1_000_000)])
    taken, *others = np.array([space.encode({"n": n}) for n in (500_000, 500_001, 500_002)])
    lattice = Lattice(space).drawn(np.random.default_rng(0), taken[None])
    visited = InnerSwarm(lattice, taken[None], taken[None]).fly(
        lambda points: -np.abs(points[:, 0] - others[0][0]), np.random.default_rng(1)
    )
    assert space.decode(visited[0]) == {"n": 500_001}


def test_what_fails_is_unlikely_to_be_feasible_and_what_works_is_likely() -> None:
    """Fails where two coordinates are high together, which is also where the fitness would be best."""
    lattice = Lattice(integers(20, 20, 20))
    points = lattice.sample(np.random.default_rng(3), 40)
    fails = points[:, 0] + points[:, 1] > 1.2
    scores = [Score(failed=bool(f), fitness=None if f else -p[0] - p[1]) for p, f in zip(points, fails, strict=True)]
    models = Models(lattice, points, scores, np.random.default_rng(0))
    unseen = lattice.sample(np.random.default_rng(4), 200)
    likely = models.likely(unseen)
    assert np.mean((likely > 0.5) == (unseen[:, 0] + unseen[:, 1] <= 1.2)) > 0.8


def test_what_is_unlikely_to_be_feasible_comes_last_however_much_it_promises() -> None:
    """The fitness falls by a hundred times up to the edge of what works, and would go on falling."""
    lattice = Lattice(integers(20, 20))
    points = lattice.sample(np.random.default_rng(3), 40)
    fails = points[:, 0] > 0.6
    scores = [
        Score(failed=bool(f), fitness=None if f else float(np.exp(-8.0 * p[0])))
        for p, f in zip(points, fails, strict=True)
    ]
    models = Models(lattice, points, scores, np.random.default_rng(0))
    unseen = lattice.sample(np.random.default_rng(4), 200)
    for explore in (False, True):
        promise, likely = models.promise(unseen, explore=explore), models.likely(unseen)
        assert (likely < 1 / 3).any() and (likely > 1 / 3).any()
        hopeful = (likely > 1 / 3) & (promise > -500.0)
        assert promise[likely < 1 / 3].max() < promise[hopeful].min()


@pytest.mark.parametrize("seed", range(4))
def test_what_promises_much_more_is_not_better_for_it_where_limits_are_missed(seed: int) -> None:
    """The value goes on getting better beyond the edge, where it was measured; the edge is where the sum is 1."""
    lattice = Lattice(integers(30, 30))
    points = lattice.sample(np.random.default_rng(seed), 20)
    scores = [limited(-float(point.sum()), float(point.sum())) for point in points]
    models = Models(lattice, points, scores, np.random.default_rng(0))
    everywhere = np.array([[(i + 0.5) / 30, (j + 0.5) / 30] for i in range(30) for j in range(30)])
    assert everywhere[np.argmax(models.promise(everywhere))].sum() < 1.3


def test_what_is_in_flight_is_worth_less_around_it() -> None:
    lattice = Lattice(integers(30, 30))
    points = lattice.sample(np.random.default_rng(5), 12)
    scores = [Score(failed=False, fitness=float(((p - 0.5) ** 2).sum())) for p in points]
    everywhere = np.concatenate([lattice.neighbours(point) for point in points])

    def chosen(*flying: np.ndarray) -> np.ndarray:
        models = Models(lattice, points, scores, np.random.default_rng(0))
        models.imagine(np.array(flying).reshape(-1, 2))
        return np.asarray(everywhere[np.argmax(models.promise(everywhere))])

    first = chosen()
    assert np.abs(chosen(first) - first).sum() > 1 / 30 + 1e-9


def test_what_is_in_flight_does_not_change_how_likely_others_are_to_be_feasible() -> None:
    """On average: what may become of it is drawn from what the process says."""
    lattice = Lattice(integers(30, 30))
    points = lattice.sample(np.random.default_rng(5), 20)
    scores = [
        Score(failed=True) if point.sum() > 1.0 else Score(failed=False, fitness=-float(point.sum()))
        for point in points
    ]
    unseen = lattice.features(lattice.sample(np.random.default_rng(6), 300))
    models = Models(lattice, points, scores, np.random.default_rng(0))
    before = models._likely(unseen)
    models.imagine(np.array([[u, 1.0 - u] for u in np.linspace(0.02, 0.98, 16)]))
    after = models._likely(unseen)
    assert after.shape == (300, 16)
    assert np.abs(after.mean(axis=1) - before[:, 0]).max() < 0.12
    assert np.abs(after - before).max() > 0.2


def test_while_nothing_is_feasible_points_in_flight_keep_apart() -> None:
    lattice = Lattice(integers(30, 30))
    points = lattice.sample(np.random.default_rng(5), 12)
    models = Models(lattice, points, [Score(failed=True)] * 12, np.random.default_rng(0))
    everywhere = lattice.sample(np.random.default_rng(6), 500)
    first = everywhere[np.argmax(models.promise(everywhere))]
    models.imagine(first[None])
    second = everywhere[np.argmax(models.promise(everywhere))]
    assert np.abs(second - first).max() > 0.15
