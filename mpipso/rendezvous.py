"""All ranks agree on configuration and placement before anything is started, and each learns its place.

Here, in ``agreement`` and in ``outsiders`` alone ranks communicate collectively.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from mpipso.agreement import agreed, dealt, none_wrong, on_root
from mpipso.cluster.channel import Channel
from mpipso.cluster.facts import rank_here
from mpipso.cluster.placement import form_groups, led, named_without_rank
from mpipso.cluster.plan import PlacedNode, Plan, Rank
from mpipso.cluster.world import World
from mpipso.config import Config
from mpipso.conflicts import all_problems
from mpipso.edition import FOLDER, edition, unlike
from mpipso.errors import EvaluationFailed, UserError
from mpipso.messages import Form
from mpipso.outsiders import connect
from mpipso.service.engines.base import missing_commands
from mpipso.service.environment import Fingerprint
from mpipso.service.facts import Facts, resolved
from mpipso.service.local import LocalNode
from mpipso.service.node import Node
from mpipso.startup import Options, adapter_problems, as_launched, read_config, settled, wanted_groups

if TYPE_CHECKING:
    from mpipso.cluster.ssh import SshNodes

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """What a rank has to know of the plan.

    Attributes
    ----------
    node:
        The rank's share of its host.
    form:
        The group that the rank belongs to at first; None for a spare rank.
    """

    node: PlacedNode
    form: Form | None = None

    @property
    def index(self) -> int | None:
        """The number of the rank's group, which is its position in the plan; None for a spare rank."""
        return self.form.group if self.form is not None else None

    @property
    def seat(self) -> int | None:
        """The rank's position in its group, where 0 is the leader's; None for a spare rank."""
        return self.form.placed.nodes.index(self.node) if self.form is not None else None


@dataclass(frozen=True)
class RankContext:
    """This rank's place in the job.

    Attributes
    ----------
    world:
        The job: how many ranks there are, and which one this is.
    config:
        The configuration of the run, the same on all ranks.
    plan:
        All groups, on rank 0; an empty plan on other ranks, which know their own ``place`` only.
    place:
        Which group this rank belongs to, and as what.
    node:
        The host that this rank runs on, as the group may use it.
    work_dirs:
        The work folder of every rank on its host, by rank.
    group:
        The channel of the ranks of this rank's group, by seat; None for a spare rank.
    everyone:
        The channel of all ranks.
    ssh_nodes:
        A leader's connections to the nodes of its group that have no rank; None if there are none.
    differing:
        By host, the variables of which services inherit another value there than on the root's host.
    """

    world: World
    config: Config
    plan: Plan
    place: Place
    node: LocalNode
    work_dirs: Mapping[int, str]
    group: Channel | None
    everyone: Channel
    ssh_nodes: SshNodes | None = None
    differing: Mapping[str, Sequence[str]] = field(default_factory=dict)


def meet(world: World, given: Options | UserError) -> Options:
    """Have all ranks agree that they run the same code and understand their command lines.

    Ranks that do not run the same code have to understand each other until here: all that they exchange are strings in
    tuples and lists, first to rank 0, then from it.

    Raises
    ------
    UserError
        On every rank, if any of them runs other code than rank 0 or was ``given`` a mistake.
    """
    mistakes = list(given.problems) if isinstance(given, UserError) else []
    told = world.gather((socket.gethostname(), edition(), str(FOLDER), mistakes))
    problems = world.bcast(unlike(told) if world.rank == 0 else [])
    if problems or isinstance(given, UserError):
        raise UserError(problems)
    return given


def prepare(world: World, options: Options, claim: Callable[[Config, Plan], T]) -> tuple[RankContext, T | None]:
    """Read the configuration, place the groups, make the channels and the work folders.

    Parameters
    ----------
    claim:
        Called on rank 0 once all is known to be well: makes the run's folder, or raises a ``UserError``.

    Returns
    -------
    This rank's place in the job and, on rank 0, what ``claim`` returned.

    Raises
    ------
    UserError
        On every rank, if any of them found a mistake; nothing has been started then.
    """
    config = agreed(world, lambda: read_config(options))
    config, hosts = agreed(world, lambda: wanted_groups(options, config))
    root = agreed(world, lambda: Fingerprint.of(os.environ))
    ranks = _ranks(world, options, config, root)
    if options.without:
        config = agreed(world, lambda: _led(config, ranks))
    with contextlib.ExitStack() as unless_well:
        apart, connections = _without_rank(world, options, config, hosts, ranks, root, unless_well)
        every = [*ranks, *apart]
        plan = on_root(world, lambda: _usable(_planned(options, config, every, hosts), config)) or Plan(())
        config = agreed(world, lambda: settled(config, plan))
        place = world.scatter(_places(plan, world.size) if world.rank == 0 else [])
        if connections is not None and place.seat != 0:  # what the nodes have left no room for this group
            unless_well.pop_all().close()
            connections = None
        node = _joined(world, config, place, connections, unless_well)
        group, everyone = world.split(place.index, key=place.seat or 0), world.channel()
        # All have these channels, or nothing is begun: the gathering and the agreement come after them.
        work_dirs = dict(enumerate(world.bcast(world.gather(node.work_dir))))
        claimed = on_root(world, lambda: claim(config, plan))
        unless_well.pop_all()
    context = RankContext(
        world=world,
        config=config,
        plan=plan,
        place=place,
        node=node,
        work_dirs=work_dirs,
        group=group,
        everyone=everyone,
        ssh_nodes=connections,
        differing={rank.host: rank.differing for rank in every if rank.differing},
    )
    return context, claimed


