"""What leader, member and spare each do, top to bottom.

Every rank has a :class:`Station`, which obeys the root; the root (``root.py``) has one too, and leads a group as well.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from mpipso.cluster.dispatch import Cancel, Progress
from mpipso.errors import LOST, EvaluationFailed
from mpipso.evaluation import Assignment, Failure
from mpipso.links import Link, SharedLink
from mpipso.messages import ROOT, Alive, Depart, Disband, Finish, Fled, Form, Free, Interrupted, Left, Order, Within
from mpipso.redact import Redactor
from mpipso.rendezvous import RankContext
from mpipso.search.objective import Objective
from mpipso.service.clients.base import CLIENTS
from mpipso.service.engines.base import engine_of
from mpipso.service.group import ServiceGroup
from mpipso.service.remote import NO_THREAD, Abandon, Agent, Answer, RemoteNode, Request
from mpipso.signals import Interrupts

BEAT = 2.0
"""Seconds between two signs of life."""


class Role(Protocol):
    """What a rank does in a group, as leader or as member; ``form`` is the message that formed the group."""

    form: Form

    def hear(self, seat: int, message: object) -> None:
        """Take a message of another rank of the group, by its seat."""

    def obey(self, content: Assignment | Cancel) -> None:
        """Do what the root orders: evaluate an assignment, or give up the evaluation that runs."""

    def end(self, gone: tuple[int, ...] = (), *, close: bool) -> None:
        """Begin to stop what runs, without waiting for it; the ranks in ``gone`` do not answer any more.

        With ``close`` the run is over, so that the node's files are removed too; else it will serve another group.
        """

    def step(self) -> None:
        """Do what there is to do at this moment; never waits."""

    @property
    def over(self) -> bool:
        """Whether everything has been stopped, and every message sent."""


class Station:
    """What this rank is at the moment, as the root says: leader or member of a group, or spare.

    By the ``clock``, which tells the time in seconds, the root's silence is measured.
    """

    def __init__(
        self, context: RankContext, interrupts: Interrupts, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._context = context
        self._interrupts = interrupts
        self._role: Role | None = None
        self._early: list[tuple[int, Within]] = []
        self._disbanding = False
        self._finishing = False
        self._told = False
        self._beat = 0.0
        self._heard = self._stepped = clock()
        self.left = False
        """Whether nothing of the run is left here."""
        self.departing = False
        """Whether the root has said that the run is over for all."""
        if context.place.form is not None:
            self._take_seat(context.place.form)

    def hear(self, source: int, message: object) -> None:
        """Take a message that rank ``source`` has sent: the root, or another rank of this rank's group."""
        if source == ROOT:
            self._heard = self._clock()
        role = self._role
        match message:
            case Form():
                self._take_seat(message)
            case Disband():
                self._disbanding = True
                if role is not None and role.form.group == message.group:
                    role.end(message.gone, close=False)
            case Order():
                if role is not None and role.form.group == message.group:
                    role.obey(message.content)
            case Within():
                if role is not None and role.form.group == message.group:
                    ranks = [node.rank for node in role.form.placed.nodes]
                    if source in ranks:
                        self._hear_within(role, ranks.index(source), message.content)
                elif role is None or role.form.group < message.group:
                    # The leader of a new group has heard of it before this rank has.
                    self._early.append((source, message))
            case Finish():
                self._finishing = True
                if role is not None:
                    role.end(close=True)
            case Depart():
                self.departing = True

    def _hear_within(self, role: Role, seat: int, message: object) -> None:
        """A leader that ends its group says so in the root's words."""
        if isinstance(message, (Disband, Finish)):
            self.hear(self._context.world.rank, message)
        else:
            role.hear(seat, message)

    def step(self) -> None:
        """One turn; never waits."""
        now = self._clock()
        if now - self._stepped > self._context.config.parallel.lease / 2:
            # This process itself was stopped and could hear nobody.
            self._heard = now
        self._stepped = now
        role = self._role
        if role is not None:
            if self._context.group is not None:
                for seat, message in self._context.group.take():
                    if role.form.group == self._context.place.index:
                        self._hear_within(role, seat, message)
            role.step()
            if role.over:
                self._role = None
        if self._role is None and self._disbanding and not self._finishing:
            self._disbanding = False
            self._context.everyone.post(ROOT, Free())
        if self._role is None and self._finishing and not self.left:
            self._context.node.close()
            self._context.everyone.post(ROOT, Left())
            self.left = True
        self._say()

    @property
    def forsaken(self) -> bool:
        """Whether the root is dead, or has been silent for more than four leases."""
        silence = self._clock() - self._heard
        return ROOT in self._context.everyone.failed or silence > 4 * self._context.config.parallel.lease

    def flee(self) -> None:
        """Stop everything on this node; the root is told of no result, and if it has not ended the run, of the flight.

        It may only have stood still.
        """
        if not self.departing:
            self._context.everyone.post(ROOT, Fled())
            self._context.everyone.take()
        self._cancel()
        with contextlib.suppress(EvaluationFailed):
            self._context.node.close()

    def _take_seat(self, form: Form) -> None:
        seat = next(i for i, node in enumerate(form.placed.nodes) if node.rank == self._context.world.rank)
        self._context.node.assign(form.placed.nodes[seat])
        own = self._context.group if form.group == self._context.place.index else None
        link: Link = own if own is not None else SharedLink(self._context.everyone, form)
        self._role = Leader(self._context, form, link) if seat == 0 else Member(self._context, form, link)
        early, self._early = self._early, []
        for source, message in early:
            self.hear(source, message)

    def _say(self) -> None:
        """Signs of life, and a signal that this rank was sent; what runs here does not wait for the root to end it."""
        if self._interrupts.received is not None and not self._told:
            self._told = True
            self._context.everyone.post(ROOT, Interrupted(self._interrupts.received))
            if self._context.world.rank != ROOT:  # which knows what runs, and gives its own leader the order as well
                self._cancel()
        now = self._clock()
        if now - self._beat >= BEAT:
            self._beat = now
            self._context.everyone.post(ROOT, Alive())

    def _cancel(self) -> None:
        """Give up the evaluation that runs here, if any."""
        if self._role is not None:
            self._role.obey(Cancel())


