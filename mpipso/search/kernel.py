"""The covariance of a process: main effects of the dimensions one by one, and a rest in which they act together.

Most of what a configuration does is the sum of what its parameters do one by one, and a sum is learned from fewer
points than a product: D. Duvenaud, H. Nickisch, C. E. Rasmussen, "Additive Gaussian processes" (NIPS 2011), here of
the first and of the full order. Both are Matérn 5/2: C. E. Rasmussen, C. K. I. Williams, "Gaussian Processes for
Machine Learning" (MIT Press, 2006), equation 4.17; the distance of the second is equation 4.22: a length scale per
dimension and, as in factor analysis, a direction across them, along which the sum of several parameters counts, as when
they share a memory, or their product, on logarithmic axes, when it is a number of devices.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Groups = NDArray[np.intp]

_ROWS = 256
"""Values that are remembered per dimension, on average, before all are forgotten, which bounds the memory."""


@dataclass(frozen=True)
class Kernel:
    """(1 - ``share``) x Matérn(all) + ``share`` x mean over the dimensions of Matérn(each).

    The square of the distance is the sum of (difference / ``scales``)^2, and for all (difference . ``direction``)^2 in
    addition; of shapes (dimensions,) and (features,). ``groups`` is the dimension of each feature.
    """

    scales: Array
    direction: Array
    share: float
    groups: Groups

    def apply(self, features: Array) -> Array:
        """Points between which the distance of all is the Euclidean one, of shape (m, features + 1)."""
        return np.hstack([features / self.scales[self.groups], (features @ self.direction)[:, None]])


class Covariance:
    """Of any points with given ones, of shape (n, features).

    Features of ordered dimensions are in [0, 1], those of others tell one value of several.
    """

    def __init__(self, kernel: Kernel, features: Array) -> None:
        self._kernel = kernel
        self._scaled = kernel.apply(features)
        self._at = coordinates(features, kernel.groups)
        # Of main effects there are few distinct ones: a row for each value that a dimension takes, computed once. The
        # values of all dimensions are in one sorted list, each dimension in a range of its own. Infinity ends it, so
        # that there is always one to compare with.
        widths = np.bincount(kernel.groups) + 1.0
        self._ranges = np.cumsum(widths) - widths
        self._keys = np.array([np.inf])
        self._rows = np.empty((0, len(features)))

    def __call__(self, features: Array) -> Array:
        """Of points of shape (m, features), of shape (m, n)."""
        kernel = self._kernel
        found = matern(squared_distances(kernel.apply(features), self._scaled))
        if kernel.share > 0.0:
            found *= 1.0 - kernel.share
            for rows in self._mains(coordinates(features, kernel.groups)).T:
                found += self._rows[rows]
        return found

    def _mains(self, at: Array) -> Groups:
        """Which row is the share of each coordinate, of shape (m, dimensions)."""
        keys = at + self._ranges
        where = np.searchsorted(self._keys, keys)
        unknown = self._keys[where] != keys
        if unknown.any():
            if len(self._keys) > _ROWS * len(self._ranges):
                self._keys, self._rows, unknown = self._keys[-1:], self._rows[:0], np.ones_like(unknown)
            self._remember(np.unique(keys[unknown]))
            where = np.searchsorted(self._keys, keys)
        return np.asarray(where)

    def extended(self, point: Array) -> Covariance:
        """With one given point more, of shape (features,); what was remembered stays so."""
        other = copy.copy(self)
        at = coordinates(point[None], self._kernel.groups)
        other._scaled = np.vstack([self._scaled, self._kernel.apply(point[None])])
        other._at = np.vstack([self._at, at])
        other._rows = np.hstack([self._rows, self._shares(self._keys[:-1], at)])
        return other

    def _remember(self, keys: Array) -> None:
        """Compute the rows of keys, which are in ascending order."""
        places = np.searchsorted(self._keys, keys)
        self._rows = np.insert(self._rows, places, self._shares(keys, self._at), axis=0)
        self._keys = np.insert(self._keys, places, keys)

    def _shares(self, keys: Array, at: Array) -> Array:
        """The shares of keys, in ascending order, with coordinates of shape (n, dimensions); of shape (keys, n)."""
        bounds = np.searchsorted(keys, np.append(self._ranges, np.inf))
        rows = [np.empty((0, len(at)))]
        for d in map(int, np.flatnonzero(np.diff(bounds))):
            values = keys[bounds[d] : bounds[d + 1], None] - self._ranges[d]
            squares = separations(values, at[:, d], d, self._kernel.groups)
            rows.append(matern(squares / self._kernel.scales[d] ** 2))
        return np.vstack(rows) * (self._kernel.share / len(self._ranges))


def coordinates(features: Array, groups: Groups) -> Array:
    """One number per dimension, of shape (m, dimensions): the feature itself, or which of several is set."""
    columns = [np.flatnonzero(groups == d) for d in range(groups[-1] + 1)]
    return np.stack([features[:, c[0]] if len(c) == 1 else features[:, c].argmax(axis=1) for c in columns], axis=1)


def separations(a: Array, b: Array, d: int, groups: Groups) -> Array:
    """Squared distances of coordinates in dimension ``d``: 1 where categories differ."""
    if np.count_nonzero(groups == d) > 1:
        return np.asarray(a != b, dtype=float)
    return np.asarray((a - b) ** 2)


def matern(squares: Array) -> Array:
    """By the squared distance; of predictions this takes most of the time, so the slope is not computed with it."""
    scaled = np.sqrt(5.0 * squares)
    return np.asarray((1.0 + scaled + 5.0 / 3.0 * squares) * np.exp(-scaled))


def matern_and_slope(squares: Array) -> tuple[Array, Array]:
    """By the squared distance, with its derivative by that."""
    scaled = np.sqrt(5.0 * squares)
    decay = np.exp(-scaled)
    slope = (1.0 + scaled) * decay
    return slope + 5.0 / 3.0 * squares * decay, -5.0 / 6.0 * slope


def squared_distances(a: Array, b: Array) -> Array:
    """Between points of shapes (m, d) and (n, d), of shape (m, n)."""
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2.0 * a @ b.T
    return np.asarray(np.maximum(squares, 0.0))
