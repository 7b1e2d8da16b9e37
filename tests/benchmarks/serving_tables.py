"""Tables of LLM inference services, measured and simulated, in the format that ``optimisers.py`` reads.

    python -m tests.benchmarks.serving_tables FOLDER [--names NAME ...]

Both come with NVIDIA's AIConfigurator (``pip install aiconfigurator==0.12.0``, Apache-2.0), in an environment of its
own. The measured ones are the aggregated services in its ``silicon_sample.csv``, measurements of SemiAnalysis
InferenceX: a table for each model and workload of which there is enough. The simulated ones, ``sim_...``, are its
estimates for the spaces below; they take some minutes, most of which are for ``sim_disagg_...``.

What is minimised is the negative of the output tokens per second and GPU. A configuration has failed if it breaks the
limits on the time to the first token or per output token, does not fit the memory or the number of GPUs, or is one that
the simulator refuses. For ``limits.py``, there are also the rate and the ratios to these limits of what has latencies.
"""

from __future__ import annotations

import argparse
import csv
import functools
import importlib.util
import itertools
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from tests.benchmarks.table_files import Column, category, ordered, write


class Row(NamedTuple):
    """What a service does, by its rate and the ratios of its latencies to their limits."""

    rate: float
    first: float
    token: float

    @property
    def cost(self) -> float:
        return -self.rate if self.first <= 1.0 and self.token <= 1.0 else math.inf


Rows = dict[tuple[Any, ...], Row | None]
"""By the values of the columns; None where there are no latencies, as it does not work."""
_LIMITED = ("__ttft", "__tpot")
_ENOUGH = 60
"""Feasible configurations that make a table worth it."""
_TPOT = 30.0
"""Limit of the measured ones on the milliseconds per output token."""
_TTFT = {1024: 2000.0, 8192: 5000.0}
"""Limit of the measured ones on the milliseconds to the first token, by the length of the prompt."""
_SHARED = "minimaxm25_1024_1024"
"""Left out: it is one of the tables that the search was developed with."""


