"""The journal between two jobs: a root of the lost one that wakes up is shut out, and anybody else is left alone."""

from __future__ import annotations

import os
import shutil
from io import FileIO
from pathlib import Path

import psutil

from mpipso.errors import RunFailed
from mpipso.launched import RESTARTS
from mpipso.record.place import lock

_LOCKS = Path("/proc/locks")
"""The locks that processes of this host hold: ``1: FLOCK ADVISORY WRITE <process> <device>:<inode> 0 EOF``."""


def is_written(path: Path) -> bool:
    """Whether somebody, on whichever host, holds the lock of a journal; False where that cannot be told."""
    try:
        with FileIO(path, "r+") as file:
            return lock(file) is False
    except OSError:
        return False


def is_foreign(path: Path) -> bool:
    """Whether it is a process of this host that belongs to no supervised job; False where that cannot be told.

    One of a supervised job belongs to this one, since a run has one supervisor. It may be alive when all that the
    launcher has started here is gone: ranks of srun are no descendants of who called it.
    """
    try:
        about, lines = path.stat(), _LOCKS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    held = (line.split() for line in lines if "->" not in line)  # which waits for one
    # Without the device, which stat calls otherwise on some file systems (btrfs).
    holders = [int(words[4]) for words in held if words[5].rpartition(":")[2] == str(about.st_ino)]
    return any(_is_unsupervised(pid, about) for pid in holders if pid > 0)


def _is_unsupervised(pid: int, journal: os.stat_result) -> bool:
    """Whether a process that may hold the lock of this file does so, and belongs to no supervised job."""
    try:
        if RESTARTS in psutil.Process(pid).environ():
            return False
        return any(os.path.samestat(file.stat(), journal) for file in Path(f"/proc/{pid}/fd").iterdir())
    except psutil.AccessDenied:  # of another user
        return True
    except (psutil.Error, OSError):
        return False


def fence(path: Path) -> None:
    """Go on in a copy of the journal: a root on a host that wakes up later holds the old file, and its lock.

    Raises
    ------
    RunFailed
        The disk is full or fails.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.exists():
            shutil.copyfile(path, draft)
            # With the time of the last event, but not its mode, which not every file system takes.
            seen = path.stat()
            os.utime(draft, ns=(seen.st_atime_ns, seen.st_mtime_ns))
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise RunFailed(f"{path}: cannot be copied: {error.strerror}") from error
