"""The node that this process runs on: its processes, ports, files and devices."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mpipso import suspension
from mpipso.errors import EvaluationFailed
from mpipso.redact import Redactor
from mpipso.service import leftovers, ports, process
from mpipso.service.devices import DeviceMemory
from mpipso.service.environment import scrubbed_environment
from mpipso.service.facts import showing
from mpipso.service.node import CHUNK, Node, Share, nobody_listens, part_of
from mpipso.service.process import Completed

HELD_BEFORE = 15.0
HELD_AFTER = 60.0
"""Seconds until the memory of the devices must be as free as it was, before a start and after a stop."""
CLOSE_GRACE = 5.0
"""Seconds between TERM and KILL for what still runs when the node is closed."""
ROOM = 1 << 16
"""Bytes that a disk must have left for the end of a process not to be its doing."""

_MARK = 64
"""Bytes of the end of a log that make room for the line that says how much is left out."""


@dataclass
class _Service:
    """What runs here: its keeper, and whether its stop is in a hurry."""

    keeper: process.Kept
    hurry: threading.Event = field(default_factory=threading.Event)


class LocalNode(Node):
    """The node that this process runs on.

    Parameters
    ----------
    work_dir:
        Where the node keeps files of the run; made when missing, removed by :meth:`close`, or by a service's keeper if
        this process dies while the service runs.
    api_key_env:
        The name of an environment variable whose value is a secret, whatever that is called.
    """

    def __init__(self, share: Share, work_dir: str = "", api_key_env: str = "") -> None:
        self.share = share
        self._services: dict[str, _Service] = {}
        self._redactor = Redactor(os.environ)
        self._redactor.learn({"api_key": os.environ.get(api_key_env)})
        self._memory = DeviceMemory(share.devices)
        self._start_folder = ""
        try:
            if work_dir:
                # Not what is above it: of a slip of the pen, a whole tree on the root disk of every host.
                Path(work_dir).mkdir(exist_ok=True)
            leftovers.sweep(Path(work_dir or tempfile.gettempdir()))
            self.work_dir = tempfile.mkdtemp(prefix=leftovers.PREFIX, dir=work_dir or None)
            # A service that drops its rights reaches the folder that it was given; all in it is for the owner alone.
            Path(self.work_dir).chmod(0o711)
            self._claim = leftovers.claim(self.work_dir)
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
                cores=self.share.cores or None,
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
        with self._being(log, "written"):
            log_path.parent.mkdir(parents=True, exist_ok=True)
            log_path.unlink(missing_ok=True)
            log_path.touch(0o600)
        if problem := self._memory.settle(HELD_BEFORE):
            raise self._failure(f"{problem} before the start")
        with self._named():
            keeper = process.Kept.start(
                command,
                env=self._environment(env),
                cwd=Path.cwd(),
                log=log_path,
                cores=self.share.cores or None,
                grace=grace,
                stop_command=stop_command,
                folder=self.work_dir,
            )
        self._services[keeper.mark] = _Service(keeper)
        return keeper.mark

    def poll_service(self, handle: str) -> int | None:
        code = self._service(handle).keeper.poll()
        if code and (problem := self.unwritable()):
            raise self._failure(f"the service ended where {problem}")
        return code

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
            with self._named():
                return ports.free_port(taken)
        held = self._strangers(wanted, owner)
        if None in held:  # a socket whose process was not seen, perhaps as it was opened in that moment
            held = self._strangers(wanted, owner)
        # Whoever is gone by now has freed it.
        if held and (holder := ports.port_holder(wanted, self._own(owner, wanted, held))):
            raise self._failure(f"port {wanted} is in use by {holder}")
        return wanted

    def _strangers(self, port: int, owner: str) -> set[int | None]:
        """Who listens on a port without being of the service ``owner``."""
        before = self._pids(owner)
        # What has ended since the first look is in that one, what was forked since is in the second.
        return (holders := set(ports.listeners(port)) - before) and holders - self._own(owner, port, holders)

    def _own(self, handle: str, port: int, holders: set[int | None]) -> set[int | None]:
        """The processes of a service; with None if that is among ``holders`` of a port and may be one of them."""
        pids = self._pids(handle)
        return pids | {None} if None in holders and ports.may_be_unseen(pids, port) else pids

    def _pids(self, handle: str) -> set[int | None]:
        return set(self._service(handle).keeper.pids()) if handle else set()

    def listener_problem(self, handle: str, port: int) -> str | None:
        listening = set(ports.listeners(port))
        own = self._own(handle, port, listening)
        holder = ports.port_holder(port, own) if listening - own else ""
        if not holder:  # or no more
            return None if listening & own else nobody_listens(port)
        return f"port {port} belongs to {holder}, not to the service that was started"

    def listening(self, handle: str, exclude: Sequence[int] = ()) -> list[str]:
        return ports.places(self._pids(handle), exclude)

    def start_folder(self) -> str:
        # What cannot be removed, as files of a container's root, is at least not in the new one.
        shutil.rmtree(self._start_folder, ignore_errors=True)
        with self._being(self.work_dir, "written"):
            self._start_folder = tempfile.mkdtemp(prefix="start-", dir=self.work_dir)
        if problem := self.unwritable():  # what a service makes of that says nothing of its configuration
            raise self._failure(problem)
        return self._start_folder

    def write_chunk(self, path: str, offset: int, data: bytes) -> None:
        part = part_of(self._path(path))
        with self._being(path, "written"):
            part.parent.mkdir(parents=True, exist_ok=True)
            with part.open("r+b" if offset else "wb") as file:
                file.seek(offset)
                file.write(data)

    def finish_file(self, path: str, sha256: str, mode: int) -> None:
        target = self._path(path)
        part = part_of(target)
        with self._being(path, "written"):
            if _sha256(part) != sha256:
                part.unlink()
                raise self._failure(f"{path} arrived damaged: the checksum differs")
            part.chmod(mode)
            part.replace(target)

    def read_chunk(self, path: str, offset: int, size: int) -> bytes:
        with self._being(path, "read"), self._path(path).open("rb") as file:
            if offset < 0:
                file.seek(max(0, file.seek(0, os.SEEK_END) + offset))
            else:
                file.seek(offset)
            return file.read(size)

    def log_size(self, path: str) -> int:
        with self._being(path, "read"):
            return self._path(path).stat().st_size

    def log_text(self, path: str, since: int, most: int) -> bytes:
        size = self.log_size(path)
        first = max(0, size + since) if since < 0 else min(since, size)
        if size - first <= most:
            return self._redactor.bytes(self._log_part(path, 0, first, size, most))
        half = most // 2 - _MARK
        head = self._log_part(path, 0, first, first + half, most)
        whole = head[: head.rfind(b"\n") + 1] or head + b"\n"
        had = first + half - max(0, len(head) - len(whole))
        return self._redactor.bytes(whole + self._log_part(path, had, size - half, size, most // 2))

    def _log_part(self, path: str, had: int, first: int, last: int, most: int) -> bytes:
        """The bytes of a log from ``first`` to ``last``, as ``log_text`` has them if it ``had`` those before that byte.

        The keeper of a service writes the same where it cuts a log.
        """
        if first == had:
            return self.read_chunk(path, first, last - first)
        first = max(first, last - most + _MARK)
        # With the byte before: it may end a line.
        text = self.read_chunk(path, first - 1, last - first + 1)
        kept = text.partition(b"\n")[2] or text[1:]
        return f"[... {last - len(kept) - had} bytes left out ...]\n".encode() + kept

    def file_digest(self, path: str) -> tuple[str, int]:
        with self._being(path, "read"):
            return _sha256(self._path(path)), self._path(path).stat().st_mode & 0o7777

    @contextlib.contextmanager
    def new_folder(self, path: str) -> Iterator[None]:
        """Make a new, empty folder of its owner alone for the block, and remove it afterwards.

        Raises
        ------
        EvaluationFailed
            The folder cannot be made, or is there already.
        """
        folder = self._path(path)
        with self._being(path, "made"):
            folder.mkdir(0o700)
        try:
            yield
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def unwritable(self) -> str:
        """Why nothing can be written in the work folder, in words; empty if it can be."""
        try:
            with tempfile.TemporaryFile(dir=self.work_dir) as probe:
                probe.write(bytes(ROOM))
        except OSError as error:
            return f"{self.work_dir} cannot be written: {error.strerror}"
        return ""

    def stopped(self) -> float:
        return suspension.stopped()

    def close(self) -> None:
        try:
            self.release()
        finally:
            shutil.rmtree(self.work_dir, ignore_errors=True)
            if self._claim is not None:
                self._claim.close()

    def release(self) -> None:
        """Stop every service that was started here, for a group that is no more; the node may serve another one."""
        for handle in list(self._services):
            self.stop_service(handle, CLOSE_GRACE)

    def assign(self, share: Share) -> None:
        """Take the share of the host that the node has in the group that it serves from now on."""
        if (share.cores, share.devices) != (self.share.cores, self.share.devices):
            self._memory = DeviceMemory(share.devices)
        self.share = share

    def _service(self, handle: str) -> _Service:
        if handle not in self._services:
            raise self._failure("the service is not running any more")
        return self._services[handle]

    def _path(self, path: str) -> Path:
        return Path(self.work_dir) / path

    def _environment(self, added: Mapping[str, str]) -> dict[str, str]:
        return scrubbed_environment(os.environ) | showing(self.share.device_variable, self.share.devices) | dict(added)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Failures from within carry the node's name."""
        try:
            yield
        except EvaluationFailed as error:
            raise EvaluationFailed(f"{self.name}: {error.cause}", kind=error.kind, detail=error.detail) from None
        except OSError as error:  # the folder of the start is gone, or there are too many open files
            raise self._failure(str(error)) from None

    @contextlib.contextmanager
    def _being(self, path: str, what: str) -> Iterator[None]:
        """Errors of the system within say that ``path`` cannot be ``written``, ``read`` or ``made``."""
        try:
            yield
        except OSError as error:
            raise self._failure(f"{path} cannot be {what}: {error.strerror}") from None

    def _failure(self, cause: str) -> EvaluationFailed:
        return EvaluationFailed(f"{self.name}: {cause}", kind="infrastructure")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            digest.update(data)
    return digest.hexdigest()
