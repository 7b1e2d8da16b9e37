"""What all measurements of one configuration say together.

Every measurement is an evaluation with a number of its own. Those of the search (label empty, ``baseline`` or
``repeat``) chose the best configuration, so the best of them is better than it should be; the confirmations at the end
did not take part in the choice. So where a configuration was confirmed, its confirmations alone count.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from mpipso.evaluation import CONFIRM, Configuration, Metrics, mean, works
from mpipso.record import figures
from mpipso.record.judged import Judged


@dataclass(frozen=True)
class Measured:
    """A configuration and its measurements, at least one, in the order in which they came.

    ``raced`` are those of the race that counts for it; a run that was resumed for further evaluations has several.
    """

    measurements: tuple[Judged, ...]
    raced: tuple[Judged, ...] = ()

    @property
    def number(self) -> int:
        """That of its first measurement."""
        return min(judged.evaluation.number for judged in self.measurements)

    @property
    def configuration(self) -> Configuration:
        return self.measurements[0].evaluation.configuration

    @property
    def confirmed(self) -> bool:
        """Whether its confirmations count."""
        return self.counted[0].evaluation.label == CONFIRM

    @property
    def counted(self) -> tuple[Judged, ...]:
        """The measurements that count, at least one; those without a word on the configuration only if all are."""
        telling = tuple(judged for judged in self.measurements if not silent(judged))
        return self.raced or telling or self.measurements

    @property
    def good(self) -> tuple[Judged, ...]:
        """Those that count and have metrics."""
        return tuple(judged for judged in self.counted if not judged.failed)

    @property
    def failed(self) -> bool:
        """Whether the configuration does not work."""
        return not works(self.good, self.counted)

    @property
    def broken(self) -> tuple[Judged, ...]:
        """The good measurements that break a limit."""
        return tuple(judged for judged in self.good if not judged.feasible)

    @property
    def feasible(self) -> bool:
        """Whether most of its good measurements keep all limits."""
        return not self.failed and 2 * len(self.broken) < len(self.good)

    @property
    def violations(self) -> str:
        """The broken limits of the last measurement that broke any, and in how many of how many; may be empty."""
        if not self.broken:
            return ""
        often = f" (in {len(self.broken)} of {len(self.good)} measurements)" if len(self.good) > 1 else ""
        return "; ".join(self.broken[-1].violations) + often

    @property
    def violation(self) -> float | None:
        """How far the good measurements break the limits, in the mean: the sum over the limits, relative to each.

        None where that is not known of all of them.
        """
        known = [judged.violation for judged in self.good if judged.violation is not None]
        return fmean(known) if known and len(known) == len(self.good) else None

    @property
    def metrics(self) -> Metrics:
        """The mean over the good measurements of each metric that all of them have."""
        return mean([judged.evaluation.metrics for judged in self.good])

    def values(self, metric: str) -> list[float]:
        """What each good measurement says of one metric."""
        return [judged.evaluation.metrics[metric] for judged in self.good if metric in judged.evaluation.metrics]

    @property
    def cause(self) -> str:
        """Why it failed: the most frequent cause, ``""`` when no measurement has one."""
        causes = Counter(j.evaluation.failure.cause for j in self.counted if j.evaluation.failure is not None)
        return causes.most_common(1)[0][0] if causes else ""

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """Sort key, best first: feasible before infeasible before failed (Deb 2000), then by the mean fitness."""
        fitness = [judged.fitness for judged in self.good if judged.fitness is not None]
        return self.failed, not self.feasible, fmean(fitness) if fitness else float("inf")


def by_configuration(results: Iterable[Judged]) -> list[Measured]:
    """The results by configuration, in the order in which these came first."""
    found: dict[Hashable, list[Judged]] = {}
    for judged in results:
        found.setdefault(figures.key(judged.evaluation.configuration), []).append(judged)
    races = _races(found)
    return [
        Measured(tuple(measurements), next((tuple(race[key]) for race in races if key in race), ()))
        for key, measurements in found.items()
    ]


def _races(found: Mapping[Hashable, Sequence[Judged]]) -> list[dict[Hashable, list[Judged]]]:
    """What each race told of each configuration, the last race first, but before those that told of one alone.

    That was cut short, and compares nobody.
    """
    every = [(key, judged) for key, measurements in found.items() for judged in measurements]
    searched = sorted(judged.evaluation.number for _, judged in every if judged.evaluation.label != CONFIRM)
    races: dict[int, dict[Hashable, list[Judged]]] = {}
    for key, judged in every:
        if judged.evaluation.label == CONFIRM and not silent(judged):
            race = races.setdefault(bisect(searched, judged.evaluation.number), {})
            race.setdefault(key, []).append(judged)
    return [races[race] for race in sorted(races, key=lambda race: (len(races[race]) > 1, race), reverse=True)]


def silent(judged: Judged) -> bool:
    """Whether a result says nothing about its configuration."""
    failure = judged.evaluation.failure
    return failure is not None and failure.silent
