"""The node interface: what the leader of a group can do on each node of it, its own included.

A :class:`~mpipso.service.local.LocalNode` does it on this machine. The other transports forward the same calls to one
on the other machine, so that arguments and results are plain values (numbers, texts, bytes, lists, dictionaries) or a
:class:`~mpipso.service.process.Completed`; only ``cancel`` stays here, where it is set.
"""

from __future__ import annotations

import abc
import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpipso.errors import EvaluationFailed
from mpipso.evaluation import Configuration
from mpipso.logtext import unprefixed
from mpipso.service.process import Completed
from mpipso.wording import shortened

CHUNK = 1 << 20
"""Bytes of a file that travel in one message."""
TAIL_LINES = 20
"""How many of the last lines of a command's output are kept to tell why it failed."""
LONG_LINE = 500
"""Characters that these lines may have on average."""
LINE = 160
"""Characters, at most, of a line of a log or an output that a cause quotes."""


@dataclass(frozen=True)
class Share:
    """What of a host a node may use.

    Attributes
    ----------
    host, address:
        The host's name, and the address at which other hosts reach it.
    cores, devices:
        The cores and the accelerators, by their numbers; none where they are not known.
    device_variable:
        The environment variable that shows a process some of ``devices``; empty if it is not known.
    """

    host: str
    address: str = ""
    cores: tuple[int, ...] = ()
    devices: tuple[int, ...] = ()
    device_variable: str = ""


