"""How sure a gain is: a confidence interval from repeated measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

LEVEL = 0.95


def ratio_interval(before: Sequence[float], after: Sequence[float], level: float = LEVEL) -> tuple[float, float] | None:
    """A confidence interval for the ratio of ``after`` to ``before``, such as (1.31, 1.42).

    It is Student's interval for the difference of two means, taken of the logarithms. With n and m values whose
    logarithms have the means a and b and the sums of squared deviations A and B::

        s^2 = (A + B) / (n + m - 2)
        ratio = exp(b - a -/+ t(n + m - 2) s sqrt(1/n + 1/m))

    where t(k) is the quantile of Student's distribution with k degrees of freedom: "Student" (W. S. Gosset), "The
    probable error of a mean", Biometrika 6 (1908) 1-25; for two samples R. A. Fisher, "Applications of 'Student's'
    distribution", Metron 5 (1925) 90-104. It is exact when the logarithms are normal with one variance, that is when
    the noise of both configurations is the same in per cent.

    Returns None when there is nothing to tell the noise from (a single measurement of each), or a value that is not
    positive, of which no per cent exist.
    """
    freedom = len(before) + len(after) - 2
    if not before or not after or freedom < 1 or min(*before, *after) <= 0:
        return None
    old, new = [math.log(value) for value in before], [math.log(value) for value in after]
    middle = fmean(new) - fmean(old)
    squares = sum((value - fmean(sample)) ** 2 for sample in (old, new) for value in sample)
    half = student(level, freedom) * math.sqrt(squares / freedom * (1 / len(old) + 1 / len(new)))
    try:
        return math.exp(middle - half), math.exp(middle + half)
    except OverflowError:  # two values that differ by hundreds of orders of magnitude
        return None


def student(level: float, freedom: int) -> float:
    """The t within which the magnitude of Student's variable lies with probability ``level`` (0 < level < 1).

    By bisection of the closed form for a whole number of degrees of freedom, 26.7.3 and 26.7.4 of M. Abramowitz and I.
    A. Stegun, "Handbook of Mathematical Functions", 1964.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (angle, high) if _inside(angle, freedom) < level else (low, angle)
    return math.tan(low) * math.sqrt(freedom)


def _inside(angle: float, freedom: int) -> float:
    """The probability of a magnitude below t, with ``angle`` = atan(t / sqrt(freedom))."""
    sine, squared = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2
    term = total = math.cos(angle) if odd else 1.0
    if freedom == 1:
        total = 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= (k - 1) / k * squared
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
