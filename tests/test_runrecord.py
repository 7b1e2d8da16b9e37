"""What ends a run from outside: the end of a batch job's time, and the time that earlier sessions took."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bed.job import Job, wait_until
from bed.launchers import CHECKOUT
from faults.course import HERE, LIMIT, SOON, Course

from mpipso.cluster.facts import rank_in
from mpipso.errors import LOST
from mpipso.record.folders import BEAT_FILE
from mpipso.record.recipe import read_best
from mpipso.roles import BEAT
from mpipso.timelimits import RESERVE


def run(course: Course, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "mpipso", "tune", "--progress", "plain", "--nodes-per-group", "1", *flags]
    return subprocess.run(
        words,
        env={**os.environ, **environment},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


@pytest.fixture
def course(tmp_path: Path) -> Course:
    return Course(tmp_path, search__evaluations=1000, search__confirm=0, search__particles=2)


@pytest.mark.parametrize(("requeue", "code", "cause"), [("1", 0, "evaluations"), ("", 3, "time")])
def test_the_end_of_a_job_is_that_of_its_run_unless_the_job_comes_back(
    course: Course, requeue: str, code: int, cause: str
) -> None:
    environment = {"SLURM_JOB_END_TIME": str(int(time.time())), "MPIPSO_REQUEUE": requeue}
    done = run(course, "--config", str(course.config), "--evaluations", "1", **environment)
    assert done.returncode == code, done.stdout + done.stderr
    assert course.events()[-1]["cause"] == cause
    assert len(course.events("assigned")) == (1 if requeue else 0)


FULL = """
import errno, sys
from mpipso.record import journal
room = int(sys.argv[1])
class Full(journal.FileIO):
    def write(self, data):
        if len(data) > room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)
journal.FileIO = Full  # the fault
from mpipso.cli import main
sys.exit(main(["tune", "--nodes-per-group", "1", *sys.argv[2:]]))
"""


CLOCK = """
import sys
from types import SimpleNamespace
from mpipso import runrecord, timelimits
from mpipso.record.journal import Journal
END = 1_000_000.0
left, now = [float(word) for word in sys.argv.pop(1).split()], [0.0]
limits, write = timelimits.TimeLimits, Journal.write
def watched(self, event, /, **fields):
    write(self, event, **fields)
    if left and (
        event == "evaluated" and fields["number"] == 2
        or event == "asked" and any(new["label"] == "confirm" for new in fields["new"])
    ):
        now[0] = END - left.pop(0)
