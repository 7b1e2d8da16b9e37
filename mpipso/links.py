"""How the ranks of a group reach each other, by a channel of their own or by that of all ranks."""

from __future__ import annotations

from typing import Protocol

from mpipso.cluster.channel import Channel
from mpipso.messages import Form, Within


class Link(Protocol):
    """How leader and members of a group reach each other: a part of :class:`~mpipso.cluster.channel.Channel`.

    Destinations are seats: a rank's position among the nodes of its group, where the leader has 0.
    """

    def post(self, dest: int, message: object) -> None: ...

    def give_up(self, seat: int, /, lost: bool = True) -> None: ...

    @property
    def idle(self) -> bool: ...


class SharedLink:
    """The link of a group that was formed during the run: it has no channel of its own, and uses that of all ranks."""

    def __init__(self, everyone: Channel, form: Form) -> None:
        self._everyone, self._form = everyone, form

    def post(self, dest: int, message: object) -> None:
        self._everyone.post(self._form.placed.nodes[dest].rank, Within(self._form.group, message))

    def give_up(self, seat: int, /, lost: bool = True) -> None:
        self._everyone.give_up(self._form.placed.nodes[seat].rank, lost)

    @property
    def idle(self) -> bool:
        return self._everyone.idle
