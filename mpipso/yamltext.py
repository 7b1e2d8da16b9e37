"""YAML in which only what is set changes: a tree of nodes, so that everything else is written as it was read.

What a service makes of ``no``, ``22:22`` or ``0644`` depends on its version of YAML; a node keeps the text.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.anchor import Anchor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from mpipso.evaluation import Value

LARGEST = 100_000
"""How many nodes a document may have, those behind its aliases counted as often as they are referred to."""
_TAG = "tag:yaml.org,2002:"


class Document:
    """A document of YAML. A path is dotted, and a number in it an index into a list.

    Raises
    ------
    ValueError
        The text is no YAML, or its aliases lead into themselves or to too much; in one line.
    """

    def __init__(self, text: str) -> None:
        self._places: dict[int, tuple[int, int]] = {}
        """Where each node stands, as the node above and the index there; elsewhere there are aliases of it."""
        try:
            root = _yaml().compose(text)
            self._root = _table() if root is None or _is_null(root) else root
            self._survey(self._root, {})
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        except MarkedYAMLError as error:
            where = f", line {error.problem_mark.line + 1}" if error.problem_mark is not None else ""
            raise ValueError(f"{error.problem or error.context}{where}") from None
        except YAMLError as error:
            raise ValueError(str(error).partition("\n")[0]) from None

    def __str__(self) -> str:
        stream = io.StringIO()
        _yaml().serialize(self._root, stream)
        return stream.getvalue()

    def plain(self) -> Any:
        """Its data, a new tree at each call; scalars that not all versions of YAML read alike are texts."""
        return _plain(self._root)

    def fill(self, filled: Callable[[str], Value]) -> None:
        """Replace every scalar that is not a key by what ``filled`` makes of it."""
        for node in list(_values(self._root, set())):
            value = filled(node.value)
            if value != node.value:
                _set(node, value, node.style)

    def put(self, path: str, value: Value) -> None:
        """Set the value at a path; aliases of what stands there follow, and an alias becomes a copy that differs.

        Raises
        ------
        ValueError
            The path leads through something that is neither table nor list.
        """
        *parents, last = path.split(".")
        node = self._root
        for part in parents:
            node = self._below(node, part, path)
        index = _index(node, part=last, path=path)
        old = None if index is None else _child(node, index)
        if isinstance(old, ScalarNode) and self._stands(old, node, index):
            _set(old, value)
        else:
            new = ScalarNode(_TAG + "null", "")
            _set(new, value)
            _place(node, index, last, new)

    def _survey(self, node: Node, sizes: dict[int, int]) -> int:
        """How many nodes there are; and notes where they stand, and lets them keep the names of their anchors."""
        known = sizes.get(id(node))
        if known is not None:
            if known == 0:
                raise ValueError("an alias stands within what it stands for")
            return known
        sizes[id(node)], total = 0, 1
        if node.anchor is not None:
            name, node.anchor = node.anchor, Anchor()
            node.anchor.value, node.anchor.always_dump = name, True
        if isinstance(node, ScalarNode) and node.style == ">":
            # The reader marks where lines were folded, and the writer does not fold all of them as they were.
            node.value, node.style = node.value.replace("\a", ""), "|"
        for index, entry in enumerate(node.value if not isinstance(node, ScalarNode) else ()):
            for below in entry if isinstance(entry, tuple) else (entry,):
                self._places.setdefault(id(below), (id(node), index))
                total += self._survey(below, sizes)
        if total > LARGEST:
            raise ValueError(f"its aliases stand for more than {LARGEST} values")
        sizes[id(node)] = total
        return total

    def _stands(self, child: Node, node: Node, index: int | None) -> bool:
        return self._places.get(id(child), (id(node), index)) == (id(node), index)

    def _below(self, node: Node, part: str, path: str) -> Node:
        """What a part of a path leads to, made if there is nothing, and the path's own if it was another's."""
        index = _index(node, part, path)
        child = _entries(node).get(part) if index is None else _child(node, index)
        if child is None or _is_null(child):
            child = _table()
        elif index is None or not self._stands(child, node, index):
            child = _copied(child)
        else:
            return child
        _place(node, index, part, child)
        return child


def _yaml() -> YAML:
    yaml = YAML()
    yaml.width = 1 << 20  # nothing is folded
    return yaml


def _table() -> MappingNode:
    return MappingNode(_TAG + "map", [], flow_style=False)


def _is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.tag == _TAG + "null"


def _set(node: ScalarNode, value: Value, style: str | None = None) -> None:
    """Quoted if it is a text, which all versions of YAML then read as one; ``style`` is that of the text before."""
    if isinstance(value, str):
        node.value, node.style = value, style or '"'
        if (node.tag or "").startswith(_TAG):  # and is not one of the service's own
            node.tag = _TAG + "str"
        return
    kind, text = "bool" if isinstance(value, bool) else type(value).__name__, repr(value)
    if kind == "float" and "." not in text:
        text = text.replace("e", ".0e")  # in YAML 1.1, 1e-05 is a text
    node.value, node.style, node.tag = text.lower(), None, _TAG + kind


def _plain(node: Any) -> Any:
    if isinstance(node, SequenceNode):
        return [_plain(below) for below in node.value]
    if isinstance(node, MappingNode):
        return {name: _plain(below) for name, below in _entries(node).items()}
    kind, text = (node.tag or "").removeprefix(_TAG), node.value
    try:
        if kind in ("int", "float"):
            return int(text) if kind == "int" else float(text)
    except ValueError:
        return text
    if kind in ("bool", "null"):
        return text.lower() == "true" if kind == "bool" else None
    return text


def _entries(table: Node) -> dict[str, Node]:
    """The entries of a table by their names, those that it merges (``<<``) included."""
    found: dict[str, Node] = {}
    for key, value in table.value:
        if key.tag == _TAG + "merge":
            for merged in value.value if isinstance(value, SequenceNode) else [value]:
                found = {**(_entries(merged) if isinstance(merged, MappingNode) else {}), **found}
    return found | {_name(key): value for key, value in table.value if key.tag != _TAG + "merge"}


def _name(key: Node) -> str:
    return key.value if isinstance(key, ScalarNode) else str(_plain(key))


def _values(node: Node, seen: set[int]) -> Iterator[ScalarNode]:
    """The scalars below a node that are no keys, each once."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, ScalarNode):
        yield node
        return
    for entry in node.value:
        yield from _values(entry[1] if isinstance(entry, tuple) else entry, seen)


def _index(node: Node, part: str, path: str) -> int | None:
    """Where a part of a path stands in a node; None if a table lacks it."""
    if isinstance(node, MappingNode):
        return next((index for index, (key, _) in enumerate(node.value) if _name(key) == part), None)
    if not isinstance(node, SequenceNode) or not part.isdigit() or int(part) >= len(node.value):
        raise ValueError(f"path {path!r}: nothing to descend into at {part!r}")
    return int(part)


def _child(node: Node, index: int) -> Node:
    entry = node.value[index]
    found: Node = entry[1] if isinstance(entry, tuple) else entry
    return found


def _place(node: Node, index: int | None, name: str, child: Node) -> None:
    if index is None:
        node.value.append((ScalarNode(_TAG + "str", name, style='"'), child))
    else:
        entry = node.value[index]
        node.value[index] = (entry[0], child) if isinstance(entry, tuple) else child


def _copied(node: Node) -> Node:
    """Without anchors and aliases."""
    twin = copy.copy(node)
    twin.anchor = None
    if not isinstance(node, ScalarNode):
        twin.value = [
            tuple(map(_copied, entry)) if isinstance(entry, tuple) else _copied(entry) for entry in node.value
        ]
    return twin
