"""Environment variables by which job script, launcher and ranks tell each other, and the words by which runs start."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import shutil
import socket
import sys
from collections.abc import MutableMapping, Sequence
from pathlib import Path

from mpipso.batch import systems

COMMAND = "MPIPSO_COMMAND"
"""Environment variable with the words, quoted for a shell, by which the user launches runs here. For the ranks of a run
that was launched, the flags for hosts, ranks and groups follow: on others, the run would measure something else."""
END_TIME = "MPIPSO_END_TIME"
"""Environment variable with when the batch job ends, in seconds since 1970, if a job script says so."""
REQUEUE = "MPIPSO_REQUEUE"
"""Environment variable that is 1 in a job that is requeued on ``SIGUSR1`` and then resumes its run, as Slurm's may."""
PREPENDED = "MPIPSO_PREPENDED"
"""Environment variable with the name of the host of the launch, and the folders that the launcher may put in front of
the ranks' ``PATH`` and ``LD_LIBRARY_PATH``, joined as in these; :data:`OWN` stands before one that the user's has."""
OWN = "="
RESTARTS = "MPIPSO_RESTARTS"
"""Environment variable with how often the supervisor of this job would restart it without progress in between."""
TERMINAL = "MPIPSO_TERMINAL"
"""Environment variable that says what the launcher writes to, for ranks that cannot see it: ``<columns>`` or
``<columns>x<lines>``, 0 for no terminal."""
NOTE = "MPIPSO_NOTE"
"""Environment variable with the path of a file for the folder of a new run, whatever its name came to be: a Slurm job
that starts again finds there what to resume."""


def restore_search_paths(environ: MutableMapping[str, str]) -> None:
    """Take what the launcher has put in front of a rank's search paths away, so that programs are the user's.

    What the user has in a path on the host of the launch may be in front of it on another host, and stays at its end.
    """
    host, *told = environ.get(PREPENDED, "").split(os.pathsep)
    prepended = {folder.removeprefix(OWN) for folder in told}
    kept = [folder.removeprefix(OWN) for folder in told if folder.startswith(OWN) and host != socket.gethostname()]
    for name in {"PATH", "LD_LIBRARY_PATH"} & environ.keys():
        folders = environ[name].split(os.pathsep)
        own = list(itertools.dropwhile(prepended.__contains__, folders))
        if len(own) == len(folders):
            continue
        own = [folder for folder in own if folder]  # the launcher ends with one that is empty, if there was nothing
        own += [folder for folder in kept if folder in folders and folder not in own]
        if own:
            environ[name] = os.pathsep.join(own)
        else:
            del environ[name]


def restarts() -> int:
    """How often the supervisor of this job would start it again without progress in between; 0 if it has none."""
    told = os.environ.get(RESTARTS, "")
    return int(told) if told.isdecimal() else 0


_REFUSING = "refusing"


def note_refusing(folder: Path | None, hosts: Sequence[str]) -> None:
    """Have the launcher of this job know which hosts keep the run in ``folder`` from going on, if there is one."""
    if folder is not None and hosts and RESTARTS in os.environ:
        with contextlib.suppress(OSError):  # then it knows none
            (folder / _REFUSING).write_text("".join(f"{host}\n" for host in hosts), encoding="utf-8")


def take_refusing(folder: Path) -> list[str]:
    """The hosts that were noted since this was called last."""
    try:
        hosts = (folder / _REFUSING).read_text(encoding="utf-8").split()
        (folder / _REFUSING).unlink()
    except (OSError, UnicodeDecodeError):
        return []
    return hosts


def called() -> list[str]:
    """The words that call mpipso in this shell: its name where that is in the PATH, else this Python and the module."""
    return ["mpipso"] if shutil.which("mpipso") else [sys.executable, "-m", "mpipso"]


def submits(command: str) -> bool:
    """Whether a command that launches runs submits a Slurm job, which is given a configuration with it."""
    return command.startswith("sbatch ")


def batch_system() -> str:
    """The name of the batch system inside of whose job this process is; empty if it is in none."""
    return next((system.name for system in systems(os.environ)), "")


def resuming(command: str, folder: Path, more: str = "", system: str = "") -> str:
    """The command that resumes the run in ``folder``, for people: in a comment it says where, if not on this machine.

    Parameters
    ----------
    command:
        The words that launch runs, quoted for a shell.
    more:
        Further words, quoted likewise and with a space before them.
    system:
        The batch system inside of which the run was launched; empty for the one of this process, if any.
    """
    system = system or batch_system()
    where = f"  # inside a job of {system}" if system and not submits(command) else ""
    return f"{command} --resume {shlex.quote(str(folder))}{more}{where}"
