"""Classic particle swarm optimisation in the unit cube.

x are positions, v velocities, p the best position of each particle, g the best one among those that inform it, r1 and
r2 uniform random numbers for each dimension. A particle moves by x := x + v, where

- with constriction, v := chi (v + phi1 r1 (p - x) + phi2 r2 (g - x)): M. Clerc, J. Kennedy, "The particle swarm:
  explosion, stability, and convergence in a multidimensional complex space", IEEE Transactions on Evolutionary
  Computation 6 (2002) 58-73; chi = 2 / |2 - phi - sqrt(phi^2 - 4 phi)| for phi = phi1 + phi2 > 4, which is 0.7298 for
  phi1 = phi2 = 2.05; for phi <= 4 there is no such chi;
- with inertia, v := w v + phi1 r1 (p - x) + phi2 r2 (g - x): Y. Shi, R. Eberhart, "A modified particle swarm optimizer"
  (CEC 1998); w = 1 / (2 ln 2) = 0.7213 and phi1 = phi2 = 1/2 + ln 2 = 1.1931 are those of M. Clerc, "Standard particle
  swarm optimisation" (2012).

Each component of v is limited to Vmax = Xmax for a range of [-Xmax, Xmax], so to half of the range: R. Eberhart, Y.
Shi, "Comparing inertia weights and constriction factors in particle swarm optimization" (CEC 2000).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from mpipso.config import SwarmSection
from mpipso.score import Score
from mpipso.search.arrays import Array
from mpipso.search.draws import LINKS, generator
from mpipso.search.history import History
from mpipso.search.lattice import Lattice
from mpipso.search.space import Space
from mpipso.search.start import StartingPoints
from mpipso.search.strategy import Strategy


class Swarm(Strategy):
    """The classic swarm. Particles take turns: proposal n is a move of particle n mod ``particles``.

    An iteration is one move of every particle. With asynchronous moves a particle knows all scores that have been told;
    with synchronous moves, those of earlier iterations only. Positions are compared by Deb's rules, which
    :class:`~mpipso.score.Score` follows. A particle whose move ends in a cell that was proposed before goes
    to a fresh one: one coordinate is drawn anew, then more and more of them.

    Parameters
    ----------
    particles:
        How many there are.
    seed:
        Any whole number from 0.
    section:
        The coefficients, and who informs whom.
    opening:
        What is proposed first, each of shape (dimensions,); the other particles begin at quasi-random points.
    """

    def __init__(
        self, space: Space, particles: int, seed: int, section: SwarmSection, *, opening: Sequence[ArrayLike] = ()
    ) -> None:
        self._particles, self._seed, self._section = particles, seed, section
        self._phi1, self._phi2 = section.weights
        self._chi = 1.0
        if section.form == "constriction":
            self._chi = constriction(self._phi1 + self._phi2) if section.chi is None else section.chi
        lattice = Lattice(space)
        self._history = History(lattice)
        self._start = StartingPoints(lattice, seed)
        self._opening = [np.array(point, dtype=float) for point in opening]
        # The exact positions, by proposal: the centre of a cell, which is what is proposed, would lose small moves.
        self._x: list[Array] = []
        self._v = np.zeros((particles, space.dimensions))

    def ask(self, count: int) -> Array:
        points = []
        for _ in range(count):
            point = self._advance()
            if point is None:
                break
            points.append(point)
        return np.array(points).reshape(len(points), self._history.lattice.dimensions)

    def tell(self, number: int, score: Score) -> None:
        self._history.tell(number, score)

    def replay(self, points: Array) -> None:
        for point in points:
            self._advance(np.asarray(point, dtype=float))

    def learn(self, points: Array, scores: Sequence[Score]) -> None:
        self._opening += self._history.learn(points, scores, self._opening)

    def _advance(self, given: Array | None = None) -> Array | None:
        """Make the next proposal, or that of an earlier run if one is ``given``; None when there is none."""
        number = len(self._x)
        particle = number % self._particles
        random = generator(self._seed, number)
        x, v = self._move(number, random)
        centre = self._history.lattice.centre(x)
        found = self._history.nearest_fresh(x, random) if given is None else self._history.lattice.centre(given)
        if found is None:
            return None
        self._history.add(found)
        self._x.append(x if np.array_equal(found, centre) else found)
        self._v[particle] = v
        return found

    def _move(self, number: int, random: np.random.Generator) -> tuple[Array, Array]:
        """Position and velocity after the move that is proposal ``number``, each of shape (dimensions,)."""
        iteration, particle = divmod(number, self._particles)
        if number < len(self._opening):
            return self._opening[number], self._v[particle]
        if iteration == 0:
            return self._start[number], self._v[particle]
        seen = iteration * self._particles if self._section.moves == "synchronous" else number
        best = self._best(self._informants(particle, iteration), seen)
        if best is None:  # no informant has anything: ask the whole swarm
            best = self._best(range(self._particles), seen)
        if best is None:  # there is nothing to be drawn to yet: look elsewhere
            return self._start[number], np.zeros_like(self._v[particle])
        own = self._best([particle], seen)
        g, p = best[0], (own or best)[0]
        x, v = self._x[number - self._particles], self._v[particle]
        r1, r2 = random.random(x.size), random.random(x.size)
        pull = self._phi1 * r1 * (p - x) + self._phi2 * r2 * (g - x)
        constricted = self._section.form == "constriction"
        v = self._chi * (v + pull) if constricted else self._section.inertia * v + pull
        if self._section.max_velocity:
            v = np.clip(v, -self._section.max_velocity, self._section.max_velocity)
        return _reflect(x + v, v)

    def _best(self, particles: Sequence[int], seen: int) -> tuple[Array, Score] | None:
        """The best position of some particles before proposal ``seen``, with its score; None if none has a result.

        If there are several particles, positions that were learned from elsewhere count as well.
        """
        scores = self._history.scores
        told = [
            (scores[number], number)
            for particle in particles
            for number in range(particle, seen, self._particles)
            if number in scores and not scores[number].failed and scores[number].fidelity == 1.0
        ]
        found = [(self._x[number], score) for score, number in [min(told)]] if told else []
        if len(particles) > 1:
            known = self._history.foreign()
            usable = (score.fidelity == 1.0 and not (score.failed or score.unjudged) for _, score in known)
            found += itertools.compress(known, usable)
        return min(found, key=lambda pair: pair[1]) if found else None

    def _informants(self, particle: int, iteration: int) -> Sequence[int]:
        """Which particles inform this one, itself included."""
        count, section = self._particles, self._section
        if section.topology == "ring":
            reach = min(section.neighbours, count // 2)
            return sorted({(particle + offset) % count for offset in range(-reach, reach + 1)})
        if section.topology == "random":
            # As in the standard swarm, each particle informs some random ones, but drawn anew in every iteration.
            told = generator(self._seed, iteration, LINKS).integers(0, count, (count, section.informants))
            return sorted({particle, *np.flatnonzero((told == particle).any(axis=1)).tolist()})
        return range(count)


def constriction(phi: float) -> float:
    """The constriction factor chi of M. Clerc, J. Kennedy for ``phi`` = phi1 + phi2 > 4, rounded to four digits."""
    return round(2.0 / abs(2.0 - phi - math.sqrt(phi * phi - 4.0 * phi)), 4)


def _reflect(x: Array, v: Array) -> tuple[Array, Array]:
    """Reflect positions and velocities at the walls of the unit cube, so that no particle sticks to a wall."""
    below, above = x < 0.0, x > 1.0
    x = np.where(below, -x, np.where(above, 2.0 - x, x))
    return np.clip(x, 0.0, 1.0), np.where(below | above, -v, v)
