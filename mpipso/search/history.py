"""What a strategy has proposed and what it was told: the whole state of a search."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mpipso.search.lattice import Lattice
from mpipso.search.objective import Score

Array = NDArray[np.float64]

_RANDOM_TRIES = 64
_MOST_LISTED = 200_000
"""Configurations that are looked through for one that has not been proposed, in one search for it."""


class History:
    """Proposals by number, their scores, and measurements from elsewhere."""

    def __init__(self, lattice: Lattice) -> None:
        self.lattice = lattice
        self.points: list[Array] = []
        self.scores: dict[int, Score] = {}
        self.known: dict[str, tuple[Array, Score]] = {}
        """Measurements from elsewhere, by key."""
        self._keys: list[str] = []
        self._proposed: set[str] = set()
        self._listing = lattice.enumerate()

    def key(self, point: Array) -> str:
        space = self.lattice.space
        return space.key(space.decode(point))

    def fresh(self, point: Array) -> bool:
        """Whether the configuration at ``point`` is valid and has not been proposed."""
        return self.key(point) not in self._proposed and bool(self.lattice.valid(point[None])[0])

    def add(self, point: Array) -> int:
        """Record a proposal; returns its number."""
        key = self.key(point)
        self.points.append(point)
        self._keys.append(key)
        self._proposed.add(key)
        return len(self.points) - 1

    def tell(self, number: int, score: Score) -> None:
        if not 0 <= number < len(self.points):
            raise ValueError(f"proposal {number} was not asked for")
        self.scores[number] = score

    def learn(self, points: Array, scores: Sequence[Score]) -> None:
        """Measurements from elsewhere, of shape (n, dimensions); of the same configuration the last counts."""
        if self.points:
            raise ValueError("measurements from elsewhere are learned before the first ask")
        for point, score in zip(points, scores, strict=True):
            centre = self.lattice.centre(point)
            self.known[self.key(centre)] = (centre, score)

    @property
    def size(self) -> int:
        """How many measurements there are."""
        return len(self.scores) + len(self.known)

    def fruitless(self) -> int:
        """How many proposals have been told after the best one."""
        full = {number: score for number, score in self.scores.items() if score.fidelity == 1.0}
        if not full:
            return 0
        best = min(full, key=lambda number: (full[number], number))
        return sum(number > best for number in full)

    def measured(self) -> tuple[Array, list[Score]]:
        """All that is known: points, of shape (n, dimensions), with their scores. What was measured here comes first.

        What was measured here replaces what was learned from elsewhere about the same configuration.
        """
        numbers = sorted(self.scores)
        told = {self._keys[number] for number in numbers}
        known = [pair for key, pair in self.known.items() if key not in told]
        points = [self.points[number] for number in numbers] + [point for point, _ in known]
        scores = [self.scores[number] for number in numbers] + [score for _, score in known]
        return np.array(points).reshape(len(points), self.lattice.dimensions), scores

    def in_flight(self) -> Array:
        """The points that have been asked for and not told, of shape (n, dimensions)."""
        points = [point for number, point in enumerate(self.points) if number not in self.scores]
        return np.array(points).reshape(len(points), self.lattice.dimensions)

    def nearest_fresh(self, point: Array, random: np.random.Generator) -> Array | None:
        """``point``, or one near it that has not been proposed, or any such; None when there is none.

        First one coordinate is drawn anew, then more and more of them; then the space is gone through in order. Where
        it is continuous, or larger than can be gone through, None only means that none was found.
        """
        candidate = self.lattice.centre(point)
        dimensions = self.lattice.dimensions
        for attempt in range(_RANDOM_TRIES):
            if self.fresh(candidate):
                return candidate
            redrawn = 1 + attempt * dimensions // _RANDOM_TRIES
            axes = np.argsort(random.random(dimensions))[:redrawn]
            moved = np.array(point)
            moved[axes] = random.random(redrawn)
            candidate = self.lattice.centre(moved)
        # What the listing has passed is proposed or invalid, so it never has to be looked at again.
        for listed in itertools.islice(self._listing, _MOST_LISTED):
            if self.fresh(listed):
                return listed
        return None
