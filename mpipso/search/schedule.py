"""Which results a proposal may see: the one rule in which the schedules of the dispatcher differ."""

from __future__ import annotations

from dataclasses import dataclass

from mpipso.config import ScheduleKind


@dataclass(frozen=True)
class Schedule:
    """When the next proposals may be made, and what they know.

    Proposals are counted from 0. With ``generation`` and ``window`` what a proposal sees depends on its number alone,
    so the same seed and the same results give the same search, whatever the timing, the number of groups or the
    attempts that it took; with ``async`` it depends on the timing.

    Parameters
    ----------
    size:
        With ``generation``, how many proposals one has; with ``window``, W: proposal n sees the results of 0 to n - W.
        Not used by ``async``.
    """

    kind: ScheduleKind
    size: int

    def sees(self, number: int) -> int | None:
        """How many proposals, counted from the first, proposal ``number`` sees the results of, and of no others.

        None if it sees all results that are there.
        """
        if self.kind == "generation":
            return number - number % self.size
        return max(0, number - self.size + 1) if self.kind == "window" else None

    def together(self, number: int) -> int:
        """How many proposals are made at once, from ``number`` on: those of a generation see the same results."""
        return self.size - number % self.size if self.kind == "generation" else 1
