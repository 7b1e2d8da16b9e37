"""The root's side of the search: when proposals are made, how results are judged, what is written down and shown.

It knows the strategy and the records, but neither ranks nor processes. Every change of its state is an event of the
journal, and reading the journal again makes the same changes: so a run is resumed as if it had not been interrupted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mpipso.config import Config
from mpipso.errors import RunFailed
from mpipso.evaluation import BASELINE, CONFIRM, REPEAT, Assignment, Configuration, Evaluation, Failure, Metrics
from mpipso.incumbent import Incumbent
from mpipso.record.figures import score as score_text
from mpipso.record.folders import RunFolder
from mpipso.record.journal import Journal
from mpipso.record.judged import Judged, from_fields, verdict
from mpipso.record.monitor import Monitor
from mpipso.record.outcome import NO_BASELINE
from mpipso.record.recipe import NodeStart
from mpipso.record.warm import Earlier, told
from mpipso.record.warm import to_fields as to_learned
from mpipso.search.budgets import fruitless, reaches, spent
from mpipso.search.durations import Durations
from mpipso.search.knowledge import Knowledge, knowledge
from mpipso.search.leaders import Leaders
from mpipso.search.objective import Objective
from mpipso.search.schedule import Schedule
from mpipso.search.space import Space
from mpipso.search.strategy import Strategy
from mpipso.search.trials import Trial, Trials


class Tuning:
    """One run of the search.

    Parameters
    ----------
    space, baseline:
        As :func:`mpipso.startup.well_defined` gives them for the configuration.
    strategy:
        A new one, which has not been asked for anything.
    publish:
        Prepares a configuration for use by hand and returns the commands for ``best.sh``.
    past:
        The events of the run's earlier sessions, which the journal already holds.

    Raises
    ------
    RunFailed
        The baseline failed in an earlier session, and a limit is relative to it.
    """

    def __init__(
        self,
        config: Config,
        space: Space,
        baseline: Configuration | None,
        strategy: Strategy,
        folder: RunFolder,
        journal: Journal,
        monitor: Monitor,
        publish: Callable[[Configuration], Sequence[NodeStart]],
        past: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        self._search = config.search
        self._grace = config.service.stop_grace
        self._folder = folder
        self._journal = journal
        self._monitor = monitor
        self.space, self.baseline = space, baseline
        self.objective = Objective(config.objective)
        # There cannot be more measurements of the baseline than evaluations.
        self._baseline_repeats = min(self._search.baseline_repeats, self._search.evaluations)
        self.trials = Trials(self.space, self.objective, self.baseline, self._baseline_repeats)
        self._leaders = Leaders(self.trials, self.objective, self._search.leaders, self._search.confirm)
        self._incumbent = Incumbent(self.trials, self._leaders, self.objective, folder, journal, publish)
        self.schedule = Schedule(self._search.schedule, self._search.batch)
        self._strategy = strategy
        self._proposed = 0
        self._told: set[int] = set()
        self._durations = Durations()
        self._attempts: Counter[int] = Counter()
        self._handed_out: set[int] = set()
        self._unjudged: list[Evaluation] = []
        self._told_of_kill = False
        self.cause = ""
        """Which budget ended the search; empty while it goes on."""
        for event in past:
            self._replay(event)
        if self.objective.relative and self.trials.reference() is None:
            # An earlier session with a smaller budget may have judged by fewer measurements of the baseline than this
            # one asks for: then all is judged again once they are there.
            self._unjudged = self.trials.results
            self._incumbent.number = None
        self._earlier = {result.number for result in self.trials.results}
        unjudged = {evaluation.number for evaluation in self._unjudged}
        results = [result for result in self.trials.results if result.number not in unjudged]
        failed = sum(result.failure is not None for result in results)
        self._monitor.resumed(len(results), failed, sum(result.seconds for result in results))
        confirmations = sum(self.trials.label(number) == CONFIRM for number in range(self.trials.next_number))
        self._monitor.expect(max(self._search.evaluations + confirmations, self.trials.next_number) - self._left_out())
        self._settle()
        self._incumbent.resume()

    def learn(self, earlier: Earlier) -> None:
        """Take over what an earlier run measured; to be called before the first proposal."""
        self._journal.write("learned", **to_learned(earlier))
        known = self._learn(earlier.results)
        self._monitor.note(told(earlier, known.skipped, learned=bool(known.scores)))

    def _learn(self, results: Sequence[tuple[Configuration, Metrics | None]]) -> Knowledge:
        """Tell the strategy of earlier results; returns what it was told, and why some results were skipped."""
        known = knowledge(self.space, self.objective, results, self.baseline)
        self._strategy.learn(known.points, known.scores)
        return known

    # What is to be measured

    def propose(self, idle: int) -> list[Assignment]:
        """Everything that may be measured now and has not been handed out yet, the most urgent first.

        Parameters
        ----------
        idle:
            How many groups have nothing to do; an asynchronous search proposes no more than these need.

        Raises
        ------
        RunFailed
            So many evaluations failed that the search gives up (:func:`mpipso.search.budgets.fruitless`).
        """
        # What an earlier session has asked for beyond the budget of this one is left to a later session.
        allowed = set(self.trials.searched[: self._search.evaluations])
        waiting = [number for number in self.trials.waiting if number in allowed]
        assignments = [self._assignment(number) for number in waiting if number not in self._handed_out]
        while (count := self._due(idle - len(assignments))) > 0:
            asked = self._ask(count)
            assignments += asked
            if not asked:
                self.cause = "exhausted"
        self._handed_out.update(assignment.number for assignment in assignments)
        if self.schedule.kind == "generation":
            # Limits are judged by the baseline, so it comes before all others; then come the longest ones.
            assignments.sort(key=lambda each: (each.configuration != self.baseline, -each.seconds))
        return assignments

    def confirmations(self, groups: int) -> list[Assignment]:
        """The next turns of the final race, which measures the leaders and the baseline again; empty once it is over.

        In a turn each of them is measured once, so that changes of the machines in the meantime affect all of them.
        Several turns are given out at once where some of the ``groups`` would be idle at the end of one. What an
        earlier session has asked for and not measured comes first.
        """
        if left := [number for number in self._unraced(over=False) if number not in self._handed_out]:
            self._handed_out.update(left)
            return [self._assignment(number) for number in left]
        done = {trial.number: len(self.trials.confirmations(trial)) for trial in self._leaders.racing()}
        fewest = min(done.values(), default=self._search.confirm)
        if fewest >= self._search.confirm:
            return []
        turn = [self.trials.of(number) for number, count in done.items() if count == fewest]
        # The baseline and the incumbent come first: a race that is cut short should at least tell of these.
        turn.sort(key=lambda trial: (trial is not self.trials.baseline, trial.number != self._incumbent.number))
        # So many turns that all groups are busy to the end of the last one.
        times = max(1, min(groups // math.gcd(groups, len(turn)), self._search.confirm - fewest))
        assignments = self._register([], [(trial.configuration, CONFIRM) for _ in range(times) for trial in turn])
        self._handed_out.update(assignment.number for assignment in assignments)
        self._monitor.expect(self.trials.next_number - self._left_out())
        return assignments

    @property
    def evaluation_seconds(self) -> float:
        """Seconds within which nine in ten evaluations ended; 0 before any has."""
        return self._durations.long

    def race_seconds(self, groups: int) -> tuple[float, float]:
        """Seconds that the final race may take on so many groups, with what still runs before it: at least and at most.

        The least is for the baseline and one leader, without which it tells nothing; the most is for all that may race.
        """
        if self._search.confirm == 0 or groups == 0:
            return 0.0, 0.0
        least, all_of_them = (
            (1 + math.ceil(racers * self._search.confirm / groups)) * self.evaluation_seconds
            for racers in (2, self._leaders.most_racers())
        )
        return least, all_of_them

    def stop(self, cause: str) -> None:
        """Propose nothing more, because a budget that the root watches is spent; ``cause`` names it."""
        self.cause = self.cause or cause

    def _left_out(self) -> int:
        """How many evaluations, asked for by earlier sessions and without a result, this session does not do.

        They are beyond its budget, or belong to a race that is over.
        """
        beyond = self.trials.searched[self._search.evaluations :]
        return sum(self.trials.result(number) is None for number in beyond) + len(self._unraced(over=True))

    def _unraced(self, *, over: bool) -> list[int]:
        """The numbers of the confirmations without a result: of races that are over, or of the present one."""
        waiting = [number for number in self.trials.waiting if self.trials.label(number) == CONFIRM]
        return [number for number in waiting if (self.trials.race_of(number) != self.trials.race) == over]

    def _due(self, idle: int) -> int:
        """How many evaluations may be asked for now, by the schedule and the budgets.

        If a budget is spent, this sets ``cause``.
        """
        if self.cause:
            return 0
        searched = self.trials.searched
        sees = self.schedule.sees(len(searched))
        if sees is None:
            # Until the baseline is known, the strategy can be told nothing. As many proposals as particles, or as the
            # baseline needs, are made without; later ones wait.
            blind = not self._judgeable(self._visible())
            most = max(self._search.particles, self._baseline_repeats)
            if idle <= 0 or (blind and len(searched) >= most):
                return 0
        elif any(self.trials.result(number) is None for number in searched[: min(sees, self._search.evaluations)]):
            return 0
        self.cause = self._spent(self._visible())
        if self.cause:
            return 0
        together = idle if sees is None else self.schedule.together(len(searched))
        return min(together, self._search.evaluations - len(searched))

    def _visible(self) -> list[int]:
        """The numbers of the evaluations whose results the next proposal may see, in the order they were asked for."""
        searched = self.trials.searched
        sees = self.schedule.sees(len(searched))
        return [number for number in searched[:sees] if self.trials.result(number) is not None]

    def _judgeable(self, visible: Collection[int]) -> bool:
        """Whether these evaluations can be judged: the baseline's are among them if limits are relative to it."""
        return not self.objective.relative or set(range(self._baseline_repeats)) <= set(visible)

    def _spent(self, visible: Sequence[int]) -> str:
        """The name of the budget that is spent, or empty; RunFailed if the search should give up."""
        best = self._leaders.leader(visible) if self._judgeable(visible) else None
        score = None if best is None else self.trials.score(best, visible)
        if best is None and (lines := fruitless(self._search, self.objective, self.trials, visible, self._earlier)):
            raise RunFailed("\n".join(lines))
        pair = None if best is None or score is None else (best, score)
        return spent(self._search, self.objective, self.trials, visible, pair)

    def _ask(self, count: int) -> list[Assignment]:
        """The next ``count`` evaluations, repeats and proposals; fewer when every configuration has been proposed."""
        visible = self._visible()
        told = [number for number in visible if number not in self._told] if self._judgeable(visible) else []
        self._tell(told)
        first = len(self.trials.searched)
        repeats = self._repeats(first, count)
        points = iter(self._strategy.ask(count - len(repeats)) if count > len(repeats) else ())
        wanted: list[tuple[Configuration, str]] = []
        for position in range(first, first + count):
            if position in repeats:
                wanted.append((repeats[position], REPEAT))
            elif (point := next(points, None)) is not None:
                configuration = self.space.decode(point)
                wanted.append((configuration, BASELINE if configuration == self.baseline else ""))
        return self._register(told, wanted)

    def _repeats(self, first: int, count: int) -> dict[int, Configuration]:
        """The configurations to measure again, by their position among the search's evaluations.

        ``first`` is the position of the next evaluation, and ``count`` how many are asked for.
        """
        positions = range(first, first + count)
        repeats: dict[int, Configuration] = {}
        if self.baseline is not None:
            repeats = {position: self.baseline for position in positions if 0 < position < self._baseline_repeats}
        turns = [position for position in positions if position % self._search.particles == 0 and position > 0]
        if self._search.repeats == 1 or not (turns or self._search.target is not None):
            return repeats
        leader = self._leaders.leader(self._told)
        if leader is not None and self._wants_more(leader):
            score = self.trials.score(leader, self._told)
            reached = score is not None and reaches(self._search, self.objective, score)
            for position in turns[:1] or [each for each in positions if each not in repeats and reached][:1]:
                repeats[position] = leader.configuration
        return repeats

    def _wants_more(self, leader: Trial) -> bool:
        """Whether the search should measure a leader again: it has fewer measurements than ``repeats``.

        Failed measurements do not count, up to ``repeats`` of them.
        """
        asked = [number for number in leader.numbers if self.trials.label(number) != CONFIRM]
        told = [self.trials.result(number) for number in asked if number in self._told]
        failed = sum(result is not None and result.failure is not None for result in told)
        return len(asked) - min(failed, self._search.repeats) < self._search.repeats

    def _tell(self, numbers: Sequence[int]) -> None:
        """Tell the strategy the scores that further results give."""
        self._told.update(numbers)
        for number in dict.fromkeys(self.trials.of(number).number for number in numbers):
            trial = self.trials.of(number)
            score = self.trials.score(trial, self._told)
            if score is not None:
                self._strategy.tell(trial.proposal, score)

    def _register(self, told: Sequence[int], wanted: Sequence[tuple[Configuration, str]]) -> list[Assignment]:
        new: list[dict[str, Any]] = [
            {"number": number, "label": label, "configuration": configuration}
            for number, (configuration, label) in enumerate(wanted, start=self.trials.next_number)
        ]
        if new:
            self._journal.write("asked", told=list(told), new=new)
        for each in new:
            self._enter(each)
        return [self._assignment(each["number"]) for each in new]

    def _enter(self, asked: Mapping[str, Any]) -> None:
        self.trials.ask(asked["number"], asked["configuration"], asked["label"], self._proposed)
        self._proposed += asked["label"] not in (REPEAT, CONFIRM)

    def _assignment(self, number: int) -> Assignment:
        trial = self.trials.of(number)
        return Assignment(
            number,
            self._attempts[number] + 1,
            trial.configuration,
            self.trials.label(number),
            self._durations.predict(self.space.encode(trial.configuration)),
            self.trials.groups(trial),
        )

    # What comes back

    def assigned(self, group: int, assignment: Assignment) -> None:
        """Record that an attempt begins on a group."""
        self._journal.write("assigned", number=assignment.number, attempt=assignment.attempt, group=group)
        self._attempts[assignment.number] = assignment.attempt
        self._monitor.assigned(group, assignment.number, assignment.label, assignment.configuration)

    def retried(self, evaluation: Evaluation) -> None:
        """Record an attempt that failed for reasons outside its configuration and will be repeated."""
        failure = evaluation.failure or Failure("it gave no result", "infrastructure")
        self._folder.save(evaluation)
        self._journal.write(
            "retried",
            number=evaluation.number,
            attempt=evaluation.attempt,
            group=evaluation.group,
            kind=failure.kind,
            cause=failure.cause,
        )
        self._monitor.retried(evaluation.group, evaluation.number, failure.cause)

    def evaluated(self, evaluation: Evaluation) -> None:
        """Record a final result, and judge it as soon as the baseline is known if limits are relative to that.

        Raises
        ------
        RunFailed
            The baseline failed with this result, and a limit is relative to it.
        """
        self._folder.save(evaluation)
        if evaluation.killed and not self._told_of_kill:
            self._told_of_kill = True
            self._monitor.note(
                f"group {evaluation.group} #{evaluation.number} had to kill its service, which did not end within "
                f"{self._grace:g} s of TERM (service.stop_grace); every stop may take that long (told once)"
            )
        if self.objective.relative and self.trials.reference() is None:
            self._journal.evaluated(Judged(evaluation, judged=False))
            self._take(evaluation)
            self._unjudged.append(evaluation)
            self._settle()
        else:
            judged = self._judged(evaluation)
            self._journal.evaluated(judged)
            self._take(evaluation)
            self._show(judged)

    def _take(self, evaluation: Evaluation) -> None:
        self.trials.take(evaluation)
        self._durations.tell(self.space.encode(evaluation.configuration), evaluation.seconds)

    def _settle(self) -> None:
        """Judge the results that had to wait for the baseline, once that is known."""
        reference = self.trials.reference()
        if not self._unjudged or reference is None:
            return
        waiting, self._unjudged = self._unjudged, []
        for evaluation in waiting:
            if evaluation.configuration == self.baseline:
                self._baseline_works(evaluation)
        for line in self.trials.vague():
            self._monitor.note(f"note: {line}")
        for evaluation in waiting:
            judged = self._judged(evaluation)
            self._journal.write("judged", number=evaluation.number, **verdict(judged))
            self._show(judged)

    def _baseline_works(self, evaluation: Evaluation) -> None:
        """Raise RunFailed if the baseline has failed, with ``evaluation`` as an example."""
        reference = self.trials.reference()
        score = self.objective.judge(evaluation, evaluation.metrics)
        if reference or not score.failed:
            return
        raise RunFailed(
            f"{NO_BASELINE}: {score.cause}\n"
            f"{evaluation.failure.detail if evaluation.failure else ''}\n"
            f"objective.slo has limits relative to the baseline, so nothing can be judged: give limits as numbers, "
            f"or defaults that work, and start a new run; "
            f"logs are in {self._folder.evaluation(evaluation.number, evaluation.attempt)}"
        )

    def _judged(self, evaluation: Evaluation, *, confirmed: bool = False) -> Judged:
        score = self.trials.judge(evaluation, confirmed=confirmed)
        return Judged(
            evaluation, score.fitness, score.feasible, score.failed, score.violations, violation=score.violation
        )

    def _show(self, judged: Judged) -> None:
        evaluation = judged.evaluation
        best = self.trials.label(evaluation.number) != CONFIRM and self._incumbent.challenge()
        self._monitor.evaluated(evaluation, self._summary(evaluation, judged.failed), best, judged.violations)

    def _summary(self, evaluation: Evaluation, failed: bool = False) -> str:
        if failed:
            return f"failed: {evaluation.failure.cause if evaluation.failure else 'a metric is missing'}"
        return score_text(
            self.objective.metric, evaluation.metrics, self.trials.reference(), higher=self.objective.maximized
        )

    # Who is the best

    @property
    def incumbent(self) -> int | None:
        """The number of the best configuration's first evaluation; None without a best one."""
        return self._incumbent.number

    def conclude(self) -> bool:
        """Choose the best by what the final race measured; returns whether there is one that keeps to the limits."""
        confirmations = [number for trial in self.trials for number in self.trials.confirmations(trial)]
        self._judge_again(confirmations)
        return self._incumbent.conclude(confirmations)

    def _judge_again(self, confirmations: Sequence[int]) -> None:
        """Judge confirmations again, by what the baseline measured in their race: a machine changes with the hours."""
        if not self.objective.relative:
            return
        for number in confirmations:
            if (result := self.trials.result(number)) is not None:
                self._journal.write("judged", number=number, **verdict(self._judged(result, confirmed=True)))

    def known_good(self) -> Configuration | None:
        """A configuration that works, to probe a group with: the baseline or the best so far; None without either."""
        baseline = self.trials.baseline
        if baseline is not None and self.trials.reference():
            return baseline.configuration
        return None if (best := self._incumbent.trial) is None else best.configuration

    # What was

    def _replay(self, event: Mapping[str, Any]) -> None:
        """Make the change of state that an event of an earlier session records."""
        match event["event"]:
            case "learned":
                self._learn([(each["configuration"], each["metrics"]) for each in event["results"]])
            case "asked":
                self._tell(event["told"])
                points = [
                    self.space.encode(each["configuration"])
                    for each in event["new"]
                    if each["label"] not in (REPEAT, CONFIRM)
                ]
                if points:
                    self._strategy.replay(np.array(points))
                for each in event["new"]:
                    self._enter(each)
            case "assigned":
                self._attempts[event["number"]] = event["attempt"]
            case "evaluated":
                evaluation = from_fields(event).evaluation
                self._take(evaluation)
                if not event.get("judged", True):
                    self._unjudged.append(evaluation)
            case "judged":
                self._unjudged = [each for each in self._unjudged if each.number != event["number"]]
            case "incumbent":
                self._incumbent.number = event["number"]
            case "finished":
                self._incumbent.number = event["incumbent"]
