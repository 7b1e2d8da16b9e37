"""What a local node does by itself: environments, cores and devices of its children, its ports and listeners."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bed.job import wait_until
from faults.disk import fill, small_disk

from mpipso.errors import EvaluationFailed
from mpipso.service import local as local_module
from mpipso.service import ports
from mpipso.service.local import LocalNode
from mpipso.service.node import Share

TELL = (
    "import json, os; print(json.dumps({'env': dict(os.environ), 'cores': sorted(os.sched_getaffinity(0)),"
    " 'cwd': os.getcwd()}), flush=True)"
)
NOBODY = 65534
LAUNCHER = {
    "OMPI_COMM_WORLD_RANK": "0",
    "PMIX_RANK": "0",
    "PMI_RANK": "0",
    "HYDI_CONTROL_FD": "3",
    "SLURM_PROCID": "0",
    "RANK": "0",
    "WORLD_SIZE": "8",
    "MASTER_ADDR": "x",
    "MPIPSO_MARK": "of another",
}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., LocalNode]]:
    made: list[LocalNode] = []

    def local(**options: Any) -> LocalNode:
        made.append(LocalNode(Share("node0", **options), str(tmp_path)))
        return made[-1]

    yield local
    for each in made:
        each.close()


def told(node: LocalNode, env: dict[str, str], how: str) -> dict[str, Any]:
    command = [sys.executable, "-c", TELL]
    if how == "execute":
        return dict(json.loads(node.execute(command, 20, env=env).stdout))
    handle = node.start_service(command, env, log="log", grace=0.2)
    wait_until(lambda: node.poll_service(handle) is not None)
    node.stop_service(handle)
    return dict(json.loads(node.read_chunk("log", 0, 100_000)))


@pytest.mark.parametrize("how", ["execute", "start_service"])
def test_a_child_has_a_clean_environment_its_devices_and_its_cores(
    make: Callable[..., LocalNode], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in LAUNCHER.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    monkeypatch.setenv("HF_HOME", "/models")
    core = min(os.sched_getaffinity(0))
    node = make(devices=(2, 3), device_variable="CUDA_VISIBLE_DEVICES", cores=(core,))
    child = told(node, {"MASTER_PORT": "29500", "NEW": "x"}, how)
    assert child["env"]["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert child["env"]["HF_HOME"] == "/models"
    assert (child["env"]["NEW"], child["env"]["MASTER_PORT"]) == ("x", "29500")
    assert child["env"].pop("MPIPSO_MARK") != LAUNCHER["MPIPSO_MARK"]
    assert not set(LAUNCHER) & set(child["env"])
    assert child["cores"] == [core]
    assert child["cwd"] == str(Path.cwd())


@pytest.mark.parametrize("how", ["execute", "start_service"])
def test_the_binding_of_a_rank_is_not_inherited(make: Callable[..., LocalNode], how: str) -> None:
    everything = os.sched_getaffinity(0)
    if len(everything) < 2:
        pytest.skip("needs two cores")
    child: list[dict[str, Any]] = []

    def as_a_bound_rank() -> None:
        os.sched_setaffinity(0, {min(everything)})  # of this thread alone
        child.append(told(make(), {}, how))

    thread = threading.Thread(target=as_a_bound_rank)
    thread.start()
    thread.join()
    assert set(child[0]["cores"]) >= everything


def test_a_value_of_the_service_goes_before_the_node_s_own(make: Callable[..., LocalNode]) -> None:
    node = make(devices=(2, 3), device_variable="CUDA_VISIBLE_DEVICES")
    assert told(node, {"CUDA_VISIBLE_DEVICES": "3"}, "execute")["env"]["CUDA_VISIBLE_DEVICES"] == "3"


def test_without_devices_nothing_is_said_about_them(
    make: Callable[..., LocalNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "CUDA_VISIBLE_DEVICES" not in told(make(device_variable="CUDA_VISIBLE_DEVICES"), {}, "execute")["env"]


def test_failures_carry_the_node_s_name(make: Callable[..., LocalNode]) -> None:
    node = make()
    calls: list[Callable[[], object]] = [
        lambda: node.execute(["/no/such"], 5),
        lambda: node.start_service(["/no/such"], {}, log="log", grace=0.1),
        lambda: node.read_chunk("missing", 0, 1),
        lambda: node.log_size("missing"),
        lambda: node.log_text("missing", -1, 1),
        lambda: node.start_service(["true"], {}, log="/proc/no/log", grace=0.1),
    ]
    for call in calls:
        with pytest.raises(EvaluationFailed, match=r"^node0: ") as error:
            call()
        assert error.value.kind == "infrastructure"


def test_a_log_begins_anew_with_every_start(make: Callable[..., LocalNode]) -> None:
    node = make()

    def run(word: str) -> None:
        handle = node.start_service(["echo", word], {}, log="log", grace=0.1)
        wait_until(lambda: node.poll_service(handle) is not None)
        node.stop_service(handle)

    run("first")
    run("second")
    assert node.read_chunk("log", 0, 100) == b"second\n"


def test_a_port_is_free_or_its_holder_is_named(make: Callable[..., LocalNode]) -> None:
    node = make()
    free = node.free_port(0)
    assert node.free_port(free) == free
    assert node.free_port(0, [free]) != free
    with socket.create_server(("127.0.0.1", free)):
        with pytest.raises(EvaluationFailed, match=rf"^node0: port {free} is in use by pid {os.getpid()} \("):
            node.free_port(free)
        assert node.free_port(0) != free
    with pytest.raises(EvaluationFailed, match=r"^node0: no free port$"):
        node.free_port(0, range(1, 65536))


@pytest.mark.parametrize(("again", "held"), [([], False), ([None], True)])
def test_a_socket_whose_process_is_not_seen_is_looked_for_again(
    again: list[None], held: bool, make: Callable[..., LocalNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket that is opened while processes are looked through seems to belong to none; that moment is injected."""
    node, looks = make(), iter([[None], again])
    monkeypatch.setattr(ports, "listeners", lambda port: next(looks))
    monkeypatch.setattr(ports, "port_holder", lambda port, exclude: "another user's process")
    with pytest.raises(EvaluationFailed, match="is in use by another") if held else contextlib.nullcontext():
        assert node.free_port(9) == 9


