"""The section of the configuration on the service's own configuration file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from types import ModuleType
from typing import Any, Literal

from pydantic import field_validator, model_validator

from mpipso.config.parameters import Section

_FORMATS = {".json": "json", ".yaml": "yaml", ".yml": "yaml"}


class ConfigFile(Section):
    """The service's own configuration file: a copy of ``template`` in which parameters with a ``path`` are set.

    ``content`` is the template's text, for a template that is no file. ``name`` is a path below the work folder.
    ``format`` is what the end of the name or of the template's says, ``json`` if there is neither; ``text`` has no
    paths, only placeholders.
    """

    template: str = ""
    content: str = ""
    format: Literal["json", "yaml", "text"]
    name: str = ""

    @model_validator(mode="before")
    @classmethod
    def _format_of_its_name(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        names = [name for key in ("name", "template") if isinstance(name := data.get(key), str) and name]
        kinds = [kind for name in names if (kind := _FORMATS.get(PurePath(name).suffix.lower()))]
        return {"format": kinds[0] if kinds else "text" if names else "json", **data}

    @field_validator("name")
    @classmethod
    def _below(cls, name: str) -> str:
        # Elsewhere, groups that share a host would write each other's file.
        if name.startswith("/") or ".." in name.split("/"):
            raise ValueError("should lead to a place below the work folder; update_command can copy it elsewhere")
        if name and not PurePath(name).name:
            raise ValueError("is the work folder itself; it should be the name of a file in it")
        return name

    @property
    def suffix(self) -> str:
        """The end of the file's name, with its dot."""
        return f".{self.format}" if self.format != "text" else PurePath(self.name or self.template).suffix or ".txt"

    def tree(self) -> Any:
        """The content, a new tree at each call; an empty table without one; of a text the text itself.

        Raises
        ------
        ValueError
            It is not of its format, or too much: YAML may have aliases of aliases.
        """
        if self.format == "text":
            return self.content
        if not self.content:
            return {}
        where = self.template or "its content"
        try:
            tree = _yaml().load(self.content) if self.format == "yaml" else json.loads(self.content)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} is not valid {self.format}: {error}") from None
        _require_bounded(tree, where)
        return {} if tree is None else tree

    def plain(self) -> Any:
        """The :meth:`tree` as JSON has it, to be compared with another one."""
        return json.loads(json.dumps(_named(self.tree()), default=str))

    def written(self, tree: Any) -> str:
        """A tree as text in this format."""
        if self.format == "text":
            return str(tree)
        if self.format == "yaml":
            return str(_yaml().dump(tree))
        return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"

    def quoted(self, text: str, like: object = "") -> str:
        """A text that takes the place of another one in the tree."""
        if self.format != "yaml":
            return text
        quoted: str = _yaml().quoted(text, like)
        return quoted


def steps(tree: Any, parts: Sequence[str]) -> tuple[list[Any], Sequence[str]]:
    """The keys and indices by which the parts of a path lead into a tree, and the parts that lead no further.

    A key may hold dots, and is several parts then; YAML has keys that are numbers. Of several ways that which leads
    furthest counts, and of these the one with the longest key.
    """
    best: tuple[list[Any], Sequence[str]] = ([], parts)
    if isinstance(tree, list):
        known = {part: int(part) for part in parts[:1] if part.isdecimal() and int(part) < len(tree)}
    else:
        # Where both 1 and "1" are keys, the latter comes last, and counts.
        known = {str(key): key for key in sorted(tree, key=_is_text)} if isinstance(tree, dict) else {}
    for count in range(len(parts), 0, -1):
        if (name := ".".join(parts[:count])) in known:
            keys, rest = steps(tree[known[name]], parts[count:])
            if len(rest) < len(best[1]):
                best = [known[name], *keys], rest
    return best


def _is_text(key: object) -> bool:
    return isinstance(key, str)


def _named(tree: Any) -> Any:
    """With keys that are texts; YAML has others."""
    if isinstance(tree, dict):
        return {str(key): _named(below) for key, below in tree.items()}
    return [_named(below) for below in tree] if isinstance(tree, list) else tree


def _yaml() -> ModuleType:
    from mpipso.config import yamltext  # few need it, and it takes its time

    return yamltext


MAX_VALUES, MAX_DEPTH = 100_000, 100
"""Of the service's own configuration file: what it takes to write it is spent for every evaluation."""


def _require_bounded(tree: Any, where: str) -> None:
    level = [tree]
    for _ in range(MAX_DEPTH):
        lists = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, (dict, list))]
        if sum(map(len, lists)) > MAX_VALUES:
            raise ValueError(f"{where} has more than {MAX_VALUES} values")
        level = [each for some in lists for each in some]
    if level:
        raise ValueError(f"{where} is nested more than {MAX_DEPTH} deep")
