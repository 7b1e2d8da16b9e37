"""A run that is resumed in another folder: its relative paths lead from where it was started first."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path

import pytest
from bed.job import Job
from bed.launchers import LAUNCHERS

from mpipso.launched import COMMAND, RESTARTS
from mpipso.origin import absolute, absolute_words, origin
from mpipso.record.journal import FILE, Journal
from mpipso.startup import Options

SERVICE = Path(__file__).resolve().parent / "service" / "tiny_service.py"
LIMIT = 60.0
CONFIG = """
output = "runs"
[service]
engine = "command"
command = ["./serve", "--host", "{host}", "--port", "{port}"]
[service.config_file]
template = "plain.json"
[benchmark]
client = "command"
command = ["sh", "measure.sh", "{base_url}"]
metrics = { output_throughput = "x" }
[objective]
maximize = "output_throughput"
[search]
particles = 2
confirm = 0
[parallel]
nodes_per_group = 1
[[parameters]]
name = "token_ms"
type = "float"
min = 0.0
max = 4.0
default = 2.0
flag = "--token-ms"
"""


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """The folder of a configuration whose files it names by relative paths."""
    folder = tmp_path / "first"
    folder.mkdir()
    (folder / "my.toml").write_text(CONFIG)
    (folder / "plain.json").write_text('{"more": 1}')
    (folder / "measure.sh").write_text("echo '{\"x\": 1}'")
    (folder / "serve").write_text(f'#!/bin/sh\nexec {sys.executable} {SERVICE} "$@"\n')
    (folder / "serve").chmod(0o755)
    return folder


@pytest.fixture
def other(tmp_path: Path) -> Path:
    folder = tmp_path / "other"
    folder.mkdir()
    return folder


def run(folder: Path, *words: str, code: int = 0, env: dict[str, str] | None = None) -> str:
    """What such a command prints in a folder."""
    flags = ["--progress", "plain"] if words[0] != "check" else []
    with Job([sys.executable, "-m", "mpipso", *words, *flags], limit=LIMIT, cwd=folder, env=env) as job:
        done = job.wait()
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def events(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "runs" / "latest" / FILE).read_text().splitlines()]


def failures(folder: Path) -> list[object]:
    return [event for event in events(folder) if event["event"] == "retried" or "failure" in event]


def beginning(folder: Path, **fields: object) -> Options:
    """Of a run that was started, the options to go on with it."""
    with Journal.create(folder) as journal:
        journal.write("started", config="", seed=0, objective="x", **fields)
    return Options(resume=folder)


def test_a_run_goes_on_in_the_folder_in_which_it_was_started(first: Path, other: Path) -> None:
    run(first, "tune", "--config", "my.toml", "--evaluations", "1")
    again = run(other, "tune", "--resume", "../first/runs/latest", "--evaluations", "2")
    assert f"(resumed, in {first})" in again
    run(other, "check", "--resume", "../first/runs/latest", "--config", "../first/my.toml")
    run(other, "tune", "--resume", "../first/runs/latest", "--config", "../first/my.toml", "--evaluations", "3")
    assert failures(first) == []
    begun = [event for event in events(first) if event["event"] in ("started", "resumed")]
    assert [event["cwd"] for event in begun] == [str(first)] * 3
    assert list(other.iterdir()) == []


def test_so_does_a_job_that_is_launched_from_elsewhere_and_what_goes_on_with_it(first: Path, other: Path) -> None:
    mpi = next((each for each in LAUNCHERS if each.available() is None), None)
    if mpi is None:
        pytest.skip("no MPI is installed")
    (other / "mpirun").write_text(f'#!/bin/sh\nexec {mpi.launcher} "$@"\n')
    (other / "mpirun").chmod(0o755)
    (other / "hosts").write_text("localhost slots=1\n" if mpi.name.startswith("Open") else "localhost\n")
    run(first, "tune", "--config", "my.toml", "--evaluations", "1")
    again = ["--config", "../first/my.toml", "--hostfile", "hosts", "--resume", "../first/runs/latest"]
    environment = {**mpi.environment(), COMMAND: shlex.join([*words("launch"), "--mpirun", "./mpirun"])}
    run(other, "launch", "--mpirun", "./mpirun", *again, "--evaluations", "2", env=environment)
    assert failures(first) == []
    last = [event for event in events(first) if event["event"] == "resumed"][-1]
    assert last["cwd"] == str(first)
    told = shlex.split(str(last["command"]))
    for flag, path in (
        ("--mpirun", other / "mpirun"),
        ("--hostfile", other / "hosts"),
        ("--config", other / "../first/my.toml"),
    ):
        assert told[told.index(flag) + 1] == str(path)


def words(command: str) -> list[str]:
    return [sys.executable, "-m", "mpipso", command]


@pytest.mark.parametrize("command", ["tune", "launch", "check"])
def test_it_is_refused_where_that_folder_is_gone(tmp_path: Path, command: str) -> None:
    beginning(tmp_path, cwd="/no/such")
    before = (tmp_path / FILE).read_bytes()
    told = f"{tmp_path}: the run was started in /no/such, from where its relative paths lead, and which is not here: "
    assert run(tmp_path.parent, command, "--resume", tmp_path.name, code=2).startswith(f"mpipso: {told}make it, or ")
    assert (tmp_path / FILE).read_bytes() == before


@pytest.mark.parametrize("fields", [{}, {"cwd": "/no/***/such"}])
def test_a_run_goes_on_here_if_it_is_not_known_where_it_was_started(tmp_path: Path, fields: dict[str, object]) -> None:
    assert origin(beginning(tmp_path, **fields)) == ""
    assert origin(Options()) == ""


def test_a_supervisor_has_gone_there_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = beginning(tmp_path, cwd="/no/such")
    monkeypatch.setenv(RESTARTS, "0")
    assert origin(options) == ""


def test_a_command_that_names_files_names_them_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("run.sh", "sbatch", "a b.toml"):
        (tmp_path / name).touch()
    assert absolute_words(["./run.sh", "launch"]) == [f"{tmp_path}/run.sh", "launch"]
    assert absolute_words(["sbatch", "--nodes=2", "a b.toml"]) == ["sbatch", "--nodes=2", f"{tmp_path}/a b.toml"]
    monkeypatch.setenv(COMMAND, "sbatch --nodes=2 /x.sbatch 'a b.toml'")
    assert absolute(Options(config=Path("a b.toml"))).config == Path("a b.toml")
    moved = absolute(Options(config=Path("a b.toml"), resume=Path("runs")))
    assert (moved.config, moved.resume) == (tmp_path / "a b.toml", tmp_path / "runs")
    assert os.environ[COMMAND] == f"sbatch --nodes=2 /x.sbatch '{tmp_path}/a b.toml'"
