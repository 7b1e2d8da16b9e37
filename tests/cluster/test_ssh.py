"""Nodes without a rank: the node interface over a real ssh server, what is refused, and what a broken link leaves."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
from bed import hosts
from bed.hosts import Bed
from bed.job import Job, alive, wait_until
from bed.launchers import LAUNCHERS

# The semantics of the node interface are one set of tests, which this file runs over ssh.
from service.node_interface import TestExecute, TestFiles, TestService, TestUpdateConfig, python

from mpipso.cluster import ssh
from mpipso.cluster.plan import PlacedNode
from mpipso.cluster.ssh import SshNodes
from mpipso.config.parallel import Ssh
from mpipso.errors import EvaluationFailed, UserError
from mpipso.service.environment import Fingerprint
from mpipso.service.ports import free_port
from mpipso.service.remote import Answer, RemoteNode

__all__ = ["TestExecute", "TestFiles", "TestService", "TestUpdateConfig"]

HERE = Fingerprint.of(os.environ)
TESTS = Path(__file__).resolve().parents[1]
GONE = 5.0
"""Seconds after which nothing of a lost node's services may be alive."""
_SSHD = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/hostkey
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
UseDNS no
"""
# sshd wants /run/sshd, and without PAM no locked account; neither is to change on this machine.
_START = """\
mount -t tmpfs run /run && mkdir /run/sshd && mount --bind {folder}/shadow /etc/shadow &&
exec /usr/sbin/sshd -D -e -f {folder}/sshd_config"""


@dataclass(frozen=True)
class Server:
    """An ssh server on this machine, whose sessions see the same processes, files and ports as the tests."""

    folder: Path
    port: int
    pid: int

    def sessions(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    reason = hosts.missing()
    if reason is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("sshd")
    port = free_port()
    for key in ("hostkey", "otherhost", "key", "otherkey"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
    (folder / "shadow").write_text("root:*:20000:0:99999:7:::\nsshd:*:20000:0:99999:7:::\n")
    (folder / "sshd_config").write_text(_SSHD.format(folder=folder, port=port))
    with (folder / "sshd.log").open("wb") as log:
        sshd = subprocess.Popen(["unshare", "--mount", "sh", "-c", _START.format(folder=folder)], stderr=log)
    try:
        told = folder / "sshd.log"
        wait_until(lambda: b"Server listening" in told.read_bytes() or sshd.poll() is not None, 10, "sshd listens")
        assert sshd.poll() is None, told.read_text()
        yield Server(folder, port, sshd.pid)
    finally:
        sshd.terminate()
        sshd.wait()


@pytest.fixture
def home(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a user who may log in at ``node7``, a name that only the user's ssh configuration knows."""
    ssh = tmp_path / "home" / ".ssh"
    ssh.mkdir(parents=True)
    (ssh / "config").write_text(f"Host node7\n  HostName 127.0.0.1\n  Port {server.port}\n  User root\n")
    know(ssh, server, "hostkey")
    shutil.copy(server.folder / "key", ssh / "id_ed25519")
    monkeypatch.setenv("HOME", str(ssh.parent))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return ssh.parent


