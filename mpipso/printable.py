"""What is printed: foreign text, whose control characters could reach a terminal's cursor, title and clipboard.

And nothing more where a reader has gone.
"""

from __future__ import annotations

import os
from typing import TextIO


def printable(text: str) -> str:
    """One line with a space for each character that is none to be seen."""
    return "".join(character if character.isprintable() else " " for character in text)


def clean(text: str) -> str:
    """Any text on one line, with single spaces."""
    return " ".join(printable(text).split())


def silence(stream: TextIO) -> None:
    """What is still written to a stream whose reader has gone, also by Python at its exit, goes nowhere."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)
