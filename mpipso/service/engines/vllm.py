"""vLLM's server, ``vllm serve``: on one node, or on several without Ray.

Flags are those of vLLM 0.32 (``vllm serve --help=all``); those of parallelism over nodes are from its documentation,
"Parallelism and scaling", multi-node with the multiprocessing backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mpipso.service.engines.base import ENGINES, Layout
from mpipso.service.engines.modelserver import DATA, PIPELINE, TENSOR, ModelServer

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


@ENGINES.register("vllm")
class Vllm(ModelServer):
    """On several nodes it is headless on all but the master."""

    title = "vLLM"
    program = "vllm"
    serving = ("serve", "{model}")
    headless = ("--headless",)
    node_address = "VLLM_HOST_IP"
    context = "max_model_len"
    spanning: ClassVar = {**dict(zip(_SPANNING[::2], _SPANNING[1::2], strict=True)), "--headless": ""}
    sizes = ((TENSOR, "tp"), (PIPELINE, "pp"), (DATA, "dp"), ("prefill_context_parallel_size", "pcp"))
    known: ClassVar = {name: {"flag": f"--{name.replace('_', '-')}"} for name in _VALUES} | {
        name: {"flag": f"--{name.replace('_', '-')}/--no-{name.replace('_', '-')}"} for name in _SWITCHES
    }

    def joining(self, layout: Layout, told: Mapping[str, Any]) -> tuple[str, ...]:
        return _SPANNING if len(layout.nodes) > 1 else ()

    def runs_elsewhere(self, told: Mapping[str, Any]) -> bool:
        by_ray = "ray" in (told.get("distributed_executor_backend"), told.get("data_parallel_backend"))
        return super().runs_elsewhere(told) or by_ray or "data_parallel_size_local" in told
