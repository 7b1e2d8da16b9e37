"""Messages between the ranks of one communicator, in order for each pair, that never block.

Where the job runs with ULFM (MPI 5.0 draft, chapter on fault tolerance; ``mpirun --with-ft ulfm``), the death of a rank
is an error of the calls that name it, and nothing more: messages between the others go on.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol, TypeVar

_ASK_FAILED = 0.25
"""Seconds between two questions for dead ranks: a probe alone does not tell of each."""

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
        """Whether every message posted here has left, but for those to ranks given up; :meth:`take` sends them."""

    @property
    def failed(self) -> frozenset[int]:
        """The ranks that are dead, where MPI tells; nothing reaches them, and nothing comes from them any more."""

    def give_up(self, rank: int, lost: bool = True) -> None:
        """Count messages to ``rank`` no more for :attr:`idle`; with ``lost`` false, count them again."""


class MpiChannel:
    """A channel over one communicator, which it owns."""

    def __init__(self, comm: Any, wake: threading.Event, mpi: Any, tolerant: bool) -> None:
        self._comm = comm
        self._wake = wake
        self._mpi = mpi
        self._tolerant = tolerant
        self._whole = True
        self._asked = 0.0
        self._failed: frozenset[int] = frozenset()
        self._given_up: set[int] = set()
        self._outbox: deque[tuple[int, object]] = deque()
        self._sends: list[tuple[int, Any]] = []
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
            elif dest not in self._failed:
                request = self._survive(dest, partial(self._comm.isend, message, dest))
                self._sends += [(dest, request)] if request is not None else []
        self._sends = [(dest, request) for dest, request in self._sends if not self._sent(dest, request)]
        taken += self._from_any()
        if not self._whole:
            taken += self._from_each()
        self._ask_failed()
        return taken

    @property
    def idle(self) -> bool:
        return not self._outbox and all(dest in self._given_up or dest in self._failed for dest, _ in self._sends)

    @property
    def failed(self) -> frozenset[int]:
        return self._failed

    def give_up(self, rank: int, lost: bool = True) -> None:
        (self._given_up.add if lost else self._given_up.discard)(rank)

    def _from_any(self) -> Iterator[tuple[int, Any]]:
        """What has arrived from any rank, as long as all live: a probe for any source costs the same in any world."""
        status = self._mpi.Status()
        while self._whole:
            try:
                arrived = self._comm.improbe(status=status)
            except self._mpi.Exception:
                if not self._tolerant:
                    raise
                self._whole = False  # once one rank has died, such a probe raises for good
                return
            if arrived is None:
                return
            source = status.Get_source()
            if (message := self._received(source, arrived)) is not None:
                yield source, message[0]

    def _from_each(self) -> Iterator[tuple[int, Any]]:
        """What has arrived, rank by rank."""
        for source in range(self.size):
            while source != self.rank and (message := self._next_from(source)) is not None:
                yield source, message[0]

    def _next_from(self, source: int) -> tuple[Any] | None:
        """The next message of a rank, if one is here."""
        # What a rank has sent before its death can still be here, so the dead are probed as well.
        arrived = self._survive(source, partial(self._comm.improbe, source))
        return None if arrived is None else self._received(source, arrived)

    def _received(self, source: int, arrived: Any) -> tuple[Any] | None:
        """A message that has arrived; None if its sender has died before all of it was sent."""
        return self._survive(source, lambda: (arrived.recv(),))

    def _sent(self, dest: int, request: Any) -> bool:
        done = self._survive(dest, request.Test)
        return bool(done) or dest in self._failed

    def _survive(self, other: int, call: Callable[[], T]) -> T | None:
        """What MPI answers; None where it says that the other rank is dead."""
        try:
            return call()
        except self._mpi.Exception:
            if not self._tolerant:
                raise
            self._failed |= {other}
            return None

    def _ask_failed(self) -> None:
        if self._tolerant and time.monotonic() - self._asked >= _ASK_FAILED:
            self._asked = time.monotonic()
            group = self._comm.Get_failed()
            if group.Get_size():
                self._failed |= frozenset(group.Translate_ranks(None, self._comm.Get_group()))
