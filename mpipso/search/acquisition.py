"""How promising a point is, and the inner swarm that searches a model for the most promising points.

A point is as promising as its expected improvement (D. R. Jones, M. Schonlau, W. J. Welch, "Efficient global
optimization of expensive black-box functions", Journal of Global Optimization 13 (1998) 455-492, equation 15) times the
probability that it is feasible (M. A. Gelbart, J. Snoek, R. P. Adams, "Bayesian optimization with unknown constraints",
UAI 2014). :mod:`mpipso.search.models` multiplies the two. Both are computed as logarithms: S. Ament et al., "Unexpected
improvements to expected improvement for Bayesian optimization" (NeurIPS 2023).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import erfcx, ndtr

from mpipso.search.arrays import Array
from mpipso.search.lattice import Lattice
from mpipso.search.swarm import constriction

Acquisition = Callable[[Array], Array]

_LOG_ROOT_2PI = 0.5 * float(np.log(2.0 * np.pi))
_NEAR = 1e-9
"""Difference in every coordinate up to which a position is the same as a taken point. Cells are further apart, but for
those of ranges of more than a thousand million values."""
_PHI = 2.05
"""Weight of the attraction to a particle's own best position, and of that to the swarm's best one."""
_CHI = constriction(2.0 * _PHI)
_SCOUTS = 30
"""Particles that start at random points; half as many start at crossings of two elite points."""
_STEPS = 12
"""Moves of each particle."""
_ROUNDS = 4
"""The most rounds of the final climb; each judges all neighbours of the most promising point."""


def log_expected_improvement(mean: Array, deviation: Array, best: float | Array) -> Array:
    """The logarithm of the expected improvement E[max(best - y, 0)], where y is normal with ``mean`` and ``deviation``.

    Small values of y are good, so a promising point has a high expected improvement. The arguments are broadcast;
    ``deviation`` is positive.
    """
    z = (best - mean) / deviation
    # log(phi(z) + z Phi(z)). Below z = -1 the two terms nearly cancel, so there phi(z) is factored out.
    far, near = np.minimum(z, -1.0), np.maximum(z, -1.0)
    mills = np.sqrt(np.pi / 2.0) * erfcx(-far / np.sqrt(2.0))  # Phi(z) / phi(z)
    tail = -0.5 * far**2 - _LOG_ROOT_2PI + np.log(np.maximum(1.0 + far * mills, 1e-300))
    bulk = np.log(np.exp(-0.5 * near**2 - _LOG_ROOT_2PI) + near * ndtr(near))
    return np.asarray(np.log(deviation) + np.where(z < -1.0, tail, bulk))


class InnerSwarm:
    """A particle swarm that searches a model for promising points.

    Every position is snapped to a configuration that can be set before it is judged.

    Parameters
    ----------
    lattice:
        What positions are snapped to, and which of them are valid.
    taken:
        Points that are measured or in flight, of shape (n, dimensions); the swarm does not return them.
    elite:
        The best points so far, of shape (k, dimensions), best first. Particles start at them, at crossings of two of
        them, and at random points.
    """

    def __init__(self, lattice: Lattice, taken: Array, elite: Array) -> None:
        self._lattice, self._taken, self._elite = lattice, taken, elite

    def fly(self, acquisition: Acquisition, random: np.random.Generator) -> Array:
        """The visited points, of shape (m, dimensions), most promising first, without those taken or invalid."""
        lattice = self._lattice
        x = np.concatenate([self._elite, self._crossings(random), lattice.sample(random, _SCOUTS)])
        count, d = x.shape
        visited = [lattice.snap(x)]
        worth = [self._judge(acquisition, visited[0])]
        # An elite point is usually taken, thus worth -inf: the next position then becomes its particle's best.
        p, p_worth = np.array(x), np.array(worth[0])
        v = np.zeros_like(x)
        for _ in range(_STEPS):
            g = p[np.argmax(p_worth)]
            r1, r2 = random.random((2, count, d))
            v = np.clip(_CHI * (v + _PHI * r1 * (p - x) + _PHI * r2 * (g - x)), -0.5, 0.5)
            x = np.clip(x + v, 0.0, 1.0)
            snapped = lattice.snap(x)
            found = self._judge(acquisition, snapped)
            better = found > p_worth
            p[better], p_worth[better] = snapped[better], found[better]
            visited.append(snapped)
            worth.append(found)
        for start in self._elite[:2]:
            around = lattice.neighbours(start)
            visited.append(around)
            worth.append(self._judge(acquisition, around))
        self._climb(acquisition, visited, worth)
        points, values = np.concatenate(visited), np.concatenate(worth)
        order = np.argsort(-values, kind="stable")
        return points[order[np.isfinite(values[order])]]

    def _climb(self, acquisition: Acquisition, visited: list[Array], worth: list[Array]) -> None:
        """Move from the most promising point to its best neighbour as long as that is better.

        What is judged on the way is appended to ``visited`` and ``worth``.
        """
        for _ in range(_ROUNDS):
            block = int(np.argmax([w.max() for w in worth]))
            top = int(np.argmax(worth[block]))
            best, value = visited[block][top], worth[block][top]
            if not np.isfinite(value):
                return
            around = self._lattice.neighbours(best)
            visited.append(around)
            worth.append(self._judge(acquisition, around))
            if worth[-1].max() <= value:
                return

    def _crossings(self, random: np.random.Generator) -> Array:
        """Points that take each coordinate from one of two elite points, of shape (m, dimensions).

        They differ from an elite point in several coordinates at once, but only by values that proved good. There are
        none if the elite is a single point.
        """
        k, d = self._elite.shape
        if k < 2:
            return np.empty((0, d))
        one, other = (self._elite[random.integers(0, k, _SCOUTS // 2)] for _ in range(2))
        return np.where(random.random(one.shape) < 0.5, one, other)

    def _judge(self, acquisition: Acquisition, points: Array) -> Array:
        """The acquisition at ``points``, of shape (m,); -inf where a point is invalid or taken."""
        allowed = self._lattice.valid(points)
        if len(self._taken):
            allowed &= cdist(points, self._taken, "chebyshev").min(axis=1) > _NEAR
        worth = np.full(len(points), -np.inf)
        if allowed.any():
            worth[allowed] = acquisition(points[allowed])
        return worth