Journal.write = watched
timelimits.time = SimpleNamespace(time=lambda: 0.0)
runrecord.TimeLimits = lambda limit, used, environment: limits(limit, used, environment, lambda: now[0])
from mpipso.cli import main
sys.exit(main(["tune", "--nodes-per-group", "1", *sys.argv[1:]]))
"""
"""A clock that stands still, but for what is asked for on the command line: what is left of the job's time when the
third evaluation has ended, and as the race is about to begin. It is the first second of 1970."""


def test_the_search_leaves_time_to_the_race_which_ends_in_time_and_earlier_sessions_count(tmp_path: Path) -> None:
    course = Course(tmp_path, search__confirm=30, search__leaders=3, search__particles=2)

    def tune(left: str, *flags: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", CLOCK, left, *flags]
        environment = {**os.environ, "MPIPSO_END_TIME": str(int(1e6 + RESERVE))}
        done = subprocess.run(
            words, env=environment, cwd=CHECKOUT, capture_output=True, text=True, timeout=LIMIT, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    # An evaluation takes more than 0.2 s and less than 20 s: the race of 120 has no room any more, but may begin.
    done = tune("20 0.01", "--config", str(course.config), "--evaluations", "8")
    assert done.stdout.count("note: the job ends at 1970-01-1") == 1
    assert "ended because the time limit, or the end of the job, was reached" in done.stdout
    assert course.events()[-1]["cause"] == "time"
    events = course.events("asked", "assigned")
    race = [event["event"] == "asked" and event["new"][0]["label"] == "confirm" for event in events].index(True)
    before, after = len(course.events("evaluated")), len(events) - race - 1
    assert 3 <= before <= 4, "what had been asked for and not begun is dropped"
    assert after == 0, "none is likely to end in the 0.01 s that are left"

    # Its own time is over too: a run that has come to its end is not begun again for nothing.
    again = ["--resume", str((course.runs / "latest").resolve()), "--time-limit", "0.1", "--evaluations", "8"]
    done = tune("", *again, code=2)
    told = "search.time_limit is 0.1 s for all sessions together, and those so far took "
    (line,) = done.stderr.splitlines()
    assert told in line and line.endswith("; give a larger --time-limit")
    assert not course.events("resumed")

    # One that has not is led to its end.
    journal = course.runs / "latest" / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:-1]))
    done = tune("", *again)
    assert done.stdout.count(f"note: {told}") == 1
    assert [event["event"] for event in course.events()][-1] == "finished"
    assert len(course.events("evaluated")) == before, "its time is over"


def test_what_is_tried_is_in_the_journal_even_if_it_is_called_like_a_secret(course: Course) -> None:
    secrets = {"HF_TOKEN": "greedy", "AUTH_TOKEN": "fair"}
    first = run(course, "--config", str(course.config), "--evaluations", "2", **secrets)
    assert first.returncode == 0, first.stdout + first.stderr
    again = run(course, "--resume", str(course.runs / "latest"), "--evaluations", "3", **secrets)
    assert again.returncode == 0, again.stdout + again.stderr
    asked = [new["configuration"]["policy"] for event in course.events("asked") for new in event["new"]]
    assert len(asked) == 3 and set(asked) <= {"greedy", "fair"}
    assert again.stdout.count("without it:") == 1, "its values are what the models learn from"


def test_the_working_folder_may_have_a_name_that_is_no_utf8(course: Course) -> None:
    folder = Path(os.fsdecode(os.fsencode(course.folder) + b"/lat\xe9n"))
    folder.mkdir()
    words = [sys.executable, "-m", "mpipso"]
    for more in (
        ["tune", "--config", str(course.config), "--nodes-per-group", "1", "--evaluations", "1", "--output", "runs"],
        ["tune", "--resume", "runs/latest", "--nodes-per-group", "1", "--evaluations", "2"],
        ["report", "runs/latest"],
    ):
        environment = {**os.environ, "PWD": str(folder), "PYTHONPATH": str(CHECKOUT)}
        done = subprocess.run(
            [*words, *more], env=environment, cwd=folder, capture_output=True, timeout=LIMIT, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert b"damaged" not in done.stdout and b"cannot be read" not in done.stdout
    written = read_best(folder / "runs" / "latest")
    assert written is not None and written.starts


def test_how_a_session_was_launched_is_kept_and_other_groups_are_told(course: Course) -> None:
    if len(cores := os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    command = "mpipso launch -np 1 --mpirun-args='-x API_KEY=sk-12345678'"
    first = run(course, "--config", str(course.config), "--evaluations", "1", MPIPSO_COMMAND=command)
    assert first.returncode == 0, first.stdout + first.stderr
    os.sched_setaffinity(0, {min(cores)})
    try:
        again = run(course, "--resume", str(course.runs / "latest"), "--evaluations", "2")
    finally:
        os.sched_setaffinity(0, cores)
    assert again.returncode == 0, again.stdout + again.stderr
    assert course.events("started")[0]["command"] == "mpipso launch -np 1 --mpirun-args='-x API_KEY=***'"
    was, now = f"1 group of 1 node with {len(cores)} cores", "1 group of 1 node with 1 core"
    note = f"note: service groups differ from the earlier session's: {was}, now {now}: "
    assert note in again.stdout and "service groups differ" not in first.stdout


def test_a_terminal_without_colours_gets_none_in_the_summary(course: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    words = ("--config", str(course.config), "--evaluations", "1", "--progress", "live")
    told = [run(course, *words, TERM="xterm", **colours).stdout for colours in ({}, {"NO_COLOR": "1"})]
    assert [re.search(r"\x1b\[[\d;]*3[0-7]m", text) is not None for text in told] == [True, False]
    assert all("results: " in text for text in told)


@pytest.mark.parametrize(("mode", "code"), [("live", 0), ("plain", LOST)])
def test_a_terminal_that_takes_nothing_holds_a_run_up_neither_on_its_way_nor_at_its_end(
    tmp_path: Path, mode: str, code: int
) -> None:
    course = Course(tmp_path, objective__slo=[{"metric": "output_throughput", "min": "baseline"}], search__confirm=0)
    if code == LOST:
        course.inject("refuse")
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writing, bytes(4096))  # as a terminal after Ctrl-S, which the test itself must not wait for
    words = [sys.executable, "-m", "mpipso", "tune", "--progress", mode, "--nodes-per-group", "1", "--evaluations", "1"]
    with subprocess.Popen(
        [*words, "--config", str(course.config)], cwd=CHECKOUT, stdout=writing, stderr=writing
    ) as process:
        os.close(writing)
        try:
            assert process.wait(SOON) == code
        finally:
            process.kill()
            os.close(reading)
    assert course.events()[-1]["event"] == ("finished" if code == 0 else "failed")


ENDING = """
import os, signal, sys
from mpipso import root
from mpipso.record.journal import Journal
moment, depart, write = sys.argv.pop(1), root.depart, Journal.write
def leaving(context, limit):
    if moment == "as all leave":
        os.kill(os.getpid(), signal.SIGINT)
    depart(context, limit)
