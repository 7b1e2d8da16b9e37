"""What the measurements so far say of points that were not measured: their value, and whether they are feasible."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

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


def feasibility(score: Score, barely: float) -> float:
    """1 for feasible, -1 for failed, from ``barely`` to -1 by how far limits are missed, on a logarithmic scale."""
    if score.failed:
        return -1.0
    missed = min(math.log1p(score.violation) / math.log1p(_FARTHEST), 1.0)
    return barely - (1.0 + barely) * missed if score.infeasible else 1.0


_FARTHEST = 50.0
"""How far limits are missed, as a multiple of them, that tells no more than a failure does. Latencies of a service that
is overloaded are many times their limits, and what is less overloaded has to be told."""
_BARELY = -0.6
"""What barely misses a limit. Were it nearer to 0, the edge would seem to be farther out than it is."""
_BARELY_AT_FIRST = -0.2
"""The same while nothing is feasible, nor was elsewhere: there is no edge yet, and what misses limits by less has to
stand out."""
VALUE = Prior(share=0.8)
"""Of the process of the value: most of its variance is in main effects."""
FEASIBLE = Prior(share=0.5, scale_spread=0.5)
"""Of the process of feasibility: labels of two values say little of length scales, so less of them is left open."""
_DOUBT = 3.0
"""How many times the deviation of the process an explorer supposes."""
_SHARP = 6.0
"""Length of the directions from which that of the edge of the feasible is searched for, for each dimension."""
_UNLIKELY = 1 / 3
"""To be feasible."""
_GAIN = 0.3
"""The most that is hoped for at a time, as a multiple of the deviation of the values, where limits are missed."""
_LAST = 1000.0
"""More than what is promised differs by, in logarithms, wherever a swarm would fly."""
_VAGUE = 0.25
"""Variance between the process of feasibility and what becomes of a point."""
_SAMPLES = 16
"""Of what may become of a point that is in flight."""


class Models:
    """Fitted to the measurements at ``points``, of shape (n, dimensions), with one score each.

    One process for the value, to which failures say nothing, and as soon as something was infeasible one for
    feasibility: least-squares classification, C. E. Rasmussen, C. K. I. Williams, "Gaussian Processes for Machine
    Learning" (MIT Press, 2006), section 6.5. Its edge may lie across dimensions that only count together, so it has a
    direction as well; the search for it begins where all ordered dimensions count alike, and at signs that ``random``
    draws. Results of less than full fidelity count as measurements with more noise.
    """

    def __init__(self, lattice: Lattice, points: Array, scores: Sequence[Score], random: np.random.Generator) -> None:
        self._lattice = lattice
        features = lattice.features(points)
        valued = np.array([score.fitness is not None for score in scores])
        judged = np.array([not score.unjudged for score in scores])
        feasible = np.array([score.feasible for score in scores])
        weights = np.array([1.0 / score.fidelity for score in scores])
        self._random = random
        self._value: GaussianProcess | None = None
        self._feasible: GaussianProcess | None = None
        self._best: Array | None = None
        self._limited = any(score.infeasible for score in scores)
        if valued.sum() >= 2:
            found = targets(np.array([score.fitness for score in scores if score.fitness is not None]))
            self._value = fit(features[valued], found, weights[valued], lattice.groups, VALUE)
            # What the process says of the best point, not what noise made of it: V. Picheny, T. Wagner, D. Ginsbourger,
            # "A benchmark of kriging-based infill criteria for noisy optimization" (2013), plug-in.
            full = features[feasible & valued & judged & (weights == 1.0)]
            self._best = self._value.predict(full)[0].min(keepdims=True) if len(full) else None
        if not feasible[judged].all():
            barely = _BARELY if feasible.any() else _BARELY_AT_FIRST
            labels = np.array([feasibility(score, barely) for score in scores])
            together = np.where(lattice.ordered[lattice.groups], _SHARP, 0.0)
            starts = [together, together * random.choice([-1.0, 1.0], len(together))]
            self._feasible = fit(features[judged], labels[judged], weights[judged], lattice.groups, FEASIBLE, starts)

    def imagine(self, points: Array) -> None:
        """Take into account what may become of points in flight, of shape (m, dimensions).

        Their values will be what the process of the value says: the believer of D. Ginsbourger, R. Le Riche, L.
        Carraro, "Kriging is well-suited to parallelize optimization" (2010). Whether they will be feasible is sampled,
        as in J. Snoek, H. Larochelle, R. P. Adams, "Practical Bayesian optimization of machine learning algorithms"
        (NIPS 2012), section 3.2. To gain anything, a point has to beat them too, where they are feasible. While nothing
        is feasible it is believed as well, which keeps them apart: around what is believed to fail less is hoped for.
        """
        for point in self._lattice.features(points):
            feasible = np.ones(1, dtype=np.bool_)
            if self._feasible is not None:
                mean, deviation = self._feasible.predict(point[None])
                # What the process is there, not the label: labels that contradict each other would bend it.
                found = mean.ravel()
                if self._best is not None:
                    found = found + deviation * ndtri(self._strata())
                    feasible = found + np.sqrt(_VAGUE) * ndtri(self._strata()) > 0.0
                self._feasible = self._feasible.imagine(point, found)
            if self._value is not None:
                value = float(self._value.predict(point[None])[0][0])
                self._value = self._value.imagine(point, value)
                if self._best is not None:
                    self._best = np.where(feasible, np.minimum(self._best, value), self._best)
                    if np.ptp(self._best) == 0.0:
                        self._best = self._best[:1]

    def _strata(self) -> Array:
        """One number of each stratum of [0, 1], in random order, of shape (samples,)."""
        return (self._random.permutation(_SAMPLES) + 0.5) / _SAMPLES

    def promise(self, points: Array, *, explore: bool = False) -> Array:
        """Logarithm of the expected improvement times the probability of being feasible, of shape (m,).

        It is the mean over the samples. An explorer supposes that the process is less sure of itself than it says.
        While nothing is feasible, there is only the probability. Beyond the edge of what is feasible the process of the
        value, which failures tell nothing, promises ever more, so what is unlikely comes after all that is not. What
        misses limits tells it how much more, but that cannot be had: a point is not better for promising more than so
        much.
        """
        features = self._lattice.features(points)
        likely = np.log(self._likely(features))
        if self._value is None or self._best is None:
            return _log_mean(likely)
        mean, deviation = self._value.predict(features)
        if explore:
            deviation = _DOUBT * deviation
        means = np.maximum(mean[:, None], self._best - _GAIN) if self._limited else mean[:, None]
        gain = log_expected_improvement(means, deviation[:, None], self._best)
        unlikely = _log_mean(likely) < np.log(_UNLIKELY)
        return np.asarray(_log_mean(likely + gain) - np.where(unlikely, _LAST, 0.0))

    def likely(self, points: Array) -> Array:
        """The probability of being feasible, of shape (m,)."""
        return np.asarray(self._likely(self._lattice.features(points)).mean(axis=1))

    def _likely(self, features: Array) -> Array:
        """Of shape (m, 1) or (m, samples)."""
        if self._feasible is None:
            return np.ones((len(features), 1))
        mean, deviation = self._feasible.predict(features)
        return _probability(mean.reshape(len(features), -1), deviation[:, None])


def _probability(mean: Array, deviation: Array) -> Array:
    # Not less than this, so that its logarithm still tells points apart that are all but impossible.
    return np.asarray(np.maximum(ndtr(mean / np.sqrt(deviation**2 + _VAGUE)), 1e-300))


def _log_mean(logarithms: Array) -> Array:
    """Of the mean over the last axis."""
    top = logarithms.max(axis=-1)
    return np.asarray(top + np.log(np.exp(logarithms - top[..., None]).mean(axis=-1)))
