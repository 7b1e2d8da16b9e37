"""``mpipso check``: is the configuration valid, and what would be started where? Starts nothing, needs no MPI."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mpipso.cluster.facts import rank_here
from mpipso.cluster.hosts import Hosts, addresses
from mpipso.cluster.placement import form_groups, named_without_rank
from mpipso.cluster.plan import PlacedGroup, PlacedNode, Plan, Rank
from mpipso.config import Config
from mpipso.conflicts import device_problems, placement_problems
from mpipso.errors import UserError
from mpipso.evaluation import Assignment, Configuration
from mpipso.launch.jobs import wanted_ranks
from mpipso.launch.ranks import Ranks
from mpipso.manual import DEFAULT_PORT, layout
from mpipso.notes import notes
from mpipso.record import recipe
from mpipso.record.folders import output_problem, require_name
from mpipso.record.warm import Earlier, told
from mpipso.search.knowledge import knowledge
from mpipso.search.objective import Objective
from mpipso.search.strategies import given_points
from mpipso.service.clients.base import CLIENTS
from mpipso.service.clients.quality import QualityClient
from mpipso.service.engines.base import Layout, engine_of, missing_commands
from mpipso.service.measuring import targets_of
from mpipso.startup import Options, earlier_results, read_config, settled, well_defined, why_over
from mpipso.wording import counted, ranges


def check(options: Options, ranks: int | None, console: Console) -> int:
    """Print the plan and the commands of the baseline; returns 0.

    Parameters
    ----------
    ranks:
        How many; None for as many as ``mpipso launch`` starts.

    Raises
    ------
    UserError
        With everything that is wrong.
    """
    config, plan, earlier = _verified(options, ranks)
    space = well_defined(config)
    console.print(_table(plan))
    over = [why] if (why := why_over(options, config)) else []
    for line in (*notes(config, plan), *over, *_names_for_ssh(plan)):
        console.print(Text(f"note: {line}", "yellow"), soft_wrap=True)
    for source in earlier:
        known = knowledge(space, Objective(config.objective), source.results)
        console.print(Text(told(source, known.skipped, learned=bool(known.scores))), soft_wrap=True)
    searched, evaluations = counted(space.dimensions, "searched parameter"), config.search.evaluations
    console.print(
        f"{searched}, {space.size():.3g} configurations; {counted(evaluations, 'evaluation')}, service groups at a "
        f"time: {len(plan.groups)}",
        soft_wrap=True,
    )
    group = plan.groups[0]
    free = "" if group.port else f" ({DEFAULT_PORT} is a placeholder for a free port)"
    of = "baseline" if space.baseline else "first"
    console.print(f"\nGroup 0 would start, with the {of} configuration{free}:", soft_wrap=True)
    configuration = space.baseline or space.decode(np.full(space.dimensions, 0.5))
    work_dir = config.service.work_dir or "/tmp/mpipso"
    placed = layout(group, work_dir, str(Path(work_dir) / config.service.config_name))
    _print_commands(_starts(config, configuration, group, placed), configuration, console)
    console.print("and measure it with:")
    _print_commands(_measurements(config, configuration, group, placed), configuration, console)
    return 0


def _verified(options: Options, ranks: int | None) -> tuple[Config, Plan, list[Earlier]]:
    """The configuration, the groups, and what a run would learn from; UserError with all that is wrong with them."""
    config = read_config(options)
    problems = missing_commands(config)
    if options.resume is None and (problem := output_problem(Path(config.output))):
        problems.append(problem)
    try:
        require_name(options.name)
    except UserError as error:
        problems += error.problems
    config, wanted = wanted_ranks(options, config, ranks)
    expected = _expected_ranks(wanted)
    if unknown := _unresolved(rank.host for rank in expected):
        problems.append(f"names that cannot be resolved here: {', '.join(unknown)}")
    plan, earlier = Plan((), ()), []
    hosts = wanted.hosts if options.hostfile is not None else None
    try:
        apart = named_without_rank(expected, config.parallel, hosts) if config.parallel.ssh else []
        plan = form_groups([*expected, *apart], config.parallel, hosts=hosts, port=config.service.port)
        # What other hosts would detect cannot be seen from here.
        config = settled(config, plan)
        problems += device_problems(config, _only(plan, socket.gethostname()))
        problems += placement_problems(config, plan)
    except UserError as error:
        problems += error.problems
    try:
        space = well_defined(config)
        given_points(config.search, space)
        earlier = earlier_results(options, config, space)
    except UserError as error:
        problems += error.problems
    if problems:
        raise UserError(problems)
    return config, plan, earlier


def _expected_ranks(wanted: Ranks) -> list[Rank]:
    """The ranks that a launch would have, as far as this machine can tell."""
    here = rank_here(0)
    local = Hosts([here])
    hosts = enumerate(wanted.host_of_each())
    return [replace(here, rank=i) if local.find(host) else Rank(i, host, host) for i, host in hosts]


def _only(plan: Plan, host: str) -> Plan:
    """The plan with the nodes on one host alone."""
    groups = [replace(group, nodes=tuple(n for n in group.nodes if n.host == host)) for group in plan.groups]
    return Plan(tuple(group for group in groups if group.nodes))


def _names_for_ssh(plan: Plan) -> Iterator[str]:
    """Hosts that are reached over ssh and that only the user's configuration of ssh can know."""
    reached = (node.host for group in plan.groups for node in group.nodes if node.transport == "ssh")
    if unknown := _unresolved(reached):
        yield f"names that cannot be resolved here, unless ~/.ssh/config knows them: {', '.join(unknown)}"


