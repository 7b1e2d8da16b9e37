"""The ranks of the job: how they begin and end together, and channels between them that cost nothing in silence.

A rank that blocks in MPI keeps a core busy, which belongs to the service under test. So every wait is a nap between
probes, sends are kept until MPI has taken them, and collectives happen at start-up only. Any thread may post; MPI
itself is called by the main thread alone.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from mpipso.cluster.channel import Channel, MpiChannel
from mpipso.cluster.facts import ranks_in
from mpipso.errors import Relayed, RunFailed, UserError

NAP = 0.02
"""Seconds between two probes: a waiting rank then asks for well below a hundredth of a core."""

_LAST = 0.5
"""Seconds in which the others end, or in which they say why a call has failed."""
_ABORT_LIMIT = 5.0
"""Seconds for the last words of a rank that aborts, and for those that it waits for."""
_LEAVE_LIMIT = 10.0
"""Seconds for all ranks to come to the end, and for that of MPI: one that is frozen or cut off never does."""
_ULFM = ("OMPI_MCA_mpi_ft_enable", "1")

_ROOT_LIMIT = 300.0
"""Seconds for the root to come to the end as well: it finishes its record when the others are on their way."""

T = TypeVar("T")


class World(Protocol):
    """The ranks of the job, as one of them sees it.

    What is collective is called by all ranks in the same order, and at start-up only.
    """

    rank: int
    """The number of this rank, from 0; rank 0 is the root."""
    size: int
    """How many ranks there are."""
    library: str
    """The MPI library and its version, in words."""
    tolerant: bool
    """Whether the job survives the death of a rank."""

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, by rank, on rank 0; an empty list on the others. Collective."""

    def scatter(self, values: Sequence[T]) -> T:
        """What rank 0 has for this rank: ``values``, by rank, count on rank 0 alone. Collective."""

    def bcast(self, value: T) -> T:
        """The value that rank 0 gives; those of other ranks do not count. Collective."""

    def split(self, color: int | None, *, key: int = 0) -> Channel | None:
        """A channel of the ranks with the same ``color``, ordered by ``key``; none for ``color`` None. Collective."""

    def channel(self) -> Channel:
        """A channel of all ranks. Collective."""

    def wake(self) -> None:
        """End the main thread's nap, from any thread."""

    def nap(self) -> None:
        """Wait for :data:`NAP` seconds, or until :meth:`wake` is called."""

    def leave(self, code: int) -> None:
        """Take leave of MPI together with all other ranks.

        The call returns when MPI has ended. If a rank does not come, this process ends with its exit code ``code``
        instead, and so does the job unless it is tolerant; in the end of MPI itself, ``SIGALRM`` ends a process that
        waits for too long.
        """

    def abort(self, code: int) -> None:
        """End this rank and, unless they survive it, every other with this exit code."""


@dataclass(frozen=True)
class _Broken:
    """These ranks cannot take part in the start; or from rank 0: it leaves without those that do not come."""

    ranks: tuple[int, ...]
    died: bool


@dataclass(frozen=True)
class _Ready:
    """Any rank to rank 0: it has come to leave."""


@dataclass(frozen=True)
class _Go:
    """Rank 0 to any rank: all have come, and MPI can end."""


