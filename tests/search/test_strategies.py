"""What every strategy promises, whatever it thinks of: the contract of mpipso.search.strategy."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search.scored import limited

from mpipso.config import Constraint, Limit, ObjectiveSection, Parameter, Search, SwarmSection
from mpipso.errors import UserError
from mpipso.evaluation import FIRST_PART, Evaluation
from mpipso.score import Score
from mpipso.search.acquisition import InnerSwarm
from mpipso.search.history import History
from mpipso.search.lattice import Lattice
from mpipso.search.models import Models
from mpipso.search.objective import Objective
from mpipso.search.space import Space
from mpipso.search.strategies import create
from mpipso.search.strategy import Strategy
from mpipso.search.surrogate import TOGETHER, SurrogateSwarm

Name = Literal["surrogate", "pso"]
NAMES: tuple[Name, ...] = ("surrogate", "pso")
both = pytest.mark.parametrize("name", NAMES)
Judge = Callable[[np.ndarray], Score]


def integer(name: str, low: int, high: int, **more: Any) -> Parameter:
    return Parameter(name=name, type="int", min=low, max=high, **more)


def mixed() -> Space:
    """Something of everything: steps, a log scale, a float, categories, a product, a ratio, a condition."""
    degrees = (1, 2, 4, 8)
    return Space(
        [
            integer("batch", 1, 64, scale="log", default=8),
            integer("ubatch", 1, 64, default=4),
            Parameter(name="memory", type="float", min=0.5, max=0.95, default=0.9),
            Parameter(name="kv", type="choice", choices=("auto", "fp8", "q4"), default="auto"),
            Parameter(name="tp", type="choice", choices=degrees, default=2),
            Parameter(name="pp", type="choice", choices=degrees, default=4),
            integer("tokens", 1, 4, ratio_of="batch", default=16),
        ],
        [Constraint(product=("tp", "pp"), equals=8), Constraint(expression="ubatch <= batch")],
    )


def strategy(name: Name, space: Space, seed: int = 0, in_flight: int = 4, **more: Any) -> Strategy:
    section = Search(strategy=name, particles=6, seed=seed, **more)
    return create(section, space, in_flight=in_flight)


def bowl(point: np.ndarray) -> Score:
    return Score(failed=False, fitness=float(((point - 0.37) ** 2).sum()))


def sometimes(point: np.ndarray) -> Score:
    """Fails where the first coordinate is high, misses a limit where the second is."""
    if point[0] > 0.7:
        return Score(failed=True)
    return limited(bowl(point).fitness or 0.0, float(point[1]) / 0.6)


def run(searching: Strategy, batches: list[int], judge: Judge = sometimes, begin: int = 0) -> list[np.ndarray]:
    proposed = []
    number = begin
    for count in batches:
        points = searching.ask(count)
        proposed.append(points)
        for point in points:
            searching.tell(number, judge(point))
            number += 1
    return proposed


def digest(batches: list[np.ndarray]) -> str:
    return hashlib.sha256(np.concatenate(batches).tobytes()).hexdigest()


@both
def test_the_baseline_is_proposed_first(name: Name) -> None:
    space = mixed()
    assert space.decode(strategy(name, space).ask(1)[0]) == space.baseline


@both
def test_what_the_user_wants_measured_first_comes_after_the_baseline(name: Name) -> None:
    space = mixed()
    default = space.baseline
    assert default is not None
    searching = strategy(name, space, first=({"kv": "q4"}, {"batch": 16, "ubatch": 16}))
    first = [space.decode(point) for point in searching.ask(3)]
    assert first == [default, {**default, "kv": "q4"}, {**default, "batch": 16, "ubatch": 16}]


@both
def test_what_is_given_twice_is_measured_once(name: Name) -> None:
    space = mixed()
    default = space.baseline
    assert default is not None
    searching = strategy(name, space, first=({"kv": default["kv"]}, {"kv": "q4"}, {"kv": "q4"}, {"kv": "fp8"}))
    first = [space.decode(point) for point in searching.ask(3)]
    assert first == [default, {**default, "kv": "q4"}, {**default, "kv": "fp8"}]


def test_each_mistake_in_what_is_to_be_measured_first_is_told() -> None:
    with pytest.raises(UserError) as caught:
        strategy("surrogate", mixed(), first=({"kv": "q5"}, {"bach": 8}, {"ubatch": 64}, {"kv": "fp8"}, {"batch": 64}))
    assert [str(problem) for problem in caught.value.problems] == [
        "search.first[0]: kv: 'q5' is none of auto, fp8, q4",
        "search.first[1]: bach is not searched; did you mean 'batch'?",
        "search.first[2]: constraint: expression 'ubatch <= batch' does not hold",
        "search.first[4]: tokens: 16 is not one of the values that can be set",
    ]


@both
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**40), batches=st.lists(st.integers(1, 7), min_size=1, max_size=4))
def test_proposals_are_distinct_valid_centres_of_cells(name: Name, seed: int, batches: list[int]) -> None:
    space = mixed()
    proposed = np.concatenate(run(strategy(name, space, seed), batches))
    configurations = [space.decode(point) for point in proposed]
    assert proposed.shape == (sum(batches), space.dimensions)
    assert len({space.key(c) for c in configurations}) == len(configurations)
    assert all(space.valid(c) for c in configurations)
    assert all(np.array_equal(space.encode(c), point) for c, point in zip(configurations, proposed, strict=True))


@both
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**40), batches=st.lists(st.integers(1, 5), min_size=2, max_size=3), cut=st.integers(0, 3))
def test_a_replayed_run_goes_on_as_the_first_would_have(name: Name, seed: int, batches: list[int], cut: int) -> None:
    """Of which nothing is replayed if it was cut at once: the same calls give the same bits."""
    space = mixed()
    before = run(strategy(name, space, seed), [*batches, 4, 4])
    resumed = strategy(name, space, seed)
    told = 0
    for points in before[:cut]:
        resumed.replay(points)
        for point in points:
            resumed.tell(told, sometimes(point))
            told += 1
    after = run(resumed, [len(points) for points in before[cut:]], begin=told)
    assert digest(after) == digest(before[cut:])


@both
def test_two_seeds_search_independently(name: Name) -> None:
    space = mixed()
    one, other = (np.concatenate(run(strategy(name, space, seed), [4] * 4))[1:] for seed in (1, 2))
    keys = [{space.key(space.decode(point)) for point in points} for points in (one, other)]
    assert len(keys[0] & keys[1]) <= 2


@both
def test_a_small_space_is_tried_completely_and_then_nothing_is_proposed(name: Name) -> None:
    space = Space([integer("a", 0, 3), integer("b", 0, 3)], [Constraint(expression="a + b <= 4")])
    searching = strategy(name, space)
    proposed = np.concatenate(run(searching, [4] * 4))
    assert {tuple(space.decode(p).values()) for p in proposed} == {
        (a, b) for a in range(4) for b in range(4) if a + b <= 4
    }
    assert len(proposed) == 13
    assert searching.ask(3).shape == (0, 2)


@both
def test_a_needle_of_validity_is_found(name: Name) -> None:
    space = Space([integer("a", 0, 99), integer("b", 0, 99)], [Constraint(expression="a == 71 and b % 50 == 3")])
    assert len(np.concatenate(run(strategy(name, space), [2, 2]))) == 2


@both
def test_a_space_without_a_valid_configuration_is_refused(name: Name) -> None:
    space = Space([integer("a", 0, 9), integer("b", 0, 9)], [Constraint(expression="a + b > 20")])
    with pytest.raises(UserError, match="no configuration was found that satisfies"):
        strategy(name, space)


@both
@pytest.mark.parametrize(
    "text",
    [
        "a * b * c == 64",  # a continuous parameter, which has no part in it, goes on being searched
        "x * x + y * y < 0.03",  # nothing can be listed where what decides is continuous
        "abs(x + y - 0.7) < 0.004",  # less than a hundredth of the space
    ],
)
def test_where_few_points_are_valid_the_search_goes_on(name: Name, text: str) -> None:
    numbers = [integer("a", 1, 64), integer("b", 1, 64), integer("c", 1, 64)]
    floats = [Parameter(name=each, type="float", min=0.0, max=1.0) for each in ("x", "y")]
    space = Space([*numbers, *floats], [Constraint(expression=text)])
    proposed = np.concatenate(run(strategy(name, space), [4] * 6))
    configurations = [space.decode(point) for point in proposed]
    assert len(configurations) == 24
    assert all(space.valid(configuration) for configuration in configurations)
    assert len({(each["a"], each["b"], each["c"]) for each in configurations}) > 3


RARE = Constraint(expression="a == b * c and d > 90 and a > 90")


def test_valid_points_that_are_too_rare_to_be_listed_are_refused_soon() -> None:
    """Whatever the strategy is: it is the space that looks for one to begin with."""
    with pytest.raises(UserError, match="give it as defaults"):
        strategy("surrogate", Space([integer(each, 1, 100) for each in "abcdef"], [RARE]))


@both
def test_or_found_beside_the_defaults(name: Name) -> None:
    defaults = dict(zip("abcdef", (96, 12, 8, 95, 1, 1), strict=True))
    space = Space([integer(each, 1, 100).model_copy(update={"default": defaults[each]}) for each in "abcdef"], [RARE])
    proposed = np.concatenate(run(strategy(name, space), [4] * 5))
    assert len(proposed) == 20
    assert all(space.valid(space.decode(point)) for point in proposed)


def test_models_tell_all_choices_without_order_apart() -> None:
    lattice = Lattice(
        Space([Parameter(name="kernel", type="choice", choices=tuple(f"v{i * 7 % 50}" for i in range(50)))])
    )
    cells = (np.arange(50)[:, None] + 0.5) / 50
    assert np.array_equal(lattice.snap(cells.copy()), cells)
    assert len(np.unique(lattice.features(cells), axis=0)) == 50


@both
def test_asynchronous_asks_of_any_size_with_results_out_of_order(name: Name) -> None:
    space, flying = mixed(), []
    searching = strategy(name, space, seed=3)
    random = np.random.default_rng(0)
    number, keys = 0, set()
    for _ in range(30):
        for point in searching.ask(int(random.integers(0, 3))):
            flying.append((number, point))
            keys.add(space.key(space.decode(point)))
            number += 1
        random.shuffle(flying)
        while len(flying) > 4:
            told, point = flying.pop()
            searching.tell(told, sometimes(point))
    assert len(keys) == number > 20


@both
def test_only_what_was_asked_for_can_be_told(name: Name) -> None:
    searching = strategy(name, mixed())
    searching.ask(2)
    searching.tell(1, Score(failed=True))
    for number in (2, -1):
        with pytest.raises(ValueError, match="was not asked for"):
            searching.tell(number, Score(failed=True))


@both
def test_told_again_a_score_replaces_the_earlier_one(name: Name) -> None:
    space = mixed()
    told_once, told_again = strategy(name, space), strategy(name, space)
    run(told_once, [8])
    points = told_again.ask(8)
    for number in range(8):
        told_again.tell(number, Score(failed=False, fitness=float(number)))
    for number, point in enumerate(points):
        told_again.tell(number, sometimes(point))
    assert np.array_equal(told_once.ask(3), told_again.ask(3))


@both
def test_a_hopeless_space_is_still_searched(name: Name) -> None:
    proposed = np.concatenate(run(strategy(name, mixed()), [4] * 5, lambda _: Score(failed=True)))
    assert len(np.unique(proposed, axis=0)) == 20


@both
def test_equal_scores_are_no_trouble(name: Name) -> None:
    proposed = np.concatenate(run(strategy(name, mixed()), [4] * 5, lambda _: Score(failed=False, fitness=1.0)))
    assert len(np.unique(proposed, axis=0)) == 20


@both
def test_one_dimension_is_enough(name: Name) -> None:
    space = Space([Parameter(name="x", type="float", min=0.0, max=1.0)])
    proposed = np.concatenate(run(strategy(name, space), [4] * 12, bowl))
    assert np.abs(proposed - 0.37).min() < 0.02


@both
@pytest.mark.parametrize("seed", range(3))
def test_it_finds_better_points_than_random_search(name: Name, seed: int) -> None:
    space = Space([integer(f"i{i}", 0, 30) for i in range(4)] + [Parameter(name="f", type="float", min=0, max=1)])
    best = min(bowl(p).fitness or 0.0 for p in np.concatenate(run(strategy(name, space, seed), [4] * 18, bowl)))
    random = np.random.default_rng(seed).random((72, 5))
    assert best < min(bowl(point).fitness or 0.0 for point in random)


@pytest.mark.parametrize("seed", range(3))
def test_dimensions_of_many_values_are_searched_to_the_last_one(seed: int) -> None:
    space = Space([integer("a", 1, 64), integer("b", 1, 640)])

    def off(point: np.ndarray) -> Score:
        found = space.decode(point)
        return Score(failed=False, fitness=abs(float(found["a"]) - 40) / 64 + abs(float(found["b"]) - 247) / 640)

    found = np.concatenate(run(strategy("surrogate", space, seed), [4] * 15, off))
    best = min(found, key=lambda point: off(point).fitness or 0.0)
    assert space.decode(best) == {"a": 40, "b": 247}


@both
@pytest.mark.parametrize("condition", ["abs(x + y - 1.0) < 0.001", "0.939 <= x + y <= 0.941"])
def test_a_thin_layer_of_valid_points_is_not_left(name: Name, condition: str) -> None:
    shares = [Parameter(name=n, type="float", min=0, max=1, default=d) for n, d in (("x", 0.44), ("y", 0.5))]
    if "1.0" in condition:
        shares[1] = Parameter(name="y", type="float", min=0, max=1, default=0.56)
    space = Space(shares, [Constraint(expression=condition)])
    found = np.concatenate(run(strategy(name, space), [4] * 6, bowl))
    assert len(found) == len({tuple(point) for point in found}) == 24
    assert all(space.valid(space.decode(point)) for point in found)


@both
def test_what_is_learned_from_elsewhere_guides_the_search(name: Name) -> None:
    space = Space([integer(f"i{i}", 0, 30) for i in range(5)])
    points = np.array([space.encode(space.decode(p)) for p in np.random.default_rng(1).random((60, 5))])
    means = []
    for learns in (False, True):
        searching = strategy(name, space)
        if learns:
            searching.learn(points, [bowl(point) for point in points])
        found = np.concatenate(run(searching, [4] * 5, bowl))
        means.append(np.mean([bowl(p).fitness for p in found]))
    assert means[1] < means[0]


@pytest.mark.parametrize("factors", [(0.125, 1.0), (8.0, 0.125), (16.0, 16.0)])
def test_machines_that_are_slower_or_faster_by_a_factor_tell_the_same(factors: tuple[float, float]) -> None:
    space = Space([integer(f"i{i}", 0, 30) for i in range(4)])

    def cost(point: np.ndarray, factor: float = 1.0) -> Score:
        return Score(failed=False, fitness=factor * (1.0 + (bowl(point).fitness or 0.0)))

    def proposals(factors: tuple[float, float]) -> np.ndarray:
        searching = strategy("surrogate", space)
        for seed, factor in enumerate(factors):
            points = np.random.default_rng(seed).random((20, 4))
            points = np.array([space.encode(space.decode(point)) for point in points])
            searching.learn(points, [cost(point, factor) for point in points])
        return np.concatenate(run(searching, [2, 4, 4, 4, 4], cost))

    np.testing.assert_array_equal(proposals(factors), proposals((1.0, 1.0)))


@both
def test_the_best_of_a_table_are_measured_again_first(name: Name) -> None:
    space = Space([integer("a", 0, 7), integer("b", 0, 7)])
    points = np.array([space.encode({"a": a, "b": b}) for a in range(8) for b in range(8)])
    order = sorted(range(len(points)), key=lambda i: bowl(points[i]).fitness or 0.0)
    searching = strategy(name, space)
    searching.learn(points, [bowl(point) for point in points])
    assert searching.ask(3).tolist() == points[order[:3]].tolist()


def test_a_history_that_begins_anew_finds_what_the_first_would_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though most is found by listing the space; the listings go less far than they do, in a space as much smaller."""
    monkeypatch.setattr("mpipso.search.history._MOST_LISTED", 150)
    monkeypatch.setattr("mpipso.search.space._MOST_LISTED", 20)
    rare = Constraint(expression="(a * 7919 + b * 104729 + c * 1299709) % 67 == 0")
    lattice = Lattice(Space([integer(name, 0, 10) for name in "abc"], [rare]))

    def after(points: list[np.ndarray]) -> np.ndarray | None:
        begun = History(lattice)
        for point in points:
            begun.add(point)
        return begun.nearest_fresh(np.full(3, 0.5), np.random.default_rng(len(points)))

    first, found = History(lattice), list[np.ndarray]()
    while (point := first.nearest_fresh(np.full(3, 0.5), np.random.default_rng(len(found)))) is not None:
        first.add(point)
        found.append(point)
    assert len(found) > 10
    for cut in (4, 8, len(found) - 1):
        np.testing.assert_array_equal(after(found[:cut]), found[cut])
    assert after(found) is None


