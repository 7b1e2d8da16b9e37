"""How long a run may still start evaluations: its own time limit, and the end of the Slurm job that it runs in.

After the run's own limit nothing is started any more, but what runs may end. At the end of a job everything is killed,
so an evaluation is started only if it is likely to end before, and the search ends in time for the final race. The end
of a job does not count if the job is started again then and goes on with the run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from mpipso import slurm
from mpipso.launched import REQUEUE

RESERVE = 60.0
"""Seconds before the end of a Slurm job at which everything has to be over."""
RACE_SHARE = 0.25
"""Largest share of the time, as it is when a session begins, that the final race may take from the search."""


class TimeLimits:
    """How long one session may still start evaluations.

    Parameters
    ----------
    limit:
        Seconds of the whole run, over all sessions, after which nothing is started; None for no limit.
    used:
        Seconds that earlier sessions of the run took.
    environment:
        As ``os.environ``; ``SLURM_JOB_END_TIME`` is in seconds since 1970. A Slurm that does not set it (22.05) is
        asked for it.
    clock:
        Returns seconds that never go back.
    """

    def __init__(
        self,
        limit: float | None,
        used: float,
        environment: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._starts = math.inf if limit is None else clock() + limit - used
        self._ends = clock() + _end_of_job(environment) - time.time() - RESERVE
        self._race = RACE_SHARE * max(0.0, self._left(0.0))

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
        least, most = race
        return self._left(evaluation) <= (0.0 if least > self._race else min(most, self._race))

    def _left(self, evaluation: float) -> float:
        """Seconds in which an evaluation that takes so long may still be started; infinite for no limit."""
        return min(self._starts, self._ends - evaluation) - self._clock()


def _end_of_job(environment: Mapping[str, str]) -> float:
    """When the Slurm job ends, and the run with it, in seconds since 1970; infinite if they do not, or if unknown."""
    job, end = environment.get("SLURM_JOB_ID"), environment.get("SLURM_JOB_END_TIME", "")
    if environment.get(REQUEUE) == "1":
        return math.inf
    if end.isdecimal():
        return int(end)
    return _asked(job, environment) if job else math.inf


def _asked(job: str, environment: Mapping[str, str]) -> float:
    """The end of a job by ``squeue``, which gives local time, in seconds since 1970; infinite if it gives no time."""
    words = ["squeue", "--noheader", "--jobs", job, "--format", "%e"]
    answer = slurm.ask(words, {**environment, "SLURM_TIME_FORMAT": "standard"})
    try:
        return time.mktime(time.strptime(answer.strip(), "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return math.inf
