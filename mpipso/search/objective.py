"""From metrics to a score: one metric to optimise, and limits on others."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace

from mpipso.config import ObjectiveSection
from mpipso.errors import UserError
from mpipso.evaluation import FIRST_PART, LARGEST, Assignment, Configuration, Evaluation, Failure, Metrics
from mpipso.score import Score
from mpipso.search.expressions import Expression


class Objective:
    """The function of the metrics that is minimised, subject to limits.

    Raises
    ------
    UserError
        A derived metric is no expression.
    """

    def __init__(self, section: ObjectiveSection) -> None:
        self._section = section
        self.metric = section.metric
        self.maximized = section.maximize is not None
        self.limits = section.slo
        self._needed = section.metrics
        self._derived = {
            name: Expression(f"objective.derived.{name}", text, "float") for name, text in section.derived.items()
        }

    @property
    def absolute(self) -> Objective:
        """The same without limits that are relative to the baseline."""
        return Objective(self._section.absolute)

    def derived(self, metrics: Metrics, configuration: Configuration) -> dict[str, float]:
        """The metrics that are computed from measured ones and the configuration.

        Those without a value, as after a division by zero, are left out unless it takes them to judge.

        Raises
        ------
        ValueError
            One that it takes to judge has no value.
        """
        values = {**metrics, **configuration}
        found = {}
        for name, expression in self._derived.items():
            try:
                found[name] = _measured(name, float(expression.value(values)))
            except KeyError:  # what is not needed need not have been measured
                continue
            except UserError as error:
                if name in self._needed:
                    raise ValueError(str(error)) from None
        return found

    def value(self, configuration: Configuration, metrics: Metrics) -> float | None:
        """The metric that is optimised, if it is above 0; None if these metrics do not tell it, or it is not."""
        try:
            found = {**metrics, **self.derived(metrics, configuration)}.get(self.metric, math.nan)
        except ValueError:
            return None
        return found if 0.0 < found < math.inf else None

    def completed(self, evaluation: Evaluation) -> Evaluation:
        """A measurement with its derived metrics; a failure of its configuration if one to judge by has no value."""

        def completed(metrics: Metrics) -> Metrics:
            return {**metrics, **self.derived(metrics, evaluation.configuration)}

        loads = {}
        for load, metrics in evaluation.loads.items():
            with contextlib.suppress(ValueError):
                loads[load] = completed(metrics)
        try:
            return replace(evaluation, metrics=completed(evaluation.metrics), loads=loads)
        except ValueError as error:
            return replace(evaluation, metrics={}, loads={}, failure=Failure(str(error), "configuration"))

    def score(self, assignment: Assignment, metrics: Metrics) -> Score:
        """Score what was measured of an assignment, where no limit is relative to the baseline."""
        return self.judge(self.completed(replace(assignment.evaluation(0), metrics=metrics)), None)

    @property
    def relative(self) -> bool:
        """Whether a limit refers to the baseline, so that nothing can be judged before it is measured."""
        return any(limit.relative for limit in self.limits)

    def judge(self, evaluation: Evaluation, baseline: Metrics | None) -> Score:
        """Score an evaluation.

        It counts as failed if it has no metrics, if no request was completed, or if a metric that the objective or a
        limit needs is missing or not a finite number. One whose benchmark was stopped early counts by what was expected
        of it, and tells nothing of limits.

        Parameters
        ----------
        baseline:
            The metrics of the baseline configuration, for limits relative to them.

        Raises
        ------
        ValueError
            A limit is relative to the baseline, and ``baseline`` is None or lacks its metric.
        """
        if baseline is None and self.relative:
            raise ValueError("a limit is relative to the baseline, which is not given")
        if evaluation.failure is not None:
            return Score(failed=True, cause=evaluation.failure.cause)
        if evaluation.expected is not None:
            return Score(
                failed=False,
                fitness=self._fitness(evaluation.expected),
                fidelity=FIRST_PART,
                log_ratios=len(self.limits) * (math.nan,),
            )
        metrics = evaluation.metrics
        if metrics.get("completed") == 0:
            return Score(failed=True, cause="no request was completed")
        for name in (self.metric, *(limit.metric for limit in self.limits)):
            if name not in metrics:
                return Score(failed=True, cause=f"{name} was not measured")
            if not math.isfinite(metrics[name]):
                return Score(failed=True, cause=f"{name} is {metrics[name]}")

        violation = 0.0
        violations, log_ratios = [], []
        for limit in self.limits:
            value, bound = metrics[limit.metric], limit.bound((baseline or {}).get(limit.metric))
            if bound is None or (limit.relative and not math.isfinite(bound)):
                raise ValueError(f"the limit on {limit.metric} is relative to the baseline, which did not measure it")
            log_ratios.append(limit.log_ratio(value, bound))
            excess = limit.excess(value, bound)
            if excess > 0:
                violation += excess
                violations.append(limit.in_words(value, bound))
        return Score(
            failed=False,
            infeasible=bool(violations),
            violation=violation,
            fitness=self._fitness(metrics[self.metric]),
            violations=tuple(violations),
            log_ratios=tuple(log_ratios),
        )

    def _fitness(self, value: float) -> float:
        return -value if self.maximized else value


def _measured(name: str, value: float) -> float:
    """The value of a derived metric; UserError if it is none that a measurement can have."""
    if abs(value) > LARGEST:
        raise UserError(f"objective.derived.{name}: its value is {value:g}, which no measurement is")
    return value
