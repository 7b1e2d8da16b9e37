"""How long an evaluation will take: an estimate from those that were measured, to begin the longest ones first.

Longest first is the LPT rule of R. L. Graham, "Bounds on multiprocessing timing anomalies", SIAM Journal on Applied
Mathematics 17 (1969) 416-429: with a queue and several groups, a long evaluation that begins last keeps all waiting.
"""

from __future__ import annotations

import numpy as np

NEIGHBOURS = 3
"""Measured points, the nearest ones, that a prediction averages over."""


class Durations:
    """Durations of evaluations at points of the unit cube, from which those at other points are predicted."""

    def __init__(self) -> None:
        self._points: list[np.ndarray] = []
        self._seconds: list[float] = []
        self._whole: list[float] = []
        self.long = 0.0
        """Seconds within which nine in ten evaluations ended whose benchmark was not stopped; 0 before any has."""

    def tell(self, point: np.ndarray, seconds: float, *, stopped: bool = False) -> None:
        """An evaluation at ``point``, shape (dimensions,), took ``seconds``; ``stopped`` if its benchmark was early."""
        self._points.append(np.asarray(point, dtype=float))
        self._seconds.append(seconds)
        if not stopped:
            self._whole.append(seconds)
            self.long = float(np.quantile(self._whole, 0.9, method="higher"))

    def predict(self, point: np.ndarray) -> float:
        """The seconds that an evaluation at ``point``, of shape (dimensions,), will take; 0 before anything is known.

        It is the mean over the nearest measured points, weighted by inverse distance.
        """
        if not self._points:
            return 0.0
        distances = np.linalg.norm(np.array(self._points) - point, axis=1)
        nearest = np.argsort(distances, kind="stable")[:NEIGHBOURS]
        weights = 1.0 / (distances[nearest] + 1e-9)
        return float(np.average(np.array(self._seconds)[nearest], weights=weights))
