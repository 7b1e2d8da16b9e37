"""Particle swarm optimisation with constriction, in the unit cube, for few and costly evaluations.

M. Clerc, J. Kennedy, "The particle swarm: explosion, stability, and convergence in a multidimensional complex space",
IEEE Transactions on Evolutionary Computation 6 (2002) 58-73. The symbols below are those of the paper: x positions,
v velocities, p the best position of each particle, g the best position in its neighbourhood.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mpipso.search.objective import Score

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Best:
    """The best point told so far, of shape (dimensions,), and its score."""

    point: Array
    score: Score


class Swarm:
    """Proposes points in batches of ``particles`` and learns from their scores: ``ask``, ``tell``, ``ask``, ...

    What it proposes depends on its arguments and on what it was told, and on nothing else: the random numbers of
    particle i in iteration t are those of the counter-based generator Philox with the key (seed, t, i). Told the same
    scores again, a new swarm proposes the same points again.

    Parameters
    ----------
    dimensions, particles:
        Of the unit cube; of a batch.
    seed:
        Any whole number from 0.
    start:
        Where particle 0 begins, of shape (dimensions,); the others begin at quasi-random points.
    distinct:
        The cell a point falls in. A proposal in a cell that was proposed before is moved to one that was not: one
        coordinate is drawn anew, then more and more of them. When ``TRIES`` cells were all proposed before, it stays.
    chi, phi1, phi2:
        The constriction coefficient and the weights of the own and the neighbourhood's best. phi1 + phi2 = 4.1 and
        chi = 2 / (phi - 2 + sqrt(phi^2 - 4 phi)) = 0.7298 are those of Clerc and Kennedy.
    max_velocity:
        The largest step in one dimension, as a share of its range. 0.5 is the Vmax = Xmax of R. Eberhart, Y. Shi,
        "Comparing inertia weights and constriction factors in particle swarm optimization" (CEC 2000) on a range of
        [-Xmax, Xmax].
    neighbours:
        How far along the ring a particle sees to either side; None: it sees the whole swarm.
    """

    TRIES = 32

    def __init__(
        self,
        dimensions: int,
        particles: int,
        seed: int,
        *,
        start: ArrayLike | None = None,
        distinct: Callable[[Array], Hashable] | None = None,
        chi: float = 0.7298,
        phi1: float = 2.05,
        phi2: float = 2.05,
        max_velocity: float = 0.5,
        neighbours: int | None = None,
    ) -> None:
        self.dimensions, self.particles, self.seed = dimensions, particles, seed
        self.chi, self.phi1, self.phi2, self.max_velocity = chi, phi1, phi2, max_velocity
        self._neighbourhoods = [_ring(i, particles, neighbours) for i in range(particles)]
        self._distinct = distinct
        self._seen: set[Hashable] = set()
        self._iteration = 0
        self._asked: Array | None = None
        self._halton = _Halton(dimensions, _random(seed, 0, particles))
        self._x = self._halton.take(particles)
        if start is not None:
            self._x[0] = np.clip(np.asarray(start, dtype=float).reshape(dimensions), 0.0, 1.0)
        self._v = np.zeros((particles, dimensions))
        self._p = np.array(self._x)
        self._p_scores: list[Score] = []
        self._best: Best | None = None

    @property
    def best(self) -> Best | None:
        """The best of all that was told, the earliest of equals; None before the first ``tell``."""
        return self._best

    def ask(self) -> Array:
        """The next points to measure, of shape (particles, dimensions). ValueError unless the last were told."""
        if self._asked is not None:
            raise ValueError("the points of the last ask have not been told")
        for i in range(self.particles):
            random = _random(self.seed, self._iteration, i)
            if self._iteration > 0:
                self._move(i, random)
            if self._distinct is not None:
                self._x[i] = self._unseen(self._x[i], self._distinct, random)
        self._asked = np.array(self._x)
        return np.array(self._x)

    def tell(self, points: ArrayLike, scores: Sequence[Score]) -> None:
        """The scores of the points of the last ``ask``, in its order. ValueError for any other points."""
        if self._asked is None:
            raise ValueError("nothing has been asked")
        if not np.array_equal(np.asarray(points), self._asked) or len(scores) != self.particles:
            raise ValueError("tell takes the points of the last ask, in its order, with one score each")
        if not self._p_scores:
            self._p, self._p_scores = np.array(self._asked), list(scores)
        for i, score in enumerate(scores):
            if score < self._p_scores[i]:
                self._p[i], self._p_scores[i] = self._x[i], score
            if self._best is None or score < self._best.score:
                self._best = Best(np.array(self._x[i]), score)
        self._asked = None
        self._iteration += 1

    def _move(self, i: int, random: np.random.Generator) -> None:
        r1, r2 = random.random(self.dimensions), random.random(self.dimensions)
        best = min(self._neighbourhoods[i], key=self._p_scores.__getitem__)
        if self._p_scores[best].failed:  # no neighbour has anything: ask the whole swarm
            best = min(range(self.particles), key=self._p_scores.__getitem__)
        if self._p_scores[best].failed:  # there is nothing to be drawn to yet: look elsewhere
            self._x[i] = self._halton.take(1)[0]
            self._v[i] = 0.0
            return
        x, v, g = self._x[i], self._v[i], self._p[best]
        p = g if self._p_scores[i].failed else self._p[i]
        v = self.chi * (v + self.phi1 * r1 * (p - x) + self.phi2 * r2 * (g - x))
        v = np.clip(v, -self.max_velocity, self.max_velocity)
        self._x[i], self._v[i] = _reflect(x + v, v)

    def _unseen(self, x: Array, distinct: Callable[[Array], Hashable], random: np.random.Generator) -> Array:
        moved = x
        for attempt in range(self.TRIES):
            cell = distinct(moved)
            if cell not in self._seen:
                self._seen.add(cell)
                return moved
            redrawn = 1 + attempt * self.dimensions // self.TRIES
            axes = np.argsort(random.random(self.dimensions))[:redrawn]
            moved = x.copy()
            moved[axes] = random.random(redrawn)
        return x


def _reflect(x: Array, v: Array) -> tuple[Array, Array]:
    """Throw back what left the unit cube, so that no particle sticks to a wall."""
    below, above = x < 0.0, x > 1.0
    x = np.where(below, -x, np.where(above, 2.0 - x, x))
    return np.clip(x, 0.0, 1.0), np.where(below | above, -v, v)


def _ring(i: int, particles: int, reach: int | None) -> list[int]:
    if reach is None or 2 * reach + 1 >= particles:
        return list(range(particles))
    return [(i + offset) % particles for offset in range(-reach, reach + 1)]


def _random(seed: int, iteration: int, particle: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed % 2**64, iteration << 32 | particle], np.uint64)))


class _Halton:
    """A Halton sequence with randomly permuted digits, which keep it even in many dimensions.

    A. Owen, "A randomized Halton algorithm in R" (2017), arXiv:1706.02808.
    """

    def __init__(self, dimensions: int, random: np.random.Generator) -> None:
        self._next = 0
        self._digits = []
        for base in _primes(dimensions):
            places = math.ceil(32 / math.log2(base))
            self._digits.append((base, [np.argsort(random.random(base)) for _ in range(places)]))

    def take(self, count: int) -> Array:
        """The next ``count`` points, of shape (count, dimensions)."""
        index = np.arange(self._next, self._next + count)
        self._next += count
        points = np.zeros((count, len(self._digits)))
        for axis, (base, permutations) in enumerate(self._digits):
            rest, scale = index, 1.0
            for permutation in permutations:
                rest, digit = np.divmod(rest, base)
                scale /= base
                points[:, axis] += permutation[digit] * scale
        return points


def _primes(count: int) -> list[int]:
    primes: list[int] = []
    candidate = 2
    while len(primes) < count:
        if all(candidate % prime for prime in primes):
            primes.append(candidate)
        candidate += 1
    return primes
