"""The folder of a run and, in it, one folder per evaluation.

::

    <output>/latest -> 20260131-235959
    <output>/20260131-235959/journal.jsonl  best.toml  best.sh  launch.log  hosts-2.txt
    <output>/20260131-235959/evaluations/0007-1/configuration.json  metrics.json  ...
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mpipso.errors import RunFailed, UserError
from mpipso.evaluation import LONGEST_DURATION, Evaluation
from mpipso.record import journal
from mpipso.record.place import lock
from mpipso.redact import Redactor

LATEST = "latest"
"""The name of the symbolic link, beside the folders of runs, to the one that was made last."""
BEAT_FILE = "beat"
"""A file of the run's folder that the root writes every two seconds as long as it is alive and not stuck: the number of
the journal's last event, and the seconds since then. In folders of earlier versions it is empty."""
_BEAT = re.compile(rb" *(\d+) +(\d+\.\d)\n")
EVALUATIONS = "evaluations"
LAUNCH_LOG = "launch.log"
"""What ``mpipso launch`` did for the run; in a folder without a journal it says that a run is about to begin there."""
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_LONGEST = 200
"""Most file systems allow 255 bytes; room is left for a suffix."""


@dataclass(frozen=True)
class RunFolder:
    """The folder in which a run keeps its files.

    Attributes
    ----------
    path:
        The folder, which is there.
    redactor:
        Hides secrets in what is written by :meth:`save`.
    """

    path: Path
    redactor: Redactor = field(default_factory=lambda: Redactor(os.environ), repr=False)

    @classmethod
    def create(cls, output: Path, name: str | None = None) -> RunFolder:
        """Make the folder of a new run, named ``name`` or after the local time, and point ``latest`` to it.

        A name that is taken gets the suffix ``-2``, ``-3`` and so on, unless :meth:`reserve` made it for this run.

        Raises
        ------
        UserError
            The name is no plain file name, or nothing can be written in ``output``.
        """
        require_name(name)
        path = output / name if name is not None and _reserved(output / name) else _make(output, name)
        _point(output / LATEST, path.name)
        return cls(path)

    @classmethod
    def reserve(cls, output: Path, name: str | None = None) -> Path:
        """Make a folder for a run that is about to be launched, with an empty launch log, and return its path.

        :meth:`create` with the folder's name, on whichever host, will take this folder. It is named as there, except
        that a given name is taken over from an earlier launch that reserved it, is over, and has led to no run.

        Raises
        ------
        UserError
            The name is no plain file name, or nothing can be written in ``output``.
        """
        require_name(name)
        again = name is not None and _reserved(output / name) and not _looked_after(output / name)
        path = output / name if name is not None and again else _make(output, name)
        try:
            (path / LAUNCH_LOG).touch()
        except OSError as error:
            raise UserError(_unusable(output, error.strerror)) from None
        return path

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The folder of an earlier run, with links resolved.

        Raises
        ------
        UserError
            There is no such folder, it cannot be read, or it has no journal.
        """
        check_run(path)
        return cls(path.resolve())

    def lived(self) -> float:
        """Seconds from the journal's last event to the root's last sign of life; 0 without one.

        Of earlier versions the times of both files tell them, whose clock may have been set in between: both are of one
        file server, and of a folder that was copied, both are those of the copy.
        """
        beat, events = self.path / BEAT_FILE, self.path / journal.FILE
        try:
            if not (told := beat.read_bytes()):
                seconds = beat.stat().st_mtime - events.stat().st_mtime
            elif (found := _BEAT.fullmatch(told)) and int(found[1]) == events.read_bytes().count(b"\n") - 1:
                seconds = float(found[2])
            else:  # it was torn, or the root did not live to the one after the last event
                seconds = 0.0
        except OSError:
            return 0.0
        return min(max(0.0, seconds), LONGEST_DURATION)

    def evaluation(self, number: int, attempt: int) -> Path:
        """The folder of an evaluation, by its number and that of the attempt; :meth:`save` makes it."""
        return self.path / EVALUATIONS / f"{number:04d}-{attempt}"

    def save(self, evaluation: Evaluation) -> None:
        """Write an evaluation's configuration, its metrics or failure, and its files, without secrets.

        Raises
        ------
        RunFailed
            The disk is full or fails, or the run's folder is gone.
        """
        self._save(evaluation, self.evaluation(evaluation.number, evaluation.attempt))

    def save_probe(self, evaluation: Evaluation) -> None:
        """Write of a probe what :meth:`save` writes, into a new folder ``probe-1``, ``probe-2`` and so on.

        Raises
        ------
        RunFailed
            As for :meth:`save`.
        """
        folders = (self.path / EVALUATIONS / f"probe-{count}" for count in itertools.count(1))
        try:
            folder = next(folder for folder in folders if not folder.exists())
        except OSError as error:
            raise RunFailed(f"{self.path / EVALUATIONS}: cannot be read: {error.strerror}") from error
        self._save(evaluation, folder)

    def _save(self, evaluation: Evaluation, folder: Path) -> None:
        contents: dict[str, bytes] = {"configuration.json": self._json(evaluation.configuration)}
        if evaluation.expected is not None:
            contents["stopped.json"] = self._json({"first": evaluation.first, "expected": evaluation.expected})
        elif evaluation.failure is None:
            contents["metrics.json"] = self._json(evaluation.metrics)
        else:
            contents["failure.json"] = self._json(asdict(evaluation.failure))
        for name, safe in safe_names(evaluation.files, taken=contents).items():
            contents[safe] = self.redactor.bytes(evaluation.files[name])
        for safe, content in contents.items():
            path = folder / safe
            try:
                self._make_inside(path.parent)
                path.write_bytes(content)
            except OSError as error:
                raise RunFailed(f"{path}: cannot be written: {error.strerror}") from error

    def _make_inside(self, folder: Path) -> None:
        """Make a folder in the run's own; that is not made again if it was moved: what a run keeps stays together."""
        path = self.path
        try:
            for part in folder.relative_to(self.path).parts:
                path /= part
                path.mkdir(exist_ok=True)
        except FileNotFoundError:
            raise RunFailed(f"{self.path}: the run's folder is gone: it was moved or removed") from None

    def _json(self, data: Mapping[str, object]) -> bytes:
        text = json.dumps(self.redactor.data(journal.finite(data)), indent=2, ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8", "backslashreplace") + b"\n"


def write_beat(path: Path, number: int, seconds: float) -> None:
    """Give a sign of life: so many seconds after that event of the journal.

    Always as many bytes, in one piece and over the old ones, so that nobody sees a part. The file's time is that of the
    file system, also where a full disk does not take them.

    Raises
    ------
    OSError
        The disk fails.
    """
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        try:
            os.pwrite(file, b"%12d %12.1f\n" % (number, seconds), 0)
        finally:
            os.close(file)  # where NFS tells that there is no room
    except OSError:
        os.utime(path)


def check_run(path: Path) -> None:
    """Make sure that ``path`` is the folder of a run.

    Raises
    ------
    UserError
        There is no such folder, it cannot be read, or it has no journal.
    """
    try:
        there, begun = path.is_dir(), (path / journal.FILE).is_file()
        hint = f"; did you mean {path / LATEST}?" if (path / LATEST / journal.FILE).is_file() else ""
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if not there:
        raise UserError(f"{path}: {'is not a folder' if path.exists() else 'there is no such folder'}")
    if not begun:
        raise UserError(f"{path}: is not the folder of a run (it has no {journal.FILE}){hint}")


def safe_names(names: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """For each name, whatever it holds, a distinct relative path that stays in its folder: ``file`` or ``folder/file``.

    Characters that a file system may refuse become ``_``, long names are cut, and what then would be the same, or one
    of the paths that are ``taken``, gets the suffix ``-2``, ``-3`` and so on.
    """
    files = set(taken)
    folders: set[str] = set()
    result = {}
    for name in names:
        parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..")]
        safe = [re.sub(r"[^A-Za-z0-9._+=@-]|^\.", "_", part)[:_LONGEST] for part in parts] or ["unnamed"]
        folder, last = safe[0] if len(safe) > 1 else "", "_".join(safe[1:] or safe)[:_LONGEST]
        while folder in files:
            folder += "_"
        for count in itertools.count(1):
            path = "/".join(filter(None, (folder, last if count == 1 else _numbered(last, count))))
            if path not in files and path not in folders:
                break
        files.add(path)
        if folder:
            folders.add(folder)
        result[name] = path
    return result


def _numbered(name: str, count: int) -> str:
    path = Path(name)
    return f"{path.stem}-{count}{path.suffix}"


def write_whole(path: Path, content: str, mode: int = 0o666) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part; ``mode`` is cut by the umask.

    Paths that are no UTF-8 keep their bytes.

    Raises
    ------
    RunFailed
        The disk is full or fails; the old content stays.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            draft.unlink(missing_ok=True)
            with open(draft, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
                file.write(content.encode("utf-8", "surrogateescape"))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise RunFailed(f"{path}: cannot be written: {error.strerror}") from error


def remove(path: Path) -> None:
    """Remove a file; one that is not there is no mistake.

    Raises
    ------
    RunFailed
        The disk fails.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise RunFailed(f"{path}: cannot be removed: {error.strerror}") from error


def require_name(name: str | None) -> None:
    """UserError if a run's folder cannot be named so; None stands for the local time."""
    if name is not None and (_PLAIN.fullmatch(name) is None or name == LATEST):
        raise UserError(
            f"run name {name!r}: should be letters, digits, '_' and, but for its beginning, '.' and '-', no more than "
            f"100, and not {LATEST!r}"
        )


def _reserved(path: Path) -> bool:
    try:
        return _ours(path) and (path / LAUNCH_LOG).exists() and not (path / journal.FILE).exists()
    except (OSError, UnicodeEncodeError):  # whoever makes a folder there is told why it cannot be
        return False


def _ours(path: Path) -> bool:
    """Whether what is at ``path`` is a folder of the owner that new files beside it get, as a server may map owners."""
    status = path.lstat()
    with tempfile.TemporaryFile(dir=path.parent) as new:
        return stat.S_ISDIR(status.st_mode) and status.st_uid == os.fstat(new.fileno()).st_uid


def _looked_after(path: Path) -> bool:
    """Whether a supervisor holds the lock of the launch log there."""
    try:
        with (path / LAUNCH_LOG).open("a") as file:
            return lock(file) is False
    except OSError:  # where it cannot be told, the lock does not keep supervisors from the run either
        return False


def _make(output: Path, name: str | None) -> Path:
    """A new folder in ``output``."""
    latest = output / LATEST
    stem = name or time.strftime("%Y%m%d-%H%M%S")
    try:
        output.mkdir(parents=True, exist_ok=True)
        if wrong := _latest_problem(latest):
            raise UserError(wrong)
        for count in itertools.count(1):
            path = output / (stem if count == 1 else f"{stem}-{count}")
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                break
    except UnicodeEncodeError as error:
        raise UserError(
            f"output folder {output}: this locale has no {error.object[error.start : error.end]!r} in names of files "
            f"({error.encoding}); set LC_ALL=C.UTF-8, or give another folder"
        ) from None
    except OSError as error:
        reason = "is not a folder" if isinstance(error, (FileExistsError, NotADirectoryError)) else error.strerror
        raise UserError(_unusable(output, reason)) from None
    return path


def output_problem(output: Path) -> str:
    """Why no run can have its folder in ``output``, as far as that can be told without making one; empty if it can."""
    try:
        above = next(path for path in (output, *output.absolute().parents) if path.exists() or path.is_symlink())
        if not above.is_dir():
            return _unusable(output, "is not a folder")
        if not os.access(above, os.W_OK | os.X_OK):
            return _unusable(output, os.strerror(errno.EACCES))
        return _latest_problem(output / LATEST)
    except OSError as error:
        return _unusable(output, error.strerror)


def _unusable(output: Path, reason: str | None) -> str:
    return f"output folder {output}: {reason}; give a folder you can write to"


def _latest_problem(latest: Path) -> str:
    taken = latest.exists() and not latest.is_symlink()
    return f"{latest}: is not a symbolic link; move it away or choose another output folder" if taken else ""


def _point(link: Path, target: str) -> None:
    draft = link.with_name(f".{link.name}.{os.getpid()}")
    # The link is a convenience: a file system without symbolic links does not stop a run.
    with contextlib.suppress(OSError):
        draft.unlink(missing_ok=True)
        draft.symlink_to(target)
        draft.replace(link)
