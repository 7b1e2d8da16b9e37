"""What each change from the baseline to the best is worth, by the models of the search, in words for the summary."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from mpipso.config.file import parse
from mpipso.errors import UserError
from mpipso.record.outcome import Outcome
from mpipso.search.effects import Effect, Known, effects
from mpipso.search.space import Space


def worth(outcome: Outcome) -> Mapping[str, str]:
    """In words, by parameter: what the objective would gain if that parameter alone were as in the baseline.

    The gain is in percent. The result is empty where there is nothing to tell: no best or no baseline, a configuration
    that this version cannot read, or values that were hidden as secrets.
    """
    best, baseline = outcome.best, outcome.baseline
    if best is None or baseline is None or best is baseline:
        return {}
    try:
        config = parse(outcome.config, str(outcome.folder), earlier=True)
        space = Space(config.parameters, config.conditions)
        space.encode(best.configuration)
    except (UserError, ValueError):
        return {}
    known = list(_known(outcome, space))
    found = effects(space, known, best.configuration, baseline.configuration)
    failed = any(each.score.failed for each in known)
    # A mean may break a limit that most of its measurements keep.
    broken = any(each.score.infeasible or any(ratio > 0.0 for ratio in each.score.log_ratios) for each in known)
    doubt = " or ".join(["fail"] * failed + ["break a limit"] * broken)
    return {name: _in_words(effect, f"may {doubt}") for name, effect in found.items()}


def _known(outcome: Outcome, space: Space) -> Iterator[Known]:
    """The configurations of the space that were measured and judged, with their scores."""
    for each in outcome.configurations:
        # What the best is compared with need not work as often as what may be the best.
        score = each.good_score if each is outcome.baseline and each.failed and each.good else each.score
        if each.silent or any(judged.score is None for judged in each.good):
            continue
        if not math.isfinite(score.violation):
            score = replace(score, violation=0.0)
        score = replace(score, log_ratios=() if score.failed else outcome.log_ratios(each.metrics, each.good))
        try:
            space.encode(each.configuration)
        except ValueError:
            continue
        yield Known(each.configuration, score, max(len(each.good), 1))


def _in_words(effect: Effect, doubt: str) -> str:
    """The effect as in ``-12 %``; with ``doubt`` where the configuration is more likely infeasible than not."""
    if not effect.allowed:
        return "not allowed"
    gain = "?" if effect.gain is None else f"{round(100.0 * effect.gain):+d} %"
    return gain if effect.likely >= 0.5 else f"{gain}, {doubt}"
