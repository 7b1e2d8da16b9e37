"""Signals to a rank: the first asks the run to end, a later one ends the process, and a rank dies with its launcher."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bed.job import alive, wait_until

from mpipso.signals import describe

RANK = """
import signal, sys, time
from mpipso.signals import Interrupts, die_with_launcher
die_with_launcher()
# However this test run itself was started.
signal.signal(signal.SIGHUP, signal.SIG_IGN if "nohup" in sys.argv else signal.SIG_DFL)
now = 0.0
with Interrupts(lambda: now) as interrupts:
    print("ready", flush=True)
    while interrupts.received is None:
        time.sleep(0.01)
    print("received", interrupts.received, flush=True)
    for seconds in iter(sys.stdin.readline, ""):
        now += float(seconds)
        print("goes on", flush=True)
sys.exit(7)
"""
"""Its clock shows what the test says: each line of its input is the seconds that pass."""
TOLD = """
import signal
from mpipso.signals import Interrupts
now = 0.0
with Interrupts(lambda: now) as interrupts:
    interrupts.ask(signal.SIGUSR1)
    now = 0.9
    signal.raise_signal(signal.SIGUSR1)
    print("goes on", flush=True)
    now = 1.1
    signal.raise_signal(signal.SIGINT)
    print("goes on for ever", flush=True)
"""


@pytest.fixture
def ranks() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def start(ranks: list[subprocess.Popen[str]], *words: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", RANK, *words], stdin=pipe, stdout=pipe, text=True)
    ranks.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def passes(process: subprocess.Popen[str], seconds: float) -> None:
    """Its clock goes on, and what it was sent before has been handled."""
    assert process.stdin is not None
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()
    assert line(process) == "goes on\n"


def end(process: subprocess.Popen[str]) -> int:
    """Its exit code once it has nothing to do any more."""
    assert process.stdin is not None
    process.stdin.close()
    return process.wait(10)


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "XCPU"])
def test_the_first_signal_lets_the_run_end_in_order(ranks: list[subprocess.Popen[str]], name: str) -> None:
    rank, number = start(ranks), signal.Signals[f"SIG{name}"]
    rank.send_signal(number)
    assert line(rank) == f"received {number}\n"
    assert end(rank) == 7


def test_what_nohup_ignores_stays_ignored(ranks: list[subprocess.Popen[str]]) -> None:
    rank = start(ranks, "nohup")
    rank.send_signal(signal.SIGHUP)
    rank.send_signal(signal.SIGTERM)
    assert line(rank) == f"received {int(signal.SIGTERM)}\n"


def test_the_same_signal_sent_twice_by_a_launcher_counts_once(ranks: list[subprocess.Popen[str]]) -> None:
    rank = start(ranks)
    rank.send_signal(signal.SIGUSR1)
    assert line(rank).startswith("received")
    passes(rank, 0.9)
    rank.send_signal(signal.SIGTERM)
    passes(rank, 0.0)
    assert end(rank) == 7


def test_a_second_signal_ends_the_process_at_once(ranks: list[subprocess.Popen[str]]) -> None:
    rank = start(ranks)
    rank.send_signal(signal.SIGINT)
    assert line(rank).startswith("received")
    passes(rank, 1.1)  # signals within a second of the first are taken for the same
    rank.send_signal(signal.SIGTERM)
    assert rank.wait(10) == 128 + signal.SIGTERM


def test_a_signal_of_which_another_rank_has_told_already_is_the_same() -> None:
    done = subprocess.run([sys.executable, "-c", TOLD], stdout=subprocess.PIPE, text=True, timeout=30, check=False)
    assert done.stdout == "goes on\n"
    assert done.returncode == 128 + signal.SIGINT


def test_a_rank_dies_with_its_launcher(tmp_path: Path) -> None:
    """The launcher is a copy of the shell under a launcher's name, which leaves its rank as an orphan."""
    launcher = tmp_path / "mpirun"
    shutil.copy("/bin/sh", launcher)
    script = '"$0" -c "$1" & echo $!; wait'
    process = subprocess.Popen(
        [str(launcher), "-c", script.replace("$0", sys.executable).replace('"$1"', f"'{RANK}'")],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = [process.stdout.readline().strip() for _ in range(2)]
        (pid,) = [int(word) for word in said if word.isdecimal()]
        assert "ready" in said
        process.kill()
        wait_until(lambda: not alive(pid), 10, "the rank is gone")
    finally:
        process.kill()
        process.wait()
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


def test_a_signal_without_a_name_is_told_by_its_number() -> None:
    assert [describe(number) for number in (15, signal.SIGRTMIN + 6)] == ["SIGTERM", f"signal {signal.SIGRTMIN + 6}"]
