"""Groups that share a host: each gets its own part of the cores and devices, and spare ranks what is left."""

from __future__ import annotations

import ipaddress
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mpipso.cluster.plan import PlacedGroup, PlacedNode, Plan, Rank, Spare, with_port
from mpipso.config.parallel import GroupEntry, NodeEntry, Parallel
from mpipso.errors import UserError
from mpipso.wording import counted, listed

Drafts = list[tuple[GroupEntry | None, list[Rank]]]
"""Groups to be, in order: the configuration's entry for each, None without one, and the ranks of its nodes."""
LeftOver = tuple[Rank, str]
"""A rank that is in no group, and why, in words."""


@dataclass
class _Host:
    """What the ranks of a host found together, and which of the groups have a share of it."""

    cores: tuple[int, ...] = ()
    devices: tuple[int, ...] = ()
    slots: dict[int, int] = field(default_factory=dict)
    """Index of a group to its place among the groups here."""

    def share(self, whole: tuple[int, ...], index: int) -> tuple[int, ...]:
        return _part(whole, self.slots[index], len(self.slots))


def share_hosts(drafts: Drafts, left: list[LeftOver], ranks: Sequence[Rank], parallel: Parallel, port: int) -> Plan:
    """Give the groups on each host disjoint cores, devices and ports, and make the plan of the run.

    The ranks of a group for which a host has no core or device left become spare. The spare ranks of a host share what
    no group there has.

    Parameters
    ----------
    drafts:
        The groups to be, that of the root first.
    left:
        The ranks that are in none of them.
    ranks:
        All ranks, with what they found on their hosts.
    port:
        From which groups whose masters share a host count up; 0, which stands for any free port, is 0 for all of them.

    Raises
    ------
    UserError
        What the configuration says of devices, addresses or masters does not fit the hosts, or a group has no rank.
    """
    left = list(left)
    hosts = _found(ranks, parallel)
    kept: Drafts = []
    for entry, members in drafts:
        lacking = next((m for m in members if _full(hosts[m.host], entry, parallel)), None)
        if lacking is not None:
            reason = _full(hosts[lacking.host], entry, parallel)
            left += [(member, f"{lacking.host} has {reason} for more groups") for member in members]
            continue
        for member in members:
            slots = hosts[member.host].slots
            slots.setdefault(len(kept), len(slots))
        kept.append((entry, members))
    groups = [_place(index, entry, members, hosts, parallel) for index, (entry, members) in enumerate(kept)]
    _no_device_twice(groups)
    groups = list(_with_ports(groups, port))
    return Plan(tuple(groups), tuple(_spares(left, groups, hosts, parallel)))


def _spares(
    left: Sequence[LeftOver], groups: Sequence[PlacedGroup], hosts: dict[str, _Host], parallel: Parallel
) -> Iterator[Spare]:
    taken: dict[str, list[PlacedNode]] = defaultdict(list)
    for group in groups:
        for node in group.nodes:
            taken[node.host].append(node)
    inside = sorted((each for each in left if each[0].rank >= 0), key=lambda each: each[0].rank)
    there = Counter(rank.host for rank, _ in inside)
    seen: Counter[str] = Counter()
    for rank, reason in inside:
        host, others = hosts[rank.host], taken[rank.host]
        cores = tuple(core for core in host.cores if not any(core in node.cores for node in others))
        devices = tuple(device for device in host.devices if not any(device in node.devices for node in others))
        place = (seen[rank.host], there[rank.host])
        seen[rank.host] += 1
        node = PlacedNode(
            rank.rank,
            rank.host,
            rank.address,
            host.cores if parallel.share_cores else _part(cores, *place),
            _part(devices, *place),
            parallel.device_variable or rank.device_variable,
        )
        yield Spare(reason, node)


def _found(ranks: Sequence[Rank], parallel: Parallel) -> dict[str, _Host]:
    # Under srun each rank has cores of its own; the host's are those of all of its ranks.
    cores: dict[str, set[int]] = defaultdict(set)
    devices: dict[str, set[int]] = defaultdict(set)
    for rank in ranks:
        cores[rank.host].update(rank.cores)
        devices[rank.host].update(rank.devices)
    count = parallel.devices_per_node
    hosts = {}
    few = []
    for host in cores:
        usable = tuple(sorted(devices[host]))
        if count is not None:
            if usable and count > len(usable):
                few.append(f"{host} ({len(usable)})")
            usable = usable[:count] or tuple(range(count))
        hosts[host] = _Host(tuple(sorted(cores[host])), usable)
    if few:
        raise UserError(f"parallel.devices_per_node = {count}, but fewer devices were found on {listed(few)}")
    return hosts


