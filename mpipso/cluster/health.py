"""Signs of life of the ranks, and the health of the service groups."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mpipso.evaluation import Evaluation

LONGEST_PAUSE = 1800.0
"""Seconds, at most, between two probes of a group."""
HOPELESS = 3
"""Probes that a group fails before it is given up, if no other is left."""


class Leases:
    """When each rank was last heard of.

    Parameters
    ----------
    duration:
        Seconds without a sign of life after which a rank counts as lost.
    """

    def __init__(self, ranks: Iterable[int], duration: float, now: float) -> None:
        self._duration = duration
        self._heard = dict.fromkeys(ranks, now)
        self._checked = now

    def renew(self, rank: int, now: float) -> None:
        """A rank was heard of; one that has no lease, such as the root, gets none."""
        if rank in self._heard:
            self._heard[rank] = now

    def silent_since(self, moment: float) -> set[int]:
        """The ranks that were not heard of from that moment on."""
        return {rank for rank, heard in self._heard.items() if heard < moment}

    def expired(self, now: float) -> list[int]:
        """The ranks that were not heard of for too long, in order.

        If this process itself was stopped for a while, it could not hear anybody: everyone's time begins anew.
        """
        if now - self._checked > self._duration / 2:
            self._heard = dict.fromkeys(self._heard, now)
        self._checked = now
        return sorted(rank for rank, heard in self._heard.items() if now - heard > self._duration)


@dataclass
class _Health:
    streak: float = 0.0
    """Failures in a row; one that may lie in the configuration counts half."""
    cause: str = ""
    """Why it is in quarantine; empty while it is healthy."""
    node_lost: bool = False
    """Whether that is a node of which nothing is heard."""
    pause: float = 0.0
    due: float = 0.0
    probes: int = 0
    """Probes failed in a row."""


class ServiceGroupHealthMonitor:
    """Which groups may be given particles.

    A group that fails ``after`` evaluations in a row (those that failed by their configuration, as it seems, count
    half), or a configuration that is known to be good, goes into quarantine: it is probed after ``pause`` seconds, then
    after twice that, and so on, and is readmitted when a probe passes. Groups are told apart by their numbers, and
    ``now`` is a time in seconds on whatever clock the caller has.
    """

    def __init__(self, *, after: int, pause: float) -> None:
        self._after = after
        self._pause = pause
        self._groups: dict[int, _Health] = {}

    def join(self, group: int) -> None:
        """A new group, healthy until it shows otherwise."""
        self._groups[group] = _Health()

    def leave(self, group: int) -> None:
        """The group is no more."""
        del self._groups[group]

    def record(self, evaluation: Evaluation, now: float, *, known_good: bool) -> bool:
        """Take note of what a healthy group reports; returns whether that sends the group into quarantine.

        ``known_good`` tells that the configuration has worked before.
        """
        health, failure = self._groups[evaluation.group], evaluation.failure
        if failure is None:
            health.streak = 0.0
            return False
        health.streak += 0.5 if failure.kind == "configuration" else 1.0
        if health.streak < self._after and not known_good:
            return False
        which = "a configuration that works elsewhere failed" if known_good else "failures in a row"
        self.mark_unhealthy(
            evaluation.group, f"{which}, the last one: {failure.cause}", now, node_lost=failure.node_lost
        )
        return True

    def mark_unhealthy(self, group: int, cause: str, now: float, *, node_lost: bool = False) -> None:
        """Give the group no particles until :meth:`readmit`; a probe is due after its next pause."""
        health = self._groups[group]
        if health.cause:
            health.probes += 1
        health.cause, health.node_lost = cause, node_lost
        health.pause = min(2 * health.pause or self._pause, LONGEST_PAUSE)
        health.due = now + health.pause

    def readmit(self, group: int) -> None:
        """The group is healthy again."""
        self._groups[group] = _Health()

    def cause(self, group: int) -> str:
        """Why the group is in quarantine; empty if it is not."""
        return self._groups[group].cause

    def node_lost(self, group: int) -> bool:
        """Whether the group is in quarantine since it has lost a node."""
        return self._groups[group].node_lost

    def pause(self, group: int) -> float:
        """Seconds from the start of its quarantine, or the last probe, to the next probe."""
        return self._groups[group].pause

    def check_all(self) -> dict[int, bool]:
        """Whether each group is healthy."""
        return {group: not health.cause for group, health in self._groups.items()}

    def get_healthy_groups(self) -> frozenset[int]:
        """The groups that may be given particles."""
        return frozenset(group for group, healthy in self.check_all().items() if healthy)

    def due(self, now: float) -> list[int]:
        """The groups in quarantine whose pause is over."""
        return [group for group, health in self._groups.items() if health.cause and now >= health.due]

    @property
    def hopeless(self) -> bool:
        """Whether every group is in quarantine and has failed :data:`HOPELESS` probes in a row."""
        return bool(self._groups) and all(health.probes >= HOPELESS for health in self._groups.values())
