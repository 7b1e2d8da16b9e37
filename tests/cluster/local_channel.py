"""A channel whose ends are objects of one process."""

from __future__ import annotations

from collections import deque
from typing import Any


class LocalChannel:
    """The one-process twin of :class:`MpiChannel`: every end is an object of the same process."""

    failed: frozenset[int] = frozenset()

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

    def give_up(self, rank: int, lost: bool = True) -> None:
        """Nothing is ever waited for here."""

    @property
    def idle(self) -> bool:
        return True
