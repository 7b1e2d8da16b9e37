"""What each change of a configuration is worth, according to models of all that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpipso.evaluation import Configuration
from mpipso.score import Score
from mpipso.search.arrays import Array
from mpipso.search.blas import one_thread
from mpipso.search.gp import fit
from mpipso.search.knowledge import near
from mpipso.search.lattice import Lattice
from mpipso.search.models import VALUE, Models
from mpipso.search.space import Space

_MOST = 300
"""The most configurations that the models are fitted to, spread evenly from the best to the worst; bounds the time."""
_SURE = 2.0
"""Standard deviations by which an effect has to differ from zero to be told."""
_SMALL = 0.1
"""Uncertainty, as the logarithm of a factor, up to which an effect is told however small it is: that a change has no
effect is news too."""


@dataclass(frozen=True)
class Known:
    """A configuration and its score, which is the mean of ``count`` measurements."""

    configuration: Configuration
    score: Score
    count: int = 1


@dataclass(frozen=True)
class Effect:
    """What happens to a configuration if one parameter alone is set back to its former value.

    Attributes
    ----------
    allowed:
        Whether the space and the known constraints allow that; if not, the other attributes mean nothing.
    likely:
        The probability that the configuration then works and keeps to the limits.
    gain:
        By how much the metric that is optimised gets better, as a share of its present value: negative where the
        change was an improvement. None where the model is not sure enough.
    """

    allowed: bool = False
    likely: float = 0.0
    gain: float | None = None


def effects(space: Space, known: Sequence[Known], best: Configuration, before: Configuration) -> dict[str, Effect]:
    """The effect of setting back each searched parameter whose value in ``best`` differs from ``before``, by its name.

    The models are those of the search (:mod:`mpipso.search.models`), except that the model of the value is fitted to
    logarithms: effects on throughputs and latencies are factors rather than differences. It therefore leaves out values
    that do not have the sign of the best one of all.

    Parameters
    ----------
    known:
        Configurations of ``space``, each once.
    best, before:
        Two of these configurations.
    """
    searched = [parameter.name for parameter in space.parameters if parameter.searched]
    found = {name: Effect() for name in searched if name in before and best[name] != before[name]}
    others = {name: other for name in found if (other := _set_back(space, best, name, before)) is not None}
    if others:
        lattice = Lattice(space)
        order = sorted(range(len(known)), key=lambda i: known[i].score)
        kept = [known[order[i]] for i in np.linspace(0, len(order) - 1, min(len(order), _MOST)).astype(int)]
        points = np.array([space.encode(each) for each in (best, *others.values())])
        with one_thread():
            likely = _likely(lattice, kept, points[1:])
            gains = _gains(lattice, kept, points)
        for name, probability, gain in zip(others, likely, gains, strict=True):
            found[name] = Effect(True, float(probability), gain)
    return found


def _set_back(space: Space, best: Configuration, name: str, before: Configuration) -> Configuration | None:
    """``best`` with one value of ``before``; None where that alone is not in the space, or breaks a constraint."""
    wanted = {**best, name: before[name]}
    try:
        other = space.decode(space.encode(wanted))
    except ValueError:
        return None
    # What depends on it may have moved with it, to stay in its own bounds.
    alone = all(near(wanted[p.name], other[p.name]) for p in space.parameters if p.searched)
    return other if alone and space.valid(other) else None


def _points(lattice: Lattice, known: Sequence[Known]) -> Array:
    return np.array([lattice.space.encode(each.configuration) for each in known])


def _likely(lattice: Lattice, known: Sequence[Known], points: Array) -> Array:
    """The probability of being feasible, of shape (m,), at points of shape (m, dimensions)."""
    random = np.random.default_rng(0)
    return Models(lattice, _points(lattice, known), [each.score for each in known], random).likely(points)


def _gains(lattice: Lattice, known: Sequence[Known], points: Array) -> list[float | None]:
    """The gain of every point but the first over the first; None where the model is not sure enough.

    ``points`` is of shape (m + 1, dimensions); ``known`` is sorted, the best first.
    """
    sign = np.sign(known[0].score.fitness or 0.0)
    valued = [each for each in known if (each.score.fitness or 0.0) * sign > 0.0]
    # A mean and an effect of each change are as many unknowns as there are points.
    if len(valued) < len(points):
        return [None] * (len(points) - 1)
    logarithms = np.log([abs(each.score.fitness or 0.0) for each in valued])
    spread = float(np.std(logarithms)) or 1.0
    features = lattice.features(_points(lattice, valued))
    noise_factors = np.array([1.0 / (each.count * each.score.fidelity) for each in valued])
    process = fit(features, (logarithms - logarithms.mean()) / spread, noise_factors, lattice.groups, VALUE)
    at = lattice.features(points)
    own = float(process.predict(at[:1])[0][0])
    # Given the predicted value at the first point, the remaining deviations are those of the differences from it.
    means, deviations = process.imagine(at[0], own).predict(at[1:])
    told = _SURE * deviations <= np.maximum(np.abs(means - own), _SMALL / spread)
    gains = -sign * np.expm1(spread * (means - own))
    return [float(gain) if sure else None for gain, sure in zip(gains, told, strict=True)]
