"""Evaluations during which a node was stopped: nothing that came of them counts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from bed.job import wait_until
from service.test_group import ECHO, SPAN, Bench, bench, configuration, failed, tiny

from mpipso.evaluation import Assignment
from mpipso.service.local import LocalNode

__all__ = ["bench"]

HOUR = 3600.0


def suspended(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Injects the fault: from the first time that this node is asked on, it is stopped for 25 s."""
    told = [0.0]

    def stopped(node: LocalNode) -> float:
        if node.name != name:
            return 0.0
        told.append(25.0)
        return told[-2]

    monkeypatch.setattr(LocalNode, "stopped", stopped)


SLOW = ECHO | {"command": ("sleep", "1000")}


@pytest.mark.parametrize(
    ("service", "benchmark", "search"),
    [
        (tiny(), ECHO, {}),
        (tiny(), SLOW | {"timeout": 0.2}, {}),
        (tiny(), ECHO | {"command": ("false",)}, {}),
        (tiny() | {"command": ("sleep", "1000"), "start_timeout": 0.2}, ECHO, {}),
        (tiny() | {"command": ("sleep", "1000")}, ECHO, {"evaluation_timeout": 0.5}),
        (tiny() | {"command": ("false",)}, ECHO, {}),
        (tiny(update_command=("sleep", "1000"), start_timeout=0.2), ECHO, {}),
    ],
    ids=["measured", "benchmark", "client", "start", "whole", "service", "update"],
)
def test_neither_a_result_nor_a_limit_counts_if_a_member_was_stopped_meanwhile(
    bench: Bench, service: dict[str, Any], benchmark: dict[str, Any], search: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    suspended(monkeypatch, "node1")
    made = bench.group(configuration({**SPAN, **service}, benchmark, search), nodes=2)
    evaluation = made.evaluate(Assignment(3, 1, {"tokens": 4}), bench.cancel)
    made.close()
    assert failed(evaluation) == ("infrastructure", "node1: the job was suspended for 25 s")
    assert evaluation.suspended
    assert bench.left() == []


def test_what_is_cancelled_stays_cancelled(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    suspended(monkeypatch, "node0")
    bench.cancel.set()
    evaluation = bench.evaluate(tiny(), SLOW)
    assert failed(evaluation) == ("cancelled", "cancelled")
    assert not evaluation.suspended


PROGRAM = """
import json, sys
from pathlib import Path
from mpipso import suspension
suspension.TURN = 0.02
from mpipso.evaluation import Assignment
from service.test_group import ECHO, Bench, configuration, tiny
folder, phase = Path(sys.argv[1]), sys.argv[2]
begun = ("sh", "-c", 'touch "$0"; exec sleep 1000', str(folder / "begun"))
deaf = 'trap "touch $0" TERM; "$@" & while [ ! -e "$0-go" ]; do sleep 0.05; done; kill $!'
service, benchmark = tiny(), ECHO
if phase == "starting":
    service["command"] = begun
elif phase == "measuring":
    benchmark = ECHO | {"command": begun, "timeout": 3600.0}
else:
    service["command"] = ("sh", "-c", deaf, str(folder / "begun"), *service["command"])
def tell(now, wait):
    if now == phase:  # a busy machine is taken for nothing before
        suspension.LEAST = 1.0
bench = Bench(folder)
bench.tell = tell
group = bench.group(configuration({**service, "start_timeout": 3600.0, "stop_grace": 3600.0}, benchmark))
evaluation = group.evaluate(Assignment(3, 1, {"tokens": 4}), bench.cancel)
group.close()
failure = evaluation.failure and (evaluation.failure.kind, evaluation.failure.cause)
seconds = sum(evaluation.phases.values())
print(json.dumps([failure, evaluation.suspended, evaluation.seconds, seconds, bench.left()]))
"""
STOP = 1.3


@pytest.mark.parametrize("phase", ["starting", "measuring", "stopping"])
def test_an_evaluation_is_over_when_its_leader_goes_on_after_a_stop(phase: str, tmp_path: Path) -> None:
    """Nothing else would end it; and one that is measured already only takes no longer for it."""
    tests = Path(__file__).resolve().parent.parent
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path), phase], stdout=subprocess.PIPE, text=True, cwd=tests
    ) as child:
        try:
            wait_until((tmp_path / "begun").exists)
            child.send_signal(signal.SIGSTOP)
            wait_until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_STOPPED)
            time.sleep(STOP)
            child.send_signal(signal.SIGCONT)
            (tmp_path / "begun-go").touch()
            output, _ = child.communicate(timeout=60)
        finally:
            child.kill()
    failure, suspended, elapsed, spent, left = json.loads(output)
    assert left == []
    assert elapsed <= time.monotonic() - began - STOP
    assert spent <= elapsed + 0.1
    if phase == "stopping":
        assert (failure, suspended) == (None, False)
    else:
        kind, cause = failure
        assert (kind, suspended) == ("infrastructure", True)
        assert cause.startswith("node0: the job was suspended for ")
