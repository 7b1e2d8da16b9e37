"""A run as a table for other programs, and for the warm start of another search."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from typing import TextIO

from mpipso.evaluation import METRICS, Metrics, Value
from mpipso.record.judged import Judged
from mpipso.record.outcome import Outcome
from mpipso.wording import clean


def write_table(outcome: Outcome, file: TextIO, *, by_load: bool = False) -> None:
    """Write the evaluations of a run to ``file`` as CSV, with a header and one row each, in the order of their numbers.

    :func:`mpipso.record.warm.read_earlier` can read it. Columns are ``evaluation`` (its number), ``label``, ``group``,
    ``started`` (seconds since 1970) and ``seconds`` (how long it took), ``result`` (``feasible``, ``infeasible``,
    ``failed``, ``stopped`` of a benchmark that was stopped early, or ``unjudged`` as long as limits refer to a baseline
    that is not known), ``cause`` (why it failed, or which limits it breaks), then the parameters and the metrics, by
    their names: of a benchmark that was stopped early the objective's alone, as it was expected to be in the end. Of a
    name that stands for several of these, a parameter has the column, or else a metric. Left out are evaluations that
    say nothing of their configuration: a row without metrics is a configuration that fails.

    With ``by_load`` an evaluation that was a sweep has a row for each of its loads, with what was measured there and
    which limits that breaks, and there are two columns more: ``load``, and ``counts``, which is ``true`` in the rows
    that there are without ``by_load``.
    """
    rows = [judged for judged in outcome.evaluations if not judged.evaluation.silent]
    rows.sort(key=lambda judged: judged.evaluation.number)
    parameters = _names(judged.evaluation.configuration for judged in rows)
    measured = _names(metrics for judged in rows for _, metrics in _loads(outcome, judged, by_load))
    names = [*(name for name in METRICS if name in measured), *(name for name in measured if name not in METRICS)]
    metrics = [name for name in names if name not in parameters]
    about = [name for name in (*_ABOUT, *(_LOADS if by_load else ())) if name not in {*parameters, *metrics}]
    columns = [*about, *parameters, *metrics]
    writer = csv.DictWriter(_Lines(file), columns, extrasaction="ignore", lineterminator=_Lines.END)
    writer.writeheader()
    for judged in rows:
        settings = {name: _cell(value) for name, value in judged.evaluation.configuration.items()}
        for load, there in _loads(outcome, judged, by_load):
            counts = load == judged.evaluation.load
            told = _about(judged) if counts else {**_about(judged), **_judged(outcome, judged, there)}
            writer.writerow({**told, "load": load, "counts": _cell(counts), **there, **settings})


def _loads(outcome: Outcome, judged: Judged, by_load: bool) -> list[tuple[str, Metrics]]:
    """The loads at which an evaluation has measured, with the metrics there; only the one that counts by default."""
    evaluation = judged.evaluation
    if evaluation.expected is not None:
        return [("", {outcome.objective: evaluation.expected})]
    return [*evaluation.loads.items()] if by_load and evaluation.loads else [(evaluation.load, evaluation.metrics)]


class _Lines:
    """Writes rows as lines of Unix, although :mod:`csv` quotes a carriage return only if it is part of a line's end."""

    END = "\r\n"

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> int:
        return self._file.write(row.removesuffix(self.END) + "\n")


RESULT, FAILED, STOPPED = "result", "failed", "stopped"
"""The column that says what came of an evaluation, what of one that failed, and of one that was stopped early."""
_ABOUT = ("evaluation", "label", "group", "started", "seconds", RESULT, "cause")
_LOADS = ("load", "counts")


def _about(judged: Judged) -> dict[str, object]:
    evaluation = judged.evaluation
    cause = "; ".join(judged.violations)
    if judged.failed:
        cause = evaluation.failure.cause if evaluation.failure is not None else "no metrics"
    result = FAILED if judged.failed else "unjudged" if judged.score is None else _FEASIBLE[judged.feasible]
    result = STOPPED if evaluation.stopped else result
    values = (
        evaluation.number,
        evaluation.label,
        evaluation.group,
        round(evaluation.started, 3),
        round(evaluation.seconds, 3),
        result,
        clean(cause),
    )
    return dict(zip(_ABOUT, values, strict=True))


def _judged(outcome: Outcome, judged: Judged, metrics: Metrics) -> dict[str, str]:
    """What came of an evaluation at a load at which it does not count."""
    broken = outcome.broken(metrics, [judged])
    return {RESULT: _FEASIBLE[not broken], "cause": "; ".join(broken.values())}


_FEASIBLE = {True: "feasible", False: "infeasible"}


def _names(mappings: Iterable[Iterable[str]]) -> list[str]:
    """Every key, in the order in which they came."""
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def _cell(value: Value) -> Value:
    return str(value).lower() if isinstance(value, bool) else value
