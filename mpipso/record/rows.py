"""Measurements as rows of a CSV file, which may be of another program."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from mpipso.config import Config
from mpipso.config.parameters import Parameter
from mpipso.errors import UserError
from mpipso.evaluation import LARGEST, Configuration, Expected, Metrics, Value
from mpipso.record.table import FAILED, RESULT, STOPPED
from mpipso.redact import HIDDEN
from mpipso.wording import clean, suggestion

Result = tuple[Configuration, Metrics | None]
"""A configuration with its metrics, None where it failed."""


_TRUE, _FALSE = ("true", "yes", "on", "1", "1.0"), ("false", "no", "off", "0", "0.0")


def read_rows(path: Path, config: Config) -> tuple[list[Result], list[str]]:
    """The results in a CSV file, one per row, and a remark on the columns that are ignored.

    :func:`mpipso.record.warm.read_earlier` says what there may be in one.

    Raises
    ------
    UserError
        What is wrong with it, by lines.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise UserError(f"{path}: cannot be read: {reason}") from None
    rows = _rows(path, text)
    _, header = next(rows, (0, []))
    header = [name.strip() for name in header]
    columns = _columns(path, header, config)
    parameters = [parameter for parameter in config.parameters if parameter.searched and parameter.name in columns]
    metrics = [name for name in header if name in columns and name not in {p.name for p in config.parameters}]
    ignored = [name for name in header if name not in columns and name not in {p.name for p in config.parameters}]
    found: list[Result] = []
    problems: list[str] = []
    # Of a sweep, the load that counts; others are no further measurements.
    sweeps = {"load", "counts"} <= set(ignored)
    for line, cells in rows:
        if len(cells) != len(header):
            problems.append(f"{path}:{line}: has {len(cells)} cells, and the header has {len(header)}")
            continue
        row = dict(zip(header, cells, strict=True))
        if sweeps and row["counts"].strip() == "false":
            continue
        try:
            configuration = {parameter.name: typed(parameter, row[parameter.name]) for parameter in parameters}
            measured = {name: number for name in metrics if (number := _metric(name, row[name])) is not None}
        except ValueError as error:
            problems.append(f"{path}:{line}: {error}")
            continue
        # A table of a run says which of its rows failed; what others lack was not asked for there.
        result = row[RESULT].strip() if RESULT in ignored else FAILED
        complete = all(name in measured for name in config.needed)
        measured = Expected(measured) if result == STOPPED else measured
        found.append((configuration, measured if result != FAILED or complete else None))
    if problems:
        more = [f"{path}: and {len(problems) - 10} more lines like these"] if len(problems) > 10 else []
        raise UserError([*problems[:10], *more])
    return found, [f"ignored columns: {clean(', '.join(ignored))}"] if ignored else []


def defaults(config: Config) -> dict[str, Value]:
    """The defaults of the searched parameters: of all, or of none."""
    searched = (parameter for parameter in config.parameters if parameter.searched)
    return {parameter.name: parameter.default for parameter in searched if parameter.default is not None}


def _rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of CSV text that are not empty, each after the number of the line on which it ends."""
    header = (text.lstrip().splitlines() or [""])[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{path}:{reader.line_num}: is not CSV: {error}") from None
        if row is None:
            return
        if any(cell.strip() for cell in row):
            yield reader.line_num, row


def _columns(path: Path, header: Sequence[str], config: Config) -> set[str]:
    """The names of the columns that count.

    Raises
    ------
    UserError
        A column that is needed is missing, or stands there twice.
    """
    if not header:
        raise UserError(f"{path}:1: has no header: it should name the parameters and metrics of the columns")
    searched = [parameter.name for parameter in config.parameters if parameter.searched]
    # A derived metric is computed anew, but where a benchmark was stopped early the objective's is all there is.
    known = {*searched, *config.measured, config.objective.metric}
    spare = [name for name in header if name not in {*known, *(parameter.name for parameter in config.parameters)}]
    usual = defaults(config) if any(name in header for name in searched) else {}
    # A name that is much like it may be the same parameter, by an earlier name or with a mistake in writing.
    optional = [name for name in usual if not _instead(name, spare)]
    wanted = [("parameter", name) for name in searched if name not in optional]
    wanted += [("metric", name) for name in config.needed]
    problems = [
        f"{path}:1: has no column for the {kind} {name!r}{_instead(name, spare)}"
        for kind, name in wanted
        if name not in header
    ]
    problems += [f"{path}:1: has two columns {name!r}" for name in sorted(known) if header.count(name) > 1]
    if problems:
        raise UserError(problems)
    return known.intersection(header)


def _instead(name: str, spare: Sequence[str]) -> str:
    """Which of the ``spare`` names may be meant by one that is missing, as the end of a message; empty if none is."""
    for other in spare:
        if other.casefold() == name.casefold():
            return f"; did you mean {other!r}?"
    close = suggestion(name, spare)
    return close if "did you mean" in close else ""


def typed(parameter: Parameter, cell: str) -> Value:
    """A cell as a value of its parameter; what was hidden as a secret stays ``***``.

    Blanks around a value do not count, unless they are part of a choice.

    Raises
    ------
    ValueError
        It is none.
    """
    if cell in parameter.choices:
        return cell
    cell = cell.strip()
    if HIDDEN in cell:
        return cell
    wrong = ValueError(
        f"{parameter.name} = {cell!r} is not {'an' if parameter.type == 'int' else 'a'} {parameter.type}"
    )
    if parameter.type == "choice":
        return next((choice for choice in parameter.choices if writes(cell, choice)), cell)
    if parameter.type == "bool":
        if cell.lower() not in (*_TRUE, *_FALSE):
            raise wrong
        return cell.lower() in _TRUE
    try:
        number = float(cell)
    except ValueError:
        raise wrong from None
    if not math.isfinite(number) or (parameter.type == "int" and number != int(number)):
        raise wrong
    return int(number) if parameter.type == "int" else number


def writes(cell: str, choice: Value) -> bool:
    """Whether the cell's text stands for the choice."""
    if isinstance(choice, bool):
        return cell.lower() == str(choice).lower()
    if cell == str(choice):
        return True
    try:
        return not isinstance(choice, str) and float(cell) == choice
    except ValueError:
        return False


def _metric(name: str, cell: str) -> float | None:
    """The number in a cell; None for a cell that is empty, or whose number is not finite or no measurement.

    Raises
    ------
    ValueError
        It is no number.
    """
    try:
        number = float(cell.strip() or "nan")
    except ValueError:
        raise ValueError(f"{name} = {cell.strip()!r} is not a number") from None
    return number if abs(number) <= LARGEST else None
