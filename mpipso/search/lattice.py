"""The space as models and swarms see it: points snapped to cells, many at a time."""

from __future__ import annotations

import copy
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mpipso.search.arrays import Array
from mpipso.search.space import Space

Mask = NDArray[np.bool_]
T = TypeVar("T")

LEVELS = 33
"""The most values of one ordered dimension that a search over models usually sees at a time; of a member of a product,
it sees all, up to 256."""
_COARSE = 20
"""Parts into which :meth:`Lattice.drawn` divides a dimension, each of which gives a value; others are near the best."""
_TRIES = 100
"""The most rounds in which a sample is drawn; each draws as many points as are wanted."""
_BLIND = 10
"""Rounds that draw at random from the whole space before rounds, as many, that draw from what is known to satisfy the
constraints. Where nothing is known, all rounds draw from the whole space."""
_REMEMBERED = 50_000
"""The most results of decoding that one memory holds; then it is cleared."""


class Lattice:
    """Snaps points of shape (m, dimensions) to configurations that can be set, and tells which of them are valid.

    Most dimensions are snapped to the nearest of their ``levels``, the centres of the cells that are seen. A dimension
    whose cells depend on others (a ratio, a member of a product) has to be decoded; so have the dimensions that decide
    on validity. What is decoded is remembered.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self.dimensions = space.dimensions
        self.ordered: Mask = np.array(space.ordered)
        self.levels = space.levels(LEVELS)
        self._edges = list(map(_between, self.levels))
        self._fine = space.axes(LEVELS)
        self._dependent = {axis: list(behind) for axis, behind in space.dependent.items()}
        self._settled: dict[int, dict[bytes, float]] = {axis: {} for axis in self._dependent}
        self.constrained = list(space.constrained)
        """The dimensions that decide on validity."""
        self._valid: dict[bytes, bool] = {}
        self.groups = np.repeat(
            np.arange(self.dimensions),
            [1 if o else len(levels) for o, levels in zip(self.ordered, self.levels, strict=True)],
        )
        """The dimension of each feature, of shape (features,)."""

    def drawn(self, random: np.random.Generator, best: Array) -> Lattice:
        """A lattice with other levels in the dimensions that have more values than can be seen at a time.

        The levels are spread over the dimension, at random places, and are closer and closer together around the first
        of the ``best`` points, of shape (n, dimensions). They include the coordinates of all of these points.
        """
        if not self._fine or not len(best):
            return self
        other = copy.copy(self)
        other.levels, other._edges = list(self.levels), list(self._edges)
        for axis, domain in self._fine.items():
            other.levels[axis] = domain.drawn(_COARSE, random.random(), best[:, axis])
            other._edges[axis] = _between(other.levels[axis])
        return other

    def snap(self, points: Array) -> Array:
        """``points`` moved to the nearest level in every dimension; where cells depend on others, to their centres."""
        snapped = np.clip(points, 0.0, 1.0)
        for axis, (levels, edges) in enumerate(zip(self.levels, self._edges, strict=True)):
            snapped[:, axis] = levels[np.searchsorted(edges, snapped[:, axis])]
        return self.settle(snapped)

    def settle(self, points: Array) -> Array:
        """Move the dimensions whose cells depend on others to the centres of these, in place; returns ``points``."""
        for axis, behind in self._dependent.items():
            settled = self._settled[axis]
            for i, row in enumerate(points[:, behind]):
                key = row.tobytes()
                if key not in settled:
                    _remember(settled, key, float(self.centre(points[i])[axis]))
                points[i, axis] = settled[key]
        return points

    def centre(self, point: Array) -> Array:
        """The centre of the cell that ``point``, of shape (dimensions,), is in."""
        return self.space.encode(self.space.decode(point))

    def valid(self, points: Array) -> Mask:
        """Which of the points satisfy the known constraints, of shape (m,)."""
        found = np.ones(len(points), dtype=np.bool_)
        if self.constrained:
            for i, row in enumerate(points[:, self.constrained]):
                key = row.tobytes()
                if key not in self._valid:
                    _remember(self._valid, key, self.space.valid(self.space.decode(points[i])))
                found[i] = self._valid[key]
        return found

    def features(self, points: Array) -> Array:
        """Coordinates for models, of shape (m, features).

        An ordered dimension is one column. A dimension without order is one column per value, scaled such that any two
        values are at distance 1, as in the Hamming distance. Column i belongs to dimension ``groups[i]``.
        """
        columns = []
        for axis in range(self.dimensions):
            at = points[:, axis]
            if self.ordered[axis]:
                columns.append(at[:, None])
            else:
                which = np.searchsorted(self._edges[axis], at)
                columns.append(np.eye(len(self.levels[axis]))[which] / np.sqrt(2.0))
        return np.concatenate(columns, axis=1)

    def sample(self, random: np.random.Generator, count: int) -> Array:
        """Up to ``count`` valid points, of shape (m, dimensions); fewer where such points are rare.

        They are uniformly distributed. But where less than about a tenth of all points is valid, those still missing
        take the dimensions that decide on validity from what is known to be valid.
        """
        found = np.empty((0, self.dimensions))
        for attempt in range(_TRIES):
            drawn = random.random((count, self.dimensions))
            if attempt >= _BLIND and len(decided := self.space.decided):
                if attempt == 2 * _BLIND:
                    break
                drawn[:, self.constrained] = decided[random.integers(len(decided), size=count)][:, self.constrained]
            drawn = self.snap(drawn)
            found = np.concatenate([found, drawn[self.valid(drawn)]])
            if len(found) >= count:
                break
        return found[:count]

    def neighbours(self, point: Array) -> Array:
        """Every point whose level differs from that of ``point`` in one dimension, valid or not; (m, dimensions)."""
        changed = []
        for axis, levels in enumerate(self.levels):
            copies = np.tile(point, (len(levels), 1))
            copies[:, axis] = levels
            changed.append(copies[np.abs(levels - point[axis]) > 1e-9])
        return self.settle(np.concatenate(changed))


def _between(levels: Array) -> Array:
    """The middles between neighbouring levels."""
    return (levels[1:] + levels[:-1]) / 2


def _remember(memory: dict[bytes, T], key: bytes, value: T) -> None:
    if len(memory) >= _REMEMBERED:
        memory.clear()
    memory[key] = value
