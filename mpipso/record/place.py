"""Whether an open file is still where it was opened: whoever writes to it does not notice that it was moved."""

from __future__ import annotations

import errno
import os
from io import IOBase
from pathlib import Path


def is_there(path: Path, file: IOBase) -> bool:
    """Whether the open file is the one at ``path``, as far as can be told."""
    try:
        own, there = os.fstat(file.fileno()), path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        # Another host has removed it; else the disk does not answer.
        return error.errno != errno.ESTALE
    # The numbers of inodes are not lasting on all network file systems.
    return (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino) or own.st_size == there.st_size


def place(file: IOBase) -> Path | None:
    """Where the open file is now; None when it was removed, or nobody knows."""
    try:
        path = Path(f"/proc/self/fd/{file.fileno()}").readlink()
        return path if is_there(path, file) else None
    except OSError:
        return None
