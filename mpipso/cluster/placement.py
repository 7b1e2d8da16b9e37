"""Which ranks form which service groups: every source of names gives one and the same plan."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from mpipso.cluster.hosts import Hosts
from mpipso.config import GroupEntry, NodeEntry, Parallel
from mpipso.errors import UserError


@dataclass(frozen=True)
class Rank:
    """What a rank found out about its node at start-up; ``aliases`` are further names and addresses of the host.

    A negative number stands for a host outside of the job, see :func:`outside`.
    """

    rank: int
    host: str
    address: str = ""
    cores: tuple[int, ...] = ()
    devices: tuple[int, ...] = ()
    device_variable: str = ""
    aliases: tuple[str, ...] = ()


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
    def visibility(self) -> dict[str, str]:
        """The environment that shows the node's devices, and no others, to a process."""
        shown = self.devices and self.device_variable
        return {self.device_variable: ",".join(map(str, self.devices))} if shown else {}

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
    def hosts(self) -> str:
        return "+".join(node.host for node in self.nodes)


@dataclass(frozen=True)
class Spare:
    """A rank that belongs to no group, and why."""

    rank: int
    host: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """All groups of a run, in the order in which the root counts them, and the ranks left over."""

    groups: tuple[PlacedGroup, ...]
    spares: tuple[Spare, ...] = ()

    def index_of(self, rank: int) -> int | None:
        """The position in ``groups`` of the group that ``rank`` belongs to."""
        return self._indices.get(rank)

    @cached_property
    def _indices(self) -> dict[int, int]:
        return {node.rank: index for index, group in enumerate(self.groups) for node in group.nodes}


def plan(ranks: Sequence[Rank], parallel: Parallel, *, hosts: Sequence[str] | None = None) -> Plan:
    """Form the groups; takes time in proportion to the number of ranks.

    Parameters
    ----------
    ranks:
        Every rank of the job, by rank, and what is :func:`outside` of it.
    parallel:
        The configuration's section; its ``service_groups`` win over ``hosts``, and those over the order of the ranks.
    hosts:
        The names of a hostfile, once per slot, in the order in which the user wants groups formed. Slots without a
        rank are ignored on hosts that have at least one.

    Raises
    ------
    UserError
        The names, the ranks and the mode do not fit together; nothing may be started.
    """
    if _mode(ranks, parallel) == "multi_node":
        _one_rank_per_node(ranks)
    if parallel.service_groups:
        taken, spares = _by_name(ranks, parallel.service_groups, "not named in any group")
    elif hosts is not None:
        size, entries = _from_hostfile(ranks, parallel, hosts)
        taken, spares = _by_name(ranks, entries, f"left over: groups take {_count(size, 'node')} each")
    else:
        taken, spares = _in_rank_order(ranks, parallel)
    if not taken:
        raise UserError(
            f"{_count(len(ranks), 'rank')} cannot form a group of {_count(group_size(parallel, len(ranks)), 'node')}: "
            f"start more ranks (mpirun -np) or lower --nodes-per-group"
        )
    if not parallel.enabled and len(taken) > 1:
        raise UserError(
            f"parallel.enabled = false allows one group, but {_count(len(ranks), 'rank')} form {len(taken)}: "
            f"start fewer ranks or raise --nodes-per-group"
        )
    return _share_hosts(_root_first(taken), spares, ranks, parallel)


def outside(ranks: Sequence[Rank], parallel: Parallel, hosts: Sequence[str] | None = None) -> list[Rank]:
    """The hosts named for groups on which no rank runs, each with a number of its own below 0; arguments as above.

    Nothing is known of them yet but their names.
    """
    known = Hosts(ranks)
    if parallel.service_groups:
        names = [node.host for entry in parallel.service_groups for node in entry.nodes]
    else:
        names = list(dict.fromkeys(hosts or ()))
    absent = [name for name in names if known.absent(name)]
    return [Rank(-number, name) for number, name in enumerate(absent, start=1)]


def group_size(parallel: Parallel, ranks: int) -> int:
    """Nodes per group: as configured, else two, or one where there is only one."""
    return parallel.nodes_per_group or min(2, ranks)


_Taken = list[tuple[GroupEntry | None, list[Rank]]]


