"""Which terminal the progress of a run is drawn on, if any: that of its launcher, where one started it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

import psutil

from mpipso.errors import UserError
from mpipso.launched import TERMINAL
from mpipso.record.screen import DEFAULT_SIZE, Screen, terminal_size
from mpipso.signals import FRONT_ENDS

_MPI = ("OMPI_", "PMI_", "PMIX_")
_NEAREST = 3
"""How many generations above a rank its launcher is looked for: Hydra's proxy or a wrapper may stand in between."""


def pick_mode(requested: str, stream: TextIO, environment: Mapping[str, str] | None = None) -> Screen:
    """Choose the display for what is written to ``stream``: ``live``, ``plain``, or ``auto``.

    ``auto`` is live on a terminal and plain anywhere else.

    Launchers give their ranks a pseudo-terminal or a pipe whatever they write to themselves, so under MPI what counts
    is the variable ``MPIPSO_TERMINAL``, else the standard output of the launcher if it runs on this host. A terminal
    that cannot move its cursor (``TERM=dumb``) gets plain lines whatever was requested.

    Raises
    ------
    UserError
        ``MPIPSO_TERMINAL`` is malformed.
    """
    environment = os.environ if environment is None else environment
    terminal, size = _terminal(stream, environment)
    dumb = environment.get("TERM") == "dumb"
    if requested == "plain" or dumb or (requested == "auto" and not size):
        return Screen("plain")
    return Screen("live", *(size or DEFAULT_SIZE), terminal)


def _terminal(stream: TextIO, environment: Mapping[str, str]) -> tuple[str, tuple[int, int] | None]:
    """The device (where known) and the size of the terminal, None when there is no terminal."""
    if (declared := environment.get(TERMINAL)) is not None:
        match = re.fullmatch(r"(\d+)(?:x(\d+))?", declared)
        if match is None:
            raise UserError(f"{TERMINAL} = {declared!r}: should be <columns>, <columns>x<lines>, or 0 for no terminal")
        columns, lines = int(match[1]), int(match[2] or DEFAULT_SIZE[1])
        return "", ((columns, lines) if columns and lines else None)
    if not any(name.startswith(_MPI) for name in environment):
        if not stream.isatty():
            return "", None
        device = f"/proc/self/fd/{stream.fileno()}"  # it may have no name here, as in a container or a chroot
        return device, terminal_size(device) or DEFAULT_SIZE
    device = _launcher_output()
    if not re.match(r"/dev/(pts/|tty)", device):
        return "", None
    return device, terminal_size(device) or DEFAULT_SIZE


def _launcher_output() -> str:
    """What the launcher that started this process writes to, ``""`` if it is on another host or cannot be seen."""
    try:
        for process in psutil.Process().parents()[:_NEAREST]:
            if process.name() in FRONT_ENDS:
                return str(Path(f"/proc/{process.pid}/fd/1").readlink())
    except (OSError, psutil.Error):
        pass
    return ""
