"""Optimisers on the real embedded server: the best throughput within the limits after 24 evaluations, over seeds.

    .venv/bin/python tests/benchmarks/embedded_optimisers.py [--seeds 5] [--methods ours,random,optuna-tpe]

Everything but the proposals is mpipso's, the baseline first and the race of the leaders at the end included. The
guesses of the embedded configuration are left out, and all go in iterations of four. A peer is told a configuration
that breaks a limit as one that failed. Run it on an otherwise idle machine; MPIPSO_MPIRUN names the launcher.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import tomli
import tomli_w
from rich.console import Console
from rich.table import Table

from mpipso.config import Search
from mpipso.config.templates import EMBEDDED, template
from mpipso.record.outcome import read_outcome
from mpipso.score import Score
from mpipso.search.arrays import Array
from mpipso.search.space import Space
from mpipso.search.strategy import Strategy
from tests.benchmarks.landscapes import Axis, Landscape
from tests.benchmarks.optimiser_methods import METHODS, Method, missing

EVALUATIONS = 24


class Peer(Strategy):
    """A peer in the place of a strategy: it learns of a batch when all of it has been told."""

    def __init__(self, space: Space, method: type[Method], seed: int, batch: int) -> None:
        axes = [_axis(space, name, ordered) for name, ordered in zip(space.names, space.ordered, strict=True)]
        landscape = Landscape("embedded", axes, lambda values: math.nan, 0.0, 1.0)
        self._space = space
        self._method = method(landscape, seed, batch)
        self._first = [] if space.baseline is None else [space.encode(space.baseline)]
        self._asked: list[int] = []
        self._values: dict[int, float] = {}
        self._next = 0

    def ask(self, count: int) -> Array:
        points = list(self._first)
        self._first = []
        self._next += len(points)
        asked = self._method.ask(count - len(points)) if count > len(points) else []
        self._asked = list(range(self._next, self._next + len(asked)))
        self._next += len(asked)
        points += [self._space.encode(self._space.decode(point)) for point in asked]
        return np.array(points).reshape(len(points), self._space.dimensions)

    def tell(self, number: int, score: Score) -> None:
        self._values[number] = math.inf if not score.feasible or score.fitness is None else score.fitness
        if self._asked and all(asked in self._values for asked in self._asked):
            self._method.tell([self._values[asked] for asked in self._asked])
            self._asked = []

    def replay(self, points: Array) -> None:
        raise ValueError("a benchmark's run is not resumed")

    def learn(self, points: Array, scores: Sequence[Score]) -> None:
        raise ValueError("a benchmark's run begins with nothing")


def _axis(space: Space, name: str, ordered: bool) -> Axis:
    parameter = next(each for each in space.parameters if each.name == name)
    if parameter.type in ("bool", "choice"):
        return Axis("ord" if ordered else "cat", len(parameter.choices) or 2)
    return Axis("float")


def rank(method: str, words: Sequence[str]) -> int:
    """One rank of a run in which ``method`` proposes."""
    from mpipso import cli
    from mpipso.search import strategies

    def create(config: Search, space: Space, *, in_flight: int) -> Strategy:
        return Peer(space, METHODS[method], config.seed, in_flight)

    if method != "ours":
        replacement: Callable[..., Strategy] = create
        strategies.create = replacement
    return cli.main(["tune", *words])


def run(method: str, seed: int, output: Path) -> tuple[float, float, float]:
    """Throughput of the baseline, of the best as the search saw it, and of the best as the race measured it."""
    mpirun = os.environ.get("MPIPSO_MPIRUN", "mpirun")
    command = [mpirun, "-np", "2", "--map-by", "slot:OVERSUBSCRIBE", "--bind-to", "none", sys.executable, __file__]
    command += ["--rank", method, "--nodes-per-group", "1", "--seed", str(seed), "--output", str(output)]
    config = output / "embedded.toml"
    tree = tomli.loads(template(EMBEDDED))
    tree["search"].update(schedule="generation", first=[], leaders=1)
    del tree["search"]["window"]
    config.write_text(tomli_w.dumps(tree))
    command += ["--config", str(config), "--evaluations", str(EVALUATIONS), "--time-limit", "1000"]
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **root}, timeout=600)
    outcome = read_outcome(output / "latest")
    within = [
        j for j in outcome.evaluations if j.evaluation.label != "confirm" and j.judged and j.feasible and not j.failed
    ]
    seen = max((judged.evaluation.metrics["output_throughput"] for judged in within), default=math.nan)
    best, baseline = outcome.best, outcome.baseline
    raced = best.metrics["output_throughput"] if best is not None else math.nan
    return baseline.metrics["output_throughput"] if baseline is not None else math.nan, seen, raced


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", default="ours,random,optuna-tpe")
    parser.add_argument("--rank", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        sys.exit(rank(options.rank[0], options.rank[1:]))
    methods = options.methods.split(",")
    if lacking := [each for method in methods if method != "ours" for each in missing(method)]:
        sys.exit(f"pip install {' '.join(lacking)}")
    table = Table("method", "seeds", "baseline tok/s", "best seen", "best raced", "raced / baseline")
    results: dict[str, list[tuple[float, float, float]]] = {method: [] for method in methods}
    for seed in range(options.seeds):
        for method in methods:
            with tempfile.TemporaryDirectory() as output:
                results[method].append(run(method, seed, Path(output)))
            print(f"seed {seed} {method}: " + ", ".join(f"{value:.1f}" for value in results[method][-1]), flush=True)
    for method, rows in results.items():
        columns = [f"{statistics.median(row[i] for row in rows):.1f}" for i in range(3)]
        ratio = statistics.median(raced / baseline for baseline, _, raced in rows)
        table.add_row(method, str(len(rows)), *columns, f"{ratio:.2f}")
    Console().print("Medians over seeds:", table)


if __name__ == "__main__":
    main()
