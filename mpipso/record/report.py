"""What a run found: shown when it is over, or later from its journal alone."""

from __future__ import annotations

import itertools
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import tomli
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from mpipso.errors import UserError
from mpipso.evaluation import METRICS, Metrics
from mpipso.record import figures, journal, recipe
from mpipso.record.figures import Higher, clean
from mpipso.record.judged import Judged, final, from_fields

_TOP = 10


@dataclass(frozen=True)
class Outcome:
    """All that a report needs.

    Attributes
    ----------
    evaluations:
        Every evaluation, the baseline (label ``baseline``) and repeated measurements (label ``confirm``) included.
    incumbent:
        The number of the best evaluation, None when there is none.
    objective:
        The metric that was optimised.
    higher:
        Whether more of a metric is better.
    folder:
        Where the results lie.
    starts:
        The commands that start the service with the best configuration, one per node.
    seconds:
        The wall time of the run.
    retried:
        Attempts that were repeated elsewhere because a node, a port or the client failed.
    ended:
        Why the run did not come to its end, empty when it did.
    """

    evaluations: Sequence[Judged]
    incumbent: int | None
    objective: str
    higher: Higher
    folder: Path
    starts: Sequence[recipe.Start] = ()
    seconds: float = 0.0
    retried: int = 0
    ended: str = ""

    @property
    def baseline(self) -> Judged | None:
        return next((judged for judged in final(self.evaluations) if judged.evaluation.label == "baseline"), None)

    @property
    def best(self) -> Judged | None:
        return next((judged for judged in final(self.evaluations) if judged.evaluation.number == self.incumbent), None)


@dataclass(frozen=True)
class _Measured:
    """The metrics of a configuration: their means over ``repeats`` confirmations, or of its one evaluation."""

    metrics: Metrics = field(default_factory=dict)
    repeats: int = 0

    def __str__(self) -> str:
        return f"mean of {self.repeats}" if self.repeats > 1 else "measured again" if self.repeats else ""


def summary(outcome: Outcome) -> Group:
    """The end of a run: baseline and best side by side, what was changed, counts, where the results lie."""
    baseline, best = outcome.baseline, outcome.best
    parts: list[RenderableType] = [*_verdict(outcome), ""]
    if best is not None:
        if baseline is None or baseline.failed:
            parts += [_alone(outcome, best), ""]
        else:
            parts += [_side_by_side(outcome, baseline, best), ""]
        parts += [*_settings(baseline, best), ""]
    return Group(*parts, *_counts(outcome), *_whereabouts(outcome))


def report(folder: Path, higher: Higher | None = None) -> Group:
    """A run from its journal alone, finished or not: its :func:`summary` and its best configurations.

    Without ``higher`` the objective of the run's own configuration says which metrics are good when high.

    Raises
    ------
    UserError
        The folder has no journal, or it is damaged.
    """
    outcome = read_outcome(folder, higher)
    ranked = sorted((judged for judged in final(outcome.evaluations) if not judged.failed), key=lambda j: j.rank)
    return Group(_top(outcome, ranked[:_TOP]), "", summary(outcome)) if ranked else summary(outcome)


def read_outcome(folder: Path, higher: Higher | None = None) -> Outcome:
    """The outcome of the run in ``folder``, as far as its journal goes; ``higher`` as in :func:`report`.

    Raises
    ------
    UserError
        The folder has no journal, or it is damaged.
    """
    path = folder / journal.FILE
    events = journal.read(path)
    if not events or events[0]["event"] != "started":
        raise UserError(f"{path}: does not begin with the start of a run")
    try:
        incumbents = [event["number"] for event in events if event["event"] == "incumbent"]
        return Outcome(
            evaluations=[from_fields(event) for event in events if event["event"] == "evaluated"],
            incumbent=incumbents[-1] if incumbents else None,
            objective=events[0]["objective"],
            higher=higher if higher is not None else _directions(events[0]["config"]),
            folder=folder,
            starts=recipe.read_starts(folder),
            seconds=_wall(events),
            retried=sum(event["event"] == "retried" for event in events),
            ended=_ended(events[-1]),
        )
    except (KeyError, TypeError, tomli.TOMLDecodeError) as error:
        raise UserError(f"{path}: an event lacks what this version expects: {error}") from None


def _directions(config: str) -> Higher:
    """Which metrics are good when high, by a configuration's objective and limits, else as usual for their units."""
    objective = tomli.loads(config).get("objective", {})
    known = {limit["metric"]: "min" in limit for limit in objective.get("slo", ())}
    known |= {objective[key]: key == "maximize" for key in ("maximize", "minimize") if key in objective}
    return lambda metric: known.get(metric, figures.usually_higher(metric))


