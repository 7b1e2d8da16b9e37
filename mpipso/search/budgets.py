"""When a search ends: because a budget is spent."""

from __future__ import annotations

from collections.abc import Sequence

from mpipso.config import Search
from mpipso.score import Score
from mpipso.search.objective import Objective
from mpipso.search.trials import Trial, Trials


def spent_budget(
    search: Search, objective: Objective, trials: Trials, visible: Sequence[int], best: tuple[Trial, Score] | None
) -> str:
    """The name, as in the journal, of the budget that is spent; empty if none is.

    Parameters
    ----------
    visible:
        The numbers of the evaluations that the next proposal may see, in the order in which they were asked for. The
        target and stagnation are judged by these alone, so that the answer is as repeatable as the proposal.
    best:
        The best feasible trial by these evaluations, with its score; None if none is feasible.
    """
    searched = len(trials.searched)
    if searched >= search.evaluations:
        return "evaluations"
    if search.iterations is not None and searched >= search.iterations * search.swarm_size:
        return "iterations"
    if best is None:
        return ""
    trial, score = best
    measured = [trials.result(number) for number in trial.numbers if number in visible]
    good = [result for result in measured if result is not None and result.failure is None]
    if reaches(search, objective, score) and len(good) >= search.repeats:
        return "target"
    first = visible.index(next(number for number in trial.numbers if number in visible))
    return "stagnation" if search.stagnation is not None and len(visible) - 1 - first >= search.stagnation else ""


def reaches(search: Search, objective: Objective, score: Score) -> bool:
    """Whether a score is at least as good as the target. A single measurement may be so by luck."""
    if search.target is None or score.fitness is None:
        return False
    return score.fitness <= (-search.target if objective.maximized else search.target)
