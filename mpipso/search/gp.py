"""Gaussian process regression for some hundred points, with the covariance of :mod:`mpipso.search.kernel`.

C. E. Rasmussen, C. K. I. Williams, "Gaussian Processes for Machine Learning" (MIT Press, 2006): equations 2.25-2.26
(prediction) and 5.9 (gradient of the marginal likelihood). The prior of the length scales grows with the square root of
the number of dimensions: C. Hvarfner, E. O. Hellsten, L. Nardi, "Vanilla Bayesian optimization performs great in high
dimensions" (ICML 2024). The amplitude is integrated out under an inverse gamma prior, as in A. O'Hagan, "Some Bayesian
numerical analysis" (Bayesian Statistics 4, 1992), so the marginal likelihood is a Student t density.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, lapack, solve_triangular
from scipy.optimize import minimize

from mpipso.search.arrays import Array
from mpipso.search.kernel import Covariance, Groups, Kernel, coordinates, matern_and_slope, separations

_JITTER = 1e-8
"""Added to the diagonal of the covariance, as a share of the amplitude, so that rounding cannot make it singular."""
_DEGREES = 4.0
"""Weight of the prior of the amplitude, which expects it to be 1, as a number of observations."""

_FITTED = 80
"""The most points that the hyperparameters are fitted to, which bounds the time; predictions use all points."""


@dataclass(frozen=True)
class Prior:
    """Priors of the hyperparameters.

    Length scales and the noise variance are log-normal, with medians ``scale`` x sqrt(dimensions) and ``noise``; the
    noise is a share of the amplitude. The share of main effects is logit-normal with median ``share``; where that is 0,
    there are none. Each ``..._spread`` is the standard deviation of the logarithm or the logit. The coordinates of the
    direction are normal, with mean 0 and standard deviation ``direction``.
    """

    scale: float = 0.4
    scale_spread: float = 1.0
    noise: float = 1e-3
    noise_spread: float = 1.5
    share: float = 0.0
    share_spread: float = 1.0
    direction: float = 8.0

    def kernel(self, groups: Groups) -> Kernel:
        """The kernel at the mode of the prior; ``groups`` is the dimension of each feature, of shape (features,)."""
        dimensions = len(np.unique(groups))
        scales = np.full(dimensions, self.scale * np.sqrt(dimensions))
        return Kernel(scales, np.zeros(len(groups)), self.share, groups)


class GaussianProcess:
    """A Gaussian process given measurements and hyperparameters; :func:`fit` finds the hyperparameters.

    Parameters
    ----------
    features:
        The measured points, of shape (n, features).
    targets:
        The measured values, of shape (n,), or (n, samples) for several alternatives of them.
    noise_factors:
        The noise variance at each point as a multiple of ``noise``, of shape (n,).
    kernel:
        The covariance function, of variance 1.
    amplitude:
        The variance of the process.
    noise:
        The noise variance of one measurement, as a share of ``amplitude``.
    """

    def __init__(
        self,
        features: Array,
        targets: Array,
        noise_factors: Array,
        kernel: Kernel,
        amplitude: float,
        noise: float,
    ) -> None:
        self._amplitude, self._targets = amplitude, targets
        self._covariance = Covariance(kernel, features)
        own = self._covariance(features)
        own[np.diag_indices_from(own)] += noise * noise_factors + _JITTER
        self._lower = np.linalg.cholesky(own)
        self._mean = float(np.mean(targets))
        self._solve()

    def predict(self, features: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the process, without noise, at points of shape (m, features).

        The deviation is of shape (m,); so is the mean, or (m, samples) if the targets are samples.
        """
        cross = self._covariance(features)
        explained = solve_triangular(self._lower, cross.T, lower=True, check_finite=False)
        variance = np.maximum(1.0 - np.einsum("ij,ij->j", explained, explained), 1e-10)
        return self._mean + cross @ self._alpha, np.sqrt(self._amplitude * variance)

    def imagine(self, point: Array, result: Array | float) -> GaussianProcess:
        """This process as if ``result`` had also been measured, without noise, at a point of shape (features,).

        ``result`` is one number, or one for each sample, of shape (samples,). The hyperparameters stay what they are,
        so the Cholesky factor only grows by a row; to factorise anew for every point in flight would take most of the
        time of a proposal.
        """
        targets = self._targets
        if np.ndim(result) > targets.ndim - 1:
            targets = np.tile(targets[:, None], np.size(result))
        row = solve_triangular(self._lower, self._covariance(point[None])[0], lower=True, check_finite=False)
        # At a point that is known already, rounding may leave less than the jitter, or even less than 0.
        own = np.sqrt(max(1.0 + _JITTER - row @ row, _JITTER))
        other = copy.copy(self)
        other._targets = np.concatenate([targets, np.broadcast_to(result, targets[:1].shape)])
        other._covariance = self._covariance.extended(point)
        other._lower = np.block([[self._lower, np.zeros((len(row), 1))], [row, own]])
        other._solve()
        return other

    def _solve(self) -> None:
        self._alpha = cho_solve((self._lower, True), self._targets - self._mean, check_finite=False)


