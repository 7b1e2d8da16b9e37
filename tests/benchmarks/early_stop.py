"""What it spares to stop benchmarks early, and what that costs the search.

    python -m tests.benchmarks.early_stop [--tables FOLDER] [--behind 0.2] [--noise 0.1] [--seeds 5] [--batch 4]

The landscapes are those of ``limits.py``: rates with limits on latencies. A benchmark sends as many requests to each
configuration, so it takes as long as its rate is low; the unit of time is what that of the best configuration takes.
The rate of the first quarter of the requests differs from that of all by a random factor, log-normal of standard
deviation ``--noise``; that of an eighth and a sixteenth by the square root of two and twice as much, in logarithms.
With ``--behind`` benchmarks are stopped then as by ``early_stop``, by the product's own rule,
for the best of the batches before. Prints for both searches the evaluations until one within 5 % of the best was
measured, the time until then, if a start takes 0, 1 or 3 units, and the time of the whole budget: geometric means over
the seeds, where runs that do not get there count as one and a half of the budget. Times are sums over evaluations, as
those of a single group.
"""

from __future__ import annotations

import argparse
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mpipso.config import Config, Search
from mpipso.evaluation import FIRST_PART, Pace
from mpipso.score import Score
from mpipso.search.strategies import create
from mpipso.service.early import PARTS, EarlyStop
from tests.benchmarks.limits import Spot, spots, tables

BUDGET = 40
STARTS = (0.0, 1.0, 3.0)
"""What a start takes, in units of the best configuration's benchmark."""


@dataclass(frozen=True)
class Measured:
    """What one evaluation has told, and how long its benchmark took."""

    score: Score
    seconds: float


def config(behind: float | None) -> Config:
    return Config.model_validate(
        {
            "service": {"engine": "command", "command": ("serve",)},
            "benchmark": {"client": "openai", "early_stop": behind},
            "objective": {"maximize": "output_throughput"},
            "parameters": ({"name": "n", "type": "int", "min": 1, "max": 9, "flag": "-n"},),
        }
    )


def measured(spot: Spot, score: Score, factor: float, pace: Pace | None, settings: Config) -> Measured:
    """One evaluation; its first quarter is by a ``factor`` faster than the whole."""
    if score.fitness is None:
        return Measured(score, 0.0)
    rate = -score.fitness
    looks = iter([(part, rate * factor ** math.sqrt(FIRST_PART / part)) for part in PARTS])
    stop = EarlyStop(settings, threading.Event(), lambda: next(looks), pace)
    part = next((part for part in PARTS if stop.is_set()), None)
    if part is None:
        return Measured(score, spot.best / rate)
    unknown = len(score.log_ratios) * (math.nan,)
    told = Score(False, fitness=-(stop.expected or 0.0), fidelity=FIRST_PART, log_ratios=unknown)
    return Measured(told, part * spot.best / rate)


def searched(spot: Spot, seed: int, batch: int, noise: float, settings: Config) -> list[Measured]:
    strategy = create(Search(strategy="surrogate", seed=seed), spot.space, in_flight=batch)
    random = np.random.default_rng([seed, 1])
    found: list[Measured] = []
    best, pace = 0.0, None
    while len(found) < BUDGET:
        points = strategy.ask(min(batch, BUDGET - len(found)))
        if not len(points):  # a small space may be exhausted
            break
        factors = np.exp(noise * random.standard_normal(len(points)))
        scores = [spot.score(spot.space.decode(point)) for point in points]
        new = [measured(spot, *pair, pace, settings) for pair in zip(scores, map(float, factors), strict=True)]
        for number, (each, factor) in enumerate(zip(new, factors, strict=True), len(found)):
            strategy.tell(number, each.score)
            if each.score.feasible and (rate := -(each.score.fitness or 0.0)) > best:
                best, pace = rate, Pace(rate * float(factor), rate)
        found += new
    return found


def figures(spot: Spot, run: Sequence[Measured]) -> list[float]:
    """The logarithms of evaluations and times to within 5 % of the best, and of the times of all."""
    rates = [-(each.score.fitness or 0.0) if each.score.feasible else 0.0 for each in run]
    reached = next((n for n, rate in enumerate(rates, 1) if rate >= 0.95 * spot.best), None)
    part, factor = (run, 1.5) if reached is None else (run[:reached], 1.0)
    until = [factor * sum(start + each.seconds for each in part) for start in STARTS]
    whole = [sum(start + each.seconds for each in run) for start in STARTS]
    return [math.log(each) for each in (factor * len(part), *until, *whole)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path)
    parser.add_argument("--behind", type=float, default=0.2)
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4)
    options = parser.parse_args()
    starts = "".join(f"{start:8.0f}" for start in STARTS)
    print(f"{'':36}{'evals to 5 %':>13}{'time to 5 %, start':>24}{'time in all':>24}\n{'':49}{starts}{starts}")
    every: dict[str, list[list[float]]] = {"to the end": [], "stopped early": []}
    for spot in spots() if options.tables is None else tables(options.tables):
        spot = replace(spot, known_best=spot.best)
        for name, behind in zip(every, (None, options.behind), strict=True):
            settings = config(behind)
            runs = [
                figures(spot, searched(spot, seed, options.batch, options.noise, settings))
                for seed in range(options.seeds)
            ]
            every[name].append([float(each) for each in np.mean(runs, axis=0)])
            print(_row(spot.name, name, every[name][-1]), flush=True)
    for name, rows in every.items():
        print(_row("geometric mean", name, [float(each) for each in np.mean(rows, axis=0)]))


def _row(spot: str, name: str, logarithms: Sequence[float]) -> str:
    first, *rest = (math.exp(each) for each in logarithms)
    return f"{spot:22}{name:14}{first:13.1f}" + "".join(f"{each:8.1f}" for each in rest)


if __name__ == "__main__":
    main()
