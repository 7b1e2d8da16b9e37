"""What root, leader, member and spare each do, top to bottom: the story of a run on one page."""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mpipso.cluster.dispatch import Assigned, Cancel, Dispatcher, Evaluated, Event, Finish, Progress, Retried
from mpipso.cluster.world import Channel
from mpipso.errors import EvaluationFailed
from mpipso.evaluation import Assignment, Evaluation, Failure
from mpipso.record.monitor import Monitor
from mpipso.service.clients.base import CLIENTS
from mpipso.service.engines.base import ENGINES
from mpipso.service.group import ServiceGroup
from mpipso.service.remote import Agent, RemoteNode
from mpipso.signals import Interrupts
from mpipso.startup import Crew, service_port
from mpipso.tuning import Tuning

T = TypeVar("T")

PATIENCE = 13.0
"""Seconds after a signal in which services are stopped in good order; keepers stop those that are left."""


@dataclass(frozen=True)
class Interrupted:
    """Any rank to root: a signal asks the run to end."""

    signal: int


class Root:
    """Rank 0: runs the swarm, scatters its particles to the leaders, gathers their evaluations; leads group 0 too.

    Attributes
    ----------
    abandoned:
        Whether some group did not stop in time after a signal, so that the job has to be aborted.
    """

    def __init__(self, crew: Crew, tuning: Tuning, monitor: Monitor, interrupts: Interrupts) -> None:
        self._crew = crew
        self._tuning = tuning
        self._monitor = monitor
        self._interrupts = interrupts
        self._leader = Leader(crew)
        self._dispatcher = Dispatcher(_present(crew.orders), _present(crew.reports), retries=crew.config.search.retries)
        limit = crew.config.search.time_limit
        self._deadline = None if limit is None else time.monotonic() + limit
        self._patience: float | None = None
        self.abandoned = False

    def run(self) -> None:
        """The whole run, until the budget is spent or a signal ends it. Every rank is sent home whatever happens.

        Raises
        ------
        RunFailed
            There is no way to go on.
        """
        try:
            self._search()
        finally:
            self._dispatcher.cancel()
            while self._dispatcher.busy and not self._out_of_patience():
                self._step()
            self._send_home()

    def _search(self) -> None:
        while not self._over() and (iteration := self._tuning.iterate()) is not None:
            self._gather(iteration.assignments, until=self._over)
            iteration.close()
        if self._interrupts.received is None:
            self._gather(self._tuning.confirmations(), until=lambda: False)

    def _gather(self, assignments: Sequence[Assignment], until: Callable[[], bool]) -> None:
        """Have particles evaluated; when ``until`` says so, start no more of them. An interruption cancels all."""
        self._dispatcher.submit(assignments)
        while self._dispatcher.busy:
            for event in self._step():
                self._take(event)
            if self._interrupts.received is not None:
                self._dispatcher.cancel()
                if self._out_of_patience():
                    return
            elif until():
                self._dispatcher.drop_queue()

    def _take(self, event: Event) -> None:
        match event:
            case Progress():
                self._monitor.phase(event.group, event.phase)
            case Assigned():
                self._tuning.assigned(event.group, event.assignment)
            case Retried():
                self._tuning.retried(event.evaluation)
            case Evaluated():
                self._tuning.evaluated(event.evaluation)

    def _step(self) -> list[Event]:
        """One turn of rank 0: as leader, as root, then a nap."""
        self._leader.step()
        for _, message in self._crew.everyone.take():
            if isinstance(message, Interrupted) and self._interrupts.received is None:
                self._interrupts.received = message.signal
        events = self._dispatcher.step()
        self._monitor.tick()
        self._crew.world.nap()
        return events

    def _over(self) -> bool:
        late = self._deadline is not None and time.monotonic() >= self._deadline
        return late or self._interrupts.received is not None

    def _send_home(self) -> None:
        self._dispatcher.finish()
        for spare in self._crew.plan.spares:
            self._crew.everyone.post(spare.rank, Finish())
        while not (self._leader.over and _present(self._crew.orders).idle and self._crew.everyone.idle):
            if self._out_of_patience():
                self.abandoned = True
                return
            self._step()

    def _out_of_patience(self) -> bool:
        """Whether a signal came so long ago that a node which does not answer must not be waited for any more."""
        if self._interrupts.received is not None and self._patience is None:
            self._patience = time.monotonic() + PATIENCE
        return self._patience is not None and time.monotonic() >= self._patience


