"""The agent of a node without a rank, as a process with its leader at the pipes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import termios
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO

import pytest
from bed.job import wait_until

from mpipso.edition import edition
from mpipso.service.environment import Fingerprint
from mpipso.service.remote import Answer, Request
from mpipso.service.wire import Alive, Message, Ready, decode, encode

SILENCE = 600.0
CLOCK = """
import pathlib, select, sys, types
from mpipso.service import agent
clock = pathlib.Path(sys.argv[2])
def wait(read, write, fail, seconds):
    until = float(clock.read_text()) + seconds
    while not (found := select.select(read, write, fail, 0.01))[0] and float(clock.read_text()) < until:
        pass
    return found
agent.select = types.SimpleNamespace(select=wait)
agent.main(float(sys.argv[1]))
"""
"""The agent with a clock of its own, a file that the test writes the time into; all else about it is real."""


class Leader:
    """The other end of an agent's pipes; with a ``clock``, of an agent to which the time is what this file says."""

    def __init__(self, clock: Path | None = None) -> None:
        program = (
            ["-m", "mpipso.service.agent", str(SILENCE)] if clock is None else ["-c", CLOCK, str(SILENCE), str(clock)]
        )
        command = [sys.executable, *program]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0)
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.requests: IO[bytes] = self.process.stdin
        self.answers: IO[bytes] = self.process.stdout
        self.complaints: IO[bytes] = self.process.stderr

    def read(self) -> Message:
        line = b""
        while not line.endswith(b"\n"):
            piece = self.answers.read(1)
            assert piece, f"no more answers: {self.complaints.read()!r}"
            line += piece
        return decode(line)

    def ask(self, method: str, *args: object, **kwargs: object) -> Answer:
        self.requests.write(encode(Request(1, method, args, kwargs)))
        answer = self.read()
        assert isinstance(answer, Answer)
        return answer

    def unread(self) -> int:
        """How many bytes of what was said to the agent it has not read yet."""
        told = fcntl.ioctl(self.requests, termios.FIONREAD, bytes(4))
        return int.from_bytes(told, sys.byteorder)

    def join(self, folder: Path) -> Path:
        return Path(str(self.ask("join", str(folder), host="node7").value))


@contextlib.contextmanager
def leading(clock: Path | None = None) -> Iterator[Leader]:
    leader = Leader(clock)
    assert leader.read() == Ready(edition())
    yield leader
    leader.requests.close()
    leader.process.wait(10)
    leader.answers.close()
    leader.complaints.close()


@pytest.fixture
def leader() -> Iterator[Leader]:
    with leading() as leader:
        yield leader


def test_the_end_of_its_input_ends_it_and_removes_its_files(leader: Leader, tmp_path: Path) -> None:
    folder = leader.join(tmp_path)
    assert folder.is_dir()
    leader.requests.close()
    assert leader.process.wait(10) == 0
    assert not folder.exists()


def test_silence_ends_it_but_a_word_now_and_then_keeps_it(tmp_path: Path) -> None:
    clock, now = tmp_path / "clock", 0.0

    def pass_by(seconds: float) -> None:
        nonlocal now
        now += seconds
        draft = tmp_path / "draft"
        draft.write_text(str(now))
        draft.replace(clock)

    pass_by(0.0)
    with leading(clock) as leader:
        folder = leader.join(tmp_path)
        for _ in range(4):
            pass_by(0.6 * SILENCE)
            leader.requests.write(encode(Alive()))
            wait_until(lambda: not leader.unread(), what="it has read that")
        assert leader.ask("execute", ["echo", "x"], 10).value.stdout == "x\n"
        assert leader.process.poll() is None

        def ended() -> bool:
            pass_by(0.6 * SILENCE)  # more than once, since it may not have begun to wait yet
            return leader.process.poll() is not None

        wait_until(ended, what="it has ended")
        assert leader.process.returncode == 0
    assert not folder.exists()


def test_what_is_no_message_ends_it(leader: Leader, tmp_path: Path) -> None:
    folder = leader.join(tmp_path)
    leader.requests.write(b"import os\n")
    assert leader.process.wait(10) == 2
    assert leader.complaints.read() == b"not a message: b'import os'\n"
    assert not folder.exists()


def test_it_belongs_to_a_group_only_after_it_has_joined(leader: Leader, tmp_path: Path) -> None:
    failure = leader.ask("execute", ["true"], 10).failure
    assert failure is not None
    assert failure.cause == "execute before join"
    failure = leader.ask("join", "/proc/nowhere", host="node7").failure
    assert failure is not None
    assert failure.cause.startswith("node7: work_dir ")


def test_it_tells_what_the_node_is_and_lacks(leader: Leader, tmp_path: Path) -> None:
    here = Fingerprint.of({**os.environ, "OMP_NUM_THREADS": "77", "PWD": "/elsewhere"})
    told = leader.ask("facts", str(tmp_path), ["sh", "no-such-command"], asdict(here)).value
    assert told["missing"] == ["no-such-command"]
    assert told["cores"]
    assert told["differing"][0] == "OMP_NUM_THREADS"
    assert "PWD" not in told["differing"]
    leader.join(tmp_path)
    assert leader.ask("execute", ["pwd"], 10).value.stdout == f"{tmp_path}\n"


def test_a_command_has_neither_the_leader_s_words_nor_its_ear(leader: Leader, tmp_path: Path) -> None:
    leader.join(tmp_path)
    done = leader.ask("execute", [sys.executable, "-c", "import sys; print(sys.stdin.read() or 'nothing')"], 10).value
    assert done.stdout == "nothing\n"
