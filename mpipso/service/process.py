"""Processes on this node: run a command to its end, keep a service, sweep what is left.

Everything that is started here runs under a keeper (``keeper.py``), a process of its own that ends with nothing left
behind even when this one is killed. Here is the rank's side of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mpipso.errors import Cancelled, EvaluationFailed
from mpipso.service import keeper as proc
from mpipso.service.environment import scrubbed_environment

LOG_LIMIT = 64_000_000
"""Bytes of a service's log; beyond them its middle is cut out."""
OUTPUT_LIMIT = 1_000_000
"""Bytes that are kept of each stream of a command: the last ones."""
START_LIMIT = 30.0
"""Seconds until the keeper has started the command: 0.05 on an idle machine."""
RUN_GRACE = 1.0
"""Seconds between TERM and KILL for a command whose time is over."""


@dataclass(frozen=True)
class Completed:
    """How a command ended, with the last :data:`OUTPUT_LIMIT` bytes of each of its streams as texts."""

    exit_code: int
    """Negative: the signal that ended it."""
    stdout: str
    stderr: str
    timed_out: bool
    """Whether it was ended because its time was over."""
    cut: bool = False
    """Whether the beginning of ``stdout`` is missing, as there was more than is kept."""


@dataclass(frozen=True)
class Gone:
    """What it took to stop a service."""

    killed: int = 0
    """How many processes had to be killed."""
    survivors: tuple[int, ...] = ()
    """The pids of processes that cannot be killed."""
    shm: tuple[str, ...] = ()
    """The names of shared memory that the service had left behind, and that was removed."""


class Kept:
    """A running service and all of its processes. All methods may be called from any thread.

    Attributes
    ----------
    pid:
        The service's leader: the process that was started, itself.
    mark:
        The token in the environment variable ``MPIPSO_MARK`` of every process of this start.
    """

    def __init__(self, order: Mapping[str, Any], pass_fds: Sequence[int] = ()) -> None:
        self.mark = str(order["mark"])
        self.pid = 0
        self._grace = float(order["grace"])
        self._command = str(order["argv"][0])
        self._failed = ""
        self._code: int | None = None
        self._gone: Gone | None = None
        self._known: dict[str, Any] = {"processes": [], "shm": []}
        self._complaint: deque[str] = deque(maxlen=20)
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(proc.__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=pass_fds,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._listen, name=f"keeper of {self._command}", daemon=True)
        self._reader.start()
        self._say(order)
        with self._changed:
            self._changed.wait_for(lambda: self.pid or self._failed or self._gone, START_LIMIT)
        if not self.pid:
            self._process.kill()
            self._reader.join(START_LIMIT)
            why = self._failed or f"cannot run {self._command}: its keeper did not start"
            raise EvaluationFailed(why, kind="infrastructure", detail="".join(self._complaint))

    @classmethod
    def start(
        cls,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None,
        log: Path,
        cores: Sequence[int] | None,
        grace: float,
        stop_command: Sequence[str] = (),
        folder: str | None = None,
    ) -> Kept:
        """Start a service under a keeper.

        Parameters
        ----------
        env:
            The complete environment, but for the mark.
        log:
            Where both output streams go, appended; its middle is cut out when it exceeds ``LOG_LIMIT`` bytes.
        cores:
            Which the service may use; None for all that this job may use on this node, whatever the rank is bound to.
        grace:
            Seconds from TERM to KILL.
        stop_command:
            Run before TERM is sent, for at most ``grace`` seconds, or 5 if that is more.
        folder:
            Of this process's files: the keeper removes it if this process dies while the service runs.

        Raises
        ------
        EvaluationFailed
            The command cannot be started (``infrastructure``): not found, not executable, no such directory, log not
            writable. A command that starts and ends at once does not raise; ``poll`` tells.
        """
        more = {"log": str(log), "stop_command": list(stop_command), "folder": folder}
        return cls(_order(argv, env, cwd, cores, grace, **more))

    def poll(self) -> int | None:
        """None while the service's leader runs, else its exit code, or -signal."""
        return self._code

    def wait(self, timeout: float, cancel: threading.Event | None = None) -> int | None:
        """Like ``poll``, after ``timeout`` seconds at most; earlier when the leader ends or ``cancel`` is set."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while self._code is None and not (cancel and cancel.is_set()):
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(min(left, 0.05) if cancel else left)
        return self._code

    def stop(self, grace: float | None = None, timeout: float | None = None) -> Gone:
        """End every process of the service and wait until all are gone, ``timeout`` seconds at most.

        A second call hurries a first one, or returns the same answer. When time is up the keeper is killed, which kills
        the leader, and the rest is swept.

        Parameters
        ----------
        grace:
            Seconds from TERM to KILL; None for what the service was started with.
        """
        self._say({"stop": True} if grace is None else {"stop": True, "grace": grace})
        if timeout is None:
            timeout = proc.STOP_COMMAND + 2 * (self._grace if grace is None else grace) + 2 * proc.UNKILLABLE
        with self._changed:
            self._changed.wait_for(lambda: self._gone, timeout)
        if self._gone is None:
            self._process.kill()
        self._reader.join(proc.UNKILLABLE + 5)
        return self._gone or Gone(survivors=tuple(self.pids()))

    def pids(self) -> list[int]:
        """The live processes of the service, workers in other sessions included; without the keeper."""
        table = proc.processes()
        return sorted({**proc.descendants([self._process.pid], table), **proc.marked(self.mark, table)})

    def _say(self, command: Mapping[str, Any]) -> None:
        # Whether the keeper is dead is for the reader to notice.
        with self._writing, contextlib.suppress(OSError, ValueError):
            assert self._process.stdin
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()

    def _listen(self) -> None:
        """Take the keeper's events until its end; if that came without a word, do its work."""
        assert self._process.stdout and self._process.stdin
        for line in self._process.stdout:
            self._take(line)
        self._process.wait()
        if self._gone is None:
            with self._changed:
                self._code = -signal.SIGKILL if self._code is None else self._code
                self._changed.notify_all()
            killed, survivors = sweep(self.mark, self._known["processes"])
            shm = proc.SharedMemory((name, inode) for name, inode in self._known["shm"])
            gone = Gone(len(killed), tuple(survivors), tuple(shm.remove()))
            with self._changed:
                self._gone = gone
                self._changed.notify_all()
        with self._writing, contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.stdout.close()

    def _take(self, line: bytes) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            self._complaint.append(line.decode(errors="replace"))
            return
        with self._changed:
            self.pid = event.get("started", self.pid)
            self._failed = event.get("failed", self._failed)
            self._known = event.get("known", self._known)
            self._code = event.get("exited", self._code)
            if "gone" in event:
                gone = event["gone"]
                self._gone = Gone(gone["killed"], tuple(gone["survivors"]), tuple(gone["shm"]))
            self._changed.notify_all()


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    cores: Sequence[int] | None = None,
    cancel: threading.Event | None = None,
) -> Completed:
    """Run a command to its end, without a shell; whatever it leaves running in the background ends with it.

    May be called from any thread. The command never waits for a reader: of each stream the last :data:`OUTPUT_LIMIT`
    bytes are kept, and the rest is dropped.

    Parameters
    ----------
    timeout:
        Seconds until the command and all its descendants are ended and ``timed_out`` is set.
    env:
        The complete environment; None for that of this process, scrubbed.
    cores:
        As for ``Kept.start``.
    cancel:
        Ends the command early when set.

    Raises
    ------
    EvaluationFailed
        The command cannot be started (``infrastructure``), see ``Kept.start``.
    Cancelled
        ``cancel`` was set before the command had ended.
    """
    env = scrubbed_environment(os.environ) if env is None else env
    with contextlib.ExitStack() as stack:
        # Nameless files: nothing of them is left whatever happens to this process.
        streams = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(2)]
        files = [stream.fileno() for stream in streams]
        log, errors = (f"/dev/fd/{file}" for file in files)
        room = 8 * OUTPUT_LIMIT  # of which the keeper leaves the last quarter, twice what is kept
        more = {"log": log, "errors": errors, "log_limit": room, "passing": True}
        order = _order(argv, env, cwd, cores, RUN_GRACE, **more)
        command = Kept(order, pass_fds=files)
        try:
            code = command.wait(timeout, cancel)
        finally:
            gone = command.stop()
        (stdout, cut), (stderr, _) = map(_end, streams)
        if code is None and cancel and cancel.is_set():
            raise Cancelled(f"{argv[0]} was cancelled", output=stdout + stderr)
    ended = command.poll()
    if ended is None:
        raise EvaluationFailed(f"{argv[0]} cannot be killed: pids {gone.survivors}", kind="infrastructure")
    return Completed(ended, stdout, stderr, timed_out=code is None, cut=cut)


