"""The batch systems known here: the environment variables by which their jobs know themselves, and how they are asked.

Sources: the manuals of sbatch, qsub (PBS, Grid Engine and Cobalt), oarsub and flux-environment, "Environment variables
set for job execution" of LSF, and sge_pe for ``PE_HOSTFILE``.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LIMIT = 10.0
"""Seconds for an answer of a system's controller, which may be busy, or not there."""


@dataclass(frozen=True)
class System:
    """A batch system.

    Attributes
    ----------
    name:
        As people call it.
    job:
        The variables that all of its jobs have.
    prefixes:
        How the names of the variables begin that only its jobs have.
    hosts:
        The variable that says which hosts a job has: the path of a file in which each line begins with one, maybe the
        same again; for Slurm, a list. Empty if a program has to be asked.
    alone:
        The variable that is 1 in a job of this host alone, which may not have the one before. Empty if there is none.
    slots:
        The variable that says for how many ranks a job of a single host has room. Empty if there is none.
    words:
        Further variables that its jobs have, with names that others may use, too.
    agent:
        The words that run a command on another host of the job, where ssh does not. Empty if there are none.
    """

    name: str
    job: tuple[str, ...]
    prefixes: tuple[str, ...]
    hosts: str = ""
    alone: str = ""
    slots: str = ""
    words: tuple[str, ...] = ()
    agent: str = ""

    def has(self, environ: Mapping[str, str]) -> bool:
        """Whether a process with these variables belongs to one of its jobs."""
        return bool(environ.get(self.hosts)) or all(environ.get(name) for name in self.job)


SLURM = System("Slurm", ("SLURM_JOB_ID",), ("SLURM", "SRUN_"), hosts="SLURM_JOB_NODELIST")
FLUX = System("Flux", ("FLUX_URI",), ("FLUX_",), alone="FLUX_JOB_NNODES")
SYSTEMS = (
    SLURM,
    System("PBS", ("PBS_JOBID",), ("PBS_",), hosts="PBS_NODEFILE"),
    # LSF_* only tells where LSF is installed.
    System(
        "LSF",
        ("LSB_JOBID",),
        ("LSB_", "LS_JOBPID", "LS_SUBCWD", "JSM_"),
        hosts="LSB_DJOB_HOSTFILE",
        alone="LSB_DJOB_NUMPROC",
    ),
    System(
        "Grid Engine",
        ("SGE_ROOT", "JOB_ID"),  # the first is there outside of jobs, too
        # Not what only tells where it is installed, by which services may submit jobs.
        (
            *("PE_HOSTFILE", "SGE_ACCOUNT", "SGE_BINARY_PATH", "SGE_CKPT_", "SGE_CWD_PATH", "SGE_HGR_", "SGE_JOB_"),
            *("SGE_O_", "SGE_STD", "SGE_TASK_"),
        ),
        hosts="PE_HOSTFILE",
        alone="NHOSTS",
        slots="NSLOTS",
        words=(
            *("PE", "NSLOTS", "NHOSTS", "NQUEUES", "QUEUE", "JOB_ID", "JOB_NAME", "JOB_SCRIPT", "ARC"),
            *("REQNAME", "REQUEST", "RESTARTED"),
        ),
        agent="qrsh -inherit -nostdin -V",
    ),
    System("OAR", ("OAR_JOB_ID",), ("OAR_",), hosts="OAR_NODEFILE", agent="oarsh"),
    System("Cobalt", ("COBALT_JOBID",), ("COBALT_",), hosts="COBALT_NODEFILE"),
    FLUX,
)
"""What starts jobs of other systems comes first, and what is started inside of them last."""


_OF_JOBS = {"ENVIRONMENT": "BATCH"}
"""What Slurm and Grid Engine set; with another value it is somebody else's."""
_OTHERS = ("PALS_", "PJM_", "_CONDOR_")
"""Of Cray's PALS, Fujitsu's PJM and HTCondor, whose hosts nobody here asks for."""


def variables(environ: Mapping[str, str]) -> set[str]:
    """The names of the variables in ``environ`` by which batch systems tell of a job."""
    prefixes = (*(prefix for system in SYSTEMS for prefix in system.prefixes), *_OTHERS)
    words = {word for system in systems(environ) for word in system.words}
    words |= {name for name, value in _OF_JOBS.items() if environ.get(name) == value}
    return {name for name in environ if name.startswith(prefixes) or name in words}


def systems(environ: Mapping[str, str]) -> list[System]:
    """The batch systems to whose jobs a process with these variables belongs; a job may be inside of another."""
    return [system for system in SYSTEMS if system.has(environ)]


def squeue(job: str, field: str, *flags: str, environment: Mapping[str, str] | None = None) -> str:
    """What Slurm tells of a job in one of the fields of the command's ``--format``; empty if it tells nothing.

    The number of a job may be that of an array as well; then it tells of all tasks, each of which has a number.
    """
    words = ["squeue", "--noheader", "--jobs", job, *flags, "--format", f"%A {field}"]
    told = dict(line.split(maxsplit=1) for line in ask(words, environment).splitlines() if " " in line.strip())
    return told.get(job, "").strip()


def ask(words: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """What a command of a system prints; empty if it is missing, fails, or takes longer than :data:`LIMIT`."""
    try:
        answer = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout if answer.returncode == 0 else ""
