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
from mpipso.search.trees import ExtraTrees

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
    return (values - values.mean()) / (values.std() or 1.0)


def feasibility(score: Score) -> float:
    """1 for feasible, -1 for failed, between -0.2 and -1 by how far limits are missed."""
    if score.failed:
        return -1.0
    return -0.2 - 0.8 * min(score.violation, 1.0) if score.infeasible else 1.0


class Models:
    """Fitted to the measurements at ``points``, of shape (n, dimensions), with one score each."""

    def __init__(self, lattice: Lattice, points: Array, scores: Sequence[Score], random: np.random.Generator) -> None:
        self._lattice = lattice
        features = lattice.features(points)
        valued = np.array([score.fitness is not None for score in scores])
        self._fitness = np.array([score.fitness for score in scores if score.fitness is not None])
        feasible = np.array([score.feasible for score in scores])
        self._process: GaussianProcess | None = None
        self._feasible: GaussianProcess | None = None
        self.best: float | None = None
        weights = np.ones(len(scores))
        if valued.sum() >= 2:
            y = targets(self._fitness)
            self._process = fit(features[valued], y, weights[valued], lattice.groups, Prior())
            all_y = np.full(len(scores), y.max())
            all_y[valued] = y
            self._features, self._all_y = features, all_y
            if feasible.any():
                self.best = float(y[feasible[valued]].min())
            self._trees = ExtraTrees(features, all_y, random)
        if not feasible.all():
            labels = np.array([feasibility(score) for score in scores])
            self._feasible = fit(features, labels, weights, lattice.groups, Prior())

    def believe(self, points: Array, random: np.random.Generator) -> None:
        """Take the mean prediction at points that are in flight for their result."""
        if not len(points):
            return
        features = self._lattice.features(points)
        if self._process is not None:
            mean = self._process.predict(features)[0]
            self._process = self._process.believe(features)
            self._features, self._all_y = np.vstack([self._features, features]), np.append(self._all_y, mean)
            self._trees = ExtraTrees(self._features, self._all_y, random)
        if self._feasible is not None:
            self._feasible = self._feasible.believe(features)

    def promise(self, points: Array, *, trees: bool = False) -> Array:
        """Log of expected improvement times probability of being feasible, of shape (m,)."""
        features = self._lattice.features(points)
        worth = self._log_feasible(features)
        if self._process is None or self.best is None:
            return worth
        model = self._trees if trees else self._process
        mean, deviation = model.predict(features)
        return worth + log_expected_improvement(mean, deviation, self.best)

    def _log_feasible(self, features: Array) -> Array:
        if self._feasible is None:
            return np.zeros(len(features))
        mean, deviation = self._feasible.predict(features)
        return log_ndtr(mean / np.sqrt(deviation**2 + 0.1))
