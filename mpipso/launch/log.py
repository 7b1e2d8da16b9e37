"""What a launcher tells: to its user, and to ``launch.log`` in the run's folder."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from mpipso.errors import Taken
from mpipso.record.lasting import silence
from mpipso.record.place import lock
from mpipso.redact import Redactor
from mpipso.wording import printable

_PATIENCE = 1.0
"""Seconds in which a stream takes a line."""


class Log:
    """The file ``launch.log`` and the standard streams. As a context manager it has the file open, and locked.

    Parameters
    ----------
    path:
        The file, where it can be written: it is a convenience, and a full disk is told by those whose records matter.
    environment:
        Where secrets are that the file is not to have.

    Raises
    ------
    Taken
        On entering: another supervisor has the file of this run.
    """

    def __init__(self, path: Path, environment: Mapping[str, str]) -> None:
        self._path = path
        self._redactor = Redactor(environment)
        self._file: TextIOWrapper | None = None
        self._saying: threading.Thread | None = None

    def __enter__(self) -> Log:
        try:
            self._file = self._path.open("a", encoding="utf-8", errors="backslashreplace")
        except OSError:
            return self
        with contextlib.suppress(OSError):
            if lock(self._file) is False:
                self._file.close()
                raise Taken(f"{self._path.parent}: is already supervised by another mpipso launch")
        return self

    def __exit__(self, *raised: object) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # lines that a full disk did not take
                self._file.close()

    def learn(self, command: Sequence[str]) -> None:
        """Find the secrets in a command line."""
        self._redactor.learn(command)

    def tell(self, line: str) -> None:
        """Keep a line, and print it as one of mpipso on standard error."""
        self.keep([line])
        self.say(f"mpipso: {printable(line)}", stream=sys.stderr)

    def keep(self, lines: Sequence[str]) -> None:
        """Write lines into the file, with the time."""
        with contextlib.suppress(OSError):
            if self._file is not None:
                at = time.strftime("%Y-%m-%d %H:%M:%S")
                self._file.writelines(f"{at} {self._redactor.text(line)}\n" for line in lines)
                self._file.flush()

    def say(self, text: str, end: str = "\n", stream: TextIO | None = None) -> None:
        """Print on standard output, or ``stream``; not if that has not even taken the last line yet.

        A terminal may be stopped (Ctrl-S), or the connection to it stall, and the run is to be watched all the same.
        """
        if self._saying is not None and self._saying.is_alive():
            return
        # A daemon, which Python does not wait for at its end, and which holds none of its locks.
        self._saying = threading.Thread(target=_print, args=(text + end, stream or sys.stdout), daemon=True)
        self._saying.start()
        self._saying.join(_PATIENCE)


def _print(text: str, stream: TextIO) -> None:
    rest = text.encode(stream.encoding, "backslashreplace")
    try:
        while rest:
            rest = rest[os.write(stream.fileno(), rest) :]
    except OSError:
        # Whoever read this has gone, and that ended the launcher too; the run need not be watched to go on.
        silence(stream)
