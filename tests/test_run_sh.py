"""``run.sh``, with an environment that is set up already: a stand-in for its interpreter calls the one of the tests."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from bed.launchers import LAUNCHERS

HERE = Path(__file__).resolve().parent.parent
PATH = os.environ["PATH"]


def script(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """What ``run.sh`` takes for the environment that it has made."""
    folder = tmp_path / "venv"
    script(folder / "bin" / "python", f'exec {shlex.quote(sys.executable)} "$@"')
    done = subprocess.run(["cksum"], stdin=(HERE / "pyproject.toml").open(), capture_output=True, text=True, check=True)
    (folder / f".mpipso-embedded-{done.stdout.strip().replace(' ', '-')}").touch()
    return folder


def run(venv: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    argv = ["bash", str(HERE / "run.sh"), *words]
    # Away from what launchers of other tests, which were killed, have left.
    with tempfile.TemporaryDirectory(prefix="job-") as scratch:
        env = {**os.environ, "MPIPSO_VENV": str(venv), "TMPDIR": scratch, **environment}
        return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_another_mpi_of_the_system_is_tried(venv: Path, tmp_path: Path) -> None:
    real = next((launcher for launcher in LAUNCHERS if launcher.available() is None), None)
    if real is None:
        pytest.skip("no MPI is installed")
    settings = [f"export {name}={shlex.quote(value)}" for name, value in real.environment().items()]
    works = (*settings, f'exec {shlex.quote(str(real.launcher))} "$@"')
    count = f'echo "$@" >>{shlex.quote(str(tmp_path / "calls"))}'
    first = script(tmp_path / "one" / "mpirun", count, *works)
    own = script(venv / "bin" / "mpirun", *works)
    script(tmp_path / "two" / "mpirun", "exit 1")
    found = run(venv, "install", PATH=f"{first.parent}:{PATH}")
    assert (found.returncode, found.stdout) == (0, f"{first}\n"), found.stderr
    calls = (tmp_path / "calls").read_text()
    found = run(venv, "install", PATH=f"{first.parent}:{PATH}")
    assert found.stdout == f"{first}\n"
    assert (tmp_path / "calls").read_text() == calls, "what was found is remembered"
    found = run(venv, "install", PATH=f"{tmp_path / 'two'}:{PATH}")
    assert found.stdout == f"{own}\n", found.stderr
    assert f"mpi4py does not work with {tmp_path / 'two' / 'mpirun'}" in found.stderr
    found = run(venv, "install", PATH=f"{first.parent}:{PATH}")
    assert found.stdout == f"{first}\n"
    nowhere = tmp_path / "none"
    nowhere.mkdir()
    for word in ("bash", "dirname", "cksum", "tr", "cat", "id", "sed", "env"):
        (nowhere / word).symlink_to(shutil.which(word) or word)
    found = run(venv, "install", PATH=str(nowhere))
    assert found.stdout == f"{first}\n", f"a job may have no mpirun in its PATH: {found.stderr}"


@pytest.mark.parametrize("variable", ["PYTHONPATH", "PYTHONHOME"])
def test_packages_of_a_module_do_not_get_in(venv: Path, tmp_path: Path, variable: str) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('another numpy')\n")
    done = run(venv, "--version", **{variable: str(tmp_path)})
    assert (done.returncode, done.stdout[:7]) == (0, "mpipso "), done.stderr
    assert "without PYTHONPATH and PYTHONHOME" in done.stderr


def test_without_a_package_index_it_is_told_how_to_go_on(tmp_path: Path) -> None:
    nothing = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    done = run(tmp_path / "new", "install", **nothing)
    assert done.returncode == 1
    assert "PIP_NO_INDEX=1 PIP_FIND_LINKS=DIR ./run.sh" in done.stderr.splitlines()[-1]
