"""Both strategies against optimisers that a user would pick instead.

    python -m tests.benchmarks.optimisers tables FOLDER [options]    tables of measured configurations
    python -m tests.benchmarks.optimisers bbob [options]             bbob-mixint, dimensions 5 and 10
    python -m tests.benchmarks.optimisers classic                    the plain swarm and pyswarms on test functions
    python -m tests.benchmarks.optimisers cost                       processor time of 4, 64 and 256 points after 200

FOLDER holds one ``NAME.csv`` per table (a column per parameter, and ``__value``, to be minimised; empty or ``inf``
where the configuration failed) and one ``NAME.json`` (``space``, ``opt``, ``median``, ``sparse``); some are made by
``measure_tables.py`` and ``serving_tables.py``. With ``--cache``, a file, a run that is in it is not repeated, so that
a comparison can be made in parts: ``--methods``, ``--names``, ``--seeds 0:5``. Set ``OMP_NUM_THREADS=1`` to give every
method one core.

Prints the median over the seeds of the normalised regret, (true value of the incumbent - opt) / (median - opt), at most
1.5; the evaluations until a configuration within 5 % of the best was measured; the mean rank over tables and seeds with
its 95 % bootstrap interval, and that of the medians, where equals share the best rank; and the milliseconds that a
batch takes to propose.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
from scipy.stats import rankdata

from mpipso.config import Parameter, Search, SwarmSection
from mpipso.score import Score
from mpipso.search.space import Space
from mpipso.search.strategies import create
from mpipso.search.swarm import Swarm
from tests.benchmarks.landscapes import Landscape, bbob_mixint, tables
from tests.benchmarks.optimiser_methods import METHODS, importable, missing


class Run(TypedDict):
    """The true values in the order of their measurement, what was measured, and milliseconds per ask."""

    true: list[float]
    measured: list[float]
    ms: float


def run(method: str, landscape: Landscape, seed: int, batch: int, budget: int, noise: float) -> Run:
    """The true values in the order of their measurement, what was measured, and milliseconds per ask."""
    optimiser = METHODS[method](landscape, seed, batch)
    random = np.random.default_rng([seed, 1])
    true: list[float] = []
    measured: list[float] = []
    asks, seconds = 0, 0.0
    while len(true) < budget:
        begun = time.perf_counter()
        points = optimiser.ask(min(batch, budget - len(true)))
        seconds += time.perf_counter() - begun
        asks += 1
        if not points:
            break
        values = [landscape.value(point) for point in points]
        seen = [value * (1.0 + noise * random.standard_normal()) for value in values]
        true += values
        measured += seen
        begun = time.perf_counter()
        optimiser.tell(seen)
        seconds += time.perf_counter() - begun
    return {"true": true, "measured": measured, "ms": 1000.0 * seconds / asks}


class Runs:
    """Runs by method, landscape and seed, kept in a file if one is given."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._file: Path | None = options.cache
        self._runs: dict[str, Run] = {}
        if self._file is not None and self._file.exists():
            self._runs = json.loads(self._file.read_text())

    def get(self, method: str, landscape: Landscape, seed: int) -> Run:
        o = self._options
        key = f"{method} {landscape.name} {seed} batch={o.batch} budget={max(o.budgets)}"
        key += f" failures={o.failures} noise={o.noise}"
        if key not in self._runs:
            self._runs[key] = run(method, landscape, seed, o.batch, max(o.budgets), o.noise)
            if self._file is not None:
                self._file.write_text(json.dumps(self._runs))
        return self._runs[key]


def regret_at(landscape: Landscape, found: Run, budget: int) -> float:
    """Of the configuration that measured best within the budget."""
    true, measured = np.array(found["true"][:budget]), np.array(found["measured"][:budget])
    return landscape.regret(float(true[int(np.argmin(measured))]))


def needed(landscape: Landscape, found: Run) -> float:
    return next((i + 1 for i, value in enumerate(found["true"]) if landscape.good(value)), math.inf)


