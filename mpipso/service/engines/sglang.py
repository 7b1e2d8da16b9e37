"""SGLang's server, ``sglang serve``: on one node, or on several.

Flags are those of SGLang 0.5.23 (``sglang serve --help``); how nodes find each other is from its documentation,
"Multi-node deployment", and from its ``server_args.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from mpipso.config import Config
from mpipso.service.engines.base import ENGINES, Layout, in_url
from mpipso.service.engines.modelserver import DATA, PIPELINE, TENSOR, ModelServer, file_keys
from mpipso.service.reasons import ERROR, NAMED, Reason

_VALUES = (
    "attention_backend",
    "attn_cp_size",
    "attn_dp_size",
    "batch_notify_size",
    "chunked_prefill_size",
    "context_length",
    "cpu_offload_gb",
    "cuda_graph_backend_decode",
    "cuda_graph_backend_prefill",
    "cuda_graph_max_bs_decode",
    "cuda_graph_max_bs_prefill",
    "data_parallel_size",
    "dcp_size",
    "decode_attention_backend",
    "deepep_mode",
    "dp_size",
    "ep_num_redundant_experts",
    "ep_size",
    "expert_parallel_size",
    "fp8_gemm_backend",
    "hicache_io_backend",
    "hicache_mem_layout",
    "hicache_ratio",
    "hicache_size",
    "hicache_write_policy",
    "kv_cache_dtype",
    "load_balance_method",
    "mamba_full_memory_ratio",
    "max_prefill_tokens",
    "max_queued_requests",
    "max_running_requests",
    "max_total_tokens",
    "mem_fraction_static",
    "moe_a2a_backend",
    "moe_dense_tp_size",
    "moe_runner_backend",
    "page_size",
    "pipeline_parallel_size",
    "pp_async_batch_depth",
    "pp_max_micro_batch_size",
    "pp_size",
    "prefill_attention_backend",
    "prefill_decode_interval",
    "prefill_max_requests",
    "quantization",
    "radix_eviction_policy",
    "sampling_backend",
    "schedule_conservativeness",
    "schedule_policy",
    "scheduler_recv_interval",
    "speculative_algorithm",
    "speculative_eagle_topk",
    "speculative_num_draft_tokens",
    "speculative_num_steps",
    "stream_interval",
    "swa_full_tokens_ratio",
    "tensor_parallel_size",
    "tokenizer_worker_num",
    "torch_compile_max_bs",
    "tp_size",
    "triton_attention_num_kv_splits",
)
_SHORT = {"tp": "--tp-size", "pp": "--pp-size", "dp": "--dp-size", "ep": "--ep-size"}
"""What its documentation calls them; ``--pp`` could stand for several of its flags."""
_SWITCHES = (
    "disable_chunked_prefix_cache",
    "disable_cuda_graph",
    "disable_cuda_graph_padding",
    "disable_custom_all_reduce",
    "disable_overlap_schedule",
    "disable_radix_cache",
    "disable_shared_experts_fusion",
    "enable_dp_attention",
    "enable_dp_lm_head",
    "enable_dynamic_chunking",
    "enable_eplb",
    "enable_hierarchical_cache",
    "enable_mixed_chunk",
    "enable_mscclpp",
    "enable_nccl_nvls",
    "enable_prefill_delayer",
    "enable_single_batch_overlap",
    "enable_symm_mem",
    "enable_tokenizer_batch_encode",
    "enable_torch_compile",
    "enable_torch_symm_mem",
    "enable_two_batch_overlap",
    "sleep_on_idle",
)
"""They have no opposite: what is false is left out."""
_FAILED = re.compile(r"^.*\bhit an exception: .*(?:\n(?!\[\d).*)*", re.MULTILINE)
"""The first process of it that fails, with its traceback; it goes on to where another message begins."""
_NO_PORT = re.compile(r"^.*\bERROR: +\[Errno 98\] error while attempting to bind on address .*", re.MULTILINE)
"""What uvicorn says where its port was taken while SGLang loaded, which then calls itself ready before it ends."""
_ATTENTION = ("attn_dp_size", "attention_data_parallel_size")


@ENGINES.register("sglang")
class Sglang(ModelServer):
    """On several nodes the others than the master answer on a port of their own, which tells nothing but their life."""

    title = "SGLang"
    program = "sglang"
    serving = ("serve", "--model-path", "{model}")
    # Their default is SGLang's usual port, which on a host of several groups may be that of another group's master.
    headless = ("--host", "127.0.0.1", "--port", "0")
    node_address = "SGLANG_HOST_IP"
    context = "context_length"
    spanning: ClassVar = {
        "--dist-init-addr": "{master_addr}:{master_port}",
        "--nnodes": "{nnodes}",
        "--node-rank": "{node_rank}",
    }
    sizes = ((TENSOR, "tp_size", "tp"), (PIPELINE, "pp_size", "pp"), (DATA, "dp_size", "dp"))
    known: ClassVar = (
        {name: {"flag": f"--{name.replace('_', '-')}"} for name in _VALUES}
        | {name: {"flag": flag} for name, flag in _SHORT.items()}
        | {name: {"flag": f"--{name.replace('_', '-')}/"} for name in _SWITCHES}
    )

    def joining(self, layout: Layout, told: Mapping[str, Any]) -> tuple[str, ...]:
        meeting = ("--dist-init-addr", f"{in_url(layout.host)}:{{master_port}}")
        if len(layout.nodes) > 1:
            return (*meeting, "--nnodes", "{nnodes}", "--node-rank", "{node_rank}")
        # Otherwise its ports are counted from that of the service, and would be those of its neighbour's on a host.
        apart = told.get("enable_dp_attention") or any(told.get(name, 1) != 1 for name in _ATTENTION)
        return meeting if apart else ()

    def sizes_of(self, told: Mapping[str, Any]) -> dict[str, Any]:
        sizes = super().sizes_of(told)
        if told.get("enable_dp_attention", False) is not False:  # None may become true; it is within tensor parallelism
            sizes.pop(DATA, None)
        return sizes

    def problems(self, config: Config) -> Iterator[str]:
        if config.service.model and not config.service.command:
            yield from self._key_problems(config)
        yield from super().problems(config)

    def size_problem(self, sizes: Mapping[str, int], devices: Sequence[int], least: bool) -> str:
        nodes = len(devices)
        if nodes > 1 and sizes.get(DATA, 1) > 1:
            return f"{DATA} = {sizes[DATA]} is for one node; over several there is attn_dp_size"
        if nodes > 1:
            sizes = {name: size for name, size in sizes.items() if name != DATA}
        return super().size_problem(sizes, devices, least)

    def runs_elsewhere(self, told: Mapping[str, Any]) -> bool:
        return super().runs_elsewhere(told) or told.get("use_ray") is True

    def _key_problems(self, config: Config) -> Iterator[str]:
        """What SGLang would not understand, or no parameter could change, in its file of flags; one line each."""
        keys = file_keys(config)
        paths = [parameter.path.partition(".")[0] for parameter in config.parameters if parameter.path]
        for key in dict.fromkeys(key for key in (*keys, *paths) if "_" in key):
            yield f"service.config_file: {key}: SGLang takes no flag with _; write {key.replace('_', '-')}"
        for parameter in self.resolved(config):
            flag = (parameter.flag or "").removeprefix("--")
            if parameter.type == "bool" and flag.endswith("/") and keys.get(flag[:-1]) is True:
                yield (
                    f"parameter {parameter.name!r}: cannot be false as long as service.config_file says "
                    f"{flag[:-1]}: true, which has no opposite; leave it out there"
                )

    def reason(self, log: str, first: bool = False) -> Reason:
        if held := _NO_PORT.search(log):
            return super().reason(held[0])
        reason = super().reason(log, first)
        # Of several schedulers that fail the first one says why; the others lose their connection to it.
        if reason.remoteness == NAMED and (failed := _FAILED.search(log)):
            cause = super().reason(failed[0])
            return cause if cause.remoteness <= ERROR else reason
        return reason
