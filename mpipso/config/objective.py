"""What is optimised: one metric, and the limits that others have to keep."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, model_validator

from mpipso.config.parameters import Name, Section, lenient
from mpipso.evaluation import METRICS
from mpipso.score import FARTHEST


class Limit(Section):
    """A service level objective: ``metric`` at most ``max``, or at least ``min``.

    ``"baseline"`` stands for what the baseline configuration measured, times ``factor``.
    """

    metric: Name
    max: float | Literal["baseline"] | None = None
    min: float | Literal["baseline"] | None = None
    factor: Annotated[float, Field(gt=0)] = 1.0

    @property
    def relative(self) -> bool:
        return "baseline" in (self.max, self.min)

    def bound(self, baseline: float | None) -> float | None:
        """The number that the metric is held against; None where that is a baseline's that is not known."""
        given = self.max if self.max is not None else self.min
        if isinstance(given, (int, float)):
            return given
        return None if baseline is None else self.factor * baseline

    def excess(self, value: float, bound: float) -> float:
        """By how much a value is beyond the :meth:`bound`, relative to that; above zero if the limit is broken.

        Half of a lower bound is as far beyond it as twice an upper one.
        """
        if bound > 0.0 and self.max is None:
            return (bound - value) / max(value, bound * math.exp(-FARTHEST))
        return (value - bound if self.max is not None else bound - value) / (abs(bound) or 1.0)

    def log_ratio(self, value: float, bound: float) -> float:
        """How a value compares with the :meth:`bound`, as a logarithm; above 0 if the limit is broken.

        It is that of the ratio of value to bound, or of its inverse where the bound is a lower one. Bounds that are not
        above 0 have no such ratio: then it is that of the distance.
        """
        if bound > 0.0:
            found = math.log(value) - math.log(bound) if value > 0.0 else -FARTHEST
            found = found if self.max is not None else -found
        else:
            excess = self.excess(value, bound)
            found = math.copysign(math.log1p(abs(excess)), excess)
        return min(max(found, -FARTHEST), FARTHEST)

    def in_words(self, value: float, bound: float) -> str:
        """How it is broken, as in ``ttft_p99_ms 1520 > 1000``, with all digits where it takes these to see it."""
        left, right = f"{value:.6g}", f"{bound:.6g}"
        if left == right:
            left, right = repr(value), repr(bound)
        origin = f" ({self.factor:g} x baseline)" if self.relative else ""
        return f"{self.metric} {left} {'>' if self.max is not None else '<'} {right}{origin}"

    @model_validator(mode="after")
    def _one_side(self, info: ValidationInfo) -> Limit:
        if (self.max is None) == (self.min is None):
            raise ValueError("give either max or min")
        if lenient(info):
            return self
        if self.factor != 1.0 and not self.relative:
            raise ValueError(f'factor = {self.factor:g} goes with "baseline", not with a number')
        if self.metric in METRICS and isinstance(self.max, float) and self.max < 0:
            raise ValueError(f"max = {self.max:g} cannot be kept: {self.metric} is never below 0")
        return self


class ObjectiveSection(Section):
    """What is optimised: one metric, subject to limits on others.

    ``derived`` holds metrics that are not measured but computed, by expressions over measured ones and parameters.
    """

    maximize: Name | None = None
    minimize: Name | None = None
    slo: tuple[Limit, ...] = ()
    derived: dict[Name, str] = Field(default_factory=dict)

    @property
    def metric(self) -> str:
        return self.maximize or self.minimize or ""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those that it takes to judge, each once."""
        return tuple(dict.fromkeys((self.metric, *(limit.metric for limit in self.slo))))

    @property
    def absolute(self) -> ObjectiveSection:
        """The same without limits that are relative to the baseline."""
        return self.model_copy(update={"slo": tuple(limit for limit in self.slo if not limit.relative)})

    @model_validator(mode="after")
    def _one_direction(self) -> ObjectiveSection:
        if (self.maximize is None) == (self.minimize is None):
            raise ValueError("give either maximize or minimize")
        return self

    @model_validator(mode="after")
    def _limits_that_can_be_kept(self, info: ValidationInfo) -> ObjectiveSection:
        if lenient(info):
            return self
        for metric in dict.fromkeys(limit.metric for limit in self.slo):
            limits = [limit for limit in self.slo if limit.metric == metric]
            most = min((limit.max for limit in limits if isinstance(limit.max, float)), default=math.inf)
            least = max((limit.min for limit in limits if isinstance(limit.min, float)), default=-math.inf)
            if least > most:
                raise ValueError(f"slo: {metric} cannot be at least {least:g} and at most {most:g}")
        return self
