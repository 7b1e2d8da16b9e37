"""What a rank finds out without MPI: its number, how many ranks there are, and what its machine is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mpipso.cluster.plan import Rank
from mpipso.service.environment import Fingerprint
from mpipso.service.facts import facts

_RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")
"""Of Open MPI 4, PMIx (Open MPI 5), MPICH and Slurm."""
_SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
"""Slurm's comes last: in ranks of mpirun it counts the daemons that mpirun has started by srun."""


def rank_here(rank: int, root: Fingerprint | None = None, *, devices: bool = True) -> Rank:
    """The rank of this number on the machine that this process runs on, with what that machine is.

    ``root`` is the environment of the root's host, to compare the one here with; None for no comparison. Without
    ``devices``, nobody is asked for these.
    """
    return Rank(rank, **vars(facts(root, devices=devices)))


def rank_in(environ: Mapping[str, str]) -> int:
    """The rank that a launcher's variables announce before MPI is initialised; 0 without a launcher."""
    return _announced(environ, _RANK_VARIABLES, 0)


def ranks_in(environ: Mapping[str, str]) -> int:
    """How many ranks a launcher's variables announce; 1 without a launcher."""
    return _announced(environ, _SIZE_VARIABLES, 1)


def _announced(environ: Mapping[str, str], names: Sequence[str], otherwise: int) -> int:
    return next((int(environ[name]) for name in names if environ.get(name, "").isdecimal()), otherwise)
