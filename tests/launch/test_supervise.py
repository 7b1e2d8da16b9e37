"""Supervision, with a stand-in for mpirun (bed/mpirun_stand_in.py) that injects the faults; the processes are real."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import pytest
from bed.job import Job, wait_until

from mpipso.cluster.facts import rank_here
from mpipso.config import Config
from mpipso.config.file import parse
from mpipso.errors import RunFailed, UserError
from mpipso.launch import jobs, survivors
from mpipso.launch.jobs import Job as MpiJob
from mpipso.launch.launchers import Hydra
from mpipso.launch.source import Source
from mpipso.record.outcome import NO_BASELINE
from mpipso.record.resume import differences
from mpipso.startup import Options, wanted_groups

STAND_IN = Path(__file__).resolve().parents[1] / "bed" / "mpirun_stand_in.py"
LIMIT = 60.0
LAUNCH = """
import sys
from mpipso.launch import mpirun, supervise, survivors
survivors.ABSENCE, survivors.AGAIN = 0.5, 0.2
mpirun.GRACE, mpirun.CLEARING, mpirun._SAME = 1.0, 3.0, {same}
supervise.LINGER, supervise.SETTLING, supervise._LOOK, supervise.RESTS = 0.5, 0.1, 0.1, (0.1, 0.2)
supervise.LEAVING = 0.5
from mpipso.cli import main
sys.exit(main(["launch", *sys.argv[1:]]))
"""
"""``mpipso launch`` with shorter pauses, so that the tests need not wait for them."""
SAME = 0.2
CONFIG = """
output = "{folder}/runs"
[service]
engine = "command"
command = ["true", "{{x}}"]
health_url = "http://{{host}}:{{port}}/health"
[benchmark]
client = "openai"
[objective]
maximize = "output_throughput"
[[parameters]]
name = "x"
type = "float"
min = 0.0
max = 1.0
default = 0.5
"""
WELL = "begin(); evaluate(0); finish()"


CLOCK = """
import time
from pathlib import Path
from types import SimpleNamespace
from mpipso.launch import supervise
from mpipso.launch.traces import Traces
clock, state = Path("{folder}/clock"), Traces.state
def look(traces):
    with open("{folder}/looks", "a") as looks:
        looks.write(".")
    return state(traces)
def monotonic():
    return float(clock.read_text()) if clock.exists() else 0.0
supervise.time = SimpleNamespace(monotonic=monotonic, sleep=lambda _: time.sleep(0.02), strftime=time.strftime)
supervise._LOOK, Traces.state = 0.0, look
"""
"""The same with a clock that only the stand-in puts forward, and a note of every look: see ``later()`` there."""
SILENT = "[later(3.4) for _ in range(3)]"
"""More than ten seconds of that clock, in steps in which the supervisor was not suspended itself."""
OUTAGE = """
import errno
import os
from pathlib import Path
def failing(function):
    def call(path, *more, **named):
        if path.name == "journal.jsonl" and os.path.exists("{folder}/outage"):
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return function(path, *more, **named)
    return call
for name in ("open", "stat", "read_bytes"):
    setattr(Path, name, failing(getattr(Path, name)))
