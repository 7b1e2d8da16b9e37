"""What a run found: shown when it is over, or later from its journal alone."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from mpipso.evaluation import METRICS, Metrics
from mpipso.record import figures, recipe
from mpipso.record.columns import table_with, width_of
from mpipso.record.folders import EVALUATIONS
from mpipso.record.interval import LEVEL, ratio_interval
from mpipso.record.measured import Measured
from mpipso.record.outcome import Outcome
from mpipso.record.runstats import run_statistics
from mpipso.wording import clean

_TOP = 10


def summary(outcome: Outcome, worth: Mapping[str, str] | None = None) -> Group:
    """What came of a run: baseline and best side by side, what was changed, how the run went, where the results lie.

    To be printed with ``crop=False``: lines that are copied may be longer than the console is wide.

    Parameters
    ----------
    worth:
        By parameter that the best changes, what the gain would be without that change, as text; None if not known.
    """
    baseline, best = outcome.baseline, outcome.best
    parts: list[RenderableType] = [*_verdict(outcome), ""]
    if best is not None:
        if baseline is None or not baseline.good or best is baseline:
            parts += [_Limited(outcome.limits, partial(_alone, outcome, best)), ""]
            parts += _by_load(outcome, {"best": best})
        else:
            parts += [_Limited(outcome.limits, partial(_side_by_side, outcome, baseline, best)), ""]
            parts += _by_load(outcome, {"baseline": baseline, "best": best})
        parts += [*_settings(baseline, best, worth or {}), ""]
    return Group(*parts, *run_statistics(outcome), *_whereabouts(outcome))


def report(outcome: Outcome, worth: Mapping[str, str] | None = None) -> Group:
    """The :func:`summary` of a run, finished or not, below a table of its best configurations; printed likewise."""
    # The best comes first even if others measured better, but only once, or if one of its measurements broke a limit.
    best = outcome.best
    ranked = [each for each in outcome.configurations if _ranks(each, reference=each is outcome.baseline)]
    ranked.sort(key=lambda each: (each is not best, each.score))
    told = summary(outcome, worth)
    return Group(_top(outcome, ranked[:_TOP]), "", told) if ranked else told


def _ranks(measured: Measured, *, reference: bool) -> bool:
    works = reference or not measured.failed
    return works and bool(measured.good) and all(judged.score is not None for judged in measured.good)


def _verdict(outcome: Outcome) -> Iterator[Text]:
    """What came of the run, in a sentence or two."""
    baseline, best = outcome.baseline, outcome.best
    if outcome.failure:
        # The rest of it may be the log of a service.
        first, *_ = outcome.failure.strip().splitlines()
        yield Text(f"The run failed: {clean(first).rstrip(':.')}.", "bold red")
        yield Text("This is what it had found.", "yellow")
    elif outcome.ended:
        yield Text(f"The run is {outcome.ended}; this is what it has found so far.", "yellow")
    total = len(outcome.evaluations)
    if not total:
        yield Text("Nothing has been evaluated.", "bold red")
    elif all(judged.failed for judged in outcome.evaluations):
        yield Text(f"Every evaluation failed ({total} of {total}).", "bold red")
    elif best is None:
        if why := _without_best(outcome):
            yield Text(why, "bold yellow")
            yield from _closest(outcome, baseline)
    elif baseline is None:
        yield Text("There is no baseline to compare with.", "yellow")
        yield from _unconfirmed(outcome, best)
    elif baseline.failed and not baseline.good:
        yield from _baseline_failures(baseline, best)
        yield from _unconfirmed(outcome, best)
    elif best is baseline and all(each.silent for each in outcome.configurations if each is not baseline):
        yield Text(f"Only the baseline has been measured{' so far' if outcome.ended else ''}.", "yellow")
    elif best is baseline:
        yield Text("Nothing beat the baseline: the configuration that you have is the best that was found.", "bold")
        yield from _race_cut(outcome)
    else:
        yield from _comparison(outcome, baseline, best)
    if best is not None and baseline is not None and baseline.good:
        yield from _baseline_failures(baseline, best)
    if best is not None and best.broken:
        yield Text(f"The best breaks a limit: {clean(best.violations)}.", "yellow")


def _baseline_failures(baseline: Measured, best: Measured) -> Iterator[Text]:
    """That half of the baseline's measurements or more failed, be it in a race that does not count for that reason."""
    tried = replace(baseline, race=next((race for race in best.races if race in baseline.races), None))
    if tried.failed:
        often = tried.failures + (" of the final race" if tried.confirmed else "") if baseline.good else "failed"
        yield Text(f"The baseline {often}: {clean(tried.cause or 'no metrics').rstrip(':.')}.", "yellow")