def test_of_a_large_table_the_best_and_some_of_the_others_are_kept() -> None:
    space = Space([integer("a", 1, 100_000)])
    points = np.array([space.encode({"a": a}) for a in range(1, 3001)])
    history = History(Lattice(space))
    scores = [bowl(point) for point in points]
    repeated = history.learn(points, scores, [])
    kept, _ = history.measured()
    order = sorted(range(len(points)), key=scores.__getitem__)
    assert len(kept) == 1000
    assert {tuple(point) for point in points[order[:500]]} <= {tuple(point) for point in kept}
    assert points[order[-1]].tolist() in kept.tolist(), "the worst tell where not to look"
    assert [point.tolist() for point in repeated] == points[order[:3]].tolist()


def test_what_is_known_from_a_table_can_be_measured_here() -> None:
    """The best one here is the tenth of a table that has all."""
    space = Space([integer("a", 0, 7), integer("b", 0, 7)])
    points = np.array([space.encode({"a": a, "b": b}) for a in range(8) for b in range(8)])
    order = sorted(range(len(points)), key=lambda i: bowl(points[i]).fitness or 0.0)
    best = points[order[9]]
    searching = strategy("surrogate", space)
    searching.learn(points, [bowl(point) for point in points])

    def here(point: np.ndarray) -> Score:
        return Score(failed=False, fitness=float(((point - best) ** 2).sum()))

    assert best.tolist() in np.concatenate(run(searching, [4] * 4, here)).tolist()


