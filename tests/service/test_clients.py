"""Benchmark clients: what counts as a measurement, and what as a service that can be measured."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpipso.config import Benchmark, Config, ObjectiveSection, Pattern
from mpipso.config.file import parse
from mpipso.errors import EvaluationFailed
from mpipso.evaluation import METRICS, Value
from mpipso.service import ports, process
from mpipso.service.clients.base import CLIENTS, NotReady, Target, require_measured
from mpipso.service.clients.quality import QualityClient
from mpipso.service.clients.result import MAX_RESULT, last_json
from mpipso.service.clients.stats import FIRST
from mpipso.service.process import Completed

sys.path.insert(0, str(Path(__file__).parent))

from tiny_service import Handler, Server

KEY = "sk-8f3a61c0d2"
COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"
OUTPUT = {"output_throughput": 100.0, "p99": {"ttft": [{"ms": 7}, {"ms": 9}]}, "completed": 3, "text": "x", "yes": True}
METRIC_MAP = {"output_throughput": "output_throughput", "ttft_p99_ms": "p99.ttft.1.ms", "completed": "completed"}


def config(**benchmark: Any) -> Config:
    return Config.model_validate(
        {
            "service": {"engine": "command"},
            "benchmark": {"client": "command", "command": ("bench",), "metrics": METRIC_MAP, **benchmark},
            "objective": {"maximize": "output_throughput"},
            "parameters": ({"name": "n", "type": "int", "min": 1, "max": 9, "flag": "-n"},),
        }
    )


def target(
    folder: Path,
    port: int = 1,
    model: str = "",
    close: bool = False,
    endpoint: str = COMPLETIONS,
    load: Mapping[str, Value] | None = None,
) -> Target:
    return Target(
        base_url=f"http://127.0.0.1:{port}",
        endpoint=endpoint,
        host="127.0.0.1",
        port=port,
        model=model,
        unlisted="",
        seed=42,
        close_connections=close,
        result=folder / "benchmark.json",
        load=load or {},
        sent=0,
        values={"n": 5},
    )


def loadgen_words(told: Config, aim: Target) -> list[str]:
    """What runs the load generator at the first load."""
    return CLIENTS.create("openai").command(told, replace(aim, load=told.benchmark.loads(aim.values)[0]))


def done(stdout: str = "", stderr: str = "", cut: bool = False) -> Completed:
    return Completed(0, stdout, stderr, False, cut)


def measured(folder: Path, output: str, cut: bool = False, **benchmark: Any) -> dict[str, float]:
    told = config(**benchmark)
    (load,) = told.benchmark.loads({"n": 5})
    return dict(CLIENTS.create("command").metrics(told, target(folder, load=load), done(output, cut=cut)))


def test_every_client_is_found_by_name() -> None:
    assert {"command", "openai"} <= set(CLIENTS.names())


# --- command ---


@pytest.mark.parametrize(
    "output",
    [
        json.dumps(OUTPUT),
        json.dumps(OUTPUT, indent=2),
        f"starting\n{{not json}}\n{json.dumps(OUTPUT)}\ndone: see log\n",
        f"starting\n{json.dumps(OUTPUT, indent=4)}\ndone",
        f'{{"output_throughput": 1}}\n{json.dumps(OUTPUT)}\n',
    ],
    ids=["one line", "indented", "among logs", "indented among logs", "JSON lines"],
)
@pytest.mark.parametrize("where", ["stdout", "result", "result_file"])
def test_a_result_is_found_wherever_it_is(output: str, where: str, tmp_path: Path) -> None:
    printed, more = "nothing here", {}
    if where == "stdout":
        printed = output
    elif where == "result":
        (tmp_path / "benchmark.json").write_text(output)
    else:
        (tmp_path / "out-5-42.json").write_text(output)
        more = {"result_file": f"{tmp_path}/out-{{n}}-{{seed}}.json"}
    assert measured(tmp_path, printed, **more) == {"output_throughput": 100.0, "ttft_p99_ms": 9.0, "completed": 3.0}


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("missing", "has no 'missing'; it has "),
        ("throughput", "has no 'throughput'; did you mean 'output_throughput'\\?$"),
        ("p99.ttft.0.msec", r"has no 'p99\.ttft\.0\.msec'; did you mean 'p99\.ttft\.0\.ms'\?$"),
        ("p99.ttft.2.ms", "has no 'p99.ttft.2.ms'"),
        ("p99.ttft.-1.ms", r"has no 'p99\.ttft\.-1\.ms'"),
        ("p99.ttft.².ms", r"has no 'p99\.ttft\.²\.ms'"),
        ("p99.ttft.x", "has no 'p99.ttft.x'"),
        ("completed.x", "has no 'completed.x'"),
        ("text", "'text' is 'x', not a finite number"),
        ("yes", "'yes' is True, not a finite number"),
        ("p99", "not a finite number"),
    ],
)
def test_a_metric_that_is_not_there_fails_the_evaluation(path: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(EvaluationFailed, match=told) as error:
        measured(tmp_path, json.dumps(OUTPUT), metrics={"output_throughput": path})
    assert error.value.kind == "configuration"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_no_number_fails_but_elsewhere_it_does_not_matter(value: float, tmp_path: Path) -> None:
    output = json.dumps({"x": value, "output_throughput": 2.5})
    assert "Infinity" in output or "NaN" in output
    only = {"metrics": {"output_throughput": "output_throughput"}}
    assert measured(tmp_path, output, **only) == {"output_throughput": 2.5}
    with pytest.raises(EvaluationFailed, match="not a finite number"):
        measured(tmp_path, output, metrics={"output_throughput": "x"})


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "N/A", " nan", "", "missing", 1.7e308, "-1.7e+308 ms"])
def test_a_metric_that_is_not_needed_may_be_missing(value: object, tmp_path: Path) -> None:
    result = {"output_throughput": 2.5, "completed": 3, "failed": 0, "other": value, "more": 1}
    if value == "missing":
        del result["other"]
    metrics = {"output_throughput": "output_throughput", "completed": "completed", "failed": "failed"}
    optional = {**metrics, "ttft_p99_ms": "other", "own": "more"}
    found = measured(tmp_path, json.dumps(result), metrics=optional)
    assert found == {"output_throughput": 2.5, "completed": 3, "failed": 0, "own": 1}
    for name in metrics:
        with pytest.raises(EvaluationFailed, match="'other'"):
            measured(tmp_path, json.dumps(result), metrics={**optional, name: "other"})
    limited = ObjectiveSection.model_validate(
        {"maximize": "output_throughput", "slo": ({"metric": "ttft_p99_ms", "max": 5.0},)}
    )
    told = config(metrics=optional).model_copy(update={"objective": limited})
    with pytest.raises(EvaluationFailed, match="'other'"):
        CLIENTS.create("command").metrics(told, target(tmp_path), done(json.dumps(result)))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("fast", "'other' is 'fast', not a finite number"),
        (True, "'other' is True, not a finite number"),
        ({"total": "9 ms"}, r"'other' is \{'total': '9 ms'\}, not a finite number"),
        ("9 days", "'other' is '9 days', and ttft_p99_ms takes ns, us, ms, s, min or h"),
    ],
)
def test_what_is_there_and_no_number_fails_also_where_it_is_not_needed(value: Any, told: str, tmp_path: Path) -> None:
    """It is a mistake in the mapping, which would else go unnoticed."""
    result = {"output_throughput": 2.5, "other": value}
    with pytest.raises(EvaluationFailed, match=told):
        measured(
            tmp_path,
            json.dumps(result),
            metrics={"output_throughput": "output_throughput", "ttft_p99_ms": "other"},
        )


@pytest.mark.parametrize(
    ("metric", "value", "number"),
    [
        ("ttft_p99_ms", "13013.5 ms", 13013.5),
        ("ttft_p99_ms", "2.5s", 2500.0),
        ("ttft_p99_ms", " 1.5e3 us ", 1.5),
        ("ttft_p99_ms", "250 µs", 0.25),
        ("ttft_p99_ms", "7.25", 7.25),
        ("own_ms", "2 s", 2000.0),
        ("duration", "13013.5 ms", 13.0135),
        ("duration", "3 s", 3.0),
        ("duration", 3, 3.0),
        ("total_throughput", "2518.03 token/s", 2518.03),
        ("request_throughput", "19.5 req/s", 19.5),
        ("own", "+19.5 requests/s", 19.5),
        ("own", "98.2%", 98.2),
        ("failed", "0", 0.0),
        ("total_throughput", "1,234,567.5 token/s", 1234567.5),
    ],
)
def test_a_number_may_have_a_unit(metric: str, value: Any, number: float, tmp_path: Path) -> None:
    found = measured(tmp_path, json.dumps({"x": 1, "y": value}), metrics={"output_throughput": "x", metric: "y"})
    assert found[metric] == pytest.approx(number)


@pytest.mark.parametrize(
    ("metric", "value", "right"),
    [
        ("ttft_p99_ms", "3 token/s", "ns, us, ms, s, min or h"),
        ("ttft_p99_ms", "3 m", "ns, us, ms, s, min or h"),
        ("duration", "3 days", "ns, us, ms, s, min or h"),
        ("output_throughput", "3 ktoken/s", "a unit such as token/s or req/s"),
        ("output_throughput", "3 ms", "a unit such as token/s or req/s"),
        ("output_throughput", "98 %", "a unit such as token/s or req/s"),
        ("completed", "98 %", "no unit"),
        ("output_throughput", "1,5", "a unit such as token/s or req/s"),
        ("output_throughput", "12,345", "a unit such as token/s or req/s"),
        ("own", "3 ms", r"token/s, req/s, % or, named \.\.\._ms, a time"),
    ],
)
def test_a_unit_that_a_metric_cannot_have_fails_the_evaluation(
    metric: str, value: str, right: str, tmp_path: Path
) -> None:
    with pytest.raises(EvaluationFailed, match=f"^the benchmark's 'y' is '{value}', and {metric} takes {right}$"):
        measured(tmp_path, json.dumps({"x": 1, "y": value}), metrics={"output_throughput": "x", metric: "y"})


def test_a_text_of_a_hundred_thousand_digits_is_read_at_once(tmp_path: Path) -> None:
    """Answers of a model may hold such; to try all ways to part the digits would take years."""
    text = "7" * 100_000 + " and so on"
    with pytest.raises(EvaluationFailed, match="has no 'missing'"):
        measured(tmp_path, json.dumps({**OUTPUT, "texts": [{"text": text}]}), metrics={"output_throughput": "missing"})


@pytest.mark.parametrize(
    ("path", "number"),
    [("TTFT.P99.9", 9.0), ("TTFT.P99", 8.0), ("a.b.c.0.d.e", 7.0), ("a.x", 6.0), ("a.b.y", 5.0), ("a.b.z", 4.0)],
)
def test_keys_may_contain_dots(path: str, number: float, tmp_path: Path) -> None:
    result = {
        "TTFT": {"P99": 8, "P99.9": 9},
        "a": {"x": 6, "b": {"c": 0, "z": 4}, "b.y": 5},
        "a.b": {"c": [{"d.e": 7}], "y": 5},
    }
    assert measured(tmp_path, json.dumps(result), metrics={"output_throughput": path}) == {"output_throughput": number}
    with pytest.raises(EvaluationFailed, match=r"has no 'TTFT\.P9\.9'; did you mean 'TTFT\.P99\.9'\?$"):
        measured(tmp_path, json.dumps(result), metrics={"output_throughput": "TTFT.P9.9"})


def test_a_result_in_csv_is_a_table_of_tables(tmp_path: Path) -> None:
    file = tmp_path / "out.csv"
    mapped = {
        "result_file": "{result_dir}/*.csv",
        "metrics": {"output_throughput": "Rate.P99", "ttft_p99_ms": "TTFT.P99"},
    }
    file.write_text('What,Stage,Average,P99,,\r\n\r\nTTFT, total ,"1,5 ms",9.5 ms\r\n"Rate",total,,2.5 token/s,,\r\n')
    assert measured(tmp_path, "", **mapped) == {"output_throughput": 2.5, "ttft_p99_ms": 9.5}
    with pytest.raises(EvaluationFailed, match=r"has no 'Rate\.P9'; did you mean 'Rate\.P99'\?$"):
        measured(tmp_path, "", **mapped | {"metrics": {"output_throughput": "Rate.P9"}})
    for content, told in (
        ("", "holds no rows"),
        ("What,P99\n", "holds no rows"),
        ("What,P99\nRate,1\nRate,2\n", "has two rows named 'Rate'; { pattern = '...' } in place of each key finds"),
        ("What,P99,P99\nRate,1,2\nTTFT,3,4\n", "has two columns named 'P99'"),
        ("P99,P99\n1,2\n", "has two columns named 'P99'"),
        ('What,P99\nRate,"' + 200_000 * "x", "is no CSV: field larger than field limit"),
    ):
        file.write_text(content)
        with pytest.raises(EvaluationFailed, match=rf"result file out\.csv {told}"):
            measured(tmp_path, "", **mapped)


def test_of_a_csv_with_one_row_the_columns_are_enough(tmp_path: Path) -> None:
    for text in (
        '"rate","p99"\n2.5,9.5 ms\n',
        '"rate",p99,"x;y;z"\n2.5,9.5 ms,\n',
        "rate;p99\n2.5;9.5 ms\n",
        "rate\tp99\n2.5\t9.5 ms\n",
    ):
        (tmp_path / "out.csv").write_text(text)
        metrics = {"output_throughput": "rate", "ttft_p99_ms": "p99"}
        found = measured(tmp_path, "", result_file="{result_dir}/out.csv", metrics=metrics)
        assert found == {"output_throughput": 2.5, "ttft_p99_ms": 9.5}


@pytest.mark.parametrize(("name", "text"), [("out.json", '{"rate": 2.5}'), ("out.csv", "rate,p99\n2.5,9.5\n")])
def test_a_result_file_may_have_a_byte_order_mark(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    mapped = {"result_file": f"{{result_dir}}/{name}", "metrics": {"output_throughput": "rate"}}
    assert measured(tmp_path, "", **mapped) == {"output_throughput": 2.5}


def test_where_no_key_is_like_the_one_that_is_missing_those_that_are_there_are_told(tmp_path: Path) -> None:
    result = json.dumps({"a": 1, "b": {"c": 2}, **{f"key{n}": n for n in range(5)}})
    with pytest.raises(EvaluationFailed, match=r"has no 'rps'; it has a, b\.c, key0, key1, key2, 2 more$"):
        measured(tmp_path, result, metrics={"output_throughput": "rps"})
    with pytest.raises(EvaluationFailed, match=r"has no 'rps', nor any number$"):
        measured(tmp_path, '{"a": "x"}', metrics={"output_throughput": "rps"})


AB = """\
Complete requests:      1000
Requests per second:    4321.50 [#/sec] (mean)
  99%     12 ms
Requests per second:    4400.00 [#/sec] (mean, all)
"""


def test_a_metric_may_be_found_in_text(tmp_path: Path) -> None:
    metrics = {
        "output_throughput": {"pattern": r"^Requests per second: +([\d.]+)"},
        "ttft_p99_ms": {"pattern": r"99% +([\d.]+ *\w+)"},
    }
    assert measured(tmp_path, AB, metrics=metrics) == {"output_throughput": 4400.0, "ttft_p99_ms": 12.0}
    (tmp_path / "out.txt").write_text(AB.replace("4400.00", "4500.00"))
    assert measured(tmp_path, AB, result_file="{result_dir}/out.txt", metrics=metrics)["output_throughput"] == 4500.0
    with pytest.raises(EvaluationFailed, match=r"^nothing in the benchmark's output matches '\^Rate"):
        measured(tmp_path, AB, metrics={"output_throughput": {"pattern": "^Rate (.*)"}})
    with pytest.raises(EvaluationFailed, match=re.escape(r"output matches 'rate: (\d+)'")):
        measured(tmp_path, AB, metrics={"output_throughput": {"pattern": r"rate: (\d+)"}})
    (tmp_path / "out.txt").unlink()
    (tmp_path / "out.json").write_text('{"x": 3}')
    mixed = {"output_throughput": "x", "ttft_p99_ms": {"pattern": "took (.*)$"}}
    both = measured(tmp_path, "took 5 ms", result_file="{result_dir}/out.json", metrics=mixed)
    assert both == {"output_throughput": 3.0, "ttft_p99_ms": 5.0}
    assert measured(tmp_path, 'took 5 ms\n{"x": 3}', metrics=mixed) == {"output_throughput": 3.0, "ttft_p99_ms": 5.0}


@pytest.mark.parametrize(
    ("metric", "pattern", "output", "number"),
    [
        ("output_throughput", r'"SET","([\d.]+)"', '"SET","95.1","0.5"', 95.1),
        ("output_throughput", r"SET,([\d.]+)", "SET,95.1,0.5", 95.1),
        ("output_throughput", r"SET,(\d+),", "SET,95,120", 95.0),
        ("output_throughput", r"rps \(?([\d.]+)", "rps (12.5)", 12.5),
        ("output_throughput", r"rps ([\d.]+)", "rps 12.5/s, 3 failed", 12.5),
        ("output_throughput", r"rps (\d+)", "rps 12; 13.", 12.0),
        ("output_throughput", r"rps (\d+)", "done: rps 12.", 12.0),
        ("output_throughput", r"rps ([\d.]+)", "rps 12.5req/s.", 12.5),
        ("output_throughput", r"rps ([\d.]+)k", "rps 12.5kreq/s", None),
        ("output_throughput", r"rps ([\d.]+)k?", "rps 12.5k", None),
        ("output_throughput", r"rps ([\d.]+)k", "rps 12.5k/s", 12.5),
        ("completed", r"done (\d+)%", "done 100%", 100.0),
        ("completed", r"done (\d+)", "done 100/256", 100.0),
        ("e2e_p99_ms", r"99% +([\d.]+)", "99% 980.00us", 0.98),
        ("e2e_p99_ms", r"99% +([\d.]+)", "99%   1.10s", 1100.0),
        ("e2e_p99_ms", r"99% +([\d.]+)ms", "99% 9.5ms", 9.5),
        ("duration", r"took ([\d.]+)", "took 250ms.", 0.25),
        ("e2e_p99_ms", r"99% in ([\d.]+)", "99% in 0.0503 secs", 50.3),
        ("e2e_p99_ms", r"99.00% in ([\d.]+) sec", "99.00% in 0.0042 sec", 4.2),
        ("e2e_p99_ms", r"99% +([\d.]+)", "99% 12.5\tus", 0.0125),
        ("e2e_p99_ms", r"99% <= ([\d.]+)", "99% <= 3 milliseconds", 3.0),
        ("e2e_p99_ms", r"99% +([\d.]+)", "99% 12.5 (all) s", 12.5),
        ("e2e_p99_ms", r"99% +([\d.]+)", "99% 12.5  s", 12.5),
        ("e2e_p99_ms", r"99% +([\d.]+)", "99% 12.5 slow", 12.5),
        ("e2e_p99_ms", r"99% +([\d.]+)", "99% 1.5 min", 90_000.0),
        ("e2e_p99_ms", r"99% +([\d.]+)", "all done, 99% 1.5 min.\nmax 2.5 min", 90_000.0),
        ("e2e_p99_ms", r"99% +([\d.]+)", "99% 500 ns", 0.0005),
        ("e2e_p99_ms", r"99% +([\d.]+)", "99% 2\u00a0Seconds", 2000.0),
        ("e2e_p99_ms", r"99% +([\d.]+)", "99% 12 s: 4", 12.0),
        ("duration", r"took ([\d.]+)", "took 250 ms", 0.25),
        ("duration", r"took ([\d.]+)", "took 2 seconds", 2.0),
        ("completed", r"did (\d+)", "did 100 s", 100.0),
        ("own", r"lat ([\d.]+)", "lat 980 us", 980.0),
        ("own", r"lat ([\d.]+)us", "lat 980us", 980.0),
        ("own", r"lat ([\d.]+)", "lat 980us", None),
        ("own", r"x ([\d.]+)x", "x 1.5x", 1.5),
        ("own", r"lat ([\d.]+)\s*ms", "lat 12.5ms", 12.5),
        ("own", r"lat ([\d.]+)(?:ms|us)", "lat 12.5us", 12.5),
        ("own", r"speed ([\d.]+) ?t/s", "speed 88.5t/s", 88.5),
        ("own", r"(?i)lat ([\d.]+)MS", "lat 12.5ms", 12.5),
        ("e2e_p99_ms", r"99% ([\d.]+)", "99% 12.5ms\x1b[0m", 12.5),
        ("own", r"x ([\d.]+).*", "x 1.2345e+04", None),
        ("e2e_p99_ms", r"99% ([\d.]+)", "99% 12.5ms\x9b0m", 12.5),
        ("own", r"score ([\d.]+)pts?", "score 12.5pts", 12.5),
        ("own", r"x (\d+).*", "x 12,345", None),
        ("own", r"x (\d+),?", "x 12,345", None),
        ("own", r"(?:x|y),rps (\d+)", "x,rps 12,345", None),
        ("e2e_p99_ms", r"99% +([\d.]+)", "99% 2.00m", None),
        ("output_throughput", r"rps ([\d.,]+)", "rps 12,345.67 [#/sec]", 12345.67),
        ("output_throughput", r"rps ([\d.]+)", "rps 12,345.67 [#/sec]", None),
        ("output_throughput", r"rps (\d+)", "rps 12.75", None),
        ("output_throughput", r"rps ([\d.]+)", "rps 1.2345e+04", None),
        ("output_throughput", r"rps ([\d.]+)", "rps 12.3k", None),
        ("output_throughput", r"rps ([\d.]+)", "rps 12_345", None),
        ("output_throughput", r"rps (\S+)", "rps 1\u00a0234.5", None),
        ("output_throughput", r"rps (\d+)", "rps 12\u202f345 req/s", None),
        ("e2e_p99_ms", r"([\d.]+).ms", "1\u00a0234.5\u00a0ms", None),
        ("e2e_p99_ms", r"99% +([\d.]+)", "99% 1.5\u00a0123", 1.5),
        ("e2e_p99_ms", r"99% +([\d.]+)", "99% 15\u00a01234", 15.0),
        ("e2e_p99_ms", r"(\d+) ms", "p99\u00a012 ms", 12.0),
        ("e2e_p99_ms", r"(\d+) ms", "p99\u00a0120 ms", 120.0),
        ("e2e_p99_ms", r"(\d+) ms", "99\u00a0120 ms", None),
        ("output_throughput", r"rps (\d\d)", "rps 123", None),
        ("output_throughput", r"rps.*([\d.]+)", "rps 500", None),
        ("output_throughput", r"rps.*([\d.]+)", "rps 500.2", None),
        ("e2e_p99_ms", r"([\d.]+) ms", "p99 1,234.5 ms", None),
        ("e2e_p99_ms", r"([\d.]+) ms", "p99 1,002,234.5 ms", None),
        ("e2e_p99_ms", r"^.{2,9}\D([\d.]+) ms", "p99 1,234.5 ms", None),
        ("e2e_p99_ms", r"([\d.]+) ms", "1234,567.5 ms", 567.5),
        ("e2e_p99_ms", r"([\d.]+) ms", "1,56.5 ms", 56.5),
        ("output_throughput", r"^x,(?:[^,]*,){2}([\d.]+),", "x,15,12,345.25,0", 345.25),
        ("output_throughput", r"^x.*\b(\d+\.\d+)$", "x,0,12.25,200.5", 200.5),
        ("output_throughput", r"^x.*\b(\d+\.\d+)$", "x,1000,0,123.4", 123.4),
        ("output_throughput", r"^8[,;]([\d.]+)$", "8,123.4", 123.4),
        ("e2e_p99_ms", r"p99\D([\d.]+)", "p99,123.4", 123.4),
        ("e2e_p99_ms", r"[\d,.]*?([\d.]+) ms", "p99 1,234.5 ms", None),
        ("e2e_p99_ms", r"([\d.]+) ms", "p99 12,345,678.9 ms", None),
    ],
)
def test_a_pattern_finds_whole_numbers_with_their_units(
    metric: str, pattern: str, output: str, number: float | None, tmp_path: Path
) -> None:
    metrics = {"output_throughput": "x", metric: {"pattern": pattern}}
    printed = f'{output}\n{{"x": 1}}'
    if number is not None:
        assert measured(tmp_path, printed, metrics=metrics)[metric] == pytest.approx(number)
    else:
        with pytest.raises(EvaluationFailed, match=r"directly (before|behind) it stands '.+': let the group hold"):
            measured(tmp_path, printed, metrics=metrics)


@pytest.mark.parametrize("more", ["", " min"])
def test_the_least_of_several_is_not_in_minutes(more: str, tmp_path: Path) -> None:
    pattern = rf"latency: ([\d.]+){more}"
    metrics: dict[str, Any] = {"output_throughput": "x", "least_ms": {"pattern": pattern}}
    for output in ("latency: 1.5 min 2.0 avg 9.0 max", "latency: 1.5 min, 2.0 avg (ms)", "latency: 1.5 min / 2.0 avg"):
        printed = f'{output}\n{{"x": 1}}'
        with pytest.raises(EvaluationFailed, match=r"is '1\.5', and behind it stands 'min', for minutes or for"):
            measured(tmp_path, printed, metrics=metrics)
        said = metrics | {"least_ms": {"pattern": pattern, "unit": "ms"}}
        assert measured(tmp_path, printed, metrics=said)["least_ms"] == 1.5
    said = metrics | {"least_ms": {"pattern": pattern, "unit": "min"}}
    assert measured(tmp_path, 'latency: 1.5 min in all\n{"x": 1}', metrics=said)["least_ms"] == 90_000.0


def test_what_is_printed_for_progress_is_not_the_figure(tmp_path: Path) -> None:
    client = CLIENTS.create("command")
    told = config(metrics={"output_throughput": {"pattern": r"rps: ([\d.]+)"}})
    progress = "10 % done, rps: 3\n"
    (tmp_path / "benchmark.json").write_text("rps: 700")
    assert client.metrics(told, target(tmp_path), done("", progress))["output_throughput"] == 700
    (tmp_path / "benchmark.json").unlink()
    assert client.metrics(told, target(tmp_path), done("rps: 500\n", progress))["output_throughput"] == 500
    assert client.metrics(told, target(tmp_path), done("done\n", progress))["output_throughput"] == 3
    with pytest.raises(EvaluationFailed, match=r"^nothing in the benchmark's output matches 'rps: \S+'$"):
        client.metrics(told, target(tmp_path), done("done\n", "done\n"))
    with pytest.raises(EvaluationFailed, match=r"matches '.+'; of the 1 MB and more that it printed the beginning"):
        client.metrics(told, target(tmp_path), done("done\n", cut=True))


@pytest.mark.parametrize(
    ("metric", "where", "value", "number"),
    [
        ("e2e_mean_ms", {"key": "y", "unit": "s"}, 0.47, 470.0),
        ("e2e_mean_ms", {"key": "y", "unit": "s"}, "0.47", 470.0),
        ("e2e_mean_ms", {"key": "y", "unit": "s"}, "470 ms", 470.0),
        ("e2e_mean_ms", {"key": "y"}, 0.47, 0.47),
        ("duration", {"key": "y", "unit": "ms"}, 2500, 2.5),
        ("own", {"key": "y", "unit": "%"}, 98, 98.0),
        ("e2e_mean_ms", {"pattern": r'"y": ([\d.]+)', "unit": "s"}, 0.47, 470.0),
        ("e2e_mean_ms", {"pattern": r"y: ([\d.]+)", "unit": "s"}, "y: 470ms", 470.0),
    ],
)
def test_a_number_without_a_unit_has_the_one_that_is_said(
    metric: str, where: dict[str, str], value: Any, number: float, tmp_path: Path
) -> None:
    found = measured(tmp_path, json.dumps({"x": 1, "y": value}), metrics={"output_throughput": "x", metric: where})
    assert found[metric] == pytest.approx(number)


def test_a_request_that_ends_before_its_first_token_is_told_of_units(tmp_path: Path) -> None:
    """GuideLLM's ``request_latency`` is in seconds, and its ``time_to_first_token_ms`` is not."""
    result = {"ttft_mean_ms": 110.6, "e2e_mean_ms": 0.470274}
    told = 'its ttft_mean_ms, 110.6: is it in seconds? { key = "...", unit = "s" } in place of a key says so'
    with pytest.raises(EvaluationFailed) as error:
        measured(tmp_path, json.dumps(result | OUTPUT), metrics={**METRIC_MAP, **{name: name for name in result}})
    assert error.value.cause == f"the benchmark's e2e_mean_ms is 0.470274, less than {told}"
    with pytest.raises(EvaluationFailed, match=r"e2e_p99_ms is 3, less than its ttft_p99_ms, 90: is it in seconds"):
        require_measured({"ttft_p99_ms": 90, "e2e_p99_ms": 3, "e2e_p50_ms": 2})
    for right in ({"ttft_p99_ms": 9.5, "e2e_p99_ms": 9}, {"ttft_p99_ms": 1000, "e2e_p99_ms": 500}, {"e2e_p99_ms": 1}):
        assert require_measured(right) == right


@pytest.mark.parametrize(("pattern", "told"), [("(", "is no regular"), ("a", "one group"), ("(a)(b)", "it has 2")])
def test_a_pattern_that_is_none_is_told(pattern: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Pattern(pattern=pattern)


def test_a_name_may_stand_for_a_file_whose_name_is_not_known(tmp_path: Path) -> None:
    """Stars of the name are wild; other characters of a pattern, and those of the values filled in, are not."""
    folder = tmp_path / "a*[1]"
    deep = folder / "20261128_054015" / "performances"
    deep.mkdir(parents=True)
    metrics = {"output_throughput": "x"}
    with pytest.raises(
        EvaluationFailed, match=r"^the benchmark client wrote no result file \{result_dir\}/\*\*/\*\.json$"
    ):
        measured(folder, "", result_file="{result_dir}/**/*.json", metrics=metrics)
    (deep / "[5].json").write_text('{"x": 7}')
    for name in ("{result_dir}/**/*.json", "{result_dir}/*/performances/[{n}].json", "{result_dir}/**/[*].json"):
        assert measured(folder, "", result_file=name, metrics=metrics) == {"output_throughput": 7.0}
    for name in "bcd":
        (folder / f"{name}.json").touch()
    with pytest.raises(EvaluationFailed) as error:
        measured(folder, "", result_file="{result_dir}/**/*.json", metrics=metrics)
    assert error.value.cause == (
        "4 files match the result file {result_dir}/**/*.json, not one: "
        "20261128_054015/performances/[5].json, b.json, c.json, ..."
    )


def test_the_tables_of_several_files_become_one(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text('{"x": 1, "TTFT": {"Mean": 3, "P99": 4}}')
    (tmp_path / "two.csv").write_text("What,P99,P99.9\nTTFT,5 ms,6 ms\n")
    names = ("{result_dir}/one.json", "{result_dir}/*.csv")
    metrics = {"output_throughput": "x", "ttft_mean_ms": "TTFT.Mean", "ttft_p99_ms": "TTFT.P99", "own_ms": "TTFT.P99.9"}
    found = {"output_throughput": 1.0, "ttft_mean_ms": 3.0, "own_ms": 6.0}
    assert measured(tmp_path, "", result_file=names, metrics=metrics) == found | {"ttft_p99_ms": 5.0}
    assert measured(tmp_path, "", result_file=names[::-1], metrics=metrics) == found | {"ttft_p99_ms": 4.0}
    (tmp_path / "one.json").write_text("[1]")
    with pytest.raises(EvaluationFailed, match=r"^the result file one\.json holds a list; of several files each must"):
        measured(tmp_path, "", result_file=names, metrics=metrics)


@pytest.mark.parametrize("output", ["", "no JSON", "[", '"text"', "3"])
def test_no_result_fails_the_evaluation(output: str, tmp_path: Path) -> None:
    with pytest.raises(
        EvaluationFailed, match=r"printed no JSON object, .*; \{ pattern = '...' \} in place of"
    ) as error:
        measured(tmp_path, output)
    assert error.value.detail == output
    with pytest.raises(EvaluationFailed, match=r"^the benchmark command wrote no \{result\} and printed no JSON$"):
        measured(tmp_path, output, command=("bench", "--output={result}"))
    with pytest.raises(EvaluationFailed, match=r"wrote no result file /.*/gone\.json$"):
        measured(tmp_path, json.dumps(OUTPUT), result_file=f"{tmp_path}/gone.json")
    (tmp_path / "bad.json").write_text(output)
    with pytest.raises(EvaluationFailed, match=r"result file bad\.json holds no JSON"):
        measured(tmp_path, json.dumps(OUTPUT), result_file=f"{tmp_path}/bad.json")


_REQUESTS = {**OUTPUT, "requests": [{"output_throughput": 7.0, "itl": [0.5] * 9}] * 9}


@pytest.mark.parametrize(
    ("output", "kept"),
    [
        (json.dumps(_REQUESTS, indent=1), 400),
        (json.dumps(_REQUESTS, indent=0), 400),
        (json.dumps([_REQUESTS], indent=2) + "\nsaved", 400),
        (json.dumps(_REQUESTS["requests"]).replace("}, ", "},\n"), 400),
        (json.dumps({"requests": [OUTPUT]}), len(json.dumps([OUTPUT]) + "}") - 1),
        (json.dumps(_REQUESTS), 400),
        ("log\n" * 99, 100),
    ],
    ids=["indented", "not indented", "in a list", "a list of lines", "cut at a brace", "one line", "no JSON"],
)
def test_a_part_of_a_result_whose_beginning_is_lost_is_no_result(output: str, kept: int, tmp_path: Path) -> None:
    told = (
        "the benchmark command printed more than 1 MB, of which the beginning is not kept, and in the rest no result "
        "is whole: let it write its result into a file, {result} or that of result_file"
    )
    with pytest.raises(EvaluationFailed) as error:
        measured(tmp_path, output[-kept:], cut=True)
    assert error.value.cause == told


@pytest.mark.parametrize("indent", [None, 0, 1])
@pytest.mark.parametrize("end", ["", "\n[INFO] done\n", "\nsaved, {1}"])
def test_a_result_that_is_whole_is_found_behind_a_lost_beginning(indent: int | None, end: str, tmp_path: Path) -> None:
    output = f'{{"output_throughput": 1}}], "x": 2}}\nlog\n{json.dumps(_REQUESTS, indent=indent)}{end}'
    assert measured(tmp_path, output, cut=True)["output_throughput"] == 100.0
    (tmp_path / "benchmark.json").write_text(json.dumps({**OUTPUT, "output_throughput": 5.0}))
    assert measured(tmp_path, "}]", cut=True)["output_throughput"] == 5.0


@pytest.mark.parametrize("where", ["stdout", "file"])
@pytest.mark.parametrize(
    ("output", "told"),
    [
        ('{"output_throughput": 1' + 400 * "0" + "}", "is 1000.*, not a finite number$"),
        (100_000 * '{"a":', "nested too deeply$"),
        ("ready\n" + 100_000 * '{"a":', "nested too deeply$"),
        (900 * '{"a":' + "1" + 900 * "}", "has no 'output_throughput'"),
    ],
    ids=["400 digits", "deep", "deep behind a log", "deep with no such key"],
)
def test_a_result_that_cannot_be_read_fails_the_evaluation(output: str, told: str, where: str, tmp_path: Path) -> None:
    if where == "file":
        (tmp_path / "benchmark.json").write_text(output)
    with pytest.raises(EvaluationFailed, match=told):
        measured(tmp_path, output, metrics={"output_throughput": "output_throughput"})


def test_a_result_too_large_for_a_node_under_test_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "benchmark.json").open("wb") as file:
        file.truncate(MAX_RESULT + 1)
    with pytest.raises(EvaluationFailed, match=r"benchmark\.json has 64 MiB, more than the 64 MiB that are read$"):
        measured(tmp_path, "")


@pytest.mark.parametrize("before", ["{'a': 1}\n", '{"a" 1}\n', "{\nx\n", '{"a":\nx\n', '{"a": "x\n'])
def test_a_result_behind_a_long_log_is_found_in_time(before: str) -> None:
    """If the time grew with the square of the length, it would take half a minute and more."""
    log = before * (1_000_000 // len(before))
    started = time.process_time()
    assert last_json(f"{log}{json.dumps(OUTPUT, indent=1)}\nend") == OUTPUT
    assert time.process_time() - started < 15


@given(st.dictionaries(st.text(max_size=900), st.floats() | st.none() | st.booleans() | st.text(max_size=900)))
def test_a_table_is_found_wherever_its_slices_end(table: dict[str, Any]) -> None:
    assert repr(last_json(f"log\n{json.dumps(table)}\nend")) == repr(table)


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ({"completed": -5, "failed": 5}, "measured nothing: its completed is -5$"),
        ({"completed": 3, "failed": -1}, "measured nothing: its failed is -1$"),
        ({"ttft_p99_ms": -1.0, "output_throughput": 5}, "measured nothing: its ttft_p99_ms is -1$"),
        ({"completed": 0, "output_throughput": 0.0, "ttft_p99_ms": 0.0}, "completed no request"),
        ({"completed": 3, "failed": 2}, "^2 of 5 requests failed$"),
        ({"failed": 2}, "^2 requests failed$"),
        ({"ttft_p99_ms": 0.0, "output_throughput": 5}, "measured nothing: its ttft_p99_ms is 0"),
        ({"output_throughput": 0}, "measured nothing: its output_throughput is 0"),
    ],
)
def test_zeros_are_not_measurements(result: dict[str, float], told: str, tmp_path: Path) -> None:
    """``vllm bench serve`` ends with exit code 0 and latencies of 0 ms when no request was served."""
    with pytest.raises(EvaluationFailed, match=told):
        measured(tmp_path, json.dumps(result), metrics={name: name for name in result})


def test_requests_that_were_not_completed_have_failed_where_the_result_does_not_tell(tmp_path: Path) -> None:
    """The result of SGLang's benchmark has no key for them."""
    output = json.dumps({"completed": 9, "output_throughput": 90.0})
    counted = {"metrics": {"completed": "completed", "output_throughput": "output_throughput"}, "requests": 24}
    with pytest.raises(EvaluationFailed, match=r"^15 of 24 requests failed$"):
        measured(tmp_path, output, **counted)
    assert measured(tmp_path, output, **counted, min_success_rate=0.3)["failed"] == 15
    with pytest.raises(EvaluationFailed, match=r"completed 9 requests, more than benchmark\.requests = 8 says"):
        measured(tmp_path, output, **{**counted, "requests": 8})


def test_what_was_sent_and_has_not_failed_was_completed_where_the_result_does_not_tell(tmp_path: Path) -> None:
    """As of programs whose count of requests includes those that failed."""
    metrics = {name: name for name in ("sent", "failed", "output_throughput")}
    result = {"sent": 20, "failed": 10, "output_throughput": 90.0}
    half = measured(tmp_path, json.dumps(result), metrics=metrics, min_success_rate=0.5)
    assert half == {**result, "completed": 10}
    assert measured(tmp_path, json.dumps(result), metrics=metrics, requests=20, min_success_rate=0.5) == half
    for failed, told in (
        (11, "^11 of 20 requests failed$"),
        (20, "completed no request"),
        (21, "its completed is -1$"),
    ):
        with pytest.raises(EvaluationFailed, match=told):
            measured(tmp_path, json.dumps(result | {"failed": failed}), metrics=metrics, min_success_rate=0.5)
    with pytest.raises(EvaluationFailed, match="has no 'sent'"):
        measured(tmp_path, json.dumps({"failed": 0, "output_throughput": 9.0}), metrics=metrics)
    own = {**metrics, "completed": "sent"}
    assert measured(tmp_path, json.dumps(result), metrics=own, min_success_rate=0.5)["completed"] == 20
    told = config(requests=32, metrics=metrics, command=("bench",))
    limited = {"maximize": "output_throughput", "slo": ({"metric": "completed", "min": 9.0},)}
    told = told.model_copy(update={"objective": ObjectiveSection.model_validate(limited)})
    assert list(CLIENTS.create("command").problems(told)) == []


def test_requests_that_were_never_sent_are_told(tmp_path: Path) -> None:
    """AISBench's synthetic dataset has 10 requests, whatever ``--num-prompts`` says."""
    metrics = {name: name for name in ("completed", "failed", "output_throughput")}
    result = {"completed": 10, "failed": 0, "output_throughput": 90.0}
    assert measured(tmp_path, json.dumps(result), metrics=metrics, requests=10) == result
    told = r"^the benchmark completed 10 requests and 0 failed, but benchmark\.requests = 256 says how many it sends$"
    with pytest.raises(EvaluationFailed, match=told):
        measured(tmp_path, json.dumps(result), metrics=metrics, requests=256)
    half = json.dumps(result | {"failed": 10})
    assert measured(tmp_path, half, metrics=metrics, requests=20, min_success_rate=0.5)["failed"] == 10


def test_failures_that_are_told_only_if_there_are_any_are_counted_otherwise(tmp_path: Path) -> None:
    """AIPerf's ``error_request_count`` is such a key; the one that is most like it counts what was completed."""
    result = {"request_count": {"avg": 12.0}, "rate": {"avg": 5.0}}
    metrics = {
        "output_throughput": "rate.avg",
        "completed": {"key": "request_count.avg"},
        "failed": "error_request_count.avg",
    }
    with pytest.raises(EvaluationFailed) as error:
        measured(tmp_path, json.dumps(result), metrics=metrics)
    assert error.value.cause == (
        "the benchmark's result has no 'error_request_count.avg' (if it tells of failures only when there are any, "
        "leave failed out of benchmark.metrics and say benchmark.requests = how many are sent)"
    )
    with pytest.raises(EvaluationFailed, match=r"did you mean 'error_requests\.avg'\? \(if it tells of failures only"):
        measured(tmp_path, json.dumps(result | {"error_requests": {"avg": 1}}), metrics=metrics)
    del metrics["failed"]
    assert measured(tmp_path, json.dumps(result), metrics=metrics, requests=12)["failed"] == 0


def test_what_is_counted_may_be_limited(tmp_path: Path) -> None:
    limit = {"metric": "failed", "max": 0}
    objective = ObjectiveSection.model_validate({"maximize": "output_throughput", "slo": (limit,)})
    client = CLIENTS.create("command")
    (line,) = client.problems(config().model_copy(update={"objective": objective}))
    assert line.startswith("benchmark.metrics: failed is needed by the objective")
    assert list(client.problems(config(requests=9).model_copy(update={"objective": objective}))) == []


def test_some_zeros_are() -> None:
    result = {"completed": 4, "failed": 0, "tpot_mean_ms": 0.0, "itl_p50_ms": 0.0, "own": 0}
    assert measured(Path("/nowhere"), json.dumps(result), metrics={name: name for name in result}) == result


def test_but_not_of_what_is_optimised(tmp_path: Path) -> None:
    """What ``vllm bench serve`` reports when every request failed, where only this key is read."""
    told = config(metrics={"tpot_mean_ms": "tpot"}).model_copy(
        update={"objective": ObjectiveSection(minimize="tpot_mean_ms")}
    )
    with pytest.raises(EvaluationFailed, match="measured nothing: its tpot_mean_ms is 0"):
        CLIENTS.create("command").metrics(told, target(tmp_path), done(json.dumps({"tpot": 0.0})))
    several_at_once = {"itl_p50_ms": 0.0, "itl_p90_ms": 0.02, "itl_mean_ms": 31.0}
    for name in several_at_once:
        assert require_measured(several_at_once, wanted=(name,)) == several_at_once


def test_nor_are_times_between_tokens_that_came_all_at_once() -> None:
    """What is seen through a proxy that holds a stream back: how fast the client reads what is there."""
    at_once = {"ttft_mean_ms": 532.0, "tpot_mean_ms": 0.0543, "tpot_p99_ms": 0.06, "itl_p99_ms": 0.0}
    assert require_measured(at_once, wanted=("ttft_mean_ms",)) == at_once
    for name in ("tpot_mean_ms", "tpot_p99_ms"):
        told = rf"^the benchmark's {name} is 0\.0\d+, less than any service takes: tokens came all at once"
        with pytest.raises(EvaluationFailed, match=told):
            require_measured(at_once, wanted=(name,))
    fast = {"tpot_mean_ms": 0.2, "itl_p99_ms": 0.3, "itl_p50_ms": 0.02}
    assert require_measured(fast, wanted=tuple(fast)) == fast


def test_the_command_is_filled_with_the_target(tmp_path: Path) -> None:
    words = ("bench", "{base_url}", "{host}", "{port}", "{model}", "{seed}", "{result}", "{result_dir}", "{n}")
    line = CLIENTS.create("command").command(config(command=words), target(tmp_path, 99, "m"))
    told = [
        "bench",
        "http://127.0.0.1:99",
        "127.0.0.1",
        "99",
        "m",
        "42",
        f"{tmp_path}/benchmark.json",
        f"{tmp_path}",
        "5",
    ]
    assert line == told


def test_the_model_is_the_service_s_where_its_engine_knows_no_name_for_it(tmp_path: Path) -> None:
    named = config(command=("bench", "{model}"))
    here = replace(target(tmp_path), unlisted="/models/m")
    client = CLIENTS.create("command")
    assert client.command(named, here) == ["bench", "/models/m"]
    assert client.command(named, replace(here, model="alias")) == ["bench", "alias"]


def test_mistakes_are_told() -> None:
    def problems(**benchmark: Any) -> list[str]:
        told = config(**benchmark)
        return list(CLIENTS.create(told.benchmark.client).problems(told))

    def told_in(work_dir: str, **benchmark: Any) -> list[str]:
        told = config(**benchmark)
        service = told.service.model_copy(update={"work_dir": work_dir})
        return list(CLIENTS.create("command").problems(told.model_copy(update={"service": service})))

    assert problems() == []
    missing = problems(command=(), metrics={})
    assert [line.split(":")[0] for line in missing] == ["benchmark.command", "benchmark.metrics"]
    assert problems(command=("x", "{prot}"))[0].startswith(
        "benchmark.command: unknown placeholder {prot}; did you mean 'port'?"
    )
    (line,) = problems(result_file="{result_dir}/{sed}.json")
    assert line.startswith("benchmark.result_file: unknown placeholder {sed}; did you mean 'seed'?")
    (line,) = problems(result_file="out-{port}.json")
    assert line.startswith("benchmark.result_file: out-{port}.json can be the same for two groups")
    for own in ("out-{seed}.json", "{result}", "{result_dir}/*.json", ("{result}", "{result_dir}/**/*.csv")):
        assert problems(result_file=own) == []
    assert config(result_file="x").benchmark == config(result_file=("x",)).benchmark
    assert config(result_file="").benchmark.result_file == ()
    (line,) = problems(result_file=("{result}", "out.json"))
    assert line.startswith("benchmark.result_file: out.json can be the same for two groups")
    (line,) = problems(min_success_rate=0.9)
    assert line.startswith("benchmark.min_success_rate: has no effect unless")
    assert problems(min_success_rate=0.9, metrics={**METRIC_MAP, "failed": "failed"}) == []
    (line,) = problems(min_success_rate=0.9, metrics={"output_throughput": "x"})
    assert line.startswith("benchmark.min_success_rate: has no effect unless")
    assert problems(min_success_rate=0.9, requests=9) == problems(requests=32) == []
    assert problems(requests=32, metrics={**METRIC_MAP, "failed": "failed"}) == []
    assert problems(metrics={**METRIC_MAP, "duration": {"key": "t", "unit": "days"}}) == [
        "benchmark.metrics: unit = 'days', and duration takes ns, us, ms, s, min or h"
    ]
    (line,) = problems(metrics={**METRIC_MAP, "own": {"pattern": "(.*)", "unit": "ms"}})
    assert line == "benchmark.metrics: unit = 'ms', and own takes token/s, req/s, % or, named ..._ms, a time"
    (line,) = problems(requests=32, metrics={"output_throughput": "x"})
    assert line.startswith("benchmark.requests = 32: ") and line.endswith("nor those of sent and failed")
    assert [line.split(":")[0] for line in problems(keep_alive=False)] == ["benchmark.keep_alive"]
    assert [line.split(":")[0] for line in problems(goodput={"ttft_ms": 9})] == ["benchmark.goodput"]
    assert [line.split(":")[0] for line in problems(request_timeout=5.0)] == ["benchmark.request_timeout"]
    assert [line.split(":")[0] for line in problems(api_key_env="PATH")] == ["benchmark.api_key_env"]
    assert problems(command=("sh", "-c", "bench {result} {model} {n}")) == []
    folder = told_in("/a b", command=("sh", "-c", "bench > {result_dir}/log"))
    assert [line.partition(" apart")[0] for line in folder] == [
        "benchmark.command: sh would take {result_dir} = '/a b'"
    ]
    assert problems(client="openai", metrics={}) == [
        "benchmark.command: belongs to client = 'command', not to 'openai'"
    ]


# --- quality ---


CHECK = {"command": ("check", "{base_url}"), "metrics": {"accuracy": "acc"}}
LM_EVAL = {
    "results": {
        "gsm8k": {
            "alias": "gsm8k",
            "exact_match,strict-match": 0.0,
            "exact_match_stderr,strict-match": "N/A",
            "exact_match,flexible-extract": 0.25,
        },
        "leaderboard_v1.5": {"acc_norm,none": -0.125, "bits_per_byte,none": math.nan},
    },
    "configs": {"gsm8k": {"metric_list": [{"metric": "exact_match"}]}},
}
"""What lm_eval writes: keys with commas, names with dots, and ``N/A`` where a figure is missing."""


def checked(more: dict[str, Any] | None = None, **quality: Any) -> Config:
    data = config().model_dump(exclude_none=True) | {"quality": {**CHECK, **quality}}
    return Config.model_validate(data | (more or {}))


def test_a_check_of_answers_may_find_any_number(tmp_path: Path) -> None:
    keys = {
        "strict": "results.gsm8k.exact_match,strict-match",
        "flexible": {"key": "results.gsm8k.exact_match,flexible-extract", "unit": "%"},
        "normed": "results.leaderboard_v1.5.acc_norm,none",
        "bits": "results.leaderboard_v1.5.bits_per_byte,none",
        "spread": "results.gsm8k.exact_match_stderr,strict-match",
        "printed": {"pattern": r"gsm8k\|(-?[\d.]+)"},
    }
    written = tmp_path / "models__m" / "results_2026-11-28T18-58-42.123456.json"
    written.parent.mkdir()
    written.write_text(json.dumps(LM_EVAL, indent=2))
    told = checked(metrics=keys, result_file="{result_dir}/**/results_*.json")
    found = QualityClient().metrics(told, target(tmp_path), done("gsm8k|-0.5|"))
    assert found == {"strict": 0.0, "flexible": 0.25, "normed": -0.125, "printed": -0.5}


@pytest.mark.parametrize(("name", "why"), [("bits", "is nan, not a finite number"), ("other", "has no 'x'")])
def test_what_the_objective_needs_of_it_has_to_be_a_finite_number(name: str, why: str, tmp_path: Path) -> None:
    limited = {"objective": {"maximize": "output_throughput", "slo": ({"metric": name, "min": 0.5},)}}
    keys = {"bits": "results.leaderboard_v1.5.bits_per_byte,none", "other": "x"}
    output = done(json.dumps(LM_EVAL))
    assert QualityClient().metrics(checked(metrics=keys), target(tmp_path), output) == {}
    with pytest.raises(EvaluationFailed, match=why):
        QualityClient().metrics(checked(limited, metrics=keys), target(tmp_path), output)


def test_mistakes_in_it_are_told_like_those_in_a_benchmark() -> None:
    def problems(**quality: Any) -> list[str]:
        return list(QualityClient().problems(checked(**quality)))

    assert problems() == list(QualityClient().problems(config())) == []
    assert problems(command=()) == ["quality.command: is required"]
    assert problems(metrics={}) == ['quality.metrics: is required: a table of metric = "key.in.its.result"']
    (line,) = problems(metrics={"a": {"key": "x", "unit": "MB"}})
    assert line.startswith("quality.metrics: unit = 'MB', and a takes")
    assert problems(command=("x", "{prot}"))[0].startswith(
        "quality.command: unknown placeholder {prot}; did you mean 'port'?"
    )
    (line,) = problems(result_file="out.json")
    assert line.startswith("quality.result_file: out.json can be the same for two groups")
    assert "quality" not in CLIENTS.names()


def test_what_it_finds_is_not_asked_of_the_benchmark() -> None:
    limited = {"objective": {"maximize": "output_throughput", "slo": ({"metric": "accuracy", "min": "baseline"},)}}
    told = checked(limited)
    assert list(CLIENTS.create("command").problems(told)) == []
    quick = told.model_copy(update={"benchmark": Benchmark(client="openai")})
    assert list(CLIENTS.create("openai").problems(quick)) == []


def in_readme(word: str, rest: str = "") -> Config:
    """The block of README that has this word, with what it leaves out."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (block,) = [text for text in re.findall(r"(?s)```toml\n(.*?)```", readme) if word in text]
    service = '[service]\nengine = "vllm"\nmodel = "/models/m"\n'
    parameter = '[[parameters]]\nname = "kv_cache_dtype"\ntype = "choice"\nchoices = ["auto", "fp8"]\n'
    told = f"{service}{block}{rest}{parameter}default = 'auto'\n"
    return parse(told, "README.md", engines=("vllm",), clients=CLIENTS.names())


def test_what_wrk_says_of_lost_connections_is_found_as_the_readme_shows(tmp_path: Path) -> None:
    told = in_readme("exec wrk")
    assert list(CLIENTS.create("command").problems(told)) == []
    script = CLIENTS.create("command").command(told, target(tmp_path))[-1]
    zeros = "".join(f"{line.strip()[5:]}\n" for line in script.splitlines() if "echo" in line)
    errors = "  Socket errors: connect 0, read 357, write 0, timeout 2\n"
    wrk = (
        "Running 3s test @ http://127.0.0.1:1/v1/completions\n"
        "    Latency    83.85ms    9.87ms 128.28ms   94.32%\n"
        "     99%  120.50ms\n"
        "  352 requests in 3.01s, 122.03KB read\n{errors}"
        "Requests/sec:    116.84\n"
    )
    counted = {"sent": 352.0, "completed": 352.0, "failed": 0.0, "request_throughput": 116.84, "e2e_p99_ms": 120.5}
    client, aim = CLIENTS.create("command"), target(tmp_path)
    whole = client.metrics(told, aim, done(zeros + wrk.format(errors="")))
    assert whole == {**counted, "read_errors": 0.0, "timeouts": 0.0}
    lost = client.metrics(told, aim, done(zeros + wrk.format(errors=errors)))
    assert lost == {**counted, "read_errors": 357.0, "timeouts": 2.0}
    refused = zeros + wrk.format(errors="  Non-2xx or 3xx responses: 352\n")
    with pytest.raises(EvaluationFailed, match=r"^the benchmark completed no request$"):
        client.metrics(told, aim, done(refused))


def test_the_row_of_all_tasks_of_locust_is_found_as_the_readme_shows(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (pattern,) = re.findall(r"\{ pattern = '(\^,Aggregated.*?)' \}", readme)
    (tmp_path / "r_stats.csv").write_text(
        "Type,Name,Request Count,Failure Count,Median,Average,Min,Max,Average Content Size,Requests/s,Failures/s,50%\n"
        "POST,/v1/completions,45,0,130,126.9,84.3,150.5,196.0,23.25,0.0,130\n"
        "POST,/v1/chat/completions,45,0,130,126.9,84.3,150.5,196.0,20.25,0.0,130\n"
        ",Aggregated,90,0,130,126.9,84.3,150.5,196.0,43.5,0.0,130\n"
    )
    mapped = {"result_file": "{result_dir}/r_stats.csv", "metrics": {"output_throughput": {"pattern": pattern}}}
    assert measured(tmp_path, "", **mapped) == {"output_throughput": 43.5}


def test_the_check_of_answers_that_the_readme_shows(tmp_path: Path) -> None:
    rest = '[benchmark]\nclient = "openai"\n[objective]\nmaximize = "output_throughput"\n'
    told = in_readme("lm_eval", rest)
    assert list(QualityClient().problems(told)) == []
    words = QualityClient().command(told, target(tmp_path, model="m"))
    assert words[-2:] == ["--output_path", str(tmp_path)]
    assert "model=m,base_url=http://127.0.0.1:1/v1/completions,num_concurrent=32" in words
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "results_2026-11-28T18-58-42.123456.json").write_text(json.dumps(LM_EVAL))
    assert QualityClient().metrics(told, target(tmp_path), done()) == {"accuracy": 0.0}


def load_of(*parameters: dict[str, Any], maximize: str = "output_throughput", **benchmark: Any) -> Config:
    data = config().model_dump(exclude_none=True)
    data |= {"benchmark": {"client": "openai", **benchmark}, "objective": {"maximize": maximize}}
    return Config.model_validate(data | {"parameters": (*data["parameters"], *parameters)})


def test_settings_of_the_load_may_be_those_of_the_configuration(tmp_path: Path) -> None:
    client = CLIENTS.create("openai")
    sent = {"name": "sent", "type": "int", "expression": "4 * n"}
    told = load_of(sent, requests="{sent}", concurrency="{n}")
    assert list(client.problems(told)) == []
    measured = replace(target(tmp_path), values={"n": 5, "sent": 20})
    words = loadgen_words(told, measured)
    assert words[words.index("--requests") :][:2] == ["--requests", "20"]
    assert words[words.index("--concurrency") :][:2] == ["--concurrency", "5"]
    rate = {"name": "rate", "type": "float", "min": 0.5, "max": 9.0}
    words = loadgen_words(load_of(rate, request_rate="{rate}"), replace(measured, values={"n": 5, "rate": 2.5}))
    assert words[words.index("--request-rate") :][:2] == ["--request-rate", "2.5"]
    assert words[words.index("--requests") :][:2] == ["--requests", "32"]


def test_another_program_is_told_each_load_of_a_sweep(tmp_path: Path) -> None:
    client = CLIENTS.create("command")
    swept: dict[str, Any] = {"concurrency": (4, 8), "requests": (16, 32), "metrics": {**METRIC_MAP, "failed": "failed"}}
    told = config(command=("bench", "-c", "{concurrency}", "-n", "{requests}", "-s", "{n}"), **swept)
    assert list(client.problems(told)) == []
    assert [client.command(told, target(tmp_path, load=load)) for load in told.benchmark.loads({})] == [
        ["bench", "-c", "4", "-n", "16", "-s", "5"],
        ["bench", "-c", "8", "-n", "32", "-s", "5"],
    ]
    assert list(client.problems(config(**swept))) == [
        "benchmark.requests: lists several values, so benchmark.command has to say {requests}",
        "benchmark.concurrency: lists several values, so benchmark.command has to say {concurrency}",
    ]
    one = config(command=("bench", "{concurrency}", "{requests}"), concurrency=(4, 8), requests=9)
    one = one.model_copy(update={"benchmark": one.benchmark.model_copy(update={"metrics": {"output_throughput": "x"}})})
    assert list(client.problems(one)) == []
    (load, _) = one.benchmark.loads({})
    assert client.command(one, target(tmp_path, load=load)) == ["bench", "4", "9"]
    assert client.metrics(one, target(tmp_path, load=load), done('{"x": 5}')) == {"output_throughput": 5}
    most = config(command=("bench", "{concurrency}"), concurrency=(4, 8))
    most = most.model_copy(update={"objective": ObjectiveSection(maximize="concurrency")})
    assert list(client.problems(most)) == []


def test_another_program_may_be_told_how_many_requests_to_send(tmp_path: Path) -> None:
    assert measured(tmp_path, json.dumps(OUTPUT), requests="{n}", min_success_rate=0.5)["failed"] == 2
    with pytest.raises(EvaluationFailed, match=r"^2 of 5 requests failed"):
        measured(tmp_path, json.dumps(OUTPUT), requests="{n}")


@pytest.mark.parametrize(
    ("parameter", "benchmark", "told"),
    [
        ({"type": "int", "min": 0, "max": 9}, {"requests": "{x}"}, "requests = '{x}': the values of parameter 'x'"),
        ({"type": "float", "min": 1, "max": 9}, {"concurrency": "{x}"}, "should be whole numbers from 1"),
        ({"type": "float", "min": 0, "max": 9}, {"request_rate": "{x}"}, "should be numbers above 0"),
        ({"type": "bool"}, {"requests": "{x}"}, "should be whole numbers from 1"),
        ({"type": "choice", "choices": (8, "max")}, {"concurrency": "{x}"}, "should be whole numbers from 1"),
        ({"type": "choice", "choices": (8, 0)}, {"concurrency": "{x}"}, "should be whole numbers from 1"),
        ({"type": "bool"}, {"concurrency": "{y}"}, "benchmark.concurrency: unknown placeholder {y}; known are: n, x"),
        ({"type": "choice", "choices": (8, 16)}, {"concurrency": "{x}"}, ""),
        ({"type": "choice", "choices": (0.5, 16)}, {"request_rate": "{x}"}, ""),
        ({"type": "int", "ratio_of": "n", "min": 0.1, "max": 2}, {"concurrency": "{x}"}, ""),
        ({"type": "float", "expression": "n / 2"}, {"request_rate": "{x}"}, ""),
        ({"type": "choice", "expression": "n / 2"}, {"concurrency": "{x}"}, "should be whole numbers from 1"),
    ],
)
def test_a_setting_of_the_load_needs_a_parameter_that_fits(
    parameter: dict[str, Any], benchmark: dict[str, Any], told: str
) -> None:
    found = list(CLIENTS.create("openai").problems(load_of({"name": "x", **parameter}, **benchmark)))
    assert len(found) == bool(told)
    assert not told or told in found[0]


def test_goodput_needs_to_be_told_which_requests_count(tmp_path: Path) -> None:
    client = CLIENTS.create("openai")
    (line,) = client.problems(load_of(maximize="request_goodput"))
    assert line.startswith("benchmark.goodput: is required for request_goodput")
    told = load_of(maximize="request_goodput", goodput={"ttft_ms": 500, "tpot_ms": 12.5})
    assert list(client.problems(told)) == []
    words = loadgen_words(told, target(tmp_path))
    assert words[words.index("--goodput") :][:3] == ["--goodput", "ttft:500", "tpot:12.5"]


@pytest.mark.parametrize(
    ("program", "written", "said"),
    [
        ('["vllm", "bench"', ("--result-filename", "benchmark.json"), "--model /models/m "),
        ('["vllm", "bench"', ("--result-filename", "benchmark.json"), "--temperature 0 "),
        ('"ais_bench", "aisbench.py"', ("--work-dir", ""), "AIS_PORT=1 AIS_MODEL=/models/m "),
    ],
)
def test_a_benchmark_that_the_readme_shows_is_a_valid_one(
    program: str, written: tuple[str, str], said: str, tmp_path: Path
) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (block,) = [
        text for text in re.findall(r"(?s)```toml\n(.*?)```", readme) if program in text and "[benchmark]" in text
    ]
    rest = """
        [service]
        engine = "command"
        command = ["vllm", "serve", "{model}", "--port", "{port}"]
        model = "/models/m"
        [objective]
        maximize = "output_throughput"
        [[parameters]]
        name = "max_num_seqs"
        type = "int"
        min = 1
        max = 256
        flag = "--max-num-seqs"
    """
    told = parse(block + rest, "README.md", engines=("command",), clients=CLIENTS.names())
    client = CLIENTS.create("command")
    assert list(client.problems(told)) == []
    assert set(told.benchmark.metrics) <= set(METRICS)
    words = client.command(told, replace(target(tmp_path), unlisted="/models/m"))
    assert Path(words[words.index(written[0]) + 1]) == tmp_path / written[1]
    assert said in " ".join(words)


# --- openai ---


class Service:
    """The tiny service in a thread; ``replace`` may change how it answers."""

    def __init__(self, **options: Any) -> None:
        self.server = Server("127.0.0.1", 0, **options)
        self.port = int(self.server.server_address[1])
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def service() -> Iterator[Callable[..., Service]]:
    made: list[Service] = []

    def make(**options: Any) -> Service:
        made.append(Service(**options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def probe(aim: Target, timeout: float = 10.0) -> None:
    asyncio.run(CLIENTS.create("openai").probe(aim, timeout))


def test_a_service_that_only_chats_is_asked_so(service: Callable[..., Service], tmp_path: Path) -> None:
    port = service(only=CHATS).port
    with pytest.raises(NotReady, match="HTTP 404"):
        probe(target(tmp_path, port))
    aim = target(tmp_path, port, endpoint=CHATS)
    probe(aim)
    chat = config(client="openai", command=(), metrics={}, requests=3, output_tokens=4, endpoint=aim.endpoint)
    client = CLIENTS.create("openai")
    subprocess.run(loadgen_words(chat, aim), check=True, timeout=60)
    metrics = client.metrics(chat, aim, done())
    assert (metrics["completed"], metrics["failed"]) == (3.0, 0.0)


@pytest.mark.parametrize("close", [False, True])
def test_a_service_that_gives_a_token_is_ready(service: Callable[..., Service], close: bool, tmp_path: Path) -> None:
    port = service(model="tiny").port
    probe(target(tmp_path, port, "tiny", close))
    probe(target(tmp_path, port, "", close))


def test_another_model_is_refused_for_good(service: Callable[..., Service], tmp_path: Path) -> None:
    with pytest.raises(EvaluationFailed, match="the service serves other, not tiny"):
        probe(target(tmp_path, service(model="other").port, "tiny"))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"choices": [{"text": ""}]}, "answered without a token"),
        ({"choices": []}, "answered without a token"),
        ([], "answered without a token"),
        ({"choices": [{"text": ""}], "usage": {"completion_tokens": 0}}, "answered without a token"),
        ({"choices": [{"text": "internal error happened", "finish_reason": "error"}]}, "without a token: .*internal"),
        ({"choices": [{"text": " a", "finish_reason": "length"}]}, None),
        ({"choices": [{"text": ""}], "usage": {"completion_tokens": 1}}, None),
        ({"choices": [{"text": " a"}]}, None),
    ],
)
def test_an_answer_must_hold_a_token(
    service: Callable[..., Service], answer: Any, told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "do_POST", lambda self: self.answer(200, answer))
    aim = target(tmp_path, service().port)
    if told is None:
        probe(aim)
    else:
        with pytest.raises(NotReady, match=told):
            probe(aim)


@pytest.mark.parametrize("listed", [[], {"data": None}, {"data": [{}]}, {"data": [3]}, {}, "text"])
def test_a_list_of_models_that_is_none_does_not_matter(
    service: Callable[..., Service], listed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.answer(200, listed))
    probe(target(tmp_path, service().port, "tiny"))


def test_the_user_s_name_of_the_model_is_used_unless_only_others_are_listed(
    service: Callable[..., Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy may have no list, and yet refuse a request without the model's name; a router lists several."""
    asked: list[Any] = []

    def answer(handler: Handler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        asked.append(body.get("model"))
        handler.answer(200, {"choices": [{"text": " a"}]})

    monkeypatch.setattr(Handler, "do_POST", answer)
    aim = replace(target(tmp_path, service(model="listed").port), unlisted="mine")
    told = config(client="openai", command=(), metrics={}, requests=1, warmup=0)

    def names() -> list[Any]:
        asked.clear()
        probe(aim)
        subprocess.run(loadgen_words(told, aim), check=True, timeout=60)
        return asked

    assert names() == ["listed", "listed"]
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.answer(404, {}))
    assert names() == ["mine", "mine"]
    several = {"data": [{"id": "another"}, {"id": "mine"}]}
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.answer(200, several))
    assert names() == ["mine", "mine"]


def say(handler: Handler, status: int, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


@pytest.mark.parametrize("method", ["do_GET", "do_POST"])
def test_an_answer_nested_too_deeply_is_none(
    service: Callable[..., Service], method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, method, lambda self: say(self, 200, 100_000 * b"["))
    aim = target(tmp_path, service().port)
    if method == "do_GET":
        probe(aim)
    else:
        with pytest.raises(NotReady, match=r"answered without a token: \[{1000}$"):
            probe(aim)


@pytest.mark.parametrize("method", ["do_GET", "do_POST"])
def test_an_answer_without_an_end_is_not_read_to_the_last(
    service: Callable[..., Service], method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            while True:
                handler.wfile.write(65536 * b"x")

    monkeypatch.setattr(Handler, method, answer)
    aim = target(tmp_path, service().port, "tiny")
    if method == "do_GET":
        probe(aim)
    else:
        with pytest.raises(NotReady, match=r"answered without a token: x{1000}$"):
            probe(aim)


def test_another_service_is_not_measured_in_its_place(
    service: Callable[..., Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = f"http://127.0.0.1:{service().port}"
    asked: list[str] = []
    honest = Handler.do_POST

    def redirect(handler: Handler) -> None:
        if handler.server is redirecting.server:
            say(handler, 307, b"", Location=other + handler.path)
        else:
            asked.append(handler.path)
            honest(handler)

    redirecting = service()
    monkeypatch.setattr(Handler, "do_GET", redirect)
    monkeypatch.setattr(Handler, "do_POST", redirect)
    aim = target(tmp_path, redirecting.port)
    with pytest.raises(NotReady, match=r"the first request was answered with HTTP 307$"):
        probe(aim)
    with pytest.raises(EvaluationFailed, match=r"completed no request: HTTP 307: \(4\)$"):
        load(aim)
    assert asked == []


def test_a_service_that_is_not_there_yet_is_not_ready(service: Callable[..., Service], tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="the first request was not answered: Cannot connect"):
        probe(target(tmp_path, ports.free_port()))
    with pytest.raises(NotReady, match=r"answered with HTTP 503: .*cannot serve"):
        probe(target(tmp_path, service(status=503).port))
    with pytest.raises(NotReady, match="not answered within 0 s"):
        probe(target(tmp_path, service(token_ms=1000).port), 0.2)


@pytest.mark.parametrize("status", [401, 403])
def test_a_service_that_wants_a_key_is_given_up_at_once(
    service: Callable[..., Service], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handler: Handler) -> None:
        handler.answer(status, {"error": "Unauthorized"})

    monkeypatch.setattr(Handler, "do_GET", refuse)
    monkeypatch.setattr(Handler, "do_POST", refuse)
    with pytest.raises(EvaluationFailed, match=rf'HTTP {status}: {{"error": "Unauthorized"}}; .* sent no API key'):
        probe(target(tmp_path, service().port, "tiny"))


def test_a_service_that_wants_a_key_gets_it_with_every_request(
    service: Callable[..., Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its list of models, too; and the key is in the environment alone."""
    monkeypatch.setenv("LLM_LOGIN", KEY)
    aim = replace(target(tmp_path, service(key=KEY).port, "tiny"), api_key_env="LLM_LOGIN")
    probe(aim)
    assert load(aim)["completed"] == 4
    with pytest.raises(EvaluationFailed, match="the service serves tiny, not other"):
        probe(replace(aim, model="other"))
    words = CLIENTS.create("openai").command(config(client="openai", command=(), metrics={}), aim)
    assert words[words.index("--api-key-env") + 1] == "LLM_LOGIN" and KEY not in " ".join(words)


@pytest.mark.parametrize("key", [KEY, "4711", "a b"])
def test_a_key_that_the_service_quotes_is_hidden(
    service: Callable[..., Service], key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the quotation ends within it."""
    monkeypatch.setenv("LLM_LOGIN", key)
    aim = replace(target(tmp_path, service(key="another").port), api_key_env="LLM_LOGIN")
    with pytest.raises(EvaluationFailed, match=r'key: Bearer \*\*\*"}}; .* of benchmark.api_key_env, LLM_LOGIN,'):
        probe(aim)
    with pytest.raises(EvaluationFailed, match=r"invalid key: Bearer \*\*\*"):
        load(aim)
    monkeypatch.setattr(Handler, "refused", lambda self: say(self, 503, 185 * b"x" + key.encode()) or True)
    with pytest.raises(EvaluationFailed, match=r"503: x{185}\*\*\* \(1\)$"):
        load(aim, requests=1)
    assert key not in aim.result.read_text()
    monkeypatch.setattr(Handler, "refused", lambda self: say(self, 503, 998 * b"x" + key.encode()) or True)
    with pytest.raises(NotReady, match=r"503: x{998}\*\*$"):
        probe(aim)


def load(aim: Target, **benchmark: Any) -> dict[str, float]:
    """Run the real load generator as an evaluation does."""
    quick = {"client": "openai", "requests": 4, "input_tokens": 3, "output_tokens": 2, "warmup": 0}
    told = config(**{"command": (), "metrics": {}, **quick, **benchmark})
    client = CLIENTS.create("openai")
    ended = process.run(loadgen_words(told, aim), timeout=60)
    assert ended.exit_code == 0, ended.stderr
    return dict(client.metrics(told, aim, ended))


def test_a_service_is_measured_in_the_common_vocabulary(service: Callable[..., Service], tmp_path: Path) -> None:
    limits = {"e2e_ms": 60000.0}
    metrics = load(target(tmp_path, service(token_ms=5).port, "tiny"), concurrency=2, goodput=limits)
    assert set(metrics) == set(METRICS)
    assert (metrics["completed"], metrics["failed"]) == (4, 0)
    assert metrics["ttft_p50_ms"] >= 5 and metrics["output_throughput"] > 0
    assert metrics["request_goodput"] == metrics["request_throughput"]


def test_goodput_is_of_no_tokens_that_came_all_at_once(tmp_path: Path) -> None:
    result = {"completed": 4, "failed": 0, "request_goodput": 9.0, "tpot_mean_ms": 0.05}
    aim = target(tmp_path)
    aim.result.write_text(json.dumps(result))
    client = CLIENTS.create("openai")

    def judged(maximize: str, **limits: float) -> dict[str, float]:
        told = config(client="openai", command=(), metrics={}, goodput=limits)
        update = {"objective": ObjectiveSection(maximize=maximize)}
        return dict(client.metrics(told.model_copy(update=update), aim, done()))

    assert judged("request_goodput", ttft_ms=500.0) == judged("completed", tpot_ms=50.0) == result
    with pytest.raises(EvaluationFailed, match=r"tpot_mean_ms is 0\.05, less than any service takes"):
        judged("request_goodput", tpot_ms=50.0)


def test_failed_requests_fail_the_evaluation_with_the_most_frequent_reason(
    service: Callable[..., Service], tmp_path: Path
) -> None:
    served = service()
    number, lock = [0], threading.Lock()

    def fail_the_second_and_third() -> None:
        with lock:
            number[0] += 1
            served.server.status = 500 if number[0] in (2, 3) else 200

    served.server.before = fail_the_second_and_third
    with pytest.raises(EvaluationFailed, match=r"^2 of 4 requests failed: HTTP 500: .*cannot serve.* \(2\)$") as error:
        load(target(tmp_path, served.port), concurrency=1)
    assert error.value.kind == "configuration"
    assert "cannot serve" in error.value.detail


def test_a_service_that_keeps_no_connection_is_told_of(
    service: Callable[..., Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: set[Handler] = set()
    text = b'data: {"choices":[{"text":" a","finish_reason":"length"}],"usage":{"completion_tokens":2}}\n\n'

    def answer(handler: Handler) -> None:
        """There is one handler for each connection."""
        handler.close_connection = handler in served
        if handler not in served:
            handler.rfile.read(int(handler.headers["Content-Length"]))
            say(handler, 200, text)
        served.add(handler)

    monkeypatch.setattr(Handler, "protocol_version", "HTTP/1.1")
    monkeypatch.setattr(Handler, "do_POST", answer)
    aim = target(tmp_path, service().port, "tiny")
    remedy = r"\(\d\); if the service closes a connection after each answer, set benchmark\.keep_alive = false$"
    with pytest.raises(EvaluationFailed, match=rf"^2 of 4 requests failed: .* {remedy}"):
        load(aim, concurrency=1)
    assert load(aim, concurrency=1, keep_alive=False)["completed"] == 4


def test_a_request_that_hangs_is_one_that_failed(service: Callable[..., Service], tmp_path: Path) -> None:
    served = service()
    served.server.handle_error = lambda *_: None
    numbers, released = iter(range(8)), threading.Event()
    served.server.before = lambda: next(numbers) % 4 or released.wait(60)
    limits = {"concurrency": 1, "timeout": 60.0, "request_timeout": 3.0, "min_success_rate": 0.7}
    try:
        metrics = load(target(tmp_path, served.port), **limits)
    finally:
        released.set()
    assert (metrics["completed"], metrics["failed"]) == (3, 1)


def test_a_service_that_serves_nothing_fails_the_evaluation(service: Callable[..., Service], tmp_path: Path) -> None:
    with pytest.raises(EvaluationFailed, match=r"^the benchmark completed no request: HTTP 500: .* \(4\)$"):
        load(target(tmp_path, service(status=500).port))


@pytest.mark.parametrize(
    ("benchmark", "words"),
    [
        ({"concurrency": 3}, ["--concurrency", "3"]),
        ({"request_rate": 2.5}, ["--request-rate", "2.5"]),
        ({"seed": 7}, ["--common-seed", "7"]),
        ({"keep_alive": False}, ["--close"]),
        ({"save_requests": True}, ["--save-requests"]),
        ({"warmup": 7}, ["--warmup", "7"]),
        ({"timeout": 70.0}, ["--timeout", "70.0"]),
        ({"timeout": 70.0, "request_timeout": 7.0}, ["--timeout", "7.0"]),
    ],
)
def test_the_configuration_reaches_the_load_generator(
    benchmark: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    plain = loadgen_words(config(client="openai"), target(tmp_path))
    line = loadgen_words(config(client="openai", **benchmark), target(tmp_path))
    assert " ".join(words) in " ".join(line) and " ".join(words) not in " ".join(plain)
    assert "--seed 42" in " ".join(line) and f"--output {tmp_path}/benchmark.json" in " ".join(line)
    assert "--close" in loadgen_words(config(client="openai"), target(tmp_path, close=True))
    assert "--model m" in " ".join(loadgen_words(config(client="openai"), target(tmp_path, model="m")))


def test_more_connections_than_open_files_are_refused() -> None:
    told: list[tuple[dict[str, Any], str]] = [
        ({"concurrency": 188, "requests": 900}, ""),
        ({"concurrency": 189, "requests": 900}, "benchmark.concurrency = 189: needs"),
        ({"concurrency": 900, "requests": 188}, ""),
        ({"requests": 188}, ""),
        ({"requests": 500}, "benchmark.concurrency: without it 500 at once need"),
        ({"requests": 8, "warmup": 189}, "benchmark.concurrency: without it 189 at once need"),
        ({"requests": 500, "request_rate": 4.0}, ""),
        ({"concurrency": (8, 188)}, ""),
        ({"concurrency": (8, 189)}, "benchmark.concurrency = 189: needs"),
    ]
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (220, 220))\n"
        "from test_clients import CLIENTS, config\n"
        f"for keys in {[keys for keys, _ in told]}:\n"
        "    told = config(client='openai', command=(), metrics={}, **keys)\n"
        "    print(*CLIENTS.create('openai').problems(told))\n"
    )
    folder = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60)
    files = " as many open files and 32 more, but a process may have 220 (ulimit -H -n)"
    assert done.stdout.splitlines() == [problem and problem + files for _, problem in told], done.stderr


@pytest.mark.parametrize("requests", [8, 7])
def test_the_first_part_of_a_load_is_told_while_the_rest_is_under_way(
    requests: int, service: Callable[..., Service], tmp_path: Path
) -> None:
    """A quarter of its requests, rounded up: two of the load, and none of the warm-up before."""
    aim = target(tmp_path)
    asked: list[dict[str, Any] | None] = []

    def note() -> None:
        assert not aim.result.exists()
        asked.append(json.loads(aim.first.read_text()) if aim.first.exists() else None)

    served = service(before=note)
    load(replace(aim, base_url=f"http://127.0.0.1:{served.port}"), requests=requests, warmup=3, **EARLY)
    assert asked[:5] == 5 * [None] and len(asked) == 3 + requests and None not in asked[5:]
    told = asked[5]
    assert told is not None and all(each == told for each in asked[5:])
    assert (told["completed"], told["failed"]) == (2, 0) and told["tokens_per_second"] > 0
    assert json.loads(aim.result.read_text())["completed"] == requests
    assert sorted(file.name for file in tmp_path.iterdir()) == ["benchmark.json", FIRST]


def test_so_it_is_of_an_open_loop(service: Callable[..., Service], tmp_path: Path) -> None:
    """All are under way; only two are answered before that."""
    aim = target(tmp_path)
    number = itertools.count(1)
    told: list[bool] = []

    def two_first() -> None:
        if next(number) > 2:
            deadline = time.monotonic() + 30.0
            while not aim.first.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            told.append(json.loads(aim.first.read_text())["completed"] == 2 and not aim.result.exists())

    served = service(before=two_first)
    aim = replace(aim, base_url=f"http://127.0.0.1:{served.port}")
    metrics = load(aim, requests=8, **{**EARLY, "concurrency": None, "request_rate": 1000.0})
    assert metrics["completed"] == 8 and told == 6 * [True]
    assert json.loads(aim.first.read_text())["tokens_per_second"] > 0


EARLY = {"early_stop": 0.3, "concurrency": 1}


def test_what_is_told_of_the_first_part_is_told_anew(service: Callable[..., Service], tmp_path: Path) -> None:
    aim = target(tmp_path)
    asked: list[int] = []

    def note() -> None:
        asked.append(json.loads(aim.first.read_text())["completed"] if aim.first.exists() else 0)

    served = service(before=note)
    load(replace(aim, base_url=f"http://127.0.0.1:{served.port}"), requests=32, warmup=0, **EARLY)
    assert asked == 4 * [0] + 4 * [4] + 24 * [8]


def test_without_early_stop_there_is_none(service: Callable[..., Service], tmp_path: Path) -> None:
    aim = target(tmp_path, service().port)
    load(aim)
    assert not aim.first.exists()


@pytest.mark.parametrize(
    ("requests", "first"),
    [(1, ["1"]), (4, ["1"]), (5, ["2"]), (25, ["4", "7"]), (256, ["16", "32", "64"]), ("{n}", ["2"])],
)
def test_after_how_many_requests_follows_from_how_many_there_are(
    requests: int | str, first: list[str], tmp_path: Path
) -> None:
    words = loadgen_words(load_of(requests=requests, early_stop=0.3), target(tmp_path))
    assert words[words.index("--first") :][: 1 + len(first)] == ["--first", *first]
    assert "--first" not in loadgen_words(load_of(requests=requests), target(tmp_path))


def test_by_anything_but_throughputs_nothing_is_stopped_early() -> None:
    client = CLIENTS.create("openai")

    def problems(**objective: Any) -> list[str]:
        data = load_of(early_stop=0.3).model_dump(exclude_none=True)
        return list(client.problems(Config.model_validate(data | {"quality": CHECK, "objective": objective})))

    (told,) = problems(maximize="accuracy")
    assert told == (
        "benchmark.early_stop: a quarter of the requests tells too little of accuracy, which the objective hangs on; "
        "it goes with request_throughput, output_throughput, total_throughput and what is derived from these: leave it "
        "out"
    )
    assert problems(maximize="right", derived={"right": "accuracy * output_throughput / n"}) == [told]
    assert problems(minimize="ttft_mean_ms") == [told.replace("accuracy", "ttft_mean_ms")]
    assert problems(maximize="each", derived={"each": "total_throughput / n"}) == []
    assert problems(maximize="output_throughput", slo=({"metric": "accuracy", "min": 0.5},)) == []


def test_a_benchmark_of_the_user_s_own_cannot_be_stopped_early() -> None:
    told = list(CLIENTS.create("command").problems(config(early_stop=0.3)))
    assert told == ["benchmark.early_stop: belongs to client = 'openai', whose figures it takes early: leave it out"]
