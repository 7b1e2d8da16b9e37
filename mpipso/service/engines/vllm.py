"""vLLM's server, ``vllm serve``: on one node, or on several without Ray.

Flags are those of vLLM 0.32 (``vllm serve --help=all``); those of parallelism over nodes are from its documentation,
"Parallelism and scaling", multi-node with the multiprocessing backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mpipso.config import Config
from mpipso.evaluation import Configuration
from mpipso.service.engines.base import ENGINES, Layout
from mpipso.service.engines.modelserver import DATA, PIPELINE, TENSOR, ModelServer

_VALUES = (
    "all2all_backend",
    "api_server_count",
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
_NOT_OFF = (
    "async_scheduling",
    "cohere_is_reasoning_model",
    "dcp_q_replicate",
    "disable_cascade_attn",
    "disable_hybrid_kv_cache_manager",
    "disable_nccl_for_dp_synchronization",
    "enable_batch_sharded_sampling",
    "enable_chunked_prefill",
    "enable_flash_late_interaction",
    "enable_flashinfer_autotune",
    "enable_log_deltas",
    "enable_lora",
    "enable_prefix_caching",
    "mm_device_do_normalize",
    "scheduler_reserve_full_isl",
    "swa_bounded_replay",
    "use_tqdm_on_load",
)
"""The switches that need not be off if they are not given; some only have the form ``--yes``, but none of these."""
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
    serving_only = ("api_server_count", "data_parallel_hybrid_lb")
    node_address = "VLLM_HOST_IP"
    context = "max_model_len"
    spanning: ClassVar = {**dict(zip(_SPANNING[::2], _SPANNING[1::2], strict=True)), "--headless": ""}
    sizes = ((TENSOR, "tp"), (PIPELINE, "pp"), (DATA, "dp"), ("prefill_context_parallel_size", "pcp"))
    known: ClassVar = {name: {"flag": f"--{name.replace('_', '-')}"} for name in _VALUES} | {
        name: {"flag": f"--{name.replace('_', '-')}/--no-{name.replace('_', '-')}"} for name in _SWITCHES
    }

    def joining(self, layout: Layout, told: Mapping[str, Any]) -> tuple[str, ...]:
        return _SPANNING if len(layout.nodes) > 1 else ()

    def file(self, config: Config, configuration: Configuration, layout: Layout, node: int) -> bytes | None:
        """With ``no-KEY: true`` for a ``KEY: false``, which ``vllm serve`` leaves out (as of 0.32).

        Where it is headless, without the flags that it refuses there.
        """
        written, file = super().file(config, configuration, layout, node), config.service.config_file
        if written is None or file is None or file.format != "yaml" or config.service.command:
            return written
        tree = file.model_copy(update={"content": written.decode()}).tree()
        given = list(tree.items()) if isinstance(tree, dict) else []
        for key, value in given:
            name = str(key).replace("-", "_")
            if node != layout.master and name in self.serving_only:
                del tree[key]
            elif _is_false(value) and name in _NOT_OFF:
                tree[f"no-{key}"] = True
        return file.written(tree).encode()

    def runs_elsewhere(self, told: Mapping[str, Any]) -> bool:
        by_ray = "ray" in (told.get("distributed_executor_backend"), told.get("data_parallel_backend"))
        return super().runs_elsewhere(told) or by_ray or "data_parallel_size_local" in told


def _is_false(value: object) -> bool:
    """As YAML 1.1 has it, which vLLM reads; what is in quotes is of a type of its own."""
    return value is False or (type(value) is str and value.lower() in ("no", "off"))