def sweep(mark: str, known: Iterable[Sequence[int]] = ()) -> tuple[set[int], list[int]]:
    """Kill what is left of a service whose keeper was itself killed.

    That is every process of this user that carries ``mark`` in its environment; as not every worker keeps that, also
    every process of ``known`` (pid, session, time of its start) and of the sessions there; and all their descendants.

    Returns
    -------
    The pids that were killed, and those that survive.
    """
    known = [tuple(each) for each in known]
    sessions = {session for _, session, _ in known}

    def find() -> dict[int, proc.Process]:
        table = proc.processes()
        found = proc.marked(mark, table)
        found |= {
            pid: each
            for pid, each in table.items()
            if each.session in sessions or (pid, each.session, each.start) in known
        }
        found |= proc.descendants(found, table)
        found.pop(os.getpid(), None)
        return found

    return proc.kill_all(find)


def _order(
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: Path | None,
    cores: Sequence[int] | None,
    grace: float,
    **more: Any,
) -> dict[str, Any]:
    """The keeper's order (see ``keeper.py``), with a new mark."""
    return {
        "argv": [str(word) for word in argv],
        "env": dict(env),
        "cwd": str(cwd) if cwd else None,
        "cores": None if cores is None else list(cores),
        "grace": grace,
        "mark": secrets.token_hex(16),
        "log_limit": LOG_LIMIT,
        **more,
    }


def _end(file: IO[bytes]) -> tuple[str, bool]:
    """The last :data:`OUTPUT_LIMIT` bytes of an open file, and whether there are more before them."""
    start = max(0, file.seek(0, os.SEEK_END) - OUTPUT_LIMIT)
    file.seek(start)
    return file.read(OUTPUT_LIMIT).decode(errors="replace"), start > 0
