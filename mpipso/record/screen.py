"""What the progress display is drawn on: whether it is a terminal, and how large it is."""

from __future__ import annotations

import os
from typing import Literal, NamedTuple

DEFAULT_SIZE = (80, 24)
"""Columns and lines where a terminal does not tell."""


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
    width: int = DEFAULT_SIZE[0]
    height: int = DEFAULT_SIZE[1]
    terminal: str = ""


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
