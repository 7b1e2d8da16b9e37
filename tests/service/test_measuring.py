"""The benchmark at several loads: which are measured, which counts, and what is kept of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mpipso.config import Config
from mpipso.errors import Cancelled, EvaluationFailed
from mpipso.evaluation import Assignment, Metrics
from mpipso.search.objective import Objective
from mpipso.service.clients.base import CLIENTS, Target
from mpipso.service.local import LocalNode
from mpipso.service.measuring import Measuring
from mpipso.service.node import Share
from mpipso.service.reasons import Reason

ASSIGNMENT = Assignment(3, 1, {"n": 5})
RATE = 'echo "{\\"rate\\": $(($0 * (40 - $0))), \\"ms\\": $((10 * $0))}"'
"""Most is served at 20; a request takes the longer the more there are."""
METRICS = {"output_throughput": "rate", "ttft_p99_ms": "ms"}


def configuration(script: str = RATE, slo: Any = (), **benchmark: Any) -> Config:
    load = {"concurrency": (4, 8, 16, 32), "command": ("sh", "-c", script, "{concurrency}"), "metrics": METRICS}
    return Config.model_validate(
        {
            "service": {"engine": "command", "command": ("serve",)},
            "benchmark": {"client": "command", "timeout": 30.0, **load, **benchmark},
            "objective": {"maximize": "output_throughput", "slo": tuple(slo)},
            "parameters": ({"name": "n", "type": "int", "min": 1, "max": 9, "flag": "-n"},),
        }
    )


class Bench:
    def __init__(self, folder: Path) -> None:
        self.node = LocalNode(Share("here", "127.0.0.1"), work_dir=str(folder))
        self.files: dict[str, bytes] = {}
        self.told: list[str] = []
        self.over = threading.Event()
        self.cut = ""

    def best(self, config: Config) -> Metrics:
        measuring = Measuring(
            self.node,
            config,
            CLIENTS.create("command"),
            lambda line: Reason(0, line),
            self.files,
            self.told.append,
            partial(Objective(config.objective).value, {"n": 5}),
        )
        result = Path(self.node.work_dir) / "benchmark" / "result.json"
        aim = Target("http://127.0.0.1:1", "", "127.0.0.1", 1, "", 7, "", False, result, {}, 0, {"n": 5})
        try:
            found = measuring.run([replace(aim, load=load) for load in config.benchmark.loads({"n": 5})], self.over)
            return min(found, key=lambda metrics: Objective(config.objective).score(ASSIGNMENT, metrics))
        finally:
            self.cut = measuring.cut

    @property
    def loads(self) -> list[str]:
        return [told.removeprefix("concurrency ") for told in self.told]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.node.close()


def test_without_a_sweep_a_benchmark_is_run_once(bench: Bench) -> None:
    once = configuration(command=("echo", '{"rate": 3, "ms": 5}'), concurrency=None)
    assert bench.best(once) == {"output_throughput": 3, "ttft_p99_ms": 5}
    assert bench.told == [] and set(bench.files) == {"benchmark-command.txt", "benchmark.log"}


def test_the_load_at_which_most_is_served_counts(bench: Bench) -> None:
    assert bench.best(configuration()) == {"output_throughput": 384, "ttft_p99_ms": 160, "concurrency": 16}
    assert bench.loads == ["4", "8", "16", "32"] and not bench.cut
    assert bench.files["concurrency-32-benchmark.log"] == b'{"rate": 256, "ms": 320}\n'
    assert len(bench.files) == 8


def test_no_load_is_higher_than_one_that_breaks_a_limit_on_a_latency(bench: Bench) -> None:
    limits = [{"metric": "ttft_p99_ms", "max": 70.0}]
    assert bench.best(configuration(slo=limits))["concurrency"] == 4
    assert bench.loads == ["4", "8"]


def test_the_lowest_load_counts_where_none_keeps_to_the_limits(bench: Bench) -> None:
    limits = [{"metric": "ttft_p99_ms", "max": 30.0}]
    assert bench.best(configuration(slo=limits)) == {"output_throughput": 144, "ttft_p99_ms": 40, "concurrency": 4}
    assert bench.loads == ["4"]


def test_a_limit_that_a_higher_load_may_keep_does_not_end_the_sweep(bench: Bench) -> None:
    limits = [{"metric": "output_throughput", "min": 300.0}]
    assert bench.best(configuration(slo=limits))["concurrency"] == 16
    assert bench.loads == ["4", "8", "16", "32"]


def test_what_is_derived_may_decide_on_the_load(bench: Bench) -> None:
    told = configuration()
    objective = {"minimize": "cost", "derived": {"cost": "abs(concurrency - 8) + n"}}
    told = Config.model_validate(told.model_dump(exclude_unset=True) | {"objective": objective})
    assert bench.best(told)["concurrency"] == 8


@pytest.mark.parametrize(
    ("end", "cause"),
    [("exit 3", "the benchmark client ended with exit code 3"), ("sleep 60", "the benchmark took long")],
)
def test_a_benchmark_that_fails_at_a_higher_load_ends_the_sweep(bench: Bench, end: str, cause: str) -> None:
    count = f"echo x >> {bench.node.work_dir}/count"
    failing = configuration(f"[ $0 = 16 ] && {count} && {end}; {RATE}", timeout=5.0 if "sleep" in end else 30.0)
    assert bench.best(failing)["concurrency"] == 8
    assert bench.loads == ["4", "8", "16"] and bench.cut.startswith(f"concurrency 16: {cause}")
    # A limit that is exceeded is the service's fault, and is so again.
    assert (Path(bench.node.work_dir) / "count").read_text() == "x\nx\n" if end == "exit 3" else "x\n"


def test_a_benchmark_that_fails_once_at_a_higher_load_is_run_again_with_other_prompts(bench: Bench) -> None:
    script = f"[ $0 = 16 ] && mkdir {bench.node.work_dir}/once && exit 3; {RATE}"
    again = configuration(command=("sh", "-c", script, "{concurrency}", "{seed}"))
    assert bench.best(again)["concurrency"] == 16 and not bench.cut
    assert bench.files["concurrency-16-benchmark-command.txt"].split()[-1] == b"57"


def test_a_benchmark_that_fails_at_the_lowest_load_is_no_measurement(bench: Bench) -> None:
    with pytest.raises(EvaluationFailed, match="exit code 3") as raised:
        bench.best(configuration(f"[ $0 = 4 ] && exit 3; {RATE}"))
    assert raised.value.kind == "measurement" and bench.loads == ["4"]
    assert set(bench.files) == {"concurrency-4-benchmark-command.txt", "concurrency-4-benchmark.log"}


def test_a_sweep_is_given_up_at_once(bench: Bench) -> None:
    bench.over.set()
    with pytest.raises(Cancelled):
        bench.best(configuration("sleep 60"))


def test_each_load_may_have_requests_of_its_own(bench: Bench) -> None:
    counted = configuration(
        command=("sh", "-c", 'echo "{\\"rate\\": $1, \\"ms\\": 1, \\"done\\": $1}"', "{concurrency}", "{requests}"),
        requests=(8, 16, 64, 32),
        metrics={**METRICS, "completed": "done"},
    )
    best = bench.best(counted)
    assert (best["concurrency"], best["completed"], best["failed"]) == (16, 64, 0)
