"""When a search is over: its budgets, and its patience with failures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence

from mpipso.config import Search
from mpipso.evaluation import Failure
from mpipso.logtext import essence
from mpipso.search.objective import Objective, Score
from mpipso.search.trials import Trial, Trials

_CAUSES_TOLD = 5
_ALIKE, _CONFIGURATIONS = 6, 3
"""Evaluations and configurations from which on a common cause of failure is taken to lie outside the configuration."""
_MEMORY = re.compile(r"memory|\boom\b|alloc|killed by signal 9\b", re.IGNORECASE)
"""In a cause that less of something may cure."""


def spent(
    search: Search, objective: Objective, trials: Trials, visible: Sequence[int], best: tuple[Trial, Score] | None
) -> str:
    """Which budget is spent, by its name in the journal; empty if none is.

    Parameters
    ----------
    visible:
        The evaluations of the search that the next proposal may see, so that the answer is as repeatable as that.
    best:
        The best of them, if any is feasible.
    """
    searched = len(trials.searched)
    if searched >= search.evaluations:
        return "evaluations"
    if search.iterations is not None and searched >= search.iterations * search.particles:
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
    """Whether a score is as good as the target; one measurement may be so by luck."""
    if search.target is None or score.fitness is None:
        return False
    return score.fitness <= (-search.target if objective.maximized else search.target)


def fruitless(
    search: Search, objective: Objective, trials: Trials, visible: Sequence[int], earlier: Collection[int] = ()
) -> list[str]:
    """Why to give up, in lines; empty if there is no reason.

    Every evaluation of the last ``fruitless`` iterations failed; or all that there are, of several configurations,
    failed alike in a way that no configuration cures: in their benchmark or update command, or, with the baseline among
    them, in their service, unless for want of memory: less of something may fit. Those of ``earlier`` sessions do not
    count for that, as what lies outside the configuration may have been repaired since.
    """
    new = [number for number in visible if number not in earlier]
    failures = [result.failure for number in new if (result := trials.result(number)) is not None]
    several = len({trials.of(number).number for number in new}) >= _CONFIGURATIONS
    alike = several and len(failures) >= _ALIKE and len(set(map(_reason, failures))) == 1
    if (
        alike
        and (first := failures[0]) is not None
        and (first.kind == "measurement" or _never_starts(first, new, trials))
    ):
        return [f"each of the first {len(failures)} evaluations failed alike:", f"  {first.cause}"]
    most = search.fruitless * search.particles
    results = [trials.result(number) for number in visible[-most:]]
    scores = [objective.judge(result, result.metrics) for result in results if result is not None]
    failed = [score.cause for score in scores if score.failed]
    if len(failed) < most:
        return []
    causes = Counter(map(essence, failed))
    first_of = {essence(cause): cause for cause in reversed(failed)}
    told = [f"  {count} x {first_of[cause]}" for cause, count in causes.most_common(_CAUSES_TOLD)]
    return [f"all of the last {most} evaluations failed:", *told]


def _never_starts(failure: Failure, numbers: Collection[int], trials: Trials) -> bool:
    """Whether the user's own configuration fails like this too, and nothing that is tried could mend it."""
    baseline = trials.baseline
    tried = baseline is not None and any(number in numbers for number in baseline.numbers)
    return tried and failure.kind == "configuration" and not _MEMORY.search(failure.cause)


def _reason(failure: Failure | None) -> tuple[str, str]:
    """What failures have in common whichever node, whose name comes first, they happened on.

    How many requests failed depends on the configuration, so there numbers count.
    """
    if failure is None:
        return "", ""
    cause = re.sub(r"^\S+: ", "", failure.cause)
    return failure.kind, cause if "requests failed" in cause else essence(cause)
