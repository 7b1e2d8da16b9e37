"""What all measurements of one configuration say together.

Every measurement is an evaluation with a number of its own. Those of the search (label empty, ``baseline`` or
``repeat``) chose the best configuration, so the best of them is better than it should be; the confirmations at the end
did not take part in the choice. So where a configuration was confirmed, its confirmations alone count.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from mpipso.evaluation import CONFIRM, Configuration, Metrics, at_one_load, together, works
from mpipso.record import figures
from mpipso.record.judged import Judged
from mpipso.score import Score
from mpipso.wording import plural


@dataclass(frozen=True)
class Measured:
    """A configuration and what all its measurements say together.

    Attributes
    ----------
    measurements:
        Its measurements, at least one, in the order in which they came.
    races:
        Its confirmations by the final race that they belong to, without those that tell nothing. A run that was resumed
        for further evaluations has several races.
    race:
        The race that counts for it, None if none does.
    """

    measurements: tuple[Judged, ...]
    races: Mapping[int, tuple[Judged, ...]] = field(default_factory=dict)
    race: int | None = None

    @property
    def number(self) -> int:
        """The number of its first measurement, by which people are told of it."""
        return min(judged.evaluation.number for judged in self.measurements)

    @property
    def configuration(self) -> Configuration:
        """The parameters with their values."""
        return self.measurements[0].evaluation.configuration

    @property
    def confirmed(self) -> bool:
        """Whether the measurements that count are confirmations."""
        return self.counted[0].evaluation.label == CONFIRM

    @property
    def counted(self) -> tuple[Judged, ...]:
        """The measurements that count, at least one: those of the race if there are any, else the search's that tell.

        One whose failure says nothing about the configuration, or that was stopped early, counts only where no other
        measurement does.
        """
        raced = () if self.race is None else self.races.get(self.race, ())
        telling = tuple(judged for judged in self.measurements if not judged.evaluation.silent)
        telling = tuple(judged for judged in telling if not judged.evaluation.stopped) or telling
        searched = tuple(judged for judged in telling if judged.evaluation.label != CONFIRM)
        return raced or searched or telling or self.measurements

    @property
    def silent(self) -> bool:
        """Whether no measurement says anything about it."""
        return all(judged.evaluation.silent for judged in self.measurements)

    @property
    def good(self) -> tuple[Judged, ...]:
        """The measurements that count and have not failed; none of a benchmark that was stopped early."""
        return tuple(judged for judged in self.counted if not (judged.failed or judged.evaluation.stopped))

    @property
    def stopped(self) -> bool:
        """Whether its benchmark was stopped early, so that little is known of it."""
        return all(judged.evaluation.stopped for judged in self.counted)

    @property
    def failed(self) -> bool:
        """Whether the configuration does not work: half or more of the measurements that count have failed."""
        return not (self.stopped or works(self.good, self.counted))

    @property
    def failures(self) -> str:
        """In how many of the measurements that count it failed, in words."""
        count = len(self.counted)
        return f"failed in {count - len(self.good)} of {count} {plural(count, 'measurement')}"

    @property
    def broken(self) -> tuple[Judged, ...]:
        """The good measurements that break a limit."""
        return tuple(judged for judged in self.good if not judged.feasible)

    @property
    def score(self) -> Score:
        """What the configuration is worth, as the search judged it.

        Journals of earlier versions do not tell that of several measurements. There it is the :attr:`good_score`.
        """
        if (together := self.counted[-1].together) is not None:
            return together
        if self.failed:
            return Score(failed=True)
        if self.stopped and self.counted[0].score is not None:
            return self.counted[0].score
        return self.good_score

    @property
    def good_score(self) -> Score:
        """What the good measurements alone are worth: most of them have to keep all limits, and the numbers are means.

        That is what a configuration is worth as a reference for others, even where it fails too often to be the best.
        """
        scores = [judged.score for judged in self.good if judged.score is not None]
        infeasible = 2 * len(self.broken) >= len(self.good)
        fitness = [score.fitness for score in scores if score.fitness is not None]
        violation = fmean(score.violation for score in scores) if infeasible else 0.0
        return Score(False, infeasible, violation, fmean(fitness) if fitness else None)

    @property
    def violations(self) -> str:
        """The broken limits of the last measurement that broke any, and in how many of how many; may be empty."""
        if not self.broken:
            return ""
        often = f" (in {len(self.broken)} of {len(self.good)} measurements)" if len(self.good) > 1 else ""
        return "; ".join(self.broken[-1].violations) + often

    @property
    def metrics(self) -> Metrics:
        """The mean over the good measurements of each metric that all of them have; of sweeps, at one load."""
        return together([judged.evaluation for judged in self.good])

    @property
    def cut(self) -> str:
        """At which load of a sweep the last measurement that has failed at one did so, and why; may be empty."""
        return next((judged.evaluation.cut for judged in reversed(self.measurements) if judged.evaluation.cut), "")

    @property
    def loads(self) -> dict[str, list[Metrics]]:
        """The metrics at each load of a sweep, from the lowest on, of all measurements there, those of races too."""
        found: dict[str, list[Metrics]] = {}
        for judged in self.measurements:
            for load, metrics in judged.evaluation.loads.items():
                found.setdefault(load, []).append(metrics)
        return found

    def values(self, metric: str) -> list[float]:
        """The values of one metric in the good measurements that have it; of sweeps, at one load."""
        there = at_one_load([judged.evaluation for judged in self.good])
        return [metrics[metric] for metrics in there if metric in metrics]

    @property
    def cause(self) -> str:
        """Why the measurements that count failed: the most frequent cause, ``""`` when none has one."""
        causes = Counter(j.evaluation.failure.cause for j in self.counted if j.evaluation.failure is not None)
        return causes.most_common(1)[0][0] if causes else ""


def by_configuration(results: Iterable[Judged]) -> list[Measured]:
    """The results by configuration, one object for each, in the order in which the configurations came first."""
    found: dict[Hashable, list[Judged]] = {}
    for judged in results:
        found.setdefault(figures.key(judged.evaluation.configuration), []).append(judged)
    races = _races(found)
    # After all others come races in which one configuration alone was measured: they were cut short, compare nothing.
    order = sorted(races, key=lambda race: (len(races[race]) > 1, race), reverse=True)
    several = []
    for key, measurements in found.items():
        own = {race: tuple(races[race][key]) for race in order if key in races[race]}
        several.append(Measured(tuple(measurements), own, next(iter(own), None)))
    return several


def _races(found: Mapping[Hashable, Sequence[Judged]]) -> dict[int, dict[Hashable, list[Judged]]]:
    """For each race, by how many evaluations of the search came before it, its confirmations by configuration."""
    every = [(key, judged) for key, measurements in found.items() for judged in measurements]
    searched = sorted(judged.evaluation.number for _, judged in every if judged.evaluation.label != CONFIRM)
    races: dict[int, dict[Hashable, list[Judged]]] = {}
    for key, judged in every:
        if judged.evaluation.label == CONFIRM and not judged.evaluation.silent:
            race = races.setdefault(bisect(searched, judged.evaluation.number), {})
            race.setdefault(key, []).append(judged)
    return races
