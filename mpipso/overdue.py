"""What does not end by its own limits: evaluations, and so ranks that have to end one before they leave their group."""

from __future__ import annotations

from mpipso.cluster.dispatch import Dispatcher
from mpipso.cluster.membership import Membership
from mpipso.cluster.plan import Plan
from mpipso.config import Config

SLACK = 300.0
"""Seconds that an evaluation may take on top of all of its own limits before its leader counts as stuck."""


class Overdue:
    """Finds the ranks that are busy for longer than any evaluation may take."""

    def __init__(self, config: Config, plan: Plan) -> None:
        self._limit = _longest(config, max(len(group.nodes) for group in plan.groups))
        self._leaving: dict[int, float] = {}

    def ranks(self, now: float, dispatcher: Dispatcher, membership: Membership) -> dict[int, str]:
        """These ranks, each with why it counts as stuck; to be asked again and again, with the time in seconds."""
        self._leaving = {rank: self._leaving.get(rank, now) for rank in membership.leaving}
        leaders = [membership.leader(group) for group in dispatcher.overdue(now, self._limit)]
        staying = [rank for rank, since in self._leaving.items() if now - since > self._limit]
        causes = dict.fromkeys(leaders, "its evaluation does not end")
        return causes | dict.fromkeys(staying, "it does not leave its group")


def _longest(config: Config, nodes: int) -> float:
    """Seconds after which an evaluation on so many nodes must have ended by its own limits."""
    if config.search.evaluation_timeout is not None:
        return config.search.evaluation_timeout + config.service.stop_grace + SLACK
    starts = (1 + (nodes if config.service.update_command else 0)) * config.service.start_timeout
    return starts + config.measuring_timeout + config.service.stop_grace + SLACK
