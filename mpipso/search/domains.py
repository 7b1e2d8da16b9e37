"""The domain of one parameter: which values it takes, and which part of the unit interval stands for each.

A domain may read the values of other parameters, which are decoded before it. ``decode`` and ``encode`` are each
other's inverse on every value that can be reached: ``decode(encode(v)) == v``.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

import numpy as np

from mpipso.evaluation import Value
from mpipso.search.arrays import Array

Values = Mapping[str, Value]

_NOTHING: Values = {}

_FINE = 1024
"""Number of cells that a continuum counts as having where a step is given in cells."""
_MOST_STEPS = 12
"""Number of distances (1, 4, 16, ... cells) to either side of a point at which :meth:`Domain.drawn` places values."""
_MOST_CELLS_PICKED = 1024
"""The most cells among which the roundest number is looked for."""
_MOST_CELLS = 2**45
"""The most cells of a domain: a float in [0, 1] cannot safely tell more of them apart."""


class Domain(ABC):
    """The values of one parameter, laid out over [0, 1].

    Methods take the ``values`` of other parameters by name; those in ``reads`` have to be among them.
    """

    reads: tuple[str, ...] = ()
    """The parameters whose values decide which values this one takes, and where."""
    free = True
    """Whether it is a dimension of the search; if not, the values it reads determine its own."""
    continuous = False
    """Whether its values can be neither counted nor listed."""
    ordered = True
    """Whether neighbouring cells hold similar values."""

    @abstractmethod
    def decode(self, u: float, values: Values) -> Value:
        """The value at ``u``, a number in [0, 1]."""

    @abstractmethod
    def encode(self, value: Value, values: Values) -> float:
        """The centre of the cell of ``value``, in [0, 1]; ValueError when the domain does not contain the value."""

    @abstractmethod
    def count(self, values: Values) -> float:
        """How many values there are; infinite if the domain is continuous."""

    @abstractmethod
    def options(self, values: Values) -> Iterable[Value]:
        """Every value, in the order of the cells; not for continuous domains."""

    def levels(self, most: int) -> Array:
        """The centres of all cells or, where there are more than ``most``, of at most so many that are spread evenly.

        They are in ascending order, of shape (n,). A domain without order always gives all of its cells, and a member
        of a product up to 256. Where the cells depend on other parameters, they are those of ``most`` equal
        ones.
        """
        if self.reads:
            return np.asarray((np.arange(most) + 0.5) / most)
        if self.count(_NOTHING) <= most:
            return np.array([self.encode(value, _NOTHING) for value in self.options(_NOTHING)])
        spread = np.linspace(0.0, 1.0, most)
        return np.unique([self.encode(self.decode(float(u), _NOTHING), _NOTHING) for u in spread])

    @property
    def axis(self) -> Domain | None:
        """The domain that [0, 1] stands for whatever other values are, as a ratio's multiples; None without one."""
        return self

    def drawn(self, most: int, offset: float, near: Array) -> Array:
        """The centres of some cells of an :attr:`axis`, in ascending order; which ones varies with ``offset``.

        They are the centres of

        - one cell in each of the parts, ``most`` to a unit length, into which [0, 1] is divided; ``offset``, in [0, 1),
          shifts all divisions by that share of a part;
        - the cells at ``near``, of shape (n,);
        - the cells that are 1, 4, 16, ... cells to either side of ``near[0]`` and less than a part away from it.
        """
        edges = np.unique(np.clip((np.arange(most + 2) - offset) / most, 0.0, 1.0))
        found = [self._pick(float(low), float(high)) for low, high in itertools.pairwise(edges)]
        for cells in (sign * 4**power for sign in (-1, 1) for power in range(_MOST_STEPS)):
            at = self._moved(float(near[0]), cells)
            if abs(at - near[0]) < 1.0 / most:
                found.append(at)
        return np.unique([self.encode(self.decode(u, _NOTHING), _NOTHING) for u in (*found, *map(float, near))])

    def _pick(self, low: float, high: float) -> float:
        """A place from ``low`` to ``high``, both in [0, 1]; where values are whole numbers, that of a round one."""
        return (low + high) / 2

    def _moved(self, u: float, cells: int) -> float:
        """The place that is ``cells`` cells after ``u``, or before it if negative, without leaving [0, 1]."""
        count = self.count(_NOTHING)
        return min(max(u + cells / (count if math.isfinite(count) else _FINE), 0.0), 1.0)


