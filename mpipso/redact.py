"""Keeps secrets out of what is kept: the journal, the folders of evaluations, the report.

A value is a secret when it is a text whose name says so. The names of counts (``max_num_batched_tokens``) and of
things that split text (``tokenizer``) do not. Values are learned from names and then hidden wherever they turn up.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote, quote_plus

from mpipso.evaluation import Evaluation

HIDDEN = "***"

_NAME = re.compile(
    r"(?:API|AUTH|ACCESS|REFRESH|BEARER)[_-]?TOKENS|TOKEN(?![A-Z])|SECRET|PASSWORD|PASSWD|PASSPHRASE"
    r"|REQUIREPASS|MASTERAUTH"
    r"|(?:API|ACCESS)[_-]?KEY|(?:^|[_-])(?:AUTHORIZATION|JWT|COOKIES?)$",
    re.IGNORECASE,
)
_ENDING = re.compile(rf"(?:{_NAME.pattern})$", re.IGNORECASE)
_ALSO = re.compile(
    r"PRIVATE[_-]?KEY|[_-]PWD$|CREDENTIALS?$|(?:DB|USER|ROOT|ADMIN)[_-]?PASS$|(?-i:[A-Z0-9]_(?:PASS|AUTH)$)",
    re.IGNORECASE,
)
"""Names that say so only of what is not a path; ``PASS`` is a step of some work too, ``AUTH`` a way to log in, and then
in small letters."""
_KEY = re.compile(r"[_-]KEY$", re.IGNORECASE)
_OF_A_VARIABLE = re.compile(r"[_-]ENV$", re.IGNORECASE)
"""Ends the name of what holds the name of a variable, in which the secret is."""
_SEVERAL = re.compile(r"--api[_-]keys?", re.IGNORECASE)
"""Flags that take one value or more."""
_ANOTHER = re.compile(r"(?![-/~.]|\w+://)")
"""What may be a value after the first one, unlike a flag, a path or an address."""
_PATH = re.compile(r"[/~.]")
_RANDOM = re.compile(r"(?=(?:.*\d){3})(?=.*[A-Za-z])[\w.+/=-]{20,}")
"""What a key of somebody else's service looks like, unlike one by which things are sorted."""
_VARIABLE = re.compile(r"(?P<flag>(?:--?[\w-]+=)?)(?P<name>[A-Za-z_]\w*)=(?P<content>\S+)")
"""Without spaces: a script that sets a variable is no secret."""
_SETTING = re.compile(
    rf"^[ \t]*(?:[#;]|//).*|(?P<before>(?<![\w.=$-])(?P<name>[\w.-]{{0,64}}?(?:{_NAME.pattern})[\w.-]{{0,64}})"
    r"[\"']?(?:[ \t]*[=:][ \t]*|[ \t]+))"
    r"(?P<value>\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*'|\[[^\]\n]*\](?=[\s;,]|$)|(?![\d.]+\w{0,2}\b)[^\s\"';,]+)",
    re.IGNORECASE | re.MULTILINE,
)
"""A comment, or a name and its value or its list of values; one that is a number counts something."""
_LIST = re.compile(r"\[.*\]", re.DOTALL)
_IN_LIST = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^\s\"',]+")
_SCHEME = r"(?:Bearer|Basic|Digest|Token|ApiKey)"
"""In a header of HTTP; not a variable of the shell, nor a placeholder."""
_SCHEMES = re.compile(_SCHEME, re.IGNORECASE)
_AUTHORIZATION = re.compile(
    rf"\bAuthorization[\\\"']*\s*[:=]\s*[\\\"']*{_SCHEME}\s+([^\s\\\"'${{}}]{{6,}})", re.IGNORECASE
)
_URL = re.compile(r"://[^\s/:@\"']*:([^\s/@\"'${}]+)@")
_CURL = re.compile(r"\bcurl\b[^\n]{0,999}?\s(?:-u|--user|-U|--proxy-user)[\s=]+[\"']?[^\s:\"']+:([^\s\"'${}]+)")
_INSIDE = re.compile(
    r"""(?:(?:^|[\\"'{,\n])[ \t]*(?P<key>[\w-]+)[\\"']*[ \t]*:
    |(?<![\w-])(?:(?P<name>[\w-]+)=|(?P<flag>--?[\w-]+)[ \t]))
    [ \t]*(?=[\\"']*(?P<content>[^\s\\"'`;&|,<>(){}$]{6,999})(?:[\s\\"';&|,)}\]]|$))""",
    re.VERBOSE,
)
"""In a script, a header or JSON: ``--api-key V``, ``API_KEY=V``, ``?api_key=V``, ``X-API-Key: V``, ``"api_key":
"V"``."""
_HARMLESS = re.compile(
    r"\d{0,5}|true|false|yes|no|on|off|none|null|auto|\{\w+\}|\$\w+|\$\{\w+\}|<[^<>]*>|\[[A-Z]+\]", re.IGNORECASE
)
"""What nobody uses as a secret, what only stands for one, and what a model calls a token; hiding it everywhere would
damage the record."""
_LONG = 6
"""A shorter secret is hidden inside other text only where it stands in quotes."""
_PIECE = 8
"""Characters of a secret that are enough to be hidden where a text was cut within it."""
_DOTS = re.compile(r"\.\.\.")
_LONG_LINE = 12
"""Of a line of a secret of several."""


