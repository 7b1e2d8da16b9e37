"""How a launched run is supervised: the numbers, and the flags that set them."""

from __future__ import annotations

from dataclasses import dataclass, fields

LEAST_SILENCE = 10
"""Seconds, at least, after which a run may count as stuck: the root gives a sign of life every 2 s, which is seen late
where the run's folder is on another machine."""


@dataclass(frozen=True)
class Limits:
    """How a job is supervised; each has a flag of its name.

    Attributes
    ----------
    restarts:
        How often it is restarted at most in a row; an evaluation that was completed in between makes the count begin
        anew, since the limit is there for runs that do not get on, not for long ones. 0: never.
    stuck_after:
        Seconds without a change of the journal or the beat after which a run is stuck; :data:`LEAST_SILENCE` or more.
    start_limit:
        Seconds from its launch after which a job whose run has not begun is ended.
    """

    restarts: int = 3
    stuck_after: float = 120.0
    start_limit: float = 180.0

    def words(self) -> list[str]:
        """The flags that say the same again; none for what is so anyway."""
        told = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        changed = {name: value for name, (value, usual) in told.items() if value != usual}
        return [word for name, value in changed.items() for word in (f"--{name.replace('_', '-')}", f"{value:.12g}")]
