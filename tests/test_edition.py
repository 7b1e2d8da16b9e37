"""Ranks with different code: told in one line at the start, whatever they would have misunderstood later."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from bed.job import Job
from bed.launchers import LAUNCHERS

import mpipso
from mpipso.edition import FOLDER, edition, unlike

LIMIT = 60.0


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The package of another checkout, whose version is the same."""
    return Path(shutil.copytree(FOLDER, tmp_path / "other" / "mpipso", ignore=shutil.ignore_patterns("__pycache__")))


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def refused(tmp_path: Path, package: Path, *flags: str) -> list[str]:
    """What rank 0 says before it ends with exit code 2, when rank 1 runs ``package`` instead of this checkout."""
    launcher = next((launcher for launcher in LAUNCHERS if launcher.available() is None), None)
    if launcher is None:
        pytest.skip("no MPI is installed")
    tune = f'"{sys.executable}" -m mpipso "$@"'
    rank = "${OMPI_COMM_WORLD_RANK:-$PMI_RANK}"
    script = f'if [ "{rank}" = 1 ]; then export PYTHONPATH="{package.parent}"; fi; cd "{tmp_path}" && exec {tune}'
    words = launcher.command(2, ["sh", "-c", script, "sh", "--output", str(tmp_path / "runs"), *flags])
    with Job(words, limit=LIMIT) as job:
        done = job.wait()
    assert done.returncode == 2, done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith(("mpipso: ", "Traceback"))]


def told(package: Path) -> str:
    host = Path("/proc/sys/kernel/hostname").read_text().strip()
    there = f"{edition(package)} in {package} on {host}"
    return f"mpipso: all ranks need the same mpipso: {edition()} in {FOLDER} on {host}, but {there}"


def test_a_rank_that_cannot_read_what_the_root_sends_ends_the_start(tmp_path: Path, other: Path) -> None:
    (other / "config" / "parallel.py").rename(other / "config" / "aside.py")
    for file in other.rglob("*.py"):
        file.write_text(file.read_text().replace("mpipso.config.parallel", "mpipso.config.aside"))
    assert refused(tmp_path, other) == [told(other)]


def test_a_rank_that_does_not_know_a_flag_ends_the_start(tmp_path: Path, other: Path) -> None:
    change(other / "cli.py", '"--stagnation"', '"--standstill"')
    assert refused(tmp_path, other, "--stagnation", "9") == [told(other)]


def test_an_edition_is_of_all_source_files_and_no_others(other: Path) -> None:
    same = edition.__wrapped__
    before = same(other)
    assert before == edition()
    assert before.startswith(f"{mpipso.__version__}+")
    (other / ".#cli.py").symlink_to("someone@elsewhere.1234")  # as Emacs marks a file that is being edited
    (other / "__pycache__").mkdir()
    (other / "__pycache__" / "cli.cpython-310.pyc").write_bytes(b"x")
    assert same(other) == before
    change(other / "service" / "wire.py", '"ready"', '"Ready"')
    assert same(other) != before


def test_hosts_are_told_by_what_they_run() -> None:
    a, b, c = ("0.1.0+a", "/a", []), ("0.1.0+b", "/a", []), ("0.1.0+b", "/c", ["a flag"])
    ranks = [("node0", *a), ("node1", *b), ("node1", *b), ("node2", *b), ("node3", *a), ("node4", *c)]
    assert unlike(ranks) == [
        "all ranks need the same mpipso: 0.1.0+a in /a on node0, but 0.1.0+b in /a on node1, node2; "
        "0.1.0+b in /c on node4"
    ]
    assert unlike([("node0", *a), ("node1", *a)]) == []
    many = [("node0", *a), *((f"node{number}", *b) for number in range(1, 1000))]
    (line,) = unlike(many)
    assert line.endswith("node9, node10, 989 more")
