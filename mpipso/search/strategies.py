"""The strategies by the name they have in the configuration."""

from __future__ import annotations

from mpipso.config import Search
from mpipso.evaluation import Configuration
from mpipso.search.space import Space
from mpipso.search.strategy import Strategy
from mpipso.search.surrogate import SurrogateSwarm
from mpipso.search.swarm import Swarm


def create(config: Search, space: Space, baseline: Configuration | None, *, in_flight: int) -> Strategy:
    """The strategy that ``config`` asks for.

    Parameters
    ----------
    baseline:
        The configuration that is proposed first.
    in_flight:
        How many proposals are typically out at once; with iterations, the particles of one.

    Raises
    ------
    UserError
        No configuration satisfies the known constraints.
    """
    start = None if baseline is None else space.encode(baseline)
    if config.strategy == "pso":
        return Swarm(space, config.particles, config.seed, config.swarm, start=start)
    return SurrogateSwarm(space, config.seed, start=start, in_flight=in_flight)
