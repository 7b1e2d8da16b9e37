"""The covariance of a process: main effects of the dimensions one by one, and a rest in which they act together.

Most of what a configuration does is the sum of what its parameters do one by one, and a sum is learned from fewer
points than a product: D. Duvenaud, H. Nickisch, C. E. Rasmussen, "Additive Gaussian processes" (NIPS 2011), here of
the first and of the full order. Both are Matérn 5/2: C. E. Rasmussen, C. K. I. Williams, "Gaussian Processes for
Machine Learning" (MIT Press, 2006), equation 4.17; the distance of the second is equation 4.22: a length scale per
dimension and, as in factor analysis, a direction across them, along which the sum of several parameters counts, as when
they share a memory, or their product, on logarithmic axes, when it is a number of devices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Groups = NDArray[np.intp]

_ROWS = 256
"""The most values of one dimension that are remembered, which bounds the memory."""


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
    """Of any points with given ones, of shape (n, features)."""

    def __init__(self, kernel: Kernel, features: Array) -> None:
        self._kernel = kernel
        self._scaled = kernel.apply(features)
        self._at = coordinates(features, kernel.groups)
        # Of main effects there are few distinct ones: a row for each value that a dimension takes, computed once.
        self._values = [np.empty(0)] * self._at.shape[1]
        self._rows = [np.empty((0, len(features)))] * self._at.shape[1]

    def __call__(self, features: Array) -> Array:
        """Of points of shape (m, features), of shape (m, n)."""
        kernel = self._kernel
        found = matern(squared_distances(kernel.apply(features), self._scaled))
        if kernel.share > 0.0:
            found *= 1.0 - kernel.share
            for d, at in enumerate(coordinates(features, kernel.groups).T):
                found += self._main(d, at)
        return found

    def _main(self, d: int, at: Array) -> Array:
        """The share of dimension ``d``, of shape (m, n)."""
        where = np.searchsorted(self._values[d], at)
        known = np.append(self._values[d], np.inf)[where] == at
        if not known.all():
            kept = self._values[d] if len(self._values[d]) <= _ROWS else np.empty(0)
            self._values[d] = np.union1d(kept, at)
            squares = separations(self._values[d][:, None], self._at[:, d], d, self._kernel.groups)
            self._rows[d] = matern(squares / self._kernel.scales[d] ** 2) * (self._kernel.share / len(self._rows))
            where = np.searchsorted(self._values[d], at)
        return self._rows[d][where]


def coordinates(features: Array, groups: Groups) -> Array:
    """One number per dimension, of shape (m, dimensions): the feature itself, or which of several is set."""
    columns = [np.flatnonzero(groups == d) for d in range(int(groups.max()) + 1)]
    return np.stack([features[:, c[0]] if len(c) == 1 else features[:, c].argmax(axis=1) for c in columns], axis=1)


def separations(a: Array, b: Array, d: int, groups: Groups) -> Array:
    """Squared distances of coordinates in dimension ``d``: 1 where categories differ."""
    if np.count_nonzero(groups == d) > 1:
        return np.asarray(a != b, dtype=float)
    return np.asarray((a - b) ** 2)


def matern(squares: Array) -> Array:
    """By the squared distance."""
    return matern_and_slope(squares)[0]


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
