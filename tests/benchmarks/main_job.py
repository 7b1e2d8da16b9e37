"""The main job over several seeds: how much better is what it finds than llama.cpp's own defaults?

    .venv/bin/python tests/benchmarks/main_job.py [--seeds 5] [mpipso flags]

Baseline and best are both measured again at the end of each run; those figures are compared, not the lucky ones of the
search. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mpipso.evaluation import Metrics
from mpipso.record.measured import Measured
from mpipso.record.outcome import Outcome, read_outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    options, flags = parser.parse_known_args()
    table = Table("seed", "evaluations", "seconds", "tok/s", "best", "ratio", "TTFT p99 ms", "best", "ratio")
    rates, waits = [], []
    for seed in range(options.seeds):
        outcome = run(seed, flags)
        before, after = measured_again(outcome.baseline), measured_again(outcome.best)
        rate = after["output_throughput"] / before["output_throughput"]
        wait = after["ttft_p99_ms"] / before["ttft_p99_ms"]
        rates.append(rate)
        waits.append(wait)
        row = [str(seed), str(len(outcome.searched)), f"{outcome.usage.wall:.0f}"]
        row += [f"{before['output_throughput']:.1f}", f"{after['output_throughput']:.1f}", f"{rate:.2f}"]
        row += [f"{before['ttft_p99_ms']:.0f}", f"{after['ttft_p99_ms']:.0f}", f"{wait:.2f}"]
        table.add_row(*row)
        print(f"seed {seed}: throughput x {rate:.2f}, p99 TTFT x {wait:.2f}", flush=True)
    Console().print(table)
    print(f"median: throughput x {statistics.median(rates):.2f}, p99 TTFT x {statistics.median(waits):.2f}")


def run(seed: int, flags: list[str]) -> Outcome:
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "mpipso", "launch", "--seed", str(seed), "--output", output, *flags]
        if mpirun := os.environ.get("MPIPSO_MPIRUN"):
            command += ["--mpirun", mpirun]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return read_outcome(Path(output) / "latest")


def measured_again(configuration: Measured | None) -> Metrics:
    """The mean of its confirmations, or of its measurements in the search where there were none."""
    if configuration is None:
        raise LookupError("the run measured no baseline, or nothing within the limits")
    return configuration.metrics


if __name__ == "__main__":
    main()
