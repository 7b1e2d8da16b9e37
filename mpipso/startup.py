"""Start-up: all ranks agree on configuration and placement before anything is started.

The only place that communicates collectively. A mistake of the user's that any rank finds is raised on every rank,
so that rank 0 alone can tell it and all leave together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mpipso.cluster.facts import local_facts
from mpipso.cluster.hosts import Hosts, Name, parse_nodes, read_hostfile
from mpipso.cluster.placement import outside, plan, regrouped
from mpipso.cluster.plan import PlacedNode, Plan, Rank
from mpipso.cluster.world import Channel, World
from mpipso.config import Config, GroupEntry
from mpipso.configfile import load, parse
from mpipso.errors import EvaluationFailed, UserError
from mpipso.evaluation import Configuration
from mpipso.misfits import device_problems, placement_problems
from mpipso.record.resume import differences, read_run
from mpipso.record.warm import Earlier, read_earlier
from mpipso.search.knowledge import fitted
from mpipso.search.objective import Objective
from mpipso.search.space import Space
from mpipso.search.strategies import first_points
from mpipso.service.clients.base import CLIENTS
from mpipso.service.engines.base import ENGINES, missing_commands, service_commands
from mpipso.service.facts import Facts
from mpipso.service.local import LocalNode
from mpipso.service.remote import RemoteNode
from mpipso.service.template import loaded
from mpipso.templates import EMBEDDED, template

if TYPE_CHECKING:
    from mpipso.cluster.ssh import Outside

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """What the command line says. ``overrides`` are configuration values by dotted key.

    ``resume`` is the folder of a run to go on with, ``name`` that of the folder of a new one in the output folder,
    ``warm_start`` holds folders of earlier runs, or CSV files, to learn from. ``without`` are hosts that are not to be
    used, whoever names them.
    """

    config: Path | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    hostfile: Path | None = None
    nodes: str | None = None
    progress: str = "auto"
    resume: Path | None = None
    name: str | None = None
    warm_start: tuple[Path, ...] = ()
    without: tuple[str, ...] = ()

    def words(self) -> list[str]:
        """The flags that say the same again."""
        pairs = [("--config", self.config), ("--hostfile", self.hostfile), ("--nodes", self.nodes)]
        pairs += [("--resume", self.resume), ("--run-name", self.name)]
        pairs += [("--warm-start", path) for path in self.warm_start]
        pairs += [("--without", host) for host in self.without]
        words = [word for flag, value in pairs if value is not None for word in (flag, str(value))]
        for key, value in self.overrides.items():
            flag = f"--{key.rsplit('.', 1)[-1].replace('_', '-')}"
            joined = str(value).startswith("-")  # a negative number, which would be taken for a flag
            words += [flag] if value is True else [f"{flag}={value}"] if joined else [flag, str(value)]
        return words + (["--progress", self.progress] if self.progress != "auto" else [])


@dataclass(frozen=True)
class Crew:
    """This rank's place in the job.

    Attributes
    ----------
    index, seat:
        Position of its group in the plan, and its own position in the group (0: leader); None for a spare.
    node:
        This rank's node.
    work_dirs:
        The work folder of every rank.
    group:
        The communicator of the group's ranks; None for a spare.
    everyone:
        The channel of all ranks.
    outside:
        A leader's connections to the nodes of its group that have no rank; None if there are none.
    reached:
        Those nodes, by their position in the group.
    """

    world: World
    config: Config
    plan: Plan
    index: int | None
    seat: int | None
    node: LocalNode
    work_dirs: Mapping[int, str]
    group: Channel | None
    everyone: Channel
    outside: Outside | None = None
    reached: Mapping[int, RemoteNode] = field(default_factory=dict)


def read_config(options: Options) -> Config:
    """The configuration of a run, checked by its engine and its client as well.

    Raises
    ------
    UserError
        With every mistake that was found.
    """
    known: dict[str, Any] = {"engines": ENGINES.names(), "clients": CLIENTS.names()}
    earlier = "" if options.resume is None else read_run(options.resume, config_given=options.config is not None)[0]
    source = str(options.config or options.resume or "embedded configuration")
    if options.config is not None:
        config = load(options.config, overrides=options.overrides, **known)
    else:
        config = parse(earlier or template(EMBEDDED), source, overrides=options.overrides, **known)
    config = _with_template(config, source, given=options.config is not None)
    if earlier and (other := differences(parse(earlier, str(options.resume), **known), config)):
        raise UserError([f"{options.resume}: another search cannot go on with this run: {line}" for line in other])
    engine, client = ENGINES.create(config.service.engine), CLIENTS.create(config.benchmark.client)
    problems = [f"{source}: {problem}" for problem in (*engine.problems(config), *client.problems(config))]
    try:
        well_defined(config)
    except UserError as error:
        problems += error.problems
    if problems:
        raise UserError(problems)
    return config


def _with_template(config: Config, source: str, *, given: bool) -> Config:
    """With the text of the template of the service's configuration file, unless that of an earlier session is known."""
    file = config.service.config_file
    if file is None:
        return config
    if given and file.template and file.content:
        raise UserError(f"{source}: service.config_file: give template, a file, or content, its text, not both")
    try:
        file = loaded(file)
    except ValueError as error:
        raise UserError(f"{source}: service.config_file: {error}") from None
    return config.model_copy(update={"service": config.service.model_copy(update={"config_file": file})})


