"""Questions to the controller of Slurm, or of Flux, which may be busy, or not there."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

LIMIT = 10.0
"""Seconds for an answer."""


def ask(words: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """What one of their commands prints; empty if it is missing, fails, or takes longer than :data:`LIMIT`."""
    try:
        answer = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout if answer.returncode == 0 else ""