def test_a_run_that_knows_a_little_from_elsewhere_goes_on_as_it_would_have() -> None:
    """The last point of the design is asked for when what was learned has been measured here."""
    space = Space([integer(f"i{i}", 1, 20, default=10) for i in range(4)])

    def begun() -> Strategy:
        searching = strategy("surrogate", space, 1, in_flight=2)
        searching.learn(np.array([[0.1, 0.2, 0.3, 0.4]]), [Score(failed=False, fitness=1.0)])
        return searching

    one, other = begun(), begun()
    first = one.ask(3)
    other.replay(first)
    for number, fitness in enumerate((2.0, 1.5)):
        one.tell(number, Score(failed=False, fitness=fitness))
        other.tell(number, Score(failed=False, fitness=fitness))
    assert one.ask(1).tolist() == other.ask(1).tolist()


def test_sources_shorten_the_start_by_what_they_tell_in_all() -> None:
    space = Space([integer(f"i{i}", 1, 20) for i in range(4)])
    points, scores = np.random.default_rng(0).random((2, 4)), [Score(failed=True)] * 2

    def begun(parts: list[slice]) -> np.ndarray:
        searching = strategy("surrogate", space, in_flight=8)
        for part in parts:
            searching.learn(points[part], scores[part])
        return searching.ask(6)

    assert begun([slice(0, 1), slice(1, 2)]).tolist() == begun([slice(0, 2)]).tolist()


