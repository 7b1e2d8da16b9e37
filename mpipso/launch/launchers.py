"""The families of MPI launchers: what differs between them is all that their classes say.

Sources: ``mpirun --help`` and ``ompi_info --all`` of Open MPI 4.1 and 5.0, ``mpiexec --help`` of MPICH's hydra, and
for surviving the loss of ranks https://docs.open-mpi.org/en/v5.0.x/features/ulfm.html.
"""

from __future__ import annotations

import abc
import contextlib
import itertools
import os
import shlex
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from mpipso.errors import UserError
from mpipso.launch.ranks import Ranks, Spread

_KEEPALIVE = ("oob_tcp_keepalive_time", "5", "oob_tcp_keepalive_intvl", "2", "oob_tcp_keepalive_probes", "3")
"""Open MPI's daemons miss a silent peer after 5 + 3 * 2 seconds; its own defaults take minutes."""

_PORTS = ("btl_tcp_port_min_v4", "btl_tcp_port_min_v6")
_FIRST_PORT = "49152"
"""The first of the ports on which Open MPI's ranks listen. By default it is 1024, near ports that services may want."""
_SETTING = ("mca", "gmca", "prtemca")
"""Flags of Open MPI that set a parameter, behind one or two dashes."""
_ANSWER = 60.0
"""Seconds in which a launcher has to say its version; a wrapper of a site's own may have modules to load."""


class Launcher(abc.ABC):
    """A family of launchers, recognised by a word in what ``--version`` prints."""

    versions: ClassVar[tuple[str, ...]]
    agents: ClassVar[tuple[str, ...]]
    """Environment variables that name another program than ssh for reaching hosts, the first that is set."""
    parameter_files: ClassVar[tuple[str, ...]] = ()
    """Files in the user's home that may name it too, as ``plm_rsh_agent = ...``."""
    session: ClassVar[str | None] = None
    """The folder that a killed launcher leaves among temporary files, with its ``{pid}``, ``{uid}`` and ``{host}``."""

    def remains(self, pid: int) -> list[Path]:
        """The folders that a launcher with this process number has left on this host, if it was killed."""
        host, parent = socket.gethostname(), Path(tempfile.gettempdir())
        names = dict.fromkeys((host, host.split(".", 1)[0]))
        words = [self.session.format(pid=pid, uid=os.geteuid(), host=name) for name in names] if self.session else []
        found = (parent / word for word in dict.fromkeys(words))
        return [path for path in found if all(map(_own, [path, *path.parents[: -len(parent.parents) - 1]]))]

    def environment(self) -> dict[str, str]:
        """What the launcher needs in its own environment."""
        return {}

    def agent(self, environ: Mapping[str, str], more: Sequence[str] = ()) -> list[str]:
        """The words that run a command on another host when the host and the command follow.

        ``ssh`` asks nothing and waits 5 s for a connection; another program is called as the launcher calls it.

        Parameters
        ----------
        more:
            Words of the user for the launcher, which count for more than the environment.
        """
        given, known = self._given(more), {**self._parameters(environ), **environ}

        def first(names: Sequence[str]) -> str:
            return next((found[name] for found in (given, known) for name in names if found.get(name)), "")

        # Open MPI takes a list of programs with their arguments, "ssh -x : rsh", and uses the first that exists.
        choices = [words for part in first(self.agents).split(":") if (words := shlex.split(part))]
        words = next((words for words in choices if shutil.which(words[0])), ["ssh"])
        words += shlex.split(first(self._arguments))
        if Path(words[0]).name == "ssh":
            words += ["-o", "BatchMode=yes", "-o", "ConnectTimeout=5"]
        return words

    @property
    def _arguments(self) -> list[str]:
        """Environment variables with arguments for the program that reaches hosts."""
        return [name.replace("_agent", "_args") for name in self.agents if name.endswith("_agent")]

    def _given(self, more: Sequence[str]) -> dict[str, str]:
        """What words for the launcher say of the agents, under the names of the environment variables."""
        return {}

    def _parameters(self, environ: Mapping[str, str]) -> dict[str, str]:
        """What the user's parameter files say of the agents, under the names of the environment variables."""
        names = {name.partition("_MCA_")[2]: name for name in (*self.agents, *self._arguments)}
        found = {}
        for file in self.parameter_files if "HOME" in environ else ():
            with contextlib.suppress(OSError, UnicodeDecodeError):
                for line in Path(environ["HOME"], file).read_text(encoding="utf-8").splitlines():
                    name, _, value = line.partition("#")[0].partition("=")
                    if name.strip() in names:
                        found[names[name.strip()]] = value.strip()
        return found

    @abc.abstractmethod
    def command(
        self, path: str, ranks: Ranks, forward: Sequence[str], *, overlap: bool = False, loud: bool = False
    ) -> list[str]:
        """The words before the program's.

        Where the MPI can, the job survives the death of ranks, and ends soon when a node is silently gone.

        Parameters
        ----------
        path:
            The launcher's program.
        forward:
            Names of environment variables that ranks on other hosts need.
        overlap:
            Other steps of this Slurm job may hold its hosts: the one in which this runs, or those of an earlier job
            that has failed, which may not have been given up yet.
        loud:
            The launcher says all that it can, because the one before it ended before the run had begun or gone on.
        """


