"""Domains whose values depend on those of other parameters: shares of one, and members of a product."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from mpipso.evaluation import Value
from mpipso.search.arrays import Array
from mpipso.search.domains import Continuum, Domain, Values, cell, number, tidy

_MOST_LEVELS = 256
"""Of a member of a product; one of 720720, whose members have 240, takes a second for a proposal of four."""


class Ratio(Domain):
    """A number that is a multiple of the value of another parameter, ``of``; the multiple is what is searched.

    The multiple is from ``low`` to ``high``, on a logarithmic axis if ``log``. A ``whole`` value is rounded, and at
    least 1. ``default`` and ``of_default`` are the default values of this parameter and of the other one.

    Raises
    ------
    ValueError
        The ratio of the defaults is not within the bounds, and the default is not what one within them is rounded to.
    """

    def __init__(
        self,
        of: str,
        low: float,
        high: float,
        *,
        log: bool = False,
        whole: bool,
        default: float | None = None,
        of_default: float | None = None,
    ) -> None:
        self.reads = (of,)
        self.continuous = not whole
        self._low, self._high, self._whole = low, high, whole
        anchor = None
        if default is not None and of_default is not None:
            anchor = default / of_default if of_default else math.inf
            within = low * (1 - 1e-9) <= anchor <= high * (1 + 1e-9)
            if not within and not (whole and int(default) in self._range({of: of_default})):
                raise ValueError(
                    f"default = {default:g} is {anchor:.6g} x the default of {of!r}, which is outside"
                    f" min = {low:g} and max = {high:g}"
                )
            anchor = min(max(anchor, low), high)
        # Ten digits, so that a ratio tells apart the whole numbers up to ten thousand million.
        self._ratio = Continuum(low, high, log=log, digits=10, anchor=anchor)

    @property
    def axis(self) -> Domain:
        return self._ratio

    def decode(self, u: float, values: Values) -> Value:
        return self._times(self._ratio.decode(u), values)

    def encode(self, value: Value, values: Values) -> float:
        other = number(values[self.reads[0]])
        if other == 0:
            return 0.5
        # A whole value that is reached by rounding may lie just outside the bounds.
        return self._ratio.encode(min(max(number(value) / other, self._low), self._high))

    def count(self, values: Values) -> float:
        return len(self._range(values)) if self._whole else math.inf

    def options(self, values: Values) -> Iterable[Value]:
        return self._range(values)

    def _times(self, ratio: float, values: Values) -> int | float:
        value = ratio * number(values[self.reads[0]])
        return max(1, round(value)) if self._whole else tidy(value)

    def _range(self, values: Values) -> range:
        ends = sorted(round(self._times(bound, values)) for bound in (self._low, self._high))
        return range(ends[0], ends[1] + 1)


class Product:
    """Whole numbers whose product is ``equals``: which values each can take, given those of the members before it."""

    def __init__(self, options: Mapping[str, Sequence[int]], equals: int) -> None:
        """``options`` has, for each member, in the order of decoding, its values that divide ``equals``.

        Raises ValueError when no combination has the product.
        """
        self.members = tuple(options)
        self.equals = equals
        self._options: dict[tuple[int, int], tuple[int, ...]] = {}
        # Forwards, what may be left of the product before each member; then backwards, which values of each member the
        # later ones can complete.
        before = [{equals}]
        for name in self.members:
            before.append({left // v for left in before[-1] for v in options[name] if left % v == 0})
        left = {1}
        for position in reversed(range(len(self.members))):
            member = sorted(set(options[self.members[position]]))
            for remaining in before[position]:
                fits = tuple(v for v in member if remaining % v == 0 and remaining // v in left)
                if fits:
                    self._options[position, remaining] = fits
            left = {remaining for at, remaining in self._options if at == position}
        if equals not in left:
            raise ValueError(f"no combination of {', '.join(self.members)} has the product {equals}")

    def options(self, position: int, values: Values) -> tuple[int, ...]:
        """The values, ascending, that the member at ``position`` can take, given those of the members before it."""
        remaining = self.equals
        for name in self.members[:position]:
            remaining //= int(values[name])
        return self._options[position, remaining]

    def most(self, position: int) -> int:
        """The most values that the member at ``position`` can take, whatever those of the members before it are."""
        return max(len(fits) for (at, _), fits in self._options.items() if at == position)


class Factor(Domain):
    """A member of a product: the values that the later members can complete, in cells of equal width."""

    def __init__(self, product: Product, position: int) -> None:
        self._product, self._position = product, position
        self.reads = product.members[:position]
        self.free = position < len(product.members) - 1

    @property
    def axis(self) -> None:
        return None

    def decode(self, u: float, values: Values) -> Value:
        options = self.options(values)
        return options[cell(u, len(options))]

    def encode(self, value: Value, values: Values) -> float:
        options = self.options(values)
        if value not in options:
            raise ValueError(f"{value!r} leaves no way to the product {self._product.equals}")
        return (options.index(int(value)) + 0.5) / len(options)

    def count(self, values: Values) -> float:
        return len(self.options(values))

    def options(self, values: Values) -> tuple[int, ...]:
        return self._product.options(self._position, values)

    def levels(self, most: int) -> Array:
        # Without an axis no other values are drawn later, so none is left out; more than these make proposals slow.
        return super().levels(max(most, min(self._product.most(self._position), _MOST_LEVELS)))
