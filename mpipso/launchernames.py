"""The names of the processes by which MPIs start ranks."""

from __future__ import annotations

FRONT_ENDS = (
    *("mpirun", "mpiexec", "mpiexec.hydra", "orterun", "prterun"),
    *("mpirun.openmpi", "mpiexec.openmpi"),  # as Debian names them
)
"""What a user starts a job with."""
LAUNCHERS = (*FRONT_ENDS, "prted", "orted", "hydra_pmi_proxy")
"""What starts ranks, on whatever host."""
