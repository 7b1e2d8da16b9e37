"""The command that goes on with a run, for people."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from mpipso.launched import COMMAND, called, resuming, submits
from mpipso.redact import HIDDEN


def resume_command(folder: Path, config: str, command: str = "", cwd: str = "", system: str = "") -> str:
    """The command that goes on with the run in ``folder``, for a shell; a comment in it says what else it takes.

    Parameters
    ----------
    config:
        The run's configuration as TOML. One with secrets must be given again, as they are not kept.
    command, cwd:
        How the run was launched last, quoted for a shell, and in which folder; empty where that is not known.
    system:
        Inside of whose job that was; empty if in none, or if that is not known.
    """
    if command and cwd and not is_here(cwd):
        # The command may name files, itself among them, as they are called from there.
        folder, before = folder.absolute(), f"cd {shlex.quote(cwd)} && "
    else:
        before = ""
    if command.startswith("mpipso "):  # which was in the PATH of that shell
        command = shlex.join(called()) + command.removeprefix("mpipso")
    command = command or os.environ.get(COMMAND) or shlex.join([*called(), "launch"])
    given = submits(command) or "--config" in command.split()
    secrets = "  # with what *** stands for" if HIDDEN in command else ""
    more = " --config FILE" if HIDDEN in config and not given else ""
    return f"{before}{resuming(command, folder, more, system)}{secrets}"


def is_here(folder: str) -> bool:
    """Whether a path leads to the present folder."""
    try:
        return Path(folder).samefile(Path())
    except OSError:  # neither is there for whoever asks
        return False
