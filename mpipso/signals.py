"""Signals, in one place: what ends a run early, and the tie between a rank and its launcher."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from types import FrameType

import psutil

FRONT_ENDS = (
    *("mpirun", "mpiexec", "mpiexec.hydra", "orterun", "prterun"),
    *("mpirun.openmpi", "mpiexec.openmpi"),  # as Debian names them
)
"""The names of processes by which users start the ranks of an MPI."""
_LAUNCHERS = (*FRONT_ENDS, "prted", "orted", "hydra_pmi_proxy")
"""The names of processes that start ranks, on whatever host."""
ENDING = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU),  # schedulers warn with these before they kill
)
"""What asks a run to end."""
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PATIENT = ("hydra_pmi_proxy",)
"""Launchers that wait for their ranks after SIGTERM; the others kill them 0.3 to 4 s later."""
_BEFORE_KILL = 1.0
"""Seconds after SIGTERM in which this process ends, rather than be killed with its services still to be stopped."""
_SECOND = 1.0
"""Seconds from the first signal on in which a further one is taken for the same: launchers send several at once."""


def heard() -> list[signal.Signals]:
    """Those of :data:`ENDING` that this process is to heed: after ``nohup`` a run outlives its terminal.

    SIGINT is heeded in any case, since a shell makes every command in the background deaf to it.
    """
    deaf = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in ENDING if number != signal.SIGHUP or not deaf]


class Interrupts:
    """Context in which a signal asks the run to end, and a second one ends this process at once.

    ``SIGUSR1`` and ``SIGUSR2`` are what ``mpirun`` forwards without killing the ranks soon after.

    Parameters
    ----------
    clock:
        Seconds, by which two signals are told from the same one sent twice.

    Attributes
    ----------
    received:
        The number of the first signal; None until then.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first = 0.0
        self.received: int | None = None

    def __enter__(self) -> Interrupts:
        for number in heard():
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *raised: object) -> None:
        # The process is about to leave; a late signal must not spoil its exit code.
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)

    def ask(self, number: int) -> None:
        """Ask the run to end, as a signal to this process does; that signal may have come to another rank."""
        if self.received is None:
            # In this order: the same signal may come to this process between the two lines.
            self._first = self._clock()
            self.received = number

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and self._clock() - self._first > _SECOND:
            # The keepers notice that this process is gone and stop every service that it started.
            os._exit(128 + number)
        self.ask(number)
        parent = launcher()
        if number == signal.SIGTERM and parent is not None and parent.name() not in _PATIENT and not _armed():
            signal.signal(signal.SIGALRM, lambda *_: os._exit(128 + number))
            signal.setitimer(signal.ITIMER_REAL, _BEFORE_KILL)


def _armed() -> bool:
    return signal.getitimer(signal.ITIMER_REAL) != (0.0, 0.0)


def launcher() -> psutil.Process | None:
    """The parent process if it is what an MPI starts ranks with."""
    parent = psutil.Process().parent()
    try:
        return parent if parent is not None and parent.name() in _LAUNCHERS else None
    except psutil.Error:
        return None


def die_with_parent(number: int) -> None:
    """Have the kernel send this process a signal when its parent dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Have the kernel make what loses its parent below this process a child of it."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_launcher() -> None:
    """Have the kernel kill this rank when its launcher dies, which some launchers leave as an orphan.

    The journal and the best configuration are on disk at any time, and keepers stop the services of a dead rank.
    """
    if launcher() is not None:
        die_with_parent(signal.SIGKILL)
        if launcher() is None:
            os._exit(128 + signal.SIGKILL)


def signal_number(name: str) -> int:
    """The number of a signal as :func:`describe` tells it."""
    words = name.split()
    return int(words[1]) if len(words) > 1 else signal.Signals[name].value


def describe(number: int) -> str:
    """``SIGTERM`` for 15; ``signal 40`` where a signal has no name, as most of those for real time."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
