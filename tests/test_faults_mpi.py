"""Faults in a real run: killed and frozen ranks, services and disks that fail, groups that are sick, and none left.

Every run is a real one under Open MPI 5 with ULFM, on one host; the service computes its speed from its configuration.
``MPIPSO_REPEAT`` says how often each way of losing ranks is tried.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from bed.job import Job, wait_until
from bed.launchers import CHECKOUT, LAUNCHERS, Launcher
from faults.course import LIMIT, SOON, Course, all_of, ranks
from faults.disk import fill, small_disk

from mpipso.errors import LOST
from mpipso.launch.ranks import Ranks
from mpipso.service.ports import free_port
from mpipso.suspension import LEAST

REPEAT = int(os.environ.get("MPIPSO_REPEAT", "1"))
FEW = {
    "search__evaluations": 8,
    "search__particles": 4,
    "search__leaders": 1,
    "search__confirm": 1,
}
KILLED = {"a member": [[3]], "a leader, then a member of each group": [[2], [1, 4]]}


@pytest.mark.parametrize("trial", range(REPEAT))
@pytest.mark.parametrize("who", KILLED)
def test_the_run_goes_on_without_the_ranks_that_are_killed(who: str, trial: int, tmp_path: Path) -> None:
    course = Course(tmp_path, **FEW)
    with course.started() as job:
        for number, killed in enumerate(KILLED[who], 1):
            course.until(job, "evaluated", number + trial % 4)
            there = all_of(killed, job)
            for rank in killed:
                there[rank].kill()
            course.until(job, "formed", number)  # of what is left of the groups
        course.finished(job)
    lost = sorted(rank for event in course.events("lost") for rank in event["ranks"])
    assert lost == sorted(rank for killed in KILLED[who] for rank in killed)
    for event in course.events("lost"):
        assert event["cause"] == "the rank died"
    assert {event["kind"] for event in course.events("retried")} <= {"infrastructure"}


def test_a_frozen_rank_is_lost_with_its_late_result_and_taken_back_when_it_thaws(tmp_path: Path) -> None:
    # Without devices: the spare would have none, as those of a frozen rank are not given to another.
    without = {"parallel__devices_per_node": 0, "parallel__device_variable": ""}
    course = Course(tmp_path, **{**FEW, **without, "search__evaluations": 16, "parallel__lease": 3.0})
    with course.started() as job:
        course.until(job, "assigned", group=1)
        leader = all_of([2], job)[2]
        course.until(job, "evaluated", 1)
        leader.send_signal(signal.SIGSTOP)
        try:
            lost = course.until(job, "lost")
            course.until(job, "formed")
        finally:
            leader.send_signal(signal.SIGCONT)
        wait_until(lambda: "rank 2 on" in job.stdout and "is back" in job.stdout, SOON, f"it is back {job.stdout}")
        # It is the only spare now: the next loss is made good with it.
        ranks(job)[1].kill()
        again = course.until(job, "formed", 2)
        course.finished(job)
    assert lost["ranks"] == [2]
    assert lost["cause"] == "no sign of life for 3 s"
    assert 2 in again["ranks"]


@pytest.mark.parametrize("who", [[3], [0, 1, 2, 3]], ids=["a member", "all"])
def test_what_is_measured_while_ranks_are_stopped_is_measured_again_and_nobody_is_to_blame(
    who: list[int], tmp_path: Path
) -> None:
    changes = {"search__retries": 0, "parallel__quarantine_after": 1, "parallel__lease": 60.0}
    course = Course(tmp_path, **FEW, **changes)
    with course.started(ranks=4) as job:
        course.inject("hang")
        course.until(job, "assigned", group=1)
        wait_until(lambda: course.measuring() == 2, SOON, f"both groups measure {job.stdout}")
        there = all_of(who, job)
        for rank in who:
            there[rank].suspend()
        wait_until(lambda: all(there[rank].status() == psutil.STATUS_STOPPED for rank in who), SOON, "they stop")
        time.sleep(LEAST + 0.5)
        for rank in who:
            there[rank].resume()
        course.heal("hang")
        course.finished(job)
    retried = course.events("retried")
    assert {event["group"] for event in retried} == {rank // 2 for rank in who}
    for event in retried:
        assert event["kind"] == "infrastructure"
        assert ": the job was suspended for " in event["cause"]
    assert not course.events("lost", "quarantined")
    assert not [event for event in course.events("evaluated") if "failure" in event]


BROKEN = """
import os, signal, sys, time
from mpipso.cluster.world import MpiWorld
world = MpiWorld()
channel = world.channel()
if world.rank == 1:
    channel.post(0, bytes(4_000_000))
    channel.take()  # the announcement is out, and the data waits for the receiver
    os.kill(os.getpid(), signal.SIGKILL)
