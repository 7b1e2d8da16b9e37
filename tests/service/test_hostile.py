"""The hostile service under a keeper: whatever it does, and whoever is killed, nothing of it is left.

Each case runs MPIPSO_REPEAT times (1 unless set).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bed.job import wait_until

from mpipso.errors import Cancelled
from mpipso.service import keeper as proc
from mpipso.service import ports, process
from mpipso.service.environment import scrubbed_environment
from mpipso.service.process import Kept

HOSTILE = Path(__file__).with_name("hostile.py")
SERVING = ["good", "stubborn", "daemon", "early", "crash", "hang", "respawn", "retitled"]
WITHIN = 5.0  # seconds in which nothing may be left after a kill -9

pytestmark = pytest.mark.parametrize("trial", range(int(os.environ.get("MPIPSO_REPEAT", "1"))))


class Start:
    """One start of the hostile service, and what to look for afterwards."""

    def __init__(self, folder: Path) -> None:
        self.port = ports.free_port()
        self.shm = f"mpipso-test-{os.getpid()}-{self.port}"
        self.log = folder / "service.log"
        self.seen: dict[int, proc.Process] = {}
        self.mark = ""

    def argv(self, mode: str, *more: str) -> list[str]:
        return [sys.executable, str(HOSTILE), mode, "--port", str(self.port), "--shm", self.shm, *more]

    def keep(self, mode: str, *more: str, grace: float = 0.3, ready: bool = True) -> Kept:
        environment = scrubbed_environment(os.environ)
        keeper = Kept.start(self.argv(mode, *more), env=environment, cwd=None, log=self.log, cores=None, grace=grace)
        self.mark = keeper.mark
        if ready:
            self.wait_ready()
            self.note(keeper.pids())
        return keeper

    def wait_ready(self) -> None:
        wait_until(lambda: self.log.exists() and "ready" in self.log.read_text(errors="replace")[:10_000])

    def note(self, pids: list[int]) -> None:
        """Remember these very processes: a pid alone may soon be another's."""
        table = proc.processes()
        self.seen |= {pid: table[pid] for pid in pids if pid in table}

    def segments(self) -> list[int]:
        text = self.log.read_text(errors="replace")[:10_000] if self.log.exists() else ""
        return [int(number) for number in re.findall(r"segment (\d+)", text)]

    def left(self) -> list[object]:
        """Every trace of this start that can still be found."""
        table = proc.processes()
        return [
            *proc.marked(self.mark, table),
            *(each for each in self.seen.values() if table.get(each.pid, each) == each and each.pid in table),
            *ports.listeners(self.port),
            *Path("/dev/shm").glob(f"*{self.shm}*"),
            *(number for number in self.segments() if number in proc.segments()),
        ]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    begun = Start(tmp_path)
    yield begun
    if begun.mark:
        process.sweep(begun.mark)


def knows_shm(keeper: Kept) -> bool:
    """Whether it has noted all kinds: what lives for less than one look is not known."""
    return len(keeper._known["shm"]) == 3


