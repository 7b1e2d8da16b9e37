"""What root, leaders and members say to each other, besides assignments and evaluations."""

from __future__ import annotations

from dataclasses import dataclass

from mpipso.cluster.dispatch import Cancel
from mpipso.cluster.plan import PlacedGroup
from mpipso.evaluation import Assignment

ROOT = 0
"""The rank of the root."""


@dataclass(frozen=True)
class Interrupted:
    """Any rank to root: this rank was sent a signal (by its number), which asks the run to end."""

    signal: int


@dataclass(frozen=True)
class Alive:
    """Any rank to root, and root to any rank: a sign of life."""


@dataclass(frozen=True)
class Form:
    """Root to each rank of a new group: take your seat in it.

    ``group`` is the number of the group for the root, which is used only once.
    """

    group: int
    placed: PlacedGroup


@dataclass(frozen=True)
class Disband:
    """Root to a rank: leave this group if you are in it, and tell when you are in no group.

    The ranks ``gone`` do not answer any more. ``group`` None is for a rank that is in no group, as far as is known.
    """

    group: int | None
    gone: tuple[int, ...] = ()


@dataclass(frozen=True)
class Free:
    """Any rank to root: this rank belongs to no group (any more), and nothing of a group runs on its node."""


@dataclass(frozen=True)
class Order:
    """Root to the leader of a group: evaluate this assignment, or give up the evaluation that runs."""

    group: int
    content: Assignment | Cancel


@dataclass(frozen=True)
class Within:
    """A message between ranks of a group that was formed during the run, and so has no channel of its own."""

    group: int
    content: object


@dataclass(frozen=True)
class Finish:
    """Root to leaders and spares, leader to members: the run, or the group, is over; stop what runs."""


@dataclass(frozen=True)
class Left:
    """Any rank to root: nothing of the run is left on this rank's node."""


@dataclass(frozen=True)
class Fled:
    """Any rank to root: this rank takes the root, which was silent for too long, for dead, and leaves the run."""


@dataclass(frozen=True)
class Depart:
    """Root to any rank: every rank has cleared its node, or is not waited for; take leave of MPI."""
