"""The contract of an engine: how a service is started with a configuration, and how one knows that it serves."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from mpipso.config import Config
from mpipso.config.parameters import Parameter, names_in
from mpipso.evaluation import Configuration, Value
from mpipso.service.clients.base import deciding
from mpipso.service.command import choices, fill, flags, flags_problem, placeholders, script_problems, text
from mpipso.service.node import Share
from mpipso.service.reasons import Reason, remoteness, telling
from mpipso.service.registry import Registry
from mpipso.service.template import config_text, named
from mpipso.wording import suggestion


@dataclass(frozen=True)
class Layout:
    """Where one start of the service runs: hosts, ports and the place of its configuration file on each node.

    What is told by node has one entry for each node of the group, in the group's order: the leader's comes first.

    Attributes
    ----------
    nodes:
        What of its host each node may use; two nodes may be on the same one.
    master:
        The index of the node that runs the service's master, which clients talk to.
    port:
        The TCP port on which the master listens for clients.
    master_port:
        Another free port of the master's node, on which the service's own processes may find each other.
    work_dirs:
        The folder on each node for the files of this start.
    configs:
        The path of the service's configuration file on each node.
    """

    nodes: tuple[Share, ...]
    master: int
    port: int
    master_port: int
    work_dirs: tuple[str, ...]
    configs: tuple[str, ...]

    @property
    def host(self) -> str:
        """Where clients and workers find the service; loopback unless it spans hosts."""
        return self.address(self.master)

    def address(self, node: int) -> str:
        """Where a node of the group is found by the others."""
        if len({each.host for each in self.nodes}) == 1:
            return "127.0.0.1"
        return self.nodes[node].address or self.nodes[node].host

    @property
    def base_url(self) -> str:
        """The beginning of the service's URLs."""
        return f"http://{in_url(self.host)}:{self.port}"

    @property
    def node_ranks(self) -> tuple[int, ...]:
        """The service's own numbering of the nodes: the master is 0."""
        return tuple(self.by_rank.index(index) for index in range(len(self.nodes)))

    @property
    def by_rank(self) -> tuple[int, ...]:
        """The nodes in the order of the service's own numbering."""
        return (self.master, *(index for index in range(len(self.nodes)) if index != self.master))


@dataclass(frozen=True)
class Start:
    """A process to start: ``command`` on the node of index ``node`` in the group, with ``env`` added to its own."""

    node: int
    command: tuple[str, ...]
    env: Mapping[str, str]


