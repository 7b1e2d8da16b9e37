"""What keeps a configuration from running on the groups that were formed: devices, ports, addresses."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable

from mpipso.cluster.plan import PlacedGroup, Plan
from mpipso.config import Config
from mpipso.service.command import placeholders
from mpipso.service.engines.base import engine_of
from mpipso.service.facts import DEVICE_VARIABLES, LOOPBACK, NO_DEVICES
from mpipso.wording import counted, ranges

LAST_PORT = 65535


def device_problems(config: Config, plan: Plan) -> list[str]:
    """Nodes whose devices no service could be shown, because it is not known by which variable; one line."""
    service = config.service
    told = placeholders((*service.command, *service.worker_command, *service.env.values()))
    nodes = [node for group in plan.groups for node in group.nodes]
    blind = [node for node in nodes if node.devices and not node.device_variable]
    if not blind or "devices" in told:
        return []
    hosts = list(dict.fromkeys(node.host for node in blind))
    where = ", ".join(hosts[:3]) + (", ..." if hosts[3:] else "")
    return [
        f"devices {ranges(blind[0].devices)} of {where}: the variable that shows them to a service was not detected; "
        f"set parallel.device_variable ({', '.join(DEVICE_VARIABLES)}), "
        f"or use {{devices}} in service.command"
    ]


def port_problems(config: Config, plan: Plan) -> list[str]:
    """Whether the ports that groups on one host count up to exist; one line if not."""
    last = max(group.port for group in plan.groups)
    if last <= LAST_PORT:
        return []
    first = f"service.port = {config.service.port}"
    return [f"{first}: groups that share a host count up from it, to {last}; the last port is {LAST_PORT}"]


def moving_port(config: Config, plan: Plan) -> str:
    """Why a service may listen on another port than ``service.port``, in words; empty if none does."""
    if config.service.port == 0:
        return "service.port = 0 stands for any free port"
    if all(group.port == config.service.port for group in plan.groups):
        return ""
    hosts = Counter(host for group in plan.groups for host in {node.host for node in group.nodes})
    host, most = hosts.most_common(1)[0]
    return f"{most} groups share {host}, each with a port of its own"


def address_problems(config: Config, plan: Plan) -> list[str]:
    """Whether the user's own commands that measure are told which service it is; one line for each that is not."""
    service = config.service
    started = service.command or engine_of(config).default_command(config)
    told = (*started, *service.worker_command, *service.update_command, *service.env.values())
    if "port" not in placeholders((*told, service.health_url)):  # where it listens is its own matter
        return []
    if not (why := moving_port(config, plan)):
        return []
    return [
        f"{section}.command: cannot know which service to {what}, as {why}: use {{base_url}} or {{port}} in it"
        for section, what, program in (("benchmark", "load", config.benchmark), ("quality", "check", config.quality))
        if program.command and not placeholders(program.command) & {"base_url", "port"}
    ]


def visibility_problems(config: Config, plan: Plan) -> list[str]:
    """Variables of the service that would show groups on one host the same devices; one line for each."""
    nodes = [node for group in plan.groups for node in group.nodes if node.devices]
    hosts = Counter(node.host for node in nodes)
    variables = {node.device_variable for node in nodes if hosts[node.host] > 1}
    tuned = [
        f"parameter {parameter.name!r}: env = {parameter.env!r} would take the place of the devices that each group is "
        "given; let it be used in service.command"
        for parameter in engine_of(config).resolved(config)
        if parameter.env in variables
    ]
    return tuned + [
        f"service.env.{name} = {value!r}: would take the place of the devices that each group is given; leave it out, "
        "or use {devices} in it"
        for name, value in config.service.env.items()
        if name in variables and value not in NO_DEVICES and "devices" not in placeholders([value])
    ]


def group_problems(config: Config, plan: Plan) -> list[str]:
    """Groups on which the engine cannot start the service; one line for each reason."""
    engine = engine_of(config)
    found: dict[str, str] = {}
    for index, group in enumerate(plan.groups):
        devices = [len(node.devices) for node in group.nodes]
        if problem := engine.group_problem(config, devices):
            shared = _shared(plan, group) if (engine.used_devices(config) or 0) > sum(devices) else ""
            found.setdefault(
                problem, f"group {index} of {counted(len(group.nodes), 'node')} ({group.hosts}): {problem}{shared}"
            )
    return list(found.values())


def _shared(plan: Plan, group: PlacedGroup) -> str:
    """That a group has few devices since others are on its hosts as well; empty if none are."""
    hosts = {node.host for node in group.nodes}
    others = sum(1 for other in plan.groups if hosts & {node.host for node in other.nodes})
    return f"; {others} groups share what its hosts have: fewer ranks, with -np, leave each more" if others > 1 else ""


def loopback_problems(plan: Plan) -> list[str]:
    """Hosts that no other host of their group could reach, as they have no address but loopback; one line."""
    lonely = {
        node.host
        for group in plan.groups
        for node in group.nodes
        if node.transport == "mpi" and node.address == LOOPBACK and len({each.host for each in group.nodes}) > 1
    }
    if not lonely:
        return []
    return [
        f"{', '.join(sorted(lonely))}: no address but loopback was found, where the rest of a group cannot reach it"
    ]


def placement_problems(config: Config, plan: Plan) -> list[str]:
    """What is wrong with running this configuration on these groups, as far as it can be told from any host.

    :func:`device_problems` and :func:`loopback_problems` need what the hosts themselves have found out.
    """
    checks = (group_problems, visibility_problems, port_problems, address_problems)
    return [problem for check in checks for problem in check(config, plan)]


def all_problems(config: Config, plan: Plan) -> list[str]:
    """What is wrong with running this configuration on these groups, of which the hosts have told what they are."""
    return [*device_problems(config, plan), *placement_problems(config, plan), *loopback_problems(plan)]


def fitting(config: Config) -> Callable[[PlacedGroup], bool]:
    """Tells whether there are no such problems with a group, which may be asked again and again."""
    return functools.cache(lambda group: not all_problems(config, Plan((group,))))
