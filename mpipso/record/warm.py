"""What earlier runs have measured, or other programs as a table, for a search that begins with these results."""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli

from mpipso.config import Config
from mpipso.config.file import parse
from mpipso.config.parameters import Parameter
from mpipso.config.servicefile import steps
from mpipso.errors import UserError
from mpipso.evaluation import BASELINE, Configuration, Evaluation, Expected, Metrics, Value, mean, together, works
from mpipso.record import figures, journal
from mpipso.record.judged import results
from mpipso.record.measured import Measured, by_configuration
from mpipso.record.resume import differences, read_run
from mpipso.record.rows import Result, defaults, read_rows, typed
from mpipso.redact import HIDDEN
from mpipso.wording import clean, counted

Fits = Callable[[Configuration], object]
"""A function that raises ValueError, which says why, for a configuration outside the search space, as
``search.knowledge.fitted`` does."""

_TOLD = 3
"""Reasons, or differences, that a message names."""


@dataclass(frozen=True)
class Earlier:
    """The results that were read from one source, an earlier run or a table.

    Attributes
    ----------
    source:
        The path that it was read from.
    results:
        Configurations with their metrics, None where the configuration failed; one per configuration of a run, its
        metrics the mean of all measurements, and one per row of a table.
    description:
        For people, one line: how many results, and what was left out and why.
    """

    source: str
    results: Sequence[Result]
    description: str


def read_earlier(path: Path, config: Config, fits: Fits) -> Earlier:
    """The results of an earlier run, by its folder, or of a CSV file.

    Results that this search has no use for are left out and counted in the description: those outside its space, with a
    value that was hidden as a secret, and those that lack a metric that the objective or a limit needs, unless their
    benchmark was stopped early. So are those of a run in which something that is no parameter any more had another
    value than it is fixed at now or, where nobody knows that, than in the baseline of that run. A searched parameter
    that the source does not have counts as its default, which the description tells.

    A CSV file (``,``, ``;`` or tabs) has a header and one row per measurement; a column per searched parameter, by its
    name, and columns for metrics, by their names in the common vocabulary, ``benchmark.metrics`` or
    ``quality.metrics``, or the objective's if that is derived. Other columns are ignored, and named in the
    description. A row in which a needed metric is empty or not a finite number is a failure.

    Parameters
    ----------
    config:
        The new search: its parameters, objective and limits.
    fits:
        Tells configurations of its space from others.

    Raises
    ------
    UserError
        The source cannot be read or is damaged (with file and line), lacks a column that is needed, seems to have one
        under a wrong name, or has no result that this search can use.
    """
    if path.is_dir() or path.name == journal.FILE:
        found, notes = _run(path if path.is_dir() else path.parent, config)
    else:
        found, notes = read_rows(path, config)
    found, completed = _completed(found, config)
    notes += completed
    left_out: Counter[str] = Counter()
    kept = [result for result in found if not _left_out(result, config, fits, left_out)]
    reasons = [f"{count} left out: {reason}" for reason, count in left_out.most_common(_TOLD)]
    if rest := left_out.total() - sum(count for _, count in left_out.most_common(_TOLD)):
        reasons.append(f"{rest} left out for other reasons")
    if not kept:
        reasons += notes
        raise UserError(f"{path}: has no result to begin with{': ' if reasons else ''}{'; '.join(reasons)}")
    failed = sum(metrics is None for _, metrics in kept)
    size = counted(len(kept), "result") + (f", {counted(failed, 'failure')} among them" if failed else "")
    return Earlier(str(path), kept, "; ".join([f"{path}: {size}", *reasons, *notes]))


def told(earlier: Earlier, skipped: Iterable[str], *, learned: bool) -> str:
    """What a search has learned from a source, for people, in a line.

    Parameters
    ----------
    skipped:
        For each result that the search could not use, why.
    learned:
        Whether it has learned anything.
    """
    unused = [f"{count} not used: {reason}" for reason, count in Counter(skipped).most_common(_TOLD)]
    what = "learned" if learned else "learned nothing"
    return f"{what} from {'; '.join([earlier.description, *unused])}"


def _completed(found: Sequence[Result], config: Config) -> tuple[list[Result], list[str]]:
    """The results with the defaults of what they lack, and a remark that tells these.

    A result that has no searched parameter at all is of another search, and stays as it is.
    """
    usual = defaults(config)
    added: dict[str, Value] = {}
    whole: list[Result] = []
    for configuration, metrics in found:
        missing = {name: default for name, default in usual.items() if name not in configuration}
        if len(missing) == len(usual):
            missing = {}
        if metrics is not None:  # of a failure it may be that it has no load
            added |= missing
        whole.append(({**configuration, **missing}, metrics))
    return whole, [f"no parameter there, and counted as the default: {figures.settings(added)}"] if added else []