class Leader:
    """Rank 0 of a group: evaluates what it is assigned in a thread, while its main thread passes messages on."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._orders = _present(crew.orders)
        self._reports = _present(crew.reports)
        self._channel = _present(crew.group)
        placed = crew.placed
        self._members = {
            seat: RemoteNode(node, crew.work_dirs[node.rank], self._sender(seat))
            for seat, node in enumerate(placed.nodes)
            if seat != 0 and node.transport == "mpi"
        }
        self._group = ServiceGroup(
            crew.index or 0,
            [_present(crew.node), *self._members.values(), *crew.reached.values()],
            placed.master_node_index,
            crew.config,
            ENGINES.create(crew.config.service.engine),
            CLIENTS.create(crew.config.benchmark.client),
            self._progress,
            port=service_port(crew.config, crew.plan, crew.index or 0),
        )
        self._assignment: Assignment | None = None
        self._cancel = threading.Event()
        self._thread: threading.Thread | None = None
        self._finishing = False
        self._closed = False

    @property
    def over(self) -> bool:
        """Whether everything of this group is closed and said."""
        return self._closed and not self._busy and self._channel.idle and self._orders.idle

    def cancel(self) -> None:
        """Give up the evaluation that runs."""
        self._cancel.set()

    def step(self) -> None:
        """Obey the root, and pass on what the members answer; never waits."""
        for _, message in self._orders.take():
            if isinstance(message, Assignment):
                self._begin(message)
            elif isinstance(message, Cancel):
                self.cancel()
            elif isinstance(message, Finish):
                self.cancel()
                self._finishing = True
        for seat, answer in self._channel.take():
            self._members[seat].answered(answer)
        if self._finishing and not self._closed and not self._busy:
            self._run(self._close)

    @property
    def _busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _begin(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._cancel.clear()
        self._run(lambda: self._evaluate(assignment))

    def _run(self, work: Callable[[], None]) -> None:
        if self._thread is not None:
            self._thread.join()
        self._thread = threading.Thread(target=work, name="evaluation")
        self._thread.start()

    def _evaluate(self, assignment: Assignment) -> None:
        try:
            evaluation = self._group.evaluate(assignment, self._cancel)
        except Exception:  # a defect of ours must not keep the root waiting for this group for ever
            failure = Failure("internal error", "infrastructure", traceback.format_exc())
            index = self._crew.index or 0
            evaluation = Evaluation(
                assignment.number, assignment.attempt, index, assignment.configuration, assignment.label, {}, failure
            )
        self._reports.post(0, evaluation)

    def _close(self) -> None:
        try:
            # What cannot be closed belongs to a node that is lost, and ends with it.
            with contextlib.suppress(EvaluationFailed):
                self._group.close()
            if self._crew.outside is not None:
                self._crew.outside.close()
        finally:
            for seat in self._members:
                self._channel.post(seat, Finish())
            self._closed = True
            self._crew.world.wake()

    def _progress(self, phase: str) -> None:
        if self._assignment is not None:
            number, attempt = self._assignment.number, self._assignment.attempt
            self._reports.post(0, Progress(self._crew.index or 0, number, attempt, phase))

    def _sender(self, seat: int) -> Callable[[object], None]:
        return lambda message: self._channel.post(seat, message)


def leader(crew: Crew, interrupts: Interrupts) -> None:
    """A leader other than the root."""
    own = Leader(crew)
    reports = _present(crew.reports)
    tell = _Teller(crew, interrupts)
    while not (own.over and reports.idle and crew.everyone.idle):
        if interrupts.received is not None:
            own.cancel()
        own.step()
        reports.take()
        tell.step()
        crew.world.nap()


def member(crew: Crew, interrupts: Interrupts) -> None:
    """The agent of its node: does what its leader asks for until it is sent home."""
    channel = _present(crew.group)
    agent = Agent(_present(crew.node), lambda answer: channel.post(0, answer))
    tell = _Teller(crew, interrupts)
    finished = False
    while not (finished and channel.idle and crew.everyone.idle):
        for _, message in channel.take():
            if isinstance(message, Finish):
                finished = True
            else:
                agent.handle(message)
        tell.step()
        crew.world.nap()
    agent.close()


def spare(crew: Crew, interrupts: Interrupts) -> None:
    """Belongs to no group: waits to be sent home."""
    tell = _Teller(crew, interrupts)
    while not (tell.step() and crew.everyone.idle):
        crew.world.nap()


class _Teller:
    """Tells the root of a signal that this rank received; says whether the root has sent this rank home."""

    def __init__(self, crew: Crew, interrupts: Interrupts) -> None:
        self._channel: Channel = crew.everyone
        self._interrupts = interrupts
        self._told = False
        self._home = False

    def step(self) -> bool:
        if self._interrupts.received is not None and not self._told:
            self._told = True
            self._channel.post(0, Interrupted(self._interrupts.received))
        self._home = self._home or any(isinstance(message, Finish) for _, message in self._channel.take())
        return self._home


def _present(value: T | None) -> T:
    """What this role has by its place in the job."""
    if value is None:
        raise LookupError("this rank has no such part in the job")
    return value
