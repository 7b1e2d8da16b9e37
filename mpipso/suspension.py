"""How long this process did not run because it was stopped: by ``SIGSTOP``, frozen, or asleep with its machine.

So ``scontrol suspend``, ``qmod -sj``, ``bstop`` and preemption stop a job. Nobody tells a process when it goes on, but
the clock does: it is looked at in short turns, and what lies between two looks that are far apart was no turn.
"""

from __future__ import annotations

import threading
import time

TURN = 0.5
"""Seconds between two looks at the clock."""
LEAST = 5.0
"""Seconds between two looks, without those in which it ran, from which on this process was stopped; less may be the
doing of a busy machine."""


class _Watch:
    """Looks at the clock for as long as the process runs, once it was asked for the first time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._looked = 0.0
        self._used = 0.0
        self._stopped = 0.0

    def look(self) -> tuple[float, float]:
        """The time, and for how much of it the process was stopped, in seconds; callable from any thread.

        Every look counts: whoever asks right after a stop learns of it, whether the thread has had a turn or not.
        """
        with self._lock:
            # Other than CLOCK_MONOTONIC, this one goes on while the machine is asleep.
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            # A thread that keeps the interpreter for long, as a search in a large text does, takes time of a core; a
            # process that is stopped takes none.
            used = time.process_time()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="suspension", daemon=True)
                self._thread.start()
            elif now - self._looked - (used - self._used) > LEAST:
                self._stopped += now - self._looked
            self._looked, self._used = now, used
            return now, self._stopped

    def _run(self) -> None:
        while True:
            time.sleep(TURN)
            self.look()


_WATCH = _Watch()


def stopped() -> float:
    """Seconds for which this process was stopped, since this or :func:`awake` was called for the first time."""
    return _WATCH.look()[1]


def awake() -> float:
    """A time in seconds that never goes back, and stands still while this process is stopped."""
    now, stops = _WATCH.look()
    return now - stops
