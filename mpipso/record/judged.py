"""An evaluation together with what the objective made of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from mpipso.evaluation import Evaluation, Failure


@dataclass(frozen=True)
class Judged:
    """An evaluation and its place among others.

    ``fitness`` is minimised and None when there is none; ``violations`` holds one text per broken limit,
    ``violation`` the sum of how far they are broken, each relative to its limit, None where nobody wrote that down.
    ``judged`` is False as long as limits refer to a baseline that is not known yet; then the other fields say
    nothing, but that an evaluation with a failure has ``failed``, whatever the limits.
    """

    evaluation: Evaluation
    fitness: float | None = None
    feasible: bool = True
    failed: bool = False
    violations: tuple[str, ...] = ()
    judged: bool = True
    violation: float | None = None


def to_fields(judged: Judged) -> dict[str, Any]:
    """The fields of an ``evaluated`` event; the texts in ``evaluation.files`` stay out of the journal."""
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
        **verdict(judged),
        "judged": judged.judged,
    }


def verdict(judged: Judged) -> dict[str, Any]:
    """The fields of a ``judged`` event, besides its number."""
    return {
        "fitness": judged.fitness,
        "feasible": judged.feasible,
        "failed": judged.failed,
        "violations": list(judged.violations),
        "violation": judged.violation,
    }


def from_fields(event: Mapping[str, Any]) -> Judged:
    """The inverse of :func:`to_fields`; a metric that was not a finite number is left out."""
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
    told = _read_verdict({**verdict(Judged(evaluation)), **event})
    return Judged(evaluation, judged=event.get("judged", True), **told)


def _read_verdict(event: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`verdict`; journals of earlier versions do not say how far limits are broken."""
    return {
        "fitness": event["fitness"],
        "feasible": event["feasible"],
        "failed": event.get("failure") is not None or event["failed"],
        "violations": tuple(event["violations"]),
        "violation": event.get("violation"),
    }


def results(events: Iterable[Mapping[str, Any]]) -> list[Judged]:
    """One result per evaluation number, in the order in which they came; ``judged`` events are folded in."""
    found: dict[int, Judged] = {}
    for event in events:
        if event["event"] == "evaluated":
            found[event["number"]] = from_fields(event)
        elif event["event"] == "judged" and event["number"] in found:
            found[event["number"]] = replace(found[event["number"]], judged=True, **_read_verdict(event))
    return list(found.values())
