from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from record.written import SERVICE, Script, drawn

from mpipso.record.outcome import Outcome, read_outcome
from mpipso.record.report import report, summary
from mpipso.worth import worth

CONFIG = (
    SERVICE
    + """
[[parameters]]
name = "slots"
type = "int"
min = 1
max = 8
default = 1
[[parameters]]
name = "cache"
type = "choice"
choices = ["f16", "q8"]
default = "f16"
[[parameters]]
name = "token"
type = "choice"
choices = ["one", "other"]
default = "one"
[[constraints]]
expression = "cache == 'f16' or slots > 1"
"""
)
BASELINE = {"slots": 1, "cache": "f16", "token": "one"}
BEST = {"slots": 8, "cache": "q8", "token": "one"}


def run(folder: Path, config: str = CONFIG, best: Mapping[str, Any] = BEST, **verdict: Any) -> Outcome:
    """Every configuration of one token, of which each slot is worth 100 tok/s, and q8 nothing."""
    script = Script(config).evaluated(10, 0, 0, tokens=100.0, label="baseline", configuration=BASELINE)
    others: list[dict[str, Any]] = [{**BASELINE, "slots": s, "cache": c} for s in range(2, 9) for c in ("f16", "q8")]
    for number, configuration in enumerate([c for c in others if c != BEST], 1):
        script.evaluated(10, number, 0, tokens=100.0 * configuration["slots"], configuration=configuration)
    script.evaluated(10, 20, 0, tokens=800.0, configuration=best, **verdict)
    return read_outcome(script.finished(30, incumbent=20).save(folder))


def test_the_summary_tells_what_each_change_of_the_best_is_worth(tmp_path: Path) -> None:
    outcome = run(tmp_path)
    # Of one slot, q8 is not allowed.
    assert worth(outcome) == {"slots": "not allowed", "cache": "+0 %"}
    lines = drawn(report(outcome, worth(outcome)), 120)
    assert (
        lines.count(
            "without it: the gain if only that one is set back, by a model of these results; ? if it cannot tell"
        )
        == 1
    )
    (title,) = [line for line in lines if line.startswith("parameter ")]
    assert title.split() == ["parameter", "baseline", "best", "without", "it"]
    assert [line.split() for line in lines if line.startswith("slots ")] == [["slots", "1", "8", "not", "allowed"]]
    assert "without" not in "".join(drawn(summary(outcome)))


@pytest.mark.parametrize("doubt", ["may break a limit", "may fail", ""])
def test_that_it_may_not_work_is_told_by_what_has_happened(tmp_path: Path, doubt: str) -> None:
    """A baseline that works, and, but for one, only what is far from it does."""
    limited = CONFIG.replace("[objective]", "[[objective.slo]]\nmetric = 'ttft_p99_ms'\nmax = 1000\n[objective]")
    script = Script(limited)
    for number, slots in enumerate((1, 2, 3, 4, 5, 6, 7, 8)):
        more: dict[str, Any] = {"label": "" if number else "baseline", "tokens": 100.0 * slots}
        bad = 0 < number < 5
        if bad and doubt == "may fail":
            more["tokens"] = None
        else:
            slow = 2000.0 if bad and doubt else 500.0
            more["metrics"] = {"completed": 32.0, "output_throughput": 100.0 * slots, "ttft_p99_ms": slow}
            more |= {"feasible": slow < 1000.0, "violation": max(slow / 1000.0 - 1.0, 0.0)}
        token = "other" if number else "one"
        script.evaluated(10, number, 0, configuration={**BASELINE, "slots": slots, "token": token}, **more)
    found = worth(read_outcome(script.finished(30, incumbent=7).save(tmp_path)))
    assert found["slots"].partition(", ")[2] == doubt


def feasible(number: int, slots: int, token: str, latency: float, label: str = "") -> dict[str, Any]:
    """The fields of a result that broke no limit when it was judged."""
    configuration = {**BASELINE, "slots": slots, "token": token}
    tokens = 100.0 * slots
    metrics = {"completed": 32.0, "output_throughput": tokens, "ttft_p99_ms": latency}
    return {"number": number, "configuration": configuration, "metrics": metrics, "label": label, "tokens": tokens}


def test_what_the_search_found_keeps_a_relative_limit_although_the_race_was_faster(tmp_path: Path) -> None:
    relative = "[[objective.slo]]\nmetric = 'ttft_p99_ms'\nmax = 'baseline'\nfactor = 1.05\n[objective]"
    script = Script(CONFIG.replace("[objective]", relative))
    for number, slots in enumerate((1, 2, 3, 4, 5, 6, 7, 8)):
        script.evaluated(10, group=0, **feasible(number, slots, "one", 500.0, "" if number else "baseline"))
    script.evaluated(20, group=0, **feasible(8, 1, "one", 400.0, "confirm"))
    script.evaluated(20, group=0, **feasible(9, 8, "one", 400.0, "confirm"))
    found = worth(read_outcome(script.finished(30, incumbent=7).save(tmp_path)))
    assert found["slots"].partition(", ")[2] == ""