def test_of_several_sources_the_last_counts_but_no_failure_replaces_a_measurement() -> None:
    point = np.full((1, 1), 0.5)
    history = History(Lattice(Space([integer("a", 0, 9)])))
    found = []
    for score in (Score(failed=True), Score(False, fitness=1.0), Score(False, fitness=2.0), Score(failed=True)):
        history.learn(point, [score], [])
        found += [known.fitness for _, known in history.foreign()]
    assert found == [None, 1.0, 2.0, 2.0]


def test_what_slower_machines_measured_of_limits_is_scaled_to_what_is_measured_here() -> None:
    points = np.array([[0.05], [0.35], [0.65], [0.95]])
    history = History(Lattice(Space([integer("a", 0, 9)])))
    ratios = [(0.2, 0.5), (0.6, 0.9), (0.9, 1.1), (1.8, 0.7)]
    history.learn(points, [limited(float(-i), *each) for i, each in enumerate(ratios, 1)], [])
    assert [score.log_ratios[0] for _, score in history.foreign()] == pytest.approx(np.log([0.2, 0.6, 0.9, 1.8]))
    # Half the first latency, and one and a half of the second.
    history.tell(history.add(points[0]), limited(-2.0, 0.1, 0.75))
    scores = [score for _, score in history.foreign()]
    scaled = [each for score in scores for each in np.exp(score.log_ratios)]
    assert scaled == pytest.approx([0.3, 1.35, 0.45, 1.65, 0.9, 1.05])
    assert [score.violation for score in scores] == pytest.approx([0.35, 0.65, 0.05])
    assert not any(score.feasible or score.unjudged for score in scores)


