"""The section of the configuration on the service's own configuration file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator, model_validator

from mpipso.parameters import Section

if TYPE_CHECKING:
    from mpipso.yamltext import Document

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
            It is not of its format.
        """
        if self.format == "text":
            return self.content
        if not self.content:
            return {}
        try:
            tree = self.yaml().plain() if self.format == "yaml" else json.loads(self.content)
        except RecursionError:
            raise ValueError(f"{self._source} is not valid json: it is nested too deeply") from None
        except json.JSONDecodeError as error:
            raise ValueError(f"{self._source} is not valid json: {error}") from None
        return {} if tree is None else tree

    def yaml(self) -> Document:
        """The content as a document of YAML, which is written as it was read; raises as :meth:`tree` does."""
        from mpipso.yamltext import Document  # few need it, and it takes its time

        try:
            return Document(self.content)
        except ValueError as error:
            raise ValueError(f"{self._source} is not valid yaml: {error}") from None

    @property
    def _source(self) -> str:
        return self.template or "its content"
