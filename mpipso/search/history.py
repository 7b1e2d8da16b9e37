"""What a strategy has proposed, the scores that it was told, and what it has learned from elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mpipso.score import FARTHEST, Score
from mpipso.search.arrays import Array
from mpipso.search.lattice import Lattice

_REPEATED = 3
"""How many of the best configurations of each other place are measured here before any further proposal."""
_MOST_KNOWN = 1000
"""The most measurements that are kept of each other place, which bounds the memory and the time of an ask."""
_RANDOM_TRIES = 64
"""Random points that are tried at each stage of the search for a fresh one."""
_HALVINGS = 12
"""Sizes of the changes to valid points, each half of the one before, down to a ten-thousandth of each range."""
_MOST_LISTED = 300_000
"""The most configurations, all invalid, that are listed after one that was proposed: the root hears nobody meanwhile.
For the first proposal, which the user can give instead, it is a third of them."""
_LISTINGS = 3
"""How many times as many one search for a fresh one lists at most: the first one of a resumed session begins anew."""


class History:
    """The proposals and their scores, both by number, and measurements from elsewhere."""

    def __init__(self, lattice: Lattice) -> None:
        self.lattice = lattice
        self.points: list[Array] = []
        self.scores: dict[int, Score] = {}
        self._known: dict[str, tuple[Array, Score, int]] = {}
        """Measurements from elsewhere, by key: point, score, and from which place."""
        self._places = 0
        self._keys: list[str] = []
        self._proposed: set[str] = set()
        self._listing = iter(()) if lattice.space.continuous else lattice.space.configurations()
        self._invalid = 0
        """How many configurations the listing has passed since the last one that was proposed."""

    def key(self, point: Array) -> str:
        """The canonical text of the configuration at ``point``, of shape (dimensions,)."""
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
        """Record the score of a proposal, in place of an earlier one; ValueError when there is no such proposal."""
        if not 0 <= number < len(self.points):
            raise ValueError(f"proposal {number} was not asked for")
        self.scores[number] = score

    def learn(self, points: Array, scores: Sequence[Score], opening: Sequence[Array]) -> list[Array]:
        """Record measurements from one other place: points of shape (n, dimensions), and a score for each.

        Of several measurements of one configuration the last is kept, but a failure only if all of them failed. If
        there are more than can be kept, the best ones are, and an even choice of the others.

        Returns the points of the best feasible measurements that are not in ``opening``, a few at most: they are to be
        measured here as well, where they may be worth something else. Raises ValueError after the first ask.
        """
        if self.points:
            raise ValueError("measurements from elsewhere are learned before the first ask")
        centres = [self.lattice.centre(point) for point in points]
        order = sorted(range(len(scores)), key=scores.__getitem__)
        rest = order[_MOST_KNOWN // 2 :]
        spread = np.linspace(0, len(rest) - 1, min(len(rest), _MOST_KNOWN // 2)).astype(int)
        for i in sorted([*order[: _MOST_KNOWN // 2], *(rest[at] for at in spread)]):
            key = self.key(centres[i])
            if not scores[i].failed or key not in self._known:
                self._known[key] = (centres[i], scores[i], self._places)
        self._places += 1
        given = {self.key(point) for point in opening}
        best = [centres[i] for i in order if scores[i].feasible][:_REPEATED]
        return [centre for centre in best if self.key(centre) not in given]

    @property
    def size(self) -> int:
        """How many measurements there are, from here and from elsewhere."""
        return len(self.scores) + len(self._known)

    def told_since_best(self) -> int:
        """How many proposals with a score come after the best one of a full benchmark; 0 before any has a score."""
        full = {number: score for number, score in self.scores.items() if score.fidelity == 1.0}
        if not full:
            return 0
        best = min(full, key=lambda number: (full[number], number))
        return sum(number > best for number in self.scores)

    def measured(self) -> tuple[Array, list[Score]]:
        """All measured points, of shape (n, dimensions), with their scores; those that were measured here come first.

        What was measured here replaces what was learned from elsewhere about the same configuration.
        """
        numbers = sorted(self.scores)
        known = self.foreign()
        points = [self.points[number] for number in numbers] + [point for point, _ in known]
        scores = [self.scores[number] for number in numbers] + [score for _, score in known]
        return np.array(points).reshape(len(points), self.lattice.dimensions), scores

    def foreign(self) -> list[tuple[Array, Score]]:
        """Points that were measured only elsewhere, with the scores that are expected of them here.

        Other machines may be slower or faster by a factor, in the objective and in each limited metric. These factors
        are estimated by the median of the ratio over the configurations that were measured both here and there; they
        are 1 until there is one. Other machines may also have more room: if most configurations that should be feasible
        here, and were measured here, are not, then all others that should be are marked ``unjudged``. What failed there
        is expected to fail here as well.
        """
        own = {self._keys[number]: score for number, score in self.scores.items()}
        both = [(own[key], *self._known[key][1:]) for key in own.keys() & self._known.keys()]
        places = {place for *_, place in both}
        expected = {place: _expected_of([(here, there) for here, there, p in both if p == place]) for place in places}
        feasible: dict[int, list[bool]] = {}
        for here, there, place in both:
            if here.fidelity == 1.0 and expected[place](there).feasible:
                feasible.setdefault(place, []).append(here.feasible)
        roomier = {place for place, found in feasible.items() if 2 * sum(found) < len(found)}
        found = []
        for key, (point, score, place) in self._known.items():
            if key not in own:
                here = expected[place](score) if place in expected else score
                found.append((point, replace(here, unjudged=here.feasible and place in roomier)))
        return found

    @property
    def known(self) -> list[Array]:
        """The points that were measured elsewhere, including those that have been measured here since."""
        return [point for point, *_ in self._known.values()]

    def proposed(self) -> Array:
        """The points that have been asked for, of shape (n, dimensions)."""
        return np.array(self.points).reshape(len(self.points), self.lattice.dimensions)

    def in_flight(self) -> Array:
        """The points that have been asked for and not told, of shape (n, dimensions)."""
        points = [point for number, point in enumerate(self.points) if number not in self.scores]
        return np.array(points).reshape(len(points), self.lattice.dimensions)

    def nearest_fresh(self, point: Array, random: np.random.Generator) -> Array | None:
        """``point`` if its configuration is fresh, else a fresh one near it, else any; None when there is none.

        A fresh configuration is valid and has not been proposed. The point that is returned is the centre of its cell,
        of shape (dimensions,). The following are tried in turn:

        - one coordinate of ``point`` is drawn anew, then more and more of them;
        - the dimensions that decide on validity are set to values that are known to be valid;
        - a few coordinates of points that are known to be valid are drawn anew;
        - such points are moved along the line to another one, or at random by less and less;
        - the configurations of the space are listed in order.

        If the space is continuous, or too large to be listed, None only means that no fresh configuration was found.
        """
        for candidate in self._candidates(np.asarray(point, dtype=float), random):
            centre = self.lattice.centre(candidate)
            if self.fresh(centre):
                return centre
        return self._next_listed()

    def _next_listed(self) -> Array | None:
        """The next fresh configuration of the listing, encoded; None when there is none, or it is too far away.

        What the listing has passed has been proposed or is invalid, so it never has to be looked at again. How far it
        goes depends only on what was proposed: a resumed session, whose listing begins anew, comes as far.
        """
        space = self.lattice.space
        most = _MOST_LISTED if self.points else _MOST_LISTED // 3
        listed = itertools.islice(self._listing, _LISTINGS * _MOST_LISTED)
        while self._invalid < most and (configuration := next(listed, None)) is not None:
            proposed = space.key(configuration) in self._proposed
            fresh = not proposed and space.valid(configuration)
            self._invalid = 0 if proposed or fresh else self._invalid + 1
            if fresh:
                return space.encode(configuration)
        return None

    def _candidates(self, point: Array, random: np.random.Generator) -> Iterator[Array]:
        yield point
        for attempt in range(1, _RANDOM_TRIES):
            yield _redrawn(point, 1 + attempt * len(point) // _RANDOM_TRIES, random)
        if not self.lattice.constrained:
            return
        decided, axes = self.lattice.space.decided, self.lattice.constrained
        for _ in range(_RANDOM_TRIES if len(decided) else 0):
            moved = np.where(random.random(len(point)) < 0.5, random.random(len(point)), point)
            moved[axes] = decided[random.integers(len(decided)), axes]
            yield moved
        known = np.array([*self.points, *self.known])
        for attempt in range(_RANDOM_TRIES if len(known) else 0):
            yield _redrawn(known[random.integers(len(known))], 1 + attempt % 3, random)
        # Where the valid points form a thin layer, a random change leaves it; a small change, or one along it, may not.
        for attempt in range(_RANDOM_TRIES if len(known) > 1 else 0):
            one, other = known[random.integers(len(known), size=2)]
            yield np.clip(one + random.uniform(-0.5, 1.5) * (other - one), 0.0, 1.0)
            step = 0.3 * 0.5 ** (attempt % _HALVINGS)
            yield np.clip(one + step * random.standard_normal(len(one)), 0.0, 1.0)


def _redrawn(point: Array, count: int, random: np.random.Generator) -> Array:
    """``point`` with ``count`` of its coordinates, chosen at random, drawn anew from [0, 1)."""
    axes = np.argsort(random.random(len(point)))[:count]
    moved = np.array(point)
    moved[axes] = random.random(len(axes))
    return moved


def _expected_of(both: Sequence[tuple[Score, Score]]) -> Callable[[Score], Score]:
    """From scores of here and there, of the same configurations, what a score of there is expected to be here."""
    fitness = [(here.fitness, there.fitness) for here, there in both]
    ratios = [here / there for here, there in fitness if here is not None and there is not None and here * there > 0.0]
    factor = float(np.median(ratios)) if ratios else 1.0
    pairs = [(here.log_ratios, there.log_ratios) for here, there in both if here.fidelity == there.fidelity == 1.0]
    pairs = [(here, there) for here, there in pairs if here and len(here) == len(there)]
    # Counts that are 0 on one side, as those of failed requests, tell no factor.
    apart = [np.where(_measured(here) & _measured(there), np.subtract(here, there), 0.0) for here, there in pairs]
    shifts = np.median(apart, axis=0) if apart else np.zeros(0)

    def expected(there: Score) -> Score:
        scaled = replace(there, fitness=None if there.fitness is None else factor * there.fitness)
        if len(there.log_ratios) != len(shifts) or not shifts.any():
            return scaled
        log_ratios = np.where(_measured(there.log_ratios), np.add(there.log_ratios, shifts), there.log_ratios)
        violation = float(np.sum(np.expm1(np.fmax(log_ratios, 0.0))))
        return replace(
            scaled, infeasible=violation > 0.0, violation=violation, log_ratios=tuple(map(float, log_ratios))
        )

    return expected


def _measured(log_ratios: Sequence[float]) -> NDArray[np.bool_]:
    """Which of these are not cut off, of shape (limits,)."""
    return np.asarray(np.abs(log_ratios) < FARTHEST)
