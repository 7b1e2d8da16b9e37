"""Runs over eight emulated hosts: a service that needs two nodes, four groups of it at a time. Needs root."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bed.hosts import Bed
from bed.job import Job, wait_until
from bed.launchers import LAUNCHERS, Launcher

from mpipso.config.file import load
from mpipso.launch.jobs import Job as MpiJob
from mpipso.startup import Options

pytestmark = pytest.mark.bed

HERE = Path(__file__).resolve().parent
SERVICE = HERE / "bed" / "two_node_service.py"
HALF = 4
"""Of the eight hosts as many as two groups need, where more would show nothing else."""
LIMIT = 240.0
GONE = 5.0
"""Seconds after which nothing of a run that has ended may be alive on any host, however it ended."""


def configuration(folder: Path, *, requests: int = 16) -> Path:
    text = (HERE / "multihost.toml").read_text().replace("@PYTHON@", sys.executable).replace("@SERVICE@", str(SERVICE))
    path = folder / "two-node.toml"
    path.write_text(f'output = "{folder}/runs"\n{text.replace("requests = 16", f"requests = {requests}")}')
    return path


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "runs" / "latest" / "journal.jsonl").read_text().splitlines()]


@contextlib.contextmanager
def started(bed: Bed, launcher: Launcher, config: Path, hosts: int, *flags: str) -> Iterator[Job]:
    words = [sys.executable, "-m", "mpipso", "--config", str(config), "--progress", "plain", *flags]
    hostfile = bed.hostfile(bed.nodes[:hosts])
    with bed.job("node0", launcher.command(hosts, words, hostfile=hostfile), limit=LIMIT) as job:
        yield job


def left(bed: Bed) -> dict[str, object]:
    """What still lives on each host, its open ports, its shared memory (except MPICH's, which killed ranks leave)."""
    found = {
        node: (
            bed.pids(node),
            bed.listening(node),
            [name for name in bed.shm(node) if not name.startswith("mpich_shm_")],
        )
        for node in bed.nodes
    }
    return {node: what for node, what in found.items() if any(what)}


def left_soon(bed: Bed) -> dict[str, object]:
    """What still lives when what was ending has had its time."""
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: not left(bed), GONE, "nothing is left")
    return left(bed)


def serving(bed: Bed) -> int:
    """On how many hosts the service runs."""
    return sum(any(SERVICE.name in command for command in bed.pids(node).values()) for node in bed.nodes)


def test_four_groups_of_two_nodes_tune_a_service_that_needs_both(bed: Bed, launcher: Launcher, tmp_path: Path) -> None:
    with started(bed, launcher, configuration(tmp_path), len(bed.nodes), "--evaluations", "4") as job:
        done = job.wait()
        assert done.returncode == 0, done.stdout + done.stderr

    record = events(tmp_path)
    assert record[-1]["event"] == "finished"
    evaluated = [event for event in record if event["event"] == "evaluated" and event["label"] != "confirm"]
    assert len(evaluated) == 4
    assert all(event["metrics"] for event in evaluated)
    # The barrier of a generation lets every group take part in it.
    assert {event["group"] for event in evaluated} == {0, 1, 2, 3}
    hosts = {path.name for path in (tmp_path / "runs" / "latest" / "evaluations" / "0000-1").glob("service-*.log")}
    assert len(hosts) == 2, "a log of each node of the group"
    assert left_soon(bed) == {}


def test_nothing_survives_the_death_of_any_part(bed: Bed, launcher: Launcher, tmp_path: Path) -> None:
    """SIGKILL to a rank or to mpirun, in the middle of evaluations; MPIPSO_REPEAT trials, 3 unless set."""
    config = configuration(tmp_path, requests=2000)
    for trial in range(int(os.environ.get("MPIPSO_REPEAT", "3"))):
        with started(bed, launcher, config, HALF, "--seed", str(trial)) as job:
            wait_until(lambda: serving(bed) == HALF, 60, "the service runs on every host")
            victim = "mpirun" if trial % 3 == 0 else random.Random(trial).choice(bed.nodes[:HALF])
            if victim == "mpirun":
                os.kill(job.pid(launcher.process), signal.SIGKILL)
            else:
                (rank,) = [
                    pid for pid, line in bed.pids(victim).items() if line.startswith(f"{sys.executable} -m mpipso ")
                ]
                os.kill(rank, signal.SIGKILL)
            begun = time.monotonic()
            assert left_soon(bed) == {}, f"trial {trial}: after SIGKILL of {victim}"
            print(f"trial {trial}: {victim} killed, all gone after {time.monotonic() - begun:.1f} s")


def test_usr1_to_mpirun_stops_every_service_and_saves(bed: Bed, launcher: Launcher, tmp_path: Path) -> None:
    with started(bed, launcher, configuration(tmp_path, requests=2000), HALF) as job:
        wait_until(lambda: serving(bed) == HALF, 60, "the service runs on every host")
        os.kill(job.pid(launcher.process), signal.SIGUSR1)
        begun = time.monotonic()
        done = job.wait()
        assert time.monotonic() - begun < 15, "an interrupted run leaves within 15 s"
        assert done.returncode == 128 + signal.SIGUSR1, done.stdout + done.stderr
    assert events(tmp_path)[-1]["event"] == "interrupted"
    assert left_soon(bed) == {}


