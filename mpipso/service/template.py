"""The service's own configuration file: a template in which placeholders and the parameters' paths are set."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpipso.config.parameters import Parameter
from mpipso.config.servicefile import ConfigFile, steps
from mpipso.evaluation import Configuration, Value
from mpipso.service.command import PLACEHOLDER, text


@functools.lru_cache(maxsize=1)
def named(file: ConfigFile | None) -> frozenset[str]:
    """The names that stand in braces in the values of a template, none without one."""
    if file is None:
        return frozenset()
    try:
        texts = [file.content] if file.format == "text" else list(_texts(file.tree(), file))
    except ValueError:  # which is told elsewhere
        texts = [file.content]
    return frozenset(name for text in texts for name in PLACEHOLDER.findall(text))


def loaded(file: ConfigFile) -> ConfigFile:
    """The file's section with the text of its template, which the root reads for all ranks and for the journal.

    Raises
    ------
    ValueError
        The template cannot be read.
    """
    if not file.template or file.content:
        return file
    path = Path(file.template)
    try:
        if path.is_fifo():  # which would be waited for
            raise ValueError(f"template {file.template} is a pipe")
        return file.model_copy(update={"content": path.read_bytes().decode("utf-8-sig")})
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"template {file.template} cannot be read: {getattr(error, 'strerror', 'not text')}") from None


def config_text(
    file: ConfigFile, parameters: Iterable[Parameter], configuration: Configuration, values: Mapping[str, Value]
) -> bytes:
    """The text of the file for a configuration.

    It is the template with its placeholders filled from ``values``, and then the parameters' values at their paths.

    A text that is a placeholder and nothing else, as in ``{"port": "{port}"}``, becomes the value itself, a number if
    it is one, and so does one without quotes, which YAML takes for a table, as in ``port: {port}``; names that are not
    among ``values``, and those behind a ``$``, are left alone. A path is dotted; a number in it is an index into a
    list, as in ``ModelDeployConfig.ModelConfig.0.npuMemSize``, and a key of the template may itself hold dots.

    Raises
    ------
    ValueError
        The content is not of its format, or a path leads through something that is neither table nor list.
    """
    if file.format == "text":
        return _replaced(file.content, values).encode()
    root = {"": file.tree()}
    _fill(root, file, values)
    places = dict(reversed([(id(below), place) for place, below in _below(root)]))
    for each in parameters:
        if each.path is not None:
            value = configuration[each.name]
            _put(root, each.path, file.quoted(value) if isinstance(value, str) else value, places, file.quoted)
    return file.written(root[""]).encode()


def new_paths(file: ConfigFile, parameters: Iterable[Parameter]) -> dict[str, list[str]]:
    """The paths that the template does not hold, so that they will be added, each with those it does hold."""
    held = {".".join(path) for path, _ in _below(file.tree())}
    wanted = [parameter.path for parameter in parameters if parameter.path is not None]
    return {path: sorted(held) for path in wanted if path not in held} if file.content else {}


def _fill(tree: Any, file: ConfigFile, values: Mapping[str, Value]) -> None:
    """Fill the placeholders below a table or list, in place."""
    for key, below in list(_entries(tree)):
        if (name := _unquoted(below, file)) in values:
            tree[key] = file.quoted(filled) if isinstance(filled := values[name], str) else filled
        elif isinstance(below, str):
            whole = PLACEHOLDER.fullmatch(below)
            filled = values.get(whole[1], below) if whole is not None else _replaced(below, values)
            if filled != below:
                tree[key] = file.quoted(filled, below) if isinstance(filled, str) else filled
        else:
            _fill(below, file, values)


def _unquoted(below: Any, file: ConfigFile) -> str:
    """The name of a placeholder without quotes, ``{name}``, which YAML takes for a table; empty if it is none."""
    if not (isinstance(below, dict) and len(below) == 1 and hasattr(below, "fa") and below.fa.flow_style()):
        return ""
    ((key, value),) = below.items()
    if not isinstance(key, str) or value is not None:
        return ""
    # A key whose value is empty on purpose, {name: }, reads the same.
    return key if re.search(rf"{{\s*{re.escape(key)}\s*,?\s*}}", file.content) else ""


def _texts(tree: Any, file: ConfigFile) -> Iterator[str]:
    """The texts among the values below a table or list, and placeholders without quotes as texts."""
    for _, below in _entries(tree):
        if name := _unquoted(below, file):
            yield f"{{{name}}}"
        elif isinstance(below, str):
            yield below
        else:
            yield from _texts(below, file)


def _replaced(content: str, values: Mapping[str, Value]) -> str:
    return PLACEHOLDER.sub(lambda match: text(values[match[1]]) if match[1] in values else match[0], content)


def _entries(tree: Any) -> Iterable[tuple[Any, Any]]:
    return tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()


def _below(tree: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Everything below a table or list with its path, in the order in which it is written."""
    for key, below in _entries(tree):
        path = (*above, str(key))
        yield path, below
        yield from _below(below, path)


def _put(
    root: dict[str, Any], path: str, value: Value, places: Mapping[int, Sequence[str]], quoted: Callable[[str], str]
) -> None:
    """Set what is at ``path``; what stands at another of ``places``, by identity, and only for an alias here, stays.

    Keys that there were not are ``quoted``.
    """
    keys, missing = steps(root, ["", *path.split(".")])
    tree: Any = root
    for depth, key in enumerate(keys if missing else keys[:-1], start=1):
        found, place = tree[key], tuple(map(str, keys[:depth]))
        if found is None:
            found = tree[key] = {}
        elif isinstance(found, (dict, list)) and places.get(id(found), place) != place:
            found = tree[key] = _copy(found)
        tree = found
    if missing and not isinstance(tree, dict):
        raise ValueError(f"path {path!r}: nothing to descend into at {missing[0]!r}")
    below: Any = value
    for part in reversed(missing[1:]):
        below = {quoted(part): below}
    tree[quoted(missing[0]) if missing else keys[-1]] = below


def _copy(tree: Any) -> Any:
    """Without the anchors of YAML."""
    if isinstance(tree, dict):
        return {key: _copy(below) for key, below in tree.items()}
    return [_copy(below) for below in tree] if isinstance(tree, list) else tree
