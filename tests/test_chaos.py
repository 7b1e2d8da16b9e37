"""A run in which something breaks every few seconds comes to the same end as one that is left alone.

The faults are drawn from ``MPIPSO_SEED``: killed and frozen ranks, services that hang for a while, clients that crash,
a killed launcher that leaves a torn journal. To resume a run that cannot go on is the launcher's task, and here the
test's.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
from bed.job import Job
from faults.course import RANKS, Course, ranks

SEED = int(os.environ.get("MPIPSO_SEED", "1"))
LEASE = 3.0
PAUSE = (1.5, 4.0)
"""Seconds between two faults."""
FAULTS = ("kill", "kill", "freeze", "hang", "crash", "crash", "tear")
"""In an order that is drawn; then the run is left in peace, so that it ends."""
SESSIONS = 12
CALM: Mapping[str, object] = {
    "search__evaluations": 30,
    "search__particles": 6,
    "search__leaders": 2,
    "search__confirm": 1,
    "parallel__lease": LEASE,
    # What a fault here may do to one evaluation must not make a failure of it.
    "search__retries": 20,
    "parallel__quarantine_after": 50,
}


class Chaos:
    """Breaks something now and then; ``told`` is what, for a test that fails."""

    def __init__(self, course: Course, seed: int) -> None:
        self._course = course
        self._random = random.Random(seed)
        self._faults = self._random.sample(FAULTS, len(FAULTS))
        self._frozen: list[tuple[float, psutil.Process]] = []
        self._hangs_until = 0.0
        self._next = 0.0
        self.told: list[str] = []

    def rest(self) -> None:
        self._next = time.monotonic() + self._random.uniform(*PAUSE)

    def mend(self) -> None:
        """End what has lasted long enough: thaw ranks, let services go on."""
        now = time.monotonic()
        for until, process in list(self._frozen):
            if now >= until:
                self._frozen.remove((until, process))
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)
        if now >= self._hangs_until:
            (self._course.control / "hang").unlink(missing_ok=True)

    def turn(self, job: Job) -> None:
        """Break something if it is time to."""
        now = time.monotonic()
        if now < self._next or not self._faults:
            return
        self.rest()
        fault = self._faults.pop()
        there = ranks(job)
        if fault in ("kill", "freeze") and len(there) < RANKS - 1:
            fault = "hang"
        if fault == "crash" and self._crashed():
            fault = "hang"
        self.told.append(f"{fault} after {len(self._course.events('evaluated'))} evaluations")
        with contextlib.suppress(psutil.NoSuchProcess):
            match fault:
                case "kill":
                    there[self._random.choice([rank for rank in there if rank])].kill()
                case "freeze":
                    process = there[self._random.choice([rank for rank in there if rank])]
                    process.send_signal(signal.SIGSTOP)
                    self._frozen.append((now + 2 * LEASE, process))
                case "hang":
                    self._course.inject("hang")
                    self._hangs_until = now + LEASE
                case "crash":
                    self._course.inject("once-crash")
                case "tear":
                    self.tear(job)

    def _crashed(self) -> bool:
        """Whether an evaluation whose client has crashed is still to be repeated: twice would be its failure."""
        done = {event["number"] for event in self._course.events("evaluated")}
        crashed = {event["number"] for event in self._course.events("retried") if event["kind"] == "measurement"}
        return (self._course.control / "once-crash").exists() or not crashed <= done

    def tear(self, job: Job) -> None:
        """The whole job is killed, and half a line is left at the end of the journal."""
        job.kill()
        self._frozen.clear()
        with (self._course.runs / "latest" / "journal.jsonl").open("ab") as journal:
            journal.write(b'{"seq":')


def run(course: Course, chaos: Chaos | None) -> None:
    """Sessions of a run until one of them ends it."""
    for session in range(SESSIONS):
        started = False
        flags = () if session == 0 else ("--resume", str((course.runs / "latest").resolve()))
        with course.started(*flags, limit=150.0) as job:
            while job.process.poll() is None:
                # Not while ranks still start: a job that breaks there is the launcher's to restart.
                events = course.events("resumed", "evaluated")
                started = started or (
                    bool(events)
                    and events[-1]["event"] == "evaluated"
                    and sum(event["event"] == "resumed" for event in events) == session
                )
                if chaos is not None:
                    chaos.mend()
                if chaos is not None and started:
                    chaos.turn(job)
                time.sleep(0.1)
            if course.events()[-1]["event"] == "finished":
                return
            assert chaos is not None, job.stdout + job.stderr
            print(f"session {session} ended with {course.events()[-1]}: {job.stderr[-2000:]}")
    pytest.fail(f"not finished after {SESSIONS} sessions")


@pytest.mark.timeout(600)
def test_a_run_in_which_something_breaks_every_few_seconds_ends_as_one_that_is_left_alone(tmp_path: Path) -> None:
    calm = Course(tmp_path / "calm", **CALM)
    run(calm, None)
    assert not calm.events("lost", "formed"), "nothing is taken for lost that is there"
    wild = Course(tmp_path / "wild", **CALM)
    chaos = Chaos(wild, SEED)
    run(wild, chaos)
    print(f"seed {SEED}: {'; '.join(chaos.told)}")
    assert chaos.told
    wild.everything_counted_once()
    assert wild.proposals() == calm.proposals()
    assert wild.events()[-1]["incumbent"] == calm.events()[-1]["incumbent"]
    results = [{event["number"]: event["fitness"] for event in course.events("evaluated")} for course in (calm, wild)]
    assert results[0] == results[1], "nothing that broke shows in a result"
