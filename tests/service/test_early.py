"""Benchmarks that are stopped early: when, and what is left of their evaluation, with real processes and sockets."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bed.job import wait_until

from mpipso.config import Config
from mpipso.evaluation import FIRST_PART, METRICS, Assignment, Evaluation, Metrics, Pace
from mpipso.search.objective import Objective
from mpipso.service.clients.base import CLIENTS
from mpipso.service.clients.stats import FIRST, WORK
from mpipso.service.early import EarlyStop, counts
from mpipso.service.engines.base import ENGINES
from mpipso.service.group import ServiceGroup
from mpipso.service.local import LocalNode
from mpipso.service.node import Share

SERVICE = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
import tiny_service

class Handler(tiny_service.Handler):
    broken = served = 0

    def event(self, text):
        if self.broken < int(sys.argv[4]):
            Handler.broken += 1
            raise ConnectionError("broken off")
        Handler.served += text == "[DONE]"
        super().event(text)

def before():
    if Handler.served >= int(sys.argv[3]):
        time.sleep(1000)

server = tiny_service.Server("127.0.0.1", int(sys.argv[2]), before=before)
server.RequestHandlerClass = Handler
server.serve_forever()
"""
"""The tiny service, but it answers so many streamed requests and then none, and breaks the first few of them off."""
ALL = 1000
FAR, NEAR = Pace(1e9, 3e9), Pace(1e-9, 1e-9)
"""What the best had: so much that anything is far behind it, and so little that nothing is."""


def configuration(benchmark: dict[str, Any], *, quality: Path | None = None, **objective: Any) -> Config:
    load = {"client": "openai", "requests": 8, "concurrency": 1, "input_tokens": 2, "output_tokens": 3, "timeout": 60.0}
    data: dict[str, Any] = {
        "service": {"engine": "command", "start_timeout": 20.0, "stop_grace": 5.0},
        "benchmark": {**load, "warmup": 1, "early_stop": 0.25, **benchmark},
        "objective": objective or {"maximize": "output_throughput"},
        "parameters": ({"name": "tokens", "type": "int", "min": 1, "max": 9, "env": "TOKENS"},),
    }
    if quality is not None:
        check = ("sh", "-c", 'touch "$0"; echo \'{"acc": 1}\'', str(quality))
        data["quality"] = {"command": check, "metrics": {"accuracy": "acc"}}
    return Config.model_validate(data)


# --- when ------------------------------------------------------------------------------------------------------------


def stop(
    first: float, pace: Pace | None, *, part: float = FIRST_PART, behind: float | None = 0.25, **objective: str
) -> EarlyStop:
    told = configuration({"early_stop": behind}, **objective)
    return EarlyStop(told, threading.Event(), lambda: (part, first), pace)


@pytest.mark.parametrize(
    ("objective", "first", "expected"),
    [
        ({"maximize": "output_throughput"}, 75.0, None),
        ({"maximize": "output_throughput"}, 74.0, 37.0),
        ({"maximize": "output_throughput"}, 900.0, None),
        ({"minimize": "duration"}, 400.0 / 3.0, None),
        ({"minimize": "duration"}, 134.0, 67.0),
        ({"minimize": "duration"}, 1.0, None),
    ],
)
def test_it_is_stopped_if_it_is_worse_by_more_than_that_share(
    objective: dict[str, str], first: float, expected: float | None
) -> None:
    found = stop(first, Pace(100.0, 50.0), **objective)
    assert found.is_set() is (expected is not None)
    assert (found.first, found.expected) == (first, expected)


def test_it_goes_on_where_nobody_wants_it_stopped_but_is_looked_at_where_there_is_no_best() -> None:
    without_best = stop(1.0, None)
    assert not without_best.is_set() and (without_best.first, without_best.expected) == (1.0, None)
    unwanted = stop(1.0, FAR, behind=None)
    assert not unwanted.is_set() and (unwanted.first, unwanted.expected) == (None, None)


