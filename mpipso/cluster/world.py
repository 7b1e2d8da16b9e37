"""All of MPI: the ranks of the job, and messages between them that cost nothing while nobody speaks.

A rank that blocks in MPI keeps a core busy, which belongs to the service under test. So every wait is a nap between
probes, sends are kept until MPI has taken them, and collectives happen at start-up only. Any thread may post; MPI
itself is called by the main thread alone.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any, Protocol, TypeVar

from mpipso.errors import UserError

NAP = 0.015
"""Seconds between two probes: at 15 ms a waiting rank asks for about 0.004 of a core."""

_LAST = 0.5

T = TypeVar("T")


class Channel(Protocol):
    """Messages between the ranks of one communicator, in order for each pair of ranks."""

    rank: int
    size: int

    def post(self, dest: int, message: object) -> None:
        """Hand over a message for ``dest`` (this rank too); returns at once, from any thread."""

    def take(self) -> list[tuple[int, Any]]:
        """All messages that are here, as (source, message); main thread only, never waits."""

    @property
    def idle(self) -> bool:
        """Whether everything posted has left this rank; :meth:`take` makes it so."""


class World(Protocol):
    """The ranks of the job."""

    rank: int
    size: int
    library: str

    def gather(self, value: T) -> list[T]:
        """The value of every rank, by rank. Collective, at start-up only."""

    def share(self, value: T) -> T:
        """The value of rank 0. Collective, at start-up only."""

    def split(self, color: int | None, *, key: int = 0) -> Channel | None:
        """The channel of the ranks with the same colour, ordered by key. Collective, at start-up only."""

    def channel(self) -> Channel:
        """A channel of all ranks. Collective, at start-up only."""

    def wake(self) -> None:
        """End the main thread's nap, from any thread."""

    def nap(self) -> None:
        """Wait until there may be something to do."""

    def leave(self, *, last: bool) -> None:
        """Take leave of MPI; collective. ``last`` is for a rank whose exit code matters: it leaves after the others."""

    def abort(self, code: int) -> None:
        """End every rank of the job with this exit code; for errors that only one rank knows of."""


class MpiChannel:
    """A channel over one communicator, which it owns."""

    def __init__(self, comm: Any, wake: threading.Event) -> None:
        self._comm = comm
        self._wake = wake
        self._outbox: deque[tuple[int, object]] = deque()
        self._sends: list[Any] = []
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()

    def post(self, dest: int, message: object) -> None:
        self._outbox.append((dest, message))
        self._wake.set()

    def take(self) -> list[tuple[int, Any]]:
        taken: list[tuple[int, Any]] = []
        while self._outbox:
            dest, message = self._outbox.popleft()
            if dest == self.rank:
                taken.append((dest, message))
            else:
                self._sends.append(self._comm.isend(message, dest))
        self._sends = [request for request in self._sends if not request.Test()]
        # Source by source: a probe for any source raises for good once one rank has died.
        for source in range(self.size):
            while source != self.rank and (arrived := self._comm.improbe(source)) is not None:
                taken.append((source, arrived.recv()))
        return taken

    @property
    def idle(self) -> bool:
        return not self._outbox and not self._sends


class MpiWorld:
    """The job that ``mpirun`` or ``srun`` started, or one rank alone without them."""

    def __init__(self) -> None:
        import mpi4py

        # Only the main thread calls MPI, and uncaught exceptions are turned into an abort by roles.run.
        mpi4py.rc.thread_level = "funneled"
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"no MPI library can be loaded ({reason}): install an MPI, or use ./run.sh") from None

        self._mpi = MPI
        self._comm = MPI.COMM_WORLD.Dup()
        self._wake = threading.Event()
        self.rank: int = self._comm.Get_rank()
        self.size: int = self._comm.Get_size()
        self.library = MPI.Get_library_version().split(",")[0].splitlines()[0].strip("\0 ")

    def gather(self, value: T) -> list[T]:
        values: list[T] = self._comm.allgather(value)
        return values

    def share(self, value: T) -> T:
        shared: T = self._comm.bcast(value, root=0)
        return shared

    def split(self, color: int | None, *, key: int = 0) -> Channel | None:
        comm = self._comm.Split(self._mpi.UNDEFINED if color is None else color, key)
        return None if comm == self._mpi.COMM_NULL else MpiChannel(comm, self._wake)

    def channel(self) -> Channel:
        return MpiChannel(self._comm.Dup(), self._wake)

    def wake(self) -> None:
        self._wake.set()

    def nap(self) -> None:
        self._wake.wait(NAP)
        self._wake.clear()

    def leave(self, *, last: bool) -> None:
        self._mpi.Finalize()
        if last and self.size > 1:
            # Open MPI prints a page about a rank with an exit code other than 0 while others still run.
            time.sleep(_LAST)

    def abort(self, code: int) -> None:
        self._comm.Abort(code)


class LocalChannel:
    """The one-process twin of :class:`MpiChannel`: every end is an object of the same process."""

    def __init__(self, rank: int, mailboxes: list[deque[tuple[int, object]]]) -> None:
        self._mailboxes = mailboxes
        self.rank = rank
        self.size = len(mailboxes)

    @classmethod
    def connected(cls, size: int) -> list[LocalChannel]:
        """The ends of a new channel, by rank."""
        mailboxes: list[deque[tuple[int, object]]] = [deque() for _ in range(size)]
        return [cls(rank, mailboxes) for rank in range(size)]

    def post(self, dest: int, message: object) -> None:
        self._mailboxes[dest].append((self.rank, message))

    def take(self) -> list[tuple[int, Any]]:
        mailbox = self._mailboxes[self.rank]
        return [mailbox.popleft() for _ in range(len(mailbox))]

    @property
    def idle(self) -> bool:
        return True
