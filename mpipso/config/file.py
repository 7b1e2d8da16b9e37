"""Reading the configuration file: every mistake of it is reported at once, one line each with its key."""

from __future__ import annotations

import datetime
import re
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mpipso.config import Config
from mpipso.config.parameters import CALLED, NAME, Section
from mpipso.errors import UserError
from mpipso.wording import shortened, suggestion

SHOWN = 200
"""How much of a value a message shows."""


def load(
    path: Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    engines: Collection[str] | None = None,
    clients: Collection[str] | None = None,
) -> Config:
    """Read and validate a TOML file.

    Parameters
    ----------
    overrides:
        Values by dotted key (``search.seed``) that replace those of the file, as command-line flags do.
    engines, clients:
        The adapter names that exist, if they are to be checked.

    Raises
    ------
    UserError
        The file cannot be read, is not TOML, or does not fit; with every mistake that was found.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: cannot be read: {reason}") from None
    return parse(text, str(path), overrides=overrides, engines=engines, clients=clients)


def parse(
    text: str,
    source: str,
    *,
    overrides: Mapping[str, Any] | None = None,
    engines: Collection[str] | None = None,
    clients: Collection[str] | None = None,
    earlier: bool = False,
) -> Config:
    """Validate TOML text; ``source`` names it in messages. See :func:`load`.

    What an ``earlier`` run had may be what earlier versions let pass.
    """
    try:
        data = tomli.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of too many digits, and lists in lists in lists
        raise UserError(f"{source}: is not valid TOML: {error}{_meant(text, error)}") from None
    for key, value in (overrides or {}).items():
        *sections, last = key.split(".")
        table = data
        for section in sections:
            table = table.setdefault(section, {})
            if not isinstance(table, dict):
                raise UserError(f"{source}: {section} must be a table")
        table[last] = value
    problems = [] if earlier else [f"{_told(location, data)}: {_NUL}" for location in _with_nul(data)]
    try:
        config = Config.model_validate(
            _tuples(data), context={"engines": engines, "clients": clients, "earlier": earlier}
        )
    except ValidationError as error:
        problems += _explain(error.errors(), data)
    if problems:
        raise UserError([_attributed(problem, source, overrides or {}) for problem in problems])
    return config


def _attributed(problem: str, source: str, overrides: Collection[str]) -> str:
    """A line with the file that it tells of, or with the flag that has taken the place of a key there."""
    key = next((key for key in overrides if problem.startswith((f"{key} = ", f"{key}: "))), "")
    flag = f"--{key.rpartition('.')[2].replace('_', '-')}"
    return f"{flag}{problem.removeprefix(key)}" if key else f"{source}: {problem}"


_SET = re.compile(r"\s*([\w.-]{1,64})\s*=")
_ESCAPES = ("Invalid hex", "Unescaped")
_SLIPS = (
    (re.compile(r"\s*\{"), "Invalid statement", "the file is to be TOML, which has no braces around it"),
    (re.compile(r"\s*\S"), "Unclosed array", "is a comma missing between two values, or ] behind the last one?"),
    (re.compile(r""), "Cannot overwrite", "the key is there already"),
    (re.compile(r"[\u2018-\u201f]"), "", "these are no quotes in TOML, which has \" and '"),
    (re.compile(r".*\\"), "|".join(_ESCAPES), "in \"...\" a backslash begins an escape: put '...' around it"),
    (re.compile(r"(?i)(true|false)\b"), "Invalid value", "TOML has true and false in small letters"),
    (re.compile(r"(?i)(none|null|nil)\b"), "Invalid value", "TOML has nothing of that kind: leave the key out"),
    (re.compile(r"[^\W\d]"), "Invalid value", "a text needs quotes"),
)
"""What a line looks like from where it is wrong, what is said of it, and what may have been meant."""


def _meant(text: str, error: Exception) -> str:
    """The key that is wrong, and what may be wrong with it, as the end of a message."""
    if not isinstance(error, tomli.TOMLDecodeError):
        return ""
    line = "".join(text.split("\n")[error.lineno - 1 : error.lineno])
    rest = line if error.msg.startswith(_ESCAPES) else line[error.colno - 1 :]
    meant = next((meant for look, said, meant in _SLIPS if look.match(rest) and re.match(said, error.msg)), "")
    # Not the value, which may be a secret.
    key = _SET.match(line)
    return f"{f', where {key[1]} is set' if key else ''}{f': {meant}' if meant else ''}"


def _tuples(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _tuples(value) for key, value in data.items()}
    return tuple(map(_tuples, data)) if isinstance(data, list) else data


_NUL = "holds the character \\u0000, which no command, no variable and no path can have"


def _with_nul(data: Any, location: tuple[int | str, ...] = ()) -> Iterator[tuple[int | str, ...]]:
    """Where texts are that hold it."""
    if isinstance(data, str) and "\0" in data:
        yield location
    below = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for part, value in below:
        yield from _with_nul(value, (*location, part))


def _explain(errors: Sequence[ErrorDetails], data: Mapping[str, Any]) -> list[str]:
    """One line per mistake; what the members of a union each say about one key becomes one line."""
    by_key: dict[str, list[ErrorDetails]] = {}
    for details in errors:
        by_key.setdefault(_dotted(_place(details["loc"])), []).append(details)
    lines = []
    for place, group in by_key.items():
        first = group[0]
        key = _told(_place(first["loc"]), data)
        if first["loc"][-1:] == (_OF_A_KEY,):
            table = _told(_place(first["loc"][:-2]), data)
            lines.append(f"{table}: the key {_shown(first['input'])} should {_wanted(first)}")
            continue
        if first["type"] == "missing":
            lines.append(f"{key}: is required")
        elif first["type"] == "extra_forbidden":
            name = str(first["loc"][-1])
            lines.append(f"{key}: unknown key{suggestion(name, _keys_of(first['loc'][:-1]))}")
        elif first["type"] == "value_error":
            value = f" = {_shown(first['input'])}" if isinstance(first["input"], (str, int, float)) else ""
            message = first["msg"].removeprefix("Value error, ")
            lines += [f"{key}{value}: {line}" if key else line for line in message.splitlines()]
        elif not any(other.startswith(f"{place}[") for other in by_key):
            wanted = " or ".join(map(_wanted, group)).replace(" or be ", " or ")
            if isinstance(first["input"], Mapping) and first["type"] == "tuple_type" and _keys_of(first["loc"]):
                header = _dotted([part for part in first["loc"] if isinstance(part, str)])
                wanted += f"; [[{header}]] begins each of its tables"
            lines.append(f"{key} = {_shown(first['input'])}: should {wanted}")
    return lines


def _place(location: Sequence[int | str]) -> list[int | str]:
    """A location of pydantic's in the words of the file."""
    return [part for part in location if part not in _UNION_MEMBERS]


