"""The load generator: how it reads streams, what it counts, what it sends.

The embedded server is the real thing; :class:`Script` is a fake that injects faults and controls what is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpipso.evaluation import GOODPUT, LATENCIES, METRICS, STATISTICS
from mpipso.service import loadgen
from mpipso.service.clients.stats import MAX_ERRORS, WORK, RequestOutcome, so_far, summarize
from mpipso.service.clients.stream import MAX_ERROR_LENGTH, MAX_LINE, Stream
from mpipso.service.clients.vocabulary import words

LLAMACPP = (
    'data: {"choices":[{"text":" lom","index":0,"logprobs":null,"finish_reason":null}],"created":1,"model":"m"}\n\n'
    'data: {"choices":[{"text":" zin","index":0,"logprobs":null,"finish_reason":null}],"created":1,"model":"m"}\n\n'
    'data: {"choices":[{"text":"","index":0,"logprobs":null,"finish_reason":"length"}],"created":1,"model":"m",'
    '"usage":{"completion_tokens":2,"prompt_tokens":7,"total_tokens":9},"timings":{"predicted_n":2}}\n\n'
    "data: [DONE]\n\n"
)
VLLM = (
    'data: {"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":" a",'
    '"logprobs":null,"finish_reason":null,"stop_reason":null}],"usage":null}\n\n'
    'data: {"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":" b",'
    '"logprobs":null,"finish_reason":"length","stop_reason":null}],"usage":null}\n\n'
    'data: {"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":7,'
    '"total_tokens":9,"completion_tokens":2}}\n\n'
    "data: [DONE]\n\n"
)
SGLANG = (
    'data: {"id":"a1","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":" a",'
    '"logprobs":null,"finish_reason":null,"matched_stop":null}],"usage":null}\n\n'
    'data: {"id":"a1","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":" b",'
    '"logprobs":null,"finish_reason":"length","matched_stop":null}],"usage":null}\n\n'
    'data: {"id":"a1","object":"text_completion","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":7,'
    '"total_tokens":9,"completion_tokens":2,"prompt_tokens_details":null,"reasoning_tokens":0,'
    '"completion_tokens_details":null}}\n\n'
    "data: [DONE]\n\n"
)
CHAT = (
    'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
    'data: {"choices":[{"index":0,"delta":{"reasoning_content":"hm"},"finish_reason":null}]}\n\n'
    'data: {"choices":[{"index":0,"delta":{"content":"ja"},"finish_reason":null}]}\n\n'
    'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\n'
    "data: [DONE]\n\n"
)
SPACED = VLLM.replace('":', '": ').replace(",", ", ")
KEY = "sk-8f3a61c0d2"
COMMENTED = ": ping\n\nevent: message\n" + LLAMACPP.replace("\n", "\r\n")
BEGIN, END = LLAMACPP.split("\n\n")[0] + "\n\n", "data: [DONE]\n\n"
ANSWERS = {"llama.cpp": LLAMACPP, "vLLM": VLLM, "SGLang": SGLANG, "chat": CHAT}
ANSWERS |= {"spaced JSON": SPACED, "comments and CRLF": COMMENTED, "CR alone": LLAMACPP.replace("\n", "\r")}


def read(
    *pieces: tuple[str | bytes, float], asked: int = 5, wanted: int = 2, sent: float = 0.0, may_be_empty: bool = False
) -> RequestOutcome:
    outcome = RequestOutcome()
    stream = Stream(outcome, sent)
    for piece, now in pieces:
        stream.feed(piece.encode() if isinstance(piece, str) else piece, now)
    stream.end(asked, wanted, may_be_empty=may_be_empty)
    return outcome


# --- reading a stream ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_events_are_timed_and_counted(answer: str) -> None:
    events = answer.replace("\r\n", "\n").replace("\r", "\n").split("\n\n")
    outcome = read(*((event + "\n\n", float(second)) for second, event in enumerate(events, 1)))
    first = next(second for second, event in enumerate(events, 1) if '"text' in event or "reasoning" in event)
    assert outcome.error == ""
    assert (outcome.ttft, outcome.itls, outcome.e2e) == (first, [1.0], first + 1)
    assert (outcome.input_tokens, outcome.output_tokens) == (7, 2)


def test_times_count_from_when_the_request_was_sent() -> None:
    """Also where the only token has no text and comes with the end."""
    begun, ended = said(text=" a"), said(text="", finish_reason="stop") + usage(1)
    two = read((begun, 103.0), (begun + ended, 104.0), sent=100.0)
    assert (two.ttft, two.itls, two.e2e) == (3.0, [1.0], 4.0)
    one = read((ended, 105.0), sent=100.0)
    assert (one.ttft, one.itls, one.e2e) == (5.0, [], 5.0)


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
@given(data=st.data())
def test_it_does_not_matter_how_the_bytes_are_cut(answer: str, data: st.DataObject) -> None:
    raw = answer.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)))) | {0, len(raw)})
    whole = read((raw, 1.0))
    assert read(*((raw[a:b], 1.0) for a, b in itertools.pairwise(cuts))) == whole
    assert len(whole.itls) == 1


@given(st.lists(st.text(min_size=1), min_size=1))
def test_any_text_is_one_chunk_each(texts: list[str]) -> None:
    events = [json.dumps({"choices": [{"text": text}]}, separators=(",", ":")) for text in texts]
    outcome = read(*((f"data: {event}\n\n", 1.0) for event in events), ("data: [DONE]\n\n", 1.0))
    assert outcome.error == ""
    assert outcome.output_tokens == len(texts)


@pytest.mark.parametrize(
    "hostile", ['{"text":"x', '","text":"x', '"error":{"message":"no"}', '"usage":{"x":1}', "[DONE]"]
)
def test_a_text_that_looks_like_json_is_only_text(hostile: str) -> None:
    event = json.dumps({"choices": [], "note": hostile}, separators=(",", ":"))
    outcome = read((f"data: {event}\n\n", 1.0), (LLAMACPP, 2.0))
    assert outcome == read((LLAMACPP, 2.0))


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
@pytest.mark.parametrize(("reason", "counted"), [("length", False), ("stop", True)])
def test_an_answer_that_the_service_cuts_short_is_no_fast_one(answer: str, reason: str, counted: bool) -> None:
    """llama.cpp does so when the context of a slot is full; vLLM says so together with the last text."""
    answer = re.sub('"(stop|length)"', f'"{reason}"', answer)
    assert answer.count(f'"{reason}"') == 1
    assert read((answer, 1.0), wanted=2).error == ""
    outcome = read((answer, 1.0), wanted=3)
    assert (outcome.error == "") == counted
    assert counted or outcome.error.startswith("the service cut the answer short")


@pytest.mark.parametrize("tokens", [None, 0, 2])
@pytest.mark.parametrize("reason", ["abort", "cancelled", "error", "timeout"])
def test_an_answer_that_the_service_gives_up_is_an_error(reason: str, tokens: int | None) -> None:
    """LMDeploy refuses a prompt that is too long so, with a text of its own and no tokens: as a fast answer."""
    refused = said(text="internal error happened") + said(text="", finish_reason=reason)
    refused += "" if tokens is None else usage(tokens)
    outcome = read((refused + END, 1.0), wanted=2, may_be_empty=True)
    assert outcome.error == f"the service ended the answer with finish_reason '{reason}'"


def test_without_usage_chunks_and_the_asked_length_are_counted() -> None:
    outcome = read(("\n".join(line for line in LLAMACPP.splitlines() if "usage" not in line) + "\n", 1.0))
    assert (outcome.error, outcome.input_tokens, outcome.output_tokens) == ("", 5, 2)
    assert outcome.counted_chunks and summarize([outcome], 1.0)["counted_chunks"] == 1
    told = read((LLAMACPP, 1.0))
    assert not told.counted_chunks and summarize([told], 1.0)["counted_chunks"] == 0


def test_without_usage_an_answer_that_may_have_been_cut_has_as_many_tokens_as_chunks() -> None:
    """Its end says the same whether it was long enough or the context was full."""
    outcome = read(*((event + "\n\n", 1.0) for event in VLLM.split("\n\n")[:2]), wanted=8)
    assert (outcome.error, outcome.output_tokens, outcome.counted_chunks) == ("", 2, True)


def said(**choice: Any) -> str:
    """One event of a stream."""
    return f"data: {json.dumps({'choices': [{'finish_reason': None, **choice}]})}\n\n"


def usage(tokens: int) -> str:
    return f'data: {{"choices":[],"usage":{{"prompt_tokens":7,"completion_tokens":{tokens}}}}}\n\n'


@pytest.mark.parametrize("first", [" a", ""])
@pytest.mark.parametrize("chat", [False, True])
def test_tokens_without_text_are_tokens(first: str, chat: bool) -> None:
    """Services send such chunks for special tokens, which follow the end of a text with ``ignore_eos``."""

    def chunk(text: str, reason: str | None = None) -> str:
        return said(**{"delta": {"content": text}} if chat else {"text": text}, finish_reason=reason)

    opening = [(said(delta={"role": "assistant", "content": ""}), 0.5)] if chat else []
    events = [(chunk(first), 1.0), (chunk(""), 2.0), (chunk("", "length"), 3.0), (usage(3), 9.0), (END, 9.0)]
    outcome = read(*opening, *events, wanted=3)
    assert (outcome.error, outcome.output_tokens) == ("", 3)
    assert (outcome.ttft, outcome.itls, outcome.e2e) == (1.0, [1.0], 3.0)


@pytest.mark.parametrize(
    "opening",
    [[said(text="")], [said(delta={"role": "assistant"}), said(delta={"content": ""})]],
    ids=["completions", "chats"],
)
def test_empty_events_before_the_first_text_are_no_tokens(opening: list[str]) -> None:
    """They only tell that the service has begun."""
    events = [(said(text=" a"), 3.0), (said(text=" b", finish_reason="stop"), 4.0), (usage(2), 5.0)]
    outcome = read(*((event, 1.0) for event in opening), *events)
    assert (outcome.ttft, outcome.itls, outcome.e2e, outcome.error) == (3.0, [1.0], 4.0, "")


def test_what_comes_after_the_end_is_no_token() -> None:
    events = [(said(text=" a"), 1.0), (said(text=" b", finish_reason="stop"), 2.0)]
    late = usage(2).replace('"choices":[]', '"choices":[{"delta":{}}]')
    outcome = read(*events, (late, 9.0), (END, 9.0))
    assert (outcome.itls, outcome.e2e, outcome.output_tokens, outcome.error) == ([1.0], 2.0, 2, "")


def test_a_text_after_the_end_takes_nothing_from_the_answer() -> None:
    events = [(said(text=""), 1.0), (said(text=""), 2.0), (said(text="", finish_reason="stop"), 3.0)]
    outcome = read(*events, (said(text=" late"), 9.0), (END, 9.0))
    assert (outcome.ttft, outcome.itls, outcome.e2e, outcome.output_tokens) == (1.0, [1.0], 2.0, 2)


def test_an_end_without_text_is_a_token_only_if_there_are_more_than_chunks() -> None:
    events = [(said(text=" a"), 1.0), (said(text=" b"), 2.0), (said(text="", finish_reason="stop"), 3.0)]
    assert read(*events, (usage(2), 4.0)).e2e == 2.0
    assert read(*events, (usage(3), 4.0)).e2e == 3.0
    alone = read(events[-1], (usage(1), 4.0))
    assert (alone.error, alone.ttft, alone.e2e) == ("", 3.0, 3.0)


def test_only_the_first_event_of_a_chat_says_whose_turn_it_is() -> None:
    """There are services that say it in each."""
    events = [(said(delta={"role": "assistant", "content": text}), float(n)) for n, text in enumerate(["", "a", ""])]
    outcome = read(*events, (END, 3.0))
    assert (outcome.ttft, outcome.itls, outcome.output_tokens) == (1.0, [1.0], 2)


@pytest.mark.parametrize("may_be_empty", [False, True])
@pytest.mark.parametrize("answer", [said(text=""), *(said(text="", finish_reason=why) for why in ("length", "abort"))])
def test_an_answer_of_no_tokens_is_an_error(answer: str, may_be_empty: bool) -> None:
    """Also where the model may end it at once, as long as it is not said to have done so."""
    assert read((answer + usage(0) + END, 1.0), may_be_empty=may_be_empty).error == "the answer has no tokens"


def test_an_answer_that_the_model_ends_at_once_counts_at_its_end() -> None:
    empty, ended = said(text=""), said(text="", finish_reason="stop")
    outcome = read((empty, 1.0), (empty, 2.0), (ended + usage(0) + END, 3.0), may_be_empty=True)
    assert (outcome.error, outcome.empty, outcome.short, outcome.output_tokens) == ("", True, True, 0)
    assert (outcome.ttft, outcome.itls, outcome.e2e) == (3.0, [], 3.0)


def test_an_answer_is_over_when_its_last_text_says_so() -> None:
    """Nothing else need follow."""
    outcome = read(*((event + "\n\n", 1.0) for event in VLLM.split("\n\n")[:2]))
    assert (outcome.error, outcome.output_tokens) == ("", 2)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (BEGIN, "ended early"),
        ("", "ended early"),
        (BEGIN + BEGIN[:30], "ended early"),
        (BEGIN + "Bad\n<b>Gateway</b>", "the stream ended early, with Bad <b>Gateway</b>"),
        ('{"error":{"message":"the model is overloaded"}}', "error in place of the stream: the model is overloaded"),
        (json.dumps({"error": "overloaded"}, indent=1), "error in place of the stream: overloaded"),
        ('{"choices":[{"text":" a b","finish_reason":"length"}]}', "the service does not stream its answers"),
        (json.dumps({"choices": [{"text": " a b"}]}, indent=1) + "\n", "the service does not stream its answers"),
        (100_000 * "[" + "\n" + 100_000 * "x", "the stream ended early, with [[[["),
        ('["overloaded"]', 'the stream ended early, with ["overloaded"]'),
        (END, "no tokens"),
        (BEGIN + 'data: {"error":{"code":500,"message":"out of  memory"}}\n\n' + END, "in the stream: out of memory"),
        (BEGIN + 'error: {"code":500,"message":"broken"}\n\n', "in the stream: broken"),
        (BEGIN + 'data: {"error":"text"}\n\n' + END, "in the stream: text"),
        (BEGIN + 'data: {"object":"error","message":"no worker"}\n\n' + END, "in the stream: no worker"),
        (BEGIN + "event: error\n: no worker\n\n" + END, "in the stream: no worker"),  # as Dynamo says it
        (BEGIN + 'event: error\ndata: {"message":"no worker"}\n\n' + END, "in the stream: no worker"),
        (BEGIN + "event: error\n\n" + END, "error in the stream"),
        ('data: {"choices":[{"text":" a"}],"error":{"message":"with a text"}}\n\n' + END, "in the stream: with a text"),
        (BEGIN + "data: {bad\n\n" + END, "not a JSON object"),
        (BEGIN + "data: 3\n\n" + END, "not a JSON object"),
        (BEGIN + f"data: {100_000 * '['}\n\n" + END, "not a JSON object"),
        (BEGIN + 'data: {"choices":5}\n\n' + END, "none of OpenAI's"),
        (BEGIN + 'data: {"choices":["x"]}\n\n' + END, "none of OpenAI's"),
        (BEGIN + 'data: {"choices":[{"delta":"x"}]}\n\n' + END, "none of OpenAI's"),
        (BEGIN + 'data: {"usage":[1]}\n\n' + END, "none of OpenAI's"),
        (BEGIN + 'data: {"usage":{"completion_tokens":"many"}}\n\n' + END, "none of OpenAI's"),
        (BEGIN + 'data: {"usage":{"completion_tokens":1e999}}\n\n' + END, "none of OpenAI's"),
        (BEGIN + 'data: {"usage":{"completion_tokens":NaN}}\n\n' + END, "none of OpenAI's"),
        (BEGIN + 'data: {"usage":{"completion_tokens":-5}}\n\n' + END, "none of OpenAI's"),
        (BEGIN + f'data: {{"usage":{{"prompt_tokens":1{400 * "0"}}}}}\n\n' + END, "none of OpenAI's"),
        (BEGIN + 'data: {"choices":5}\n\n' + "data: 3\n\n" + END, "none of OpenAI's"),
        (BEGIN + "data: " + 2 * MAX_LINE * "x" + "\n\n" + END, "longer than 1000000 bytes"),
    ],
)
def test_a_broken_answer_is_an_error(answer: str, reason: str) -> None:
    pieces = (answer[start : start + 65536] for start in range(0, len(answer), 65536))
    assert reason in read(*((piece, 1.0) for piece in pieces)).error


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_the_last_line_needs_no_end(answer: str) -> None:
    for cut in (answer.rstrip(), answer.replace("data: [DONE]", "").rstrip()):
        assert read((cut[:-9], 1.0), (cut[-9:], 2.0)) == read((cut[:-9], 1.0), (cut[-9:] + "\n", 2.0))
        assert read((cut, 1.0)) == read((answer, 1.0))


def test_a_long_reason_is_cut_to_a_line() -> None:
    told = json.dumps({"error": {"message": "out of\nmemory " + 500 * "x"}})
    error = read((f"data: {told}\n\n", 1.0)).error
    assert len(error) == MAX_ERROR_LENGTH
    assert error.startswith("error in the stream: out of memory xxx") and error.endswith("x...")


# --- the numbers -----------------------------------------------------------------------------------------------------


def test_metrics_have_the_common_names_and_definitions() -> None:
    outcomes = [
        RequestOutcome(0.0, ttft=0.1, itls=[0.2, 0.1], e2e=0.4, input_tokens=10, output_tokens=3),
        RequestOutcome(0.0, ttft=0.3, itls=[0.6], e2e=0.9, input_tokens=20, output_tokens=4, short=True),
        RequestOutcome(0.0, ttft=0.5, itls=[], e2e=0.5, input_tokens=30, output_tokens=1),
        RequestOutcome(0.0, ttft=9.0, itls=[9.0], e2e=9.0, input_tokens=99, output_tokens=9, error="broken"),
    ]
    result = summarize(outcomes, 0.5)
    assert set(METRICS) - {GOODPUT} <= set(result)
    assert (result["completed"], result["failed"], result["duration"]) == (3, 1, 0.5)
    assert (result["total_input_tokens"], result["total_output_tokens"], result["short"]) == (60, 8, 1)
    assert result["request_throughput"] == 6.0
    assert result["output_throughput"] == 16.0
    assert result["total_throughput"] == 136.0
    assert result["ttft_mean_ms"] == pytest.approx(300)
    assert result["tpot_mean_ms"] == pytest.approx(1000 * (0.3 / 2 + 0.6 / 3) / 2)
    assert result["itl_mean_ms"] == pytest.approx(300)
    assert result["e2e_mean_ms"] == pytest.approx(600)
    assert result["errors"] == {"broken": 1}


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([50, 90, 95, 99]))
def test_percentiles_are_those_of_numpy(values: list[float], percent: int) -> None:
    result = summarize([RequestOutcome(e2e=value) for value in values], 1.0)
    assert result[f"e2e_p{percent}_ms"] == pytest.approx(1000 * float(np.percentile(values, percent)))


def test_a_request_that_failed_is_no_fast_one() -> None:
    """A service that refuses half of its requests would else have the better percentiles."""
    done = [RequestOutcome(ttft=0.1, itls=[0.1], e2e=0.2, output_tokens=2) for _ in range(6)]
    lost = [RequestOutcome(ttft=0.01, e2e=0.02, error="HTTP 503") for _ in range(4)]
    all_served, some = (summarize(each, 1.0, timeout=5.0) for each in (done, done + lost))
    assert some["ttft_p50_ms"] == all_served["ttft_p50_ms"] == pytest.approx(100)
    for latency in ("ttft", "e2e"):
        assert some[f"{latency}_p90_ms"] == some[f"{latency}_p99_ms"] == 5000
        assert some[f"{latency}_mean_ms"] == all_served[f"{latency}_mean_ms"]
    assert some["itl_p99_ms"] == some["tpot_p99_ms"] == pytest.approx(100)
    assert summarize(done + lost, 1.0)["e2e_p99_ms"] == pytest.approx(200)


@pytest.mark.parametrize(
    ("limits", "good"),
    [
        ({"ttft": 300}, 2),
        ({"ttft": 299}, 1),
        ({"tpot": 151}, 2),
        ({"e2e": 500}, 2),
        ({"ttft": 300, "tpot": 151, "e2e": 400}, 1),
        ({"ttft": 1}, 0),
    ],
)
def test_goodput_is_of_the_requests_within_every_limit(limits: dict[str, float], good: int) -> None:
    """A single token has no time per output token that could be too long."""
    outcomes = [
        RequestOutcome(ttft=0.1, e2e=0.4, output_tokens=3),
        RequestOutcome(ttft=0.3, e2e=0.9, output_tokens=4),
        RequestOutcome(ttft=0.5, e2e=0.5, output_tokens=1),
        RequestOutcome(ttft=0.0, e2e=0.0, output_tokens=3, error="broken"),
    ]
    assert summarize(outcomes, 0.5, goodput=limits)[GOODPUT] == 2 * good


def test_without_limits_there_is_no_goodput() -> None:
    assert GOODPUT not in summarize([RequestOutcome(e2e=1.0)], 1.0)


def test_latencies_of_nothing_are_absent() -> None:
    result = summarize([RequestOutcome(error="refused")] * 3, 0.0)
    assert (result["completed"], result["failed"], result["output_throughput"]) == (0, 3, 0.0)
    assert not [name for name in result if name.startswith(LATENCIES)]


def test_one_token_has_no_time_per_output_token() -> None:
    result = summarize([RequestOutcome(ttft=0.1, e2e=0.1, output_tokens=1)], 1.0)
    measured = {name for name in METRICS if name.startswith(LATENCIES) and name in result}
    assert measured == {f"{latency}_{statistic}_ms" for latency in ("ttft", "e2e") for statistic in STATISTICS}


def test_the_list_of_errors_is_bounded() -> None:
    outcomes = [RequestOutcome(error=f"number {number % 100}") for number in range(300)]
    errors = summarize(outcomes, 1.0)["errors"]
    assert len(errors) == MAX_ERRORS + 1
    assert sum(errors.values()) == 300


def under_load(concurrency: int, now: int, chunk: int = 1) -> tuple[list[RequestOutcome], list[RequestOutcome], int]:
    """Requests of 12 tokens and 30 of their prompt, a token every 10 ms, in chunks of so many, after ``now`` ms.

    One loop begins after the other. Those that have ended, those that are under way, and the tokens of all.
    """
    finished: list[RequestOutcome] = []
    under_way: list[RequestOutcome] = []
    tokens = 0
    for loop in range(concurrency):
        done, part = divmod(now - loop * 120 // concurrency, 120)
        chunks = part // (10 * chunk)
        gap = chunk / 100
        each = RequestOutcome(0.0, gap, (12 // chunk - 1) * [gap], 0.12, input_tokens=30, output_tokens=12)
        finished += done * [each]
        under_way.append(RequestOutcome(0.0, gap, (chunks - 1) * [gap]) if chunks else RequestOutcome())
        tokens += 12 * done + chunks * chunk
    return finished, under_way, tokens


@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize("concurrency", [1, 3, 12, 40])
def test_so_far_what_is_under_way_counts_as_work(concurrency: int, chunk: int) -> None:
    """Else the service would be the slower the more it answers side by side."""
    finished, under_way, tokens = under_load(concurrency, 310, chunk)
    assert len(under_way) == concurrency and tokens > 12 * len(finished)
    result = so_far(finished, under_way, 0.31)
    begun = len(finished) + sum(bool(outcome.ttft) for outcome in under_way)
    assert result.pop(WORK) == pytest.approx((tokens + 30 * begun) / 0.31)
    assert result == {"completed": len(finished), "failed": 0}


def test_so_far_what_only_waits_and_what_failed_are_no_work() -> None:
    done = RequestOutcome(0.0, 0.1, 3 * [0.1], 0.4, input_tokens=5, output_tokens=4)
    failed = RequestOutcome(0.0, 0.1, 50 * [0.1], error="broken")
    waiting, begun = RequestOutcome(), RequestOutcome(0.0, 0.1, 7 * [0.1])
    assert so_far([done, failed], [waiting], 0.5)[WORK] == pytest.approx((5 + 4) / 0.5)
    result = so_far([done, failed], [waiting, begun], 0.5)
    assert result[WORK] == pytest.approx((2 * 5 + 4 + 8) / 0.5)
    assert (result["completed"], result["failed"]) == (1, 1)


@pytest.mark.parametrize(("few", "many"), [(4, 16), (8, 64)])
def test_so_far_a_service_that_reads_more_prompts_at_a_time_is_no_slower(few: int, many: int) -> None:
    """As much work is done in as many seconds, in waves of so many; the second wave has been read and hardly begun."""

    def rate(wave: int) -> float:
        finished = wave * [RequestOutcome(0.0, 0.1, 9 * [0.1], 1.0, input_tokens=90, output_tokens=10)]
        under_way = wave * [RequestOutcome(1.0, 0.1)]
        seconds = wave * (100 + 91) / 1000  # a thousand tokens per second
        return float(so_far(finished, under_way, seconds)[WORK])

    assert rate(few) == pytest.approx(1000.0) == rate(many)


@pytest.mark.parametrize(
    "finished", [[], [RequestOutcome(error="broken")], [RequestOutcome(0.0, 0.1, [], 0.1, 5, 0, empty=True)]]
)
def test_so_far_nothing_is_told_before_a_request_has_ended_with_a_token(finished: list[RequestOutcome]) -> None:
    assert WORK not in so_far(finished, [RequestOutcome(0.0, 0.1, [0.1])], 1.0)


# --- the load --------------------------------------------------------------------------------------------------------


class Script:
    """A fake service: answers each request with what ``answer`` writes, and notes how it was asked."""

    def __init__(self, answer: Callable[[int, asyncio.StreamWriter], Awaitable[None]]) -> None:
        self.answer = answer
        self.bodies: list[dict[str, Any]] = []
        self.heads: list[str] = []
        self.times: list[float] = []
        self.under_way = self.most_under_way = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if head.startswith("GET"):
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            writer.close()
            return
        length = next(
            int(line.split(":")[1]) for line in head.splitlines() if line.lower().startswith("content-length")
        )
        self.bodies.append(json.loads(await reader.readexactly(length)))
        self.heads.append(head)
        self.times.append(time.perf_counter())
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await self.answer(len(self.bodies), writer)
        self.under_way -= 1
        writer.close()


async def complete(_: int, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0.01)
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + LLAMACPP.encode())


def load(script: Script, *flags: str) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        async with await asyncio.start_server(script, "127.0.0.1", 0) as listener:
            port = listener.sockets[0].getsockname()[1]
            line = ["--base-url", f"http://127.0.0.1:{port}", "--output", "unused", "--output-tokens", "2", *flags]
            result, outcomes = await loadgen.measure(loadgen.parser().parse_args(line))
            return result | {"requests": [vars(outcome) for outcome in outcomes]}

    return asyncio.run(asyncio.wait_for(run(), 30))


def test_the_closed_loop_keeps_its_concurrency() -> None:
    async def when_three_wait(number: int, writer: asyncio.StreamWriter) -> None:
        while script.under_way < 3 and len(script.bodies) < 12:
            await asyncio.sleep(0.005)
        await complete(number, writer)

    script = Script(when_three_wait)
    goodput = ("--goodput", "ttft:60000", "e2e:0.001")
    result = load(script, "--requests", "12", "--concurrency", "3", "--warmup", "0", *goodput)
    assert result[GOODPUT] == 0.0
    assert (result["completed"], result["failed"]) == (12, 0)
    assert script.most_under_way == 3


def test_without_a_loop_all_requests_come_at_once() -> None:
    async def when_all_wait(number: int, writer: asyncio.StreamWriter) -> None:
        while len(script.bodies) < 9:
            await asyncio.sleep(0.005)
        await complete(number, writer)

    script = Script(when_all_wait)
    assert load(script, "--requests", "9", "--warmup", "0")["completed"] == 9
    assert script.most_under_way == 9


def test_the_open_loop_does_not_wait_for_answers() -> None:
    async def after_all_others(number: int, writer: asyncio.StreamWriter) -> None:
        while len(script.bodies) < 8:
            await asyncio.sleep(0.005)
        await complete(number, writer)

    script, before = Script(after_all_others), time.perf_counter()
    result = load(script, "--requests", "8", "--request-rate", "100", "--warmup", "0")
    assert result["completed"] == 8
    starts = [request["start"] for request in result["requests"]]
    assert starts == sorted(starts)
    assert starts[-1] < result["duration"] < time.perf_counter() - before
    gaps = np.diff(starts)
    assert gaps.std() > 0.2 * gaps.mean()


class Keeping(Script):
    """A fake service that keeps its connections."""

    connections = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                await reader.readexactly(int(head.partition("content-length:")[2].split()[0]))
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(LLAMACPP)}\r\n\r\n{LLAMACPP}".encode())
        writer.close()


@pytest.mark.parametrize(("loop", "connections"), [(("--concurrency", "1"), 1), (("--request-rate", "0.25"), 2)])
def test_a_connection_that_was_idle_for_long_is_not_used_again(loop: tuple[str, str], connections: int) -> None:
    """Its service may close it in that very moment."""
    script = Keeping(complete)
    result = load(script, *loop, "--requests", "2", "--warmup", "0", "--model", "m")
    assert (result["completed"], script.connections) == (2, connections)


def test_arrivals_are_those_of_the_common_seed() -> None:
    """The offered load is the same for all that are compared, and as high as the rate says."""
    due = loadgen.arrivals(33, 8.0, 5)
    assert due == loadgen.arrivals(33, 8.0, 5) != loadgen.arrivals(33, 8.0, 6)
    assert due[0] == 0 and due[-1] == pytest.approx(32 / 8)
    assert np.diff(due).min() > 0 and np.diff(due).std() == pytest.approx(1 / 8, rel=0.5)
    assert loadgen.arrivals(1, 8.0, 5) == [0.0]

    def starts(seed: int) -> list[float]:
        flags = ("--requests", "6", "--request-rate", "20", "--warmup", "0", "--common-seed", "3")
        return [each["start"] for each in load(Script(complete), *flags, "--seed", str(seed))["requests"]]

    earliest = loadgen.arrivals(6, 20.0, 3)
    for seed in (1, 2):
        assert all(start > when - 0.001 for start, when in zip(starts(seed), earliest, strict=True))


def test_warm_up_requests_do_not_wait_for_the_rate() -> None:
    async def when_both_wait(number: int, writer: asyncio.StreamWriter) -> None:
        while len(script.bodies) < 2:
            await asyncio.sleep(0.005)
        await complete(number, writer)

    script = Script(when_both_wait)
    assert load(script, "--requests", "1", "--request-rate", "0.001", "--warmup", "2")["completed"] == 1


def test_warm_up_requests_are_sent_first_and_do_not_count() -> None:
    script = Script(complete)
    result = load(script, "--requests", "4", "--warmup", "3", "--concurrency", "2")
    assert (len(script.bodies), result["completed"], result["total_output_tokens"]) == (7, 4, 8)


def test_prompts_differ_between_requests_seeds_and_warm_up_only() -> None:
    def sent(seed: int) -> list[str]:
        script = Script(complete)
        load(script, "--requests", "4", "--warmup", "2", "--concurrency", "1", "--seed", str(seed))
        return [body["prompt"] for body in script.bodies]

    assert sent(1) == sent(1)
    prompts = sent(1) + sent(2)
    assert len(set(prompts)) == len(prompts) == 12
    assert {len(prompt.split()) for prompt in prompts} == {64}
    assert {f" {word}" for prompt in prompts for word in prompt.split()} <= set(words())


@pytest.mark.parametrize(
    ("told", "flags", "length"),
    [
        (lambda words: words, (), 64),
        (lambda words: words + 3, (), 64),
        (lambda words: 3 * words, (), 21),
        (lambda words: 3 * words, ("--warmup", "0"), 64),
        (lambda words: 3 * words, ("--input-tokens", "1"), 1),
        (lambda words: 0, (), 64),
        (lambda words: 1, (), 64),
    ],
    ids=["one each", "a template", "three each", "no warm-up", "one word", "not told", "nonsense"],
)
def test_prompts_are_as_long_as_the_warm_up_tells(
    told: Callable[[int], int], flags: tuple[str, ...], length: int
) -> None:
    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        tokens = told(len(script.bodies[number - 1]["prompt"].split()))
        text = LLAMACPP.replace('"prompt_tokens":7', f'"prompt_tokens":{tokens}')
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + text.encode())

    script = Script(answer)
    load(script, "--requests", "3", "--warmup", "2", "--concurrency", "1", "--seed", "5", *flags)
    draw = random.Random("load 5")
    assert [body["prompt"] for body in script.bodies[-3:]] == [
        "".join(draw.choices(words(), k=length)) for _ in range(3)
    ]


def warmed_up(per_word: int, template: int, room: int, cold: int = 0, told: bool = True) -> tuple[list[int], int, int]:
    """How many words a service was sent in each request, and how many requests succeeded and failed.

    It has so many tokens for a word, and for its template, in a context with ``room`` for so many; the first requests
    find it ``cold``. If it is not ``told``, there is no ``usage``.
    """

    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        tokens = template + per_word * len(script.bodies[number - 1]["prompt"].split())
        status, text = "200 OK", LLAMACPP.replace('"prompt_tokens":7', f'"prompt_tokens":{tokens}')
        text = text if told else text.replace('"usage"', '"not_usage"')
        if number <= cold or tokens > room:
            status, text = "400 Bad Request", "too long"
        writer.write(f"HTTP/1.1 {status}\r\nConnection: close\r\n\r\n{text}".encode())

    script = Script(answer)
    result = load(script, "--requests", "3", "--warmup", "2", "--concurrency", "1")
    return [len(body["prompt"].split()) for body in script.bodies], result["completed"], result["failed"]


def test_a_warm_up_that_has_failed_is_repeated_with_shorter_prompts() -> None:
    """The context has room for as many tokens as were asked for, but not for as many words, which are three each."""
    assert warmed_up(3, 0, room=80) == ([64, 64, 16, 16, 64, 64, 21, 21, 21], 3, 0)


def test_what_is_measured_is_as_long_if_the_first_requests_have_failed() -> None:
    """Short prompts with a long template tell of more tokens for a word than the measured ones have."""
    (*_, warm), (*_, cold) = warmed_up(1, 40, room=999)[0], warmed_up(1, 40, room=999, cold=2)[0]
    assert warm == cold == loadgen.prompt_length(64, (40 + 64) / 64)
    assert warmed_up(1, 0, room=999, cold=9) == ([64, 64, 16, 16, 64, 64, 64], 0, 3)


def test_without_usage_a_context_that_is_too_small_is_not_measured_with_shorter_prompts() -> None:
    """So the configuration that cannot take the load would be the fastest."""
    assert warmed_up(1, 0, room=32, told=False) == ([64, 64, 16, 16, 64, 64, 64, 64, 64], 0, 3)


def test_all_warm_ups_of_a_common_seed_have_the_same_words() -> None:
    """They are as many tokens then, and the prompts that are measured equally long."""

    def sent(*flags: str) -> list[str]:
        flags = ("--base-url", "http://h:1", "--output", "F", *flags)
        return loadgen.warm_up_prompts(loadgen.parser().parse_args(flags), 64)

    one, other = sent("--seed", "1"), sent("--seed", "2")
    assert one == sent("--seed", "1") != other
    assert [len(prompt.split()) for prompt in one] == [64, 64]
    assert sorted(" ".join(one).split()) == sorted(" ".join(other).split())
    assert sorted(" ".join(one).split()) != sorted(" ".join(sent("--common-seed", "1")).split())


def test_a_request_asks_for_an_exact_greedy_stream() -> None:
    script = Script(complete)
    load(script, "--requests", "1", "--warmup", "0", "--output-tokens", "9", "--model", "m", "--close")
    body = script.bodies[0]
    del body["prompt"]
    assert body == {
        "model": "m",
        "max_tokens": 9,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert script.heads[0].startswith("POST /v1/completions ")
    assert "connection: close" in script.heads[0].lower()


def test_a_chat_endpoint_gets_messages() -> None:
    script = Script(complete)
    load(script, "--requests", "1", "--warmup", "0", "--endpoint", "/v1/chat/completions")
    assert [message["role"] for message in script.bodies[0]["messages"]] == ["user"]
    assert "prompt" not in script.bodies[0]


def test_every_kind_of_failure_is_counted() -> None:
    async def faulty(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 1:
            writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy")
        elif number == 2:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ndata:\r\n")
        elif number == 3:
            writer.write(b"nonsense")
        elif number == 4:
            await asyncio.sleep(2)
        elif number == 5:
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + BEGIN.encode())
        elif number == 6:
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + BEGIN.encode() + b'data: {"usage":[1]}\n\n')
        elif number == 7:
            writer.write(
                b"HTTP/1.1 307 Elsewhere\r\nLocation: /again\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
        elif number == 8:
            writer.write(b"HTTP/1.1 500 Endless\r\nConnection: close\r\n\r\n")
            with contextlib.suppress(OSError):
                while True:
                    writer.write(65536 * b"x")
                    await writer.drain()
        elif number != 9:
            await complete(number, writer)

    result = load(Script(faulty), "--requests", "11", "--concurrency", "1", "--warmup", "0", "--timeout", "1")
    assert (result["completed"], result["failed"]) == (2, 9)
    errors = " | ".join(result["errors"])
    for reason in ("none of OpenAI's", "HTTP 307: ", "HTTP 500: xxx"):
        assert reason in errors
    for reason in ("HTTP 503: busy", "ended early", "no complete answer within 1 s", "Disconnected", "Payload"):
        assert reason in errors
    assert result["output_throughput"] == pytest.approx(4 / result["duration"])


def test_a_stream_that_quotes_the_key_is_quoted_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def quote(number: int, writer: asyncio.StreamWriter) -> None:
        told = [{"error": {"message": f"no such key: {KEY}"}}, {"choices": KEY}, [144 * "x" + KEY]][number - 1]
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + f"data: {json.dumps(told)}\n\n".encode())

    monkeypatch.setenv("LLM_LOGIN", KEY)
    script = Script(quote)
    flags = ("--requests", "3", "--concurrency", "1", "--warmup", "0", "--api-key-env", "LLM_LOGIN")
    errors = load(script, *flags)["errors"]
    assert all(f"\nAuthorization: Bearer {KEY}\r\n" in head for head in script.heads)
    assert len(errors) == 3 and all("***" in error for error in errors)
    assert KEY[:5] not in str(errors)


# --- the command -----------------------------------------------------------------------------------------------------


def test_a_service_that_is_not_there_still_gives_a_file(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert loadgen.main(["--base-url", url, "--requests", "3", "--output", str(tmp_path / "F.json")]) == 0
    result = json.loads((tmp_path / "F.json").read_text())
    assert (result["completed"], result["failed"], sum(result["errors"].values())) == (0, 3, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["F.json"]


@pytest.mark.parametrize(("requests", "warmup"), [(100, 0), (1, 100)])
def test_it_opens_as_many_connections_as_the_hard_limit_allows(requests: int, warmup: int, tmp_path: Path) -> None:
    async def when_all_wait(number: int, writer: asyncio.StreamWriter) -> None:
        while len(script.bodies) < 100:
            await asyncio.sleep(0.005)
        await complete(number, writer)

    async def run() -> int:
        async with await asyncio.start_server(script, "127.0.0.1", 0) as listener:
            url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
            words = ["--base-url", url, "--requests", str(requests), "--concurrency", "100", "--warmup", str(warmup)]
            words += ["--output-tokens", "2", "--output", str(tmp_path / "F.json")]
            limited = ["sh", "-c", 'ulimit -S -n 64; exec "$@"', "sh", sys.executable, "-m", loadgen.__name__, *words]
            process = await asyncio.create_subprocess_exec(*limited)
            return await asyncio.wait_for(process.wait(), 60)

    script = Script(when_all_wait)
    assert asyncio.run(run()) == 0
    result = json.loads((tmp_path / "F.json").read_text())
    assert (result["completed"], result["errors"]) == (requests, {})


@pytest.mark.parametrize(
    "flags",
    [
        ("--requests", "0"),
        ("--requests", "2.5"),
        ("--concurrency", "-1"),
        ("--request-rate", "0"),
        ("--request-rate", "nan"),
        ("--concurrency", "2", "--request-rate", "2"),
        ("--base-url", "127.0.0.1:80"),
        ("--warm", "1"),
        ("--goodput", "itl:5"),
        ("--goodput", "ttft:0"),
        ("--goodput", "ttft"),
    ],
)
def test_bad_flags_have_exit_code_2(flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        loadgen.main(["--base-url", "http://h:1", "--output", "F", *flags])
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_has_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert loadgen.main(["--base-url", "http://h:1", "--output", str(tmp_path / "none" / "F.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_line_for_a_request_takes_little_room_for_each_of_its_tokens(tmp_path: Path) -> None:
    """A load may have millions of them."""
    outcome = RequestOutcome(1 / 3, ttft=1 / 7, itls=1000 * [1 / 70], e2e=15.0, output_tokens=1001, error="broken")
    loadgen.save(tmp_path / "F", [outcome, RequestOutcome()])
    one, other = (json.loads(line) for line in (tmp_path / "F").read_text().splitlines())
    assert one == vars(outcome) | {"start": 0.333333, "ttft": 0.142857, "itls": 1000 * [0.014286]}
    assert other == vars(RequestOutcome())
    assert (tmp_path / "F").stat().st_size < 10_000


def test_it_measures_the_embedded_server(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    from mpipso.service.embedded.model import model_path

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    server = [sys.executable, "-m", "mpipso.service.embedded.server", "-m", str(model_path(tmp_path))]
    with subprocess.Popen([*server, "--port", str(port), "-np", "4", "-t", "1"], stderr=subprocess.DEVNULL) as process:
        try:
            wait_until_healthy(process, port)
            flags = ["--requests", "8", "--concurrency", "4", "--input-tokens", "11", "--output-tokens", "6"]
            flags += ["--goodput", "ttft:60000", "--close", "--save-requests", "--output", str(tmp_path / "F.json")]
            assert loadgen.main(["--base-url", f"http://127.0.0.1:{port}", *flags]) == 0
        finally:
            process.send_signal(signal.SIGKILL)
    result = json.loads((tmp_path / "F.json").read_text())
    assert (result["completed"], result["failed"], result["short"]) == (8, 0, 0)
    assert (result["total_input_tokens"], result["total_output_tokens"]) == (88, 48)
    assert all(result[name] > 0 for name in METRICS if name != "failed")
    requests = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert len(requests) == 8
    for request in requests:
        assert len(request["itls"]) == 5
        assert request["ttft"] + sum(request["itls"]) == pytest.approx(request["e2e"], abs=4e-6)


def wait_until_healthy(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.02)
    raise AssertionError("not healthy in time")
