"""The Slurm script, with stand-ins for Slurm's scontrol and for the interpreter that starts ``mpipso launch``."""

from __future__ import annotations

import shlex
import shutil
import signal
from pathlib import Path

import pytest
from bed.job import Job, wait_until

SBATCH = Path(__file__).resolve().parents[1] / "hostfiles" / "mpipso.sbatch"


class Cluster:
    """What the script finds in a Slurm job; ``python`` is the shell program that plays ``mpipso launch``.

    ``known`` is what Slurm knows of the job, with ``WORDS`` for those that the script was given; ``came_back`` is how
    often it has been started again. A file ``away`` makes Slurm fail as many times as it has lines.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = folder / "mpipso-runs"
        self.called = folder / "called"
        self.known = f"JobId=7 Requeue=1 Restarts=0 Command={SBATCH} WORDS WorkDir={folder}"
        self.came_back = 0
        self.more: dict[str, str] = {}
        (folder / ".venv" / "bin").mkdir(parents=True)

    def script(self, path: Path, text: str) -> None:
        path.write_text(f"#!/bin/bash\ncd {self.folder}\n{text}\n")
        path.chmod(0o755)

    def submit(self, python: str, *words: str) -> Job:
        known = self.known.replace("WORDS", " ".join(words))
        slurm = "if [ -s away ]; then sed -i 1d away; exit 1; fi\n"
        slurm += f'[ "$1" = show ] && echo "{known}" || echo "scontrol $*" >> called'
        self.script(self.folder / "scontrol", slurm)
        self.script(self.folder / ".venv" / "bin" / "python", f'echo "$*" >> called\n{python}')
        environment = {
            "PATH": f"{self.folder}:/usr/bin:/bin",
            "SLURM_SUBMIT_DIR": str(self.folder),
            "SLURM_CLUSTER_NAME": "bed",
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NUM_NODES": "4",
            "MPIPSO_VENV": "",
            **({"SLURM_RESTART_COUNT": str(self.came_back)} if self.came_back else {}),
            **self.more,
        }
        return Job(["bash", str(SBATCH), *words], limit=30, env=environment, cwd=self.folder)

    def run(self, python: str, *words: str, code: int = 0) -> list[str]:
        """Submit, wait for the end, and return the words that ``mpipso launch`` was called with then."""
        with self.submit(python, *words) as job:
            assert job.wait().returncode == code, job.stderr
        return shlex.split(self.calls[-1])

    @property
    def calls(self) -> list[str]:
        return self.called.read_text().splitlines() if self.called.exists() else []


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def started(path: Path) -> str:
    """What plays ``mpipso launch`` in a job whose run has begun in this folder."""
    return f'mkdir -p {path}; touch {path}/journal.jsonl; echo {path} > "$MPIPSO_NOTE"'


def test_a_new_job_starts_a_run_under_its_number_and_hands_on_flags(cluster: Cluster) -> None:
    assert cluster.run("exit 3", "my.toml", "--seed", "5", code=3) == [
        *("-m", "mpipso", "launch", "--mpirun", "mpirun", "--config", "my.toml", "--progress", "plain"),
        *("--output", str(cluster.runs), "--run-name", "slurm-bed-7", "--seed", "5"),
    ]


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ([], "slurm-bed-7"),
        (["--run-name", "monday"], "monday-2"),
        (["--run-name=monday", "--output=elsewhere"], "monday"),
        (["--seed", "5", "--output", "elsewhere"], "slurm-bed-7"),
    ],
)
def test_a_job_that_came_back_resumes_its_run_wherever_it_is(cluster: Cluster, flags: list[str], name: str) -> None:
    run = cluster.folder / ("elsewhere" if "elsewhere" in " ".join(flags) else "mpipso-runs") / name
    cluster.run(started(run), "my.toml", *flags)
    cluster.came_back = 1
    words = cluster.run("exit 0", "my.toml", *flags)
    assert words[words.index("plain") + 1 :] == [*flags, "--resume", str(run)]


def test_a_job_that_came_back_has_the_configuration_that_it_was_launched_with(cluster: Cluster) -> None:
    run = cluster.runs / "slurm-bed-7"
    words = cluster.run(f"{started(run)}; echo > {run}/launched.toml", "my.toml")
    assert words[words.index("--config") + 1] == "my.toml"
    cluster.came_back = 1
    words = cluster.run("exit 0", "my.toml")
    assert words[words.index("--config") + 1] == str(run / "launched.toml")
    (cluster.runs / ".slurm-bed-7").unlink()
    words = cluster.run("exit 0", "new.toml", "--resume", str(run))
    assert words[words.index("--config") + 1] == "new.toml", "it came back before its script had begun"
    cluster.came_back = 0
    words = cluster.run("exit 0", "new.toml", "--resume", str(run))
    assert words[words.index("--config") + 1] == "new.toml", "another job says what it wants"


def test_a_job_that_came_back_before_its_run_had_begun_starts_it(cluster: Cluster) -> None:
    cluster.run(f'mkdir -p {cluster.runs}; echo {cluster.runs}/slurm-bed-7 > "$MPIPSO_NOTE"', "my.toml")
    cluster.came_back = 1
    assert "--resume" not in cluster.run("exit 0", "my.toml")


def test_a_new_job_does_not_resume_the_run_of_an_old_one_with_its_number(cluster: Cluster) -> None:
    cluster.run(started(cluster.runs / "slurm-bed-7"), "my.toml")
    assert "--resume" not in cluster.run("exit 0", "my.toml")
    cluster.came_back = 1
    assert "--resume" not in cluster.run("exit 0", "my.toml"), "neither if its own run had not begun"


USR1, TERM = signal.SIGUSR1, signal.SIGTERM


@pytest.mark.parametrize(
    ("number", "ends", "may", "before", "after", "requeued", "code"),
    [
        (USR1, "exit 138", 1, 0, 1, ["scontrol requeue 7"], 0),
        (USR1, "exit 138", 1, 2, 3, ["scontrol requeue 7"], 0),
        (USR1, "exit 138", 1, 0, 0, [], 138),
        (USR1, "exit 138", 1, 2, 2, [], 138),
        (USR1, "exit 0", 1, 0, 1, [], 0),
        (TERM, "exit 143", 1, 0, 1, [], 143),
        (TERM, "exit 143", 0, 0, 1, [], 143),
    ],
)
def test_before_the_end_of_its_time_it_saves_and_comes_back(
    cluster: Cluster,
    number: signal.Signals,
    ends: str,
    may: int,
    before: int,
    after: int,
    requeued: list[str],
    code: int,
) -> None:
    """A run that finishes although the signal has come does not; nor does a cancelled one, or one that gets nowhere."""
    cluster.known = cluster.known.replace("Requeue=1", f"Requeue={may}")
    evaluated = r'printf "{\"event\":\"evaluated\"}\n%.0s" $(seq 1 COUNT) >> RUN/journal.jsonl'
    evaluated = evaluated.replace("RUN", str(cluster.runs))
    if before:
        cluster.run(f"{started(cluster.runs)}\n{evaluated.replace('COUNT', str(before))}", "my.toml")
        cluster.came_back = 1
        cluster.called.unlink()
    measured = evaluated.replace("COUNT", str(after - before)) if after > before else ":"
    program = (
        f"trap 'sleep 0.5; {ends}' {number.name}\n{started(cluster.runs)}\n{measured}\n"
        "echo ready $MPIPSO_REQUEUE >> called\nwhile :; do sleep 0.05; done"
    )
    with cluster.submit(program, "my.toml", "--seed", "5") as job:
        wait_until(lambda: f"ready {may}" in cluster.calls, 10, "the launcher runs")
        job.process.send_signal(number)
        done = job.wait()
    assert done.returncode == code, done.stderr
    assert cluster.calls[2:] == requeued
    assert ("nearly over: it comes back" in done.stderr) == bool(requeued)
    hint = f"  go on with: sbatch --nodes=4 {SBATCH} my.toml --seed 5 --resume {cluster.runs}\n"
    assert (hint in done.stderr) == (code == 138)


@pytest.mark.parametrize("flags", [["--resume", "DIR"], ["--resume=DIR"]])
def test_a_run_that_another_job_began_comes_back_too(cluster: Cluster, flags: list[str]) -> None:
    old = cluster.folder / "old"
    old.mkdir()
    (old / "journal.jsonl").write_text('{"event":"evaluated"}\n')
    measured = f'echo \'{{"event":"evaluated"}}\' >> {old}/journal.jsonl'
    program = f"trap 'exit 138' USR1\n{measured}\necho ready >> called\nwhile :; do sleep 0.05; done"
    with cluster.submit(program, "my.toml", *[flag.replace("DIR", str(old)) for flag in flags]) as job:
        wait_until(lambda: "ready" in cluster.calls, 10, "the launcher runs")
        job.process.send_signal(USR1)
        assert job.wait().returncode == 0, job.stderr
    assert cluster.calls[-1] == "scontrol requeue 7"


def test_a_job_without_a_run_names_no_command_to_go_on(cluster: Cluster) -> None:
    with cluster.submit("exit 138", "my.toml") as job:
        done = job.wait()
    assert done.returncode == 138
    assert done.stderr.endswith("so it does not come back: give it more time\n")


@pytest.mark.parametrize(("times", "requeued"), [(4, True), (5, False)])
def test_a_controller_that_is_away_for_a_while_is_asked_again(cluster: Cluster, times: int, requeued: bool) -> None:
    """At the start and at the end, when the signal may come again; with shorter pauses than the script's."""
    cluster.script(cluster.folder / "sleep", '[ ! -e ended ] || kill -USR1 "$PPID"\nexec /bin/sleep 0.05')
    away = "printf '\\n%.0s' $(seq 1 TIMES) > away"
    (cluster.folder / "away").write_text("\n" * 4)
    evaluates = f'{started(cluster.runs)}\necho \'{{"event":"evaluated"}}\' >> {cluster.runs}/journal.jsonl'
    program = (
        f"trap 'touch ended; exit 138' USR1\n{evaluates}\n{away.replace('TIMES', str(times))}\necho ready >> called\n"
    )
    with cluster.submit(f"{program}while :; do sleep 0.05; done", "my.toml") as job:
        wait_until(lambda: "ready" in cluster.calls, 20, "the launcher runs")
        job.process.send_signal(USR1)
        done = job.wait()
    assert done.returncode == (0 if requeued else 138), done.stderr
    assert ("scontrol requeue 7" in cluster.calls) == requeued
    assert ("has not requeued" in done.stderr, "go on with: sbatch" in done.stderr) == (not requeued, not requeued)


