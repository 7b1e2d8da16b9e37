"""A process of a test, with a hard time limit after which its whole tree is gone."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

MARK = "MPIPSO_TEST_JOB"


class Job:
    """A command that runs in a session of its own, with its output in files.

    ``limit`` is in seconds. When it is over, or the ``with`` block ends, every descendant is killed: those that
    left the session or were adopted by another process are known by a mark in their environment. ``expired`` says
    whether the limit was reached; ``on_expiry`` is called then, to clear what the mark does not reach.

    Output goes to files, not pipes, so that an orphan that keeps them open delays nobody. Temporary files go to a
    ``scratch`` folder that ends with the job: Open MPI 5 fails to start on what a killed launcher has left, once a
    process number comes round again.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        limit: float,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        on_expiry: Callable[[], None] | None = None,
    ) -> None:
        self.argv = list(argv)
        self.limit = limit
        self.expired = False
        self._mark = uuid.uuid4().hex
        self._on_expiry = on_expiry
        with contextlib.ExitStack() as files:
            self._out = files.enter_context(tempfile.TemporaryFile())
            self._err = files.enter_context(tempfile.TemporaryFile())
            self.scratch = Path(
                files.enter_context(tempfile.TemporaryDirectory(prefix="job-", ignore_cleanup_errors=True))
            )
            self._files = files.pop_all()
        self.process = subprocess.Popen(
            self.argv,
            env={**os.environ, "TMPDIR": str(self.scratch), **(env or {}), MARK: self._mark},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            start_new_session=True,
        )
        self._timer = threading.Timer(limit, self._expire)
        self._timer.daemon = True
        self._timer.start()

    @property
    def stdout(self) -> str:
        """What was printed so far."""
        return _content(self._out)

    @property
    def stderr(self) -> str:
        """What was printed to standard error so far."""
        return _content(self._err)

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Wait for the end of the command itself (not of what it left behind).

        :raises subprocess.TimeoutExpired: when the limit was reached.
        """
        code = self.process.wait()
        self._timer.cancel()
        if self.expired:
            raise subprocess.TimeoutExpired(self.argv, self.limit, self.stdout, self.stderr)
        return subprocess.CompletedProcess(self.argv, code, self.stdout, self.stderr)

    def tree(self) -> list[psutil.Process]:
        """Every living process that descends from the command, ranks and orphans of this machine included."""
        return [process for process in psutil.process_iter() if self._owns(process)]

    def pid(self, program: str) -> int:
        """The process of the tree that runs ``program`` (a file name), e.g. mpirun below the tools that entered a host.

        :raises LookupError: when there is none.
        """
        for process in sorted(self.tree(), key=lambda process: process.pid):
            with contextlib.suppress(psutil.Error):
                if Path(process.cmdline()[0]).name == program:
                    return process.pid
        raise LookupError(f"{program} does not run in {self.argv}")

    def running(self, *words: str) -> list[psutil.Process]:
        """The processes of the tree with these words in their command line, one after the other.

        A process that has been forked and not yet replaced by what it is to run looks like its parent: it is left out.
        """
        found = {}
        for process in self.tree():
            with contextlib.suppress(psutil.Error):
                line = process.cmdline()
                if any(tuple(line[first : first + len(words)]) == words for first in range(len(line))):
                    found[process] = (process.ppid(), line)
        lines = {process.pid: line for process, (_, line) in found.items()}
        return [process for process, (parent, line) in found.items() if lines.get(parent) != line]

    def kill(self) -> None:
        """SIGKILL to the whole tree, until nothing of it is alive."""
        self._timer.cancel()
        while processes := self.tree():
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self.process.poll()
            time.sleep(0.01)
        self.process.wait()

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
        self._files.close()

    def _owns(self, process: psutil.Process) -> bool:
        try:
            return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == self._mark
        except psutil.Error:
            return False

    def _expire(self) -> None:
        self.expired = True
        self.kill()
        if self._on_expiry is not None:
            self._on_expiry()


def wait_until(condition: Callable[[], object], seconds: float = 20.0, what: str = "what the test waits for") -> None:
    """Poll until ``condition`` holds, with no more than a quarter of a core.

    :raises TimeoutError: with ``what``, when it does not within ``seconds``.
    """
    end = time.monotonic() + seconds
    asked = time.thread_time()
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(max(0.01, 3 * (time.thread_time() - asked)))
        asked = time.thread_time()


def alive(pid: int) -> bool:
    """Whether a process runs; one whose end nobody has noticed does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _content(file: IO[bytes]) -> str:
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")
