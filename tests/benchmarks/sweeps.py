"""Evaluations where the load is a parameter, and where each evaluation measures at all loads, a sweep.

    python -m tests.benchmarks.sweeps FOLDER [--column concurrency] [--seeds 10] [--budget 60] [--batch 4]

FOLDER holds tables as for ``optimisers.py``; those with that column count, as the measured ones of
``serving_tables.py``. Prints, for each and for both searches, in how many configurations the space has, the evaluations
until one within 5 % of the best was measured (the median over the seeds; runs that do not get there count as one and a
quarter of the budget), and in the last line the geometric mean over tables and seeds.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.benchmarks.landscapes import Landscape, tables
from tests.benchmarks.optimisers import run


def swept(landscape: Landscape, column: int) -> Landscape:
    """The landscape without a column, in which each configuration costs what it does at the best value of that."""
    levels = landscape.axes[column].levels
    axes = [axis for number, axis in enumerate(landscape.axes) if number != column]

    def cost(at: tuple[float, ...]) -> float:
        return min(landscape.at((*at[:column], float(level), *at[column:])) for level in range(levels))

    return Landscape(landscape.name, axes, cost, landscape.opt, landscape.median)


def evaluations(landscape: Landscape, seeds: int, budget: int, batch: int) -> list[float]:
    """Those until a good configuration was measured, for each seed."""
    counts = []
    for seed in range(seeds):
        true = run("surrogate", landscape, seed, batch, budget, 0.0)["true"]
        good = [number for number, value in enumerate(true, 1) if landscape.good(value)]
        # A small space may be exhausted before the budget is spent.
        counts.append(float(good[0]) if good else 1.25 * budget)
    return counts


def _shown(landscape: Landscape, counts: Sequence[float]) -> str:
    return f"{math.prod(axis.levels for axis in landscape.axes):10}{np.median(counts):12.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--column", default="concurrency")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budget", type=int, default=60)
    parser.add_argument("--batch", type=int, default=4)
    options = parser.parse_args()
    every: list[tuple[list[float], list[float]]] = []
    print(f"{'':28}{'a parameter':>22}{'swept':>22}")
    for landscape in tables(options.folder):
        columns = json.loads((options.folder / f"{landscape.name}.json").read_text())["space"]
        names = [column["name"] for column in columns]
        if options.column not in names:
            continue
        without = swept(landscape, names.index(options.column))
        both = [evaluations(each, options.seeds, options.budget, options.batch) for each in (landscape, without)]
        every.append((both[0], both[1]))
        print(f"{landscape.name:28}{_shown(landscape, both[0])}{_shown(without, both[1])}", flush=True)
    means = [math.exp(float(np.mean(np.log([counts[i] for counts in every])))) for i in (0, 1)]
    print(f"{'geometric mean':28}{means[0]:22.1f}{means[1]:22.1f}")


if __name__ == "__main__":
    main()
