"""mpipso's own load generator, for every service that speaks OpenAI's completions API with streaming."""

from __future__ import annotations

import asyncio
import glob
import json
import os
import resource
import sys
from collections.abc import Iterator

from mpipso.config import Benchmark, Config
from mpipso.errors import EvaluationFailed
from mpipso.evaluation import GOODPUT, METRICS, THROUGHPUTS, Metrics
from mpipso.service.clients.apikey import api_key, headers, hidden
from mpipso.service.clients.asking import (
    OTHER_FILES,
    beginning,
    model_among,
    most_connections,
    question,
    served_models,
)
from mpipso.service.clients.base import CLIENTS, Client, NotReady, Target, require_measured
from mpipso.service.clients.prompts import content
from mpipso.service.clients.result import read
from mpipso.service.clients.stream import BROKEN_OFF
from mpipso.service.command import text
from mpipso.service.early import counts
from mpipso.service.environment import scrubbed_environment
from mpipso.service.process import Completed


@CLIENTS.register("openai")
class OpenAIClient(Client):
    """Runs :mod:`mpipso.service.loadgen` as a process of its own, on the cores of its group."""

    def problems(self, config: Config) -> Iterator[str]:
        for key in ("command", "result_file", "metrics"):
            if getattr(config.benchmark, key):
                yield f"benchmark.{key}: belongs to client = 'command', not to 'openai'"
        if config.benchmark.goodput is None and GOODPUT in config.needed:
            yield f"benchmark.goodput: is required for {GOODPUT}; it says which requests count, as {{ ttft_ms = 500 }}"
        others = [each for each in config.behind([config.objective.metric]) if each not in THROUGHPUTS]
        if config.benchmark.early_stop is not None and others:
            yield (
                f"benchmark.early_stop: a quarter of the requests tells too little of {others[0]}, which the objective "
                f"hangs on; it goes with {', '.join(THROUGHPUTS)} and what is derived from these: leave it out"
            )
        yield from _key_problems(config.benchmark.api_key_env)
        yield from _prompt_problems(config.benchmark)
        yield from self.load_problems(config)
        yield from self._connection_problems(config.benchmark)

    def _connection_problems(self, benchmark: Benchmark) -> Iterator[str]:
        if benchmark.request_rate is not None:
            return  # how many are open at once is then up to the service
        if benchmark.called:
            return  # it depends on the configuration
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        loads = [{key: int(value) for key, value in load.items()} for load in benchmark.loads({})]
        most = max(most_connections(load["requests"], benchmark.warmup, load.get("concurrency")) for load in loads)
        if hard != resource.RLIM_INFINITY and most + OTHER_FILES > hard:
            told = f" = {most}: needs" if benchmark.concurrency is not None else f": without it {most} at once need"
            yield (
                f"benchmark.concurrency{told} as many open files and {OTHER_FILES} more, but a process may have {hard} "
                "(ulimit -H -n)"
            )

    async def probe(self, target: Target, timeout: float) -> None:
        await _one_token(target, timeout)

    def command(self, config: Config, target: Target) -> list[str]:
        benchmark = config.benchmark
        words = [sys.executable, "-m", "mpipso.service.loadgen", "--base-url", target.base_url]
        words += ["--endpoint", target.endpoint]
        words += ["--warmup", str(benchmark.warmup)]
        for key, value in target.load.items():
            words += [f"--{key.replace('_', '-')}", text(value)]
        if benchmark.prompts:
            words += ["--prompts", benchmark.prompts, "--prompts-sha256", benchmark.prompts_sha256]
            words += ["--skip", str(target.sent)]
        else:
            words += ["--input-tokens", str(benchmark.input_tokens)]
        words += ["--output-tokens", str(benchmark.output_tokens)]
        words += [] if benchmark.ignore_eos else ["--no-ignore-eos"]
        words += ["--timeout", str(benchmark.request_timeout or benchmark.timeout)]
        words += ["--seed", str(target.seed), "--common-seed", str(benchmark.seed), "--output", str(target.result)]
        if target.model:
            words += ["--model", target.model]
        elif target.unlisted:
            words += ["--unlisted-model", target.unlisted]
        if benchmark.goodput is not None:
            words += ["--goodput", *(f"{name}:{limit:g}" for name, limit in benchmark.goodput.limits.items())]
        if target.api_key_env:
            words += ["--api-key-env", target.api_key_env]
        if benchmark.early_stop is not None:
            words += ["--first", *map(str, counts(int(target.load["requests"])))]
        if target.close_connections or not benchmark.keep_alive:
            words.append("--close")
        return words + (["--save-requests"] if benchmark.save_requests else [])

    def result_files(self, config: Config, target: Target) -> list[str]:
        requests = [glob.escape(str(target.requests))] if config.benchmark.save_requests else []
        return [*super().result_files(config, target), *requests]

    def metrics(self, config: Config, target: Target, done: Completed) -> Metrics:
        result = read([target.result])
        errors = [f"{text} ({count})" for text, count in result.get("errors", {}).items()]
        try:
            # A few answers may be empty, but not most, however fast a broken service gives them.
            if 2 * result.get("empty", 0) > result.get("completed", 0):
                raise EvaluationFailed(f"{result['empty']} of {result['completed']} answers have no tokens")
            measured = {name: float(result[name]) for name in METRICS if result.get(name) is not None}
            return require_measured(measured, config.benchmark.min_success_rate, _wanted(config))
        except EvaluationFailed as error:
            cause = f"{error.cause}: {errors[0]}" if errors else error.cause
            kept = config.benchmark.keep_alive and not target.close_connections
            if kept and result.get("completed") and errors and errors[0].startswith(_LOST):
                cause += "; if the service closes a connection after each answer, set benchmark.keep_alive = false"
            raise EvaluationFailed(cause, detail="\n".join(errors)) from None