_MAPPING: dict[Spread, str] = {
    **{"one each": "ppr:1:node", "in turn": "node:OVERSUBSCRIBE"},
    **{"shared": "node", "filled": "slot:OVERSUBSCRIBE"},
}
"""How Open MPI maps ranks to hosts. Where nobody counts slots, it takes a host to have as many as it has cores."""


class OpenMPI5(Launcher):
    """Open MPI 5."""

    versions: ClassVar[tuple[str, ...]] = ("(Open MPI) 5", "(Open MPI) 6", "(OpenRTE) 5", "(PRRTE) 3", "(PRRTE) 4")
    agents: ClassVar[tuple[str, ...]] = (
        *("PRTE_MCA_plm_ssh_agent", "PRTE_MCA_plm_rsh_agent", "OMPI_MCA_plm_ssh_agent", "OMPI_MCA_plm_rsh_agent"),
    )
    parameter_files = (".openmpi/mca-params.conf", ".prte/mca-params.conf")
    session = "ompi.{pid}"
    transports = "self,sm,tcp"
    more: tuple[str, ...] = ()
    # ULFM. Without connecting all ranks at the start, some recoveries hang; without the other, MPI_Finalize does.
    survive: tuple[str, ...] = (
        *("--with-ft", "ulfm", "--mca", "async_mpi_finalize", "1", "--mca", "mpi_preconnect_mpi", "1"),
    )
    runtime = "--prtemca"
    """The flag that sets a parameter of the runtime, which starts and watches the ranks."""

    def environment(self) -> dict[str, str]:
        root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if os.geteuid() == 0 else {}
        # Inside a job of sbatch --export=NONE, srun would start its daemons with no PATH.
        return {"SLURM_EXPORT_ENV": "ALL", **root}

    def command(
        self, path: str, ranks: Ranks, forward: Sequence[str], *, overlap: bool = False, loud: bool = False
    ) -> list[str]:
        where = ["--hostfile", str(ranks.hostfile)] if ranks.hostfile is not None else []
        if ranks.named:
            where = ["--host", ",".join(f"{host}:1" for host in ranks.names())]
        # The few small messages need no fast network, and looking for one takes a second at every start.
        return [
            *(path, "-np", str(ranks.count), *where, "--map-by", _MAPPING[ranks.spread], "--bind-to", "none"),
            *(word for word in self.more if not loud or word != "--quiet"),
            *(*self.survive, *self._runtime(*_KEEPALIVE)),
            *(self._runtime("plm_slurm_args", "--overlap") if overlap else ()),
            *("--mca", "pml", "ob1", "--mca", "btl", self.transports),
            *(word for port in _PORTS for word in ("--mca", port, _FIRST_PORT)),
            *self._forwarded(forward),
        ]

    def _given(self, more: Sequence[str]) -> dict[str, str]:
        names = {name.partition("_MCA_")[2]: name for name in (*self.agents, *self._arguments)}
        parameters = zip(more, more[1:], more[2:], strict=False)
        return {
            names[name]: value for flag, name, value in parameters if flag.lstrip("-") in _SETTING and name in names
        }

    def _forwarded(self, names: Sequence[str]) -> list[str]:
        return [word for name in names for word in ("-x", name)]

    def _runtime(self, *parameters: str) -> list[str]:
        pairs = zip(parameters[::2], parameters[1::2], strict=True)
        return [word for name, value in pairs for word in (self.runtime, name, value)]


