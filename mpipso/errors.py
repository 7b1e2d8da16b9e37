"""Every error that mpipso raises on purpose, each with the user's own words in it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import Literal, TextIO

from mpipso.wording import printable

FailureKind = Literal["configuration", "measurement", "infrastructure", "cancelled"]

FINISHED = 0
"""Exit code of a run that came to its end with a configuration within the limits."""
NOTHING_FEASIBLE = 3
"""Exit code of a run that came to its end, in which no configuration was measured within the limits."""
LOST = 4
"""Exit code of a run that could not go on: no group is left, the disk is full, the launcher gave up restarting."""


class MpipsoError(Exception):
    """Base of the errors that are told to the user in one line, without a traceback."""

    exit_code = 1


class UserError(MpipsoError):
    """The input is wrong: one line per mistake, exit code 2, nothing was started.

    Parameters
    ----------
    problems:
        One line each: what is wrong, where (file, key, value), what would be right.
    hosts:
        The hosts without which it would not be wrong, if it is something of theirs.
    """

    exit_code = 2

    def __init__(self, problems: str | Sequence[str], hosts: Sequence[str] = ()) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        self.hosts = tuple(hosts)
        super().__init__("\n".join(self.problems))


class Taken(UserError):
    """Another ``mpipso launch`` looks after the run."""


class RunFailed(MpipsoError):
    """The run cannot go on: the baseline fails, no group is left to measure on, or the disk is full."""

    exit_code = LOST


class Alone(RunFailed):
    """Rank 0 cannot go on without ranks or nodes that it has lost, and cannot tell whether they are gone for good."""


class Relayed(RunFailed):
    """The run cannot go on, as another rank tells the user."""


class EvaluationFailed(MpipsoError):
    """One evaluation has no metrics, and why.

    ``kind`` decides what follows: a ``configuration`` is told to the swarm as failed and not tried again, a
    ``measurement`` that did not come about is tried once more on another group, and an ``infrastructure`` failure says
    nothing about the configuration and is retried.
    """

    def __init__(self, cause: str, *, kind: FailureKind = "configuration", detail: str = "") -> None:
        self.cause = cause
        self.kind: FailureKind = kind
        self.detail = detail
        super().__init__(cause)


class Cancelled(MpipsoError):
    """The evaluation was told to stop; it says nothing about its configuration.

    ``output`` is the end of what the command printed that was given up, if there was one.
    """

    def __init__(self, message: str, *, output: str = "") -> None:
        self.output = output
        super().__init__(message)


def print_error(error: MpipsoError, stream: TextIO | None = None) -> None:
    """One line per problem, on standard error or what stands for it."""
    with contextlib.suppress(OSError):  # Nobody may be there to read it, which is no reason for another exit code.
        for line in filter(str.strip, map(printable, str(error).splitlines())):
            print(f"mpipso: {line}", file=stream or sys.stderr, flush=True)
