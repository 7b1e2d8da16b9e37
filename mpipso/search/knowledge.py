"""What is known before a search: results of earlier runs or of other tools, and the user's guesses."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from mpipso.config import Search
from mpipso.config.parameters import Parameter
from mpipso.errors import UserError
from mpipso.evaluation import Configuration, Evaluation, Expected, Failure, Metrics, Value, mean, works
from mpipso.score import Score
from mpipso.search.arrays import Array
from mpipso.search.objective import Objective
from mpipso.search.space import Space
from mpipso.wording import suggestion

Result = tuple[Mapping[str, object], Metrics | None]
"""A configuration and its metrics, which are None when it failed."""


@dataclass(frozen=True)
class Knowledge:
    """Earlier results that fit the space, for :meth:`mpipso.search.strategy.Strategy.learn`, and why others do not.

    ``points`` are of shape (n, dimensions), with one score each; ``skipped`` has one reason per skipped result.
    """

    points: Array
    scores: tuple[Score, ...]
    skipped: tuple[str, ...]


def knowledge(space: Space, objective: Objective, results: Iterable[Result]) -> Knowledge:
    """Turn earlier results into points and scores.

    A result is skipped when its configuration lacks a parameter, has a value that cannot be set, or breaks a known
    constraint; parameters that the space does not have are ignored. A result with metrics is also skipped when limits
    are relative to the baseline and that has no result with metrics. One that has the objective's metric, but not all
    that have limits, counts like what was expected of a benchmark that was stopped early. Several results of one
    configuration are replaced by their mean, or by a failure unless more than half of them have metrics.
    """
    fitting: list[tuple[Configuration, Metrics | None]] = []
    skipped: list[str] = []
    for given, metrics in results:
        try:
            fits = fitted(space, given)
            if metrics is not None:
                whole = {**metrics, **objective.derived(metrics, fits)}
                complete = all(limit.metric in whole for limit in objective.limits)
                metrics = whole if complete and not isinstance(metrics, Expected) else Expected(whole)
            fitting.append((fits, metrics))
        except ValueError as error:
            skipped.append(str(error))
    together = _together(space, fitting)
    _, reference = ({}, None) if space.baseline is None else together.get(space.key(space.baseline), ({}, None))
    scores: list[Score] = []
    points: list[Array] = []
    for configuration, metrics in together.values():
        if metrics is not None and objective.relative and reference is None:
            skipped.append("limits are relative to the baseline, which is not among the results")
            continue
        failure = Failure("failed in an earlier run", "configuration") if metrics is None else None
        value = metrics.get(objective.metric) if isinstance(metrics, Expected) else None
        evaluation = Evaluation(0, 1, 0, configuration, metrics=metrics or {}, failure=failure, expected=value)
        try:
            scores.append(objective.judge(evaluation, reference or {}))
        except ValueError as error:
            skipped.append(str(error))
            continue
        points.append(space.encode(configuration))
    return Knowledge(np.array(points).reshape(len(points), space.dimensions), tuple(scores), tuple(skipped))


def _together(
    space: Space, results: Iterable[tuple[Configuration, Metrics | None]]
) -> dict[str, tuple[Configuration, Metrics | None]]:
    """By the key of each configuration, the configuration and the mean of its metrics, which is None if it failed."""
    found: dict[str, tuple[Configuration, list[Metrics | None]]] = {}
    for configuration, metrics in results:
        found.setdefault(space.key(configuration), (configuration, []))[1].append(metrics)
    together: dict[str, tuple[Configuration, Metrics | None]] = {}
    for key, (configuration, several) in found.items():
        good = [metrics for metrics in several if metrics is not None]
        worked = works(good, several)
        # What was only expected says less beside what was measured.
        measured = [metrics for metrics in good if not isinstance(metrics, Expected)]
        average = mean(measured) if measured else Expected(mean(good))
        together[key] = configuration, average if worked else None
    return together


def fitted(space: Space, given: Mapping[str, object]) -> dict[str, Value]:
    """``given`` as a configuration of the space, with what expressions compute.

    Raises ValueError when a parameter is missing, a value cannot be set, or a known constraint is broken.
    """
    values: dict[str, Value] = {}
    for parameter in space.parameters:
        if parameter.searched:
            if parameter.name not in given:
                raise ValueError(f"{parameter.name} is missing")
            values[parameter.name] = _typed(parameter, given[parameter.name])
    configuration = space.decode(space.encode(values))
    for name, value in values.items():
        if not near(value, configuration[name]):
            raise ValueError(f"{name}: {value!r} is not one of the values that can be set")
    if broken := space.broken(configuration):
        raise ValueError(f"constraint: expression {broken!r} does not hold")
    return configuration


def first_points(config: Search, space: Space) -> list[Array]:
    """The configurations that the user wants measured first, each of shape (dimensions,).

    Raises
    ------
    UserError
        They name a parameter that is not searched, have a value that cannot be set, or break a known constraint; one
        line per mistake.
    """
    searched = [parameter.name for parameter in space.parameters if parameter.searched]
    points, problems = [], []
    for number, given in enumerate(config.first):
        found = [f"{name} is not searched{suggestion(name, searched)}" for name in given if name not in searched]
        try:
            points.append(space.encode(fitted(space, {**(space.baseline or {}), **given})))
        except ValueError as error:
            found.append(str(error))
        problems += [f"search.first[{number}]: {problem}" for problem in found]
    if problems:
        raise UserError(problems)
    return points


def _typed(parameter: Parameter, value: object) -> Value:
    """``value`` with the type of the parameter; ValueError when the parameter has no such value."""
    number = _number(value)
    if parameter.type == "choice":
        for choice in parameter.choices:
            if choice == value and (type(choice) is type(value) or None not in (number, _number(choice))):
                return choice
        raise ValueError(f"{parameter.name}: {value!r} is none of {', '.join(map(str, parameter.choices))}")
    if parameter.type == "bool" and isinstance(value, bool):
        return value
    if number is not None and (parameter.type == "float" or (parameter.type == "int" and number == int(number))):
        return int(number) if parameter.type == "int" else number
    raise ValueError(f"{parameter.name}: {value!r} is not of type {parameter.type}")


def _number(value: object) -> float | None:
    """``value`` as a float; None unless it is a finite number, and no larger than a float can be."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) <= sys.float_info.max:
        return None
    return float(value)


def near(given: Value, found: Value) -> bool:
    """Whether the value that can be set is the given one; floats may differ by what rounding changes."""
    if isinstance(given, float) and isinstance(found, float):
        return math.isclose(given, found, rel_tol=1e-4, abs_tol=1e-12)
    return repr(given) == repr(found)
