"""The nodes of groups that have no rank: leaders connect to theirs over ssh, and rank 0 learns what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mpipso.agreement import agreed, none_wrong
from mpipso.cluster.plan import PlacedNode, Rank
from mpipso.cluster.world import World
from mpipso.config import Config
from mpipso.errors import UserError
from mpipso.service.engines.base import service_commands
from mpipso.service.environment import Fingerprint
from mpipso.service.facts import Facts

if TYPE_CHECKING:
    from mpipso.cluster.ssh import SshNodes


def connect(
    world: World, config: Config, group: Sequence[PlacedNode], ranks: Sequence[Rank], root: Fingerprint
) -> tuple[SshNodes | None, dict[int, Facts]]:
    """Have every leader connect to the nodes of its ``group`` that have no rank. Collective.

    Returns
    -------
    The connections of this rank, if it leads, and on rank 0 what each of the nodes is, by its number.
    """
    connections = None
    own: dict[int, tuple[str, Facts]] = {}
    problems: list[tuple[str, str]] = []
    apart = [node for node in group if node.transport == "ssh"]
    if apart and group[0].rank == world.rank:
        try:
            connections = _ssh_nodes(config)
            met = connections.connect(apart, service_commands(config), root)
            own = {node.rank: (node.host, facts) for node, facts in zip(apart, met, strict=True)}
        except UserError as error:
            problems = [(host, line) for line in error.problems for host in error.hosts or ("",)]
    told = world.gather((own, problems))
    try:
        agreed(world, lambda: none_wrong(_unmet(told, ranks), say_where=False))
    except UserError:
        if connections is not None:
            connections.close()
        raise
    return connections, {rank: facts for met, _ in told for rank, (_, facts) in met.items()}


def _unmet(
    told: Sequence[tuple[Mapping[int, tuple[str, Facts]], Sequence[tuple[str, str]]]], ranks: Sequence[Rank]
) -> list[tuple[str, str]]:
    """What kept leaders from connecting to nodes, and the hosts that were met under two names; one line each.

    With the lines come hosts that have such a problem, all of a leader's with each of its lines.
    """
    names = {rank.host: rank.host for rank in ranks}
    same = [
        ("", f"{name} is the host {facts.host}, which is named {other} as well: use one name for it")
        for met, _ in told
        for name, facts in met.values()
        if (other := names.setdefault(facts.host, name)) != name
    ]
    return [problem for _, problems in told for problem in problems] + same


def _ssh_nodes(config: Config) -> SshNodes:
    try:
        from mpipso.cluster.ssh import SshNodes
    except ModuleNotFoundError as error:
        raise UserError(f"parallel.ssh: the module {error.name} is missing here: pip install asyncssh") from None
    return SshNodes(config.ssh)
