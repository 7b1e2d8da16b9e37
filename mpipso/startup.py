"""What a run is to be: the command line and the configuration together, checked before anything is started."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from mpipso.cluster.hosts import Hosts, parse_nodes, read_hostfile
from mpipso.cluster.placement import ADVICE, regrouped
from mpipso.cluster.plan import Plan
from mpipso.config import Config
from mpipso.config.file import load, parse
from mpipso.config.parallel import GroupEntry
from mpipso.config.templates import EMBEDDED, template
from mpipso.errors import UserError
from mpipso.evaluation import CONFIRM
from mpipso.launched import COMMAND, RESTARTS
from mpipso.record.again import resume_command
from mpipso.record.resume import as_before, differences, read_run, started_elsewhere
from mpipso.record.usage import BEGINNINGS, usage
from mpipso.record.warm import Earlier, read_earlier
from mpipso.search.knowledge import first_points, fitted
from mpipso.search.objective import Objective
from mpipso.search.space import Space
from mpipso.service.clients.base import CLIENTS
from mpipso.service.clients.prompts import content
from mpipso.service.clients.quality import QualityClient
from mpipso.service.command import PLACEHOLDER
from mpipso.service.engines.base import ENGINES, engine_of
from mpipso.service.template import loaded
from mpipso.timelimits import nothing_left, require_time


@dataclass(frozen=True)
class Options:
    """What the command line says of a run.

    Attributes
    ----------
    config:
        The configuration file; None for the embedded configuration, or that of the run to resume.
    overrides:
        Values that take the place of the configuration's, by dotted key.
    hostfile, nodes:
        A file with names of hosts; groups of hosts, as in ``node0,node1:node2,node3``.
    progress:
        How the run is shown: ``auto``, ``live`` or ``plain``.
    resume:
        The folder of a run to go on with.
    name:
        The name of a new run's folder in the output folder.
    warm_start:
        Folders of earlier runs, or CSV files, to learn from.
    without:
        Hosts that are not to be used, whoever names them.
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
        """The words of a command line that says the same."""
        pairs: list[tuple[str, Any]] = [
            ("--config", self.config),
            ("--hostfile", self.hostfile),
            ("--nodes", self.nodes),
        ]
        pairs += [("--resume", self.resume), ("--run-name", self.name)]
        pairs += [("--warm-start", path) for path in self.warm_start]
        pairs += [("--without", host) for host in self.without]
        pairs += [(f"--{key.rsplit('.', 1)[-1].replace('_', '-')}", value) for key, value in self.overrides.items()]
        words: list[str] = []
        for flag, value in pairs:
            if str(value).startswith("-"):  # which would be taken for a flag
                words.append(f"{flag}={value}")
            elif value is not None:
                words += [flag] if value is True else [flag, str(value)]
        return words + (["--progress", self.progress] if self.progress != "auto" else [])


def read_config(options: Options) -> Config:
    """The configuration of a run, checked by its engine and its client as well.

    Raises
    ------
    UserError
        With every mistake that was found, what makes it another search than that of the run to resume, or that no time
        is left for it.
    """
    require_time(os.environ)
    earlier: str = ""
    events: list[dict[str, Any]] = []
    if options.resume is not None:
        earlier, events = read_run(options.resume, config_given=options.config is not None)
    source = str(options.config or options.resume or "embedded configuration")
    if options.config is not None:
        config = load(options.config, overrides=options.overrides, **_adapters())
    else:
        text = earlier or template(EMBEDDED)
        config = parse(text, source, overrides=options.overrides, earlier=bool(earlier), **_adapters())
    config = _with_template(config, source, given=options.config is not None)
    if options.resume is not None and options.config is None:
        _require_home(options.resume, config, events)
    config = _with_digest(config, source, given=options.config is not None)
    if options.resume is not None:
        before = _before(options.resume, earlier)
        if before is not None:
            search = config.search.sized(before.search.swarm_size, before.search.batch)
            config = config.model_copy(update={"search": search})
        _require_resumable(options.resume, config, before, events)
    problems = adapter_problems(config, source) + [f"{source}: {problem}" for problem in _url_problems(config)]
    try:
        well_defined(config)
    except UserError as error:
        problems += [f"{source}: {problem}" for problem in error.problems]
    if problems:
        raise UserError(problems)
    return config


