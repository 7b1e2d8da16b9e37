"""``mpipso launch``: composes the ``mpirun`` line, prints it, runs it, and hands it signals the way ranks can use.

What differs between launchers is all that their classes say. Sources: ``mpirun --help`` of Open MPI 4.1 and 5.0,
``mpiexec --help`` of MPICH's hydra.
"""

from __future__ import annotations

import abc
import ctypes
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from mpipso.cluster.hosts import LOCAL, slurm_hosts
from mpipso.errors import UserError
from mpipso.startup import Options, launched_hosts, read_config, wanted_groups

MOST_LOCAL_RANKS = 8
"""Ranks that are started on one machine when the user names no number."""
_SHOW_CURSOR = "\033[?25h"


class Launcher(abc.ABC):
    """A family of launchers, recognised by a word in what ``--version`` prints."""

    versions: ClassVar[tuple[str, ...]]

    def environment(self) -> dict[str, str]:
        """What the launcher needs in its own environment."""
        return {}

    @abc.abstractmethod
    def command(
        self,
        path: str,
        ranks: int,
        hostfile: Path | None,
        per_node: bool,
        forward: Sequence[str],
        hosts: Sequence[str] = (),
    ) -> list[str]:
        """The words before the program's.

        Parameters
        ----------
        per_node:
            One rank on each host of the hostfile; otherwise as many as it takes anywhere.
        forward:
            Names of environment variables that ranks on other hosts need.
        hosts:
            Names of hosts instead of a hostfile, one rank each.
        """


class OpenMPI5(Launcher):
    """Open MPI 5."""

    versions: ClassVar[tuple[str, ...]] = ("(Open MPI) 5", "(Open MPI) 6", "(OpenRTE) 5", "(PRRTE) 3", "(PRRTE) 4")
    transports = "self,sm,tcp"
    more: tuple[str, ...] = ()

    def environment(self) -> dict[str, str]:
        root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        return root if os.geteuid() == 0 else {}

    def command(
        self,
        path: str,
        ranks: int,
        hostfile: Path | None,
        per_node: bool,
        forward: Sequence[str],
        hosts: Sequence[str] = (),
    ) -> list[str]:
        where = ["--hostfile", str(hostfile)] if hostfile is not None else []
        where += ["--host", ",".join(f"{host}:1" for host in hosts)] if hosts else []
        mapping = "ppr:1:node" if per_node else "node:OVERSUBSCRIBE" if hostfile is not None else "slot:OVERSUBSCRIBE"
        # The few small messages need no fast network, and looking for one takes a second at every start.
        return [
            *(path, "-np", str(ranks), *where, "--map-by", mapping, "--bind-to", "none"),
            *self.more,
            *("--mca", "pml", "ob1", "--mca", "btl", self.transports),
            *(word for name in forward for word in ("-x", name)),
        ]


class OpenMPI4(OpenMPI5):
    """Open MPI 4, whose shared memory transport has another name."""

    versions = ("(Open MPI) 4", "(Open MPI) 3", "(OpenRTE) 4", "(OpenRTE) 3")
    transports = "self,vader,tcp"
    # Quiet about the root's exit code, and at the end of a broken job no pause of seconds between TERM and KILL on each
    # node: ranks need none, since keepers stop the services.
    more = ("--quiet", "--mca", "odls_base_sigkill_timeout", "0")


class Hydra(Launcher):
    """MPICH and what derives from it; hands its whole environment to the ranks."""

    versions = ("HYDRA", "Intel(R) MPI")

    def command(
        self,
        path: str,
        ranks: int,
        hostfile: Path | None,
        per_node: bool,
        forward: Sequence[str],
        hosts: Sequence[str] = (),
    ) -> list[str]:
        where = ["-f", str(hostfile)] if hostfile is not None else []
        where += ["-hosts", ",".join(hosts)] if hosts else []
        return [path, "-n", str(ranks), *(["-ppn", "1"] if per_node else []), *where]


