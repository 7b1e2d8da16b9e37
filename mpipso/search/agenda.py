"""What is measured next: proposals of the strategy, repeated measurements, and the turns of the final race.

It follows from the numbers of the evaluations and their results alone, so that a run that is resumed asks for the same
as one that was not interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from mpipso.config import Search
from mpipso.errors import RunFailed
from mpipso.evaluation import BASELINE, CONFIRM, REPEAT, Configuration, Metrics, Pace, together
from mpipso.search.budgets import reaches, spent_budget
from mpipso.search.fruitless import fruitless
from mpipso.search.knowledge import Knowledge, knowledge
from mpipso.search.leaders import Leaders
from mpipso.search.objective import Objective
from mpipso.search.schedule import Schedule
from mpipso.search.space import Space
from mpipso.search.strategy import Strategy
from mpipso.search.trials import Trial, Trials


class Agenda:
    """The evaluations of one run that were asked for, and those that are to be asked for next.

    Parameters
    ----------
    strategy:
        A new one, which has not been asked for anything.

    Attributes
    ----------
    trials:
        What was asked for, with the results; whoever has a result gives it to :meth:`Trials.take`.
    leaders:
        The best of them.
    schedule:
        Which results a proposal may see.
    earlier:
        The numbers of the evaluations whose results are of earlier sessions.
    cause:
        Which budget ended the search; empty while it goes on.
    """

    def __init__(
        self,
        search: Search,
        space: Space,
        objective: Objective,
        strategy: Strategy,
    ) -> None:
        self._search = search
        self._space, self._objective = space, objective
        # There cannot be more measurements of the baseline than evaluations.
        self._baseline_repeats = min(search.baseline_repeats, search.evaluations)
        self.trials = Trials(space, objective, self._baseline_repeats)
        self.leaders = Leaders(self.trials, objective, search.leaders, search.confirm)
        self.schedule = Schedule(search.schedule, search.batch)
        self._strategy = strategy
        self._proposed = 0
        self._told: set[int] = set()
        self.earlier: set[int] = set()
        self.cause = ""

    def learn(self, results: Sequence[tuple[Configuration, Metrics | None]]) -> Knowledge:
        """Tell the strategy of earlier results; returns what it was told, and why some results were skipped."""
        known = knowledge(self._space, self._objective, results)
        self._strategy.learn(known.points, known.scores)
        return known

    @property
    def waiting(self) -> list[int]:
        """The numbers of the evaluations of the search that were asked for and have no result, in order.

        What an earlier session has asked for beyond the budget of this one is left to a later session.
        """
        allowed = set(self.trials.searched[: self._search.evaluations])
        return [number for number in self.trials.waiting if number in allowed]

    @property
    def expected(self) -> int:
        """How many evaluations the run will have in all, but for turns of the race that were not asked for yet."""
        asked = self.trials.next_number
        if not self.cause:
            confirmations = sum(self.trials.label(number) == CONFIRM for number in range(asked))
            asked = max(self._search.evaluations + confirmations, asked)
        return asked - self._left_out()

    def enter(self, asked: Sequence[Mapping[str, Any]]) -> None:
        """Record what was asked for: mappings with ``number``, ``configuration`` and ``label``."""
        for each in asked:
            self.trials.ask(each["number"], each["configuration"], each["label"], self._proposed)
            self._proposed += each["label"] not in (REPEAT, CONFIRM)

    def replay(self, told: Sequence[int], asked: Sequence[Mapping[str, Any]]) -> None:
        """Do again what :meth:`ask` did in an earlier session, and :meth:`enter` what came of it."""
        self._tell(told)
        proposed = [each["configuration"] for each in asked if each["label"] not in (REPEAT, CONFIRM)]
        if proposed:
            self._strategy.replay(np.array([self._space.encode(configuration) for configuration in proposed]))
        self.enter(asked)

    # The search

    def due(self, idle: int) -> int:
        """How many evaluations may be asked for now, by the schedule and the budgets.

        If a budget is spent, this sets ``cause``.

        Raises
        ------
        RunFailed
            So many evaluations failed that the search gives up (:func:`mpipso.search.fruitless.fruitless`).
        """
        if self.cause:
            return 0
        searched = self.trials.searched
        sees = self.schedule.sees(len(searched))
        if sees is None:
            # Until the baseline is known, the strategy can be told nothing. As many proposals as particles, or as the
            # baseline needs, are made without; later ones wait.
            blind = not self._judgeable(self._visible())
            most = max(self._search.swarm_size, self._baseline_repeats)
            if idle <= 0 or (blind and len(searched) >= most):
                return 0
        elif any(self.trials.result(number) is None for number in searched[: min(sees, self._search.evaluations)]):
            return 0
        self.cause = self._spent(self._visible())
        if self.cause:
            return 0
        together = idle if sees is None else self.schedule.together(len(searched))
        return min(together, self._search.evaluations - len(searched))

    def ask(self, count: int) -> tuple[list[int], list[tuple[Configuration, str]]]:
        """The next ``count`` evaluations, repeats and proposals; fewer when every configuration has been proposed.

        Returns the numbers of the evaluations of which the strategy learned before it was asked, and configurations
        with their labels, which :meth:`enter` takes once they have numbers.
        """
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
                configuration = self._space.decode(point)
                wanted.append((configuration, BASELINE if configuration == self._space.baseline else ""))
        return told, wanted

    def pace(self, number: int) -> Pace | None:
        """What the benchmark of an evaluation is stopped early for: the best that its proposal could know of.

        None if nothing tells, or if the benchmark goes to its end in any case, as when something is measured again.
        """
        if self.trials.label(number):
            return None
        visible = self._visible(self.trials.searched.index(number))
        if not self._judgeable(visible):
            return None
        results = {number: result for number in visible if (result := self.trials.result(number))}
        told = {number: result for number, result in results.items() if result.first is not None and result.metrics}
        best = self.leaders.leader(list(told)) if told else None
        pairs = [told[each] for each in best.numbers if each in told] if best is not None else []
        whole = together(pairs).get(self._objective.metric, 0.0)
        # Of what is not above 0 there is no share.
        return Pace(fmean(each.first or 0.0 for each in pairs), whole) if whole > 0.0 else None

    def _visible(self, position: int | None = None) -> list[int]:
        """The numbers of the evaluations whose results a proposal may see, in the order they were asked for.

        It is the one at a ``position`` among the search's evaluations, or the next one.
        """
        searched = self.trials.searched
        sees = self.schedule.sees(len(searched) if position is None else position)
        return [number for number in searched[:sees] if self.trials.result(number) is not None]

    def _judgeable(self, visible: Collection[int]) -> bool:
        """Whether these evaluations can be judged: the baseline's are among them if limits are relative to it."""
        return not self._objective.relative or set(range(self._baseline_repeats)) <= set(visible)

    def _spent(self, visible: Sequence[int]) -> str:
        """The name of the budget that is spent, or empty; RunFailed if the search should give up."""
        best = self.leaders.leader(visible) if self._judgeable(visible) else None
        score = None if best is None else self.trials.score(best, visible)
        if best is None and (lines := fruitless(self._search, self._objective, self.trials, visible, self.earlier)):
            raise RunFailed("\n".join(lines))
        pair = None if best is None or score is None else (best, score)
        return spent_budget(self._search, self._objective, self.trials, visible, pair)

    def _repeats(self, first: int, count: int) -> dict[int, Configuration]:
        """The configurations to measure again, by their position among the search's evaluations.

        ``first`` is the position of the next evaluation, and ``count`` how many are asked for.
        """
        positions = range(first, first + count)
        repeats: dict[int, Configuration] = {}
        if (baseline := self._space.baseline) is not None:
            repeats = {position: baseline for position in positions if 0 < position < self._baseline_repeats}
        turns = [position for position in positions if position % self._search.swarm_size == 0 and position > 0]
        if self._search.repeats == 1 or not (turns or self._search.target is not None):
            return repeats
        leader = self.leaders.leader(self._told)
        if leader is not None and self._wants_more(leader):
            score = self.trials.score(leader, self._told)
            reached = score is not None and reaches(self._search, self._objective, score)
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

    # The final race

    def turns(self, groups: int, incumbent: int | None) -> list[Configuration]:
        """The next turns of the final race, which measures the leaders and the baseline again; empty once it is over.

        In a turn each of them is measured once, so that changes of the machines in the meantime affect all of them.
        Several turns are given out at once where some of the ``groups`` would be idle at the end of one.
        """
        done = {trial.number: len(self.trials.confirmations(trial)) for trial in self.leaders.racing()}
        fewest = min(done.values(), default=self._search.confirm)
        if fewest >= self._search.confirm:
            return []
        turn = [self.trials.of(number) for number, count in done.items() if count == fewest]
        # The baseline and the incumbent come first: a race that is cut short should at least tell of these.
        turn.sort(key=lambda trial: (trial is not self.trials.baseline, trial.number != incumbent))
        # So many turns that all groups are busy to the end of the last one.
        times = max(1, min(groups // math.gcd(groups, len(turn)), self._search.confirm - fewest))
        return [trial.configuration for _ in range(times) for trial in turn]

    @property
    def lacks_race(self) -> bool:
        """Whether the final race has not measured all that it is to measure."""
        asked = [len(self.trials.confirmations(trial)) for trial in self.leaders.racing()]
        return bool(self.unraced(over=False)) or min(asked, default=self._search.confirm) < self._search.confirm

    def unraced(self, *, over: bool) -> list[int]:
        """The numbers of the confirmations without a result: of races that are over, or of the present one."""
        waiting = [number for number in self.trials.waiting if self.trials.label(number) == CONFIRM]
        return [number for number in waiting if (self.trials.race_of(number) != self.trials.race) == over]

    def _left_out(self) -> int:
        """How many evaluations, asked for by earlier sessions and without a result, this session does not do.

        They are beyond its budget, or belong to a race that is over.
        """
        beyond = self.trials.searched[self._search.evaluations :]
        return sum(self.trials.result(number) is None for number in beyond) + len(self.unraced(over=True))
