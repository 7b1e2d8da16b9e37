"""The optimisers that are compared, each as ask and tell over points of the unit cube.

Failures are told the way each library wants them; where it knows none, as the worst value seen so far. Optuna leaves
out what it is told has failed. Its TPE comes in both ways, as now the one and now the other does better.
"""

from __future__ import annotations

import importlib
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import qmc

from mpipso.config import Search
from mpipso.score import Score
from mpipso.search.strategies import create
from tests.benchmarks.landscapes import Axis, Landscape

Points = list[list[float]]


class Method(ABC):
    needs: tuple[str, ...] = ()
    """Distributions to install, each named as its module."""

    @abstractmethod
    def __init__(self, landscape: Landscape, seed: int, batch: int) -> None: ...

    @abstractmethod
    def ask(self, count: int) -> Points: ...

    @abstractmethod
    def tell(self, values: Sequence[float]) -> None:
        """The values of the points of the last ask, inf for a failure."""


class _Ours(Method):
    strategy = "surrogate"

    def __init__(self, landscape: Landscape, seed: int, batch: int) -> None:
        section = Search.model_validate({"strategy": self.strategy, "particles": max(batch, 16), "seed": seed})
        self._strategy = create(section, landscape.space, in_flight=batch)
        self._told = 0

    def ask(self, count: int) -> Points:
        return [list(map(float, point)) for point in self._strategy.ask(count)]

    def tell(self, values: Sequence[float]) -> None:
        for value in values:
            failed = not math.isfinite(value)
            self._strategy.tell(self._told, Score(failed=failed, fitness=None if failed else value))
            self._told += 1


class Surrogate(_Ours):
    pass


class Pso(_Ours):
    strategy = "pso"


