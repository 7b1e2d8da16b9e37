"""The whole test suite, as ``./run.sh test`` runs it: linters, tests in one process, tests in MPI worlds.

Tests over emulated hosts mostly wait for something to be missed, so they run beside the linters and the other tests;
what they print is shown when these are done. Arguments are handed to a pytest of all tests; with any, the linters and
the MPI worlds are left out.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))
MPI_RANKS = 4
MPI_LIMIT = 600.0


def main(arguments: Sequence[str]) -> int:
    python = [sys.executable, "-m"]
    if arguments:
        return _run([*python, "pytest", *arguments])
    with _beside([*python, "pytest", "-m", "bed and not mpi", "-p", "no:cacheprovider"]) as over_hosts:
        failed = [
            name
            for name, command in {
                "ruff check": [*python, "ruff", "check", "."],
                "ruff format": [*python, "ruff", "format", "--check", "."],
                "mypy": [*python, "mypy"],
                "pytest": [*python, "pytest", "-m", "not bed and not mpi"],
            }.items()
            if _run(command)
        ]
        over_hosts.wait()
    failed += ["pytest over emulated hosts"] if over_hosts.returncode else []
    failed += _mpi_worlds()
    print(f"\n{'failed: ' + ', '.join(failed) if failed else 'everything passed'}", flush=True)
    return 1 if failed else 0


def _mpi_worlds() -> list[str]:
    """Run the tests that need ranks under every MPI that is here; returns those under which one failed."""
    from tests.bed.launchers import LAUNCHERS

    failed = []
    ran = 0
    for launcher in LAUNCHERS:
        reason = launcher.available()
        if reason is not None:
            print(f"\nMPI tests under {launcher.name} are left out: {reason}", flush=True)
            continue
        ran += 1
        world = [
            sys.executable,
            "-m",
            "pytest",
            "tests/cluster",
            "--only-mpi",
            "-m",
            "mpi",
            "-q",
            "-p",
            "no:cacheprovider",
        ]
        if _run(launcher.command(MPI_RANKS, world), limit=MPI_LIMIT):
            failed.append(f"MPI tests under {launcher.name}")
    return failed if ran else ["MPI tests: no MPI was found"]


@contextlib.contextmanager
def _beside(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command during the block; what it prints is shown at the end. It is ended if the block is left before."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=CHECKOUT, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.terminate()
            process.wait()
            output.seek(0)
            print(f"\n+ {' '.join(command)}", flush=True)
            sys.stdout.buffer.write(output.read())
            sys.stdout.flush()


def _run(command: Sequence[str], limit: float | None = None) -> int:
    print(f"\n+ {' '.join(command)}", flush=True)
    try:
        return subprocess.run(command, cwd=CHECKOUT, check=False, timeout=limit, env=dict(os.environ)).returncode
    except subprocess.TimeoutExpired:
        print(f"took longer than {limit:g} s", flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
