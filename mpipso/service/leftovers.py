"""Work folders of processes that were killed while no keeper was there to remove them, and that may hold secrets."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from pathlib import Path
from typing import IO

PREFIX = "mpipso-"
_MARK = ".owner"
"""A file that its owner keeps locked; it names the boot of the machine, since a lock may say nothing on another one."""


def claim(folder: str) -> IO[str] | None:
    """Mark a work folder as one of this process, as long as the file that is returned is open; None without locks."""
    with contextlib.suppress(OSError):
        draft = Path(folder) / f"{_MARK}.new"
        file = draft.open("w")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.write(_boot())
        file.flush()
        draft.rename(draft.with_name(_MARK))
        return file
    return None


def sweep(parent: Path) -> None:
    """Remove the work folders below ``parent`` that this user's processes on this machine have left behind."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            status = folder.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                continue
            with (folder / _MARK).open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if file.read() == _boot():
                    shutil.rmtree(folder, ignore_errors=True)


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text()
