"""Lines of text in boxes, as programs draw them around what they say at their end."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_SIDES = "│┃║"
_DRAWN = "".join(map(chr, range(0x2500, 0x2580)))
_ERROR = re.compile(r"(?i)\berrors?$")
_INDENT = "  "
_LABEL = re.compile(r"(?P<before>\W*)[A-Z]\w*: ")


def unboxed(lines: Iterable[str]) -> Iterator[str]:
    """The lines without the boxes around them.

    In a box, a line is joined to one with a label, ``Reason: ...``, if it has none and begins further in, or begins
    where what is labelled does; or to the title of the box, if that speaks of an error. What stands in a box is
    indented, as a part of what it says.
    """
    # A line that others may be joined to, and how far in it begins, and what is labelled.
    whole, begins, labelled = "", 0, 0
    for line in lines:
        drawn = line.strip()
        closed = len(drawn) > 1 and drawn[0] in _DRAWN and drawn[-1] in _DRAWN
        inside = closed and drawn[0] in _SIDES
        said = drawn[1:-1].rstrip() if inside else ""
        label = _LABEL.match(said)
        indentation = len(said) - len(said.lstrip())
        if whole and said and (indentation >= labelled or not label) and indentation > begins:
            whole = f"{whole} {said.strip()}"
            continue
        if whole:
            yield whole
            whole = ""
        title = drawn.strip(f"{_DRAWN} ") if closed and not inside else ""
        if title and _ERROR.search(title):
            whole, begins, labelled = f"{title}:", -1, len(drawn)
        elif label:
            whole, begins, labelled = f"{_INDENT}{said.strip()}", len(label["before"]), label.end()
        elif closed:
            yield f"{_INDENT}{said or title}"
        else:
            yield line
    if whole:
        yield whole