def _ranks(world: World, options: Options, config: Config, root: Fingerprint) -> list[Rank]:
    """On rank 0 the ranks with what their machines are, none of which lacks what the configuration needs."""
    problems = [*missing_commands(config), *_problems_here(options, config)]
    facts = world.gather((rank_here(world.rank, root), problems))
    agreed(world, lambda: none_wrong([(rank.host, problem) for rank, problems in facts for problem in problems]))
    return _as_found(world, [rank for rank, _ in facts])


def _as_found(world: World, ranks: Sequence[Rank]) -> list[Rank]:
    """The ranks, each with the address that its host's name has on another host, if it is one of that host's own.

    On the host itself the name often stands for the loopback.
    """
    hosts = list(dict.fromkeys(rank.host for rank in ranks))
    # Each asks for the next host, so that none waits for the names of all.
    following = dict(zip(hosts, [*hosts[1:], *hosts[:1]], strict=True)) if len(hosts) > 1 else {}
    asked = world.scatter([following.get(rank.host, "") for rank in ranks])
    found = dict(world.gather((asked, resolved(asked) if asked else ())))
    return [replace(rank, address=_seen(rank, found.get(rank.host, ()))) for rank in ranks]


def _led(config: Config, ranks: Sequence[Rank]) -> Config:
    """The configuration without groups that have no rank: what is left of others may form such."""
    groups = config.parallel.service_groups
    remaining = led(groups, ranks)
    if groups and not remaining:
        raise UserError("no group with a rank can be formed of the hosts that are left")
    return config.having("parallel", service_groups=remaining)


def _planned(options: Options, config: Config, ranks: Sequence[Rank], hosts: Sequence[str] | None) -> Plan:
    try:
        return form_groups(ranks, config.parallel, hosts=hosts, port=config.service.port)
    except UserError as error:
        raise as_launched(error, options) from None


def _places(plan: Plan, size: int) -> list[Place]:
    """The place of every rank, by rank."""
    forms = [Form(index, group) for index, group in enumerate(plan.groups)]
    indices = [plan.index_of(rank) for rank in range(size)]
    return [Place(plan.node(rank), forms[index] if index is not None else None) for rank, index in enumerate(indices)]


def _seen(rank: Rank, found: Collection[str]) -> str:
    return rank.address if rank.address in found else next((a for a in rank.aliases if a in found), rank.address)


def _joined(
    world: World, config: Config, place: Place, connections: SshNodes | None, unless_well: contextlib.ExitStack
) -> LocalNode:
    """This rank's node, once the nodes that its ``connections`` reach have joined the group.

    If the service's master is among these nodes, its port is free there. What is opened is left to ``unless_well``,
    which closes it.
    """
    node, problem = None, ""
    try:
        node = LocalNode(place.node, config.service.work_dir, config.benchmark.api_key_env)
        unless_well.callback(node.close)
        if place.form is not None:
            group = place.form.placed
            master: Node | None = node if group.master.rank == world.rank else None
            if connections is not None:
                connections.join(group.nodes, config.service.work_dir)
                master = connections.nodes.get(group.master_node_index, master)
            if master is not None and group.port:
                master.free_port(group.port)
    except EvaluationFailed as error:
        problem = error.cause
    # Its first word is the node that has it, which this one may only reach.
    nodes = {each.host for each in place.form.placed.nodes} if place.form is not None else set()
    host = problem.partition(": ")[0]
    problems = world.gather((host if host in nodes else place.node.host, problem))
    agreed(world, lambda: none_wrong([(host, found) for host, found in problems if found], say_where=False))
    if node is None:
        raise LookupError(f"rank {world.rank} has no node")
    return node


def _problems_here(options: Options, config: Config) -> list[str]:
    """What engine and client miss on this node: a model, an installed package, open files."""
    try:
        return adapter_problems(config, str(options.config or "embedded configuration"))
    except UserError as error:  # of this host alone, or the root would have met with it before
        return list(error.problems)


def _usable(plan: Plan, config: Config) -> Plan:
    if problems := all_problems(config, plan):
        raise UserError(problems)
    return plan


def _without_rank(
    world: World,
    options: Options,
    config: Config,
    hosts: Sequence[str] | None,
    ranks: Sequence[Rank],
    root: Fingerprint,
    unless_well: contextlib.ExitStack,
) -> tuple[list[Rank], SshNodes | None]:
    """The nodes of groups that have no rank: all of them, on rank 0, and a leader's connections to those of its group.

    Leaders connect to them in groups that are formed by names alone: the groups of the run depend on what the nodes
    are. What is opened is left to ``unless_well``, which closes it.
    """
    apart = named_without_rank(ranks, config.parallel, hosts) if config.parallel.ssh and world.rank == 0 else []
    if not agreed(world, lambda: bool(apart)):
        return [], None
    first = dealt(world, lambda: _places(_planned(options, config, [*ranks, *apart], hosts), world.size))
    group = first.form.placed.nodes if first.form is not None else ()
    connections, known = connect(world, config, group, ranks, root)
    if connections is not None:
        unless_well.callback(connections.close)
    return [_with_facts(rank, known[rank.rank]) for rank in apart if rank.rank in known], connections


def _with_facts(rank: Rank, facts: Facts) -> Rank:
    return Rank(rank.rank, **vars(facts) | {"host": rank.host})
