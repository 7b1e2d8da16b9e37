"""The common metrics of a run, from what happened to each of its requests.

Definitions are those of ``vllm bench serve``: TTFT is the time from sending a request to its first chunk of tokens, ITL
the gap between two chunks, E2E the time to the last chunk, TPOT is (E2E - TTFT) / (output tokens - 1). Events without
text count as chunks, except before the first text and after the end. The ending event counts only if the server reports
more tokens than there were chunks; E2E then ends with it. Percentiles are taken over requests, those of ITL over all
gaps, with linear interpolation. Unlike there, a request that failed counts in the percentiles of TTFT and E2E, as one
that took as long as any may: else a service that sheds load would be the one with the best latencies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, quantiles
from typing import Any

from mpipso.evaluation import GOODPUT, LATENCIES, STATISTICS

MAX_ERRORS = 20
FIRST = "first.json"
"""The file with the metrics of the first part of a load, in the folder of those of the whole."""
REQUESTS = "requests.jsonl"
"""The file with a line for each request of a load, in the same folder."""
WORK = "tokens_per_second"
"""Of prompts and answers, in a part of a load."""


@dataclass
class RequestOutcome:
    """What happened to one request; times in seconds, ``start`` counted from the start of the run."""

    start: float = 0.0
    ttft: float = 0.0
    itls: list[float] = field(default_factory=list)
    e2e: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    counted_chunks: bool = False
    """Whether ``output_tokens`` is the number of chunks, as the service told none."""
    short: bool = False
    """Whether these are fewer than were asked for."""
    empty: bool = False
    """Whether it counts although it has none: the model has ended the answer at once."""
    error: str = ""

    @property
    def tpot(self) -> float:
        """Seconds per output token behind the first; 0 where there is none."""
        return (self.e2e - self.ttft) / (self.output_tokens - 1) if self.output_tokens > 1 else 0.0

    def keeps(self, limits: Mapping[str, float]) -> bool:
        """Whether none of these latencies is above its limit in milliseconds."""
        return all(1000 * getattr(self, latency) <= limit for latency, limit in limits.items())


def summarize(
    outcomes: Sequence[RequestOutcome],
    duration: float,
    goodput: Mapping[str, float] | None = None,
    timeout: float = 0.0,
) -> dict[str, Any]:
    """The metrics by their common names (:data:`mpipso.evaluation.METRICS`), token totals and errors by text.

    Parameters
    ----------
    duration:
        Seconds from the start of the first request to the end of the last.
    goodput:
        What a request takes at most in milliseconds, by latency (``ttft``, ``tpot``, ``e2e``), to count for
        ``request_goodput``, which is absent without it.
    timeout:
        Seconds that a request may take; one that failed counts as that long, or as the longest of the others.

    ``short`` counts the completed requests that got fewer tokens than they asked for, ``empty`` those that got none,
    ``counted_chunks`` those whose chunks were counted because the service told no number of tokens.

    Latencies of which nothing was measured are absent: without a completed request, all of them.
    """
    done = [outcome for outcome in outcomes if not outcome.error]
    received = sum(outcome.input_tokens for outcome in done)
    generated = sum(outcome.output_tokens for outcome in done)
    seconds = max(duration, 1e-9)
    measured: dict[str, list[float]] = {
        "ttft": [outcome.ttft for outcome in done],
        "tpot": [outcome.tpot for outcome in done if outcome.output_tokens > 1],
        "itl": [gap for outcome in done for gap in outcome.itls],
        "e2e": [outcome.e2e for outcome in done],
    }
    latencies: dict[str, float] = {}
    for latency in LATENCIES:
        values = measured[latency]
        lost = len(outcomes) - len(done) if latency in ("ttft", "e2e") else 0
        latencies |= _statistics(latency, values, [max([timeout, *values])] * lost)
    return {
        "completed": len(done),
        "failed": len(outcomes) - len(done),
        "duration": duration,
        "request_throughput": len(done) / seconds,
        "output_throughput": generated / seconds,
        "total_throughput": (received + generated) / seconds,
        **({GOODPUT: sum(outcome.keeps(goodput) for outcome in done) / seconds} if goodput else {}),
        **latencies,
        "total_input_tokens": received,
        "total_output_tokens": generated,
        "short": sum(outcome.short for outcome in done),
        "empty": sum(outcome.empty for outcome in done),
        "counted_chunks": sum(outcome.counted_chunks for outcome in done),
        "errors": _count(outcome.error for outcome in outcomes if outcome.error),
    }


def so_far(finished: Sequence[RequestOutcome], under_way: Sequence[RequestOutcome], seconds: float) -> dict[str, float]:
    """How many requests of a run that goes on have succeeded and failed, and how fast the service works (:data:`WORK`).

    Nothing else: while that is found out, no answer is read. The speed counts the tokens of prompts and answers, of
    requests ``under_way`` that have begun to answer what they have received, with a prompt of the mean length: else it
    would hang on how many run side by side, and on how much of the next prompts a service has read. It is missing if no
    request was completed with a token.
    """
    done = [outcome for outcome in finished if not outcome.error]
    told: dict[str, float] = {"completed": len(done), "failed": len(finished) - len(done)}
    generated = sum(outcome.output_tokens for outcome in done)
    if not generated:
        return told
    received = sum(outcome.input_tokens for outcome in done)
    per_chunk = generated / sum(1 + len(outcome.itls) for outcome in done)
    prompt = received / len(done)
    begun = sum(prompt + (1 + len(outcome.itls)) * per_chunk for outcome in under_way if outcome.ttft)
    return told | {WORK: (received + generated + begun) / max(seconds, 1e-9)}


def _statistics(latency: str, values: Sequence[float], lost: Sequence[float]) -> dict[str, float]:
    """The mean of a latency's ``values``, and percentiles in which those of ``lost`` requests count as well."""
    if not values:
        return {}
    every = [*values, *lost]
    cuts = quantiles(every, n=100, method="inclusive") if len(every) > 1 else 99 * every
    told = {"mean": fmean(values)} | {name: cuts[int(name[1:]) - 1] for name in STATISTICS if name != "mean"}
    return {f"{latency}_{statistic}_ms": 1000 * value for statistic, value in told.items()}


def _count(errors: Iterable[str]) -> dict[str, int]:
    """How often each error happened, the most frequent ones by name, the rest together."""
    counts = Counter(errors)
    frequent = dict(counts.most_common(MAX_ERRORS))
    rest = counts.total() - sum(frequent.values())
    return {**frequent, "others": rest} if rest else frequent