def compare(landscapes: Sequence[Landscape], options: argparse.Namespace) -> None:
    runs = Runs(options)
    methods, seeds, budgets = options.methods, options.seeds, options.budgets
    regrets = np.zeros((len(methods), len(landscapes), len(seeds), len(budgets)))
    evaluations = np.zeros(regrets.shape[:3])
    costs = np.zeros(regrets.shape[:3])
    for j, landscape in enumerate(landscapes):
        for i, method in enumerate(methods):
            for k, seed in enumerate(seeds):
                found = runs.get(method, landscape, seed)
                regrets[i, j, k] = [regret_at(landscape, found, budget) for budget in budgets]
                evaluations[i, j, k] = needed(landscape, found)
                costs[i, j, k] = found["ms"]
        print_table(landscape.name, methods, budgets, np.median(regrets[:, j], axis=1), evaluations[:, j])
    print_table("all (mean of medians)", methods, budgets, np.median(regrets, axis=2).mean(axis=1), evaluations)
    print_ranks(methods, budgets, regrets)
    print("\nms per ask " + "  ".join(f"{m} {np.median(c):.1f}" for m, c in zip(methods, costs, strict=True)))


def print_table(
    title: str, methods: Sequence[str], budgets: Sequence[int], regrets: np.ndarray, evaluations: np.ndarray
) -> None:
    print(f"\n{title:24}" + "".join(f"{b:>8}" for b in budgets) + f"{'to 5 %':>10}{'reached':>9}")
    for method, row, counts in zip(methods, regrets, evaluations, strict=True):
        middle, reached = float(np.median(counts)), float(np.isfinite(counts).mean())
        print(f"  {method:22}" + "".join(f"{r:8.3f}" for r in row) + f"{middle:10.0f}{reached:9.0%}", flush=True)


def print_ranks(methods: Sequence[str], budgets: Sequence[int], regrets: np.ndarray) -> None:
    """Mean ranks by regret; the bootstrap resamples tables, and seeds within them."""
    ranks = rankdata(np.round(regrets, 9), axis=0)
    random = np.random.default_rng(0)
    _, tables_, seeds, _ = regrets.shape
    means = []
    for _ in range(1000):
        table, seed = random.integers(0, tables_, (tables_, 1)), random.integers(0, seeds, (tables_, seeds))
        means.append(ranks[:, table, seed].mean(axis=(1, 2)))
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    print("\nmean rank               " + "".join(f"{b:>19}" for b in budgets))
    for i, method in enumerate(methods):
        cells = zip(ranks[i].mean(axis=(0, 1)), low[i], high[i], strict=True)
        print(f"  {method:22}" + "".join(f"{m:8.2f} [{a:.2f}, {b:.2f}]" for m, a, b in cells))
    of_medians = rankdata(np.round(np.median(regrets, axis=2), 9), axis=0, method="min").mean(axis=1)
    print("\nrank of the median      " + "".join(f"{b:>8}" for b in budgets))
    for method, row in zip(methods, of_medians, strict=True):
        print(f"  {method:22}" + "".join(f"{r:8.2f}" for r in row))


