"""When a search gives up: because too many evaluations have failed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence

from mpipso.config import Search
from mpipso.evaluation import Failure
from mpipso.logtext import essence, may_lack_memory, says_in_use
from mpipso.search.objective import Objective
from mpipso.search.trials import Trials

_CAUSES_TOLD = 5
"""The most causes of failure that a message lists."""
_ALIKE, _CONFIGURATIONS = 6, 3
"""How many evaluations, of how many configurations, have to fail alike before the cause is sought outside of them."""
_REFUSED = re.compile(
    r"(?i)\b(?:unrecogni[sz]ed|unexpected|unknown|no such) (?:command[- ]line )?(?:argument|option|flag)s?\b.*"
)
"""Matches how programs refuse flags, from there to the end; with these they name their values, which differ."""
_FLAG = re.compile(r"-(?:-no)?(-[a-zA-Z][\w-]*)")
"""Matches a flag, without what makes a switch one that is off."""


def fruitless(
    search: Search, objective: Objective, trials: Trials, visible: Sequence[int], earlier: Collection[int] = ()
) -> list[str]:
    """Why the search should give up, as the lines of a message; empty if it should not.

    There are two reasons to give up:

    - All evaluations of the last ``fruitless`` iterations failed.
    - All evaluations of this session, at least six of at least three configurations, failed alike, and no configuration
      would cure that. This holds if the benchmark or the update command failed. It also holds if the service failed and
      the baseline is among the evaluations, unless memory was lacking: a smaller setting may fit.

    Parameters
    ----------
    visible:
        As for :func:`mpipso.search.budgets.spent_budget`.
    earlier:
        The numbers of the evaluations of earlier sessions. They do not count for the second reason, since what lies
        outside the configuration may have been repaired since.
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
    most = search.fruitless * search.swarm_size
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
    """Whether the service fails for a reason that no configuration cures.

    Then the baseline, which is among the evaluations that all failed alike, fails too, and not for want of memory.

    A port that was in use each time, after all repetitions on whatever groups, is one that the service itself takes.
    """
    baseline = trials.baseline
    tried = baseline is not None and any(number in numbers for number in baseline.numbers)
    derived = failure.cause.startswith("objective.derived.")  # of another configuration it may have a value
    own = (failure.kind == "configuration" and not derived) or says_in_use(failure.cause)
    return tried and own and not may_lack_memory(failure.cause)


def _reason(failure: Failure | None) -> tuple[str, str]:
    """What failures that are alike have in common: their kind, and their cause without the node's name and numbers.

    A cause begins with the name of its node. The number of requests that failed depends on the configuration, so a
    cause that tells it keeps its numbers. Of flags that the service does not know, the values do not count.
    """
    if failure is None:
        return "", ""
    cause = re.sub(r"^\S+: ", "", failure.cause)
    cause = _REFUSED.sub(lambda found: " ".join(_FLAG.findall(found[0])) or found[0], cause)
    return failure.kind, cause if "requests failed" in cause else essence(cause)
