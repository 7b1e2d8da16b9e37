"""The initial design: the points, measured before there is a model, from which a model would learn the most."""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve_triangular

from mpipso.search.arrays import Array
from mpipso.search.gp import Prior
from mpipso.search.kernel import Covariance
from mpipso.search.lattice import Lattice
from mpipso.search.start import StartingPoints

CANDIDATES = 256
"""Points that the design is chosen from. As many others stand for the space when the variance is averaged."""


def design(lattice: Lattice, start: StartingPoints, given: Array, count: int, prior: Prior) -> Array:
    """Points that, once measured, leave the least posterior variance on average over the space.

    The variance is that of a Gaussian process whose hyperparameters are at the mode of the prior. It does not depend on
    results, so it is known before anything is measured. Its average is the integrated mean squared error of J. Sacks,
    W. J. Welch, T. J. Mitchell, H. P. Wynn, "Design and analysis of computer experiments", Statistical Science 4 (1989)
    409-423. Points are chosen one after the other, each to reduce it the most, as in D. A. Cohn, "Neural network
    exploration using optimal experiment design" (NIPS 1993).

    Parameters
    ----------
    lattice:
        The lattice of the space that the points are in.
    start:
        Where the candidates come from and, after them, the points over which the variance is averaged.
    given:
        Points that are measured anyway, centres of cells, of shape (n, dimensions).
    count:
        How many points are wanted.
    prior:
        The prior of the process.

    Returns
    -------
    Distinct points that satisfy the known constraints, of shape (m, dimensions), none of them given. There are fewer
    than wanted where such points are rare, and never more than ``CANDIDATES``.
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
        # A measurement at i reduces all covariances, by Rasmussen and Williams, equation A.6.
        told = own[i] / np.sqrt(variance[i])
        cross -= np.outer(told, cross[i] / np.sqrt(variance[i]))
        own -= np.outer(told, told)
        chosen.append(i)
    return candidates[chosen]


def _remaining(
    lattice: Lattice, prior: Prior, given: Array, candidates: Array, elsewhere: Array
) -> tuple[Array, Array]:
    """Covariances once the given points are measured: of the c candidates with one another, of shape (c, c), and with
    the e points elsewhere, of shape (c, e)."""
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
