"""Landscapes to compare optimisers on: lookups in tables of measured configurations, and test functions."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.optimize import differential_evolution

from mpipso.config import Parameter
from mpipso.search.space import Space

CAP = 1.5


@dataclass(frozen=True)
class Axis:
    """One parameter: ``cat`` and ``ord`` take the indices 0 to ``levels`` - 1, a ``float`` all of [0, 1]."""

    kind: Literal["cat", "ord", "float"]
    levels: int = 0

    def at(self, u: float) -> float:
        """The index or the number at ``u`` in [0, 1]."""
        return u if self.kind == "float" else min(int(u * self.levels), self.levels - 1)

    def parameter(self, name: str) -> Parameter:
        if self.kind == "cat":
            return Parameter(name=name, type="choice", choices=tuple(f"v{i}" for i in range(self.levels)))
        if self.kind == "ord":
            return Parameter(name=name, type="int", min=0, max=self.levels - 1)
        return Parameter(name=name, type="float", min=0.0, max=1.0)


class Landscape:
    """A function of the values along each axis, to be minimised; inf where the configuration fails."""

    def __init__(
        self, name: str, axes: Sequence[Axis], function: Callable[[tuple[float, ...]], float], opt: float, median: float
    ) -> None:
        self.name, self.axes, self.at = name, tuple(axes), function
        self.opt, self.median = opt, median
        self.space = Space([axis.parameter(f"p{i}") for i, axis in enumerate(axes)])

    def value(self, point: Sequence[float]) -> float:
        """At ``point`` of the unit cube."""
        return self.at(tuple(axis.at(float(u)) for axis, u in zip(self.axes, point, strict=True)))

    def regret(self, value: float) -> float:
        return min(CAP, (value - self.opt) / (self.median - self.opt))

    def good(self, value: float) -> bool:
        """Whether it is within 5 % of the best."""
        return value <= self.opt + 0.05 * abs(self.opt)


def tables(folder: Path, failures: float = 0.0) -> Iterator[Landscape]:
    """Every ``NAME.json`` of the folder with its ``NAME.csv``; a share ``failures`` of the rows is made to fail."""
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise SystemExit(f"{folder}: no table there, that is no NAME.json with its NAME.csv")
    for path in paths:
        yield column(folder, path.stem, failures=failures)


def column(folder: Path, name: str, values: str = "__value", failures: float = 0.0) -> Landscape:
    """The values in a column of a table; a share ``failures`` of the rows is made to fail."""
    about = json.loads((folder / f"{name}.json").read_text())
    columns = about["space"]
    rows: dict[tuple[float, ...], float] = {}
    with (folder / f"{name}.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            at = tuple(_index(each["values"], row[each["name"]]) for each in columns)
            rows[at] = float(row[values] or "inf")
    fails = np.random.default_rng(0).random(len(rows)) < failures
    rows = {at: math.inf if failed else value for (at, value), failed in zip(rows.items(), fails, strict=True)}
    ordered = np.array([each["type"] == "ord" for each in columns])
    axes = [Axis("ord" if each["type"] == "ord" else "cat", len(each["values"])) for each in columns]
    indices, costs = np.array(list(rows)), list(rows.values())

    def nearest(at: tuple[float, ...]) -> float:
        same = (indices[:, ~ordered] == np.array(at)[~ordered]).all(axis=1)
        if not same.any():
            return math.inf
        distance = np.abs(indices - np.array(at))[:, ordered].sum(axis=1)
        return costs[int(np.argmin(np.where(same, distance, np.inf)))]

    def lookup(at: tuple[float, ...]) -> float:
        if at not in rows and about["sparse"]:
            rows[at] = nearest(at)
        return rows.get(at, math.inf)

    opt = about["opt"] if not failures else min(costs)
    return Landscape(name, axes, lookup, opt, about["median"])


def _index(values: Sequence[Any], text: str) -> int:
    return next(i for i, v in enumerate(values) if v == (text if isinstance(v, str) else float(text)))


def bbob_mixint(dimensions: Sequence[int], functions: Sequence[int]) -> Iterator[Landscape]:
    """Functions of the suite bbob-mixint: four of five dimensions are whole numbers.

    T. Tušar, D. Brockhoff, N. Hansen, "Mixed-integer benchmark problems for single- and bi-objective optimization"
    (GECCO 2019). The suite does not tell its optima, so they are searched for by differential evolution.
    """
    import cocoex

    for dimension in dimensions:
        for number in functions:
            suite = cocoex.Suite(
                "bbob-mixint", "", f"dimensions:{dimension} function_indices:{number} instance_indices:1"
            )
            yield _mixint(suite[0], suite)


def _mixint(problem: Any, suite: Any) -> Landscape:
    low, high = np.array(problem.lower_bounds), np.array(problem.upper_bounds)
    whole = problem.number_of_integer_variables
    axes = [Axis("ord", int(high[i] - low[i]) + 1) if i < whole else Axis("float") for i in range(len(low))]

    def function(at: tuple[float, ...], _suite: Any = suite) -> float:  # the problem lives as long as its suite
        return float(
            problem(
                [v + a if i < whole else a + v * (b - a) for i, (v, a, b) in enumerate(zip(at, low, high, strict=True))]
            )
        )

    bounds = [(0, axis.levels - 1) if axis.kind == "ord" else (0.0, 1.0) for axis in axes]
    integrality = [axis.kind == "ord" for axis in axes]
    found = differential_evolution(
        lambda x: function(tuple(x)), bounds, integrality=integrality, seed=0, maxiter=300, popsize=15
    )
    cube = np.random.default_rng(0).random((2001, len(axes)))
    median = float(np.median([function(tuple(axis.at(u) for axis, u in zip(axes, p, strict=True))) for p in cube]))
    return Landscape(problem.id, axes, function, float(found.fun), median)
