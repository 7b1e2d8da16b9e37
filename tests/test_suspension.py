"""A process that is stopped and goes on knows for how long."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
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


def test_a_process_that_was_busy_meanwhile_was_not_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    # The clocks are played: how long a thread keeps the interpreter depends on the machine.
    seconds = {"now": 100.0, "used": 3.0}
    clocks = SimpleNamespace(
        CLOCK_BOOTTIME=time.CLOCK_BOOTTIME,
        clock_gettime=lambda clock: seconds["now"],
        process_time=lambda: seconds["used"],
        sleep=time.sleep,
    )
    monkeypatch.setattr(suspension, "time", clocks)
    watch = suspension._Watch()
    watch.look()
    seconds.update(now=120.0, used=22.0)
    assert watch.look() == (120.0, 0.0)
    seconds.update(now=140.0, used=22.1)
    assert watch.look() == (140.0, 20.0)