def _adapters() -> dict[str, Any]:
    return {"engines": ENGINES.names(), "clients": CLIENTS.names()}


def _before(folder: Path, text: str) -> Config | None:
    """The configuration that the run in ``folder`` had, of which this is the text; None if that is empty."""
    if not text:
        return None
    config = parse(text, str(folder), earlier=True, **_adapters())
    return config.model_copy(update={"search": as_before(config.search)})


def _require_home(folder: Path, config: Config, events: Sequence[Mapping[str, Any]]) -> None:
    """UserError if the run in ``folder``, whose configuration is its own, was last started where paths lead elsewhere.

    The launcher has asked; a rank may be on a host that does not have the folder of the job.
    """
    if RESTARTS not in os.environ and (home := started_elsewhere(events)) and leads_from(home, config):
        raise UserError(
            f"{folder}: the run was last started in {home}, from where its relative paths lead: "
            f"go on there, or give --config if they lead from here"
        )


def _require_resumable(
    folder: Path, config: Config, before: Config | None, events: Sequence[Mapping[str, Any]]
) -> None:
    """UserError if the run in ``folder`` cannot go on with a configuration.

    ``before`` is the configuration that it had, None if that is not known.
    """
    if before is not None and (other := differences(before, config)):
        raise UserError([f"{folder}: cannot be resumed, this is a different search: {line}" for line in other])
    if RESTARTS in os.environ:
        return  # the launcher has asked
    # A run that has not come to its end has still to do so; and a job that comes back asks for nothing new.
    ended = before is not None and before.search != config.search and events[-1]["event"] == "finished"
    if ended and (why := nothing_left(config.search.time_limit, usage(events).wall)):
        raise UserError(f"{folder}: {why}")


def adapter_problems(config: Config, source: str) -> list[str]:
    """What is wrong with a configuration from the point of view of its engine and its clients."""
    adapters = (engine_of(config), CLIENTS.create(config.benchmark.client), QualityClient())
    return [f"{source}: {problem}" for adapter in adapters for problem in adapter.problems(config)]


def _url_problems(config: Config) -> Iterator[str]:
    """A URL of the service's health that is none, whatever host and port it is filled with."""
    url = config.service.health_url
    if set(PLACEHOLDER.findall(url)) - {"host", "port"}:  # a parameter may hold any part of it
        return
    try:
        parts = urlsplit(PLACEHOLDER.sub("1", url))
        valid = parts.scheme not in ("http", "https") or (parts.hostname and "{" not in parts.netloc)
        _ = parts.port  # which raises an error if it is no number
    except ValueError:
        valid = False
    if url and not valid:
        yield f"service.health_url = {url!r}: is no URL that can be asked"


def why_over(options: Options, config: Config) -> str:
    """Why the search of the run to resume is over, and what goes on with it; empty if it is not, or if none is."""
    if options.resume is None:
        return ""
    text, events = read_run(options.resume, config_given=True)
    if why := nothing_left(config.search.time_limit, usage(events).wall):
        return why
    last, search, before = events[-1], config.search, _before(options.resume, text)
    if last["event"] != "finished" or before is None:
        return ""
    measured = len({each["number"] for each in events if each["event"] == "evaluated" and each["label"] != CONFIRM})
    most = {"evaluations": search.evaluations, "iterations": (search.iterations or math.inf) * search.swarm_size}
    spent = [key for key, budget in most.items() if measured >= budget]
    spent += [key for key in ("stagnation", "target") if getattr(search, key) == getattr(before.search, key)]
    key = next((key for key in spent if key in most or key == last["cause"]), "")
    how = f"another --{key}" if key == "target" else f"a larger --{key}"
    return (
        f"search.{key} = {getattr(search, key):g} leaves the resumed run nothing to propose; give {how}" if key else ""
    )


def leads_from(folder: str, config: Config) -> bool:
    """Whether it may matter to a configuration in which folder its commands are run, ``folder`` or this one.

    Of prompts that are here, too, the digest tells whether they are the same.
    """
    service = config.service
    commands = (
        *(service.command, service.worker_command, service.update_command, service.stop_command),
        *(service.health_command, config.benchmark.command, config.quality.command),
    )
    prompts = config.benchmark.prompts
    elsewhere = [service.model] if service.model and Path(folder, service.model).exists() else []
    elsewhere += [prompts] if prompts and not Path(prompts).exists() else []
    return any(commands) or not all(Path(each).is_absolute() for each in elsewhere)


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
    return config.having("service", config_file=file)


