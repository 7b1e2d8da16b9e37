"""Both strategies and random search where searches over models are known to be weak.

    python -m tests.benchmarks.weak_spots [--seeds 10]

``fine``: whole numbers of many values, powers of two of which are better. ``joint``: degrees of parallelism with a
given product, which a plain condition says, so that no change of one of them alone is valid. ``overload``: a limit on a
latency that is many times the limit almost everywhere. ``memory``: the best lies where memory is just not exceeded, and
more fails. Costs are minimised, with 0 as the best; iterations of 4. Prints the median over the seeds of the best cost
after 20, 40 and 80 evaluations, failed and infeasible ones counting as 1, and the share of evaluations of no use.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpipso.config import Constraint, Parameter, Search
from mpipso.score import Score
from mpipso.search.space import Space
from mpipso.search.strategies import create
from tests.benchmarks.limits import limited

BATCH, BUDGETS = 4, (20, 40, 80)
FAILED = Score(failed=True)


@dataclass(frozen=True)
class Spot:
    name: str
    space: Space
    score: Callable[[Mapping[str, Any]], Score]


def whole(name: str, low: int, high: int, scale: str = "linear", **more: int) -> Parameter:
    return Parameter.model_validate({"name": name, "type": "int", "min": low, "max": high, "scale": scale, **more})


def spots() -> Iterator[Spot]:
    share = Parameter(name="share", type="float", min=0.5, max=0.95)
    yield Spot("fine", Space([whole("block", 8, 512, step=8), whole("seqs", 1, 640), share]), fine)
    degrees = [whole(name, 1, 64, default=4) for name in ("tp", "dp", "pp")]
    yield Spot(
        "joint",
        Space([*degrees, share.model_copy(update={"default": 0.9})], [Constraint(expression="tp * dp * pp == 64")]),
        joint,
    )
    yield Spot("overload", Space([whole(f"x{i}", 0, 30) for i in range(6)]), overload)
    tp = Parameter(name="tp", type="choice", choices=(1, 2, 4, 8))
    tokens = whole("tokens", 512, 16384, "log")
    yield Spot("memory", Space([tp, whole("seqs", 1, 1024, "log"), tokens, share]), memory)


def cost(value: float) -> Score:
    return Score(failed=False, fitness=value)


def fine(c: Mapping[str, Any]) -> Score:
    rough = 0.0 if c["block"] in (64, 128, 256, 512) else 0.15
    return cost(rough + (math.log2(c["block"] / 128) / 6) ** 2 + abs(c["seqs"] - 217) / 640 + (c["share"] - 0.8) ** 2)


def joint(c: Mapping[str, Any]) -> Score:
    away = (math.log2(c["tp"] / 16), math.log2(c["dp"] / 2), math.log2(c["pp"] / 2))
    return cost(sum(each**2 for each in away) / 16 + abs(c["share"] - 0.85))


def overload(c: Mapping[str, Any]) -> Score:
    """A latency of 60 ms at best and of 6500 at worst, for a limit of 100; the cost tells nothing of it."""
    calm = (25, 4, 20, 8, 27, 3)
    away = math.sqrt(sum(((c[f"x{i}"] - at) / 30) ** 2 for i, at in enumerate(calm)) / len(calm))
    return limited(1.0 - sum(c[f"x{i}"] for i in range(6)) / 180, [0.6 * math.exp(8.8 * away)])


def memory(c: Mapping[str, Any]) -> Score:
    """Throughput of a device with 80 GB that holds weights of 40 GB and, for each sequence, what its tokens need."""
    if 40.0 / c["tp"] + c["seqs"] * (0.1 + c["tokens"] / 16384) / c["tp"] > 80.0 * c["share"]:
        return FAILED
    rate = c["seqs"] ** 0.7 * (1 - math.exp(-c["tokens"] / 2048)) / c["tp"] ** 0.6
    return cost(1.0 - rate / _BEST_RATE)


def _best_rate() -> float:
    def rate(tp: int, tokens: int) -> float:
        seqs = min(1024, math.floor((80.0 * 0.95 - 40.0 / tp) * tp / (0.1 + tokens / 16384)))
        return seqs**0.7 * (1 - math.exp(-tokens / 2048)) / tp**0.6

    return max(rate(tp, tokens) for tp in (1, 2, 4, 8) for tokens in range(512, 16385))


_BEST_RATE = _best_rate()


def searched(spot: Spot, method: str, seed: int) -> list[Score]:
    if method == "random":
        random = np.random.default_rng(seed)
        points = random.random((max(BUDGETS), spot.space.dimensions))
        if len(decided := spot.space.decided) and (axes := list(spot.space.constrained)):
            points[:, axes] = decided[random.integers(len(decided), size=len(points))][:, axes]
        return [spot.score(spot.space.decode(point)) for point in points]
    section = Search.model_validate({"strategy": method, "seed": seed})
    strategy = create(section, spot.space, in_flight=BATCH)
    scores: list[Score] = []
    while len(scores) < max(BUDGETS):
        first = len(scores)
        points = strategy.ask(BATCH)
        scores += [spot.score(spot.space.decode(point)) for point in points]
        for number, score in enumerate(scores[first:], first):
            strategy.tell(number, score)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    print(f"{'':10}{'':10}" + "".join(f"{budget:>8}" for budget in BUDGETS) + f"{'no use':>9}")
    for spot in spots():
        for method in ("surrogate", "pso", "random"):
            runs = [searched(spot, method, seed) for seed in range(options.seeds)]
            costs = np.array([[score.fitness if score.feasible else 1.0 for score in scores] for scores in runs])
            best = np.median(np.minimum.accumulate(costs, axis=1), axis=0)
            useless = np.mean([not score.feasible for scores in runs for score in scores])
            print(
                f"{spot.name:10}{method:10}" + "".join(f"{best[b - 1]:8.3f}" for b in BUDGETS) + f"{useless:9.0%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
