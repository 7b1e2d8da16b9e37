"""The first points of a search with models."""

from __future__ import annotations

import numpy as np
import pytest

from mpipso.config import Constraint, Parameter
from mpipso.score import Score
from mpipso.search.design import CANDIDATES, design
from mpipso.search.gp import GaussianProcess
from mpipso.search.lattice import Lattice
from mpipso.search.models import VALUE
from mpipso.search.space import Space
from mpipso.search.start import StartingPoints
from mpipso.search.surrogate import SurrogateSwarm

MIXED = [
    Parameter(name="seqs", type="int", min=1, max=256, scale="log"),
    Parameter(name="share", type="float", min=0.5, max=0.95),
    Parameter(name="policy", type="choice", choices=("fcfs", "priority", "lpm")),
    Parameter(name="chunked", type="bool"),
]
UNIFORM = [Parameter(name=f"p{i}", type="int", min=0, max=7) for i in range(6)]


def unknown(lattice: Lattice, points: np.ndarray) -> float:
    """The mean variance that measurements at the points leave over the space."""
    features = lattice.features(points)
    nothing, one = np.zeros(len(points)), np.ones(len(points))
    process = GaussianProcess(features, nothing, one, VALUE.kernel(lattice.groups), 1.0, VALUE.noise)
    elsewhere = lattice.sample(np.random.default_rng(0), 1000)
    return float((process.predict(lattice.features(elsewhere))[1] ** 2).mean())


@pytest.mark.parametrize("parameters", [MIXED, UNIFORM], ids=["mixed", "uniform"])
@pytest.mark.parametrize("count", [4, 16])
def test_it_leaves_less_unknown_than_points_that_fill_the_space(parameters: list[Parameter], count: int) -> None:
    lattice = Lattice(Space(parameters))
    given = lattice.sample(np.random.default_rng(1), 2)
    for seed in range(5):
        start = StartingPoints(lattice, seed)
        designed = design(lattice, start, given, count, VALUE)
        filling = np.array([start[i] for i in range(count)])
        assert unknown(lattice, np.vstack([given, designed])) < unknown(lattice, np.vstack([given, filling]))


def test_points_that_are_given_are_not_chosen_again() -> None:
    lattice = Lattice(Space(UNIFORM))
    start = StartingPoints(lattice, 0)
    first = design(lattice, start, np.empty((0, 6)), 1, VALUE)
    second = design(lattice, start, first, 1, VALUE)
    assert second.tolist() == design(lattice, start, np.empty((0, 6)), 2, VALUE)[1:].tolist() != first.tolist()


def test_its_points_are_distinct_and_satisfy_the_known_constraints() -> None:
    space = Space(UNIFORM, [Constraint(expression="p0 * p1 <= 7"), Constraint(expression="p2 == p3")])
    lattice = Lattice(space)
    designed = design(lattice, StartingPoints(lattice, 0), np.empty((0, 6)), 12, VALUE)
    assert lattice.valid(designed).all()
    assert len({space.key(space.decode(point)) for point in designed}) == 12


@pytest.mark.parametrize(
    ("parameters", "constraint", "count"),
    [
        ([Parameter(name="chunked", type="bool")], "chunked or not chunked", 2),
        ([Parameter(name="seqs", type="int", min=1, max=100)], "seqs > 1", 99),
        (UNIFORM, "p0 + p1 + p2 + p3 == 0", 64),
        (UNIFORM, "p0 > 7", 0),
    ],
    ids=["two configurations", "one dimension", "rarely valid", "never valid"],
)
def test_where_there_are_few_points_there_are_no_more_than_those(
    parameters: list[Parameter], constraint: str, count: int
) -> None:
    space = Space(parameters, [Constraint(expression=constraint)])
    lattice = Lattice(space)
    designed = design(lattice, StartingPoints(lattice, 0), np.empty((0, space.dimensions)), 2 * CANDIDATES, VALUE)
    assert len({point.tobytes() for point in designed}) == len(designed)
    assert lattice.valid(designed).all()
    assert len(designed) == count


def test_a_search_begins_with_a_design_for_what_is_given_and_known() -> None:
    space = Space(UNIFORM)
    lattice = Lattice(space)
    given, *known = lattice.sample(np.random.default_rng(2), 3)
    strategy = SurrogateSwarm(space, 0, opening=[given])
    strategy.learn(np.array(known), [Score(failed=True)] * 2)
    expected = design(lattice, StartingPoints(lattice, 0), np.array([given, *known]), 2, VALUE)
    assert strategy.ask(3).tolist() == [given.tolist(), *expected.tolist()]
