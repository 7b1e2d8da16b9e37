"""Where a search begins: valid points that fill the space evenly."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mpipso.search.arrays import Array
from mpipso.search.draws import START, generator
from mpipso.search.lattice import Lattice

if TYPE_CHECKING:
    from scipy.stats import qmc


_MOST_DRAWN = 2**13
"""The most Sobol points that are drawn as they are; as many more with their deciding dimensions set to valid values."""


class StartingPoints:
    """Scrambled Sobol points without those that break known constraints.

    Where too few are left, further points take the dimensions that decide on validity from what is known to be valid.
    Dimensions whose cells depend on others are at the centres of their cells.

    A. B. Owen, "Scrambling Sobol' and Niederreiter-Xing points", Journal of Complexity 14 (1998) 466-489.
    """

    def __init__(self, lattice: Lattice, seed: int) -> None:
        self._lattice = lattice
        self._seed = seed
        self._valid: list[Array] = []
        self._drawn = 0

    def __getitem__(self, index: int) -> Array:
        """Valid point ``index``, of shape (dimensions,), again from the first where there are fewer.

        Where no valid point was found, it is the middle of the cube, which is not valid either.
        """
        valid = self.valid(index + 1)
        return valid[index % len(valid)] if len(valid) else np.full(self._lattice.dimensions, 0.5)

    def valid(self, count: int) -> Array:
        """The first valid points, of shape (count, dimensions), or fewer where these are rare."""
        while count > len(self._valid) and self._drawn < self._most:
            self._draw(256)
        return np.array(self._valid[:count]).reshape(-1, self._lattice.dimensions)

    @property
    def _most(self) -> int:
        """How many points may be drawn: twice as many, once the first half is, if settings are known to be valid."""
        return _MOST_DRAWN if self._drawn < _MOST_DRAWN or not len(self._lattice.space.decided) else 2 * _MOST_DRAWN

    @cached_property
    def _sobol(self) -> qmc.Sobol:
        # All of scipy.stats takes half a second to import, and what only checks or reports draws nothing.
        from scipy.stats import qmc

        number = int(generator(self._seed, 0, START).integers(2**31))
        return qmc.Sobol(self._lattice.dimensions, scramble=True, seed=number)

    def _draw(self, count: int) -> None:
        points = np.asarray(self._sobol.random(count))
        if self._drawn >= _MOST_DRAWN:
            decided, axes = self._lattice.space.decided, self._lattice.constrained
            which = generator(self._seed, self._drawn, START).integers(len(decided), size=count)
            points[:, axes] = decided[which][:, axes]
        points = self._lattice.settle(points)
        self._valid += list(points[self._lattice.valid(points)])
        self._drawn += count
