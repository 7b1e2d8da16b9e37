"""What a rank finds out before MPI is asked: its number, and its node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple

from mpipso.cluster.plan import Rank
from mpipso.service.facts import facts

#: Of Open MPI 4, PMIx (Open MPI 5), MPICH and Slurm.
_RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")


def local_facts(rank: int) -> Rank:
    """Host name, address, cores and accelerators of the machine that this process runs on."""
    return Rank(rank, *astuple(facts()))


def rank_in(environ: Mapping[str, str]) -> int:
    """The rank that a launcher's variables announce before MPI is initialised; 0 without a launcher."""
    return next((int(environ[name]) for name in _RANK_VARIABLES if environ.get(name, "").isdecimal()), 0)