def measured() -> Iterator[tuple[str, list[Column], Rows]]:
    """Name, columns and costs of each table of measured services."""
    package = importlib.util.find_spec("aiconfigurator_core")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("aiconfigurator is not installed: pip install aiconfigurator==0.12.0")
    workloads: dict[str, Rows] = {}
    with (Path(package.submodule_search_locations[0]) / "systems" / "silicon_sample.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            model = re.sub(r"[^a-z0-9]", "", row["model_path"].split("/")[-1].lower())
            found = _measurement(row)
            if found is not None:
                rows = workloads.setdefault(f"{model}_{row['isl']}_{row['osl']}", {})
                values, row_found = found
                # Versions of a server were measured one after the other: the best counts.
                rows[values] = min(row_found, rows.get(values) or row_found, key=lambda each: (each.cost, -each.rate))
    for name, rows in workloads.items():
        if sum(each is not None and math.isfinite(each.cost) for each in rows.values()) >= _ENOUGH and name != _SHARED:
            yield name, *_varying(rows)


_COLUMNS = ("system", "precision", "backend", "tp", "dp", "ep", "concurrency")


def _measurement(row: Mapping[str, str]) -> tuple[tuple[Any, ...], Row] | None:
    """The values of ``_COLUMNS`` and what was measured; None where that is too little, or of another kind."""
    if row["mode"] != "agg" or int(row["isl"]) not in _TTFT:
        return None
    concurrency = re.search(r"silicon_concurrency=(\d+)", row["silicon_data_source"])
    ttft, tpot = float(row["silicon_ttft_ms"]), float(row["silicon_tpot_ms"])
    if concurrency is None or ttft <= 0.0 or tpot <= 0.0:
        return None
    tp, dp, ep = (float(row[key] or 1) for key in ("tp_size", "attention_dp_size", "moe_ep_size"))
    requests, tokens = float(concurrency[1]), float(row["osl"])
    rate = 1000.0 * requests * tokens / (ttft + tpot * (tokens - 1.0)) / (tp * dp)
    precision = row["precision"] or row["gemm_quant_mode"] or "-"
    values = row["system"], precision, row["backend"], tp, dp, ep, requests
    return values, Row(rate, ttft / _TTFT[int(row["isl"])], tpot / _TPOT)


def _varying(rows: Rows) -> tuple[list[Column], Rows]:
    """The columns that have more than one value, and the rows by these."""
    values = [sorted({at[i] for at in rows}) for i in range(len(_COLUMNS))]
    used = [i for i, found in enumerate(values) if len(found) > 1]
    columns = [(category if isinstance(values[i][0], str) else ordered)(_COLUMNS[i], *values[i]) for i in used]
    return columns, {tuple(at[i] for i in used): row for at, row in rows.items()}


@dataclass(frozen=True)
class Service:
    """A service to simulate; the columns are called like arguments of ``cli_estimate``."""

    model: str
    system: str
    backend: str
    isl: int
    osl: int
    ttft: float
    tpot: float
    """Limits in milliseconds."""
    gpus: int
    """The most that are to be had."""
    columns: tuple[Column, ...]


_BATCH = ordered("batch_size", 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512)
_CHUNK = ordered("ctx_tokens", 512, 1024, 2048, 4096, 8192, 16384)
_TP = ordered("tp_size", 1, 2, 4, 8)
_PP = ordered("pp_size", 1, 2, 4)
_DP = ordered("attention_dp_size", 1, 2, 4, 8)
_EP = ordered("moe_ep_size", 1, 2, 4, 8)
_CACHE = category("kvcache_quant_mode", "bfloat16", "fp8")
_WEIGHTS = category("gemm_quant_mode", "bfloat16", "fp8")
_PREFILL = (
    ordered("prefill_tp_size", 1, 2, 4, 8),
    ordered("prefill_num_workers", 1, 2, 4),
    ordered("prefill_batch_size", 1, 2, 4),
)
_DECODE = (
    ordered("decode_tp_size", 1, 2, 4, 8),
    ordered("decode_num_workers", 1, 2, 4),
    ordered("decode_batch_size", 4, 8, 16, 32, 64, 128, 256),
)

SERVICES = {
    "sim_llama70b_h100_vllm": Service(
        "meta-llama/Meta-Llama-3.1-70B", "h100_sxm", "vllm", 1024, 1024, 2000, 40, 8,
        (_TP, _PP, _BATCH, _CHUNK, _CACHE, _WEIGHTS),
    ),
    "sim_qwen235b_h200_sglang": Service(
        "Qwen/Qwen3-235B-A22B", "h200_sxm", "sglang", 4096, 512, 3000, 50, 16, (_TP, _DP, _EP, _BATCH, _CHUNK, _CACHE)
    ),
    "sim_r1_b200_trtllm": Service(
        "deepseek-ai/DeepSeek-R1", "b200_sxm", "trtllm", 8192, 1024, 5000, 50, 16,
        (_TP, _DP, _EP, _BATCH, _CHUNK, category("gemm_quant_mode", "fp8_block", "nvfp4")),
    ),
    "sim_qwen32b_a100_vllm": Service(
        "Qwen/Qwen3-32B", "a100_sxm", "vllm", 2000, 500, 1500, 60, 8, (_TP, _PP, _BATCH, _CHUNK)
    ),
    "sim_qwen235b_h100_trtllm": Service(
        "Qwen/Qwen3-235B-A22B-FP8", "h100_sxm", "trtllm", 1024, 256, 1000, 30, 8,
        (_TP, _PP, _EP, _BATCH, _CHUNK, _CACHE),
    ),
    "sim_qwen30b_h200_sglang": Service(
        "Qwen/Qwen3-30B-A3B", "h200_sxm", "sglang", 1024, 1024, 800, 20, 8,
        (_TP, ordered("attention_dp_size", 1, 2, 4), _EP, _BATCH, _CHUNK, _WEIGHTS),
    ),
    "sim_disagg_llama70b": Service(
        "meta-llama/Meta-Llama-3.1-70B", "h200_sxm", "trtllm", 4096, 512, 2000, 30, 32,
        (*_PREFILL, *_DECODE, ordered("decode_pp_size", 1, 2), _CACHE),
    ),
    "sim_disagg_qwen235b": Service(
        "Qwen/Qwen3-235B-A22B", "b200_sxm", "trtllm", 8192, 1024, 3000, 30, 32,
        (*_PREFILL, *_DECODE, ordered("decode_attention_dp_size", 1, 2, 4, 8)),
    ),
}  # fmt: skip


def simulated(service: Service) -> Rows:
    """What every configuration of a service does, by the simulator."""
    from aiconfigurator.cli.api import cli_estimate
    from aiconfigurator.sdk import perf_database

    logging.disable(logging.CRITICAL)
    version = perf_database.get_latest_database_version(service.system, service.backend)
    names = [column.name for column in service.columns]
    rows: Rows = {}
    # The database is opened for every estimate, which takes longer than the estimate.
    opened = functools.cache(perf_database.get_database_view)
    with mock.patch.object(perf_database, "get_database_view", opened):
        for values in itertools.product(*(column.values for column in service.columns)):
            rows[values] = None
            sizes = _sizes(dict(zip(names, values, strict=True)))
            if sizes is None or _gpus(sizes) > service.gpus:
                continue
            try:
                found = cli_estimate(
                    service.model, service.system, backend_name=service.backend, backend_version=version,
                    isl=service.isl, osl=service.osl, **sizes,
                )  # fmt: skip
            except Exception:  # whatever the simulator refuses, by any of its many errors
                continue
            if not found.kv_cache_warning:
                ratios = float(found.ttft) / service.ttft, float(found.tpot) / service.tpot
                rows[values] = Row(float(found.tokens_per_second_per_gpu), *ratios)
    return rows


def _sizes(values: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments for the values of the columns, or None where they contradict each other.

    The experts of a mixture are spread over all GPUs of an instance, in ``moe_ep_size`` parts.
    """
    if "prefill_tp_size" in values:
        if "decode_attention_dp_size" in values:
            both = values["decode_tp_size"] * values["decode_attention_dp_size"]
            values |= {"prefill_moe_tp_size": values["prefill_tp_size"], "prefill_moe_ep_size": 1}
            values |= {"decode_moe_tp_size": 1, "decode_moe_ep_size": both}
        return {**values, "mode": "disagg"}
    if "moe_ep_size" in values:
        values["moe_tp_size"], left = divmod(
            values["tp_size"] * values.get("attention_dp_size", 1), values["moe_ep_size"]
        )
        return None if left else values
    return values


def _gpus(sizes: Mapping[str, Any]) -> int:
    def instance(stage: str) -> int:
        parts = (f"{stage}tp_size", f"{stage}pp_size", f"{stage}attention_dp_size", f"{stage}num_workers")
        return math.prod(int(sizes.get(part, 1)) for part in parts)

    if "prefill_tp_size" in sizes:
        return instance("prefill_") + instance("decode_")
    return instance("")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--names", nargs="+")
    options = parser.parse_args()
    for name, columns, rows in measured():
        if options.names is None or name in options.names:
            _write(options.folder, name, columns, rows, sparse=True)
    for name, service in SERVICES.items():
        if options.names is None or name in options.names:
            _write(options.folder, name, service.columns, simulated(service), sparse=False)


def _write(folder: Path, name: str, columns: Sequence[Column], rows: Rows, *, sparse: bool) -> None:
    costs = {values: math.inf if row is None else row.cost for values, row in rows.items()}
    more = {values: row for values, row in rows.items() if row is not None}
    write(folder, name, columns, costs, sparse=sparse, limited=_LIMITED, more=more)


if __name__ == "__main__":
    main()
