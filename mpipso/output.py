"""What commands print: whoever is to read it may have closed it, or gone away, and a file may have no room for it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from mpipso.errors import MpipsoError, RunFailed
from mpipso.record.lasting import silence


class Unread(MpipsoError):
    """The reader of standard output has gone, as with ``| head``: there is nothing to tell."""

    exit_code = 128 + signal.SIGPIPE


class Printer(Console):
    """A console on standard output that raises what :func:`printing` does."""

    def __init__(self) -> None:
        # Shells that do not know how wide their terminal is may say 0, which would leave nothing to see.
        if not os.environ.get("COLUMNS", "1").strip("0"):
            del os.environ["COLUMNS"]
        super().__init__()

    def print(self, *objects: Any, **how: Any) -> None:
        """As of every console."""
        with printing():
            super().print(*objects, **how)

    def on_broken_pipe(self) -> None:
        """Leave it to :func:`printing`."""
        raise


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Something is printed on standard output meanwhile, and nothing else is written.

    Raises
    ------
    Unread
        Its reader has gone.
    RunFailed
        It cannot be written.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        silence(sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise Unread from None
        raise RunFailed(f"standard output cannot be written: {error.strerror}") from None


def open_streams() -> None:
    """Whoever closed standard output or errors wants to see nothing; what is opened must not take their numbers."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, number)
            if nothing != number:
                os.close(nothing)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "w", closefd=False))
