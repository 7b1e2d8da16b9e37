"""Any benchmark program that tells its result in JSON, CSV or text; the configuration says where each metric is."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mpipso.config import Benchmark, Config, Key, Pattern, Program
from mpipso.errors import EvaluationFailed
from mpipso.evaluation import Metrics
from mpipso.service.clients.base import CLIENTS, PLACEHOLDERS, Client, Target, require_measured
from mpipso.service.clients.quantity import Absent, matched, number, unit_problem
from mpipso.service.clients.result import content, last_json, only, pattern, read
from mpipso.service.command import choices, fill, placeholders, script_problems
from mpipso.service.process import OUTPUT_LIMIT, Completed
from mpipso.wording import suggestion


class ProgramClient(Client):
    """Runs the ``command`` of its section; reads ``result_file`` if given, else ``{result}``, else what it printed."""

    required = "is required"
    """What is said of a key that is missing."""

    def metric_problems(self, config: Config, needed: Iterable[str] = ()) -> Iterator[str]:
        """What is wrong with the keys of metrics, of which those ``needed`` by the objective have to have one."""
        metrics = self.settings(config).metrics
        if not metrics:
            yield f'{self.section}.metrics: {self.required}: a table of metric = "key.in.its.result"'
            return
        for name in needed:
            if name not in metrics:
                yield f"{self.section}.metrics: {name} is needed by the objective; give its key"
        for name, where in metrics.items():
            if not isinstance(where, str) and (problem := unit_problem(where.unit, name)):
                yield f"{self.section}.metrics: {problem}"

    def command_problems(self, config: Config, more: Iterable[str] = ()) -> Iterator[str]:
        """What is wrong with the command and the names of its result files, which may hold ``more`` placeholders."""
        program, section = self.settings(config), self.section
        for file in program.result_file:
            if not placeholders([file]) & {"seed", "result", "result_dir"}:
                yield (
                    f"{section}.result_file: {file} can be the same for two groups, which would take each other's "
                    "results: let it be in {result_dir}, a folder of each evaluation's own, or put {seed} into its "
                    "name, which is another each time"
                )
        known = {*PLACEHOLDERS, *more, *(parameter.name for parameter in config.parameters)}
        for key, words in (("command", program.command), ("result_file", program.result_file)):
            for name in sorted(placeholders(words) - known):
                yield f"{section}.{key}: unknown placeholder {{{name}}}{suggestion(name, known)}"
        folder = config.service.work_dir or tempfile.gettempdir()
        texts = {"model": (config.service.model,), "result": (folder,), "result_dir": (folder,)}
        for problem in script_problems(program.command, {**choices(config.parameters), **texts}):
            yield f"{section}.command: {problem}"

    async def probe(self, target: Target, timeout: float) -> None:
        """Only the program itself knows what a request is."""

    def command(self, config: Config, target: Target) -> list[str]:
        return fill(self.settings(config).command, _values(target))

    def metrics(self, config: Config, target: Target, done: Completed) -> Metrics:
        program, values = self.settings(config), _values(target)
        files = [only(name, pattern(name, values), target.result.parent) for name in program.result_file]
        if not files and target.result.exists():
            files = [target.result]
        told = {name: Key(key=at) if isinstance(at, str) else at for name, at in program.metrics.items()}
        keys = [where.key for where in told.values() if isinstance(where, Key)]
        result = _result(program, files, done) if keys else None
        texts = [""]
        if len(keys) < len(told):
            # What goes to stderr is progress, as a rule, and stdout has the final figures.
            texts = ["\n".join([done.stdout, *map(content, files)]), done.stderr]
        needed = {*config.needed, SENT, "completed", "failed"}
        measured = {}
        for name, where in told.items():
            try:
                if isinstance(where, Pattern):
                    measured[name] = matched(texts, where.pattern, name, where.unit)
                else:
                    measured[name] = number(result, where.key, name, where.unit, keys)
            except Absent as absent:
                told_of = absent.cause
                if isinstance(where, Pattern) and done.cut:
                    told_of += f"; of the {OUTPUT_LIMIT / 1e6:g} MB and more that it printed the beginning is not kept"
                if name == "failed":
                    told_of += f" ({_ONLY_IF_ANY})"
                if name in needed:
                    raise Absent(told_of, detail=absent.detail) from None
        return measured

    def result_files(self, config: Config, target: Target) -> list[str]:
        """``result_file``, else where the command may write although it need not."""
        values = _values(target)
        return [pattern(name, values) for name in self.settings(config).result_file or ("{result}",)]


SENT = "sent"
"""The metric of all requests, of which those that were completed are what has not failed, if it is not told itself."""


@CLIENTS.register("command")
class CommandClient(ProgramClient):
    """Runs ``benchmark.command``."""

    required = "is required for client = 'command'"

    def problems(self, config: Config) -> Iterator[str]:
        benchmark = config.benchmark
        if not benchmark.command:
            yield f"benchmark.command: {self.required}"
        told = {*benchmark.swept, *config.quality.metrics}
        told |= {"failed"} if _counts_failed(benchmark) else set()
        told |= {"completed"} if _tells_completed(benchmark) else set()
        needed = [name for name in config.needed if name not in told]
        yield from self.metric_problems(config, needed)
        for key, field in Benchmark.model_fields.items():
            if key in _OF_OPENAI and getattr(benchmark, key) != field.default and key not in benchmark.several:
                yield f"benchmark.{key}: belongs to client = 'openai'; here benchmark.command says what is sent"
        if benchmark.early_stop is not None:
            yield "benchmark.early_stop: belongs to client = 'openai', whose figures it takes early: leave it out"
        yield from self._count_problems(benchmark)
        for key in benchmark.several:
            if key not in placeholders(benchmark.command):
                yield f"benchmark.{key}: lists several values, so benchmark.command has to say {{{key}}}"
        yield from self.load_problems(config)
        yield from self.command_problems(config, benchmark.spoken)

    def _count_problems(self, benchmark: Benchmark) -> Iterator[str]:
        spoken = "requests" in placeholders(benchmark.command) & {*benchmark.spoken}
        if benchmark.requests is not None and not (_tells_completed(benchmark) or spoken):
            yield (
                f"benchmark.requests = {benchmark.requests}: belongs to client = 'openai'; here it only tells how many "
                "benchmark.command sends, and has no effect: benchmark.metrics names neither the key of completed, nor "
                "those of sent and failed"
            )
        if benchmark.min_success_rate < 1.0 and "failed" not in benchmark.metrics and not _counts_failed(benchmark):
            yield (
                "benchmark.min_success_rate: has no effect unless benchmark.metrics names the key of failed, or that "
                "of completed and benchmark.requests says how many are sent"
            )

    def metrics(self, config: Config, target: Target, done: Completed) -> Metrics:
        measured = dict(super().metrics(config, target, done))
        if _tells_completed(config.benchmark) and "completed" not in measured:
            measured["completed"] = measured[SENT] - measured["failed"]
        if (sent := target.load.get("requests")) is not None and "completed" in measured:
            measured["failed"] = _failed(int(sent), measured["completed"], measured.get("failed"))
        return require_measured(measured, config.benchmark.min_success_rate, config.needed)


_OF_OPENAI = (
    *("endpoint", "input_tokens", "output_tokens", "concurrency", "request_rate", "warmup", "keep_alive"),
    *("save_requests", "goodput", "request_timeout", "api_key_env", "prompts", "ignore_eos"),
)


def _tells_completed(benchmark: Benchmark) -> bool:
    """Whether it is known how many requests were completed: its result tells, or how many were sent and failed."""
    return "completed" in benchmark.metrics or {SENT, "failed"} <= benchmark.metrics.keys()


def _counts_failed(benchmark: Benchmark) -> bool:
    """Whether the requests that failed are those that were sent and not completed, as its result does not tell them."""
    return benchmark.requests is not None and "completed" in benchmark.metrics and "failed" not in benchmark.metrics


_ONLY_IF_ANY = (
    "if it tells of failures only when there are any, leave failed out of benchmark.metrics and say "
    "benchmark.requests = how many are sent"
)


def _result(program: Program, files: Sequence[Path], done: Completed) -> Any:
    """The tables in which keys are looked up.

    Raises
    ------
    EvaluationFailed
        There is none.
    """
    result = read(files) if files else last_json(done.stdout, done.cut)
    if result is None and done.cut:
        told = (
            f"printed more than {OUTPUT_LIMIT / 1e6:g} MB, of which the beginning is not kept, and in the rest no "
            "result is whole: let it write its result into a file, {result} or that of result_file"
        )
        raise EvaluationFailed(f"the benchmark command {told}", detail=(done.stdout + done.stderr)[-2000:])
    if result is None:
        told = (
            "wrote no {result} and printed no JSON"
            if "result" in placeholders(program.command)
            else "printed no JSON object, in which keys are looked up; { pattern = '...' } in place of a key finds a "
            "number in text"
        )
        raise EvaluationFailed(f"the benchmark command {told}", detail=(done.stdout + done.stderr)[-2000:])
    return result


def _failed(sent: int, completed: float, failed: float | None) -> float:
    """How many requests failed of those that were to be sent: what the result tells, else all that were not completed.

    Raises
    ------
    EvaluationFailed
        Others were sent than were to be.
    """
    if completed > sent:
        raise EvaluationFailed(
            f"the benchmark completed {completed:g} requests, more than benchmark.requests = {sent} says it sends"
        )
    if failed is not None and completed + failed != sent:
        raise EvaluationFailed(
            f"the benchmark completed {completed:g} requests and {failed:g} failed, but benchmark.requests = {sent} "
            "says how many it sends"
        )
    return sent - completed


def _values(target: Target) -> dict[str, Any]:
    return {
        **target.load,
        **target.values,
        "host": target.host,
        "port": target.port,
        "base_url": target.base_url,
        "model": target.model or target.unlisted,
        "seed": target.seed,
        "result": str(target.result),
        "result_dir": str(target.result.parent),
    }
