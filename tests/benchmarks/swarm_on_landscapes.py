"""The swarm against uniform random search on measured landscapes: lookups in tables, so that many seeds are cheap.

    python tests/benchmarks/swarm_on_landscapes.py FOLDER [--seeds 30] [--budgets 64 128] [--particles 16]

FOLDER holds one ``NAME.csv`` per table (a column per parameter, and ``__value``, to be minimised; empty or ``inf``
where the configuration failed) and one ``NAME.json`` (``space``, ``opt``, ``median``, ``sparse``). Prints, per table
and budget, the normalised regret (best found - opt) / (median - opt), capped at 1.5: its mean over the seeds for both
searches, in how many of the pairs of seeds the swarm is ahead, and the mean number of evaluations until within 5 % of
the best value.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mpipso.config import Parameter
from mpipso.search.objective import Score
from mpipso.search.space import Space
from mpipso.search.swarm import Swarm

CAP = 1.5
Finder = Callable[["Landscape", int, int], list[float]]


class Landscape:
    """A measured table as a search space whose evaluation is a lookup."""

    def __init__(self, folder: Path, name: str) -> None:
        about = json.loads((folder / f"{name}.json").read_text())
        self.name, self.opt, self.median, self.sparse = name, about["opt"], about["median"], about["sparse"]
        self.columns = about["space"]
        self.space = Space([_parameter(column) for column in self.columns])
        self.table: dict[tuple[int, ...], float] = {}
        with (folder / f"{name}.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                self.table[self._indices(row)] = float(row["__value"] or "inf")
        ordered = np.array([column["type"] == "ord" for column in self.columns])
        rows = np.array(list(self.table))
        self._rows, self._ordered = rows, ordered
        self._values = list(self.table.values())

    def _indices(self, row: dict[str, str]) -> tuple[int, ...]:
        return tuple(_index(column["values"], row[column["name"]]) for column in self.columns)

    def value(self, point: np.ndarray) -> float:
        """What the configuration at ``point`` measured; inf when it failed."""
        found = self.space.decode(point)
        at = tuple(column["values"].index(found[column["name"]]) for column in self.columns)
        if at not in self.table and self.sparse:
            return self._nearest(np.array(at))
        return self.table.get(at, math.inf)

    def _nearest(self, at: np.ndarray) -> float:
        same = (self._rows[:, ~self._ordered] == at[~self._ordered]).all(axis=1)
        if not same.any():
            return math.inf
        distance = np.abs(self._rows - at)[:, self._ordered].sum(axis=1)
        return self._values[int(np.argmin(np.where(same, distance, np.iinfo(int).max)))]

    def regret(self, values: list[float]) -> float:
        return min(CAP, (min(values) - self.opt) / (self.median - self.opt))

    def evaluations_needed(self, values: list[float]) -> float:
        good = self.opt + 0.05 * abs(self.opt)
        return next((i + 1 for i, value in enumerate(values) if value <= good), math.inf)


def _parameter(column: dict[str, Any]) -> Parameter:
    return Parameter(name=column["name"], type="choice", choices=tuple(column["values"]))


def _index(values: list[Any], text: str) -> int:
    return next(i for i, v in enumerate(values) if v == (text if isinstance(v, str) else float(text)))


def random_search(landscape: Landscape, budget: int, seed: int) -> list[float]:
    points = np.random.default_rng(seed).random((budget, landscape.space.dimensions))
    return [landscape.value(point) for point in points]


def swarm_search(particles: int, **constants: Any) -> Finder:
    def find(landscape: Landscape, budget: int, seed: int) -> list[float]:
        space = landscape.space
        swarm = Swarm(
            space.dimensions, particles, seed, distinct=lambda point: space.key(space.decode(point)), **constants
        )
        values: list[float] = []
        while len(values) < budget:
            points = swarm.ask()
            found = [landscape.value(point) for point in points]
            swarm.tell(points, [Score(failed=math.isinf(v), fitness=v if math.isfinite(v) else None) for v in found])
            values += found
        return values[:budget]

    return find


def compare(landscapes: list[Landscape], finder: Finder, budgets: list[int], seeds: int) -> None:
    print(f"{'table':18} {'budget':>6} {'swarm':>7} {'random':>7} {'ahead':>6} {'to 5 %: swarm':>14} {'random':>7}")
    for landscape in landscapes:
        pairs = [(finder(landscape, max(budgets), s), random_search(landscape, max(budgets), s)) for s in range(seeds)]
        for budget in budgets:
            ours, theirs = ([landscape.regret(pair[k][:budget]) for pair in pairs] for k in (0, 1))
            ahead = np.mean([(a < b) + (a == b) / 2 for a, b in zip(ours, theirs, strict=True)])
            needed = [_mean_needed(landscape, [pair[k][:budget] for pair in pairs], budget) for k in (0, 1)]
            print(
                f"{landscape.name:18} {budget:6} {np.mean(ours):7.3f} {np.mean(theirs):7.3f} {ahead:6.0%}"
                f" {needed[0]:>14} {needed[1]:>7}"
            )


def _mean_needed(landscape: Landscape, runs: list[list[float]], budget: int) -> str:
    """Runs that never got there count as the budget, and mark the mean as a lower bound."""
    needed = [landscape.evaluations_needed(run) for run in runs]
    mean = float(np.mean(np.minimum(needed, budget)))
    return f"{'>' if math.inf in needed else ''}{mean:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="the swarm against random search on measured landscapes")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--budgets", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--particles", type=int, default=16)
    options = parser.parse_args()
    landscapes = [Landscape(options.folder, path.stem) for path in sorted(options.folder.glob("*.json"))]
    compare(landscapes, swarm_search(options.particles), sorted(options.budgets), options.seeds)


if __name__ == "__main__":
    main()