def fit(
    features: Array,
    targets: Array,
    noise_factors: Array,
    groups: Groups,
    prior: Prior,
    directions: Sequence[Array] = (),
) -> GaussianProcess:
    """The process with the most probable hyperparameters.

    Parameters
    ----------
    features, targets, noise_factors:
        As for :class:`GaussianProcess`.
    groups:
        The dimension that each feature belongs to, of shape (features,): features of one share a length scale.
    directions:
        Where to start the search for the kernel's direction, each of shape (features,); without any, it is 0. Another
        direction than 0 is taken only if it adds log(n) to the log posterior for each coordinate of its start that is
        not 0, twice what G. Schwarz, "Estimating the dimension of a model" (Annals of Statistics 6, 1978) asks for: a
        spurious direction costs more than a missed one.
    """
    count = len(targets)
    some = np.linspace(0, count - 1, min(count, _FITTED)).astype(int)
    posterior = _Posterior(features[some], targets[some], noise_factors[some], groups, prior)
    loss, found = posterior.maximise(np.zeros(features.shape[1]))
    for direction in directions:
        penalty = np.count_nonzero(direction) * np.log(len(some))
        other, theta = posterior.maximise(direction)
        if other + penalty < loss:
            loss, found = other + penalty, theta
    kernel, noise = posterior.kernel(found), posterior.noise(found)
    process = GaussianProcess(features, targets, noise_factors, kernel, 1.0, noise)
    # The amplitude is computed from the solved process, whose factor and coefficients do not depend on it.
    process._amplitude = (_DEGREES + float((targets - np.mean(targets)) @ process._alpha)) / (count + _DEGREES)
    return process


class _Posterior:
    """The posterior of the hyperparameters theta = (log scales, log noise, logit share, direction).

    Theta is one vector, of shape (dimensions + 2 + features,).
    """

    def __init__(self, features: Array, targets: Array, noise_factors: Array, groups: Groups, prior: Prior) -> None:
        self._features, self._noise_factors, self._groups = features, noise_factors, groups
        self._centred = targets - np.mean(targets)
        middle = prior.kernel(groups)
        self._dimensions = len(middle.scales)
        # Every pair of points once: the entries of the covariance below its diagonal.
        self._pairs = np.tril_indices(len(targets), -1)
        at = coordinates(features, groups)
        one, other = at[self._pairs[0]], at[self._pairs[1]]
        self._squares = np.stack([separations(one[:, d], other[:, d], d, groups) for d in range(self._dimensions)])
        self._mains = prior.share > 0.0
        share = np.log(prior.share / (1.0 - prior.share)) if self._mains else 0.0
        width = features.shape[1]
        self._middle = np.concatenate([np.log(middle.scales), [np.log(prior.noise), share], middle.direction])
        spreads = [np.full(self._dimensions, prior.scale_spread), [prior.noise_spread, prior.share_spread]]
        self._spread = np.concatenate([*spreads, np.full(width, prior.direction)])

    def kernel(self, theta: Array) -> Kernel:
        d = self._dimensions
        return Kernel(np.exp(theta[:d]), theta[d + 2 :], self._share(theta), self._groups)

    def noise(self, theta: Array) -> float:
        return float(np.exp(theta[self._dimensions]))

    def _share(self, theta: Array) -> float:
        return float(1.0 / (1.0 + np.exp(-theta[self._dimensions + 1]))) if self._mains else 0.0

    def maximise(self, direction: Array) -> tuple[float, Array]:
        """The least loss that is found, and its theta; the search starts at ``direction`` and the mode of the prior."""
        start = np.append(self._middle[: self._dimensions + 2], direction)
        bounds = list(zip(self._middle - 4.0 * self._spread, self._middle + 4.0 * self._spread, strict=True))
        # Relative to losses of about 100, this is a thousandth of a nat, which changes no prediction that matters.
        options = {"maxiter": 40, "ftol": 1e-5}
        found = minimize(self.loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        return float(found.fun), np.asarray(found.x)

    def loss(self, theta: Array) -> tuple[float, Array]:
        """The negative logarithm of the posterior, up to a constant, and its gradient."""
        count, dimensions = len(self._centred), self._dimensions
        first, second = self._pairs
        inverse, noise, share = np.exp(-2.0 * theta[:dimensions]), self.noise(theta), self._share(theta)
        along = self._features @ theta[dimensions + 2 :]
        apart = along[first] - along[second]
        pairs, slope = matern_and_slope(inverse @ self._squares + apart**2)
        if self._mains:
            mains, slopes = matern_and_slope(inverse[:, None] * self._squares)
            gap = mains.mean(axis=0) - pairs
            pairs = pairs + share * gap
        kernel = np.zeros((count, count))
        kernel[first, second] = pairs
        kernel[np.diag_indices(count)] = 1.0 + noise * self._noise_factors + _JITTER
        # Neither call can fail: the jitter is far above rounding errors, even for equal points without noise.
        lower, _ = lapack.dpotrf(kernel, lower=True)
        alpha = cho_solve((lower, True), self._centred, check_finite=False)
        precision, _ = lapack.dpotri(lower, lower=True)  # the lower triangle of the inverse
        residual, total = _DEGREES + self._centred @ alpha, count + _DEGREES
        off = (theta - self._middle) / self._spread
        value = 0.5 * total * np.log(residual) + np.log(np.diag(lower)).sum() + 0.5 * off @ off
        # The chain rule: the derivative of the loss by entries of the kernel, of these by squared distances, and of
        # those by theta. A pair has two entries in the kernel, a single point one: hence 0.5 only for the latter.
        by_pair = precision[first, second] - total / residual * alpha[first] * alpha[second]
        by_own = 0.5 * (np.diag(precision) - total / residual * alpha**2)
        by_square = (1.0 - share) * by_pair * slope
        by_inverse = self._squares @ by_square
        by_share = 0.0
        if self._mains:
            by_share = share * (1.0 - share) * float(by_pair @ gap)
            by_inverse += share / dimensions * np.einsum("dp,dp,p->d", self._squares, slopes, by_pair)
        by_noise = noise * float(by_own @ self._noise_factors)
        pull = 2.0 * by_square * apart
        by_along = np.bincount(first, pull, count) - np.bincount(second, pull, count)
        gradient = [-2.0 * inverse * by_inverse, [by_noise, by_share], self._features.T @ by_along]
        return float(value), np.concatenate(gradient) + off / self._spread
