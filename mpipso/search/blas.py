"""One thread for linear algebra: matrices are small, and a rank must not take cores from a service under test."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

_SET_BY_IMPORT = "KMP_DUPLICATE_LIB_OK"


def one_thread() -> AbstractContextManager[object]:
    """A context in which BLAS uses the calling thread only, so that results do not depend on the number of cores."""
    own = os.environ.get(_SET_BY_IMPORT)
    from threadpoolctl import ThreadpoolController

    if own is None:  # or the services that this rank starts have it, and those of the others have not
        os.environ.pop(_SET_BY_IMPORT, None)
    limited: AbstractContextManager[object] = ThreadpoolController().limit(limits=1)
    return limited
