"""What a launcher sees of its run: journal and beat in the run's folder, which may lie on another machine."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mpipso.record import journal
from mpipso.record.folders import BEAT_FILE
from mpipso.record.usage import BEGINNINGS


class Traces:
    """Those that the root of the run in ``folder`` leaves."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._journal = folder / journal.FILE

    def state(self) -> tuple[int, ...]:
        """Changes when the root writes its journal or touches its beat.

        Clocks of several machines need not agree, so that only changes count. Opening a file makes NFS ask the server.
        """
        numbers = []
        for path in (self._journal, self._folder / BEAT_FILE):
            with contextlib.suppress(OSError), path.open("rb") as file:
                status = os.fstat(file.fileno())
                numbers += [status.st_size, status.st_mtime_ns, status.st_ino]
        return tuple(numbers)

    def events(self) -> list[dict[str, Any]] | OSError:
        """What the journal holds now, nothing if there is none; or why the disk does not tell.

        Raises
        ------
        UserError
            The journal is damaged.
        """
        try:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                return journal.parse(self._journal, self._journal.read_bytes())[0]
        except OSError as error:
            return error
        return []

    def are_there(self) -> bool:
        """Whether the disk answers and has the run's folder, so that their silence is the run's."""
        return not self.are_gone() and not isinstance(self.events(), OSError)

    def are_gone(self) -> bool:
        """Whether the run's folder was moved or removed."""
        try:
            self._folder.stat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:  # the disk does not answer
            return False
        return False


def of_job(events: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What a job has written of the events since its launch: what comes before its own first one is of another root.

    On a full disk there may be no more room than for why it has failed.
    """
    return list(itertools.dropwhile(lambda event: event["event"] not in (*BEGINNINGS, "failed"), events))