def _left_out(result: Result, config: Config, fits: Fits, reasons: Counter[str]) -> bool:
    """Whether the search has no use for a result; if so, counts the reason."""
    configuration, metrics = result
    hidden = [name for name, value in configuration.items() if isinstance(value, str) and HIDDEN in value]
    missing = [] if metrics is None else [name for name in config.needed if name not in metrics]
    if isinstance(metrics, Expected) and config.objective.metric in metrics:
        missing = []
    if hidden:
        reasons[f"{hidden[0]} was hidden as a secret"] += 1
    elif missing:
        reasons[f"{missing[0]} was not measured"] += 1
    else:
        try:
            fits(configuration)
        except ValueError as error:
            reasons[f"outside the search space ({clean(str(error))})"] += 1
        else:
            return False
    return True


def _run(folder: Path, config: Config) -> tuple[list[Result], list[str]]:
    text, events = read_run(folder, config_given=True)
    try:
        judged = results(events)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / journal.FILE}: an event lacks what this version expects: {error}") from None
    other = _configuration(text, folder)
    config = config if other is None else _calling(config, other)
    found: list[Result] = []
    for measured in by_configuration(one for one in judged if not one.evaluation.silent):
        good = [one.evaluation for one in measured.measurements if one.evaluation.failure is None]
        metrics = together(good) if works(good, measured.measurements) else None
        if measured.stopped:
            metrics = _expected(good[-1], other, config)
        loads = [({}, metrics)] if other is None else _loads(measured, metrics, other, config)
        found += [({**load, **measured.configuration}, each) for load, each in loads]
    baseline = next((one.evaluation.configuration for one in judged if one.evaluation.label == BASELINE), None)
    load = {} if other is None else _fixed_load(config, other)
    parameters = () if other is None else other.parameters
    computed = [each.name for each in parameters if not each.searched and each.name not in load]
    fixed = {each.name: now for each in parameters if (now := _newly_fixed(each, config, other)) is not None} | load
    kept, notes = _comparable(found, baseline, fixed, computed, config)
    return kept, [*notes, *_otherwise(other, config)]


def _calling(config: Config, other: Config) -> Config:
    """The configuration, a load that an ``other`` run swept as a setting if its command has a new parameter there."""
    new = {each.name for each in config.parameters} - {each.name for each in other.parameters}
    before, now = other.benchmark.command, config.benchmark.command
    for key, name in itertools.product({*other.benchmark.swept} - {*config.benchmark.swept}, new):
        called = f"{{{key}}}", f"{{{name}}}"
        words = tuple(word.replace(*called) for word in before)
        if any(called[0] in old and word == own for old, word, own in zip(before, words, now, strict=False)):
            return config.having("benchmark", **{key: called[1]}, command=before if words == now else now)
    return config


def _expected(stopped: Evaluation, other: Config | None, config: Config) -> Expected:
    """What was expected of a benchmark that was stopped early; nothing where an objective of that name is another."""
    name = config.objective.metric
    if other is None or other.objective.metric != name:
        return Expected()
    if other.objective.derived.get(name) != config.objective.derived.get(name):
        return Expected()
    return Expected({name: stopped.expected or 0.0})


def _configuration(text: str, folder: Path) -> Config | None:
    """The configuration of an earlier run; None if it is of another version."""
    try:
        return parse(text, str(folder), earlier=True)
    except (UserError, tomli.TOMLDecodeError):
        return None


def _loads(
    measured: Measured, metrics: Metrics | None, other: Config, config: Config
) -> list[tuple[dict[str, Value], Metrics | None]]:
    """The loads of an ``other`` run, if they are tuned now, and what was measured there; of a sweep, if any was."""
    fixed = _fixed_load(other, config)
    swept = {key: name for key, name in config.benchmark.called.items() if key in other.benchmark.swept}
    if metrics is None or not swept:
        return [(fixed, metrics)]
    found = [(each, {name: each[key] for key, name in swept.items()}) for each in map(mean, measured.loads.values())]
    return [(fixed | {name: int(n) if n == int(n) else n for name, n in at.items()}, each) for each, at in found]


def _fixed_load(fixed: Config, tuned: Config) -> dict[str, Value]:
    """By the parameters that are settings of the load in one configuration, the numbers that another has there."""
    load = fixed.benchmark.load({})
    return {name: load[key] for key, name in tuned.benchmark.called.items() if key in load}


def _newly_fixed(parameter: Parameter, config: Config, other: Config | None) -> Value | None:
    """The value at which a parameter of an ``other`` run is fixed now, as it was not there; None if unknown.

    What stood in the command beside the parameter is no flag of the service's, but one of what starts it.
    """
    now = _fixed(parameter, config)
    return None if other is not None and now == _fixed(parameter, other) else now


