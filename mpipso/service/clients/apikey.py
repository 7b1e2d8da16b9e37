"""The API key that a service wants: it stands in an environment variable, and is written nowhere."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mpipso.redact import HIDDEN

_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_HEADER = re.compile(r"[!-~]([ -~]*[!-~])?")
"""What a header of HTTP can hold whatever reads it: printable ASCII, without spaces at its ends, which are cut off."""


def api_key(name: str, environ: Mapping[str, str]) -> str:
    """The key in the variable ``name``; empty if that is empty, and no key is to be sent.

    Raises
    ------
    ValueError
        It holds none, or none that can be sent; the message has no value.
    """
    if not name:
        return ""
    if not _NAME.fullmatch(name):  # perhaps the key itself
        raise ValueError("should be the name of an environment variable: letters, digits and '_', and no digit first")
    if not (key := environ.get(name, "")):
        state = "is empty" if name in environ else "is not set"
        raise ValueError(
            f"the environment variable {name} {state}; it is read on every host with a rank, which it reaches only if "
            f"the launcher forwards it (Open MPI: -x {name})"
        )
    if not _HEADER.fullmatch(key):
        raise ValueError(f"the value of {name} has a line break, a space at an end, or else what no header can hold")
    return key


def headers(key: str) -> dict[str, str]:
    """What a request says of the key."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def hidden(text: str, key: str) -> str:
    """What a service has answered, without the key."""
    return text.replace(key, HIDDEN) if key else text
