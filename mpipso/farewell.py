"""How the root sends the other ranks home."""

from __future__ import annotations

import time

from mpipso.cluster.membership import Membership
from mpipso.messages import ROOT, Depart, Finish, Left
from mpipso.rendezvous import RankContext

GOODBYE = 120.0
"""Seconds at the end of a run in which ranks stop what still runs; what runs after that ends with its rank."""
FAREWELL = 1.0
"""Seconds in which the last message reaches the ranks that are not waited for."""


def dismiss(context: RankContext) -> None:
    """Send every rank home before the run has begun, as :meth:`mpipso.root.Root.run` does at its end."""
    limit = time.monotonic() + GOODBYE
    membership = Membership(context.plan)
    for rank in {*map(membership.leader, membership.groups), *membership.spares} - {ROOT}:
        context.everyone.post(rank, Finish())
    # Leaders send their members home; where this rank was to lead, there is no leader yet.
    group = context.group if context.place.seat == 0 else None
    if group is not None:
        for seat in range(1, group.size):
            group.post(seat, Finish())
    left: set[int] = set()
    others = set(range(1, context.world.size))
    while not others <= left | context.everyone.failed and time.monotonic() < limit:
        if group is not None:
            group.take()
        left |= {source for source, message in context.everyone.take() if isinstance(message, Left)}
        context.world.nap()
    depart(context, limit)
    if context.ssh_nodes is not None:
        context.ssh_nodes.close()
    context.node.close()


def depart(context: RankContext, limit: float) -> None:
    """Tell every rank to take leave of MPI; ``limit`` is the monotonic time until which that is waited for."""
    for rank in range(1, context.world.size):
        context.everyone.post(rank, Depart())
    while not context.everyone.idle and time.monotonic() < limit:
        context.everyone.take()
        context.world.nap()
