"""What the measurements so far say about points that were not measured: their value, and whether they are feasible."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, ndtri

from mpipso.score import Score
from mpipso.search.acquisition import log_expected_improvement
from mpipso.search.arrays import Array
from mpipso.search.gp import GaussianProcess, Prior, fit
from mpipso.search.lattice import Lattice


def targets(values: Array) -> Array:
    """``values`` transformed for a model to learn; both of shape (n,), least is best.

    The result is half the normal scores of the ranks (G. Blom, "Statistical estimates and transformed beta-variables",
    1958) and half the winsorised values, both standardised. Ranks take the sting out of heavy tails; values keep the
    distances that ranks lose.
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


def clearance(log_ratios: Array) -> Array:
    """How far a limit is from being broken, for a model to learn, by the ``log_ratios`` of scores; both of shape (n,).

    It is below 0 where the limit is broken, and 1 or -1, about, where it is a typical distance away. Where a count has
    to be what it is at best, as that of failed requests, no measurement keeps the limit by more than 0: then 0 counts
    as kept by the typical distance.
    """
    off = log_ratios != 0.0
    typical = float(np.median(np.abs(log_ratios[off]))) if off.any() else 1.0
    kept = np.where(off, log_ratios, 0.0 if exact(log_ratios) else -typical)
    return np.asarray(-np.arcsinh(np.clip(kept, -_CUT_OFF * typical, _CUT_OFF * typical) / typical))


def exact(log_ratios: Array) -> bool:
    """Whether a limit is on what is measured on a continuous scale: no two measurements are at the limit itself."""
    return bool(np.count_nonzero(log_ratios == 0.0) < 2)


_CUT_OFF = 1e3
"""What is more times the typical distance away does not count for more."""
VALUE = Prior(share=0.8)
"""The prior of the processes of the value and of limited metrics: most of the variance is in main effects."""
WORKS = Prior(share=0.5, scale_spread=0.5)
"""The prior of the process of what works. It leaves less open about length scales, since labels say little of them."""
_DOUBT = 3.0
"""Factor by which an explorer multiplies the standard deviation of the process of the value."""
_SHARP = 6.0
"""Coordinate, in each ordered dimension, of the directions at which the search for the direction of the edge of the
feasible starts; also its negative."""
_UNLIKELY = 1 / 3
"""Probability of being feasible below which a point comes last."""
_GAIN = 0.3
"""Upper bound of the hoped-for gain, in standard deviations of the values, once a limit has been missed."""
_LAST = 1000.0
"""Subtracted from the log promise of points that come last: more than promises differ by, but for those of hopeless
points, which the model of the value is sure are worse."""
_VAGUE = 0.25
"""Variance of the difference between the process of what works at a point and what a measurement there shows."""
_EXACT = 1e-3
"""The same of the processes of limited metrics."""
_SAMPLES = 16
"""Number of samples of whether the points in flight will be feasible."""