class Choices(Domain):
    """A list of values in cells of equal width: a bool or a choice."""

    def __init__(self, choices: Sequence[Value]) -> None:
        self._choices = choices
        # 1, 1.0 and True are equal in Python, but they are three choices.
        self._index = {repr(choice): i for i, choice in enumerate(choices)}
        self.ordered = _ascending(choices)

    def decode(self, u: float, values: Values) -> Value:
        return self._choices[cell(u, len(self._choices))]

    def encode(self, value: Value, values: Values) -> float:
        if repr(value) not in self._index:
            raise ValueError(f"{value!r} is not among the choices")
        return (self._index[repr(value)] + 0.5) / len(self._choices)

    def count(self, values: Values) -> float:
        return len(self._choices)

    def options(self, values: Values) -> Iterable[Value]:
        return self._choices

    def levels(self, most: int) -> Array:
        # Without order, no value can stand for its neighbours, so none is left out.
        return super().levels(most if self.ordered else len(self._choices))


class Steps(Domain):
    """``low, low + step, ...`` up to ``high``, in cells of equal width: an int, or a float with a step.

    Raises
    ------
    ValueError
        There are too many values.
    """

    def __init__(self, low: float, high: float, step: float, *, whole: bool) -> None:
        if high - low > _MOST_CELLS * step:
            raise ValueError("has too many values: give a larger step, narrower bounds, or make it a float")
        # Decimal arithmetic on what the user wrote: 0.1 + 2 x 0.1 is 0.3, not 0.30000000000000004.
        self._low, self._step = Decimal(repr(low)), Decimal(repr(step))
        self._count = int((Decimal(repr(high)) - self._low) // self._step) + 1
        self._whole = whole

    def decode(self, u: float, values: Values) -> Value:
        return self._at(cell(u, self._count))

    def encode(self, value: Value, values: Values) -> float:
        index = round((Decimal(repr(number(value))) - self._low) / self._step)
        if not 0 <= index < self._count:
            raise ValueError(f"{value!r} is out of bounds")
        return (index + 0.5) / self._count

    def count(self, values: Values) -> float:
        return self._count

    def options(self, values: Values) -> Iterable[Value]:
        return map(self._at, range(self._count))

    def _pick(self, low: float, high: float) -> float:
        first, last = cell(low, self._count), cell(high, self._count)
        if not self._whole or not 1 < last - first < _MOST_CELLS_PICKED:
            return super()._pick(low, high)
        return (first + _roundest(int(self._at(first)), int(self._step), last - first + 1) + 0.5) / self._count

    def _at(self, index: int) -> Value:
        value = self._low + index * self._step
        return int(value) if self._whole else float(value)


class LogInts(Domain):
    """The whole numbers from ``low``, at least 1, to ``high`` on a logarithmic axis; the cell of k is what rounds to k.

    Raises
    ------
    ValueError
        There are too many values.
    """

    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high
        self._left, self._right = math.log(low - 0.5), math.log(high + 0.5)
        if high > _MOST_CELLS:
            raise ValueError("has too many values: give narrower bounds, or make it a float")

    def decode(self, u: float, values: Values) -> Value:
        k = math.floor(math.exp(self._left + u * (self._right - self._left)) + 0.5)
        return min(max(k, self._low), self._high)

    def encode(self, value: Value, values: Values) -> float:
        k = number(value)
        if not self._low <= k <= self._high:
            raise ValueError(f"{value!r} is out of bounds")
        return ((math.log(k - 0.5) + math.log(k + 0.5)) / 2 - self._left) / (self._right - self._left)

    def count(self, values: Values) -> float:
        return self._high - self._low + 1

    def options(self, values: Values) -> Iterable[Value]:
        return range(self._low, self._high + 1)

    def _pick(self, low: float, high: float) -> float:
        first, last = int(self.decode(low, _NOTHING)), int(self.decode(high, _NOTHING))
        if last - first > _MOST_CELLS_PICKED:
            return super()._pick(low, high)
        return self.encode(first + _roundest(first, 1, last - first + 1), _NOTHING)

    def _moved(self, u: float, cells: int) -> float:
        return self.encode(min(max(int(self.decode(u, _NOTHING)) + cells, self._low), self._high), _NOTHING)


class Continuum(Domain):
    """The floats from ``low`` to ``high``, rounded to ``digits`` digits more than it takes to tell the bounds apart.

    Rounding gives values that a person can read and a command line repeats exactly, and makes ``encode`` exact.
    ``anchor``, the user's default, is not rounded: it takes the place of the number that it would be rounded to.
    A bound with more digits is out of reach where rounding leads inwards, by half a unit of the last digit at most.

    Raises
    ------
    ValueError
        The bounds are further apart than the greatest float.
    """

    continuous = True

    def __init__(
        self, low: float, high: float, *, log: bool = False, digits: int = 6, anchor: float | None = None
    ) -> None:
        if not math.isfinite(high - low):
            raise ValueError("has bounds that are too far apart for a float")
        self._low, self._high, self._log = low, high, log
        self._left, self._right = self._axis(low), self._axis(high)
        width = (self._right - self._left) or 1.0
        finest = 13  # of the 15 to 16 significant digits of a float
        if log:
            self._digits = min(digits + max(0, -_magnitude(width)) + 1, finest)
        else:
            self._digits = min(digits - _magnitude(width), finest - _magnitude(max(abs(low), abs(high))))
        self._anchor = anchor

    def decode(self, u: float, values: Values = _NOTHING) -> float:
        at = self._left + u * (self._right - self._left)
        rounded = self._round(math.exp(at) if self._log else at)
        return self._anchor if self._anchor is not None and rounded == self._round(self._anchor) else rounded

    def encode(self, value: Value, values: Values = _NOTHING) -> float:
        exact = number(value)
        if not self._low <= exact <= self._high:
            raise ValueError(f"{value!r} is out of bounds")
        if self._anchor is not None and math.isclose(exact, self._anchor, rel_tol=1e-13):
            exact = self._anchor
        if self._left == self._right:
            return 0.5
        u = (self._axis(self._round(exact)) - self._left) / (self._right - self._left)
        return min(max(u, 0.0), 1.0)

    def count(self, values: Values) -> float:
        return math.inf

    def options(self, values: Values) -> Iterable[Value]:
        raise TypeError("a continuum cannot be listed")

    def _axis(self, value: float) -> float:
        return math.log(value) if self._log else value

    def _round(self, value: float) -> float:
        rounded = float(f"{value:.{self._digits}g}") if self._log else round(value, self._digits)
        return min(max(rounded, self._low), self._high)


def number(value: Value) -> float:
    """``value`` as a float; ValueError when it is not a number."""
    if isinstance(value, (bool, str)):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def tidy(value: float) -> float:
    """``value`` without rounding errors in its last digit: 0.1 x 3 becomes 0.3."""
    return float(f"{value:.15g}")


def _ascending(choices: Sequence[Value]) -> bool:
    """Whether the choices are numbers in ascending or descending order: degrees of parallelism, sizes, ..."""
    if any(isinstance(choice, (bool, str)) for choice in choices):
        return False
    numbers = list(choices)
    return numbers in (sorted(set(numbers)), sorted(set(numbers), reverse=True))


def cell(u: float, cells: int) -> int:
    """The index of the cell that ``u`` is in, of ``cells`` cells of equal width."""
    return min(int(u * cells), cells - 1)


def _roundest(first: int, step: int, count: int) -> int:
    """The index of the number, of ``first``, ``first`` + ``step``, ..., that the greatest power of two divides.

    Hardware likes such sizes.
    """
    values = first + step * np.arange(count)
    return int(np.argmax(np.where(values == 0, np.iinfo(np.int64).max, values & -values)))


def _magnitude(value: float) -> int:
    """The decimal exponent of ``value``, which is not negative; 0 for 0."""
    return math.floor(math.log10(value)) if value else 0
