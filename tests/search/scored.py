"""Scores of measurements that have limits."""

from __future__ import annotations

import math

from mpipso.score import Score


def limited(fitness: float, *ratios: float) -> Score:
    """By the ratios of metrics to their limits; NaN where one is not known."""
    violation = sum(max(ratio - 1.0, 0.0) for ratio in ratios if ratio > 1.0)
    return Score(False, violation > 0.0, violation, fitness, log_ratios=tuple(map(math.log, ratios)))