class Engine:
    """A service that is started by a command; an engine of its own overrides what differs.

    Attributes
    ----------
    known:
        Parameters that the engine knows by name, with their flag or environment variable, so that a configuration
        need not say where their values go.
    health_path:
        Answers 200 when the service is ready, relative to its base URL; empty if the user must tell.
    """

    known: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    health_path = ""
    started_by = "service.command"
    """The keys of which one must be given, in words."""
    exports = True
    """Whether processes are told their place (``MPIPSO_NODE_RANK`` and so on) by their environment as well."""
    workers_are_alike = True
    """Whether workers take the flags of parameters too."""
    on_every_node = False
    """Whether a service takes a process on every node of its group, which its master does not start."""
    close_connections = False
    """Whether clients must not keep connections alive, because the service drops them."""

    def default_command(self, config: Config) -> tuple[str, ...]:
        """The command when the configuration gives none; empty if it must."""
        return ()

    def model_name(self, config: Config) -> str:
        """The name under which the service must list its model; empty if that cannot be told."""
        return ""

    def resolved(self, config: Config) -> tuple[Parameter, ...]:
        """The parameters, each with the place its value goes to."""
        implied = self._implied(config)
        return tuple(
            parameter.model_copy(update=dict(implied.get(parameter.name, {}))) for parameter in config.parameters
        )

    def _implied(self, config: Config) -> dict[str, Mapping[str, str]]:
        """Where values go whose place the engine knows and the configuration does not give, by parameter.

        A command that calls a parameter by its name is such a place, too; workers need not take its flag then.
        """
        called = placeholders((*config.service.command, *config.service.worker_command))
        own = called | {p.name for p in config.parameters if p.flag or p.env or p.path}
        return {p.name: self.known[p.name] for p in config.parameters if p.name in self.known and p.name not in own}

    def problems(self, config: Config) -> Iterator[str]:
        """What is wrong with the configuration from this engine's point of view, one line each."""
        service = config.service
        command = service.command or self.default_command(config)
        if not command:
            yield f"{self.started_by}: is required for engine = {service.engine!r}"
            return
        if service.health_url and not service.health_url.lower().startswith(_SCHEMES):
            yield f"service.health_url = {service.health_url!r}: should begin with {' or '.join(_SCHEMES)}"
        yield from self._placeholder_problems(config, command)
        yield from self._shell_problems(config, command)
        yield from self._target_problems(config, command)
        if service.config_file is not None:
            try:
                names = (parameter.name for parameter in config.parameters)
                config_text(service.config_file, config.parameters, dict.fromkeys(names, 0), {})
            except ValueError as error:
                yield f"service.config_file: {error}"

    def kind_problems(self, config: Config) -> Iterator[str]:
        """Parameters that go to flags the engine knows, but of another kind than these; one line each."""
        implied = self._implied(config)
        for parameter in config.parameters:
            if flag := implied.get(parameter.name, {}).get("flag", ""):
                switch = "/" in flag
                if switch != (parameter.type == "bool"):
                    wanted = 'type = "bool"' if switch else f'a value for {flag}, as with type = "choice"'
                    yield f"parameter {parameter.name!r}: should be {wanted}, not type = {parameter.type!r}"

    def group_problem(self, config: Config, devices: Sequence[int]) -> str:
        """Why a group cannot run the service, in words; empty if it can, as far as the engine knows.

        ``devices`` are how many accelerators each node of the group has, 0 where none is known.
        """
        return ""

    def used_devices(self, config: Config) -> int | None:
        """How many accelerators the service uses, whatever its configuration; None where that is not known."""
        return None

    def _placeholder_problems(self, config: Config, command: Sequence[str]) -> Iterator[str]:
        service = config.service
        allowed = {parameter.name for parameter in config.parameters} | set(self._anywhere(config))
        texts = {**_commands(config, command), "health_url": (service.health_url,)}
        for key, words in (texts | {f"env.{name}": (value,) for name, value in service.env.items()}).items():
            for name in sorted(placeholders(words) - allowed):
                yield f"service.{key}: unknown placeholder {{{name}}}{suggestion(name, allowed)}"

    def _shell_problems(self, config: Config, command: Sequence[str]) -> Iterator[str]:
        flagged = [parameter.name for parameter in self.resolved(config) if parameter.flag]
        values = choices(config.parameters) | {name: (value,) for name, value in self._anywhere(config).items()}
        for key, words in _commands(config, command).items():
            takes = key == "command" or (key == "worker_command" and self.workers_are_alike)
            if flagged and takes and (problem := flags_problem(words, flagged)):
                yield f"service.{key}: {problem}"
            for problem in script_problems(words, values):
                yield f"service.{key}: {problem}"

    def _target_problems(self, config: Config, command: Sequence[str]) -> Iterator[str]:
        service, parameters = config.service, self.resolved(config)
        # In commands these names stand for where the service runs, not for a parameter that is called so.
        told = (*command, *service.worker_command, *service.update_command)
        file = service.config_file
        used = (placeholders((*told, *service.env.values())) | named(file)) - set(self._anywhere(config))
        used |= deciding(config)
        if "config" in placeholders(told) and file is None:
            used |= {p.name for p in parameters}  # a configuration file without a template holds every parameter
        used |= {p.ratio_of for p in parameters if p.ratio_of is not None}
        used |= {name for p in parameters if p.expression is not None for name in names_in(p.expression)}
        used |= {name for constraint in config.constraints for name in constraint.product}
        derived = {name for expression in config.objective.derived.values() for name in names_in(expression)}
        used |= {p.name for p in parameters if not p.searched and p.name in derived}
        targets = [(key, getattr(p, key)) for p in parameters for key in ("env", "path") if getattr(p, key)]
        for key, target in dict.fromkeys(pair for pair in targets if targets.count(pair) > 1):
            yield f"parameters: several have {key} = {target!r}; only one of them would have an effect"
        for p in parameters:
            if p.path is not None and file is None:
                yield f"parameter {p.name!r}: has a path, but there is no [service.config_file]"
            elif p.path is not None and file is not None and file.format == "text":
                yield (
                    f"parameter {p.name!r}: has a path, but service.config_file is a text; "
                    f'use {{{p.name}}} in it, or say format = "json" or "yaml"'
                )
            elif not (p.flag or p.env or p.path or p.name in used) and p.name in self._anywhere(config):
                yield (
                    f"parameter {p.name!r}: reaches nothing, as {{{p.name}}} is a placeholder of mpipso's own; "
                    "give it another name, or a flag, an env or a path"
                )
            elif not (p.flag or p.env or p.path or p.name in used):
                yield (
                    f"parameter {p.name!r}: reaches nothing; give it a flag, an env or a path, "
                    f"or use {{{p.name}}} in service.command{', in its template' if file is not None else ''} or in "
                    f"[benchmark]{suggestion(p.name, self.known)}"
                )

    def starts(self, config: Config, configuration: Configuration, layout: Layout) -> list[Start]:
        """The processes of one start, workers first, then the master."""
        service = config.service
        parameters = self.resolved(config)
        given = [word for p in parameters if p.flag for word in flags(p, configuration[p.name])]
        tuned = {p.env: text(configuration[p.name]) for p in parameters if p.env}
        master = Start(layout.master, service.command or self.default_command(config), {})
        workers = [
            Start(index, service.worker_command, {})
            for index in range(len(layout.nodes))
            if index != layout.master and service.worker_command
        ]
        starts = []
        for start in (*workers, master):
            values = self._values(config, configuration, layout, start.node)
            command = fill(start.command, values)
            env = dict(zip(service.env, fill(tuple(service.env.values()), values), strict=True)) | tuned
            own = {f"MPIPSO_{key.upper()}": text(values[key]) for key in _EXPORTED} if self.exports else {}
            takes = start is master or self.workers_are_alike
            starts.append(replace(start, command=(*command, *(given if takes else ())), env=own | env))
        return starts

    def file(self, config: Config, configuration: Configuration, layout: Layout, node: int) -> bytes | None:
        """The text of the service's own configuration file on a node; None for the plain parameters as JSON."""
        if config.service.config_file is None:
            return None
        values = self._values(config, configuration, layout, node)
        return config_text(config.service.config_file, self.resolved(config), configuration, values)

    def fill(
        self,
        words: Sequence[str],
        config: Config,
        configuration: Configuration,
        layout: Layout,
        node: int | None = None,
    ) -> list[str]:
        """The words with every placeholder replaced by its value on a node; None is the master's node."""
        return fill(words, self._values(config, configuration, layout, layout.master if node is None else node))

    def health_url(self, config: Config, configuration: Configuration, layout: Layout) -> str:
        """The URL that must answer with HTTP 200 before the service is used; empty if there is none to ask."""
        if config.service.health_url:
            values = self._values(config, configuration, layout, layout.master)
            values |= {name: in_url(text(values[name])) for name in ("host", "master_addr", "node_addr")}
            return fill([config.service.health_url], values)[0]
        return f"{layout.base_url}{self.health_path}" if self.health_path else ""

    def reason(self, log: str, first: bool = False) -> Reason:
        """The line of a log that says best why the service ended; of several the last one, or the ``first``."""
        line = telling(log, first)
        return Reason(remoteness(line), line)

    def _values(self, config: Config, configuration: Configuration, layout: Layout, node: int) -> dict[str, Value]:
        return {
            **configuration,
            "model": config.service.model,
            "host": layout.host,
            "port": layout.port,
            "node_rank": layout.node_ranks[node],
            "nnodes": len(layout.nodes),
            "master_addr": layout.host,
            "master_port": layout.master_port,
            "node_addr": layout.address(node),
            "node_addrs": ",".join(map(layout.address, layout.by_rank)),
            "work_dir": layout.work_dirs[node],
            "config": layout.configs[node],
            "devices": ",".join(map(str, layout.nodes[node].devices)),
            "device_count": len(layout.nodes[node].devices),
            "cores": ",".join(map(str, layout.nodes[node].cores)),
            "core_count": len(layout.nodes[node].cores),
        }

    def _anywhere(self, config: Config) -> dict[str, Value]:
        """The engine's own placeholders, with the values that they have wherever the service runs, as far as known."""
        work_dir = config.service.work_dir or tempfile.gettempdir()
        path = str(Path(work_dir) / config.service.config_name)
        layout = Layout((Share("localhost"),), 0, 0, 0, (work_dir,), (path,))
        return self._values(config, {}, layout, 0)


