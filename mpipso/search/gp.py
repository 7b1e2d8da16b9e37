"""Gaussian process regression with a Matérn 5/2 kernel, for some hundred points.

C. E. Rasmussen, C. K. I. Williams, "Gaussian Processes for Machine Learning" (MIT Press, 2006): equations 2.25-2.26
(prediction), 5.9 (gradient of the marginal likelihood), 4.17 (the kernel) and 4.22 (the distance: a length scale per
dimension and, as in factor analysis, a direction across them, along which the sum of several parameters counts, as when
they share a memory, or their product, on logarithmic axes, when it is a number of devices). The prior of the length
scales grows with the square root of the dimension: C. Hvarfner, E. O. Hellsten, L. Nardi, "Vanilla Bayesian
optimization performs great in high dimensions" (ICML 2024). The amplitude is integrated out under an inverse gamma
prior, as in A. O'Hagan, "Some Bayesian numerical analysis" (Bayesian Statistics 4, 1992), which makes the marginal
likelihood that of a Student t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, lapack, solve_triangular
from scipy.optimize import minimize

Array = NDArray[np.float64]

_ROOT5 = 5**0.5
_JITTER = 1e-8
_DEGREES = 4.0
"""Weight of the prior that the amplitude is 1, in observations."""

_FITTED = 100
"""The most points that hyperparameters are fitted to, which bounds the time it takes; all are predicted from."""


@dataclass(frozen=True)
class Prior:
    """Log-normal ones of the length scales, around ``scale`` x sqrt(dimensions), and of the noise variance.

    ``direction`` is the standard deviation of the normal prior of the direction's coordinates.
    """

    scale: float = 0.4
    scale_spread: float = 1.0
    noise: float = 1e-3
    noise_spread: float = 1.5
    direction: float = 8.0


@dataclass(frozen=True)
class Metric:
    """Distance^2 = sum of (difference / ``scales``)^2 + (difference . ``direction``)^2; both of shape (features,)."""

    scales: Array
    direction: Array

    def apply(self, features: Array) -> Array:
        """Points between which the distance is the Euclidean one, of shape (m, features + 1)."""
        return np.hstack([features / self.scales, (features @ self.direction)[:, None]])


class GaussianProcess:
    """The posterior at given hyperparameters; :func:`fit` finds them.

    Parameters
    ----------
    features:
        Points, of shape (n, features).
    targets:
        Of shape (n,), or (n, samples).
    weights:
        Noise variance of each point in units of ``noise``, of shape (n,).
    amplitude, noise:
        Variance of the process; variance of the noise as a share of it.
    mean:
        Of the process; by default that of the targets.
    """

    def __init__(
        self,
        features: Array,
        targets: Array,
        weights: Array,
        metric: Metric,
        amplitude: float,
        noise: float,
        mean: float | None = None,
    ) -> None:
        self._metric, self._amplitude, self._noise = metric, amplitude, noise
        self._features, self._targets, self._weights = features, targets, weights
        self._scaled = metric.apply(features)
        kernel = _matern(squared_distances(self._scaled, self._scaled))
        kernel[np.diag_indices_from(kernel)] += noise * weights + _JITTER
        self._lower = np.linalg.cholesky(kernel)
        self._mean = float(np.mean(targets)) if mean is None else mean
        self._alpha = cho_solve((self._lower, True), targets - self._mean, check_finite=False)

    def predict(self, features: Array) -> tuple[Array, Array]:
        """Mean and standard deviation, without the noise, at points of shape (m, features).

        The deviation is of shape (m,); so is the mean, or (m, samples) when there are samples of the targets.
        """
        cross = _matern(squared_distances(self._metric.apply(features), self._scaled))
        explained = solve_triangular(self._lower, cross.T, lower=True, check_finite=False)
        variance = np.maximum(1.0 - np.einsum("ij,ij->j", explained, explained), 1e-10)
        return self._mean + cross @ self._alpha, np.sqrt(self._amplitude * variance)

    def imagine(self, point: Array, results: Array) -> GaussianProcess:
        """This process had each of ``results``, of shape (samples,), been measured at a point of shape (features,)."""
        targets = self._targets if self._targets.ndim == 2 else np.tile(self._targets[:, None], len(results))
        return GaussianProcess(
            np.vstack([self._features, point]),
            np.vstack([targets, results]),
            np.append(self._weights, 0.0),
            self._metric,
            self._amplitude,
            self._noise,
            self._mean,
        )


def fit(
    features: Array,
    targets: Array,
    weights: Array,
    groups: NDArray[np.intp],
    prior: Prior,
    directions: Sequence[Array] = (),
) -> GaussianProcess:
    """The process of the most probable hyperparameters.

    Parameters
    ----------
    features, targets, weights:
        As for :class:`GaussianProcess`.
    groups:
        The dimension that each feature belongs to, of shape (features,): features of one share a length scale.
    directions:
        Where to begin the search for a direction, each of shape (features,). One is only taken if it gains log(n) for
        each coordinate, twice what G. Schwarz, "Estimating the dimension of a model" (Annals of Statistics 6, 1978)
        asks for: a direction that is not there costs more than one that is missed.
    """
    count = len(targets)
    some = np.linspace(0, count - 1, min(count, _FITTED)).astype(int)
    posterior = _Posterior(features[some], targets[some], weights[some], groups, prior)
    loss, found = posterior.maximise(np.zeros(features.shape[1]))
    for direction in directions:
        penalty = np.count_nonzero(direction) * np.log(len(some))
        other, theta = posterior.maximise(direction)
        if other + penalty < loss:
            loss, found = other + penalty, theta
    metric, noise = posterior.metric(found), posterior.noise(found)
    unit = GaussianProcess(features, targets, weights, metric, 1.0, noise)
    amplitude = (_DEGREES + float((targets - np.mean(targets)) @ unit._alpha)) / (count + _DEGREES)
    return GaussianProcess(features, targets, weights, metric, amplitude, noise)


class _Posterior:
    """Of the hyperparameters theta: the logarithms of the length scales and of the noise, then the direction."""

    def __init__(self, features: Array, targets: Array, weights: Array, groups: NDArray[np.intp], prior: Prior) -> None:
        self._features, self._weights, self._groups = features, weights, groups
        self._centred = targets - np.mean(targets)
        self._dimensions = int(groups.max()) + 1
        columns = [features[:, groups == d] for d in range(self._dimensions)]
        self._squares = np.stack([squared_distances(x, x).ravel() for x in columns])
        scale = np.log(prior.scale * np.sqrt(self._dimensions))
        width = features.shape[1]
        self._middle = np.concatenate([np.full(self._dimensions, scale), [np.log(prior.noise)], np.zeros(width)])
        spreads = [np.full(self._dimensions, prior.scale_spread), [prior.noise_spread]]
        self._spread = np.concatenate([*spreads, np.full(width, prior.direction)])

    def metric(self, theta: Array) -> Metric:
        return Metric(np.exp(theta[: self._dimensions])[self._groups], theta[self._dimensions + 1 :])

    def noise(self, theta: Array) -> float:
        return float(np.exp(theta[self._dimensions]))

    def maximise(self, direction: Array) -> tuple[float, Array]:
        """The least loss from a direction on, and its theta."""
        start = np.append(self._middle[: self._dimensions + 1], direction)
        bounds = list(zip(self._middle - 4.0 * self._spread, self._middle + 4.0 * self._spread, strict=True))
        options = {"maxiter": 40}
        found = minimize(self.loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        return float(found.fun), np.asarray(found.x)

    def loss(self, theta: Array) -> tuple[float, Array]:
        """The negative logarithm of the posterior, up to a constant, and its gradient."""
        count, dimensions = len(self._centred), self._dimensions
        inverse, noise = np.exp(-2.0 * theta[:dimensions]), self.noise(theta)
        along = self._features @ theta[dimensions + 1 :]
        squares = (inverse @ self._squares).reshape(count, count) + (along[:, None] - along) ** 2
        scaled = np.sqrt(5.0 * squares)
        decay = np.exp(-scaled)
        kernel = (1.0 + scaled + 5.0 / 3.0 * squares) * decay
        kernel[np.diag_indices(count)] += noise * self._weights + _JITTER
        lower, _ = lapack.dpotrf(kernel, lower=True)
        half, _ = lapack.dpotri(lower, lower=True)  # the lower triangle of the inverse
        precision = np.tril(half) + np.tril(half, -1).T
        alpha = precision @ self._centred
        residual, total = _DEGREES + self._centred @ alpha, count + _DEGREES
        off = (theta - self._middle) / self._spread
        value = 0.5 * total * np.log(residual) + np.log(np.diag(lower)).sum() + 0.5 * off @ off
        # By the chain rule: the loss by the kernel, the kernel by the squared distance, that by theta.
        by_kernel = 0.5 * (precision - total / residual * np.outer(alpha, alpha))
        by_square = by_kernel * (-5.0 / 6.0) * (1.0 + scaled) * decay
        by_scale = -2.0 * inverse * (self._squares @ by_square.ravel())
        by_noise = noise * (np.diag(by_kernel) @ self._weights)
        by_direction = 4.0 * self._features.T @ (by_square.sum(axis=1) * along - by_square @ along)
        return float(value), np.concatenate([by_scale, [by_noise], by_direction]) + off / self._spread


def squared_distances(a: Array, b: Array) -> Array:
    """Between points of shapes (m, d) and (n, d), of shape (m, n)."""
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2.0 * a @ b.T
    return np.asarray(np.maximum(squares, 0.0))


def _matern(squares: Array) -> Array:
    scaled = np.sqrt(5.0 * squares)
    return np.asarray((1.0 + scaled + 5.0 / 3.0 * squares) * np.exp(-scaled))