def _ended(last: Mapping[str, Any]) -> str:
    if last["event"] == "finished":
        return ""
    return f"interrupted by {last['signal']}" if last["event"] == "interrupted" else "not finished"


def _wall(events: Sequence[Mapping[str, Any]]) -> float:
    """Seconds at work: the time between an interruption and the resumption after it does not count."""
    seconds = 0.0
    for before, after in itertools.pairwise(events):
        if before["event"] != "interrupted" and after["event"] != "started":
            seconds += after["t"] - before["t"]
    return seconds


def _measured(outcome: Outcome, judged: Judged) -> _Measured:
    """Confirmations alone count where there are any: a best chosen by its luck would flatter itself."""
    repeats = [
        other.evaluation.metrics
        for other in outcome.evaluations
        if other.evaluation.label == "confirm"
        and not other.failed
        and figures.equal(other.evaluation.configuration, judged.evaluation.configuration)
    ]
    if not repeats:
        return _Measured(judged.evaluation.metrics)
    common = [name for name in repeats[0] if all(name in metrics for metrics in repeats)]
    return _Measured({name: fmean(metrics[name] for metrics in repeats) for name in common}, len(repeats))


def _verdict(outcome: Outcome) -> Iterator[Text]:
    """What came of it, in a sentence or two."""
    results = final(outcome.evaluations)
    baseline, best = outcome.baseline, outcome.best
    if outcome.ended:
        yield Text(f"The run is {outcome.ended}; this is what it has found so far.", "yellow")
    if not results:
        yield Text("Nothing has been evaluated.", "bold red")
    elif all(judged.failed for judged in results):
        yield Text(f"Every evaluation failed ({len(results)} of {len(results)}).", "bold red")
    elif best is None:
        yield Text("No evaluation met the limits of the objective.", "bold yellow")
    elif baseline is None:
        yield Text("There is no baseline to compare with.", "yellow")
    elif baseline.failed:
        failure = baseline.evaluation.failure
        yield Text(f"The baseline failed: {clean(failure.cause if failure else 'no metrics')}.", "yellow")
    elif figures.equal(best.evaluation.configuration, baseline.evaluation.configuration):
        yield Text("Nothing beat the baseline: the configuration that you have is the best that was found.", "bold")
    else:
        yield from _comparison(outcome, baseline, best)
    if best is not None and not best.feasible:
        yield Text(f"The best breaks a limit: {clean('; '.join(best.violations))}.", "yellow")


def _comparison(outcome: Outcome, baseline: Judged, best: Judged) -> Iterator[Text]:
    name = outcome.objective
    before, after = _measured(outcome, baseline), _measured(outcome, best)
    if name not in before.metrics or name not in after.metrics:
        return
    change = figures.gain(name, before.metrics[name], after.metrics[name], outcome.higher)
    if change is not None and change <= 0 and baseline.feasible:
        again = " once both were measured again" if before.repeats and after.repeats else ""
        yield Text(f"Nothing beat the baseline{again}: {name} {figures.percent(change)}.", "bold yellow")
    else:
        text = f"{name}: {figures.measure(name, before.metrics[name])} -> "
        gain = "" if change is None else f" ({figures.percent(change)})"
        yield Text.assemble((text, "bold"), (figures.measure(name, after.metrics[name]) + gain, "bold green"))
    if not baseline.feasible:
        yield Text(f"The baseline breaks a limit: {clean('; '.join(baseline.violations))}.", "yellow")


def _order(outcome: Outcome, metrics: Metrics) -> list[str]:
    """The objective first, then the common vocabulary in its order, then the client's own metrics."""
    names = [*METRICS, *(name for name in metrics if name not in METRICS)]
    return sorted((name for name in names if name in metrics), key=lambda name: name != outcome.objective)


