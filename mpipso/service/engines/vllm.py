"""vLLM's server, ``vllm serve``: on one node, or on several without Ray.

Flags are those of vLLM 0.32 (``vllm serve --help=all``); those of parallelism over nodes are from its documentation,
"Parallelism and scaling", multi-node with the multiprocessing backend.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from mpipso.config import Config
from mpipso.evaluation import Configuration
from mpipso.service.engines.base import ENGINES, Engine, Layout, Start

_VALUES = (
    "all2all_backend",
    "attention_backend",
    "block_size",
    "compilation_config",
    "data_parallel_size",
    "decode_context_parallel_size",
    "gpu_memory_utilization",
    "kv_cache_dtype",
    "kv_cache_memory_bytes",
    "long_prefill_token_threshold",
    "max_cudagraph_capture_size",
    "max_model_len",
    "max_num_active_seqs",
    "max_num_batched_tokens",
    "max_num_seqs",
    "moe_backend",
    "optimization_level",
    "performance_mode",
    "pipeline_parallel_size",
    "prefill_context_parallel_size",
    "scheduling_policy",
    "speculative_config",
    "stream_interval",
    "tensor_parallel_size",
)
_SWITCHES = (
    "async_scheduling",
    "disable_custom_all_reduce",
    "enable_chunked_prefill",
    "enable_dbo",
    "enable_eplb",
    "enable_expert_parallel",
    "enable_prefix_caching",
    "enforce_eager",
)
_SPANNING = (
    *("--nnodes", "{nnodes}", "--node-rank", "{node_rank}"),
    *("--master-addr", "{master_addr}", "--master-port", "{master_port}"),
    *("--distributed-executor-backend", "mp"),
)
"""What makes one service of the processes on several nodes; tensor and pipeline parallel sizes say how."""
_NODE_ADDRESS = "VLLM_HOST_IP"
"""The environment variable with the address by which the others find a node; otherwise vLLM takes that of the default
route."""


@ENGINES.register("vllm")
class Vllm(Engine):
    """``service.model`` is served by ``vllm serve``, with the flags of ``service.config_file`` if there is one.

    A group of several nodes runs it on each of them, headless on all but the master. With a ``service.command`` of the
    user's, that and ``service.worker_command`` are all that is started, as with the engine ``command``.
    """

    health_path = "/health"
    started_by = "service.model or service.command"
    known: ClassVar = {name: {"flag": f"--{name.replace('_', '-')}"} for name in _VALUES} | {
        name: {"flag": f"--{name.replace('_', '-')}/--no-{name.replace('_', '-')}"} for name in _SWITCHES
    }

    def model_name(self, config: Config) -> str:
        served = _flags(config).get("served_model_name") or config.service.model
        return "" if config.service.command else str(served[0] if isinstance(served, list) else served)

    def default_command(self, config: Config) -> tuple[str, ...]:
        return (*_serve(config), "--host", "{host}", "--port", "{port}") if config.service.model else ()

    def starts(self, config: Config, configuration: Configuration, layout: Layout) -> list[Start]:
        service = config.service
        if len(layout.addresses) > 1 and not service.command:
            over = {
                "command": (*self.default_command(config), *_SPANNING),
                "worker_command": (*_serve(config), *_SPANNING, "--headless"),
                "env": {_NODE_ADDRESS: "{node_addr}"} | service.env,
            }
            config = config.model_copy(update={"service": service.model_copy(update=over)})
        return super().starts(config, configuration, layout)

    def problems(self, config: Config) -> Iterator[str]:
        service = config.service
        if service.model and not service.command:
            if shutil.which("vllm") is None:
                yield "service.command: vllm is not in PATH; start the run in its environment, or give its command"
            if service.worker_command:
                yield "service.worker_command: has no effect without service.command; leave it out"
            if service.config_file is not None and service.config_file.format != "yaml":
                yield "service.config_file: vLLM reads its flags from YAML; let the template's name end in .yaml"
            yield from _unshared(config)
        yield from self.kind_problems(config)
        yield from super().problems(config)


def _flags(config: Config) -> Mapping[str, Any]:
    """What the file of flags says, by the names of the flags with ``_``; empty if it is no YAML."""
    file = config.service.config_file
    try:
        tree = file.tree() if file is not None and file.format == "yaml" else {}
    except ValueError:  # which is told elsewhere
        return {}
    return {str(key).replace("-", "_"): value for key, value in tree.items()} if isinstance(tree, dict) else {}


def _unshared(config: Config) -> Iterator[str]:
    """Whether groups have several nodes and nothing says how these share the model; one line if so."""
    parallel = config.parallel
    nodes = max([parallel.nodes_per_group or 1, *(len(group.nodes) for group in parallel.service_groups)])
    said = {*_flags(config), *(parameter.name for parameter in config.parameters)}
    if nodes > 1 and not any(name.endswith("_parallel_size") for name in said):
        yield (
            f"parallel: groups of {nodes} nodes need tensor_parallel_size or pipeline_parallel_size, as a parameter "
            "or in service.config_file"
        )


def _serve(config: Config) -> tuple[str, ...]:
    flags = ("--config", "{config}") if config.service.config_file is not None else ()
    return (shutil.which("vllm") or "vllm", "serve", "{model}", *flags)
