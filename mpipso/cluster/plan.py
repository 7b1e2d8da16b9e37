"""What a placement is made of: ranks with what they found, groups of nodes with their shares of hosts, spare ranks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Literal


@dataclass(frozen=True)
class Rank:
    """What a rank found out about its node at start-up; ``aliases`` are further names and addresses of the host.

    ``differing`` names the variables of which services inherit another value there than on the root's host. A
    negative number stands for a host outside of the job, see :func:`outside`.
    """

    rank: int
    host: str
    address: str = ""
    cores: tuple[int, ...] = ()
    devices: tuple[int, ...] = ()
    device_variable: str = ""
    aliases: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlacedNode:
    """One node of a group: its rank, and its share of the host.

    Groups on one host have disjoint cores and devices; the nodes of one group have disjoint devices but the same cores.
    ``device_variable`` makes ``devices`` visible to a process; empty if it is not known. A node without a rank has a
    negative number for it, and its leader reaches it over ssh, as ``ssh_user`` on ``ssh_port`` unless these are unset.
    """

    rank: int
    host: str
    address: str
    cores: tuple[int, ...]
    devices: tuple[int, ...]
    device_variable: str = ""
    ssh_port: int | None = None
    ssh_user: str = ""

    @property
    def transport(self) -> Literal["mpi", "ssh"]:
        """What carries the leader's messages to the node."""
        return "mpi" if self.rank >= 0 else "ssh"


@dataclass(frozen=True)
class PlacedGroup:
    """A service group: ``nodes[0]`` is its leader's, ``nodes[master_node_index]`` runs the service's master."""

    group_id: int
    nodes: tuple[PlacedNode, ...]
    master_node_index: int = 0

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
    """A rank that belongs to no group, and why; ``node`` is its share of the host if it is needed after all."""

    reason: str
    node: PlacedNode


@dataclass(frozen=True)
class Plan:
    """All groups of a run, in the order in which the root counts them, the ranks left over, and hosts without any."""

    groups: tuple[PlacedGroup, ...]
    spares: tuple[Spare, ...] = ()
    idle: tuple[str, ...] = ()

    def index_of(self, rank: int) -> int | None:
        """The position in ``groups`` of the group that ``rank`` belongs to."""
        return self._indices.get(rank)

    def node(self, rank: int) -> PlacedNode:
        """A rank's share of its host."""
        return self._nodes[rank]

    def ports(self, first: int) -> tuple[int, ...]:
        """The port of each group's service: groups whose masters share a host count up from ``first``; 0 as there."""
        taken: dict[str, set[int]] = defaultdict(set)
        ports = []
        for group in self.groups:
            on_host = taken[group.master.host]
            ports.append(lowest_port(first, on_host))
            on_host.add(ports[-1])
        return tuple(ports)

    @cached_property
    def _indices(self) -> dict[int, int]:
        return {node.rank: index for index, group in enumerate(self.groups) for node in group.nodes}

    @cached_property
    def _nodes(self) -> dict[int, PlacedNode]:
        nodes = [node for group in self.groups for node in group.nodes] + [spare.node for spare in self.spares]
        return {node.rank: node for node in nodes}


def lowest_port(first: int, taken: Collection[int]) -> int:
    """The lowest port from ``first`` on that no service on the host has ``taken``; for 0, any free port, 0 itself."""
    return next(port for port in range(first, first + len(taken) + 1) if port not in taken) if first else 0