def _wanted(config: Config) -> set[str]:
    """The metrics that objective and limits need, and the one that goodput hangs on if they need that."""
    goodput = config.benchmark.goodput
    limited = GOODPUT in config.needed and goodput is not None and goodput.tpot_ms is not None
    return {*config.needed, *(("tpot_mean_ms",) if limited else ())}


def _key_problems(name: str) -> Iterator[str]:
    """Why this host has no key to send, in a line."""
    try:
        if api_key(name, os.environ) and name not in scrubbed_environment(os.environ):
            yield f"benchmark.api_key_env: {name} is a name of launchers' own, which reaches no client: choose another"
    except ValueError as error:
        yield f"benchmark.api_key_env: {error}"


def _prompt_problems(benchmark: Benchmark) -> Iterator[str]:
    """Why this host has not the prompts of the run, in a line."""
    if benchmark.prompts:
        try:
            found = content(benchmark.prompts, benchmark.endpoint)
            if found.sha256 != benchmark.prompts_sha256:
                yield f"benchmark.prompts: {benchmark.prompts} is another file than on the root's host"
        except ValueError as error:
            yield f"benchmark.prompts: {error}"


async def _one_token(target: Target, timeout: float) -> None:
    import aiohttp  # slow to import, and most ranks ask no service

    body = {**question(target.endpoint, "a"), "max_tokens": 1, "temperature": 0}
    key = api_key(target.api_key_env, os.environ)
    sent = headers(key) | ({"Connection": "close"} if target.close_connections else {})
    limit = aiohttp.ClientTimeout(total=timeout)
    problem = "the first request was not answered"
    try:
        async with aiohttp.ClientSession(timeout=limit, headers=sent) as session:
            listed = await served_models(session, target.base_url)
            if target.model and listed and target.model not in listed:
                raise EvaluationFailed(f"the service serves {', '.join(listed)[:TOLD]}, not {target.model}")
            if name := target.model or model_among(listed, target.unlisted):
                body["model"] = name
            async with session.post(f"{target.base_url}{target.endpoint}", json=body, allow_redirects=False) as answer:
                text = await beginning(answer)
                quoted = hidden(text, key)[:TOLD]
                if answer.status != 200:
                    told = f"the first request was answered with HTTP {answer.status}: {quoted}".rstrip(": ")
                    why = _OTHER_KEY.format(target.api_key_env) if key else _NO_KEY
                    raise EvaluationFailed(f"{told}; {why}") if answer.status in _FORBIDDEN else NotReady(told)
                if not _tokens(text):
                    raise NotReady(f"the first request was answered without a token: {quoted}".rstrip(": "))
    except asyncio.TimeoutError:  # some errors of aiohttp are both
        raise NotReady(f"{problem} within {timeout:.0f} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise NotReady(f"{problem}: {str(error) or type(error).__name__}") from None


def _tokens(text: str) -> bool:
    """Whether an answer holds a generated token, which may be one without text, and was not broken off."""
    try:
        answer = json.loads(text)
        choice = answer["choices"][0]
        if choice.get("finish_reason") in BROKEN_OFF:
            return False
        told = choice.get("text") or choice.get("message", {}).get("content")
        return bool(told or answer["usage"]["completion_tokens"])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False


_FORBIDDEN = (401, 403)
_NO_KEY = "mpipso's own client has sent no API key: benchmark.api_key_env names the variable that holds it"
_OTHER_KEY = "the key that was sent is that of benchmark.api_key_env, {}, on the host of the group's leader"
_LOST = ("ClientOSError", "ClientConnectionResetError", "ServerDisconnectedError")
"""How the errors begin where a connection is lost before an answer."""
TOLD = 1000
"""How much of an answer is quoted."""
