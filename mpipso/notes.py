"""What is pointed out although nothing is wrong, since it may have another effect than it seems to have."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from mpipso.cluster.plan import Plan
from mpipso.config import Config, Pattern
from mpipso.conflicts import moving_port
from mpipso.evaluation import Value, load_name
from mpipso.search.schedule import Schedule
from mpipso.service.clients.command import SENT
from mpipso.service.clients.prompts import content
from mpipso.service.command import placeholders
from mpipso.service.engines.base import engine_of
from mpipso.service.environment import by_weight
from mpipso.service.template import named, new_paths
from mpipso.wording import counted, listed, plural, suggestion

_WAVES = 4
"""How many times as many requests as are under way at a time it takes for a quarter of them to be served long before
the last."""


def notes(config: Config, plan: Plan) -> Iterator[str]:
    """One line each."""
    yield from _added_paths(config)
    yield from _parameters_of_one_value(config)
    yield from _flags_left_out(config)
    yield from _shared_flags(config)
    yield from _failures_not_told(config)
    yield from _quality_that_does_not_count(config)
    yield from _limits_beyond_the_baseline(config)
    yield from _pointless_sweep(config)
    yield from _idle_connections(config)
    yield from _early_for_nothing(config)
    yield from _early_before_any_result(config)
    yield from _repeated_prompts(config)
    yield from _port_not_told(config, plan)
    yield from _same_own_ports(config, plan)
    yield from _unread_file(config)
    yield from _absent_model(config)
    yield from _idle_nodes(config, plan)
    yield from _idle_devices(config, plan)
    yield from _idle_groups(config, plan)
    if plan.idle:
        yield f"fewer ranks than hosts: none is started on {listed(plan.idle)}"
    yield from _shared_addresses(plan)


def differing_environments(config: Config, differing: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]]:
    """The hosts on which services inherit another environment than on the root's, and the names of what differs.

    What the configuration sets is the same everywhere.
    """
    given = {*config.service.env, *(p.env for p in engine_of(config).resolved(config))}
    left = {host: set(names) - given for host, names in differing.items()}
    names = by_weight(set().union(*left.values()))
    return [host for host, names in left.items() if names], list(names)


def environment_note(hosts: Sequence[str], names: Sequence[str]) -> str:
    return (
        f"services inherit another environment on {listed(hosts, most=5)} than on the root's host, which may make them "
        f"faster or slower there: {listed(names, most=5)}; set in service.env what matters to the service"
    )


def regrouping_note(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """A note if groups of a resumed run have another number of nodes, or of cores, than any had before; None if not.

    ``before`` and ``now`` are the ``plan`` of two sessions, as in the journal. Other hosts, or another number of
    groups, are no reason for a note; nor are cores that nobody knows.
    """
    groups = [_shapes(plan) for plan in (before, now)]
    if not all(groups) or set(groups[1]) <= set(groups[0]):
        return None
    was, are = (" and ".join(_formed(count, shape) for shape, count in shapes.items()) for shapes in groups)
    return (
        f"service groups differ from the earlier session's: {was}, now {are}: what was measured before may not compare"
    )


def end_note(end: float) -> str:
    """That the run ends with its job, at a time in seconds since 1970; empty if that is infinite."""
    if end == math.inf:
        return ""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(end))
    return f"the job ends at {at}: the search leaves time for the final race, and the run is over a minute before"


def _shapes(plan: Mapping[str, Any]) -> Counter[tuple[int, ...]]:
    """How many groups there are by the numbers of cores of their nodes; empty where these are not known."""
    every = [group.get("cores") for group in plan.get("groups", ())]
    return Counter(tuple(sorted(map(len, cores))) for cores in every if cores and all(cores))


def _formed(count: int, shape: tuple[int, ...]) -> str:
    cores = " and ".join(map(str, dict.fromkeys(shape)))
    each = " each" if len(shape) > 1 and len(set(shape)) == 1 else ""
    return f"{counted(count, 'group')} of {counted(len(shape), 'node')} with {cores} {plural(shape[-1], 'core')}{each}"


def _added_paths(config: Config) -> Iterator[str]:
    """Paths that the template of the configuration file lacks."""
    if (file := config.service.config_file) is not None:
        for path, held in new_paths(file, config.parameters).items():
            meant = suggestion(path, held).partition("; known")[0]
            yield f"{file.template or 'the content of service.config_file'} has no {path}, which is added{meant}"


def _parameters_of_one_value(config: Config) -> Iterator[str]:
    """Bounds between which there is nothing to search."""
    for parameter in config.parameters:
        least, most, step = parameter.min, parameter.max, parameter.step or 0.0
        if least is None or most is None or parameter.ratio_of is not None:
            continue
        # Decimals, as the search counts: 0.3 - 0.2 is less than 0.1 otherwise.
        if least == most or Decimal(repr(step)) > Decimal(repr(most)) - Decimal(repr(least)):
            why = "min is max" if least == most else f"step = {step:g} is more than max - min"
            yield f"parameter {parameter.name!r}: {why}, so that it has one value only"


def _flags_left_out(config: Config) -> Iterator[str]:
    """Bools that are true by default and whose flag can only say so: without it, many services are true as well."""
    for parameter in engine_of(config).resolved(config):
        flag = parameter.flag or ""
        if parameter.type == "bool" and parameter.default is True and flag and "/" not in flag:
            yield (
                f"parameter {parameter.name!r}: false passes no flag, so a service whose own default is true stays "
                f'true; say how it is switched off, as in flag = "{flag}/--no-{flag.lstrip("-")}"'
            )


def _shared_flags(config: Config) -> Iterator[str]:
    """Flags that several parameters have; a service may take them several times."""
    every = [flag.removesuffix("=") for p in engine_of(config).resolved(config) for flag in p.flags]
    for flag in dict.fromkeys(flag for flag in every if every.count(flag) > 1):
        yield f"parameters: several have flag = {flag!r}; a service that takes it once heeds only one of them"


def _failures_not_told(config: Config) -> Iterator[str]:
    """A result that says how many requests were completed, and nothing from which it follows how many were not.

    So does a text of which nothing is read but other figures: such programs often end with exit code 0 nevertheless.
    """
    metrics = config.benchmark.metrics
    counted = next((name for name in ("completed", SENT) if name in metrics), None)
    if not (counted or "failed" in metrics) and any(isinstance(where, Pattern) for where in metrics.values()):
        yield (
            "benchmark.metrics: maps neither completed nor failed, so requests that fail go unnoticed unless "
            "benchmark.command ends with another exit code than 0; map failed if its output tells them"
        )
    if counted and "failed" not in metrics and config.benchmark.requests is None:
        yield (
            f"benchmark.metrics: maps {counted} but not failed, so requests that fail go unnoticed unless all do; map "
            "failed, or set benchmark.requests to how many benchmark.command sends"
        )


def _quality_that_does_not_count(config: Config) -> Iterator[str]:
    """A check of answers that excludes no configuration, however bad its answers are."""
    metrics = config.quality.metrics
    if metrics and not metrics.keys() & {*config.needed}:
        name = next(iter(metrics))
        yield (
            f"quality.metrics: neither the objective nor a limit needs any, so the best may be one with bad answers; "
            f'an [[objective.slo]] of metric = "{name}" limits them'
        )


def _limits_beyond_the_baseline(config: Config) -> Iterator[str]:
    """Limits that the baseline itself breaks, whatever it measures."""
    for limit in config.objective.slo:
        if limit.relative and (limit.factor > 1 if limit.min is not None else limit.factor < 1):
            most = "least" if limit.min is not None else "most"
            yield (
                f"objective.slo: {limit.metric} has to be at {most} {limit.factor:g} times what the baseline measures, "
                "so the baseline breaks that limit (unless the metric is below 0)"
            )


def _pointless_sweep(config: Config) -> Iterator[str]:
    """A sweep that seeks the least latency, with no limit that could exclude its lowest load and not the others."""
    objective, told = config.objective, config.quality.metrics
    indifferent = all(
        limit.metric in told or (limit.max is not None and _latency(limit.metric, config)) for limit in objective.slo
    )
    for key in config.benchmark.swept:
        if objective.minimize and _latency(objective.minimize, config) and indifferent:
            lowest = load_name(key, float(config.benchmark.loads({})[0][key]))
            yield (
                f"objective.minimize: {objective.minimize} grows with the load, so that of a sweep {lowest} is the "
                "best; measure at that alone, or give a limit with min, as on output_throughput"
            )


def _latency(metric: str, config: Config) -> bool:
    return metric.endswith("_ms") and metric not in (*config.objective.derived, *config.quality.metrics)


def _idle_connections(config: Config) -> Iterator[str]:
    """A concurrency that the load never has."""
    called = "concurrency" in config.benchmark.called
    for load in config.benchmark.loads({}):
        requests, most = load.get("requests"), _most(config, "concurrency", load)
        if isinstance(requests, int) and requests < most:
            yield (
                f"benchmark.concurrency = {most:g}{' at most' if called else ''}: of requests = {requests} no more "
                "than these are ever under way at a time"
            )


def _most(config: Config, key: str, load: Mapping[str, Value]) -> float:
    """The most that a setting of a load can be, by itself or as a parameter; 0 if unknown."""
    name = config.benchmark.called.get(key)
    tuned = [bound for p in config.parameters if p.name == name for bound in (p.max, *p.choices)]
    return max((float(each) for each in (load.get(key), *tuned) if isinstance(each, (int, float))), default=0.0)


def _early_for_nothing(config: Config) -> Iterator[str]:
    """Benchmarks that are stopped early when nearly all of their requests have been served."""
    load = config.benchmark.load({})
    requests, together = load.get("requests"), load.get("concurrency")
    closed = config.benchmark.request_rate is None and "concurrency" not in config.benchmark.called
    if config.benchmark.early_stop is None or not closed or not isinstance(requests, int):
        return
    if not isinstance(together, int) or requests < _WAVES * together:
        served = f"concurrency = {together} " if isinstance(together, int) else "all "
        yield (
            f"benchmark.early_stop: spares little, as {served}of requests = {requests} are under way at a time; it "
            f"takes {_WAVES} times as many requests as that, or more"
        )


def _early_before_any_result(config: Config) -> Iterator[str]:
    """Benchmarks that are to be stopped early in a search of which no proposal can know of a best."""
    search = config.search
    schedule = Schedule(search.schedule, search.batch)
    needed = search.baseline_repeats if any(limit.relative for limit in config.objective.slo) else 1
    last = min(search.evaluations, (search.iterations or search.evaluations) * search.swarm_size) - 1
    if search.repeats > 1 and last > 0 and last % search.swarm_size == 0:
        last -= 1  # which is a repeat, and goes to its end
    if config.benchmark.early_stop is None or (sees := schedule.sees(last)) is None or sees >= needed:
        return
    key = "window" if search.schedule == "window" else "particles"
    yield (
        f"benchmark.early_stop: stops none, as all evaluations are proposed before any result can be judged; make more "
        f"of them, or lower search.{key} = {search.batch}"
    )


def _repeated_prompts(config: Config) -> Iterator[str]:
    """Fewer prompts than requests."""
    benchmark = config.benchmark
    most = sum(_most(config, "requests", load) for load in benchmark.loads({}))
    if benchmark.prompts and (held := content(benchmark.prompts, benchmark.endpoint).prompts) < most + benchmark.warmup:
        yield (
            f"benchmark.prompts: {benchmark.prompts} has {counted(held, 'prompt')} for {most:g} requests and a warm-up "
            f"of {benchmark.warmup}: some are sent again, which a prefix cache answers sooner than it would new ones"
        )


def _port_not_told(config: Config, plan: Plan) -> Iterator[str]:
    """A service that has to find out by itself on which port it is to listen."""
    service = config.service
    file = service.config_file
    words = (*service.command, *service.update_command, *service.env.values())
    unknown = bool(service.command) and "port" not in placeholders(words) | named(file)
    if unknown and not any("MPIPSO_PORT" in word for word in words) and (why := moving_port(config, plan)):
        exported = engine_of(config).exports
        how = ", unless it reads MPIPSO_PORT in its environment" if exported else ""
        also = ", nor does its configuration file" if file is not None else ""
        yield f"service.command: does not use {{port}}{also}, and {why}, which the service cannot know{how}"


def _same_own_ports(config: Config, plan: Plan) -> Iterator[str]:
    """Services of vLLM on one host that look for free ports for themselves from the same port on.

    Each takes the first port that is free, and binds it later: of those that start together, several take the same.
    """
    service = config.service
    first = service.env.get(_VLLM_PORT, os.environ.get(_VLLM_PORT, ""))
    runs = service.engine == "vllm" or any("vllm" in word for word in service.command)
    hosts = Counter(host for group in plan.groups for host in {node.host for node in group.nodes})
    shared = [host for host, groups in hosts.items() if groups > 1]
    if runs and shared and first and not placeholders([first]):
        yield (
            f"{_VLLM_PORT} = {first}: services of groups that share {listed(shared, most=3)} may take the same ports "
            "when they start together; leave it out"
        )


_VLLM_PORT = "VLLM_PORT"
"""The environment variable with the first of the ports that vLLM's processes use among themselves."""


