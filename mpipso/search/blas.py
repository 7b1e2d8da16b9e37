"""One thread for linear algebra: matrices are small, and a rank must not take cores from a service under test."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

try:
    from threadpoolctl import ThreadpoolController
except ImportError:  # an environment from before it was required: there OPENBLAS_NUM_THREADS and the like decide
    ThreadpoolController = None


def one_thread() -> AbstractContextManager[object]:
    """While it is entered, BLAS computes in the calling thread; the result is then the same on any number of cores."""
    if ThreadpoolController is None:
        return nullcontext()
    limited: AbstractContextManager[object] = ThreadpoolController().limit(limits=1)
    return limited
