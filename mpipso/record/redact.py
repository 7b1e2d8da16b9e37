"""Keeps secrets out of what is kept: the journal, the folders of evaluations, the report.

A value is a secret when it is a text whose name says so. The names of counts (``max_num_batched_tokens``) and of
things that split text (``tokenizer``) do not. Values are learned from names and then hidden wherever they turn up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

HIDDEN = "***"

_NAME = re.compile(
    r"(?:API|AUTH|ACCESS|REFRESH|BEARER)[_-]?TOKENS|TOKEN(?![A-Z])|SECRET|PASSWORD|PASSWD|API[_-]?KEY", re.IGNORECASE
)
#: Without spaces: a script that sets a variable is no secret.
_VARIABLE = re.compile(r"(?P<flag>(?:--?[\w-]+=)?)(?P<name>[A-Za-z_]\w*)=(?P<content>\S+)")
#: In a header of HTTP; not a variable of the shell, nor a placeholder.
_BEARER = re.compile(r"\bAuthorization[\"']?\s*[:=]\s*[\"']?Bearer\s+([^\s\"'${}]{6,})", re.IGNORECASE)
#: What nobody uses as a secret, and what only stands for one; hiding it everywhere would damage the record.
_HARMLESS = re.compile(r"\d{0,5}|true|false|yes|no|on|off|none|null|auto|\{\w+\}|\$\w+|\$\{\w+\}", re.IGNORECASE)
#: A shorter secret is hidden inside other text only where it stands in quotes.
_LONG = 6


def is_secret(name: str, content: object) -> bool:
    """Whether the value of the variable, key or flag ``name`` must not be written."""
    return isinstance(content, str) and _NAME.search(name) is not None and _HARMLESS.fullmatch(content) is None


def secret_flag(argument: str) -> tuple[str, str | None] | None:
    """``("--api-key", "value")`` for ``--api-key=value``, value None when it is the next argument; None if harmless.

    A variable that is handed to another program is one too: ``API_KEY=value``, also as ``--env=API_KEY=value``.
    """
    flag, equals, content = argument.partition("=")
    if argument.startswith("-") and _NAME.search(flag) and (not equals or is_secret(flag, content)):
        return flag, content if equals else None
    variable = _VARIABLE.fullmatch(argument)
    if variable and is_secret(variable["name"], variable["content"]) and not variable["content"].isdecimal():
        return variable["flag"] + variable["name"], variable["content"]
    return None


class Redactor:
    """Knows the secrets of a run and hides them in data and text.

    Parameters
    ----------
    environment:
        Variables whose secret values are learned at once, as ``os.environ``.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._values: list[str] = []
        self._spared: set[object] = set()
        self.learn(environment or {})

    def spare(self, texts: Iterable[str]) -> None:
        """Never hide these, whatever their names: a run whose record lacks the values it tries cannot be resumed."""
        self._spared.update(texts)
        self._values = [value for value in self._values if value not in self._spared]

    def is_secret(self, name: str, content: object) -> bool:
        """As the function of that name, but for what is spared."""
        return is_secret(name, content) and content not in self._spared

    def learn(self, data: object) -> None:
        """Remember every text in nested tables and lists that its key or the flag before it declares a secret."""
        found = {form for secret in _secrets(data) for form in (secret, json.dumps(secret)[1:-1])}
        # A secret may contain another one: the longest is replaced first.
        self._values = sorted({*self._values, *found} - self._spared, key=len, reverse=True)

    def text(self, text: str) -> str:
        for secret in self._values:
            if len(secret) >= _LONG:
                text = text.replace(secret, HIDDEN)
            else:
                for quote in "\"'":
                    text = text.replace(f"{quote}{secret}{quote}", f"{quote}{HIDDEN}{quote}")
        return text

    def bytes(self, content: bytes) -> bytes:
        """As :meth:`text`; bytes that are not UTF-8 pass unchanged."""
        if not self._values:
            return content
        return self.text(content.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")

    def data(self, data: Any) -> Any:
        """A copy of nested tables and lists without their secrets."""
        if isinstance(data, str):
            return self.text(data)
        if isinstance(data, Mapping):
            return {
                key: HIDDEN if self.is_secret(str(key), content) else self.data(content)
                for key, content in data.items()
            }
        if isinstance(data, (list, tuple)):
            return self._arguments(data)
        return data

    def arguments(self, argv: Sequence[str]) -> list[str]:
        """A command line without its secrets."""
        return [str(argument) for argument in self._arguments(argv)]

    def _arguments(self, items: Sequence[Any]) -> list[Any]:
        hidden: list[Any] = []
        follows = False
        for item in items:
            flag = secret_flag(item) if isinstance(item, str) else None
            shown = not isinstance(item, str) or item in self._spared or _HARMLESS.fullmatch(item) is not None
            if follows and flag is None and not shown:
                hidden.append(HIDDEN)
            elif flag is not None and flag[1] is not None and flag[1] not in self._spared:
                hidden.append(f"{flag[0]}={HIDDEN}")
            else:
                hidden.append(self.data(item))
            follows = flag is not None and flag[1] is None
        return hidden


def _secrets(data: object) -> Iterator[str]:
    if isinstance(data, Mapping):
        for key, content in data.items():
            if is_secret(str(key), content):
                yield content
            else:
                yield from _secrets(content)
    elif isinstance(data, (list, tuple)):
        flag: tuple[str, str | None] | None = None
        for item in data:
            if flag is not None and flag[1] is None and isinstance(item, str) and is_secret(flag[0], item):
                yield item
            flag = secret_flag(item) if isinstance(item, str) else None
            if flag is not None and flag[1] is not None:
                yield flag[1]
            yield from _secrets(item)
    elif isinstance(data, str):
        yield from _BEARER.findall(data)