def _without_best(outcome: Outcome) -> str:
    """Why there is no best configuration although something was measured; empty if nothing is judged yet."""
    if all(judged.score is None for judged in outcome.evaluations):
        return ""
    whole = [judged for judged in outcome.evaluations if not judged.evaluation.stopped]
    worked = [judged for judged in whole if judged.score is not None and not judged.failed]
    if not any(judged.feasible for judged in worked):
        return "No evaluation met the limits of the objective."
    if outcome.ended:
        return "No configuration has been chosen as the best so far."
    what = "worked" if all(judged.feasible for judged in worked) else "met the limits"
    return f"Nothing that had {what} did so when it was measured again."


def _closest(outcome: Outcome, baseline: Measured | None) -> Iterator[Text]:
    """The configuration that breaks the limits least, for whoever has to choose other limits."""
    infeasible = [each for each in outcome.configurations if each.broken and not each.failed]
    if not infeasible:
        return
    # Journals of earlier versions do not say how far a limit is broken, only which ones are.
    if all(math.isfinite(each.score.violation) for each in infeasible):
        closest = min(infeasible, key=lambda each: each.score.violation)
    else:
        closest = min(infeasible, key=lambda each: len(each.broken[-1].violations))
    reference = None if baseline is None else baseline.configuration
    what = clean(figures.settings(figures.changes(closest.configuration, reference))) or "the baseline"
    yield Text(f"Closest came #{closest.number}, {what}: {clean(closest.violations)}.", "yellow")


def _comparison(outcome: Outcome, baseline: Measured, best: Measured) -> Iterator[Text]:
    name = outcome.objective
    before, after = baseline.metrics, best.metrics
    if name not in before or name not in after:
        return
    change = figures.gain(name, before[name], after[name], outcome.higher)
    interval = _interval(outcome, baseline, best)
    between = f", {100 * LEVEL:.0f} % interval {' to '.join(map(figures.percent, interval))}" if interval else ""
    if change is not None and change <= 0 and baseline.score.feasible:
        again = " once both were measured again" if baseline.confirmed and best.confirmed else ""
        yield Text(
            f"Nothing beat the baseline{again}: {clean(name)} {figures.percent(change)}{between}.", "bold yellow"
        )
        yield from _race_cut(outcome)
    else:
        text = f"{clean(name)}: {figures.measure(name, before[name])} -> "
        gain = "" if change is None else f" ({figures.percent(change)}{between})"
        yield Text.assemble((text, "bold"), (figures.measure(name, after[name]) + gain, "bold green"))
        yield from _unconfirmed(outcome, best)
        if interval is not None and interval[0] <= 0:
            advice = "" if outcome.race_cut else "; confirm it more often"
            yield Text(f"The gain may be chance: its interval reaches below zero{advice}.", "yellow")
        elif interval is None and best.confirmed and len(best.good) == 1:
            yield Text("Measured again once each: how much of the gain is chance cannot be told; see search.confirm.")
    if baseline.broken:
        yield Text(f"The baseline breaks a limit: {clean(baseline.violations)}.", "yellow")


def _unconfirmed(outcome: Outcome, best: Measured) -> Iterator[Text]:
    """That the best owes its place to measurements of the search alone, which chose it for its luck, too."""
    if best.confirmed:
        yield from _race_cut(outcome)
        return
    baseline = outcome.baseline
    raced = baseline is not None and not best.races.keys().isdisjoint(baseline.races)
    if not raced and (outcome.race_cut or (outcome.cause == "time" and outcome.confirm)):
        both = any(each.races for each in outcome.configurations) and baseline is not None
        what = "ended the final race too early" if both else "left no room for the final race"
        rest = "it did not measure baseline and best again" if both else "the best was not measured again"
        yield Text(f"The time limit {what}: {rest}.", "yellow")
    else:
        again = "baseline and best side by side" if best.races and baseline is not None else "the best again"
        race = f"No final race has measured {again}{' yet' if outcome.ended else ''}"
        yield Text(f"{race}: it may be worse than it looks.", "yellow")
        yield from _race_cut(outcome)


def _race_cut(outcome: Outcome) -> Iterator[Text]:
    if outcome.race_cut:
        yield Text("The time limit ended the final race before all was measured as often as was asked for.", "yellow")