class Models:
    """Models of the value and of feasibility, fitted to measurements at ``points``, of shape (n, dimensions).

    Each point has a score. The value is a Gaussian process fitted to the scores that have one, which failures have not.
    A point is feasible where some more processes are above 0. As soon as something has failed, one of them is that of
    what works: least-squares classification, C. E. Rasmussen, C. K. I. Williams, "Gaussian Processes for Machine
    Learning" (MIT Press, 2006), section 6.5. The edge of what works may depend on a sum over several dimensions, so the
    kernel of this process has a direction. The search for it starts at equal weights of all ordered dimensions, and
    again with signs that ``random`` draws. Another one is that of each limit that has been broken, of how far the
    metric is from it: J. R. Gardner et al., "Bayesian optimization with inequality constraints" (ICML 2014). Results
    of less than full fidelity count as measurements with more noise.
    """

    def __init__(self, lattice: Lattice, points: Array, scores: Sequence[Score], random: np.random.Generator) -> None:
        self._lattice = lattice
        features = lattice.features(points)
        valued = np.array([score.fitness is not None for score in scores])
        judged = np.array([not score.unjudged for score in scores])
        feasible = np.array([score.feasible for score in scores])
        noise_factors = np.array([1.0 / score.fidelity for score in scores])
        self._random = random
        self._value: GaussianProcess | None = None
        self._conditions: list[tuple[GaussianProcess, float]] = []
        self._best: Array | None = None
        self._limited = any(score.infeasible for score in scores)
        if valued.sum() >= 2:
            found = targets(np.array([score.fitness for score in scores if score.fitness is not None]))
            self._value = fit(features[valued], found, noise_factors[valued], lattice.groups, VALUE)
            # The best value is the least that the process predicts at feasible points, since measured ones may be low
            # by luck: the plug-in of V. Picheny, T. Wagner, D. Ginsbourger, "A benchmark of kriging-based infill
            # criteria for noisy optimization" (2013).
            full = features[feasible & valued & judged]
            self._best = self._value.predict(full)[0].min(keepdims=True) if len(full) else None
        labels = np.array([-1.0 if score.failed else 1.0 for score in scores])[judged]
        if (labels < 0.0).any():
            together = np.where(lattice.ordered[lattice.groups], _SHARP, 0.0)
            starts = [together, together * random.choice([-1.0, 1.0], len(together))]
            process = fit(features[judged], labels, noise_factors[judged], lattice.groups, WORKS, starts)
            self._conditions.append((process, _VAGUE))
        for log_ratios in itertools.zip_longest(*(score.log_ratios for score in scores), fillvalue=math.nan):
            found = np.array(log_ratios)
            known = judged & np.isfinite(found)
            if (found[known] > 0.0).any():
                process = fit(features[known], clearance(found[known]), noise_factors[known], lattice.groups, VALUE)
                self._conditions.append((process, _EXACT if exact(found[known]) else _VAGUE))

    @property
    def conditions(self) -> int:
        """How many processes say where a point is feasible; each takes as long as that of the value."""
        return len(self._conditions)

    def imagine(self, points: Array) -> None:
        """Take into account what points in flight, of shape (m, dimensions), may turn out to be.

        Their values are assumed to be what the model of the value predicts: the believer of D. Ginsbourger, R. Le
        Riche, L. Carraro, "Kriging is well-suited to parallelize optimization" (2010). Whether they are feasible is
        sampled, as in J. Snoek, H. Larochelle, R. P. Adams, "Practical Bayesian optimization of machine learning
        algorithms" (NIPS 2012), section 3.2. To promise a gain, a point then has to beat the points in flight as well,
        in the samples in which they are feasible. While nothing is known to be feasible, feasibility is not sampled but
        assumed as predicted. That keeps proposals apart: a point assumed to fail lowers the hope around it.
        """
        for point in self._lattice.features(points):
            feasible = np.ones(1, dtype=np.bool_)
            for index, (process, vague) in enumerate(self._conditions):
                mean, deviation = process.predict(point[None])
                # A value of the process, not a label of 1 or -1: labels that contradict each other would bend it.
                found = mean.ravel()
                if self._best is not None:
                    found = found + deviation * ndtri(self._strata())
                    feasible = feasible & (found + np.sqrt(vague) * ndtri(self._strata()) > 0.0)
                self._conditions[index] = process.imagine(point, found), vague
            if self._value is not None:
                value = float(self._value.predict(point[None])[0][0])
                self._value = self._value.imagine(point, value)
                if self._best is not None:
                    self._best = np.where(feasible, np.minimum(self._best, value), self._best)
                    if np.ptp(self._best) == 0.0:
                        self._best = self._best[:1]

    def _strata(self) -> Array:
        """The middles of equal strata of [0, 1], in random order, of shape (samples,)."""
        return (self._random.permutation(_SAMPLES) + 0.5) / _SAMPLES

    def promise(self, points: Array, *, explore: bool = False) -> Array:
        """The logarithm of the expected improvement times the probability of being feasible, of shape (m,).

        The product is averaged over the samples. While nothing is known to be feasible, it is the probability alone. To
        ``explore`` is to take the model of the value for less certain than it says it is.

        Beyond the edge of the feasible, the model of the value promises ever more: it learns nothing from failures. So
        points that are unlikely to be feasible come after all others but hopeless ones. From what misses limits it does
        learn how good values are there, but these cannot be had. So once a limit has been missed, a point is not better
        for promising more than a certain gain.
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
        """The probability of being feasible in each sample, of shape (m, samples), or (m, 1) without samples."""
        likely = np.ones((len(features), 1))
        for process, vague in self._conditions:
            mean, deviation = process.predict(features)
            likely = likely * ndtr(mean.reshape(len(features), -1) / np.sqrt(deviation[:, None] ** 2 + vague))
        # The least probability keeps the logarithm finite, and low enough to tell all but impossible points apart.
        return np.asarray(np.maximum(likely, 1e-300))


def _log_mean(logarithms: Array) -> Array:
    """The logarithm of the mean, over the last axis, of numbers whose logarithms are given."""
    top = logarithms.max(axis=-1)
    return np.asarray(top + np.log(np.exp(logarithms - top[..., None]).mean(axis=-1)))
