"""The strategies by the name they have in the configuration."""

from __future__ import annotations

import numpy as np

from mpipso.config import Search
from mpipso.errors import UserError
from mpipso.search.arrays import Array
from mpipso.search.draws import generator
from mpipso.search.history import History
from mpipso.search.knowledge import first_points
from mpipso.search.lattice import Lattice
from mpipso.search.space import Space
from mpipso.search.start import StartingPoints
from mpipso.search.strategy import Strategy
from mpipso.search.surrogate import SurrogateSwarm
from mpipso.search.swarm import Swarm


def create(config: Search, space: Space, *, in_flight: int) -> Strategy:
    """The strategy that ``config`` asks for.

    Parameters
    ----------
    in_flight:
        How many proposals are typically out at once; if the search has iterations, the particles of one.

    Raises
    ------
    UserError
        No configuration was found that satisfies the known constraints, or one that is to be measured first is not in
        the space.
    """
    opening = given_points(config, space)
    if config.strategy == "pso":
        return Swarm(space, config.swarm_size, config.seed, config.swarm, opening=opening)
    return SurrogateSwarm(space, config.seed, opening=opening, in_flight=in_flight)


def given_points(config: Search, space: Space) -> list[Array]:
    """The points that are proposed first, each of shape (dimensions,) and once.

    They are the baseline, if there is one, and then what the user wants measured first. If there are none, this looks
    for a valid configuration, which may take seconds.

    Raises
    ------
    UserError
        As for :func:`create`.
    """
    points = [] if space.baseline is None else [space.encode(space.baseline)]
    points += first_points(config, space)
    points = list({point.tobytes(): point for point in points}.values())
    if not points and not satisfiable(space, config.seed):
        raise UserError(
            "constraints: no configuration was found that satisfies all of them; if there is one, give it as defaults"
        )
    return points


def satisfiable(space: Space, seed: int) -> bool:
    """Whether a configuration that satisfies the known constraints was found.

    It is looked for from the middle of the space, and among the starting points of a search with ``seed``.
    """
    lattice, middle = Lattice(space), np.full(space.dimensions, 0.5)
    found = History(lattice).nearest_fresh(middle, generator(0, 0)) is not None
    return found or len(StartingPoints(lattice, seed).valid(1)) > 0
