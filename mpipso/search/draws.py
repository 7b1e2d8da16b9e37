"""Random numbers by counter: what a proposal draws depends on the seed and its number, never on what was drawn before.

Philox: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
"""

from __future__ import annotations

import numpy as np

PROPOSAL, START, LINKS = range(3)
"""What random numbers are for: a proposal; the start of the search; who informs whom in an iteration of the swarm."""


def generator(seed: int, number: int, purpose: int = PROPOSAL) -> np.random.Generator:
    """An independent generator for each (seed, number, purpose); ``purpose`` is less than 256."""
    return np.random.Generator(np.random.Philox(key=np.array([seed % 2**64, number << 8 | purpose], np.uint64)))
