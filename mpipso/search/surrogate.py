"""Surrogate-assisted particle swarm: many virtual steps over models, and only the most promising ones are measured.

The swarm is the ten best distinct points measured so far.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mpipso.search.acquisition import InnerSwarm
from mpipso.search.draws import generator
from mpipso.search.history import History
from mpipso.search.lattice import Lattice
from mpipso.search.models import Models
from mpipso.search.objective import Score
from mpipso.search.space import Space
from mpipso.search.start import Start
from mpipso.search.strategy import Strategy

Array = NDArray[np.float64]

ELITE = 10
_PATIENCE = 12
TURNS = ("process", "trees", "process", "flight")


class SurrogateSwarm(Strategy):
    def __init__(
        self,
        space: Space,
        seed: int,
        *,
        start: Array | None = None,
        in_flight: int = 4,
        turns: tuple[str, ...] = TURNS,
        **options,
    ) -> None:
        self._lattice = Lattice(space)
        self._history = History(self._lattice)
        self._seed = seed
        self._start_points = Start(self._lattice, seed)
        self._baseline = start
        self._first = max(8, in_flight)
        self._turns = turns
        self._options = options

    def ask(self, count: int) -> Array:
        points: list[Array] = []
        models: Models | None = None
        for _ in range(count):
            number = len(self._history.points)
            random = generator(self._seed, number)
            if number < self._first:
                point = self._start(number)
            else:
                if models is None:
                    models = self._fit(random)
                point = self._propose(models, number, random)
            found = self._history.nearest_fresh(point, random)
            if found is None:
                break
            self._history.add(found)
            points.append(found)
            if models is not None:
                models.believe(found[None], random)
        return np.array(points).reshape(len(points), self._lattice.dimensions)

    def tell(self, number: int, score: Score) -> None:
        self._history.tell(number, score)

    def replay(self, points: Array) -> None:
        for point in points:
            self._history.add(self._lattice.centre(point))

    def learn(self, points: Array, scores: Sequence[Score]) -> None:
        self._history.learn(points, scores)

    def _start(self, number: int) -> Array:
        if number == 0 and self._baseline is not None:
            return self._lattice.centre(self._baseline)
        return self._start_points[number]

    def _fit(self, random: np.random.Generator) -> Models:
        points, scores = self._history.measured()
        models = Models(self._lattice, points, scores, random, **self._options)
        models.believe(self._history.in_flight(), random)
        return models

    def _propose(self, models: Models, number: int, random: np.random.Generator) -> Array:
        points, scores = self._history.measured()
        order = sorted(range(len(scores)), key=lambda i: scores[i])
        elite = points[order[:ELITE]]
        taken = np.vstack([points, self._history.in_flight()])
        turn = self._turns[number % len(self._turns)]
        if turn == "flight":
            return self._flight(elite, random)
        swarm = InnerSwarm(self._lattice, taken, elite)
        ranked = swarm.fly(lambda at: models.promise(at, trees=turn == "trees"), random)
        for point in ranked[:20]:
            if self._history.fresh(point):
                return point
        return random.random(self._lattice.dimensions)

    def _flight(self, elite: Array, random: np.random.Generator) -> Array:
        k, d = elite.shape
        for _ in range(50):
            p, g = elite[random.integers(k)], elite[0]
            x = elite[random.integers(k)]
            v = elite[random.integers(k)] - elite[random.integers(k)]
            r1, r2 = random.random((2, d))
            point = np.clip(x + 0.7298 * (v + 2.05 * r1 * (p - x) + 2.05 * r2 * (g - x)), 0, 1)
            point = self._lattice.snap(point[None])[0]
            if self._history.fresh(point):
                return point
        return random.random(d)