def _table(*titles: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for position, title in enumerate(titles):
        table.add_column(Text(title), justify="right" if position else "left", overflow="fold")
    return table


def _title(name: str, judged: Judged, measured: _Measured) -> str:
    return f"{name} #{judged.evaluation.number}" + (f"\n{measured}" if measured.repeats else "")


def _side_by_side(outcome: Outcome, baseline: Judged, best: Judged) -> Table:
    before, after = _measured(outcome, baseline), _measured(outcome, best)
    table = _table("metric", _title("baseline", baseline, before), _title("best", best, after), "gain")
    for name in _order(outcome, {name: 0.0 for name in before.metrics if name in after.metrics}):
        old, new = before.metrics[name], after.metrics[name]
        change = figures.gain(name, old, new, outcome.higher)
        gain = Text() if change is None else Text(figures.percent(change), "green" if change > 0 else "red")
        chosen = name == outcome.objective
        row = Text(name), Text(figures.measure(name, old)), Text(figures.measure(name, new)), gain
        table.add_row(*row, style="bold" if chosen else None, end_section=chosen)
    return table


def _alone(outcome: Outcome, best: Judged) -> Table:
    measured = _measured(outcome, best)
    table = _table("metric", _title("best", best, measured))
    for name in _order(outcome, measured.metrics):
        chosen = name == outcome.objective
        table.add_row(
            Text(name),
            Text(figures.measure(name, measured.metrics[name])),
            style="bold" if chosen else None,
            end_section=chosen,
        )
    return table


def _settings(baseline: Judged | None, best: Judged) -> Iterator[RenderableType]:
    """The parameters that differ as a table, the others on one line."""
    configuration = best.evaluation.configuration
    reference = None if baseline is None else baseline.evaluation.configuration
    changes = figures.changes(configuration, reference)
    if changes:
        table = _table("parameter", *(["baseline"] if reference is not None else []), "best")
        for name, setting in changes.items():
            old = [] if reference is None else [figures.value(reference[name]) if name in reference else "-"]
            table.add_row(Text(name), *map(Text, old), Text(clean(figures.value(setting)), "bold green"))
        yield table
    unchanged = {name: setting for name, setting in configuration.items() if name not in changes}
    if unchanged:
        yield Text(f"unchanged: {clean(figures.settings(unchanged))}", "dim")


def _counts(outcome: Outcome) -> Iterator[Text]:
    results = final(outcome.evaluations)
    failed = [judged for judged in results if judged.failed]
    infeasible = sum(not judged.feasible and not judged.failed for judged in results)
    confirmations = sum(judged.evaluation.label == "confirm" for judged in outcome.evaluations)
    counted = [f"{len(results)} evaluations", f"{len(failed)} failed", f"{infeasible} infeasible"]
    counted += [f"{confirmations} confirmations"] if confirmations else []
    counted += [f"{outcome.retried} retried"] if outcome.retried else []
    yield Text(f"{', '.join(counted)} in {figures.duration(outcome.seconds)}")
    causes = Counter(clean(judged.evaluation.failure.cause) for judged in failed if judged.evaluation.failure)
    for cause, count in causes.most_common():
        yield Text(f"  {count} failed: {cause}", "red")


def _whereabouts(outcome: Outcome) -> Iterator[RenderableType]:
    yield Text(f"results:  {outcome.folder}", overflow="fold")
    if outcome.best is None or not outcome.starts:
        return
    script = outcome.folder / recipe.SCRIPT
    yield Text.assemble("start it: ", (shlex.quote(str(script)), "bold green"), overflow="fold")
    for start in outcome.starts:
        if len(outcome.starts) > 1:
            yield Text(f"on {clean(start.host)}:")
        yield _Command(recipe.command_words(start))


class _Command:
    """A command folded so that it can be copied whole: each line but the last ends in a backslash."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [""]
        for word in self._words:
            if lines[-1] and len(lines[-1]) + len(word) + 7 > options.max_width:
                lines.append("")
            lines[-1] += f" {word}" if lines[-1] else word
        for position, line in enumerate(lines):
            indent = "    " if position else "  "
            yield Text(f"{indent}{line}" + (" \\" if position < len(lines) - 1 else ""), "dim", overflow="fold")


def _top(outcome: Outcome, best: Sequence[Judged]) -> Table:
    baseline = outcome.baseline
    metrics = None if baseline is None else baseline.evaluation.metrics
    reference = None if baseline is None else baseline.evaluation.configuration
    table = _table("rank", "#", outcome.objective, "gain")
    table.add_column("configuration" if reference is None else "changes to the baseline", overflow="fold")
    for rank, judged in enumerate(best, start=1):
        score = figures.score(outcome.objective, judged.evaluation.metrics, metrics, outcome.higher)
        figure, _, change = score.partition(" (")
        settings = figures.settings(figures.changes(judged.evaluation.configuration, reference))
        remark = "" if judged.feasible else f"  infeasible: {clean('; '.join(judged.violations))}"
        table.add_row(
            str(rank),
            str(judged.evaluation.number),
            Text(figure),
            Text("" if judged is baseline else change.removesuffix(")")),
            Text.assemble(clean(settings) or ("the baseline", "dim"), (remark, "yellow")),
            style="bold" if judged.evaluation.number == outcome.incumbent else None,
        )
    return table