def _interval(outcome: Outcome, baseline: Measured, best: Measured) -> tuple[float, float] | None:
    """The confidence interval of the gain in the objective, in percent, its lower bound first; None for none."""
    better_high = outcome.higher(outcome.objective)
    name = outcome.objective
    # Without a race, the best was chosen among all.
    others = [each for each in outcome.configurations if each not in (baseline, best) and not each.failed]
    raced = [each.values(name) for each in others if each.confirmed or not best.confirmed]
    ratios = ratio_interval(baseline.values(name), best.values(name), raced)
    if ratios is None or better_high is None:
        return None
    low, high = (100.0 * (ratio - 1.0) for ratio in ratios)
    return (low, high) if better_high else (-high, -low)


def _order(outcome: Outcome, metrics: Metrics) -> list[str]:
    """The objective first, then the common vocabulary in its order, then the client's own metrics."""
    names = [*METRICS, *(name for name in metrics if name not in METRICS)]
    return sorted((name for name in names if name in metrics), key=lambda name: name != outcome.objective)


def _title(name: str, measured: Measured) -> str:
    """The title of a column, and below it on how many measurements it rests, unless on a single one of the search."""
    count = len(measured.good)
    often = f"mean of {count}" if count > 1 else "measured again" if measured.confirmed else ""
    return f"{name} #{measured.number}" + (f"\n{often}" if often else "")


class _Limited:
    """A table of metrics with their limits, if there are any, in its last column, or below it where there is no room.

    ``draw`` makes the table with those limits, by metric, that are to have a column.
    """

    def __init__(self, limits: Mapping[str, str], draw: Callable[[Mapping[str, str]], Table]) -> None:
        self._limits = limits
        self._draw = draw

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = self._draw(self._limits)
        if not self._limits or width_of(table, console, options) <= options.max_width:
            yield table
        else:
            yield self._draw({})
            told = (f"{clean(name)} {limit}" for name, limit in self._limits.items())
            yield Text(f"limits: {'; '.join(told)}")


def _side_by_side(outcome: Outcome, baseline: Measured, best: Measured, limits: Mapping[str, str]) -> Table:
    before, after = baseline.metrics, best.metrics
    titles = "metric", _title("baseline", baseline), _title("best", best), "gain"
    table = table_with(*titles, *(["limit"] if limits else []))
    for name in _order(outcome, {name: 0.0 for name in before if name in after}):
        old, new = before[name], after[name]
        change = figures.gain(name, old, new, outcome.higher)
        gain = Text() if change is None else Text(figures.percent(change), "green" if change > 0 else "red")
        row = Text(figures.measure(name, old)), Text(figures.measure(name, new)), gain
        _add(table, outcome, limits, name, *row)
    return table


def _alone(outcome: Outcome, best: Measured, limits: Mapping[str, str]) -> Table:
    metrics = best.metrics
    table = table_with("metric", _title("best", best), *(["limit"] if limits else []))
    for name in _order(outcome, metrics):
        _add(table, outcome, limits, name, Text(figures.measure(name, metrics[name])))
    return table


def _at(measured: Measured, load: str, metric: str) -> tuple[str, int]:
    """The mean of a metric at a load of a sweep, and of how many measurements; none without any."""
    values = [metrics[metric] for metrics in measured.loads.get(load, ()) if metric in metrics]
    return (figures.measure(metric, fmean(values)) if values else "-"), len(values)


def _by_load(outcome: Outcome, shown: Mapping[str, Measured]) -> Iterator[RenderableType]:
    """What was measured at each load of a sweep: the objective, and what has limits."""
    loads = dict.fromkeys(load for each in shown.values() for load in each.loads)
    if len(loads) < 2:
        return
    repeated = False
    table = table_with("metric", "at", *(f"{name} #{measured.number}" for name, measured in shown.items()))
    for metric in dict.fromkeys((outcome.objective, *outcome.limits)):
        rows = [(load, [_at(each, load, metric) for each in shown.values()]) for load in loads]
        rows = [(load, cells) for load, cells in rows if any(count for _, count in cells)]
        columns = zip(*(cells for _, cells in rows), strict=True)
        if all(len({value for value, count in column if count}) < 2 for column in columns):
            continue  # it was measured once for all loads, as what checks the answers is
        repeated |= any(count > 1 for _, cells in rows for _, count in cells)
        for load, cells in rows:
            told = (f"{value} ({count})" if count > 1 else value for value, count in cells)
            table.add_row(Text(clean(metric)), load, *told, end_section=load == rows[-1][0])
    yield table
    if repeated:
        yield Text("(n): the mean of n measurements, of search and race", "dim")
    for name, measured in shown.items():
        if measured.cut:
            yield Text(f"{name} failed at {clean(measured.cut)}", "yellow")
    yield ""


