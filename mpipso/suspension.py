"""How long this process did not run because it was stopped: by ``SIGSTOP``, frozen, or asleep with its machine.

So ``scontrol suspend``, ``qmod -sj``, ``bstop`` and preemption stop a job. Nobody tells a process when it goes on, but
the clock does: it is looked at in short turns, and what lies between two looks that are far apart was no turn.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

TURN = 0.5
"""Seconds between two looks at the clock."""
LEAST = 5.0
"""Seconds between two looks, without those in which it ran or waited for a core, from which on this process was
stopped; less may be the doing of a busy machine."""


class _Watch:
    """Looks at the clock for as long as the process runs, once it was asked for the first time."""

    def __init__(self) -> None:
        self._turned = threading.Condition()
        self._thread: threading.Thread | None = None
        self._looked = 0.0
        self._told = 0.0
        self._spent = 0.0
        self._stopped = 0.0

    def look(self) -> tuple[float, float]:
        """The time, and for how much of it the process was stopped, in seconds; callable from any thread.

        Whoever asks right after a stop learns of it: the thread's turn, which is due then, is waited for.
        """
        with self._turned:
            if self._thread is None:
                self._spent, self._looked = time.process_time(), _now()
                self._thread = threading.Thread(target=self._run, name="suspension", daemon=True)
                self._thread.start()
            while (now := _now()) - self._looked > LEAST and self._thread.is_alive():
                self._turned.wait(TURN)
            self._told = now
            return now, self._stopped

    def turn(self) -> None:
        """Judge the time since the last turn; only for the thread, which alone knows how long it waited for a core."""
        with self._turned:
            # A thread that keeps the interpreter for long, as a search in a large text does, takes time of a core, and
            # one that gets none on a busy machine waits for it; a process that is stopped does neither.
            # It may lose its core right here, so that what is spent is read on both sides of the clock.
            before, now, after = _spent(), _now(), _spent()
            if now - self._looked - (after - self._spent) > LEAST:
                self._stopped += now - max(self._looked, self._told)  # or a time that was told would come again
            self._spent, self._looked = before, now
            self._turned.notify_all()

    def _run(self) -> None:
        while True:
            time.sleep(TURN)
            self.turn()


def _now() -> float:
    """Other than CLOCK_MONOTONIC, this one goes on while the machine is asleep."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _spent() -> float:
    """Seconds of cores that this process has used, and for which the thread that calls could run and had none.

    The latter are missing where the system does not count them.
    """
    used = time.process_time()
    try:
        return used + int(_SCHEDULED.read_bytes().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return used


_SCHEDULED = Path("/proc/thread-self/schedstat")
_WATCH = _Watch()


def stopped() -> float:
    """Seconds for which this process was stopped, since this or :func:`awake` was called for the first time."""
    return _WATCH.look()[1]


def awake() -> float:
    """A time in seconds that never goes back, and stands still while this process is stopped."""
    now, stops = _WATCH.look()
    return now - stops
