"""Any benchmark program that prints or writes JSON; the configuration maps its keys to metrics."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mpipso.config import Benchmark, Config, suggestion
from mpipso.errors import EvaluationFailed
from mpipso.evaluation import Metrics
from mpipso.service.clients.base import CLIENTS, Client, Target, last_json, read_json, require_measured
from mpipso.service.command import fill, placeholders
from mpipso.service.process import Completed


@CLIENTS.register("command")
class CommandClient(Client):
    """Runs ``benchmark.command``; reads ``benchmark.result_file`` if given, else the last JSON that it printed."""

    def problems(self, config: Config) -> Iterator[str]:
        benchmark = config.benchmark
        if not benchmark.command:
            yield "benchmark.command: is required for client = 'command'"
        if not benchmark.metrics:
            yield "benchmark.metrics: is required for client = 'command': a table of metric = \"key.in.its.json\""
        else:
            for name in config.objective.metrics:
                if name not in benchmark.metrics and not (name == "failed" and _counts_failed(benchmark)):
                    yield f"benchmark.metrics: {name} is needed by the objective; give the key of its JSON"
        for key, field in Benchmark.model_fields.items():
            if key in _OF_OPENAI and getattr(benchmark, key) != field.default:
                yield f"benchmark.{key}: belongs to client = 'openai'; here benchmark.command says what is sent"
        if benchmark.requests is not None and not _counts_failed(benchmark):
            told = "names the key of failed" if "failed" in benchmark.metrics else "does not name the key of completed"
            yield (
                f"benchmark.requests = {benchmark.requests}: belongs to client = 'openai'; here it only tells how many "
                f"failed of those that benchmark.command sends, and has no effect: benchmark.metrics {told}"
            )
        if benchmark.min_success_rate < 1.0 and "failed" not in benchmark.metrics and not _counts_failed(benchmark):
            yield (
                "benchmark.min_success_rate: has no effect unless benchmark.metrics names the key of failed, or that "
                "of completed and benchmark.requests says how many are sent"
            )
        if benchmark.result_file and not placeholders([benchmark.result_file]) & {"seed", "result"}:
            yield (
                f"benchmark.result_file: {benchmark.result_file} can be the same for two groups, which would "
                "take each other's results: put {seed} into its name, which is another each time"
            )
        known = {"host", "port", "base_url", "model", "seed", "result"} | {p.name for p in config.parameters}
        for name in sorted(placeholders((*benchmark.command, benchmark.result_file)) - known):
            yield f"benchmark.command: unknown placeholder {{{name}}}; known are: {', '.join(sorted(known))}"

    async def probe(self, target: Target, timeout: float) -> None:
        """Only the program itself knows what a request is."""

    def command(self, config: Config, target: Target) -> list[str]:
        return fill(config.benchmark.command, _values(config, target))

    def metrics(self, config: Config, target: Target, done: Completed) -> Metrics:
        file = self.result_file(config, target)
        result = read_json(file) if config.benchmark.result_file or file.exists() else last_json(done.stdout)
        if result is None:
            detail = (done.stdout + done.stderr)[-2000:]
            raise EvaluationFailed("the benchmark command printed no JSON", detail=detail)
        needed = {*config.objective.metrics, "completed", "failed"}
        measured = {}
        for name, path in config.benchmark.metrics.items():
            try:
                measured[name] = _number(result, path)
            except EvaluationFailed:
                if name in needed:
                    raise
        if config.benchmark.requests is not None:
            measured["failed"] = _failed(config.benchmark.requests, measured["completed"])
        return require_measured(measured, config.benchmark.min_success_rate, config.objective.metrics)

    def result_file(self, config: Config, target: Target) -> Path:
        """``benchmark.result_file``, else where the command may write although it need not."""
        named = config.benchmark.result_file
        return Path(fill([named], _values(config, target))[0]) if named else target.result


_OF_OPENAI = (
    *("input_tokens", "output_tokens", "concurrency", "request_rate", "warmup", "keep_alive"),
    "save_requests",
)

MAX_KEYS = 1000
"""Among how many keys of a result, which may hold a table per request, one is looked for that was meant."""


def _counts_failed(benchmark: Benchmark) -> bool:
    """Whether the requests that failed are those that were sent and not completed, as its result does not tell them."""
    return benchmark.requests is not None and "completed" in benchmark.metrics and "failed" not in benchmark.metrics


def _failed(sent: int, completed: float) -> float:
    if completed > sent:
        raise EvaluationFailed(
            f"the benchmark completed {completed:g} requests, more than benchmark.requests = {sent} says it sends"
        )
    return sent - completed


def _values(config: Config, target: Target) -> dict[str, Any]:
    return {
        **target.values,
        "host": target.host,
        "port": target.port,
        "base_url": target.base_url,
        "model": target.model or config.service.model,
        "seed": target.seed,
        "result": str(target.result),
    }


def _number(result: Any, path: str) -> float:
    """The finite number at a dotted path; a number in the path is an index into a list.

    Raises
    ------
    EvaluationFailed
        There is none; with the key that was meant, where one is like it.
    """
    value = result
    for part in path.split("."):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, TypeError, ValueError):
            meant = suggestion(path, list(itertools.islice(_keys(result), MAX_KEYS))).partition("; known")[0]
            raise EvaluationFailed(f"the benchmark's result has no {path!r}{meant}") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise EvaluationFailed(f"the benchmark's {path!r} is {value!r}, not a finite number")
    return float(value)


def _keys(tree: Any, above: str = "") -> Iterator[str]:
    """The dotted paths of all numbers that have a name."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, below in pairs:
        if isinstance(below, (int, float)) and isinstance(tree, dict):
            yield f"{above}{key}"
        yield from _keys(below, f"{above}{key}.")