class Leader:
    """The first rank of a group: evaluates what the root assigns to the group.

    An evaluation runs in a thread, while the main thread passes messages on.
    """

    def __init__(self, context: RankContext, form: Form, link: Link) -> None:
        self.form = form
        self._context = context
        self._link = link
        placed = form.placed
        # Hosts that are reached over ssh belong to the group that this rank led first, and were left with it.
        self._ssh_nodes = context.ssh_nodes if form.group == context.place.index else None
        self._members = {
            seat: RemoteNode(node, context.work_dirs[node.rank], self._sender(seat))
            for seat, node in enumerate(placed.nodes)
            if seat != 0 and node.transport == "mpi"
        }
        self._group = ServiceGroup(
            form.group,
            [context.node, *self._members.values(), *(self._ssh_nodes.nodes.values() if self._ssh_nodes else ())],
            placed.master_node_index,
            context.config,
            engine_of(context.config),
            CLIENTS.create(context.config.benchmark.client),
            Objective(context.config.objective).absolute,
            self._progress,
            port=placed.port,
        )
        self._redactor = Redactor(os.environ)  # the root does not know what is secret here
        self._redactor.learn({"api_key": os.environ.get(context.config.benchmark.api_key_env)})
        self._assignment: Assignment | None = None
        self._cancel = threading.Event()
        self._thread: threading.Thread | None = None
        self._ending = False
        self._closing = False
        self._closed = False

    @property
    def over(self) -> bool:
        return self._closed and not self._busy and self._link.idle

    def hear(self, seat: int, message: object) -> None:
        if isinstance(message, Answer):
            self._members[seat].answered(message)

    def obey(self, content: Assignment | Cancel) -> None:
        if isinstance(content, Assignment):
            self._begin(content)
        else:
            self._cancel.set()

    def end(self, gone: tuple[int, ...] = (), *, close: bool) -> None:
        self._cancel.set()
        self._ending = True
        self._closing = self._closing or close
        for seat, node in enumerate(self.form.placed.nodes):
            if node.rank in gone and seat in self._members:
                self._link.give_up(seat)
                self._members[seat].lost("no sign of life")

    def step(self) -> None:
        if self._ending and not self._closed and not self._busy:
            try:
                self._run(self._close)
            except RuntimeError:
                self._close(alone=True)

    @property
    def _busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _begin(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._cancel.clear()
        try:
            self._run(lambda: self._evaluate(assignment))
        except RuntimeError as error:
            cause = f"{self._context.node.name}: {error} {NO_THREAD}"
            failed = replace(assignment.evaluation(self.form.group), failure=Failure(cause, "infrastructure"))
            self._context.everyone.post(ROOT, failed)

    def _run(self, work: Callable[[], None]) -> None:
        """Begin it in a thread; RuntimeError where no more can be started."""
        if self._thread is not None:
            self._thread.join()
        thread = threading.Thread(target=work, name="evaluation")
        thread.start()
        self._thread = thread

    def _evaluate(self, assignment: Assignment) -> None:
        try:
            evaluation = self._group.evaluate(assignment, self._cancel)
        except Exception as error:  # a defect of ours must not keep the root waiting for this group for ever
            failure = Failure(f"internal error: {error!r}", "infrastructure", traceback.format_exc())
            evaluation = replace(assignment.evaluation(self.form.group), failure=failure)
        self._context.everyone.post(ROOT, self._redactor.evaluation(evaluation))

    def _close(self, alone: bool = False) -> None:
        """Without the members if ``alone``: the main thread cannot wait for their answers; they close themselves."""
        try:
            # What cannot be closed belongs to a node that is lost, and ends with it.
            with contextlib.suppress(EvaluationFailed):
                if self._closing and not alone:
                    self._group.close()
                else:
                    self._context.node.release()
            if self._ssh_nodes is not None:
                self._ssh_nodes.close()
        finally:
            for seat in self._members:
                self._link.post(seat, Finish() if self._closing else Disband(self.form.group))
            self._closed = True
            self._context.world.wake()

    def _progress(self, phase: str, detail: str) -> None:
        if self._assignment is not None:
            number, attempt = self._assignment.number, self._assignment.attempt
            told = Progress(self.form.group, number, attempt, phase, self._redactor.text(detail))
            self._context.everyone.post(ROOT, told)

    def _sender(self, seat: int) -> Callable[[object], None]:
        return lambda message: self._link.post(seat, message)


class Member:
    """Any other rank of a group: starts, stops and copies on its node what the group's leader asks for."""

    def __init__(self, context: RankContext, form: Form, link: Link) -> None:
        self.form = form
        self._node = context.node
        self._link = link
        self._wake = context.world.wake
        self._agent = Agent(context.node, lambda answer: link.post(0, answer))
        self._thread: threading.Thread | None = None

    @property
    def over(self) -> bool:
        return self._thread is not None and not self._thread.is_alive()

    def hear(self, seat: int, message: object) -> None:
        if isinstance(message, (Request, Abandon)) and self._thread is None:
            self._agent.handle(message)

    def obey(self, content: Assignment | Cancel) -> None:
        """Assignments are for leaders; a signal that this rank was sent is the root's affair."""

    def end(self, gone: tuple[int, ...] = (), *, close: bool) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._end, name="end of the group")
            try:
                self._thread.start()
            except RuntimeError:  # no thread can be started; the root waits longer for this rank, but not for ever
                self._end()

    def step(self) -> None:
        """Everything is done as it is heard."""

    def _end(self) -> None:
        try:
            self._agent.close()
            # What cannot be stopped holds its device or port, which the next start on this node will tell.
            with contextlib.suppress(EvaluationFailed):
                self._node.release()
        finally:
            self._wake()


def serve(context: RankContext, interrupts: Interrupts) -> int:
    """What a rank other than the root does, from its first place until all ranks leave; returns its exit code."""
    station = Station(context, interrupts)
    while not (station.departing and context.everyone.idle):
        for source, message in context.everyone.take():
            station.hear(source, message)
        station.step()
        if station.forsaken:
            break
        context.world.nap()
    if not station.left:  # the root has not waited for this rank, or is gone
        station.flee()
    return 0 if station.departing else LOST