def test_a_port_whose_holder_goes_while_it_is_looked_for_is_free(
    make: Callable[..., LocalNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make()
    port = node.free_port(0)
    idle = node.start_service(["sleep", "1000"], {}, log="idle", grace=0.1)
    look = ports.port_holder
    holders: list[socket.socket] = []

    def goes_before_the_look(port: int, exclude: set[int | None]) -> str:
        holders.pop().close()
        return look(port, exclude)

    monkeypatch.setattr(ports, "port_holder", goes_before_the_look)
    holders.append(socket.create_server(("127.0.0.1", port)))
    assert node.free_port(port) == port
    holders.append(socket.create_server(("127.0.0.1", port)))
    assert node.listener_problem(idle, port) == f"nothing listens on port {port}"
    assert not holders, "it was looked for"


LISTEN = "import socket, sys, time; s = socket.create_server(('', int(sys.argv[1])), reuse_port=True); time.sleep(1000)"


def test_a_listener_is_the_service_s_own_or_its_owner_is_named(make: Callable[..., LocalNode]) -> None:
    node = make()
    port = node.free_port(0)
    idle = node.start_service(["sleep", "1000"], {}, log="idle", grace=0.1)
    assert node.listener_problem(idle, port) == f"nothing listens on port {port}"
    # Below a shell, in a session of its own.
    command = ["sh", "-c", 'setsid "$@" & wait', "sh", sys.executable, "-c", LISTEN, str(port)]
    serving = node.start_service(command, {}, log="serving", grace=0.1)
    wait_until(lambda: ports.listeners(port))
    assert node.listener_problem(serving, port) is None
    problem = node.listener_problem(idle, port)
    assert problem and "not to the service that was started" in problem
    # Two may share a port, and then either gets some of the requests.
    with socket.create_server(("", port), reuse_port=True):
        (own,) = set(ports.listeners(port)) - {os.getpid()}
        problem = node.listener_problem(serving, port)
        assert problem and f"pid {os.getpid()} (" in problem
        assert f"pid {own} " not in problem, "the service's own process holds it rightly"
        with pytest.raises(EvaluationFailed, match=rf"port {port} is in use by pid {os.getpid()} \([^)]*\)$"):
            node.free_port(port, owner=serving)
    assert node.listener_problem(serving, port) is None


CAP_SYS_PTRACE = 19


@contextlib.contextmanager
def without_a_look_into_others() -> Iterator[None]:
    """This thread has no CAP_SYS_PTRACE, as that of a user who is not root; capget(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    version, had = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(version, had) == 0
    fewer = (ctypes.c_uint32 * 6)(*had)
    fewer[0] &= ~(1 << CAP_SYS_PTRACE)  # of those in effect
    assert libc.capset(version, fewer) == 0
    try:
        yield
    finally:
        assert libc.capset(version, had) == 0


def test_a_listener_that_only_root_could_see_may_be_the_service_s_own(
    make: Callable[..., LocalNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a program with file capabilities. That it is of another user is a fake."""
    node = make()
    port = node.free_port(0)
    closed = "import ctypes; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0); "
    serving = node.start_service([sys.executable, "-c", closed + LISTEN, str(port)], {}, log="serving", grace=0.1)
    wait_until(lambda: ports.listeners(port))
    with without_a_look_into_others():
        assert ports.listeners(port) == [None]
        assert node.listener_problem(serving, port) is None
        assert node.free_port(port, owner=serving) == port
        with pytest.raises(EvaluationFailed, match="is in use by a process of another user"):
            node.free_port(port)
        monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
        problem = node.listener_problem(serving, port)
        assert problem and "belongs to a process of another user, not to the service" in problem


def test_a_second_stop_hurries_the_first(make: Callable[..., LocalNode]) -> None:
    node = make()
    stubborn = (
        "import signal, time; signal.signal(15, lambda *_: print('TERM', flush=True))\n"
        "print('ready', flush=True)\nwhile True: time.sleep(1)"
    )
    handle = node.start_service([sys.executable, "-c", stubborn], {}, log="log", grace=3600)
    keeper = node._services[handle].keeper
    wait_until(lambda: b"ready\n" in node.read_chunk("log", 0, 100))
    with ThreadPoolExecutor() as pool:
        first = pool.submit(node.stop_service, handle)
        wait_until(lambda: b"TERM\n" in node.read_chunk("log", 0, 100))
        assert not first.done()
        assert node.poll_service(handle) is None
        assert node.stop_service(handle, 0.1) == ([], 1)
        assert keeper._process.returncode == 0, "it was asked, not killed when the time was up"
        assert first.result(20) == ([], 1)
    assert node.stop_service(handle) == ([], 0)


def test_closing_ends_what_still_runs_and_removes_the_folder(
    make: Callable[..., LocalNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_module, "CLOSE_GRACE", 0.1)
    node = make()
    handles = [node.start_service(["sleep", "1000"], {}, log=f"log{n}", grace=3600) for n in (1, 2)]
    pids = [pid for handle in handles for pid in node._services[handle].keeper.pids()]
    assert len(pids) == 2
    node.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not Path(node.work_dir).exists()


def test_so_does_the_keeper_of_a_service_whose_rank_was_killed(tmp_path: Path) -> None:
    rank = (
        "import os, sys; from mpipso.service.local import LocalNode, Share; node = LocalNode(Share('n'), sys.argv[1])\n"
        "node.write_chunk('config.json', 0, b'{}')\n"
        "node.start_service(['sleep', '1000'], {}, log='service.log', grace=1.0)\n"
        "print(node.work_dir, *os.listdir(node.work_dir), flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", rank, str(tmp_path)], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    folder, *files = done.stdout.split()
    assert Path(folder).parent == tmp_path
    assert "service.log" in files, "there was something to remove"
    wait_until(lambda: not list(tmp_path.iterdir()))


def test_a_service_that_drops_its_rights_reaches_its_folder_and_nothing_else(tmp_path: Path) -> None:
    with contextlib.closing(LocalNode(Share("node0"), work_dir=str(tmp_path))) as node:
        own = Path(node.start_folder())
        handle = node.start_service(["true"], {}, log="service.log", grace=0.1)
        with node.new_folder("benchmark"):
            modes = {path.name: path.stat().st_mode & 0o077 for path in Path(node.work_dir).iterdir()}
        node.stop_service(handle)
        assert Path(node.work_dir).stat().st_mode & 0o777 == 0o711
        assert {modes[name] for name in (own.name, "service.log", "benchmark")} == {0}
        if os.geteuid() != 0:
            pytest.skip("only root can drop its rights")
        os.chown(own, NOBODY, NOBODY)
        # The folders of pytest are for their owner alone; that of the node is tried from within.
        tried = ["sh", "-c", f"echo 1 >{own.name}/data; cat service.log || echo refused"]
        done = subprocess.run(
            tried,
            cwd=node.work_dir,
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (own / "data").read_text() == "1\n" and done.stdout == "refused\n"


def test_a_work_folder_that_cannot_be_made_is_told() -> None:
    with pytest.raises(EvaluationFailed, match=r"^node0: work_dir /proc/no.* cannot be made: "):
        LocalNode(Share("node0"), work_dir="/proc/no/where")


def test_a_work_folder_is_made_but_not_what_it_is_in(tmp_path: Path) -> None:
    LocalNode(Share("node0"), work_dir=str(tmp_path / "work")).close()
    assert (tmp_path / "work").is_dir()
    with pytest.raises(EvaluationFailed, match=r"/slip/work cannot be made: No such file or directory$"):
        LocalNode(Share("node0"), work_dir=str(tmp_path / "slip" / "work"))
    assert not (tmp_path / "slip").exists()


def test_the_key_that_the_client_sends_is_a_secret_whatever_its_variable_is_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LLM_LOGIN", "sk-123456")
    plain, told = LocalNode(Share("node7")), LocalNode(Share("node7"), api_key_env="LLM_LOGIN")
    for node, line in ((plain, b"key sk-123456\n"), (told, b"key ***\n")):
        node.write_file("log", b"key sk-123456\n")
        assert node.log_text("log", 0, 100) == line
        node.close()


def test_each_part_of_a_log_begins_with_a_line_and_lacks_the_secrets_of_this_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_123456")
    node = LocalNode(Share("node7"))
    node.write_file("log", b"hf_123456\n" * 20)
    assert node.log_size("log") == 200
    assert node.log_text("log", 0, 200) == node.log_text("log", -200, 200) == b"***\n" * 20
    assert node.log_text("log", -100, 100) == b"[... 170 bytes left out ...]\n" + b"***\n" * 3
    assert node.log_text("log", 150, 200) == b"[... 150 bytes left out ...]\n" + b"***\n" * 5
    assert node.log_text("log", 145, 200) == b"[... 150 bytes left out ...]\n" + b"***\n" * 5
    assert node.log_text("log", 300, 200) == b"[... 200 bytes left out ...]\n"
    node.write_file("log", b"".join(b"line %03d\n" % number for number in range(100)))
    begin, end = b"line 010\nline 011\n", b"line 098\nline 099\n"
    told = b"[... 90 bytes left out ...]\n" + begin + b"[... 774 bytes left out ...]\n" + end
    assert node.log_text("log", 90, 170) == told
    node.write_file("log", b"x" * 900)
    assert node.log_text("log", 0, 170) == b"x" * 21 + b"\n[... 858 bytes left out ...]\n" + b"x" * 21
    node.close()


def test_the_folder_of_a_process_that_was_killed_is_removed_by_the_next_one(tmp_path: Path) -> None:
    code = "import time; from mpipso.service.local import LocalNode, Share; "
    code += f"n = LocalNode(Share('a'), {str(tmp_path)!r}); print(n.work_dir, flush=True); time.sleep(1000)"
    others = [tmp_path / "mpipso-runs", tmp_path / "mpipso-elsewhere", tmp_path / "mpipso-link"]
    for folder, boot in zip(others[:2], ("", "another"), strict=True):
        folder.mkdir()
        (folder / (".owner" if boot else "journal.jsonl")).write_text(boot)
    others[2].symlink_to(others[1])
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        left = Path(killed.stdout.readline().strip())
        first = LocalNode(Share("node7"), work_dir=str(tmp_path))
        assert left.is_dir(), "its owner is alive"
        killed.kill()
    second = LocalNode(Share("node7"), work_dir=str(tmp_path))
    try:
        assert sorted(tmp_path.iterdir()) == sorted([*others, Path(first.work_dir), Path(second.work_dir)])
    finally:
        first.close()
        second.close()


def test_a_service_that_ends_on_a_full_disk_says_nothing_about_its_configuration(tmp_path: Path) -> None:
    """Its log is empty, as that could not be written either."""
    with small_disk(tmp_path / "disk", 256):
        node = LocalNode(Share("node0"), work_dir=str(tmp_path / "disk"))
        fill(tmp_path / "disk" / "filler")
        handle = node.start_service([sys.executable, "-c", "print('a reason')"], {}, log="log", grace=0.2)

        with pytest.raises(EvaluationFailed) as told:
            wait_until(lambda: node.poll_service(handle) is not None, 30, "the end")
        assert told.value.kind == "infrastructure"
        assert told.value.cause.startswith("node0: the service ended where ")
        assert told.value.cause.endswith(" cannot be written: No space left on device")
        (tmp_path / "disk" / "filler").unlink()
        assert node.poll_service(handle), "what it ended with"
        node.close()


def test_what_the_system_refuses_to_a_rank_is_told_as_the_node_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = tmp_path / "start"
    start.mkdir()
    node = LocalNode(Share("here"))
    monkeypatch.chdir(start)
    start.rmdir()
    try:
        with pytest.raises(EvaluationFailed, match=r"here: .*No such file or directory") as failed:
            node.execute(["true"], 10.0)
    finally:
        monkeypatch.undo()
        node.close()
    assert failed.value.kind == "infrastructure"