def know(ssh: Path, server: Server, key: str) -> None:
    (ssh / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {(server.folder / f'{key}.pub').read_text()}")


def place(host: str = "node7") -> PlacedNode:
    return PlacedNode(-1, host, "127.0.0.1", (), (2, 5), "TINY_DEVICES")


@pytest.fixture
def node(home: Path, tmp_path: Path) -> Iterator[RemoteNode]:
    nodes = SshNodes(Ssh())
    try:
        nodes.connect([place()], {}, HERE)
        nodes.join([place()], str(tmp_path / "work"))
        yield nodes.nodes[0]
    finally:
        nodes.close()


def refusal(settings: Ssh, host: str = "node7", commands: dict[str, str] | None = None) -> str:
    """What is said when nothing can be started; the connection is closed again."""
    nodes = SshNodes(settings)
    try:
        with pytest.raises(UserError) as caught:
            nodes.connect([place(host)], commands or {}, HERE)
    finally:
        nodes.close()
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


def script(folder: Path, *lines: str) -> str:
    path = folder / "script"
    path.write_text("\n".join(["#!/bin/sh", *lines]))
    path.chmod(0o755)
    return str(path)


class TestRefusal:
    @pytest.mark.parametrize("key", ["otherhost", None], ids=["changed", "unknown"])
    def test_a_host_that_is_not_known(self, home: Path, server: Server, key: str | None) -> None:
        known = home / ".ssh" / "known_hosts"
        if key is None:
            known.write_text("")
        else:
            know(home / ".ssh", server, key)
        before = known.read_text()
        assert refusal(Ssh()) == (
            f"node7: its ssh host key is unknown or has changed according to {known}; connect once by hand (ssh node7) "
            f"and compare the key's fingerprint"
        )
        assert known.read_text() == before, "nothing is added"
        wait_until(lambda: not server.sessions(), 5, "no connection is left")

    def test_turning_the_check_off_is_not_obeyed(self, home: Path) -> None:
        with (home / ".ssh" / "config").open("a") as config:
            config.write("  StrictHostKeyChecking no\n  UserKnownHostsFile none\n")
        assert refusal(Ssh()) == "node7: ~/.ssh/config turns known hosts off; name a file in ssh.known_hosts"

    def test_a_key_that_the_host_does_not_want(self, home: Path, server: Server) -> None:
        shutil.copy(server.folder / "otherkey", home / ".ssh" / "id_ed25519")
        assert refusal(Ssh()).startswith("node7: permission denied over ssh for user root; give a key ")
        right = SshNodes(Ssh(identity_files=(str(server.folder / "key"),)))
        try:
            assert right.connect([place()], {}, HERE)[0].cores
        finally:
            right.close()

    def test_a_key_that_is_not_there(self, home: Path) -> None:
        problem = refusal(Ssh(identity_files=("~/.ssh/no-key",)))
        assert problem.startswith("node7: ssh cannot be set up: ")
        assert f"{home}/.ssh/no-key" in problem

    def test_known_hosts_that_are_not_there(self, home: Path) -> None:
        assert refusal(Ssh(known_hosts="/no/file")) == "ssh.known_hosts = '/no/file': there is no such file"

    def test_a_host_where_nobody_listens(self, home: Path) -> None:
        (home / ".ssh" / "config").write_text(f"Host node7\n  HostName 127.0.0.1\n  Port {free_port()}\n")
        assert refusal(Ssh()).startswith("node7: no ssh connection: ")

    def test_a_python_that_is_not_there(self, home: Path) -> None:
        problem = refusal(Ssh(python="/no/python"))
        assert problem.startswith("node7: /no/python cannot be run there (")
        assert problem.endswith("; set ssh.python")

    def test_a_python_without_mpipso(self, home: Path) -> None:
        bare = str(Path(sys.base_prefix) / "bin" / "python3")
        expected = f"node7: {bare} has no module 'mpipso': install mpipso in it, or set ssh.python"
        assert refusal(Ssh(python=bare)) == expected

    def test_another_version_of_mpipso(self, home: Path, tmp_path: Path) -> None:
        other = script(tmp_path, """echo '{"ready": "9.9"}'""", "cat")  # stands for an installation that is not here
        assert refusal(Ssh(python=other)).startswith(f"node7: {other} has mpipso 9.9, here is ")

    def test_commands_that_the_node_lacks(self, home: Path) -> None:
        commands = {"service.command": "no-such-engine", "service.stop_command": "true"}
        assert refusal(Ssh(), commands=commands) == "service.command: command not found: no-such-engine (on node7)"


def test_what_a_login_prints_is_passed_over(home: Path, tmp_path: Path) -> None:
    chatty = script(tmp_path, "echo Welcome; echo '{}'; echo to the cluster", f'exec {sys.executable} "$@"')
    nodes = SshNodes(Ssh(python=chatty))
    try:
        (facts,) = nodes.connect([place()], {}, HERE)
        assert facts.host == os.uname().nodename
        nodes.join([place()], str(tmp_path / "work"))
        assert nodes.nodes[0].execute(["echo", "x"], 10).stdout == "x\n"
    finally:
        nodes.close()


def test_port_and_user_of_the_node_win_over_the_user_s_configuration(home: Path, server: Server) -> None:
    (home / ".ssh" / "config").write_text("Host 127.0.0.1\n  Port 9\n  User nobody-here\n")
    nodes = SshNodes(Ssh())
    try:
        assert nodes.connect([replace(place("127.0.0.1"), ssh_port=server.port, ssh_user="root")], {}, HERE)[0].cores
    finally:
        nodes.close()


def test_an_answer_that_comes_too_late_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault is injected: a connection with nobody at its other end."""
    monkeypatch.setattr(ssh, "ANSWER_LIMIT", 0.01)

    async def ask() -> None:
        connection = ssh.AgentConnection(asyncio.get_running_loop(), PlacedNode(-2, "far", "far", (0,), ()), Ssh())
        with pytest.raises(EvaluationFailed, match="far: no answer to facts within"):
            await connection._ask("facts")
        (number,) = connection._node._waiting
        connection._take(Answer(number))
        assert not connection._node._waiting

    asyncio.run(ask())


def test_a_command_runs_where_the_leader_was_started(node: RemoteNode) -> None:
    assert node.execute(["pwd"], 10).stdout == f"{Path.cwd()}\n"


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(os.getpid(), worker.pid, flush=True)
time.sleep(600)
"""


def started(node: RemoteNode) -> list[int]:
    """The processes of a service that ignores SIGTERM, with a worker in a session of its own."""
    node.start_service(python(STUBBORN), {}, log="service.log", grace=60.0)
    wait_until(lambda: node.read_chunk("service.log", 0, 100), 10, "the service runs")
    return [int(word) for word in node.read_chunk("service.log", 0, 100).split()]


def kill_session(server: Server) -> None:
    for session in server.sessions():
        for process in [session, *session.children(recursive=True)]:
            if process.name().startswith("sshd"):
                process.kill()


def kill_agent(server: Server) -> None:
    for session in server.sessions():
        for process in session.children(recursive=True):
            if "mpipso.service.agent" in process.cmdline():
                process.kill()


@pytest.mark.parametrize("harm", [kill_session, kill_agent])
def test_a_node_that_is_lost_fails_every_call_and_leaves_no_process(
    node: RemoteNode, server: Server, harm: Callable[[Server], None]
) -> None:
    pids = started(node)
    harm(server)
    wait_until(lambda: not any(map(alive, pids)), GONE, "the service is gone")
    with pytest.raises(EvaluationFailed, match="node7: node lost: ") as caught:
        node.execute(["true"], 10)
    assert caught.value.kind == "infrastructure"
    with pytest.raises(EvaluationFailed, match="node7: node lost: "):
        node.free_port(0)
    node.close()


LEADER = """
import pathlib, sys, time
from mpipso.cluster import ssh
from mpipso.cluster.plan import PlacedNode
from mpipso.config.parallel import Ssh
from mpipso.service.environment import Fingerprint
host, silence, service = sys.argv[1:]
ssh.SILENCE = float(silence)
nodes = ssh.SshNodes(Ssh())
place = PlacedNode(-1, host, "127.0.0.1", (), ())
nodes.connect([place], {}, Fingerprint("", {}))
nodes.join([place], "")
node = nodes.nodes[0]
node.start_service([sys.executable, "-c", service], {}, log="log", grace=60.0)
while not (pids := node.read_chunk("log", 0, 100)):
    time.sleep(0.01)
print(node.work_dir, pids.decode(), flush=True)
time.sleep(600)
"""


def test_a_leader_that_is_killed_leaves_nothing(home: Path) -> None:
    with Job([sys.executable, "-c", LEADER, "node7", "15", STUBBORN], limit=60) as job:
        wait_until(lambda: job.stdout.endswith("\n"), 30, "the service runs")
        work_dir, *pids = job.stdout.split()
        assert all(alive(int(pid)) for pid in pids)
        os.kill(job.process.pid, signal.SIGKILL)
        wait_until(lambda: not any(alive(int(pid)) for pid in pids), GONE, "the service is gone")
        wait_until(lambda: not Path(work_dir).exists(), GONE, "its files are gone")


@pytest.mark.bed
def test_a_node_whose_cable_is_pulled_stops_its_services(bed: Bed) -> None:
    silence = 2.0
    with bed.job("node0", [sys.executable, "-c", LEADER, "node1", str(silence), STUBBORN], limit=60) as job:
        wait_until(lambda: job.stdout.endswith("\n"), 30, "the service runs")
        assert bed.pids("node1")
        bed.cut("node1")
        wait_until(lambda: not bed.pids("node1"), silence + GONE, "the node is empty")


def configuration(folder: Path, more: str) -> str:
    service = TESTS / "bed" / "two_node_service.py"
    text = (TESTS / "multihost.toml").read_text().replace("@PYTHON@", sys.executable).replace("@SERVICE@", str(service))
    text = text.replace("evaluations = 8", "evaluations = 2").replace("confirm = 1", "confirm = 0")
    path = folder / "two-node.toml"
    path.write_text(f'output = "{folder}/runs"\n{text}\n{more}')
    return str(path)


@pytest.mark.bed
def test_one_rank_for_each_group_is_enough(bed: Bed, tmp_path: Path) -> None:
    """Four hosts, two ranks; the second group's master is on a host without a rank."""
    launcher = next((launcher for launcher in LAUNCHERS if launcher.available() is None), None)
    if launcher is None:
        pytest.skip("no MPI was found")
    config = configuration(
        tmp_path,
        """
        [parallel]
        ssh = true
        [[parallel.service_groups]]
        group_id = 0
        nodes = [{host = "node0"}, {host = "node1"}]
        [[parallel.service_groups]]
        group_id = 1
        master_node_index = 0
        nodes = [{host = "node3", ssh_port = 22, ssh_user = "root"}, {host = "node2"}]
        """,
    )
    words = [sys.executable, "-m", "mpipso", "--config", config, "--progress", "plain"]
    done = bed.run_on("node0", launcher.command(2, words, hostfile=bed.hostfile(["node0", "node2"])), limit=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "group 1: node2: rank 1, " in done.stdout
    assert "; node3: over ssh, " in done.stdout
    run = tmp_path / "runs" / "latest"
    record = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    evaluated = [event for event in record if event["event"] == "evaluated"]
    assert {event["group"] for event in evaluated if event["metrics"]} == {0, 1}
    logs = {path.name for path in run.glob("evaluations/*/service-*.log")}
    assert logs == {"service-0-node0.log", "service-1-node1.log", "service-0-node3.log", "service-1-node2.log"}
    for node in bed.nodes:
        assert (bed.pids(node), bed.listening(node), bed.shm(node)) == ({}, set(), [])
        assert bed.run_on(node, ["sh", "-c", "ls -d /tmp/mpipso-*/ | grep -v bed"]).stdout == ""


@pytest.mark.bed
def test_nodes_that_cannot_be_reached_are_told_before_anything_starts(bed: Bed, tmp_path: Path) -> None:
    config = configuration(
        tmp_path,
        """
        [[parallel.service_groups]]
        group_id = 0
        nodes = [{host = "node0"}, {host = "node1"}, {host = "node2", ssh_user = "nobody-here"}, {host = "node9"}]
        """,
    )
    words = [sys.executable, "-m", "mpipso", "--config", config]
    told = bed.run_on("node0", [*words, "--ssh"])
    assert told.returncode == 2
    lines = told.stderr.strip().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("mpipso: node2: permission denied over ssh for user nobody-here; ")
    assert lines[1].startswith("mpipso: node9: no ssh connection: ")
    without = bed.run_on("node0", words)
    assert without.returncode == 2
    assert "no rank of this job runs on node1" in without.stderr
    assert "--ssh (parallel.ssh = true)" in without.stderr
    wait_until(lambda: not bed.pids("node1"), GONE, "the agent that was reached is gone")
    assert not (tmp_path / "runs").exists()
