"""Evaluations on one group, with real processes and sockets: every hostile service, two nodes, logs, cancelling.

The hostile cases run MPIPSO_REPEAT times each (1 unless set). Two :class:`LocalNode` stand for two hosts, each with a
work folder and a name of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import tomli
from bed.job import wait_until
from service.tiny_service import Handler, Server

from mpipso.config import Config
from mpipso.evaluation import Assignment, Evaluation
from mpipso.logtext import unprefixed
from mpipso.search.objective import Objective
from mpipso.service import group as group_module
from mpipso.service import keeper as proc
from mpipso.service import node as node_module
from mpipso.service import ports, process, readiness
from mpipso.service.clients.base import CLIENTS
from mpipso.service.engines.base import ENGINES
from mpipso.service.group import ServiceGroup
from mpipso.service.local import LocalNode
from mpipso.service.node import Share
from mpipso.service.running import LOG_BYTES

HERE = Path(__file__).parent
HOSTILE = [sys.executable, str(HERE / "hostile.py")]
PYTHON = (sys.executable, "-c")
TINY = [sys.executable, str(HERE / "tiny_service.py"), "--port", "{port}"]
PARAMETER = {"name": "tokens", "type": "int", "min": 1, "max": 9, "env": "TOKENS"}
REPEAT = pytest.mark.parametrize("trial", range(int(os.environ.get("MPIPSO_REPEAT", "1"))))
TAG = "MPIPSO_TEST_TAG"


LOAD = {"client": "openai", "requests": 3, "output_tokens": 2, "input_tokens": 2, "warmup": 1, "timeout": 30.0}
"""mpipso's own load generator; tests that are not about the load have a command instead that starts faster."""
ECHO = {"client": "command", "command": ("echo", '{"x": 1}'), "metrics": {"output_throughput": "x"}, "timeout": 30.0}


def configuration(
    service: dict[str, Any],
    benchmark: dict[str, Any],
    search: dict[str, Any] | None = None,
    quality: dict[str, Any] | None = None,
) -> Config:
    """A configuration of the engine ``command``; what checks the ``quality`` has to find an accuracy."""
    data = {
        "service": {"engine": "command", "start_timeout": 20.0, "stop_grace": 0.3, **service},
        "benchmark": benchmark,
        "objective": {"maximize": "output_throughput"},
        "parameters": (PARAMETER,),
        "search": search or {},
    }
    if quality is not None:
        data |= {"quality": {"timeout": 30.0, "metrics": {"accuracy": "acc"}, **quality}}
        data["objective"] |= {"slo": ({"metric": "accuracy", "min": 0.5},)}
    return Config.model_validate(data)


class Bench:
    """A group of local nodes, and what its evaluations may leave behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tag = f"{os.getpid()}-{folder.name}"
        self.nodes: list[LocalNode] = []
        self.phases: list[str] = []
        self.waits: list[str] = []
        self.cancel = threading.Event()
        self.seconds = 0.0
        self.shm = sorted(Path("/dev/shm").iterdir())

    def group(self, config: Config, *, nodes: int = 1, master: int = 0, port: int = 0) -> ServiceGroup:
        self.nodes = [
            LocalNode(Share(f"node{index}", "127.0.0.1"), work_dir=str(self.folder)) for index in range(nodes)
        ]
        engine, client = ENGINES.create(config.service.engine), CLIENTS.create(config.benchmark.client)
        judge = Objective(config.objective)
        return ServiceGroup(7, self.nodes, master, config, engine, client, judge, self.tell, port=port)

    def tell(self, phase: str, wait: str) -> None:
        if wait:
            assert phase == self.phases[-1]
            self.waits.append(wait)
        else:
            self.phases.append(phase)

    def evaluate(
        self,
        service: dict[str, Any],
        benchmark: dict[str, Any] = ECHO,
        *,
        quality: dict[str, Any] | None = None,
        number: int = 3,
        **group: Any,
    ) -> Evaluation:
        """One evaluation with a fresh group, closed again; every process of the service is tagged."""
        service = service | {"env": {**service.get("env", {}), TAG: self.tag}}
        made = self.group(configuration(service, benchmark, quality=quality), **group)
        began = time.monotonic()
        evaluation = made.evaluate(Assignment(number, 1, {"tokens": 4}), self.cancel)
        self.seconds = time.monotonic() - began
        assert self.left() == [], "the evaluation has left something behind"
        made.close()
        return evaluation

    def pids(self) -> list[int]:
        """The live processes with our tag in their environment: found without the code under test."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and f"{TAG}={self.tag}".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def listens(self) -> bool:
        """Whether one of them listens, found in the same way."""
        # One look at each, since a machine may have thousands of connections and processes.
        pids = set(self.pids())
        return any(each.status == psutil.CONN_LISTEN and each.pid in pids for each in psutil.net_connections("tcp"))

    def left(self) -> list[object]:
        """What is there that was not there before: processes, listening sockets of ours, shared memory."""
        owners = {str(folder) for folder in (node.work_dir for node in self.nodes)}
        mine = [
            pid
            for pid in proc.processes()
            if any(owner.encode() in proc._read(f"/proc/{pid}/cmdline") for owner in owners)
        ]
        shm = [path for path in Path("/dev/shm").iterdir() if path not in self.shm and self.tag in path.name]
        return [*self.pids(), *mine, *(ports.listeners(self.port) if self.port else []), *shm]

    @property
    def port(self) -> int:
        """The port of the last start, as its log tells; 0 for none."""
        for node in self.nodes:
            for command in Path(node.work_dir).glob("*/port"):
                return int(command.read_text())
        return 0


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    for pid in made.pids():
        os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[None]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
        try:
            yield
        finally:
            child.kill()


def hostile(mode: str, *more: str) -> dict[str, Any]:
    """A start of the hostile service that notes its port in its work folder."""
    note = 'echo "$1" > "$0/port"; shift; exec "$@"'
    command = ["sh", "-c", note, "{work_dir}", "{port}", *HOSTILE, mode, "--port", "{port}", *more]
    return {"command": tuple(command), "health_url": "http://{host}:{port}/health"}


def tiny(*more: str, **service: Any) -> dict[str, Any]:
    return {"command": (*TINY, *more), "health_url": "http://{host}:{port}/health", **service}