def _wanted(details: ErrorDetails) -> str:
    """What pydantic says should have been given, in the words of TOML."""
    if told := _PATTERNS.get(details.get("ctx", {}).get("pattern", "")):
        return told
    plain = {"tuple_type": "be a list", "dict_type": "be a table", "model_type": "be a table"}
    return plain.get(details["type"], re.sub(r"^\w+ should ", "", details["msg"]))


_PATTERNS = {
    NAME: "be letters, digits and '_', and begin with no digit",
    CALLED: "be a number, several, or a parameter's name in braces",
}
"""What a text should be that has to match one of these."""


def _shown(value: object) -> str:
    return shortened(_as_in_toml(value), SHOWN)


def _as_in_toml(value: object) -> str:
    """A value more or less as it was written."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_as_in_toml(below)}" for key, below in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_as_in_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (datetime.date, datetime.time)) else repr(value)


_OF_A_KEY = "[key]"
"""What pydantic has at the end of a location, after the key, if it is the key that is wrong."""
_UNION_MEMBERS = (
    *("bool", "int", "float", "str", "literal['baseline']"),
    *("a key", "a key with its unit", "a pattern", "a number", "a parameter", "several numbers"),
)


def _told(location: Sequence[int | str], data: Mapping[str, Any]) -> str:
    """Where a mistake is: of a parameter by its name, if it has one of its own, else by its place in the file."""
    if len(location) > 1 and location[0] == "parameters":
        given = data["parameters"][location[1]]
        name = given.get("name") if isinstance(given, dict) else None
        same = [each for each in data["parameters"] if isinstance(each, dict) and each.get("name") == name]
        if isinstance(name, str) and re.fullmatch(NAME, name) and len(same) == 1:
            return ": ".join(filter(None, (f"parameter {name!r}", _dotted(location[2:]))))
    return _dotted(location)


def _dotted(location: Sequence[int | str]) -> str:
    key = ""
    for part in location:
        name = part if part != "" else '""'
        key += f"[{name}]" if isinstance(name, int) else f".{name}" if key else name
    return key


def _keys_of(location: Sequence[int | str]) -> Collection[str]:
    model: Any = Config
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        if field is None:
            return ()
        model = _section_in(field.annotation)
        if model is None:
            return ()
    return tuple(model.model_fields)


def _section_in(annotation: Any) -> type[Section] | None:
    if (
        isinstance(annotation, type)
        and not isinstance(annotation, types.GenericAlias)
        and issubclass(annotation, Section)
    ):
        return annotation
    return next((found for part in typing.get_args(annotation) if (found := _section_in(part))), None)