def post(port: int) -> int:
    """The status of one completion."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", data=b"{}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as problem:
        return problem.code


@pytest.mark.parametrize("mode", SERVING)
def test_nothing_is_left_after_a_stop(start: Start, mode: str, trial: int) -> None:
    keeper = start.keep(mode)
    wait_until(lambda: ports.listeners(start.port))
    assert set(ports.listeners(start.port)) <= set(keeper.pids())
    gone = keeper.stop()
    assert gone.survivors == ()
    assert gone.killed == 0 if mode in ("good", "early", "crash", "hang") else gone.killed > 0
    assert start.left() == []
    assert ports.port_is_free(start.port)
    assert keeper.poll() is not None
    assert keeper.stop() == gone


def test_workers_whose_leader_has_ended_are_ended(start: Start, trial: int) -> None:
    keeper = start.keep("headless", ready=False)
    wait_until(lambda: keeper.poll() is not None)
    assert keeper.poll() == 3
    assert keeper.stop().killed == 1
    assert start.left() == []


def test_a_flood_of_output_neither_blocks_the_service_nor_fills_the_disk(
    start: Start, trial: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LOG_LIMIT", 1_000_000)
    keeper = start.keep("noisy")
    wait_until(lambda: b"bytes left out" in start.log.read_bytes())
    # The cut is repeated for as long as the flood lasts: the file shrinks again and again.
    sizes, shrunk = [0], 0
    deadline = time.monotonic() + 20
    while shrunk < 5 and time.monotonic() < deadline:
        sizes.append(start.log.stat().st_size)
        shrunk += sizes[-1] < sizes[-2]
        time.sleep(0.001)
    assert shrunk == 5
    assert keeper.poll() is None
    keeper.stop()
    assert start.log.stat().st_size <= 1_000_000
    assert "0000000 all work" in start.log.read_text()[:200]
    end = "".join(start.log.read_text().splitlines()[-3:])
    assert end.count("all work and no play") >= 2  # the last line may have been cut by the end
    assert start.left() == []


def test_a_service_that_is_early_does_not_serve(start: Start, trial: int) -> None:
    keeper = start.keep("early")
    with urllib.request.urlopen(f"http://127.0.0.1:{start.port}/health", timeout=10) as answer:
        assert answer.status == 200
    assert post(start.port) == 503
    keeper.stop()


def test_a_crash_in_mid_service_is_noticed_at_once_with_its_code(start: Start, trial: int) -> None:
    keeper = start.keep("crash", "--requests", "3")
    assert [post(start.port) for _ in range(3)] == [200] * 3
    assert keeper.poll() is None
    with pytest.raises(OSError):
        post(start.port)
    wait_until(lambda: keeper.poll() is not None, 1.0)
    assert keeper.poll() == 7
    keeper.stop()
    assert start.left() == []


def test_shared_memory_left_behind_is_removed_and_nothing_else_is(start: Start, trial: int) -> None:
    older = Path(f"/dev/shm/{start.shm}-older")
    older.write_bytes(b"mine")
    try:
        keeper = start.keep("leaky")
        path = Path(f"/dev/shm/{start.shm}")
        (segment,) = start.segments()
        assert path.exists() and segment in proc.segments()
        gone = keeper.stop()
        assert set(gone.shm) == {str(path), f"/dev/shm/sem.{start.shm}-sem", f"sysv:{segment}"}
        assert older.read_bytes() == b"mine"
    finally:
        older.unlink()
    assert start.left() == []


def test_shared_memory_that_another_process_uses_is_kept(start: Start, trial: int) -> None:
    keeper = start.keep("leaky")
    path = Path(f"/dev/shm/{start.shm}")
    with path.open("rb"):
        gone = keeper.stop()
        assert path.exists()
        assert str(path) not in gone.shm
    path.unlink()


def test_a_file_that_the_service_only_reads_is_kept(start: Start, trial: int) -> None:
    """It may be the user's, made after the start by another process."""
    path = Path(f"/dev/shm/{start.shm}-user")
    start.log.touch()
    reader = f"import mmap, time, pathlib\np = pathlib.Path({str(path)!r})\nwhile not p.exists(): time.sleep(0.01)\n"
    reader += "f = p.open('rb')\nm = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\nprint('ready', flush=True)\n"
    command = [sys.executable, "-c", reader + "time.sleep(10_000)"]
    environment = process.scrubbed_environment(os.environ)
    keeper = Kept.start(command, env=environment, cwd=None, log=start.log, cores=None, grace=0.3)
    try:
        part = path.with_name(f"{path.name}-part")
        part.write_bytes(b"mine")
        part.rename(path)
        start.wait_ready()
        assert str(path) not in keeper.stop().shm
        assert path.read_bytes() == b"mine"
    finally:
        keeper.stop()
        path.unlink(missing_ok=True)


HELD = """
import ctypes, mmap, os, pathlib, sys, time
path, how = pathlib.Path(sys.argv[1]), sys.argv[2]
path.parent.mkdir(exist_ok=True)
file = os.open(path, os.O_RDWR | os.O_CREAT | (os.O_NOFOLLOW if "shm_open" in how else 0), 0o600)
os.write(file, bytes(4096))
if "mapped" in how:
    libc = ctypes.CDLL(None)
    libc.mmap(None, ctypes.c_size_t(4096), mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, file, ctypes.c_long(0))
if "closed" in how:
    os.close(file)
if "looked into" in how:
    os.open(path, os.O_RDONLY)
print("ready", flush=True)
time.sleep(10_000)
"""
"""Has a file in its memory or open, as any file is, or as shm_open(3) does it."""


def hold(start: Start, path: Path, how: str) -> Kept:
    argv = [sys.executable, "-c", HELD, str(path), how]
    keeper = Kept.start(argv, env=scrubbed_environment(os.environ), cwd=None, log=start.log, cores=None, grace=0.3)
    start.mark = keeper.mark
    start.wait_ready()
    return keeper


@pytest.mark.parametrize(
    ("place", "how"),
    [("{}", "open"), ("{}", "open and mapped"), ("{}/file", "open and mapped"), ("{}/file", "mapped and closed")],
)
def test_data_that_the_service_writes_to_shared_memory_is_kept(start: Start, place: str, how: str, trial: int) -> None:
    """As of a database there, or of a benchmark whose work folder is there."""
    path = Path("/dev/shm", place.format(start.shm))
    try:
        assert hold(start, path, how).stop().shm == ()
        assert path.read_bytes() == bytes(4096)
    finally:
        path.unlink(missing_ok=True)
        if path.parent.name == start.shm:
            path.parent.rmdir()


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("nccl-{}", "open and mapped"),
        ("vllm_offload_{}.mmap", "open and mapped"),
        ("torch_{}", "mapped and closed"),
        ("psm_{}", "shm_open, mapped and looked into"),
    ],
)
def test_shared_memory_is_known_by_its_maker_too(start: Start, name: str, how: str, trial: int) -> None:
    """NCCL and vLLM open it as they do any file, PyTorch closes it at once, and Python's may be open as a file, too."""
    path = Path("/dev/shm", name.format(start.shm))
    assert hold(start, path, how).stop().shm == (str(path),)
    assert start.left() == []


