"""The main job on the real embedded server, started as a user starts it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from bed.job import Job, wait_until

from mpipso.service.ports import free_port

pytestmark = pytest.mark.e2e

LIMIT = 200.0
SERVER = "mpipso.service.embedded.server"


def launch(output: Path, flags: Sequence[str]) -> Job:
    """``./run.sh`` after its set-up, with the launcher that it found."""
    command = [sys.executable, "-m", "mpipso", "launch", "--output", str(output), *flags]
    mpirun = os.environ.get("MPIPSO_MPIRUN")
    return Job([*command, *(["--mpirun", mpirun] if mpirun else [])], limit=LIMIT)


def events(output: Path) -> list[dict[str, object]]:
    path = output / "latest" / "journal.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def servers(output: Path) -> list[psutil.Process]:
    """The embedded servers below any process whose journal is in ``output``: those of this test, not of a neighbour."""
    found = []
    for process in psutil.process_iter():
        try:
            if SERVER in process.cmdline() and any(
                str(output) in word for p in process.parents() for word in p.cmdline()
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_the_main_job_tunes_the_embedded_server_and_says_how_to_start_it(tmp_path: Path) -> None:
    with launch(tmp_path, ["-np", "2", "--nodes-per-group", "1", "--evaluations", "3"]) as job:
        done = job.wait()
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("+ "), "the mpirun line is printed"

    record = events(tmp_path)
    assert record[-1]["event"] == "finished"
    evaluated = [event for event in record if event["event"] == "evaluated"]
    assert [event["number"] for event in evaluated if event["label"] == "baseline" and "metrics" in event] == [0]
    assert {event["group"] for event in evaluated} == {0, 1}, "both groups took part"
    # One proposal need not beat the baseline, which is then shown as the best.
    for word in (r"(baseline|best) #0", "output_throughput", "ttft_p99_ms", r"best\.sh", "results:"):
        assert re.search(word, done.stdout), done.stdout

    folder = (tmp_path / "latest").resolve()
    measured = [e for e in folder.glob("evaluations/*") if (e / "metrics.json").exists()]
    assert measured
    assert {"configuration.json", "command.txt", "benchmark.json"} <= {path.name for path in measured[0].iterdir()}

    port = free_port()
    script = folder / "other-port.sh"
    script.write_text(re.sub(r"--port \d+", f"--port {port}", (folder / "best.sh").read_text()))
    with Job(["sh", str(script)], limit=60) as service:
        wait_until(lambda: service.process.poll() is not None or healthy(port), 30, "the best configuration serves")
        assert service.process.poll() is None, service.stderr


def test_ctrl_c_stops_every_service_and_leaves_within_15_seconds(tmp_path: Path) -> None:
    with launch(tmp_path, ["-np", "2", "--nodes-per-group", "1", "--evaluations", "100"]) as job:
        wait_until(lambda: job.process.poll() is not None or servers(tmp_path), 60, "a service runs")
        job.process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        done = job.wait()
        assert time.monotonic() - begun < 15
    assert done.returncode == 128 + signal.SIGINT, done.stdout + done.stderr
    assert events(tmp_path)[-1]["event"] == "interrupted"
    assert "interrupted" in done.stdout
    assert not servers(tmp_path)


def test_a_single_rank_without_a_launcher_is_a_group_of_its_own(tmp_path: Path) -> None:
    words = ["--output", str(tmp_path), "--evaluations", "1", "--progress", "plain"]
    done = subprocess.run(
        [sys.executable, "-m", "mpipso", *words], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert events(tmp_path)[-1]["event"] == "finished"


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
