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
    return np.asarray((values - values.mean()) / (values.std() or 1.0))


def feasibility(score: Score) -> float:
    """1 for feasible, -1 for failed, between -0.2 and -1 by how far limits are missed."""
    if score.failed:
        return -1.0
    return -0.2 - 0.8 * min(score.violation, 1.0) if score.infeasible else 1.0


_DOUBT = 3.0
"""How many times the deviation of the process an explorer supposes."""


class Models:
    """Fitted to the measurements at ``points``, of shape (n, dimensions), with one score each.

    A process and trees for the value, a process for feasibility as soon as something was infeasible. To the process of
    the value failures say nothing; to the trees they are as bad as the worst that was measured. Results of less than
    full fidelity count as measurements with more noise.
    """

    def __init__(self, lattice: Lattice, points: Array, scores: Sequence[Score], random: np.random.Generator) -> None:
        self._lattice, self._random = lattice, random
        self._features = lattice.features(points)
        valued = np.array([score.fitness is not None for score in scores])
        feasible = np.array([score.feasible for score in scores])
        weights = np.array([1.0 / score.fidelity for score in scores])
        self._value: GaussianProcess | None = None
        self._feasible: GaussianProcess | None = None
        self._trees: ExtraTrees | None = None
        self._best: float | None = None
        self._targets = np.zeros(len(scores))
        if valued.sum() >= 2:
            found = targets(np.array([score.fitness for score in scores if score.fitness is not None]))
            self._targets[:] = found.max()
            self._targets[valued] = found
            self._value = fit(self._features[valued], found, weights[valued], lattice.groups, Prior())
            full = feasible & (weights == 1.0)
            if full.any():
                self._best = float(self._targets[full].min())
        if not feasible.all():
            labels = np.array([feasibility(score) for score in scores])
            self._feasible = fit(self._features, labels, weights, lattice.groups, Prior())

    def believe(self, points: Array) -> None:
        """Take the mean prediction at points that are in flight, of shape (m, dimensions), for their result."""
        if not len(points):
            return
        features = self._lattice.features(points)
        if self._value is not None:
            self._targets = np.append(self._targets, self._value.predict(features)[0])
            self._features = np.vstack([self._features, features])
            self._value = self._value.believe(features)
            self._trees = None
        if self._feasible is not None:
            self._feasible = self._feasible.believe(features)

    def promise(self, points: Array, turn: str) -> Array:
        """How much there is to gain by measuring points of shape (m, dimensions), as a logarithm of shape (m,).

        The probability of being feasible, times the improvement that the model of the ``turn`` expects: ``trees``,
        ``process``, or the process as if it were less sure of itself where the turn is to ``explore``.
        """
        features = self._lattice.features(points)
        worth = self._log_feasible(features)
        if self._value is None or self._best is None:
            return worth
        if turn == "trees":
            self._trees = self._trees or ExtraTrees(self._features, self._targets, self._random)
            return worth + log_expected_improvement(*self._trees.predict(features), self._best)
        mean, deviation = self._value.predict(features)
        if turn == "explore":
            deviation = _DOUBT * deviation
        return worth + log_expected_improvement(mean, deviation, self._best)

    def _log_feasible(self, features: Array) -> Array:
        if self._feasible is None:
            return np.zeros(len(features))
        mean, deviation = self._feasible.predict(features)
        return np.asarray(log_ndtr(mean / np.sqrt(deviation**2 + 0.1)))
