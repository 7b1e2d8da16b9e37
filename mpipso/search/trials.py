"""What has been asked and measured so far: configurations, their measurements, and what these together are worth.

Times and the order in which results arrive do not matter: what is said depends only on the evaluations that are asked
about, so that a resumed run comes to the same conclusions.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

from mpipso.evaluation import CONFIRM, Configuration, Evaluation, Metrics, at_one_load, mean, reference, together, works
from mpipso.score import Score
from mpipso.search.objective import Objective
from mpipso.search.space import Space

_VAGUE = 1.5
"""Ratio of the greatest to the least measurement of the baseline above which limits relative to it are called vague."""


@dataclass
class Trial:
    """A configuration and the evaluations that measure it.

    Attributes
    ----------
    proposal:
        The number of the configuration among the strategy's proposals.
    numbers:
        The numbers of its evaluations, in the order in which they were asked for; the first one names the trial.
    """

    proposal: int
    configuration: Configuration
    numbers: list[int] = field(default_factory=list)

    @property
    def number(self) -> int:
        return self.numbers[0]


class Trials:
    """All trials of a run.

    Parameters
    ----------
    baseline_repeats:
        How many of the baseline's first measurements are averaged for limits that are relative to it.
    """

    def __init__(self, space: Space, objective: Objective, baseline_repeats: int = 1) -> None:
        self._space = space
        self._objective = objective
        self._absolute = objective.absolute
        self._baseline = None if space.baseline is None else space.key(space.baseline)
        self._baseline_repeats = baseline_repeats
        self._trials: dict[str, Trial] = {}
        self._of: dict[int, Trial] = {}
        self._labels: dict[int, str] = {}
        self._results: dict[int, Evaluation] = {}
        self.searched: list[int] = []
        """The numbers of the search's evaluations, in the order in which they were asked for; no confirmations."""
        self.races: list[int] = []
        """The races so far, in order. A race is named by how many evaluations of the search were asked for before it.

        A run that is resumed after its race, for further evaluations, has another race at its end. The machines may
        have changed by then, so measurements of different races are not compared.
        """

    def __iter__(self) -> Iterator[Trial]:
        return iter(self._trials.values())

    @property
    def next_number(self) -> int:
        return len(self._of)

    @property
    def race(self) -> int:
        """The present race: the one that is on, or would begin now."""
        return len(self.searched)

    def race_of(self, number: int) -> int:
        """The race that a confirmation belongs to."""
        return bisect(self.searched, number)

    @property
    def baseline(self) -> Trial | None:
        return None if self._baseline is None else self._trials.get(self._baseline)

    @property
    def results(self) -> list[Evaluation]:
        return list(self._results.values())

    @property
    def waiting(self) -> list[int]:
        """The numbers of the evaluations that were asked for and have no result."""
        return [number for number in self._of if number not in self._results]

    def ask(self, number: int, configuration: Configuration, label: str, proposal: int) -> None:
        """Record that evaluation ``number`` will measure a configuration.

        ``proposal`` is the number of the strategy's proposal; it is not used if the configuration has a trial already.
        """
        key = self._space.key(configuration)
        trial = self._trials.setdefault(key, Trial(proposal, configuration))
        trial.numbers.append(number)
        self._of[number] = trial
        self._labels[number] = label
        if label != CONFIRM:
            self.searched.append(number)
        elif self.race not in self.races:
            self.races.append(self.race)

    def take(self, evaluation: Evaluation) -> None:
        """Record the final result of an evaluation that was asked for."""
        self._results[evaluation.number] = evaluation

    def of(self, number: int) -> Trial:
        """The trial that evaluation ``number`` belongs to."""
        return self._of[number]

    def label(self, number: int) -> str:
        return self._labels[number]

    def result(self, number: int) -> Evaluation | None:
        return self._results.get(number)

    def confirmations(self, trial: Trial, race: int | None = None) -> list[int]:
        """The numbers of a trial's confirmations, measured or not, in a race; without one, in the present race."""
        wanted = self.race if race is None else race
        return [n for n in trial.numbers if self._labels[n] == CONFIRM and self.race_of(n) == wanted]

    def raced(self, trial: Trial, race: int) -> list[int]:
        """The numbers of a trial's confirmations in a race that tell something about it; a lost node tells nothing."""
        results = self._among(trial, self.confirmations(trial, race))
        return [each.number for each in results if not each.silent]

    def groups(self, trial: Trial, number: int) -> tuple[int, ...]:
        """The groups that have measured a trial, each once: for the evaluation of this number, if in a race in that."""
        numbers = trial.numbers
        if self._labels[number] == CONFIRM:
            numbers = self.confirmations(trial, self.race_of(number))
        return tuple(dict.fromkeys(self._results[n].group for n in numbers if n in self._results))

    def reference(self, race: int | None = None) -> Metrics | None:
        """What limits relative to the baseline refer to in a ``race`` or, without one, in the search.

        That is as :func:`mpipso.evaluation.reference` says; None while it is not known.
        """
        trial = self.baseline
        if trial is None:
            return None
        first = [number for number in trial.numbers if self._labels[number] != CONFIRM][: self._baseline_repeats]
        measured = self._among(trial, first)
        raced = [] if race is None else self._good(trial, self.confirmations(trial, race))
        return reference(measured, raced) if raced or len(measured) == self._baseline_repeats else None

    def compared(self, race: int | None) -> Metrics | None:
        """What the best is compared with: the baseline's good measurements in a ``race``, or all in the search."""
        trial = self.baseline
        if trial is None:
            return None
        return together(self._good(trial, self.searched if race is None else self.confirmations(trial, race))) or None

    def vague(self) -> list[str]:
        """Warnings about metrics that limits are relative to and of which the baseline's measurements differ widely.

        There is one line per metric. A cold start may be the reason.
        """
        trial = self.baseline
        results = [] if trial is None else self._good(trial, self.searched)
        lines = []
        for metric in dict.fromkeys(limit.metric for limit in self._objective.limits if limit.relative):
            values = [result.metrics[metric] for result in results if metric in result.metrics]
            if len(values) > 1 and max(values) > _VAGUE * min(values) > 0.0:
                span = f"between {min(values):.6g} and {max(values):.6g}"
                lines.append(f"the baseline measured {metric} {span}: limits relative to it are vague until the race")
        return lines

    def judge(self, evaluation: Evaluation, *, confirmed: bool = False) -> Score:
        """The score of a single evaluation.

        Limits may be relative to the baseline: to its first measurements or, if ``confirmed``, to those in the race of
        this evaluation. The baseline itself is held against its own measurement, however its measurements vary. Raises
        ValueError when a limit is relative to a baseline that is not known.
        """
        reference = self.reference(self.race_of(evaluation.number) if confirmed else None) or None
        if reference is not None and self.of(evaluation.number) is self.baseline:
            reference = evaluation.metrics
        return self._objective.judge(evaluation, reference)

    def score(self, trial: Trial, among: Collection[int], *, confirmed: bool = False) -> Score | None:
        """The score of the mean of a trial's measurements that are ``among`` these evaluations; None if there are none.

        The trial has failed if at least half of them have; otherwise the failed ones are left out. A lost node says
        nothing about a configuration, so its failures are left out too, unless there is nothing else: then the
        configuration may be the reason. So are benchmarks that were stopped early, for they say less. ``confirmed`` is
        as for :meth:`judge`, with measurements of one race, and so is the ValueError.
        """
        results = self._among(trial, among)
        results = [result for result in results if not result.silent] or results
        results = [result for result in results if not result.stopped] or results
        return self._mean_score(trial, results, confirmed=confirmed) if results else None

    def _mean_score(self, trial: Trial, results: Sequence[Evaluation], *, confirmed: bool) -> Score:
        scores = [self.judge(result, confirmed=confirmed) for result in results]
        if len(scores) == 1:
            return scores[0]
        good = [result for result, score in zip(results, scores, strict=True) if not score.failed]
        if not works(good, results):
            return next(score for score in scores if score.failed)
        last = good[-1].number
        whole = Evaluation(last, 1, 0, trial.configuration, metrics=together(good))
        return self.judge(whole, confirmed=confirmed)

    def together(self, evaluation: Evaluation, *, confirmed: bool = False) -> Score | None:
        """The score of an evaluation together with the measurements that count with it; None if there are no others.

        With one of the search all of its trial in the search do, with a confirmation those in its race; a lost node
        tells nothing. ``confirmed`` and errors are as for :meth:`score`.
        """
        telling = self.counted_with(evaluation)
        trial = self.of(evaluation.number)
        return self._mean_score(trial, telling, confirmed=confirmed) if len(telling) > 1 else None

    def counted_with(self, evaluation: Evaluation) -> list[Evaluation]:
        """The measurements that count together with one, which is the last of them.

        A lost node tells nothing, and a benchmark that was stopped early counts with no other.
        """
        trial, among = self.of(evaluation.number), self.searched
        if self._labels[evaluation.number] == CONFIRM:
            among = self.confirmations(trial, self.race_of(evaluation.number))
        others = [each for each in self._among(trial, among) if each.number != evaluation.number]
        others = [] if evaluation.stopped else [each for each in others if not each.stopped]
        return [each for each in (*others, evaluation) if not each.silent]

    def at_its_load(self, evaluation: Evaluation) -> Evaluation:
        """A sweep, counted at the load at which it and what counts together with it are the best by their means.

        A load that only half of them have reached, or fewer, is none of these.
        """
        several = self.counted_with(evaluation)
        there = {load: [each.loads[load] for each in several if load in each.loads] for load in evaluation.loads}
        means = [mean(found) for found in there.values() if works(found, several)]
        scores = [self._absolute.judge(replace(evaluation, metrics=metrics), None) for metrics in means]
        if not scores:
            return evaluation
        load = replace(evaluation, metrics=means[scores.index(min(scores))]).load
        return replace(evaluation, metrics=evaluation.loads[load])

    def values(self, trial: Trial, among: Collection[int]) -> list[float]:
        """The fitness of each successful measurement of a trial among these evaluations; of sweeps, at one load."""
        good = self._good(trial, among)
        scores = [self.judge(replace(good[-1], metrics=metrics)) for metrics in at_one_load(good)]
        return [score.fitness for score in scores if score.fitness is not None]

    def _good(self, trial: Trial, numbers: Collection[int]) -> list[Evaluation]:
        return [each for each in self._among(trial, numbers) if each.good]

    def _among(self, trial: Trial, numbers: Collection[int]) -> list[Evaluation]:
        return [self._results[n] for n in trial.numbers if n in numbers and n in self._results]