def well_defined(config: Config) -> tuple[Space, Configuration | None]:
    """The search space and the baseline configuration.

    Raises
    ------
    UserError
        They contradict themselves, limits refer to a baseline that is not given, or a configuration that is to be
        measured first is none of the space.
    """
    space = Space(config.parameters, config.constraints)
    baseline = space.default()
    if baseline is None and Objective(config.objective).relative:
        raise UserError("objective.slo: limits relative to the baseline need a default for every parameter")
    first_points(config.search, space, baseline)
    return space, baseline


def earlier_results(options: Options, config: Config, space: Space) -> list[Earlier]:
    """What the run is to learn from before its first proposal.

    Raises
    ------
    UserError
        With what is wrong with each source.
    """
    found: list[Earlier] = []
    problems: list[str] = []
    for path in options.warm_start:
        try:
            found.append(read_earlier(path, config, lambda given: fitted(space, given)))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    return found


def wanted_groups(options: Options, config: Config) -> tuple[Config, list[str] | None]:
    """The configuration with the groups of ``--nodes``, and the hosts of ``--hostfile`` once per slot.

    Both are without the hosts that are not to be used.

    Raises
    ------
    UserError
        The hostfile or the list of nodes is wrong, or without those hosts nothing is left of them.
    """
    hosts = None
    if options.hostfile is not None:
        out = Hosts(map(Name, options.without), local=False)
        every = [host for host, slots in read_hostfile(options.hostfile) for _ in range(slots)]
        hosts = [host for host in every if out.find(host) is None]
    groups = config.parallel.service_groups
    if options.nodes is not None:
        groups = tuple(_as_configured(group, config) for group in parse_nodes(options.nodes))
    left = regrouped(groups, options.without)
    if options.without and not left and (groups or not hosts):
        flags = " ".join(f"--without {host}" for host in options.without)
        named = groups or hosts is not None
        why = "no group can be formed of what is left" if named else "goes with a hostfile or with named groups"
        raise UserError(f"{flags}: {why}")
    config = config.model_copy(update={"parallel": config.parallel.model_copy(update={"service_groups": left})})
    return config, hosts


def _as_configured(group: GroupEntry, config: Config) -> GroupEntry:
    """The group with what the configuration says of its nodes, if it names each once, and of the group as a whole."""
    known = [node for entry in config.parallel.service_groups for node in entry.nodes]
    found = {node.host: node for node in known if [other.host for other in known].count(node.host) == 1}
    nodes = tuple(found.get(node.host, node) for node in group.nodes)
    named = (entry.master_node_index for entry in config.parallel.service_groups if entry.nodes == nodes)
    master = next(named, config.parallel.master_node_index)
    return group.model_copy(update={"nodes": nodes, "master_node_index": master})


def launched_hosts(hosts: list[str] | None, config: Config) -> list[str] | None:
    """The hosts on which a launcher starts ranks, once for each: nodes have one rank unless groups share them."""
    distinct = list(dict.fromkeys(hosts or ()))
    return hosts if config.parallel.mode == "single_node" or len(distinct) < 2 else distinct


def prepare(world: World, options: Options, claim: Callable[[Config, Plan], None]) -> Crew:
    """Read the configuration, place the groups, make the channels and the work folders.

    Parameters
    ----------
    claim:
        Called on rank 0 once all is known to be well: makes the run's folder, or raises.

    Raises
    ------
    UserError
        On every rank, if any of them found a mistake; nothing has been started then.
    """
    config = _agreed(world, lambda: read_config(options))
    config, hosts = _agreed(world, lambda: wanted_groups(options, config))
    facts = world.gather((local_facts(world.rank), [*missing_commands(config), *_problems_here(options, config)]))
    _none_wrong([(rank.host, problem) for rank, problems in facts for problem in problems])
    ranks = [rank for rank, _ in facts]
    apart = outside(ranks, config.parallel, hosts) if config.parallel.ssh else []
    node, connections, reached, problem = None, None, {}, ""
    try:
        if apart:
            first = _agreed(world, lambda: plan([*ranks, *apart], config.parallel, hosts=hosts))
            connections, known = _meet(world, config, first, ranks)
            apart = [_with_facts(rank, known[rank.rank]) for rank in apart if rank.rank in known]
        placement = _agreed(world, lambda: _usable(plan([*ranks, *apart], config.parallel, hosts=hosts), config))
        index = placement.index_of(world.rank)
        nodes = placement.groups[index].nodes if index is not None else ()
        seat = next((i for i, node in enumerate(nodes) if node.rank == world.rank), None)
        if connections is not None and seat is None:  # what the nodes have left no room for this group
            connections.close()
            connections = None
        try:
            node = _node(placement.node(world.rank), config)
            if index is not None:
                if connections is not None and seat == 0:
                    reached = _join(connections, nodes, config)
                master = placement.groups[index].master_node_index
                own = node if seat == master else reached.get(master)
                if own is not None and (port := service_port(config, placement, index)):
                    own.free_port(port)
        except EvaluationFailed as error:
            problem = error.cause
        found = world.gather((node.work_dir if node is not None else "", problem))
        _none_wrong([("", problem) for _, problem in found if problem])
        _agreed(world, lambda: claim(config, placement))
    except UserError:
        if node is not None:
            node.close()
        if connections is not None:
            connections.close()
        raise
    if node is None:
        raise LookupError(f"rank {world.rank} has no node")
    return Crew(
        world=world,
        config=config,
        plan=placement,
        index=index,
        seat=seat,
        node=node,
        work_dirs={rank: work_dir for rank, (work_dir, _) in enumerate(found)},
        group=world.split(index, key=seat or 0),
        everyone=world.channel(),
        outside=connections,
        reached=reached,
    )


