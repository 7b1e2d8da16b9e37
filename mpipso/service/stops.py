"""Whether the nodes of a group ran all the time: nothing holds that was measured while one of them was stopped."""

from __future__ import annotations

from collections.abc import Iterable

from mpipso.service.node import Node


class Stops:
    """The times for which nodes are stopped from :meth:`begin` on."""

    def __init__(self) -> None:
        self._before: dict[Node, float] = {}

    def begin(self, nodes: Iterable[Node]) -> None:
        """Take note of how long each node was stopped before.

        Raises
        ------
        EvaluationFailed
            A node does not answer; those after it are never told of.
        """
        for node in nodes:
            self._before[node] = node.stopped()

    def told(self, nodes: Iterable[Node]) -> str:
        """Which of these nodes was stopped, the first of several, and for how long, in words; empty if none was.

        Raises
        ------
        EvaluationFailed
            A node does not answer.
        """
        for node in nodes:
            if node in self._before and (seconds := node.stopped() - self._before[node]) > 0:
                return f"{node.name}: the job was suspended for {seconds:.0f} s"
        return ""
