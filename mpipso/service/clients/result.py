"""What a benchmark leaves behind: which files, fresh or not, in which format, as one table."""

from __future__ import annotations

import contextlib
import csv
import functools
import glob
import io
import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpipso.errors import EvaluationFailed
from mpipso.evaluation import Value
from mpipso.service.command import fill, text

_NAMED = 3
"""How many of the files that match where one should are told."""
MAX_RESULT = 64 << 20
"""Bytes of a result file, at most: as Python's objects it takes ten times as much of a node under test."""
MAX_LOGS = 8
"""How many logs of a benchmark that failed are kept, at most."""
_KEPT = (".csv", ".jsonl")
"""How the name of a result file that is kept may end, besides as one of JSON."""
_LOGS = (".log", ".out", ".err")
_OPENING = re.compile(r'(?m)^[ \t]*\{(?=\s*["}])')
"""Where a table may begin on a line."""
_GOES_ON = re.compile(r"\s*[,\]}]")
"""What follows a table in another table or a list."""
_EFFORT = 32
"""How many times its length of a text is read, at most, in search of its last table."""


def pattern(name: str, values: Mapping[str, Value]) -> str:
    """The glob pattern of a result file: ``*`` and ``**`` of its name are wild, the values that fill it are not."""
    wild = "*".join(map(glob.escape, name.split("*")))
    return fill([wild], {key: glob.escape(text(value)) for key, value in values.items()})[0]


def found(wanted: str) -> dict[Path, tuple[int, int]]:
    """The files that match a pattern, in order, each with what changes when it is written."""
    files = {}
    for file in map(Path, sorted(glob.glob(wanted, recursive=True))):  # noqa: PTH207 - Path.glob takes no absolute one
        with contextlib.suppress(OSError):
            about = file.stat()
            if stat.S_ISREG(about.st_mode):
                files[file] = (about.st_mtime_ns, about.st_size)
    return files


def only(name: str, wanted: str, folder: Path) -> Path:
    """The one file that matches ``wanted``, the pattern of ``name``; matches in ``folder`` are told from there on.

    Raises
    ------
    EvaluationFailed
        None does, or several do.
    """
    files = list(found(wanted))
    if not files:
        raise EvaluationFailed(f"the benchmark client wrote no result file {name}")
    if len(files) > 1:
        told = [str(file.relative_to(folder) if file.is_relative_to(folder) else file) for file in files[:_NAMED]]
        more = ", ..." if len(files) > _NAMED else ""
        raise EvaluationFailed(f"{len(files)} files match the result file {name}, not one: {', '.join(told)}{more}")
    return files[0]


class Results:
    """The files that a benchmark is to write, one for each pattern, to be made before the benchmark runs.

    It takes note of what the patterns match at that time: most files are in the evaluation's own folder, which is empty
    then, but one elsewhere may be of an earlier benchmark.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._before = {wanted: found(wanted) for wanted in patterns}

    def kept(self, called: str, most: int) -> dict[str, bytes]:
        """The last ``most`` bytes of each file that was written, by its name in the evaluation's folder."""
        kept = {}
        for number, (wanted, before) in enumerate(self._before.items(), 1):
            now = found(wanted)
            if len(now) == 1 and now != before:
                (file,) = now
                suffix = next((each for each in _KEPT if file.name.lower().endswith(each)), ".json")
                name = f"{called}{f'-{number}' if number > 1 else ''}{suffix}"
                with contextlib.suppress(OSError):
                    kept[name] = _end(file, most)
        return kept

    def require_fresh(self) -> None:
        """Refuse a file of an earlier benchmark.

        Raises
        ------
        EvaluationFailed
            What matches a pattern is as it was before.
        """
        for wanted, before in self._before.items():
            if before and found(wanted) == before:
                file = next(iter(before))
                raise EvaluationFailed(f"the benchmark client did not update its result file {file.name}")


def logs(folder: Path, called: str, most: int) -> dict[str, bytes]:
    """The last ``most`` bytes of each log in the folder of what is ``called`` so, by its name in the evaluation's.

    Of many logs those that were written last are kept.
    """
    written = []
    for above, _, names in os.walk(folder):
        for file in (Path(above) / name for name in names if name.endswith(_LOGS)):
            with contextlib.suppress(OSError):
                about = file.lstat()
                if stat.S_ISREG(about.st_mode) and about.st_size:
                    written.append((about.st_mtime_ns, file))
    kept = {}
    for _, file in sorted(written)[-MAX_LOGS:]:
        with contextlib.suppress(OSError):
            kept[f"{called}-logs/{file.relative_to(folder)}"] = _end(file, most)
    return kept