def is_secret(name: str, content: object) -> bool:
    """Whether the value of the variable, key or flag ``name`` must not be written."""
    if not isinstance(content, str) or _HARMLESS.fullmatch(content):
        return False
    if _OF_A_VARIABLE.search(name) and content.isidentifier():
        return False
    if _PATH.match(content) or not (_ALSO.search(name) or (_KEY.search(name) and _RANDOM.fullmatch(content))):
        return _NAME.search(name) is not None
    return True


def secret_flag(argument: str) -> tuple[str, str | None] | None:
    """``("--api-key", "value")`` for ``--api-key=value``, value None when it is the next argument; None if harmless.

    A variable that is handed to another program is one too: ``API_KEY=value``, also as ``--env=API_KEY=value``.
    """
    flag, equals, content = argument.partition("=")
    named = _NAME.search(flag) and not _OF_A_VARIABLE.search(flag)
    if argument.startswith("-") and (is_secret(flag, content) if equals else named):
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
        found = {form for secret in _secrets(data) for form in _forms(secret)}
        # A secret may contain another one: the longest is replaced first.
        self._values = sorted({*self._values, *found} - self._spared, key=len, reverse=True)

    def text(self, text: str) -> str:
        if text in self._spared:
            return text
        for secret in self._values:
            if len(secret) >= _LONG:
                text = text.replace(secret, HIDDEN)
            else:
                for quote in "\"'":
                    text = text.replace(f"{quote}{secret}{quote}", f"{quote}{HIDDEN}{quote}")
        return self._without_pieces(text)

    def _without_pieces(self, text: str) -> str:
        """The text without the end of a secret at its beginning, and without the beginning of one before three dots.

        Long lines, outputs and logs are cut before it is known what is secret in them.
        """
        every = "\0".join(self._values)  # hardly any piece is in one, which a single look tells
        begin = text[:_PIECE]
        rests = [secret[at:] for secret in self._values for at in _places(begin, secret)] if begin in every else []
        done = max((len(rest) for rest in rests if text.startswith(rest)), default=0)
        parts = [HIDDEN] if done else []
        for dots in (each.start() for each in _DOTS.finditer(text)):
            piece = text[max(0, dots - _PIECE) : dots]
            if piece in every:
                begun = [secret[: at + _PIECE] for secret in self._values for at in _places(piece, secret)]
                if left := max((len(each) for each in begun if text.endswith(each, 0, dots)), default=0):
                    parts += [text[done : max(done, dots - left)], HIDDEN]
                    done = dots
        return "".join([*parts, text[done:]])

    def settings(self, text: str) -> str:
        """A service's file of lines with ``name value``, ``name = value``, ``name: value``; learns its secrets."""
        found = [match for match in _SETTING.finditer(text) if match["name"]]
        self.learn([text, *({match["name"]: _texts(match["value"])} for match in found)])

        def hidden(match: re.Match[str]) -> str:
            value = match["value"] or ""
            secrets = [each for each in _texts(value) if match["name"] and self.is_secret(match["name"], each)]
            for secret in sorted(secrets, key=len, reverse=True):
                value = value.replace(secret, HIDDEN)
            return match["before"] + value if secrets else match[0]

        return self.text(_SETTING.sub(hidden, text))

    def bytes(self, content: bytes) -> bytes:
        """As :meth:`text`; bytes that are not UTF-8 pass unchanged."""
        if not self._values:
            return content
        return self.text(content.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")

    def evaluation(self, evaluation: Evaluation) -> Evaluation:
        """The same without secrets in its failure and its files."""
        failure = evaluation.failure
        if failure is not None:
            failure = replace(failure, cause=self.text(failure.cause), detail=self.text(failure.detail))
        files = {name: self.bytes(content) for name, content in evaluation.files.items()}
        return replace(evaluation, failure=failure, files=files, cut=self.text(evaluation.cut))

    def data(self, data: Any) -> Any:
        """A copy of nested tables and lists without their secrets."""
        if isinstance(data, str):
            return self.text(data)
        if isinstance(data, Mapping):
            return {key: self._named(str(key), content) for key, content in data.items()}
        if isinstance(data, (list, tuple)):
            return self._arguments(data)
        return data

    def _named(self, name: str, content: Any) -> Any:
        """The value of a variable, key or flag, a list of them perhaps, without its secrets."""
        if isinstance(content, (list, tuple)):
            shown = zip(content, self.data(content), strict=True)
            return [HIDDEN if self.is_secret(name, each) else hidden for each, hidden in shown]
        return HIDDEN if self.is_secret(name, content) else self.data(content)

    def arguments(self, argv: Sequence[str]) -> list[str]:
        """A command line without its secrets."""
        return [str(argument) for argument in self._arguments(argv)]

    def line(self, command: str) -> str:
        """A command as a shell takes it, without its secrets, which it learns; else as it is, where that hides them."""
        try:
            words = shlex.split(command)
        except ValueError:
            return self.text(command)
        self.learn(words)
        hidden = self.arguments(words)
        # What was quoted in another way stays as its user wrote it, if it says the same.
        for text in (command, self.text(command)):
            with contextlib.suppress(ValueError):
                if shlex.split(text) == hidden:
                    return text
        return shlex.join(hidden)

    def _arguments(self, items: Sequence[Any]) -> list[Any]:
        hidden: list[Any] = []
        for item, flag, before in _flagged(items):
            shown = not isinstance(item, str) or item in self._spared or _HARMLESS.fullmatch(item) is not None
            if before and flag is None and not shown:
                hidden.append(HIDDEN)
            elif flag is not None and flag[1] is not None and flag[1] not in self._spared:
                hidden.append(f"{flag[0]}={HIDDEN}")
            else:
                hidden.append(self.data(item))
        return hidden


def _flagged(items: Sequence[Any]) -> Iterator[tuple[Any, tuple[str, str | None] | None, str]]:
    """Each item of a list with what it is as a :func:`secret_flag`, and the flag before of which it may be a value."""
    before, first = "", False
    for item in items:
        flag = secret_flag(item) if isinstance(item, str) else None
        if not (first or (isinstance(item, str) and _SEVERAL.fullmatch(before) and _ANOTHER.match(item))):
            before = ""
        yield item, flag, before
        first = flag is not None and flag[1] is None
        before = flag[0] if flag is not None and first else before


def _places(piece: str, secret: str) -> Iterator[int]:
    """Where a piece of full length is in a secret."""
    at = secret.find(piece) if len(piece) == _PIECE else -1
    while at >= 0:
        yield at
        at = secret.find(piece, at + 1)


def _texts(value: str) -> list[str]:
    """A value in a file of settings without its quotes; of a list all that are in it."""
    several = _LIST.fullmatch(value) and not _HARMLESS.fullmatch(value)
    return [each.strip("\"'") for each in (_IN_LIST.findall(value[1:-1]) if several else [value])]


def _forms(secret: str) -> Iterator[str]:
    """As it stands in texts: plain, in JSON, in quotes of a shell, in a URL; and its lines if it has several."""
    yield from (secret, json.dumps(secret)[1:-1], quote(secret, errors="replace"), quote_plus(secret, errors="replace"))
    if (quoted := shlex.quote(secret)) != secret:
        yield quoted[1:-1]
    yield from (line for line in secret.splitlines() if len(line) >= _LONG_LINE and not line.startswith("-----"))
    if (
        (scheme := _SCHEMES.match(secret))
        and (bare := secret[scheme.end() :].strip())
        and secret[scheme.end()].isspace()
    ):
        yield bare


def _secrets(data: object) -> Iterator[str]:
    if isinstance(data, Mapping):
        for key, content in data.items():
            several = content if isinstance(content, (list, tuple)) else [content]
            yield from (each for each in several if is_secret(str(key), each))
            yield from _secrets(content)
    elif isinstance(data, (list, tuple)):
        for item, flag, before in _flagged(data):
            if before and is_secret(before, item):
                yield item
            if flag is not None and flag[1] is not None:
                yield flag[1]
            yield from _secrets(item)
        if all(isinstance(item, str) for item in data):
            yield from _CURL.findall(" ".join(data))
    elif isinstance(data, str):
        for pattern in (_AUTHORIZATION, _URL, _CURL):
            yield from pattern.findall(data)
        for found in _INSIDE.finditer(data):
            name, content = found["key"] or found["name"] or found["flag"], found["content"]
            # "token_policy" is the name of a choice, "hf_token" is not.
            surely = _RANDOM.fullmatch(content) or _ENDING.search(name)
            if surely and is_secret(name, content) and not content.isdecimal() and not _SCHEMES.fullmatch(content):
                yield content
