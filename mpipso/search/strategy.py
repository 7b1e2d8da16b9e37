"""What every way to search has in common: it is asked for points, and told the scores of those it gave."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from mpipso.score import Score
from mpipso.search.arrays import Array


class Strategy(ABC):
    """A way to search. Proposals are numbered 0, 1, 2, ... in the order in which they are asked for.

    Those that have been asked for and not told are in flight. What is proposed depends on the arguments of the
    constructor and on the sequence of calls alone, never on a clock or on a shared generator: random numbers are drawn
    from counter-based generators, by seed and proposal. So the same calls give the same proposals again.
    """

    @abstractmethod
    def ask(self, count: int) -> Array:
        """The next ``count`` points to measure, of shape (count, dimensions), in the unit cube.

        Fewer, down to shape (0, dimensions), when every configuration has been proposed.
        """

    @abstractmethod
    def tell(self, number: int, score: Score) -> None:
        """Take the score of proposal ``number``; told again, as the mean of more measurements, it replaces the earlier.

        Raises
        ------
        ValueError
            The proposal was not asked for.
        """

    @abstractmethod
    def replay(self, points: Array) -> None:
        """Go on as if ``ask`` had just returned ``points``, of shape (count, dimensions): those of an earlier run.

        The points are centres of cells, as :meth:`mpipso.search.space.Space.encode` gives them.
        """

    @abstractmethod
    def learn(self, points: Array, scores: Sequence[Score]) -> None:
        """Take measurements from elsewhere (an earlier run, another's table) before the first ``ask``.

        They are not proposals. ``points`` has shape (n, dimensions), and each point a score. Each call is for another
        place, which may be slower or faster than this one by a factor.
        """
