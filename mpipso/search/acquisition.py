"""How promising a point is, and the inner swarm that flies over a model to the most promising ones.

Expected improvement: D. R. Jones, M. Schonlau, W. J. Welch, "Efficient global optimization of expensive black-box
functions", Journal of Global Optimization 13 (1998) 455-492, equation 15; times the probability that the point is
feasible: M. A. Gelbart, J. Snoek, R. P. Adams, "Bayesian optimization with unknown constraints" (UAI 2014). Both are
logarithms: S. Ament et al., "Unexpected improvements to expected improvement for Bayesian optimization" (NeurIPS 2023).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfcx, ndtr

from mpipso.search.kernel import squared_distances
from mpipso.search.lattice import Lattice

Array = NDArray[np.float64]
Acquisition = Callable[[Array], Array]

_LOG_ROOT_2PI = 0.5 * float(np.log(2.0 * np.pi))
_NEAR = 1e-5
"""How far from a taken point another one is not the same; levels are further apart."""
_CHI, _PHI = 0.7298, 2.05
"""Constriction of M. Clerc, J. Kennedy, as in :mod:`mpipso.search.swarm`."""
_SCOUTS = 30
"""Particles that set out from anywhere; half as many mix two of the elite."""
_STEPS = 12
"""How often each particle moves."""
_ROUNDS = 4
"""The most steps of a climb from the most promising point."""


def log_expected_improvement(mean: Array, deviation: Array, best: float | Array) -> Array:
    """The logarithm of E[max(best - y, 0)], y normal with ``mean`` and ``deviation``; to be maximised."""
    z = (best - mean) / deviation
    # log(phi(z) + z Phi(z)). Below -1 the two terms cancel, so there Phi is taken as a multiple of phi.
    far, near = np.minimum(z, -1.0), np.maximum(z, -1.0)
    mills = np.sqrt(np.pi / 2.0) * erfcx(-far / np.sqrt(2.0))  # Phi(z) / phi(z)
    tail = -0.5 * far**2 - _LOG_ROOT_2PI + np.log(np.maximum(1.0 + far * mills, 1e-300))
    bulk = np.log(np.exp(-0.5 * near**2 - _LOG_ROOT_2PI) + near * ndtr(near))
    return np.asarray(np.log(deviation) + np.where(z < -1.0, tail, bulk))


class InnerSwarm:
    """A particle swarm over a model: every position is snapped to what can be set before it is judged.

    Parameters
    ----------
    taken:
        Points that are measured or in flight, of shape (n, dimensions); positions at them are worth nothing.
    elite:
        The best points so far, of shape (k, dimensions), best first; the flight begins at them and among them.
    """

    def __init__(self, lattice: Lattice, taken: Array, elite: Array) -> None:
        self._lattice, self._taken, self._elite = lattice, taken, elite

    def fly(self, acquisition: Acquisition, random: np.random.Generator) -> Array:
        """The points that were visited, of shape (m, dimensions), the most promising first; without those taken."""
        lattice = self._lattice
        x = np.concatenate([self._elite, self._crossings(random), lattice.sample(random, _SCOUTS)])
        count, d = x.shape
        visited = [lattice.snap(x)]
        worth = [self._judge(acquisition, visited[0])]
        # The elite's own positions are taken, so a particle's best starts where it is worth most nearby.
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
        """From the most promising point, the best of its neighbours while that is better."""
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
        """Points that mix the coordinates of two of the elite: joint changes that are known to go together."""
        k, d = self._elite.shape
        if k < 2:
            return np.empty((0, d))
        one, other = (self._elite[random.integers(0, k, _SCOUTS // 2)] for _ in range(2))
        return np.where(random.random(one.shape) < 0.5, one, other)

    def _judge(self, acquisition: Acquisition, points: Array) -> Array:
        allowed = self._lattice.valid(points)
        if len(self._taken):
            allowed &= squared_distances(points, self._taken).min(axis=1) > _NEAR**2
        worth = np.full(len(points), -np.inf)
        if allowed.any():
            worth[allowed] = acquisition(points[allowed])
        return worth
