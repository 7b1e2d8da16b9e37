"""When a benchmark is stopped early: after the first part of its requests it is far behind that of the best.

Where it is very far behind, that is plain sooner: twice as far after half of that part, three times after a quarter.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from mpipso.config import Config
from mpipso.evaluation import FIRST_PART, Pace

PARTS = (FIRST_PART / 4, FIRST_PART / 2, FIRST_PART)
"""The shares of the requests after which is looked."""
_FEWEST = 4
"""Requests that say something before the first part is over."""


def counts(requests: int) -> list[int]:
    """After how many of the requests is looked, in order."""
    several = sorted({math.ceil(part * requests) for part in PARTS})
    return [count for count in several[:-1] if count >= _FEWEST] + several[-1:]


class EarlyStop(threading.Event):
    """An event that is set when ``over`` is set, or when the benchmark that it watches is too far behind.

    Parameters
    ----------
    look:
        Of which share of the requests something is known, and what the objective's metric is by these; None before.
    pace:
        What it was for the best; None for a benchmark that goes to its end.

    Attributes
    ----------
    first:
        What was seen last; None if that was nothing.
    expected:
        What the metric is expected to be in the end of a benchmark that is too far behind; None of any other.
    """

    def __init__(
        self, config: Config, over: threading.Event, look: Callable[[], tuple[float, float] | None], pace: Pace | None
    ) -> None:
        super().__init__()
        self._over = over
        self._look = look
        self._pace = pace
        self._behind = config.benchmark.early_stop
        self._maximized = config.objective.maximize is not None
        self._seen = 0.0
        self.first: float | None = None
        self.expected: float | None = None

    def is_set(self) -> bool:
        self.look()
        return self._over.is_set() or self.expected is not None

    def ended(self) -> None:
        """Look once more, at a benchmark that has ended: however soon that was, what its first part was is known.

        Not if a request has failed in it since: what was seen before compares with no first part.
        """
        self._pace = None
        self.look()
        if self._seen < FIRST_PART:
            self.first = None

    def look(self) -> None:
        """See how far it is, and what that says."""
        if self._behind is None or self._seen >= FIRST_PART or (found := self._look()) is None:
            return
        self._seen, self.first = found
        if self._pace is not None:
            better, worse = (self._pace.first, self.first) if self._maximized else (self.first, self._pace.first)
            times = 1.0 + max(0.0, math.log2(FIRST_PART / self._seen))
            if worse < (1.0 - times * self._behind) * better:
                self.expected = self.first * self._pace.whole / self._pace.first