def _idle_nodes(config: Config, plan: Plan) -> Iterator[str]:
    """Nodes on which nothing is started although the master's command counts on them."""
    service = config.service
    told = sorted(placeholders((*service.command, *service.env.values())) & {"nnodes", "node_rank"})
    needed = bool(told) or engine_of(config).on_every_node
    idle = [
        node.host for group in plan.groups for seat, node in enumerate(group.nodes) if seat != group.master_node_index
    ]
    if service.command and needed and idle and not service.worker_command:
        uses = f"uses {{{told[0]}}}, but " if told else ""
        yield (
            f"service.command: {uses}without a service.worker_command nothing is started on "
            f"{listed(list(dict.fromkeys(idle)))}, unless that command does it"
        )


def _idle_devices(config: Config, plan: Plan) -> Iterator[str]:
    """Accelerators that no configuration uses."""
    used = engine_of(config).used_devices(config)
    most = max((sum(len(node.devices) for node in group.nodes) for group in plan.groups), default=0)
    if used is not None and used < most:
        yield (
            f"the service uses {used} of the {most} devices of its group, by tensor_parallel_size and the like, which "
            "may be parameters or stand in service.config_file"
        )


def _unread_file(config: Config) -> Iterator[str]:
    """A configuration file of which the service is not told."""
    service = config.service
    commands = (*service.command, *service.worker_command, *service.update_command, *service.env.values())
    told = {"config", "work_dir"} & placeholders(commands) or any("MPIPSO_CONFIG" in word for word in commands)
    if service.config_file is not None and service.command and not told:
        unless = ", unless it reads MPIPSO_CONFIG" if engine_of(config).exports else ""
        yield f"service.config_file: no command uses {{config}}, so the service does not read it{unless}"


def _absent_model(config: Config) -> Iterator[str]:
    """A path of a model that leads nowhere, which engines may take for a name on a hub."""
    model = config.service.model
    if model.startswith(("/", "./", "../", "~")) and not config.service.command and not Path(model).exists():
        yield f"service.model: {model} is not there on this host"


def _idle_groups(config: Config, plan: Plan) -> Iterator[str]:
    """A schedule that never has as many proposals under way as there are groups."""
    search, groups = config.search, len(plan.groups)
    if search.schedule != "async" and search.batch < groups:
        key = "window" if search.schedule == "window" else "particles"
        yield f"search.{key} = {search.batch}: the search keeps no more than these of {groups} service groups busy"


def _shared_addresses(plan: Plan) -> Iterator[str]:
    """Hosts of one group at the same address, which is right only if they share a network (as containers may)."""
    for index, group in enumerate(plan.groups):
        hosts: dict[str, list[str]] = {}
        for host, address in {node.host: node.address for node in group.nodes}.items():
            hosts.setdefault(address, []).append(host)
        for address, names in hosts.items():
            if address and len(names) > 1:
                yield (
                    f"group {index}: {listed(names)} have the same address, {address}, by which they may not reach "
                    "each other; parallel.network says which network of theirs to use"
                )