def _end(file: Path, most: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(max(0, opened.seek(0, os.SEEK_END) - most))
        return opened.read(most)


def read(files: Sequence[Path]) -> Any:
    """The content of result files. Tables of several become one; what two of them tell, the later one tells.

    Raises
    ------
    EvaluationFailed
        One is missing, holds no result, or no table that the others could be added to.
    """
    trees = [_read(file) for file in files]
    for file, tree in zip(files, trees, strict=True):
        if len(trees) > 1 and not isinstance(tree, dict):
            raise EvaluationFailed(f"the result file {file.name} holds a list; of several files each must hold a table")
    return functools.reduce(_merged, trees)


def _merged(one: Any, other: Any) -> Any:
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return other
    return one | {key: _merged(one[key], below) if key in one else below for key, below in other.items()}


def content(file: Path) -> str:
    """The text of a result file, without the byte order mark that programs of Windows begin with.

    Raises
    ------
    EvaluationFailed
        It is missing, no text, or too large.
    """
    try:
        size = file.stat().st_size
        text = file.read_text() if size <= MAX_RESULT else ""
    except OSError:
        raise EvaluationFailed(f"the benchmark client wrote no result file {file.name}") from None
    except UnicodeDecodeError:
        raise EvaluationFailed(f"the benchmark client's result file {file.name} is not text") from None
    if size > MAX_RESULT:
        told = f"{size / 2**20:.0f} MiB, more than the {MAX_RESULT >> 20} MiB that are read"
        raise EvaluationFailed(f"the benchmark client's result file {file.name} has {told}")
    return text.removeprefix("\ufeff")


def _read(file: Path) -> Any:
    told = content(file)
    if _is_csv(file):
        return _rows(told, file.name)
    result = last_json(told)
    if result is None:
        raise EvaluationFailed(f"the benchmark client's result file {file.name} holds no JSON", detail=told[-2000:])
    return result


def _is_csv(file: Path) -> bool:
    return file.suffix.lower() == ".csv"


def _rows(text: str, name: str) -> dict[str, Any]:
    """A table of tables: the first cell of a line names the row, the header names the columns.

    Where there is one row, the columns are in it as well.
    """
    header = re.sub(r'"[^"]*"', "", text.lstrip("\r\n").partition("\n")[0])
    delimiter = max(",;\t", key=header.count)
    try:
        reader = csv.reader(io.StringIO(text), delimiter=delimiter)
        lines = [[cell.strip() for cell in line] for line in reader if any(line)]
    except csv.Error as error:
        raise EvaluationFailed(f"the benchmark client's result file {name} is no CSV: {error}") from None
    table: dict[str, Any] = {}
    for line in lines[1:]:
        if line[0] in table:
            told = f"two rows named {line[0]!r}; {{ pattern = '...' }} in place of each key finds a number in one"
            raise EvaluationFailed(f"the benchmark client's result file {name} has {told}")
        table[line[0]] = dict(zip(lines[0][1:], line[1:], strict=False))
    if not table:
        raise EvaluationFailed(f"the benchmark client's result file {name} holds no rows")
    columns = [column for column in lines[0][0 if len(lines) == 2 else 1 :] if column]
    if twice := [column for column in columns if columns.count(column) > 1]:
        raise EvaluationFailed(f"the benchmark client's result file {name} has two columns named {twice[0]!r}")
    return dict(zip(*lines, strict=False)) | table if len(lines) == 2 else table


def last_json(text: str, cut: bool = False) -> Any:
    """The table or list that a text is, else the last table that begins on a line of it; None without.

    So logs may stand before a result, and of JSON lines the last counts. ``NaN`` and ``Infinity`` are read, as many
    programs write them. Where the beginning of the text is ``cut`` off, the last table counts only if it cannot be a
    part of one that began there.

    Raises
    ------
    EvaluationFailed
        It is nested too deeply to be read.
    """
    try:
        if cut:
            return _last_table(text.partition("\n")[2], cut)  # without what may be the rest of a line
        with contextlib.suppress(ValueError):
            value = json.loads(text)
            return value if isinstance(value, (dict, list)) else None
        return _last_table(text)
    except RecursionError:
        raise EvaluationFailed("the benchmark's result is nested too deeply") from None


def _last_table(text: str, cut: bool = False) -> Any:
    table, end, left = None, 0, _EFFORT * len(text)
    for opening in _OPENING.finditer(text):
        if opening.start() >= end and left > 0:
            found, read = _table(text, opening.end() - 1)
            if found is None:
                left -= read
            else:
                table, end = found, opening.end() - 1 + read
    within = cut and _GOES_ON.match(text, end)
    return table if left > 0 and not within else None


def _table(text: str, start: int) -> tuple[Any, int]:
    """The table that begins at a place, None if none does, and how many characters that took.

    Decoded from ever longer slices: json counts the lines of all that it was given to say where an error is.
    """
    size = 512
    while True:
        part = text[start : start + size]
        try:
            return json.JSONDecoder().raw_decode(part)
        except json.JSONDecodeError as error:
            cut = error.pos > len(part) - _LONGEST_WORD or error.msg.startswith("Unterminated string")
            if not cut:
                return None, error.pos
            if size >= len(text) - start:
                return None, size
        except ValueError:  # a number of too many digits
            return None, size
        size *= 8


_LONGEST_WORD = len("-Infinity")
