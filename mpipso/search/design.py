"""What a search with models measures before it has any: points that would teach a model the most."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mpipso.search.gp import Prior
from mpipso.search.kernel import Covariance
from mpipso.search.lattice import Lattice
from mpipso.search.start import Start

Array = NDArray[np.float64]

CANDIDATES = 256
"""Points that are chosen from, and as many others at which a model is wanted."""


def design(lattice: Lattice, start: Start, given: Array, count: int, prior: Prior) -> Array:
    """Points that together leave the least variance, on average over the space; at most ``CANDIDATES``.

    The variance is that of a process with the most probable hyperparameters before anything is measured, so it takes
    no result to know it: the integrated mean squared error of J. Sacks, W. J. Welch, T. J. Mitchell, H. P. Wynn,
    "Design and analysis of computer experiments", Statistical Science 4 (1989) 409-423. It is brought down one point
    after the other, as in D. A. Cohn, "Neural network exploration using optimal experiment design" (NIPS 1993).

    Parameters
    ----------
    start:
        The candidates, and after them where the variance is taken.
    given:
        Points that are measured anyway, of shape (n, dimensions).

    Returns
    -------
    Of shape (min(count, CANDIDATES), dimensions).
    """
    candidates = np.array([start[i] for i in range(CANDIDATES)])
    elsewhere = np.array([start[CANDIDATES + i] for i in range(CANDIDATES)])
    points = np.vstack([given, candidates])
    features = lattice.features(points)
    covariance = Covariance(prior.kernel(lattice.groups), features)
    own, cross = covariance(features), covariance(lattice.features(elsewhere)).T
    chosen: list[int] = []
    for number in range(len(given) + min(count, CANDIDATES)):
        variance = np.diag(own) + prior.noise
        gain = (cross**2).sum(axis=1) / variance
        gain[chosen] = -np.inf
        i = number if number < len(given) else int(np.argmax(gain))
        # What a measurement at i tells of the others: Rasmussen and Williams, equation A.6.
        told = own[i] / np.sqrt(variance[i])
        cross -= np.outer(told, cross[i] / np.sqrt(variance[i]))
        own -= np.outer(told, told)
        chosen.append(i)
    return np.asarray(points[chosen[len(given) :]])
