"""The whole test suite, as ``./run.sh test`` runs it: linters, tests in four processes, tests in MPI worlds.

The tests over emulated hosts, and those that start whole runs, often wait, for leases to end and for ranks to start.
So they run beside the others, and what they print comes after them. The main job, whose server takes all cores, has the
machine to itself. Arguments are handed to one pytest for all; with any, the linters and the MPI worlds are left out.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))
MPI_RANKS = 4
MPI_LIMIT = 600.0
LAUNCHES = ("tests/launch",)
RUNS = tuple(
    f"tests/test_{name}.py"
    for name in (
        *("api_key", "chaos", "early_stop", "edition", "elsewhere"),
        *("faults_mpi", "quality", "real_prompts", "run_sh", "runrecord"),
    )
)
"""Where whole runs are started, with the launcher and without. Each of these takes about as long as all the rest."""


def main(arguments: Sequence[str]) -> int:
    from mpipso import batch

    # In a batch job the hosts would be those of the job; the tests that are about jobs make up their own.
    for name in batch.variables(os.environ):
        del os.environ[name]
    # Of the hundreds of ranks that are started none is to compile what another one has, as some containers ask for.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    python = [sys.executable, "-m"]
    if arguments:
        return _run([*python, "pytest", *arguments])
    failed = [
        name
        for name, command in {
            "ruff check": [*python, "ruff", "check", "."],
            "ruff format": [*python, "ruff", "format", "--check", "."],
        }.items()
        if _run(command)
    ]
    pytest = [*python, "pytest", "--durations=20", "-m"]
    here = [*pytest, "not mpi and not bed and not e2e"]
    with contextlib.ExitStack() as stack:
        ends = {
            name: stack.enter_context(_beside(command))
            for name, command in {
                "mypy": [*python, "mypy"],
                "pytest -m bed": [*pytest, "bed", "-p", "no:cacheprovider"],
                "pytest of launches": [*here, *LAUNCHES, "-p", "no:cacheprovider"],
                "pytest of runs": [*here, *RUNS, "-p", "no:cacheprovider"],
            }.items()
        }
        if _run([*here, *(f"--ignore={each}" for each in (*LAUNCHES, *RUNS))]):
            failed.append("pytest")
        failed += [name for name, end in ends.items() if end()]
    if _run([*pytest, "e2e"]):
        failed.append("pytest -m e2e")
    failed += _mpi_worlds()
    print(f"\n{'failed: ' + ', '.join(failed) if failed else 'everything passed'}", flush=True)
    return 1 if failed else 0


@contextlib.contextmanager
def _beside(command: Sequence[str]) -> Iterator[Callable[[], int]]:
    """Run a command in the background; what is yielded waits for it, prints what it printed, and returns its code."""
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(command, cwd=CHECKOUT, stdout=printed, stderr=subprocess.STDOUT)

        def end() -> int:
            code = process.wait()
            printed.seek(0)
            print(f"\n+ {' '.join(command)}\n{printed.read().decode(errors='replace')}", flush=True)
            return code

        try:
            yield end
        finally:
            process.kill()
            process.wait()


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


def _run(command: Sequence[str], limit: float | None = None) -> int:
    print(f"\n+ {' '.join(command)}", flush=True)
    try:
        return subprocess.run(command, cwd=CHECKOUT, check=False, timeout=limit, env=dict(os.environ)).returncode
    except subprocess.TimeoutExpired:
        print(f"took longer than {limit:g} s", flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
