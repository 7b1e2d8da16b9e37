"""Surrogate-assisted particle swarm: it moves over models in many steps, and only the best positions are measured.

The swarm is the ten best distinct points that were measured. For each proposal an inner swarm sets out from them
(:mod:`mpipso.search.acquisition`) and flies over what the models promise (:mod:`mpipso.search.models`). Swarms assisted
by models: C. Sun et al., "Surrogate-assisted cooperative swarm optimization of high-dimensional expensive problems",
IEEE Transactions on Evolutionary Computation 21 (2017) 644-660. Proposals of one batch, and those in flight, keep apart
because each proposal is judged by what it would add to the results that the others may have.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from mpipso.score import Score
from mpipso.search.acquisition import InnerSwarm
from mpipso.search.arrays import Array
from mpipso.search.blas import one_thread
from mpipso.search.design import CANDIDATES, design
from mpipso.search.draws import generator
from mpipso.search.history import History
from mpipso.search.lattice import Lattice
from mpipso.search.models import VALUE, Models
from mpipso.search.space import Space
from mpipso.search.start import StartingPoints
from mpipso.search.strategy import Strategy

STUCK = 12
"""Evaluations without a gain, and at least two batches of them, after which every other proposal explores. In turn, one
of these takes the model of the value for less certain than it says, and the next ignores it."""
_STRAYED = 64
"""Positions that are drawn for a proposal that ignores the model of the value."""
ELITE = 10
"""How many of the best points each inner swarm starts from."""
FIRST = 4
"""Points that are measured before the first model, besides those that are given. A model of so few says little, but
better than nothing."""
MODELLED = 300
"""The most measurements that models are fitted to, which bounds their cost and memory."""
TOGETHER = 64
"""The most proposals of one ask for which an inner swarm flies, and the most points in flight that the models take into
account: the root hears nobody during an ask, so its time is bounded. Where several models say what is feasible, it is
as many times less. Further proposals of the ask ignore the model of the value."""
_RANKED = 20
"""The most promising positions among which a fresh one is looked for."""


class SurrogateSwarm(Strategy):
    """The surrogate-assisted swarm. It has no state but its history, so a replayed run goes on as if it had not ended.

    Parameters
    ----------
    seed:
        Any whole number from 0.
    opening:
        What is proposed first, each of shape (dimensions,).
    in_flight:
        How many proposals are typically out at once; at least so many are proposed before there is a model.
    """

    def __init__(self, space: Space, seed: int, *, opening: Sequence[ArrayLike] = (), in_flight: int = 4) -> None:
        self._lattice = Lattice(space)
        self._history = History(self._lattice)
        self._seed = seed
        self._first = self._unknowing = max(len(opening) + FIRST, in_flight)
        self._stuck = max(STUCK, 2 * in_flight)
        self._start = StartingPoints(self._lattice, seed)
        self._opening = [self._lattice.centre(np.asarray(point, dtype=float)) for point in opening]
        self._design: Array | None = None

    def ask(self, count: int) -> Array:
        points: list[Array] = []
        view: _View | None = None
        with one_thread():
            for number in range(len(self._history.points), len(self._history.points) + count):
                random = generator(self._seed, number)
                if number < self._first or self._history.size < 2:
                    wanted = self._begin(number)
                else:
                    view = view or _View(self._lattice, self._history, random, count)
                    wanted = self._propose(view, number, random, stray=len(points) >= view.most)
                point = self._history.nearest_fresh(wanted, random)
                if point is None:
                    break
                self._history.add(point)
                points.append(point)
                if view is not None:
                    view.add(point)
        return np.array(points).reshape(len(points), self._lattice.dimensions)

    def tell(self, number: int, score: Score) -> None:
        self._history.tell(number, score)

    def replay(self, points: Array) -> None:
        for point in points:
            self._history.add(self._lattice.centre(point))

    def learn(self, points: Array, scores: Sequence[Score]) -> None:
        self._opening += self._history.learn(points, scores, self._opening)
        known = self._history.size
        self._first = max(len(self._opening), self._unknowing - known if known < FIRST else 0)

    def _begin(self, number: int) -> Array:
        """The point for a proposal before there is a model: of the opening, the design, or the starting points."""
        if number < len(self._opening):
            return self._opening[number]
        if self._design is None:
            # What was learned stays among the given points when it is measured here, so that a resumed session comes to
            # the same design.
            given = np.array([*self._opening, *self._history.known]).reshape(-1, self._lattice.dimensions)
            self._design = design(self._lattice, self._start, given[:MODELLED], self._first - len(self._opening), VALUE)
        index = number - len(self._opening)
        return self._design[index] if index < len(self._design) else self._start[CANDIDATES + index]

    def _propose(self, view: _View, number: int, random: np.random.Generator, *, stray: bool) -> Array:
        """The point for a proposal by the models; if it is to ``stray``, without that of the value."""
        explore = number % 2 == 1 and self._history.told_since_best() >= self._stuck
        lattice = self._lattice if stray else self._lattice.drawn(random, view.elite)
        if stray or (explore and number % 4 == 3):
            ranked = _strayed(lattice, view, random)
        else:
            inner = InnerSwarm(lattice, view.taken, view.elite)
            ranked = inner.fly(lambda points: view.models.promise(points, explore=explore), random)
        fresh = (point for point in ranked[:_RANKED] if self._history.fresh(point))
        found = next(fresh, None)
        return self._start[number] if found is None else found


class _View:
    """What an ask for ``count`` points works with: the models, the elite, and the points that are taken.

    The models take into account as ``most`` points in flight.
    """

    def __init__(self, lattice: Lattice, history: History, random: np.random.Generator, count: int) -> None:
        points, scores = history.measured()
        order = sorted(range(len(scores)), key=lambda i: (scores[i].fidelity < 1.0, scores[i]))
        self.elite = points[[i for i in order if not scores[i].unjudged][:ELITE]]
        # Points that were measured only elsewhere are not taken: they may be worth measuring here.
        self.taken = history.proposed()
        best, rest = order[: MODELLED // 2], order[MODELLED // 2 :]
        kept = sorted([*best, *_latest(rest, len(history.scores))])
        self.models = Models(lattice, points[kept], [scores[i] for i in kept], random)
        self.most = max(TOGETHER // max(self.models.conditions, 1), 2)
        # Of the points in flight the latest ones, and few enough to leave room for proposals of this ask.
        flying = history.in_flight()[-(self.most - min(count, self.most // 2)) :]
        self.models.imagine(flying)
        self._room = self.most - len(flying)

    def add(self, point: Array) -> None:
        self.taken = np.vstack([self.taken, point])
        if self._room > 0:
            self.models.imagine(point[None])
            self._room -= 1


def _strayed(lattice: Lattice, view: _View, random: np.random.Generator) -> Array:
    """Elite points with about two coordinates drawn anew, of shape (m, dimensions), those likely to be feasible first.

    They do not depend on the model of the value, which may be wrong and yet sure of itself.
    """
    points = view.elite[random.integers(0, len(view.elite), _STRAYED)]
    drawn = random.random(points.shape) < 2.0 / lattice.dimensions
    points = lattice.snap(np.where(drawn, random.random(points.shape), points))
    return points[np.argsort(view.models.likely(points) < 0.5, kind="stable")]


def _latest(numbers: list[int], here: int) -> list[int]:
    """The latest of ``numbers``, as many as half of the measurements that models are fitted to.

    Those below ``here`` were measured here, and count as later than all from elsewhere.
    """
    return sorted(numbers, key=lambda number: (number < here, number))[-(MODELLED - MODELLED // 2) :]
