"""Which hosts the batch job has that this process belongs to."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from mpipso.batch import FLUX, SLURM, System, ask, systems
from mpipso.cluster.hosts import expand_node_list, hostfile_text, parse_hostfile
from mpipso.errors import UserError
from mpipso.wording import listed


@dataclass(frozen=True)
class Allocation:
    """A batch job and its hosts, each once; none if the system does not say which they are."""

    system: System
    hosts: tuple[str, ...]

    @property
    def slots(self) -> int | None:
        """For how many ranks a job of a single host has room; None for several hosts, or if the system does not say."""
        slots = os.environ.get(self.system.slots, "")
        return int(slots) if len(self.hosts) == 1 and slots.isdecimal() else None

    def told(self) -> str:
        """The hosts, as short as people write them."""
        return os.environ["SLURM_JOB_NODELIST"] if self.system is SLURM else listed(self.hosts)


def allocation() -> Allocation | None:
    """The batch job that this process belongs to, by the first system that says which hosts it has; None outside.

    Raises
    ------
    UserError
        What a system says of the hosts cannot be read.
    """
    known = systems(os.environ)
    found = (Allocation(system, hosts) for system in known if (hosts := _hosts(system)))
    return next(found, Allocation(known[0], ()) if known else None)


def _hosts(system: System) -> tuple[str, ...]:
    said = os.environ.get(system.hosts)
    if said:
        return tuple(dict.fromkeys(_in_list(said) if system is SLURM else _in_file(system.hosts, Path(said))))
    if os.environ.get(system.alone) == "1":
        return (socket.gethostname(),)
    # One for each broker. There may be no such program here, or one from before 2024 without that command.
    return tuple(dict.fromkeys(ask(["flux", "hostlist", "--expand", "local"]).split())) if system is FLUX else ()


def _in_list(text: str) -> list[str]:
    try:
        names = ask(["scontrol", "show", "hostnames", text]).split() or expand_node_list(text)
        if any(not name or name.startswith("-") for name in names):
            raise ValueError(f"{text!r} is not a list of hosts")
        return names
    except ValueError as error:
        raise UserError(f"SLURM_JOB_NODELIST: {error}") from None


def _in_file(variable: str, path: Path) -> list[str]:
    try:
        # Grid Engine adds slots, queue and cores to each host.
        names = [(line.split() or [""])[0] for line in hostfile_text(path).splitlines()]
        return [host for host, _ in parse_hostfile("\n".join(names), str(path))]
    except UserError as error:
        mend = "name the hosts in a --hostfile"
        raise UserError([f"{variable}: {problem}; {mend}" for problem in error.problems]) from None
