"""Chaos over emulated hosts: links are cut, hosts freeze, ranks and the launcher's ``mpirun`` die, services hang.

``mpipso launch`` is on node0, the ranks are on node1 to node7. What breaks, and where, is drawn from ``MPIPSO_SEED``.
Needs root.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bed.hosts import Bed
from bed.job import Job, wait_until
from bed.launchers import LAUNCHERS
from faults.course import Course

pytestmark = [pytest.mark.bed, pytest.mark.timeout(900)]

SEED = int(os.environ.get("MPIPSO_SEED", "1"))
RANKS = [f"node{number}" for number in range(1, 8)]
LEASE = 5.0
LIMIT = 420.0
FAULTS = ("cut", "freeze", "kill", "hang", "tear")
WANTED = {
    "search__evaluations": 30,
    "search__particles": 6,
    "search__leaders": 1,
    "search__confirm": 1,
    "search__retries": 20,
    "parallel__lease": LEASE,
    "parallel__quarantine_after": 50,
}


def launched(bed: Bed, course: Course) -> Job:
    launcher = LAUNCHERS[0]
    words = ["--mpirun", str(launcher.launcher), "--hostfile", str(bed.hostfile(RANKS)), "--config", str(course.config)]
    words += ["--nodes-per-group", "2", "--progress", "plain", "--stuck-after", "20", "--start-limit", "60"]
    argv = [sys.executable, "-m", "mpipso", "launch", *words]
    return bed.job("node0", argv, limit=LIMIT, env=launcher.environment())


class Chaos:
    """Breaks one thing after the other, each in a run that is going on; ``told`` is what."""

    def __init__(self, bed: Bed, course: Course, job: Job) -> None:
        self._bed, self._course, self._job = bed, course, job
        self._random = random.Random(SEED)
        self.told: list[str] = []

    def run(self) -> None:
        for fault in self._random.sample(FAULTS, len(FAULTS)):
            before = len(self._course.events("evaluated"))
            self._until(lambda before=before: len(self._course.events("evaluated")) > before, "the run gets on")
            if self._job.process.poll() is not None:
                return
            self.told.append(f"{fault} after {len(self._course.events('evaluated'))} evaluations")
            getattr(self, f"_{fault}")()

    def _until(self, condition: Callable[[], object], what: str) -> None:
        wait_until(lambda: condition() or self._job.process.poll() is not None, 150, f"{what}: {self.told}")

    def _noticed(self) -> Callable[[], bool]:
        before = len(self._course.events("lost", "resumed"))
        return lambda: len(self._course.events("lost", "resumed")) > before

    def _serving(self) -> str:
        """A host with a rank; a new one each time, since a host that was lost may have none any more."""
        there = [node for node in RANKS if self._rank(node)]
        return self._random.choice(there or RANKS)

    def _rank(self, node: str) -> int:
        ranks = [pid for pid, line in self._bed.pids(node).items() if " -m mpipso tune" in line and "prte" not in line]
        return ranks[0] if ranks else 0

    def _cut(self) -> None:
        node, noticed = self._serving(), self._noticed()
        self._bed.cut(node)
        self._until(noticed, f"the cut link of {node} is noticed")
        self._bed.heal(node)

    def _freeze(self) -> None:
        node, noticed = self._serving(), self._noticed()
        self._bed.freeze(node)
        self._until(noticed, f"the frozen {node} is noticed")
        self._bed.thaw(node)

    def _kill(self) -> None:
        noticed = self._noticed()
        if rank := self._rank(self._serving()):
            os.kill(rank, signal.SIGKILL)
            self._until(noticed, "the killed rank is noticed")

    def _hang(self) -> None:
        self._course.inject("hang")
        time.sleep(LEASE)
        self._course.heal("hang")

    def _tear(self) -> None:
        """``mpirun`` dies, and its root with it in the middle of a line."""
        noticed = self._noticed()
        os.kill(self._job.pid(LAUNCHERS[0].process), signal.SIGKILL)
        self._until(lambda: not any(map(self._rank, RANKS)), "the ranks are gone")
        with (self._course.runs / "latest" / "journal.jsonl").open("ab") as journal:
            journal.write(b'{"seq":')
        self._until(noticed, "the run is resumed")


def test_a_run_over_hosts_that_break_ends_as_one_that_is_left_alone(bed: Bed, tmp_path: Path) -> None:
    if (reason := LAUNCHERS[0].available()) is not None:
        pytest.skip(reason)
    calm, wild = Course(tmp_path / "calm", **WANTED), Course(tmp_path / "wild", **WANTED)
    with launched(bed, calm) as job:
        done = job.wait()
        assert done.returncode == 0, done.stdout + done.stderr
    bed.repair()
    with launched(bed, wild) as job:
        chaos = Chaos(bed, wild, job)
        chaos.run()
        done = job.wait()
        told = f"seed {SEED}: {'; '.join(chaos.told)}\n{done.stdout}\n{done.stderr}"
    print(told)
    assert done.returncode == 0, told
    assert wild.events()[-1]["event"] == "finished", told
    assert len(chaos.told) == len(FAULTS), told
    wild.everything_counted_once()
    assert wild.proposals() == calm.proposals(), told
    assert wild.events()[-1]["incumbent"] == calm.events()[-1]["incumbent"], told
