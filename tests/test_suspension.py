"""A process that is stopped and goes on knows for how long."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from bed.job import wait_until

from mpipso import suspension

PROGRAM = """
import sys, time
from mpipso import suspension
suspension.LEAST, suspension.TURN = 0.5, 0.02
began, before = suspension.awake(), suspension.stopped()
print("runs", flush=True)
sys.stdin.readline()
# Whoever asks first learns of it: there is no turn to be waited for.
print(suspension.awake() - began, suspension.stopped() - before)
"""
STOP = 0.7


def test_a_stop_is_known_as_soon_as_the_process_goes_on() -> None:
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin and child.stdout
        assert child.stdout.readline() == "runs\n"
        child.send_signal(signal.SIGSTOP)
        wait_until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_STOPPED)
        time.sleep(STOP)
        child.send_signal(signal.SIGCONT)
        child.stdin.write("\n")
        child.stdin.flush()
        awake, told = map(float, child.stdout.readline().split())
        passed = time.monotonic() - began
    assert STOP <= told <= passed
    assert 0.0 <= awake <= passed - STOP


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """The clocks, played, as how long a thread keeps the interpreter or waits for a core depends on the machine."""
    told = {"now": 100.0, "used": 3.0}
    clocks = SimpleNamespace(
        CLOCK_BOOTTIME=time.CLOCK_BOOTTIME,
        clock_gettime=lambda clock: told["now"],
        process_time=lambda: told["used"],
        sleep=lambda turn: threading.Event().wait(),  # the turns are the tests'
    )
    monkeypatch.setattr(suspension, "time", clocks)
    monkeypatch.setattr(suspension, "_SCHEDULED", tmp_path / "schedstat")

    def play(now: float, used: float, waited: float | None = None) -> None:
        told.update(now=now, used=used)
        if waited is not None:
            (tmp_path / "schedstat").write_text(f"{used * 1e9:.0f} {waited * 1e9:.0f} 7\n")

    return play


def test_a_process_that_was_busy_meanwhile_was_not_stopped(seconds: Callable[..., None]) -> None:
    watch = suspension._Watch()
    watch.look()
    seconds(now=120.0, used=22.0)
    watch.turn()
    assert watch.look() == (120.0, 0.0)
    seconds(now=140.0, used=22.1)
    watch.turn()
    assert watch.look() == (140.0, 20.0)
    seconds(now=143.0, used=22.1)
    assert watch.look() == (143.0, 20.0)
    seconds(now=160.0, used=22.1)
    watch.turn()
    assert watch.look() == (160.0, 37.0), "what was told as awake stays so"


def test_a_process_that_waited_for_a_core_meanwhile_was_not_stopped(seconds: Callable[..., None]) -> None:
    watch = suspension._Watch()
    watch.look()
    seconds(now=120.0, used=5.0, waited=14.0)
    watch.turn()
    assert watch.look() == (120.0, 0.0)
    seconds(now=140.0, used=5.1, waited=14.3)
    watch.turn()
    assert watch.look() == (140.0, 20.0)


def test_a_core_that_is_lost_during_a_look_at_the_clock_is_no_stop(
    seconds: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = suspension._Watch()
    watch.look()
    seconds(now=100.5, used=3.0, waited=0.0)
    clock = suspension._now

    def losing() -> float:
        now = clock()
        seconds(now=120.5, used=3.0, waited=20.0)
        return now

    with monkeypatch.context() as patch:
        patch.setattr(suspension, "_now", losing)
        watch.turn()
    seconds(now=121.0, used=3.0, waited=20.0)
    watch.turn()
    assert watch.look() == (121.0, 0.0)


def test_who_asks_before_the_thread_had_its_turn_waits_for_it(seconds: Callable[..., None]) -> None:
    watch = suspension._Watch()
    watch.look()
    seconds(now=120.0, used=5.0, waited=14.0)
    late = threading.Timer(0.2, watch.turn)
    late.start()
    assert watch.look() == (120.0, 0.0)
    late.join()
