"""One thread for linear algebra: matrices are small, and a rank must not take cores from a service under test."""

from __future__ import annotations

from contextlib import AbstractContextManager

from threadpoolctl import ThreadpoolController


def one_thread() -> AbstractContextManager[object]:
    """A context in which BLAS uses the calling thread only, so that results do not depend on the number of cores."""
    limited: AbstractContextManager[object] = ThreadpoolController().limit(limits=1)
    return limited
