"""Supervision of a launched run, the last layer of its protection: it outlives ranks, nodes, the root and ``mpirun``.

The journal alone tells whether a run has come to its end: Open MPI 5 ends with exit code 0 when it has lost a node. A
job that ends before its run, or of which nothing is heard any more, is ended on this host to the last process and
started again on the hosts that answer, where it resumes. A run that was interrupted, has failed in words of its own,
or had wrong input is not started again.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mpipso.batch import systems
from mpipso.errors import FINISHED, LOST, NOTHING_FEASIBLE, RunFailed, UserError
from mpipso.launch.fence import fence, is_foreign, is_written
from mpipso.launch.jobs import Job
from mpipso.launch.limits import Limits
from mpipso.launch.log import Log
from mpipso.launch.mpirun import Mpirun
from mpipso.launch.source import Source
from mpipso.launch.survivors import answering, awaiting, strangers, succeeding
from mpipso.launch.traces import Traces, of_job
from mpipso.launched import COMMAND, REQUEUE, RESTARTS, resuming, submits, take_refusing
from mpipso.record import journal
from mpipso.record.folders import LAUNCH_LOG
from mpipso.record.outcome import NO_BASELINE
from mpipso.record.usage import BEGINNINGS, ENDINGS
from mpipso.signals import describe, signal_number
from mpipso.startup import Options

LINGER = 15.0
"""Seconds of silence after which a launcher is ended whose run has come to its end: MPI_Finalize may hang."""
SETTLING = 3.0
"""Seconds from the end of a job to its restart, in which keepers on other hosts stop what dead ranks have left."""
RESTS = (5.0, 15.0, 45.0)
"""The same for a job whose ranks have refused to go on, for the first time in a row, the second, and all later ones:
what is wrong with a host, such as a port that a service still holds, may pass."""
LEAVING = 5.0
"""Seconds in which a root is gone whose launcher was killed."""
_POLL = 0.1
_LOOK = 1.0
"""Seconds between two looks at the journal and the beat, which may lie on another machine."""
_PAUSE = 5.0
"""Seconds between two turns of the watch from which on this process, and the run with it, was stopped: by ``SIGSTOP``,
or ``scontrol suspend``."""
_SHOW_CURSOR = "\033[?25h"


class End(NamedTuple):
    """How a job ended: the launcher's exit code, the end in words, and whether it was ended because it was stuck.

    ``unfit`` are the hosts because of which the ranks have refused to go on, as far as that is known.
    """

    code: int
    how: str
    stuck: bool
    unfit: frozenset[str] = frozenset()

    @property
    def refused(self) -> bool:
        """Whether its ranks have refused to begin: then nothing in the journal is theirs, unless a run has ended."""
        return self.code == UserError.exit_code and not self.stuck


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
    source:
        The configuration file and the hostfile that the job names; None if it names none.
    """

    def __init__(
        self,
        job: Job,
        folder: Path,
        limits: Limits,
        environment: Mapping[str, str],
        forward: Sequence[str],
        source: Source | None = None,
    ) -> None:
        self._job = job
        self._folder = folder.absolute()
        self._journal = self._folder / journal.FILE
        self._traces = Traces(self._folder)
        self._agent = job.launcher.agent(os.environ, job.more)
        self._limits = limits
        self._left = limits.restarts
        self._source = source
        self._environment = dict(environment)
        self._called = environment[COMMAND]
        self._command = self._set_command()
        self._forward = forward
        self._mpirun = Mpirun(job.launcher)
        self._log = Log(self._folder / LAUNCH_LOG, environment)
        self._unseen = False
        self._began = False
        self._refused = 0
        self._unfit: frozenset[str] = frozenset()

    def run(self) -> int:
        """Launch, watch and restart; returns the exit code of the run, see :mod:`mpipso.errors`.

        Raises
        ------
        Taken
            Another process looks after this run; nothing was started.
        UserError
            The journal is damaged, or the root of another job writes it; nothing was started.
        RunFailed
            The run cannot go on: too few hosts answer, for ten minutes, or it was restarted as often as is allowed;
            with the command to resume it.
        """
        with self._log, self._mpirun:
            try:
                return self._run()
            except RunFailed as error:
                if self._mpirun.received:
                    return self._interrupted()
                lines = [str(error), *self._how_to_resume()]
                self._log.keep(lines)
                raise RunFailed("\n".join(lines)) from None
            finally:
                if sys.stdout.isatty():  # a root that was killed while it drew has left the cursor hidden
                    self._log.say(_SHOW_CURSOR, end="")

    def _run(self) -> int:
        job = self._job
        vain = None
        self._wait_for_others()
        if self._mpirun.received:
            return self._interrupted()
        if self._source is not None and systems(os.environ) and not self._source.is_kept(self._folder):
            with contextlib.suppress(RunFailed):  # without it, a job that comes back takes the file as it is then
                self._source.keep(self._folder, job.options)
        while True:
            options = self._options(job.options)
            before = len(self._events())
            end = self._attempt(replace(job, options=options))
            ended = time.monotonic()
            found = of_job(self._events(end.how)[before:])
            events = found if not end.refused or any(each["event"] in ENDINGS for each in found) else []
            self._began = self._began or any(event["event"] in BEGINNINGS for event in events)
            if self._traces.are_gone():
                if end.code in (FINISHED, NOTHING_FEASIBLE, LOST):  # which the root has told
                    return end.code
                raise RunFailed(f"{end.how}, and {self._folder} is gone: it was moved or removed")
            code = self._verdict(events, end)
            if code is not None:
                return code
            # A wrong flag or a host that is not there ends every launcher in the same way.
            same = (end.how, job.ranks.hosts) if not events and not self._began and not end.stuck else None
            if same is not None and same == vain:
                raise RunFailed(f"{end.how}, twice in the same way, and the run never began")
            vain = same
            if any(event["event"] == "evaluated" for event in events):
                self._left = self._limits.restarts
            job = self._next(end, ended, loud=not events)
            if self._mpirun.received:
                return self._interrupted()

    def _set_command(self) -> str:
        """The words that launch a run in the same place and way; the ranks of the jobs to come are told them, too."""
        job, command = self._job, self._called
        again, ranks = replace(job.options, resume=None, name=None, warm_start=()), ["-np", str(job.ranks.count)]
        if submits(command):  # with a script that says these itself
            again, ranks = replace(again, config=None, progress="auto"), []
        more = [f"--mpirun-args={shlex.join(job.more)}"] if job.more else []
        flags = [*ranks, *more, *self._limits.words(), *again.words()]
        self._environment[COMMAND] = " ".join([command, *map(shlex.quote, flags)])
        return self._environment[COMMAND]

    def _wait_for_others(self) -> None:
        """UserError if another process writes the journal, and does not end by itself at once."""
        end = time.monotonic() + LEAVING
        while not self._mpirun.received and is_written(self._journal):
            if time.monotonic() > end:
                raise UserError(journal.taken(self._journal))
            time.sleep(_POLL)

    # One job

    def _attempt(self, job: Job) -> End:
        """Launch the job and wait for its end."""
        command = job.command([*self._forward, RESTARTS])
        self._log.learn(command)
        self._log.keep([f"+ {shlex.join(command)}"])
        self._log.say(f"+ {shlex.join(command)}")
        take_refusing(self._folder)
        state = self._traces.state()
        # Not how many are left: with its next evaluation this job has all of them again.
        environment = {**self._environment, RESTARTS: str(self._limits.restarts)}
        self._mpirun.start(command, environment, begun=lambda: self._has_begun(state))
        stuck = self._watch(state)
        self._mpirun.end()
        code = self._mpirun.poll() or 0
        with_what = f"code {code}" if code >= 0 else describe(-code)
        how = stuck or f"{Path(job.path).name} ended with {with_what} before the run had ended"
        unfit = frozenset(take_refusing(self._folder))
        return End(code if code >= 0 else 128 - code, how, bool(stuck), unfit)

    def _options(self, options: Options) -> Options:
        """What the ranks are told now: to resume, or to begin again under the same name if nothing was asked yet."""
        if options.resume is None and not any(event["event"] == "asked" for event in self._events()):
            # A root may have died before the journal's first line, or before all that a warm start takes was learned.
            try:
                self._journal.unlink(missing_ok=True)
            except OSError as error:
                raise RunFailed(f"{self._journal}: cannot be removed: {error.strerror}") from error
            return replace(options, name=self._folder.name)
        return replace(options, resume=self._folder, name=None, warm_start=())

    def _has_begun(self, state: tuple[int, ...]) -> bool:
        """Whether the root has shown life since that state; where it cannot be seen here, it counts as if it had."""
        return self._unseen or self._traces.state() != state

    def _watch(self, state: tuple[int, ...]) -> str:
        """Wait for the launcher's end, or until it has to be ended: if the run is stuck, why.

        ``state`` is what the root had left before the launch.
        """
        launched = changed = looked = turned = time.monotonic()
        begun, checked = False, False
        while self._mpirun.poll() is None:
            time.sleep(_POLL)
            now = time.monotonic()
            if (gap := now - turned) > _PAUSE:
                launched, changed = launched + gap, changed + gap
            turned = now
            if self._mpirun.received and not begun and not self._has_begun(state):
                return ""
            if self._unseen or now - looked < _LOOK:
                continue
            looked = now
            if (seen := self._traces.state()) != state:
                state, changed, begun, checked = seen, now, True, False
            elif not begun:
                if now - launched > self._limits.start_limit and not self._is_elsewhere():
                    return f"the run had not begun {self._limits.start_limit:g} s after its launch (--start-limit)"
            elif now - changed > self._limits.stuck_after and self._traces.are_there():
                return f"the run has been silent for {self._limits.stuck_after:g} s (--stuck-after)"
            elif now - changed > LINGER and not checked:
                checked = True
                events = self._traces.events()
                if isinstance(events, OSError):  # it may be read the next time
                    checked = False
                elif events and events[-1]["event"] in ENDINGS:
                    return ""
        return ""

    def _is_elsewhere(self) -> bool:
        """Whether another host has the journal that is not seen here: then the run cannot be supervised."""
        if not self._unseen and self._traces.events() == [] and not self._journal.exists():
            away, agent = strangers(dict.fromkeys(self._job.ranks.hosts)), self._agent
            if having := succeeding(away, agent, ["test", "-e", str(self._journal)]):
                self._unseen = True
                self._log.tell(
                    f"{self._folder} of {', '.join(sorted(having))} is not visible on this host, so that the run "
                    f"cannot be supervised: put the output folder on a file system that all hosts share"
                )
        return self._unseen

    # Its end

    def _verdict(self, events: Sequence[Mapping[str, Any]], end: End) -> int | None:
        """The exit code if the run has come to its end, None if it has to be restarted.

        ``events`` are those of the job that has just ended.
        """
        ending = next((event for event in reversed(events) if event["event"] in ENDINGS), None)
        if ending is not None and ending["event"] == "finished":
            return NOTHING_FEASIBLE if ending.get("feasible") is False else FINISHED
        if self._mpirun.received:
            return self._interrupted(told=ending is not None)
        if ending is not None and ending["event"] == "failed":
            self._pass_on(ending["cause"], heard=end.code == LOST)
            return LOST
        # A stuck root may have written this on the signal that was to end it.
        if ending is not None and not end.stuck:
            return 128 + signal_number(ending["signal"])
        # Once the run has begun its input is known to be right: what a restart complains about is the state of hosts.
        if end.code == UserError.exit_code and not self._began:
            return end.code
        return end.code if self._is_elsewhere() else None

    def _pass_on(self, cause: str, *, heard: bool) -> None:
        """Keep why the run has failed and how to go on; say so if the root was not ``heard`` to the end.

        Where the launcher has its exit code, its words have come as well.
        """
        lines = [line for line in cause.splitlines() if line.strip()]
        lines += [] if cause.startswith(NO_BASELINE) else self._how_to_resume()
        if heard:
            self._log.keep(lines)
            return
        for line in lines:
            self._log.tell(line)

    def _next(self, end: End, ended: float, *, loud: bool) -> Job:
        """The job that follows one that was lost, with everything that the old one has left on this host gone."""
        how = end.how
        if not self._limits.restarts:
            raise RunFailed(how)
        if not self._left:
            raise RunFailed(f"{how}, after {self._limits.restarts} restarts without progress")
        self._mpirun.clear()
        self._go_on_as_launched()
        self._refused = self._refused + 1 if end.refused else 0
        # A host is left out for what it has twice in a row, or before it costs the last restart, or if it is not there.
        apart = self._job.without_rank(end.unfit)
        silent = set(apart) - succeeding(apart, self._agent, ["true"])
        unfit = end.unfit if self._left == 1 else end.unfit & (self._unfit | silent)
        self._unfit = end.unfit

        def look() -> tuple[Job, str]:
            answer = answering(self._job.ranks.hosts, self._agent, self._log.tell)
            # Who has refused to go on will not wake up, and of ours that may nothing is left here.
            if is_written(self._journal) and (end.refused or is_foreign(self._journal)):
                raise RunFailed(journal.taken(self._journal))
            return self._job.on_what_is_left(answer, unfit, self._folder)

        try:
            job, left_out = awaiting(look, how, self._log.tell, lambda: not self._began or bool(self._mpirun.received))
        except RunFailed as error:
            raise RunFailed(f"{how}, and it cannot go on: {error}") from None
        job = replace(job, loud=loud)
        self._left -= 1
        what = f"resuming {self._folder}" if self._options(job.options).resume is not None else "starting again"
        left, count = job.ranks.count, self._job.ranks.count
        where = f" with {left} of {count} ranks" if left != count else ""
        restart = f"restart {self._limits.restarts - self._left} of {self._limits.restarts}"
        rest = RESTS[min(self._refused, len(RESTS)) - 1] if self._refused else 0.0
        self._log.tell(f"{how}{left_out}; {what}{where} ({restart}{f', in {rest:g} s' if rest else ''})")
        fence(self._journal)
        if len(set(job.ranks.hosts)) > 1:
            rest = max(rest, SETTLING)
        while time.monotonic() - ended < rest and not self._mpirun.received:
            time.sleep(_POLL)
        return job

    def _go_on_as_launched(self) -> None:
        """Have further jobs read the files that this one was launched with, whatever has become of them."""
        if self._source is None or not (changed := self._source.changed()):
            return
        options, self._source = self._source.keep(self._folder, self._job.options), None
        self._job = replace(self._job, options=options, ranks=replace(self._job.ranks, hostfile=options.hostfile))
        self._command = self._set_command()
        kept = " and ".join(str(path) for path in (options.config, options.hostfile) if path is not None)
        other = "is" if len(changed) == 1 else "are"
        self._log.tell(f"{', '.join(changed)} {other} not what the run was launched with: it goes on with {kept}")

    def _events(self, how: str = "") -> list[dict[str, Any]]:
        """What the journal holds, once the disk answers, for which it is waited as long as for a silent run.

        Raises
        ------
        RunFailed
            It does not; ``how`` the job has ended comes first.
        """
        end = time.monotonic() + self._limits.stuck_after
        told = False
        while isinstance(events := self._traces.events(), OSError):
            why = f"{self._journal} cannot be read: {events.strerror}"
            if time.monotonic() > end or self._mpirun.received:
                raise RunFailed(f"{how}, and {why}" if how else why)
            if not told:
                self._log.tell(f"{why}; waiting for it")
                told = True
            time.sleep(_LOOK)
        return events

    def _interrupted(self, *, told: bool = False) -> int:
        """The exit code after a signal; the root may have ``told`` how to go on, if the job does not come back."""
        received = self._mpirun.received[0]
        requeued = self._environment.get(REQUEUE) == "1"
        told = received == signal.SIGUSR1 if requeued else told
        for line in [] if told else self._how_to_resume():
            # Another signal may be that of scancel, of the loss of a node, or of a job with a higher priority.
            self._log.tell(f"if this job does not come back by itself, {line}" if requeued else line)
        return 128 + received

    def _how_to_resume(self) -> list[str]:
        return [f"go on with: {resuming(self._command, self._folder)}"] if self._traces.events() else []
