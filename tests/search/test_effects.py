from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from search.scored import limited

from mpipso.config.parameters import Constraint, Parameter
from mpipso.score import Score
from mpipso.search.effects import Effect, Known, effects
from mpipso.search.space import Space

SLOTS = Parameter(name="slots", type="int", min=1, max=64, scale="log", default=1)
CACHE = Parameter(name="cache", type="choice", choices=("f16", "q8"), default="f16")
POLL = Parameter(name="poll", type="int", min=0, max=10, default=0)
SPACE = Space([SLOTS, CACHE, POLL])
BEFORE: dict[str, Any] = {"slots": 1, "cache": "f16", "poll": 0}
BEST: dict[str, Any] = {"slots": 16, "cache": "q8", "poll": 4}


def rate(configuration: Mapping[str, Any]) -> float:
    """16 slots are twice as fast as one, q8 by a quarter; ``poll`` makes no difference."""
    slots = float(np.log2(configuration["slots"]))
    return 100.0 * float(2.0 ** (1.0 - abs(slots - 4.0) / 4.0)) * (1.25 if configuration["cache"] == "q8" else 1.0)


def maximised(configuration: Mapping[str, Any]) -> Score:
    return Score(failed=False, fitness=-rate(configuration))


def measured(
    count: int, score: Callable[[Mapping[str, Any]], Score] = maximised, space: Space = SPACE, noise: float = 0.02
) -> list[Known]:
    """At random, the baseline and the best among them."""
    random = np.random.default_rng(0)
    found = {space.key(c): c for c in (BEFORE, BEST)}
    while len(found) < count:
        configuration = space.decode(random.random(space.dimensions))
        if space.valid(configuration):
            found[space.key(configuration)] = configuration
    known = []
    for configuration in found.values():
        true = score(configuration)
        value = None if true.fitness is None else true.fitness * float(np.exp(random.normal(0.0, noise)))
        known.append(Known(configuration, replace(true, fitness=value)))
    return known


def gains(known: list[Known], space: Space = SPACE) -> dict[str, float | None]:
    return {name: effect.gain for name, effect in effects(space, known, BEST, BEFORE).items()}


@pytest.mark.parametrize(
    ("score", "slots", "cache"),
    [
        (maximised, -0.5, -0.2),
        (lambda c: Score(failed=False, fitness=1e4 / rate(c)), -1.0, -0.25),  # a latency
        (lambda c: limited(-rate(c), 4.0 / c["slots"]), -0.5, -0.2),
    ],
)
def test_tells_what_each_change_is_worth_and_which_is_not(
    score: Callable[[Mapping[str, Any]], Score], slots: float, cache: float
) -> None:
    found = gains(measured(40, score))
    assert found["slots"] == pytest.approx(slots, abs=0.1)
    assert found["cache"] == pytest.approx(cache, abs=0.05)
    assert found["poll"] == pytest.approx(0.0, abs=0.03)


def test_what_was_measured_too_little_is_not_told() -> None:
    two = [known for known in measured(40) if known.configuration in (BEST, BEFORE)]
    assert gains(two) == {"slots": None, "cache": None, "poll": None}


def test_only_what_was_changed_has_an_effect() -> None:
    known = measured(40)
    assert effects(SPACE, known, BEST, {**BEFORE, "poll": 4}).keys() == {"slots", "cache"}
    assert effects(SPACE, known, BEST, BEST) == {}
    assert effects(SPACE, known, BEST, {"cache": "f16"}).keys() == {"cache"}


def test_what_would_fail_or_break_a_limit_is_unlikely() -> None:
    def bounded(configuration: Mapping[str, Any]) -> Score:
        if configuration["poll"] < 2:
            return Score(failed=True)
        return limited(-rate(configuration), 4.0 / configuration["slots"])

    found = effects(SPACE, measured(60, bounded), BEST, BEFORE)
    assert found["poll"].likely < 0.5
    assert found["slots"].likely < 0.5
    assert found["cache"].likely > 0.5


def test_what_cannot_be_set_back_alone_is_told() -> None:
    # 16 slots need a poll of 4 or more; without the change of either the other one is not allowed.
    space = Space([SLOTS, CACHE, POLL], [Constraint(expression="slots < 16 or poll >= 4")])
    found = effects(space, measured(30, space=space), BEST, BEFORE)
    assert found["poll"] == Effect(allowed=False)
    assert found["slots"].allowed and found["cache"].allowed
    ratio = Parameter(name="poll", type="int", ratio_of="slots", min=0.25, max=1.0, default=1)
    space = Space([SLOTS, CACHE, ratio])
    found = effects(space, [Known(BEST, maximised(BEST))], BEST, {**BEFORE, "poll": 1})
    assert not found["poll"].allowed
    # A poll of 4 is more than one slot allows: it would come down to 1.
    assert not found["slots"].allowed and found["cache"].allowed


def test_values_of_the_other_sign_and_failures_do_no_harm() -> None:
    known = [*measured(40), Known({"slots": 2, "cache": "f16", "poll": 9}, Score(failed=False, fitness=5.0))]
    assert gains(known)["slots"] == pytest.approx(-0.5, abs=0.1)
    nothing = [Known(each.configuration, Score(failed=False, fitness=0.0)) for each in known]
    assert set(gains(nothing).values()) == {None}


def test_the_mean_of_many_measurements_counts_more() -> None:
    # One measurement that is off by half is believed if it is the mean of a hundred.
    known = [each for each in measured(40) if each.configuration != BEST]
    lucky = Score(failed=False, fitness=-1.5 * rate(BEST))
    once, often = (gains([*known, Known(BEST, lucky, count)])["cache"] for count in (1, 1000))
    assert once == pytest.approx(-0.25, abs=0.1)
    assert often is not None and often < -0.4


def test_fewer_configurations_than_unknowns_tell_nothing() -> None:
    """Of two configurations that differ in three parameters, the model would take the widest change for the cause."""
    assert set(gains(measured(2, noise=0.0)).values()) == set(gains(measured(3, noise=0.0)).values()) == {None}
    other = {**BEFORE, "cache": "q8"}  # a single change, whose gain is what was measured
    known = [Known(each, maximised(each)) for each in (BEFORE, other)]
    assert effects(SPACE, known, other, BEFORE)["cache"].gain == pytest.approx(-0.2, abs=0.01)