def _fixed(parameter: Parameter, config: Config) -> Value | None:
    """The value that a service now has by its command, environment or file where it was a parameter's; None if unknown.

    The name stands for a flag of a parameter that has none, as that of a server which knows it.
    """
    service = config.service
    spelled = parameter.name.replace("_", "-")
    no = (parameter.flag or "").partition("/")[2] if parameter.flags else f"--no-{spelled}"
    names = parameter.flags or (f"--{spelled}", no)
    found: object = service.env.get(parameter.env) if parameter.env else None
    if parameter.env is None and service.config_file is not None:
        with contextlib.suppress(ValueError):  # which is told elsewhere
            found = _at(service.config_file.tree(), parameter.path or names[0].strip("-="))
    if parameter.env is None and parameter.path is None:
        for word, following in itertools.zip_longest(service.command, service.command[1:]):
            flag, equals, value = word.partition("=")
            if flag in [name.removesuffix("=") for name in names]:
                found = value if equals else str(word != no) if parameter.type == "bool" else following
    if found is None or isinstance(found, (dict, list)) or "{" in str(found):
        return None
    try:
        return typed(parameter, str(found))
    except ValueError:
        return None


def _at(tree: Any, path: str) -> object:
    """What stands at a path of a file, or at the flag of that name; None if nothing does."""
    for spelled in itertools.product(*({part, part.replace("-", "_")} for part in path.split("."))):
        keys, missing = steps(tree, spelled)
        if not missing:
            return functools.reduce(operator.getitem, keys, tree)
    return None


def _comparable(
    found: Sequence[Result],
    baseline: Configuration | None,
    fixed: Configuration,
    computed: Collection[str],
    config: Config,
) -> tuple[list[Result], list[str]]:
    """The results of a run in which all that is no parameter any more had the value that is left of it.

    That is the one that it is ``fixed`` at now, or else that of the ``baseline``. What was ``computed`` there from
    other parameters follows from these, and does not count.

    With a remark on the others, which tell of a service that this search cannot start. Without a baseline nobody knows
    which value is left of what is not fixed: then a remark names what is ignored.
    """
    known = {*(parameter.name for parameter in config.parameters), *computed}
    dropped = dict.fromkeys(name for configuration, _ in found for name in configuration if name not in known)
    left = {**(baseline or {}), **fixed}
    ignored = [name for name in dropped if baseline is None and name not in fixed]
    others = [dropped.keys() & figures.changes(configuration, left).keys() - ignored for configuration, _ in found]
    kept = [result for result, names in zip(found, others, strict=True) if not names]
    differing = {name: left.get(name, "") for name in dropped if any(name in names for names in others)}
    remarks = []
    if differing:
        count = len(found) - len(kept)
        remarks += [
            f"{count} left out: no parameter any more, and with another value than {figures.settings(differing)}"
        ]
    if ignored:
        remarks += [f"ignored parameters, without a baseline to compare with: {', '.join(ignored)}"]
    return kept, remarks


def _otherwise(other: Config | None, config: Config) -> list[str]:
    """A remark when the earlier run measured another service or with another workload, if that can be told."""
    if other is None:
        return ["its configuration is of another version, so nobody can tell whether it measured the same"]
    settings = {*config.benchmark.called, *other.benchmark.called} - {*config.benchmark.swept}
    tuned = tuple(f"benchmark.{key} " for key in settings)
    lines = (line for line in differences(other, config) if line.startswith(("service.", "benchmark.", "quality.")))
    keys = [line for line in lines if not line.startswith(tuned)]
    more = f" and {len(keys) - _TOLD} more" if len(keys) > _TOLD else ""
    return [f"measured otherwise: {', '.join(keys[:_TOLD])}{more}"] if keys else []


def to_fields(earlier: Earlier) -> Mapping[str, object]:
    """The fields of the ``learned`` event that tells of these results."""
    rows = []
    for configuration, metrics in earlier.results:
        row: dict[str, object] = {"configuration": dict(configuration), "metrics": None}
        if metrics is not None:
            row["metrics"] = dict(metrics)
        if isinstance(metrics, Expected):
            row["expected"] = True
        rows.append(row)
    return {"source": earlier.source, "results": rows}


def from_fields(event: Mapping[str, Any]) -> list[Result]:
    """The results of which a ``learned`` event tells."""
    rows = [(row["configuration"], row["metrics"], row.get("expected", False)) for row in event["results"]]
    return [(configuration, Expected(metrics) if expected else metrics) for configuration, metrics, expected in rows]
