from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from record.written import SERVICE, Script

from mpipso.config.file import parse
from mpipso.record.outcome import read_outcome
from mpipso.record.table import write_table
from mpipso.record.warm import read_earlier

CONFIG = (
    SERVICE
    + """
[[parameters]]
name = "slots"
type = "int"
min = 1
max = 8
[[parameters]]
name = "cache"
type = "choice"
choices = ["f16", "q8, or so"]
[[parameters]]
name = "on"
type = "bool"
"""
)


def rows(folder: Path, *, by_load: bool = False) -> list[dict[str, str]]:
    file = io.StringIO()
    write_table(read_outcome(folder), file, by_load=by_load)
    return list(csv.DictReader(io.StringIO(file.getvalue(), newline=""), strict=True))


def configuration(slots: int, cache: str = "f16", on: bool = False) -> dict[str, Any]:
    return {"slots": slots, "cache": cache, "on": on}


def test_each_evaluation_is_a_row_with_its_parameters_and_metrics(tmp_path: Path) -> None:
    script = Script(CONFIG).evaluated(100, 0, 1, tokens=10.0, label="baseline", configuration=configuration(1))
    script.evaluated(180, 2, 0, 60.0, tokens=None, cause="out of\nmemory", configuration=configuration(8))
    broken = {"feasible": False, "violations": ["a 2 > 1", "b 3 > 1"]}
    script.evaluated(170, 1, 1, tokens=30.0, configuration=configuration(2, "q8, or so", on=True), **broken)
    script.evaluated(180, 3, 1, tokens=40.0, configuration=configuration(3), judged=False)
    script.events[-1]["metrics"]["ttft_p99_ms"] = 7.0
    found = rows(script.save(tmp_path))
    assert [*found[0]][:7] == ["evaluation", "label", "group", "started", "seconds", "result", "cause"]
    assert [*found[0]][7:] == ["slots", "cache", "on", "completed", "output_throughput", "ttft_p99_ms"]
    assert [tuple(row.values()) for row in found] == [
        ("0", "baseline", "1", "50.0", "50.0", "feasible", "", "1", "f16", "false", "32.0", "10.0", ""),
        ("1", "", "1", "120.0", "50.0", "infeasible", "a 2 > 1; b 3 > 1", "2", "q8, or so", "true", "32.0", "30.0", ""),
        ("2", "", "0", "120.0", "60.0", "failed", "out of memory", "8", "f16", "false", "", "", ""),
        ("3", "", "1", "130.0", "50.0", "unjudged", "", "3", "f16", "false", "32.0", "40.0", "7.0"),
    ]


def test_another_search_learns_the_same_from_the_table_as_from_the_run(tmp_path: Path) -> None:
    script = Script(CONFIG).evaluated(10, 0, 0, tokens=10.5, label="baseline", configuration=configuration(1))
    script.evaluated(20, 1, 0, tokens=30.0, configuration=configuration(2, "q8, or so", on=True))
    script.evaluated(30, 2, 0, tokens=None, configuration=configuration(8))
    script.evaluated(40, 3, 0, tokens=None, kind="infrastructure", configuration=configuration(4))
    folder = script.save(tmp_path / "run")
    table = tmp_path / "run.csv"
    with table.open("w") as file:
        write_table(read_outcome(folder), file)
    config = parse(CONFIG, "my.toml")
    run, peers = (read_earlier(path, config, lambda _: None).results for path in (folder, table))
    assert len(run) == 3 and list(run) == list(peers)


LIMITED = CONFIG.replace("[[parameters]]", '[[objective.slo]]\nmetric = "ttft_p99_ms"\nmax = 9.0\n[[parameters]]', 1)


@pytest.mark.parametrize("text", [CONFIG, LIMITED], ids=["no limit", "a limit"])
def test_what_was_stopped_early_has_what_was_expected_of_the_objective_alone(tmp_path: Path, text: str) -> None:
    """Another search learns that from the table as from the run."""
    script = Script(text).evaluated(10, 0, 0, tokens=10.5, label="baseline", configuration=configuration(1))
    script.events[-1]["metrics"]["ttft_p99_ms"] = 7.0
    script.stopped(20, 1, 0, 0.1 + 0.2, configuration=configuration(2))
    script.evaluated(30, 2, 0, tokens=None, configuration=configuration(8))
    folder = script.save(tmp_path / "run")
    (_, row, _) = rows(folder)
    assert (row["result"], row["cause"]) == ("stopped", "")
    measured = {name: row[name] for name in ("completed", "output_throughput", "ttft_p99_ms")}
    assert measured == {"completed": "", "output_throughput": str(0.1 + 0.2), "ttft_p99_ms": ""}
    assert rows(folder, by_load=True)[1] == {**row, "load": "", "counts": "true"}
    table = tmp_path / "run.csv"
    with table.open("w") as file:
        write_table(read_outcome(folder), file)
    config = parse(text, "my.toml")
    run, peers = (read_earlier(path, config, lambda _: None) for path in (folder, table))
    assert list(run.results) == list(peers.results)
    assert [metrics for _, metrics in run.results][1:] == [{"output_throughput": 0.1 + 0.2}, None]
    assert run.description == f"{folder}: 3 results, 1 failure among them"


