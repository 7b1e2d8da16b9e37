"""Hosts and ranks of a job: what ``mpipso check`` shows is what ``mpipso launch`` starts."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from mpipso.batch import SYSTEMS
from mpipso.cli import main
from mpipso.config.file import load
from mpipso.errors import UserError
from mpipso.launch.jobs import Job
from mpipso.launch.launchers import Hydra
from mpipso.launch.ranks import Ranks
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


GRID_ENGINE = {"SGE_ROOT": "/opt/sge", "JOB_ID": "7"}
"""The variables of a job of Grid Engine, but for its hosts."""

NAMED = "; a host that has another name there can be named by its address"


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setenv("COLUMNS", "200")
    for variable in {name for system in SYSTEMS for name in (*system.job, system.hosts, system.alone) if name}:
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
    assert job.ranks.count == len(shown) - shown.count("ssh")
    assert list(job.ranks.hosts) == hosts
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
    slots: str, ranks: int, expected: str
) -> None:
    assert "".join(Ranks(ranks, tuple(slots)).host_of_each()) == expected


def test_ranks_too_few_for_a_group_are_refused_unless_the_launcher_is_told_another_number(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text(CONFIG + "nodes_per_group = 3\n")
    loaded = load(path, engines=["command"], clients=["openai"])
    assert Job.first("mpiexec", Hydra(), Options(path), loaded, 2, ["-np", "3"]).ranks.count == 2
    with pytest.raises(UserError, match=r"^2 ranks cannot form a group of 3 nodes: start more ranks"):
        Job.first("mpiexec", Hydra(), Options(path), loaded, 2)


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
    assert (job.ranks.count, job.ranks.hosts) == (ranks, (HERE,))


@pytest.mark.parametrize(
    ("environment", "hosts", "ranks", "named"),
    [
        ({"NSLOTS": "1", "NHOSTS": "1"}, "", 1, ()),
        ({"NSLOTS": "1"}, f"{HERE} 1 all.q UNDEFINED", 1, ()),
        ({"NSLOTS": "64"}, f"{HERE} 64 all.q UNDEFINED", 2, ()),
        ({"NSLOTS": "5"}, f"{HERE} 4 all.q UNDEFINED\n{AWAY} 1 all.q UNDEFINED", 2, (HERE, AWAY)),
    ],
    ids=["serial", "one slot", "more slots than cores", "two hosts"],
)
def test_a_grid_engine_job_of_one_host_has_no_more_ranks_than_slots(
    environment: dict[str, str],
    hosts: str,
    ranks: int,
    named: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    job = batch_job({**GRID_ENGINE, **environment}, "PE_HOSTFILE", hosts, monkeypatch, tmp_path)
    assert (job.ranks.count, job.ranks.hosts, job.size) == (ranks, named, 2 if named else 1)


@pytest.mark.parametrize(
    "environment",
    [
        {"PBS_JOBID": "7"},
        {"LSB_JOBID": "7", "LSB_DJOB_NUMPROC": "8"},
        {**GRID_ENGINE, "NHOSTS": "2", "NSLOTS": "2"},
        {"OAR_JOB_ID": "7"},
        {"COBALT_JOBID": "7"},
        {"FLUX_URI": "local:///run/flux", "PATH": "/nowhere"},
    ],
    ids=["PBS", "LSF", "Grid Engine", "OAR", "Cobalt", "Flux"],
)
def test_a_batch_job_whose_hosts_are_not_known_needs_a_hostfile(
    environment: dict[str, str],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    name = request.node.callspec.id
    with pytest.raises(UserError) as caught:
        batch_job(environment, "", "", monkeypatch, tmp_path)
    assert caught.value.problems == (f"this {name} job does not say which hosts it has: name them in a --hostfile",)
    (tmp_path / "hosts.txt").write_text(f"{AWAY}\n")
    for named in ({"hostfile": tmp_path / "hosts.txt"}, {"nodes": AWAY}):
        assert batch_job(environment, "", "", monkeypatch, tmp_path, **named).ranks.hosts == (AWAY,)


def test_the_hosts_of_a_batch_job_need_not_be_readable_where_others_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in a container that does not see the file."""
    environment = {"PBS_NODEFILE": str(tmp_path / "missing")}
    assert batch_job(environment, "", "", monkeypatch, tmp_path, nodes=AWAY).ranks.hosts == (AWAY,)


