from __future__ import annotations

import pytest

from mpipso.logtext import alike, essence, says_in_use, unprefixed


@pytest.mark.parametrize(
    "prefix",
    [
        "[2026-11-28 08:00:01.123456+08:00] [1234] [5678] [llm] [ERROR] [infer_instances.cpp:88] : ",
        "[2026-11-28 08:00:01.123+08:00] [1234] [5678] [llm] [ERROR] ",
        "[ERROR] 2026-11-28T08:00:01Z ",
        "2026-11-28 08:00:01,123 - ERROR - ",
        "2026-11-28 08:00:01,123 - vllm.engine - ERROR - ",
        "2026-11-28 08:00:01,123 ERROR: ",
        "08:00:01.123 ERROR    ",
        "ERROR 11-28 08:00:01 [core.py:123] ",
        "(EngineCore pid=1234) ERROR 11-28 08:00:01 [core.py:899] ",
        "(EngineCore_DP0 pid=1234) ",
        "[2026-11-28 08:00:01 TP0] ",
        "[2026-11-28 08:00:01 +0000] [23082] [ERROR] ",
        "2026-11-28 08:00:01.805 GMT [18163] FATAL:  ",
        "2026-11-28 08:00:01.805 +03 [18163] ERROR:  ",
        "ERROR: ",
    ],
)
@pytest.mark.parametrize("message", ["[MIE04E070301] it failed to init", "ValueError: [3] is no size", "-5 is small"])
def test_what_loggers_put_before_their_messages_is_left_out(prefix: str, message: str) -> None:
    assert unprefixed(f"{prefix}{message}") == message
    assert (
        unprefixed(f"a: it ended: {prefix}{message}; b: {prefix}{message}") == f"a: it ended: {message}; b: {message}"
    )


@pytest.mark.parametrize(
    "text",
    [
        "ERROR",
        "ValueError: [3] is no size",
        "KeyError: [llm] is missing",
        "the model ERROR 2 of 2026-11-28 08:00:01 is told",
        "http://10.0.0.1:8000/health: HTTP 503",
        "date: 2026-11-28",
        "08:00:01 it ended",
    ],
)
def test_what_only_looks_like_that_stays(text: str) -> None:
    assert unprefixed(text) == text


def test_a_word_after_the_time_is_no_time_zone() -> None:
    assert unprefixed("2026-11-28 08:00:01 OOM killer") == "OOM killer"


def test_causes_are_one_whatever_their_numbers_and_the_names_of_their_temporary_files() -> None:
    first = "node0: ERROR 11-28 08:00:01 [core.py:123] port 8001: /tmp/mpipso-a1b2c3d4/start-abcdefgh/config.json"
    second = "node0: ERROR 11-29 10:20:30 [core.py:123] port 8002: /tmp/mpipso-z9y8x7w6/start-ijklmnop/config.json"
    assert essence(first) == essence(second) == "node#: port #: /tmp///config.json"


def test_identifiers_in_hexadecimal_digits_make_no_difference() -> None:
    first = "KeyError: 'cmpl-97199b29f5cc1f48-0-9ebf32f7' at 0x7f31c2d4"
    second = "KeyError: 'cmpl-8d9b72bc72d22165-0-bc40a4cb' at 0x55aa0b10"
    assert essence(first) == essence(second) == "KeyError: 'cmpl-#-#-#' at #"
    uuids = ("chat-0b1c-6c1f8e0a-9f3c-4bb2-aeff-deadbeef0001", "chat-0b1c-aaaa8e0a-1f3c-abcd-beef-0123456789ab")
    assert essence(uuids[0]) == essence(uuids[1])
    assert essence("feedface defaced") == "feedface defaced"


def test_what_has_one_cause_is_told_by_the_first_words_for_it() -> None:
    causes = [("port 8000 is taken", 1), ("no such model", 2), ("port 8001 is taken", 3)]
    assert list(alike(causes).items()) == [("port 8000 is taken", [1, 3]), ("no such model", [2])]


@pytest.mark.parametrize(
    ("line", "in_use"),
    [
        ("OSError: [Errno 98] Address already in use", True),
        ("OSError: [Errno 98] error while attempting to bind on address ('::', 80): address already in use", True),
        ("zmq.error.ZMQError: Address already in use (addr='tcp://127.0.0.1:5555')", True),
        ("DistNetworkError: port: 29500, useIpv6: false, code: -98, name: EADDRINUSE", True),
        ("RuntimeError: failed to bind to [::]:29500 (errno: 98)", True),
        ("listen tcp :8000: bind: address already in use", True),
        ("ValueError: port 30000 is already in use", True),
        ("OSError: [Errno 99] Cannot assign requested address", False),
        ("ValueError: model name already in use", False),
        ("errno 981", False),
    ],
)
def test_a_port_that_was_in_use_is_told_in_many_words(line: str, in_use: bool) -> None:
    assert says_in_use(line) == in_use
