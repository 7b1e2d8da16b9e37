"""How long a run may still start evaluations: its own time limit, and the end of the batch job that it runs in.

After the run's own limit nothing is started any more, but what runs may end. At the end of a job everything is killed,
so an evaluation is started only if it is likely to end before, and the search ends in time for the final race. The end
of a job does not count if the job is started again then and goes on with the run.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping

from mpipso.batch import squeue
from mpipso.errors import UserError
from mpipso.launched import END_TIME, REQUEUE, RESTARTS

_AGAIN = 60.0
"""Seconds between two questions when a job ends."""
RESERVE = 60.0
"""Seconds before the end of a batch job at which everything has to be over."""
RACE_SHARE = 0.25
"""Largest share of the time of a session, as far as it is known, that the final race may take from the search."""
_MEANING = "it is when the job ends, in seconds since 1970, such as $(($(date +%s) + 8 * 3600))"


class TimeLimits:
    """How long one session may still start evaluations.

    Parameters
    ----------
    limit:
        Seconds of the whole run, over all sessions, after which nothing is started; None for no limit.
    used:
        Seconds that earlier sessions of the run took.
    environment:
        As ``os.environ``; ``MPIPSO_END_TIME`` and ``SLURM_JOB_END_TIME`` are in seconds since 1970, and the earlier one
        counts. A Slurm that does not set the latter (22.05) is asked for it. So is any Slurm, again, before a session
        ends for the sake of its job: whoever may do so gives a job more time, and one that was suspended gets its time
        back.
    clock:
        Returns seconds that never go back.

    Attributes
    ----------
    end:
        When the job ends, and the run with it, in seconds since 1970; infinite if they do not, or if unknown.
        :meth:`over` may move it.
    """

    def __init__(
        self,
        limit: float | None,
        used: float,
        environment: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._begun = clock()
        self._environment = environment
        self._starts = math.inf if limit is None else clock() + limit - used
        self._asked = -math.inf
        self._set_end(_end_of_job(environment))

    def _set_end(self, end: float) -> None:
        self.end = end
        self._ends = self._clock() + end - time.time() - RESERVE
        self._race = RACE_SHARE * max(0.0, min(self._starts, self._ends) - self._begun)

    @property
    def seconds(self) -> float | None:
        """Seconds in which evaluations may still be started if they took no time; None for no limit."""
        left = self._left(0.0)
        return None if left == math.inf else max(0.0, left)

    def over(self, evaluation: float, race: tuple[float, float] = (0.0, 0.0)) -> bool:
        """Whether it is too late to start another evaluation.

        Parameters
        ----------
        evaluation:
            Seconds that an evaluation is likely to take.
        race:
            Seconds that the final race takes at least and at most. The most is kept free, but no more than the race's
            share of the time; if that is too short for the least, nothing is kept free.
        """
        if not self._late(evaluation, race):
            return False
        for_the_job = self._ends - evaluation < self._starts
        return not (for_the_job and self._moved()) or self._late(evaluation, race)

    def _late(self, evaluation: float, race: tuple[float, float]) -> bool:
        least, most = race
        return self._left(evaluation) <= (0.0 if least > self._race else min(most, self._race))

    def _left(self, evaluation: float) -> float:
        """Seconds in which an evaluation that takes so long may still be started; infinite for no limit."""
        return min(self._starts, self._ends - evaluation) - self._clock()

    def _moved(self) -> bool:
        """Whether the job ends later than was known; it is asked for from time to time only."""
        if self._clock() - self._asked < _AGAIN:
            return False
        self._asked = self._clock()
        end = min(_given_end(self._environment), _asked_end(self._environment))
        if not self.end < end < math.inf:
            return False
        self._set_end(end)
        return True


def require_time(environment: Mapping[str, str]) -> None:
    """UserError if ``MPIPSO_END_TIME`` is no time, or leaves none; that it may do where a job is started again."""
    end = _given_end(environment)
    if end - RESERVE <= time.time() and RESTARTS not in environment and environment.get(REQUEUE) != "1":
        raise UserError(f"{END_TIME}={end:.0f}: leaves no time; {_MEANING}")


def nothing_left(limit: float | None, used: float) -> str:
    """That a run's own time limit, in seconds, leaves nothing after the ``used`` ones; empty if it does."""
    if limit is None or used < limit:
        return ""
    return (
        f"search.time_limit is {limit:g} s for all sessions together, and those so far took {used:.0f} s, so that "
        "nothing more is measured; give a larger --time-limit"
    )


def _given_end(environment: Mapping[str, str]) -> float:
    """When the job ends, in seconds since 1970, as its script says; infinite if it does not, UserError if in vain."""
    if (text := environment.get(END_TIME)) is None:
        return math.inf
    if not re.fullmatch("[0-9]{1,11}", text):
        raise UserError(f"{END_TIME}={text}: not a time; {_MEANING}")
    return int(text)


def _end_of_job(environment: Mapping[str, str]) -> float:
    """When the job ends, and the run with it, in seconds since 1970; infinite if they do not, or if unknown."""
    if environment.get(REQUEUE) == "1":
        return math.inf
    return min(_given_end(environment), _end_of_slurm_job(environment))


def _end_of_slurm_job(environment: Mapping[str, str]) -> float:
    end = environment.get("SLURM_JOB_END_TIME", "")
    return int(end) if end.isdecimal() else _asked_end(environment)


def _asked_end(environment: Mapping[str, str]) -> float:
    """The end of a job of Slurm, which gives local time, in seconds since 1970; infinite if it gives no time."""
    if not (job := environment.get("SLURM_JOB_ID")):
        return math.inf
    answer = squeue(job, "%e", environment={**environment, "SLURM_TIME_FORMAT": "standard"})
    try:
        return time.mktime(time.strptime(answer, "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return math.inf
