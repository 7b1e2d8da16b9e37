"""A channel whose MPI says that a rank has died. The communicator is a fake, to inject that at a certain moment."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from mpipso.cluster.channel import MpiChannel

SENT = [(2, "a"), (1, "b"), (2, "c"), (1, "d"), (2, "e")]
"""The messages of ranks 1 and 2, in the order of their arrival at rank 0."""


class Dead(Exception):
    """What MPI raises for a rank that has died."""


class Arrived:
    """What has arrived; a probe for any source raises once there have been as many as ``alive``."""

    def __init__(self, alive: int) -> None:
        self._messages = list(SENT)
        self._alive = alive

    def improbe(self, source: int | None = None, status: Any = None) -> Any:
        if source is None:
            if not self._alive:
                raise Dead
            self._alive -= 1
        found = next((each for each in self._messages if source in (None, each[0])), None)
        if found is None:
            return None
        self._messages.remove(found)
        if status is not None:
            status.Get_source = lambda: found[0]
        return SimpleNamespace(recv=lambda: found[1])


def channel(alive: int, *, tolerant: bool) -> MpiChannel:
    nobody = SimpleNamespace(Get_size=lambda: 0)
    asked = {"Get_rank": lambda: 0, "Get_size": lambda: 3, "Get_failed": lambda: nobody}
    comm = SimpleNamespace(improbe=Arrived(alive).improbe, **asked)
    return MpiChannel(comm, threading.Event(), SimpleNamespace(Exception=Dead, Status=SimpleNamespace), tolerant)


@pytest.mark.parametrize("alive", range(len(SENT) + 2))
def test_no_message_is_lost_or_overtaken_when_a_rank_dies(alive: int) -> None:
    here = channel(alive, tolerant=True)
    taken = here.take()
    for rank in (1, 2):
        assert [each for each in taken if each[0] == rank] == [each for each in SENT if each[0] == rank]
    assert here.take() == []


def test_where_a_job_does_not_survive_a_death_it_is_an_error() -> None:
    with pytest.raises(Dead):
        channel(1, tolerant=False).take()
