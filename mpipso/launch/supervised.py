"""``mpipso launch``: composes the ``mpirun`` line, prints it, runs it, and keeps the run going until it has ended."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mpipso.cluster.facts import rank_in
from mpipso.errors import FINISHED, Taken, UserError
from mpipso.launch.jobs import Job
from mpipso.launch.launchers import find
from mpipso.launch.limits import Limits
from mpipso.launch.source import KEPT, Source
from mpipso.launch.supervise import Supervisor
from mpipso.launched import COMMAND, END_TIME, NOTE, OWN, PREPENDED, REQUEUE, TERMINAL, called
from mpipso.record.folders import LAUNCH_LOG, RunFolder, write_whole
from mpipso.startup import Options, read_config


def launch(options: Options, ranks: int | None, mpirun: str | None, limits: Limits, more: Sequence[str] = ()) -> int:
    """Run ``python -m mpipso tune`` under a launcher and supervision; returns the exit code of the run.

    Parameters
    ----------
    ranks:
        How many; None: as many as :func:`~mpipso.launch.jobs.wanted_ranks` finds.
    mpirun:
        The launcher to use; None: the one in PATH.
    more:
        Further words for it.

    Raises
    ------
    UserError
        The configuration or the hostfile is wrong, there is no launcher, or no run to resume; nothing has been started.
    RunFailed
        The run was lost and cannot be restarted.
    """
    if os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1" and rank_in(os.environ) != 0:
        return FINISHED  # of the tasks that srun started, the first launches the run
    # That the folder has a journal is checked first: without it there is no configuration either.
    folder = RunFolder.open(options.resume).path if options.resume is not None else None
    config = read_config(options)
    path, launcher = find(mpirun)
    job = Job.first(path, launcher, options, config, ranks, more)
    environment = {COMMAND: _command(mpirun), **os.environ, **launcher.environment(), TERMINAL: _terminal()}
    environment[PREPENDED] = _prepended(path, os.environ)
    told = (COMMAND, END_TIME, PREPENDED, REQUEUE, TERMINAL, "MPI4PY_LIBMPI")
    forward = [name for name in told if name in environment]
    # Slurm takes the environment to each node, but Open MPI 5 puts its own folder first in the PATH of all other nodes.
    if "SLURM_JOB_ID" in environment and all(word.partition("=")[0] != "PATH" for word in more):
        forward.append("PATH")
    source = Source.of(options, config)
    if folder is not None:
        return Supervisor(job, folder, limits, environment, forward, source).run()
    output = Path(config.output)
    there = output.is_dir()
    while True:
        # The folder is made here, so that it is known which journal to watch.
        folder = RunFolder.reserve(output, options.name)
        note = _note(folder)
        try:
            code = Supervisor(job, folder, limits, environment, forward, source).run()
        except Taken:  # by a launch of the same moment and name, and so it will not be reserved again
            continue
        if code == UserError.exit_code:
            _take_back(folder, note, there)
        return code


def _note(folder: Path) -> Path | None:
    """Write the folder of a new run into the file that :data:`NOTE` names, if it does."""
    if not (path := os.environ.get(NOTE)):
        return None
    write_whole(Path(path), f"{folder.absolute()}\n")
    return Path(path)


def _command(mpirun: str | None) -> str:
    """How this command is called again in this shell; ``run.sh`` says so itself."""
    return shlex.join([*called(), "launch", *(["--mpirun", mpirun] if mpirun else [])])


def _prepended(path: str, environ: Mapping[str, str]) -> str:
    """What :data:`PREPENDED` tells of the launcher at this path: not what the user has in front of a path as well.

    Open MPI does when it is called by a path, as from here, so that its own daemons are found on other hosts.
    """
    own = [environ.get(name, "").split(os.pathsep) for name in ("PATH", "LD_LIBRARY_PATH")]
    told = [socket.gethostname()]
    for folder in (str(Path(path).parent.parent / name) for name in ("bin", "lib", "lib64")):
        if all(folder != each[0] for each in own):
            told.append(f"{OWN}{folder}" if any(folder in each for each in own) else folder)
    return os.pathsep.join(told)


def _terminal() -> str:
    """What ``MPIPSO_TERMINAL`` tells the root: this terminal's size, or 0, since a rank sees its launcher's pipes."""
    if not sys.stdout.isatty():
        return "0"
    columns, lines = shutil.get_terminal_size()
    return f"{columns}x{lines}"


def _take_back(folder: Path, note: Path | None, keep_output: bool) -> None:
    """Remove the folder of a run that never began, and what was noted of it."""
    with contextlib.suppress(OSError):
        paths = list(folder.iterdir())
        if all(path.name == LAUNCH_LOG or path.name.startswith(KEPT) for path in paths):
            for path in paths:
                path.unlink()
            folder.rmdir()
            if note is not None:
                note.unlink()
            if not keep_output:
                folder.parent.rmdir()
