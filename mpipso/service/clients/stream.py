"""What a service streams in answer to a request, as events that are timed while they arrive."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from typing import Any

from mpipso import wording
from mpipso.service.clients.stats import RequestOutcome

MAX_ERROR_LENGTH = 200
MAX_LINE = 1_000_000
"""Bytes of one line of a stream, at most."""
MAX_TOKENS = 10**12
"""Tokens of one request, at most: what says more is no count."""
BROKEN_OFF = ("abort", "cancelled", "error", "timeout")
"""Values of ``finish_reason`` that say that the service, not the model, has given up: vLLM, SGLang, LMDeploy and
TensorRT-LLM answer so, with HTTP 200, what their engines refuse or cannot go on with."""

_FIELDS = (b"", b"data", b"error", b"event", b"id", b"retry")
"""What stands before the colon in a line of a stream: nothing in a comment, ``error`` in llama.cpp's own way."""
_WHOLE = (b"}", b"[DONE]")
"""How the last event ends if nothing but its line's end is missing."""
_NO_EVENT_KEPT = 10_000
"""Bytes that are kept of lines that are no events, at most."""
_TEXT = re.compile(rb'[{,]"(?:text|content|reasoning_content|reasoning)":"[^"]')
"""A key of this name with a string that is not empty. Inside a string of JSON every quote has a backslash before it, so
the text of an answer cannot look like this."""


class Stream:
    """Reads the server-sent events of one answer; its times go into a :class:`RequestOutcome`.

    An event that plainly carries a piece of text, as nearly all do, is only timed. Every other one is parsed: tokens
    may have no text, such as the special ones that follow the end of a text where the service is told to go on.
    ``quoted`` makes a line of a message of what the service says.
    """

    def __init__(self, outcome: RequestOutcome, sent: float, quoted: Callable[[str], str] | None = None) -> None:
        self.outcome = outcome
        self._quoted = quoted or shortened
        self.why = ""
        self.usage: dict[str, int] = {}
        self.chunks = 0
        self._sent = sent
        self._last = 0.0
        self._texts = False
        self._over: float | None = None
        self._rest = b""
        self._arrived = 0.0
        self._no_event = b""
        self._broken = False

    def feed(self, data: bytes, now: float) -> None:
        """Take in what has arrived; an event may be spread over several pieces, and a line may end with any break."""
        self._arrived = now
        *lines, self._rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            if not line:
                continue
            if _TEXT.search(line) and not _tells_more(line):
                self._text(now)
            else:
                self._other(line, now)
        if len(self._rest) > MAX_LINE:
            self._rest = b""
            self._fail(f"a line of the stream is longer than {MAX_LINE} bytes")

    def _text(self, now: float) -> None:
        """Tokens with a text have arrived; empty events before the first one have only told that one is coming."""
        if not self._texts and self._over is None:
            self._texts, self.chunks = True, 0
            self.outcome.itls.clear()
        self._chunk(now)

    def _chunk(self, now: float) -> None:
        """One or more tokens have arrived, unless the answer was over already."""
        if self._over is not None:
            return
        if self.chunks:
            self.outcome.itls.append(now - self._last)
        else:
            self.outcome.ttft = now - self._sent
        self.chunks += 1
        self._last = now

    def _other(self, line: bytes, now: float) -> None:
        name, _, text = line.partition(b":")
        text = text.strip()
        if name not in _FIELDS:
            self._no_event = (self._no_event + line + b"\n")[:_NO_EVENT_KEPT]
        if (name, text) == (b"event", b"error"):  # why is said in the lines that follow, a comment perhaps, or nowhere
            self._broken = True
        if self._broken and not name and text:
            self._fail(f"error in the stream: {text.decode(errors='replace')}")
        if name not in (b"data", b"error") or not text:
            return
        if text == b"[DONE]":
            self._ended(now)
            return
        try:
            event = json.loads(text)
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict):
            self._fail(f"an event of the stream is not a JSON object: {text!r}")
            return
        try:
            if event.get("error") or event.get("object") == "error" or name == b"error" or self._broken:
                self._fail(_error_text(event))
            else:
                self._event(event, now)
        except (TypeError, ValueError, AttributeError, OverflowError, RecursionError):
            self._fail(f"an event of the stream is none of OpenAI's: {text!r}")

    def _event(self, event: dict[str, Any], now: float) -> None:
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or choice
            text = any(delta.get(key) for key in ("text", "content", "reasoning_content", "reasoning"))
            # The first event of a chat often tells only whose turn it is; the last one that it is over, and why.
            if text:
                self._text(now)
            elif not (choice.get("finish_reason") or (delta.get("role") and not self.chunks)):
                self._chunk(now)
            if choice.get("finish_reason"):
                self._ended(now)
                self.why = choice["finish_reason"]
        if usage := event.get("usage"):
            counts = ("prompt_tokens", "completion_tokens")
            self.usage = {key: _tokens(usage[key]) for key in counts if usage.get(key) is not None}

    def _ended(self, now: float) -> None:
        """The answer is over, which may be told twice."""
        if self._over is None:
            self._over = now

    def _fail(self, why: str) -> None:
        """The request has failed, for the first reason that is told."""
        self.outcome.error = self.outcome.error or self._quoted(why)

    def end(self, input_tokens: int, output_tokens: int, *, may_be_empty: bool = False) -> None:
        """End the outcome of an answer that is over: fill in its times and its length, or why it does not count.

        Where the service does not tell the length, the chunks are counted. An answer that is shorter than was asked for
        because the service had no room for more does not count: that is no speed. It counts where the service gives
        another reason, as it cannot be told, or is not, to go on after the end of a text (``ignore_eos``), unless that
        is one of :data:`BROKEN_OFF`. One that ``may_be_empty`` counts if the model has ended it before its first token,
        at its end.

        Parameters
        ----------
        input_tokens, output_tokens:
            How many tokens the prompt was to have, and how many the answer; 0 where that is not known.
        """
        if self._rest.rstrip().endswith(_WHOLE) or not self._rest.startswith(b"data:"):
            self.feed(b"\n", self._arrived)
        outcome = self.outcome
        told = self.usage.get("completion_tokens")
        empty = not (told or self._texts or (told is None and self.chunks))
        outcome.empty = empty and may_be_empty and self.why == "stop"
        if outcome.empty:
            self.chunks = 0
            outcome.itls.clear()
        if self._over is not None and ((told or 0) > self.chunks or outcome.empty):
            # Either the last token had no text and came with the end, or tokens came several at once, just before it.
            self._last = max(self._last, self._over)
            outcome.ttft = outcome.ttft if self.chunks else self._last - self._sent
        outcome.e2e = self._last - self._sent
        outcome.input_tokens = self.usage.get("prompt_tokens") or input_tokens
        outcome.counted_chunks = not told and not outcome.empty
        outcome.output_tokens = told or self.chunks
        outcome.short = outcome.output_tokens < output_tokens
        if self._broken:
            self._fail("error in the stream")
        if outcome.error:
            return
        if self._over is None:
            outcome.error = self._quoted(_no_end(self._no_event))
        elif empty and not outcome.empty:
            outcome.error = "the answer has no tokens"
        elif self.why in BROKEN_OFF:
            outcome.error = f"the service ended the answer with finish_reason {self.why!r}"
        elif self.why == "length" and told and told < output_tokens:
            outcome.error = "the service cut the answer short: its context has no room for what was asked"