def starts_last_until(monkeypatch: pytest.MonkeyPatch, happened: Callable[[LocalNode, str, str], object]) -> None:
    """Change what a node does: a start is over when something has happened to the service of a handle and a log.

    So no limit of a test counts the time that a machine takes to bring a process up.
    """
    start = LocalNode.start_service

    def and_wait(node: LocalNode, *told: Any, **named: Any) -> str:
        handle = start(node, *told, **named)
        wait_until(lambda: happened(node, handle, named["log"]))
        return handle

    monkeypatch.setattr(LocalNode, "start_service", and_wait)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start is over when its process has made the file ``begun`` in its work folder."""
    starts_last_until(monkeypatch, lambda node, handle, log: any(Path(node.work_dir).glob("*/begun")))


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start is over when its process has said that it is ready."""
    starts_last_until(monkeypatch, lambda node, handle, log: b"ready\n" in node.read_chunk(log, 0, 10_000))


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start is over when its process is."""
    starts_last_until(monkeypatch, lambda node, handle, log: node.poll_service(handle) is not None)


def failed(evaluation: Evaluation) -> tuple[str, str]:
    assert evaluation.failure is not None and not evaluation.metrics
    return evaluation.failure.kind, evaluation.failure.cause


# --- hostile services ---


@REPEAT
@pytest.mark.parametrize("mode", ["good", "stubborn", "daemon", "respawn", "retitled", "flood"])
def test_a_service_that_will_not_go_is_measured_and_gone(
    bench: Bench, mode: str, trial: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LOG_LIMIT", 1_000_000)
    evaluation = bench.evaluate(hostile(mode), LOAD)
    assert evaluation.failure is None
    assert evaluation.metrics["completed"] == 3 and evaluation.metrics["output_throughput"] > 0
    assert bench.phases == ["configuring", "starting", "measuring", "stopping"]
    assert set(evaluation.phases) == set(bench.phases) and sum(evaluation.phases.values()) <= evaluation.seconds + 0.1
    assert evaluation.killed or mode not in ("stubborn", "daemon", "respawn")
    assert b"ready" in evaluation.files["service-0-node0.log"] or mode == "flood"
    assert len(evaluation.files["service-0-node0.log"]) <= LOG_BYTES


@REPEAT
def test_workers_whose_leader_has_gone_are_not_measured(bench: Bench, trial: int) -> None:
    """The leader goes when the worker listens, which is now and then enough to pass for ready."""
    kind, cause = failed(bench.evaluate(hostile("headless"), LOAD))
    assert kind == "configuration"
    assert re.match(r"node0: the service exited with code 3 (while starting|during the benchmark): ", cause)


@REPEAT
def test_health_alone_does_not_make_a_service_ready(bench: Bench, trial: int, ready: None) -> None:
    kind, cause = failed(bench.evaluate(hostile("early") | {"start_timeout": 0.5}, LOAD))
    assert kind == "configuration"
    assert cause.startswith("not ready within 0.5 s: the first request was answered with HTTP 503")
    assert bench.waits.count("the first request is not answered yet") == 1
    assert "measuring" not in bench.phases


@REPEAT
def test_a_service_that_accepts_and_never_answers_is_given_up_at_start_timeout(
    bench: Bench, trial: int, ready: None
) -> None:
    kind, cause = failed(bench.evaluate(hostile("hang") | {"start_timeout": 1.0}, LOAD))
    assert kind == "configuration"
    assert "the first request is not answered yet" not in bench.waits
    # One that does not even listen gives "Connection refused".
    assert re.fullmatch(r"not ready within 1 s: http://127\.0\.0\.1:\d+/health: no answer", cause)


@REPEAT
def test_a_crash_under_load_is_told_as_such(bench: Bench, trial: int) -> None:
    evaluation = bench.evaluate(hostile("crash", "--requests", "3"), LOAD)
    kind, cause = failed(evaluation)
    assert kind == "configuration"
    assert cause == "node0: the service exited with code 7 during the benchmark: fatal: the engine is on fire"
    assert evaluation.failure and evaluation.failure.detail.splitlines() == ["ready", "fatal: the engine is on fire"]
    assert "measuring" in bench.phases


@REPEAT
def test_a_service_that_crashes_at_a_higher_load_has_failed(bench: Bench, trial: int) -> None:
    evaluation = bench.evaluate(hostile("crash", "--requests", "9"), LOAD | {"concurrency": (1, 2, 4)})
    cause = "node0: the service exited with code 7 during the benchmark: fatal: the engine is on fire"
    assert failed(evaluation) == ("configuration", cause)
    assert bench.waits[-1] != "concurrency 1"
    assert json.loads(evaluation.files["concurrency-1-benchmark.json"])["completed"] == 3


def test_while_the_first_request_is_under_way_that_is_told(bench: Bench) -> None:
    evaluation = bench.evaluate(hostile("good"), LOAD)
    assert evaluation.failure is None and bench.waits[-1] == "the first request is not answered yet"


def test_a_probe_has_a_seed_that_programs_take(bench: Bench) -> None:
    said = ECHO | {"command": ("echo", '{"x": {seed}}')}
    seeds = [
        int(bench.evaluate(hostile("good"), said, number=number).metrics["output_throughput"]) for number in (-1, -2, 3)
    ]
    assert len(set(seeds)) == 3 and all(0 <= seed < 2**31 for seed in seeds)


def test_a_service_is_measured_at_each_load_with_prompts_of_its_own(bench: Bench) -> None:
    evaluation = bench.evaluate(hostile("good"), LOAD | {"concurrency": (1, 2)})
    assert evaluation.failure is None and evaluation.metrics["concurrency"] in (1, 2)
    assert list(evaluation.loads) == ["concurrency 1", "concurrency 2"]
    assert evaluation.metrics in evaluation.loads.values() and evaluation.loads[evaluation.load] == evaluation.metrics
    lines = [evaluation.files[f"concurrency-{load}-benchmark-command.txt"].decode() for load in (1, 2)]
    assert len({line.partition("--seed ")[2].split()[0] for line in lines}) == 2
    (bench.folder / "prompts.jsonl").write_text("".join(f'{{"prompt": "{word}"}}\n' for word in "abcdefghi"))
    real = {key: value for key, value in LOAD.items() if key != "input_tokens"}
    evaluation = bench.evaluate(
        hostile("good"), real | {"prompts": str(bench.folder / "prompts.jsonl"), "concurrency": (1, 2)}
    )
    assert evaluation.failure is None, evaluation.failure
    lines = [evaluation.files[f"concurrency-{load}-benchmark-command.txt"].decode() for load in (1, 2)]
    assert [line.partition("--skip ")[2].split()[0] for line in lines] == ["0", "3"]


@REPEAT
@pytest.mark.parametrize("rate", [0.01, 1.0])
def test_a_service_that_closes_its_port_before_it_ends_under_load_is_told_with_what_it_said_first(
    bench: Bench, trial: int, rate: float
) -> None:
    load = LOAD | {"requests": 9, "concurrency": 1, "min_success_rate": rate}
    evaluation = bench.evaluate(hostile("fade", "--requests", "4"), load)
    cause = "node0: the service exited with code 0 during the benchmark: KeyError: 'cmpl-1'"
    assert failed(evaluation) == ("configuration", cause)
    log = evaluation.files["service-0-node0.log"]
    assert b"\nKeyError: 'cmpl-1'\n" in log and b"EngineDeadError" in log[-2000:]
    assert LOG_BYTES - 200 < len(log) <= LOG_BYTES


def test_a_service_that_dies_is_not_measured_though_its_client_counts_no_failure(bench: Bench) -> None:
    """The client is one as wrk or hey, which goes on until its time is over."""
    asks = """if True:
        import json, sys, urllib.request
        asked = 0
        while True:
            try:
                urllib.request.urlopen(sys.argv[1] + "/v1/completions", data=b'{"max_tokens": 1}').close()
                asked += 1
            except OSError:
                break
        print(json.dumps({"x": asked}))
    """
    evaluation = bench.evaluate(hostile("fade", "--requests", "4"), ECHO | {"command": (*PYTHON, asks, "{base_url}")})
    kind, cause = failed(evaluation)
    assert kind == "configuration" and cause.startswith("node0: the service exited with code 0 during the benchmark: ")


def test_a_service_that_serves_on_after_a_failed_benchmark_is_not_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "DYING", 1000.0)
    assert failed(bench.evaluate(tiny(), ECHO | {"command": ("false",)}))[0] == "measurement"


@REPEAT
def test_a_service_that_freezes_under_load_is_ended_at_the_benchmark_s_timeout(bench: Bench, trial: int) -> None:
    evaluation = bench.evaluate(hostile("freeze", "--requests", "3"), LOAD | {"timeout": 2.0, "requests": 8})
    kind, cause = failed(evaluation)
    assert kind == "configuration"
    assert cause in ("the benchmark took longer than 2 s", "6 of 8 requests failed: no complete answer within 2 s (6)")
    assert b"ready" in evaluation.files["service-0-node0.log"]


@REPEAT
def test_a_port_in_use_is_told_with_its_holder_and_nothing_is_started(bench: Bench, trial: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        kind, cause = failed(bench.evaluate(hostile("good"), LOAD, port=port))
    assert kind == "infrastructure"
    assert cause.startswith(f"node0: port {port} is in use by pid {os.getpid()} (")
    assert bench.phases == ["configuring", "stopping"]


def test_shared_memory_of_a_service_is_removed(bench: Bench, ready: None) -> None:
    evaluation = bench.evaluate(hostile("leaky", "--shm", f"mpipso-{bench.tag}") | {"start_timeout": 1.0}, LOAD)
    assert failed(evaluation)[1].startswith("not ready within 1 s: ")
    assert b"segment" in evaluation.files["service-0-node0.log"]


# --- whose listener, which model, which token ---


def test_a_stranger_on_the_port_is_not_measured(bench: Bench) -> None:
    """The stranger comes after the look at the port; the service itself waits and never listens."""
    port = ports.free_port()
    stranger = [sys.executable, str(HERE / "tiny_service.py"), "--port", str(port)]

    def come_in_between() -> None:
        wait_until(bench.pids)
        with running(stranger):
            done.wait(20)

    done = threading.Event()
    thread = threading.Thread(target=come_in_between)
    thread.start()
    try:
        kind, cause = failed(bench.evaluate(tiny() | {"command": ("sleep", "1000")}, port=port))
    finally:
        done.set()
        thread.join()
    assert kind == "infrastructure"
    assert cause.startswith(f"node0: port {port} belongs to pid ")
    assert "tiny_service.py" in cause and "not to the service that was started" in cause


@pytest.mark.parametrize("key", ["", "TINY_KEY"])
def test_a_port_that_is_closed_again_for_a_moment_is_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """The fault is injected: between two looks at it nobody listens."""
    monkeypatch.setenv("TINY_KEY", "sk-8f3a61c0d2")
    looked, look = [], LocalNode.listener_problem

    def closed_first(node: LocalNode, handle: str, port: int) -> str | None:
        looked.append(port)
        return node_module.nobody_listens(port) if len(looked) == 1 else look(node, handle, port)

    monkeypatch.setattr(LocalNode, "listener_problem", closed_first)
    assert bench.evaluate(tiny(), ECHO | {"api_key_env": key}).failure is None
    assert len(looked) > 1


def test_a_stranger_on_the_port_is_not_given_the_key(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stranger answers the health URL, as before, in this process."""
    monkeypatch.setenv("TINY_KEY", "sk-8f3a61c0d2")
    port = ports.free_port()
    heard: list[str | None] = []

    class Ear(Handler):
        def parse_request(self) -> bool:
            parsed = super().parse_request()
            heard.append(self.headers.get("Authorization") if parsed else None)
            return parsed

    def come_in_between() -> None:
        wait_until(bench.pids)
        with Server("127.0.0.1", port) as server:
            server.RequestHandlerClass = Ear
            serving = threading.Thread(target=server.serve_forever)
            serving.start()
            done.wait(20)
            server.shutdown()
            serving.join()

    done = threading.Event()
    thread = threading.Thread(target=come_in_between)
    thread.start()
    try:
        asked = LOAD | {"api_key_env": "TINY_KEY"}
        kind, cause = failed(bench.evaluate(tiny() | {"command": ("sleep", "1000")}, asked, port=port))
    finally:
        done.set()
        thread.join()
    assert kind == "infrastructure"
    assert cause.startswith(f"node0: port {port} belongs to pid ")
    assert heard == []


