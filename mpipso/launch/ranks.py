"""The ranks of a job: how many there are, and how they are spread over hosts."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mpipso.cluster.hosts import LOCAL

Spread = Literal["one each", "in turn", "shared", "filled"]


@dataclass(frozen=True)
class Ranks:
    """How many ranks a job has, and where a launcher starts them.

    Attributes
    ----------
    count:
        How many there are.
    hosts:
        The hosts for them, once for each slot, in order; none for this machine alone.
    hostfile:
        Where the launcher reads the hosts; None if they are named or it knows them by itself.
    named:
        Whether they are named on its command line.
    """

    count: int
    hosts: tuple[str, ...] = ()
    hostfile: Path | None = None
    named: bool = False

    @property
    def spread(self) -> Spread:
        """How many of them a host gets.

        * one each: at most one, as there are enough hosts;
        * in turn: one rank per host in turn, as often as needed, since slots are not counted;
        * shared: the same, but no host beyond its slots;
        * filled: each host as many as its slots, in turn.
        """
        distinct = len(set(self.hosts))
        if distinct >= self.count:
            return "one each"
        if distinct == len(self.hosts):
            return "in turn"
        return "shared" if self.count < len(self.hosts) else "filled"

    def host_of_each(self) -> list[str]:
        """The host of each rank, in the order of the ranks."""
        hosts = self.hosts or LOCAL[:1]
        if self.count < len(hosts):
            slots = Counter(hosts)
            hosts = tuple(host for turn in range(max(slots.values())) for host in slots if slots[host] > turn)
        return list(itertools.islice(itertools.cycle(hosts), self.count))

    def names(self) -> Sequence[str]:
        """The hosts as a launcher is told their names: once for each slot or, where slots are shared, for each rank."""
        return self.host_of_each() if self.spread == "shared" else self.hosts
