"""Whether the nodes of a group ran all the time: nothing holds that was measured while one of them was stopped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mpipso.errors import EvaluationFailed
from mpipso.evaluation import Failure
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

    def blamed(self, nodes: Sequence[Node], failure: Failure | None) -> tuple[Failure | None, bool]:
        """The failure of an attempt, and whether it is that a node was stopped meanwhile, whatever came of that.

        Parameters
        ----------
        nodes:
            Of the group, that of the leader first.
        failure:
            What the failure would be if none was stopped; None if there would be none.
        """
        detail = failure.detail if failure is not None else ""
        # Nodes are not asked again that may be why there is a failure of infrastructure.
        asked = nodes[:1] if failure is not None and failure.silent else nodes
        try:
            if told := self.told(asked):
                return Failure(told, "infrastructure", detail), True
        except EvaluationFailed as error:
            return Failure(error.cause, error.kind, detail), False
        return failure, False
