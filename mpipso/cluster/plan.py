"""What a placement is made of: ranks with what they found, groups of nodes with their shares of hosts, spare ranks."""

from __future__ import annotations

import itertools
from collections.abc import Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from mpipso.service.facts import Facts
from mpipso.service.node import Share


@dataclass(frozen=True)
class _Numbered:
    """What has the number of a rank; as the last base, its field comes first."""

    rank: int


@dataclass(frozen=True)
class Rank(Facts, _Numbered):
    """A rank of the job, with what it found out about its host at start-up.

    A negative number stands for a host on which no rank runs (``placement.named_without_rank``).
    """


@dataclass(frozen=True)
class PlacedNode(Share, _Numbered):
    """One node of a group: its rank, and its share of a host.

    Groups on one host have disjoint cores and devices. Nodes of one group on one host have disjoint devices, but the
    same cores. A negative number means that the node has no rank. The group's leader then reaches the node over ssh, as
    ``ssh_user`` and on ``ssh_port`` if these are given.
    """

    ssh_port: int | None = None
    ssh_user: str = ""

    @property
    def transport(self) -> Literal["mpi", "ssh"]:
        """What carries the leader's messages to the node."""
        return "mpi" if self.rank >= 0 else "ssh"


@dataclass(frozen=True)
class PlacedGroup:
    """A service group: the nodes on which one instance of the service runs.

    The rank of ``nodes[0]`` leads the group, and ``nodes[master_node_index]`` runs the service's master. ``group_id``
    is the group's number in the configuration, or else in the order in which the run has formed its groups. The service
    listens on ``port``, where 0 stands for any free one.
    """

    group_id: int
    nodes: tuple[PlacedNode, ...]
    master_node_index: int = 0
    port: int = 0

    @property
    def ports(self) -> list[tuple[str, int]]:
        """The nodes' hosts by the service's own numbering, each with the port that is the node's: ``port`` plus number.

        The first is where the service listens, and the others are for services whose nodes each listen.
        """
        workers = (node for index, node in enumerate(self.nodes) if index != self.master_node_index)
        return [(node.host, self.port + number) for number, node in enumerate((self.master, *workers))]

    @property
    def master(self) -> PlacedNode:
        """The node that runs the service's master, where clients find the service."""
        return self.nodes[self.master_node_index]

    @property
    def hosts(self) -> str:
        """The nodes' hosts in one word, as in ``node0+node1``."""
        return "+".join(node.host for node in self.nodes)


@dataclass(frozen=True)
class Spare:
    """A rank that belongs to no group, and why, in words; ``node`` is its share of the host in a later group."""

    reason: str
    node: PlacedNode


@dataclass(frozen=True)
class Plan:
    """Who does what at the beginning of a run.

    Attributes
    ----------
    groups:
        The groups; a group's position here is its number for the root. The root leads the first one.
    spares:
        The ranks that belong to no group.
    idle:
        Hosts that the user named, but on which no rank runs.
    """

    groups: tuple[PlacedGroup, ...]
    spares: tuple[Spare, ...] = ()
    idle: tuple[str, ...] = ()

    def index_of(self, rank: int) -> int | None:
        """The position in ``groups`` of the group that ``rank`` belongs to; None for a spare rank."""
        return self._indices.get(rank)

    def node(self, rank: int) -> PlacedNode:
        """The share of its host that ``rank`` has, in a group or as a spare; ``KeyError`` for a rank of another job."""
        return self._nodes[rank]

    @cached_property
    def _indices(self) -> dict[int, int]:
        return {node.rank: index for index, group in enumerate(self.groups) for node in group.nodes}

    @cached_property
    def _nodes(self) -> dict[int, PlacedNode]:
        nodes = [node for group in self.groups for node in group.nodes] + [spare.node for spare in self.spares]
        return {node.rank: node for node in nodes}


def with_port(group: PlacedGroup, first: int, taken: Set[tuple[str, int]]) -> PlacedGroup:
    """The group with the lowest port from ``first`` on with which it has no ports that are ``taken`` by other groups.

    For ``first`` = 0, which stands for any free port, it is 0.
    """
    placed = (replace(group, port=port) for port in (itertools.count(first) if first else (0,)))
    return next(each for each in placed if not first or taken.isdisjoint(each.ports))
