"""The contract of a benchmark client: the command that measures, and its result in the common vocabulary."""

from __future__ import annotations

import abc
import glob
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mpipso.config import Config, Program
from mpipso.config.parameters import Parameter
from mpipso.errors import EvaluationFailed
from mpipso.evaluation import METRICS, STATISTICS, Configuration, Metrics, Value
from mpipso.service.clients.stats import FIRST, REQUESTS
from mpipso.service.command import placeholders
from mpipso.service.process import Completed
from mpipso.service.registry import Registry
from mpipso.wording import suggestion


@dataclass(frozen=True)
class Target:
    """What is measured: the service's address and model name, with a seed that is another for each evaluation."""

    base_url: str
    endpoint: str
    host: str
    port: int
    model: str
    seed: int
    unlisted: str
    """The name to ask for where ``model`` is empty, unless the service lists only others."""
    close_connections: bool
    result: Path
    """Where the client may write its result: in a folder of its own, which is empty when it begins."""
    load: Mapping[str, Value]
    """The settings of the load that are given: ``requests``, ``concurrency``, ``request_rate``."""
    sent: int
    """How many requests were measured before, at lower loads."""
    values: Mapping[str, Value]
    """The configuration that is measured: placeholders for the user's own command."""
    api_key_env: str = ""
    """The environment variable that holds the service's API key; empty if it wants none."""

    @property
    def first(self) -> Path:
        """Where a client that can tell them writes the metrics of the first part of its requests, beside its result."""
        return self.result.with_name(FIRST)

    @property
    def requests(self) -> Path:
        """Where a client that can tell them writes what happened to each request, beside its result."""
        return self.result.with_name(REQUESTS)


class NotReady(Exception):
    """The service cannot be measured yet, and why."""


class Client(abc.ABC):
    """A program that puts load on a service and reports metrics."""

    section = "benchmark"
    """The table of the configuration that says how it is run; names of the files that are kept of it begin so."""
    title = "benchmark"
    """What its run is called in messages."""

    def settings(self, config: Config) -> Program:
        """Its section of the configuration."""
        return config.benchmark

    def loads(self, config: Config, configuration: Configuration) -> list[dict[str, Value]]:
        """The settings of each load at which it measures a configuration, one after another."""
        return config.benchmark.loads(configuration)

    @abc.abstractmethod
    def problems(self, config: Config) -> Iterator[str]:
        """What is wrong with the configuration from this client's point of view, one line each."""

    def load_problems(self, config: Config) -> Iterator[str]:
        """What is wrong with settings of the load that are a parameter's, one line each."""
        parameters = {parameter.name: parameter for parameter in config.parameters}
        for key, name in config.benchmark.called.items():
            whole = key != "request_rate"
            if name not in parameters:
                yield f"benchmark.{key}: unknown placeholder {{{name}}}{suggestion(name, parameters)}"
            elif not _all_positive(parameters[name], whole=whole):
                wanted = "whole numbers from 1" if whole else "numbers above 0"
                yield f"benchmark.{key} = '{{{name}}}': the values of parameter {name!r} should be {wanted}"

    @abc.abstractmethod
    async def probe(self, target: Target, timeout: float) -> None:
        """Have one real request answered.

        Raises
        ------
        NotReady
            The service does not answer as it should, but may do so later.
        EvaluationFailed
            It never will.
        """

    @abc.abstractmethod
    def command(self, config: Config, target: Target) -> list[str]:
        """The command line that measures; it may write ``target.result``."""

    def result_files(self, config: Config, target: Target) -> list[str]:
        """Where the command writes its result: glob patterns, each for one file."""
        return [glob.escape(str(target.result))]

    @abc.abstractmethod
    def metrics(self, config: Config, target: Target, done: Completed) -> Metrics:
        """The metrics of a command that ended with exit code 0.

        Raises
        ------
        EvaluationFailed
            There is no result, or it holds no measurement.
        """