def test_what_the_launcher_does_not_take_to_the_other_hosts_is_named(
    bed: Bed, launcher: Launcher, tmp_path: Path
) -> None:
    """Hydra takes the whole environment there."""
    words = [sys.executable, "-m", "mpipso", "--config", str(configuration(tmp_path)), "--progress", "plain"]
    argv = launcher.command(2, [*words, "--evaluations", "1"], hostfile=bed.hostfile(bed.nodes[:2]))
    same = {"LD_LIBRARY_PATH": "/site", "OMP_NUM_THREADS": "3", "SITE_KEY": "a-secret"}
    with bed.job("node0", argv, limit=LIMIT, env=same) as job:
        done = job.wait()
    assert done.returncode == 0, done.stdout + done.stderr
    (begun,) = (event for event in events(tmp_path) if event["event"] == "started")
    if launcher.name == "MPICH":
        assert "note: services inherit" not in done.stdout
        return
    assert "note: services inherit another environment on node1 than on the root's host" in done.stdout
    assert begun["differing"]["hosts"] == ["node1"]
    assert {*same} < {*begun["differing"]["names"]}
    assert "a-secret" not in done.stdout + str(begun)


def placed(bed: Bed, launcher: Launcher, job: MpiJob) -> list[str]:
    """The host of each rank of the job."""
    words = job.command(["MPI4PY_LIBMPI"])
    words[words.index(sys.executable) :] = ["sh", "-c", 'echo "${OMPI_COMM_WORLD_RANK:-$PMI_RANK} $(hostname)"']
    done = bed.run_on("node0", words, limit=LIMIT, env=launcher.environment())
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (line.split() for line in done.stdout.splitlines())
    return [host for _, host in sorted((int(rank), host) for rank, host in lines)]


@pytest.mark.parametrize(
    ("hosts", "ranks"),
    [
        ("a batch job", 5),
        ("node0,node1,node2", 7),
        ("node0:4 node1:1", 5),
        ("node0:4 node1:1", 4),
        ("node0:4 node1:4", 4),
    ],
)
def test_more_ranks_than_hosts_are_where_check_shows_them(
    bed: Bed, launcher: Launcher, hosts: str, ranks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(configuration(tmp_path), overrides={"parallel.mode": "single_node"})
    if hosts == "a batch job":
        monkeypatch.setenv("PBS_NODEFILE", str(bed.hostfile(bed.nodes[:3])))
    else:
        slots = ":" if launcher.name == "MPICH" else " slots="
        hostfile = bed.hostfile([host.replace(":", slots) for host in re.split("[ ,]", hosts)])
        options = replace(options, hostfile=hostfile)
    config = load(tmp_path / "two-node.toml", overrides=options.overrides, engines=["command"], clients=["openai"])
    job = MpiJob.first(str(launcher.launcher), launcher.family, options, config, ranks)
    assert placed(bed, launcher, job) == job.ranks.host_of_each()


@pytest.fixture
def misled(bed: Bed, launcher: Launcher, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Makes node0 and node1 take their own names for the loopback, with one more interface, which leads nowhere."""
    pair = bed.nodes[:2]

    def put(address: str) -> None:
        for index, node in enumerate(pair):
            own = tmp_path / f"hosts-{node}"
            own.write_text((bed.directory / "hosts").read_text().replace(bed.address(node), "127.0.1.1"))
            for command in (
                f"mount --bind {own} /etc/hosts",
                "ip link add aux0 type veth peer name aux1",
                f"ip address add {address.replace('N', str(index + 1))}/24 dev aux0",
                "ip link set aux0 up",
                "ip link set aux1 up",
            ):
                assert bed.run_on(node, command.split()).returncode == 0, command

    yield put
    for node in pair:
        for command in ("umount /etc/hosts", "ip link delete aux0"):
            bed.run_on(node, command.split())


@pytest.mark.parametrize("launcher", [each for each in LAUNCHERS if each.name == "Open MPI 4"], indirect=True)
@pytest.mark.parametrize("address", ["169.254.3.1", "192.168.9.N"])
def test_nodes_of_a_group_reach_each_other_where_other_hosts_find_them(
    bed: Bed, launcher: Launcher, misled: Callable[[str], None], address: str, tmp_path: Path
) -> None:
    """A server's own controller has the same address on each of them, or a cable of its own leads elsewhere."""
    misled(address)
    words = [sys.executable, "-m", "mpipso", "--config", str(configuration(tmp_path)), "--progress", "plain"]
    argv = launcher.command(2, [*words, "--evaluations", "1"], hostfile=bed.hostfile(bed.nodes[:2]))
    eth0 = {f"OMPI_MCA_{name}_tcp_if_include": "eth0" for name in ("btl", "oob")}
    with bed.job("node0", argv, limit=LIMIT, env=eth0) as job:
        done = job.wait()
    assert done.returncode == 0, done.stdout + done.stderr
    for command in (tmp_path / "runs" / "latest" / "evaluations").glob("*/command.txt"):
        assert f"--master-addr {bed.address('node0')}" in command.read_text()
