"""Open files: whether one is still where it was opened, which its writer does not notice, and who holds its lock."""

from __future__ import annotations

import errno
import fcntl
import os
from io import IOBase
from pathlib import Path

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What a file system without locks answers (Lustre mounted without ``flock``, some NFS)."""


def lock(file: IOBase) -> bool | None:
    """Take the only lock of a file that is open for writing, without waiting; it is given up when the file is closed.

    Returns True when it was taken, False when somebody else holds it, None where the file system has no locks.

    Raises
    ------
    OSError
        The disk fails, so nobody can tell whether somebody holds it.
    """
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def is_there(path: Path, file: IOBase) -> bool:
    """Whether the open file is the one at ``path``; True where the disk does not answer."""
    try:
        own, there = os.fstat(file.fileno()), path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        # ESTALE is what NFS answers when another host has removed the file.
        return error.errno != errno.ESTALE
    # The numbers of inodes are not lasting on all network file systems.
    return (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino) or own.st_size == there.st_size


def place(file: IOBase) -> Path | None:
    """The path that the open file has now; None when it was removed, or the system does not tell."""
    try:
        path = Path(f"/proc/self/fd/{file.fileno()}").readlink()
        return path if is_there(path, file) else None
    except OSError:
        return None
