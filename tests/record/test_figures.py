from __future__ import annotations

import pytest

from mpipso.record import figures


def higher(metric: str) -> bool | None:
    return {"output_throughput": True, "ttft_p99_ms": False}.get(metric)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (412.345, "412.3"),
        (41.2345, "41.23"),
        (4.12345, "4.123"),
        (0.0412345, "0.041"),
        (0.000412345, "0.0004123"),
        (1234.56, "1235"),
        (32.0, "32"),
        (0.0, "0"),
        (1.5e7, "1.5e+07"),
        (-2.5, "-2.500"),
        (float("nan"), "-"),
    ],
)
def test_numbers_have_about_four_digits(value: float, text: str) -> None:
    assert figures.number(value) == text


def test_a_gain_is_positive_when_things_get_better() -> None:
    assert figures.gain("output_throughput", 100.0, 150.0, higher) == 50.0
    assert figures.gain("ttft_p99_ms", 100.0, 25.0, higher) == 75.0
    assert figures.gain("ttft_p99_ms", 100.0, 150.0, higher) == -50.0


def test_no_change_has_no_sign_of_a_loss() -> None:
    assert figures.percent(-0.0) == figures.percent(-0.04) == "+0.0 %"


def test_there_is_no_gain_without_direction_or_scale() -> None:
    assert figures.gain("completed", 1.0, 2.0, higher) is None
    assert figures.gain("output_throughput", 0.0, 2.0, higher) is None
    assert figures.gain("output_throughput", 1.0, float("nan"), higher) is None


def test_a_score_is_a_metric_with_its_unit_and_gain() -> None:
    best, baseline = {"output_throughput": 412.3}, {"output_throughput": 366.8}
    assert figures.score("output_throughput", best, baseline, higher=True) == "412.3 tok/s (+12.4 %)"
    assert figures.score("output_throughput", best, None, higher=True) == "412.3 tok/s"
    assert figures.score("request_goodput", {"request_goodput": 6.5}, None, higher=True) == "6.500 req/s"
    assert figures.score("output_throughput", {}, baseline, higher=True) == "no output_throughput"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.9, "59s"), (60, "1m00s"), (3599, "59m59s"), (7500, "2h05m"), (273600, "3d04h")]
)
def test_durations_have_at_most_two_units(seconds: float, text: str) -> None:
    assert figures.duration(seconds) == text


def test_true_is_not_one_but_one_is_one_point_zero() -> None:
    assert figures.changes({"a": True, "b": 1, "c": 3, "d": "x"}, {"a": 1, "b": 1.0, "c": 2}) == {
        "a": True,
        "c": 3,
        "d": "x",
    }
    assert figures.settings({"a": True, "b": 0.1 + 0.2, "c": "x"}) == "a=true b=0.3 c=x"
