from __future__ import annotations

import math
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from record.written import Script, drawn

from mpipso.batch import SYSTEMS
from mpipso.config import Limit
from mpipso.errors import UserError
from mpipso.evaluation import FIRST_PART, Evaluation, Failure
from mpipso.record.folders import BEAT_FILE
from mpipso.record.interval import ratio_interval
from mpipso.record.journal import Journal
from mpipso.record.judged import Judged
from mpipso.record.outcome import NO_BASELINE, Outcome, read_outcome
from mpipso.record.recipe import NodeStart, write_best
from mpipso.record.report import report, summary
from mpipso.record.usage import Usage
from mpipso.redact import Redactor
from mpipso.score import Score

BASELINE = {"n_parallel": 1, "n_batch": 2048, "flash": True}
BEST = {"n_parallel": 16, "n_batch": 2048, "flash": True}


@pytest.fixture(autouse=True)
def launched_as_mpipso(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever shell or batch job these tests run in."""
    monkeypatch.setenv("MPIPSO_COMMAND", "mpipso launch")
    for variable in {"MPIPSO_REQUEUE", *(name for system in SYSTEMS for name in (*system.job, system.hosts) if name)}:
        monkeypatch.delenv(variable, raising=False)


def higher(metric: str) -> bool | None:
    return {"output_throughput": True, "ttft_p99_ms": False}.get(metric)


def judged(number: int, configuration: dict[str, bool | int], tokens: float, ttft: float, label: str = "") -> Judged:
    metrics = {"completed": 32.0, "output_throughput": tokens, "ttft_p99_ms": ttft}
    return Judged(Evaluation(number, 1, 0, configuration, label, metrics), Score(False, fitness=-tokens))


def broken(number: int, cause: str, label: str = "") -> Judged:
    configuration = BASELINE if label else {**BASELINE, "n_batch": number}
    evaluation = Evaluation(number, 1, 0, configuration, label, failure=Failure(cause, "configuration"))
    return Judged(evaluation, Score(failed=True))


def outcome(*evaluations: Judged, incumbent: int | None, starts: Sequence[NodeStart] = (), ended: str = "") -> Outcome:
    used, retries = Usage(wall=754.0), {"port 8080 is held": 1}
    folder = Path("runs/night")
    return Outcome(
        evaluations, incumbent, "output_throughput", higher, folder, starts, ended, usage=used, retries=retries
    )


def cells(lines: list[str], first: str) -> list[str]:
    """The line that begins with a word, cut where two spaces or more stand."""
    (line,) = [line for line in lines if line.startswith(f"{first} ") and "  " in line]
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


RUN = (
    judged(0, BASELINE, 380.0, 1470.0, "baseline"),
    judged(1, {**BASELINE, "n_batch": 512}, 350.0, 1500.0),
    judged(2, BEST, 610.0, 350.0),
    broken(3, "out of memory at start"),
    broken(4, "out of memory at start"),
    broken(5, "no answer"),
)


def test_baseline_and_best_stand_side_by_side_with_signed_gains() -> None:
    lines = drawn(summary(outcome(*RUN, incumbent=2)))
    assert lines[0] == "output_throughput: 380 tok/s -> 610 tok/s (+60.5 %)"
    assert cells(lines, "metric") == ["metric", "baseline #0", "best #2", "gain"]
    assert cells(lines, "output_throughput") == ["output_throughput", "380 tok/s", "610 tok/s", "+60.5 %"]
    assert cells(lines, "ttft_p99_ms") == ["ttft_p99_ms", "1470 ms", "350 ms", "+76.2 %"]
    assert cells(lines, "completed") == ["completed", "32", "32"]
    assert cells(lines, "n_parallel") == ["n_parallel", "1", "16"]
    assert "unchanged: n_batch=2048 flash=true" in lines and not any("without it" in line for line in lines)
    counts = lines.index("6 evaluations, 3 failed, 0 infeasible, 1 retried in 12m34s")
    assert lines[counts + 1 :] == [
        "  2 failed: out of memory at start (#3, #4)",
        "  1 failed: no answer (#5)",
        "  1 retried: port 8080 is held",
        "results:  runs/night",
        "logs:     runs/night/evaluations",
    ]


def test_the_best_is_compared_with_what_the_baseline_measured_in_the_same_race() -> None:
    """The machines are half as fast in the second race, which was cut short before the best was measured."""
    first = (judged(6, BASELINE, 100.0, 1400.0, "confirm"), judged(7, BEST, 120.0, 350.0, "confirm"))
    more = {**BASELINE, "n_batch": 256}
    cut = (
        judged(8, more, 99.0, 1.0),
        judged(9, BASELINE, 50.0, 1.0, "confirm"),
        judged(10, more, 51.0, 1.0, "confirm"),
    )
    found = outcome(*RUN, *first, *cut, incumbent=2)
    assert drawn(summary(found))[0] == "output_throughput: 100 tok/s -> 120 tok/s (+20.0 %)"


def test_a_baseline_that_won_its_race_is_the_best() -> None:
    raced = (judged(6, BASELINE, 300.0, 1400.0, "confirm"), judged(7, BEST, 120.0, 350.0, "confirm"))
    found = outcome(*RUN, *raced, incumbent=0)
    assert found.baseline is found.best and found.baseline in found.configurations
    assert drawn(summary(found))[0].startswith("Nothing beat the baseline: the configuration that you have is the best")


def test_repeated_measurements_replace_the_lucky_one_and_say_how_many() -> None:
    again = [judged(6 + n, BEST, tokens, 400.0, "confirm") for n, tokens in enumerate((500.0, 520.0, 540.0))]
    lines = drawn(summary(outcome(*RUN, *again, judged(9, BASELINE, 400.0, 1400.0, "confirm"), incumbent=2)))
    assert lines[0] == "output_throughput: 400 tok/s -> 520 tok/s (+30.0 %, 95 % interval +7.3 % to +57.3 %)"
    assert cells(lines, "output_throughput") == ["output_throughput", "400 tok/s", "520 tok/s", "+30.0 %"]
    assert cells(lines, "metric") == ["metric", "measured again", "mean of 3", "gain"]
    assert any(line.startswith("6 evaluations, 3 failed, 0 infeasible, 4 confirmations") for line in lines)


def test_the_interval_of_the_best_knows_that_others_raced_with_it() -> None:
    again = [judged(6 + n, BEST, tokens, 400.0, "confirm") for n, tokens in enumerate((500.0, 540.0))]
    again += [judged(8 + n, BASELINE, tokens, 400.0, "confirm") for n, tokens in enumerate((390.0, 410.0))]
    other = {**BEST, "n_parallel": 2}
    again += [judged(10 + n, other, tokens, 400.0, "confirm") for n, tokens in enumerate((420.0, 500.0))]
    (line, *_) = drawn(summary(outcome(*RUN, *again, incumbent=2)))
    interval = ratio_interval([390.0, 410.0], [500.0, 540.0], [[420.0, 500.0]])
    assert interval is not None
    assert line.endswith(f"interval {100 * interval[0] - 100:+.1f} % to {100 * interval[1] - 100:+.1f} %)")


def test_what_was_measured_at_each_load_of_a_sweep_stands_side_by_side() -> None:
    def swept(number: int, configuration: dict[str, bool | int], *rates: float) -> Judged:
        loads = {
            f"concurrency {2**n}": {"output_throughput": rate, "ttft_p99_ms": 7.0, "concurrency": 2.0**n}
            for n, rate in enumerate(rates)
        }
        if len(rates) == 3:
            del loads["concurrency 1"]["ttft_p99_ms"], loads["concurrency 4"]["ttft_p99_ms"]
        whole = judged(number, configuration, max(rates), 400.0, "baseline" if number == 0 else "")
        metrics = {**whole.evaluation.metrics, "concurrency": 2.0 ** rates.index(max(rates))}
        cut = "concurrency 8: it hung" if len(rates) == 3 else ""
        return replace(whole, evaluation=replace(whole.evaluation, metrics=metrics, loads=loads, cut=cut))

    found = [swept(0, BASELINE, 100.0, 200.0), swept(1, BEST, 110.0, 300.0, 500.0), swept(2, BEST, 130.0, 100.0)]
    # What was measured once for all loads, as the limited latency here, does not stand there.
    limited = replace(outcome(*found, incumbent=1), slo=(Limit(metric="ttft_p99_ms", max=900.0),))
    lines = drawn(summary(limited))
    assert cells(lines, "concurrency") == ["concurrency", "2", "1"]
    side_by_side = [line for line in lines if "%" in line]
    assert cells(side_by_side, "output_throughput") == ["output_throughput", "200 tok/s", "120 tok/s", "-40.0 %"]
    assert "best failed at concurrency 8: it hung" in lines
    again = "(n): the mean of n measurements, of search and race"
    assert again in lines and again not in drawn(summary(outcome(*found[:2], incumbent=1)))
    (first, *others) = [line for line in lines if "  concurrency " in line]
    assert cells([first], "output_throughput") == ["output_throughput", "concurrency 1", "100 tok/s", "120 tok/s (2)"]
    assert [line.split()[1:] for line in others] == [
        ["concurrency", "2", "200", "tok/s", "200", "tok/s", "(2)"],
        ["concurrency", "4", "-", "500", "tok/s"],
    ]


def test_that_a_gain_may_be_chance_is_told_where_each_was_measured_again_once() -> None:
    again = [judged(6, BEST, 520.0, 400.0, "confirm"), judged(7, BASELINE, 400.0, 400.0, "confirm")]
    lines = drawn(summary(outcome(*RUN, *again, incumbent=2)))
    assert lines[0] == "output_throughput: 400 tok/s -> 520 tok/s (+30.0 %)"
    assert lines[1] == "Measured again once each: how much of the gain is chance cannot be told; see search.confirm."


LIMITS = """
[objective]
maximize = "output_throughput"
[[objective.slo]]
metric = "ttft_p99_ms"
max = "baseline"
factor = 1.1
[[objective.slo]]
metric = "output_throughput"
min = 100
[[objective.slo]]
metric = "output_throughput"
max = 900.5
"""


def limited(folder: Path, *evaluations: Judged, incumbent: int = 2, config: str = LIMITS) -> Outcome:
    folder.mkdir()
    with Journal.create(folder, Redactor()) as journal:
        journal.write("started", objective="output_throughput", config=config, seed=0)
        for one in evaluations:
            journal.evaluated(one)
        journal.write("incumbent", number=incumbent, fitness=-1.0)
    return read_outcome(folder)


def test_what_is_not_known_of_a_limit_is_no_ratio_to_it(tmp_path: Path) -> None:
    found = limited(tmp_path / "run", judged(0, BASELINE, 200.0, 100.0, "baseline"), incumbent=0)
    latency, least, most = found.log_ratios({"output_throughput": 50.0}, found.evaluations)
    assert math.isnan(latency)
    assert (least, most) == pytest.approx((math.log(2.0), math.log(50.0 / 900.5)))
    unknown = replace(found, evaluations=())
    metrics = {"ttft_p99_ms": 50.0, "output_throughput": 50.0}
    assert math.isnan(unknown.log_ratios(metrics, found.evaluations)[0])


def test_limits_have_a_column_with_the_numbers_that_relative_ones_stand_for(tmp_path: Path) -> None:
    lines = drawn(summary(limited(tmp_path / "run", *RUN)))
    assert cells(lines, "metric") == ["metric", "baseline #0", "best #2", "gain", "limit"]
    assert cells(lines, "ttft_p99_ms")[-2:] == ["+76.2 %", "<= 1617 ms"]
    assert cells(lines, "output_throughput")[-2:] == ["+60.5 %", ">= 100 tok/s, <= 900.5 tok/s"]
    assert cells(lines, "completed") == ["completed", "32", "32"]
    lines = drawn(summary(limited(tmp_path / "alone", *RUN[:2], incumbent=0)))
    assert cells(lines, "metric") == ["metric", "best #0", "limit"]
    assert cells(lines, "ttft_p99_ms") == ["ttft_p99_ms", "1470 ms", "<= 1617 ms"]
    lines = drawn(summary(limited(tmp_path / "unknown", *RUN[1:])))
    assert cells(lines, "ttft_p99_ms") == ["ttft_p99_ms", "350 ms", "<= 1.1 x baseline"]
    config = LIMITS.partition("[[")[0]
    lines = drawn(summary(limited(tmp_path / "none", *RUN, config=config)))
    assert cells(lines, "metric")[-1] == "gain" and not any(line.startswith("limits:") for line in lines)


def test_a_relative_limit_is_that_by_which_the_best_was_judged(tmp_path: Path) -> None:
    """The mean of the baseline's first measurements as long as no race has measured the best, else that of the race."""
    repeats = judged(6, BASELINE, 380.0, 1530.0, "repeat"), judged(7, BASELINE, 380.0, 3000.0, "repeat")
    race = (judged(8, BASELINE, 380.0, 1000.0, "confirm"), judged(9, BEST, 600.0, 400.0, "confirm"))
    later = judged(10, {**BEST, "n_batch": 64}, 700.0, 300.0)
    cases = {
        "first": (limited(tmp_path / "first", *RUN, *repeats), "<= 1650 ms"),
        "once": (
            limited(tmp_path / "once", *RUN, *repeats, config="search.baseline_repeats = 1" + LIMITS),
            "<= 1617 ms",
        ),
        "race": (limited(tmp_path / "race", *RUN, *repeats, *race), "<= 1100 ms"),
        "later": (limited(tmp_path / "later", *RUN, *repeats, *race, later, incumbent=10), "<= 1650 ms"),
        "failed": (limited(tmp_path / "failed", *RUN, *repeats, broken(8, "x", "confirm"), race[1]), "<= 1650 ms"),
    }
    for name, (found, limit) in cases.items():
        assert found.limits["ttft_p99_ms"] == limit, name
    lost = Judged(Evaluation(0, 1, 0, BASELINE, "baseline", failure=Failure("x", "infrastructure")), Score(failed=True))
    assert limited(tmp_path / "lost", lost, *RUN[1:], repeats[0]).limits["ttft_p99_ms"] == "<= 1683 ms"


def test_limits_are_told_below_a_table_that_has_no_room_for_them(tmp_path: Path) -> None:
    found = limited(tmp_path / "run", *RUN)
    lines = drawn(summary(found), width=66)
    told = "limits: ttft_p99_ms <= 1617 ms; output_throughput >= 100 tok/s, <="
    assert cells(lines, "metric") == ["metric", "baseline #0", "best #2", "gain"]
    assert told in lines and lines[lines.index(told) + 1] == "900.5 tok/s"
    assert told not in drawn(summary(found), width=100)
    for width in range(48, 100):
        wide = drawn(summary(found), width=width)
        assert [line for line in wide if line.startswith("ttft_p99_ms ") and "+76.2 %" in line], "no cell is folded"


def test_that_time_left_no_room_for_the_race_is_told() -> None:
    told = "The time limit left no room for the final race: the best was not measured again."
    assert told in drawn(summary(replace(outcome(*RUN, incumbent=2), cause="time")))
    again = judged(6, BEST, 500.0, 400.0, "confirm"), judged(7, BASELINE, 400.0, 1400.0, "confirm")
    assert told not in drawn(summary(replace(outcome(*RUN, *again, incumbent=2), cause="time")))
    assert told not in drawn(summary(replace(outcome(*RUN, incumbent=2), cause="evaluations")))


@pytest.mark.parametrize(
    ("raced", "told"),
    [
        ([], "The time limit left no room for the final race: the best was not measured again."),
        ([BEST], "The time limit ended the final race too early: it did not measure baseline and best again."),
        ([BASELINE], "The time limit ended the final race too early: it did not measure baseline and best again."),
        ([BEST, BASELINE], "The time limit ended the final race before all was measured as often as was asked for."),
    ],
)
def test_a_race_that_was_cut_short_compares_only_what_it_has_measured(raced: list[dict[str, Any]], told: str) -> None:
    """The machine has half of its speed by then."""
    again = [judged(6 + i, each, 305.0 if each is BEST else 190.0, 400.0, "confirm") for i, each in enumerate(raced)]
    lines = drawn(summary(replace(outcome(*RUN, *again, incumbent=2), cause="evaluations", race_cut=True)))
    before, after = (190, 305) if len(raced) == 2 else (380, 610)
    gain = f"output_throughput: {before} tok/s -> {after} tok/s (+60.5 %)"
    assert lines[lines.index(gain) + 1] == told


def test_baseline_and_best_compare_by_the_last_race_that_both_are_in() -> None:
    """A second one was cut short before the baseline was measured in it."""
    first = [judged(6, BEST, 305.0, 400.0, "confirm"), judged(7, BASELINE, 190.0, 1400.0, "confirm")]
    second = [judged(8, {**BEST, "n_batch": 64}, 90.0, 300.0), judged(9, BEST, 150.0, 400.0, "confirm")]
    second += [judged(10, {**BEST, "n_batch": 64}, 80.0, 300.0, "confirm")]
    lines = drawn(summary(outcome(*RUN, *first, *second, incumbent=2)))
    assert lines[0].startswith("output_throughput: 190 tok/s -> 305 tok/s (+60.5 %")
    assert not any("No final race" in line for line in lines)


def test_of_a_race_without_the_baseline_and_of_one_that_was_not_wanted_nothing_false_is_told() -> None:
    found = outcome(*RUN, judged(6, BEST, 305.0, 400.0, "confirm"), incumbent=2)
    told = "No final race has measured baseline and best side by side: it may be worse than it looks."
    assert told in drawn(summary(replace(found, cause="evaluations")))
    told = "No final race has measured the best again: it may be worse than it looks."
    assert told in drawn(summary(replace(outcome(*RUN, incumbent=2), cause="time", confirm=0)))
    told = "The time limit ended the final race before all was measured as often as was asked for."
    assert told in drawn(summary(replace(outcome(*RUN[:2], incumbent=0), race_cut=True)))


@pytest.mark.parametrize(
    ("how", "again"),
    [
        ({"ended": "interrupted"}, "again yet"),
        ({"ended": "still going on"}, "again yet"),
        ({"ended": "failed", "failure": "no group is left"}, "again yet"),
        ({"cause": "evaluations"}, "again"),
    ],
)
def test_that_no_race_has_measured_the_best_is_told_however_the_run_is(how: dict[str, str], again: str) -> None:
    told = f"No final race has measured the best {again}: it may be worse than it looks."

    def lines(*evaluations: Judged, incumbent: int = 2) -> list[str]:
        return drawn(summary(replace(outcome(*evaluations, incumbent=incumbent), **how)))

    gain = "output_throughput: 380 tok/s -> 610 tok/s (+60.5 %)"
    found = lines(*RUN)
    assert found[found.index(gain) + 1] == told
    race = judged(6, BEST, 500.0, 400.0, "confirm"), judged(7, BASELINE, 400.0, 1400.0, "confirm")
    assert told not in lines(*RUN, *race)
    assert told in lines(*RUN, *race, judged(8, {**BEST, "n_batch": 64}, 700.0, 300.0), incumbent=8), "found after it"
    assert told in lines(*RUN[1:]), "without a baseline"
    assert told in lines(broken(0, "no answer", "baseline"), *RUN[1:])
    assert told not in lines(*RUN[:2], incumbent=0), "nothing has been gained"


def test_repeats_of_the_search_count_as_evaluations_and_towards_the_mean() -> None:
    again = judged(6, BASELINE, 400.0, 1400.0, "repeat"), judged(7, BEST, 590.0, 350.0, "repeat")
    lines = drawn(summary(outcome(*RUN, *again, incumbent=7)))
    assert lines[0].startswith("output_throughput: 390 tok/s -> 600 tok/s (+53.8 %, 95 % interval +")
    assert cells(lines, "metric") == ["metric", "mean of 2", "mean of 2", "gain"]
    assert any(line.startswith("8 evaluations, 3 failed, 0 infeasible, 1 retried") for line in lines)


def test_a_gain_that_may_be_chance_is_called_so() -> None:
    again = [judged(6 + n, BEST, tokens, 400.0, "confirm") for n, tokens in enumerate((395.0, 430.0))]
    again += [judged(8 + n, BASELINE, tokens, 400.0, "confirm") for n, tokens in enumerate((380.0, 405.0))]
    lines = drawn(summary(outcome(*RUN, *again, incumbent=2)), width=120)
    assert lines[0] == "output_throughput: 392.5 tok/s -> 412.5 tok/s (+5.1 %, 95 % interval -16.4 % to +32.0 %)"
    assert lines[1].startswith("The gain may be chance")


def test_less_is_more_for_a_metric_that_is_minimised() -> None:
    runs = (*RUN, judged(6, BASELINE, 380.0, 1500.0, "confirm"), judged(7, BEST, 610.0, 300.0, "confirm"))
    more = (judged(8, BASELINE, 380.0, 1450.0, "confirm"), judged(9, BEST, 610.0, 310.0, "confirm"))
    found = Outcome((*runs, *more), 2, "ttft_p99_ms", higher, Path("runs/night"))
    assert drawn(summary(found))[0].startswith(
        "ttft_p99_ms: 1475 ms -> 305 ms (+79.3 %, 95 % interval +77.1 % to +81.3 %)"
    )


def test_the_leader_that_won_the_confirmations_is_the_best() -> None:
    other = {**BEST, "n_batch": 1024}
    again = judged(6, other, 600.0, 360.0), judged(7, BEST, 560.0, 400.0, "confirm")
    again += judged(8, other, 605.0, 360.0, "confirm"), judged(9, BASELINE, 380.0, 1400.0, "confirm")
    assert (
        drawn(summary(outcome(*RUN, *again, incumbent=8)))[0] == "output_throughput: 380 tok/s -> 605 tok/s (+59.2 %)"
    )


def test_it_is_said_plainly_when_nothing_beat_the_baseline() -> None:
    lines = drawn(summary(outcome(*RUN[:2], incumbent=0)))
    assert lines[0].startswith("Nothing beat the baseline: the configuration that you have is the best")
    assert cells(lines, "output_throughput") == ["output_throughput", "380 tok/s"]
    again = judged(6, BEST, 370.0, 400.0, "confirm"), judged(7, BASELINE, 400.0, 1400.0, "confirm")
    lines = drawn(summary(outcome(*RUN, *again, incumbent=2)))
    assert lines[0] == "Nothing beat the baseline once both were measured again: output_throughput -7.5 %."


@pytest.mark.parametrize(("ended", "so_far"), [("still going on", " so far"), ("interrupted", " so far"), ("", "")])
def test_where_only_the_baseline_has_been_measured_nothing_is_said_to_have_lost(ended: str, so_far: str) -> None:
    def told(*evaluations: Judged) -> list[str]:
        return drawn(summary(outcome(*evaluations, incumbent=0, ended=ended)))

    only = f"Only the baseline has been measured{so_far}."
    assert only in told(RUN[0], judged(1, BASELINE, 390.0, 1400.0, "repeat"))
    lost = Failure("node2 does not answer", "infrastructure")
    assert only in told(RUN[0], Judged(Evaluation(1, 1, 0, BEST, failure=lost), Score(failed=True)))
    for other in (RUN[1], RUN[3]):
        lines = told(RUN[0], other)
        assert only not in lines and any(line.startswith("Nothing beat the baseline: ") for line in lines)


def test_it_is_said_plainly_when_there_is_no_baseline_or_it_failed() -> None:
    lines = drawn(summary(outcome(*RUN[1:], incumbent=2)))
    assert lines[0] == "There is no baseline to compare with."
    assert cells(lines, "output_throughput") == ["output_throughput", "610 tok/s"]
    assert cells(lines, "n_batch") == ["n_batch", "2048"]
    lines = drawn(summary(outcome(broken(0, "no\nanswer.", "baseline"), *RUN[1:], incumbent=2)))
    assert lines[0] == "The baseline failed: no answer."
    once = broken(6, "no answer", "baseline")
    lines = drawn(summary(outcome(RUN[0], once, incumbent=0)))
    assert lines[:2] == [
        "Only the baseline has been measured.",
        "The baseline failed in 1 of 2 measurements: no answer.",
    ]
    lines = drawn(summary(outcome(RUN[0], once, judged(7, BASELINE, 380.0, 1400.0, "repeat"), incumbent=0)))
    assert lines[:2] == ["Only the baseline has been measured.", ""], "it counts as good"


def test_a_baseline_that_worked_only_in_a_race_without_the_best_is_nothing_to_compare_with() -> None:
    again = judged(6, BASELINE, 700.0, 1400.0, "confirm")
    run = outcome(broken(0, "killed", "baseline"), *RUN[1:], again, incumbent=2)
    lines = drawn(report(replace(run, cause="time", race_cut=True)))
    assert "The baseline failed: killed." in lines and "700" not in " ".join(lines)
    assert cells(lines, "output_throughput") == ["output_throughput", "610 tok/s"]


@pytest.mark.parametrize("race", [False, True])
def test_one_good_measurement_of_the_baseline_is_enough_to_compare_with(race: bool) -> None:
    """Although what may be the best has to work more often."""
    lost = broken(6, "killed", "confirm" if race else "repeat")
    again = [judged(8 + n, BEST, tokens, 400.0, "confirm") for n, tokens in enumerate((580.0, 600.0))]
    raced = [judged(7, BASELINE, 400.0, 1400.0, "confirm"), *again] if race else []
    lines = drawn(report(outcome(*RUN, lost, *raced, incumbent=2)), width=120)
    before, after, gain = ("400", "590", "+47.5 %") if race else ("380", "610", "+60.5 %")
    rows = [line.split() for line in lines[2 : lines.index("")]]
    assert [(row[1:3], " ".join(row[4:])) for row in rows] == [
        (["2", after], f"{gain} n_parallel=16{' mean of 2' if race else ''}"),
        (["1", "350"], f"{'-12.5 %' if race else '-7.9 %'} n_batch=512"),
        (["0", before], "the baseline failed in 1 of 2 measurements"),
    ]
    headline = f"output_throughput: {before} tok/s -> {after} tok/s ({gain}{', 95 % interval ' if race else ')'}"
    first = next(number for number, line in enumerate(lines) if line.startswith(headline))
    where = " of the final race" if race else ""
    assert f"The baseline failed in 1 of 2 measurements{where}: killed." in lines[first:]
    assert not race or lines[first + 1].startswith("The baseline failed"), "the race has compared them"
    assert cells(lines, "output_throughput")[1:] == [f"{before} tok/s", f"{after} tok/s", gain]
    worse = [judged(7, BASELINE, 700.0, 1400.0, "confirm"), *again] if race else [judged(7, BEST, 100.0, 1.0, "repeat")]
    lines = drawn(summary(outcome(*RUN, lost, *worse, incumbent=2)))
    assert lines[0].startswith(f"output_throughput: {'700' if race else '380'} tok/s -> "), "it cannot be the best"


@pytest.mark.parametrize("cut", [False, True])
def test_a_race_in_which_the_baseline_always_failed_compares_nothing(cut: bool) -> None:
    lost = [broken(6 + n, "killed", "confirm") for n in range(2 - cut)]
    again = [judged(8 + n, BEST, tokens, 400.0, "confirm") for n, tokens in enumerate((300.0, 320.0))]
    found = replace(outcome(*RUN, *lost, *again, incumbent=2), cause="time", race_cut=cut)
    lines = drawn(summary(found))
    assert lines[: 3 + cut] == [
        "output_throughput: 380 tok/s -> 610 tok/s (+60.5 %)",
        "No final race has measured baseline and best side by side: it may be worse than it looks.",
        *["The time limit ended the final race before all was measured as often as was asked for."] * cut,
        f"The baseline failed in {'1 of 1 measurement' if cut else '2 of 2 measurements'} of the final race: killed.",
    ]
    assert cells(lines, "output_throughput")[1:] == ["380 tok/s", "610 tok/s", "+60.5 %"]
    earlier = [judged(20, BASELINE, 190.0, 1400.0, "confirm"), judged(21, BEST, 305.0, 400.0, "confirm")]
    second = [judged(22, {**BEST, "n_batch": 64}, 90.0, 300.0), broken(23, "killed", "confirm")]
    second += [judged(24, BEST, 150.0, 400.0, "confirm")]
    lines = drawn(summary(outcome(*RUN, *earlier, *second, incumbent=2)))
    assert lines[:2] == [
        "output_throughput: 190 tok/s -> 305 tok/s (+60.5 %)",
        "Measured again once each: how much of the gain is chance cannot be told; see search.confirm.",
    ]
    assert lines[2] == "The baseline failed in 1 of 1 measurement of the final race: killed."
    found = outcome(broken(0, "killed", "baseline"), *RUN[1:], *lost, *again, incumbent=2)
    lines = drawn(summary(found))
    assert lines[0] == "The baseline failed: killed."
    assert cells(lines, "output_throughput")[1:] == ["310 tok/s"], "there is nothing else to compare with"


def test_it_is_said_plainly_when_everything_failed_or_nothing_ran() -> None:
    lines = drawn(summary(outcome(*RUN[3:], incumbent=None)))
    assert lines[0] == "Every evaluation failed (3 of 3)." and "  2 failed: out of memory at start (#3, #4)" in lines
    assert drawn(summary(outcome(incumbent=None)))[0] == "Nothing has been evaluated."


def test_limits_that_nothing_met_are_named() -> None:
    late = Judged(RUN[2].evaluation, Score(False, True, math.inf, -610.0, ("ttft_p99_ms 350 > 300",)))
    assert drawn(summary(outcome(RUN[3], late, incumbent=None)))[0] == (
        "No evaluation met the limits of the objective."
    )
    lines = drawn(summary(outcome(RUN[0], late, incumbent=2)))
    assert "The best breaks a limit: ttft_p99_ms 350 > 300." in lines
    slow = replace(RUN[0], score=Score(False, True, 0.47, -380.0, ("ttft_p99_ms 1470 > 1000",)))
    lines = drawn(summary(outcome(slow, RUN[2], incumbent=2)))
    assert "The baseline breaks a limit: ttft_p99_ms 1470 > 1000." in lines


def test_where_none_met_the_limits_the_one_that_came_closest_is_named() -> None:
    def late(one: Judged, violation: float, *violations: str) -> Judged:
        return replace(one, score=Score(False, True, violation, -1.0, violations))

    found = (
        late(RUN[0], 4.9, "ttft_p99_ms 1470 > 250"),
        late(RUN[2], 0.5, "ttft_p99_ms 350 > 300", "watts 400 > 300"),
        late(judged(7, BEST, 610.0, 390.0, "repeat"), 0.7, "ttft_p99_ms 390 > 300", "watts 420 > 300"),
        late(RUN[1], 0.55, "output_throughput 350 < 780"),
        RUN[3],
    )
    again = " (in 2 of 2 measurements)"
    # The two measurements are at 0.6 in the mean.
    assert drawn(summary(outcome(*found, incumbent=None)), width=200)[:2] == [
        "No evaluation met the limits of the objective.",
        "Closest came #1, n_batch=512: output_throughput 350 < 780.",
    ]
    assert drawn(summary(outcome(*found[:3], incumbent=None)), width=200)[1] == (
        f"Closest came #2, n_parallel=16: ttft_p99_ms 390 > 300; watts 420 > 300{again}."
    )
    assert drawn(summary(outcome(found[0], incumbent=None)))[1] == (
        "Closest came #0, the baseline: ttft_p99_ms 1470 > 250."
    )


def test_the_command_can_be_copied_whole_and_holds_no_secret() -> None:
    argv = ("python3", "-m", "server", "--api-key", "sk-secret", "--model", "/models/" + "x" * 30, "--parallel", "16")
    starts = NodeStart("node1", argv, {"OMP_WAIT_POLICY": "passive"}), NodeStart("node2", ("worker",))
    lines = drawn(summary(outcome(*RUN, incumbent=2, starts=starts)), width=60)
    first = lines.index("on node1:")
    assert lines[first - 1] == "start it: runs/night/best.sh" and lines[-2:] == ["on node2:", "  worker"]
    command = lines[first + 1 : -2]
    assert all(line.endswith(" \\") for line in command[:-1]) and max(map(len, command)) <= 60
    words = " ".join(line.removesuffix("\\") for line in command).split()
    assert words == ["OMP_WAIT_POLICY=passive", *argv[:4], "'***'", *argv[5:]]


def journal_of(folder: Path, *evaluations: Judged, incumbent: int | None = 2) -> Journal:
    journal = Journal.create(folder, Redactor())
    journal.write("started", objective="output_throughput", config="", seed=0)
    for one in evaluations:
        journal.evaluated(one)
    if incumbent is not None:
        journal.write("incumbent", number=incumbent, fitness=-1.0)
    return journal


def test_a_report_comes_from_the_journal_alone(tmp_path: Path) -> None:
    late = Judged(
        judged(6, {**BEST, "flash": False}, 900.0, 9000.0).evaluation,
        Score(False, True, math.inf, -900.0, ("too late",)),
    )
    starts = (NodeStart("node1", ("serve", "--parallel", "16")),)
    write_best(tmp_path, RUN[2].evaluation, fitness=-610.0, score="610", starts=starts)
    with journal_of(tmp_path, *RUN, late) as journal:
        journal.write("finished", cause="evaluations", incumbent=2, evaluations=7, feasible=3)
        lines = drawn(report(read_outcome(tmp_path)), width=120)
    table = [cells(lines, str(rank)) for rank in range(1, 5)]
    assert table == [
        ["1", "2", "610 tok/s", "+60.5 %", "n_parallel=16"],
        ["2", "0", "380 tok/s", "the baseline"],
        ["3", "1", "350 tok/s", "-7.9 %", "n_batch=512"],
        ["4", "6", "900 tok/s", "+136.8 %", "n_parallel=16 flash=false", "infeasible: too late"],
    ]
    assert "output_throughput: 380 tok/s -> 610 tok/s (+60.5 %)" in lines
    assert lines[-1] == "  serve --parallel 16"


def test_commands_of_another_configuration_than_the_best_are_not_told(tmp_path: Path) -> None:
    """As a session leaves them that was killed between the journal's line and the file."""
    starts = (NodeStart("node1", ("serve", "--parallel", "1")),)
    write_best(tmp_path, RUN[1].evaluation, fitness=-350.0, score="350", starts=starts)
    journal_of(tmp_path, *RUN).close()
    lines = drawn(report(read_outcome(tmp_path)), width=120)
    assert "note: best.sh is of #1, not of the best: --resume renews it" in lines
    assert not any("start it" in line or "serve" in line for line in lines)


def test_damaged_commands_are_a_note_of_the_report(tmp_path: Path) -> None:
    journal_of(tmp_path, *RUN).close()
    (tmp_path / "best.toml").touch()
    lines = drawn(report(read_outcome(tmp_path)), width=200)
    assert "output_throughput: 380 tok/s -> 610 tok/s (+60.5 %)" in lines
    path = tmp_path / "best.toml"
    assert f"note: {path}: cannot be read as the file that mpipso wrote; --resume writes it anew" in lines


@pytest.mark.parametrize("elsewhere", [False, True])
def test_relative_paths_of_the_command_lead_from_where_the_run_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    write_best(tmp_path, RUN[2].evaluation, fitness=-610.0, score="610", starts=(NodeStart("node1", ("./serve",)),))
    with Journal.create(tmp_path, Redactor()) as journal:
        journal.write("started", objective="output_throughput", config="", seed=0, cwd=str(tmp_path))
        journal.evaluated(RUN[2])
        journal.write("finished", cause="evaluations", incumbent=2, evaluations=1, feasible=1)
    monkeypatch.chdir(tmp_path.parent if elsewhere else tmp_path)
    lines = drawn(report(read_outcome(tmp_path)), width=300)
    assert lines[lines.index(f"start it: {tmp_path}/best.sh") + 1 :] == [*[f"  cd {tmp_path}"] * elsewhere, "  ./serve"]


def test_the_best_is_the_first_of_a_report(tmp_path: Path) -> None:
    """By the mean of its measurements it keeps to the limits, and one that was not measured again was faster once."""
    faster = judged(6, {**BEST, "flash": False}, 900.0, 100.0)
    over = Judged(
        judged(7, BEST, 600.0, 310.0, "confirm").evaluation, Score(False, True, 0.0, -600.0, ("ttft_p99_ms 310 > 300",))
    )
    under = judged(8, BEST, 610.0, 280.0, "confirm"), judged(9, BASELINE, 380.0, 1500.0, "confirm")
    with journal_of(tmp_path, *RUN, faster, over, *under) as journal:
        journal.write("finished", cause="evaluations", incumbent=2, evaluations=7, feasible=3)
        lines = drawn(report(read_outcome(tmp_path)), width=120)
    assert cells(lines, "1")[1:3] == ["2", "605 tok/s"]
    assert cells(lines, "1")[-1].startswith("breaks a limit: ttft_p99_ms 310 > 300")
    assert cells(lines, "2")[1] == "6"


def test_a_repeat_that_is_back_before_the_first_measurement_stands_for_it(tmp_path: Path) -> None:
    baseline = {"number": 3, "label": "baseline", "configuration": BASELINE}
    with journal_of(tmp_path, incumbent=None) as journal:
        journal.write("asked", told=[], new=[baseline, {"number": 4, "label": "repeat", "configuration": BASELINE}])
        journal.evaluated(judged(4, BASELINE, 380.0, 1400.0, "repeat"))
        alone = drawn(summary(read_outcome(tmp_path)))
        journal.write("incumbent", number=3, fitness=-380.0)
        new = [{"number": number, "label": "", "configuration": BEST} for number in (5, 6)]
        journal.write("asked", told=[4], new=new)
        first = drawn(summary(read_outcome(tmp_path)))
        journal.evaluated(judged(6, BEST, 610.0, 350.0, "repeat"))
        journal.write("incumbent", number=5, fitness=-610.0)
        second = drawn(summary(read_outcome(tmp_path)))
    # The event of the incumbent follows that of the result.
    assert alone[1] == "No configuration has been chosen as the best so far."
    assert first[1] == "Only the baseline has been measured so far."
    assert second[1] == "output_throughput: 380 tok/s -> 610 tok/s (+60.5 %)"


@pytest.mark.parametrize(("feasible", "what"), [(True, "worked"), (False, "met the limits")])
def test_that_what_was_good_was_not_so_again_is_said(feasible: bool, what: str) -> None:
    other = Judged(
        RUN[1].evaluation, Score(False, not feasible, 0.0, -350.0, () if feasible else ("ttft_p99_ms 350 > 300",))
    )
    lines = drawn(summary(outcome(RUN[2], broken(6, "no answer", "confirm"), other, incumbent=None)))
    assert lines[0] == f"Nothing that had {what} did so when it was measured again."


def stopped(number: int, expected: float, **changes: int) -> Judged:
    """Of a benchmark that was stopped early."""
    evaluation = Evaluation(number, 1, 0, {**BASELINE, **changes}, first=expected, expected=expected)
    return Judged(evaluation, Score(False, fitness=-expected, fidelity=FIRST_PART))


def test_what_was_stopped_early_has_no_place_among_the_best(tmp_path: Path) -> None:
    """Whatever was expected of it; and else only its number is told."""
    found = []
    early = (stopped(6, 9000.0, n_batch=7), stopped(7, 90.0, n_batch=8))
    confirmed = (judged(8, BASELINE, 380.0, 1400.0, "confirm"), judged(9, BEST, 610.0, 350.0, "confirm"))
    for name, more in (("all", early), ("without", ())):
        (tmp_path / name).mkdir()
        with journal_of(tmp_path / name, *RUN, *more, *confirmed):
            told = drawn(report(read_outcome(tmp_path / name)), width=120)
        found.append([line for line in told if str(tmp_path) not in line])
    (counts,), (other,) = ([line for line in lines if line not in rest] for lines, rest in (found, found[::-1]))
    assert counts.startswith("8 evaluations, 3 failed, 0 infeasible, 2 stopped early, 2 confirmations in ")
    assert other.startswith("6 evaluations, 3 failed, 0 infeasible, 2 confirmations in ")


def test_nor_does_it_tell_of_limits_where_nothing_has_any() -> None:
    lines = drawn(summary(outcome(RUN[2], broken(6, "no answer", "confirm"), stopped(7, 90.0), incumbent=None)))
    assert lines[0] == "Nothing that had worked did so when it was measured again."


def test_a_report_shows_no_more_than_ten_configurations(tmp_path: Path) -> None:
    many = [judged(number, {"n_parallel": number}, 100.0 + number, 1.0) for number in range(1, 15)]
    with journal_of(tmp_path, *many, incumbent=14):
        lines = drawn(report(read_outcome(tmp_path)))
    ranks = [line.split()[:2] for line in lines if "n_parallel=" in line]
    assert ranks == [[str(rank), str(15 - rank)] for rank in range(1, 11)]


def test_the_run_s_own_objective_says_what_is_better(tmp_path: Path) -> None:
    config = (
        '[objective]\nminimize = "watts"\n[[objective.slo]]\nmetric = "accuracy"\nmin = 0.9\n'
        '[[objective.slo]]\nmetric = "errors"\nmax = 3\n'
    )
    with Journal.create(tmp_path, Redactor()) as journal:
        journal.write("started", objective="watts", config=config)
    better = read_outcome(tmp_path).higher
    names = ("watts", "accuracy", "errors", "output_throughput", "ttft_p99_ms", "completed")
    assert [better(name) for name in names] == [False, True, False, True, False, None]


@pytest.mark.parametrize("sides", [("max", "min"), ("min", "max")])
def test_limits_on_both_sides_of_a_metric_do_not_say_what_is_better(sides: tuple[str, str], tmp_path: Path) -> None:
    metrics = ("ttft_p99_ms", "output_throughput", "errors")
    config = "".join(f'[[objective.slo]]\nmetric = "{name}"\n{side} = 5\n' for name in metrics for side in sides)
    with Journal.create(tmp_path, Redactor()) as journal:
        journal.write("started", objective="watts", config=config)
    better = read_outcome(tmp_path).higher
    assert [better(name) for name in metrics] == [False, True, None]


def test_results_that_wait_for_the_baseline_are_not_ranked(tmp_path: Path) -> None:
    with journal_of(tmp_path, Judged(RUN[1].evaluation), incumbent=None):
        lines = drawn(report(read_outcome(tmp_path)))
    assert not any(line.startswith("rank") for line in lines)
    assert "1 evaluation, 0 failed, 0 infeasible, 1 not judged yet in 0s" in lines


@pytest.mark.parametrize(
    ("ending", "sentence"),
    [
        ({"signal": "SIGUSR1"}, "The run is interrupted; this is what it has found so far."),
        ({"signal": "SIGTERM"}, "The run is interrupted by SIGTERM; this is what it has found so far."),
        ({"cause": "no\tgroup is left"}, "The run failed: no group is left."),
        ({"cause": "all groups are in quarantine:\ngroup 0: x"}, "The run failed: all groups are in quarantine."),
        ({}, "The run is not finished; this is what it has found so far."),
    ],
)
def test_an_unfinished_run_says_so_and_how_to_go_on(tmp_path: Path, ending: dict[str, str], sentence: str) -> None:
    folder = tmp_path / "my runs"
    folder.mkdir()
    with journal_of(folder, *RUN) as journal:
        if ending:
            journal.write("interrupted" if "signal" in ending else "failed", **ending)
    with (folder / "journal.jsonl").open("a") as torn:
        torn.write('{"seq":9,')
    assert any(line.startswith(sentence) for line in drawn(report(read_outcome(folder)), width=200))
    lines = drawn(report(read_outcome(folder)), width=40)
    assert f"results:  {folder}" in lines, "what is copied is not broken, however narrow the terminal"
    assert f"go on:    mpipso launch --resume '{folder}'" in lines


def test_nor_does_one_go_on_whose_baseline_has_failed(tmp_path: Path) -> None:
    with journal_of(tmp_path, *RUN) as journal:
        journal.write("failed", cause=f"{NO_BASELINE}: no answer")
    lines = drawn(report(read_outcome(tmp_path)))
    assert "The run failed: the baseline configuration failed: no answer." in lines
    assert not any(line.startswith("go on:") for line in lines)


def test_a_failure_is_told_in_a_line_and_counted_though_nothing_could_be_judged(tmp_path: Path) -> None:
    failed = Judged(broken(0, "no answer", "baseline").evaluation)
    with journal_of(tmp_path, failed, Judged(RUN[1].evaluation), incumbent=None) as journal:
        journal.write("failed", cause=f"{NO_BASELINE}: no answer\nlast line of the log\ngive limits as numbers")
    lines = drawn(report(read_outcome(tmp_path)))
    assert lines[:4] == [
        "The run failed: the baseline configuration failed: no answer.",
        "This is what it had found.",
        "",
        "2 evaluations, 1 failed, 0 infeasible, 1 not judged in 0s",
    ]
    assert "  1 failed: no answer (#0)" in lines


def test_a_run_that_still_goes_on_is_not_to_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal_of(tmp_path, *RUN).close()
    (tmp_path / BEAT_FILE).touch()
    lines = drawn(report(read_outcome(tmp_path)))
    assert "The run is still going on; this is what it has found so far." in lines
    assert not any(line.startswith("go on:") for line in lines)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    os.utime(tmp_path / BEAT_FILE, (now - 9.0,) * 2)
    assert "The run is still going on; this is what it has found so far." in drawn(report(read_outcome(tmp_path)))
    os.utime(tmp_path / BEAT_FILE, (now - 17.0,) * 2)
    lines = drawn(report(read_outcome(tmp_path)), width=200)
    assert any(line.startswith("The run is still going on, but has given no sign of life for 17 s") for line in lines)
    assert f"go on:    mpipso launch --resume {tmp_path}" in lines, "for whoever knows that it was killed"
    os.utime(tmp_path / BEAT_FILE, (1.0, 1.0))
    assert any(line.startswith("The run is not finished") for line in drawn(report(read_outcome(tmp_path))))


def test_nor_does_one_go_on_whose_journal_could_not_say_that_it_has_failed(tmp_path: Path) -> None:
    journal_of(tmp_path, *RUN[:2], Judged(RUN[2].evaluation)).close()
    (tmp_path / BEAT_FILE).touch()
    lines = drawn(summary(read_outcome(tmp_path, failure="No space left on device")), width=200)
    assert any(line.startswith("The run failed: No space left on device") for line in lines)
    assert f"go on:    mpipso launch --resume {tmp_path}" in lines
    assert any(line.startswith("3 evaluations, 0 failed, 0 infeasible, 1 not judged in") for line in lines)


def test_a_configuration_whose_secrets_are_gone_must_be_given_again(tmp_path: Path) -> None:
    Script(config='[service]\nenv = { HF_TOKEN = "***" }\n').save(tmp_path)
    assert read_outcome(tmp_path).resume == f"mpipso launch --resume {tmp_path} --config FILE"


def test_a_run_is_to_go_on_where_it_was_last(tmp_path: Path) -> None:
    """In a shell that knows nothing of its hosts; a session of which nobody knows is resumed as runs are here."""
    script = Script(config='[service]\nenv = { HF_TOKEN = "***" }\n', command="./run.sh -np 2 --config a.toml")
    assert read_outcome(script.save(tmp_path)).resume == f"./run.sh -np 2 --config a.toml --resume {tmp_path}"
    script.add(60, "resumed", config="", command="./run.sh -np 4 --hostfile h", plan={})
    assert read_outcome(script.save(tmp_path)).resume == f"./run.sh -np 4 --hostfile h --resume {tmp_path}"
    script.resumed(70)
    assert read_outcome(script.save(tmp_path)).resume == f"mpipso launch --resume {tmp_path}"


def test_where_nobody_says_how_runs_are_launched_here_it_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with srun, in an environment that is not activated."""
    monkeypatch.delenv("MPIPSO_COMMAND")
    monkeypatch.setenv("PATH", "/nowhere")
    Script().lost(60, 1).save(tmp_path)
    command = shlex.join([sys.executable, "-m", "mpipso", "launch", "--resume", str(tmp_path)])
    assert read_outcome(tmp_path).resume == command
    Script(command="mpipso launch").lost(60, 1).save(tmp_path)
    assert read_outcome(tmp_path).resume == command, "launched from one that was"


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("SLURM_JOB_ID", "Slurm"),
        ("PBS_JOBID", "PBS"),
        ("LSB_JOBID", "LSF"),
        ("PE_HOSTFILE", "Grid Engine"),
        ("OAR_JOB_ID", "OAR"),
        ("COBALT_JOBID", "Cobalt"),
        ("FLUX_URI", "Flux"),
    ],
)
def test_what_starts_ranks_in_a_batch_job_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, name: str
) -> None:
    monkeypatch.setenv(variable, "7")
    Script(config='[service]\nenv = { HF_TOKEN = "***" }\n').save(tmp_path)
    where = f"  # inside a job of {name}"
    assert read_outcome(tmp_path).resume == f"mpipso launch --resume {tmp_path} --config FILE{where}"
    monkeypatch.setenv("MPIPSO_COMMAND", "sbatch mpipso.sbatch my.toml")
    assert read_outcome(tmp_path).resume == f"sbatch mpipso.sbatch my.toml --resume {tmp_path}"


def test_outside_of_the_job_in_which_it_was_launched_it_says_so_too(tmp_path: Path) -> None:
    script = Script().lost(60, 1)
    script.add(70, "resumed", config="", plan={}, command="./run.sh -np 2", system="Slurm").save(tmp_path)
    assert read_outcome(tmp_path).resume == f"./run.sh -np 2 --resume {tmp_path}  # inside a job of Slurm"


@pytest.mark.parametrize(("event", "what", "told"), [("interrupted", "signal", False), ("failed", "cause", True)])
def test_a_job_that_comes_back_goes_on_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: str, what: str, told: bool
) -> None:
    monkeypatch.setenv("MPIPSO_REQUEUE", "1")
    Script().lost(60, 1).add(70, event, **{what: "SIGUSR1"}).save(tmp_path)
    assert bool(read_outcome(tmp_path).resume) == told


def test_the_pause_before_a_resumption_is_no_wall_time(tmp_path: Path) -> None:
    script = Script().lost(60, 1).add(70, "interrupted", signal="SIGTERM").resumed(800)
    found = read_outcome(script.retried(830, 0, 0).finished(850).save(tmp_path))
    assert (found.usage.wall, found.ended, found.resume) == (120.0, "", "")


def test_the_last_session_says_how_a_run_ended(tmp_path: Path) -> None:
    script = Script().evaluated(50, 0, 0).add(50, "incumbent", number=0, fitness=-100.0).finished(60, 0)
    again = read_outcome(script.resumed(100).save(tmp_path))
    assert again.ended == "not finished" and again.incumbent == 0 and again.cause == ""
    done = read_outcome(script.evaluated(150, 1, 0).finished(160, 1, "stagnation").save(tmp_path))
    assert done.ended == "" and done.incumbent == 1 and done.cause == "stagnation"
    assert "ended because the best has not improved for long enough" in drawn(summary(done))


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not the folder of a run \(it has no journal\.jsonl\)$"):
        read_outcome(tmp_path)
    (tmp_path / "journal.jsonl").write_text('{"seq":0,"t":1,"event":"lost"}\n')
    with pytest.raises(UserError, match="does not begin with the start of a run"):
        read_outcome(tmp_path)
    (tmp_path / "journal.jsonl").write_text('{"seq":0,"t":1,"event":"started"}\n')
    with pytest.raises(UserError, match="lacks what this version expects: 'objective'"):
        read_outcome(tmp_path)


def test_foreign_text_moves_no_cursor(tmp_path: Path) -> None:
    evil = "x\x1b[2Jy"
    script = Script(objective=evil, g0=[evil])
    for number, value in ((0, 1.0), (1, 2.0)):
        script.evaluated(
            50.0 + number, number, 0, label="" if number else "baseline", configuration={evil: evil + str(number)}
        )
        script.events[-1]["metrics"] = {evil: value, f"{evil}2": 1.0}
    script.add(60, "incumbent", number=1, fitness=1.0)
    script.save(tmp_path)
    starts = (NodeStart(evil, ("sh", "-c", f"echo {evil}\nexit", evil), {"A": evil}),)
    write_best(tmp_path, Evaluation(1, 1, 0, {evil: f"{evil}1"}), fitness=None, score=evil, starts=starts)
    text = "\n".join(drawn(report(read_outcome(tmp_path))))
    assert "x [2Jy" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_goes_on_with_a_run_goes_on_from_where_it_was_launched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    launched = tmp_path / "a b"
    folder = launched / "runs" / "x"
    folder.mkdir(parents=True)
    with Journal.create(folder, Redactor()) as journal:
        told = {"command": "./run.sh --hostfile h --env KEY=***", "cwd": str(launched)}
        journal.write("started", objective="output_throughput", config="", seed=0, **told)
        journal.write("interrupted", signal="SIGTERM")
    monkeypatch.chdir(tmp_path if elsewhere else launched)
    path = Path("a b/runs/x") if elsewhere else Path("runs/x")
    where = (f"cd '{launched}' && ", f"'{folder}'") if elsewhere else ("", "runs/x")
    command = f"{where[0]}./run.sh --hostfile h --env KEY=*** --resume {where[1]}  # with what *** stands for"
    assert read_outcome(path).resume == command
