"""The service's own configuration file: a template in which placeholders and the parameters' paths are set."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mpipso.evaluation import Configuration, Value
from mpipso.parameters import Parameter
from mpipso.service.command import PLACEHOLDER, text
from mpipso.servicefile import ConfigFile

_IN_FILE = re.compile(rf"(?<!\$){PLACEHOLDER.pattern}")
"""``${name}`` is a variable of the service's own."""


def named(file: ConfigFile | None) -> set[str]:
    """The names that stand in braces in a template, none without one."""
    return set(_IN_FILE.findall(file.content)) if file is not None else set()


def loaded(file: ConfigFile) -> ConfigFile:
    """With the text of its template, which the root reads for all ranks, and for the journal.

    Raises
    ------
    ValueError
        The template cannot be read.
    """
    if not file.template or file.content:
        return file
    try:
        return file.model_copy(update={"content": Path(file.template).read_bytes().decode()})
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"template {file.template} cannot be read: {getattr(error, 'strerror', 'not text')}") from None


def config_text(
    file: ConfigFile, parameters: Iterable[Parameter], configuration: Configuration, values: Mapping[str, Value]
) -> bytes:
    """The content with its placeholders filled from ``values``, and then the parameters' values at their paths.

    A text that is a placeholder and nothing else, as in ``{"port": "{port}"}``, becomes the value itself, a number if
    it is one; names that are not among ``values``, and those behind a ``$``, are left alone. A path is dotted; a number
    in it is an index into a list, as in ``ModelDeployConfig.ModelConfig.0.npuMemSize``.

    Raises
    ------
    ValueError
        The content is not of its format, or a path leads through something that is neither table nor list.
    """
    if file.format == "text":
        return _replaced(file.content, values).encode()
    wanted = {each.path: configuration[each.name] for each in parameters if each.path is not None}
    if file.format == "yaml":
        document = file.yaml()
        document.fill(lambda text: _filled(text, values))
        for path, value in wanted.items():
            document.put(path, value)
        return str(document).encode()
    tree = _filled(file.tree(), values)
    for path, value in wanted.items():
        _put(tree, path, value)
    return written(tree).encode()


def written(tree: Any) -> str:
    """A tree as JSON, which is YAML as well."""
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


def new_paths(file: ConfigFile, parameters: Iterable[Parameter]) -> dict[str, list[str]]:
    """The paths that the template does not hold, so that they will be added, each with those it does hold."""
    held = set(_paths(file.tree()))
    wanted = [parameter.path for parameter in parameters if parameter.path is not None]
    return {path: sorted(held) for path in wanted if path not in held} if file.content else {}


def _filled(tree: Any, values: Mapping[str, Value]) -> Any:
    if isinstance(tree, dict):
        return {key: _filled(below, values) for key, below in tree.items()}
    if isinstance(tree, list):
        return [_filled(below, values) for below in tree]
    if not isinstance(tree, str):
        return tree
    if (whole := PLACEHOLDER.fullmatch(tree)) is not None:
        return values.get(whole[1], tree)
    return _replaced(tree, values)


def _replaced(content: str, values: Mapping[str, Value]) -> str:
    return _IN_FILE.sub(lambda match: text(values[match[1]]) if match[1] in values else match[0], content)


def _paths(tree: Any, above: str = "") -> Iterator[str]:
    """Every path of a tree, dotted."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, below in pairs:
        yield f"{above}{key}"
        yield from _paths(below, f"{above}{key}.")


def _put(tree: Any, path: str, value: Value) -> None:
    *parents, last = path.split(".")
    node = tree
    for part in parents:
        if isinstance(node, dict):
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        else:
            node = _item(node, part, path)
    if isinstance(node, dict):
        node[last] = value
    else:
        _item(node, last, path)
        node[int(last)] = value


def _item(node: Any, part: str, path: str) -> Any:
    if not isinstance(node, list) or not part.isdigit() or int(part) >= len(node):
        raise ValueError(f"path {path!r}: nothing to descend into at {part!r}")
    return node[int(part)]
