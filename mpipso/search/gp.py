"""Gaussian process regression with a Matérn 5/2 kernel, for some hundred points.

C. E. Rasmussen, C. K. I. Williams, "Gaussian Processes for Machine Learning" (MIT Press, 2006): equations 2.25-2.26
(prediction), 5.9 (gradient of the marginal likelihood) and 4.17 (the kernel). The prior of the length scales grows
with the square root of the dimension: C. Hvarfner, E. O. Hellsten, L. Nardi, "Vanilla Bayesian optimization performs
great in high dimensions" (ICML 2024). The amplitude is integrated out under an inverse gamma prior, as in A. O'Hagan,
"Some Bayesian numerical analysis" (Bayesian Statistics 4, 1992), which makes the marginal likelihood that of a
Student t.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

Array = NDArray[np.float64]

_ROOT5 = 5**0.5
_JITTER = 1e-8
_DEGREES = 4.0
"""Weight of the prior that the amplitude is 1, in observations."""


@dataclass(frozen=True)
class Prior:
    """Log-normal priors: length scales around ``scale`` x sqrt(dimensions), noise variance around ``noise``."""

    scale: float = 0.4
    scale_spread: float = 1.0
    noise: float = 1e-3
    noise_spread: float = 1.5


class GaussianProcess:
    """The posterior at given hyperparameters; :func:`fit` finds them.

    Parameters
    ----------
    features:
        Points, of shape (n, features).
    targets:
        Of shape (n,).
    weights:
        Noise variance of each point in units of ``noise``, of shape (n,).
    scales:
        Length scale of each feature, of shape (features,).
    amplitude, noise:
        Variance of the process; variance of the noise as a share of it.
    """

    def __init__(
        self, features: Array, targets: Array, weights: Array, scales: Array, amplitude: float, noise: float
    ) -> None:
        self._scales, self._amplitude, self._noise = scales, amplitude, noise
        self._features, self._targets, self._weights = features, targets, weights
        self._scaled = features / scales
        kernel = _matern(squared_distances(self._scaled, self._scaled))
        kernel[np.diag_indices_from(kernel)] += noise * weights + _JITTER
        self._lower = np.linalg.cholesky(kernel)
        self._mean = float(np.mean(targets))
        self._alpha = cho_solve((self._lower, True), targets - self._mean, check_finite=False)

    def predict(self, features: Array) -> tuple[Array, Array]:
        """Mean and standard deviation, without the noise, at points of shape (m, features); each of shape (m,)."""
        cross = _matern(squared_distances(features / self._scales, self._scaled))
        explained = solve_triangular(self._lower, cross.T, lower=True, check_finite=False)
        variance = np.maximum(1.0 - np.einsum("ij,ij->j", explained, explained), 1e-10)
        return self._mean + cross @ self._alpha, np.sqrt(self._amplitude * variance)

    def believe(self, features: Array) -> GaussianProcess:
        """This process after measuring its own mean at points of shape (m, features): the kriging believer.

        D. Ginsbourger, R. Le Riche, L. Carraro, "Kriging is well-suited to parallelize optimization" (2010).
        """
        mean = self.predict(features)[0]
        return GaussianProcess(
            np.vstack([self._features, features]),
            np.concatenate([self._targets, mean]),
            np.concatenate([self._weights, np.ones(len(mean))]),
            self._scales,
            self._amplitude,
            self._noise,
        )


def fit(features: Array, targets: Array, weights: Array, groups: NDArray[np.intp], prior: Prior) -> GaussianProcess:
    """The process of the most probable hyperparameters.

    Parameters
    ----------
    features, targets, weights:
        As for :class:`GaussianProcess`.
    groups:
        The dimension that each feature belongs to, of shape (features,): features of one share a length scale.
    """
    dimensions = int(groups.max()) + 1
    count = len(targets)
    centred = targets - np.mean(targets)
    columns = [np.flatnonzero(groups == d) for d in range(dimensions)]
    squares = np.stack([squared_distances(features[:, c], features[:, c]) for c in columns]).reshape(dimensions, -1)
    log_scale = np.log(prior.scale * np.sqrt(dimensions))
    middle = np.append(np.full(dimensions, log_scale), np.log(prior.noise))
    spread = np.append(np.full(dimensions, prior.scale_spread), prior.noise_spread)

    def loss(theta: Array) -> tuple[float, Array]:
        inverse = np.exp(-2.0 * theta[:-1])
        noise = np.exp(theta[-1])
        distance = np.sqrt(inverse @ squares).reshape(count, count)
        decay = np.exp(-_ROOT5 * distance)
        kernel = (1.0 + _ROOT5 * distance + 5.0 / 3.0 * distance**2) * decay
        kernel[np.diag_indices(count)] += noise * weights + _JITTER
        factor = cho_factor(kernel, lower=True, overwrite_a=True, check_finite=False)
        precision = cho_solve(factor, np.eye(count), check_finite=False)
        alpha = precision @ centred
        residual = _DEGREES + centred @ alpha
        total = count + _DEGREES
        off = (theta - middle) / spread
        value = 0.5 * total * np.log(residual) + np.log(np.diag(factor[0])).sum() + 0.5 * off @ off
        # The derivative by the kernel, of which both halves of the symmetric matrix count.
        outer = precision - total / residual * np.outer(alpha, alpha)
        slope = 5.0 / 3.0 * (1.0 + _ROOT5 * distance) * decay
        gradient = np.append(
            0.5 * inverse * (squares @ (outer * slope).ravel()), 0.5 * noise * (np.diag(outer) @ weights)
        )
        return float(value), gradient + off / spread

    bounds = [(m - 4.0 * s, m + 4.0 * s) for m, s in zip(middle, spread, strict=True)]
    found = minimize(loss, middle, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 40})
    theta = found.x
    scales, noise = np.exp(theta[:-1])[groups], float(np.exp(theta[-1]))
    unit = GaussianProcess(features, targets, weights, scales, 1.0, noise)
    amplitude = float((_DEGREES + centred @ unit._alpha) / (count + _DEGREES))
    return GaussianProcess(features, targets, weights, scales, amplitude, noise)


def squared_distances(a: Array, b: Array) -> Array:
    """Between points of shapes (m, d) and (n, d), of shape (m, n)."""
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2.0 * a @ b.T
    return np.asarray(np.maximum(squares, 0.0))


def _matern(squares: Array) -> Array:
    scaled = np.sqrt(5.0 * squares)
    return np.asarray((1.0 + scaled + 5.0 / 3.0 * squares) * np.exp(-scaled))