def test_a_service_that_ends_because_its_port_was_taken_is_not_to_blame(bench: Bench) -> None:
    port = ports.free_port()
    gate = bench.folder / "gate"
    command = ["sh", "-c", 'while [ ! -e "$0" ]; do sleep 0.05; done; exec "$@"', str(gate), *TINY]

    def take_the_port() -> None:
        wait_until(bench.pids)
        with socket.create_server(("127.0.0.1", port)):
            gate.touch()
            done.wait(20)

    done = threading.Event()
    thread = threading.Thread(target=take_the_port)
    thread.start()
    try:
        kind, cause = failed(bench.evaluate(tiny() | {"command": tuple(command)}, port=port))
    finally:
        done.set()
        thread.join()
    assert kind == "infrastructure"
    assert cause.startswith(f"node0: port {port} ")
    assert f"pid {os.getpid()}" in cause


def test_a_service_that_ends_because_another_port_was_taken_is_not_to_blame(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        listen = "import socket, sys; socket.create_server(('127.0.0.1', int(sys.argv[1])))"
        command = (sys.executable, "-c", listen, str(holder.getsockname()[1]))
        kind, cause = failed(bench.evaluate({"command": command}))
    assert kind == "infrastructure"
    assert cause.startswith("node0: the service exited with code 1 while starting: OSError: [Errno 98] Address already")


def test_a_taken_port_is_told_though_the_line_that_says_so_is_cut(bench: Bench, ended: None) -> None:
    line = f"RuntimeError: The server socket {'has failed to listen on any address ' * 5}port: 29500, name: EADDRINUSE"
    kind, cause = failed(bench.evaluate({"command": ("sh", "-c", 'echo "$0"; exit 1', line)}))
    assert kind == "infrastructure"
    assert cause.endswith("... (address already in use)")


def test_a_taken_port_that_the_service_survived_is_not_why_it_ended(bench: Bench, ended: None) -> None:
    log = "OSError: [Errno 98] Address already in use\ntrying the next port\nValueError: bad"
    kind, cause = failed(bench.evaluate({"command": ("sh", "-c", 'echo "$0"; exit 1', log)}))
    assert (kind, cause) == ("configuration", "node0: the service exited with code 1 while starting: ValueError: bad")


def test_a_master_whose_port_was_taken_is_named_before_the_workers_that_lost_it(bench: Bench, ended: None) -> None:
    ends = ("sh", "-c", 'echo "$0"; exit 1')
    service = {
        "command": (*ends, "OSError: [Errno 98] Address already in use"),
        "worker_command": (*ends, "RuntimeError: no master"),
    }
    kind, cause = failed(bench.evaluate(service, nodes=2))
    assert kind == "infrastructure"
    assert cause.startswith("node0: the master exited with code 1 while starting: OSError: [Errno 98]")
    assert "; node1: the worker exited with code 1" in cause


def test_the_embedded_server_is_recognised_by_its_name_and_measured(bench: Bench) -> None:
    pytest.importorskip("xllamacpp")
    pytest.importorskip("gguf")
    service = {"engine": "llamacpp", "model": "embedded"}
    evaluation = bench.evaluate(service, LOAD)
    assert evaluation.failure is None, evaluation.failure
    assert b"--alias embedded" in evaluation.files["command.txt"]
    assert b"--model embedded" in evaluation.files["benchmark-command.txt"]


def test_a_service_of_another_model_is_refused_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = type(ENGINES.create("command"))
    monkeypatch.setattr(engine, "model_name", lambda self, config: "wanted")
    kind, cause = failed(bench.evaluate(tiny("--model", "other") | {"start_timeout": 1000.0}, LOAD))
    assert (kind, cause) == ("configuration", "the service serves other, not wanted")


def test_a_health_command_that_hangs_once_is_called_again(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "COMMAND_LIMIT", 0.5)
    flag = tmp_path / "called"
    health = ("sh", "-c", f"test -e {flag} || {{ touch {flag}; sleep 1000; }}")
    assert bench.evaluate(tiny() | {"health_command": health}).failure is None


def test_a_health_command_decides_where_there_is_one(bench: Bench) -> None:
    refused, healthy = bench.folder / "refused", bench.folder / "healthy"
    heal = f'while [ ! -e {refused} ]; do sleep 0.01; done; touch {healthy}; exec "$@"'
    health = ("sh", "-c", f"test -e {healthy} || (touch {refused}; exit 1)")
    evaluation = bench.evaluate({"command": ("sh", "-c", heal, "sh", *TINY), "health_command": health})
    assert evaluation.failure is None
    assert bench.waits[0] == "health command sh ended with exit code 1"
    never = bench.evaluate(tiny() | {"health_command": ("false",), "start_timeout": 2.0})
    assert failed(never)[1] == "not ready within 2 s: health command false ended with exit code 1"
    assert bench.waits[-1] == "health command false ended with exit code 1"
    assert bench.waits.count(bench.waits[-1]) == 1, "it is told when it changes, not at every look"


@pytest.mark.parametrize("spans", [False, True])
def test_of_a_start_that_takes_long_the_place_of_the_log_is_told(
    bench: Bench, spans: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "LONG", 1.0)
    loads = ("sh", "-c", "echo loading; exec sleep 1000")
    service = {"command": loads, "start_timeout": 2.0, **({"worker_command": loads} if spans else {})}
    _, cause = failed(bench.evaluate(service, nodes=2 if spans else 1, master=1 if spans else 0))
    host = "node1" if spans else "node0"
    told = [wait for wait in bench.waits if "log" in wait]
    log = Path(bench.nodes[int(spans)].work_dir) / f"service-0-{host}.log"
    assert told == [f"{bench.waits[0]};\nits log: {host}:{log}"], "once, and not at the beginning"
    assert "its log" not in cause, "which is gone by then"


def test_the_error_of_a_service_that_hangs_is_told_when_it_is_given_up(bench: Bench, begun: None) -> None:
    """A rank has died of missing memory, and what has started it waits on."""
    memory = "RuntimeError: NPU out of memory. Tried to allocate 4.00 GiB"

    def hangs(says: str) -> str:
        words = ("sh", "-c", 'echo "$1"; echo "it waits"; touch "$0/begun"; exec sleep 1000', "{work_dir}")
        service = {**SPAN, "command": (*words, "loading"), "worker_command": (*words, says), "start_timeout": 0.5}
        kind, cause = failed(bench.evaluate(service, nodes=2))
        assert kind == "configuration"
        return re.sub(r":\d+/", "/", cause)

    refused = "not ready within 0.5 s: http://127.0.0.1/health: Connection refused"
    assert hangs(memory) == f"{refused}; node1: the worker says: {memory}"
    assert hangs("loading") == refused
    assert (
        hangs("WARNING 11-28 08:00:01 [a.py:8] Found a limit, which can cause `OSError: [Errno 24] Too many'")
        == refused
    )


@pytest.mark.parametrize("health", ["http://{host}:{port}/health", ""])
def test_where_else_a_service_listens_is_told_when_it_is_given_up(bench: Bench, begun: None, health: str) -> None:
    one = ports.free_port()
    other = ports.free_port(exclude=[one])
    listen = (
        "import pathlib, socket, sys, time\n"
        "places = zip(sys.argv[2::2], map(int, sys.argv[3::2]))\n"
        "servers = [socket.create_server(place) for place in places]\n"
        "(pathlib.Path(sys.argv[1]) / 'begun').touch()\n"
        "time.sleep(1000)"
    )
    # Where its workers find it, and a port of the system's choice, are nothing for clients.
    places = ("", str(one), "127.0.0.1", str(other), "", "{master_port}", "", "0")
    command = (sys.executable, "-c", listen, "{work_dir}", *places)
    kind, cause = failed(bench.evaluate({"command": command, "health_url": health, "start_timeout": 0.5}))
    assert kind == "configuration"
    told = ", ".join(place for _, place in sorted([(one, f"*:{one}"), (other, f"127.0.0.1:{other}")]))
    assert cause.endswith(f": Connection refused; the service listens on {told} of node0 instead")


@pytest.mark.parametrize(
    "url",
    ["http://{host}:99999/health", "htp://{host}:{port}/health", "http://a..b:{port}/", f"http://{64 * 'a'}:{{port}}/"],
)
def test_a_health_url_that_cannot_be_asked_ends_the_evaluation_at_once(bench: Bench, url: str) -> None:
    kind, cause = failed(bench.evaluate(tiny() | {"health_url": url, "start_timeout": 600.0}))
    told = url.replace("{host}", "127.0.0.1").partition("{")[0]
    assert kind == "configuration" and cause.startswith(f"service.health_url: {told}")
    assert cause.endswith(" is no URL that can be asked")


def test_a_health_url_that_leads_elsewhere_is_not_healthy(bench: Bench, begun: None) -> None:
    """What answers there may be another service."""
    serve = (
        "import http.server, pathlib, sys\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200 if self.path == '/other' else 307)\n"
        "        self.send_header('Location', '/other')\n"
        "        self.send_header('Content-Length', '0')\n"
        "        self.end_headers()\n"
        "server = http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler)\n"
        "(pathlib.Path(sys.argv[2]) / 'begun').touch()\n"
        "server.serve_forever()"
    )
    command = (sys.executable, "-c", serve, "{port}", "{work_dir}")
    service = {"command": command, "health_url": "http://{host}:{port}/health", "start_timeout": 0.5}
    _, cause = failed(bench.evaluate(service))
    assert cause.startswith("not ready within 0.5 s: ") and cause.endswith("/health answers HTTP 307")


@pytest.mark.parametrize("host", ["{host}", "localhost"])
def test_the_service_s_own_health_url_alone_is_asked_with_the_key(
    host: str, bench: Bench, ready: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who answers by another name may be somebody else."""
    monkeypatch.setenv("LLM_LOGIN", "sk-8f3a61c0d2")
    asked = {"health_url": f"http://{host}:{{port}}/v1/models", "start_timeout": 20.0 if host == "{host}" else 0.5}
    load = LOAD | {"api_key_env": "LLM_LOGIN"}
    evaluation = bench.evaluate({"command": (*TINY, "--key-env", "LLM_LOGIN"), **asked}, load)
    if host == "{host}":
        assert evaluation.failure is None
    else:
        assert failed(evaluation)[1].endswith("/v1/models answers HTTP 401")


def test_without_any_health_the_open_port_is_waited_for(bench: Bench) -> None:
    evaluation = bench.evaluate({"command": tuple(TINY)})
    assert evaluation.failure is None


@pytest.mark.parametrize("what", ["command", "update_command"])
def test_what_is_told_of_a_failure_is_bounded_also_in_length(bench: Bench, what: str) -> None:
    shouts = (sys.executable, "-c", "print('x' * 1_000_000, 'the end'); raise SystemExit(1)")
    evaluation = bench.evaluate({"command": ("sleep", "1000"), what: shouts})
    assert evaluation.failure and evaluation.failure.detail.endswith("x the end")
    assert len(evaluation.failure.detail) <= 10_000 and len(evaluation.failure.cause) < 400


def test_a_start_command_that_ends_is_told_to_stay(bench: Bench) -> None:
    kind, cause = failed(bench.evaluate({"command": ("sh", "-c", "echo started in the background; sleep 1000 &")}))
    assert kind == "configuration"
    assert "exited with code 0 while starting (its command has to stay in the foreground)" in cause


def test_so_is_none_that_tells_of_an_error_or_that_has_listened(bench: Bench) -> None:
    _, cause = failed(bench.evaluate({"command": ("echo", "ValueError: bad")}))
    assert cause == "node0: the service exited with code 0 while starting: ValueError: bad"
    serve = (
        "import http.server, os, sys\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    asked = 0\n"
        "    def do_GET(self):\n"
        "        Handler.asked += 1\n"
        "        if Handler.asked == 3:\n"
        "            os._exit(0)\n"
        "        self.send_error(503)\n"
        "print('serving', flush=True)\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()"
    )
    command = (sys.executable, "-c", serve, "{port}")
    _, cause = failed(bench.evaluate({"command": command, "health_url": "http://{host}:{port}/health"}))
    assert "exited with code 0 while starting: " in cause


def test_a_clock_that_is_set_meanwhile_does_not_change_how_long_it_took(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter((2e9, 1e9, 1e9))
    monkeypatch.setattr(
        "mpipso.service.group.time", SimpleNamespace(time=lambda: next(times), monotonic=time.monotonic)
    )
    evaluation = bench.evaluate({"command": ("sleep", "60"), "health_command": ("true",)}, ECHO)
    assert evaluation.failure is None and evaluation.started == 2e9
    assert evaluation.ended - evaluation.started == pytest.approx(sum(evaluation.phases.values()), abs=60.0)


def test_a_command_that_does_not_exist_is_not_the_configuration_s_fault(bench: Bench) -> None:
    kind, cause = failed(bench.evaluate({"command": ("/no/such/program",)}))
    assert (kind, cause) == ("infrastructure", "node0: command not found: /no/such/program")


# --- several nodes ---

SPAN = {
    "command": (*TINY, "--node-rank", "{node_rank}"),
    "worker_command": (*TINY, "--node-rank", "{node_rank}"),
    "health_url": "http://{host}:{port}/health",
}


@pytest.mark.parametrize("master", [0, 1])
def test_workers_start_first_and_every_process_knows_its_place(
    bench: Bench, master: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    starts_last_until(monkeypatch, lambda node, handle, log: started.append(log) or True)
    told = "echo $1 $MPIPSO_NODE_RANK $MPIPSO_NNODES $MPIPSO_MASTER_ADDR:$MPIPSO_MASTER_PORT $2:$3 $4"
    words = ("sh", "-c", f'{told} $MPIPSO_PORT $MPIPSO_CONFIG; shift 4; exec "$@"', "sh")
    words += ("{node_rank}", "{master_addr}", "{master_port}", "{nnodes}")
    service = {key: (*words, *value) for key, value in SPAN.items() if key != "health_url"}
    evaluation = bench.evaluate(service | {"health_url": SPAN["health_url"]}, nodes=2, master=master)
    assert evaluation.failure is None
    logs = [evaluation.files[f"service-{rank}-node{master ^ rank}.log"].decode().split() for rank in (0, 1)]
    assert started == [f"service-{rank}-node{master ^ rank}.log" for rank in (1, 0)]
    for rank, log in enumerate(logs):
        node = bench.nodes[master ^ rank]
        assert log[0:3] == [str(rank), str(rank), "2"]
        assert log[3] == log[4] and log[5] == "2"
        assert Path(log[7]).name == "config.json" and Path(log[7]).parent.parent == Path(node.work_dir)
    assert logs[0][3] == logs[1][3] and int(logs[0][3].split(":")[1]) != int(logs[0][6])


@pytest.mark.parametrize("phase", ["starting", "measuring"])
def test_a_worker_that_dies_ends_the_evaluation(bench: Bench, phase: str) -> None:
    dying = ("sh", "-c", 'echo "fatal: link down"; echo $$; while [ ! -e "$0" ]; do sleep 0.01; done; exit 9')
    gate, died = bench.folder / "gate", []
    service = {**SPAN, "worker_command": (*dying, str(gate))}
    if phase == "starting":
        service["health_command"] = ("false",)

    def let_it_die() -> None:
        wait_until(lambda: phase in bench.phases and len(bench.pids()) >= 2)
        gate.touch()
        died.append(time.monotonic())

    thread = threading.Thread(target=let_it_die)
    thread.start()
    evaluation = bench.evaluate(service, LOAD | {"requests": 100_000, "concurrency": 1}, nodes=2)
    ended = time.monotonic()
    thread.join()
    when = "while starting" if phase == "starting" else "during the benchmark"
    assert failed(evaluation) == ("configuration", f"node1: the worker exited with code 9 {when}: fatal: link down")
    assert evaluation.failure and "fatal: link down" in evaluation.failure.detail
    # Noticed within a second; stopping the rest takes its grace of 0.3 s and a few processes.
    assert ended - died[0] < 10.0
    assert set(evaluation.files) >= {"service-0-node0.log", "service-1-node1.log", "command.txt"}


def test_a_line_of_a_log_is_quoted_without_what_its_logger_put_before_it(bench: Bench) -> None:
    line = "[2026-11-28 08:00:01.123456+08:00] [1234] [281] [llm] [ERROR] [a.cpp:8] : " + 150 * "x"
    evaluation = bench.evaluate({"command": ("sh", "-c", f"echo '{line}'; exit 3")})
    assert failed(evaluation)[1] == f"node0: the service exited with code 3 while starting: {150 * 'x'}"


LOST = "RuntimeError: Engine core initialization failed. See root cause above."


@pytest.mark.parametrize("loser", ["the master", "the worker"])
@pytest.mark.parametrize(
    ("end", "log", "goes_first"),
    [
        ("exit 1", "torch.OutOfMemoryError: CUDA out of memory" + "\n  at a line of code" * 100, True),
        ("exit 1", "ValueError: too long: " + 200 * "x", True),
        ("kill -9 $$", "loading", True),
        ("exit 1", "shutting down", False),
    ],
)
def test_of_several_processes_the_one_with_a_reason_is_named_first(
    bench: Bench, ended: None, end: str, log: str, goes_first: bool, loser: str
) -> None:
    """One has lost the other, and ``loser`` says so; both have ended by the first look at them."""
    says = ("sh", "-c", 'echo "$0"; eval "$1"')
    lost, other = (*says, LOST, "exit 1"), (*says, log, end)
    order = (lost, other) if loser == "the master" else (other, lost)
    cause = failed(bench.evaluate(dict(zip(("command", "worker_command"), order, strict=True)), nodes=2))[1]
    causes = cause.split("; ")
    names = [f"{node}: {role} " for node, role in (("node0", "the master"), ("node1", "the worker"))]
    lost_name, other_name = names if loser == "the master" else names[::-1]
    assert [each.startswith(other_name if goes_first else lost_name) for each in causes] == [True, False]
    assert f"{lost_name}exited with code 1 while starting: {LOST}" in causes
    if "too long" in log:
        assert causes[0].endswith("xxx...") and len(causes[0].partition("starting: ")[2]) == node_module.LINE


def test_several_workers_have_numbers_and_what_they_all_say_is_quoted_once(bench: Bench, ended: None) -> None:
    """All of them have ended by the first look at them."""
    says = ("sh", "-c", 'echo "$0"; exit 1', "ValueError: no quorum")
    cause = failed(bench.evaluate({"command": says, "worker_command": says}, nodes=3))[1]
    how = "exited with code 1 while starting"
    assert cause == f"node1: worker 1 {how}: ValueError: no quorum; node2: worker 2 {how}; node0: the master {how}"


def test_a_worker_that_lives_on_is_asked_as_well_when_the_master_ends(bench: Bench) -> None:
    said = bench.folder / "said"
    memory = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"

    def evaluate(worker: str) -> tuple[str, str]:
        says = ("sh", "-c", 'echo "$0"; touch "$1"; exec sleep 1000', worker, str(said))
        wait = 'while [ ! -e "$0" ]; do sleep 0.01; done; echo "KeyError: 7"; exit 1'
        evaluation = bench.evaluate({"command": ("sh", "-c", wait, str(said)), "worker_command": says}, nodes=2)
        assert evaluation.failure
        return failed(evaluation)[1], evaluation.failure.detail

    master = "node0: the master exited with code 1 while starting: KeyError: 7"
    cause, detail = evaluate(memory)
    assert cause == f"node1: the worker says: {memory}; {master}"
    assert detail.splitlines() == ["--- the master on node0", "KeyError: 7", "--- the worker on node1", memory]
    assert evaluate("ValueError: no better") == (master, "KeyError: 7")


@pytest.mark.parametrize(
    ("master", "worker", "worker_first"),
    [
        ("[ERROR] maxSeqLen is too large", "ModuleNotFoundError: flash_attn", False),
        ("[ERROR] maxSeqLen is too large", "torch.OutOfMemoryError: no", True),
        ("EngineDeadError: see the root cause above", "ValueError: bad", True),
        ("(EngineCore pid=7) ERROR 11-28 08:00:01 [core.py:946] AssertionError", "KeyError: 'layers.0'", True),
        ("Scheduler hit an exception: AssertionError", "KeyError: 'layers.0'", True),
        ('INFO: 127.0.0.1:3 - "POST /v1/completions HTTP/1.1" 500 Internal Server Error', "ValueError: bad", True),
        (
            "ERROR 11-28 08:00:01 [core.py:700] EngineCore encountered a fatal error.\n"
            "RuntimeError: [/src/gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.2]:3772.",
            "ERROR 11-28 08:00:01 [executor.py:7] Worker proc W-1 died unexpectedly (exit code: -9), shutting down.",
            True,
        ),
    ],
)
def test_the_error_of_a_process_that_has_ended_is_told_before_what_one_that_lives_on_may_have_survived(
    bench: Bench, master: str, worker: str, worker_first: bool
) -> None:
    said = bench.folder / "said"
    says = ("sh", "-c", 'echo "$0"; touch "$1"; exec sleep 1000', worker, str(said))
    wait = 'while [ ! -e "$1" ]; do sleep 0.01; done; echo "$0"; exit 1'
    service = {"command": ("sh", "-c", wait, master, str(said)), "worker_command": says}
    causes = failed(bench.evaluate(service, nodes=2))[1].split("; ")
    told = unprefixed(worker)
    assert [cause.partition(" says: ")[2] for cause in causes] == ([told, ""] if worker_first else ["", told])


@pytest.mark.parametrize("change", ["begins", "ends"])
def test_a_service_whose_port_changes_hands_as_its_worker_dies_has_not_lost_it_to_another(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """It begins or ends to listen, by fault injection, right after whatever is asked first about the port."""
    dies, listens = bench.folder / "dies", bench.folder / "listens"
    wait = 'while [ ! -e "$0" ]; do sleep 0.01; done; '
    service = {
        **SPAN,
        "command": ("sh", "-c", wait + 'exec "$@"', str(listens), *SPAN["command"]),
        "worker_command": ("sh", "-c", wait + "exit 9", str(dies)),
        "health_command": ("false",),
    }
    asked = []

    def then_it_changes(question: Callable[..., Any]) -> Callable[..., Any]:
        def answer(*told: Any, **named: Any) -> Any:
            try:
                return question(*told, **named)
            finally:
                if dies.exists() and not asked:
                    port = next(each for each in told if isinstance(each, int))
                    asked.append(port)
                    if change == "begins":
                        listens.touch()
                        wait_until(lambda: ports.listeners(port))
                    for pid in filter(None, ports.listeners(port) if change == "ends" else ()):
                        os.kill(pid, signal.SIGKILL)
                        wait_until(lambda: not ports.listeners(port))

        return answer

    monkeypatch.setattr(LocalNode, "free_port", then_it_changes(LocalNode.free_port))
    monkeypatch.setattr(LocalNode, "listener_problem", then_it_changes(LocalNode.listener_problem))

    def let_it_die() -> None:
        wait_until(lambda: "starting" in bench.phases and len(bench.pids()) >= 2)
        if change == "ends":
            listens.touch()
            wait_until(bench.listens)
        dies.touch()

    thread = threading.Thread(target=let_it_die)
    thread.start()
    evaluation = bench.evaluate(service, LOAD, nodes=2)
    thread.join()
    assert asked
    assert failed(evaluation)[0] == "configuration"


def test_one_script_on_the_master_may_start_everything(bench: Bench) -> None:
    """The script starts a worker beside the service, as one that reaches the other nodes by itself would."""
    script = bench.folder / "start_service.sh"
    script.write_text(
        f'#!/bin/sh\n{sys.executable} {HERE}/tiny_service.py --node-rank 1 &\n{sys.executable} - "$2" <<END\n'
        "import json, os, sys\nsettings = json.load(open(sys.argv[1]))\nassert settings == {'tokens': 4}, settings\n"
        f"argv = ['{sys.executable}', '{HERE}/tiny_service.py', '--port', os.environ['MPIPSO_PORT']]\n"
        "os.execv(argv[0], argv)\nEND\n"
    )
    script.chmod(0o755)
    service = {"command": (str(script), "--config", "{config}"), "health_url": "http://{host}:{port}/health"}
    evaluation = bench.evaluate(service, nodes=2)
    assert evaluation.failure is None, evaluation.failure
    assert list(Path(bench.folder).glob("mpipso-*")) == []


# --- configuration files and update commands ---


def test_files_arrive_on_every_node_that_starts_something_and_are_applied_there(bench: Bench) -> None:
    content = json.dumps({"model": "tiny", "node_rank": "{node_rank}"})
    service: dict[str, Any] = {
        **SPAN,
        "config_file": {"content": content, "name": "conf/settings.json"},
        "update_command": ("cp", "{config}", "{work_dir}/applied-{node_rank}"),
        "worker_command": ("sh", "-c", "cat {config} {work_dir}/applied-1; sleep 1000"),
        "command": (*TINY, "--config", "{work_dir}/applied-0"),
    }
    evaluation = bench.evaluate(service, nodes=2)
    assert evaluation.failure is None, evaluation.failure
    assert json.loads(evaluation.files["service-config"]) == {"model": "tiny", "node_rank": 0}
    assert evaluation.files["service-1-node1.log"].count(b'"model": "tiny"') == 2
    assert evaluation.files["service-1-node1.log"].count(b'"node_rank": 1') == 2


KEEPS = """
for each in "$0"/* "$0"/.[!.]*; do [ ! -e "$each" ] || echo "found $(basename "$each")"; done
mkdir "$0/data"; touch "$0/data/1" "$0/.starts"; ln -s "$1" "$0/link"; shift; exec "$@"
"""
"""A service that keeps data in its work folder, and tells what it finds there."""


def test_each_start_finds_an_empty_work_folder_on_every_node(bench: Bench) -> None:
    elsewhere = bench.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    words = ("sh", "-c", KEEPS, "{work_dir}", str(elsewhere))
    service = {key: (*words, *SPAN[key]) for key in ("command", "worker_command")}
    group = bench.group(configuration(SPAN | service, ECHO), nodes=2)
    for number, attempt in ((1, 1), (1, 2), (2, 1)):
        evaluation = group.evaluate(Assignment(number, attempt, {"tokens": 4}), bench.cancel)
        assert evaluation.failure is None, evaluation.failure
        for log in ("service-0-node0.log", "service-1-node1.log"):
            found = [line for line in evaluation.files[log].splitlines() if line.startswith(b"found")]
            assert found == [b"found config.json"]
    assert [len(list(Path(node.work_dir).glob("*/link"))) for node in bench.nodes] == [1, 1], "the last ones"
    group.close()
    assert (elsewhere / "kept").exists()


def test_an_update_command_that_fails_ends_the_evaluation_with_its_output(bench: Bench) -> None:
    service = tiny(update_command=("sh", "-c", "echo it begins; echo no such key: tokens >&2; exit 4"))
    evaluation = bench.evaluate(service)
    # It may be the node's fault, and is tried on another group.
    told = "node0: update command sh ended with exit code 4: no such key: tokens"
    assert failed(evaluation) == ("measurement", told)
    assert evaluation.failure and evaluation.failure.detail == "it begins\nno such key: tokens"
    assert "starting" not in bench.phases


def test_every_command_of_a_node_has_the_environment_of_its_service(bench: Bench) -> None:
    note = 'env | grep "^MPIPSO_[NCP]\\|^WHERE\\|^TOKENS" | sort > "$1/$2-$0"'
    commands = {key: ("sh", "-c", note, "{node_rank}", str(bench.folder), key) for key in ("update", "stop", "health")}
    serve = ("sh", "-c", note + '; shift 2; exec "$@"', "{node_rank}", str(bench.folder), "serve")
    service = {
        "command": (*serve, *SPAN["command"]),
        "worker_command": (*serve, *SPAN["worker_command"]),
        "env": {"WHERE": "{config}"},
        **{f"{key}_command": words for key, words in commands.items()},
    }
    evaluation = bench.evaluate(service, nodes=2)
    assert evaluation.failure is None, evaluation.failure
    told = {path.name: path.read_text() for path in bench.folder.glob("*-?")}
    assert set(told) == {*(f"{key}-{rank}" for key in ("serve", "update", "stop") for rank in "01"), "health-0"}
    assert [set(told[f"{key}-0"].splitlines()) for key in ("update", "stop", "health")] == 3 * [
        set(told["serve-0"].splitlines())
    ]
    assert told["update-1"] == told["stop-1"] == told["serve-1"] != told["serve-0"]
    names = {line.partition("=")[0] for line in told["serve-0"].splitlines()}
    place = {f"MPIPSO_{name}" for name in ("NODE_RANK", "NODE_ADDRS", "NNODES", "CONFIG", "PORT")}
    assert names == {*place, "WHERE", "TOKENS"}


def test_an_update_command_has_a_limit(bench: Bench) -> None:
    service = tiny(update_command=("sleep", "1000"), start_timeout=0.5)
    assert failed(bench.evaluate(service))[1] == "node0: update command sleep took longer than 0.5 s"


# --- the benchmark ---


def test_a_client_that_fails_is_no_measurement(bench: Bench) -> None:
    broken = ECHO | {"command": ("sh", "-c", "echo half a result; echo no tokenizer >&2; exit 3")}
    evaluation = bench.evaluate(tiny(), broken)
    assert failed(evaluation) == ("measurement", "the benchmark client ended with exit code 3: no tokenizer")
    assert evaluation.failure and evaluation.failure.detail == "no tokenizer\nhalf a result"
    assert evaluation.files["benchmark.log"] == b"half a result\nno tokenizer\n"


@pytest.mark.parametrize(
    ("stdout", "stderr", "why"),
    [
        ("ValueError: no such model", "UserWarning: pkg_resources is deprecated", "ValueError: no such model"),
        ("fatal: no such model", "100 %", "fatal: no such model"),
        ("3 requests had an error", "OSError: no such file", "OSError: no such file"),
        ("OSError: survived", "OSError: no such file", "OSError: no such file"),
        ("half a result", "no tokenizer", "no tokenizer"),
        ("no tokenizer", " ", "no tokenizer"),
        ("Error rate: 0.00 %", "jq: command not found", "jq: command not found"),
        ("Error Set:", "Segmentation fault", "Segmentation fault"),
        ("socket error: 0", "unable to connect", "unable to connect"),
        ("ERROR summary: 0 errors", "cannot open post.lua", "cannot open post.lua"),
        ("error rate 3 percent", "cannot open post.lua", "cannot open post.lua"),
    ],
)
def test_the_stream_of_a_client_counts_that_says_best_why_it_ended(
    bench: Bench, stdout: str, stderr: str, why: str
) -> None:
    broken = ECHO | {"command": ("sh", "-c", f"echo '{stdout}'; echo '{stderr}' >&2; exit 3")}
    evaluation = bench.evaluate(tiny(), broken)
    assert failed(evaluation) == ("measurement", f"the benchmark client ended with exit code 3: {why}")
    assert evaluation.failure and evaluation.failure.detail.split("\n") == [stderr, stdout][not stderr.strip() :]


def test_a_result_of_an_earlier_run_is_not_read(bench: Bench) -> None:
    stale = bench.folder / "result.json"
    stale.write_text('{"x": 5}')
    evaluation = bench.evaluate(tiny(), ECHO | {"command": ("true",), "result_file": str(stale)})
    assert failed(evaluation)[1] == "the benchmark client did not update its result file result.json"
    assert "benchmark.json" not in evaluation.files
    fresh = ECHO | {"command": ("touch", str(bench.folder / "new.json")), "result_file": f"{bench.folder}/*.json"}
    assert re.match(
        "2 files match the result file .*: .*/new.json, .*/result.json$", failed(bench.evaluate(tiny(), fresh))[1]
    )


def test_each_request_is_kept_in_a_file_of_its_own(bench: Bench) -> None:
    """There is no limit to how large it may become: nobody reads it, and of a large one the end is kept."""
    evaluation = bench.evaluate(tiny(), {**LOAD, "save_requests": True})
    assert evaluation.failure is None, evaluation.failure
    assert "requests" not in json.loads(evaluation.files["benchmark.json"])
    requests = [json.loads(line) for line in evaluation.files["benchmark-2.jsonl"].splitlines()]
    assert [(each["output_tokens"], each["error"]) for each in requests] == 3 * [(2, "")]


DATED = """
folder="$0/$(date +%s%N)"; mkdir "$folder"; echo "{\\"x\\": $1}" > "$folder/out.json"; ls "$0" | wc -l
"""
"""Writes into a folder of its own choice below the one that it is given, and prints how many are there."""


def test_each_attempt_has_an_empty_folder_for_its_results(bench: Bench) -> None:
    command = ("sh", "-c", DATED, "{result_dir}", "{tokens}")
    dated = ECHO | {"command": command, "result_file": "{result_dir}/*/out.json"}
    group = bench.group(configuration(tiny(), dated))
    for number, attempt in ((1, 1), (1, 2), (2, 1)):
        evaluation = group.evaluate(Assignment(number, attempt, {"tokens": number + attempt}), bench.cancel)
        assert evaluation.failure is None, evaluation.failure
        assert evaluation.metrics == {"output_throughput": number + attempt}
        assert evaluation.files["benchmark.log"] == b"1\n"
        assert evaluation.files["benchmark.json"] == b'{"x": %d}\n' % (number + attempt)
        folder = Path(bench.nodes[0].work_dir) / f"benchmark-{number}-{attempt}"
        assert str(folder) in evaluation.files["benchmark-command.txt"].decode() and not folder.exists()
    group.close()


LOGGING = """
mkdir -p "$0/20261128/logs/infer" "$0/old" && cd "$0" && ln -s / root && mkfifo pipe.log && ln -s old/1.log link.log
for each in 1 2 3 4 5 6 7 8; do echo "$each" > "old/$each.log"; touch -d "2001-01-0$each" "old/$each.log"; done
head -c 300000 /dev/zero | tr '\\0' x > 20261128/logs/infer/a.out; echo why >> 20261128/logs/infer/a.out
: > empty.err; echo '{"x": 1}' > result.json; $1
"""


@pytest.mark.parametrize("end", ["exit 3", "true", "sleep 1000"])
def test_the_logs_of_a_benchmark_that_failed_are_kept(bench: Bench, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """AISBench and AIPerf say only there why they failed. The time runs, by this change, from when all is written."""
    wait = process.Kept.wait

    def once_written(keeper: process.Kept, *told: Any) -> int | None:
        if end.startswith("sleep"):
            wait_until(lambda: any(bench.folder.glob("*/benchmark-*/result.json")))
        return wait(keeper, *told)

    monkeypatch.setattr(process.Kept, "wait", once_written)
    benchmark = ECHO | {"command": ("sh", "-c", LOGGING, "{result_dir}", end), "timeout": 5.0}
    if end.startswith("sleep"):
        benchmark["timeout"] = 0.2
    evaluation = bench.evaluate(tiny(), benchmark | {"metrics": {"output_throughput": "y"}})
    assert failed(evaluation)[1].startswith("the benchmark")
    kept = {name: text for name, text in evaluation.files.items() if name.startswith("benchmark-logs/")}
    assert list(kept)[-1] == "benchmark-logs/20261128/logs/infer/a.out"
    last = kept.popitem()[1]
    assert len(last) == 64 * 1024 and last.endswith(b"xwhy\n")
    assert kept == {f"benchmark-logs/old/{each}.log": b"%d\n" % each for each in range(2, 9)}


def test_the_logs_of_a_benchmark_that_succeeded_are_not(bench: Bench) -> None:
    benchmark = ECHO | {"command": ("sh", "-c", LOGGING, "{result_dir}", "true")}
    evaluation = bench.evaluate(tiny(), benchmark | {"metrics": {"output_throughput": "x"}})
    assert evaluation.failure is None and not any("logs" in name for name in evaluation.files)


def test_a_folder_that_cannot_be_made_is_the_node_s_fault(bench: Bench) -> None:
    group = bench.group(configuration(tiny(), ECHO))
    (Path(bench.nodes[0].work_dir) / "benchmark-5-1").touch()
    kind, cause = failed(group.evaluate(Assignment(5, 1, {"tokens": 4}), bench.cancel))
    group.close()
    assert kind == "infrastructure"
    assert cause == f"node0: {bench.nodes[0].work_dir}/benchmark-5-1 cannot be made: File exists"


def test_the_benchmark_with_several_files_that_the_readme_shows(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    program = bench.folder / "bin" / "ais_bench"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {HERE / "ais_bench.py"} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.chdir(bench.folder)
    readme = (HERE.parents[1] / "README.md").read_text()
    (python,) = re.findall(r"(?s)```python\n(from mmengine.*?)```", readme)
    Path("aisbench.py").write_text(python)
    (block,) = [text for text in re.findall(r"(?s)```toml\n(.*?)```", readme) if "ais_bench" in text]
    benchmark = {key: tuple(v) if isinstance(v, list) else v for key, v in tomli.loads(block)["benchmark"].items()}
    evaluation = bench.evaluate(tiny(model="qwen"), benchmark)
    assert evaluation.failure is None, evaluation.failure
    assert evaluation.metrics == pytest.approx(
        {
            "completed": 256,
            "failed": 0,
            "duration": 13.0135,
            "request_throughput": 19.6719,
            "output_throughput": 2518.03,
            "total_throughput": 22662.2,
            "ttft_mean_ms": 412.25,
            "ttft_p99_ms": 824.5,
            "tpot_mean_ms": 21.5,
            "tpot_p99_ms": 43.0,
            "e2e_p99_ms": 6201.0,
        }
    )
    assert b"Benchmark Duration" in evaluation.files["benchmark.json"]
    assert evaluation.files["benchmark-2.csv"].startswith(b"Performance Parameters,Stage,Average")


def test_the_files_of_an_evaluation_tell_everything(bench: Bench) -> None:
    script = 'echo measuring; echo \'{"a": [{"b": 2.5}]}\' > "$0"'
    benchmark = ECHO | {"command": ("sh", "-c", script, "{result}")}
    evaluation = bench.evaluate(tiny(), benchmark | {"metrics": {"output_throughput": "a.0.b"}}, number=12)
    assert evaluation.failure is None
    assert (evaluation.number, evaluation.attempt, evaluation.group) == (12, 1, 7)
    assert evaluation.metrics == {"output_throughput": 2.5}
    assert 0 < evaluation.seconds <= bench.seconds
    command = evaluation.files["command.txt"].decode()
    assert command.startswith("# node0, node rank 0\n") and "export TOKENS=4\n" in command
    assert "tiny_service.py --port" in command
    assert evaluation.files["benchmark.log"] == b"measuring\n"
    assert json.loads(evaluation.files["benchmark.json"]) == {"a": [{"b": 2.5}]}
    assert evaluation.files["benchmark-command.txt"].startswith(b"sh -c ")
    assert evaluation.files["service-0-node0.log"] == b"ready\n"


# --- the check of answers ---


ASK = """
import json, sys, urllib.request
body = json.dumps({"prompt": "a", "max_tokens": 2}).encode()
answer = urllib.request.urlopen(urllib.request.Request(f"{sys.argv[1]}/v1/completions", body)).read().decode()
print("answered", answer)
json.dump({"acc": -0.5 if " bak" in answer else 1}, open(sys.argv[2], "w"))
"""
"""Has a completion answered, and writes a result."""
CHECK = {"command": (sys.executable, "-c", ASK, "{base_url}", "{result}")}


def test_the_answers_are_checked_after_the_benchmark_on_the_same_service(bench: Bench) -> None:
    evaluation = bench.evaluate(tiny(), LOAD, quality=CHECK, number=12)
    assert evaluation.failure is None, evaluation.failure
    assert evaluation.metrics["completed"] == 3 and evaluation.metrics["accuracy"] == -0.5
    assert evaluation.files["service-0-node0.log"] == b"ready\n", "it was started once"
    assert evaluation.files["quality.log"].startswith(b"answered ")
    assert json.loads(evaluation.files["quality.json"]) == {"acc": -0.5}
    assert b"output_throughput" in evaluation.files["benchmark.json"]
    folder = Path(bench.nodes[0].work_dir) / "quality-12-1"
    assert f"{folder}/result.json" in evaluation.files["quality-command.txt"].decode() and not folder.exists()
    assert bench.phases == ["configuring", "starting", "measuring", "stopping"]
    assert bench.waits[-1] == "quality"


def test_answers_are_checked_once_after_all_loads_of_a_sweep(bench: Bench) -> None:
    sweep = ECHO | {"command": ("sh", "-c", 'echo "{\\"x\\": $0}"', "{concurrency}"), "concurrency": (4, 16, 32)}
    script = 'echo checked >> "$0"; echo "{\\"acc\\": 0.75}"'
    log = bench.folder / "checks"
    evaluation = bench.evaluate(tiny(), sweep, quality={"command": ("sh", "-c", script, str(log))})
    assert evaluation.metrics == {"output_throughput": 32, "concurrency": 32, "accuracy": 0.75}
    assert log.read_text() == "checked\n" and evaluation.files["quality.log"] == b'{"acc": 0.75}\n'
    assert bench.waits[-4:] == ["concurrency 4", "concurrency 16", "concurrency 32", "quality"]


def test_answers_are_not_checked_where_nothing_was_measured(bench: Bench) -> None:
    evaluation = bench.evaluate(tiny(), ECHO | {"command": ("false",)}, quality=CHECK)
    assert failed(evaluation) == ("measurement", "the benchmark client ended with exit code 1: its log is empty")
    assert not any("quality" in name for name in (*evaluation.files, *bench.waits))


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        ("echo half way; echo no dataset >&2; exit 3", "the quality check client ended with exit code 3: no dataset"),
        ("echo half way", "the quality check command wrote no {result} and printed no JSON"),
        ("echo '{\"other\": 1}'", "the quality check's result has no 'acc'; it has other"),
        ("echo '{\"acc\": NaN}'", "the quality check's 'acc' is nan, not a finite number"),
        ('echo \'{"acc": "good"}\'', "the quality check's 'acc' is 'good', not a finite number"),
        ('echo acc > "$0"', "the quality check client's result file result.json holds no JSON"),
    ],
)
def test_a_check_that_fails_is_no_measurement(bench: Bench, script: str, cause: str) -> None:
    evaluation = bench.evaluate(tiny(), quality={"command": ("sh", "-c", script, "{result}")})
    kind, told = failed(evaluation)
    assert (kind, told.replace("did you mean", "it has")) == ("measurement", cause)


def test_a_check_that_fails_keeps_what_it_wrote_beside_what_the_benchmark_did(bench: Bench) -> None:
    script = 'echo half way; echo \'{"acc": 1}\' > "$0"; echo why > "$1/a.log"; exit 1'
    evaluation = bench.evaluate(tiny(), quality={"command": ("sh", "-c", script, "{result}", "{result_dir}")})
    assert failed(evaluation)[0] == "measurement"
    kept = {name: text for name, text in evaluation.files.items() if name.startswith(("benchmark", "quality"))}
    assert kept.pop("quality-command.txt").startswith(b"sh -c ")
    assert kept.pop("benchmark-command.txt").startswith(b"echo ")
    assert kept == {
        "benchmark.log": b'{"x": 1}\n',
        "quality.log": b"half way\n",
        "quality.json": b'{"acc": 1}\n',
        "quality-logs/a.log": b"why\n",
    }


def test_a_check_has_a_limit_of_its_own(bench: Bench) -> None:
    evaluation = bench.evaluate(tiny(), quality={"command": ("sleep", "1000"), "timeout": 0.2})
    assert failed(evaluation) == ("configuration", "the quality check took longer than 0.2 s")


def test_a_service_that_ends_while_its_answers_are_checked_has_failed(bench: Bench) -> None:
    # The benchmark's first request, its warm-up and three more are answered, and the next one is not.
    evaluation = bench.evaluate(hostile("crash", "--requests", "5"), LOAD, quality=CHECK)
    cause = "node0: the service exited with code 7 during the quality check: fatal: the engine is on fire"
    assert failed(evaluation) == ("configuration", cause)
    assert b"output_throughput" in evaluation.files["benchmark.json"]


def test_a_service_that_ends_when_told_to_was_not_killed(bench: Bench) -> None:
    assert not bench.evaluate(tiny(stop_grace=20.0)).killed


def test_nor_is_it_held_against_a_service_that_has_failed(bench: Bench) -> None:
    evaluation = bench.evaluate(hostile("stubborn"), ECHO | {"command": ("false",)})
    assert evaluation.failure is not None and not evaluation.killed


def test_a_failed_benchmark_keeps_what_it_wrote(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of the benchmark runs, by this change, from when all is written."""
    written = bench.folder / "written"
    wait = process.Kept.wait

    def once_written(keeper: process.Kept, *told: Any) -> int | None:
        wait_until(written.exists)
        return wait(keeper, *told)

    monkeypatch.setattr(process.Kept, "wait", once_written)
    script = 'echo half way; echo \'{"a": 1}\' > "$0"; touch "$1"; sleep 1000'
    benchmark = ECHO | {"command": ("sh", "-c", script, "{result}", str(written)), "timeout": 0.2}
    evaluation = bench.evaluate(tiny(), benchmark | {"metrics": {"output_throughput": "a"}})
    assert failed(evaluation) == ("configuration", "the benchmark took longer than 0.2 s")
    assert evaluation.files["benchmark.log"] == b"half way\n"
    assert evaluation.files["benchmark.json"] == b'{"a": 1}\n'
    assert evaluation.files["service-0-node0.log"] == b"ready\n"


def test_a_secret_is_not_in_the_file_that_tells_the_command_however_short_it_is(bench: Bench) -> None:
    given = ("env", "A_PASSWORD=hunt5", "sh", "-c", 'shift; exec "$@"', "--password", "hunt5", *TINY)
    evaluation = bench.evaluate(tiny() | {"command": given, "env": {"DB_PASSWORD": "hunt5"}})
    assert evaluation.failure is None
    command = evaluation.files["command.txt"].decode()
    assert "hunt5" not in command and "\nexport DB_PASSWORD='***'\n" in command


def test_of_a_long_log_the_end_is_kept(bench: Bench) -> None:
    flood = ("sh", "-c", 'yes 0123456789 | head -c 400000; echo the end; exec "$@"', "sh", *TINY)
    evaluation = bench.evaluate(tiny() | {"command": flood})
    log = evaluation.files["service-0-node0.log"]
    assert 256 * 1024 - 100 < len(log) <= 256 * 1024 and log.endswith(b"the end\nready\n")
    mark, _, kept = log.partition(b"\n")
    assert mark.decode() == f"[... {400_014 - len(kept)} bytes left out ...]"
    assert kept.startswith(b"0123456789\n"), "a whole line"


def test_of_a_log_that_is_a_single_line_the_end_is_kept_too(bench: Bench) -> None:
    flood = ("sh", "-c", 'head -c 400000 /dev/zero | tr "\\0" x; exec "$@"', "sh", *TINY)
    log = bench.evaluate(tiny() | {"command": flood}).files["service-0-node0.log"]
    assert 256 * 1024 - 100 < len(log) <= 256 * 1024
    assert re.fullmatch(rb"\[\.\.\. \d+ bytes left out \.\.\.\]\nx+ready\n", log)


def test_a_group_measures_one_configuration_after_the_other(bench: Bench) -> None:
    group = bench.group(configuration(tiny(), ECHO))
    evaluations = [group.evaluate(Assignment(n, 1, {"tokens": n}), bench.cancel) for n in (1, 2)]
    assert [each.failure for each in evaluations] == [None, None]
    assert [b"TOKENS=%d" % n in each.files["command.txt"] for n, each in enumerate(evaluations, 1)] == [True, True]
    assert evaluations[1].files["service-0-node0.log"] == b"ready\n"
    group.close()


# --- cancelling ---


@pytest.mark.parametrize("step", ["update", "health", "probe", "benchmark", "stop"])
def test_cancelling_ends_every_step_within_its_short_grace(
    bench: Bench, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service ignores TERM and has an hour of grace; nothing of it is used."""
    monkeypatch.setattr(group_module, "CANCEL_GRACE", 0.3)
    patient: dict[str, Any] = {"stop_grace": 3600.0, "start_timeout": 3600.0}
    benchmark: dict[str, Any] = LOAD
    flag = bench.folder / "flag"

    def under_way() -> object:
        match step:
            case "health":
                return bench.waits
            case "probe":
                return any(b"frozen" in log.read_bytes() for log in bench.folder.glob("*/service-0-node0.log"))
        return flag.exists()

    match step:
        case "update":
            service = tiny(update_command=("sh", "-c", 'touch "$0"; sleep 3600', str(flag)), **patient)
        case "health":
            service = tiny() | {"command": ("sleep", "3600"), **patient}
        case "probe":
            service = hostile("freeze", "--requests", "0") | patient
        case "benchmark":
            service = hostile("stubborn") | patient
            half = ("sh", "-c", 'echo half way; touch "$0"; sleep 3600', str(flag))
            benchmark = ECHO | {"command": half, "timeout": 3600.0}
        case _:
            # The shell outlives TERM, and its sleeps do not, so that it hears of it at once.
            deaf = ("sh", "-c", 'trap \'touch "$0"\' TERM; "$@" & while :; do sleep 1; done', str(flag), *TINY)
            service = tiny() | {"command": deaf, **patient}
    cancelled: list[float] = []

    def cancel() -> None:
        wait_until(under_way)
        cancelled.append(time.monotonic())
        bench.cancel.set()

    thread = threading.Thread(target=cancel)
    thread.start()
    evaluation = bench.evaluate(service, benchmark)
    thread.join()
    assert time.monotonic() - cancelled[0] < 10.0
    if step != "stop":
        assert failed(evaluation) == ("cancelled", "cancelled")
    else:
        assert evaluation.failure is None, "it had been measured"
    if step == "benchmark":
        assert evaluation.files["benchmark.log"] == b"half way\n"
        assert evaluation.files["service-0-node0.log"] == b"ready\n"


def test_an_evaluation_that_exceeds_its_budget_is_given_up_and_counts_as_failed(bench: Bench) -> None:
    made = bench.group(configuration(tiny() | {"command": ("sleep", "3600")}, ECHO, {"evaluation_timeout": 1.0}))
    evaluation = made.evaluate(Assignment(3, 1, {"tokens": 4}), bench.cancel)
    made.close()
    assert failed(evaluation) == ("configuration", "it took longer than 1 s in all")
    assert bench.left() == []