@pytest.mark.parametrize(
    ("part", "first", "stopped"),
    [(0.0625, 41.0, False), (0.0625, 39.0, True), (0.125, 61.0, False), (0.125, 59.0, True), (0.3, 79.0, True)],
)
def test_what_is_very_far_behind_is_stopped_sooner(part: float, first: float, stopped: bool) -> None:
    found = stop(first, Pace(100.0, 50.0), part=part, behind=0.2)
    assert found.is_set() is stopped and found.first == first
    assert found.expected == (first / 2 if stopped else None)


def test_of_half_or_more_nothing_is_far_enough_behind_for_that() -> None:
    assert not stop(1e-9, Pace(100.0, 50.0), part=0.125, behind=0.5).is_set()


@pytest.mark.parametrize(("requests", "looks"), [(64, [4, 8, 16]), (40, [5, 10]), (9, [3])])
def test_it_is_looked_at_sooner_where_a_few_requests_tell_something_by_then(requests: int, looks: list[int]) -> None:
    assert counts(requests) == looks


def test_it_is_looked_at_until_its_first_part_was_seen() -> None:
    told: Iterator[tuple[float, float] | None] = iter([None, (0.125, 70.0), None, (0.25, 90.0)])
    found = EarlyStop(configuration({}), threading.Event(), lambda: next(told), Pace(100.0, 100.0))
    assert [found.is_set() for _ in range(6)] == 6 * [False], "no further look, which would end the test"
    assert found.first == 90.0


def test_it_is_over_when_what_it_belongs_to_is() -> None:
    over = threading.Event()
    found = EarlyStop(configuration({}), over, lambda: None, FAR)
    assert not found.is_set()
    over.set()
    assert found.is_set() and found.expected is None


def test_one_that_has_ended_is_looked_at_and_not_stopped() -> None:
    found = stop(1.0, FAR)
    found.ended()
    assert (found.first, found.expected) == (1.0, None) and not found.is_set()


def test_of_one_in_which_a_request_has_failed_meanwhile_nothing_is_known() -> None:
    looks: Iterator[tuple[float, float] | None] = iter([(0.0625, 400.0), None, None])
    found = EarlyStop(configuration({}), threading.Event(), lambda: next(looks), None)
    assert not found.is_set() and not found.is_set()
    found.ended()
    assert found.first is None


# --- what is left ----------------------------------------------------------------------------------------------------


