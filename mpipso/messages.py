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
    """Any rank to root: a signal asks the run to end."""

    signal: int


@dataclass(frozen=True)
class Alive:
    """Any rank to root, and root to any rank: a sign of life."""


@dataclass(frozen=True)
class Form:
    """Root to the ranks of a new group: take your seats in it."""

    group: int
    placed: PlacedGroup
    port: int


@dataclass(frozen=True)
class Disband:
    """Root to a rank: leave this group, if you are in it, and whatever you are in say so. ``gone`` does not answer."""

    group: int | None
    gone: tuple[int, ...] = ()


@dataclass(frozen=True)
class Free:
    """Any rank to root: it belongs to no group (any more), and nothing of the last one runs on its node."""


@dataclass(frozen=True)
class Order:
    """Root to the leader of a group."""

    group: int
    content: Assignment | Cancel


@dataclass(frozen=True)
class Within:
    """Between the ranks of a group that was formed later, which has no communicator of its own."""

    group: int
    content: object


@dataclass(frozen=True)
class Finish:
    """Root to leaders and spares, leader to members: the run, or the group, is over; stop what runs."""


@dataclass(frozen=True)
class Left:
    """Any rank to root: nothing of the run is left on its node."""


@dataclass(frozen=True)
class Depart:
    """Root to any rank: everyone has left, or is not waited for; take leave of MPI."""