def test_a_doubt_says_what_is_in_doubt_although_no_verdict_says_that_a_limit_is_broken(tmp_path: Path) -> None:
    absolute = "[[objective.slo]]\nmetric = 'ttft_p99_ms'\nmax = 1000\n[objective]"
    script = Script(CONFIG.replace("[objective]", absolute))
    for number, slots in enumerate((1, 2, 3, 4, 5, 6, 7, 8)):
        latency = 2000.0 if 0 < number < 5 else 500.0
        label = "" if number else "baseline"
        script.evaluated(10, group=0, **feasible(number, slots, "other" if number else "one", latency, label))
    found = worth(read_outcome(script.finished(30, incumbent=7).save(tmp_path)))
    assert found["slots"].partition(", ")[2] == "may break a limit"


def test_a_baseline_that_fails_half_of_the_time_is_compared_with_by_what_it_measured(tmp_path: Path) -> None:
    found = []
    for lost in (False, True):
        script = Script(CONFIG)
        for number, slots in enumerate((1, 7, 8)):
            script.evaluated(10, group=0, **feasible(number, slots, "one", 500.0, "" if number else "baseline"))
        if lost:
            script.evaluated(10, 3, 0, tokens=None, label="repeat", configuration=BASELINE)
        (tmp_path / str(lost)).mkdir()
        found.append(worth(read_outcome(script.finished(30, incumbent=2).save(tmp_path / str(lost)))))
    assert found[0] == found[1] and found[0]["slots"].endswith(" %")


@pytest.mark.parametrize(
    "config",
    [
        "",
        CONFIG.replace("[benchmark]", "[benchmark]\nkey_of_another_version = 1"),
        CONFIG.replace('choices = ["f16", "q8"]', 'choices = ["f16", "***"]'),
    ],
)
def test_what_cannot_be_told_is_left_out(tmp_path: Path, config: str) -> None:
    outcome = run(tmp_path, config)
    assert worth(outcome) == {}
    assert "without it" not in "".join(drawn(report(outcome, worth(outcome))))


def test_there_is_nothing_to_tell_without_a_best_or_a_baseline(tmp_path: Path) -> None:
    outcome = run(tmp_path)
    assert worth(replace(outcome, incumbent=None)) == {}
    assert worth(replace(outcome, incumbent=0)) == {}
    assert worth(replace(outcome, evaluations=outcome.evaluations[1:])) == {}


def test_what_says_nothing_of_its_configuration_is_not_learned(tmp_path: Path) -> None:
    outcome = run(tmp_path)
    own = {**BEST, "token": "other"}
    script = Script(CONFIG).evaluated(10, 0, 0, tokens=None, configuration=own, kind="infrastructure")
    script.evaluated(10, 1, 0, configuration={**BEST, "token": "***"})
    (lost, hidden) = read_outcome(script.save(tmp_path)).evaluations
    assert worth(replace(outcome, evaluations=[*outcome.evaluations, lost, hidden])) == worth(outcome)


def test_what_has_worked_once_and_failed_then_is_a_failure_like_any_other(tmp_path: Path) -> None:
    outcome = run(tmp_path)
    never, once = ({**BEST, "token": "other", "slots": slots} for slots in (5, 6))
    script = Script(CONFIG).evaluated(10, 30, 0, tokens=None, configuration=never)
    script.evaluated(10, 31, 0, tokens=9000.0, configuration=once)
    script.evaluated(10, 32, 0, tokens=None, configuration=once, label="repeat")
    (first, worked, failed) = read_outcome(script.save(tmp_path)).evaluations
    found, without = (
        worth(replace(outcome, evaluations=[*outcome.evaluations, first, *more, failed])) for more in ([worked], [])
    )
    assert found == without


def test_what_was_stopped_early_is_learned_as_little_as_is_known_of_it(tmp_path: Path) -> None:
    limited = CONFIG.replace(
        "[[parameters]]", '[[objective.slo]]\nmetric = "ttft_p99_ms"\nmax = 9.0\n[[parameters]]', 1
    )
    for config, name in ((CONFIG, "plain"), (limited, "limited")):
        outcome = run(tmp_path / name, config)
        script = Script(config)
        for number, slots in enumerate(range(2, 9), 30):
            script.stopped(10, number, 0, 90.0 * slots, configuration={**BASELINE, "slots": slots, "token": "other"})
        stopped = read_outcome(script.save(tmp_path / f"{name} stopped")).evaluations
        found = worth(replace(outcome, evaluations=[*outcome.evaluations, *stopped]))
        assert found == worth(outcome) == {"slots": "not allowed", "cache": "+0 %"}