def _add(table: Table, outcome: Outcome, limits: Mapping[str, str], name: str, *cells: Text) -> None:
    """Add the row of a metric."""
    chosen = name == outcome.objective
    limit = [Text(limits.get(name, ""))] if limits else []
    table.add_row(Text(clean(name)), *cells, *limit, style="bold" if chosen else None, end_section=chosen)


def _settings(baseline: Measured | None, best: Measured, worth: Mapping[str, str]) -> Iterator[RenderableType]:
    """The parameters that differ as a table, the others on one line."""
    configuration = best.configuration
    reference = None if baseline is None else baseline.configuration
    changes = figures.changes(configuration, reference)
    if changes:
        before, without = (["baseline"] if reference is not None else []), (["without it"] if worth else [])
        table = table_with("parameter", *before, "best", *without)
        for name, setting in changes.items():
            old = [] if reference is None else [figures.value(reference[name]) if name in reference else "-"]
            table.add_row(
                Text(clean(name)),
                *(Text(clean(text)) for text in old),
                Text(clean(figures.value(setting)), "bold green"),
                *(Text(worth.get(name, ""), "dim") for _ in without),
            )
        yield table
        if worth:
            yield Text(_WITHOUT, "dim")
    unchanged = {name: setting for name, setting in configuration.items() if name not in changes}
    if unchanged:
        yield Text(f"unchanged: {clean(figures.settings(unchanged))}", "dim")


_WITHOUT = "without it: the gain if only that one is set back, by a model of these results; ? if it cannot tell"


def _whereabouts(outcome: Outcome) -> Iterator[RenderableType]:
    yield _whole(f"results:  {outcome.folder}")
    if any(judged.failed for judged in outcome.evaluations):
        yield _whole(f"logs:     {outcome.folder / EVALUATIONS}")
    if outcome.resume:
        yield _whole("go on:    ", (clean(outcome.resume), "bold"))
    if outcome.no_starts:
        yield Text(f"note: {clean(outcome.no_starts)}", "yellow")
    if outcome.best is None or not outcome.starts:
        return
    script = outcome.folder / recipe.SCRIPT
    yield _whole("start it: ", (shlex.quote(str(script)), "bold green"))
    if outcome.away:  # to which the script changes by itself
        yield _Command(["cd", clean(shlex.quote(outcome.away))])
    for start in outcome.starts:
        if len(outcome.starts) > 1:
            yield Text(f"on {clean(start.host)}:")
        yield _Command(recipe.command_words(start, outcome.best.configuration))


def _whole(*parts: str | tuple[str, str]) -> Text:
    """A line that is copied: left to the terminal to break, as what it breaks is still copied as one line."""
    return Text.assemble(*parts, no_wrap=True, overflow="ignore")


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
            yield _whole((f"{indent}{line}" + (" \\" if position < len(lines) - 1 else ""), "dim"))


def _top(outcome: Outcome, best: Sequence[Measured]) -> Table:
    baseline = outcome.baseline
    name = outcome.objective
    before = None if baseline is None else baseline.metrics.get(name)
    reference = None if baseline is None else baseline.configuration
    table = table_with("rank", "#", clean(name), "gain")
    table.add_column("configuration" if reference is None else "changes to the baseline", overflow="fold")
    for rank, measured in enumerate(best, start=1):
        value = measured.metrics.get(name)
        change = None
        if value is not None and before is not None and measured is not baseline:
            change = figures.gain(name, before, value, outcome.higher)
        settings = figures.settings(figures.changes(measured.configuration, reference))
        remark = f"  mean of {len(measured.good)}" if len(measured.good) > 1 else ""
        within = measured.score.feasible or measured is outcome.best
        broken = f"  {'breaks a limit' if within else 'infeasible'}: {clean(measured.violations)}"
        table.add_row(
            str(rank),
            str(measured.number),
            Text(clean(f"no {name}" if value is None else figures.measure(name, value))),
            Text("" if change is None else figures.percent(change)),
            Text.assemble(
                clean(settings) or ("the baseline", "dim"),
                (remark, "dim"),
                (f"  {measured.failures}" if measured.failed else "", "yellow"),
                (broken if measured.broken else "", "yellow"),
            ),
            style="bold" if measured is outcome.best else None,
        )
    return table