def test_and_breaks_a_limit_by_as_much_as_it_would_here() -> None:
    least = Objective(ObjectiveSection(minimize="e2e_mean_ms", slo=(Limit(metric="rate", min=100.0),)))

    def judged(rate: float) -> Score:
        return least.judge(Evaluation(0, 1, 0, {}, metrics={"e2e_mean_ms": 1.0, "rate": rate}), None)

    points = np.array([[0.05], [0.35], [0.65]])
    history = History(Lattice(Space([integer("a", 0, 9)])))
    history.learn(points, [judged(rate) for rate in (100.0, 60.0, 0.5)], [])
    history.tell(history.add(points[0]), judged(50.0))
    here = [judged(rate).violation for rate in (30.0, 0.25)]
    assert [score.violation for _, score in history.foreign()] == pytest.approx(here)


@pytest.mark.parametrize(("here", "kept"), [(0.0, [True, False, False]), (1.0, [True, True, False])])
def test_counts_of_zero_tell_no_factor_between_machines(here: float, kept: list[bool]) -> None:
    """As those of failed requests: two of them are allowed, and elsewhere most had none or one."""
    objective = Objective(ObjectiveSection(maximize="rate", slo=(Limit(metric="failed", max=2.0),)))

    def score(failed: float) -> Score:
        return objective.judge(Evaluation(0, 1, 0, {}, metrics={"rate": 1.0, "failed": failed}), None)

    points = np.array([[(i + 0.5) / 10] for i in range(6)])
    history = History(Lattice(Space([integer("a", 0, 9)])))
    there = [1.0 - here] * 3
    history.learn(points, [score(each) for each in (*there, 1.0, 2.0 if here else 20.0, 60.0)], [])
    for point in points[:3]:
        history.tell(history.add(point), score(here))
    assert [known.feasible for _, known in history.foreign()] == kept


