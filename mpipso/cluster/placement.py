"""Which ranks form which service groups: every source of names gives one and the same plan."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpipso.config import GroupEntry, NodeEntry, Parallel
from mpipso.errors import UserError


@dataclass(frozen=True)
class Rank:
    """What a rank found out about its node at start-up."""

    rank: int
    host: str
    address: str = ""
    cores: tuple[int, ...] = ()
    devices: tuple[int, ...] = ()
    device_variable: str = ""


@dataclass(frozen=True)
class PlacedNode:
    """One node of a group: its rank, and the share of the host that the group may use."""

    rank: int
    host: str
    address: str
    cores: tuple[int, ...]
    devices: tuple[int, ...]
    device_variable: str = ""


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
        return next((i for i, group in enumerate(self.groups) if any(n.rank == rank for n in group.nodes)), None)


def parse_hostfile(text: str, source: str) -> list[tuple[str, int]]:
    """Hosts and their slots, in order: lines of ``host``, ``host slots=N`` (Open MPI) or ``host:N`` (MPICH).

    Empty lines and everything after ``#`` are ignored; further ``key=value`` words of Open MPI are accepted.

    Raises
    ------
    UserError
        A line is none of these; with file, line number and line.
    """
    hosts: list[tuple[str, int]] = []
    problems: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        entry = line.split("#", 1)[0].strip()
        if not entry:
            continue
        match = re.fullmatch(r"([A-Za-z0-9_.\-]+)(?::(\d+))?((?:\s+[A-Za-z_]+\s*=\s*\S+)*)", entry)
        slots = re.search(r"\bslots\s*=\s*(\S+)", entry)
        count = slots.group(1) if slots else match.group(2) if match and match.group(2) else "1"
        if match is None or not count.isdigit() or int(count) < 1:
            problems.append(f"{source}:{number}: {line.strip()!r} is not 'host', 'host slots=N' or 'host:N'")
        else:
            hosts.append((match.group(1), int(count)))
    if not hosts and not problems:
        problems.append(f"{source}: names no host")
    if problems:
        raise UserError(problems)
    return hosts


def read_hostfile(path: Path) -> list[tuple[str, int]]:
    """:func:`parse_hostfile` of a file that may be missing."""
    try:
        return parse_hostfile(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise UserError(f"{path}: hostfile cannot be read: {reason}") from None


def parse_nodes(text: str) -> tuple[GroupEntry, ...]:
    """Groups from ``"node0,node1:node2,node3"``: colon between groups, comma within."""
    groups = [[host.strip() for host in group.split(",")] for group in text.split(":")]
    if not all(host for group in groups for host in group):
        raise UserError(f"--nodes {text!r}: an empty name; write it as 'node0,node1:node2,node3'")
    return tuple(
        GroupEntry(group_id=number, nodes=tuple(NodeEntry(host=host) for host in group))
        for number, group in enumerate(groups)
    )


def hand_written(parallel: Parallel, hosts: Sequence[str] | None) -> tuple[GroupEntry, ...] | None:
    """The groups that the user named one by one, or by a hostfile and a number of nodes per group; else None."""
    if parallel.service_groups or hosts is None:
        return parallel.service_groups or None
    size = group_size(parallel, len(hosts))
    return tuple(
        GroupEntry(
            group_id=number,
            nodes=tuple(NodeEntry(host=host) for host in hosts[start : start + size]),
            master_node_index=parallel.master_node_index,
        )
        for number, start in enumerate(range(0, len(hosts) - size + 1, size))
    )


def plan(ranks: Sequence[Rank], parallel: Parallel, *, hosts: Sequence[str] | None = None) -> Plan:
    """Form the groups.

    Parameters
    ----------
    ranks:
        Every rank of the job, by rank.
    parallel:
        The configuration's section; its ``service_groups`` win over ``hosts``, and those over the order of the ranks.
    hosts:
        The names of a hostfile, once per slot, in the order in which the user wants groups formed.

    Raises
    ------
    UserError
        The names, the ranks and the mode do not fit together; nothing may be started.
    """
    mode = _mode(ranks, parallel)
    entries = hand_written(parallel, hosts)
    if entries is None:
        taken, spares = _in_rank_order(ranks, parallel)
    else:
        taken, spares = _by_name(ranks, entries, hosts)
    if mode == "multi_node":
        _one_rank_per_node(ranks)
    if not taken:
        raise UserError(
            f"{_count(len(ranks), 'rank')} cannot form a group of {group_size(parallel, len(ranks))} nodes: "
            f"start more ranks (mpirun -np) or lower --nodes-per-group"
        )
    return _share_hosts(taken, spares, ranks, parallel)


def group_size(parallel: Parallel, ranks: int) -> int:
    """Nodes per group: as configured, else two, or one where there is only one."""
    return parallel.nodes_per_group or min(2, ranks)


_Taken = list[tuple[GroupEntry | None, list[Rank]]]


def _mode(ranks: Sequence[Rank], parallel: Parallel) -> str:
    size = group_size(parallel, len(ranks))
    if not parallel.enabled and len(ranks) > size:
        raise UserError(f"parallel.enabled = false allows one group of {size} ranks, but the job has {len(ranks)}")
    if parallel.mode != "auto":
        return parallel.mode
    # All ranks on one host can only mean groups that share it; on several hosts, doubled ranks are a slip.
    return "single_node" if len({rank.host for rank in ranks}) == 1 else "multi_node"


def _one_rank_per_node(ranks: Sequence[Rank]) -> None:
    doubled = [f"{host} ({count})" for host, count in Counter(rank.host for rank in ranks).items() if count > 1]
    if doubled:
        raise UserError(
            f"more than one rank on {', '.join(doubled)}: start one rank per node (mpirun --map-by ppr:1:node), "
            f"or let groups share a node with parallel.mode = 'single_node'"
        )


def _in_rank_order(ranks: Sequence[Rank], parallel: Parallel) -> tuple[_Taken, list[Spare]]:
    size = group_size(parallel, len(ranks))
    whole = len(ranks) - len(ranks) % size
    taken: _Taken = [(None, list(ranks[start : start + size])) for start in range(0, whole, size)]
    return taken, [Spare(rank.rank, rank.host, f"left over: groups take {size} nodes each") for rank in ranks[whole:]]


def _by_name(
    ranks: Sequence[Rank], entries: Iterable[GroupEntry], hosts: Sequence[str] | None
) -> tuple[_Taken, list[Spare]]:
    by_host: dict[str, list[Rank]] = defaultdict(list)
    for rank in ranks:
        by_host[rank.host].append(rank)
    known = _Hosts(ranks)
    missing: list[str] = []
    taken: _Taken = []
    for entry in entries:
        members = []
        for node in entry.nodes:
            free = by_host.get(known.find(node.host) or "", [])
            if free:
                members.append(free.pop(0))
            else:
                missing.append(node.host)
        taken.append((entry, members))
    if missing:
        running = ", ".join(sorted({rank.host for rank in ranks}))
        raise UserError(
            f"no rank of this job is left for {', '.join(dict.fromkeys(missing))}: the job runs on {running}"
        )
    reason = "not named in any group" if hosts is None else "left over: the hostfile's groups are complete"
    left = sorted((rank for group in by_host.values() for rank in group), key=lambda rank: rank.rank)
    return _root_first(taken), [Spare(rank.rank, rank.host, reason) for rank in left]


def _root_first(taken: _Taken) -> _Taken:
    """The group of rank 0 comes first and is led by it, because the root leads group 0; the others keep their order.

    If rank 0 was not named, it would neither lead nor idle usefully; that is a user's error.
    """
    for index, (_, members) in enumerate(taken):
        if any(member.rank == 0 for member in members):
            return [taken[index], *taken[:index], *taken[index + 1 :]]
    raise UserError("rank 0 belongs to no group: name its host in a group, because it runs the swarm and leads a group")


def _short(host: str) -> str:
    return host if re.fullmatch(r"[\d.]+", host) else host.split(".", 1)[0]


class _Hosts:
    """Finds a host of the job by its full name, its short name or its address, as launchers shorten names freely."""

    def __init__(self, ranks: Sequence[Rank]) -> None:
        self._exact = {rank.address: rank.host for rank in ranks} | {rank.host: rank.host for rank in ranks}
        if len({rank.host for rank in ranks}) == 1:
            self._exact |= dict.fromkeys(("localhost", "127.0.0.1"), ranks[0].host)
        self._by_short: dict[str, set[str]] = defaultdict(set)
        for rank in ranks:
            self._by_short[_short(rank.host)].add(rank.host)

    def find(self, name: str) -> str | None:
        if name in self._exact:
            return self._exact[name]
        # Two full names that differ are two hosts; a short name on either side is enough if only one host has it.
        alike = {host for host in self._by_short.get(_short(name), ()) if "." not in name or "." not in host}
        return alike.pop() if len(alike) == 1 else None


def _share_hosts(taken: _Taken, spares: list[Spare], ranks: Sequence[Rank], parallel: Parallel) -> Plan:
    """Give the groups on each host disjoint cores and devices; groups for which no core is left become spare."""
    groups_on: dict[str, list[int]] = defaultdict(list)
    for index, (_, members) in enumerate(taken):
        for host in dict.fromkeys(member.host for member in members):
            groups_on[host].append(index)
    cores_of = {rank.host: rank.cores for rank in ranks}
    dropped: set[int] = set()
    if not parallel.share_cores:
        for host, indices in groups_on.items():
            dropped.update(indices[len(cores_of[host]) :] if cores_of[host] else ())
    groups: list[PlacedGroup] = []
    for index, (entry, members) in enumerate(taken):
        if index in dropped:
            spares += [
                Spare(m.rank, m.host, f"{_count(len(cores_of[m.host]), 'core')} for more groups") for m in members
            ]
            continue
        nodes = []
        for position, member in enumerate(members):
            sharing = [i for i in groups_on[member.host] if i not in dropped]
            slot, slots = sharing.index(index), len(sharing)
            cores = member.cores if parallel.share_cores else _part(member.cores, slot, slots)
            devices = _devices(member, parallel, slot, slots)
            if entry is not None and entry.nodes[position].npu_ids is not None:
                devices = entry.nodes[position].npu_ids or ()
            nodes.append(PlacedNode(member.rank, member.host, member.address, cores, devices, member.device_variable))
        number = entry.group_id if entry is not None else len(groups)
        master = entry.master_node_index if entry is not None else parallel.master_node_index
        if master >= len(nodes):
            raise UserError(
                f"parallel.master_node_index = {master}, but group {number} has {_count(len(nodes), 'node')}"
            )
        leader_first = sorted(range(len(nodes)), key=lambda i: (nodes[i].rank != 0, i))
        groups.append(PlacedGroup(number, tuple(nodes[i] for i in leader_first), leader_first.index(master)))
    _no_device_twice(groups)
    return Plan(tuple(groups), tuple(sorted(spares, key=lambda spare: spare.rank)))


def _devices(member: Rank, parallel: Parallel, slot: int, slots: int) -> tuple[int, ...]:
    count = parallel.devices_per_node
    return _part(member.devices if count is None else tuple(range(count)), slot, slots)


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