"""
"""The same on a host of its own, where the journal cannot be read as long as a file ``outage`` is there."""
NO_MODES = """
import errno
import os
def chmod(*_, **__):
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
os.chmod = chmod
"""
"""The same, on a file system with which a mode cannot be set."""
NO_LOCKS = """
import errno
import fcntl
import os
def flock(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
fcntl.flock = flock
"""
"""The same, on a file system without locks."""
ELSEWHERE = """
import os
from pathlib import Path
from mpipso.launch import fence
fence._LOCKS = Path(os.devnull)
"""
"""The same, and whoever has locked a file is on another host."""
PATIENT = """
from pathlib import Path
from mpipso.launch import fence
def is_written(path):
    found = fence.is_written(path)
    if found:
        Path("{folder}/refused").touch()
    return found
supervise.LEAVING, supervise.is_written = 20.0, is_written
"""
"""The same with more patience, and a note that it is needed."""
STOP_IT = "wait for it or stop it"
WRITER = """
import fcntl, sys
with open(sys.argv[1], "a") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("locked", flush=True)
    for line in sys.stdin:
        print(line, end="", file=file, flush=True)
"""
LATE = """
from mpipso.record import folders
looked_after, first = folders._looked_after, [False]
folders._looked_after = lambda path: first.pop() if first else looked_after(path)
"""
"""The same, and another launch takes the lock between this one's look at it and its own try."""


def script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


class Bench:
    """A folder with a configuration, a stand-in for mpirun, and hosts that answer unless ``dead`` names them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.runs = folder / "runs"
        self.config = folder / "my.toml"
        self.config.write_text(CONFIG.format(folder=folder))
        version = '[ "$1" != --version ] || exec echo "mpirun (Open MPI) ${VERSION:-5.0.0}"'
        call = f'exec {sys.executable} {STAND_IN} {folder} "$@"'
        self.mpirun = script(folder / "mpirun", f"#!/bin/sh\n{version}\n{call}\n")
        self.dead = folder / "dead"
        self.dead.touch()
        self.agent = script(
            folder / "agent", f'#!/bin/sh\n! grep -qx "$1" {self.dead} && {{ [ "$2" = true ] || [ "$1" = holder ]; }}\n'
        )
        self.environment = {"PRTE_MCA_plm_ssh_agent": str(self.agent)}

    def start(self, attempts: list[str], *words: object, before: Sequence[str] = (), fault: str = "") -> Job:
        (self.folder / "attempts.json").write_text(json.dumps(attempts))
        program = LAUNCH.replace("from mpipso.cli", f"{fault}\nfrom mpipso.cli")
        program = program.replace("{folder}", str(self.folder)).replace("{same}", str(SAME))
        argv = [*before, sys.executable, "-c", program, "--mpirun", str(self.mpirun), "--config", str(self.config)]
        return Job([*argv, *map(str, words)], limit=LIMIT, env=self.environment)

    def launch(self, attempts: list[str], *words: object, fault: str = "") -> subprocess.CompletedProcess[str]:
        with self.start(attempts, *words, fault=fault) as job:
            return job.wait()

    def earlier(self, attempt: str) -> None:
        """A run that an earlier launch has left, without that launch: the stand-in alone."""
        (self.folder / "attempts.json").write_text(json.dumps([attempt]))
        (self.runs / "night").mkdir(parents=True)
        words = [self.mpirun, "--config", self.config, "--run-name", "night"]
        subprocess.run(words, env={**os.environ, "MPIPSO_RESTARTS": "0"}, check=False)

    @property
    def calls(self) -> list[list[str]]:
        """The words of each launch."""
        path = self.folder / "calls.jsonl"
        return [json.loads(line)["words"] for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def restarts(self) -> list[str]:
        """What each launch was told of the restarts."""
        return [json.loads(line)["restarts"] for line in (self.folder / "calls.jsonl").read_text().splitlines()]

    @property
    def run(self) -> Path:
        """The folder of the one run."""
        (path,) = self.runs.iterdir()
        return path

    @property
    def begun(self) -> bool:
        """Whether the run has, and has written all of its beginning."""
        return any('"asked"' in path.read_text() for path in self.runs.glob("*/journal.jsonl"))

    @property
    def events(self) -> list[str]:
        """Those of the run, without what it asks for each time."""
        events = [json.loads(line)["event"] for line in (self.run / "journal.jsonl").read_text().splitlines()]
        return [event for event in events if event != "asked"]

    def hosts(self, *names: str) -> Path:
        path = self.folder / "hosts.txt"
        path.write_text("".join(f"{name} slots=1\n" for name in names))
        return path


@contextlib.contextmanager
def writer(run: Path, environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process that has the journal of a run locked, and writes into it what it is told, until the block ends."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(run / "journal.jsonl")],
        env={**os.environ, **(environment or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def slurm_without_steps(tools: Path, states: str) -> Path:
    """A folder with a Slurm that has job 7 on n1 and n2 in these states and starts no step: scripts of this test."""
    tools.mkdir()
    script(tools / "sinfo", "#!/bin/sh\necho n1 allocated; echo n2 allocated\n")
    script(tools / "srun", "#!/bin/sh\nexit 1\n")
    asked = '[ "$*" = "--noheader --jobs 7 --states all --format %A %T" ]'
    script(tools / "squeue", f"#!/bin/sh\n{asked} && printf '%s\\n' {states}\n")
    return tools


def value(words: list[str], flag: str) -> str | None:
    return words[words.index(flag) + 1] if flag in words else None


def told(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line.removeprefix("mpipso: ") for line in done.stderr.splitlines() if line.startswith("mpipso: ")]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


class TestTheJournalTellsTheEnd:
    @pytest.mark.parametrize(
        ("attempt", "code"),
        [
            (f"{WELL}; sys.exit(14)", 0),
            (f"{WELL}; die(9)", 0),
            ("begin(); finish(feasible=False)", 3),
            ("begin(); write('failed', cause='no group is left'); sys.exit(4)", 4),
            ("begin(); write('interrupted', signal='SIGUSR1'); sys.exit(1)", 138),
            ("write('started'); sys.exit(2)", 2),
        ],
    )
    def test_and_such_an_end_is_not_followed_by_a_restart(self, bench: Bench, attempt: str, code: int) -> None:
        done = bench.launch([attempt])
        assert done.returncode == code, done.stderr
        assert len(bench.calls) == 1
        assert told(done) == []

    def test_why_it_failed_is_kept_and_told_if_the_root_was_not_heard_to_the_end(self, bench: Bench) -> None:
        failed = "begin(); write('failed', cause='no group is left:\\n\\nlost rank 1'); sys.exit({})"
        for code in (4, 0):
            done = bench.launch([failed.format(code)], "--run-name", f"night-{code}")
            log = [line[20:] for line in (bench.runs / f"night-{code}" / "launch.log").read_text().splitlines()]
            assert (done.returncode, log[1:3]) == (4, ["no group is left:", "lost rank 1"]), done.stderr
            assert log[3].startswith("go on with: ") and log[3].endswith(f"--resume {bench.runs / f'night-{code}'}")
            assert told(done) == (log[1:] if code == 0 else [])

    def test_no_secret_of_the_launcher_s_is_kept(self, bench: Bench) -> None:
        more = "--mpirun-args=-x MY_API_TOKEN=tok_8f3a61c0d2"
        bench.launch(["begin(); write('failed', cause='no group is left'); sys.exit(4)"], more)
        log = (bench.run / "launch.log").read_text()
        assert "go on with: " in log and "tok_8f3a61c0d2" not in log

    def test_a_baseline_that_failed_is_not_resumed(self, bench: Bench) -> None:
        done = bench.launch([f"begin(); write('failed', cause='{NO_BASELINE}: no answer'); die(9)"])
        assert (done.returncode, told(done)) == (4, [f"{NO_BASELINE}: no answer"]), done.stderr

    def test_wrong_input_leaves_nothing(self, bench: Bench) -> None:
        done = bench.launch(["sys.exit(2)"])
        assert (done.returncode, len(bench.calls), told(done)) == (2, 1, [])
        assert not bench.runs.exists()

    def test_a_launcher_that_does_not_leave_after_the_end_is_ended(self, bench: Bench) -> None:
        done = bench.launch([f"{WELL}; ignore_term(); hang()"])
        assert done.returncode == 0, done.stderr
        assert len(bench.calls) == 1


class TestRestarts:
    @pytest.mark.parametrize(
        ("fault", "how"),
        [
            ("sys.exit(0)", "mpirun ended with code 0"),
            ("die(9)", "mpirun ended with SIGKILL"),
        ],
    )
    def test_a_job_that_ends_before_its_run_resumes(self, bench: Bench, fault: str, how: str) -> None:
        done = bench.launch([f"begin(); evaluate(0); {fault}", "begin(); evaluate(1); finish()"])
        assert done.returncode == 0, done.stderr
        assert told(done) == [f"{how} before the run had ended; resuming {bench.run} (restart 1 of 3)"]
        assert bench.events == ["started", "evaluated", "resumed", "evaluated", "finished"]
        first, second = bench.calls
        assert (value(first, "--run-name"), value(first, "--resume")) == (bench.run.name, None)
        assert (value(second, "--run-name"), value(second, "--resume")) == (None, str(bench.run))
        assert bench.restarts == ["3", "3"]
        log = (bench.run / "launch.log").read_text()
        assert log.count(" + ") == 2
        assert how in log
        assert [line for line in done.stdout.splitlines() if line.startswith("+ ")] == [
            f"+ {bench.mpirun} {shlex.join(words)}" for words in bench.calls
        ]

    @pytest.mark.parametrize(("end", "told_again"), [("sys.exit(4)", False), ("sys.exit(0)", False), ("die(9)", True)])
    def test_but_not_where_its_folder_was_moved(self, bench: Bench, end: str, told_again: bool) -> None:
        done = bench.launch([f"begin(); folder().rename(HERE / 'moved'); {end}"], "--run-name", "night")
        assert done.returncode == (0 if "exit(0)" in end else 4), done.stderr
        assert len(bench.calls) == 1 and not list(bench.runs.glob("night*"))
        gone = f"{bench.runs / 'night'} is gone: it was moved or removed"
        assert told(done) == [f"mpirun ended with SIGKILL before the run had ended, and {gone}"] * told_again

    def test_nor_is_it_ended_for_its_silence_there(self, bench: Bench) -> None:
        silent = f"begin(); later(); folder().rename(HERE / 'moved'); {SILENT}; sys.exit(0)"
        done = bench.launch([silent], "--run-name", "night", "--stuck-after", 10, fault=CLOCK)
        assert (done.returncode, told(done)) == (0, []), done.stderr

    def test_a_run_that_does_not_begin_starts_again_under_its_name(self, bench: Bench) -> None:
        words = ("--start-limit", 1.5, "--run-name", "night")
        done = bench.launch(["later(1.6); hang()", WELL], *words, fault=CLOCK)
        assert done.returncode == 0, done.stderr
        line = "the run had not begun 1.5 s after its launch (--start-limit); starting again (restart 1 of 3)"
        assert told(done) == [line]
        assert [value(words, "--run-name") for words in bench.calls] == ["night", "night"]
        assert bench.events == ["started", "evaluated", "finished"]

    def test_a_launcher_that_ended_before_its_run_is_asked_why(self, bench: Bench) -> None:
        """Open MPI 4 is quiet about the exit code of the root, and with that about all it has to say."""
        script(bench.mpirun, bench.mpirun.read_text().replace("#!/bin/sh\n", "#!/bin/sh\nexport VERSION=4.1.4\n"))
        done = bench.launch(["sys.exit(1)", "begin()", "sys.exit(1)", "begin(); finish()"])
        assert done.returncode == 0, done.stderr
        assert ["--quiet" in words for words in bench.calls] == [True, False, True, False]

    def test_and_not_started_a_third_time_if_nothing_is_different(self, bench: Bench) -> None:
        done = bench.launch(["sys.exit(213)"])
        assert done.returncode == 4
        assert len(bench.calls) == 2
        assert told(done)[-1] == (
            "mpirun ended with code 213 before the run had ended, twice in the same way, and the run never began"
        )
        bench = Bench(bench.folder / "hosts")
        bench.dead.write_text("n2\n")
        hosts = ("--hostfile", bench.hosts("n0", "n1", "n2"), "--nodes-per-group", 1)
        done = bench.launch(["sys.exit(213)", "sys.exit(213)", WELL], *hosts)
        assert done.returncode == 0, done.stderr

    def test_so_does_one_whose_journal_has_no_line_yet(self, bench: Bench) -> None:
        done = bench.launch(["(folder() / 'journal.jsonl').touch(); die(9)", WELL])
        assert done.returncode == 0, done.stderr
        assert value(bench.calls[1], "--resume") is None
        assert bench.events == ["started", "evaluated", "finished"]

    def test_and_one_that_was_lost_before_it_had_asked_anything(self, bench: Bench) -> None:
        """It may not have learned all that its warm start takes yet, and a resumed run learns nothing more."""
        earlier = bench.folder / "earlier.csv"
        done = bench.launch(["write('started'); write('learned'); die(9)", WELL, ""], "--warm-start", earlier)
        assert done.returncode == 0, done.stderr
        assert [value(words, "--warm-start") for words in bench.calls] == [str(earlier)] * 2
        assert bench.events == ["started", "evaluated", "finished"]

    def test_a_name_that_was_reserved_in_vain_is_used_again(self, bench: Bench) -> None:
        assert bench.launch(["sys.exit(1)"], "--run-name", "night", "--restarts", 0).returncode == 4
        assert bench.launch([WELL], "--run-name", "night").returncode == 0
        assert bench.run.name == "night"
        assert bench.launch([WELL], "--run-name", "night").returncode == 0
        assert sorted(path.name for path in bench.runs.iterdir()) == ["night", "night-2"]

    @pytest.mark.parametrize("fault", ["", LATE])
    def test_two_at_once_of_one_name_have_a_folder_each(self, bench: Bench, fault: str) -> None:
        attempts = [f"wait_for('go'); {WELL}", WELL]
        with bench.start(attempts, "--run-name", "night") as job:
            wait_until(lambda: bench.calls, 20, "the first is launched")
            second = bench.launch(attempts, "--run-name", "night", fault=fault)
            (bench.folder / "go").touch()
            first = job.wait()
        assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
        assert sorted(path.name for path in bench.runs.iterdir()) == ["night", "night-2"]

    def test_the_folder_of_a_new_run_is_noted_for_who_asks(self, bench: Bench) -> None:
        note = bench.folder / "note"
        bench.environment["MPIPSO_NOTE"] = str(note)
        for name in ("night", "night-2"):
            assert bench.launch([WELL], "--run-name", "night").returncode == 0
            assert note.read_text() == f"{bench.runs / name}\n"
        assert bench.launch(["", "", "sys.exit(2)"], "--run-name", "night").returncode == 2
        assert not note.exists(), "that run has not begun"

    @pytest.mark.parametrize("deaf", [False, True])
    def test_a_stuck_job_is_ended_and_resumes(self, bench: Bench, deaf: bool) -> None:
        stuck = f"begin(); ignore_term({deaf}); {SILENT}; hang()"
        done = bench.launch([stuck, "begin(); finish()"], "--stuck-after", 10, fault=CLOCK)
        assert done.returncode == 0, done.stderr
        assert told(done)[0].startswith("the run has been silent for 10 s (--stuck-after); resuming")

    def test_so_does_one_that_says_on_its_way_out_that_it_was_interrupted(self, bench: Bench) -> None:
        last = "signal.signal(signal.SIGTERM, lambda *_: (write('interrupted', signal='SIGTERM'), sys.exit(143)))"
        stuck = f"begin(); {last}; {SILENT}; hang()"
        done = bench.launch([stuck, "begin(); finish()"], "--stuck-after", 10, fault=CLOCK)
        assert done.returncode == 0, done.stderr
        assert bench.events == ["started", "interrupted", "resumed", "finished"]

    @pytest.mark.parametrize("attempt", ["{stop}; begin(); finish()", "begin(); {stop}; finish()"])
    def test_the_time_in_which_a_job_was_suspended_does_not_count(self, bench: Bench, attempt: str) -> None:
        """An hour goes by between two turns of the supervisor, as if it was stopped."""
        done = bench.launch([attempt.format(stop="later(3600.0)"), WELL], fault=CLOCK)
        assert done.returncode == 0, done.stderr
        assert len(bench.calls) == 1

    def test_a_beat_is_a_sign_of_life(self, bench: Bench) -> None:
        done = bench.launch(
            ["begin(); [(beat(), later(4.0)) for _ in range(3)]; finish()"], "--stuck-after", 10, fault=CLOCK
        )
        assert done.returncode == 0, done.stderr
        assert len(bench.calls) == 1

    def test_at_most_so_many_in_a_row(self, bench: Bench) -> None:
        done = bench.launch(["begin(); evaluate(0)", "begin()"], "--restarts", 2)
        assert done.returncode == 4
        assert len(bench.calls) == 3
        *_, error, resume = told(done)
        assert error == "mpirun ended with code 0 before the run had ended, after 2 restarts without progress"
        command, launch, flags = resume.removeprefix("go on with: ").partition(" launch ")
        assert launch
        assert command in ("mpipso", f"{sys.executable} -m mpipso"), "whatever is found in this shell"
        assert f"--resume {bench.run}" in flags
        done = bench.launch(["begin(); finish()"], *shlex.split(flags))
        assert done.returncode == 0, done.stderr

    def test_ranks_are_told_how_to_go_on_in_the_same_place(self, bench: Bench) -> None:
        tell = "(HERE / 'command').write_text(os.environ['MPIPSO_COMMAND'])"
        words = ("--hostfile", bench.hosts("n0", "n1"), "--target=-1e-5", "--run-name", "night", "--stuck-after", "900")
        assert bench.launch([f"{tell}; begin(); finish()"], *words).returncode == 0
        command = shlex.split((bench.folder / "command").read_text())
        assert command[command.index("-np") :] == [
            *("-np", "2", "--stuck-after", "900"),
            *("--config", str(bench.config), "--hostfile", str(bench.folder / "hosts.txt")),
            "--target=-1e-05",
        ]
        assert [word for word in bench.calls[0] if word.startswith("--target")] == ["--target=-1e-05"]

    @pytest.mark.parametrize(
        "edit", ["(HERE / 'my.toml').write_text('edited')", "(HERE / 'my.toml').unlink()", "(HERE / 't.json').unlink()"]
    )
    def test_it_goes_on_with_the_configuration_of_its_launch(self, bench: Bench, edit: str) -> None:
        template = bench.folder / "t.json"
        template.write_text('{"old": "{x}"}', encoding="utf-8-sig")  # as some editors write it
        section = f'\n[service.config_file]\ntemplate = "{template}"\n'
        bench.config.write_text(bench.config.read_text() + section)
        before = parse(bench.config.read_text(), "before")
        tell = "(HERE / 'command').write_text(os.environ['MPIPSO_COMMAND'])"
        done = bench.launch([f"begin(); {edit}; die(9)", "begin()", f"{tell}; begin(); finish()"])
        assert done.returncode == 0, done.stderr
        kept = bench.run / "launched.toml"
        assert [value(words, "--config") for words in bench.calls] == [str(bench.config), str(kept), str(kept)]
        assert value(shlex.split((bench.folder / "command").read_text()), "--config") == str(kept)
        edited = "t.json" if "t.json" in edit else "my.toml"
        (line,) = [line for line in told(done) if "restart" not in line]
        assert line == f"{bench.folder / edited} is not what the run was launched with: it goes on with {kept}"
        after = parse(kept.read_text(), "after")
        assert differences(before, after) == []
        assert after.service.config_file is not None
        copy = Path(after.service.config_file.template)
        assert (copy, copy.read_text()) == (bench.run / "launched-t.json", '{"old": "{x}"}')
        assert [path.stat().st_mode & 0o777 for path in (kept, copy)] == [0o600] * 2

    @pytest.mark.parametrize("dead", [[], ["n0"]], ids=["all hosts", "what is left of them"])
    def test_and_on_the_hosts_of_its_launch(self, bench: Bench, dead: list[str]) -> None:
        """The hosts of the next run, which the user's file names by then, may be busy with that."""
        fail = f"begin(); (HERE / 'hosts.txt').write_text('m0'); (HERE / 'dead').write_text('{' '.join(dead)}'); die(9)"
        tell = "(HERE / 'read').write_text(Path(value('--hostfile')).read_text())"
        words = ("--hostfile", bench.hosts("n0", "n1"), "--nodes-per-group", 1)
        done = bench.launch([fail, f"{tell}; begin(); finish()"], *words)
        assert done.returncode == 0, done.stderr
        left = [f"{name} slots=1" for name in ("n0", "n1") if name not in dead]
        assert (bench.folder / "read").read_text().splitlines() == left
        kept = f"{bench.run / 'launched.toml'} and {bench.run / 'launched.hosts'}"
        (line,) = [line for line in told(done) if "restart" not in line]
        assert line == f"{words[1]} is not what the run was launched with: it goes on with {kept}"

    def test_also_where_it_is_resumed_as_it_was_configured(self, tmp_path: Path) -> None:
        hosts = tmp_path / "hosts.txt"
        hosts.write_text("n0\n")
        source = Source.of(options := Options(hostfile=hosts), config())
        assert source is not None and source.changed() == [] and not source.is_kept(tmp_path)
        hosts.write_text("m0\n")
        assert source.changed() == [str(hosts)]
        assert source.keep(tmp_path, options) == Options(hostfile=tmp_path / "launched.hosts")
        assert (tmp_path / "launched.hosts").read_text() == "n0\n"
        assert not (tmp_path / "launched.toml").exists()

    def test_a_batch_job_that_comes_back_finds_the_configuration_of_its_launch(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PBS_JOBID", "7.server")
        hosts = ("--hostfile", bench.hosts("localhost"))
        programs = ["sys.exit(2)", "begin()", "begin(); finish()"]
        assert bench.launch(programs, *hosts).returncode == 2
        assert bench.calls and not bench.runs.exists(), "nothing is left of what never began"
        done = bench.launch(programs, *hosts, "--restarts", 0)
        assert done.returncode == 4, done.stderr
        kept, text = bench.run / "launched.toml", bench.config.read_text()
        assert (kept.read_text(), kept.stat().st_mode & 0o777) == (text, 0o600)
        bench.config.unlink()
        done = bench.launch(programs, *hosts, "--resume", bench.run, "--config", kept)
        assert (done.returncode, kept.read_text()) == (0, text), done.stderr

    def test_a_resumed_run_that_gets_on_is_not_given_up(self, bench: Bench) -> None:
        """It repeats what was under way, and asks for nothing new."""
        begun = "begin(); evaluate(0); sys.exit(7)"
        bench.earlier(begun)
        again = [f"write('resumed', config=''); evaluate({number}); sys.exit(7)" for number in (1, 2)]
        done = bench.launch([begun, *again, "begin(); finish()"], "--resume", bench.run)
        assert done.returncode == 0, done.stderr
        assert len(bench.calls) == 4

    def test_the_user_s_own_words_reach_the_launcher_each_time(self, bench: Bench) -> None:
        done = bench.launch(["begin()", "begin()"], "--mpirun-args", "-x 'A=b c'", "--restarts", 1)
        for words in bench.calls:
            at = words.index("A=b c")
            assert words[at - 1 : at + 2] == ["-x", "A=b c", sys.executable]
        assert "--mpirun-args=-x 'A=b c'" in shlex.split(told(done)[-1])
        assert len(bench.calls) == 2
        assert "--oversubscribe" in (bench.launch([WELL], "--mpirun-args", "--oversubscribe") and bench.calls[-1])
        bench.launch([WELL], "--mpirun-args", "-x A", "--mpirun-args=-x B", "--mpirun-args", "--mca a b")
        assert " -x A -x B --mca a b " in shlex.join(bench.calls[-1])
        wrong = bench.launch([WELL], "--mpirun-args", "-x 'A")
        assert wrong.returncode == 2
        assert told(wrong) == [
            """argument --mpirun-args: "-x 'A": No closing quotation; see mpipso launch --help""",
        ]

    def test_how_to_go_on_is_told_as_the_user_calls_it(self, bench: Bench) -> None:
        bench.environment["MPIPSO_COMMAND"] = "./run.sh"
        done = bench.launch(["begin(); evaluate(0)"], "--restarts", 0)
        assert told(done)[-1].startswith("go on with: ./run.sh -np ")

    def test_inside_a_slurm_job_where_or_how_it_is_submitted_is_told(self, bench: Bench) -> None:
        bench.environment |= {"SLURM_JOB_ID": "7", "MPIPSO_COMMAND": "mpipso launch"}
        words = ("--progress", "plain", "--evaluations", 50, "--restarts", 0)
        done = bench.launch(["begin(); evaluate(0)"], *words)
        assert told(done)[-1].startswith("go on with: mpipso launch -np ")
        assert told(done)[-1].endswith(f" --resume {bench.run}  # inside a job of Slurm")
        bench.environment["MPIPSO_COMMAND"] = "sbatch job.sbatch my.toml"
        done = bench.launch(["begin(); evaluate(0)"], "-np", 2, "--resume", bench.run, *words)
        again = f"sbatch job.sbatch my.toml --restarts 0 --evaluations 50 --resume {bench.run}"
        assert told(done)[-1] == f"go on with: {again}"

    def test_inside_a_slurm_job_all_ranks_have_the_path_of_the_launch(self, bench: Bench) -> None:
        attempts = ["begin(); finish()"]
        for slurm in ({}, {"SLURM_JOB_ID": "7"}):
            bench.environment |= slurm
            assert bench.launch(attempts).returncode == 0
        assert bench.launch(attempts, "--mpirun-args", "-x PATH=/site:/bin").returncode == 0
        forwarded = [[words[at + 1] for at, word in enumerate(words) if word == "-x"] for words in bench.calls]
        assert [[name for name in names if name.startswith("PATH")] for names in forwarded] == [
            *([], ["PATH"], ["PATH=/site:/bin"])
        ]

    @pytest.mark.parametrize(("step", "overlaps"), [({}, [False, True]), ({"SLURM_STEP_ID": "0"}, [True, True])])
    def test_inside_a_slurm_job_no_other_step_is_waited_for(
        self, bench: Bench, step: dict[str, str], overlaps: list[bool]
    ) -> None:
        """Neither for that of this launch itself, nor for those of a job that was lost."""
        bench.environment |= {"SLURM_JOB_ID": "7", **step}
        assert bench.launch(["begin(); die(9)", "begin(); finish()"]).returncode == 0
        assert ["--overlap" in words for words in bench.calls] == overlaps

    def test_all_ranks_are_told_when_the_job_ends(self, bench: Bench) -> None:
        bench.environment["MPIPSO_END_TIME"] = "90000000000"
        told = "(HERE / 'end').open('a').write(os.environ['MPIPSO_END_TIME'] + ' ')"
        assert bench.launch([f"begin(); {told}", f"begin(); {told}; finish()"]).returncode == 0
        assert (bench.folder / "end").read_text().split() == 2 * ["90000000000"]
        assert [words[words.index("MPIPSO_END_TIME") - 1] for words in bench.calls] == ["-x", "-x"]

    def test_but_any_number_for_a_run_that_gets_on(self, bench: Bench) -> None:
        on = [f"begin(); evaluate({number})" for number in range(4)]
        done = bench.launch([*on, "begin(); finish()"], "--restarts", 1)
        assert done.returncode == 0, done.stderr
        assert bench.restarts == ["1"] * 5, "each of them is protected once it has got on"

    def test_none_if_they_are_turned_off(self, bench: Bench) -> None:
        done = bench.launch(["begin(); evaluate(0)"], "--restarts", 0)
        assert done.returncode == 4
        assert len(bench.calls) == 1
        assert told(done)[0] == "mpirun ended with code 0 before the run had ended"

    def test_a_damaged_journal_is_told(self, bench: Bench) -> None:
        done = bench.launch(["begin(); (folder() / 'journal.jsonl').write_text('damage\\n'); hang()"])
        assert done.returncode == 2
        assert told(done)[0].endswith("journal.jsonl:1: is not a line of JSON: the journal is damaged")

    def test_an_outage_of_the_disk_on_this_host_alone_does_not_end_a_run(self, bench: Bench) -> None:
        out, back = "(HERE / 'outage').touch()", "(HERE / 'outage').unlink()"
        attempt = f"begin(); later(); {out}; {SILENT}; {back}; later(); finish()"
        done = bench.launch([attempt], "--stuck-after", 10, fault=CLOCK + OUTAGE)
        assert (done.returncode, told(done)) == (0, []), done.stderr
        assert len(bench.calls) == 1

    @pytest.mark.parametrize("lasting", [False, True])
    def test_and_of_a_job_that_ends_in_it_the_launcher_waits_for_the_journal(self, bench: Bench, lasting: bool) -> None:
        attempts = ["begin(); (HERE / 'outage').touch(); sys.exit(7)", "begin(); finish()"]
        with bench.start(attempts, "--stuck-after", 100, fault=CLOCK + OUTAGE) as job:
            wait_until(lambda: "waiting for it" in job.stderr, 20, "it waits")
            if lasting:
                (bench.folder / "clock").write_text("101.0")
                done = job.wait()
            (bench.folder / "outage").unlink()
            done = job.wait()
        assert done.returncode == (4 if lasting else 0), done.stderr
        why = f"{bench.run / 'journal.jsonl'} cannot be read: Transport endpoint is not connected"
        how = "mpirun ended with code 7 before the run had ended"
        assert told(done)[:2] == [
            f"{why}; waiting for it",
            f"{how}, and {why}" if lasting else f"{how}; resuming {bench.run} (restart 1 of 3)",
        ]

    def test_a_file_system_that_takes_no_modes_keeps_no_job_from_going_on(self, bench: Bench) -> None:
        past = "path = HERE / 'runs' / 'night' / 'journal.jsonl'; "
        attempts = [f"begin(); {past}os.utime(path, (1e9, 1e9)); die(9)", f"{past}old = path.stat().st_mtime; "]
        attempts[1] += "begin(); write('learned', old=old); finish()"
        done = bench.launch(attempts, "--run-name", "night", fault=NO_MODES)
        assert done.returncode == 0, done.stderr
        lines = (bench.run / "journal.jsonl").read_text().splitlines()
        assert [event["old"] for event in map(json.loads, lines) if event["event"] == "learned"] == [1e9]

    def test_what_the_old_job_left_is_gone_before_the_next_one(self, bench: Bench) -> None:
        """A rank in the launcher's session, one in its own, and a keeper that ends by itself in a moment."""
        left = (
            "orphan(['sleep', '1000'], session=False); orphan(['sleep', '1000'], session=True); "
            "orphan(['sleep', '0.5'], session=True)"
        )
        alive = "[p for p in (HERE / 'orphans').read_text().split() if os.path.exists(f'/proc/{p}')]"
        done = bench.launch([f"begin(); {left}; die(9)", f"begin(); write('learned', alive={alive}); finish()"])
        assert done.returncode == 0, done.stderr
        record = [json.loads(line) for line in (bench.run / "journal.jsonl").read_text().splitlines()]
        assert [event["alive"] for event in record if event["event"] == "learned"] == [[]]
        assert len((bench.folder / "orphans").read_text().split()) == 3

    def test_but_not_what_a_shell_had_started_before(self, bench: Bench) -> None:
        """It became the launch by exec, as a batch script does. The second of its children leaves an orphan."""
        shell = (
            f"cd {bench.folder}; sleeper() {{ sleep 1000 & echo $! >>before; }}; "
            "(sleeper; exec sleep 1000) & echo $! >>before; setsid sleep 1000 & echo $! >>before; "
            "(sleeper; until [ -e calls.jsonl ]; do sleep 0.01; done) & "
            'until [ "$(wc -l <before)" = 4 ]; do sleep 0.01; done; exec "$@"'
        )
        attempts = ["begin(); orphan(['sleep', '1000'], session=True); die(9)", "begin(); finish()"]
        with bench.start(attempts, before=("sh", "-c", shell, "sh")) as job:
            done = job.wait()
            before = [psutil.Process(int(pid)) for pid in (bench.folder / "before").read_text().split()]
            assert [process.name() for process in before] == ["sleep"] * 4
            assert not psutil.pid_exists(int((bench.folder / "orphans").read_text()))
        assert done.returncode == 0, done.stderr


class TestOthersThatWriteTheJournal:
    LOCKED = "import fcntl; fcntl.flock((folder() / 'journal.jsonl').open('r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    WAIT = "beat(); wait_for('go')"

    @pytest.mark.parametrize(("environment", "fault"), [({"MPIPSO_RESTARTS": "3"}, ""), ({}, ELSEWHERE)])
    def test_a_root_that_wakes_up_later_writes_into_a_file_that_nobody_reads(
        self, bench: Bench, environment: dict[str, str], fault: str
    ) -> None:
        """It has the journal open and locked: on a host that was frozen, or on this one where srun has started it."""
        again = f"{self.LOCKED}; begin(); finish()"
        with bench.start([f"begin(); {self.WAIT}", again], fault=fault) as job:
            wait_until(lambda: list(bench.runs.glob("*/beat")), 20, "the run has begun")
            with writer(bench.run, environment) as frozen:
                (bench.folder / "go").touch()
                wait_until(lambda: len(bench.calls) == 2, 20, "the second job")
                print("late", file=frozen.stdin, flush=True)
                done = job.wait()
        assert done.returncode == 0, done.stderr
        assert bench.events == ["started", "resumed", "finished"]

    def test_a_run_that_goes_on_elsewhere_is_not_resumed(self, bench: Bench) -> None:
        bench.earlier("begin(); sys.exit(7)")
        with writer(bench.run):
            done = bench.launch([WELL], "--resume", bench.run)
        assert done.returncode == 2
        assert told(done) == [f"{bench.run / 'journal.jsonl'}: another process is writing this journal; {STOP_IT}"]
        assert len(bench.calls) == 1 and bench.events == ["started"]

    def test_one_whose_root_is_about_to_end_is(self, bench: Bench) -> None:
        bench.earlier("begin(); sys.exit(7)")
        with writer(bench.run) as root, bench.start(["", WELL], "--resume", bench.run, fault=PATIENT) as job:
            wait_until((bench.folder / "refused").exists, 20, "it was asked for")
            root.kill()
            done = job.wait()
        assert (done.returncode, told(done)) == (0, []), done.stderr

    def test_who_waits_for_that_root_can_be_interrupted(self, bench: Bench) -> None:
        bench.earlier("begin(); sys.exit(7)")
        with writer(bench.run), bench.start(["", WELL], "--resume", bench.run, fault=PATIENT) as job:
            wait_until((bench.folder / "refused").exists, 20, "it was asked for")
            job.process.send_signal(signal.SIGTERM)
            done = job.wait()
        assert (done.returncode, len(bench.calls)) == (128 + signal.SIGTERM, 1), done.stderr

    def test_one_that_is_taken_up_after_the_job_was_lost_is_left_alone(self, bench: Bench) -> None:
        with bench.start([f"begin(); {self.WAIT}; sys.exit(7)", WELL]) as job:
            wait_until(lambda: list(bench.runs.glob("*/beat")), 20, "the run has begun")
            file = (bench.run / "journal.jsonl").stat().st_ino
            with writer(bench.run):
                (bench.folder / "go").touch()
                done = job.wait()
        assert done.returncode == 4
        error, again = told(done)
        assert error == (
            f"mpirun ended with code 7 before the run had ended, and it cannot go on: {bench.run / 'journal.jsonl'}: "
            f"another process is writing this journal; {STOP_IT}"
        )
        assert again.startswith("go on with: ")
        assert len(bench.calls) == 1 and (bench.run / "journal.jsonl").stat().st_ino == file

    @pytest.mark.parametrize("events", [(), ("resumed", "asked", "evaluated")])
    def test_so_is_one_because_of_which_the_ranks_refuse_wherever_it_goes_on(
        self, bench: Bench, events: tuple[str, ...]
    ) -> None:
        attempts = ["begin(); sys.exit(7)", f"{self.WAIT}; refuse()", WELL]
        with bench.start(attempts, fault=ELSEWHERE) as job:
            wait_until(lambda: list(bench.runs.glob("*/beat")), 20, "the second job")
            with writer(bench.run) as other:
                for number, event in enumerate(events, 2):
                    line = {"seq": number, "t": time.time(), "event": event, "config": "", "number": 0}
                    print(json.dumps(line), file=other.stdin, flush=True)
                wait_until(
                    lambda: (bench.run / "journal.jsonl").read_text().count("\n") == 2 + len(events),
                    20,
                    "the other one has written",
                )
                (bench.folder / "go").touch()
                done = job.wait()
        assert (done.returncode, len(bench.calls)) == (4, 2), done.stderr
        assert f"another process is writing this journal; {STOP_IT}" in told(done)[-2]

    def test_what_they_write_says_nothing_of_the_job(self, bench: Bench) -> None:
        """Where there are no locks, say: that a run has begun, or gets on."""
        bench.earlier("begin(); sys.exit(7)")
        others = "write('asked'); write('evaluated', number=0)"
        done = bench.launch(["", f"write('resumed', config=''); {others}; sys.exit(2)"], "--resume", bench.run)
        assert (done.returncode, len(bench.calls)) == (2, 2), done.stderr
        done = bench.launch(["", "", f"{others}; sys.exit(7)"], "--resume", bench.run, "--restarts", 1)
        assert (done.returncode, len(bench.calls)) == (4, 4), done.stderr
        done = bench.launch([*[""] * 4, f"{others}; finish(); sys.exit(2)"], "--resume", bench.run)
        assert (done.returncode, len(bench.calls)) == (2, 5), done.stderr

    def test_a_run_that_has_ended_has_whatever_the_launcher_ends_with(self, bench: Bench) -> None:
        """Also with the exit code of ranks that refuse to begin."""
        done = bench.launch(["begin(); finish(); sys.exit(2)"])
        assert (done.returncode, len(bench.calls)) == (0, 1), done.stderr

    def test_on_a_file_system_without_locks_nobody_is_known(self, bench: Bench) -> None:
        bench.earlier("begin(); sys.exit(7)")
        with writer(bench.run):
            done = bench.launch(
                ["", "begin(); sys.exit(7)", "begin(); finish()"], "--resume", bench.run, fault=NO_LOCKS
            )
        assert done.returncode == 0, done.stderr
        assert bench.events == ["started", "resumed", "resumed", "finished"]


class TestSignals:
    @pytest.mark.parametrize("name", ["INT", "TERM", "QUIT", "USR1", "USR2", "XCPU"])
    def test_the_first_lets_the_run_end_in_order(self, bench: Bench, name: str) -> None:
        number = signal.Signals[f"SIG{name}"]
        with bench.start(["interruptible()"]) as job:
            wait_until(lambda: bench.begun, 20, "the run has begun")
            job.process.send_signal(number)
            done = job.wait()
        assert done.returncode == 128 + number, done.stderr
        assert bench.events == ["started", "interrupted"]
        assert len(bench.calls) == 1

    @pytest.mark.parametrize(("number", "lines"), [(signal.SIGUSR1, 0), (signal.SIGTERM, 1)])
    def test_a_job_that_comes_back_after_it_says_nothing(
        self, bench: Bench, number: signal.Signals, lines: int
    ) -> None:
        """The root cannot tell which signal has come, so that it says nothing in such a job."""
        bench.environment["MPIPSO_REQUEUE"] = "1"
        with bench.start(["interruptible()"]) as job:
            wait_until(lambda: list(bench.runs.glob("*/journal.jsonl")), 20, "the run has begun")
            job.process.send_signal(number)
            done = job.wait()
        assert done.returncode == 128 + number, done.stderr
        again = "if this job does not come back by itself, go on with: "
        assert [line.startswith(again) for line in told(done)] == [True] * lines
        assert "MPIPSO_REQUEUE" in bench.calls[0], "the ranks know"

    def test_before_the_run_has_begun_one_is_enough_though_a_launcher_that_starts_drops_it(self, bench: Bench) -> None:
        """As Open MPI 4 does with SIGUSR1 in its first tenth of a second."""
        busy = "signal.signal(signal.SIGUSR1, signal.SIG_IGN)"
        wait = "(HERE / 'starting').touch(); time.sleep(1000)"
        with bench.start([f"{busy}; {wait}"]) as job:
            wait_until((bench.folder / "starting").exists, 20, "the launcher starts")
            job.process.send_signal(signal.SIGINT)
            done = job.wait()
        assert done.returncode == 130
        assert len(bench.calls) == 1

    def test_a_later_one_does_not_wait(self, bench: Bench) -> None:
        note = "lambda number, _: (HERE / signal.Signals(number).name).touch()"
        deaf = f"[signal.signal(number, {note}) for number in (signal.SIGUSR1, signal.SIGTERM)]"
        with bench.start([f"{deaf}; begin()\nwhile True: signal.pause()"]) as job:
            wait_until(lambda: bench.begun, 20, "the run has begun")
            for forwarded in ("SIGUSR1", "SIGTERM"):
                job.process.send_signal(signal.SIGINT)
                wait_until((bench.folder / forwarded).exists, 20, f"the job has got {forwarded}")
                time.sleep(1.1 * SAME)  # from when it was counted on: what comes before that counts once
            job.process.send_signal(signal.SIGINT)
            done = job.wait()
        assert done.returncode == 130
        assert len(bench.calls) == 1
        assert told(done)[0].startswith("go on with: ")

    def test_the_job_dies_with_its_supervisor(self, bench: Bench) -> None:
        with bench.start(["begin(); hang()"]) as job:
            wait_until(lambda: bench.begun, 20, "the run has begun")
            (mpirun,) = job.running(str(STAND_IN))
            job.process.kill()
            wait_until(lambda: not mpirun.is_running() or mpirun.status() == psutil.STATUS_ZOMBIE, 10, "it is gone")

    def test_what_nohup_ignores_stays_ignored(self, bench: Bench) -> None:
        with bench.start(["interruptible()"], before=("nohup",)) as job:
            wait_until(lambda: bench.begun, 20, "the run has begun")
            job.process.send_signal(signal.SIGHUP)
            job.process.send_signal(signal.SIGTERM)
            done = job.wait()
        assert done.returncode == 128 + signal.SIGTERM, "the first one that counts"
        assert bench.events == ["started", "interrupted"]

    def test_a_reader_that_goes_away_does_not_end_the_run(self, bench: Bench) -> None:
        """As with ``| head``: the launcher dies of it, and the next one writes to nobody."""
        lines = "[print('x' * 1000, flush=True) for _ in range(1000)]"
        pipe = ("sh", "-c", 'set -o pipefail; "$@" | head -1', "sh")
        with bench.start([f"begin(); {lines}", "begin(); print('y'); finish()"], before=("bash", *pipe[1:])) as job:
            done = job.wait()
        assert done.returncode == 0, done.stderr
        assert "BrokenPipeError" not in done.stderr.rpartition("restart 1 of 3")[2]
        assert bench.events == ["started", "resumed", "finished"]

    @pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
    def test_nor_does_it_need_one(self, bench: Bench, closed: str) -> None:
        shell = ("sh", "-c", f'exec "$@" {closed}', "sh")
        with bench.start(["begin(); print('y'); die(9)", "begin(); finish()"], before=shell) as job:
            done = job.wait()
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
        assert bench.events == ["started", "resumed", "finished"]
        assert "y" not in (bench.run / "launch.log").read_text().split()

    def test_nor_does_a_terminal_that_was_stopped_keep_it_from_being_watched(self, bench: Bench) -> None:
        master, terminal = pty.openpty()
        termios.tcflow(terminal, termios.TCOOFF)  # as Ctrl-S does
        shell = ("sh", "-c", f'exec "$@" >{os.ttyname(terminal)} 2>&1', "sh")
        with bench.start(["begin(); die(9)", "begin(); finish()"], before=shell) as job:
            done = job.wait()
        os.close(master)
        os.close(terminal)
        assert done.returncode == 0
        assert bench.events == ["started", "resumed", "finished"]
        assert "(restart 1 of 3)" in (bench.run / "launch.log").read_text()

    def test_nor_does_one_of_the_errors(self, bench: Bench) -> None:
        shell = ("bash", "-c", 'exec "$@" 2> >(true)', "bash")
        with bench.start(["begin(); die(9)", "begin(); finish()"], before=shell) as job:
            done = job.wait()
        assert done.returncode == 0, done.stdout
        assert bench.events == ["started", "resumed", "finished"]
        assert "(restart 1 of 3)" in (bench.run / "launch.log").read_text()


class TestHosts:
    def test_those_that_do_not_answer_stay_out_until_they_do(self, bench: Bench) -> None:
        hostfile = bench.hosts("n0", "n1", "n2", "n3")
        heal = "(HERE / 'dead').write_text('')"
        bench.dead.write_text("n2\n")
        done = bench.launch(
            ["begin()", f"begin(); {heal}", "begin(); finish()"], "--hostfile", hostfile, "--nodes-per-group", 2
        )
        assert done.returncode == 0, done.stderr
        first, second, third = bench.calls
        survivors = str(bench.run / "hosts-2.txt")
        assert [(w[1], [x for x in w if x.endswith(".txt")]) for w in (first, second, third)] == [
            ("4", [str(hostfile)] * 2),
            ("3", [survivors, str(hostfile)]),
            ("4", [str(hostfile)] * 2),
        ]
        assert [w[i + 1] for w in (first, second, third) for i, x in enumerate(w) if x == "--without"] == ["n2"]
        assert Path(survivors).read_text() == "n0 slots=1\nn1 slots=1\nn3 slots=1\n"
        assert told(done) == [
            "mpirun ended with code 0 before the run had ended; without n2, which does not answer; "
            f"resuming {bench.run} with 3 of 4 ranks (restart 1 of 3)",
            f"mpirun ended with code 0 before the run had ended; resuming {bench.run} (restart 2 of 3)",
        ]

    def test_what_the_ranks_refuse_may_pass(self, bench: Bench) -> None:
        attempts = ["begin(); die(9)", "refuse('n1')", "begin(); finish()"]
        words = ("--hostfile", bench.hosts("n0", "n1", "n2"), "--nodes-per-group", 1)
        with bench.start(attempts, *words, fault=f"{CLOCK}\nsupervise.RESTS = (5.0,)\nsupervise.SETTLING = 0.0") as job:
            wait_until(lambda: "(restart 2 of 3, in 5 s)" in job.stderr, 20, "the second job has been refused")
            assert len(bench.calls) == 2
            (bench.folder / "clock").write_text("5.1")
            done = job.wait()
        assert done.returncode == 0, done.stderr
        assert [value(words, "-np") for words in bench.calls] == ["3", "3", "3"], "all hosts have another chance"
        assert not (bench.run / "refusing").exists()

    def test_also_of_a_resumed_run_that_has_asked_for_nothing_new_yet(self, bench: Bench) -> None:
        """It repeats what was under way first, which may take hours."""
        assert bench.launch(["begin(); sys.exit(7)"], "--restarts", 0).returncode == 4
        again = "write('resumed', config=''); evaluate(0); die(9)"
        done = bench.launch(["", again, "refuse('n1')", "begin(); finish()"], "--resume", bench.run)
        assert done.returncode == 0, done.stderr
        assert len(bench.calls) == 4

    def test_a_host_that_keeps_the_run_from_going_on_is_left_out(self, bench: Bench) -> None:
        words = ("--hostfile", bench.hosts("n0", "n1", "n2", "n3"), "--nodes-per-group", 2)
        done = bench.launch(["begin(); die(9)", "refuse('n2.rack')", "refuse('n2.rack')", "begin(); finish()"], *words)
        assert done.returncode == 0, done.stderr
        assert [value(words, "--without") for words in bench.calls] == [None, None, None, "n2"]
        how = "mpirun ended with code 2 before the run had ended"
        assert told(done)[1:] == [
            f"{how}; resuming {bench.run} (restart 2 of 3, in 0.1 s)",
            f"{how}; without n2, which kept it from going on; resuming {bench.run} with 3 of 4 ranks "
            "(restart 3 of 3, in 0.2 s)",
        ]

    def test_but_not_hosts_without_which_there_is_no_group(self, bench: Bench) -> None:
        words = ("--hostfile", bench.hosts("n0", "n1"), "--nodes-per-group", 2)
        done = bench.launch(["begin(); die(9)", "refuse('n0')", "refuse('n0')", "begin(); finish()"], *words)
        assert done.returncode == 0, done.stderr
        assert [value(words, "-np") for words in bench.calls] == ["2"] * 4

    @pytest.mark.parametrize("restarts", [2, 3])
    def test_before_the_last_restart_or_if_they_do_not_answer_those_without_a_rank_are_left_out_too(
        self, bench: Bench, restarts: int
    ) -> None:
        bench.dead.write_text("apart0\n" * (restarts - 2))
        entry = '[[parallel.service_groups]]\ngroup_id = {0}\nnodes = [{{ host = "n{0}" }}, {{ host = "apart{0}" }}]\n'
        groups = "".join(entry.format(number) for number in range(3))
        bench.config.write_text(f"{bench.config.read_text()}[parallel]\nssh = true\n{groups}")
        attempts = ["begin(); die(9)", "refuse('apart0', 'apart1')", "begin(); finish()"]
        done = bench.launch(attempts, "--hostfile", bench.hosts("n0", "n1", "n2"), "--restarts", restarts)
        assert done.returncode == 0, done.stderr
        last = bench.calls[-1]
        out = [last[i + 1] for i, word in enumerate(last) if word == "--without"]
        assert out == (["apart0", "apart1"] if restarts == 2 else ["apart0"])
        assert value(last, "-np") == ("3" if restarts == 2 else "2")

    def test_so_is_one_that_does_not_answer_where_all_ranks_are_here(self, bench: Bench) -> None:
        here = rank_here(0).host
        entry = '[[parallel.service_groups]]\ngroup_id = {0}\nnodes = [{{ host = "{1}" }}, {{ host = "a{0}" }}]\n'
        groups = "".join(entry.format(number, here) for number in range(2))
        bench.config.write_text(f"{bench.config.read_text()}[parallel]\nssh = true\n{groups}")
        bench.dead.write_text("a1\n")
        done = bench.launch(["begin(); die(9)", "refuse('a1')", "begin(); finish()"])
        assert done.returncode == 0, done.stderr
        assert [value(words, "--without") for words in bench.calls] == [None, None, "a1"]

    def test_a_host_of_ranks_is_not_one_without_a_rank_by_another_name(self, bench: Bench) -> None:
        """And is not asked by that."""
        bench.dead.write_text("n0.rack\nn2.rack\n")
        words = ("--hostfile", bench.hosts("n0", "n1", "n2", "n3"), "--nodes-per-group", 2)
        done = bench.launch(["begin(); die(9)", "refuse('n0.rack', 'n2.rack')", "begin(); finish()"], *words)
        assert done.returncode == 0, done.stderr
        assert [value(words, "-np") for words in bench.calls] == ["4"] * 3

    def test_an_empty_journal_is_not_one_of_another_host(self, bench: Bench) -> None:
        attempts = ["(folder() / 'journal.jsonl').touch(); sys.exit(0)", WELL]
        done = bench.launch(attempts, "--hostfile", bench.hosts("n0", "holder"))
        assert done.returncode == 0, done.stderr
        assert len(bench.calls) == 2 and "(restart 1 of 3)" in done.stderr

    def test_a_configuration_with_a_byte_order_mark_is_kept_for_it(self, bench: Bench) -> None:
        template = bench.folder / "template.json"
        template.write_text('{"old": "{x}"}')
        more = f'\n[service.config_file]\ntemplate = "{template}"\n'
        bench.config.write_bytes(b"\xef\xbb\xbf" + bench.config.read_bytes() + more.encode())
        done = bench.launch(["begin(); (HERE / 'template.json').write_text('{}'); die(9)", WELL])
        assert done.returncode == 0, done.stderr
        assert "launched.toml" in str(value(bench.calls[-1], "--config"))

    def test_too_few_for_a_group_of_the_size_that_the_run_had(self, bench: Bench) -> None:
        bench.dead.write_text("n1\n")
        done = bench.launch(["begin()"], "--hostfile", bench.hosts("n0", "n1"))
        assert done.returncode == 4
        assert len(bench.calls) == 1
        waiting, error, resume = told(done)
        lost, few = "mpirun ended with code 0 before the run had ended", "1 of 2 hosts answer, too few for a group of 2"
        assert waiting == f"{lost}; {few}: waiting for the others, for 0.5 s at most"
        assert error == f"{lost}, and it cannot go on: {few}"
        assert resume.startswith("go on with: ")

    def test_a_host_without_which_there_is_no_group_is_waited_for(self, bench: Bench) -> None:
        bench.dead.write_text("n1\n")
        hosts = bench.hosts("n0", "n1")
        with bench.start(["begin(); die(9)", WELL], "--hostfile", hosts, fault="survivors.ABSENCE = 60.0") as job:
            wait_until(lambda: "waiting for the others" in job.stderr, 50, "it waits")
            bench.dead.write_text("")
            done = job.wait()
        assert done.returncode == 0, done.stderr
        waiting, restart = told(done)
        assert waiting.endswith("too few for a group of 2: waiting for the others, for 60 s at most")
        assert "(restart 1 of 3)" in restart
        assert [value(words, "-np") for words in bench.calls] == ["2", "2"]

    def test_but_not_before_a_run_has_begun(self, bench: Bench) -> None:
        """Its name may be a mistake."""
        bench.dead.write_text("n1\n")
        done = bench.launch(["sys.exit(1)"], "--hostfile", bench.hosts("n0", "n1"), fault="survivors.ABSENCE = 3600.0")
        few = "1 of 2 hosts answer, too few for a group of 2"
        assert told(done) == [f"mpirun ended with code 1 before the run had ended, and it cannot go on: {few}"]

    def test_nor_once_somebody_else_goes_on_with_the_run(self, bench: Bench) -> None:
        bench.dead.write_text("n1\n")
        hosts = bench.hosts("n0", "n1")
        with bench.start(["begin(); die(9)"], "--hostfile", hosts, fault="survivors.ABSENCE = 60.0") as job:
            wait_until(lambda: "waiting for the others" in job.stderr, 50, "it waits")
            with writer(bench.run):
                bench.dead.write_text("")
                done = job.wait()
        assert done.returncode == 4 and STOP_IT in done.stderr
        assert len(bench.calls) == 1

    def test_nor_any_longer_once_a_signal_has_come(self, bench: Bench) -> None:
        bench.dead.write_text("n1\n")
        hosts = bench.hosts("n0", "n1")
        with bench.start(["begin(); die(9)"], "--hostfile", hosts, fault="survivors.ABSENCE = 3600.0") as job:
            wait_until(lambda: "waiting for the others" in job.stderr, 50, "it waits")
            job.process.terminate()
            done = job.wait()
        assert done.returncode == 128 + signal.SIGTERM
        assert told(done)[-1].startswith("go on with: ")

    def test_named_groups_that_lost_a_host_are_formed_anew(self, bench: Bench) -> None:
        bench.dead.write_text("n1\nn4\n")
        done = bench.launch(["begin()", "begin(); finish()"], "--nodes", "n0,n1:n2,n3:n4,n5:n6,n7")
        assert done.returncode == 0, done.stderr
        words = bench.calls[1]
        assert value(words, "--nodes") == "n0,n1:n2,n3:n4,n5:n6,n7"
        assert [words[i + 1] for i, word in enumerate(words) if word == "--without"] == ["n1", "n4"]
        chosen, _ = wanted_groups(Options(nodes=value(words, "--nodes"), without=("n1", "n4")), config())
        names = [[node.host for node in group.nodes] for group in chosen.parallel.service_groups]
        assert names == [["n2", "n3"], ["n6", "n7"], ["n0", "n5"]]
        assert value(words, "--host") is None
        assert Path(value(words, "--hostfile") or "").read_text().split() == ["n0", "n2", "n3", "n5", "n6", "n7"]
        assert value(words, "-np") == "6"

    def test_a_run_whose_folder_is_on_another_host_alone_is_left_to_itself(self, bench: Bench) -> None:
        with bench.start(["wait_for('go'); sys.exit(7)"], "--nodes", "n0:holder", "--start-limit", 1) as job:
            wait_until(lambda: "cannot be supervised" in job.stderr, 20, "it has looked for the folder")
            (bench.folder / "go").touch()
            done = job.wait()
        assert done.returncode == 7
        assert len(bench.calls) == 1
        (line,) = told(done)
        assert line == (
            f"{bench.run} of holder is not visible on this host, so that the run cannot be supervised: "
            "put the output folder on a file system that all hosts share"
        )

    @pytest.mark.parametrize(
        ("srun", "left", "out"),
        [
            (
                'case " $* " in *" n4 true "*) exit 1;; *" --overlap --export=ALL "*) ;; *) exit 1; esac',
                *("n0 n2", "n1, n3, n4"),
            ),
            ("exit 1", "n0 n2 n4", "n1, n3"),
        ],
        ids=["steps", "no steps"],
    )
    def test_in_a_slurm_job_slurm_knows(self, bench: Bench, tmp_path: Path, srun: str, left: str, out: str) -> None:
        """The scontrol, sinfo and srun are scripts of this test: real ones need a cluster."""
        tools = tmp_path / "bin"
        tools.mkdir()
        script(tools / "scontrol", "#!/bin/sh\necho n0 n1 n2 n3 n4\n")
        states = ("n0 allocated", "n1 down*", "n2 mixed", "n2 mixed", "n3 allocated*", "n4 allocated")
        script(tools / "sinfo", "#!/bin/sh\n" + "".join(f"echo '{state}'\n" for state in states))
        script(tools / "srun", f"#!/bin/sh\n{srun}\n")
        bench.environment |= {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "n[0-4]",
        }
        done = bench.launch(["begin()", "begin(); finish()"])
        assert done.returncode == 0, done.stderr
        first, second = bench.calls
        assert value(first, "--hostfile") is None
        assert "plm_slurm_args" not in first
        assert Path(value(second, "--hostfile") or "").read_text().split() == left.split()
        assert value(second, "plm_slurm_args") == "--overlap"
        assert second.count("--hostfile") == 1, "the order of the ranks forms the groups, as before"
        assert f"without {out}, which do not answer" in told(done)[0]

    def test_of_a_pbs_job_are_those_of_its_nodefile(self, bench: Bench) -> None:
        """A launcher that was not built with PBS's library does not know them."""
        bench.environment["PBS_NODEFILE"] = str(bench.folder / "nodefile")
        (bench.folder / "nodefile").write_text("n0\nn0\nn1\nn1\nn2\nn2\n")
        bench.dead.write_text("n1\n")
        done = bench.launch(["begin()", "begin(); finish()"])
        assert done.returncode == 0, done.stderr
        first, second = bench.calls
        assert (value(first, "-np"), value(first, "--host"), value(first, "--map-by")) == (
            *("3", "n0:1,n1:1,n2:1"),
            "ppr:1:node",
        )
        assert "--host" not in second
        assert Path(value(second, "--hostfile") or "").read_text() == "n0\nn2\n"

    @pytest.mark.parametrize("steps", [True, False])
    def test_of_a_slurm_job_are_lost_where_a_step_runs_on_this_one_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: bool
    ) -> None:
        here = rank_here(0).host
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        script(tmp_path / "sinfo", f"#!/bin/sh\nfor host in {here} n1 n2; do echo $host allocated; done\n")
        srun = f'case " $* " in *" {here} "*) ;; *) exit 1; esac' if steps else "exit 1"
        script(tmp_path / "srun", f"#!/bin/sh\n{srun}\n")
        assert survivors.answering([here, "n1", "n2"], ["false"], print) == ({here} if steps else {here, "n1", "n2"})

    @pytest.mark.parametrize(
        ("states", "over"),
        [
            *(("'7 NODE_FAIL'", True), ("'7 PENDING'", True), ("'7 SUSPENDED'", False), ("", False)),
            *(("'8 RUNNING' '7 CANCELLED'", True), ("'8 CANCELLED' '7 RUNNING'", False)),
        ],
    )
    def test_of_a_slurm_job_that_has_ended_are_no_longer_its_own(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, states: str, over: bool
    ) -> None:
        """One that was not asked for with --no-kill ends with the loss of a node; a site may only forbid steps.

        Where its number is that of an array as well, Slurm tells of all tasks.
        """
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setenv("PATH", str(slurm_without_steps(tmp_path / "bin", states)), prepend=os.pathsep)
        if not over:
            assert survivors.answering(["n1", "n2"], ["false"], print) == {"n1", "n2"}
            return
        with pytest.raises(RunFailed, match="the Slurm job 7 has ended"):
            survivors.answering(["n1", "n2"], ["false"], print)

    def test_so_that_the_run_cannot_go_on(self, bench: Bench, tmp_path: Path) -> None:
        tools = slurm_without_steps(tmp_path / "bin", "'7 NODE_FAIL'")
        bench.environment |= {"PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
        done = bench.launch(["begin()", "begin(); finish()"], "--hostfile", bench.hosts("n1", "n2"))
        assert done.returncode == 4, done.stderr
        how = "mpirun ended with code 0 before the run had ended, and it cannot go on: the Slurm job 7 has ended"
        assert told(done)[0] == how

    def test_a_host_that_says_nothing_does_not_answer(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(survivors, "LIMIT", 1.0)
        monkeypatch.delenv("SLURM_JOB_ID", raising=False)
        agent = script(tmp_path / "agent", '#!/bin/sh\n[ "$1" != frozen ] || sleep 60\n')
        here = rank_here(0).host
        told: list[str] = []
        assert survivors.answering(["a", "frozen", here, "a"], [str(agent)], told.append) == {"a", here}
        assert survivors.answering(["frozen", "localhost"], [str(agent)], told.append) == {"localhost"}
        assert survivors.answering(["frozen"], [str(agent)], told.append) == set()
        assert not told

    def test_an_agent_that_reaches_not_even_this_host_tells_nothing_of_the_others(self, bench: Bench) -> None:
        script(bench.agent, "#!/bin/sh\nexit 255\n")
        done = bench.launch(["begin()", "begin(); finish()"], "--hostfile", bench.hosts("n0", "n1", "n2", "n3"))
        assert done.returncode == 0, done.stderr
        assert [value(words, "-np") for words in bench.calls] == ["4", "4"]
        assert told(done) == [
            f"{bench.agent} reaches no host, not even this one: which of them are left is for the launcher to see",
            f"mpirun ended with code 0 before the run had ended; resuming {bench.run} (restart 1 of 3)",
        ]

    @pytest.mark.parametrize(
        ("environment", "better"),
        [({}, ""), ({"PE_HOSTFILE": "/spool/7"}, "qrsh -inherit -nostdin -V"), ({"OAR_JOB_ID": "7"}, "oarsh")],
    )
    def test_in_a_batch_job_another_agent_may_reach_them(
        self, environment: dict[str, str], better: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for variable in ("SLURM_JOB_ID", "SGE_ROOT", "PE_HOSTFILE", "OAR_JOB_ID", "OAR_NODEFILE"):
            monkeypatch.delenv(variable, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        told: list[str] = []
        assert survivors.answering(["a", "b"], ["false"], told.append) == {"a", "b"}
        hint = f'; in Open MPI, OMPI_MCA_plm_rsh_agent="{better}" reaches them inside of this job' if better else ""
        assert told == [
            f"false reaches no host, not even this one: which of them are left is for the launcher to see{hint}"
        ]


class TestResume:
    def test_a_folder_without_a_journal_is_refused(self, bench: Bench) -> None:
        done = bench.launch([WELL], "--resume", bench.folder)
        assert done.returncode == 2
        assert told(done) == [f"{bench.folder}: is not the folder of a run (it has no journal.jsonl)"]
        assert not bench.calls

    def test_an_earlier_end_does_not_count(self, bench: Bench) -> None:
        bench.earlier("begin(); write('interrupted', signal='SIGINT'); sys.exit(130)")
        done = bench.launch(["", "begin()", "begin(); finish()"], "--resume", bench.run)
        assert done.returncode == 0, done.stderr
        assert len(bench.calls) == 3

    def test_nor_does_that_of_a_run_that_is_to_go_on_if_its_job_is_lost_at_the_start(self, bench: Bench) -> None:
        """Open MPI 5 ends with code 0 when it has lost a node."""
        bench.earlier(WELL)
        done = bench.launch(["", "sys.exit(0)", "begin(); evaluate(1); finish()"], "--resume", bench.run)
        assert done.returncode == 0, done.stderr
        assert bench.events == ["started", "evaluated", "finished", "resumed", "evaluated", "finished"]

    @pytest.mark.parametrize(("end", "code"), [("finish()", 0), ("write('interrupted', signal='SIGUSR1')", 138)])
    def test_a_log_on_a_full_disk_changes_no_exit_code(self, bench: Bench, end: str, code: int) -> None:
        bench.earlier("begin(); write('interrupted', signal='SIGINT'); sys.exit(130)")
        (bench.run / "launch.log").symlink_to("/dev/full")
        done = bench.launch(["", f"begin(); {end}"], "--resume", bench.run)
        assert (done.returncode, done.stderr) == (code, "")

    def test_wrong_input_is_passed_on_and_the_run_stays(self, bench: Bench) -> None:
        bench.earlier("begin(); write('interrupted', signal='SIGINT'); sys.exit(130)")
        done = bench.launch(["sys.exit(2)"], "--resume", bench.run)
        assert done.returncode == 2
        assert bench.events == ["started", "interrupted"]

    def test_a_run_has_one_supervisor(self, bench: Bench) -> None:
        with bench.start(["begin(); beat(); hang()"]):
            wait_until(lambda: list(bench.runs.glob("*/beat")), 20, "the run has begun")
            done = bench.launch([WELL], "--resume", bench.run)
        assert done.returncode == 2
        assert told(done) == [f"{bench.run}: is already supervised by another mpipso launch"]
        assert len(bench.calls) == 1


def config(text: str = "") -> Config:
    return parse(CONFIG.format(folder="/tmp") + text, "test", engines=["command"], clients=["openai"])


class TestGroups:
    FILE = """
    [[parallel.service_groups]]
    group_id = 4
    master_node_index = 1
    nodes = [{ host = "a", npu_ids = [0, 1] }, { host = "b", npu_ids = [2, 3] }]
    [[parallel.service_groups]]
    group_id = 7
    nodes = [{ host = "c", npu_ids = [4, 5] }, { host = "d" }]
    """

    def test_of_the_command_line_keep_what_the_file_says_of_their_nodes(self) -> None:
        chosen, _ = wanted_groups(Options(nodes="c,b:a,b"), config(self.FILE))
        groups = chosen.parallel.service_groups
        assert [[(node.host, node.npu_ids) for node in group.nodes] for group in groups] == [
            [("c", (4, 5)), ("b", (2, 3))],
            [("a", (0, 1)), ("b", (2, 3))],
        ]
        assert [group.master_node_index for group in groups] == [None, 1]

    SHARED = """
    [[parallel.service_groups]]
    group_id = 4
    master_node_index = 1
    nodes = [{ host = "a.rack", npu_ids = [0, 1] }, { host = "b", npu_ids = [2, 3] }]
    [[parallel.service_groups]]
    group_id = 7
    nodes = [{ host = "a.rack", npu_ids = [4, 5] }, { host = "c" }]
    """

    def test_that_have_lost_no_host_keep_all_that_the_file_says(self, tmp_path: Path) -> None:
        """Two groups share a host, which the hostfile calls by its short name, and the host of one of them is lost."""
        hostfile = tmp_path / "hosts.txt"
        hostfile.write_text("a slots=2\nb\nc\n")
        shared = config('[parallel]\nmode = "single_node"' + self.SHARED)
        job = MpiJob.first("mpiexec", Hydra(), Options(hostfile=hostfile), shared, None)
        left = job.on({"a", "b"}, tmp_path / "left.txt")
        assert (left.ranks.count, left.ranks.hosts) == (3, ("a", "a", "b"))
        assert left.options.words() == ["--hostfile", str(hostfile), "--without", "c"]
        chosen, hosts = wanted_groups(left.options, shared)
        (group,) = chosen.parallel.service_groups
        assert hosts == ["a", "a", "b"]
        assert (group.group_id, group.master_node_index) == (4, 1)
        assert [(node.host, node.npu_ids) for node in group.nodes] == [("a.rack", (0, 1)), ("b", (2, 3))]

    @pytest.mark.parametrize("by_address", ["slots", "groups"])
    def test_are_those_of_hosts_that_are_named_by_address_elsewhere(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_address: str
    ) -> None:
        addresses = {name: f"10.0.0.{number}" for number, name in enumerate("abcd")}
        monkeypatch.setattr(jobs, "addresses", lambda host: (addresses.get(host, host),))
        names, numbers = list(addresses), list(addresses.values())
        slots, nodes = (numbers, names) if by_address == "slots" else (names, numbers)
        hostfile = tmp_path / "hosts.txt"
        hostfile.write_text("".join(f"{slot}\n" for slot in slots))
        text = self.FILE
        for name, node in zip(names, nodes, strict=True):
            text = text.replace(f'"{name}"', f'"{node}"')
        job = MpiJob.first("mpiexec", Hydra(), Options(hostfile=hostfile), config(text), None)
        silent, words = job.on_what_is_left(set(slots[:3]), (), tmp_path)
        unfit, _ = job.on_what_is_left(set(slots), ["d"], tmp_path)
        assert words == f"; without {slots[3]}, which does not answer"
        for left in (silent, unfit):
            assert left.ranks.hosts == tuple(slots[:2])
            chosen, hosts = wanted_groups(left.options, config(text))
            assert hosts == slots[:3]
            assert [[node.host for node in group.nodes] for group in chosen.parallel.service_groups] == [nodes[:2]]

    def test_that_have_lost_a_host_form_new_ones_of_what_is_left(self) -> None:
        chosen, _ = wanted_groups(Options(without=("b", "d")), config(self.FILE))
        (group,) = chosen.parallel.service_groups
        assert (group.group_id, group.master_node_index) == (4, 1), "like the group that it replaces"
        assert [(node.host, node.npu_ids) for node in group.nodes] == [("a", (0, 1)), ("c", (4, 5))]

    @pytest.mark.parametrize(
        ("groups", "why"),
        [(FILE, "no group can be formed of what is left"), ("", "goes with a hostfile or with named groups")],
    )
    def test_that_are_all_lost_are_not_replaced_by_others(self, groups: str, why: str) -> None:
        with pytest.raises(UserError) as caught:
            wanted_groups(Options(without=("a", "c", "d")), config(groups))
        assert caught.value.problems == (f"--without a --without c --without d: {why}",)

    def test_several_ranks_on_a_host_stay_several(self, tmp_path: Path) -> None:
        hostfile = tmp_path / "hosts.txt"
        hostfile.write_text("# ours\nme@a:2\nb:2\n")
        job = MpiJob.first("mpiexec", Hydra(), Options(hostfile=hostfile), config('[parallel]\nmode="single_node"'), 8)
        assert job.ranks.count == 8
        left = job.on({"me@a"}, tmp_path / "left.txt")
        assert (left.ranks.count, left.ranks.hosts) == (4, ("me@a", "me@a"))
        assert (tmp_path / "left.txt").read_text() == "me@a:2\n"


def test_whoever_is_killed_with_its_group_still_has_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[bool] = []
    monkeypatch.setattr(survivors.os, "killpg", lambda pid, _: killed.append(psutil.pid_exists(pid)))
    assert survivors.succeeding(["a", "b"], ["sh", "-c", '[ "$0" = a ]'], ["true"]) == {"a"}
    assert killed == [True, True]
