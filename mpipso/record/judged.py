"""An evaluation together with its verdict: what the objective and its limits say of what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from mpipso.evaluation import Evaluation, Failure


@dataclass(frozen=True)
class Verdict:
    """What the search made of the mean of several measurements; its attributes are those of :class:`Judged`."""

    fitness: float | None
    feasible: bool
    failed: bool
    violations: tuple[str, ...]
    violation: float | None


@dataclass(frozen=True)
class Judged:
    """An evaluation and its verdict.

    Attributes
    ----------
    evaluation:
        What was measured, or why nothing was.
    fitness:
        The objective as a number that is better when it is smaller; None when there is none.
    feasible:
        Whether all limits are kept.
    failed:
        Whether the evaluation has no metrics, or lacks one that it takes to judge.
    violations:
        One text per broken limit.
    judged:
        False as long as limits refer to a baseline that is not known yet. Then the verdict says nothing, but that an
        evaluation with a failure has ``failed``, whatever the limits.
    violation:
        The sum of how far the limits are broken, each relative to its limit; None where nobody wrote that down.
    together:
        What the search made of this and the measurements of the same configuration that came before and count with it;
        None where there are none, or nobody wrote that down.
    """

    evaluation: Evaluation
    fitness: float | None = None
    feasible: bool = True
    failed: bool = False
    violations: tuple[str, ...] = ()
    judged: bool = True
    violation: float | None = None
    together: Verdict | None = None


def to_fields(judged: Judged) -> dict[str, Any]:
    """The fields of the ``evaluated`` event that tells of this; the texts in ``evaluation.files`` are left out."""
    evaluation = judged.evaluation
    failure = evaluation.failure
    outcome = {"metrics": dict(evaluation.metrics)} if failure is None else {"failure": asdict(failure)}
    return {
        "number": evaluation.number,
        "attempt": evaluation.attempt,
        "group": evaluation.group,
        "label": evaluation.label,
        "configuration": dict(evaluation.configuration),
        **outcome,
        "started": evaluation.started,
        "ended": evaluation.ended,
        "phases": dict(evaluation.phases),
        **judgement(judged),
        "judged": judged.judged,
    }


def judgement(judged: Judged) -> dict[str, Any]:
    """The fields of an event that hold what was judged: all of a ``judged`` event but the number."""
    together = {} if judged.together is None else {"together": _verdict(judged.together)}
    return {**_verdict(judged), **together}


def _verdict(judged: Judged | Verdict) -> dict[str, Any]:
    return {
        "fitness": judged.fitness,
        "feasible": judged.feasible,
        "failed": judged.failed,
        "violations": list(judged.violations),
        "violation": judged.violation,
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
        metrics={name: value for name, value in event.get("metrics", {}).items() if value is not None},
        failure=Failure(**failure) if failure is not None else None,
        started=event["started"],
        ended=event["ended"],
        phases=event.get("phases", {}),
    )
    # What an event of another version leaves out is as in a new one.
    told = _read_judgement({**_verdict(Judged(evaluation)), **event})
    return Judged(evaluation, judged=event.get("judged", True), **told)


def _read_judgement(event: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`judgement`."""
    together = event.get("together")
    return {
        **_read_verdict(event),
        "failed": event.get("failure") is not None or event["failed"],
        "together": None if together is None else Verdict(**_read_verdict(together)),
    }


def _read_verdict(event: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`_verdict`; journals of earlier versions do not say how far limits are broken."""
    return {
        "fitness": event["fitness"],
        "feasible": event["feasible"],
        "failed": event["failed"],
        "violations": tuple(event["violations"]),
        "violation": event.get("violation"),
    }


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
            found[event["number"]] = replace(found[event["number"]], judged=True, **_read_judgement(event))
    return list(found.values())