end = time.monotonic() + 30
while not channel.failed and time.monotonic() < end:
    channel.take()
    world.nap()
print("still there, without", set(channel.failed), flush=True)
os._exit(0)
"""


def test_a_rank_that_dies_in_the_middle_of_a_large_message_takes_nobody_along() -> None:
    mpi = next(launcher for launcher in LAUNCHERS if launcher.name == "Open MPI 5")
    if (reason := mpi.available()) is not None:
        pytest.skip(reason)
    mpirun = mpi.family.command(str(mpi.launcher), Ranks(2), ["MPI4PY_LIBMPI"])
    with Job([*mpirun, sys.executable, "-c", BROKEN], limit=LIMIT, env=mpi.environment(), cwd=CHECKOUT) as job:
        done = job.wait()
    assert done.stdout == "still there, without {1}\n", done.stderr


EARLY = """
import os, signal, sys
from mpipso.cluster.world import MpiWorld
call, what = sys.argv.pop(1).split(":")
proper = getattr(MpiWorld, call)
def faulty(self, *args, **kwargs):  # the fault: rank 3 fails or dies as it is about to call
    if self.rank == 3 and what == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if self.rank == 3:
        raise ValueError("injected")
    return proper(self, *args, **kwargs)
setattr(MpiWorld, call, faulty)
from mpipso.cli import main
sys.exit(main(["tune", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("fault", ["gather:dies", "split:dies", "channel:fails", "bcast:fails"])
def test_a_rank_that_fails_or_dies_before_the_run_has_begun_ends_the_job_with_one_line(
    fault: str, tmp_path: Path
) -> None:
    course = Course(tmp_path)
    with course.started("--config", str(course.config), ranks=4, program=("-c", EARLY, fault)) as job:
        wait_until(lambda: job.process.poll() is not None, SOON, f"it ends {job.stderr}")
        done = job.wait()
    told = [line for line in done.stderr.splitlines() if "cannot start" in line]
    died = fault.endswith("dies")
    assert told == [f"mpipso: the job cannot start: rank 3 {'died' if died else 'has failed'}"], done.stderr
    assert done.stderr.count("Traceback") == (0 if died else 1), done.stderr
    assert done.returncode != 0
    assert not course.runs.exists(), "nothing has begun"


def test_nobody_waits_at_the_end_for_a_rank_that_is_frozen(tmp_path: Path) -> None:
    course = Course(tmp_path, **FEW, parallel__lease=4.0)
    with course.started(ranks=4) as job:
        there = all_of(range(4), job)
        course.until(job, "evaluated", 1)
        there[3].send_signal(signal.SIGSTOP)
        course.until(job, "finished")
        wait_until(lambda: ranks(job).keys() == {3}, SOON, f"the others are gone, and do not spin {job.stdout}")
        assert job.process.poll() is None, "Open MPI still waits for it"
        assert f"note: no answer from rank 3 on {socket.gethostname()}: mpirun may go on" in job.stdout
        there[3].kill()
        course.finished(job)


ALONE = """
import os, signal, sys
import mpipso.cluster.world as world
world._LEAVE_LIMIT = 1.0
here = world.MpiWorld()
if here.rank == 1:
    os.kill(os.getpid(), signal.SIGSTOP)
here.leave(3 if here.rank == 0 else 0)
"""


@pytest.mark.parametrize(
    "mpi", [launcher for launcher in LAUNCHERS if launcher.name != "MPICH"], ids=lambda mpi: mpi.name
)
def test_a_rank_that_freezes_as_all_leave_ends_the_job_with_the_code_of_the_root(mpi: Launcher) -> None:
    if (reason := mpi.available()) is not None:
        pytest.skip(reason)
    with Job(mpi.command(3, [sys.executable, "-c", ALONE]), limit=LIMIT, cwd=CHECKOUT) as job:
        assert job.wait().returncode == 3, job.stderr


def test_a_run_that_cannot_be_resumed_sends_every_rank_home(tmp_path: Path) -> None:
    limits = [{"metric": "output_throughput", "min": "baseline"}]
    course = Course(tmp_path, **FEW, objective__slo=limits, parallel__lease=60.0)
    course.inject("exit")
    for flags in ((), ("--resume", str(course.runs / "latest"))):
        with course.started(*flags) as job:
            # Four leases, 240 s, is what it takes for a rank to believe that it is alone.
            wait_until(lambda: "the baseline configuration failed" in job.stderr, SOON, job.stderr)
            wait_until(lambda: job.process.poll() is not None, SOON, "all leave")
            assert job.wait().returncode == 4, job.stderr


def test_each_fault_of_an_evaluation_has_its_cause_in_the_journal_and_is_retried_or_not(tmp_path: Path) -> None:
    changes = {"search__evaluations": 24, "search__particles": 12, "parallel__quarantine_after": 50}
    limits = {"benchmark__timeout": 6.0, "service__start_timeout": 8.0}
    course = Course(tmp_path, **{**FEW, **changes, **limits})
    with course.started(ranks=4) as job:
        for fault in ("lack", "refuse", "nothing", "crash", "exit"):
            count = len(course.failures())
            course.until(job, "evaluated")
            course.inject(f"once-{fault}")
            wait_until(lambda: len(course.failures()) > count, SOON, f"{fault} happens\n{job.stdout}")  # noqa: B023
            course.until(job, "evaluated", number=course.failures()[-1]["number"])
        for fault in ("unhealthy", "hang"):
            course.inject(f"once-{fault}")
        course.finished(job)
    causes = {
        "exit": ("exited with code 1 while starting: fault injected", "configuration", False),
        "unhealthy": ("not ready within 8 s", "configuration", False),
        "hang": ("the benchmark took longer than 6 s", "configuration", False),
        "lack": ("output_throughput", "measurement", True),
        "refuse": ("of 10 requests", "measurement", True),
        "nothing": ("no request", "measurement", True),
        "crash": ("the benchmark client ended with exit code 1", "measurement", True),
    }
    failures = course.failures()
    assert len(failures) == len(causes), failures
    for fault, (words, kind, retried) in causes.items():
        (failure,) = [each for each in failures if words in each["cause"]]
        assert failure["kind"] == kind, fault
        assert (failure["event"] == "retried") == retried, fault
        results = [event for event in course.events("evaluated") if event["number"] == failure["number"]]
        assert [("failure" in event, event["attempt"]) for event in results] == [(not retried, 1 + retried)], fault
        if retried:
            assert results[0]["group"] != failure["group"], "on another group"
    (exited,) = [each for each in failures if "while starting" in each["cause"]]
    assert exited["ended"] - exited["started"] < SOON
    assert "fault injected: this node cannot start anything" in exited["detail"], "the last lines of the log are kept"


def test_a_port_that_somebody_else_takes_is_no_fault_of_the_configuration(tmp_path: Path) -> None:
    port = free_port()
    course = Course(tmp_path, **{**FEW, "service__port": port, "search__retries": 20, "parallel__quarantine_after": 50})
    over = threading.Event()

    def hold() -> None:
        """Fault injection: takes the port as soon as the service lets go of it."""
        with socket.socket() as holder:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            while not over.is_set():
                with contextlib.suppress(OSError):
                    holder.bind(("0.0.0.0", port))
                    holder.listen()
                    break
                time.sleep(0.001)
            over.wait()

    thread = threading.Thread(target=hold)
    with course.started(ranks=2, nodes_per_group=1) as job:
        try:
            course.until(job, "evaluated")
            thread.start()
            retried = course.until(job, "retried")
        finally:
            over.set()
        course.finished(job)
    thread.join()
    assert retried["kind"] == "infrastructure"
    assert str(port) in retried["cause"]
    assert not [event for event in course.events("evaluated") if "failure" in event]


def test_a_full_disk_on_a_node_is_retried_until_there_is_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, 256):
        changes = {"service__work_dir": str(disk), "search__retries": 50, "parallel__quarantine_after": 2}
        course = Course(tmp_path, **{**FEW, **changes, "parallel__probe_pause": 0.5})
        with course.started(ranks=2, nodes_per_group=1) as job:
            course.until(job, "evaluated")
            fill(disk / "filler")
            retried = course.until(job, "retried")
            course.until(job, "quarantined", 2)
            (disk / "filler").unlink()
            course.until(job, "readmitted")
            course.finished(job)
    assert retried["kind"] == "infrastructure"
    assert "No space left on device" in retried["cause"]


def test_a_sick_group_gets_nothing_but_probes_until_it_is_healed(tmp_path: Path) -> None:
    changes = {"search__evaluations": 16, "parallel__quarantine_after": 1, "parallel__probe_pause": 1.0}
    course = Course(tmp_path, **{**FEW, **changes})
    with course.started(ranks=2, nodes_per_group=1) as job:
        course.until(job, "assigned", group=1)
        # Of four devices on this host each group has two, and a service sees those of its node.
        course.inject("exit-2,3")
        quarantined = course.until(job, "quarantined")
        course.until(job, "probed", passed=False)
        course.heal("exit-2,3")
        course.until(job, "readmitted")
        course.finished(job)
    events = course.events()
    assert quarantined["group"] == 1
    begun, ended = events.index(quarantined), events.index(course.events("readmitted")[0])
    between = [event for event in events[begun:ended] if event["event"] == "assigned"]
    assert {event["group"] for event in between} <= {0}, "particles go to the other group meanwhile"
    assert [event["group"] for event in course.events("readmitted")] == [1]
    assert json.loads((course.runs / "latest" / "evaluations" / "probe-1" / "failure.json").read_text())["cause"]


def test_a_run_without_a_group_left_fails_and_says_how_to_go_on(tmp_path: Path) -> None:
    course = Course(tmp_path, **FEW)
    with course.started(ranks=2, nodes_per_group=2) as job:
        course.until(job, "evaluated")
        all_of([1], job)[1].kill()
        done = job.wait()
    assert done.returncode == LOST, done.stdout + done.stderr
    last = course.events()[-1]
    assert last["event"] == "failed"
    assert "no service group is left" in last["cause"]
    assert "no service group is left" in done.stderr
    assert "--resume" in done.stdout + done.stderr


def test_a_run_in_which_everything_fails_ends_with_the_causes(tmp_path: Path) -> None:
    course = Course(tmp_path, **{**FEW, "search__fruitless": 1, "search__particles": 2})
    course.inject("exit")
    with course.started(ranks=2, nodes_per_group=1) as job:
        done = job.wait()
    assert done.returncode == LOST, done.stdout + done.stderr
    last = course.events()[-1]
    assert last["event"] == "failed"
    assert "all of the last 2 evaluations failed" in last["cause"]
    assert "fault injected" in last["cause"]


def test_a_full_disk_under_the_journal_ends_the_run_in_order(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, 512):
        course = Course(tmp_path, **{**FEW, "output": str(disk / "runs")})
        with course.started(ranks=2, nodes_per_group=1) as job:
            course.until(job, "evaluated", 2)
            fill(disk / "filler")
            done = job.wait()
            left = [process for process in job.tree() if "formula.py" in " ".join(process.cmdline())]
        assert done.returncode == LOST, done.stdout + done.stderr
        assert "No space left on device" in done.stderr
        assert left == []
        assert course.events()[0]["event"] == "started", "what was written before can be read"
        assert len(course.events("evaluated")) >= 2
        (disk / "filler").unlink()
        folder = (course.runs / "latest").resolve()
        with course.started("--resume", str(folder), ranks=2, nodes_per_group=1) as job:
            course.finished(job)
