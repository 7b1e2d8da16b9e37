"""Questions to the controller of Slurm, or of Flux, which may be busy, or not there."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

LIMIT = 10.0
"""Seconds for an answer."""


def told_of(job: str, field: str, *flags: str, environment: Mapping[str, str] | None = None) -> str:
    """What ``squeue`` tells of a job in one of the fields of its ``--format``; empty if it tells nothing.

    The number of a job may be that of an array as well; then it tells of all tasks, each of which has a number.
    """
    words = ["squeue", "--noheader", "--jobs", job, *flags, "--format", f"%A {field}"]
    told = [line.split(maxsplit=1) for line in ask(words, environment).splitlines()]
    return next((words[1].strip() for words in told if len(words) == 2 and words[0] == job), "")


def ask(words: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """What one of their commands prints; empty if it is missing, fails, or takes longer than :data:`LIMIT`."""
    try:
        answer = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout if answer.returncode == 0 else ""
