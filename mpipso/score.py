"""How good an evaluation is, and which of two is better."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

FARTHEST = math.log(1000.0)
"""The most, and negated the least, of the logarithms of ratios to limits: a count of 0 has no logarithm."""


@dataclass(frozen=True, order=True)
class Score:
    """How good an evaluation is; of two scores the smaller is the better one.

    The order is that of the feasibility rules of K. Deb, "An efficient constraint handling method for genetic
    algorithms", Computer Methods in Applied Mechanics and Engineering 186 (2000) 311-338: a feasible result beats any
    infeasible one, two feasible ones compare by fitness, two infeasible ones by their violation. To these it adds the
    evaluations without a result: they come last, and are equal.
    """

    failed: bool
    infeasible: bool = False
    violation: float = 0.0
    """The sum over the broken limits of how far each is broken, relative to the limit."""
    fitness: float | None = None
    """What is minimised (a maximised metric is negated); None when failed."""
    violations: tuple[str, ...] = field(default=(), compare=False)
    """One line per broken limit: ``ttft_p99_ms 1520 > 1000``."""
    cause: str = field(default="", compare=False)
    """Why it failed."""
    fidelity: float = field(default=1.0, compare=False)
    """How much of the full benchmark it stands for, in (0, 1]; a measurement has as many times more noise.

    A strategy learns from a score of less than the full benchmark as from a noisier measurement, but never takes it for
    the best. Whether limits are kept it does not tell.
    """

    unjudged: bool = field(default=False, compare=False)
    """Whether its fitness counts but not its feasibility: it was measured elsewhere, and most of what is feasible there
    is not feasible here."""
    log_ratios: tuple[float, ...] = field(default=(), compare=False)
    """Of each limit, the logarithm of the ratio of what was measured to it: above 0 where it is broken (of a lower
    limit that of the inverse), no farther than :data:`FARTHEST` from 0, NaN where that is not known. Empty where there
    are no limits, or nobody says."""

    @property
    def feasible(self) -> bool:
        """Whether a full benchmark has shown that it keeps to all limits."""
        return not (self.failed or self.infeasible) and self.fidelity == 1.0
