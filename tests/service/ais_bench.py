"""Stands in for AISBench: its flags and the layout, headers, keys and units of what it writes, for a service of ours.

    python ais_bench.py --models M --datasets D --mode perf --num-prompts N --host-ip HOST --host-port PORT --work-dir W

After AISBench 02a6f3d2: ``argument_parser.py``, ``default_perf.py`` and ``base_perf_metric_calculator.py``.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
import urllib.request
from pathlib import Path

HEADER = ["Performance Parameters", "Stage", "Average", "Min", "Max", "Median", "P75", "P90", "P99", "N"]


def main() -> None:
    parser = argparse.ArgumentParser()
    for flag in ("--models", "--datasets", "--mode", "--model-name", "--host-ip", "--work-dir"):
        parser.add_argument(flag, required=True)
    for flag in ("--num-prompts", "--host-port", "--batch-size"):
        parser.add_argument(flag, type=int, required=True)
    asked = parser.parse_args()
    urllib.request.urlopen(f"http://{asked.host_ip}:{asked.host_port}/health").close()
    stamp = f"{time.strftime('%Y%m%d_%H%M%S')}_{time.time_ns()}"  # the real one has seconds only
    folder = Path(asked.work_dir) / stamp / "performances" / asked.models
    folder.mkdir(parents=True)
    n = asked.num_prompts
    common = {
        "Benchmark Duration": "13013.5 ms",
        "Total Requests": n,
        "Failed Requests": 0,
        "Success Requests": n,
        "Concurrency": 62.3,
        "Max Concurrency": asked.batch_size,
        "Request Throughput": "19.6719 req/s",
        "Output Token Throughput": "2518.03 token/s",
        "Total Token Throughput": "22662.2 token/s",
    }
    (folder / f"{asked.datasets}.json").write_text(
        json.dumps({key: {"total": common[key]} for key in common}, indent=4)
    )
    with (folder / f"{asked.datasets}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for row, value in (("E2EL", 3100.5), ("TTFT", 412.25), ("TPOT", 21.5), ("ITL", 21.4)):
            writer.writerow([row, "total", *(f"{value * factor} ms" for factor in (1, 0.5, 4, 1, 1.25, 1.5, 2)), n])
        writer.writerow(["InputTokens", "total", *[1024.0] * 7, n])
    (folder / f"{asked.datasets}_details.jsonl").write_text('{"success": true}\n' * n)
    print("Performance Result files located in", folder)


main()
