"""Foreign text on a terminal, whose cursor, title and clipboard control characters could reach."""

from __future__ import annotations


def printable(text: str) -> str:
    """One line with a space for each character that is none to be seen."""
    return "".join(character if character.isprintable() else " " for character in text)


def clean(text: str) -> str:
    """Any text on one line, with single spaces."""
    return " ".join(printable(text).split())
