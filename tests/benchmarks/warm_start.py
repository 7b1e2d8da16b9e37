"""How soon a search that knows results from elsewhere finds a good configuration, if machines there are faster or not.

    python -m tests.benchmarks.warm_start FOLDER [--seeds 10]

FOLDER holds tables as for ``optimisers.py``. What is known are 30 random configurations, without those within 5 % of
the best and those that failed; iterations of 4. Prints the evaluations until one within 5 % of the best was measured,
at most 48: median, mean, and the share of the runs that got there.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np

from mpipso.config import Search
from mpipso.search.objective import Score
from mpipso.search.strategies import create
from tests.benchmarks.landscapes import Landscape, tables

KNOWN, BATCH, BUDGET = 30, 4, 48
SOURCES = {"nothing is known": None, "the same values": 1.0, "a tenth of them": 0.1, "ten times them": 10.0}
"""By which factor costs, or negated rates, are different elsewhere."""


def score(value: float) -> Score:
    failed = not math.isfinite(value)
    return Score(failed=failed, fitness=None if failed else value)


def needed(landscape: Landscape, seed: int, factor: float | None) -> float:
    """Evaluations until one is good; inf if none was within the budget."""
    strategy = create(Search(seed=seed), landscape.space, None, in_flight=BATCH)
    if factor is not None:
        points = np.random.default_rng([seed, 7]).random((KNOWN, len(landscape.axes)))
        values = [landscape.value(point) for point in points]
        kept = [i for i, value in enumerate(values) if math.isfinite(value) and not landscape.good(value)]
        strategy.learn(points[kept], [score(factor * values[i]) for i in kept])
    for first in range(0, BUDGET, BATCH):
        for number, point in enumerate(strategy.ask(BATCH), first):
            value = landscape.value(point)
            if landscape.good(value):
                return number + 1
            strategy.tell(number, score(value))
    return math.inf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    landscapes = list(tables(options.folder))
    print(f"{'measured elsewhere':20}{'median':>8}{'mean':>8}{'reached':>9}")
    for name, factor in SOURCES.items():
        counts = [needed(landscape, seed, factor) for landscape in landscapes for seed in range(options.seeds)]
        middle, mean = np.median(counts), np.mean(np.minimum(counts, BUDGET))
        print(f"{name:20}{middle:8.1f}{mean:8.1f}{np.isfinite(counts).mean():9.0%}", flush=True)


if __name__ == "__main__":
    main()