def test_flux_is_asked_for_the_hosts_of_its_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The flux is a script of this test: a real one needs a cluster."""
    flux = tmp_path / "flux"
    flux.write_text(f'#!/bin/sh\n[ "$*" = "hostlist --expand local" ] && echo {AWAY} {AWAY} {FURTHER}\n')
    flux.chmod(0o755)
    environment = {"FLUX_URI": "local:///run/flux", "PATH": f"{tmp_path}:/usr/bin:/bin"}
    assert batch_job(environment, "", "", monkeypatch, tmp_path).ranks.hosts == (AWAY, FURTHER)
    alone = {"FLUX_URI": "local:///run/flux", "FLUX_JOB_NNODES": "1"}
    assert batch_job(alone, "", "", monkeypatch, tmp_path).ranks.hosts == (HERE,)


def batch_job(
    environment: dict[str, str], variable: str, hosts: str, monkeypatch: pytest.MonkeyPatch, folder: Path, **named: Any
) -> Job:
    """The job that starts in a batch job with these variables; ``variable`` has the path of a file with ``hosts``."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if hosts:
        (folder / "nodefile").write_text(f"{hosts}\n")
        monkeypatch.setenv(variable, str(folder / "nodefile"))
    (folder / "my.toml").write_text(CONFIG)
    loaded = load(folder / "my.toml", engines=["command"], clients=["openai"])
    return Job.first("mpiexec", Hydra(), Options(folder / "my.toml", **named), loaded, None)


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
    refused = [f"mpipso: {out}: not in this Slurm job, which has n[1-2]{NAMED}"] if out else []
    words = ["--config", str(config), *(word.replace("HOSTS", str(hosts)) for word in words)]
    main(["check", *words])
    assert [line for line in capsys.readouterr().err.splitlines() if "Slurm" in line] == refused


@pytest.mark.parametrize(
    ("variable", "name", "words", "out"),
    [
        ("PE_HOSTFILE", "Grid Engine", ["--nodes", "n0:n1:n3"], "n0, n3"),
        ("PE_HOSTFILE", "Grid Engine", ["--hostfile", "HOSTS"], "me@n3"),
        ("PE_HOSTFILE", "Grid Engine", ["--hostfile", "HOSTS", "-np", "2"], ""),
        ("PE_HOSTFILE", "Grid Engine", ["--nodes", "N1.rack,n2"], ""),
        ("PE_HOSTFILE", "Grid Engine", ["--nodes", f"n1:127.0.0.3:{HERE}"], ""),
        ("PBS_NODEFILE", "PBS", ["--hostfile", "HOSTS"], "me@n3"),
        ("LSB_DJOB_HOSTFILE", "LSF", ["--nodes", "n2:n3"], "n3"),
    ],
)
def test_hosts_that_another_batch_job_does_not_have_are_refused(
    variable: str,
    name: str,
    words: list[str],
    out: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodefile, config, hosts = tmp_path / "nodefile", tmp_path / "my.toml", tmp_path / "hosts.txt"
    nodefile.write_text("n1\nn1\nn2.rack\n")
    monkeypatch.setenv(variable, str(nodefile))
    config.write_text(CONFIG)
    hosts.write_text("n1.rack\nn2\nme@n3\n")
    refused = f"mpipso: {out}: not in this {name} job, which has n1, n2.rack{NAMED}"
    assert main(["check", "--config", str(config), *(word.replace("HOSTS", str(hosts)) for word in words)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told == [refused] if out else not any("not in this" in line for line in told)


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