def stopped(fitness: float, limits: int = 0) -> Score:
    """Of a benchmark that was stopped early."""
    return Score(False, fitness=fitness, fidelity=FIRST_PART, log_ratios=limits * (math.nan,))


def test_proposals_after_the_best_are_counted_though_they_were_stopped_early() -> None:
    history = History(Lattice(Space([integer("a", 0, 9)])))
    numbers = [history.add(np.array([(i + 0.5) / 10])) for i in range(6)]
    history.tell(numbers[0], stopped(-9.0))
    assert history.told_since_best() == 0, "before any of a whole benchmark"
    for number, score in zip(numbers[1:], (Score(False, fitness=-5.0), stopped(-8.0), stopped(-1.0)), strict=False):
        history.tell(number, score)
    assert history.told_since_best() == 2
    history.tell(numbers[4], Score(False, fitness=-4.0))
    assert history.told_since_best() == 3
    history.tell(numbers[5], Score(False, fitness=-6.0))
    assert history.told_since_best() == 0


def test_what_was_stopped_early_tells_a_factor_of_values_but_of_no_limit() -> None:
    """Here or elsewhere: the latency is half of that there, whatever else was stopped."""
    points = np.array([[(i + 0.5) / 10] for i in range(6)])
    history = History(Lattice(Space([integer("a", 0, 9)])))
    there = [limited(-1.0, 1.0), limited(-2.0, 0.5), limited(-3.0, 0.5), stopped(-4.0, 1), limited(-5.0, 4.0)]
    history.learn(points, [*there, stopped(-6.0, 1)], [])
    history.tell(history.add(points[0]), limited(-3.0, 0.5))
    for point, fitness in zip(points[1:3], (-6.0, -9.0), strict=True):
        history.tell(history.add(point), stopped(fitness, 1))
    scores = [score for _, score in history.foreign()]
    assert [score.fitness for score in scores] == pytest.approx([-12.0, -15.0, -18.0])
    assert [score.fidelity for score in scores] == [FIRST_PART, 1.0, FIRST_PART]
    assert [score.violation for score in scores] == pytest.approx([0.0, 1.0, 0.0]), "and none is no number"
    assert math.isnan(scores[0].log_ratios[0]) and math.exp(scores[1].log_ratios[0]) == pytest.approx(2.0)
    assert not any(score.unjudged for score in scores)


def test_nor_takes_it_a_place_among_the_best_that_are_measured_again() -> None:
    points = np.array([[(i + 0.5) / 10] for i in range(6)])
    history = History(Lattice(Space([integer("a", 0, 9)])))
    there = [limited(-9.0, 0.5), stopped(-8.0, 1), stopped(-7.0, 1), limited(-5.0, 4.0), *(limited(-6.0, 0.5),) * 2]
    repeated = history.learn(points, there, [])
    assert [point.tolist() for point in repeated] == points[[0, 4, 5]].tolist()


def test_nor_whether_there_is_more_room_elsewhere() -> None:
    points = np.array([[0.05], [0.35], [0.65], [0.95]])
    history = History(Lattice(Space([integer("a", 0, 9)])))
    history.learn(points, [Score(False, fitness=-float(i)) for i in range(1, 5)], [])
    for point in points[:2]:
        history.tell(history.add(point), stopped(-1.0))
    assert not any(score.unjudged for _, score in history.foreign())
    history.tell(history.add(points[2]), Score(failed=False, infeasible=True, violation=0.1, fitness=-3.0))
    assert [score.unjudged for _, score in history.foreign()] == [True]


@both
def test_a_search_goes_on_though_most_benchmarks_are_stopped_early(name: Name) -> None:
    space = Space([integer("a", 0, 30), integer("b", 0, 30)])
    searching = strategy(name, space)
    points = np.array([space.encode(space.decode(point)) for point in np.random.default_rng(0).random((20, 2))])
    searching.learn(points, [stopped(bowl(point).fitness or 0.0) for point in points])

    def judge(point: np.ndarray) -> Score:
        score = bowl(point)
        return score if (score.fitness or 0.0) < 0.05 else stopped(score.fitness or 0.0)

    scores = [judge(point) for batch in run(searching, [4] * 6, judge) for point in batch]
    assert len(scores) == 24 and min(scores).fidelity == 1.0


