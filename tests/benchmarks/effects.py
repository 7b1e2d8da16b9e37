"""How well the models tell what each change of the best configuration is worth.

    python -m tests.benchmarks.effects FOLDER [FOLDER ...] [--seeds 10]

The folders hold tables as for ``optimisers.py``. In each, and on the models of ``limits.py``, a search of 48
evaluations begins with a random configuration that works; values vary by 5 %. Then each parameter of the best that it
has changed is set back alone: ``effects`` tells what the model says of the gain, the table what it is. As a peer, the
means: of what was measured with the one value of the parameter over what was measured with the other one.

Prints how many changes there were, how many of them are told; the median error of what is told, in percent of the best,
and that of the peer; of the changes that are told to matter by more than 3 %, how many matter by less than 1 % or in
the other direction; of those that are told to matter by less, how many matter by more than 10 %. Then, of the changes
that could not be set back (what comes then fails, or breaks a limit), how many are told to be unlikely, and of the
others, how many.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mpipso.evaluation import Configuration
from mpipso.score import Score
from mpipso.search.effects import Known, effects
from mpipso.search.space import Space
from mpipso.search.surrogate import SurrogateSwarm
from tests.benchmarks.landscapes import Landscape, tables
from tests.benchmarks.limits import spots

BATCH, BUDGET, NOISE = 4, 48, 0.05
Truth = Callable[[Configuration], Score]


class Told(NamedTuple):
    """Of one change: what is told, by the model and by the means, and what is true; gains in percent."""

    model: float | None
    means: float | None
    true: float | None
    unlikely: bool


def places(folders: list[Path]) -> Iterator[tuple[str, Space, Truth]]:
    for landscape in chain.from_iterable(map(tables, folders)):
        yield landscape.name, landscape.space, _looked_up(landscape)
    for spot in spots():
        yield spot.name, spot.space, spot.score


def _looked_up(landscape: Landscape) -> Truth:
    def score(configuration: Configuration) -> Score:
        value = landscape.value(landscape.space.encode(configuration).tolist())
        return Score(failed=not math.isfinite(value), fitness=value if math.isfinite(value) else None)

    return score


def told(space: Space, truth: Truth, seed: int) -> Iterator[Told]:
    random = np.random.default_rng([seed, 2])
    before = next(c for c in iter(lambda: space.decode(random.random(space.dimensions)), None) if truth(c).feasible)
    strategy = SurrogateSwarm(space, seed, opening=[space.encode(before)], in_flight=BATCH)
    known: list[Known] = []
    while len(known) < BUDGET:
        for number, point in enumerate(strategy.ask(BATCH), len(known)):
            score = truth(space.decode(point))
            if score.fitness is not None:
                score = replace(score, fitness=score.fitness * math.exp(random.normal(0.0, NOISE)))
            known.append(Known(space.decode(point), score))
            strategy.tell(number, score)
    best = min(known, key=lambda each: each.score).configuration
    own = truth(best)
    for name, effect in effects(space, known, best, before).items():
        if effect.allowed:
            other = truth({**best, name: before[name]})
            gain = None if effect.gain is None else 100.0 * effect.gain
            yield Told(gain, _by_means(known, name, best, before), _gain(own, other), effect.likely < 0.5)


def _gain(own: Score, other: Score) -> float | None:
    if own.fitness is None or other.fitness is None or not (own.feasible and other.feasible):
        return None
    return 100.0 * (own.fitness - other.fitness) / abs(own.fitness)


def _by_means(known: list[Known], name: str, best: Configuration, before: Configuration) -> float | None:
    found = {
        which[name]: [k.score.fitness for k in known if k.score.fitness and k.configuration[name] == which[name]]
        for which in (best, before)
    }
    one, other = found[best[name]], found[before[name]]
    if not one or not other:
        return None
    return 100.0 * float(np.mean(one) - np.mean(other)) / abs(float(np.mean(one)))


def _row(name: str, found: list[Told]) -> str:
    feasible = [each for each in found if each.true is not None]
    model = [(each.model, each.true) for each in feasible if each.model is not None and each.true is not None]
    means = [(each.means, each.true) for each in feasible if each.means is not None and each.true is not None]
    errors = [float(np.median([abs(a - b) for a, b in pairs])) if pairs else math.nan for pairs in (model, means)]
    large = [(a, b) for a, b in model if abs(a) >= 3.0]
    small = [b for a, b in model if abs(a) < 3.0]
    wrong, missed = sum(a * b < 0.0 or abs(b) < 1.0 for a, b in large), sum(abs(b) > 10.0 for b in small)
    broken = [each.unlikely for each in found if each.true is None]
    alarms = [each.unlikely for each in feasible]
    return (
        f"{name:16}{len(feasible):9}{len(model):7}{errors[0]:9.1f}{errors[1]:9.1f}{wrong:7} of {len(large):4}"
        f"{missed:7} of {len(small):4}{sum(broken):7} of {len(broken):4}{sum(alarms):7} of {len(alarms):4}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    print(
        f"{'':16}{'changes':>9}{'told':>7}{'error':>9}{'means':>9}{'wrong':>15}{'more than 10 %':>15}"
        f"{'unlikely':>15}{'by mistake':>15}"
    )
    every: list[Told] = []
    for name, space, truth in places(options.folders):
        found = [each for seed in range(options.seeds) for each in told(space, truth, seed)]
        every += found
        print(_row(name, found), flush=True)
    print(_row("all", every))


if __name__ == "__main__":
    main()
