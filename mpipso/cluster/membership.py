"""Which ranks form which groups while the run goes on: groups end with a lost rank, and new ones form of what is left.

Knows no messages and no clock: the root tells it what happened, and does what it says.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from mpipso.cluster.plan import PlacedGroup, PlacedNode, Plan, with_port


@dataclass(frozen=True)
class Loss:
    """What the loss of a rank means.

    Attributes
    ----------
    host:
        The host on which the rank runs, or ran.
    group:
        The number of the group that the rank was in or had still to leave; None if there was none.
    ended:
        Whether the group existed until now, and ends with this loss.
    leader:
        The rank that led the group and now has to end it; None if it is the lost one, or was lost before.
    survivors:
        The ranks that have to leave the group before they can serve in another, in order.
    """

    host: str
    group: int | None = None
    ended: bool = False
    leader: int | None = None
    survivors: tuple[int, ...] = ()


class Membership:
    """The ranks of the job and their groups; group numbers are never used again.

    Parameters
    ----------
    port:
        ``service.port``, from which groups whose masters share a host count up.
    fits:
        Tells whether a group that is formed later can run the service.

    Attributes
    ----------
    groups:
        The groups that exist, by number.
    lost:
        The ranks that have died, or of which no sign of life has come for too long.
    """

    def __init__(self, plan: Plan, port: int = 0, fits: Callable[[PlacedGroup], bool] = lambda group: True) -> None:
        self.groups: dict[int, PlacedGroup] = dict(enumerate(plan.groups))
        self.lost: set[int] = set()
        self._share = {node.rank: node for group in plan.groups for node in group.nodes}
        self._share |= {spare.node.rank: spare.node for spare in plan.spares}
        self._spare: set[int] = {spare.node.rank for spare in plan.spares}
        self._shared = _shared(plan)
        """What of hosts is not for one group alone, by the plan: where groups share cores, all of these."""
        self._dead: set[int] = set()
        self._leaving: dict[int, int] = {}
        self._led: dict[int, int] = {}
        self._places = dict(self.groups)
        """By the number of each group, the group of the plan in whose place it is."""
        self._vacancies: list[PlacedGroup] = []
        self._ended: dict[int, PlacedGroup] = {}
        self._next = len(plan.groups)
        self._port = port
        self._fits = fits

    @property
    def spares(self) -> frozenset[int]:
        """The ranks that wait for a group."""
        return frozenset(self._spare)

    @property
    def leaving(self) -> frozenset[int]:
        """The ranks that still have to leave a group that has ended."""
        return frozenset(self._leaving)

    def leader(self, group: int) -> int:
        """The rank that leads the group of this number."""
        return self.groups[group].nodes[0].rank

    def group_of(self, rank: int) -> int | None:
        """The number of the group that ``rank`` belongs to; None if it belongs to none."""
        return next((n for n, group in self.groups.items() if any(node.rank == rank for node in group.nodes)), None)

    def lose(self, rank: int, *, dead: bool) -> Loss | None:
        """Take note that a rank has died (``dead``), or is not heard of any more; None if its loss is known already.

        A dead rank's share of its host goes to a spare rank on the same host that has less of its own.
        """
        if dead and rank not in self._dead:
            self._dead.add(rank)
            self._inherit(self._share[rank])
        if rank in self.lost:
            return None
        self.lost.add(rank)
        self._spare.discard(rank)
        host = self._share[rank].host
        number = self.group_of(rank)
        ended = number is not None
        if number is not None:
            self._end(number)
        else:
            number = self._leaving.pop(rank, None)
        if number is None:
            return Loss(host)
        survivors = tuple(sorted(other for other, of in self._leaving.items() if of == number))
        leader = self._led.get(number)
        return Loss(host, number, ended, leader if leader in survivors else None, survivors)

    def _end(self, number: int) -> None:
        group = self.groups.pop(number)
        self._vacancies.append(self._places.pop(number))
        self._ended[number] = group
        self._led[number] = group.nodes[0].rank
        present = [node.rank for node in group.nodes if node.rank >= 0 and node.rank not in self.lost]
        self._leaving.update((rank, number) for rank in present)

    def free(self, rank: int) -> bool:
        """Take note that a rank belongs to no group (any more); returns whether it was lost and is back.

        What a rank said before it died may be heard after its death is known.
        """
        if rank in self._dead:
            return False
        back = rank in self.lost
        self.lost.discard(rank)
        self._leaving.pop(rank, None)
        if self.group_of(rank) is None:
            self._spare.add(rank)
        return back

    def form(self) -> list[tuple[int, PlacedGroup]]:
        """Form groups of spare ranks in the place of groups that have ended, as far as there are ranks.

        Returns the new groups with their numbers. A new group has as many nodes as the one of the plan in whose place
        it is, and can do what that could.
        """
        formed = []
        for place in sorted(self._vacancies, key=lambda group: -len(group.nodes)):
            group = self._replacement(place)
            if group is None:
                continue
            self._vacancies.remove(place)
            self._spare.difference_update(node.rank for node in group.nodes)
            self.groups[self._next] = group
            self._places[self._next] = place
            formed.append((self._next, group))
            self._next += 1
        return formed

    def _replacement(self, place: PlacedGroup) -> PlacedGroup | None:
        """A group of spare ranks for the place of a group of the plan; None if no such group fits."""
        chosen = self._chosen(place)
        if chosen is None:
            return None
        group = PlacedGroup(self._next, tuple(self._share[rank] for rank in chosen), place.master_node_index)
        taken = {port for other in self.groups.values() for port in other.ports}
        group = with_port(group, self._port, taken.union(self._lingering()))
        return group if self._fits(group) else None

    def _lingering(self) -> Iterator[tuple[str, int]]:
        """The hosts and ports of services that may still run: their group is being left, or nobody hears of it.

        Not where the ranks of the group have left it: a service that has a port of its own is to find it there again.
        """
        for number, group in self._ended.items():
            if number in self._leaving.values() or group.master.rank in self.lost - self._dead:
                hosts = {node.host for node in group.nodes if node.rank in self._leaving or node.rank in self.lost}
                yield from (port for port in group.ports if port[0] in hosts)

    def _chosen(self, place: PlacedGroup) -> list[int] | None:
        """As many ranks as the group had nodes, each fit for one of these seats.

        They are on different hosts if its own were, and on one host if its own were, as a service may be slower across
        hosts. Nodes of one group on one host have the same cores, so that one may be in a group by now that the other
        must not disturb.
        """
        if len(self._spare) < len(place.nodes):
            return None
        there = {self._share[rank].host: None for rank in sorted(self._spare)}
        working = [node for group in self.groups.values() for node in group.nodes if node.host in there]
        taken = _parts(working) - self._shared
        able = [rank for rank in sorted(self._spare) if not taken or taken.isdisjoint(_parts([self._share[rank]]))]
        if len({node.host for node in place.nodes}) > 1 or len(place.nodes) == 1:
            return self._seated(place, able)
        seated = (self._seated(place, [rank for rank in able if self._share[rank].host == host]) for host in there)
        return next((ranks for ranks in seated if ranks is not None), None)

    def _seated(self, place: PlacedGroup, able: Sequence[int]) -> list[int] | None:
        """As many of these ranks as the group has seats, each fit for one."""
        apart = len({node.host for node in place.nodes}) == len(place.nodes)
        chosen: list[int] = []
        seats = sorted(range(len(place.nodes)), key=lambda seat: _size(place.nodes[seat]), reverse=True)
        for seat in seats:
            hosts = {self._share[rank].host for rank in chosen} if apart else set()
            others = (rank for rank in able if rank not in chosen and self._share[rank].host not in hosts)
            rank = next((rank for rank in others if self._may_sit(self._share[rank], place, seat)), None)
            if rank is None:
                return None
            chosen.append(rank)
        return sorted(chosen)

    def _may_sit(self, share: PlacedNode, place: PlacedGroup, seat: int) -> bool:
        """Whether a group would be no worse with this node in one of its seats: where it has less, all is slower.

        Of devices, that is, and where there are none, of cores. A service that is given no device would even use those
        of all groups on its host.
        """
        before, nodes = place.nodes[seat], (*place.nodes[:seat], share, *place.nodes[seat + 1 :])
        less = len(share.devices) < len(before.devices) if before.devices else len(share.cores) < len(before.cores)
        return bool(share.cores) and not less and self._fits(replace(place, nodes=nodes))

    def _inherit(self, share: PlacedNode) -> None:
        for heir in sorted(self._spare):
            own = self._share[heir]
            if own.host == share.host and _covers(share, own) and not _covers(own, share):
                self._share[heir] = replace(share, rank=heir)
                return


def _shared(plan: Plan) -> set[tuple[str, str, int]]:
    holders = [*(group.nodes for group in plan.groups), *((spare.node,) for spare in plan.spares)]
    hosts = Counter(host for nodes in holders for host in {node.host for node in nodes})
    parts = (_parts([node for node in nodes if hosts[node.host] > 1]) for nodes in holders)
    return {part for part, times in Counter(itertools.chain(*parts)).items() if times > 1}


def _parts(nodes: Sequence[PlacedNode]) -> set[tuple[str, str, int]]:
    """The cores and devices that these nodes have, by host."""
    cores = {(node.host, "core", core) for node in nodes for core in node.cores}
    return cores | {(node.host, "device", device) for node in nodes for device in node.devices}


def _size(share: PlacedNode) -> tuple[int, int]:
    return len(share.devices), len(share.cores)


def _covers(share: PlacedNode, other: PlacedNode) -> bool:
    """Whether a share of a host has at least as many devices, and as many cores, as another."""
    return all(own >= others for own, others in zip(_size(share), _size(other), strict=True))
