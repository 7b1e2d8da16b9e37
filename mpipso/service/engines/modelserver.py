"""What servers of a model have in common that a program of the PATH starts: on one node, or on each of several."""

from __future__ import annotations

import abc
import contextlib
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from mpipso.config import Config
from mpipso.config.parameters import Parameter
from mpipso.evaluation import Configuration, Value
from mpipso.service.command import placeholders
from mpipso.service.engines.base import Engine, Layout, Start
from mpipso.service.template import config_text
from mpipso.wording import counted

TENSOR, PIPELINE, DATA = "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"


class ModelServer(Engine, abc.ABC):
    """``service.model`` is served by a program of the PATH, with the flags of ``service.config_file`` if there is one.

    A group of several nodes runs it on each of them. With a ``service.command`` of the user's, that and
    ``service.worker_command`` are all that is started, as with the engine ``command``.

    Attributes
    ----------
    title, program:
        What the server is called, and its program.
    serving:
        The words behind the program that serve the model.
    headless:
        What stands in the place of host and port on nodes that serve no client.
    serving_only:
        The names, with ``_``, of the flags that a server refuses on those nodes.
    node_address:
        The environment variable with the address by which the others find a node; otherwise a server takes that of the
        default route.
    context:
        The flag that says how many tokens a request and its answer have at most.
    spanning:
        What the processes of a group of several nodes are told, by the flag; empty where that depends.
    sizes:
        The names of the flags for each size whose product is the number of devices; the first is used in messages.
    """

    title: ClassVar[str]
    program: ClassVar[str]
    serving: ClassVar[tuple[str, ...]]
    headless: ClassVar[tuple[str, ...]]
    serving_only: ClassVar[tuple[str, ...]] = ()
    node_address: ClassVar[str]
    spanning: ClassVar[Mapping[str, str]]
    sizes: ClassVar[tuple[tuple[str, ...], ...]]
    health_path = "/health"
    context: ClassVar[str]
    started_by = "service.model or service.command"
    on_every_node = True

    @abc.abstractmethod
    def joining(self, layout: Layout, told: Mapping[str, Any]) -> tuple[str, ...]:
        """What makes one service of the processes on the nodes of a group, which are ``told`` these flags."""

    def model_name(self, config: Config) -> str:
        if config.service.command:
            return ""
        model, file = config.service.model, config.service.config_file
        with contextlib.suppress(ValueError):  # which is told elsewhere
            if file is not None:
                filled = config_text(file, (), {}, {"model": model}).decode()
                config = config.having("service", config_file=file.model_copy(update={"content": filled}))
        served = file_flags(config).get("served_model_name")
        if not served:
            return model
        first = served[0] if isinstance(served, list) else served
        # With a placeholder in it, it is another one at each start.
        return "" if isinstance(first, dict) or placeholders([str(first)]) else str(first)

    def default_command(self, config: Config) -> tuple[str, ...]:
        return (*self._serve(config), "--host", "{host}", "--port", "{port}") if config.service.model else ()

    def starts(self, config: Config, configuration: Configuration, layout: Layout) -> list[Start]:
        service = config.service
        if service.command:
            return super().starts(config, configuration, layout)
        joining = self.joining(layout, self.told(config, configuration))
        over: dict[str, Any] = {"command": (*self.default_command(config), *joining)}
        if len(layout.nodes) > 1:
            over["worker_command"] = (*self._serve(config), *joining, *self.headless)
            over["env"] = {self.node_address: "{node_addr}"} | service.env
        config = config.having("service", **over)
        told = (each for each in self.resolved(config) if each.flags or each.path)
        refused = {each.name for each in told if _flag_of(each) in self.serving_only}
        taken = tuple(each for each in config.parameters if each.name not in refused)
        *workers, _ = super().starts(config.model_copy(update={"parameters": taken}), configuration, layout)
        *_, master = super().starts(config, configuration, layout)
        return [*workers, master]

    def problems(self, config: Config) -> Iterator[str]:
        service = config.service
        if service.model and not service.command:
            if shutil.which(self.program) is None:
                yield (
                    f"service.command: {self.program} is not in PATH; start the run in its environment, or give its "
                    "command"
                )
            if service.worker_command:
                yield "service.worker_command: has no effect without service.command; leave it out"
            if service.config_file is not None and service.config_file.format != "yaml":
                named = service.config_file.template or service.config_file.name
                how = "let its name end in .yaml" if named else 'say format = "yaml"'
                yield f"service.config_file: {self.title} reads its flags from YAML; {how}"
            yield from self._context_problems(config)
        benchmark = config.benchmark
        asked = not config.service.command and file_flags(config).get("api_key")
        if asked and benchmark.client == "openai" and not benchmark.api_key_env:
            yield (
                "benchmark.api_key_env: is required, as service.config_file says api-key; it is the name of an "
                "environment variable with that key"
            )
        yield from self.kind_problems(config)
        yield from super().problems(config)

    def _context_problems(self, config: Config) -> Iterator[str]:
        """Requests that are longer than the server lets any be, where both are fixed."""
        benchmark = config.benchmark
        most = self.told(config, {each.name: None for each in config.parameters}).get(self.context)
        tokens = benchmark.input_tokens + benchmark.output_tokens
        if benchmark.client == "openai" and not benchmark.prompts and type(most) is int and 0 < most < tokens:
            yield (
                f"benchmark.input_tokens + output_tokens = {tokens}: more than {self.context} = {most} lets a request "
                "have"
            )

    def group_problem(self, config: Config, devices: Sequence[int]) -> str:
        if config.service.command or not config.service.model:
            return ""
        if problem := self._joining_problem(config, len(devices)):
            return problem
        told = self.told(config, {each.name: _first(each) for each in config.parameters})
        sizes = self.sizes_of(told)
        if not all(isinstance(size, int) for size in sizes.values()):
            return ""  # computed from other parameters, or no number, which the server tells
        if len(devices) == 1 and self.runs_elsewhere(told):
            return ""
        given = self.sizes_of(self.told(config, {each.name: each.default for each in config.parameters}))
        return self.size_problem(sizes, devices, least=None in given.values())

    def _joining_problem(self, config: Config, nodes: int) -> str:
        """What in the server's file contradicts how so many nodes are made one service; empty if nothing does."""
        for key, value in file_keys(config).items():
            flag = f"--{key.replace('_', '-')}"
            if nodes == 1 and flag != "--nnodes":
                continue  # which the server is not told otherwise
            told = self.spanning.get(flag, str(value))
            if (
                value is not None
                and value is not False
                and str(value) not in (told, told.replace("{nnodes}", str(nodes)))
            ):
                return (
                    f"service.config_file: {key}: {value}: {self.title} is started on {counted(nodes, 'node')} in "
                    "another way; leave it out, or give a service.command"
                )
        return ""

    def used_devices(self, config: Config) -> int | None:
        told = self.told(config, {each.name: None for each in config.parameters})
        sizes = self.sizes_of(told).values()
        known = bool(config.service.model) and not config.service.command and not self.runs_elsewhere(told)
        return math.prod(sizes) if known and all(isinstance(size, int) for size in sizes) else None

    def size_problem(self, sizes: Mapping[str, int], devices: Sequence[int], least: bool) -> str:
        """Why the nodes of a group, with so many ``devices`` each, cannot share the model like that; empty if they can.

        ``devices`` are 0 where they are not known. Some ``sizes`` are the ``least`` that will be tried, or all those of
        the baseline.
        """
        if len(devices) > 1 and not sizes:
            return f"{TENSOR} or {PIPELINE} is needed, as a parameter or in service.config_file"
        needed = math.prod(sizes.values())
        if all(devices) and needed > sum(devices):
            return f"{listing(sizes)}: {needed} devices are needed, and it has {sum(devices)}"
        if needed % len(devices) and not least:
            return f"{listing(sizes)}: cannot be shared evenly by {len(devices)} nodes"
        return ""

    def runs_elsewhere(self, told: Mapping[str, Any]) -> bool:
        """Whether a server that is told these flags needs other devices than those of the node that starts it."""
        return told.get("device") == "cpu"

    def told(self, config: Config, values: Mapping[str, Any]) -> dict[str, Any]:
        """What the server is told by flags, by their names with ``_``: those of its file, then those of parameters.

        Of two names for the same the latter counts.
        """
        given = {_flag_of(each): values[each.name] for each in self.resolved(config)}
        return {name: value for name, value in file_flags(config).items() if name not in given} | given

    def sizes_of(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """Those flags whose product is the number of devices, each by the first of its names."""
        first = {name: names[0] for names in self.sizes for name in names}
        return {first[name]: value for name, value in told.items() if name in first}

    def _serve(self, config: Config) -> tuple[str, ...]:
        flags = ("--config", "{config}") if config.service.config_file is not None else ()
        return (shutil.which(self.program) or self.program, *self.serving, *flags)


def file_flags(config: Config) -> dict[str, Any]:
    """What the server's own file of flags says, by the names of the flags with ``_``; empty if it is no YAML."""
    return {key.replace("-", "_"): value for key, value in file_keys(config).items()}


def file_keys(config: Config) -> dict[str, Any]:
    """The server's own file of flags, as it stands there; empty if it is no YAML."""
    file = config.service.config_file
    try:
        tree = file.tree() if file is not None and file.format == "yaml" else {}
    except ValueError:  # which is told elsewhere
        return {}
    return {str(key): value for key, value in tree.items()} if isinstance(tree, dict) else {}


def _flag_of(parameter: Parameter) -> str:
    """The name of the flag, with ``_``, that a parameter's value goes to."""
    target = parameter.flags[0] if parameter.flags else parameter.path or parameter.name
    return target.strip("-=").replace("-", "_")


def _first(parameter: Parameter) -> Value | None:
    """The value of a parameter in the baseline, or else the least that it can have; None if others decide on it."""
    if parameter.default is not None:
        return parameter.default
    if parameter.expression is not None or parameter.ratio_of is not None or parameter.type == "bool":
        return None
    numbers = [choice for choice in parameter.choices if isinstance(choice, int)]
    if parameter.type == "choice":
        return min(numbers) if len(numbers) == len(parameter.choices) else None
    return int(parameter.min) if parameter.min is not None else None


def listing(sizes: Mapping[str, int]) -> str:
    """Sizes in words: ``tensor_parallel_size = 8, pipeline_parallel_size = 2``."""
    return ", ".join(f"{name} = {size}" for name, size in sizes.items())
