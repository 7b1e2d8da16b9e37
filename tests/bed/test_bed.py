"""The bed itself, and the service that the multi-host tests tune."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from .hosts import Bed, missing
from .job import Job, wait_until
from .launchers import LAUNCHERS, Launcher

pytestmark = pytest.mark.bed

SERVICE = str(Path(__file__).with_name("two_node_service.py"))
CLIENT = """
import concurrent.futures, sys, urllib.error, urllib.request
url, body, times = sys.argv[1], sys.argv[2].encode() or None, int(sys.argv[3])
def ask(_):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=20) as answer:
            return f"{answer.status} {answer.read().decode()}"
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode()}"
    except OSError as error:
        return f"0 {error}"
print(*concurrent.futures.ThreadPoolExecutor(times).map(ask, range(times)), sep="\\n")
"""
NAMES = (
    "from mpi4py import MPI; n = MPI.COMM_WORLD.allgather(MPI.Get_processor_name()); MPI.COMM_WORLD.rank or print(*n)"
)


def test_hosts_have_names_of_their_own_and_trust_each_other_s_keys(bed: Bed) -> None:
    reached = bed.run_on("node1", ["ssh", "node6", "hostname"])
    assert (reached.stdout, reached.stderr, reached.returncode) == ("node6\n", "", 0)
    stranger = bed.run_on("node1", ["ssh", "-o", "UserKnownHostsFile=/dev/null", "node6", "hostname"])
    assert stranger.returncode == 255
    assert "Host key verification failed" in stranger.stderr


def test_hosts_share_only_what_they_are_told_to(bed: Bed, tmp_path: Path) -> None:
    script = f"touch /tmp/own /dev/shm/own ~/own; echo seen > {tmp_path}/shared"
    assert bed.run_on("node0", ["sh", "-c", script]).returncode == 0
    assert bed.run_on("node1", ["cat", str(tmp_path / "shared")]).stdout == "seen\n"
    for path in ("/tmp/own", "/dev/shm/own", "/root/own"):
        assert bed.run_on("node1", ["test", "-e", path]).returncode == 1
    assert (bed.shm("node0"), bed.shm("node1")) == (["own"], [])
    assert not Path("/dev/shm/own").exists()


def test_a_server_is_seen_on_its_own_host_alone_and_reached_by_name(bed: Bed, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("from node2")
    server = [sys.executable, "-m", "http.server", "8000", "-d", str(tmp_path)]
    with bed.job("node2", server, limit=30):
        wait_until(lambda: bed.listening("node2"), 10, "the server listens")
        assert bed.listening("node2") == {8000}
        assert bed.listening("node3") == set()
        assert [command for command in bed.pids("node2").values() if "http.server" in command]
        assert bed.pids("node3") == {}
        fetch = "import urllib.request as u; print(u.urlopen('http://node2:8000', timeout=5).read())"
        assert "from node2" in bed.run_on("node3", [sys.executable, "-c", fetch]).stdout
    assert bed.pids("node2") == {}
    assert bed.listening("node2") == set()


def test_a_killed_node_takes_its_processes_along_and_starts_again(bed: Bed) -> None:
    with bed.job("node4", ["sh", "-c", "setsid sleep 1000 & wait"], limit=30):
        wait_until(lambda: "sleep 1000" in bed.pids("node4").values(), 10, "both processes run")
        doomed = list(bed.pids("node4", system=True))
        bed.kill_node("node4")
        assert [pid for pid in doomed if psutil.pid_exists(pid)] == []
    assert bed.run_on("node0", ["ssh", "node4", "true"]).returncode == 255
    bed.start("node4")
    assert bed.run_on("node0", ["ssh", "node4", "hostname"]).stdout == "node4\n"


def test_a_cut_node_is_silent_until_it_is_healed(bed: Bed) -> None:
    ask = ["ssh", "-o", "ConnectTimeout=1", "node5", "hostname"]
    bed.cut("node5")
    assert "timed out" in bed.run_on("node0", ask).stderr
    bed.heal("node5")
    assert bed.run_on("node0", ask).stdout == "node5\n"


def test_a_frozen_node_accepts_connections_and_says_nothing_until_it_is_thawed(bed: Bed) -> None:
    ask = ["ssh", "-o", "ConnectTimeout=1", "node5", "hostname"]
    with bed.job("node5", ["sleep", "1000"], limit=30):
        wait_until(lambda: "sleep 1000" in bed.pids("node5").values(), 10, "a process runs")
        bed.freeze("node5")
        assert {psutil.Process(pid).status() for pid in bed.pids("node5", system=True)} == {psutil.STATUS_STOPPED}
        assert bed.run_on("node0", ask).returncode == 255
        bed.thaw("node5")
        assert bed.run_on("node0", ask).stdout == "node5\n"


def test_a_job_over_its_limit_is_killed_on_every_host(bed: Bed) -> None:
    escape = "setsid sleep 1001 & ssh node7 'setsid sleep 1002 & sleep 1003'"
    with pytest.raises(subprocess.TimeoutExpired):
        bed.run_on("node6", ["sh", "-c", escape], limit=2)
    wait_until(lambda: not bed.pids("node6") and not bed.pids("node7"), 5, "nothing is left")


def test_a_bed_is_gone_when_its_owner_is_killed() -> None:
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    program = (
        "import time; from bed.hosts import Bed; bed = Bed(2).__enter__()\n"
        "bed.job('node0', ['setsid', 'sleep', '1004'], limit=60)\n"
        "while not bed.pids('node0'): time.sleep(0.01)\n"
        "print(bed.directory, *bed.pids('node0', system=True), *bed.pids('node1', system=True), flush=True)\n"
        "time.sleep(60)"
    )
    env = {"PYTHONPATH": str(Path(__file__).parents[1]), "TMPDIR": tempfile.gettempdir()}  # where the next bed looks
    with Job([sys.executable, "-c", program], limit=60, env=env) as owner:
        wait_until(lambda: owner.stdout.endswith("\n"), 20, f"the bed is up: {owner.stderr}")
        directory, *pids = owner.stdout.split()
        os.kill(owner.process.pid, signal.SIGKILL)
        owner.process.wait()
        wait_until(lambda: not any(psutil.pid_exists(int(pid)) for pid in pids), 5, "its processes are gone")
    assert len(pids) >= 5
    with Bed(1):
        assert not Path(directory).exists()


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=lambda launcher: launcher.name)
def test_each_mpi_starts_one_rank_on_each_host(bed: Bed, launcher: Launcher) -> None:
    reason = launcher.available()
    if reason is not None:
        pytest.skip(reason)
    argv = launcher.command(8, [sys.executable, "-c", NAMES], bed.hostfile())
    done = bed.run_on("node0", argv, limit=60)
    assert sorted(done.stdout.split()) == bed.nodes, done.stderr
    wait_until(lambda: not any(bed.pids(node) for node in bed.nodes), 5, "nothing is left")


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=lambda launcher: launcher.name)
def test_each_mpi_starts_ranks_on_this_machine(launcher: Launcher) -> None:
    reason = launcher.available()
    if reason is not None:
        pytest.skip(reason)
    with Job(launcher.command(4, [sys.executable, "-c", NAMES]), limit=60) as job:
        assert len(job.wait().stdout.split()) == 4, job.stderr


class TestTwoNodeService:
    def test_serves_only_with_its_worker(self, bed: Bed) -> None:
        with self._start(bed, 1) as worker, self._start(bed, 0) as master:
            wait_until(lambda: self._healthy(bed), 20, f"it is healthy: {worker.stderr} {master.stderr}")
            status, text = self._complete(bed)
            answer = json.loads(text)
            assert status == "200"
            assert len(answer["choices"][0]["text"].split()) == 20
            assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 20, "total_tokens": 22}

            *events, end = self._complete(bed, stream=True, stream_options={"include_usage": True})[1].split("\n\n")
            assert end == "data: [DONE]"
            chunks = [json.loads(event.removeprefix("data: ")) for event in events]
            streamed = "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
            assert streamed == answer["choices"][0]["text"]
            assert chunks[-1]["usage"] == answer["usage"]

            worker.kill()
            wait_until(lambda: self._ask(bed, "/health")[0] == "503", 5, "it is not healthy without its worker")
            assert self._complete(bed)[0] == "503"
        wait_until(lambda: not bed.pids("node2") and not bed.pids("node3"), 5, "nothing is left")

    @pytest.mark.parametrize(("batch", "fewer"), [("1", False), ("8", True)])
    def test_a_larger_batch_takes_fewer_steps(self, bed: Bed, batch: str, fewer: bool) -> None:
        options = ["--batch", batch, "--slots", "8", "--delay-us", "5000"]
        with self._start(bed, 1), self._start(bed, 0, *options):
            wait_until(lambda: self._healthy(bed), 20, "it is healthy")
            self._complete(bed, times=8)
            _, steps, _, tokens = self._ask(bed, "/metrics")[1].split()
            assert int(tokens) == 160
            assert (int(steps) < 160) == fewer

    def test_its_configuration_file_must_hold_nothing_unknown(self, tmp_path: Path) -> None:
        config = tmp_path / "service.json"
        config.write_text(json.dumps({"batch": 4, "slotz": 1}))
        with Job([sys.executable, SERVICE, "--config", str(config)], limit=20) as job:
            done = job.wait()
            assert done.returncode == 2
            assert "unknown slotz" in done.stderr

    def _start(self, bed: Bed, rank: int, *options: str) -> Job:
        where = ["--node-rank", str(rank), "--nnodes", "2", "--master-addr", "node2"]
        return bed.job(f"node{2 + rank}", [sys.executable, SERVICE, *where, *options], limit=60)

    def _healthy(self, bed: Bed) -> bool:
        return self._ask(bed, "/health")[0] == "200"

    def _complete(self, bed: Bed, times: int = 1, **options: object) -> tuple[str, str]:
        body = {"model": "two-node", "prompt": "two words", "max_tokens": 20, **options}
        return self._ask(bed, "/v1/completions", json.dumps(body), times)

    def _ask(self, bed: Bed, path: str, body: str = "", times: int = 1) -> tuple[str, str]:
        argv = [sys.executable, "-c", CLIENT, f"http://node2:8000{path}", body, str(times)]
        status, _, text = bed.run_on("node3", argv).stdout.strip().partition(" ")
        return status, text
