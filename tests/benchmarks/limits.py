"""Both strategies, Optuna's TPE and random search where latencies have limits in numbers.

    python -m tests.benchmarks.limits [NAME ...] [--tables FOLDER] [--seeds 10] [--batch 4] [--methods NAME ...]

Every method is told by how much each measurement breaks or keeps each limit, TPE by its ``constraints_func``; what
fails has no latencies. With FOLDER, the tables that ``serving_tables.py`` has written there; else analytic models of a
service. ``queue``: a latency that grows with the memory in use; two fifths of the space keep to
its limit. ``token``, ``both``, ``tight``, ``loose``: a model that is served by 8 devices, with the time of a token
limited, or that of the first token too; half of the space keeps to the limits, a tenth of it to those of ``tight`` and
four fifths to that of ``loose``. ``memory``: more than there is room for fails besides. ``far``: the best lies far from
the edge. ``overloaded``: the default and almost all else break the limit many times over. ``plane``: what is limited is
a sum. Rates are maximised. Prints, of the best rate within the limits as a share of the best there is (in the models,
of 200 000 random ones), the mean over the seeds after 20, 40 and 60 evaluations, the geometric mean of the evaluations
until one within 5 % of the best (runs that do not get there count as one and a half of the budget), the mean of the
first evaluation within the limits, and the share of evaluations that fail or are beyond them.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mpipso.config import Parameter, Search
from mpipso.score import Score
from mpipso.search.space import Space
from mpipso.search.strategies import create
from tests.benchmarks.landscapes import column
from tests.benchmarks.optimiser_methods import importable

BATCH, BUDGETS = 4, (20, 40, 60)
Model = Callable[[Mapping[str, Any]], tuple[Any, Sequence[Any]]]
"""From the values of the parameters to the rate and the ratio of each latency to its limit; the rate is 0 where the
service fails. All of them may be arrays."""


def limited(fitness: float, ratios: Sequence[float]) -> Score:
    """The score of what was measured, by the ratios of metrics to their limits."""
    violation = sum(max(ratio - 1.0, 0.0) for ratio in ratios)
    return Score(False, violation > 0.0, violation, fitness, log_ratios=tuple(math.log(max(r, 1e-3)) for r in ratios))


@dataclass(frozen=True)
class Spot:
    name: str
    space: Space
    model: Model

    known_best: float | None = None

    def score(self, configuration: Mapping[str, Any]) -> Score:
        rate, ratios = self.model(configuration)
        return limited(-float(rate), [float(each) for each in ratios]) if rate else Score(failed=True)

    @cached_property
    def best(self) -> float:
        """The best rate within the limits."""
        if self.known_best is not None:
            return self.known_best
        points = np.random.default_rng(0).random((200_000, self.space.dimensions))
        columns = {p.name: _column(p, u) for p, u in zip(self.space.parameters, points.T, strict=True)}
        rate, ratios = self.model(columns)
        return float(np.max(np.where(np.max(ratios, axis=0) > 1.0, 0.0, rate)))


def _column(parameter: Parameter, u: Any) -> Any:
    if parameter.type in ("choice", "bool"):
        choices = np.array(parameter.choices if parameter.type == "choice" else (False, True))
        return choices[np.minimum((u * len(choices)).astype(int), len(choices) - 1)]
    low, high = float(parameter.min or 0.0), float(parameter.max or 0.0)
    values = low * (high / low) ** u if parameter.scale == "log" else low + u * (high - low)
    return np.rint(values) if parameter.type == "int" else values


def whole(name: str, low: int, high: int, scale: str = "linear", default: int | None = None) -> Parameter:
    given = {"name": name, "type": "int", "min": low, "max": high, "scale": scale, "default": default}
    return Parameter.model_validate(given)


def spots() -> Iterator[Spot]:
    share = Parameter(name="share", type="float", min=0.6, max=0.95)
    kv = Parameter(name="kv", type="choice", choices=("fp16", "fp8"))
    seqs, tokens = whole("seqs", 1, 512, "log"), whole("tokens", 256, 16384, "log")
    chunked = Parameter(name="chunked", type="bool")
    yield Spot("queue", Space([seqs, tokens, share, kv, whole("tp", 1, 8), chunked]), queue_within(200.0))
    tp = Parameter(name="tp", type="choice", choices=(1, 2, 4, 8))
    steps = whole("steps", 1, 16)
    served = Space([tp, seqs, tokens, share, kv, chunked, steps])
    yield Spot("token", served, served_within(token=30.0))
    yield Spot("both", served, served_within(token=40.0, first=300.0))
    yield Spot("tight", served, served_within(token=20.0, first=150.0))
    yield Spot("loose", served, served_within(token=60.0))
    yield Spot("memory", served, served_within(token=30.0, first=400.0, room=True))
    yield Spot("far", Space([whole(f"x{i}", 0, 30) for i in range(5)]), far)
    yield Spot("overloaded", Space([whole(f"x{i}", 0, 30, default=28) for i in range(5)]), overloaded)
    yield Spot("plane", Space([whole(f"x{i}", 0, 30) for i in range(6)]), plane)


def queue_within(limit: float, *, fails: bool = False) -> Model:
    """A latency in milliseconds that grows with the memory in use; ``fails``: there is no more room than that."""

    def model(c: Mapping[str, Any]) -> tuple[Any, Any]:
        eighth = np.equal(c["kv"], "fp8")
        used = c["seqs"] * np.where(eighth, 20.0, 40.0) + c["tokens"] / 2
        rate = 1000.0 * np.log2(1.0 + c["seqs"] * np.log2(c["tokens"]) / 50.0)
        rate = rate * np.where(c["chunked"], 1.1, 1.0) * np.where(eighth, 1.1, 1.0) - 40.0 * (c["tp"] - 3.0) ** 2
        ratio = (20.0 + used / c["share"] / 10.0) / limit
        rate = np.maximum(rate, 1.0)
        return (np.where(ratio > 1.0, 0.0, rate), []) if fails else (rate, [ratio])

    return model


def served_within(*, token: float, first: float = np.inf, room: bool = False) -> Model:
    """A model of 40 GB on 8 devices of 80 GB and 2 TB/s: requests of 1500 tokens, limits in milliseconds.

    ``room``: whether more sequences than there is memory for are a failure, instead of waiting.
    """

    def model(c: Mapping[str, Any]) -> tuple[Any, Any]:
        tp, eighth, chunked = c["tp"], np.equal(c["kv"], "fp8"), c["chunked"]
        each = np.where(eighth, 0.15, 0.3)  # GB of a sequence
        free = 80.0 * c["share"] - 40.0 / tp - c["tokens"] * 4e-4
        held = np.clip(free * tp / each, 0.5, c["seqs"])
        decode = (20.0 + held * each / 2.0) / tp + 1.5 * np.log2(tp) + 4.0 / c["steps"] + 0.02 * held / c["steps"]
        prefill = 0.04 * np.where(chunked, np.minimum(c["tokens"], 1500.0), 1500.0) / tp + 1.0 * np.log2(tp)
        # Chunks go along with every step; whole prompts hold the others up, but less often.
        step = decode + prefill * np.where(chunked, 0.35, 0.6) * np.where(eighth, 1.03, 1.0)
        rate = 8.0 / tp * held / step * 1000.0 * (1.0 - np.exp(-c["tokens"] / 700.0))
        waits = 1.0 + np.maximum(c["seqs"] / held - 1.0, 0.0) * 4.0
        begin = (prefill + step) * np.where(chunked, np.maximum(1500.0 / c["tokens"], 1.0) * 1.5, 1.0) * waits
        begin = begin + 0.6 * held + step * c["steps"]
        ratios = [step * np.sqrt(waits) * (1.0 + c["steps"] / 40.0) / token]
        ratios += [begin / first] if math.isfinite(first) else []
        fails = (c["seqs"] > free * tp / each) if room else np.less(free, -1e9)
        return np.where(fails, 0.0, rate), ratios

    return model


def far(c: Mapping[str, Any]) -> tuple[Any, Any]:
    away = sum(((c[f"x{i}"] - at) / 30.0) ** 2 for i, at in enumerate((9, 21, 12, 6, 16)))
    load = sum(c[f"x{i}"] / 30.0 for i in range(5))
    return np.maximum(1.0 - away, 0.01), [np.exp(2.0 * (load - 2.7))]


def overloaded(c: Mapping[str, Any]) -> tuple[Any, Any]:
    calm = (20, 5, 17, 9, 3)
    away = np.sqrt(sum(((c[f"x{i}"] - at) / 30.0) ** 2 for i, at in enumerate(calm)) / 5.0)
    rate = 0.2 + sum(c[f"x{i}"] for i in range(5)) / 150.0
    return rate, [0.55 * np.exp(8.0 * away) / 2.0]


def plane(c: Mapping[str, Any]) -> tuple[Any, Any]:
    load = sum(c[f"x{i}"] * w for i, w in enumerate((1.0, 1.5, 0.5, 1.0, 2.0, 0.7)))
    rate = sum(c[f"x{i}"] ** 0.8 * w for i, w in enumerate((1.0, 1.1, 0.9, 1.2, 1.3, 0.4)))
    return np.maximum(rate, 0.01), [load / 65.0]


def tables(folder: Path) -> Iterator[Spot]:
    """The tables in a folder that have limited metrics."""
    for path in sorted(folder.glob("*.json")):
        about = json.loads(path.read_text())
        if not about.get("limited"):
            continue
        rate, *limited = (column(folder, path.stem, name) for name in ("__rate", *about["limited"]))
        space = rate.space

        def model(c: Mapping[str, Any], rate: Any = rate, limited: Any = limited) -> tuple[float, list[float]]:
            point = rate.space.encode(c)
            found = rate.value(point)
            return (found, [each.value(point) for each in limited]) if math.isfinite(found) else (0.0, [])

        yield Spot(path.stem, space, model, -about["opt"])


def tpe(spot: Spot, seed: int, batch: int) -> list[Score]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    sampler = optuna.samplers.TPESampler(
        seed=seed, constant_liar=batch > 1, constraints_func=lambda trial: trial.user_attrs["limits"]
    )
    study = optuna.create_study(sampler=sampler)
    scores: list[Score] = []
    while len(scores) < max(BUDGETS):
        trials = [study.ask() for _ in range(batch)]
        found = [spot.score({p.name: _suggested(trial, p) for p in spot.space.parameters}) for trial in trials]
        for trial, score in zip(trials, found, strict=True):
            trial.set_user_attr("limits", score.log_ratios)
            if score.fitness is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, score.fitness)
        scores += found
    return scores


def _suggested(trial: Any, parameter: Parameter) -> Any:
    name = parameter.name
    if parameter.type == "choice":
        return trial.suggest_categorical(name, parameter.choices)
    if parameter.type == "bool":
        return trial.suggest_categorical(name, (False, True))
    low, high, log = parameter.min, parameter.max, parameter.scale == "log"
    if parameter.type == "int":
        return trial.suggest_int(name, int(low or 0), int(high or 0), log=log)
    return trial.suggest_float(name, low, high, log=log)


def searched(
    spot: Spot, method: str, seed: int, batch: int = BATCH, known: tuple[Any, Sequence[Score]] = ((), ())
) -> list[Score]:
    """The scores of one search; ``known`` are points from elsewhere with theirs."""
    budget = max(BUDGETS)
    if method == "tpe":
        return tpe(spot, seed, batch)
    if method == "random":
        points = np.random.default_rng(seed).random((budget, spot.space.dimensions))
        return [spot.score(spot.space.decode(point)) for point in points]
    section = Search.model_validate({"strategy": method, "seed": seed})
    strategy = create(section, spot.space, in_flight=batch)
    if len(known[0]):
        strategy.learn(*known)
    scores: list[Score] = []
    while len(scores) < budget:
        first, points = len(scores), strategy.ask(batch)
        if not len(points):  # a small space may be exhausted
            break
        scores += [spot.score(spot.space.decode(point)) for point in points]
        for number, score in enumerate(scores[first:], first):
            strategy.tell(number, score)
    return scores + [Score(failed=True)] * (budget - len(scores))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--tables", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--methods", nargs="+", default=["surrogate", "pso", "tpe", "random"])
    options = parser.parse_args()
    if "tpe" in options.methods and not importable("optuna"):
        raise SystemExit("tpe needs optuna: pip install optuna, or leave it out: --methods surrogate pso random")
    print(f"{'':38}" + "".join(f"{budget:>8}" for budget in BUDGETS) + f"{'to 5 %':>8}{'first':>8}{'beyond':>9}")
    every: dict[str, list[Any]] = {method: [] for method in options.methods}
    for spot in spots() if options.tables is None else tables(options.tables):
        if options.names and spot.name not in options.names:
            continue
        for method in options.methods:
            runs = [searched(spot, method, seed, options.batch)[: max(BUDGETS)] for seed in range(options.seeds)]
            every[method].append(_figures(spot.best, runs))
            print(_row(spot.name, method, every[method][-1]), flush=True)
    for method, rows in every.items():
        means = np.mean(rows, axis=0)
        means[len(BUDGETS)] = math.exp(np.mean(np.log([row[len(BUDGETS)] for row in rows])))
        print(_row("mean", method, means))


def _figures(best: float, runs: Sequence[Sequence[Score]]) -> list[float]:
    good = np.array([[score.feasible for score in scores] for scores in runs])
    rates = np.array([[-(score.fitness or 0.0) if score.feasible else 0.0 for score in scores] for scores in runs])
    shares = np.maximum.accumulate(rates / best, axis=1)
    means = shares.mean(axis=0)[np.array(BUDGETS) - 1]
    there, never = shares >= 0.95, 1.5 * max(BUDGETS)
    needed = np.where(there.any(axis=1), there.argmax(axis=1) + 1, never)
    first = np.where(good.any(axis=1), good.argmax(axis=1) + 1, never).mean()
    return [*means, math.exp(np.log(needed).mean()), first, 1.0 - good.mean()]


def _row(name: str, method: str, figures: Any) -> str:
    *means, needed, first, beyond = figures
    shares = "".join(f"{mean:8.3f}" for mean in means)
    return f"{name:28}{method:10}{shares}{needed:8.1f}{first:8.1f}{beyond:9.0%}"


if __name__ == "__main__":
    main()
