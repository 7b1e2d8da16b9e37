from __future__ import annotations

import fcntl
import io
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TextIO

import pytest

from mpipso.errors import UserError
from mpipso.record.screen import Screen
from mpipso.terminal import pick_mode

SHOW = (
    "import sys; from mpipso.terminal import pick_mode; "
    "print('screen', *pick_mode('auto', sys.stdout)[:3], file=sys.stderr)"
)


@pytest.fixture
def terminal() -> Iterator[TextIO]:
    """A real pseudo-terminal of 91 columns and 33 lines."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 91, 0, 0))
    with os.fdopen(slave, "w") as stream:
        yield stream
    os.close(master)


def test_a_terminal_is_drawn_on_and_a_pipe_gets_lines(terminal: TextIO) -> None:
    assert pick_mode("auto", terminal, {}) == Screen("live", 91, 33, f"/proc/self/fd/{terminal.fileno()}")
    assert pick_mode("auto", io.StringIO(), {}).mode == "plain"


def test_what_is_asked_for_is_done(terminal: TextIO) -> None:
    assert pick_mode("plain", terminal, {}).mode == "plain"
    assert pick_mode("live", io.StringIO(), {}) == Screen("live", 80, 24)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who alone can mount: run the tests as root")
def test_a_terminal_that_has_no_name_here_is_drawn_on(terminal: TextIO) -> None:
    other = f'mount -t devpts -o newinstance devpts /dev/pts && exec "{sys.executable}" -c "{SHOW}"'
    environment = {"PATH": os.environ["PATH"], "TERM": "xterm"}
    command = ["unshare", "--mount", "sh", "-c", other]
    run = subprocess.run(command, stdout=terminal, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    assert run.stderr == "screen live 91 33\n"


@pytest.mark.parametrize("requested", ["auto", "live"])
def test_a_dumb_terminal_gets_lines(terminal: TextIO, requested: Literal["auto", "live"]) -> None:
    assert pick_mode(requested, terminal, {"TERM": "dumb"}).mode == "plain"


def test_the_variable_wins(terminal: TextIO) -> None:
    assert pick_mode("auto", io.StringIO(), {"MPIPSO_TERMINAL": "132", "PMI_RANK": "0"}) == Screen("live", 132, 24)
    assert pick_mode("auto", io.StringIO(), {"MPIPSO_TERMINAL": "10000x50"}) == Screen("live", 10000, 50)
    assert pick_mode("auto", terminal, {"MPIPSO_TERMINAL": "0"}).mode == "plain"
    with pytest.raises(UserError, match="MPIPSO_TERMINAL = 'wide': should be"):
        pick_mode("auto", terminal, {"MPIPSO_TERMINAL": "wide"})


@pytest.mark.parametrize("variable", ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"])
def test_the_own_terminal_of_a_rank_says_nothing(terminal: TextIO, variable: str) -> None:
    assert pick_mode("auto", terminal, {variable: "0"}).mode == "plain"


def _launched(launcher: Path, stdout: int | TextIO) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "MPIPSO_TERMINAL"}
    environment |= {"PMI_RANK": "0", "TERM": "xterm"}
    run = subprocess.run(
        [launcher, "-c", f'"{sys.executable}" -c "{SHOW}" | cat; true'],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        check=True,
    )
    return run.stderr


def test_under_a_launcher_its_own_output_counts(terminal: TextIO, tmp_path: Path) -> None:
    # A shell by the launcher's name stands in for it: a real process whose child writes into a pipe.
    launcher = tmp_path / "mpirun"
    shutil.copy("/bin/sh", launcher)
    assert _launched(launcher, terminal) == "screen live 91 33\n"
    assert _launched(launcher, subprocess.PIPE) == "screen plain 80 24\n"