LAUNCHERS: tuple[Launcher, ...] = (OpenMPI5(), OpenMPI4(), Hydra())


def find(path: str | None) -> tuple[str, Launcher]:
    """The launcher to use and its family.

    Raises
    ------
    UserError
        There is none, or it is of no family that is known here.
    """
    found = shutil.which(path) if path else shutil.which("mpirun") or shutil.which("mpiexec")
    if found is None:
        raise UserError(f"{path or 'mpirun'}: command not found; install an MPI, or use ./run.sh, which does")
    # Under another name than mpirun, Open MPI 4 calls itself OpenRTE.
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    for launcher in LAUNCHERS:
        if any(word in version for word in launcher.versions):
            return found, launcher
    first = (version.splitlines() or [""])[0]
    raise UserError(f"{found}: neither Open MPI nor MPICH ({first!r}); write the line yourself: see --help")


def launch(options: Options, ranks: int | None, mpirun: str | None) -> int:
    """Run ``python -m mpipso tune`` under a launcher; returns its exit code.

    Raises
    ------
    UserError
        The configuration or the hostfile is wrong, or there is no launcher; nothing has been started then.
    """
    config = read_config(options)
    config, hosts = wanted_groups(options, config)
    hosts = launched_hosts(hosts, config) or []
    named: list[str] = []
    if not hosts and not config.parallel.ssh:
        named = [node.host for group in config.parallel.service_groups for node in group.nodes]
    if len({*named, *LOCAL}) == len(LOCAL) or set(named) == {socket.gethostname()}:
        named = []
    # Inside a Slurm job the launcher knows the hosts by itself.
    there = hosts or named or slurm_hosts()
    path, launcher = find(mpirun)
    words = options.words()
    if ranks is None and there:
        ranks = len(there)
    elif ranks is None:
        ranks = min(len(os.sched_getaffinity(0)), MOST_LOCAL_RANKS)
        if config.parallel.nodes_per_group is None and not config.parallel.service_groups:
            words += ["--nodes-per-group", "1"]
    per_node = len(set(there)) >= ranks
    environment = {**os.environ, **launcher.environment(), "MPIPSO_TERMINAL": _terminal()}
    forward = [name for name in ("MPIPSO_TERMINAL", "MPI4PY_LIBMPI") if name in environment]
    command = launcher.command(path, ranks, options.hostfile, per_node, forward, named)
    command += [sys.executable, "-m", "mpipso", "tune", *words]
    print("+", shlex.join(command), flush=True)
    return _run(command, environment)


def _terminal() -> str:
    """What ``MPIPSO_TERMINAL`` tells the root: this terminal's size, or 0, since a rank sees its launcher's pipes."""
    if not sys.stdout.isatty():
        return "0"
    columns, lines = shutil.get_terminal_size()
    return f"{columns}x{lines}"


def _run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the launcher in a session of its own, so that Ctrl-C at the terminal reaches this process alone.

    Launchers kill their ranks within a second of SIGINT or SIGTERM but forward SIGUSR1, on which the ranks stop their
    services and save. A second signal goes through as SIGTERM, and a third kills.
    """
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_parent
    )
    forwarded = iter((signal.SIGUSR1, signal.SIGTERM))
    received: list[int] = []
    last = 0.0

    def forward(number: int, frame: object) -> None:
        nonlocal last
        if time.monotonic() - last > 0.5:  # a terminal's Ctrl-C and a scheduler's may arrive twice
            last = time.monotonic()
            received.append(number)
            process.send_signal(next(forwarded, signal.SIGKILL))

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, forward)
    code = process.wait()
    if sys.stdout.isatty():
        # A root that was killed while it drew has left the cursor hidden.
        sys.stdout.write(_SHOW_CURSOR)
        sys.stdout.flush()
    if received and code != 0:
        return 128 + received[0]
    return code if code >= 0 else 128 - code


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
