"""Which of several noisy candidates is best, from repeated measurements of their fitness (minimised).

The noise of a benchmark grows with what it measures, so it is estimated relative to the mean and pooled over all
candidates: sigma^2 = sum_ij (x_ij / mean_i - 1)^2 / sum_i (n_i - 1), the usual pooled variance (D. C. Montgomery,
"Design and Analysis of Experiments", one-way analysis of variance). A few measurements of each then tell more than they
would alone. Racing, which drops a candidate as soon as it is worse than the leader beyond the noise: O. Maron,
A. W. Moore, "Hoeffding races" (NIPS 1993); with a t test in place of Hoeffding's bound as in M. Birattari et al., "A
racing algorithm for configuring metaheuristics" (GECCO 2002).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from scipy.special import ndtri, stdtrit

_SURE = 0.9
"""Nominal confidence of the one-sided normal test by which a challenger beats the incumbent. The test takes the noise
for known. While it is estimated from two measurements of one candidate alone, a challenger that is no better wins in
more than a fifth of all cases. The final race, where there is one, judges anew."""
_OUT = 0.95
"""Confidence of the one-sided t test by which a candidate drops out of a race."""


@dataclass(frozen=True)
class Noise:
    """The standard deviation of one measurement, and its degrees of freedom; both 0 when nothing was measured twice.

    The deviation is ``relative`` to the mean of the measurements, or absolute.
    """

    deviation: float
    freedom: int = 0
    relative: bool = True

    def error(self, values: Sequence[float]) -> float:
        """The standard error of the mean of ``values``."""
        scale = abs(fmean(values)) if self.relative else 1.0
        return self.deviation * scale / math.sqrt(len(values))


def pooled_noise(values: Sequence[Sequence[float]]) -> Noise:
    """The noise of one measurement, pooled over those of several candidates; ``values`` has a sequence for each.

    It is absolute if the values of repeated measurements are not all of one sign: near zero, a share of the mean is no
    measure of noise.
    """
    every = [value for repeated in values if len(repeated) > 1 for value in repeated]
    relative = not every or min(every) > 0.0 or max(every) < 0.0
    squares, freedom = 0.0, 0
    for repeated in values:
        if len(repeated) > 1:
            mean = fmean(repeated)
            squares += math.fsum(((value - mean) / (mean if relative else 1.0)) ** 2 for value in repeated)
            freedom += len(repeated) - 1
    return Noise(math.sqrt(squares / freedom) if freedom else 0.0, freedom, relative)


def beats(challenger: Sequence[float], incumbent: Sequence[float], noise: Noise) -> bool:
    """Whether the challenger's mean is below the incumbent's by more than the noise explains.

    The difference of the means is held against its standard error, in a one-sided normal test.

    Parameters
    ----------
    challenger, incumbent:
        Fitness values, at least one each.
    noise:
        The noise of one measurement; where it is 0, the lower mean wins.
    """
    ours, theirs = fmean(challenger), fmean(incumbent)
    error = math.hypot(noise.error(challenger), noise.error(incumbent))
    return ours < theirs - float(ndtri(_SURE)) * error


def still_racing(values: Sequence[Sequence[float]]) -> list[bool]:
    """Whether each candidate may still be the best; all of them may as long as the noise is unknown.

    Parameters
    ----------
    values:
        The fitness values of each candidate, at least one each.
    """
    noise = pooled_noise(values)
    if not noise.freedom:
        return [True] * len(values)
    means, errors = list(map(fmean, values)), list(map(noise.error, values))
    best = min(range(len(means)), key=means.__getitem__)
    quantile = float(stdtrit(noise.freedom, _OUT))
    return [
        i == best or mean - means[best] <= quantile * math.hypot(error, errors[best])
        for i, (mean, error) in enumerate(zip(means, errors, strict=True))
    ]