def _mode(ranks: Sequence[Rank], parallel: Parallel) -> str:
    if parallel.mode != "auto":
        return parallel.mode
    # All ranks on one host can only mean groups that share it; on several hosts, doubled ranks are a slip.
    return "single_node" if len({rank.host for rank in ranks}) == 1 else "multi_node"


def _doubled(ranks: Sequence[Rank]) -> list[str]:
    return [f"{host} ({count})" for host, count in Counter(rank.host for rank in ranks).items() if count > 1]


def _one_rank_per_node(ranks: Sequence[Rank]) -> None:
    if doubled := _doubled(ranks):
        raise UserError(
            f"more than one rank on {', '.join(doubled)}: start one rank per node (mpirun --map-by ppr:1:node), "
            f"or let groups share a node with --mode single_node"
        )


def _in_rank_order(ranks: Sequence[Rank], parallel: Parallel) -> tuple[_Taken, list[Spare]]:
    size = group_size(parallel, len(ranks))
    whole = len(ranks) - len(ranks) % size
    taken: _Taken = [(None, list(ranks[start : start + size])) for start in range(0, whole, size)]
    reason = f"left over: groups take {_count(size, 'node')} each"
    return taken, [Spare(rank.rank, rank.host, reason) for rank in ranks[whole:]]


def _from_hostfile(
    ranks: Sequence[Rank], parallel: Parallel, hosts: Sequence[str]
) -> tuple[int, tuple[GroupEntry, ...]]:
    known = Hosts(ranks)
    left = Counter(rank.host for rank in ranks)
    names = []
    for name in hosts:
        host = known.find(name)
        if host is not None and left[host]:
            left[host] -= 1
            names.append(name)
    _all_known(hosts, known, ranks)
    size = group_size(parallel, len(names))
    return size, tuple(
        GroupEntry.model_construct(
            group_id=number,
            nodes=tuple(NodeEntry.model_construct(host=host) for host in names[start : start + size]),
            master_node_index=parallel.master_node_index,
        )
        for number, start in enumerate(range(0, len(names) - size + 1, size))
    )


def _by_name(ranks: Sequence[Rank], entries: Iterable[GroupEntry], reason: str) -> tuple[_Taken, list[Spare]]:
    known = Hosts(ranks)
    entries = tuple(entries)
    _all_known([node.host for entry in entries for node in entry.nodes], known, ranks)
    by_host: dict[str, deque[Rank]] = defaultdict(deque)
    for rank in ranks:
        by_host[rank.host].append(rank)
    short: list[str] = []
    taken: _Taken = []
    for entry in entries:
        members = []
        for node in entry.nodes:
            free = by_host[known.find(node.host) or ""]
            if free:
                members.append(free.popleft())
            else:
                short.append(node.host)
        taken.append((entry, members))
    if short:
        raise UserError(
            f"no rank of this job is left for {', '.join(dict.fromkeys(short))}: a host has as many places in groups "
            f"as it has ranks"
        )
    left = sorted((rank for group in by_host.values() for rank in group), key=lambda rank: rank.rank)
    return taken, [Spare(rank.rank, rank.host, reason) for rank in left]


def _all_known(names: Iterable[str], known: Hosts, ranks: Sequence[Rank]) -> None:
    names = list(dict.fromkeys(names))
    problems = [problem for name in names if (problem := known.problem(name)) is not None]
    if not problems:
        return
    where = f"the job runs on {_listed(list(known.names))}"
    if doubled := _doubled(ranks):
        where += f", with several ranks on {_listed(doubled)}; mpirun --map-by ppr:1:node starts one per node"
    if any(known.absent(name) for name in names):
        where += "; with --ssh (parallel.ssh = true) leaders reach other hosts over ssh"
    raise UserError(f"{_listed(problems, '; ')}: {where}")


def _root_first(taken: _Taken) -> _Taken:
    """The group of rank 0 comes first, because the root leads group 0; the others keep their order.

    If rank 0 was not named, it would neither lead nor idle usefully; that is a user's error.
    """
    for index, (_, members) in enumerate(taken):
        if any(member.rank == 0 for member in members):
            return [taken[index], *taken[:index], *taken[index + 1 :]]
    raise UserError("rank 0 belongs to no group: name its host in a group, because it runs the swarm and leads a group")


