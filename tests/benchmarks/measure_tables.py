"""Measures real programs over their configurations on this machine, in the format that ``optimisers.py`` reads.

    python -m tests.benchmarks.measure_tables FOLDER [--names xz zstd sqlite matmul]

All costs are processor time, so that the machine need not be idle, and for compressors the time to send the result as
well. ``zstd`` needs ``pip install zstandard``, ``matmul`` gcc. It takes about five minutes.
"""

from __future__ import annotations

import argparse
import itertools
import lzma
import math
import random
import sqlite3
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests.benchmarks.table_files import Column, category, ordered, write

T = TypeVar("T")

REPEATS = 2
"""Measurements of a configuration; the least counts. (Of ``matmul``, three in its own program.)"""


Cost = Callable[..., float]
"""By the values of the columns, in milliseconds; inf where the configuration fails."""


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Milliseconds of processor time, and the result."""
    begun = time.process_time()
    result = work()
    return 1000.0 * (time.process_time() - begun), result


def text(size: int) -> bytes:
    """Python sources of the standard library."""
    found = b""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        found += path.read_bytes()
        if len(found) >= size:
            break
    return found[:size]


def xz() -> tuple[list[Column], Cost]:
    """150 kB compressed and sent at 600 kB/s."""
    columns = [
        category("finder", "HC3", "HC4", "BT2", "BT3", "BT4"),
        category("mode", "FAST", "NORMAL"),
        ordered("log_dictionary", 12, 14, 16, 18),
        ordered("nice_length", 8, 16, 48, 128),
        ordered("lc", 0, 2, 4),
        ordered("lp", 0, 2, 4),
        ordered("pb", 0, 2, 4),
    ]
    data = text(150_000)

    def cost(finder: str, mode: str, dictionary: int, nice: int, lc: int, lp: int, pb: int) -> float:
        options = {"dict_size": 2**dictionary, "nice_len": nice, "lc": lc, "lp": lp, "pb": pb}
        options |= {"mf": getattr(lzma, f"MF_{finder}"), "mode": getattr(lzma, f"MODE_{mode}")}
        filters = [{"id": lzma.FILTER_LZMA2, **options}]
        try:
            took, packed = timed(lambda: lzma.compress(data, format=lzma.FORMAT_RAW, filters=filters))
        except lzma.LZMAError:
            return math.inf
        return took + len(packed) / 600.0

    return columns, cost


def zstd() -> tuple[list[Column], Cost]:
    """400 kB compressed and sent at 4 MB/s."""
    import zstandard

    columns = [
        ordered("window_log", 10, 13, 16, 19, 22),
        ordered("hash_log", 8, 12, 16, 20),
        ordered("chain_log", 6, 10, 14, 18),
        ordered("search_log", 1, 3, 5),
        ordered("min_match", 3, 5, 7),
        category("strategy", "fast", "dfast", "lazy", "btlazy2", "btultra"),
    ]
    data = text(400_000)
    number = {"fast": 1, "dfast": 2, "lazy": 4, "btlazy2": 6, "btultra": 8}

    def cost(window: int, table: int, chain: int, search: int, match: int, strategy: str) -> float:
        parameters = zstandard.ZstdCompressionParameters(
            window_log=window,
            hash_log=table,
            chain_log=chain,
            search_log=search,
            min_match=match,
            strategy=number[strategy],
            target_length=32,
        )
        compressor = zstandard.ZstdCompressor(compression_params=parameters)
        try:
            took, packed = timed(lambda: compressor.compress(data))
        except zstandard.ZstdError:
            return math.inf
        return took + len(packed) / 4000.0

    return columns, cost


def sqlite() -> tuple[list[Column], Cost]:
    """A table of 500 rows filled, indexed and read; without the time that is spent waiting for the disk."""
    columns = [
        ordered("page", 512, 1024, 4096, 16384, 65536),
        ordered("cache", 5, 50, 500),
        category("journal", "DELETE", "TRUNCATE", "MEMORY", "WAL", "OFF"),
        category("synchronous", "OFF", "FULL"),
        category("locking", "NORMAL", "EXCLUSIVE"),
        ordered("rows_per_transaction", 5, 50, 500),
        category("index", "before", "after"),
        category("rowid", "with", "without"),
    ]
    draw = random.Random(1)
    rows = [(f"k{draw.random():.12f}", "v" * draw.randint(5, 200), i) for i in range(500)]

    def cost(
        page: int, cache: int, journal: str, synchronous: str, locking: str, batch: int, index: str, rowid: str
    ) -> float:
        pragmas = {"page_size": page, "journal_mode": journal, "synchronous": synchronous, "locking_mode": locking}

        def use(path: Path) -> None:
            base = sqlite3.connect(path, isolation_level=None)
            for name, value in {**pragmas, "cache_size": cache}.items():
                base.execute(f"pragma {name}={value}")
            base.execute("create table t(k text primary key, v text, n int)" + " without rowid" * (rowid == "without"))
            if index == "before":
                base.execute("create index i on t(n)")
            for first in range(0, len(rows), batch):
                base.execute("begin")
                base.executemany("insert into t values(?, ?, ?)", rows[first : first + batch])
                base.execute("commit")
            if index == "after":
                base.execute("create index i on t(n)")
            for key, _, _ in rows[::3]:
                base.execute("select v from t where k=?", (key,)).fetchone()
            for n in range(0, len(rows), 7):
                base.execute("select k from t where n=?", (n,)).fetchone()
            base.close()

        with tempfile.TemporaryDirectory() as folder:
            return timed(lambda: use(Path(folder) / "base"))[0]

    return columns, cost


TILES = (4, 16, 40, 80, 160)
LOOP = r"""
#include <stdio.h>
#include <time.h>
#define N 160
#define OUTER(v) for (int v##0 = 0; v##0 < N; v##0 += t##v)
#define INNER(v) for (int v = v##0; v < (v##0 + t##v < N ? v##0 + t##v : N); v++)
static float A[N][N], B[N][N], C[N][N];
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return 1e3 * t.tv_sec + 1e-6 * t.tv_nsec;
}
int main(void) {
  const int tiles[] = {@TILES@};
  for (int i = 0; i < N; i++) for (int j = 0; j < N; j++) { A[i][j] = i + j; B[i][j] = i - j; }
  for (int x = 0; x < 5; x++) for (int y = 0; y < 5; y++) for (int z = 0; z < 5; z++) {
    int ti = tiles[x], tj = tiles[y], tk = tiles[z];
    double best = 1e9;
    for (int repeat = 0; repeat < 3; repeat++) {
      double begun = now();
      @LOOPS@ C[i][j] += A[i][k] * B[k][j];
      double took = now() - begun;
      if (took < best) best = took;
    }
    printf("%d %d %d %f\n", ti, tj, tk, best);
  }
  fprintf(stderr, "%f", C[3][3]);
}
"""


def matmul() -> tuple[list[Column], Cost]:
    """Two matrices of 160 x 160 multiplied in tiles; the tiles of a program are measured together."""
    columns = [
        ordered("tile_i", *TILES),
        ordered("tile_j", *TILES),
        ordered("tile_k", *TILES),
        category("order", *map("".join, itertools.permutations("ijk"))),
        ordered("optimise", 1, 2, 3),
        category("march", "base", "native"),
        category("fast_math", "no", "yes"),
        category("unroll", "no", "yes"),
    ]
    measured: dict[tuple[Any, ...], dict[tuple[int, ...], float]] = {}

    def cost(i: int, j: int, k: int, *build: Any) -> float:
        if build not in measured:
            measured[build] = _tiles(*build)
        return measured[build][i, j, k]

    return columns, cost


def _tiles(order: str, optimise: int, march: str, fast_math: str, unroll: str) -> dict[tuple[int, ...], float]:
    loops = " ".join([f"OUTER({v})" for v in order] + [f"INNER({v})" for v in order])
    source = LOOP.replace("@LOOPS@", loops).replace("@TILES@", ", ".join(map(str, TILES)))
    flags = [f"-O{optimise}"] + ["-march=native"] * (march == "native")
    flags += ["-ffast-math"] * (fast_math == "yes") + ["-funroll-loops"] * (unroll == "yes")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program"
        subprocess.run(["gcc", *flags, "-w", "-xc", "-o", program, "-"], input=source, text=True, check=True)
        lines = subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines()
    found = [line.split() for line in lines]
    return {(int(i), int(j), int(k)): float(took) for i, j, k, took in found}


PROGRAMS = {"xz": xz, "zstd": zstd, "sqlite": sqlite, "matmul": matmul}


def measure(columns: Sequence[Column], cost: Cost) -> dict[tuple[Any, ...], float]:
    """The least cost of every configuration, inf where it fails."""
    return {
        values: min(cost(*values) for _ in range(REPEATS))
        for values in itertools.product(*(column.values for column in columns))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--names", nargs="+", default=list(PROGRAMS), choices=list(PROGRAMS))
    options = parser.parse_args()
    for name in options.names:
        columns, cost = PROGRAMS[name]()
        write(options.folder, name, columns, measure(columns, cost))


if __name__ == "__main__":
    main()
