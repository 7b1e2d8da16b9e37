"""The node interface: what the leader of a group can do on each node of it, its own included.

:class:`LocalNode` does it on this machine. The other transports forward the same calls to a :class:`LocalNode` on the
other machine, so that arguments and results are plain values (numbers, texts, bytes, lists, dictionaries).
"""

from __future__ import annotations

import abc
import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mpipso.errors import EvaluationFailed
from mpipso.evaluation import Configuration, plain
from mpipso.service import ports, process
from mpipso.service.devices import DeviceMemory
from mpipso.service.process import Completed

CHUNK = 1 << 20
"""Bytes of a file that travel in one message."""
TAIL_LINES = 20
"""How many of the last lines of a command's output tell why it failed."""
LINE = 160
"""How much of a telling line of a log or an output goes into the cause."""
HELD_BEFORE = 15.0
HELD_AFTER = 60.0
"""Seconds until the memory of the devices must be as free as it was, before a start and after a stop."""
CLOSE_GRACE = 5.0
"""Seconds between TERM and KILL for what still runs when the node is closed."""


class Node(abc.ABC):
    """One node of a service group.

    Every method raises :class:`~mpipso.errors.EvaluationFailed` with the node's name in it when the node cannot do
    what it is asked to, and when it does not answer. Paths are the node's own, relative ones below its ``work_dir``.
    """

    name: str
    address: str
    cores: tuple[int, ...]
    devices: tuple[int, ...]
    device_variable: str
    work_dir: str

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

        ``env`` is added to the node's own environment, from which the variables of MPI and Slurm are removed.
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
        """None while the service's first process runs, else its exit code (minus the signal)."""

    @abc.abstractmethod
    def stop_service(self, handle: str, grace: float | None = None) -> tuple[list[int], int]:
        """Stop the service and everything below it. Idempotent.

        Returns the pids that could not be killed, and how many processes had to be, because TERM did not end them.
        It is over, or raises, when the memory of the node's devices is free again. With ``grace``, in seconds, it
        hurries: at most that long between TERM and KILL, also for a call that is under way, and the devices are not
        waited for.
        """

    @abc.abstractmethod
    def free_port(self, wanted: int, taken: Sequence[int] = (), owner: str = "") -> int:
        """``wanted`` if it is free, for 0 any free port not in ``taken``; raises with the holder's name otherwise.

        With ``owner``, the handle of a service, it may as well be held by that.
        """

    @abc.abstractmethod
    def listener_problem(self, handle: str, port: int) -> str | None:
        """Why the listener on ``port`` is not the service of ``handle``; None when it is."""

    @abc.abstractmethod
    def listening(self, handle: str, exclude: Sequence[int] = ()) -> list[str]:
        """Where the service listens for clients: ports, with the address if not on all, but for those ``exclude``-d."""

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
    def file_size(self, path: str) -> int:
        """How many bytes a file has."""

    @abc.abstractmethod
    def file_digest(self, path: str) -> tuple[str, int]:
        """SHA-256 and permission bits of a file."""

    @abc.abstractmethod
    def close(self) -> None:
        """Stop every service that was started here and remove ``work_dir``."""

    def write_file(self, path: str, content: bytes, mode: int = 0o600) -> None:
        """Create or replace a file, in one step."""
        for offset in range(0, max(1, len(content)), CHUNK):
            self.write_chunk(path, offset, content[offset : offset + CHUNK])
        self.finish_file(path, hashlib.sha256(content).hexdigest(), mode)

    def upload_file(self, local: Path, path: str) -> None:
        """Copy a file of any size from the leader's machine to the node, checksummed, its mode kept."""
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
        """Copy a file of any size from the node to the leader's machine, checksummed, its mode kept."""
        wanted, mode = self.file_digest(path)
        digest = hashlib.sha256()
        part = _part_of(local)
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
                detail="\n".join(output[-TAIL_LINES:]),
            )


