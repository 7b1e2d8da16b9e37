"""What the root does: runs the search, scatters its particles to the groups, gathers their evaluations.

It polls and never waits: messages, signs of life, signals and deadlines are all looked at between two naps, while the
evaluation of its own group runs in a thread.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from mpipso.cluster.dispatch import (
    Assigned,
    Cancel,
    Dispatcher,
    Evaluated,
    Event,
    GivenUp,
    Probed,
    Progress,
    Quarantined,
    Readmitted,
    Retried,
)
from mpipso.cluster.health import Leases, ServiceGroupHealthMonitor
from mpipso.cluster.membership import Membership
from mpipso.conflicts import fitting
from mpipso.errors import Alone, RunFailed
from mpipso.evaluation import Assignment, Evaluation
from mpipso.farewell import FAREWELL, GOODBYE, depart
from mpipso.launched import restarts
from mpipso.messages import ROOT, Alive, Disband, Finish, Fled, Form, Free, Interrupted, Left, Order
from mpipso.notes import end_note
from mpipso.overdue import Overdue
from mpipso.record.folders import write_beat
from mpipso.record.journal import Journal
from mpipso.record.monitor import Monitor
from mpipso.rendezvous import RankContext
from mpipso.roles import BEAT, Station
from mpipso.signals import Interrupts
from mpipso.suspension import awake
from mpipso.timelimits import TimeLimits
from mpipso.tuning import Tuning

PATIENCE = 13.0
"""Seconds after a signal in which services are stopped in good order; keepers stop those that are left."""


class Root:
    """Rank 0: the root of the job, and at its station the leader of a group too.

    Parameters
    ----------
    limits:
        Until when evaluations may be started.
    beat:
        A file that is written every few seconds: the sign of life for the process that supervises the job.

    Attributes
    ----------
    complete:
        Whether the search and its race came to their end, whatever signal came after that.
    abandoned:
        Whether some rank did not leave in time, so that the job has to be aborted.
    """

    def __init__(
        self,
        context: RankContext,
        tuning: Tuning,
        journal: Journal,
        monitor: Monitor,
        interrupts: Interrupts,
        limits: TimeLimits,
        *,
        beat: Path,
    ) -> None:
        self._context = context
        self._tuning = tuning
        self._journal = journal
        self._monitor = monitor
        self._interrupts = interrupts
        self._limits = limits
        self._beat_file = beat
        self._beat = self._looked = 0.0
        self._patience: float | None = None
        self._station = Station(context, interrupts)
        self._membership = Membership(context.plan, context.config.service.port, fitting(context.config))
        self._overdue = Overdue(context.config, context.plan)
        parallel = context.config.parallel
        self._leases = Leases(range(1, context.world.size), parallel.lease, time.monotonic())
        health = ServiceGroupHealthMonitor(after=parallel.quarantine_after, pause=parallel.probe_pause)
        self._health = health
        search = context.config.search
        rolling = search.schedule == "window"
        self._dispatcher = Dispatcher(self._order, health, retries=search.retries, rolling=rolling)
        for group in self._membership.groups:
            self._dispatcher.join(group)
        self._dispatcher.known_good = tuning.known_good()
        self._changed = True
        self._race = (0.0, 0.0)
        self._left: set[int] = set()
        self._forsaken_by: set[int] = set()
        self._closing = False
        self._stuck = False
        self._last_loss = 0.0
        self.complete = self.abandoned = False

    def run(self) -> None:
        """The whole run, until a budget is spent or a signal ends it. Every rank is sent home whatever happens.

        Raises
        ------
        RunFailed
            There is no way to go on.
        """
        try:
            self._search()
            self.complete = self._interrupts.received is None
        finally:
            self._closing = True
            self._dispatcher.cancel()
            limit = time.monotonic() + GOODBYE
            while self._dispatcher.running and time.monotonic() < limit and not self._out_of_patience():
                for event in [each for each in self._step() if isinstance(each, GivenUp)]:
                    self._take(event)
            self._send_home()

    def _search(self) -> None:
        while not self._ended():
            if self._changed:
                self._changed = False
                self._dispatcher.submit(self._tuning.propose(self._dispatcher.idle(awake())))
            if not self._dispatcher.busy and self._tuning.cause:
                break
            self._turn()
        self._finish_running(drop=True)
        while self._interrupts.received is None and not self._late():
            again = self._tuning.confirmations(len(self._membership.groups))
            if not again:
                break
            self._dispatcher.submit(again)
            self._finish_running(drop=False)

    def _finish_running(self, *, drop: bool) -> None:
        """Go on until nothing runs; with ``drop``, or when it is late, nothing more is begun."""
        while True:
            if drop or self._late():
                self._dispatcher.drop_queue()
            if not self._dispatcher.busy:
                return
            if self._interrupts.received is not None:
                self._dispatcher.cancel()
                if self._out_of_patience():
                    return
            self._turn()

    def _ended(self) -> bool:
        if self._changed:  # not in every turn, as it ranks all trials once there has been a race
            self._race = self._tuning.race_seconds(len(self._membership.groups))
        if self._late(self._race):
            self._tuning.stop("time")
            return True
        return self._interrupts.received is not None

    def _late(self, race: tuple[float, float] = (0.0, 0.0)) -> bool:
        end = self._limits.end
        late = self._limits.over(self._tuning.evaluation_seconds, race)
        if self._limits.end != end:
            self._monitor.expect_end(self._limits.seconds)
            self._monitor.note(f"note: {end_note(self._limits.end)}")
        return late

    def _turn(self) -> None:
        """One step and what follows from it for the search.

        Raises
        ------
        Alone
            No group is left, or none with all of its nodes that are reached over ssh, or ranks have taken this one
            for dead: a new job may find them again.
        RunFailed
            No group could measure anything, or the run's folder is gone.
        """
        self._look_for_folder(time.monotonic())
        for event in self._step():
            self._changed = True
            self._take(event)
        if self._interrupts.received is not None:  # the run ends anyway, and is not to be started again
            return
        if self._forsaken_by:
            raise Alone(f"the root stood still or was cut off for too long: {self._who(self._forsaken_by)} left")
        if not self._membership.groups and not self._membership.leaving and not self._in_doubt():
            raise Alone(f"no service group is left: lost {self._who(self._membership.lost)}")
        if self._health.hopeless:
            causes = [f"group {group}: {self._health.cause(group)}" for group in self._membership.groups]
            lost = any(map(self._health.node_lost, self._membership.groups))  # a new job connects anew
            kind = Alone if lost else RunFailed
            raise kind("\n".join(["every service group is in quarantine:", *causes]))

    def _take(self, event: Event) -> None:
        match event:
            case Progress():
                self._monitor.phase(event.group, event.phase, event.detail)
            case Assigned():
                self._tuning.assigned(event.group, event.assignment)
            case Retried():
                self._tuning.retried(event.evaluation)
            case GivenUp():
                self._tuning.given_up(event.evaluation)
            case Evaluated():
                self._tuning.evaluated(event.evaluation)
                self._dispatcher.known_good = self._tuning.known_good()
            case Quarantined():
                self._journal.write("quarantined", group=event.group, cause=event.cause, pause=event.pause)
                self._monitor.quarantined(event.group, event.cause, event.pause)
            case Probed():
                self._tuning.probed(event.evaluation)
            case Readmitted():
                self._journal.write("readmitted", group=event.group)
                self._monitor.readmitted(event.group)

    def _step(self) -> list[Event]:
        """One turn of rank 0: hear everyone, see who is lost, give out what is queued, then a nap."""
        now = awake()  # or a suspension would be time that evaluations take; leases see to that themselves
        events: list[Event] = []
        for source, message in self._context.everyone.take():
            events += self._hear(source, message, now)
        self._station.step()
        events += self._losses(now)
        events += self._dispatcher.step(now)
        self._sign(now)
        self._monitor.tick()
        self._context.world.nap()
        return events

    def _hear(self, source: int, message: object, now: float) -> list[Event]:
        self._leases.renew(source, time.monotonic())
        match message:
            case Progress():
                message = replace(message, detail=self._journal.redactor.text(message.detail))
                return self._dispatcher.take(message.group, message, now)
            case Evaluation():
                return self._dispatcher.take(message.group, self._journal.redactor.evaluation(message), now)
            case Interrupted():
                self._interrupts.ask(message.signal)
            case Free():
                if self._membership.free(source):
                    self._context.everyone.give_up(source, lost=False)
                    self._monitor.note(f"rank {source} on {self._host(source)} is back")
                if self._closing:
                    self._context.everyone.post(source, Finish())
                self._form()
            case Left():
                self._left.add(source)
            case Fled():
                self._left.add(source)
                self._context.everyone.give_up(source)
                # It will abort the job, unless that survives a rank that is lost, as it has to if nobody restarts it.
                if not self._context.world.tolerant or (source not in self._membership.lost and restarts()):
                    self._forsaken_by.add(source)
            case Alive():
                pass
            case _:
                self._station.hear(source, message)
        return []

    # Losses and new groups

    def _losses(self, now: float) -> list[Event]:
        events: list[Event] = []
        for rank in self._context.everyone.failed:
            events += self._lose(rank, "the rank died", now, dead=True)
        for rank in self._leases.expired(time.monotonic()):
            lease = self._context.config.parallel.lease
            events += self._lose(rank, f"no sign of life for {lease:g} s", now, dead=False)
        overdue = self._overdue.ranks(now, self._dispatcher, self._membership)
        for rank in overdue.keys() - {ROOT}:
            events += self._lose(rank, overdue[rank], now, dead=False)
        if ROOT in overdue and not self._stuck:
            self._monitor.note("the root's own evaluation is overdue: the root gives no sign of life until it ends")
        self._stuck = ROOT in overdue
        # A spare that inherits what a dead rank had may be all that a new group needs.
        self._form()
        return events

    def _in_doubt(self) -> bool:
        """Whether ranks that still have their leases may be as silent as those that were lost last."""
        return bool(self._leases.silent_since(self._last_loss) & self._membership.spares)

    def _lose(self, rank: int, cause: str, now: float, *, dead: bool) -> list[Event]:
        loss = self._membership.lose(rank, dead=dead)
        if loss is None:
            return []
        self._last_loss = time.monotonic()  # the clock of the leases
        self._context.everyone.give_up(rank)
        ended = [loss.group] if loss.ended and loss.group is not None else []
        failure: RunFailed | None = None
        try:
            self._journal.write("lost", ranks=[rank], hosts=[loss.host], groups=ended, cause=cause)
        except RunFailed as error:  # what is left of the job is still to be sent home
            failure = error
        told = f"{loss.host}, rank {rank}: {cause}"
        if not dead:
            # If it is ever heard of again, it has to leave what it was in before it can serve.
            self._context.everyone.post(rank, Disband(loss.group, loss.survivors))
        # The leader stops the service on the nodes that are left; without it each of them stops its own part.
        for survivor in loss.survivors if loss.leader is None else [loss.leader]:
            self._context.everyone.post(survivor, Disband(loss.group, tuple(sorted(self._membership.lost))))
        events: list[Event] = []
        if ended:
            self._monitor.lost(ended[0], told)
            events = self._dispatcher.leave(ended[0], told, now, time.time())
        else:
            self._monitor.note(f"lost {told}")
        if failure is not None and not self._closing:
            raise failure
        return events

    def _form(self) -> None:
        """New groups of the ranks that have become free, in the place of those that ended."""
        if self._closing:
            return
        for number, placed in self._membership.form():
            for node in placed.nodes:
                self._context.everyone.post(node.rank, Form(number, placed))
            self._journal.write(
                "formed",
                group=number,
                hosts=[node.host for node in placed.nodes],
                ranks=[node.rank for node in placed.nodes],
                cores=[list(node.cores) for node in placed.nodes],
            )
            self._monitor.formed(number, placed.hosts)
            self._dispatcher.join(number)
            self._changed = True

    def _order(self, group: int, content: Assignment | Cancel) -> None:
        self._context.everyone.post(self._membership.leader(group), Order(group, content))

    # Signs of life, and the end

    def _look_for_folder(self, now: float) -> None:
        if now - self._looked >= BEAT:
            self._looked = now
            self._journal.check_place()

    def _sign(self, now: float) -> None:
        if now - self._beat < BEAT:
            return
        self._beat = now
        # One that is lost and still heard of has to leave its group first, and must not take this rank for dead.
        unheard = self._leases.silent_since(time.monotonic() - self._context.config.parallel.lease)
        for rank in set(range(1, self._context.world.size)) - (self._membership.lost & unheard):
            self._context.everyone.post(rank, Alive())
        # A supervisor that cannot see it will restart the job, which is right if the disk is gone, and if a thread of
        # this process hangs.
        if not self._stuck:
            with contextlib.suppress(OSError):
                write_beat(self._beat_file, *self._journal.since)

    def _send_home(self) -> None:
        """Have every rank stop what it has, and leave MPI together."""
        limit = time.monotonic() + GOODBYE
        leaders = [self._membership.leader(group) for group in self._membership.groups]
        leaving = self._membership.leaving
        for rank in {*leaders, *self._membership.spares, *leaving}:
            self._context.everyone.post(rank, Finish())
        while not self._all_left():
            if self._out_of_patience() or time.monotonic() > limit:
                self.abandoned = True
                depart(self._context, time.monotonic() + FAREWELL)
                return
            self._step()
        depart(self._context, limit)
        self.abandoned = bool(self._membership.lost - self._context.everyone.failed)

    @property
    def silent(self) -> str:
        """The ranks that have neither left nor died, in words; empty if there are none."""
        others = set(range(1, self._context.world.size))
        return self._who(others - self._left - self._context.everyone.failed)

    def _all_left(self) -> bool:
        return set(range(self._context.world.size)) <= self._left | self._membership.lost

    def _out_of_patience(self) -> bool:
        """Whether a signal came so long ago that a node which does not answer must not be waited for any more."""
        if self._interrupts.received is not None and self._patience is None:
            self._patience = time.monotonic() + PATIENCE
        return self._patience is not None and time.monotonic() >= self._patience

    def _host(self, rank: int) -> str:
        return self._context.plan.node(rank).host

    def _who(self, ranks: Collection[int]) -> str:
        return ", ".join(f"rank {rank} on {self._host(rank)}" for rank in sorted(ranks))
