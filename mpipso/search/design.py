"""What a search with models measures before it has any: points that would teach a model the most."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from mpipso.search.gp import Prior
from mpipso.search.kernel import Covariance
from mpipso.search.lattice import Lattice
from mpipso.search.start import StartingPoints

Array = NDArray[np.float64]

CANDIDATES = 256
"""Points that are chosen from, and as many others at which a model is wanted."""


def design(lattice: Lattice, start: StartingPoints, given: Array, count: int, prior: Prior) -> Array:
    """Points that together leave the least variance, on average over the space.

    The variance is that of a process with the most probable hyperparameters before anything is measured, so it takes
    no result to know it: the integrated mean squared error of J. Sacks, W. J. Welch, T. J. Mitchell, H. P. Wynn,
    "Design and analysis of computer experiments", Statistical Science 4 (1989) 409-423. It is brought down one point
    after the other, as in D. A. Cohn, "Neural network exploration using optimal experiment design" (NIPS 1993).

    Parameters
    ----------
    lattice:
        Of the space that the points are in.
    start:
        The candidates, and after them where the variance is taken.
    given:
        Points that are measured anyway, centres of cells, of shape (n, dimensions).
    count:
        How many points are wanted.
    prior:
        Of the process.

    Returns
    -------
    Of shape (m, dimensions): distinct ones that satisfy the known constraints. There are fewer than wanted where such
    points are rare, and never more than ``CANDIDATES``.
    """
    points = [lattice.centre(point) for point in start.valid(2 * CANDIDATES)]
    taken = {point.tobytes() for point in given}
    distinct = {key: point for point in points[:CANDIDATES] if (key := point.tobytes()) not in taken}
    candidates = np.array(list(distinct.values())).reshape(-1, lattice.dimensions)
    elsewhere = np.array(points[CANDIDATES:] or points).reshape(-1, lattice.dimensions)
    own, cross = _remaining(lattice, prior, given, candidates, elsewhere)
    chosen: list[int] = []
    for _ in range(min(count, len(candidates))):
        variance = np.diag(own) + prior.noise
        gain = (cross**2).sum(axis=1) / variance
        gain[chosen] = -np.inf
        i = int(np.argmax(gain))
        # What a measurement at i tells of the others: Rasmussen and Williams, equation A.6.
        told = own[i] / np.sqrt(variance[i])
        cross -= np.outer(told, cross[i] / np.sqrt(variance[i]))
        own -= np.outer(told, told)
        chosen.append(i)
    return candidates[chosen]


def _remaining(
    lattice: Lattice, prior: Prior, given: Array, candidates: Array, elsewhere: Array
) -> tuple[Array, Array]:
    """Covariances of the candidates with one another and with points elsewhere, once what is given is measured."""
    kernel = prior.kernel(lattice.groups)
    here, there, known = map(lattice.features, (candidates, elsewhere, given))
    covariance = Covariance(kernel, here)
    own, cross = covariance(here), covariance(there).T
    if len(given):
        covariance = Covariance(kernel, known)
        triangle = np.linalg.cholesky(covariance(known) + prior.noise * np.eye(len(known)))
        told = solve_triangular(triangle, covariance(here).T, lower=True)
        own = own - told.T @ told
        cross = cross - told.T @ solve_triangular(triangle, covariance(there).T, lower=True)
    return own, cross
