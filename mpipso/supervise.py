"""Supervision of a launched run, the last layer of its protection: it outlives ranks, nodes, the root and ``mpirun``.

The journal alone tells whether a run has come to its end: Open MPI 5 ends with exit code 0 when it has lost a node. A
job that ends before its run, or of which nothing is heard any more, is ended on this host to the last process and
started again on the hosts that answer, where it resumes. A run that was interrupted, has failed in words of its own,
or had wrong input is not started again.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from mpipso.errors import FINISHED, LOST, NOTHING_FEASIBLE, RunFailed, UserError
from mpipso.jobs import Job
from mpipso.record import journal
from mpipso.record.folders import BEAT, LAUNCH_LOG
from mpipso.signals import describe
from mpipso.startup import Options
from mpipso.survivors import answering, strangers, succeeding

GRACE = 10.0
"""Seconds from SIGTERM to SIGKILL for a launcher that is to end."""
LINGER = 15.0
"""Seconds of silence after which a launcher is ended whose run has come to its end: MPI_Finalize may hang."""
CLEARING = 20.0
"""Seconds in which the keepers of dead ranks stop the services on this host; what is left then is killed."""
SETTLING = 3.0
"""Seconds from the end of a job to its restart, in which keepers on other hosts do the same."""
_POLL = 0.1
_LOOK = 1.0
"""Seconds between two looks at the journal and the beat, which may lie on another machine."""
_ENDINGS = ("finished", "interrupted", "failed")
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_SHOW_CURSOR = "\033[?25h"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


@dataclass(frozen=True)
class Limits:
    """How a job is supervised.

    Attributes
    ----------
    restarts:
        How often it is restarted at most in a row; an evaluation that was completed in between makes the count begin
        anew, since the limit is there for runs that do not get on, not for long ones. 0: never.
    stuck_after:
        Seconds without a change of the journal or the beat after which a run is stuck.
    start:
        Seconds from the launch in which the run begins.
    """

    restarts: int = 3
    stuck_after: float = 120.0
    start: float = 180.0


class Supervisor:
    """Runs a job until its run has come to its end.

    Parameters
    ----------
    job:
        As the user asks for it.
    folder:
        The run's folder: reserved for a new run, or with the journal of the run to go on with.
    environment:
        What the launcher and, by ``forward``, the ranks get.
    """

    def __init__(
        self, job: Job, folder: Path, limits: Limits, environment: Mapping[str, str], forward: Sequence[str]
    ) -> None:
        self._job = job
        self._folder = folder.absolute()
        self._journal = self._folder / journal.FILE
        self._limits = limits
        self._left = limits.restarts
        self._environment = environment
        self._forward = forward
        self._process: subprocess.Popen[bytes] | None = None
        self._forwarded = iter((signal.SIGUSR1, signal.SIGTERM))
        self._received: list[int] = []
        self._last_signal = -1.0
        self._unseen = False
        self._began = False

    def run(self) -> int:
        """Launch, watch and restart; returns the exit code of the run, see :mod:`mpipso.errors`.

        Raises
        ------
        UserError
            The journal is damaged.
        RunFailed
            The run cannot go on: too few hosts answer, or it was restarted as often as is allowed; with the command
            to resume it.
        """
        # Orphans of a launcher that was killed become children of this process, which can then tell what is left.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        with self._signals():
            try:
                return self._run()
            except RunFailed as error:
                self._log(str(error))
                raise RunFailed("\n".join([str(error), *self._how_to_resume()])) from None
            finally:
                if self._process is not None:
                    self._end(self._process)
                    self._kill(session=True)
                if sys.stdout.isatty():  # a root that was killed while it drew has left the cursor hidden
                    print(end=_SHOW_CURSOR, flush=True)

    def _run(self) -> int:
        job = self._job
        while True:
            options = self._options(job.options)
            before = len(self._events())
            code, how = self._attempt(replace(job, options=options))
            ended = time.monotonic()
            self._kill(session=True)
            events = self._events()[before:]
            self._began = self._began or bool(events)
            final = self._verdict(events, code)
            if final is not None:
                return final
            if any(event["event"] == "evaluated" for event in events):
                self._left = self._limits.restarts
            job = self._next(how, ended)
            if self._received:
                return self._interrupted()

    # One job

    def _attempt(self, job: Job) -> tuple[int, str]:
        """Launch the job and wait for its end: the launcher's exit code, and how it ended, in words."""
        command = job.command([*self._forward, "MPIPSO_RESTARTS"])
        print("+", shlex.join(command), flush=True)
        self._log(f"+ {shlex.join(command)}")
        # In a session of its own, so that Ctrl-C at the terminal reaches this process alone.
        self._process = process = subprocess.Popen(
            command,
            env={**self._environment, "MPIPSO_RESTARTS": str(self._left)},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        if self._received:  # in the meantime
            process.terminate()
        how = self._watch(process)
        code = process.returncode if process.returncode >= 0 else 128 - process.returncode
        with_what = f"code {code}" if process.returncode >= 0 else describe(-process.returncode)
        return code, how or f"{Path(job.path).name} ended with {with_what} before the run had ended"

    def _options(self, options: Options) -> Options:
        """What the ranks are told now: to resume, or to begin again under the same name if nothing was asked yet."""
        if options.resume is None and not any(event["event"] == "asked" for event in self._events()):
            # A root may have died before the journal's first line, or before all that a warm start takes was learned.
            self._journal.unlink(missing_ok=True)
            return replace(options, name=self._folder.name)
        return replace(options, resume=self._folder, name=None, warm_start=())

    def _watch(self, process: subprocess.Popen[bytes]) -> str:
        """Wait for the launcher's end, and end it if the run is stuck: then why."""
        launched = changed = looked = time.monotonic()
        state, begun, checked = self._state(), False, False
        while process.poll() is None:
            time.sleep(_POLL)
            self._reap()
            now = time.monotonic()
            if self._unseen or now - looked < _LOOK:
                continue
            looked = now
            if (seen := self._state()) != state:
                state, changed, begun, checked = seen, now, True, False
            elif not begun and now - launched > self._limits.start:
                if not self._is_elsewhere():
                    self._end(process)
                    return f"the run had not begun {self._limits.start:g} s after its launch"
            elif begun and now - changed > self._limits.stuck_after:
                self._end(process)
                return f"nothing was heard of the run for {self._limits.stuck_after:g} s"
            elif begun and now - changed > LINGER and not checked:
                checked = True
                if (events := self._events()) and events[-1]["event"] in _ENDINGS:
                    self._end(process)
        return ""

    def _state(self) -> tuple[int, ...]:
        """Changes when the root writes its journal or touches its beat.

        Clocks of several machines need not agree, so that only changes count. Opening a file makes NFS ask the server.
        """
        numbers = []
        for path in (self._journal, self._folder / BEAT):
            with contextlib.suppress(OSError), path.open("rb") as file:
                status = os.fstat(file.fileno())
                numbers += [status.st_size, status.st_mtime_ns, status.st_ino]
        return tuple(numbers)

    def _is_elsewhere(self) -> bool:
        """Whether another host has the journal that is not seen here: then the run cannot be supervised."""
        if not self._unseen and not self._journal.exists():
            away, agent = strangers(dict.fromkeys(self._job.hosts)), self._agent()
            if having := succeeding(away, agent, ["test", "-e", str(self._journal)]):
                self._unseen = True
                self._tell(
                    f"{self._folder} of {', '.join(sorted(having))} is not visible on this host, so that the run "
                    f"cannot be supervised: put the output folder on a file system that all hosts share"
                )
        return self._unseen

    # Its end

    def _verdict(self, events: Sequence[Mapping[str, Any]], code: int) -> int | None:
        """The exit code if the run has come to its end; ``events`` are those of the job that has just ended."""
        ending = next((event for event in reversed(events) if event["event"] in _ENDINGS), None)
        if ending is None and not events and code in (FINISHED, NOTHING_FEASIBLE):
            earlier = self._events()
            ending = earlier[-1] if earlier and earlier[-1]["event"] == "finished" else None
        if ending is not None and ending["event"] == "finished":
            return NOTHING_FEASIBLE if ending.get("feasible") is False else FINISHED
        if self._received:
            return self._interrupted() if ending is None else 128 + self._received[0]
        if ending is not None:
            return LOST if ending["event"] == "failed" else 128 + signal.Signals[ending["signal"]]
        # Once the run has begun its input is known to be right: what a restart complains about is the state of hosts.
        if code == UserError.exit_code and not self._began:
            return code
        return code if self._is_elsewhere() else None

    def _next(self, how: str, ended: float) -> Job:
        """The job that follows one that was lost, with everything that the old one has left on this host gone."""
        if not self._limits.restarts:
            raise RunFailed(how)
        if not self._left:
            raise RunFailed(f"{how}, after {self._limits.restarts} restarts in vain")
        self._clear()
        answer = answering(self._job.hosts, self._agent())
        out = [host for host in dict.fromkeys(self._job.hosts) if host not in answer]
        paths = (self._folder / f"hosts-{number}.txt" for number in itertools.count(2))
        try:
            job = self._job.on(answer, next(path for path in paths if not path.exists()))
        except RunFailed as error:
            raise RunFailed(f"{how}, and it cannot go on: {error}") from None
        self._left -= 1
        left_out = f"; without {', '.join(out)}, which {'does' if len(out) == 1 else 'do'} not answer" if out else ""
        what = f"resuming {self._folder}" if self._options(job.options).resume is not None else "starting again"
        where = f" with {job.ranks} of {self._job.ranks} ranks" if out else ""
        number = f"restart {self._limits.restarts - self._left} of {self._limits.restarts}"
        self._tell(f"{how}{left_out}; {what}{where} ({number})")
        self._fence()
        if len(set(job.hosts)) > 1:
            while time.monotonic() - ended < SETTLING and not self._received:
                time.sleep(_POLL)
        return job

    def _fence(self) -> None:
        """Go on in a copy of the journal: a root on a host that wakes up later holds the old file, and its lock."""
        draft = self._journal.with_name(f".{self._journal.name}.{os.getpid()}")
        try:
            if self._journal.exists():
                shutil.copyfile(self._journal, draft)
                with draft.open("rb") as file:
                    os.fsync(file.fileno())
                draft.replace(self._journal)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise RunFailed(f"{self._journal}: cannot be copied: {error.strerror}") from error

    # Processes

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """SIGTERM, and SIGKILL after a grace, to a launcher that may have ended already."""
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        process.kill()
        process.wait()

    def _clear(self) -> None:
        """Wait until nothing that the job has started on this host is alive.

        Raises
        ------
        RunFailed
            Something cannot even be killed, as in the middle of a driver's call, and holds what a new job needs.
        """
        begun = time.monotonic()
        while left := psutil.Process().children():
            self._reap()
            waited = time.monotonic() - begun
            if waited > CLEARING:
                self._kill(session=False)
            if waited > CLEARING + GRACE:
                pids = ", ".join(str(process.pid) for process in left)
                raise RunFailed(f"the last job has left processes on this host that cannot be killed: {pids}")
            time.sleep(_POLL)

    def _kill(self, session: bool) -> None:
        """SIGKILL to what the launcher has left in its session, or to all; keepers have sessions of their own."""
        leader = self._process.pid if self._process is not None else 0
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(OSError, psutil.Error):
                if not session or os.getsid(process.pid) == leader:
                    process.kill()
        self._reap()

    def _reap(self) -> None:
        """Orphans that have ended, but not the launcher, whose exit code is wanted."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if self._process is not None and ended.si_pid == self._process.pid:
                    return
                os.waitpid(ended.si_pid, 0)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Hand signals to the launcher in the way that ranks can use.

        Launchers kill their ranks within a second of SIGINT or SIGTERM but forward SIGUSR1, on which the ranks stop
        their services and save. A second signal goes through as SIGTERM, and a third kills.
        """

        def handle(number: int, frame: FrameType | None) -> None:
            now = time.monotonic()
            if now - self._last_signal > 0.5:  # a terminal's Ctrl-C and a scheduler's may arrive twice
                self._last_signal = now
                self._received.append(number)
                if self._process is not None:
                    self._process.send_signal(next(self._forwarded, signal.SIGKILL))

        before = {number: signal.signal(number, handle) for number in _ENDING_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # Small things

    def _events(self) -> list[dict[str, Any]]:
        return journal.read(self._journal) if self._journal.exists() else []

    def _agent(self) -> list[str]:
        return self._job.launcher.agent(os.environ)

    def _interrupted(self) -> int:
        for line in self._how_to_resume():
            self._tell(line)
        return 128 + self._received[0]

    def _how_to_resume(self) -> list[str]:
        options = replace(self._job.options, resume=self._folder, name=None, warm_start=())
        words = ["-np", str(self._job.ranks), *options.words()]
        return [f"go on with: mpipso launch {shlex.join(words)}"] if self._events() else []

    def _tell(self, line: str) -> None:
        print(f"mpipso: {line}", file=sys.stderr, flush=True)
        self._log(line)

    def _log(self, line: str) -> None:
        # The log is a convenience: a full disk is told by those whose records matter.
        with contextlib.suppress(OSError), (self._folder / LAUNCH_LOG).open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