def in_url(address: str) -> str:
    """An address as a URL has it (RFC 3986): one of IPv6 in brackets."""
    return f"[{address}]" if ":" in address else address


def _commands(config: Config, command: Sequence[str]) -> dict[str, Sequence[str]]:
    """All commands of a service by their keys; ``command`` starts it."""
    return {key: getattr(config.service, key) for key in _COMMANDS} | {"command": command}


def service_commands(config: Config) -> dict[str, str]:
    """The commands that every node of a group must have, the engine's own included, by key in the configuration."""
    command = config.service.command or engine_of(config).default_command(config)
    given = ((key, words[0]) for key, words in _commands(config, command).items() if words)
    return {f"service.{key}": word for key, word in given if not placeholders([word])}


def missing_commands(config: Config) -> list[str]:
    """The commands in the configuration that this node does not have, one line each.

    :meth:`Engine.problems` says whether it has the engine's own.
    """
    commands = {f"service.{key}": words for key, words in _commands(config, config.service.command).items()}
    commands |= {"benchmark.command": config.benchmark.command, "quality.command": config.quality.command}
    problems = []
    for key, first in ((key, words[0]) for key, words in commands.items() if words):
        hint = _one_word(first)
        if hint or (not placeholders([first]) and shutil.which(first) is None):
            problems.append(f"{key}: command not found: {first}{hint}")
    return problems


def _one_word(first: str) -> str:
    """What to do about a whole command line in the place of its first word; empty if it is no such line."""
    words = first.split()
    if len(words) < 2 or shutil.which(first) is not None or shutil.which(words[0]) is None:
        return ""
    return f"; every word is an item of its own: {json.dumps(words)}"


_SCHEMES = ("http://", "https://")
_COMMANDS = ("command", "worker_command", "update_command", "stop_command", "health_command")
_EXPORTED = ("node_rank", "nnodes", "node_addrs", "master_addr", "master_port", "port", "config")


ENGINES: Registry[Engine] = Registry("mpipso.service.engines")


def engine_of(config: Config) -> Engine:
    """The engine of the configured service."""
    return ENGINES.create(config.service.engine)
