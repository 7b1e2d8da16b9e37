"""Which trial is the best: how trials are ranked, when one replaces the incumbent, and which ones are in the race."""

from __future__ import annotations

from collections.abc import Collection

from mpipso.score import Score
from mpipso.search.objective import Objective
from mpipso.search.racing import beats, pooled_noise, still_racing
from mpipso.search.trials import Trial, Trials

_ROUNDS = 3
"""Sets of leaders that may race, each once the one before is refuted; who comes after all of them stands unraced."""


class Leaders:
    """The ranking of the trials; it has no state of its own.

    Parameters
    ----------
    most:
        How many configurations race at the end, besides the baseline.
    confirm:
        How often each of them is measured in the race.
    """

    def __init__(self, trials: Trials, objective: Objective, most: int, confirm: int) -> None:
        self._trials = trials
        self._objective = objective
        self._most = most
        self._confirm = confirm

    def leader(self, among: Collection[int], *, confirmed: bool = False) -> Trial | None:
        """The best feasible trial by the evaluations ``among`` these; None if there is none.

        Of equals it is the earliest. ``confirmed`` is as for :meth:`mpipso.search.trials.Trials.score`.
        """
        ranked = self._ranked(set(among), confirmed=confirmed)
        return ranked[0][1] if ranked else None

    def succeeds(self, challenger: Trial, incumbent: Trial | None) -> bool:
        """Whether the challenger is to replace the incumbent, as it does if there is none.

        It does if it is better by more than the noise explains, or if the incumbent is not feasible. Both are judged by
        all that the search has measured, without final races.
        """
        if incumbent is None:
            return True
        searched = set(self._trials.searched)
        score = self._trials.score(incumbent, searched)
        if score is None or not score.feasible:
            return True
        several = [trial for trial in self._trials if len(trial.numbers) > 1]  # single measurements show no noise
        noise = pooled_noise([self._trials.values(trial, searched) for trial in several])
        return beats(self._trials.values(challenger, searched), self._trials.values(incumbent, searched), noise)

    def racing(self) -> list[Trial]:
        """The trials of the final race: the baseline, and the leaders of the search that may still be the best.

        There are none if no other trial leads the baseline or has won an earlier race. Leaders are dropped by
        confirmations alone: what the search measured has made them leaders, so it flatters them. When confirmations
        have refuted all leaders, the next best ones race instead, twice at most. The winner of the race before takes
        part in this one too.
        """
        ranked = [trial for _, trial in self._ranked(set(self._trials.searched))]
        baseline = self._trials.baseline
        better = ranked[: ranked.index(baseline)] if baseline in ranked else ranked
        rounds = [better[first : first + self._most] for first in range(0, len(better), self._most)][:_ROUNDS]
        leaders = next((each for each in rounds if not all(map(self._given_up, each))), [])
        leaders += [trial for trial in self._champion() if trial not in leaders]
        # What does not keep to the limits beats nobody, however fast it is.
        standing = [trial for trial in leaders if not self.refuted(trial)]
        values = [self._trials.values(trial, self._trials.confirmations(trial)) for trial in standing]
        if standing and all(values):
            beaten = [trial for trial, stays in zip(standing, still_racing(values), strict=True) if not stays]
            leaders = [trial for trial in leaders if trial not in beaten]
        return [*([baseline] if baseline is not None else []), *leaders] if leaders else []

    def refuted(self, trial: Trial) -> bool:
        """Whether the trial has raced and is not feasible by the last race that tells something about it."""
        score = self._trials.score(trial, self.last_race(trial), confirmed=True)
        return score is not None and not score.feasible

    def last_race(self, trial: Trial) -> list[int]:
        """The trial's confirmations, by number, in the last race that tells something about it; empty without one."""
        races = (self._trials.raced(trial, race) for race in reversed(self._trials.races))
        return next(filter(None, races), [])

    def beaten_by(self, winner: Trial) -> list[Trial]:
        """The trials that were worse than ``winner`` in the last race that tells something about it."""
        numbers = self.last_race(winner)
        own = self._trials.score(winner, numbers, confirmed=True)
        if own is None:
            return []
        others = self._raced(self._trials.race_of(numbers[0]))
        scores = [(self._trials.score(trial, numbers, confirmed=True), trial) for trial, numbers in others]
        return [trial for score, trial in scores if score is not None and own < score]

    def most_racers(self) -> int:
        """The most trials that may be in the race at the end, the baseline included."""
        return 1 + self._most + len(self._champion())

    def _champion(self) -> list[Trial]:
        """The winner, alone in a list, of the last race before the present one; empty if that was the baseline, or
        without such a race."""
        for race in reversed(self._trials.races):
            raced = self._raced(race)
            if race != self._trials.race and len(raced) > 1:
                best = self.leader({number for _, numbers in raced for number in numbers}, confirmed=True)
                return [] if best is None or best is self._trials.baseline else [best]
        return []

    def _raced(self, race: int) -> list[tuple[Trial, list[int]]]:
        """The trials that a race tells something about, each with the numbers of the confirmations that do."""
        return [(trial, numbers) for trial in self._trials if (numbers := self._trials.raced(trial, race))]

    def _given_up(self, trial: Trial) -> bool:
        """Whether all confirmations of the trial in the present race are done, and have refuted it."""
        results = [self._trials.result(number) for number in self._trials.confirmations(trial)]
        return len(results) >= self._confirm and None not in results and self.refuted(trial)

    def _ranked(self, among: Collection[int], *, confirmed: bool = False) -> list[tuple[Score, Trial]]:
        """The feasible trials with their scores, best first; none while limits are relative to an unknown baseline."""
        if self._objective.relative and self._trials.reference() is None:
            return []
        scored = [(self._trials.score(trial, among, confirmed=confirmed), trial) for trial in self._trials]
        feasible = [(score, trial) for score, trial in scored if score is not None and score.feasible]
        return sorted(feasible, key=lambda pair: pair[0])