class _Optuna(Method):
    needs = ("optuna",)
    imputes = False
    """Whether failures are told as the worst value so far; else as failed trials, which the samplers leave out."""

    def __init__(self, landscape: Landscape, seed: int, batch: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore")
        self._axes = landscape.axes
        self._study = optuna.create_study(sampler=self._sampler(seed, batch))
        self._failed = optuna.trial.TrialState.FAIL
        self._trials: list[Any] = []
        self._worst = -math.inf

    @abstractmethod
    def _sampler(self, seed: int, batch: int) -> Any: ...

    def ask(self, count: int) -> Points:
        self._trials = [self._study.ask() for _ in range(count)]
        return [[self._suggest(trial, i, axis) for i, axis in enumerate(self._axes)] for trial in self._trials]

    def tell(self, values: Sequence[float]) -> None:
        finite = [value for value in values if math.isfinite(value)]
        self._worst = max([self._worst, *finite])
        for trial, value in zip(self._trials, values, strict=True):
            if math.isfinite(value):
                self._study.tell(trial, value)
            elif self.imputes and math.isfinite(self._worst):
                self._study.tell(trial, self._worst)
            else:
                self._study.tell(trial, state=self._failed)

    def _suggest(self, trial: Any, i: int, axis: Axis) -> float:
        if axis.kind == "float":
            return float(trial.suggest_float(f"p{i}", 0.0, 1.0))
        if axis.kind == "ord":
            return (trial.suggest_int(f"p{i}", 0, axis.levels - 1) + 0.5) / axis.levels
        return (trial.suggest_categorical(f"p{i}", list(range(axis.levels))) + 0.5) / axis.levels


class OptunaTpe(_Optuna):
    def _sampler(self, seed: int, batch: int) -> Any:
        import optuna

        return optuna.samplers.TPESampler(seed=seed, constant_liar=batch > 1)


class OptunaTpeImputing(OptunaTpe):
    imputes = True


class OptunaGp(_Optuna):
    """Where failures are left out it goes on proposing them, so they are told as the worst value."""

    needs = ("optuna", "torch")
    imputes = True

    def _sampler(self, seed: int, batch: int) -> Any:
        import optuna

        return optuna.samplers.GPSampler(seed=seed)


class CmaMargin(Method):
    """R. Hamano et al., "CMA-ES with margin" (GECCO 2022); categories are taken for whole numbers."""

    needs = ("cmaes",)

    def __init__(self, landscape: Landscape, seed: int, batch: int) -> None:
        import cmaes

        self._axes = landscape.axes
        tops = np.array([1.0 if axis.kind == "float" else axis.levels - 1.0 for axis in self._axes])
        steps = np.array([0.0 if axis.kind == "float" else 1.0 for axis in self._axes])
        bounds = np.stack([np.zeros_like(tops), tops], axis=1)
        # One sigma for all axes, in units of the widest: the library takes a covariance for the rest.
        self._cma = cmaes.CMAwM(
            mean=tops / 2.0, sigma=1.0, bounds=bounds, steps=steps, seed=seed, cov=np.diag((tops / 4.0) ** 2)
        )
        self._asked: list[Any] = []
        self._waiting: list[tuple[Any, float]] = []
        self._worst = -math.inf

    def ask(self, count: int) -> Points:
        pairs = [self._cma.ask() for _ in range(count)]
        self._asked = [to_tell for _, to_tell in pairs]
        return [[self._unit(axis, x) for axis, x in zip(self._axes, point, strict=True)] for point, _ in pairs]

    def tell(self, values: Sequence[float]) -> None:
        self._worst = max([self._worst, *(v for v in values if math.isfinite(v))])
        self._waiting += zip(self._asked, values, strict=True)
        size = self._cma.population_size
        while len(self._waiting) >= size:
            worst = self._worst if math.isfinite(self._worst) else 0.0
            self._cma.tell([(x, v if math.isfinite(v) else worst) for x, v in self._waiting[:size]])
            del self._waiting[:size]

    def _unit(self, axis: Axis, x: float) -> float:
        return float(np.clip(x, 0.0, 1.0)) if axis.kind == "float" else (round(float(x)) + 0.5) / axis.levels


class Pyswarms(Method):
    """pyswarms' global-best swarm with the options of its documentation; its loop is turned into ask and tell."""

    needs = ("pyswarms",)

    def __init__(self, landscape: Landscape, seed: int, batch: int) -> None:
        from pyswarms.backend import create_swarm
        from pyswarms.backend.topology import Star

        self._dimensions = landscape.space.dimensions
        self._bounds = (np.zeros(self._dimensions), np.ones(self._dimensions))
        np.random.seed(seed)
        options = {"c1": 0.5, "c2": 0.3, "w": 0.9}
        self._swarm = create_swarm(max(batch, 16), self._dimensions, options=options, bounds=self._bounds)
        self._topology = Star()
        self._state = np.random.get_state()
        self._next = 0
        self._costs: list[float] = []
        self._worst = 0.0

    def ask(self, count: int) -> Points:
        taken = self._swarm.position[self._next : self._next + count]
        self._next += len(taken)
        return _points(np.clip(taken, 0.0, 1.0))

    def tell(self, values: Sequence[float]) -> None:
        from pyswarms.backend import compute_pbest

        finite = [v for v in values if math.isfinite(v)]
        self._worst = max([self._worst, *finite])
        self._costs += [v if math.isfinite(v) else self._worst for v in values]
        if self._next < len(self._swarm.position):
            return
        swarm = self._swarm
        swarm.current_cost = np.array(self._costs)
        if not len(swarm.pbest_cost):
            swarm.pbest_cost = np.full(len(self._costs), np.inf)
        swarm.pbest_pos, swarm.pbest_cost = compute_pbest(swarm)
        swarm.best_pos, swarm.best_cost = self._topology.compute_gbest(swarm)
        np.random.set_state(self._state)
        swarm.velocity = self._topology.compute_velocity(swarm, bounds=self._bounds)
        swarm.position = self._topology.compute_position(swarm, bounds=self._bounds)
        self._state = np.random.get_state()
        self._next, self._costs = 0, []


class RandomSearch(Method):
    def __init__(self, landscape: Landscape, seed: int, batch: int) -> None:
        self._random, self._dimensions = np.random.default_rng(seed), landscape.space.dimensions

    def ask(self, count: int) -> Points:
        return _points(self._random.random((count, self._dimensions)))

    def tell(self, values: Sequence[float]) -> None:
        pass


class Sobol(RandomSearch):
    def __init__(self, landscape: Landscape, seed: int, batch: int) -> None:
        self._sobol = qmc.Sobol(landscape.space.dimensions, seed=seed)

    def ask(self, count: int) -> Points:
        return _points(self._sobol.random(count))


def _points(array: np.ndarray) -> Points:
    points: Points = array.tolist()
    return points


METHODS: dict[str, type[Method]] = {
    "surrogate": Surrogate,
    "pso": Pso,
    "optuna-tpe": OptunaTpe,
    "optuna-tpe-imputing": OptunaTpeImputing,
    "optuna-gp": OptunaGp,
    "cma-margin": CmaMargin,
    "pyswarms": Pyswarms,
    "random": RandomSearch,
    "sobol": Sobol,
}


def missing(name: str) -> list[str]:
    """The distributions that a method needs and that are not installed."""
    return [module for module in METHODS[name].needs if not importable(module)]


def importable(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True
