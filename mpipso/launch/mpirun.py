"""The launcher's process: started in a session of its own, told about signals, and ended to the last descendant."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

import psutil

from mpipso.errors import RunFailed
from mpipso.launch.launchers import Launcher
from mpipso.signals import adopt_orphans, die_with_parent, heard

GRACE = 10.0
"""Seconds from SIGTERM to SIGKILL for a launcher that is to end."""
CLEARING = 20.0
"""Seconds in which the keepers of dead ranks stop the services on this host; what is left then is killed."""
_POLL = 0.1
_SAME = 0.5
"""Seconds in which a second signal counts for the same: a terminal's Ctrl-C and a scheduler's may arrive twice."""


class Mpirun:
    """One launcher of a family after the other. As a context manager it handles signals, and ends the last one on exit.

    Launchers kill their ranks within a second of SIGINT or SIGTERM but forward SIGUSR1, on which the ranks stop their
    services and save. So the first signal goes through as SIGUSR1, a second one as SIGTERM, and a third one kills.
    Until the run has begun there is nothing to save, and a launcher that is busy with its start drops SIGUSR1: then the
    first signal is SIGTERM, and :meth:`end` is to follow.

    Attributes
    ----------
    received:
        The numbers of the signals so far.
    """

    def __init__(self, family: Launcher) -> None:
        self.received: list[int] = []
        self._begun: Callable[[], bool] = lambda: False
        self._family = family
        self._last = -_SAME
        self._forwarded = iter((signal.SIGUSR1, signal.SIGTERM))
        self._before: dict[int, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._strangers: list[psutil.Process] = []
        self._sessions: set[int] = set()

    def __enter__(self) -> Mpirun:
        # A shell that became this process by exec has left its own children.
        self._strangers = psutil.Process().children(recursive=True)
        self._sessions = {os.getsid(0)}
        for process in self._strangers:
            with contextlib.suppress(OSError):
                self._sessions.add(os.getsid(process.pid))
        adopt_orphans()  # of a launcher that was killed: so it can be told what is left
        self._before = {number: signal.signal(number, self._handle) for number in heard()}
        return self

    def __exit__(self, *raised: object) -> None:
        self.end()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def start(self, command: Sequence[str], environment: Mapping[str, str], begun: Callable[[], bool]) -> None:
        """Run a launcher, in a session of its own, so that Ctrl-C at the terminal reaches this process alone.

        ``begun`` tells whether the run has begun, or gone on, under this launcher.
        """
        self._begun = begun
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(signal.SIGTERM),
        )
        if self.received:  # a signal while there was nobody to hand it to
            self._process.terminate()

    def poll(self) -> int | None:
        """The exit code, or minus the number of the signal that ended it; None as long as it runs."""
        code = self._process.poll() if self._process is not None else 0
        self._reap()
        return code

    def end(self) -> None:
        """SIGTERM, and SIGKILL after a grace; then SIGKILL to what is left in its session, which has no keepers.

        What a killed launcher has left among temporary files goes too: Open MPI 5 fails to start on the folder of an
        earlier launcher that had the same process number.
        """
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE)
        self._process.kill()
        self._process.wait()
        self._kill(session=self._process.pid)
        for folder in self._family.remains(self._process.pid):
            shutil.rmtree(folder, ignore_errors=True)

    def clear(self) -> None:
        """Wait until nothing that the launcher and its ranks have started on this host is alive.

        Raises
        ------
        RunFailed
            Something cannot even be killed, as in the middle of a driver's call, and holds what a new job needs.
        """
        begun = time.monotonic()
        while left := self._brought():
            waited = time.monotonic() - begun
            if waited > CLEARING:
                self._kill()
            if waited > CLEARING + GRACE:
                pids = ", ".join(str(process.pid) for process in left)
                raise RunFailed(f"the last job has left processes on this host that cannot be killed: {pids}")
            self._reap()
            time.sleep(_POLL)

    def _kill(self, session: int | None = None) -> None:
        """SIGKILL to every process that the launcher has brought, or to those in one session."""
        for process in self._brought(recursive=True):
            with contextlib.suppress(OSError, psutil.Error):
                if session is None or os.getsid(process.pid) == session:
                    process.kill()
        self._reap()

    def _brought(self, *, recursive: bool = False) -> list[psutil.Process]:
        """This process's children or, if ``recursive``, all of its descendants, without those of others.

        What was here before may leave orphans to this process. They are recognised by their session, which no other
        process can join; one that has opened a session of its own meanwhile is not.
        """
        strangers = set(self._strangers)
        for process in self._strangers:
            with contextlib.suppress(psutil.Error):
                strangers.update(process.children(recursive=True))
        brought = []
        for process in psutil.Process().children(recursive=recursive):
            with contextlib.suppress(OSError):
                if process not in strangers and os.getsid(process.pid) not in self._sessions:
                    brought.append(process)
        return brought

    def _reap(self) -> None:
        """Reap orphans that have ended, but not the launcher, whose exit code is wanted."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if self._process is not None and ended.si_pid == self._process.pid:
                    return
                os.waitpid(ended.si_pid, 0)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._last < _SAME:
            return
        self._last = now
        self.received.append(number)
        if self._process is not None:
            forwarded = next(self._forwarded, signal.SIGKILL)
            if forwarded == signal.SIGUSR1 and not self._begun():
                forwarded = next(self._forwarded)
            self._process.send_signal(forwarded)
