"""Which configuration is the best so far, how the final race decides on it, and the files that hold it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mpipso.evaluation import Configuration, together
from mpipso.record.figures import score as score_text
from mpipso.record.folders import RunFolder
from mpipso.record.journal import Journal
from mpipso.record.recipe import NodeStart, withdraw_best, write_best
from mpipso.search.leaders import Leaders
from mpipso.search.objective import Objective
from mpipso.search.trials import Trial, Trials


class Incumbent:
    """The best configuration so far. Every change is written to the journal, and then to the files ``best.*``.

    Parameters
    ----------
    publish:
        Prepares a configuration for use by hand and returns the commands for ``best.sh``.

    Attributes
    ----------
    told:
        For people, what it has measured: the objective's metric and its gain; empty without a best configuration.
    """

    def __init__(
        self,
        trials: Trials,
        leaders: Leaders,
        objective: Objective,
        folder: RunFolder,
        journal: Journal,
        publish: Callable[[Configuration], Sequence[NodeStart]],
    ) -> None:
        self._trials = trials
        self._leaders = leaders
        self._objective = objective
        self._folder = folder
        self._journal = journal
        self._publish = publish
        self._number: int | None = None
        self.told = ""

    @property
    def number(self) -> int | None:
        """The number of its first evaluation; None as long as there is no best configuration."""
        return self._number

    @property
    def trial(self) -> Trial | None:
        return None if self.number is None else self._trials.of(self.number)

    def challenge(self, latest: int | None = None) -> bool:
        """Make the search's leader the incumbent if it is better beyond the noise; returns whether that was done.

        If it is not, and evaluation ``latest`` is another one of the incumbent, the files have its figures, too. An
        incumbent that did not work or broke a limit when the search measured it again is given up even for nothing.
        """
        leader = self._leaders.leader(self._standing())
        if leader is not None and self._leaders.succeeds(leader, self.trial):
            return self._promote(leader, self._trials.searched)
        if (best := self.trial) is None:
            return False
        if leader is None and not self._leaders.last_race(best):
            self._succeed()
        elif latest in best.numbers:
            self._promote(best, self._trials.searched)
        return False

    def doubt(self) -> None:
        """Give the incumbent up if it failed when measured again: its files may be used before the race is over."""
        if (best := self.trial) is None:
            return
        score = self._trials.score(best, self._leaders.last_race(best), confirmed=True)
        if score is not None and score.failed:
            self._succeed()

    def _succeed(self) -> None:
        """Replace an incumbent that is refuted by the best trial that races have not ruled out, or by none."""
        standing = self._standing()
        if (best := self._leaders.leader(standing)) is not None:
            self._promote(best, standing)
        elif self.number is not None:
            self._journal.write("withdrawn")
            self.forget()
            withdraw_best(self._folder.path)

    def conclude(self, confirmations: Collection[int]) -> bool:
        """Choose the best by the confirmations of the final race; returns whether one keeps to the limits.

        If the race does not tell, the incumbent stays, with two exceptions. If it is refuted, the best trial that races
        have not ruled out replaces it, or none. If that trial is the baseline, it replaces the incumbent in any case.
        """
        done = {number for number in confirmations if self._trials.result(number) is not None}
        raced = [done.intersection(self._trials.confirmations(trial)) for trial in self._leaders.racing()]
        numbers = set().union(*raced) or done
        # A race that was cut short says which of the trials that it measured is the best, but not whether that one is
        # better than an incumbent that it did not measure.
        known = all(raced) or (self.trial is not None and not done.isdisjoint(self.trial.numbers))
        best = self._leaders.leader(numbers, confirmed=True) if known else None
        if best is not None:
            self._promote(best, numbers, confirmed=True)
            return True
        standing = self._standing()
        refuted = self.number is not None and self.number not in standing
        if refuted:
            self._succeed()
        elif (best := self._leaders.leader(standing)) is not None and best is self._trials.baseline:
            self._promote(best, standing)
        return self.number is not None

    def replay(self, event: Mapping[str, Any]) -> None:
        """Be what an event of an earlier session says: ``incumbent``, ``withdrawn`` or ``finished``."""
        match event["event"]:
            case "incumbent":
                self._number = event["number"]
            case "withdrawn":
                self._number = None
            case "finished":
                self._number = event["incumbent"]

    def forget(self) -> None:
        """Have no best configuration, as before the first result."""
        self._number, self.told = None, ""

    def resume(self) -> None:
        """Catch up with a session that ended after a result, before the incumbent's line or its files were written."""
        self.doubt()
        if self.challenge():
            return
        if (best := self.trial) is None:
            withdraw_best(self._folder.path)
            return
        race = self._leaders.last_race(best)
        confirmed = bool(race) and not self._leaders.refuted(best)
        self._promote(best, race if confirmed else self._trials.searched, confirmed=confirmed)

    def _standing(self) -> list[int]:
        """The search's evaluations, without those of configurations that races have ruled out.

        A race rules out what it refuted, and what the incumbent has beaten in it: luck in the search does not bring
        these back.
        """
        refuted = [trial for trial in self._trials if self._leaders.refuted(trial)]
        beaten = [] if self.trial is None or self.trial in refuted else self._leaders.beaten_by(self.trial)
        out = {number for trial in (*refuted, *beaten) for number in trial.numbers}
        return [number for number in self._trials.searched if number not in out]

    def _promote(self, best: Trial, among: Collection[int], *, confirmed: bool = False) -> bool:
        """Make a trial the incumbent and write its files; returns whether another one, or none, was it before."""
        known = best.number == self.number
        if not known:
            score = self._trials.score(best, set(among), confirmed=confirmed)
            self._journal.write("incumbent", number=best.number, fitness=None if score is None else score.fitness)
            self._number = best.number
        race = self._trials.race_of(max(among)) if confirmed else None
        self._write(best, *self._beside_baseline(best, among, race))
        return not known

    def _beside_baseline(
        self, best: Trial, among: Collection[int], race: int | None
    ) -> tuple[Collection[int], int | None]:
        """The evaluations by which the best is compared with the baseline, and their race, None for the search.

        As in the summary they are of the last race in which both worked, or else of the search. Where the baseline has
        worked in neither, or there is none, they are of the last race that measured the best beside others, or at least
        the best alone; without one they are those ``among`` which it is the best.
        """
        trials, searched = self._trials, self._trials.searched
        if (baseline := trials.baseline) is not None:
            for each in reversed(trials.races):
                ours = trials.confirmations(best, each)
                if trials.values(best, ours) and trials.values(baseline, trials.confirmations(baseline, each)):
                    return ours, each
            if trials.values(best, searched) and trials.values(baseline, searched):
                return searched, None
        raced = {each: ours for each in trials.races if (ours := trials.raced(best, each))}
        if not raced:
            return among, race
        last = max(raced, key=lambda each: (any(trials.raced(o, each) for o in trials if o is not best), each))
        return raced[last], last

    def _write(self, best: Trial, among: Collection[int], race: int | None) -> None:
        found = [result for result in map(self._trials.result, best.numbers) if result and result.number in among]
        metrics = together([result for result in found if result.failure is None])
        score = self._trials.score(best, among, confirmed=race is not None)
        reference = self._trials.compared(race)
        self.told = score_text(self._objective.metric, metrics, reference, higher=self._objective.maximized)
        if found:
            write_best(
                self._folder.path,
                replace(found[0], number=best.number, metrics=metrics),
                fitness=None if score is None else score.fitness,
                score=self.told,
                starts=self._publish(best.configuration),
                redactor=self._folder.redactor,
            )
