from __future__ import annotations

import pytest

from mpipso.evaluation import Evaluation, plain, works


@pytest.mark.parametrize(
    ("elapsed", "phases", "seconds"),
    [
        (5.0, {}, 5.0),
        (5.0, {"starting": 2.0, "measuring": 2.5}, 5.0),
        (-3600.0, {"starting": 2.0, "measuring": 2.5}, 4.5),
        (3600.0, {"starting": 2.0, "measuring": 2.5}, 4.5),
        (-1.0, {}, 0.0),
        (1e9, {}, 0.0),
        (1e9, {"starting": -2.0}, 0.0),
    ],
)
def test_an_evaluation_during_which_the_clock_was_set_took_as_long_as_its_phases(
    elapsed: float, phases: dict[str, float], seconds: float
) -> None:
    assert Evaluation(0, 1, 0, {}, started=1e9, ended=1e9 + elapsed, phases=phases).seconds == seconds


@pytest.mark.parametrize(
    "prefix",
    [
        "[2026-11-28 08:00:01.123456+08:00] [1234] [5678] [llm] [ERROR] [infer_instances.cpp:88] : ",
        "[2026-11-28 08:00:01.123+08:00] [1234] [5678] [llm] [ERROR] ",
        "[ERROR] 2026-11-28T08:00:01Z ",
        "2026-11-28 08:00:01,123 - ERROR - ",
        "2026-11-28 08:00:01,123 - vllm.engine - ERROR - ",
        "2026-11-28 08:00:01,123 ERROR: ",
        "ERROR 11-28 08:00:01 [core.py:123] ",
        "(EngineCore pid=1234) ERROR 11-28 08:00:01 [core.py:899] ",
        "(EngineCore_DP0 pid=1234) ",
        "[2026-11-28 08:00:01 TP0] ",
        "ERROR: ",
    ],
)
@pytest.mark.parametrize("message", ["[MIE04E070301] it failed to init", "ValueError: [3] is no size", "-5 is small"])
def test_what_loggers_put_before_their_messages_is_left_out(prefix: str, message: str) -> None:
    assert plain(f"{prefix}{message}") == message
    assert plain(f"a: it ended: {prefix}{message}; b: {prefix}{message}") == f"a: it ended: {message}; b: {message}"


@pytest.mark.parametrize(
    "text",
    [
        "ERROR",
        "ValueError: [3] is no size",
        "KeyError: [llm] is missing",
        "the model ERROR 2 of 2026-11-28 08:00:01 is told",
        "http://10.0.0.1:8000/health: HTTP 503",
        "date: 2026-11-28",
    ],
)
def test_what_only_looks_like_that_stays(text: str) -> None:
    assert plain(text) == text


def test_a_configuration_works_that_fails_less_than_half_of_the_time() -> None:
    assert works("g", "g") and works("gg", "ggb")
    assert not works("g", "gb") and not works("", "b") and not works("", "")