def _unresolved(hosts: Iterable[str]) -> list[str]:
    return [host for host in dict.fromkeys(hosts) if not _resolves(host)]


def _resolves(host: str) -> bool:
    return host == socket.gethostname() or bool(addresses(host))


def _table(plan: Plan) -> Table:
    table = Table("group", "rank", "node", "role", "cores", "devices", box=None, header_style="bold", pad_edge=False)
    for index, group in enumerate(plan.groups):
        for seat, node in enumerate(group.nodes):
            roles = [
                *(["root"] if node.rank == 0 else []),
                "leader" if seat == 0 else "member",
                *(["master"] if seat == group.master_node_index else []),
            ]
            rank = str(node.rank) if node.transport == "mpi" else "over ssh"
            table.add_row(str(index), rank, node.host, ", ".join(roles), *_share(node))
    for spare in plan.spares:
        table.add_row("-", str(spare.node.rank), spare.node.host, f"spare: {spare.reason}", "", "")
    return table


def _share(node: PlacedNode) -> tuple[str, str]:
    """Cores and devices in words, ``as found`` where only the node itself can find them out."""
    if not node.cores:
        return "as found", ranges(node.devices) if node.devices else "as found"
    return ranges(node.cores), ranges(node.devices)


def _starts(config: Config, configuration: Configuration, group: PlacedGroup, placed: Layout) -> list[recipe.NodeStart]:
    """What starts the service, without the variables ``MPIPSO_*``, which are added to the environment in a run."""
    engine = engine_of(config)
    return [
        recipe.NodeStart(
            group.nodes[start.node].host,
            start.command,
            {name: value for name, value in start.env.items() if not name.startswith("MPIPSO_")},
            update=tuple(engine.fill(config.service.update_command, config, configuration, placed, start.node)),
        )
        for start in engine.starts(config, configuration, placed)
    ]


def _measurements(
    config: Config, configuration: Configuration, group: PlacedGroup, placed: Layout
) -> Iterator[recipe.NodeStart]:
    """What measures in the first evaluation, at each load, which its group's leader runs."""
    engine, benchmark = engine_of(config), CLIENTS.create(config.benchmark.client)
    for client in (benchmark, QualityClient()) if config.quality.command else (benchmark,):
        first = Assignment(0, 1, configuration)
        for target in targets_of(config, engine, client, placed, first, placed.work_dirs[0]):
            yield recipe.NodeStart(group.nodes[0].host, tuple(client.command(config, target)))


def _print_commands(starts: Iterable[recipe.NodeStart], configuration: Configuration, console: Console) -> None:
    for start in starts:
        before = [recipe.NodeStart(start.host, start.update)] if start.update else []
        for each in (*before, start):
            words = recipe.command_words(each, configuration)
            console.print(Text(f"  {start.host}: {' '.join(words)}"), soft_wrap=True)