@pytest.mark.parametrize("missed", [False, True])
def test_what_only_machines_with_more_room_can_do_is_not_taken_for_feasible(missed: bool) -> None:
    """The best of there all break what is allowed here; that is where the search would go on."""
    space = Space([integer(f"i{i}", 0, 30) for i in range(4)])
    points = np.array([space.encode(space.decode(point)) for point in np.random.default_rng(0).random((60, 4))])

    def judge(point: np.ndarray, room: float = 1.4) -> Score:
        need = float(point.sum())
        if need > room and not missed:
            return Score(failed=True)
        return limited(-need, need / room) if missed else Score(False, fitness=-need)

    searching = strategy("surrogate", space)
    searching.learn(points, [judge(point, 3.2) for point in points])
    scores = [judge(point) for batch in run(searching, [4] * 6, judge) for point in batch]
    assert sum(score.feasible for score in scores) >= 2
    assert -1.4 <= (min(scores).fitness or 0.0) < -0.9


def test_what_machines_with_more_room_measured_tells_of_values_and_of_failures() -> None:
    points = np.array([[0.05], [0.35], [0.65], [0.95]])
    history = History(Lattice(Space([integer("a", 0, 9)])))
    history.learn(points, [*(Score(False, fitness=-float(i)) for i in (1, 2, 3)), Score(True)], [])
    assert not any(score.unjudged for _, score in history.foreign())
    history.tell(history.add(points[2]), Score(failed=False, infeasible=True, violation=0.1, fitness=-6.0))
    known = [(score.fitness, score.failed, score.unjudged) for _, score in history.foreign()]
    assert known == [(-2.0, False, True), (-4.0, False, True), (None, True, False)]
    history.tell(history.add(points[1]), Score(failed=False, fitness=-4.0))
    assert not any(score.unjudged for _, score in history.foreign())


def test_what_fails_here_is_learned_though_much_is_known_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """There everything works, here half of the space fails, the best of there in it."""
    monkeypatch.setattr("mpipso.search.surrogate.MODELLED", 60)
    space = Space([integer(f"i{i}", 0, 99) for i in range(3)])

    def there(point: np.ndarray) -> Score:
        return Score(failed=False, fitness=1.0 + float(((point - 0.8) ** 2).sum()))

    def here(point: np.ndarray) -> Score:
        return Score(failed=True) if point[0] > 0.5 else there(point)

    searching = strategy("surrogate", space)
    points = np.array([space.encode(space.decode(point)) for point in np.random.default_rng(0).random((80, 3))])
    searching.learn(points, [there(point) for point in points])
    proposed = np.concatenate(run(searching, [4] * 8, here))
    assert np.mean([here(point).failed for point in proposed[8:]]) < 0.75


@both
def test_nothing_is_learned_after_the_first_ask(name: Name) -> None:
    searching = strategy(name, mixed())
    searching.ask(1)
    with pytest.raises(ValueError, match="before the first ask"):
        searching.learn(np.zeros((1, mixed().dimensions)), [Score(failed=True)])


@both
def test_a_shortened_benchmark_is_never_the_best(name: Name) -> None:
    """A proposal that looks best at low fidelity is told again at full fidelity, and then counts as it is."""
    space = Space([integer("a", 0, 30), integer("b", 0, 30)])
    searching = strategy(name, space)
    points = searching.ask(8)
    for number, point in enumerate(points):
        searching.tell(number, bowl(point))
    points = searching.ask(4)
    for number in range(8, 12):
        searching.tell(number, Score(failed=False, fitness=-1.0, fidelity=0.1))
    assert len(searching.ask(4)) == 4
    for number, point in enumerate(points, 8):
        searching.tell(number, bowl(point))
    assert len(searching.ask(4)) == 4


def test_failures_are_learned_from() -> None:
    """The best fitness is at the edge of what fails: the search goes there."""
    space = Space([integer(f"i{i}", 0, 20) for i in range(3)])

    def edge(point: np.ndarray) -> Score:
        fails = bool(point[0] + point[1] > 1.2)
        return Score(failed=fails, fitness=None if fails else -float(point[0] + point[1] - abs(point[2] - 0.4)))

    proposed = np.concatenate(run(strategy("surrogate", space), [4] * 10, edge))
    scores = [edge(point) for point in proposed]
    assert np.mean([score.failed for score in scores[8:]]) < 0.75
    assert min(score.fitness for score in scores if score.fitness is not None) < -1.1


