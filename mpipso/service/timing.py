"""The time that an evaluation takes: in each of its phases, and at most."""

from __future__ import annotations

import threading

from mpipso.suspension import awake


class Phases:
    """How long each phase of an evaluation lasts, in seconds in which this process was not stopped."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._phase = ""
        self._since = 0.0

    def enter(self, phase: str) -> None:
        """Begin a phase, by its name; the one before is over then."""
        now = awake()
        if self._phase:
            self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = phase, now

    def ended(self) -> dict[str, float]:
        """End the last phase; returns the seconds of each phase, by name."""
        self.enter("")
        return dict(self._seconds)


class TimeLimit(threading.Event):
    """An event that is set when ``cancel`` is set, or when ``seconds`` are over; None is no limit.

    Call :meth:`close` when it is needed no more.
    """

    def __init__(self, cancel: threading.Event, seconds: float | None) -> None:
        super().__init__()
        self._cancel = cancel
        self._timer: threading.Timer | None = None
        if seconds is not None:
            self._timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), self.set)
            self._timer.daemon = True
            self._timer.start()

    def is_set(self) -> bool:
        return self._cancel.is_set() or super().is_set()

    def close(self) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()
