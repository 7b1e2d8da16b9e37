"""Real jobs: a whole run over four ranks under each MPI, bad input that rank 0 alone tells, and ``mpipso launch``."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from bed.job import Job, wait_until
from bed.launchers import LAUNCHERS, Launcher

from mpipso.cluster.facts import rank_in, ranks_in
from mpipso.errors import UserError
from mpipso.launch import launchers
from mpipso.launch.jobs import local_ranks
from mpipso.launch.ranks import Ranks
from mpipso.launched import COMMAND
from mpipso.record import journal

SERVICE = Path(__file__).resolve().parents[1] / "service" / "tiny_service.py"
LIMIT = 60.0

CONFIG = """
output = "{folder}/runs"
[service]
engine = "command"
command = ["{python}", "{service}", "--host", "{{host}}", "--port", "{{port}}", "--config", "{{config}}"]
health_url = "http://{{host}}:{{port}}/health"
start_timeout = 20.0
stop_grace = 2.0
[benchmark]
client = "openai"
requests = 6
concurrency = 3
output_tokens = 4
warmup = 0
[objective]
maximize = "output_throughput"
[search]
particles = 4
evaluations = 5
confirm = 0
[[parameters]]
name = "token_ms"
type = "float"
min = 0.0
max = 4.0
default = 2.0
"""


HELD = """
[benchmark]
client = "command"
command = [
    "sh", "-c", "mkdir $0/first 2>/dev/null || until [ -e $0/go ]; do sleep 0.02; done; echo $1",
    "{folder}", '{{"x": 1}}', "{{base_url}}",
]
metrics = {{ output_throughput = "x" }}
[objective]
"""
"""A benchmark that ends at once the first time, and then not before the file ``go`` is there: what a test does after
the first evaluation it does in the middle of a run."""


@pytest.fixture
def one() -> Launcher:
    """One MPI is enough where what is tested happens before or beside MPI."""
    for chosen in LAUNCHERS:
        if chosen.available() is None:
            return chosen
    pytest.skip("no MPI is installed")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "my.toml"
    path.write_text(CONFIG.format(folder=tmp_path, python=sys.executable, service=SERVICE))
    return path


@pytest.fixture
def held(config: Path) -> Path:
    """The same with a benchmark that is held up."""
    before, _, rest = config.read_text().partition("[benchmark]\n")
    config.write_text(before + HELD.format(folder=config.parent) + rest.partition("[objective]\n")[2])
    return config


@pytest.fixture
def quick(held: Path) -> Path:
    """The same, and it is never held up."""
    (held.parent / "go").touch()
    return held


def run(launcher: Launcher, ranks: int, *words: object) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "mpipso", *map(str, words), "--progress", "plain"]
    with Job(launcher.command(ranks, argv), limit=LIMIT) as job:
        return job.wait()


def events(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "runs" / "latest" / "journal.jsonl").read_text().splitlines()]


def counted(folder: Path, event: str) -> int:
    """How many such events the journal has so far."""
    path = folder / "runs" / "latest" / journal.FILE
    return sum(record["event"] == event for record in journal.read(path)) if path.exists() else 0


def test_four_ranks_in_two_groups_tune_a_service(launcher: Launcher, config: Path) -> None:
    done = run(launcher, 4, "--config", config, "--nodes-per-group", 2, "--share-cores")
    assert done.returncode == 0, done.stdout + done.stderr
    record = events(config.parent)
    assert record[-1]["event"] == "finished"
    evaluated = [event for event in record if event["event"] == "evaluated"]
    assert sorted(event["number"] for event in evaluated) == list(range(5))
    assert all(event["metrics"] for event in evaluated), done.stdout
    assert {event["group"] for event in evaluated} == {0, 1}
    started = next(event for event in record if event["event"] == "started")
    assert [len(group["hosts"]) for group in started["plan"]["groups"]] == [2, 2]
    assert "Traceback" not in done.stderr


def test_ranks_that_do_not_divide_are_named_and_the_run_goes_on(one: Launcher, quick: Path) -> None:
    done = run(one, 3, "--config", quick, "--nodes-per-group", 2, "--share-cores", "--evaluations", 1)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "spare: " in line]
    assert "spare: rank 2 on " in line
    assert "left over: groups take 2 nodes each" in line


def test_neither_secrets_nor_escapes_of_a_service_reach_the_terminal(one: Launcher, config: Path) -> None:
    text = config.read_text().replace("[benchmark]", '[service.env]\nMY_API_KEY = "Zq8-key-value"\n[benchmark]', 1)
    start = text.index("command = [")
    shell = "printf 'Error: \\\\033]0;PWNED\\\\007 bad key %s\\\\n' $MY_API_KEY; exit 3"
    text = (
        text[:start]
        + f'command = ["sh", "-c", "{shell}", "sh", "{{port}}", "{{config}}"]\n'
        + text[text.index("health_url") :]
    )
    config.write_text(text + '[[objective.slo]]\nmetric = "ttft_p99_ms"\nmax = "baseline"\n')
    done = run(one, 1, "--config", config, "--nodes-per-group", 1)
    told = done.stdout + done.stderr
    assert "bad key ***" in done.stderr, told
    assert "bad key ***" in done.stdout, told
    assert "Zq8" not in told
    assert "\x1b" not in told


def test_how_many_ranks_a_launcher_announces() -> None:
    assert ranks_in({"SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"}) == 1, "in a batch script nobody has started ranks"
    assert ranks_in({"SLURM_STEP_NUM_TASKS": "8"}) == 8
    for variable in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        assert ranks_in({variable: "8"}) == 8
        assert ranks_in({"SLURM_STEP_NUM_TASKS": "7", variable: "1"}) == 1, "of mpirun, whose daemons are seven tasks"


def test_ranks_that_mpi_does_not_join_are_told_once(config: Path) -> None:
    argv = [sys.executable, "-m", "mpipso", "--config", str(config), "--nodes-per-group", "1"]
    told = []
    for rank in range(2):
        environment = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": str(rank)}
        with Job(argv, limit=LIMIT, env=environment) as job:
            done = job.wait()
        assert done.returncode == (2 if rank == 0 else 0), done.stderr
        told += done.stderr.splitlines()
    (line,) = told
    assert line.startswith(
        "mpipso: 2 tasks, but MPI sees one: srun --mpi=pmix (Open MPI) or --mpi=pmi2 (MPICH), or the"
    )
    assert not (config.parent / "runs").exists()
    with Job([*argv, "--sed", "1"], limit=LIMIT, env={"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}) as job:
        done = job.wait()
    assert (done.returncode, done.stderr) == (2, "mpipso: unrecognized arguments: --sed 1; did you mean --seed?\n")


class TestBadInput:
    def told(self, launcher: Launcher, config: Path, *words: object) -> list[str]:
        done = run(launcher, 2, "--config", config, *words)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert not (config.parent / "runs").exists()
        assert done.stdout.replace("-", "").strip() == ""
        return [line.removeprefix("mpipso: ") for line in done.stderr.splitlines() if line.startswith("mpipso: ")]

    def test_a_mistake_in_the_file_is_told_once(self, one: Launcher, config: Path) -> None:
        config.write_text(config.read_text().replace("max = 4.0", "max = -1.0"))
        assert self.told(one, config) == [f"{config}: parameter 'token_ms': min = 0 is greater than max = -1"]

    def test_a_wrong_flag_is_told_once(self, launcher: Launcher, config: Path) -> None:
        assert self.told(launcher, config, "--seed", "x") == [
            "argument --seed: invalid int value: 'x'; see mpipso tune --help"
        ]

    def test_a_command_that_no_rank_finds_is_told_once_with_the_host(self, one: Launcher, config: Path) -> None:
        config.write_text(config.read_text().replace(sys.executable, "no-such-server"))
        (line,) = self.told(one, config)
        assert line.startswith("service.command: command not found: no-such-server (on ")

    def test_a_hostfile_with_hosts_that_are_not_in_the_job(self, one: Launcher, config: Path) -> None:
        hostfile = config.with_name("hosts.txt")
        hostfile.write_text("localhost slots=2\nnode-of-another-cluster\n")
        (line,) = self.told(one, config, "--hostfile", hostfile)
        assert line.startswith("localhost is another host on every node") or line.startswith(
            "no rank of this job runs on node-of-another-cluster: the job runs on "
        )


LISTENING = """
import psutil
from mpi4py import MPI
MPI.COMM_WORLD.Barrier()
print(*[c.laddr.port for c in psutil.Process().net_connections("tcp") if c.status == "LISTEN"], flush=True)
MPI.COMM_WORLD.Barrier()
"""


def test_ranks_leave_the_ports_below_the_dynamic_ones_to_services(launcher: Launcher) -> None:
    mpirun = launcher.family.command(str(launcher.launcher), Ranks(2), ["MPI4PY_LIBMPI"])
    with Job([*mpirun, sys.executable, "-c", LISTENING], limit=LIMIT, env=launcher.environment()) as job:
        done = job.wait()
    assert done.returncode == 0, done.stderr
    assert all(int(port) > 32767 for port in done.stdout.split()), done.stdout


def test_what_the_user_forwards_to_ranks_goes_with_what_the_launcher_does(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMPI_MCA_mca_base_env_list", "OURS=1")
    mpirun = launcher.family.command(str(launcher.launcher), Ranks(1), ["MPI4PY_LIBMPI"])
    with Job([*mpirun, "printenv", "OURS", "MPI4PY_LIBMPI"], limit=LIMIT, env=launcher.environment()) as job:
        done = job.wait()
    values = [] if type(launcher.family) is launchers.Hydra else ["1"]
    assert done.stdout.split() == [*values, launcher.libmpi], done.stderr


def test_a_run_that_goes_on_is_not_taken_from_those_who_started_it_without_launch(one: Launcher, held: Path) -> None:
    argv = [sys.executable, "-m", "mpipso", "--config", str(held), "--evaluations", "2"]
    with Job(one.command(1, [*argv, "--progress", "plain"]), limit=LIMIT) as first:
        wait_until(lambda: counted(held.parent, "evaluated"), LIMIT, "the run has begun")
        again = [sys.executable, "-m", "mpipso", "launch", "--mpirun", str(one.launcher), "-np", "1"]
        run = (held.parent / "runs" / "latest").resolve()
        before = (run / journal.FILE).read_bytes()
        with Job([*again, "--resume", str(run)], limit=LIMIT, env=one.environment()) as second:
            refused = second.wait()
        kept = (run / journal.FILE).read_bytes()
        (held.parent / "go").touch()
        done = first.wait()
    assert (refused.returncode, refused.stdout) == (2, ""), refused.stderr
    line = f"{run / journal.FILE}: another process is writing this journal; wait for it or stop it"
    assert refused.stderr == f"mpipso: {line}\n"
    assert kept.startswith(before)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [event["event"] for event in events(held.parent)].count("resumed") == 0


@pytest.mark.parametrize("groups", ["", "[[parallel.service_groups]]\ngroup_id = 0\nnodes = [{here}, {here}]\n"])
def test_ranks_too_few_for_the_run_to_resume_are_told_how_it_was_launched(
    one: Launcher, quick: Path, groups: str
) -> None:
    quick.write_text(quick.read_text() + groups.replace("{here}", '{ host = "localhost" }'))
    launch = [sys.executable, "-m", "mpipso", "launch", "--mpirun", str(one.launcher)]
    size = [] if groups else ["--nodes-per-group", "2"]
    flags = ["--config", str(quick), *size, "--evaluations", "1", "--share-cores", "--progress", "plain"]
    environment = {**one.environment(), COMMAND: "./run.sh"}
    with Job([*launch, "-np", "2", *flags], limit=LIMIT, env=environment) as job:
        done = job.wait()
    assert done.returncode == 0, done.stderr
    run = (quick.parent / "runs" / "latest").resolve()
    before = {path: path.stat().st_mtime_ns for path in (run, *run.rglob("*"))}
    told = f"; it was launched with: ./run.sh -np 2 {shlex.join(flags)} --resume {run}"
    few = "the groups name localhost more often than there are ranks of this job; each place in a group needs a rank"
    bare = one.command(1, [sys.executable, "-m", "mpipso", "--resume", str(run), "--progress", "plain"])
    with Job(bare, limit=LIMIT) as job:
        done = job.wait()
    few = "1 rank cannot form a group of 2 nodes" if not groups else few
    assert (done.returncode, done.stderr) == (2, f"mpipso: {few}{told}\n")
    with Job([*launch, "-np", "1", "--resume", str(run)], limit=LIMIT, env=environment) as job:
        done = job.wait()
    few = "1 rank for 2 places in groups: each place in a group needs a rank" if groups else few
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"mpipso: {few}{told}\n")
    assert before == {path: path.stat().st_mtime_ns for path in (run, *run.rglob("*"))}


class TestLaunch:
    def launched(self, config: Path, *words: object) -> subprocess.CompletedProcess[str]:
        with Job([sys.executable, "-m", "mpipso", "launch", *map(str, words)], limit=LIMIT) as job:
            return job.wait()

    def test_prints_the_line_and_runs_it_with_the_search_paths_of_the_launch_for_services(
        self, launcher: Launcher, quick: Path
    ) -> None:
        python = f'"{sys.executable}", '
        assert python in quick.read_text()
        inherited = f'"sh", "-c", "env > $(mktemp -p {quick.parent} --suffix=-env); exec \\"$@\\"", "sh", {python}'
        quick.write_text(quick.read_text().replace(python, inherited))
        path = f"/ours/bin:{launcher.launcher.parent}:/usr/local/bin:/usr/bin:/bin"
        words = ["--mpirun", launcher.launcher, "-np", 2, "--config", quick, "--nodes-per-group", 1, "--share-cores"]
        argv = [sys.executable, "-m", "mpipso", "launch", *map(str, words)]
        with Job(argv, limit=LIMIT, env={**launcher.environment(), "PATH": path}) as job:
            done = job.wait()
        assert done.returncode == 0, done.stdout + done.stderr
        line = shlex.split(done.stdout.splitlines()[0])
        assert line[:2] == ["+", str(launcher.launcher)]
        name = (quick.parent / "runs" / "latest").readlink().name
        assert line[-7:] == [
            *("--config", str(quick), "--run-name", name, "--nodes-per-group", "1", "--share-cores"),
        ]
        assert events(quick.parent)[-1]["event"] == "finished"
        log = (quick.parent / "runs" / name / "launch.log").read_text()
        assert len(log.splitlines()) == 1, f"{log}{done.stdout}{done.stderr}"
        files = [*quick.parent.glob("*-env")]
        assert len(files) == 5
        for file in files:
            had = dict(line.partition("=")[::2] for line in file.read_text().splitlines())
            assert had["PATH"] == path
            for variable in ("LD_LIBRARY_PATH", "KMP_DUPLICATE_LIB_OK"):
                assert had.get(variable) == os.environ.get(variable)

    def test_the_folder_for_temporary_files_may_have_any_name(self, one: Launcher, quick: Path) -> None:
        folder = quick.parent / os.fsdecode(b"t\xe9")
        folder.mkdir()
        argv = [sys.executable, "-m", "mpipso", "launch", "--mpirun", str(one.launcher), "-np", "1"]
        argv += ["--config", str(quick), "--evaluations", "1"]
        with Job(argv, limit=LIMIT, env={**one.environment(), "TMPDIR": str(folder)}) as job:
            done = job.wait()
        assert done.returncode == 0, done.stdout + done.stderr
        (command,) = (quick.parent / "runs").glob("latest/evaluations/0000-1/command.txt")
        assert os.fsencode(folder) in command.read_bytes()

    def test_groups_on_this_machine_have_a_rank_for_each_of_their_nodes(self, one: Launcher, quick: Path) -> None:
        """Of more than would be started without them."""
        count = local_ranks() + 1
        group = '[[parallel.service_groups]]\ngroup_id = {}\nnodes = [{{ host = "localhost" }}]\n'
        quick.write_text(quick.read_text() + "".join(map(group.format, range(count))))
        words = ["--mpirun", one.launcher, "--config", quick, "--share-cores", "--evaluations", 1]
        done = self.launched(quick, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(events(quick.parent)[0]["plan"]["groups"]) == count

    def test_bad_input_is_told_before_anything_is_launched(self, config: Path) -> None:
        config.write_text(config.read_text().replace("requests = 6", "request = 6"))
        done = self.launched(config, "--config", config)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"mpipso: {config}: benchmark.request: unknown key; did you mean 'requests'?\n"

    def test_only_the_first_task_of_a_step_of_srun_launches_the_run(
        self, one: Launcher, quick: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As in ``srun --nodes=2 --pty bash``, where the first is the shell of a person."""
        monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
        words = ("--mpirun", one.launcher, "-np", 1, "--config", quick, "--evaluations", 1)
        for task in ("1", "0"):
            monkeypatch.setenv("SLURM_PROCID", task)
            done = self.launched(quick, *words)
            assert done.returncode == 0, done.stderr
            assert (quick.parent / "runs").exists() == (task == "0")

    def test_bad_input_that_ranks_find_is_passed_on_and_leaves_nothing(self, one: Launcher, config: Path) -> None:
        config.write_text(config.read_text().replace(sys.executable, "no-such-server"))
        done = self.launched(config, "--mpirun", one.launcher, "-np", 1, "--config", config)
        assert done.returncode == 2, done.stdout + done.stderr
        assert done.stdout.count("+ ") == 1
        assert "command not found: no-such-server" in done.stderr
        assert not (config.parent / "runs").exists()

    def test_a_killed_mpirun_is_restarted_and_the_run_resumes(self, launcher: Launcher, held: Path) -> None:
        words = ["--mpirun", launcher.launcher, "-np", 2, "--config", held, "--nodes-per-group", 1, "--share-cores"]
        argv = [sys.executable, "-m", "mpipso", "launch", *map(str, words)]
        with Job(argv, limit=LIMIT, env=launcher.environment()) as job:
            wait_until(lambda: counted(held.parent, "evaluated"), LIMIT, "an evaluation is completed")
            pid = job.pid(launcher.process)
            session = list(job.scratch.rglob(f"*.{pid}"))
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: "(restart 1 of 3)" in job.stderr, LIMIT, "it is started again")
            (held.parent / "go").touch()
            done = job.wait()
            left = [path for path in session if path.exists()]
        assert done.returncode == 0, done.stdout + done.stderr
        assert left == []
        assert session or type(launcher.family) is launchers.Hydra
        assert "(restart 1 of 3)" in done.stderr
        assert [counted(held.parent, event) for event in ("started", "resumed", "finished")] == [1, 1, 1]
        numbers = [event["number"] for event in events(held.parent) if event["event"] == "evaluated"]
        assert sorted(numbers) == list(range(5)), "nothing completed is measured twice"

    @pytest.mark.parametrize(
        ("launcher", "size"),
        [*((each, 1) for each in LAUNCHERS), *((each, 2) for each in LAUNCHERS if each.name == "Open MPI 5")],
        indirect=["launcher"],
        ids=lambda value: getattr(value, "name", None),
    )
    def test_a_killed_rank_is_survived_or_the_run_resumes(self, launcher: Launcher, size: int, held: Path) -> None:
        """Open MPI 5 goes on without it (ULFM), in the other group if there is one; all else is a restart."""
        words = ["--mpirun", launcher.launcher, "-np", 2, "--config", held, "--nodes-per-group", size, "--share-cores"]
        argv = [sys.executable, "-m", "mpipso", "launch", *map(str, words)]
        with Job(argv, limit=LIMIT, env=launcher.environment()) as job:
            wait_until(lambda: counted(held.parent, "evaluated"), LIMIT, "an evaluation is completed")
            ranks = job.running(sys.executable, "-m", "mpipso", "tune")
            (victim,) = [process for process in ranks if rank_in(process.environ()) == 1]
            victim.kill()
            wait_until(lambda: counted(held.parent, "lost") or "(restart 1 of 3)" in job.stderr, LIMIT, "it is missed")
            (held.parent / "go").touch()
            done = job.wait()
        assert done.returncode == 0, done.stdout + done.stderr
        tolerant = type(launcher.family) is launchers.OpenMPI5
        assert counted(held.parent, "resumed") == (0 if tolerant and size == 1 else 1), done.stderr
        assert counted(held.parent, "lost") == (1 if tolerant else 0)
        numbers = [event["number"] for event in events(held.parent) if event["event"] == "evaluated"]
        assert sorted(numbers) == list(range(5))

    def deafened(self, launcher: Launcher, held: Path, restarts: int) -> tuple[subprocess.CompletedProcess[str], str]:
        """All ranks but the root's freeze at once, as if the link of its host was cut; also the cause that it tells."""
        held.write_text(held.read_text() + "[parallel]\nlease = 3.0\n")
        words = ["--mpirun", launcher.launcher, "-np", 3, "--config", held, "--nodes-per-group", 2, "--share-cores"]
        argv = [sys.executable, "-m", "mpipso", "launch", *map(str, words)]
        argv += ["--restarts", str(restarts), "--stuck-after", "10"]
        with Job(argv, limit=2 * LIMIT, env=launcher.environment()) as job:
            wait_until(lambda: counted(held.parent, "evaluated"), LIMIT, "an evaluation is completed")
            for process in job.running(sys.executable, "-m", "mpipso", "tune"):
                if rank_in(process.environ()) > 0:
                    process.send_signal(signal.SIGSTOP)
            wait_until(lambda: counted(held.parent, "lost") == 2, LIMIT, "both are missed")
            (held.parent / "go").touch()
            done = job.wait()
        cause = f"no service group is left: lost rank 1 on {socket.gethostname()}, rank 2 on {socket.gethostname()}"
        assert f"mpipso: {cause}" in done.stderr.splitlines()
        return done, cause

    def test_a_root_that_hears_of_no_other_rank_leaves_it_to_the_launcher_to_go_on(
        self, launcher: Launcher, held: Path
    ) -> None:
        done, _ = self.deafened(launcher, held, 1)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "(restart 1 of 1)" in done.stderr
        found = [counted(held.parent, event) for event in ("failed", "finished")]
        assert found == [0, 1], done.stdout + done.stderr
        # A slow moment may cost the ranks their short leases again, and after progress it may be restarted again.
        assert counted(held.parent, "resumed") >= 1, done.stdout + done.stderr

    def test_and_fails_where_no_restart_is_left(self, one: Launcher, held: Path) -> None:
        done, cause = self.deafened(one, held, 0)
        assert done.returncode == 4, done.stdout + done.stderr
        assert [counted(held.parent, event) for event in ("failed", "resumed", "finished")] == [1, 0, 0]
        log = (held.parent / "runs" / "latest" / "launch.log").read_text()
        assert cause in log and "go on with: " in log

    def test_so_does_one_that_stood_still_for_so_long_that_the_others_have_left(
        self, launcher: Launcher, held: Path
    ) -> None:
        held.write_text(held.read_text() + "[parallel]\nlease = 3.0\n")
        words = ["--mpirun", launcher.launcher, "-np", 2, "--config", held, "--nodes-per-group", 1, "--share-cores"]
        argv = [sys.executable, "-m", "mpipso", "launch", *map(str, words)]
        with Job(argv, limit=2 * LIMIT, env=launcher.environment()) as job:
            wait_until(lambda: counted(held.parent, "assigned") == 3, LIMIT, "an evaluation is completed")
            ranks = {rank_in(each.environ()): each for each in job.running(sys.executable, "-m", "mpipso", "tune")}
            wait_until(lambda: ranks[1].children(), LIMIT, "a service runs there")
            ranks[0].send_signal(signal.SIGSTOP)
            wait_until(lambda: not ranks[1].children(), LIMIT, "it is stopped again")
            ranks[0].send_signal(signal.SIGCONT)
            wait_until(lambda: "(restart 1 of 3)" in job.stderr, LIMIT, "the job is started again")
            (held.parent / "go").touch()
            done = job.wait()
        assert done.returncode == 0, done.stdout + done.stderr
        told = f"the root stood still or was cut off for too long: rank 1 on {socket.gethostname()} left"
        assert f"mpipso: {told}" in done.stderr.splitlines()
        assert [counted(held.parent, event) for event in ("failed", "finished")] == [0, 1]

    def test_ctrl_c_ends_it_and_it_is_resumed_by_hand(self, one: Launcher, held: Path) -> None:
        words = ["--mpirun", one.launcher, "-np", 2, "--config", held, "--nodes-per-group", 1, "--share-cores"]
        argv = [sys.executable, "-m", "mpipso", "launch", *map(str, words)]
        with Job(argv, limit=LIMIT, env=one.environment()) as job:
            wait_until(lambda: counted(held.parent, "evaluated"), LIMIT, "an evaluation is completed")
            job.process.send_signal(signal.SIGINT)
            stopped = job.wait()
        assert stopped.returncode == 130, stopped.stdout + stopped.stderr
        assert events(held.parent)[-1]["event"] == "interrupted"
        (held.parent / "go").touch()
        (line,) = [line for line in stopped.stdout.splitlines() if line.startswith("go on: ")]
        again = shlex.split(line.removeprefix("go on: "))
        with Job([*again, "-np", "1", "--nodes-per-group", "1"], limit=LIMIT, env=one.environment()) as job:
            done = job.wait()
        assert done.returncode == 0, done.stdout + done.stderr
        numbers = [event["number"] for event in events(held.parent) if event["event"] == "evaluated"]
        assert sorted(numbers) == list(range(5))

    def test_a_program_that_is_no_launcher(self) -> None:
        with pytest.raises(UserError, match="neither Open MPI nor MPICH"):
            launchers.find("true")
        with pytest.raises(UserError, match="no-such-launcher: command not found"):
            launchers.find("no-such-launcher")

    def test_a_wrapper_that_waits_for_something(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(launchers, "_ANSWER", 0.2)
        wrapper = tmp_path / "mpirun"
        wrapper.write_text("#!/bin/sh\nexec sleep 600\n")
        wrapper.chmod(0o755)
        with pytest.raises(UserError, match=f"{wrapper}: cannot be run: no answer to --version within 0.2 s"):
            launchers.find(str(wrapper))

    def test_families_are_recognised(self, launcher: Launcher) -> None:
        path, family = launchers.find(str(launcher.launcher))
        assert path == str(launcher.launcher)
        assert type(family) is type(launcher.family)
