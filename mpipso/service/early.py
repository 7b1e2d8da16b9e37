"""When a benchmark is stopped early: after the first part of its requests it is far behind that of the best."""

from __future__ import annotations

import threading
from collections.abc import Callable

from mpipso.config import Config
from mpipso.evaluation import Pace


class EarlyStop(threading.Event):
    """An event that is set when ``over`` is set, or when the benchmark that it watches is too far behind.

    Parameters
    ----------
    look:
        What the objective's metric is after the first part of the requests; None as long as that is not known.
    pace:
        What it was for the best; None for a benchmark that goes to its end.

    Attributes
    ----------
    first:
        What was seen; None if that was nothing.
    expected:
        What the metric is expected to be in the end of a benchmark that is too far behind; None of any other.
    """

    def __init__(
        self, config: Config, over: threading.Event, look: Callable[[], float | None], pace: Pace | None
    ) -> None:
        super().__init__()
        self._over = over
        self._look = look
        self._pace = pace
        self._behind = config.benchmark.early_stop
        self._maximized = config.objective.maximize is not None
        self.first: float | None = None
        self.expected: float | None = None

    def is_set(self) -> bool:
        self.look()
        return self._over.is_set() or self.expected is not None

    def ended(self) -> None:
        """Look once more, at a benchmark that has ended: however soon that was, what its first part was is known."""
        self._pace = None
        self.look()

    def look(self) -> None:
        """See whether the first part is over, and what it says."""
        if self._behind is None or self.first is not None or (first := self._look()) is None:
            return
        self.first = first
        if self._pace is not None:
            better, worse = (self._pace.first, first) if self._maximized else (first, self._pace.first)
            if worse < (1.0 - self._behind) * better:
                self.expected = first * self._pace.whole / self._pace.first
