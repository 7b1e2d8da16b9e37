"""A load generator for services that stream OpenAI completions: one command, one JSON file with the common metrics.

``python -m mpipso.service.loadgen --base-url http://HOST:PORT --requests 32 --concurrency 16 --output F.json``

The load is a closed loop (``--concurrency``), Poisson arrivals (``--request-rate``) or, with neither, all requests at
once. Arrivals follow from the common seed alone, lest runs that are compared differ in the load itself. Prompts follow
from the seed and differ between requests, seeds and warm-up, so that a prefix cache that is kept from an earlier run
helps no one. They hold exactly the wanted number of tokens for the embedded model, to which a word is a token; for any
other model about as many, if the warm-up tells how many a word is. Real prompts (``--prompts``) follow from the common
seed instead. The token counts are those that the server reports.

Exit codes: 0 when the file was written, whatever became of the requests; 2 for bad flags.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from mpipso.flags import bounded
from mpipso.service.clients.apikey import api_key, headers, hidden
from mpipso.service.clients.asking import (
    allow_connections,
    beginning,
    model_among,
    most_connections,
    question,
    served_models,
)
from mpipso.service.clients.prompts import Prompt, chosen
from mpipso.service.clients.stats import FIRST, REQUESTS, RequestOutcome, so_far, summarize
from mpipso.service.clients.stream import Stream, shortened
from mpipso.service.clients.vocabulary import words

TOLERANCE = 0.05
"""By which share prompts may be longer than asked for before they are made shorter."""
IDLE = 1.0
"""Seconds after which a connection is not used again: a service may close it in that very moment, as uvicorn does after
5 s, and the request would be lost."""


class Load:
    """One run against one service: what is sent when, and what came back."""

    def __init__(self, session: aiohttp.ClientSession, options: argparse.Namespace) -> None:
        self._session = session
        self._options = options
        self._url = options.base_url.rstrip("/") + options.endpoint
        self._body = {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
        self._body |= {"ignore_eos": True} if options.ignore_eos else {}
        self._body |= {"model": options.model} if options.model else {}
        self._origin = 0.0
        self._finished: list[RequestOutcome] = []
        self._under_way: dict[int, RequestOutcome] = {}
        self._first: Sequence[int] = ()

    async def run(
        self, prompts: Sequence[Prompt], due: Sequence[float] = (), *, first: Sequence[int] = ()
    ) -> tuple[list[RequestOutcome], float]:
        """Send all prompts; their outcomes in the same order, and the seconds it took.

        Parameters
        ----------
        due:
            When each is sent, in seconds from the start; without it the load is a closed loop.
        first:
            After how many of them the figures so far are written, each time anew.
        """
        outcomes = [RequestOutcome() for _ in prompts]
        pairs = list(zip(prompts, outcomes, strict=True))
        self._finished, self._under_way, self._first = [], {}, first
        self._origin = time.perf_counter()
        if due:
            await self._open_loop(pairs, due)
        else:
            waiting = iter(pairs)
            loops = min(self._options.concurrency or len(pairs), len(pairs))
            await asyncio.gather(*(self._closed_loop(waiting) for _ in range(loops)))
        return outcomes, time.perf_counter() - self._origin

    async def _closed_loop(self, waiting: Iterator[tuple[Prompt, RequestOutcome]]) -> None:
        for prompt, outcome in waiting:
            await self._request(prompt, outcome)

    async def _open_loop(self, pairs: Sequence[tuple[Prompt, RequestOutcome]], due: Sequence[float]) -> None:
        sent = []
        for (prompt, outcome), seconds in zip(pairs, due, strict=True):
            await asyncio.sleep(self._origin + seconds - time.perf_counter())
            sent.append(asyncio.create_task(self._request(prompt, outcome)))
        await asyncio.gather(*sent)

    async def _request(self, prompt: Prompt, outcome: RequestOutcome) -> None:
        sent = time.perf_counter()
        outcome.start = sent - self._origin
        self._under_way[id(outcome)] = outcome
        stream = Stream(outcome, sent, self._quoted)
        try:
            asked = prompt.output_tokens or self._options.output_tokens
            body = self._body | question(self._options.endpoint, prompt.content) | {"max_tokens": asked}
            async with self._session.post(self._url, json=body, allow_redirects=False) as response:
                if response.status == 200:
                    async for data in response.content.iter_any():
                        stream.feed(data, time.perf_counter())
                    stream.end(prompt.input_tokens, asked, may_be_empty=not self._options.ignore_eos)
                else:
                    outcome.error = self._quoted(f"HTTP {response.status}: {await beginning(response)}")
        except asyncio.TimeoutError:  # not TimeoutError in Python 3.10
            outcome.error = f"no complete answer within {self._options.timeout:g} s"
        except (aiohttp.ClientError, OSError) as error:
            outcome.error = self._quoted(f"{type(error).__name__}: {error}")
        self._finished.append(self._under_way.pop(id(outcome)))
        if len(self._finished) in self._first:
            seconds, under_way = time.perf_counter() - self._origin, [*self._under_way.values()]
            told = so_far(self._finished, under_way, seconds)
            write(self._options.output.with_name(FIRST), told)

    def _quoted(self, text: str) -> str:
        return shortened(hidden(text, self._options.api_key))


async def measure(
    options: argparse.Namespace, real: tuple[list[Prompt], list[Prompt]] | None = None
) -> tuple[dict[str, Any], list[RequestOutcome]]:
    """Warm up, run the load, and return the metrics and what happened to each request.

    ``real`` are the prompts that are measured and those of the warm-up, in place of random ones.
    """
    idle = None if options.close else IDLE
    connector = aiohttp.TCPConnector(limit=0, force_close=options.close, keepalive_timeout=idle)
    timeout = aiohttp.ClientTimeout(total=options.timeout)
    known = headers(options.api_key)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=known) as session:
        if not options.model:
            options.model = options.unlisted_model
            # A service that cannot even be asked fails every request, and that is what the result has to say.
            with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError, OSError):
                options.model = model_among(await served_models(session, options.base_url), options.model)
        load = Load(session, options)
        if real is not None:
            measured, first = real
            await load.run(first)
        else:
            length = await warm_up(load, options) if options.warmup else options.input_tokens
            measured = [Prompt(each, input_tokens=options.input_tokens) for each in prompts(options, length)]
        due = arrivals(options.requests, options.request_rate, options.common_seed) if options.request_rate else ()
        outcomes, duration = await load.run(measured, due, first=options.first)
    return summarize(outcomes, duration, dict(options.goodput), options.timeout), outcomes


def arrivals(number: int, rate: float, seed: int) -> list[float]:
    """When so many requests are due, in seconds: the first at 0, with exponential gaps between them.

    The gaps are scaled to a mean of exactly 1 / ``rate``, as in ``vllm bench serve``: of few requests the sum of the
    gaps alone would make some loads half as high again as others.
    """
    draw = random.Random(f"arrivals {seed}")
    due = list(itertools.accumulate((draw.expovariate(1.0) for _ in range(number - 1)), initial=0.0))
    scale = (number - 1) / rate / due[-1] if number > 1 else 0.0
    return [scale * when for when in due]


async def warm_up(load: Load, options: argparse.Namespace) -> int:
    """Warm up, and return of how many words the measured prompts are.

    If no request is served, the service may be cold, or its context too small for that many words: then prompts a
    quarter as long are tried. They warm it up, but in them a chat's template weighs more: their answer is the last one
    only if the long ones are refused once more.
    """
    whole = int(options.input_tokens)
    length = await _length(load, options, whole)
    if not length and (estimate := await _length(load, options, max(1, whole // 4))):
        length = await _length(load, options, whole) or estimate
    return length or whole


async def _length(load: Load, options: argparse.Namespace, sent: int) -> int:
    """Of how many words the measured prompts are by a warm-up with prompts of so many; 0 if none of these is served."""
    outcomes, _ = await load.run([Prompt(each, input_tokens=sent) for each in warm_up_prompts(options, sent)])
    told = [outcome.input_tokens for outcome in outcomes if not outcome.error]
    return prompt_length(options.input_tokens, sum(told) / (sent * len(told))) if told else 0


def warm_up_prompts(options: argparse.Namespace, length: int) -> list[str]:
    """The prompts of the warm-up, of ``length`` words each.

    All runs of a common seed send the same words, each in an order of its own: so they are as many tokens everywhere,
    and the measured prompts become equally long.
    """
    drawn = random.Random(f"warm-up {options.common_seed}").choices(words(), k=options.warmup * length)
    random.Random(f"warm-up {options.seed}").shuffle(drawn)
    return ["".join(drawn[start :: options.warmup]) for start in range(options.warmup)]


def prompt_length(tokens: int, per_word: float) -> int:
    """Of how many words a prompt is about so many tokens.

    Just as many where words are tokens but for a few, as of a chat's template, and where the service does not tell.
    """
    return max(1, round(tokens / per_word)) if per_word > 1 + TOLERANCE else tokens


def prompts(options: argparse.Namespace, length: int) -> list[str]:
    """Random prompts of ``length`` words each; the same for the same seed, else different."""
    draw = random.Random(f"load {options.seed}")
    vocabulary = words()
    return ["".join(draw.choices(vocabulary, k=length)) for _ in range(options.requests)]


def real_prompts(options: argparse.Namespace) -> tuple[list[Prompt], list[Prompt]] | None:
    """The real prompts that are measured and those of the warm-up; None if they are to be random.

    They depend on the common seed alone: what their content does to the service is the same in all runs.
    """
    if not options.prompts:
        return None
    which = (options.common_seed, options.requests, options.warmup)
    return chosen(options.prompts, options.prompts_sha256, options.endpoint, *which, skip=options.skip)


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        "mpipso.service.loadgen", allow_abbrev=False, description=str(__doc__).partition("\n")[0]
    )
    add = flags.add_argument
    add("--base-url", required=True, type=_url, help="http://HOST:PORT")
    add("--endpoint", default="/v1/completions", help="path (default: %(default)s), or /v1/chat/completions")
    add("--model", default="", help="name of the model (default: the first that the service lists)")
    add("--unlisted-model", default="", help="name of the model unless the service lists only others")
    add("--skip", type=bounded(int, 0), default=0, help="real prompts that a run before has sent (default: 0)")
    add("--requests", type=bounded(int, 1), default=32, help="requests that are measured (default: %(default)s)")
    add("--prompts", default="", metavar="FILE", help="real prompts in place of random words: a JSON object per line")
    add("--prompts-sha256", default="", metavar="DIGEST", help="of that file, which is refused if it has another")
    add("--input-tokens", type=bounded(int, 1), default=64, help="tokens of a prompt (default: %(default)s)")
    add("--output-tokens", type=bounded(int, 1), default=48, help="tokens of an answer (default: %(default)s)")
    add("--no-ignore-eos", dest="ignore_eos", action="store_false", help="let answers end by themselves")
    loop = flags.add_mutually_exclusive_group()
    loop.add_argument("--concurrency", type=bounded(int, 1), help="closed loop: requests under way at any time")
    loop.add_argument("--request-rate", type=bounded(float, 0, above=True), help="open loop: mean requests per second")
    add("--warmup", type=bounded(int, 0), default=2, help="requests before, which do not count (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the prompts (default: %(default)s)")
    add(
        "--common-seed", type=int, default=0, help="of arrivals, the words of the warm-up and the order of real prompts"
    )
    add("--close", action="store_true", help="a new connection for every request (sends Connection: close)")
    told = "environment variable with the API key, which is sent as Authorization: Bearer KEY"
    add("--api-key-env", dest="api_key", type=_key, default="", metavar="NAME", help=told)
    add("--timeout", type=bounded(float, 0, above=True), default=600.0, help="seconds for one request (default: 600)")
    told = "limits in ms that requests keep to count for request_goodput: ttft:500 tpot:50 e2e:9000"
    add("--goodput", type=_limit, nargs="+", default=(), metavar="LATENCY:MS", help=told)
    told = f"after so many requests write the metrics so far, to {FIRST} beside the output (default: never)"
    add("--first", type=bounded(int, 1), nargs="+", default=(), metavar="REQUESTS", help=told)
    add("--save-requests", action="store_true", help=f"record every request, in {REQUESTS} beside the output")
    add("--output", required=True, type=Path, help="the JSON file to write")
    return flags


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise argparse.ArgumentTypeError(f"{text!r} is not http://HOST:PORT")
    return text


def _key(name: str) -> str:
    try:
        return api_key(name, os.environ)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _limit(text: str) -> tuple[str, float]:
    latency, _, limit = text.partition(":")
    if latency not in ("ttft", "tpot", "e2e"):
        raise argparse.ArgumentTypeError(f"{text!r} is no limit on ttft, tpot or e2e, as ttft:500")
    return latency, bounded(float, 0, above=True)(limit)


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    allow_connections(most_connections(options.requests, options.warmup, options.concurrency))
    try:
        real = real_prompts(options)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    unfinished = part_of(options.output)
    try:
        # Found out before the load, not after it; and the file of an earlier run never passes for this one's.
        unfinished.write_text("")
        options.output.unlink(missing_ok=True)
    except OSError as error:
        print(f"{options.output}: cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    result, outcomes = asyncio.run(measure(options, real))
    if options.save_requests:
        save(options.output.with_name(REQUESTS), outcomes)
    write(options.output, result)
    return 0


def part_of(file: Path) -> Path:
    """Where a file is written until it is complete."""
    return file.with_name(file.name + ".part")


def write(file: Path, result: Mapping[str, Any]) -> None:
    """Write a result as JSON; whoever looks for the file finds all of it, or none."""
    part_of(file).write_text(json.dumps(result, indent=1) + "\n")
    part_of(file).replace(file)


def save(file: Path, outcomes: Sequence[RequestOutcome]) -> None:
    """Write a line of JSON for each request. Of as many tokens as these may have, times take most of the room."""
    with file.open("w") as lines:
        for outcome in outcomes:
            told = {key: _microseconds(value) for key, value in vars(outcome).items()}
            lines.write(json.dumps(told, separators=(",", ":")) + "\n")


def _microseconds(value: Any) -> Any:
    """Seconds, or several, rounded to these; anything else as it is."""
    if isinstance(value, list):
        return [round(each, 6) for each in value]
    return round(value, 6) if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
