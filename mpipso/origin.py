"""From where the relative paths of a run lead: the folder in which it was started first, whoever goes on with it."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mpipso.errors import UserError
from mpipso.launched import COMMAND, RESTARTS
from mpipso.record.resume import read_run
from mpipso.redact import HIDDEN
from mpipso.startup import Options


def back_to_origin(options: Options) -> Options:
    """Before a run is resumed, go to the folder in which it was started first.

    Returns
    -------
    The options with the paths that they have from here.

    Raises
    ------
    UserError
        The folder is not here, or there is no such run.
    """
    moved = absolute(options)
    enter(origin(moved))
    return moved


def absolute(options: Options) -> Options:
    """The options of a run that is resumed, such that their paths lead to the same from any folder.

    So does, from now on, the command by which runs are launched here. A new run is left as it is.
    """
    if options.resume is None:
        return options
    if command := os.environ.get(COMMAND):
        with contextlib.suppress(ValueError):
            os.environ[COMMAND] = _anywhere(command)
    config, hostfile, resume = (
        path.absolute() if path is not None else None for path in (options.config, options.hostfile, options.resume)
    )
    return replace(options, config=config, hostfile=hostfile, resume=resume)


def absolute_words(words: Sequence[str]) -> list[str]:
    """The words of a command, such that those which name a file by a relative path name it from any folder."""
    return [str(Path(word).absolute()) if _is_path(word, first=not i) else word for i, word in enumerate(words)]


def _is_path(word: str, *, first: bool) -> bool:
    # The first word of a command is looked up in PATH if it has no slash.
    return ("/" in word or not first) and Path(word).is_file()


def _anywhere(command: str) -> str:
    words = shlex.split(command)
    return command if (moved := absolute_words(words)) == words else shlex.join(moved)


def origin(options: Options) -> str:
    """The folder to go to, in which the run that is to be resumed was started first; empty if there is none to go to.

    It is not known of runs of earlier versions, and where there is a supervisor, that has gone there.

    Raises
    ------
    UserError
        The folder is not here, or there is no such run.
    """
    if options.resume is None or RESTARTS in os.environ:
        return ""
    folder: str = read_run(options.resume, config_given=True)[1][0].get("cwd", "")
    if HIDDEN in folder:
        return ""
    if folder and not Path(folder).is_dir():
        raise UserError(
            f"{options.resume}: the run was started in {folder}, from where its relative paths lead, and which is not "
            f"here: make it, or a link of that name to where its files are now"
        )
    return folder


def enter(folder: str) -> None:
    """Work in this folder from now on, if there is one on this host: processes that are started here do so too."""
    if folder:
        with contextlib.suppress(OSError):
            os.chdir(folder)
