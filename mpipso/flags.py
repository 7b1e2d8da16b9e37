"""Numbers on a command line: what is no number, or out of bounds, is refused in words."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def bounded(
    kind: type[int] | type[float], low: float, high: float = math.inf, *, above: bool = False
) -> Callable[[str], float]:
    """The ``type``, for :mod:`argparse`, of a flag that takes numbers of a ``kind``, int or float.

    They go from ``low`` to ``high``, both included; with ``above``, ``low`` is not. Infinity and NaN are refused.
    """
    bounds = f"above {low}" if above else f"of at least {low}" if high == math.inf else f"from {low} to {high}"
    wanted = f"{'whole ' if kind is int else ''}number {bounds}"

    def read(word: str) -> float:
        try:
            value = kind(word)
        except ValueError:
            value = math.nan
        if not low <= value <= high or value == math.inf or (above and value == low):
            raise argparse.ArgumentTypeError(f"{word!r} is not a {wanted}")
        return value

    return read
