"""The first points of a search with models."""

from __future__ import annotations

import numpy as np
import pytest

from mpipso.config import Constraint, Parameter
from mpipso.search.design import CANDIDATES, design
from mpipso.search.gp import GaussianProcess
from mpipso.search.lattice import Lattice
from mpipso.search.models import VALUE
from mpipso.search.space import Space
from mpipso.search.start import Start

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
        start = Start(lattice, seed)
        designed = design(lattice, start, given, count, VALUE)
        filling = np.array([start[i] for i in range(count)])
        assert unknown(lattice, np.vstack([given, designed])) < unknown(lattice, np.vstack([given, filling]))


def test_points_that_are_given_are_not_chosen_again() -> None:
    lattice = Lattice(Space(UNIFORM))
    start = Start(lattice, 0)
    first = design(lattice, start, np.empty((0, 6)), 1, VALUE)
    second = design(lattice, start, first, 1, VALUE)
    assert second.tolist() == design(lattice, start, np.empty((0, 6)), 2, VALUE)[1:].tolist() != first.tolist()


def test_its_points_satisfy_the_known_constraints() -> None:
    space = Space(UNIFORM, [Constraint(expression="p0 * p1 <= 7"), Constraint(expression="p2 == p3")])
    lattice = Lattice(space)
    designed = design(lattice, Start(lattice, 0), np.empty((0, 6)), 12, VALUE)
    assert lattice.valid(designed).all()
    assert len({space.key(space.decode(point)) for point in designed}) == 12


def test_a_space_of_few_configurations_ends_it_without_an_error() -> None:
    lattice = Lattice(Space([Parameter(name="chunked", type="bool")]))
    assert len(design(lattice, Start(lattice, 0), np.empty((0, 1)), 2 * CANDIDATES, VALUE)) == CANDIDATES
