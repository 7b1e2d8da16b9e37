"""``run.sh``, with an environment that is set up already: a stand-in for its interpreter calls the one of the tests."""

from __future__ import annotations

import fcntl
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
    stamp(folder).touch()
    return folder


def stamp(venv: Path) -> Path:
    """The file by which ``run.sh`` knows that everything is installed."""
    with (HERE / "pyproject.toml").open() as file:
        done = subprocess.run(["cksum"], stdin=file, capture_output=True, text=True, check=True)
    return venv / f".mpipso-embedded-{done.stdout.strip().replace(' ', '-')}"


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
    for word in ("bash", "dirname", "readlink", "cksum", "tr", "cat", "id", "sed", "env"):
        (nowhere / word).symlink_to(shutil.which(word) or word)
    found = run(venv, "install", PATH=str(nowhere))
    assert found.stdout == f"{first}\n", f"a job may have no mpirun in its PATH: {found.stderr}"


@pytest.mark.parametrize("variable", ["PYTHONPATH", "PYTHONHOME"])
def test_packages_of_a_module_do_not_get_in(venv: Path, tmp_path: Path, variable: str) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('another numpy')\n")
    done = run(venv, "--version", **{variable: str(tmp_path)})
    assert (done.returncode, done.stdout[:7]) == (0, "mpipso "), done.stderr
    assert "without PYTHONPATH and PYTHONHOME" in done.stderr


def test_without_a_package_index_it_is_told_how_to_go_on(venv: Path, tmp_path: Path) -> None:
    stamp(venv).unlink()
    nothing = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    done = run(venv, "install", **nothing)
    assert done.returncode == 1
    assert "PIP_NO_INDEX=1 PIP_FIND_LINKS=DIR ./run.sh" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("python", ["", "no-such-python"])
def test_the_interpreter_that_was_chosen_is_taken_or_refused(python: str, tmp_path: Path) -> None:
    old = python or str(script(tmp_path / "python3.9", "exit 1"))
    done = run(tmp_path / "new", "install", PYTHON=old)
    assert done.returncode == 2 and not list((tmp_path / "new").glob("bin"))
    assert done.stderr.startswith("run.sh: needs Python 3.10 or later with its venv module")
    assert done.stderr.endswith(f"; PYTHON={old} is not; set PYTHON to one\n")


def test_the_environment_may_be_named_from_where_it_is_called(venv: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in (".venv-openmpi", ".venv-mpich"):
        (checkout / name).mkdir(parents=True)
    for name in ("run.sh", "pyproject.toml"):
        shutil.copy(HERE / name, checkout)
    stamp(venv).with_name(stamp(venv).name.replace("embedded", "embedded,ssh,test")).touch()
    (venv / ".mpirun").write_text("/bin/true\n")
    (venv / ".mpirun-tested").write_text(f"{shutil.which('mpirun') or ''}\n")
    script(venv / "bin" / "python", 'echo "$PWD: $*"')
    argv, env = ["bash", str(checkout / "run.sh"), "test", "-x"], {**os.environ, "MPIPSO_VENV": venv.name}
    done = subprocess.run(argv, env=env, cwd=venv.parent, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == f"{checkout}: tests/run.py -x\n", done.stderr


def test_an_environment_that_an_interrupted_call_left_half_made_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "venv"
    python = script(folder / "bin" / "python", 'echo "$0: No module named pip" >&2', "exit 1")
    made = script(tmp_path / "made", f'exec {shlex.quote(sys.executable)} "$@"')
    maker = script(tmp_path / "python", f'[ "$2" != venv ] || cp {shlex.quote(str(made))} {shlex.quote(str(python))}')
    nothing = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    done = run(folder, "install", PYTHON=str(maker), **nothing)
    assert f"making {folder}" in done.stderr
    assert "No module named pip" not in done.stderr


def test_the_second_of_two_calls_waits_until_the_first_has_installed(venv: Path) -> None:
    stamp(venv).unlink()
    with (venv / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        argv, env = ["bash", str(HERE / "run.sh"), "--version"], {**os.environ, "MPIPSO_VENV": str(venv)}
        with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as second:
            assert second.stderr is not None
            assert any("waiting for another run.sh" in line for line in iter(second.stderr.readline, ""))
            stamp(venv).touch()
            fcntl.flock(file, fcntl.LOCK_UN)
            printed, told = second.communicate(timeout=120)
    assert (second.returncode, printed[:7]) == (0, "mpipso "), told
    assert "installing" not in told


@pytest.mark.parametrize("code", [65, 71])
def test_where_nothing_can_be_locked_it_goes_on(venv: Path, tmp_path: Path, code: int) -> None:
    stamp(venv).unlink()
    told = 'echo "flock: 9: Bad file descriptor" >&2'
    flock = script(tmp_path / "bin" / "flock", f"touch {shlex.quote(str(stamp(venv)))}", told, f"exit {code}")
    done = run(venv, "--version", PATH=f"{flock.parent}:{PATH}", PYTHONPATH="")
    assert (done.returncode, done.stdout[:7], done.stderr) == (0, "mpipso ", "")


def test_so_it_does_where_no_lock_can_be_made(venv: Path) -> None:
    stamp(venv).unlink()
    (venv / ".lock").mkdir()
    skip = 'case "$*" in "-m pip "*) exit 0 ;; esac'
    script(venv / "bin" / "python", skip, f'exec {shlex.quote(sys.executable)} "$@"')
    done = run(venv, "--version", PYTHONPATH="")
    told = "run.sh: installing mpipso[embedded]\n"
    assert (done.returncode, done.stdout[:7], done.stderr) == (0, "mpipso ", told)
    assert stamp(venv).exists()


def test_it_may_be_called_by_a_link(venv: Path, tmp_path: Path) -> None:
    (tmp_path / "mpipso-run").symlink_to(HERE / "run.sh")
    argv, env = [str(tmp_path / "mpipso-run"), "--version"], {**os.environ, "MPIPSO_VENV": str(venv)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout[:7]) == (0, "mpipso "), done.stderr
