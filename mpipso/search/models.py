"""What the measurements so far say of points that were not measured: their value, and whether they are feasible."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtri

from mpipso.search.acquisition import log_expected_improvement
from mpipso.search.gp import GaussianProcess, Prior, fit
from mpipso.search.lattice import Lattice
from mpipso.search.objective import Score

Array = NDArray[np.float64]


def targets(values: Array) -> Array:
    """Values as a model can learn them: half normal scores of the ranks, half winsorised and standardised values.

    The ranks take the sting out of heavy tails, the values keep what the ranks lose. Of shape (n,), least is best.
    Normal scores: G. Blom, "Statistical estimates and transformed beta-variables" (1958).
    """
    count = len(values)
    order = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    _, inverse, size = np.unique(values, return_inverse=True, return_counts=True)
    rank = (np.bincount(inverse, order) / size)[inverse]  # equals share their mean rank
    scores = ndtri((rank + 1.0 - 0.375) / (count + 0.25))
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    spread = (high - low) / 1.349 or float(np.std(values)) or 1.0
    winsorised = np.clip((values - middle) / spread, -3.0, 3.0)
    return 0.5 * _standardised(scores) + 0.5 * _standardised(winsorised)


def _standardised(values: Array) -> Array:
    return np.asarray((values - values.mean()) / (values.std() or 1.0))


def feasibility(score: Score) -> float:
    """1 for feasible, -1 for failed, between -0.2 and -1 by how far limits are missed."""
    if score.failed:
        return -1.0
    return -0.2 - 0.8 * min(score.violation, 1.0) if score.infeasible else 1.0


_DOUBT = 3.0
"""How many times the deviation of the process an explorer supposes."""
_SHARP = 6.0
"""Length of the directions from which that of the edge of the feasible is searched for, for each dimension."""
_VAGUE = 0.1
"""Variance between the process of feasibility and what becomes of a point."""
_CAUTION = 2.0
"""The power of the probability of being feasible: beyond the edge the value is extrapolated, mostly too well."""


class Models:
    """Fitted to the measurements at ``points``, of shape (n, dimensions), with one score each.

    One process for the value, to which failures say nothing, and as soon as something was infeasible one for
    feasibility. Its edge may lie across dimensions that only count together, so it has a direction as well; the search
    for it begins where all ordered dimensions count alike, and at signs that ``random`` draws. Results of less than
    full fidelity count as measurements with more noise.
    """

    def __init__(self, lattice: Lattice, points: Array, scores: Sequence[Score], random: np.random.Generator) -> None:
        self._lattice = lattice
        features = lattice.features(points)
        valued = np.array([score.fitness is not None for score in scores])
        feasible = np.array([score.feasible for score in scores])
        weights = np.array([1.0 / score.fidelity for score in scores])
        self._value: GaussianProcess | None = None
        self._feasible: GaussianProcess | None = None
        self._best: float | None = None
        if valued.sum() >= 2:
            found = targets(np.array([score.fitness for score in scores if score.fitness is not None]))
            self._value = fit(features[valued], found, weights[valued], lattice.groups, Prior())
            best = found[(feasible & (weights == 1.0))[valued]]
            self._best = float(best.min()) if len(best) else None
        if not feasible.all():
            labels = np.array([feasibility(score) for score in scores])
            together = np.where(lattice.ordered[lattice.groups], _SHARP, 0.0)
            starts = [together, together * random.choice([-1.0, 1.0], len(together))]
            self._feasible = fit(features, labels, weights, lattice.groups, Prior(), starts)

    def believe(self, points: Array) -> None:
        """Take the mean prediction at points that are in flight, of shape (m, dimensions), for their result."""
        if not len(points):
            return
        features = self._lattice.features(points)
        if self._value is not None:
            self._value = self._value.believe(features)
        if self._feasible is not None:
            self._feasible = self._feasible.believe(features)

    def promise(self, points: Array, *, explore: bool = False) -> Array:
        """Logarithm of the expected improvement times a power of the probability of being feasible, of shape (m,).

        An explorer supposes that the process is less sure of itself than it says. While nothing is feasible, there is
        only the probability.
        """
        worth = _CAUTION * self.log_feasible(points)
        if self._value is None or self._best is None:
            return worth
        mean, deviation = self._value.predict(self._lattice.features(points))
        if explore:
            deviation = _DOUBT * deviation
        return worth + log_expected_improvement(mean, deviation, self._best)

    def log_feasible(self, points: Array) -> Array:
        """Logarithm of the probability of being feasible, of shape (m,)."""
        if self._feasible is None:
            return np.zeros(len(points))
        mean, deviation = self._feasible.predict(self._lattice.features(points))
        return np.asarray(log_ndtr(mean / np.sqrt(deviation**2 + _VAGUE)))