class Node(abc.ABC):
    """One node of a service group.

    Every method raises :class:`~mpipso.errors.EvaluationFailed` with the node's name in it when the node cannot do
    what it is asked to, and when it does not answer. Paths are the node's own, relative ones below its ``work_dir``.

    Attributes
    ----------
    share:
        What of its host the group may use.
    work_dir:
        The node's folder for files of the run.
    """

    share: Share
    work_dir: str

    @property
    def name(self) -> str:
        """The host's name."""
        return self.share.host

    @abc.abstractmethod
    def execute(
        self,
        command: Sequence[str],
        timeout: float,
        *,
        env: Mapping[str, str] | None = None,
        cancel: threading.Event | None = None,
    ) -> Completed:
        """Run a command, without a shell, where mpipso was started; at ``timeout`` seconds its whole tree is killed.

        ``env`` is added to the node's own environment, from which what MPI, batch systems and torchrun set for
        their ranks is removed.
        """

    @abc.abstractmethod
    def start_service(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        *,
        log: str,
        grace: float,
        stop_command: Sequence[str] = (),
    ) -> str:
        """Start a process that stays, under a keeper that ends it with all its descendants; returns a handle.

        ``log`` is replaced. ``grace`` is the time in seconds between TERM and KILL when it is stopped.
        """

    @abc.abstractmethod
    def poll_service(self, handle: str) -> int | None:
        """None while the service's first process runs, else its exit code: negative, the signal that ended it."""

    @abc.abstractmethod
    def stop_service(self, handle: str, grace: float | None = None) -> tuple[list[int], int]:
        """Stop the service and everything below it. Idempotent.

        Returns the pids that could not be killed, and how many processes had to be, because TERM did not end them.
        The call returns when the memory of the node's devices is free again, and raises if it is not after a while.
        ``grace``, in seconds, is for a stop in a hurry: no more than that passes between TERM and KILL, in a call that
        is under way too, and the devices are not waited for.
        """

    @abc.abstractmethod
    def free_port(self, wanted: int, taken: Sequence[int] = (), owner: str = "") -> int:
        """The port ``wanted`` if it is free, or for 0 any free port that is not in ``taken``.

        If another process holds the port, the error names that. A process of the service ``owner``, a handle, may
        hold it.
        """

    @abc.abstractmethod
    def listener_problem(self, handle: str, port: int) -> str | None:
        """Why the listener on ``port`` is not the service of ``handle``; None when it is."""

    @abc.abstractmethod
    def listening(self, handle: str, exclude: Sequence[int] = ()) -> list[str]:
        """Where the service listens for clients, without the ports in ``exclude``: ``*:8000`` or ``127.0.0.1:8000``."""

    @abc.abstractmethod
    def start_folder(self) -> str:
        """Make a new, empty folder for the files of one start of the service; that of the start before is removed."""

    @abc.abstractmethod
    def write_chunk(self, path: str, offset: int, data: bytes) -> None:
        """Write a part of a file that :meth:`finish_file` will put into place."""

    @abc.abstractmethod
    def finish_file(self, path: str, sha256: str, mode: int) -> None:
        """Check what the chunks wrote and rename it to ``path`` in one step."""

    @abc.abstractmethod
    def read_chunk(self, path: str, offset: int, size: int) -> bytes:
        """A part of a file; a negative offset counts from its end; empty past the end."""

    @abc.abstractmethod
    def log_size(self, path: str) -> int:
        """Bytes of a log."""

    @abc.abstractmethod
    def log_text(self, path: str, since: int, most: int) -> bytes:
        """What a log says from byte ``since`` on, without the secrets of the node's environment.

        A negative ``since`` counts from its end. If that is more than ``most`` bytes it is their beginning and their
        end, a half each. Each part begins with a line, if it has one, after a line that tells what is missing before.
        """

    @abc.abstractmethod
    def file_digest(self, path: str) -> tuple[str, int]:
        """SHA-256 and permission bits of a file."""

    @abc.abstractmethod
    def stopped(self) -> float:
        """Seconds for which the process that serves the node was stopped so far; only what is added tells something."""

    @abc.abstractmethod
    def close(self) -> None:
        """Stop every service that was started here and remove ``work_dir``."""

    def write_file(self, path: str, content: bytes) -> None:
        """Create or replace a file, in one step; only its owner may read and write it."""
        for offset in range(0, max(1, len(content)), CHUNK):
            self.write_chunk(path, offset, content[offset : offset + CHUNK])
        self.finish_file(path, hashlib.sha256(content).hexdigest(), 0o600)

    def upload_file(self, local: Path, path: str) -> None:
        """Copy a file of any size from the leader's machine to the node, checksummed, its mode kept.

        mpipso itself needs neither this nor :meth:`download_file`: they are the interface's transport of files, for an
        engine of one's own whose nodes need more than a configuration file, or leave more than a log.
        """
        digest = hashlib.sha256()
        offset = 0
        with local.open("rb") as file:
            while (data := file.read(CHUNK)) or offset == 0:
                self.write_chunk(path, offset, data)
                digest.update(data)
                offset += len(data)
                if not data:
                    break
        self.finish_file(path, digest.hexdigest(), local.stat().st_mode & 0o7777)

    def download_file(self, path: str, local: Path) -> None:
        """Copy a file of any size from the node to the leader's machine, checksummed, its mode kept.

        For whom: see :meth:`upload_file`.
        """
        wanted, mode = self.file_digest(path)
        digest = hashlib.sha256()
        part = part_of(local)
        try:
            with part.open("wb") as file:
                while data := self.read_chunk(path, file.tell(), CHUNK):
                    file.write(data)
                    digest.update(data)
            if digest.hexdigest() != wanted:
                raise EvaluationFailed(f"{self.name}: {path} changed while it was copied", kind="infrastructure")
            part.chmod(mode)
            part.replace(local)
        finally:
            part.unlink(missing_ok=True)

    def update_config(
        self,
        params: Configuration,
        *,
        path: str = "config.json",
        content: bytes | None = None,
        command: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        timeout: float = 300.0,
        cancel: threading.Event | None = None,
    ) -> None:
        """Write the configuration to ``path`` (as JSON unless ``content`` gives the text), then run ``command``.

        Raises
        ------
        EvaluationFailed
            The command fails or takes longer than ``timeout`` seconds, by the configuration's fault or the node's: that
            shows on another group (``measurement``). The cause ends with the last line of its output.
        """
        self.write_file(path, json.dumps(dict(params), indent=2).encode() if content is None else content)
        if not command:
            return
        done = self.execute(command, timeout, env=env, cancel=cancel)
        if done.timed_out or done.exit_code:
            how = f"took longer than {timeout:g} s" if done.timed_out else f"ended with exit code {done.exit_code}"
            output = (done.stdout + done.stderr).strip().splitlines()
            said = f": {quoted(output[-1])}" if output else ""
            raise EvaluationFailed(
                f"{self.name}: update command {command[0]} {how}{said}",
                kind="measurement",
                detail=last_lines(done.stdout + done.stderr),
            )


def quoted(line: str) -> str:
    """A line of a log or an output as a cause quotes it: without a logger's prefix, and :data:`LINE` long at most."""
    return shortened(unprefixed(line), LINE)


def last_lines(text: str, most: int = TAIL_LINES) -> str:
    """The last ``most`` lines of what a process printed, or less where lines are longer than :data:`LONG_LINE`."""
    return "\n".join(text.strip().splitlines()[-most:])[-most * LONG_LINE :]


def nobody_listens(port: int) -> str:
    """The problem of a port on which there is no listener at all, as :meth:`Node.listener_problem` tells it."""
    return f"nothing listens on port {port}"


def part_of(path: Path) -> Path:
    """Where a file is put together before it takes its place."""
    return path.with_name(f".{path.name}.part")