@pytest.mark.parametrize("code", [0, 1, None], ids=["done", "failed", "cancelled"])
def test_a_command_leaves_shared_memory_only_if_it_has_done_its_work(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int | None, trial: int
) -> None:
    """A command may load there what the service is to find."""
    seen: list[Kept] = []

    class Seen(Kept):
        """Can be looked into while a command runs."""

        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            seen.append(self)

    monkeypatch.setattr(process, "Kept", Seen)
    over, end = threading.Event(), tmp_path / "end"
    path = Path(f"/dev/shm/torch_{start.shm}")
    waiting = f"while not pathlib.Path({str(end)!r}).exists(): time.sleep(0.01)\nsys.exit({code})"
    argv = [sys.executable, "-c", HELD.replace("time.sleep(10_000)", waiting), str(path), "mapped and closed"]
    with ThreadPoolExecutor() as pool:
        done = pool.submit(process.run, argv, timeout=60, cancel=over)
        wait_until(lambda: seen and seen[0]._known["shm"])
        if code is not None:
            end.touch()
            assert done.result(20).exit_code == code
            if code == 0:
                path.unlink()
        else:
            over.set()
            with pytest.raises(Cancelled):
                done.result(20)
    assert start.left() == []


def test_shared_memory_of_a_service_that_crashed_is_removed(start: Start, trial: int) -> None:
    keeper = start.keep("leaky")
    wait_until(lambda: knows_shm(keeper))
    os.kill(keeper.pid, signal.SIGKILL)
    wait_until(lambda: keeper.poll() is not None)
    assert keeper.poll() == -signal.SIGKILL
    assert len(keeper.stop().shm) == 3
    assert start.left() == []


RANK = """
import os, sys, time
from pathlib import Path
from mpipso.service import ports, process
from mpipso.service.environment import scrubbed_environment
port, log, command = sys.argv[1], sys.argv[2], sys.argv[3:]
keeper = process.Kept.start(command, env=scrubbed_environment(os.environ), cwd=None, log=Path(log),
                              cores=None, grace=60, folder=os.environ["FOLDER"])
if os.environ.get("FORK"):
    if os.fork() == 0:
        time.sleep(60)  # a child without exec, that holds every descriptor of its parent
        os._exit(0)
while not ports.listeners(int(port)):
    time.sleep(0.05)
print(keeper.mark, *keeper.pids(), flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize(
    ("mode", "forked"),
    [*((mode, False) for mode in ("good", "stubborn", "daemon", "respawn", "retitled")), ("daemon", True)],
)
def test_nothing_is_left_when_the_rank_is_killed(
    start: Start, tmp_path: Path, mode: str, forked: bool, trial: int
) -> None:
    folder = tmp_path / "files of the rank"
    folder.mkdir()
    (folder / "config.json").touch()
    environment = {**os.environ, "FORK": "1" if forked else "", "FOLDER": str(folder)}
    rank = subprocess.Popen(
        [sys.executable, "-c", RANK, str(start.port), str(start.log), *start.argv(mode)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    assert rank.stdout
    start.mark, *pids = rank.stdout.readline().split()
    start.note([int(pid) for pid in pids])
    assert start.left()
    rank.kill()
    rank.wait()
    wait_until(lambda: not start.left() and not folder.exists(), WITHIN)
    rank.stdout.close()
    if forked:
        os.killpg(rank.pid, signal.SIGKILL)


@pytest.mark.parametrize("mode", ["good", "stubborn", "daemon", "respawn", "retitled", "leaky"])
def test_nothing_is_left_when_the_keeper_is_killed(start: Start, mode: str, trial: int) -> None:
    keeper = start.keep(mode)
    if mode == "leaky":
        wait_until(lambda: knows_shm(keeper))
    elif mode in ("daemon", "retitled"):
        wait_until(lambda: set(keeper.pids()) <= {each[0] for each in keeper._known["processes"]})
    os.kill(keeper._process.pid, signal.SIGKILL)
    wait_until(lambda: keeper.poll() is not None, WITHIN)
    wait_until(lambda: not start.left(), WITHIN)
    assert keeper.stop().survivors == ()


def test_a_marked_process_is_found_by_its_mark_alone(start: Start, trial: int) -> None:
    argv = [sys.executable, "-c", "import os, time; os.fork(); os.fork(); time.sleep(1000)"]
    start.mark = f"test{os.getpid()}"
    first = subprocess.Popen(argv, env={**os.environ, proc.MARK: start.mark}, start_new_session=True)
    wait_until(lambda: len(proc.marked(start.mark, proc.processes())) == 4)
    start.note(list(proc.marked(start.mark, proc.processes())))
    assert len(process.sweep(start.mark)[0]) == 4
    first.wait()
    assert start.left() == []
    assert process.sweep(start.mark) == (set(), [])
