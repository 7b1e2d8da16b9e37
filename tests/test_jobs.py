"""Hosts and ranks of a job: what ``mpipso check`` shows is what ``mpipso launch`` starts."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from mpipso.cli import main
from mpipso.config.file import load
from mpipso.launch.jobs import Job, Start
from mpipso.launch.launchers import Hydra
from mpipso.startup import Options

CONFIG = """
[service]
engine = "command"
command = ["true", "{port}"]
health_url = "http://{host}:{port}/health"
[benchmark]
client = "openai"
[objective]
maximize = "output_throughput"
[[parameters]]
name = "batch"
type = "int"
min = 1
max = 64
flag = "--batch"
[parallel]
share_cores = true
"""
HERE = socket.gethostname()
AWAY, FURTHER = "127.0.0.2", "127.0.0.3"
"""Names of no interface, which stand for other hosts."""


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setenv("COLUMNS", "200")
    for variable in ("SLURM_JOB_NODELIST", "PBS_NODEFILE", "LSB_DJOB_HOSTFILE"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize(
    ("groups", "ssh", "hostfile", "ranks", "shown", "hosts"),
    [
        ("", False, "", None, [HERE] * 2, []),
        ("", False, "", 3, [HERE] * 3, []),
        ("localhost:localhost:localhost", False, "", None, [HERE] * 3, []),
        ("localhost", False, "", None, [HERE], []),
        (f"localhost,{HERE}", False, "", None, [HERE] * 2, []),
        ("localhost:localhost", False, "", 3, [HERE] * 3, []),
        (f"{AWAY}:{FURTHER}", False, "", None, [AWAY, FURTHER], [AWAY, FURTHER]),
        (f"{HERE}:{AWAY}", False, "", None, [HERE, AWAY], [HERE, AWAY]),
        (f"{HERE},{AWAY}", True, "", None, [HERE, "ssh"], []),
        (f"{HERE},{AWAY},{FURTHER}", True, "", None, [HERE, "ssh", "ssh"], []),
        ("localhost:localhost", True, "", None, [HERE] * 2, []),
        (f"{HERE},{AWAY}", True, "", 1, [HERE, "ssh"], []),
        ("", False, f"{AWAY} slots=4\n{FURTHER} slots=4\n", None, [AWAY, FURTHER], [AWAY, FURTHER]),
        ("", False, f"{HERE} slots=3\n", None, [HERE] * 3, [HERE] * 3),
        ("", False, f"{AWAY}\n{FURTHER}\n", 1, [AWAY], [AWAY, FURTHER]),
        ("", True, f"{HERE}\n{AWAY}\n", 1, [HERE, "ssh"], [HERE, AWAY]),
        (f"{HERE},{AWAY}", True, f"{HERE}\n", None, [HERE, "ssh"], [HERE]),
    ],
)
def test_check_shows_the_ranks_that_launch_starts(
    groups: str,
    ssh: bool,
    hostfile: str,
    ranks: int | None,
    shown: list[str],
    hosts: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config, listed = tmp_path / "my.toml", tmp_path / "hosts.txt"
    named = enumerate(filter(None, groups.split(":")))
    config.write_text(CONFIG + "ssh = true\n" * ssh + "".join(group(number, names) for number, names in named))
    listed.write_text(hostfile)
    options = Options(config, hostfile=listed if hostfile else None)
    words = [*options.words(), *(["-np", str(ranks)] if ranks else [])]
    assert main(["check", *words]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    rows = [line.replace("over ssh", "ssh").split() for line in lines[: lines.index(next(filter(after, lines)))]]
    assert [host if rank != "ssh" else rank for _, rank, host, *_ in rows] == shown
    loaded = load(config, engines=["command"], clients=["openai"])
    job = Job.first("mpiexec", Hydra(), options, loaded, ranks)
    assert job.ranks == len(shown) - shown.count("ssh")
    assert list(job.hosts) == hosts
    assert job.options.overrides == (
        {"parallel.nodes_per_group": 1} if not groups and not hostfile and not ranks else {}
    )
    assert job.groups == loaded.parallel.service_groups


@pytest.mark.parametrize(
    ("slots", "ranks", "expected"),
    [
        ("aabb", 1, "a"),
        ("aabb", 2, "ab"),
        ("aabb", 3, "aba"),
        ("aaaab", 4, "abaa"),
        ("aaaab", 5, "aaaab"),
        ("aab", 5, "aabaa"),
        ("abc", 5, "abcab"),
        ("aba", 2, "ab"),
    ],
)
def test_ranks_share_the_slots_of_hosts_in_turn_and_fill_them_if_they_can(
    slots: str, ranks: int, expected: str, tmp_path: Path
) -> None:
    config = tmp_path / "my.toml"
    config.write_text(CONFIG)
    start = Start(load(config, engines=["command"], clients=["openai"]), tuple(slots), named=False, ranks=ranks)
    assert "".join(start.host_of_each()) == expected


@pytest.mark.parametrize(("nodes", "ranks"), [(f"{HERE}:{HERE}", 2), (f"{HERE}:localhost:{HERE}", 3), (HERE, 1)])
def test_a_batch_job_of_this_host_alone_has_a_rank_for_each_place(
    nodes: str, ranks: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    listed = tmp_path / "nodes"
    listed.write_text(f"{HERE}\n")
    monkeypatch.setenv("PBS_NODEFILE", str(listed))
    (tmp_path / "my.toml").write_text(CONFIG)
    loaded = load(tmp_path / "my.toml", engines=["command"], clients=["openai"])
    options = Options(tmp_path / "my.toml", nodes=nodes)
    job = Job.first("mpiexec", Hydra(), options, loaded, None)
    assert (job.ranks, job.hosts) == (ranks, (HERE,))


def group(number: int, names: str) -> str:
    nodes = ", ".join(f'{{ host = "{name}" }}' for name in names.split(","))
    return f"[[parallel.service_groups]]\ngroup_id = {number}\nnodes = [{nodes}]\n"


def after(line: str) -> bool:
    """Whether a line comes after the table of the groups."""
    return line.startswith("note: ") or "searched parameter" in line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--nodes", f"{AWAY},{FURTHER}", "--ssh"], "rank 0 belongs to no group"),
        (["--nodes", f"{AWAY}:{FURTHER}", "-np", "1"], f"no rank of this job runs on {FURTHER}"),
        (
            ["--nodes", f"{HERE},{AWAY}", "--ssh", "-np", "2"],
            f"more than one rank on {HERE} (2): start one rank per node",
        ),
    ],
)
def test_check_refuses_what_ranks_would(
    words: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "my.toml"
    config.write_text(CONFIG)
    assert main(["check", "--config", str(config), *words]) == 2
    assert line in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "out"),
    [
        (["--nodes", "n0:n1:n3"], "n0, n3"),
        (["--nodes", "n1:n3", "--ssh", "-np", "1", "--hostfile", "HOSTS"], ""),
        (["--hostfile", "HOSTS"], "me@n3"),
        (["--hostfile", "HOSTS", "-np", "2"], ""),
        (["--nodes", "N1.rack,n2"], ""),
        (["--nodes", "n1:127.0.0.3"], ""),
        (["--nodes", f"n1:{HERE}"], HERE),
        ([], ""),
    ],
)
def test_hosts_that_a_slurm_job_does_not_have_are_refused(
    words: list[str], out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # no scontrol
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    monkeypatch.delenv("SLURMD_NODENAME", raising=False)
    config, hosts = tmp_path / "my.toml", tmp_path / "hosts.txt"
    config.write_text(CONFIG.replace('"true"', '"/bin/true"'))
    hosts.write_text("n1\nn2.rack\nme@n3\n")
    refused = [f"mpipso: {out}: not in this Slurm job, which has n[1-2]"] if out else []
    words = ["--config", str(config), *(word.replace("HOSTS", str(hosts)) for word in words)]
    main(["check", *words])
    assert [line for line in capsys.readouterr().err.splitlines() if "Slurm" in line] == refused


def test_the_node_of_a_slurm_job_that_this_runs_on_may_have_a_name_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n1,127.0.0.2")
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    config = tmp_path / "my.toml"
    config.write_text(CONFIG)
    assert main(["check", "--config", str(config), "--nodes", f"{HERE}:{AWAY}"]) == 0, capsys.readouterr().err


def test_a_name_that_only_ssh_may_know_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "my.toml"
    config.write_text(CONFIG)
    assert main(["check", "--config", str(config), "--nodes", f"{HERE},no-host.invalid", "--ssh"]) == 0
    assert (
        "note: names that cannot be resolved here, unless ~/.ssh/config knows them: no-host.invalid"
        in capsys.readouterr().out.splitlines()
    )