def test_no_longer_than_about_a_minute_though_each_answer_takes_long(cluster: Cluster) -> None:
    """A controller that is away is noticed only after 10 to 20 seconds; here the shell's clock is put forward."""
    clock = cluster.folder / "clock"
    clock.write_text("sleep() { SECONDS=$((SECONDS + $1 + 15)); echo slept >> called; }\n")
    (cluster.folder / "away").write_text("\n" * 9)
    cluster.more = {"BASH_ENV": str(clock)}
    cluster.run("exit 0", "my.toml")
    assert cluster.calls.count("slept") == 2


def test_a_command_that_is_not_there_is_not_waited_for(cluster: Cluster) -> None:
    clock, programs = cluster.folder / "clock", cluster.folder / "programs"
    clock.write_text("sleep() { echo slept >> called; }\n")
    programs.mkdir()
    for name in ("bash", "cat", "grep", "rm"):
        (programs / name).symlink_to(shutil.which(name) or name)
    cluster.more = {"BASH_ENV": str(clock), "PATH": str(programs)}
    cluster.run("exit 0", "my.toml")
    assert "slept" not in cluster.calls


def test_the_end_that_slurm_makes_of_a_requeued_job_is_no_mistake(cluster: Cluster) -> None:
    """It sends TERM to the script and to all that it has started."""
    evaluates = f'{started(cluster.runs)}\necho \'{{"event":"evaluated"}}\' >> {cluster.runs}/journal.jsonl'
    program = f"trap 'exit 138' USR1\n{evaluates}\necho ready >> called\nwhile :; do sleep 0.05; done"
    with cluster.submit(program, "my.toml") as job:
        wait_until(lambda: "ready" in cluster.calls, 20, "the launcher runs")
        cluster.script(cluster.folder / "scontrol", f"kill {job.process.pid}; /bin/sleep 0.2")
        job.process.send_signal(USR1)
        done = job.wait()
    assert done.returncode == -signal.SIGTERM and "No such process" not in done.stderr