@dataclass
class _Service:
    """What runs here: its keeper, and whether its stop is in a hurry."""

    keeper: process.Keeper
    hurry: threading.Event = field(default_factory=threading.Event)


class LocalNode(Node):
    """The node that this process runs on.

    Parameters
    ----------
    work_dir:
        Where the node keeps files of the run; made when missing, removed by :meth:`close`, or by a service's keeper if
        this process dies while the service runs.
    """

    def __init__(
        self,
        name: str,
        *,
        address: str = "127.0.0.1",
        cores: Sequence[int] = (),
        devices: Sequence[int] = (),
        device_variable: str = "",
        work_dir: str = "",
    ) -> None:
        self.name = name
        self.address = address
        self.cores = tuple(cores)
        self.devices = tuple(devices)
        self.device_variable = device_variable
        self._services: dict[str, _Service] = {}
        self._memory = DeviceMemory(self.devices)
        try:
            if work_dir:
                Path(work_dir).mkdir(parents=True, exist_ok=True)
            self.work_dir = tempfile.mkdtemp(prefix="mpipso-", dir=work_dir or None)
        except OSError as error:
            raise self._failure(f"work_dir {error.filename or work_dir} cannot be made: {error.strerror}") from None

    def execute(
        self,
        command: Sequence[str],
        timeout: float,
        *,
        env: Mapping[str, str] | None = None,
        cancel: threading.Event | None = None,
    ) -> Completed:
        with self._named():
            return process.run(
                command,
                timeout=timeout,
                env=self._environment(env or {}),
                cwd=Path.cwd(),
                cores=self.cores or None,
                cancel=cancel,
            )

    def start_service(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        *,
        log: str,
        grace: float,
        stop_command: Sequence[str] = (),
    ) -> str:
        log_path = self._path(log)
        try:
            log_path.parent.mkdir(parents=True, exist_ok=True)
            log_path.unlink(missing_ok=True)
        except OSError as error:
            raise self._failure(f"{log} cannot be written: {error.strerror}") from None
        if problem := self._memory.settle(HELD_BEFORE):
            raise self._failure(f"{problem} before the start")
        with self._named():
            keeper = process.Keeper.start(
                command,
                env=self._environment(env),
                cwd=Path.cwd(),
                log=log_path,
                cores=self.cores or None,
                grace=grace,
                stop_command=stop_command,
                folder=self.work_dir,
            )
        self._services[keeper.mark] = _Service(keeper)
        return keeper.mark

    def poll_service(self, handle: str) -> int | None:
        return self._service(handle).keeper.poll()

    def stop_service(self, handle: str, grace: float | None = None) -> tuple[list[int], int]:
        service = self._services.get(handle)
        if service is None:
            return [], 0
        if grace is not None:
            service.hurry.set()
        gone = service.keeper.stop(grace)
        problem = self._memory.settle(HELD_AFTER, service.hurry)
        self._services.pop(handle, None)
        if problem:
            raise self._failure(f"{problem} after the stop")
        return list(gone.survivors), gone.killed

    def free_port(self, wanted: int, taken: Sequence[int] = (), owner: str = "") -> int:
        if wanted == 0:
            return ports.free_port("", exclude=taken)
        before = self._pids(owner)
        # What has ended since the first look is in that one, what was forked since is in the second.
        held = (holders := set(ports.listeners(wanted)) - before) and holders - self._pids(owner)
        # Whoever is gone by now has freed it.
        if held and (holder := ports.port_holder(wanted)):
            raise self._failure(f"port {wanted} is in use by {holder}")
        return wanted

    def _pids(self, handle: str) -> set[int | None]:
        return set(self._service(handle).keeper.pids()) if handle else set()

    def listener_problem(self, handle: str, port: int) -> str | None:
        listening = ports.listeners(port)
        if listening and set(listening) <= self._pids(handle):
            return None
        holder = ports.port_holder(port) if listening else ""
        if not holder:
            return f"nothing listens on port {port}"
        return f"port {port} belongs to {holder}, not to the service that was started"

    def listening(self, handle: str, exclude: Sequence[int] = ()) -> list[str]:
        return ports.places(self._pids(handle), exclude)

    def write_chunk(self, path: str, offset: int, data: bytes) -> None:
        part = _part_of(self._path(path))
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            with part.open("r+b" if offset else "wb") as file:
                file.seek(offset)
                file.write(data)
        except OSError as error:
            raise self._failure(f"{path} cannot be written: {error.strerror}") from None

    def finish_file(self, path: str, sha256: str, mode: int) -> None:
        target = self._path(path)
        part = _part_of(target)
        try:
            if _sha256(part) != sha256:
                part.unlink()
                raise self._failure(f"{path} arrived damaged: the checksum differs")
            part.chmod(mode)
            part.replace(target)
        except OSError as error:
            raise self._failure(f"{path} cannot be written: {error.strerror}") from None

    def read_chunk(self, path: str, offset: int, size: int) -> bytes:
        try:
            with self._path(path).open("rb") as file:
                if offset < 0:
                    file.seek(max(0, file.seek(0, os.SEEK_END) + offset))
                else:
                    file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise self._failure(f"{path} cannot be read: {error.strerror}") from None

    def file_size(self, path: str) -> int:
        try:
            return self._path(path).stat().st_size
        except OSError as error:
            raise self._failure(f"{path} cannot be read: {error.strerror}") from None

    def file_digest(self, path: str) -> tuple[str, int]:
        try:
            return _sha256(self._path(path)), self._path(path).stat().st_mode & 0o7777
        except OSError as error:
            raise self._failure(f"{path} cannot be read: {error.strerror}") from None

    @contextlib.contextmanager
    def new_folder(self, path: str) -> Iterator[None]:
        """There is a new, empty folder, and afterwards there is none.

        Raises
        ------
        EvaluationFailed
            It cannot be made, or is there already.
        """
        folder = self._path(path)
        try:
            folder.mkdir()
        except OSError as error:
            raise self._failure(f"{path} cannot be made: {error.strerror}") from None
        try:
            yield
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        try:
            self.release()
        finally:
            shutil.rmtree(self.work_dir, ignore_errors=True)

    def release(self) -> None:
        """Stop every service that was started here, for a group that is no more; the node may serve another one."""
        for handle in list(self._services):
            self.stop_service(handle, CLOSE_GRACE)

    def assign(self, cores: Sequence[int], devices: Sequence[int], device_variable: str) -> None:
        """Its share of the host, as the group says that it serves now."""
        if (tuple(cores), tuple(devices)) != (self.cores, self.devices):
            self.cores, self.devices, self.device_variable = tuple(cores), tuple(devices), device_variable
            self._memory = DeviceMemory(self.devices)

    def _service(self, handle: str) -> _Service:
        if handle not in self._services:
            raise self._failure("the service is not running any more")
        return self._services[handle]

    def _path(self, path: str) -> Path:
        return Path(self.work_dir) / path

    def _environment(self, added: Mapping[str, str]) -> dict[str, str]:
        base = process.scrubbed_environment(os.environ)
        if self.devices and self.device_variable:
            base[self.device_variable] = ",".join(map(str, self.devices))
        return base | dict(added)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Failures from within carry the node's name."""
        try:
            yield
        except EvaluationFailed as error:
            raise EvaluationFailed(f"{self.name}: {error.cause}", kind=error.kind, detail=error.detail) from None

    def _failure(self, cause: str) -> EvaluationFailed:
        return EvaluationFailed(f"{self.name}: {cause}", kind="infrastructure")


def quoted(line: str) -> str:
    """A line of a log or an output as a cause has it: what it says alone, and not at any length."""
    said = plain(line)
    return said if len(said) <= LINE else f"{said[: LINE - 3]}..."


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            digest.update(data)
    return digest.hexdigest()


def _part_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")