FUNCTIONS: dict[str, tuple[float, Callable[[np.ndarray], float]]] = {
    "sphere": (5.12, lambda x: (x**2).sum()),
    "rosenbrock": (30.0, lambda x: (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()),
    "rastrigin": (5.12, lambda x: (x**2 - 10 * np.cos(2 * np.pi * x) + 10).sum()),
    "ackley": (
        32.0,
        lambda x: 20 + np.e - 20 * np.exp(-0.2 * np.sqrt((x**2).mean())) - np.exp(np.cos(2 * np.pi * x).mean()),
    ),
}
"""Half the width of the range, and the function."""
_PARTICLES = 16


def classic(seeds: Iterable[int]) -> None:
    """Median best value after 100 d evaluations; the optimum is moved off the centre by up to a tenth of the range."""
    print(f"{'function':12}{'d':>4}{'ours':>12}{'pyswarms':>12}")
    for dimension in (5, 10):
        for name in FUNCTIONS:
            ours, theirs = [], []
            for seed in seeds:
                function = _moved(name, np.random.default_rng(seed).uniform(-0.1, 0.1, dimension))
                ours.append(_plain_swarm(function, dimension, seed))
                theirs.append(_pyswarms(function, dimension, seed))
            print(f"{name:12}{dimension:4}{np.median(ours):12.4g}{np.median(theirs):12.4g}", flush=True)


def _moved(name: str, shift: np.ndarray) -> Callable[[np.ndarray], float]:
    """The function by the unit cube."""
    half, function = FUNCTIONS[name]
    return lambda u: float(function(half * (2 * u - 1 - shift)))


def _plain_swarm(function: Callable[[np.ndarray], float], dimension: int, seed: int) -> float:
    space = Space([Parameter(name=f"x{i}", type="float", min=0, max=1) for i in range(dimension)])
    swarm, best = Swarm(space, _PARTICLES, seed, SwarmSection()), math.inf
    for number in range(100 * dimension):
        value = function(swarm.ask(1)[0])
        swarm.tell(number, Score(failed=False, fitness=value))
        best = min(best, value)
    return best


def _pyswarms(function: Callable[[np.ndarray], float], dimension: int, seed: int) -> float:
    import pyswarms

    np.random.seed(seed)
    swarm = pyswarms.single.GlobalBestPSO(
        _PARTICLES,
        dimension,
        options={"c1": 0.5, "c2": 0.3, "w": 0.9},
        bounds=(np.zeros(dimension), np.ones(dimension)),
    )
    iterations = 100 * dimension // _PARTICLES
    best, _ = swarm.optimize(lambda points: np.array([function(u) for u in points]), iterations, verbose=False)
    return float(best)


def cost() -> None:
    print("processor time of an ask after 200 evaluations in 12 dimensions, median")
    for count in (4, 64, 256):
        print(f"  of {count} proposals: {milliseconds(count):.0f} ms", flush=True)


def milliseconds(count: int, repeats: int = 5) -> float:
    """The processor time to propose configurations of 12 parameters after 200 evaluations; a tenth failed."""
    axes = [Parameter(name=f"i{i}", type="int", min=1, max=64) for i in range(6)]
    axes += [Parameter(name=f"f{i}", type="float", min=0, max=1) for i in range(3)]
    axes += [Parameter(name=f"c{i}", type="choice", choices=("x", "y", "z")) for i in range(3)]
    space = Space(axes)
    took = []
    for seed in range(repeats):
        strategy = create(Search(), space, in_flight=4)
        random = np.random.default_rng(seed)
        points = np.array([space.encode(space.decode(random.random(12))) for _ in range(200)])
        strategy.replay(points)
        for number, point in enumerate(points):
            failed = random.random() < 0.1
            strategy.tell(number, Score(failed=failed, fitness=None if failed else float(((point - 0.4) ** 2).sum())))
        begun = time.process_time()
        strategy.ask(count)
        took.append(1000 * (time.process_time() - begun))
    return float(np.median(took))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["tables", "bbob", "classic", "cost"])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--names", nargs="+", help="only these tables, or numbers of functions of bbob")
    parser.add_argument("--seeds", type=_range, default=range(10), help="how many, or first:end")
    parser.add_argument("--budgets", type=int, nargs="+", default=[20, 40, 80, 160])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument(
        "--failures", type=float, default=0.0, help="share of the rows of a table that are made to fail"
    )
    parser.add_argument("--noise", type=float, default=0.0, help="relative standard deviation of a measurement")
    parser.add_argument("--cache", type=Path)
    options = parser.parse_args()
    if options.what == "classic":
        return classic(options.seeds)
    if options.what == "cost":
        return cost()
    for method in [name for name in options.methods if missing(name)]:
        print(f"{method} is left out: pip install {' '.join(missing(method))}")
        options.methods.remove(method)
    if options.what == "bbob":
        if not importable("cocoex"):
            raise SystemExit("bbob needs cocoex: pip install coco-experiment")
        numbers = [int(name) for name in options.names or (1, 3, 5, 8, 10, 13, 15, 18, 20, 21, 24)]
        landscapes = list(bbob_mixint((5, 10), numbers))
    elif options.folder is None:
        parser.error("tables needs the folder they are in")
    else:
        found = tables(options.folder, options.failures)
        landscapes = [landscape for landscape in found if not options.names or landscape.name in options.names]
    return compare(landscapes, options)


def _range(text: str) -> range:
    first, _, end = text.rpartition(":")
    return range(int(first or 0), int(end))


if __name__ == "__main__":
    main()