class Bench:
    """A group of one node, with services that answer so many of the benchmark's requests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cancel = threading.Event()
        self.phases: list[str] = []
        self.node = LocalNode(Share("node0", "127.0.0.1"), work_dir=str(folder))

    def evaluate(self, config: Config, pace: Pace | None, *, answers: int = ALL, broken: int = 0) -> Evaluation:
        script = self.folder / "service.py"
        script.write_text(SERVICE)
        serve = (sys.executable, str(script), str(Path(__file__).parent), "{port}", str(answers), str(broken))
        service = config.service.model_copy(update={"command": serve, "health_url": "http://{host}:{port}/health"})
        config = config.model_copy(update={"service": service})
        engine, client = ENGINES.create("command"), CLIENTS.create("openai")
        judge = Objective(config.objective)
        group = ServiceGroup(7, [self.node], 0, config, engine, client, judge, self._tell)
        evaluation = group.evaluate(Assignment(3, 1, {"tokens": 4}, pace=pace), self.cancel)
        group.close()
        return evaluation

    def _tell(self, phase: str, wait: str) -> None:
        self.phases += [] if wait else [phase]

    @property
    def first(self) -> list[Path]:
        return [*self.folder.rglob(FIRST)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_of_a_benchmark_that_was_stopped_there_is_what_was_expected_of_it_alone(bench: Bench, tmp_path: Path) -> None:
    """It would not have ended: the service answers its warm-up, the first part, and nothing more."""
    checked = tmp_path / "checked"
    found = bench.evaluate(configuration({}, quality=checked), FAR, answers=3)
    assert found.failure is None and found.stopped and found.metrics == {} and not found.killed
    assert found.first is not None and found.expected == pytest.approx(3 * found.first)
    told = json.loads(found.files["benchmark-first.json"])
    assert (told["completed"], told["failed"]) == (2, 0) and told[WORK] == found.first
    assert "benchmark.log" in found.files and "benchmark.json" not in found.files
    assert not checked.exists(), "there is no whole benchmark beside which answers would count"
    assert bench.phases == ["configuring", "starting", "measuring", "stopping"]


def test_a_cost_is_behind_if_it_is_higher(bench: Bench) -> None:
    derived = {"cost": "3.6 / output_throughput"}
    found = bench.evaluate(configuration({}, minimize="cost", derived=derived), NEAR, answers=3)
    assert found.stopped and found.expected == pytest.approx(found.first) and found.metrics == {}


def test_so_is_what_is_derived(bench: Bench) -> None:
    """Also from the configuration."""
    derived = {"each": "output_throughput / tokens"}
    found = bench.evaluate(configuration({}, maximize="each", derived=derived), FAR, answers=3)
    told = json.loads(found.files["benchmark-first.json"])
    assert found.stopped and found.first == pytest.approx(told[WORK] / 4)


@pytest.mark.parametrize("pace", [None, NEAR], ids=["no best", "not behind"])
def test_any_other_goes_to_its_end_and_what_its_first_part_was_is_known(
    pace: Pace | None, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it has ended before anybody looked."""
    if pace is None:
        monkeypatch.setattr(EarlyStop, "is_set", lambda self: False)
    checked = tmp_path / "checked"
    found = bench.evaluate(configuration({}, quality=checked), pace)
    assert found.failure is None and not found.stopped and checked.exists()
    assert found.metrics["completed"] == 8 and found.metrics["accuracy"] == 1
    told = json.loads(found.files["benchmark-first.json"])
    assert told["completed"] == 2 and found.first == told[WORK]
    assert set(METRICS) - {"request_goodput"} <= set(found.metrics)


def test_without_early_stop_nobody_looks(bench: Bench) -> None:
    found = bench.evaluate(configuration({"early_stop": None}), FAR)
    assert found.metrics["completed"] == 8 and found.first is None and "benchmark-first.json" not in found.files


@pytest.mark.parametrize("broken", [1, 2])
def test_one_of_which_a_request_has_failed_by_then_is_not_stopped(broken: int, bench: Bench) -> None:
    found = bench.evaluate(configuration({"warmup": 0, "min_success_rate": 0.5}), FAR, broken=broken)
    assert found.failure is None and found.first is None and not found.stopped
    assert (found.metrics["completed"], found.metrics["failed"]) == (8 - broken, broken)
    assert "benchmark-first.json" in found.files


def test_one_that_is_cancelled_after_its_first_part_was_not_stopped(bench: Bench) -> None:
    def cancel() -> None:
        wait_until(lambda: bool(bench.first))
        bench.cancel.set()

    thread = threading.Thread(target=cancel)
    thread.start()
    found = bench.evaluate(configuration({}), None, answers=3)
    thread.join()
    assert found.failure is not None and found.failure.kind == "cancelled"
    assert found.first is found.expected is None and found.metrics == {}


def test_nor_is_one_that_is_cancelled_as_it_would_be_stopped(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    value: Callable[..., float | None] = Objective.value

    def cancelled(self: Objective, configuration: Any, metrics: Metrics) -> float | None:
        bench.cancel.set()
        return value(self, configuration, metrics)

    monkeypatch.setattr(Objective, "value", cancelled)
    found = bench.evaluate(configuration({}), FAR, answers=3)
    assert found.failure is not None and found.failure.kind == "cancelled" and not found.stopped
