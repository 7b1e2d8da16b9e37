"""The journal: the append-only record of a run, from which it can be resumed.

``journal.jsonl`` in the run's folder holds one JSON object per line (https://jsonlines.org), each on the disk before
its event is acted on. Every object has ``seq`` (0, 1, 2, ...), ``t`` (Unix time in seconds), ``up`` (seconds since the
session began, by a clock that is never set) and ``event``; what else, ``fields`` says.

JSON has no NaN and no infinity: they are written as null. Secrets are written as ``***``. A line without its newline
was torn by a crash and never acted on, so readers leave it out and the next writer cuts it off.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any, NoReturn

import tomli

from mpipso.errors import RunFailed, UserError
from mpipso.record.fields import Event, problem
from mpipso.record.judged import Judged, to_fields
from mpipso.record.place import is_there, lock, place
from mpipso.redact import Redactor
from mpipso.wording import counted

FILE = "journal.jsonl"


class Journal:
    """A run's journal, open for writing by this process alone; :meth:`create` or :meth:`open` make one.

    It is a context manager that closes the file at its end.

    Attributes
    ----------
    path:
        The file, where it was opened.
    redactor:
        Knows the secrets, which are not written.
    past:
        The events that were in the file when it was opened, in their order.
    """

    def __init__(self, path: Path, file: FileIO, redactor: Redactor) -> None:
        self.path = path
        if lock(file) is False:
            raise UserError(taken(path))
        self._began = self._written = time.monotonic()
        self._file = file
        self.redactor = redactor
        self.past, size = parse(path, file.readall())
        self._next = len(self.past)
        self._size = size
        file.truncate(size)
        file.seek(size)

    @classmethod
    def create(cls, folder: Path, redactor: Redactor | None = None) -> Journal:
        """Start the journal of a new run in its folder; without a redactor, it hides the secrets of the environment.

        Raises
        ------
        UserError
            The folder has a journal already, or cannot be written to.
        """
        return cls._opened(folder / FILE, "x+", redactor)

    @classmethod
    def open(cls, folder: Path, redactor: Redactor | None = None) -> Journal:
        """Go on with the journal in the folder of an earlier run; a torn last line is cut off.

        Raises
        ------
        UserError
            There is no journal, another process writes it, or it is damaged.
        """
        return cls._opened(folder / FILE, "r+", redactor)

    @classmethod
    def _opened(cls, path: Path, mode: str, redactor: Redactor | None) -> Journal:
        try:
            file = FileIO(path, mode)
        except FileExistsError:
            raise UserError(f"{path}: exists already; resume that run or choose another folder") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be opened: {error.strerror}") from None
        with contextlib.ExitStack() as opened:
            opened.callback(file.close)
            try:
                journal = cls(path, file, redactor if redactor is not None else Redactor(os.environ))
            except OSError as error:
                raise UserError(f"{path}: cannot be read: {error.strerror}") from None
            opened.pop_all()
            return journal

    def write(self, event: Event, /, **fields: Any) -> None:
        """Append one event with its fields, without secrets; it is on the disk when this returns.

        Raises
        ------
        RunFailed
            The disk is full or fails. The journal stays readable: what was written of the line is taken back.
        """
        if isinstance(text := fields.get("config"), str):
            with contextlib.suppress(tomli.TOMLDecodeError):
                self.redactor.learn(tomli.loads(text))
        at = time.monotonic()
        times = {"t": time.time(), "up": round(at - self._began, 3)}
        record = {"seq": self._next, **times, "event": event, **self.redactor.data(fields)}
        text = json.dumps(finite(record), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        # Half of a surrogate pair, as undecodable bytes of a log leave it, has no UTF-8; \udc80 is its JSON escape.
        line = text.encode("utf-8", "backslashreplace") + b"\n"
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
                self._file.seek(self._size)
            raise RunFailed(f"{self.path}: cannot be written: {error.strerror}") from error
        self._size += len(line)
        self._next += 1
        self._written = at

    def evaluated(self, judged: Judged) -> None:
        """Append an ``evaluated`` event; errors are those of :meth:`write`."""
        self.write("evaluated", **to_fields(judged))

    @property
    def since(self) -> tuple[int, float]:
        """The number of the event that was written last, and the seconds since then, by a clock that is never set."""
        return self._next - 1, time.monotonic() - self._written

    @property
    def folder(self) -> Path | None:
        """The folder in which the journal is now; None when it was removed."""
        if is_there(self.path, self._file):
            return self.path.parent
        now = place(self._file)
        return None if now is None else now.parent

    def check_place(self) -> None:
        """Make sure that the journal is where it was opened, as all that the run keeps is to be beside it.

        Raises
        ------
        RunFailed
            The folder was moved or removed.
        """
        folder = self.folder
        if folder != self.path.parent:
            where = "" if folder is None else f"; its journal is in {folder} now"
            raise RunFailed(f"{self.path.parent}: the run's folder was moved or removed while the run went on{where}")

    def close(self) -> None:
        """Close the file and give up the lock."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def taken(path: Path) -> str:
    """What is told of a journal whose lock somebody else holds."""
    return f"{path}: another process is writing this journal; wait for it or stop it"


def read(path: Path) -> list[dict[str, Any]]:
    """All events of the journal at ``path``, in their order, also while it is being written.

    Raises
    ------
    UserError
        The file cannot be read, or a line other than a torn last one is damaged.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    return parse(path, content)[0]


def parse(path: Path, content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The events of a journal's content, and how many bytes hold them: all but a torn last line.

    Raises
    ------
    UserError
        Another line is damaged; ``path`` says of which file.
    """
    *lines, torn = content.split(b"\n")
    events: list[dict[str, Any]] = []
    for index, line in enumerate(lines):
        try:
            event = json.loads(line, parse_constant=_refuse)
        except (ValueError, RecursionError):
            raise _damaged(path, index, "is not a line of JSON: the journal is damaged") from None
        if not isinstance(event, dict) or not {"event", "t"} <= event.keys() or event.get("seq") != index:
            raise _damaged(path, index, f"is not event {index} of a journal: the journal is damaged")
        if wrong := problem(event):
            raise UserError(f"{path}:{index + 1}: {wrong}: the journal is damaged, or of another version")
        events.append(event)
    return events, len(content) - len(torn)


def _damaged(path: Path, index: int, why: str) -> UserError:
    """What is wrong with a line, by its place from 0 on, and how to do without it and those after it."""
    before = f"; to go on from before that, keep a copy and leave only the first {counted(index, 'line')} in it"
    return UserError(f"{path}:{index + 1}: {why}{before if index else ''}")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def finite(data: Any) -> Any:
    """A copy of nested tables and lists with None for every float that JSON cannot hold."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: finite(content) for key, content in data.items()}
    return [finite(content) for content in data] if isinstance(data, list) else data
