"""Stands in for AISBench: its flags and the layout, headers, keys and units of what it writes, for a service of ours.

    python ais_bench.py CONFIG --mode perf --work-dir W

After AISBench 3.1: ``argument_parser.py``, ``default_perf.py`` and ``base_perf_metric_calculator.py``. The file of its
configuration is run with tables in the place of those that AISBench brings.
"""

from __future__ import annotations

import argparse
import ast
import csv
import json
import time
import urllib.request
from pathlib import Path
from typing import Any

HEADER = ["Performance Parameters", "Stage", "Average", "Min", "Max", "Median", "P75", "P90", "P99", "N"]


def configured(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model and the dataset of a configuration; its imports are those of AISBench, which are not there."""
    names = {
        "models": [{"abbr": "vllm-api-stream-chat", "batch_size": 1, "generation_kwargs": {"ignore_eos": False}}],
        "datasets": [{"abbr": "synthetic", "config": {"RequestCount": 10, "TokenIdConfig": {"RequestSize": 10}}}],
    }
    code = ast.parse(file.read_text())
    code.body = [each for each in code.body if not isinstance(each, (ast.ImportFrom, ast.With))]
    exec(compile(code, file, "exec"), names)
    if set(names) != {"models", "datasets", "__builtins__"}:
        raise ValueError("whatever else has a name is written into the folder of the benchmark")
    return names["models"][0], names["datasets"][0]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    for flag in ("--mode", "--work-dir"):
        parser.add_argument(flag, required=True)
    asked = parser.parse_args()
    model, dataset = configured(asked.config)
    urllib.request.urlopen(f"http://{model['host_ip']}:{model['host_port']}/health").close()
    stamp = f"{time.strftime('%Y%m%d_%H%M%S')}_{time.time_ns()}"  # the real one has seconds only
    folder = Path(asked.work_dir) / stamp / "performances" / model["abbr"]
    folder.mkdir(parents=True)
    n = dataset["config"]["RequestCount"]
    common = {
        "Benchmark Duration": "13013.5 ms",
        "Total Requests": n,
        "Failed Requests": 0,
        "Success Requests": n,
        "Concurrency": 62.3,
        "Max Concurrency": model["batch_size"],
        "Request Throughput": "19.6719 req/s",
        "Output Token Throughput": "2518.03 token/s",
        "Total Token Throughput": "22662.2 token/s",
    }
    (folder / f"{dataset['abbr']}.json").write_text(
        json.dumps({key: {"total": common[key]} for key in common}, indent=4)
    )
    with (folder / f"{dataset['abbr']}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for row, value in (("E2EL", 3100.5), ("TTFT", 412.25), ("TPOT", 21.5), ("ITL", 21.4)):
            writer.writerow([row, "total", *(f"{value * factor} ms" for factor in (1, 0.5, 4, 1, 1.25, 1.5, 2)), n])
        writer.writerow(["InputTokens", "total", *[1024.0] * 7, n])
    (folder / f"{dataset['abbr']}_details.jsonl").write_text('{"success": true}\n' * n)
    print("Performance Result files located in", folder)


main()