@dataclass
class _Host:
    """What the ranks of a host found together, and which of the groups have a share of it."""

    cores: tuple[int, ...] = ()
    devices: tuple[int, ...] = ()
    slots: dict[int, int] = field(default_factory=dict)
    """Index of a group to its place among the groups here."""

    def share(self, whole: tuple[int, ...], index: int) -> tuple[int, ...]:
        return _part(whole, self.slots[index], len(self.slots))


def _share_hosts(taken: _Taken, spares: list[Spare], ranks: Sequence[Rank], parallel: Parallel) -> Plan:
    """Give the groups on each host disjoint cores and devices; groups for which none is left become spare."""
    hosts = _found(ranks, parallel)
    kept: _Taken = []
    for entry, members in taken:
        lacking = next((m for m in members if _full(hosts[m.host], entry, parallel)), None)
        if lacking is not None:
            reason = _full(hosts[lacking.host], entry, parallel)
            spares += [Spare(m.rank, m.host, f"{lacking.host} has {reason} for more groups") for m in members]
            continue
        for member in members:
            slots = hosts[member.host].slots
            slots.setdefault(len(kept), len(slots))
        kept.append((entry, members))
    groups = [_place(index, entry, members, hosts, parallel) for index, (entry, members) in enumerate(kept)]
    _no_device_twice(groups)
    inside = [spare for spare in spares if spare.rank >= 0]
    return Plan(tuple(groups), tuple(sorted(inside, key=lambda spare: spare.rank)))


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
        raise UserError(f"parallel.devices_per_node = {count}, but fewer devices were found on {_listed(few)}")
    return hosts


def _full(host: _Host, entry: GroupEntry | None, parallel: Parallel) -> str:
    """What a further group would lack on this host; empty if nothing."""
    groups = len(host.slots)
    if host.cores and groups >= len(host.cores) and not parallel.share_cores:
        return f"no core left of {len(host.cores)}"
    by_hand = entry is not None and any(node.npu_ids is not None for node in entry.nodes)
    if host.devices and groups >= len(host.devices) and not by_hand:
        return f"no device left of {len(host.devices)}"
    return ""


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
        nodes.append(
            PlacedNode(
                member.rank,
                member.host,
                member.address,
                host.cores if parallel.share_cores else host.share(host.cores, index),
                devices if named.npu_ids is None else named.npu_ids,
                parallel.device_variable or member.device_variable,
                named.ssh_port,
                named.ssh_user,
            )
        )
    number = entry.group_id if entry is not None else index
    master = entry.master_node_index if entry is not None else parallel.master_node_index
    if master >= len(nodes):
        raise UserError(f"parallel.master_node_index = {master}, but group {number} has {_count(len(nodes), 'node')}")
    # Ranks first: a leader is one, and so the seats of ranks are their numbers in the channel of the group.
    leader_first = sorted(range(len(nodes)), key=lambda i: (nodes[i].rank < 0, nodes[i].rank != 0, i))
    if nodes[leader_first[0]].rank < 0:
        raise UserError(
            f"group {number} ({_listed([node.host for node in nodes])}) has no rank, but its leader must be one: "
            f"let mpirun start a rank on one of its hosts"
        )
    return PlacedGroup(number, tuple(nodes[i] for i in leader_first), leader_first.index(master))


def _part(whole: tuple[int, ...], slot: int, slots: int) -> tuple[int, ...]:
    """The ``slot``-th of ``slots`` contiguous parts of equal size; what does not divide stays unused."""
    size = len(whole) // slots
    return whole[slot * size : (slot + 1) * size]


def _no_device_twice(groups: Sequence[PlacedGroup]) -> None:
    owner: dict[tuple[str, int], int] = {}
    for group in groups:
        for host, device in {(node.host, device) for node in group.nodes for device in node.devices}:
            if owner.setdefault((host, device), group.group_id) != group.group_id:
                raise UserError(
                    f"device {device} of {host} is given to groups {owner[host, device]} and {group.group_id}: "
                    f"groups that share a node need disjoint npu_ids"
                )


def _listed(words: Sequence[str], separator: str = ", ", most: int = 10) -> str:
    more = [f"{len(words) - most} more"] if len(words) > most else []
    return separator.join([*words[:most], *more])


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def ranges(numbers: tuple[int, ...]) -> str:
    """``0-3,8`` for 0, 1, 2, 3, 8."""
    if not numbers:
        return "none"
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs)
