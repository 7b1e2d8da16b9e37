"""The root's side of the search: when proposals are made, how results are judged, what is written down and shown.

It knows the strategy and the records, but neither ranks nor processes. Every change of its state is an event of the
journal, and reading the journal again makes the same changes: so a run is resumed as if it had not been interrupted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mpipso.config import Config
from mpipso.errors import RunFailed
from mpipso.evaluation import CONFIRM, NOT_READY, REPEAT, Assignment, Configuration, Evaluation, Failure
from mpipso.incumbent import Incumbent
from mpipso.logtext import essence
from mpipso.record import warm
from mpipso.record.figures import score as score_text
from mpipso.record.folders import RunFolder
from mpipso.record.journal import Journal
from mpipso.record.judged import Judged, from_fields, judgement
from mpipso.record.monitor import Monitor
from mpipso.record.outcome import NO_BASELINE
from mpipso.record.recipe import NodeStart
from mpipso.record.warm import Earlier
from mpipso.search.agenda import Agenda
from mpipso.search.durations import Durations
from mpipso.search.objective import Objective
from mpipso.search.space import Space
from mpipso.search.strategy import Strategy


class Tuning:
    """One run of the search.

    Parameters
    ----------
    space:
        As :func:`mpipso.startup.well_defined` gives it for the configuration.
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
        self.space = space
        self.objective = Objective(config.objective)
        self._agenda = Agenda(config.search, space, self.objective, strategy)
        self.trials = self._agenda.trials
        self._incumbent = Incumbent(self.trials, self._agenda.leaders, self.objective, folder, journal, publish)
        self._durations = Durations()
        self._attempts: Counter[int] = Counter()
        self._handed_out: set[int] = set()
        self._unjudged: list[Evaluation] = []
        self._told_of_kill = False
        self._told_of_cuts: set[str] = set()
        for event in past:
            self._replay(event)
        if self.objective.relative and self.trials.reference() is None:
            # An earlier session with a smaller budget may have judged by fewer measurements of the baseline than this
            # one asks for: then all is judged again once they are there.
            self._unjudged = self.trials.results
            self._incumbent.forget()
        self._agenda.earlier = {result.number for result in self.trials.results}
        unjudged = {evaluation.number for evaluation in self._unjudged}
        results = [result for result in self.trials.results if result.number not in unjudged]
        failed = sum(result.failure is not None for result in results)
        self._monitor.resumed(len(results), failed, sum(result.seconds for result in results))
        self._monitor.expect(self._agenda.expected)
        self._settle()
        self._incumbent.resume()
        self._show_incumbent()

    def learn(self, earlier: Earlier) -> None:
        """Take over what an earlier run measured; to be called before the first proposal."""
        self._journal.write("learned", **warm.to_fields(earlier))
        known = self._agenda.learn(earlier.results)
        self._monitor.note(warm.told(earlier, known.skipped, learned=bool(known.scores)))

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
            So many evaluations failed that the search gives up (:func:`mpipso.search.fruitless.fruitless`).
        """
        assignments = [self._assignment(n) for n in self._agenda.waiting if n not in self._handed_out]
        while (count := self._agenda.due(idle - len(assignments))) > 0:
            asked = self._register(*self._agenda.ask(count))
            assignments += asked
            if not asked:
                self.stop("exhausted")
        self._handed_out.update(assignment.number for assignment in assignments)
        if self._agenda.schedule.kind == "generation":
            # Limits are judged by the baseline, so it comes before all others. Then come the longest ones, lest groups
            # wait for these at the end. One group alone never waits: it begins with the most promising proposals,
            # which are those that were made first, and measures again what is known at the end.
            assignments.sort(key=lambda one: one.label == REPEAT if idle == 1 else -one.seconds)
            assignments.sort(key=lambda one: one.configuration != self.space.baseline)
        return assignments

    def confirmations(self, groups: int) -> list[Assignment]:
        """What the final race measures next on so many groups; empty once it is over (:meth:`Agenda.turns`).

        To be called when nothing is under way. What was asked for and not measured comes first: an earlier session
        has left it, or it was dropped for want of time, of which there may be more now.
        """
        if left := self._agenda.unraced(over=False):
            return list(map(self._assignment, left))
        wanted = [(each, CONFIRM) for each in self._agenda.turns(groups, self._incumbent.number)]
        if assignments := self._register([], wanted):
            self._monitor.expect(self._agenda.expected)
        return assignments

    @property
    def lacks_race(self) -> bool:
        """Whether the final race has not measured all that it is to measure."""
        return self._agenda.lacks_race

    @property
    def evaluation_seconds(self) -> float:
        """Seconds within which nine in ten evaluations ended; 0 before any has."""
        return self._durations.long

    def race_seconds(self, groups: int) -> tuple[float, float]:
        """Seconds that the final race may take on so many groups, with what still runs before it: at least and at most.

        The least is for the baseline and one leader, without which it tells nothing; the most is for all that may race.
        Both are 0 without a race.
        """
        if self._search.confirm == 0 or groups == 0:
            return 0.0, 0.0
        least, all_of_them = (
            (1 + math.ceil(racers * self._search.confirm / groups)) * self.evaluation_seconds
            for racers in (2, self._agenda.leaders.most_racers())
        )
        return least, all_of_them

    def stop(self, cause: str) -> None:
        """Propose nothing more, because a budget that the root watches is spent; ``cause`` names it."""
        self._agenda.cause = self._agenda.cause or cause

    @property
    def cause(self) -> str:
        """Which budget ended the search; empty while it goes on."""
        return self._agenda.cause

    def _register(self, told: Sequence[int], wanted: Sequence[tuple[Configuration, str]]) -> list[Assignment]:
        new: list[dict[str, Any]] = [
            {"number": number, "label": label, "configuration": configuration}
            for number, (configuration, label) in enumerate(wanted, start=self.trials.next_number)
        ]
        if new:
            self._journal.write("asked", told=list(told), new=new)
        self._agenda.enter(new)
        return [self._assignment(each["number"]) for each in new]

    def _assignment(self, number: int) -> Assignment:
        trial = self.trials.of(number)
        return Assignment(
            number,
            self._attempts[number] + 1,
            trial.configuration,
            self.trials.label(number),
            self._durations.predict(self.space.encode(trial.configuration)),
            self.trials.groups(trial, number),
            self._agenda.pace(number),
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

    def given_up(self, evaluation: Evaluation) -> None:
        """Keep the files of an attempt that the end of the run has cut short; nothing else of it counts."""
        try:
            self._folder.save(evaluation)
        except RunFailed as error:  # the run ends anyway, perhaps because of that disk
            self._monitor.note(f"note: {error}")

    def probed(self, evaluation: Evaluation) -> None:
        """Record what a group in quarantine made of a configuration that works, with the files if that failed."""
        failure = evaluation.failure
        if failure is not None:
            self._folder.save_probe(evaluation)
        self._journal.write(
            "probed",
            group=evaluation.group,
            passed=failure is None,
            cause=failure.cause if failure is not None else "",
            started=evaluation.started,
            ended=evaluation.ended,
        )

    def evaluated(self, evaluation: Evaluation) -> None:
        """Record a final result, and judge it as soon as the baseline is known if limits are relative to that.

        Raises
        ------
        RunFailed
            The baseline failed with this result, and a limit is relative to it.
        """
        if evaluation.metrics:
            evaluation = self.trials.at_its_load(self.objective.completed(evaluation))
        self._folder.save(evaluation)
        evaluation = replace(evaluation, files={})  # or a night's logs would stay in memory
        if evaluation.killed and not self._told_of_kill:
            self._told_of_kill = True
            self._monitor.note(
                f"group {evaluation.group} #{evaluation.number} had to kill its service, which did not end within "
                f"{self._grace:g} s of TERM (service.stop_grace); every stop may take that long (told once)"
            )
        if evaluation.cut and (cause := essence(evaluation.cut)) not in self._told_of_cuts:
            self._told_of_cuts.add(cause)
            self._monitor.note(
                f"group {evaluation.group} #{evaluation.number} counts by its lower loads, as it failed at "
                f"{evaluation.cut} (told once)"
            )
        if self.objective.relative and self.trials.reference() is None:
            self._journal.evaluated(Judged(evaluation))
            self._take(evaluation)
            self._unjudged.append(evaluation)
            self._settle()
        else:
            judged = self._judged(evaluation, confirmed=self.trials.label(evaluation.number) == CONFIRM)
            self._journal.evaluated(judged)
            self._take(evaluation)
            self._show(judged)

    def _take(self, evaluation: Evaluation) -> None:
        self.trials.take(evaluation)
        point = self.space.encode(evaluation.configuration)
        self._durations.tell(point, evaluation.seconds, stopped=evaluation.stopped)

    def _settle(self) -> None:
        """Judge the results that had to wait for the baseline, once that is known."""
        reference = self.trials.reference()
        if not self._unjudged or reference is None:
            return
        waiting, self._unjudged = self._unjudged, []
        for evaluation in waiting:
            if evaluation.configuration == self.space.baseline:
                self._require_baseline(evaluation)
        for line in self.trials.vague():
            self._monitor.note(f"note: {line}")
        for each in (judged := list(map(self._judged, waiting))):
            self._journal.write("judged", number=each.evaluation.number, **judgement(each))
        changed = self._incumbent.challenge()
        for each in judged:
            changed = not self._show(each, changed=changed) and changed

    def _require_baseline(self, evaluation: Evaluation) -> None:
        """Raise RunFailed if the baseline has failed, with ``evaluation`` as an example."""
        reference = self.trials.reference()
        score = self.objective.judge(evaluation, evaluation.metrics)
        if reference or not score.failed:
            return
        slow = evaluation.failure is not None and evaluation.failure.cause.startswith(NOT_READY)
        longer = "a longer service.start_timeout, " if slow else ""
        raise RunFailed(
            f"{NO_BASELINE}: {score.cause}\n"
            f"{evaluation.failure.detail if evaluation.failure else ''}\n"
            f"objective.slo has limits relative to the baseline, so nothing can be judged: give {longer}limits as "
            f"numbers, or defaults that work, and start a new run; "
            f"logs are in {self._folder.evaluation(evaluation.number, evaluation.attempt)}"
        )

    def _judged(self, evaluation: Evaluation, *, confirmed: bool = False) -> Judged:
        score = self.trials.judge(evaluation, confirmed=confirmed)
        return Judged(evaluation, score, self.trials.together(evaluation, confirmed=confirmed))

    def _show(self, judged: Judged, *, changed: bool = False) -> bool:
        """Show a result; returns whether it is the best now, which may have ``changed`` before."""
        evaluation = judged.evaluation
        if confirmation := self.trials.label(evaluation.number) == CONFIRM:
            self._incumbent.doubt()
        changed = (not confirmation and self._incumbent.challenge(evaluation.number)) or changed
        # A best one that disappoints when measured again makes way for another.
        best = changed and self._incumbent.trial is self.trials.of(evaluation.number)
        if judged.failed:
            summary = f"failed: {evaluation.failure.cause if evaluation.failure else 'a metric is missing'}"
        else:
            reference = self.trials.reference(self.trials.race_of(evaluation.number) if confirmation else None)
            found = evaluation.metrics if evaluation.expected is None else {self.objective.metric: evaluation.expected}
            summary = score_text(self.objective.metric, found, reference, higher=self.objective.maximized)
        self._monitor.evaluated(evaluation, summary, best, judged.violations)
        self._show_incumbent()
        return best

    def _show_incumbent(self) -> None:
        best = self._incumbent.trial
        self._monitor.incumbent = None if best is None else (best.number, self._incumbent.told, best.configuration)

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
                self._journal.write("judged", number=number, **judgement(self._judged(result, confirmed=True)))

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
                self._agenda.learn(warm.from_fields(event))
            case "asked":
                self._agenda.replay(event["told"], event["new"])
            case "assigned":
                self._attempts[event["number"]] = event["attempt"]
            case "evaluated":
                judged = from_fields(event)
                self._take(judged.evaluation)
                if judged.score is None:
                    self._unjudged.append(judged.evaluation)
            case "judged":
                self._unjudged = [each for each in self._unjudged if each.number != event["number"]]
            case "incumbent" | "withdrawn" | "finished":
                self._incumbent.replay(event)
