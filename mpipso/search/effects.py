"""What each change of a configuration is worth, by models of all that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpipso.evaluation import Configuration
from mpipso.search.blas import one_thread
from mpipso.search.gp import fit
from mpipso.search.lattice import Lattice
from mpipso.search.models import VALUE, Models
from mpipso.search.objective import Score
from mpipso.search.space import Space

Array = NDArray[np.float64]

_MOST = 300
"""Configurations that the models are fitted to, from the best to the worst, which bounds the time."""
_SURE = 2.0
"""Deviations of the process by which an effect has to differ from none to be told."""
_SMALL = 0.1
"""Logarithm of a factor. What is known as well as that is told whatever it is: that there is no effect is news too."""


@dataclass(frozen=True)
class Known:
    """A configuration, its score, and of how many measurements that is the mean."""

    configuration: Configuration
    score: Score
    count: int = 1


@dataclass(frozen=True)
class Effect:
    """What becomes of a configuration if one parameter alone is set back.

    Attributes
    ----------
    allowed:
        Whether the known constraints allow it; if not, the rest says nothing.
    likely:
        The probability that it works and keeps to the limits.
    gain:
        By how much its value gets better, as a share of that with the change: negative where the change is of use.
        None where the model cannot tell.
    """

    allowed: bool = False
    likely: float = 0.0
    gain: float | None = None


def effects(space: Space, known: Sequence[Known], best: Configuration, before: Configuration) -> dict[str, Effect]:
    """For each searched parameter that ``best`` sets otherwise than ``before``, what setting it back would do.

    The models are those that the search flies over (:mod:`mpipso.search.models`), but that of the value learns
    logarithms: effects on throughputs and latencies are factors rather than differences. So values that are not of the
    sign of the best tell it nothing.

    Parameters
    ----------
    known:
        Configurations of ``space``, each once.
    best, before:
        Two of them.
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
    try:
        other = space.decode(space.encode({**best, name: before[name]}))
    except ValueError:
        return None
    return other if space.valid(other) and other[name] == before[name] else None


def _points(lattice: Lattice, known: Sequence[Known]) -> Array:
    return np.array([lattice.space.encode(each.configuration) for each in known])


def _likely(lattice: Lattice, known: Sequence[Known], points: Array) -> Array:
    """The probability of being feasible, of shape (m,), at points of shape (m, dimensions)."""
    random = np.random.default_rng(0)
    return Models(lattice, _points(lattice, known), [each.score for each in known], random).likely(points)


def _gains(lattice: Lattice, known: Sequence[Known], points: Array) -> list[float | None]:
    """Of all points but the first over the first one; ``points`` is of shape (m + 1, dimensions), ``known`` sorted."""
    sign = np.sign(known[0].score.fitness or 0.0)
    valued = [each for each in known if (each.score.fitness or 0.0) * sign > 0.0]
    if not valued:
        return [None] * (len(points) - 1)
    logarithms = np.log([abs(each.score.fitness or 0.0) for each in valued])
    spread = float(np.std(logarithms)) or 1.0
    features = lattice.features(_points(lattice, valued))
    weights = np.array([1.0 / each.count for each in valued])
    process = fit(features, (logarithms - logarithms.mean()) / spread, weights, lattice.groups, VALUE)
    at = lattice.features(points)
    own = float(process.predict(at[:1])[0][0])
    # As if the best were known to be what the process says, which leaves what the difference may be.
    means, deviations = process.imagine(at[0], own).predict(at[1:])
    told = _SURE * deviations <= np.maximum(np.abs(means - own), _SMALL / spread)
    gains = -sign * np.expm1(spread * (means - own))
    return [float(gain) if sure else None for gain, sure in zip(gains, told, strict=True)]