def test_so_has_it_where_that_is_derived(tmp_path: Path) -> None:
    text = LIMITED.replace('maximize = "output_throughput"', 'maximize = "each"')
    text += '[objective.derived]\neach = "output_throughput / slots"\n'
    script = Script(text, "each").evaluated(10, 0, 0, tokens=10.0, label="baseline", configuration=configuration(2))
    script.events[-1]["metrics"] |= {"ttft_p99_ms": 7.0, "each": 5.0}
    script.stopped(20, 1, 0, 3.0, configuration=configuration(4))
    folder = script.save(tmp_path / "run")
    table = tmp_path / "run.csv"
    with table.open("w") as file:
        write_table(read_outcome(folder), file)
    run, peers = (read_earlier(path, parse(text, "my.toml"), lambda _: None).results for path in (folder, table))
    assert run[1][1] == peers[1][1] == {"each": 3.0}


def test_choices_come_back_as_they_are_whatever_they_hold(tmp_path: Path) -> None:
    odd = ["a", " a", "a ", "a\rb", "a\n", 'a "b", c', "\t", ""]
    text = CONFIG.replace('["f16", "q8, or so"]', json.dumps(odd))
    script = Script(text)
    for number, choice in enumerate(odd):
        script.evaluated(10 * number, number, 0, tokens=10.5, configuration=configuration(1, choice))
    table = tmp_path / "run.csv"
    with table.open("w") as file:
        write_table(read_outcome(script.save(tmp_path / "run")), file)
    found = read_earlier(table, parse(text, "my.toml"), lambda _: None).results
    assert [configuration["cache"] for configuration, _ in found] == odd


def test_parameters_and_metrics_keep_their_names(tmp_path: Path) -> None:
    script = Script().evaluated(10, 0, 0, configuration={"group": "blue", "n": 1})
    script.events[-1]["metrics"]["seconds"] = 3.0
    (row,) = rows(script.save(tmp_path))
    assert (row["group"], row["seconds"]) == ("blue", "3.0")
    assert rows(Script().save(tmp_path)) == []
    script = Script().evaluated(10, 0, 0, configuration={"output_throughput": 7})
    (row,) = rows(script.save(tmp_path))
    assert [*row][-2:] == ["output_throughput", "completed"] and row["output_throughput"] == "7"


def test_why_an_evaluation_failed_is_told_where_nobody_wrote_it_down(tmp_path: Path) -> None:
    (row,) = rows(Script().evaluated(10, 0, 0, failed=True).save(tmp_path))
    assert (row["result"], row["cause"]) == ("failed", "no metrics")


def test_what_another_search_needs_and_this_one_did_not_measure_is_no_failure(tmp_path: Path) -> None:
    script = Script(CONFIG).evaluated(10, 0, 0, tokens=10.5, configuration=configuration(1))
    script.events[-1]["metrics"]["itl_p99_ms"] = 5.0
    script.evaluated(20, 1, 0, tokens=30.0, configuration=configuration(2))
    script.evaluated(30, 2, 0, tokens=None, configuration=configuration(8))
    folder, table = script.save(tmp_path / "run"), tmp_path / "run.csv"
    with table.open("w") as file:
        write_table(read_outcome(folder), file)
    config = parse(CONFIG.replace('maximize = "output_throughput"', 'minimize = "itl_p99_ms"'), "my.toml")
    run, peers = (read_earlier(path, config, lambda _: None) for path in (folder, table))
    assert list(run.results) == list(peers.results) and len(run.results) == 2
    assert "1 left out: itl_p99_ms was not measured" in peers.description


def test_a_sweep_is_a_row_for_each_load_if_that_is_asked_for(tmp_path: Path) -> None:
    config = CONFIG.replace("[objective]", "[[objective.slo]]\nmetric = 'ttft_p99_ms'\nmax = 100\n[objective]")
    script = Script(config).evaluated(100, 0, 1, tokens=10.0, label="baseline", configuration=configuration(1))
    loads = {
        f"concurrency {n}": {"output_throughput": 10.0 * n, "ttft_p99_ms": 60.0 * n, "concurrency": float(n)}
        for n in (1, 2)
    }
    script.evaluated(170, 1, 1, configuration=configuration(2), metrics=loads["concurrency 1"], loads=loads)
    folder = script.save(tmp_path)
    whole, *swept = rows(folder, by_load=True)
    assert (whole["load"], whole["counts"], whole["output_throughput"]) == ("", "true", "10.0")
    named = "evaluation", "load", "counts", "result", "cause", "slots", "output_throughput", "ttft_p99_ms"
    assert [tuple(row[name] for name in named) for row in swept] == [
        ("1", "concurrency 1", "true", "feasible", "", "2", "10.0", "60.0"),
        ("1", "concurrency 2", "false", "infeasible", "ttft_p99_ms 120 > 100", "2", "20.0", "120.0"),
    ]
    assert [row["output_throughput"] for row in rows(folder)] == ["10.0", "10.0"]


def test_every_load_is_held_against_the_baseline_of_the_search_or_the_race(tmp_path: Path) -> None:
    limit = "[[objective.slo]]\nmetric = 'answers_right'\nmin = 'baseline'\n[objective]"
    script = Script(CONFIG.replace("[objective]", limit))

    def swept(number: int, slots: int, answers_right: float, label: str = "") -> None:
        loads = {
            f"concurrency {n}": {"output_throughput": 10.0 * n, "answers_right": answers_right, "concurrency": float(n)}
            for n in (1, 2)
        }
        script.evaluated(
            100, number, 1, label=label, configuration=configuration(slots), metrics=loads["concurrency 1"], loads=loads
        )

    for number, slots, answers_right in [(0, 1, 0.8), (1, 2, 0.85), (2, 1, 0.9), (3, 2, 0.92)]:
        swept(number, slots, answers_right, "confirm" if number > 1 else "" if number else "baseline")
    found = rows(script.finished(200, incumbent=1).save(tmp_path), by_load=True)
    assert [row["result"] for row in found] == ["feasible"] * 8