def _full(host: _Host, entry: GroupEntry | None, parallel: Parallel) -> str:
    """What a further group would lack on this host; empty if nothing."""
    groups = len(host.slots)
    if host.cores and groups >= len(host.cores) and not parallel.share_cores:
        return f"no core left of {len(host.cores)}"
    chosen = entry is not None and any(node.npu_ids is not None for node in entry.nodes)
    if host.devices and groups >= len(host.devices) and not chosen:
        return f"no device left of {len(host.devices)}"
    return ""


def _address(member: Rank, network: str) -> str:
    """Where the others of its group reach it: in the network, if one is wanted; as it is where none is known yet."""
    if not network or member.address in ("", member.host):
        return member.address
    wanted = ipaddress.ip_network(network)
    found = next((each for each in member.aliases if ipaddress.ip_address(each) in wanted), None)
    if found is None:
        raise UserError(f"parallel.network = {network!r}: no address in it on {member.host}")
    return found


def _place(
    index: int, entry: GroupEntry | None, members: Sequence[Rank], hosts: dict[str, _Host], parallel: Parallel
) -> PlacedGroup:
    together = Counter(member.host for member in members)
    seen: Counter[str] = Counter()
    nodes = []
    for position, member in enumerate(members):
        host = hosts[member.host]
        devices = host.share(host.devices, index)
        if len(devices) >= together[member.host]:
            devices = _part(devices, seen[member.host], together[member.host])
        seen[member.host] += 1
        named = entry.nodes[position] if entry is not None else NodeEntry(host=member.host)
        if strange := sorted(set(named.npu_ids or ()) - set(member.devices)) if member.devices else []:
            raise UserError(
                f"npu_ids of {member.host} name {listed(list(map(str, strange)))}, "
                f"but the devices found there are {listed(list(map(str, member.devices)))}"
            )
        nodes.append(
            PlacedNode(
                member.rank,
                member.host,
                named.address or _address(member, parallel.network),
                host.cores if parallel.share_cores else host.share(host.cores, index),
                devices if named.npu_ids is None else named.npu_ids,
                parallel.device_variable or member.device_variable,
                named.ssh_port,
                named.ssh_user,
            )
        )
    number = entry.group_id if entry is not None else index
    own = entry.master_node_index if entry is not None else None
    master = parallel.master_node_index if own is None else own
    if master >= len(nodes):
        raise UserError(f"parallel.master_node_index = {master}, but group {number} has {counted(len(nodes), 'node')}")
    # Ranks first: a leader is one, and so the seats of ranks are their numbers in the channel of the group.
    leader_first = sorted(range(len(nodes)), key=lambda i: (nodes[i].rank < 0, nodes[i].rank != 0, i))
    if nodes[leader_first[0]].rank < 0:
        raise UserError(
            f"group {number} ({listed([node.host for node in nodes])}) has no rank, but its leader must be one: "
            f"let mpirun start a rank on one of its hosts"
        )
    return PlacedGroup(number, tuple(nodes[i] for i in leader_first), leader_first.index(master))


def _part(whole: tuple[int, ...], slot: int, slots: int) -> tuple[int, ...]:
    """The ``slot``-th of ``slots`` contiguous parts of equal size; what does not divide stays unused."""
    size = len(whole) // slots
    return whole[slot * size : (slot + 1) * size]


def _with_ports(groups: Sequence[PlacedGroup], first: int) -> Iterator[PlacedGroup]:
    taken: set[tuple[str, int]] = set()
    for group in groups:
        placed = with_port(group, first, taken)
        taken.update(placed.ports)
        yield placed


def _no_device_twice(groups: Sequence[PlacedGroup]) -> None:
    owner: dict[tuple[str, int], int] = {}
    for group in groups:
        for host, device in {(node.host, device) for node in group.nodes for device in node.devices}:
            if owner.setdefault((host, device), group.group_id) != group.group_id:
                raise UserError(
                    f"device {device} of {host} is given to groups {owner[host, device]} and {group.group_id}: "
                    f"groups that share a node need disjoint npu_ids"
                )
