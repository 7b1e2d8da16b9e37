"""``mpipso launch`` on eight emulated hosts: whatever is lost, the run is finished and nothing is measured twice.

The launcher runs on node0, which survives; the ranks run on node1 to node5: two groups of two, and a spare. Needs
root. MPIPSO_REPEAT is the number of trials of each fault, 1 unless set.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bed.hosts import Bed
from bed.job import Job, wait_until
from bed.launchers import LAUNCHERS, Launcher

from mpipso.record import journal

pytestmark = [pytest.mark.bed, pytest.mark.timeout(900)]

TESTS = Path(__file__).resolve().parents[1]
SERVICE = TESTS / "bed" / "two_node_service.py"
RANKS = [f"node{number}" for number in range(1, 6)]
EVALUATIONS = 6
LIMIT = 240.0
FLAGS = ("--stuck-after", "20", "--start-limit", "60")
"""Far above what a host under load needs, and short enough for a test."""
LEASE = 15.0

Fault = Callable[["Run"], None]


class Run:
    """A run that was launched on the bed."""

    def __init__(self, bed: Bed, launcher: Launcher, folder: Path, seed: int) -> None:
        self.bed = bed
        self.launcher = launcher
        self.runs = folder / f"runs-{seed}"
        config = folder / f"two-node-{seed}.toml"
        text = (TESTS / "multihost.toml").read_text()
        text = text.replace("@PYTHON@", sys.executable).replace("@SERVICE@", str(SERVICE))
        for old, new in (("requests = 16", "requests = 60"), ("evaluations = 8", f"evaluations = {EVALUATIONS}")):
            text = text.replace(old, new)
        text = text.replace("confirm = 1", "confirm = 0")
        config.write_text(f'output = "{self.runs}"\n{text}\n[parallel]\nlease = {LEASE}\n')
        words = ["--mpirun", str(launcher.launcher), "--hostfile", str(bed.hostfile(RANKS)), "--config", str(config)]
        argv = [sys.executable, "-m", "mpipso", "launch", *words, "--seed", str(seed), "--progress", "plain", *FLAGS]
        self.job: Job = bed.job("node0", argv, limit=LIMIT, env=launcher.environment())

    @property
    def events(self) -> list[dict[str, Any]]:
        path = self.runs / "latest" / journal.FILE
        return journal.read(path) if path.exists() else []

    def count(self, event: str) -> int:
        return sum(record["event"] == event for record in self.events)

    def serving(self) -> int:
        """On how many hosts the service runs."""
        return sum(any(SERVICE.name in line for line in self.bed.pids(node).values()) for node in self.bed.nodes)

    @property
    def root(self) -> str:
        """The host of rank 0, which leads the first group."""
        (started,) = [record for record in self.events if record["event"] == "started"]
        host: str = started["plan"]["groups"][0]["hosts"][0]
        return host

    def member(self) -> str:
        """A host of the last group."""
        (started,) = [record for record in self.events if record["event"] == "started"]
        host: str = started["plan"]["groups"][-1]["hosts"][-1]
        return host

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for what a fault brings about, or the end of the run."""
        wait_until(lambda: condition() or self.job.process.poll() is not None, 120, what)


def power_off(run: Run) -> None:
    run.bed.power_off(run.member())


def cut_and_heal(run: Run) -> None:
    node = run.member()
    run.bed.cut(node)
    run.until(lambda: run.count("resumed") or run.count("lost"), "the loss of the link is noticed")
    run.bed.heal(node)


def freeze_and_thaw(run: Run) -> None:
    node = run.member()
    run.bed.freeze(node)
    run.until(lambda: run.count("resumed") or run.count("lost"), "the loss of the host is noticed")
    run.bed.thaw(node)


def cut_and_heal_root(run: Run) -> None:
    """To it, all others are silent."""
    node = run.root
    run.bed.cut(node)
    run.until(lambda: run.count("resumed"), "the run goes on without its root")
    run.bed.heal(node)


def kill_node_of_root(run: Run) -> None:
    run.bed.kill_node(run.root)


def freeze_node_of_root(run: Run) -> None:
    """Its root keeps the journal open, and wakes up when another root has gone on."""
    node = run.root
    run.bed.freeze(node)
    run.until(lambda: run.count("resumed"), "the run goes on without its root")
    run.bed.thaw(node)


def kill_mpirun(run: Run) -> None:
    os.kill(run.job.pid(run.launcher.process), signal.SIGKILL)


FAULTS: tuple[Fault, ...] = (
    *(power_off, cut_and_heal, freeze_and_thaw, kill_node_of_root, freeze_node_of_root, kill_mpirun),
)
CASES = [(launcher, fault) for launcher in LAUNCHERS[:1] for fault in FAULTS]
"""Every fault under Open MPI 5, and of those that no MPI survives one under each of the others. Of a cut link Open MPI
ends the job itself."""
CASES += [(launcher, kill_node_of_root) for launcher in LAUNCHERS[1:]]
CASES += [(LAUNCHERS[-1], cut_and_heal_root)]


@pytest.mark.parametrize(
    ("launcher", "fault"), CASES, ids=[f"{launcher.name}-{fault.__name__}" for launcher, fault in CASES]
)
def test_the_run_is_finished_and_nothing_is_measured_twice(
    bed: Bed, fault: Fault, launcher: Launcher, tmp_path: Path
) -> None:
    reason = launcher.available()
    if reason is not None:
        pytest.skip(reason)
    for trial in range(int(os.environ.get("MPIPSO_REPEAT", "1"))):
        begun = time.monotonic()
        run = Run(bed, launcher, tmp_path, trial)
        with run.job:
            run.until(lambda run=run: run.count("evaluated") and run.serving() >= 4, "the run is in full swing")
            assert run.job.process.poll() is None, run.job.stdout + run.job.stderr
            fault(run)
            done = run.job.wait()
        seen = f"trial {trial}\n{done.stdout}\n{done.stderr}\n" + "\n".join(map(str, run.events))
        assert done.returncode in (0, 3), seen
        assert run.events[-1]["event"] == "finished", seen
        numbers = Counter(record["number"] for record in run.events if record["event"] == "evaluated")
        assert set(numbers) >= set(range(EVALUATIONS)), seen
        assert set(numbers.values()) == {1}, seen
        bed.repair()
        print(
            f"trial {trial}: {fault.__name__}, {launcher.name}: finished after {time.monotonic() - begun:.1f} s, ",
            end="",
        )
        print(f"{run.count('resumed')} restarts, {run.count('lost')} ranks lost")


def test_a_host_that_is_down_at_the_launch_stays_out(bed: Bed, tmp_path: Path) -> None:
    launcher = LAUNCHERS[0]
    if (reason := launcher.available()) is not None:
        pytest.skip(reason)
    bed.power_off("node4")
    run = Run(bed, launcher, tmp_path, 0)
    with run.job:
        done = run.job.wait()
    assert done.returncode in (0, 3), done.stdout + done.stderr
    assert "without node4, which does not answer; starting again with 4 of 5 ranks (restart 1 of 3)" in done.stderr
    assert [run.count(event) for event in ("started", "resumed", "finished")] == [1, 0, 1]