def writing(self, event, /, **fields):
    if moment == "as the last line is written" and event == "finished":
        os.kill(os.getpid(), signal.SIGINT)
    write(self, event, **fields)
root.depart, Journal.write = leaving, writing  # the fault: Ctrl-C at this moment
from mpipso.cli import main
sys.exit(main(["tune", "--config", sys.argv[1], "--nodes-per-group", "1", "--evaluations", "1"]))
"""


@pytest.mark.parametrize("moment", ["as all leave", "as the last line is written"])
def test_ctrl_c_when_all_is_done_changes_nothing(course: Course, moment: str) -> None:
    words = [sys.executable, "-c", ENDING, moment, str(course.config)]
    done = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert course.events()[-1]["event"] == "finished"


@pytest.mark.parametrize("room", [0, 500])
def test_a_disk_that_is_full_before_the_first_line_is_told(tmp_path: Path, room: int) -> None:
    """The room is enough, or not, for the line that tells of it."""
    runs = tmp_path / "runs"
    course = Course(tmp_path, output=str(runs))
    limited = [sys.executable, "-c", FULL, str(room), "--config", str(course.config)]
    done = subprocess.run(limited, cwd=CHECKOUT, capture_output=True, text=True, timeout=LIMIT, check=False)
    journal = (runs / "latest").resolve() / "journal.jsonl"
    assert done.returncode == LOST, done.stdout + done.stderr
    assert done.stderr.splitlines() == [f"mpipso: {journal}: cannot be written: No space left on device"]
    assert journal.read_bytes() == b""


@pytest.mark.parametrize("removed", [False, True])
def test_a_run_whose_folder_is_moved_or_removed_ends_in_order_and_says_so(course: Course, removed: bool) -> None:
    words = [sys.executable, "-m", "mpipso", "tune", "--progress", "plain", "--nodes-per-group", "1"]
    with Job([*words, "--config", str(course.config)], limit=LIMIT, cwd=CHECKOUT) as job:
        course.until(job, "evaluated")
        folder = (course.runs / "latest").resolve()
        folder.rename(course.runs / "moved")
        if removed:
            shutil.rmtree(course.runs / "moved")
        done = job.wait()
        left = job.running(str(HERE / "formula.py"))
    assert done.returncode == LOST, done.stdout + done.stderr
    where = "" if removed else f"; its journal is in {course.runs / 'moved'} now"
    told = f"{folder}: the run's folder was moved or removed while the run went on{where}"
    assert done.stderr.splitlines() == [f"mpipso: {told}"]
    assert left == [] and not folder.exists()
    if not removed:
        assert f"--resume {course.runs / 'moved'}" in done.stdout
        events = [json.loads(line) for line in (course.runs / "moved" / "journal.jsonl").read_text().splitlines()]
        assert events[-1]["event"] == "failed" and events[-1]["cause"] == told


HANGING = """
import sys, time
from mpipso import overdue
from mpipso.service.group import ServiceGroup
overdue.SLACK = -1e6  # whatever runs is overdue
ServiceGroup.evaluate = lambda *_: time.sleep(1000)  # the fault: a thread that hangs
from mpipso.cli import main
sys.exit(main(["tune", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("ended", [False, True], ids=["its group is whole", "its group has lost a member"])
def test_a_root_whose_own_evaluation_does_not_end_gives_no_sign_of_life(course: Course, ended: bool) -> None:
    size = 1 + ended
    with course.started(ranks=size, nodes_per_group=size, program=("-c", HANGING)) as job:
        beat = course.runs / "latest" / BEAT_FILE
        wait_until(lambda: "the root gives no sign of life until it ends" in job.stdout, SOON, "it is told")
        if ended:
            (member,) = [each for each in job.running(sys.executable, "-c", HANGING) if rank_in(each.environ()) == 1]
            member.kill()
            course.until(job, "lost")
        last = beat.stat().st_mtime
        wait_until(lambda: time.time() - last > 3 * BEAT, SOON, "time for more signs of life goes by")
        assert beat.stat().st_mtime == last
        assert job.process.poll() is None


def test_a_time_limit_counts_what_earlier_sessions_took(course: Course) -> None:
    first = run(course, "--config", str(course.config), "--time-limit", "4")
    assert first.returncode == 0, first.stdout + first.stderr
    folder = str((course.runs / "latest").resolve())
    before = len(course.events("evaluated"))
    assert run(course, "--resume", folder, "--evaluations", "999").returncode == 2, "its time is over"
    assert not course.events("resumed")
    assert run(course, "--resume", folder, "--time-limit", "4").returncode == 0, "as a job that comes back asks"
    assert len(course.events("evaluated")) == before
    # At most an iteration, of two, had been asked for and not begun.
    run(course, "--resume", folder, "--time-limit", "1000", "--evaluations", str(before + 2))
    assert len(course.events("evaluated")) == before + 2


def test_a_clock_that_is_set_before_a_crash_uses_no_time_up(course: Course) -> None:
    """By an hour, after the last event."""
    words = [sys.executable, "-m", "mpipso", "tune", "--progress", "plain", "--nodes-per-group", "1"]
    folder = course.runs / "latest"
    with Job([*words, "--config", str(course.config)], limit=LIMIT, cwd=CHECKOUT) as job:
        course.until(job, "evaluated")
        wait_until((folder / BEAT_FILE).exists, SOON, "a sign of life")
        job.kill()
    last = (folder / "journal.jsonl").stat().st_mtime
    os.utime(folder / "journal.jsonl", (last, last - 3600.0))
    before = len(course.events("evaluated"))
    done = run(course, "--resume", str(folder.resolve()), "--time-limit", "1800", "--evaluations", str(before + 2))
    assert done.returncode == 0, done.stdout + done.stderr
    assert course.events("resumed")[0].get("lived", 0.0) < SOON
    assert course.events()[-1]["cause"] == "evaluations"


SETTINGS = '{%s,\n "api_key": "sk-%d", "password": "%s",\n "api_keys": ["Zq9-pass-1", "Zq9-pass-2"],\n "queue": %d}'


@pytest.mark.parametrize(
    ("name", "settings", "shown"),
    [
        ("service.json", '"batch": 1', "content.queue was 5 and is now 6"),
        ("service.yaml", '"batch": 1', "content.queue was 5 and is now 6"),
        ("service.conf", '"batch": {batch}, "wait": {wait}, "policy": "{policy}"', "content was "),
    ],
)
def test_a_template_that_has_changed_is_another_search(course: Course, name: str, settings: str, shown: str) -> None:
    template = course.folder / name
    template.write_text(SETTINGS % (settings, 123456, 'Zq9-pass\\"x', 5))
    text = course.config.read_text()
    assert '[service.config_file]\nformat = "json"\n' in text
    text = text.replace('file]\nformat = "json"', f"file]\ntemplate = '{template}'")
    paths = name.endswith((".json", ".yaml"))
    course.config.write_text(text if paths else re.sub("^path = .*$", "", text, flags=re.MULTILINE))
    first = run(course, "--config", str(course.config), "--evaluations", "1")
    assert first.returncode == 0, first.stdout + first.stderr
    kept = (course.runs / "latest" / "journal.jsonl").read_text()
    assert "queue" in kept and "123456" not in kept and "Zq9-pass" not in kept
    best = json.loads((course.runs / "latest" / f"best-config{template.suffix}").read_text())
    assert best["queue"] == 5 and best["api_key"] == "sk-123456" and best["policy"] in ("fair", "greedy")
    assert (f"note: {template} has no wait, which is added" in first.stdout) == paths
    template.write_text(SETTINGS % (settings, 654321, "other", 6))
    words = ("--config", str(course.config), "--resume", str(course.runs / "latest"), "--evaluations", "2")
    again = run(course, *words)
    assert again.returncode == 2, again.stdout + again.stderr
    assert again.stderr.count("service.config_file.content") == 1
    assert f"service.config_file.{shown}" in again.stderr
    changed = SETTINGS % (settings, 654321, "other", 5)
    template.write_text(changed.replace("\n", "\n\n  ") if paths else changed)
    again = run(course, *words)
    assert again.returncode == 0, "secrets may change, and how data is written: " + again.stdout + again.stderr