def _tells_more(line: bytes) -> bool:
    """Whether an event tells something besides a text: that the answer is over, as vLLM does in that of the last text,
    how many tokens there were, or an error. In a text, each of these quotes would have a backslash before it.
    """
    ended = b'"finish_reason"' in line and b'"finish_reason":null' not in line
    return ended or b'"usage":{' in line or b'"error":{' in line


def _tokens(count: Any) -> int:
    """A number of tokens as a service tells it; ValueError, TypeError or OverflowError for what is none."""
    number = int(count)
    if not 0 <= number <= MAX_TOKENS:
        raise ValueError(count)
    return number


def _no_end(other: bytes) -> str:
    """Why an answer has no end, by its lines that are no events: it may be an error's, or no stream."""
    told = other.decode(errors="replace")
    with contextlib.suppress(ValueError, RecursionError):
        answer = json.loads(told)
        if isinstance(answer, dict) and answer.get("error"):
            return _error_text(answer, "in place of")
        if isinstance(answer, dict) and "choices" in answer:
            return "the service does not stream its answers"
    return f"the stream ended early, with {told}" if told else "the stream ended early"


def _error_text(event: dict[str, Any], where: str = "in") -> str:
    error = event.get("error") or event
    return f"error {where} the stream: {error.get('message', error) if isinstance(error, dict) else error}"


def shortened(text: str) -> str:
    return wording.shortened(" ".join(text.split()), MAX_ERROR_LENGTH)
