"""The covariance of a Gaussian process: main effects of single dimensions, and a joint effect of all of them.

Most of what a configuration does is the sum of what its parameters do one by one, and a sum is learned from fewer
points than a product: D. Duvenaud, H. Nickisch, C. E. Rasmussen, "Additive Gaussian processes" (NIPS 2011), here with
terms of the first and of the full order. Both are Matérn 5/2: C. E. Rasmussen, C. K. I. Williams, "Gaussian Processes
for Machine Learning" (MIT Press, 2006), equation 4.17. The distance in the joint effect is that of equation 4.22: it
has a length scale per dimension and, as in factor analysis, a direction across the dimensions. Along the direction,
what counts is a weighted sum of several parameters, as when they share a memory; on logarithmic axes the sum is a
product, such as a number of devices.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpipso.search.arrays import Array

Groups = NDArray[np.intp]

_ROWS = 256
"""Values per dimension, on average, whose main effects are remembered; beyond, all are forgotten to save memory."""


@dataclass(frozen=True)
class Kernel:
    """(1 - ``share``) x Matérn(all) + ``share`` x mean over the dimensions of Matérn(each).

    In each dimension the squared distance is (difference / scale)^2. The joint one, for all dimensions, is the sum of
    these and of (difference of the features . ``direction``)^2. ``scales`` is of shape (dimensions,), ``direction`` of
    shape (features,); ``groups``, of shape (features,), is the dimension of each feature.
    """

    scales: Array
    direction: Array
    share: float
    groups: Groups

    def apply(self, features: Array) -> Array:
        """Points of shape (m, features + 1) whose Euclidean distances are the joint ones of ``features``."""
        return np.hstack([features / self.scales[self.groups], (features @ self.direction)[:, None]])


class Covariance:
    """Covariances between any points and a fixed set of shape (n, features).

    An ordered dimension has one feature, in [0, 1]. A dimension without order has a feature per value; all are 0 except
    that of the value that is set.
    """

    def __init__(self, kernel: Kernel, features: Array) -> None:
        self._kernel = kernel
        self._scaled = kernel.apply(features)
        self._at = coordinates(features, kernel.groups)
        # A dimension takes few distinct values, so its main effect is computed once for each of them: a row of shape
        # (n,). The values of all dimensions are the keys of one sorted list, in which each dimension has a range of its
        # own. Infinity ends the list, so that a search in it always finds a key to compare with.
        widths = np.bincount(kernel.groups) + 1.0
        self._ranges = np.cumsum(widths) - widths
        self._keys = np.array([np.inf])
        self._rows = np.empty((0, len(features)))

    def __call__(self, features: Array) -> Array:
        """Covariances of points of shape (m, features) with the fixed ones; of shape (m, n)."""
        kernel = self._kernel
        found = matern(squared_distances(kernel.apply(features), self._scaled))
        if kernel.share > 0.0:
            found *= 1.0 - kernel.share
            for rows in self._mains(coordinates(features, kernel.groups)).T:
                found += self._rows[rows]
        return found

    def _mains(self, at: Array) -> Groups:
        """The index of the row with the main effect of each coordinate in ``at``; both of shape (m, dimensions)."""
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
        """These covariances with one more fixed point, of shape (features,); remembered rows only grow by an entry."""
        other = copy.copy(self)
        at = coordinates(point[None], self._kernel.groups)
        other._scaled = np.vstack([self._scaled, self._kernel.apply(point[None])])
        other._at = np.vstack([self._at, at])
        other._rows = np.hstack([self._rows, self._shares(self._keys[:-1], at)])
        return other

    def _remember(self, keys: Array) -> None:
        """Compute and keep the rows of new keys, which are in ascending order."""
        places = np.searchsorted(self._keys, keys)
        self._rows = np.insert(self._rows, places, self._shares(keys, self._at), axis=0)
        self._keys = np.insert(self._keys, places, keys)

    def _shares(self, keys: Array, at: Array) -> Array:
        """The main effects between keys, in ascending order, and points with the coordinates ``at``.

        ``at`` is of shape (n, dimensions), the result of shape (keys, n).
        """
        bounds = np.searchsorted(keys, np.append(self._ranges, np.inf))
        rows = [np.empty((0, len(at)))]
        for d in map(int, np.flatnonzero(np.diff(bounds))):
            values = keys[bounds[d] : bounds[d + 1], None] - self._ranges[d]
            squares = separations(values, at[:, d], d, self._kernel.groups)
            rows.append(matern(squares / self._kernel.scales[d] ** 2))
        return np.vstack(rows) * (self._kernel.share / len(self._ranges))


def coordinates(features: Array, groups: Groups) -> Array:
    """One number per dimension, of shape (m, dimensions): its only feature, or the index of the feature that is set."""
    columns = [np.flatnonzero(groups == d) for d in range(groups[-1] + 1)]
    return np.stack([features[:, c[0]] if len(c) == 1 else features[:, c].argmax(axis=1) for c in columns], axis=1)


def separations(a: Array, b: Array, d: int, groups: Groups) -> Array:
    """Squared distances between coordinates in dimension ``d``; without order, any two values are at distance 1."""
    if np.count_nonzero(groups == d) > 1:
        return np.asarray(a != b, dtype=float)
    return np.asarray((a - b) ** 2)


def matern(squares: Array) -> Array:
    """Matérn 5/2 as a function of the squared distance.

    This takes most of the time of predictions, so it does not compute the slope as well.
    """
    scaled = np.sqrt(5.0 * squares)
    return np.asarray((1.0 + scaled + 5.0 / 3.0 * squares) * np.exp(-scaled))


def matern_and_slope(squares: Array) -> tuple[Array, Array]:
    """Matérn 5/2 as a function of the squared distance, and its derivative by the squared distance."""
    scaled = np.sqrt(5.0 * squares)
    decay = np.exp(-scaled)
    slope = (1.0 + scaled) * decay
    return slope + 5.0 / 3.0 * squares * decay, -5.0 / 6.0 * slope


def squared_distances(a: Array, b: Array) -> Array:
    """Squared Euclidean distances between points of shapes (m, d) and (n, d); of shape (m, n)."""
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2.0 * a @ b.T
    return np.asarray(np.maximum(squares, 0.0))
