"""Both strategies and random search where latencies have limits in numbers.

    python -m tests.benchmarks.limits [NAME ...] [--seeds 10] [--strategies surrogate pso random]

Analytic models of a service. ``queue``: a latency that grows with the memory in use; two fifths of the space keep to
its limit. ``token``, ``both``, ``tight``, ``loose``: a model that is served by 8 devices, with the time of a token
limited, or that of the first token too; half of the space keeps to the limits, a tenth of it to those of ``tight`` and
four fifths to that of ``loose``. ``memory``: more than there is room for fails besides. ``far``: the best lies far from
the edge. ``overloaded``: the default and almost all else break the limit many times over. ``plane``: what is limited is
a sum. Rates are maximised; iterations of 4. Prints, of the best rate within the limits as a share of the best there is
(of 200 000 random ones), the mean over the seeds after 20, 40 and 60 evaluations, that of the first evaluation within
the limits, and the share of evaluations beyond them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpipso.config import Parameter, Search
from mpipso.score import Score
from mpipso.search.space import Space
from mpipso.search.strategies import create

BATCH, BUDGETS = 4, (20, 40, 60)
Model = Callable[[Mapping[str, Any]], tuple[Any, Any]]
"""From the values of the parameters to the rate and by how much limits are missed, relative to them, in all; the rate
is 0 where the service fails. All of them may be arrays."""


@dataclass(frozen=True)
class Spot:
    name: str
    space: Space
    model: Model

    def score(self, configuration: Mapping[str, Any]) -> Score:
        rate, missed = map(float, self.model(configuration))
        if rate == 0.0:
            return Score(failed=True)
        return Score(failed=False, infeasible=missed > 0.0, violation=missed, fitness=-rate)

    def best(self) -> float:
        """The best rate within the limits."""
        points = np.random.default_rng(0).random((200_000, self.space.dimensions))
        columns = {p.name: _column(p, u) for p, u in zip(self.space.parameters, points.T, strict=True)}
        rate, missed = self.model(columns)
        return float(np.max(np.where(missed > 0.0, 0.0, rate)))


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
        missed = np.maximum((20.0 + used / c["share"] / 10.0) / limit - 1.0, 0.0)
        rate = np.maximum(rate, 1.0)
        return (np.where(missed > 0.0, 0.0, rate), 0.0 * missed) if fails else (rate, missed)

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
        missed = np.maximum(step * np.sqrt(waits) * (1.0 + c["steps"] / 40.0) / token - 1.0, 0.0)
        missed = missed + np.maximum(begin / first - 1.0, 0.0)
        fails = (c["seqs"] > free * tp / each) if room else np.less(free, -1e9)
        return np.where(fails, 0.0, rate), missed

    return model


def far(c: Mapping[str, Any]) -> tuple[Any, Any]:
    away = sum(((c[f"x{i}"] - at) / 30.0) ** 2 for i, at in enumerate((9, 21, 12, 6, 16)))
    load = sum(c[f"x{i}"] / 30.0 for i in range(5))
    return np.maximum(1.0 - away, 0.01), np.maximum(np.exp(2.0 * (load - 2.7)) - 1.0, 0.0)


def overloaded(c: Mapping[str, Any]) -> tuple[Any, Any]:
    calm = (20, 5, 17, 9, 3)
    away = np.sqrt(sum(((c[f"x{i}"] - at) / 30.0) ** 2 for i, at in enumerate(calm)) / 5.0)
    rate = 0.2 + sum(c[f"x{i}"] for i in range(5)) / 150.0
    return rate, np.maximum(0.55 * np.exp(8.0 * away) / 2.0 - 1.0, 0.0)


def plane(c: Mapping[str, Any]) -> tuple[Any, Any]:
    load = sum(c[f"x{i}"] * w for i, w in enumerate((1.0, 1.5, 0.5, 1.0, 2.0, 0.7)))
    rate = sum(c[f"x{i}"] ** 0.8 * w for i, w in enumerate((1.0, 1.1, 0.9, 1.2, 1.3, 0.4)))
    return np.maximum(rate, 0.01), np.maximum(load / 65.0 - 1.0, 0.0)


def searched(spot: Spot, method: str, seed: int, known: tuple[Any, Sequence[Score]] = ((), ())) -> list[Score]:
    """The scores of one search; ``known`` are points from elsewhere with theirs."""
    budget = max(BUDGETS)
    if method == "random":
        points = np.random.default_rng(seed).random((budget, spot.space.dimensions))
        return [spot.score(spot.space.decode(point)) for point in points]
    section = Search.model_validate({"strategy": method, "seed": seed})
    strategy = create(section, spot.space, in_flight=BATCH)
    if len(known[0]):
        strategy.learn(*known)
    scores: list[Score] = []
    while len(scores) < budget:
        for point in strategy.ask(BATCH):
            scores.append(spot.score(spot.space.decode(point)))
        for number in range(len(scores) - BATCH, len(scores)):
            strategy.tell(number, scores[number])
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--strategies", nargs="+", default=["surrogate", "pso", "random"])
    options = parser.parse_args()
    print(f"{'':22}" + "".join(f"{budget:>8}" for budget in BUDGETS) + f"{'first':>8}{'beyond':>9}")
    every: dict[str, list[Any]] = {method: [] for method in options.strategies}
    for spot in spots():
        if options.names and spot.name not in options.names:
            continue
        best = spot.best()
        for method in options.strategies:
            runs = [searched(spot, method, seed) for seed in range(options.seeds)]
            good = np.array([[score.feasible for score in scores] for scores in runs])
            rates = np.array([[-(score.fitness or 0.0) if score.feasible else 0.0 for score in s] for s in runs])
            means = np.maximum.accumulate(rates / best, axis=1).mean(axis=0)[np.array(BUDGETS) - 1]
            first = np.where(good.any(axis=1), good.argmax(axis=1) + 1, max(BUDGETS)).mean()
            every[method].append([*means, first, 1.0 - good.mean()])
            print(_row(spot.name, method, every[method][-1]), flush=True)
    for method, rows in every.items():
        print(_row("mean", method, np.mean(rows, axis=0)))


def _row(name: str, method: str, figures: Any) -> str:
    *means, first, beyond = figures
    return f"{name:12}{method:10}" + "".join(f"{mean:8.3f}" for mean in means) + f"{first:8.1f}{beyond:9.0%}"


if __name__ == "__main__":
    main()
