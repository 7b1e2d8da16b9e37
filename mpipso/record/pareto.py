"""What a better value of one metric costs in the objective: the configurations that no other beats in both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.text import Text

from mpipso.errors import UserError
from mpipso.evaluation import Metrics, mean
from mpipso.record import figures
from mpipso.record.columns import table_with
from mpipso.record.folders import EVALUATIONS
from mpipso.record.judged import Judged
from mpipso.record.measured import Measured
from mpipso.record.outcome import Outcome
from mpipso.wording import clean, suggestion


@dataclass(frozen=True)
class Point:
    """A configuration at one load.

    Attributes
    ----------
    measured:
        The configuration, and all that was measured of it.
    load:
        The load of a sweep, in words; empty without a sweep.
    metrics:
        The means of what was measured there.
    among:
        Of which measurements.
    """

    measured: Measured
    load: str
    metrics: Metrics
    among: Sequence[Judged]


def front(outcome: Outcome, metric: str) -> list[Point]:
    """The Pareto front of the objective and another metric, from the best value of that metric on.

    A configuration is on it if no other one is better in one of the two and at least as good in the other. Of sweeps,
    every load of a configuration is a point of its own. Limits on the two do not count, as it is them that the front
    helps to choose; what breaks another one is left out.

    Raises
    ------
    UserError
        The metric is the objective, has not been measured together with it, or may be good when high or when low.
    """
    objective = outcome.objective
    if metric == objective:
        raise UserError(f"--pareto {metric}: is the objective; name another metric, which is to be weighed against it")
    points = [point for each in outcome.configurations for point in _points(each) if objective in point.metrics]
    known = {name for point in points for name in point.metrics}
    if metric not in known:
        others = {name for name in known if name != objective and outcome.higher(name) is not None}
        raise UserError(f"--pareto {metric}: has not been measured{suggestion(metric, others)}")
    if outcome.higher(metric) is None:
        raise UserError(f"--pareto {metric}: nothing tells whether more of it is better, as one limit on it would")
    both = {metric, objective}
    allowed = [each for each in points if metric in each.metrics and _broken(outcome, each).keys() <= both]

    def worth(point: Point) -> tuple[float, float]:
        """The more, the better, of both; the metric first."""
        one, other = (point.metrics[name] * (1 if outcome.higher(name) else -1) for name in (metric, objective))
        return one, other

    found: list[Point] = []
    for point in sorted(allowed, key=worth, reverse=True):
        if not found or worth(point)[1] > worth(found[-1])[1]:
            found.append(point)
    return found


def pareto(outcome: Outcome, metric: str) -> Group:
    """The :func:`front` as a table, the baseline for comparison below it; errors are those of :func:`front`."""
    points = front(outcome, metric)
    if not points:
        return Group(Text("Nothing that was measured keeps the other limits.", "bold yellow"))
    objective, baseline = outcome.objective, outcome.baseline
    before = None if baseline is None or objective not in baseline.metrics else _counted(baseline)
    reference = None if baseline is None else baseline.configuration
    swept = any(point.load for point in points)
    table = table_with("#", *(["at"] if swept else []), metric, objective, "gain")
    table.add_column("configuration" if reference is None else "changes to the baseline", overflow="fold")

    def add(point: Point, style: str | None) -> None:
        change = None
        if before is not None and point.measured is not baseline:
            change = figures.gain(objective, before.metrics[objective], point.metrics[objective], outcome.higher)
        broken = _broken(outcome, point).values()
        settings = figures.settings(figures.changes(point.measured.configuration, reference))
        table.add_row(
            str(point.measured.number),
            *([point.load] if swept else []),
            *(figures.measure(name, point.metrics[name]) for name in (metric, objective)),
            "" if change is None else figures.percent(change),
            Text.assemble(
                clean(settings) or ("the baseline", "dim"),
                (f"  mean of {len(point.among)}" if len(point.among) > 1 else "", "dim"),
                (f"  {point.measured.failures}" if point.measured.failed else "", "yellow"),
                (f"  breaks a limit: {clean('; '.join(broken))}" if broken else "", "yellow"),
            ),
            style=style,
        )

    for point in points:
        add(point, "bold" if point == (outcome.best and _counted(outcome.best)) else None)
    if before is not None and metric in before.metrics and before not in points:
        table.add_section()
        add(before, "dim")
    return Group(
        table,
        Text(
            f"Nothing else that was measured is better in one of {clean(metric)} and {clean(objective)} and as good in "
            "the other. What is not a mean was measured once, and may owe its place to luck.",
            "dim",
        ),
        Text(f"logs and command lines: {outcome.folder / EVALUATIONS}", "dim", no_wrap=True, overflow="ignore"),
    )


def _points(measured: Measured) -> Iterator[Point]:
    """What a configuration that works offers: one point, or one for each load of a sweep."""
    if not measured.failed:
        counted = _counted(measured)
        yield counted
        for load in measured.loads:
            if load != counted.load:
                among = [judged for judged in measured.measurements if load in judged.evaluation.loads]
                yield Point(measured, load, mean([judged.evaluation.loads[load] for judged in among]), among)


def _counted(measured: Measured) -> Point:
    """A configuration as it counts in the run: of a sweep, at its own load."""
    load = next((each.evaluation.load for each in reversed(measured.good) if each.evaluation.load), "")
    return Point(measured, load, measured.metrics, measured.good)


def _broken(outcome: Outcome, point: Point) -> dict[str, str]:
    """The limits that a point breaks, in words, by their metrics.

    What was measured once for all loads of a sweep breaks a limit at all of them if it does at the one that counts.
    """
    counted = _counted(point.measured)
    sweeps = [judged.evaluation.loads.values() for judged in counted.among]
    once = {name for name in counted.metrics if all(len({at.get(name) for at in sweep}) == 1 for sweep in sweeps)}
    everywhere = outcome.broken(counted.metrics, counted.among).items()
    return {name: told for name, told in everywhere if name in once} | outcome.broken(point.metrics, point.among)
