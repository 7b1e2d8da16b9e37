"""What the progress display is drawn on: whether it is a terminal, and how large it is."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, TextIO

import psutil

from mpipso.errors import UserError
from mpipso.launched import TERMINAL
from mpipso.signals import FRONT_ENDS

_MPI = ("OMPI_", "PMI_", "PMIX_")
_NEAREST = 3
"""How many generations above a rank its launcher is looked for: Hydra's proxy or a wrapper may stand in between."""
_DEFAULT = (80, 24)


class Screen(NamedTuple):
    """What a run's progress is shown on.

    Attributes
    ----------
    mode:
        ``live`` for a display that is drawn anew, ``plain`` for lines.
    width, height:
        Its size in characters.
    terminal:
        The path of the terminal's device if that can be asked for a new size, else empty.
    """

    mode: Literal["live", "plain"]
    width: int = _DEFAULT[0]
    height: int = _DEFAULT[1]
    terminal: str = ""


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
    return Screen("live", *(size or _DEFAULT), terminal)


def terminal_size(device: str) -> tuple[int, int] | None:
    """Columns and lines of a terminal, by the path of its device; None if it is gone or does not know."""
    try:
        descriptor = os.open(device, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        columns, lines = os.get_terminal_size(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return (columns, lines) if columns and lines else None


def _terminal(stream: TextIO, environment: Mapping[str, str]) -> tuple[str, tuple[int, int] | None]:
    """The device (where known) and the size of the terminal, None when there is no terminal."""
    if (declared := environment.get(TERMINAL)) is not None:
        match = re.fullmatch(r"(\d+)(?:x(\d+))?", declared)
        if match is None:
            raise UserError(f"{TERMINAL} = {declared!r}: should be <columns>, <columns>x<lines>, or 0 for no terminal")
        columns, lines = int(match[1]), int(match[2] or _DEFAULT[1])
        return "", ((columns, lines) if columns and lines else None)
    if not any(name.startswith(_MPI) for name in environment):
        if not stream.isatty():
            return "", None
        device = f"/proc/self/fd/{stream.fileno()}"  # it may have no name here, as in a container or a chroot
        return device, terminal_size(device) or _DEFAULT
    device = _launcher_output()
    if not re.match(r"/dev/(pts/|tty)", device):
        return "", None
    return device, terminal_size(device) or _DEFAULT


def _launcher_output() -> str:
    """What the launcher that started this process writes to, ``""`` if it is on another host or cannot be seen."""
    try:
        for process in psutil.Process().parents()[:_NEAREST]:
            if process.name() in FRONT_ENDS:
                return str(Path(f"/proc/{process.pid}/fd/1").readlink())
    except (OSError, psutil.Error):
        pass
    return ""
