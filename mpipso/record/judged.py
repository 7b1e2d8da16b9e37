"""An evaluation together with its verdict: what the objective and its limits say of what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mpipso.evaluation import FIRST_PART, Evaluation, Failure
from mpipso.score import Score


@dataclass(frozen=True)
class Judged:
    """An evaluation and its verdict.

    Attributes
    ----------
    evaluation:
        What was measured, or why nothing was.
    score:
        What that is worth; None as long as limits refer to a baseline that is not known yet. The violation is infinite
        where limits are broken and nobody wrote down how far.
    together:
        What the search made of this and the measurements of the same configuration that came before and count with it;
        None where there are none, or nobody wrote that down.
    """

    evaluation: Evaluation
    score: Score | None = None
    together: Score | None = None

    @property
    def failed(self) -> bool:
        """Whether the evaluation failed, or lacks a metric that it takes to judge."""
        return self.evaluation.failure is not None or (self.score is not None and self.score.failed)

    @property
    def feasible(self) -> bool:
        """Whether no limit is known to be broken, by a benchmark that was not stopped early."""
        return self.score is None or self.score.feasible

    @property
    def violations(self) -> tuple[str, ...]:
        """One text per broken limit."""
        return () if self.score is None else self.score.violations


def to_fields(judged: Judged) -> dict[str, Any]:
    """The fields of the ``evaluated`` event that tells of this; the texts in ``evaluation.files`` are left out."""
    evaluation = judged.evaluation
    failure = evaluation.failure
    outcome = {"metrics": dict(evaluation.metrics)} if failure is None else {"failure": asdict(failure)}
    loads = {load: dict(metrics) for load, metrics in evaluation.loads.items()}
    return {
        "number": evaluation.number,
        "attempt": evaluation.attempt,
        "group": evaluation.group,
        "label": evaluation.label,
        "configuration": dict(evaluation.configuration),
        **outcome,
        **({"loads": loads} if loads else {}),
        **({"cut": evaluation.cut} if evaluation.cut else {}),
        **{name: each for name in _EARLY if (each := getattr(evaluation, name)) is not None},
        "started": evaluation.started,
        "ended": evaluation.ended,
        "phases": dict(evaluation.phases),
        **judgement(judged),
        "judged": judged.score is not None,
    }


def judgement(judged: Judged) -> dict[str, Any]:
    """The fields of an event that hold what was judged: all of a ``judged`` event but the number."""
    together = {} if judged.together is None else {"together": _verdict(judged.together)}
    return {**_verdict(judged.score), **together}


def _verdict(score: Score | None) -> dict[str, Any]:
    return {
        "fitness": None if score is None else score.fitness,
        "feasible": score is None or score.feasible,
        "failed": score is not None and score.failed,
        "violations": [] if score is None else list(score.violations),
        "violation": None if score is None else score.violation,
    }


def from_fields(event: Mapping[str, Any]) -> Judged:
    """The evaluation and the verdict of which an ``evaluated`` event tells, the inverse of :func:`to_fields`.

    A metric that was not a finite number is left out.

    Raises
    ------
    KeyError, TypeError, AttributeError
        The event lacks a field, or one has another shape, as in a journal that was written by somebody else.
    """
    failure = event.get("failure")
    evaluation = Evaluation(
        number=event["number"],
        attempt=event["attempt"],
        group=event["group"],
        configuration=event["configuration"],
        label=event["label"],
        metrics=_finite(event.get("metrics", {})),
        cut=event.get("cut", ""),
        first=event.get("first"),
        expected=event.get("expected"),
        loads={load: _finite(metrics) for load, metrics in event.get("loads", {}).items()},
        failure=Failure(**failure) if failure is not None else None,
        started=event["started"],
        ended=event["ended"],
        phases=event.get("phases", {}),
    )
    # What an event of another version leaves out is as in a new one.
    return _with_judgement(evaluation, {"judged": True, **_verdict(None), **event})


_EARLY = ("first", "expected")
"""What an evaluation tells of the first part of its benchmark, if anything."""


def _finite(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if value is not None}


def _with_judgement(evaluation: Evaluation, event: Mapping[str, Any]) -> Judged:
    """The inverse of :func:`judgement`."""
    if not event["judged"]:
        return Judged(evaluation)
    if evaluation.stopped:
        return Judged(evaluation, Score(False, fitness=event["fitness"], fidelity=FIRST_PART))
    failed = evaluation.failure is not None or event["failed"]
    together = event.get("together")
    return Judged(evaluation, _score({**event, "failed": failed}), None if together is None else _score(together))


def _score(event: Mapping[str, Any]) -> Score:
    """The inverse of :func:`_verdict`; journals of earlier versions do not say how far limits are broken."""
    if event["failed"]:
        return Score(failed=True)
    infeasible, violation = not event["feasible"], event.get("violation")
    return Score(
        False,
        infeasible,
        math.inf if infeasible and violation is None else violation or 0.0,
        math.inf if event["fitness"] is None else event["fitness"],
        tuple(event["violations"]),
    )


def results(events: Iterable[Mapping[str, Any]]) -> list[Judged]:
    """From the events of a journal one result per evaluation, in the order in which they came first.

    Each has its last verdict, from its ``evaluated`` event or a later ``judged`` one. Errors are those of
    :func:`from_fields`.
    """
    found: dict[int, Judged] = {}
    for event in events:
        if event["event"] == "evaluated":
            found[event["number"]] = from_fields(event)
        elif event["event"] == "judged" and event["number"] in found:
            evaluation = found[event["number"]].evaluation
            found[event["number"]] = _with_judgement(evaluation, {"judged": True, **event})
    return list(found.values())
