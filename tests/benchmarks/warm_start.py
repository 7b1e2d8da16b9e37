"""How soon a search that knows results from elsewhere finds a good configuration, if machines there are faster or not.

    python -m tests.benchmarks.warm_start FOLDER [--seeds 10]

FOLDER holds tables as for ``optimisers.py``. What is known are 30 random configurations, without those within 5 % of
the best and those that failed; iterations of 4. Prints the evaluations until one within 5 % of the best was measured,
at most 48: median, mean, and the share of the runs that got there.

Then the same where machines elsewhere have room for more, or are faster, which matters where a limit is a number: the
``queue`` of ``limits.py``, once as a limit and once as memory, and 60 random configurations. Prints the best rate as a
share of the best there is, after 12, 20, 40 and 60 evaluations: its mean over the seeds.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from mpipso.config import Search
from mpipso.score import Score
from mpipso.search.strategies import create
from tests.benchmarks.landscapes import Landscape, tables
from tests.benchmarks.limits import Spot, queue_within, searched, spots

KNOWN, BATCH, BUDGET = 30, 4, 48
SOURCES = {"nothing is known": None, "the same values": 1.0, "a tenth of them": 0.1, "ten times them": 10.0}
"""By which factor costs, or negated rates, are different elsewhere."""
BUDGETS, LIMIT = (12, 20, 40, 60), 200.0
ROOM = {"nothing is known": None, "the same room": 1.0, "half the room": 0.5, "twice the room": 2.0, "4 times": 4.0}


def score(value: float) -> Score:
    failed = not math.isfinite(value)
    return Score(failed=failed, fitness=None if failed else value)


def needed(landscape: Landscape, seed: int, factor: float | None) -> float:
    """Evaluations until one is good; inf if none was within the budget."""
    strategy = create(Search(seed=seed), landscape.space, in_flight=BATCH)
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


def rates(spot: Spot, room: float | None, seed: int, *, fails: bool) -> list[float]:
    """The best rate after so many evaluations; ``room`` is that of the machine elsewhere."""
    points: list[np.ndarray] = []
    scores: list[Score] = []
    if room is not None:
        elsewhere = replace(spot, model=queue_within(room * LIMIT, fails=fails))
        random = np.random.default_rng([seed, 7]).random((2 * KNOWN, spot.space.dimensions))
        points = [spot.space.encode(spot.space.decode(point)) for point in random]
        scores = [elsewhere.score(spot.space.decode(point)) for point in points]
    here = replace(spot, model=queue_within(LIMIT, fails=fails))
    found = searched(here, "surrogate", seed, known=(np.array(points), scores))
    return [max(-(each.fitness or 0.0) if each.feasible else 0.0 for each in found[:budget]) for budget in BUDGETS]


def roomier(seeds: int) -> None:
    spot = next(spot for spot in spots() if spot.name == "queue")
    for fails, what in ((True, "memory"), (False, "limit")):
        print(f"\n{what + ' elsewhere':20}" + "".join(f"{budget:8}" for budget in BUDGETS))
        for name, room in ROOM.items():
            means = np.mean([rates(spot, room, seed, fails=fails) for seed in range(seeds)], axis=0)
            print(f"{name:20}" + "".join(f"{mean / spot.best:8.2f}" for mean in means), flush=True)


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
    roomier(options.seeds)


if __name__ == "__main__":
    main()
