"""Which code of mpipso runs here: all ranks and agents need the same, and its version alone does not tell that."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import mpipso
from mpipso.wording import listed

FOLDER = Path(__file__).parent
"""Where mpipso runs from."""


@functools.cache
def edition(folder: Path = FOLDER) -> str:
    """The version and, in 8 hexadecimal digits, a digest of the source files in ``folder``: ``0.1.0+1f2e3d4c``."""
    digest = hashlib.blake2b(digest_size=4)
    for path in sorted(folder.rglob("*.py")):
        if path.stem.isidentifier() and path.is_file():  # not what an editor leaves beside a file
            text = path.read_bytes()
            digest.update(f"{path.relative_to(folder).as_posix()} {len(text)}\n".encode() + text)
    return f"{mpipso.__version__}+{digest.hexdigest()}"


def unlike(told: Sequence[tuple[str, str, str, list[str]]]) -> list[str]:
    """What keeps the ranks from a run: one line about all that run other code than rank 0, or else a rank's mistakes.

    ``told`` has, by rank, its host, its edition, the folder of that and the mistakes in its command line.
    """
    hosts: dict[tuple[str, str], list[str]] = {}
    root, own, folder, _ = told[0]
    for host, other, where, _ in told:
        if other != own:
            hosts.setdefault((other, where), []).append(host)
    if not hosts:
        return next((mistakes for *_, mistakes in told if mistakes), [])
    found = [f"{code} in {where} on {listed(list(dict.fromkeys(on)))}" for (code, where), on in hosts.items()]
    return [f"all ranks need the same mpipso: {own} in {folder} on {root}, but {'; '.join(found)}"]