def _with_digest(config: Config, source: str, *, given: bool) -> Config:
    """With the digest of the prompts as they are now, which is that of the earlier session's if they are the same."""
    if given and config.benchmark.prompts_sha256:
        raise UserError(f"{source}: benchmark.prompts_sha256: is found out from benchmark.prompts: leave it out")
    benchmark = config.benchmark
    if not benchmark.prompts or benchmark.client != "openai":
        return config
    try:
        return config.having("benchmark", prompts_sha256=content(benchmark.prompts, benchmark.endpoint).sha256)
    except ValueError as error:
        raise UserError(f"{source}: benchmark.prompts: {error}") from None


def well_defined(config: Config) -> Space:
    """The search space, with the baseline configuration.

    Raises
    ------
    UserError
        The parameters contradict each other, limits refer to a baseline that is not given, or one of the
        configurations that are to be measured first is outside the space.
    """
    space = Space(config.parameters, config.conditions)
    objective = Objective(config.objective)
    _require_values(objective, config, space)
    if space.baseline is None and objective.relative:
        raise UserError("objective.slo: limits relative to the baseline need a default for every parameter")
    first_points(config.search, space)
    return space


def _require_values(objective: Objective, config: Config, space: Space) -> None:
    """UserError if derived metrics that are needed have no value whatever is measured.

    So it is with a function that there is not, and arithmetic with text. Of other expressions some made-up metrics give
    a value: small ones, large ones, those in the opposite order, or none above 0.
    """
    names = config.measured
    numbers = [float(number) for number in range(1, len(names) + 1)]
    points = [space.decode(np.full(space.dimensions, u)) for u in (0.1, 0.5, 0.9)]
    why = ""
    for configuration in [space.baseline] if space.baseline is not None else points:
        for values in (numbers, [1000.0 * number for number in numbers], numbers[::-1], [0.0] * len(names)):
            try:
                objective.derived(dict(zip(names, values, strict=True)), configuration)
            except ValueError as error:
                why = why or str(error)
            else:
                return
    raise UserError(why)


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
        out = Hosts.of(options.without)
        every = [host for host, slots in read_hostfile(options.hostfile) for _ in range(slots)]
        hosts = [host for host in every if out.find(host) is None]
    groups = config.parallel.service_groups
    if options.nodes is not None:
        groups = tuple(_as_configured(group, config) for group in parse_nodes(options.nodes))
    remaining = regrouped(groups, options.without)
    if options.without and not remaining and (groups or not hosts):
        flags = " ".join(f"--without {host}" for host in options.without)
        named = groups or hosts is not None
        why = "no group can be formed of what is left" if named else "goes with a hostfile or with named groups"
        raise UserError(f"{flags}: {why}")
    return config.having("parallel", service_groups=remaining), hosts


def as_launched(error: UserError, options: Options) -> UserError:
    """The error that ranks and groups do not fit together, with how the run to resume was launched, if that is known.

    A job that is launched in that way itself is told what it is told without it.
    """
    if options.resume is None:
        return error
    text, events = read_run(options.resume, config_given=True)
    last = next(event for event in reversed(events) if event["event"] in BEGINNINGS)
    command = last.get("command", "")
    if not command or command == os.environ.get(COMMAND):
        return error
    again = resume_command(options.resume, text, command, last.get("cwd", ""), last.get("system", ""))
    lines = [f"{problem.removesuffix(ADVICE)}; it was launched with: {again}" for problem in error.problems]
    return UserError(lines, hosts=error.hosts)


def settled(config: Config, plan: Plan) -> Config:
    """The configuration with what was left to depend on the groups that were formed."""
    return config.model_copy(update={"search": config.search.settled(len(plan.groups))})


def _as_configured(group: GroupEntry, config: Config) -> GroupEntry:
    """The group with what the configuration says of its nodes, if it names each once, and of the group as a whole."""
    known = [node for entry in config.parallel.service_groups for node in entry.nodes]
    found = {node.host: node for node in known if [other.host for other in known].count(node.host) == 1}
    nodes = tuple(found.get(node.host, node) for node in group.nodes)
    named = (entry.master_node_index for entry in config.parallel.service_groups if entry.nodes == nodes)
    return group.model_copy(update={"nodes": nodes, "master_node_index": next(named, None)})