class OpenMPI4(OpenMPI5):
    """Open MPI 4, whose shared memory transport has another name, and which does not survive the loss of a rank."""

    versions = ("(Open MPI) 4", "(Open MPI) 3", "(OpenRTE) 4", "(OpenRTE) 3")
    agents = ("OMPI_MCA_plm_rsh_agent", "OMPI_MCA_orte_rsh_agent")
    session = "ompi.{host}.{uid}/pid.{pid}"
    transports = "self,vader,tcp"
    # Quiet about the root's exit code, and at the end of a broken job no pause of seconds between TERM and KILL on each
    # node: ranks need none, since keepers stop the services.
    more = ("--quiet", "--mca", "odls_base_sigkill_timeout", "0")
    survive = ()
    runtime = "--mca"

    def _forwarded(self, names: Sequence[str]) -> list[str]:
        parameter = "mca_base_env_list"  # if the user has set it, -x is refused
        listed = os.environ.get(f"OMPI_MCA_{parameter}")
        return ["--mca", parameter, ";".join([listed, *names])] if listed else super()._forwarded(names)


class Hydra(Launcher):
    """MPICH and what derives from it; hands its whole environment to the ranks, and has no recovery."""

    versions = ("HYDRA", "Intel(R) MPI")
    agents = ("HYDRA_LAUNCHER_EXEC",)

    def environment(self) -> dict[str, str]:
        # Inside a Slurm job it reaches the hosts by srun, which would wait for the steps of a job that was lost.
        return {"SLURM_OVERLAP": "1"}

    def _given(self, more: Sequence[str]) -> dict[str, str]:
        values = [value for flag, value in itertools.pairwise(more) if flag.lstrip("-") == "launcher-exec"]
        return dict(zip(self.agents, values, strict=False))

    def command(
        self, path: str, ranks: Ranks, forward: Sequence[str], *, overlap: bool = False, loud: bool = False
    ) -> list[str]:
        # It does not give hosts of a file one rank in turn and no more than their slots, but takes names in order.
        where = ["-f", str(ranks.hostfile)] if ranks.hostfile is not None else []
        if ranks.named or ranks.spread == "shared":
            where = ["-hosts", ",".join(ranks.names())]
        # Inside a Slurm job it would give each host as many in turn as the job has tasks there.
        each = ["-ppn", "1"] if ranks.spread in ("one each", "in turn") else []
        return [path, "-n", str(ranks.count), *each, *where]


def _own(folder: Path) -> bool:
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


_FAMILIES: tuple[Launcher, ...] = (OpenMPI5(), OpenMPI4(), Hydra())


def find(path: str | None) -> tuple[str, Launcher]:
    """The launcher to use and its family.

    Raises
    ------
    UserError
        There is none, it cannot be run, or it is of no family that is known here.
    """
    found = shutil.which(path) if path else shutil.which("mpirun") or shutil.which("mpiexec")
    if found is None:
        raise UserError(f"{path or 'mpirun'}: command not found; install an MPI, or use ./run.sh, which does")
    # Under another name than mpirun, Open MPI 4 calls itself OpenRTE.
    try:
        version = subprocess.run(
            [found, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_ANSWER, check=False
        ).stdout
    except OSError as error:
        raise UserError(f"{found}: cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{found}: cannot be run: no answer to --version within {_ANSWER:g} s") from None
    for launcher in _FAMILIES:
        if any(word in version for word in launcher.versions):
            return found, launcher
    first = (version.splitlines() or [""])[0]
    raise UserError(f"{found}: neither Open MPI nor MPICH ({first!r}); write the line yourself: see --help")
