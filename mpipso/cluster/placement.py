"""Which ranks form which service groups: every source of names gives one and the same plan."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

from mpipso.cluster.hosts import Hosts
from mpipso.cluster.plan import Plan, Rank
from mpipso.cluster.shares import Drafts, LeftOver, share_hosts
from mpipso.config.parallel import GroupEntry, NodeEntry, Parallel
from mpipso.errors import UserError
from mpipso.wording import counted, listed

ADVICE = ": start more ranks (mpirun -np, sbatch --nodes) or lower --nodes-per-group"
"""How a message goes on that there are too few ranks, where nobody knows how many there have to be."""


def form_groups(
    ranks: Sequence[Rank], parallel: Parallel, *, hosts: Sequence[str] | None = None, port: int = 0
) -> Plan:
    """Form the groups; takes time in proportion to the number of ranks.

    Parameters
    ----------
    ranks:
        Every rank of the job, by rank, and the hosts :func:`named_without_rank`.
    parallel:
        The configuration's section; its ``service_groups`` win over ``hosts``, and those over the order of the ranks.
    hosts:
        The names of a hostfile, once per slot, in the order in which the user wants groups formed; None without a
        hostfile. Slots without a rank are ignored on a host that has at least one rank, and so are hosts without any
        rank where the job has fewer ranks than hosts.
    port:
        ``service.port``.

    Raises
    ------
    UserError
        The names, the ranks and the mode do not fit together; nothing may be started.
    """
    if _mode(ranks, parallel) == "multi_node":
        _one_rank_per_node(ranks)
    idle: list[str] = []
    if parallel.service_groups:
        drafts, spares = _by_name(ranks, parallel.service_groups, "not named in any group")
    elif hosts is not None:
        idle = _idle(ranks, hosts)
        size, entries = _from_hostfile(ranks, parallel, [host for host in hosts if host not in set(idle)])
        drafts, spares = _by_name(ranks, entries, f"left over: groups take {counted(size, 'node')} each")
    else:
        drafts, spares = _in_rank_order(ranks, parallel)
    if not drafts:
        raise UserError(too_few(len(ranks), group_size(parallel, len(ranks))))
    if not parallel.enabled and len(drafts) > 1:
        raise UserError(
            f"parallel.enabled = false allows one group, but {counted(len(ranks), 'rank')} form {len(drafts)}: "
            f"start fewer ranks or raise --nodes-per-group"
        )
    return replace(share_hosts(_root_first(drafts), spares, ranks, parallel, port), idle=tuple(idle))


def too_few(ranks: int, size: int) -> str:
    """What is told of ranks that cannot form a group of that size."""
    return f"{counted(ranks, 'rank')} cannot form a group of {counted(size, 'node')}{ADVICE}"


def named_without_rank(ranks: Sequence[Rank], parallel: Parallel, hosts: Sequence[str] | None = None) -> list[Rank]:
    """The hosts that are named for groups, but on which no rank runs: each as a rank with a number of its own below 0.

    Nothing is known of these hosts yet but their names. The arguments are those of :func:`form_groups`.
    """
    known = Hosts(ranks)
    if parallel.service_groups:
        names = [node.host for entry in parallel.service_groups for node in entry.nodes]
    else:
        names = list(dict.fromkeys(hosts or ()))
    absent = [name for name in names if known.absent(name)]
    return [Rank(-number, name) for number, name in enumerate(absent, start=1)]


def regrouped(entries: Sequence[GroupEntry], lost: Iterable[str]) -> tuple[GroupEntry, ...]:
    """The groups that can be formed without the ``lost`` hosts.

    A group in which a lost host is named, by whichever of its names, is left out. If all groups are of one size, the
    other nodes of the groups left out form new groups of that size, as far as they suffice. A new group has the number
    and the master's position of a group that was left out, and each node keeps the settings that it had there.
    """
    gone = Hosts.of(lost)
    broken = [entry for entry in entries if any(gone.find(node.host) is not None for node in entry.nodes)]
    whole = tuple(entry for entry in entries if entry not in broken)
    sizes = {len(entry.nodes) for entry in entries}
    if len(sizes) != 1:
        return whole
    size = sizes.pop()
    rest = [node for entry in broken for node in entry.nodes if gone.find(node.host) is None]
    new = (tuple(rest[start : start + size]) for start in range(0, len(rest) - size + 1, size))
    return whole + tuple(entry.model_copy(update={"nodes": nodes}) for entry, nodes in zip(broken, new, strict=False))


def led(entries: Sequence[GroupEntry], ranks: Sequence[Rank]) -> tuple[GroupEntry, ...]:
    """The groups that have a rank, which can lead them."""
    known = Hosts(ranks)
    return tuple(entry for entry in entries if not all(known.absent(node.host) for node in entry.nodes))


def group_size(parallel: Parallel, ranks: int) -> int:
    """Nodes per group: as configured, else two, or one where there is only one."""
    return parallel.nodes_per_group or min(2, ranks)


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


def _in_rank_order(ranks: Sequence[Rank], parallel: Parallel) -> tuple[Drafts, list[LeftOver]]:
    size = group_size(parallel, len(ranks))
    whole = len(ranks) - len(ranks) % size
    drafts: Drafts = [(None, list(ranks[start : start + size])) for start in range(0, whole, size)]
    reason = f"left over: groups take {counted(size, 'node')} each"
    return drafts, [(rank, reason) for rank in ranks[whole:]]


def _idle(ranks: Sequence[Rank], hosts: Sequence[str]) -> list[str]:
    """The hosts that have no rank because there are fewer ranks than hosts: each rank is alone on a host that is named.

    If a rank is not, the ranks are not where they belong, and no host is idle.
    """
    known = Hosts(ranks)
    used = {known.find(host) for host in hosts}
    as_asked = len(known.names) == len(ranks) and used >= known.names.keys()
    return [host for host in dict.fromkeys(hosts) if known.absent(host)] if as_asked else []


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
        )
        for number, start in enumerate(range(0, len(names) - size + 1, size))
    )


def _by_name(ranks: Sequence[Rank], entries: Iterable[GroupEntry], reason: str) -> tuple[Drafts, list[LeftOver]]:
    known = Hosts(ranks)
    entries = tuple(entries)
    _all_known([node.host for entry in entries for node in entry.nodes], known, ranks)
    by_host: dict[str, deque[Rank]] = defaultdict(deque)
    for rank in ranks:
        by_host[rank.host].append(rank)
    short: list[str] = []
    drafts: Drafts = []
    for entry in entries:
        members = []
        for node in entry.nodes:
            free = by_host[known.find(node.host) or ""]
            if free:
                members.append(free.popleft())
            else:
                short.append(node.host)
        drafts.append((entry, members))
    if short:
        raise UserError(
            f"the groups name {', '.join(dict.fromkeys(short))} more often than there are ranks of this job; "
            "each place in a group needs a rank"
        )
    left = sorted((rank for group in by_host.values() for rank in group), key=lambda rank: rank.rank)
    return drafts, [(rank, reason) for rank in left]


def _all_known(names: Iterable[str], known: Hosts, ranks: Sequence[Rank]) -> None:
    names = list(dict.fromkeys(names))
    problems = [problem for name in names if (problem := known.problem(name)) is not None]
    if not problems:
        return
    where = f"the job runs on {listed(list(known.names))}"
    if doubled := _doubled(ranks):
        where += f", with several ranks on {listed(doubled)}; mpirun --map-by ppr:1:node starts one per node"
    if any(known.absent(name) for name in names):
        where += "; with --ssh (parallel.ssh = true) leaders reach other hosts over ssh"
    raise UserError(f"{listed(problems, '; ')}: {where}")


def _root_first(drafts: Drafts) -> Drafts:
    """The group of rank 0 comes first, because the root leads group 0; the others keep their order.

    If rank 0 was not named, it would neither lead nor idle usefully; that is a user's error.
    """
    for index, (_, members) in enumerate(drafts):
        if any(member.rank == 0 for member in members):
            return [drafts[index], *drafts[:index], *drafts[index + 1 :]]
    raise UserError("rank 0 belongs to no group: name its host in a group, because it runs the swarm and leads a group")