def test_where_it_never_answers_the_run_ends_with_its_job(cluster: Cluster) -> None:
    cluster.script(cluster.folder / "sleep", "exec /bin/sleep 0.05")
    (cluster.folder / "away").write_text("\n" * 5)
    with cluster.submit("echo $MPIPSO_REQUEUE >> called", "my.toml") as job:
        done = job.wait()
    assert "Slurm does not say whether this job may come back" in done.stderr
    assert cluster.calls[-1] == "0"


def test_a_task_of_an_array_is_requeued_alone(cluster: Cluster) -> None:
    """The number of one of the tasks is that of the array; by it, all of them would be requeued."""
    cluster.more = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"}
    evaluates = f'{started(cluster.runs)}\necho \'{{"event":"evaluated"}}\' >> {cluster.runs}/journal.jsonl'
    program = f"trap 'exit 138' USR1\n{evaluates}\necho ready >> called\nwhile :; do sleep 0.05; done"
    with cluster.submit(program, "my.toml") as job:
        wait_until(lambda: "ready" in cluster.calls, 10, "the launcher runs")
        job.process.send_signal(USR1)
        assert job.wait().returncode == 0, job.stderr
    assert cluster.calls[-1] == "scontrol requeue 7_0"


def test_a_job_that_came_back_resumes_what_its_link_led_to_at_first(cluster: Cluster) -> None:
    first, second, link = cluster.runs / "first", cluster.runs / "second", cluster.runs / "latest"
    for run in (first, second):
        run.mkdir(parents=True)
        (run / "journal.jsonl").touch()
    link.symlink_to("first")
    evaluates = f'rm {link}; ln -s second {link}; echo \'{{"event":"evaluated"}}\' >> {first}/journal.jsonl'
    program = f"trap 'exit 138' USR1\n{evaluates}\necho ready >> called\nwhile :; do sleep 0.05; done"
    flags = ["--resume", "mpipso-runs/latest", "--seed", "5"]
    with cluster.submit(program, "my.toml", *flags) as job:
        wait_until(lambda: "ready" in cluster.calls, 10, "the launcher runs")
        job.process.send_signal(USR1)
        assert job.wait().returncode == 0, job.stderr
    assert cluster.calls[-1] == "scontrol requeue 7", "an evaluation of its own run has ended"
    words = shlex.split(cluster.calls[-3])
    cluster.came_back = 1
    assert cluster.run("exit 0", "my.toml", *flags) == words
    assert words[words.index("plain") + 1 :] == [*flags, "--resume", str(first)]