class MpiWorld:
    """The job that ``mpirun`` or ``srun`` started, or one rank alone without them.

    Raises
    ------
    UserError
        There is no MPI library, or it does not see the other ranks that were started.
    """

    def __init__(self) -> None:
        import mpi4py

        # Only the main thread calls MPI, and uncaught exceptions are turned into an abort by run.tune.
        mpi4py.rc.thread_level = "funneled"
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"no MPI library can be loaded ({reason}): install an MPI, or use ./run.sh") from None

        self._mpi = MPI
        self._comm = MPI.COMM_WORLD.Dup()
        self._wake = threading.Event()
        self.tolerant = os.environ.get(_ULFM[0]) == _ULFM[1]
        self.rank: int = self._comm.Get_rank()
        self.size: int = self._comm.Get_size()
        self._meeting = self._channel(self._comm.Dup())
        self._inbox: dict[int, deque[Any]] = {rank: deque() for rank in range(self.size)}
        self._ready: set[int] = set()
        self._broken = _Broken((self.rank,), died=False)
        self._gone: set[int] = set()
        version: str = MPI.Get_library_version().split(",")[0].splitlines()[0]
        self.library = " ".join(version.strip("\0 ").split())
        if self.size == 1 and (tasks := ranks_in(os.environ)) > 1:
            raise UserError(
                f"{tasks} tasks, but MPI sees one: srun --mpi=pmix (Open MPI) or --mpi=pmi2 (MPICH), "
                f"or the mpirun of {self.library}"
            )

    def gather(self, value: T) -> list[T]:
        self._meeting.post(0, value)
        return [self._next_of(source) for source in range(self.size)] if self.rank == 0 else []

    def scatter(self, values: Sequence[T]) -> T:
        if self.rank != 0:
            own: T = self._next_of(0)
            return own
        for rank in range(1, self.size):
            self._meeting.post(rank, values[rank])
        while self._hear() or not self._meeting.idle:
            self.nap()
        return values[0]

    def bcast(self, value: T) -> T:
        return self.scatter([value] * self.size)

    def _next_of(self, source: int) -> Any:
        """The next of its messages; not by a collective, which waits for ever for a rank that has died."""
        while not self._inbox[source]:
            if not self._hear():
                self.nap()
        return self._inbox[source].popleft()

    def _hear(self) -> bool:
        taken = self._meeting.take()
        for source, message in taken:
            if not self._note(source, message):
                self._inbox[source].append(message)
            if isinstance(message, _Broken):
                raise self._cannot_start(message)
        if not taken and self._meeting.failed:
            raise self._cannot_start(_Broken(tuple(sorted(self._meeting.failed)), died=True))
        return bool(taken)

    def _cannot_start(self, broken: _Broken) -> RunFailed:
        """The error of this rank, of which :meth:`abort` tells the others; one rank says it to the user."""
        self._broken = broken
        ranks = ", ".join(map(str, broken.ranks))
        kind = RunFailed if self.rank == self._teller() else Relayed
        return kind(f"the job cannot start: rank {ranks} {'died' if broken.died else 'has failed'}")

    def _teller(self) -> int:
        """The rank that tells the user why the job cannot start."""
        others = (rank for rank in range(self.size) if rank not in self._broken.ranks)
        return next(others) if self._broken.died else 0

    def _note(self, source: int, message: object) -> bool:
        """Remember it if a rank says that it leaves or aborts; returns whether it does."""
        if isinstance(message, _Ready):
            self._ready.add(source)
        if isinstance(message, _Broken):
            self._gone.add(source)
        return isinstance(message, (_Ready, _Broken))

    def _take_notes(self) -> None:
        for source, message in self._meeting.take():
            self._note(source, message)

    def split(self, color: int | None, *, key: int = 0) -> Channel | None:
        comm = self._together(lambda: self._comm.Split(self._mpi.UNDEFINED if color is None else color, key))
        return None if comm == self._mpi.COMM_NULL else self._channel(comm)

    def channel(self) -> Channel:
        return self._channel(self._together(self._comm.Dup))

    def _together(self, call: Callable[[], T]) -> T:
        """What a collective call of MPI returns.

        Raises
        ------
        RunFailed
            A rank has died or failed meanwhile.
        """
        try:
            return call()
        except self._mpi.Exception as error:
            limit = time.monotonic() + _LAST
            while time.monotonic() < limit:  # who it is comes in a message, or MPI says it when it is asked again
                if not self._hear():
                    self.nap()
            raise RunFailed(f"the job cannot start: {error}") from None

    def wake(self) -> None:
        self._wake.set()

    def nap(self) -> None:
        self._wake.wait(NAP)
        self._wake.clear()

    def leave(self, code: int) -> None:
        if not (self._all_come() if self.rank == 0 else self._sent_off()):
            self._leave_alone(code)
        # No thread and no handler of Python's gets a turn in Finalize, which keeps the interpreter's lock.
        sooner, _ = signal.getitimer(signal.ITIMER_REAL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, min(sooner or _LEAVE_LIMIT, _LEAVE_LIMIT))
        self._mpi.Finalize()
        signal.setitimer(signal.ITIMER_REAL, 0)
        if code and self.size > 1:
            # Open MPI prints a page about a rank with an exit code other than 0 while others still run.
            time.sleep(_LAST)

    def _all_come(self) -> bool:
        """Whether all other ranks come to leave; then they are sent off."""
        others = set(range(1, self.size))
        limit = time.monotonic() + _LEAVE_LIMIT
        while others - self._ready - self._gone - self._meeting.failed and time.monotonic() < limit:
            self._take_notes()
            self.nap()
        if others - self._ready:
            return False
        for rank in others:
            self._meeting.post(rank, _Go())
        while not self._meeting.idle and time.monotonic() < limit:
            self._meeting.take()
        return True

    def _sent_off(self) -> bool:
        """Whether rank 0 lets MPI end; to wait for that in the end of MPI would cost a core."""
        self._meeting.post(0, _Ready())
        limit = time.monotonic() + _ROOT_LIMIT
        while time.monotonic() < limit:
            taken = self._meeting.take()
            for source, message in taken:
                if source == 0 and isinstance(message, (_Go, _Broken)):
                    return isinstance(message, _Go)
            if not taken and 0 in self._meeting.failed:
                break
            self.nap()
        return False

    def _leave_alone(self, code: int) -> None:
        if self.rank == 0:
            self.abort(code)
        if not self.tolerant:  # rank 0 would have ended the job
            self._comm.Abort(code or 1)
        os._exit(code)

    def abort(self, code: int) -> None:
        if not self.tolerant:
            self._comm.Abort(code)
        # Those who wait for this rank, to begin or to leave, would not learn that it is gone: it was not killed.
        for rank in range(self.size):
            if rank != self.rank:
                self._meeting.post(rank, self._broken)
        # ... nor would those in a collective call.
        self._comm.Revoke()
        limit = time.monotonic() + _ABORT_LIMIT
        while time.monotonic() < limit and not self._may_go():
            self._take_notes()
            self.nap()
        os._exit(code)

    def _may_go(self) -> bool:
        """Whether all is said: when some have ended with a code, Open MPI drops what the others still print."""
        failed, teller = self._meeting.failed, self._teller()
        told = teller == self.rank or teller in self._gone | failed
        # What is under way from a process that exits may be lost, so rank 0 sees those go that have come to leave.
        return self._meeting.idle and told and self._ready <= failed

    def _channel(self, comm: Any) -> MpiChannel:
        return MpiChannel(comm, self._wake, self._mpi, self.tolerant)