def _problems_here(options: Options, config: Config) -> list[str]:
    """What the engine misses on this node: a template, a model, an installed package."""
    source = options.config or "embedded configuration"
    return [f"{source}: {problem}" for problem in ENGINES.create(config.service.engine).problems(config)]


def service_port(config: Config, placement: Plan, index: int) -> int:
    """The port of a group's service: groups whose masters share a host count up from the configured one."""
    if config.service.port == 0:
        return 0
    masters = [group.nodes[group.master_node_index].host for group in placement.groups[: index + 1]]
    return config.service.port + masters[:-1].count(masters[-1])


def _usable(placement: Plan, config: Config) -> Plan:
    if problems := device_problems(config, placement) + placement_problems(config, placement):
        raise UserError(problems)
    return placement


def _node(place: PlacedNode, config: Config) -> LocalNode:
    return LocalNode(
        place.host,
        address=place.address,
        cores=place.cores,
        devices=place.devices,
        device_variable=place.device_variable,
        work_dir=config.service.work_dir,
    )


def _meet(
    world: World, config: Config, placement: Plan, ranks: Sequence[Rank]
) -> tuple[Outside | None, dict[int, Facts]]:
    """Have every leader connect to the nodes of its group that have no rank; its connections, and all nodes' facts."""
    index = placement.index_of(world.rank)
    nodes = placement.groups[index].nodes if index is not None else ()
    connections = None
    own: dict[int, tuple[str, Facts]] = {}
    problems: tuple[str, ...] = ()
    apart = [node for node in nodes if node.transport == "ssh"]
    if apart and nodes[0].rank == world.rank:
        try:
            connections = _outside(config)
            met = connections.meet(apart, service_commands(config))
            own = {node.rank: (node.host, facts) for node, facts in zip(apart, met, strict=True)}
        except UserError as error:
            problems = error.problems
    told = world.gather((own, problems))
    known = {rank: facts for met, _ in told for rank, (_, facts) in met.items()}
    names = {rank.host: rank.host for rank in ranks}
    same = [
        f"{name} is the host {facts.host}, which is named {other} as well: use one name for it"
        for met, _ in told
        for name, facts in met.values()
        if (other := names.setdefault(facts.host, name)) != name
    ]
    try:
        _none_wrong([("", problem) for _, lines in told for problem in lines] + [("", line) for line in same])
    except UserError:
        if connections is not None:
            connections.close()
        raise
    return connections, known


def _outside(config: Config) -> Outside:
    try:
        from mpipso.cluster.ssh import Outside
    except ModuleNotFoundError as error:
        raise UserError(f"parallel.ssh: the module {error.name} is missing here: pip install asyncssh") from None
    return Outside(config.ssh)


def _with_facts(rank: Rank, facts: Facts) -> Rank:
    return Rank(rank.rank, rank.host, facts.address, facts.cores, facts.devices, facts.device_variable)


def _join(connections: Outside, nodes: Sequence[PlacedNode], config: Config) -> dict[int, RemoteNode]:
    return {
        seat: connections.join(node, config.service.work_dir)
        for seat, node in enumerate(nodes)
        if node.transport == "ssh"
    }


def _agreed(world: World, produce: Callable[[], T]) -> T:
    """What rank 0 produces, on every rank; or its error."""
    outcome: T | UserError | None = None
    if world.rank == 0:
        try:
            outcome = produce()
        except UserError as error:
            outcome = error
    shared: Any = world.share(outcome)
    if isinstance(shared, UserError):
        raise shared
    agreed: T = shared
    return agreed


def _none_wrong(problems: Sequence[tuple[str, str]]) -> None:
    """Raise what the ranks found, once for each problem, with the hosts that have it."""
    hosts: dict[str, list[str]] = {}
    for host, problem in problems:
        hosts.setdefault(problem, []).append(host)
    if hosts:
        raise UserError([f"{problem}{_on(names)}" for problem, names in hosts.items()])


def _on(hosts: Sequence[str]) -> str:
    names = [name for name in dict.fromkeys(hosts) if name]
    return f" (on {', '.join(names)})" if names else ""