def test_a_run_that_cannot_come_back_is_left_to_end_by_itself(cluster: Cluster) -> None:
    cluster.known = cluster.known.replace("Requeue=1", "Requeue=0")
    program = "trap 'exit 138' USR1\necho ready >> called\nwhile [ ! -e go ]; do sleep 0.05; done\nexit 3"
    with cluster.submit(program, "my.toml") as job:
        wait_until(lambda: "ready" in cluster.calls, 10, "the launcher runs")
        job.process.send_signal(USR1)
        (cluster.folder / "go").touch()
        assert job.wait().returncode == 3, job.stderr
    assert cluster.calls[2:] == []


@pytest.mark.parametrize(
    ("shown", "script"),
    [
        ("HERE/my jobs/mpipso.sbatch WORDS", "HERE/my jobs/mpipso.sbatch"),
        ("HERE/my jobs/mpipso.sbatch", "HERE/my jobs/mpipso.sbatch"),
        ("my jobs/mpipso.sbatch WORDS", "HERE/my jobs/mpipso.sbatch"),
        ("/not/here/mpipso.sbatch WORDS", "/not/here/mpipso.sbatch"),
        ("/not/here/mpipso.sbatch 'my file.toml'", "/not/here/mpipso.sbatch"),
        ("(null)", ""),
        ("", ""),
    ],
)
def test_the_run_is_told_the_command_that_submits_it_again(cluster: Cluster, shown: str, script: str) -> None:
    copy = cluster.folder / "my jobs" / SBATCH.name
    copy.parent.mkdir()
    copy.touch()
    shown, script = (text.replace("HERE", str(cluster.folder)) for text in (shown, script))
    cluster.known = f"JobId=7 Requeue=1 Command={shown} WorkDir={cluster.folder}" if shown else "slurm_load_jobs error"
    cluster.run('echo "${MPIPSO_COMMAND:-nothing}" >> called', "my file.toml", "--seed", "5")
    told = ["sbatch", "--nodes=4", script, "my file.toml"] if script else ["nothing"]
    assert shlex.split(cluster.calls[-1]) == told


def test_without_a_configuration_it_says_how_it_is_used(cluster: Cluster) -> None:
    with cluster.submit("exit 0") as job:
        done = job.wait()
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("mpipso.sbatch: usage: sbatch mpipso.sbatch CONFIG.toml")


def test_without_its_virtual_environment_it_says_how_that_is_made(cluster: Cluster) -> None:
    cluster.more["MPIPSO_VENV"] = "/nonexistent"
    with cluster.submit("exit 0", "my.toml") as job:
        done = job.wait()
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("mpipso.sbatch: /nonexistent: ") and "./run.sh install" in line


def test_a_job_that_loses_the_node_of_this_script_comes_back() -> None:
    """With --no-kill it would be left to itself, with no process, until the end of its time."""
    flags = [line.split()[1] for line in SBATCH.read_text().splitlines() if line.startswith("#SBATCH ")]
    assert "--requeue" in flags
    assert "--no-kill" not in flags