def require_measured(metrics: Metrics, min_success_rate: float = 1.0, wanted: Container[str] = ()) -> Metrics:
    """The metrics, if they are of a run in which requests were served, and enough of them.

    Benchmark clients report zeros when nothing was served, ``vllm bench serve`` with exit code 0, and some -1: as a
    latency, the best value there is. The time between tokens may be 0 for other reasons, or nearly, but then it must
    not be what is ``wanted``, the metrics of the objective. No request ends before its first token: where one seems to,
    by far, the two times are in different units.

    Raises
    ------
    EvaluationFailed
        Too many requests failed, none was completed, or a value is zero that never is, negative, or impossible.
    """
    below = next((name for name in METRICS if metrics.get(name, 0) < 0), None)
    if below is not None:
        raise EvaluationFailed(f"the benchmark measured nothing: its {below} is {metrics[below]:g}")
    if metrics.get("completed", 1) == 0:
        raise EvaluationFailed("the benchmark completed no request")
    failed, completed = metrics.get("failed", 0), metrics.get("completed")
    rate = 0.0 if completed is None else completed / (completed + failed)
    if failed > 0 and rate < min_success_rate:
        asked = f" of {completed + failed:g}" if completed is not None else ""
        raise EvaluationFailed(f"{failed:g}{asked} requests failed")
    zero = [
        name
        for name in METRICS
        if metrics.get(name) == 0 and (name.startswith(_POSITIVE) or (name in wanted and _at_once(name, metrics)))
    ]
    if zero:
        raise EvaluationFailed(f"the benchmark measured nothing: its {zero[0]} is 0")
    at_once = next((name for name in METRICS if name in wanted and name in metrics and _at_once(name, metrics)), None)
    if at_once is not None:
        raise EvaluationFailed(
            f"the benchmark's {at_once} is {metrics[at_once]:.3g}, less than any service takes: tokens came all at "
            "once, as from a proxy that holds them back, or it is in seconds"
        )
    for whole, first in ((f"e2e_{statistic}_ms", f"ttft_{statistic}_ms") for statistic in STATISTICS):
        if whole in metrics and metrics[whole] < _DIFFERENT * metrics.get(first, 0):
            raise EvaluationFailed(
                f"the benchmark's {whole} is {metrics[whole]:g}, less than its {first}, {metrics[first]:g}: is it in "
                'seconds? { key = "...", unit = "s" } in place of a key says so'
            )
    return metrics


def deciding(config: Config) -> set[str]:
    """The names of the parameters on whose values it depends how is measured."""
    benchmark, quality = config.benchmark, config.quality
    words = (*benchmark.command, *benchmark.result_file, *quality.command, *quality.result_file)
    return {*benchmark.called.values(), *(placeholders(words) - {*PLACEHOLDERS, *benchmark.spoken})}


def _all_positive(parameter: Parameter, *, whole: bool) -> bool:
    """Whether all values of a parameter are numbers above 0, and ``whole`` ones.

    Of a computed one only the type counts: that it is positive is a condition (``Config.conditions``).
    """
    kinds = (int,) if whole else (int, float)
    if parameter.type == "choice":
        return parameter.searched and all(type(each) in kinds and float(each) > 0 for each in parameter.choices)
    kind = {"int": int, "float": float}.get(parameter.type)
    return kind in kinds and (parameter.min is None or parameter.min > 0)


def _at_once(name: str, metrics: Metrics) -> bool:
    """Whether a metric is a time between tokens that none took, and so is the mean, or else all that is told of it.

    Where tokens come several at once, a median may be so small.
    """
    latency = name.partition("_")[0]
    told = [metrics[each] for each in (f"{latency}_{one}_ms" for one in STATISTICS) if each in metrics]
    whole = metrics.get(f"{latency}_mean_ms", max(told, default=_LEAST))
    return latency in ("tpot", "itl") and max(metrics[name], whole) < _LEAST


_LEAST = 0.1
"""Milliseconds from a token to the next of the same request below which a client has timed no tokens, but how fast it
read what had arrived before."""
_DIFFERENT = 0.1
"""Part of the time to the first token that no request can take as a whole, whatever a client means by a percentile, or
whichever requests it leaves out of one of the two: units differ by more."""
PLACEHOLDERS = ("base_url", "host", "port", "model", "seed", "result", "result_dir")
"""What stands in the user's own command for something else than a parameter."""
_POSITIVE = ("duration", "request_throughput", "output_throughput", "total_throughput", "ttft", "e2e")


CLIENTS: Registry[Client] = Registry("mpipso.service.clients")