def test_joint_changes_are_found_when_only_they_are_feasible() -> None:
    """The product of three degrees is right, which nobody said: on their logarithmic axes, a plane."""
    degrees = (1, 2, 4, 8, 16)
    names = ("tp", "pp", "dp")
    space = Space([Parameter(name=name, type="choice", choices=degrees) for name in names] + [integer("batch", 1, 9)])

    def joint(point: np.ndarray) -> Score:
        tp, pp, dp, batch = (float(value) for value in space.decode(point).values())
        fails = tp * pp * dp != 16
        return Score(failed=fails, fitness=None if fails else abs(tp - 4) + abs(pp - 2) + abs(batch - 6))

    proposed = np.concatenate(run(strategy("surrogate", space), [4] * 15, joint))
    found = [joint(point).fitness for point in proposed]
    assert sum(fitness is not None for fitness in found[20:]) > 10
    assert min(fitness for fitness in found if fitness is not None) <= 1.0


def test_the_classic_coefficients_are_all_used() -> None:
    space = Space([Parameter(name=f"x{i}", type="float", min=0.0, max=1.0) for i in range(3)])

    def proposals(**more: Any) -> str:
        return digest(run(strategy("pso", space, swarm=SwarmSection(**more)), [2] * 20, bowl))

    constriction = {"form": "constriction"}
    inertia = {"form": "inertia"}
    sections: list[dict[str, Any]] = [
        constriction,
        inertia,
        {**constriction, "chi": 0.5},
        {**inertia, "inertia": 0.4},
        {**constriction, "phi1": 2.5},
        {**constriction, "phi2": 2.5},
        {**constriction, "topology": "ring"},
        {**constriction, "topology": "ring", "neighbours": 2},
        {**constriction, "topology": "random"},
        {**constriction, "topology": "random", "informants": 1},
        {**constriction, "max_velocity": 0.05},
        {**constriction, "moves": "synchronous"},
    ]
    digests = [proposals(**section) for section in sections]
    repeated = [section for section, found in zip(sections, digests, strict=True) if digests.count(found) > 1]
    assert not repeated


class Flights:
    """How many inner swarms have flown."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        fly = InnerSwarm.fly

        def counted(swarm: InnerSwarm, *arguments: Any) -> np.ndarray:
            self.count += 1
            return fly(swarm, *arguments)

        monkeypatch.setattr(InnerSwarm, "fly", counted)


def test_a_search_that_is_stuck_asks_the_model_of_the_value_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be wrong: one proposal of four is near the best points, whatever that model says of it."""
    space = Space([Parameter(name=f"p{i}", type="int", min=0, max=7) for i in range(10)])
    strategy = SurrogateSwarm(space, 0)
    flights = Flights(monkeypatch)
    number, took, best = 0, [], np.empty((0, 10))
    for _ in range(7):
        flights.count = 0
        points = strategy.ask(4)
        took.append(flights.count)
        for point in points:
            # Nothing is better than what was measured first, and the ten best are the first ten.
            strategy.tell(number, Score(failed=False, fitness=float(number)))
            best = np.vstack([best, point])[:10]
            number += 1
    assert took == [0, 4, 4, 4, 3, 3, 3]
    assert (points[3] != best).sum(axis=1).min() <= 5


@pytest.mark.parametrize(("fails", "flown"), [(False, 32), (True, 21)])
def test_an_ask_with_several_limits_is_bounded_as_well(
    fails: bool, flown: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the models of what is feasible takes its time."""
    strategy = SurrogateSwarm(Space([integer(f"p{i}", 0, 30) for i in range(10)]), 0, in_flight=8)
    for number, point in enumerate(strategy.ask(8)):
        broken = limited(float(point.sum()), 2.0 * point[0] + 0.5, 2.0 * point[1] + 0.5)
        strategy.tell(number, Score(failed=True) if fails and number == 3 else broken)
    flights = Flights(monkeypatch)
    assert len(strategy.ask(40)) == 40
    assert flights.count == flown


def test_an_ask_for_many_groups_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The root hears nobody during an ask, so what takes time in it must not grow with the groups."""
    space = Space([integer(f"p{i}", 0, 30) for i in range(10)])
    strategy = SurrogateSwarm(space, 0, in_flight=8)
    first = strategy.ask(8)
    for number, point in enumerate(first):
        strategy.tell(number, bowl(point))
    flights, imagined = Flights(monkeypatch), list[np.ndarray]()
    monkeypatch.setattr(Models, "imagine", lambda _, points: imagined.extend(points))
    points = strategy.ask(2 * TOGETHER)
    assert len(np.unique(points, axis=0)) == 2 * TOGETHER
    assert flights.count == TOGETHER
    np.testing.assert_array_equal(imagined, points[:TOGETHER])
    changed = (points[TOGETHER:, None] != first).sum(axis=2).min(axis=1)
    assert changed.mean() < 4, "the rest are near the elite"
    imagined.clear()
    strategy.tell(8, bowl(points[0]))
    more = strategy.ask(2)
    np.testing.assert_array_equal(imagined, [*points[-(TOGETHER - 2) :], *more])
