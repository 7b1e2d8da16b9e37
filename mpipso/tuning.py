"""The root's side of the search: what is proposed, how results are judged, what is written down and shown.

Knows the swarm and the records; knows neither ranks nor processes. :mod:`mpipso.roles` brings the evaluations.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from mpipso.config import Config
from mpipso.errors import RunFailed, UserError
from mpipso.evaluation import Assignment, Configuration, Evaluation, Metrics
from mpipso.record.figures import score as score_text
from mpipso.record.folders import RunFolder
from mpipso.record.journal import Journal
from mpipso.record.judged import Judged
from mpipso.record.monitor import Monitor
from mpipso.record.recipe import Start, read_starts, write_best
from mpipso.record.report import Outcome
from mpipso.search.durations import Durations
from mpipso.search.objective import Objective, Score
from mpipso.search.space import Space
from mpipso.search.swarm import Swarm

BASELINE = 0
"""The number of the baseline's evaluation."""
_FRUITLESS = 20
"""Iterations without a new configuration after which the space counts as exhausted."""


class Tuning:
    """One run of the swarm, iteration by iteration.

    Parameters
    ----------
    publish:
        Prepares a configuration for use by hand and returns the commands for ``best.sh``.

    Raises
    ------
    UserError
        The space or the baseline is not well defined.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        journal: Journal,
        monitor: Monitor,
        publish: Callable[[Configuration], Sequence[Start]],
    ) -> None:
        self._config = config
        self._folder = folder
        self._journal = journal
        self._monitor = monitor
        self._publish = publish
        self.space, self.baseline = well_defined(config)
        self.objective = Objective(config.objective)
        self._swarm = Swarm(
            self.space.dimensions,
            config.search.particles,
            config.search.seed,
            start=None if self.baseline is None else self.space.encode(self.baseline),
            distinct=lambda point: self.space.key(self.space.decode(point)),
        )
        self._durations = Durations()
        self._begun = time.time()
        self._numbers: dict[str, int] = {}
        self._scores: dict[int, Score] = {}
        self._undecided: list[Evaluation] = []
        self._judged: list[Judged] = []
        self._baseline_metrics: Metrics | None = None
        self._incumbent: Judged | None = None
        self._retried = 0
        self._iteration = 0

    @property
    def remaining(self) -> int:
        """Evaluations left in the budget; confirmations do not count."""
        return self._config.search.evaluations - len(self._numbers)

    def iterate(self) -> _Iteration | None:
        """The next iteration of the swarm; None when the budget is spent or every configuration has been tried."""
        for _ in range(_FRUITLESS):
            if self.remaining <= 0:
                return None
            points = self._swarm.ask()
            numbers = []
            fresh: list[tuple[float, Assignment]] = []
            for point in points:
                configuration = self.space.decode(point)
                key = self.space.key(configuration)
                if key not in self._numbers:
                    if self.remaining <= 0:
                        break
                    number = self._numbers[key] = len(self._numbers)
                    label = "baseline" if configuration == self.baseline else ""
                    # Limits are judged by the baseline, so it begins before all others.
                    seconds = math.inf if label else self._durations.predict(point)
                    fresh.append((seconds, Assignment(number, 1, configuration, label)))
                numbers.append(self._numbers[key])
            asked = [
                {"number": n, "configuration": self.space.decode(p)} for n, p in zip(numbers, points, strict=False)
            ]
            self._journal.write("asked", iteration=self._iteration, particles=asked)
            self._iteration += 1
            if fresh:
                longest_first = sorted(fresh, key=lambda pair: -pair[0])
                return _Iteration(self, points, numbers, [assignment for _, assignment in longest_first])
            self.tell(points, numbers)
        return None

    def tell(self, points: np.ndarray, numbers: Sequence[int]) -> None:
        """Close an iteration: the swarm learns the scores of its particles. A cut-short last one is not told."""
        if len(numbers) == self._config.search.particles and all(number in self._scores for number in numbers):
            self._swarm.tell(points, [self._scores[number] for number in numbers])

    def assigned(self, group: int, assignment: Assignment) -> None:
        self._journal.write("assigned", number=assignment.number, attempt=assignment.attempt, group=group)
        self._monitor.assigned(group, assignment.number, assignment.label, assignment.configuration)

    def retried(self, evaluation: Evaluation) -> None:
        """An attempt failed for reasons outside its configuration and will be repeated."""
        self._retried += 1
        cause = evaluation.failure.cause if evaluation.failure else ""
        self._folder.save(evaluation)
        self._journal.write("retried", number=evaluation.number, attempt=evaluation.attempt, cause=cause)
        self._monitor.retried(evaluation.group, evaluation.number, cause)

    def evaluated(self, evaluation: Evaluation) -> None:
        """A result is in.

        Raises
        ------
        RunFailed
            It is the baseline's, the baseline failed, and a limit is relative to it.
        """
        self._folder.save(evaluation)
        if evaluation.label == "baseline":
            self._set_baseline(evaluation)
        if self.objective.relative and self._baseline_metrics is None:
            self._undecided.append(evaluation)
            return
        for waiting in (*self._undecided, evaluation):
            self._judge(waiting)
        self._undecided.clear()

    def confirmations(self) -> list[Assignment]:
        """Repeated measurements of baseline and incumbent, alternating; none if the baseline is still the best."""
        best = self._incumbent
        if best is None or self.baseline is None or best.evaluation.number == BASELINE:
            return []
        pair = ((BASELINE, self.baseline), (best.evaluation.number, best.evaluation.configuration))
        first = 2 + self._config.search.retries  # attempts of the search itself never get that far
        repeats = [
            Assignment(number, first + repeat * first, configuration, "confirm")
            for repeat in range(self._config.search.confirm)
            for number, configuration in pair
        ]
        self._monitor.expect(len(self._judged) + len(repeats))
        return repeats

    def outcome(self, ended: str = "") -> Outcome:
        """Everything about the run that a report tells; ``ended`` says why it did not come to its end."""
        best = self._incumbent
        return Outcome(
            evaluations=tuple(self._judged),
            incumbent=None if best is None else best.evaluation.number,
            objective=self.objective.metric,
            higher=self.objective.higher_is_better,
            folder=self._folder.path,
            starts=read_starts(self._folder.path),
            seconds=time.time() - self._begun,
            retried=self._retried,
            ended=ended,
        )

    def _set_baseline(self, evaluation: Evaluation) -> None:
        score = self.objective.judge(evaluation, evaluation.metrics)
        if not score.failed:
            self._baseline_metrics = evaluation.metrics
        elif self.objective.relative:
            judged = Judged(evaluation, failed=True)
            self._judged.append(judged)
            self._journal.evaluated(judged)
            raise RunFailed(
                f"the baseline configuration failed: {score.cause}\n"
                f"{evaluation.failure.detail if evaluation.failure else ''}\n"
                f"objective.slo has limits relative to the baseline, so nothing can be judged: give limits as numbers, "
                f"or defaults that work; logs are in {self._folder.evaluation(evaluation.number, evaluation.attempt)}"
            )

    def _judge(self, evaluation: Evaluation) -> None:
        score = self.objective.judge(evaluation, self._baseline_metrics)
        self._durations.tell(self.space.encode(evaluation.configuration), evaluation.seconds)
        judged = Judged(evaluation, score.fitness, score.feasible, score.failed, score.violations)
        self._judged.append(judged)
        self._journal.evaluated(judged)
        confirms = evaluation.label == "confirm"
        if not confirms:
            self._scores[evaluation.number] = score
        best = not confirms and score.feasible and (self._incumbent is None or judged.rank < self._incumbent.rank)
        if score.failed:
            summary = f"failed: {score.cause}"
        else:
            baseline = self._baseline_metrics
            summary = score_text(self.objective.metric, evaluation.metrics, baseline, self.objective.higher_is_better)
        if best:
            self._incumbent = judged
            self._journal.write("incumbent", number=evaluation.number, fitness=score.fitness)
            write_best(
                self._folder.path,
                evaluation,
                fitness=score.fitness,
                score=summary,
                starts=self._publish(evaluation.configuration),
                redactor=self._folder.redactor,
            )
        self._monitor.evaluated(evaluation, summary, best, score.violations)


class _Iteration:
    """One generation: the assignments that are new, and how it is closed when all of them are back."""

    def __init__(self, tuning: Tuning, points: np.ndarray, numbers: Sequence[int], fresh: Sequence[Assignment]) -> None:
        self._tuning = tuning
        self._points = points
        self._numbers = numbers
        self.assignments = fresh

    def close(self) -> None:
        self._tuning.tell(self._points, self._numbers)


def well_defined(config: Config) -> tuple[Space, Configuration | None]:
    """The search space and the baseline configuration.

    Raises
    ------
    UserError
        They contradict themselves, or limits refer to a baseline that is not given.
    """
    space = Space(config.parameters, config.constraints)
    baseline = space.default()
    if baseline is None and Objective(config.objective).relative:
        raise UserError("objective.slo: limits relative to the baseline need a default for every parameter")
    return space, baseline
