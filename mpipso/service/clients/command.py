"""Any benchmark program that prints or writes JSON; the configuration maps its keys to metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mpipso.config import Config
from mpipso.errors import EvaluationFailed
from mpipso.evaluation import Metrics
from mpipso.service.clients.base import CLIENTS, Client, Target, read_json
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
        known = {"host", "port", "base_url", "model", "seed", "result"} | {p.name for p in config.parameters}
        for name in sorted(placeholders((*benchmark.command, benchmark.result_file)) - known):
            yield f"benchmark.command: unknown placeholder {{{name}}}; known are: {', '.join(sorted(known))}"

    def command(self, config: Config, target: Target) -> list[str]:
        return fill(config.benchmark.command, _values(target))

    def metrics(self, config: Config, target: Target, done: Completed) -> Metrics:
        if config.benchmark.result_file:
            result = read_json(Path(fill([config.benchmark.result_file], _values(target))[0]))
        elif target.result.exists():
            result = read_json(target.result)
        else:
            result = _last_json(done.stdout)
        return {name: _number(result, path) for name, path in config.benchmark.metrics.items()}


def _values(target: Target) -> dict[str, Any]:
    return {
        **target.values,
        "host": target.host,
        "port": target.port,
        "base_url": target.base_url,
        "model": target.model,
        "seed": target.seed,
        "result": str(target.result),
    }


def _last_json(output: str) -> Any:
    """The last JSON table in what a program printed: its last line that is one, or all it printed."""
    for text in (*reversed(output.splitlines()), output):
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(value, dict):
            return value
    raise EvaluationFailed("the benchmark command printed no JSON table", detail=output[-2000:])


def _number(result: Any, path: str) -> float:
    """The finite number at a dotted path; a number in the path is an index into a list."""
    value = result
    for part in path.split("."):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, TypeError, ValueError):
            raise EvaluationFailed(f"the benchmark's result has no {path!r}") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise EvaluationFailed(f"the benchmark's {path!r} is {value!r}, not a finite number")
    return float(value)
