"""How sure a gain is: a confidence interval from repeated measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from scipy.special import stdtrit

LEVEL = 0.95
"""The probability with which an interval holds the truth."""


def ratio_interval(
    before: Sequence[float], after: Sequence[float], others: Sequence[Sequence[float]] = ()
) -> tuple[float, float] | None:
    """A confidence interval for the ratio of ``after`` to ``before``, such as (1.31, 1.42).

    ``after`` are the values of the best of several contenders, ``others`` those of each of the rest: being chosen
    flatters it. The interval is one of several, one for each contender, that hold all at once with probability
    :data:`LEVEL`, so it holds whichever was chosen. With n and m values before and after whose logarithms have the
    means a and b, and the sum of squared deviations S, with f degrees of freedom, over all contenders and ``before``::

        s^2 = S / f
        ratio = exp(b - a -/+ t(f) s sqrt(1/n + 1/m))

    where t(f) is the quantile of Student's distribution at 1 - (1 - LEVEL) / (2 contenders): "Student" (W. S. Gosset),
    "The probable error of a mean", Biometrika 6 (1908) 1-25; O. J. Dunn, "Multiple comparisons among means", Journal of
    the American Statistical Association 56 (1961) 52-64, by Bonferroni's inequality; with one variance for all as in C.
    W. Dunnett, "A multiple comparison procedure for comparing several treatments with a control" (ibid. 50 (1955)
    1096-1121). It assumes that logarithms are normal with one variance, that is that the noise of all configurations is
    the same in per cent.

    Returns None when there is nothing to tell the noise from (a single measurement of each, or always the same), or a
    value that is not positive, of which no per cent exist.
    """
    samples = [values for values in (before, after, *others) if values]
    freedom = sum(len(values) - 1 for values in samples)
    if not before or not after or freedom < 1 or min(map(min, samples)) <= 0:
        return None
    logarithms = [[math.log(value) for value in values] for values in samples]
    means = [fmean(sample) for sample in logarithms]
    squares = sum((x - mean) ** 2 for sample, mean in zip(logarithms, means, strict=True) for x in sample)
    if squares == 0:
        return None
    error = math.sqrt(squares / freedom * (1 / len(before) + 1 / len(after)))
    quantile = float(stdtrit(freedom, 1 - (1 - LEVEL) / (2 * (len(samples) - 1))))
    middle, half = means[1] - means[0], quantile * error
    try:
        return math.exp(middle - half), math.exp(middle + half)
    except OverflowError:  # two values that differ by hundreds of orders of magnitude
        return None
