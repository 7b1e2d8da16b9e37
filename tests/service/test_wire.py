"""Messages as lines of JSON: what goes in comes out, and nothing else is let in."""

from __future__ import annotations

import pickle
import random

import pytest

from mpipso.errors import EvaluationFailed
from mpipso.service import wire
from mpipso.service.process import Completed
from mpipso.service.remote import Abandon, Answer, Request
from mpipso.service.wire import Alive, Lines, Message, Ready, decode, encode

MESSAGES: list[Message] = [
    Request(3, "write_chunk", ("a b", 0, bytes(range(256))), {}),
    Request(4, "execute", (["echo", "ü\n\x00\udc80"], 1.5), {"env": {"A": "b"}}),
    Abandon(4),
    Answer(4, Completed(-9, "out", "err\n", True)),
    Answer(4, Completed(0, "out", "err\n", False, cut=True)),
    Answer(5, None),
    Answer(6, b""),
    Ready("0.1"),
    Alive(),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_arrives_as_it_was(message: Message) -> None:
    line = encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode(line) == message


def test_a_failure_arrives_with_its_kind_and_detail() -> None:
    answer = decode(encode(Answer(7, failure=EvaluationFailed("why", kind="infrastructure", detail="log"))))
    assert isinstance(answer, Answer)
    assert answer.failure is not None
    assert (answer.failure.cause, answer.failure.kind, answer.failure.detail) == ("why", "infrastructure", "log")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"Welcome to the cluster",
        b"[]",
        b"{}",
        b"null",
        b'{"request": "1", "method": "close", "args": [], "kwargs": {}}',
        b'{"request": 1, "method": "close", "args": {}, "kwargs": {}}',
        b'{"answer": 1}',
        b'{"answer": 1, "failure": {"cause": "x", "kind": "nonsense", "detail": ""}}',
        b'{"answer": 1, "value": {"$bytes": "?"}}',
        b"[" * 100_000,
        b"\xff\xfe",
        pickle.dumps(Answer(1, None)),
    ],
)
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="not a message"):
        decode(line)


def test_a_message_that_is_too_long_or_no_data_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="object is nothing that can be sent"):
        encode(Answer(1, object()))
    monkeypatch.setattr(wire, "LINE_LIMIT", 1000)
    with pytest.raises(ValueError, match="1000 are allowed"):
        encode(Answer(1, bytes(1000)))


def test_lines_are_found_however_the_stream_is_cut() -> None:
    stream = b"".join(map(encode, MESSAGES))
    generator = random.Random(1)
    lines, found = Lines(), []
    while stream:
        size = generator.randrange(1, 60)
        found += [decode(line) for line in lines.feed(stream[:size])]
        stream = stream[size:]
    assert found == MESSAGES


def test_a_line_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "LINE_LIMIT", 1000)
    lines = Lines()
    assert lines.feed(b"x" * 1000) == []
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        lines.feed(b"x")
