"""How long a run may still start evaluations: its own time limit, and the end of the Slurm job that it runs in.

The limit is on what is started; what runs then may end. At the end of a job everything is killed, so an evaluation is
begun only if it is likely to end before, and the search ends in time for the final race. But in a job that is started
again at its end, and then goes on with the run, that end is none of the run's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from mpipso import slurm
from mpipso.record.outcome import REQUEUE

RESERVE = 60.0
"""Seconds before the end of a Slurm job's time by which all is to be over."""
RACE_SHARE = 0.25
"""The most of the time that is there when a session begins that the final race may take from the search."""


class TimeLimits:
    """Of one session.

    Parameters
    ----------
    limit:
        Seconds of the whole run after which nothing is started; None for no limit.
    used:
        Seconds that earlier sessions of the run took.
    environment:
        As ``os.environ``; ``SLURM_JOB_END_TIME`` is in seconds since 1970. A Slurm that does not set it (22.05) is
        asked.
    clock:
        Seconds that only go forward.
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
        """Seconds in which evaluations may be started, however long they take; None for no limit."""
        left = self._left(0.0)
        return None if left == math.inf else max(0.0, left)

    def over(self, evaluation: float, race: tuple[float, float] = (0.0, 0.0)) -> bool:
        """Whether no evaluation that takes so long may be started any more.

        Parameters
        ----------
        evaluation:
            Seconds that it is likely to take.
        race:
            Seconds that are to be left for the final race: at least, else there is no point in it, and at most.
        """
        least, most = race
        return self._left(evaluation) <= (0.0 if least > self._race else min(most, self._race))

    def _left(self, evaluation: float) -> float:
        return min(self._starts, self._ends - evaluation) - self._clock()


def _end_of_job(environment: Mapping[str, str]) -> float:
    """When the Slurm job ends, and the run with it, in seconds since 1970; infinite if it does not, or nobody knows."""
    job, end = environment.get("SLURM_JOB_ID"), environment.get("SLURM_JOB_END_TIME", "")
    if environment.get(REQUEUE) == "1":
        return math.inf
    if end.isdecimal():
        return int(end)
    return _asked(job, environment) if job else math.inf


def _asked(job: str, environment: Mapping[str, str]) -> float:
    """What ``squeue`` says: local time, or that there is no end."""
    words = ["squeue", "--noheader", "--jobs", job, "--format", "%e"]
    answer = slurm.ask(words, {**environment, "SLURM_TIME_FORMAT": "standard"})
    try:
        return time.mktime(time.strptime(answer.strip(), "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return math.inf
