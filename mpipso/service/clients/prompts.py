"""Real prompts: a file with a JSON object per line, of which a seed chooses what is sent."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpipso.wording import shortened, suggestion

_SHOWN = 80
"""Characters of an unknown key that are told."""
_KEYS = ("prompt", "messages", "output_tokens")


@dataclass(frozen=True)
class Prompt:
    """What one request asks: a text, or the messages of a chat; and for how many tokens, if that is said."""

    content: str | list[dict[str, Any]]
    output_tokens: int | None = None
    input_tokens: int = 0
    """How many it is meant to have itself; 0 where that is not known."""


@dataclass(frozen=True)
class Content:
    """What a whole file holds."""

    sha256: str
    prompts: int


def content(path: str, endpoint: str) -> Content:
    """What a file holds, each line of which is a prompt for ``endpoint``; a process reads it once unless it changes.

    Raises
    ------
    ValueError
        It cannot be read, is empty, or which line is wrong.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise ValueError(f"{path} is no file")
        state = Path(path).stat()
        return _content(path, endpoint, (state.st_ino, state.st_mtime_ns, state.st_size))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


def chosen(
    path: str, sha256: str, endpoint: str, seed: int, requests: int, warmup: int, *, skip: int = 0
) -> tuple[list[Prompt], list[Prompt]]:
    """The prompts that are measured and those of the warm-up, in an order that follows from the seed alone.

    The warm-up takes the last ones of that order. Where there are too few, each of the two begins again with its own.
    The first ``skip`` were measured before.

    Raises
    ------
    ValueError
        As :func:`content`; or the file is not the one with the digest ``sha256``, if that is not empty.
    """
    digest = hashlib.sha256()
    try:
        lines = list(_lines(path, digest))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if sha256 not in ("", digest.hexdigest()):
        raise ValueError(f"{path} has changed since the run began")
    if not lines:
        raise ValueError(f"{path} has no prompts")
    random.Random(f"prompts {seed}").shuffle(lines)
    last = lines[-warmup:] if warmup else []
    first = lines[: len(lines) - warmup] if warmup < len(lines) else lines

    def some(number: int, among: Sequence[tuple[int, bytes]], skip: int = 0) -> list[Prompt]:
        found = itertools.islice(itertools.cycle(among), skip, skip + number)
        return [_prompt(path, *line, endpoint) for line in found]

    return some(requests, first, skip), some(warmup, last)


@functools.lru_cache(maxsize=1)
def _content(path: str, endpoint: str, state: tuple[int, ...]) -> Content:
    digest, prompts = hashlib.sha256(), 0
    for number, line in _lines(path, digest):
        _prompt(path, number, line, endpoint)
        prompts += 1
    if not prompts:
        raise ValueError(f"{path} has no prompts")
    return Content(digest.hexdigest(), prompts)


def _lines(path: str, digest: hashlib._Hash) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers; all go into the digest."""
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            digest.update(line)
            if line.strip():
                yield number, line


def _prompt(path: str, number: int, line: bytes, endpoint: str) -> Prompt:
    try:
        data = json.loads(line, parse_constant=_no_constant)
        if b"\\u" in line or not line.isascii():
            json.dumps(data, ensure_ascii=False).encode()  # half of a pair of surrogates is no character
    except (ValueError, RecursionError):
        raise ValueError(f"{path}:{number}: is not JSON") from None
    if problem := _problem(data, endpoint):
        raise ValueError(f"{path}:{number}: {problem}")
    return Prompt(data.get("messages") or data["prompt"], data.get("output_tokens"))


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _problem(data: Any, endpoint: str) -> str:
    """What is wrong with a line, in words that quote nothing of a prompt; empty if nothing is."""
    if not isinstance(data, dict):
        return "is no JSON object"
    if unknown := next((key for key in data if key not in _KEYS), None):
        return f"unknown key {shortened(repr(unknown), _SHOWN)}{suggestion(unknown, _KEYS)}"
    if ("prompt" in data) == ("messages" in data):
        return "should have either prompt or messages"
    if "messages" in data:
        messages = data["messages"]
        if not (isinstance(messages, list) and messages and all(isinstance(each, dict) for each in messages)):
            return "messages should be a list of objects, and not empty"
        if not endpoint.endswith("/chat/completions"):
            return f'messages go with endpoint = "/v1/chat/completions", not with "{endpoint}"'
    elif not (isinstance(data["prompt"], str) and data["prompt"]):
        return "prompt should be a text, and not empty"
    tokens = data.get("output_tokens", 1)
    if not isinstance(tokens, int) or isinstance(tokens, bool) or not 1 <= tokens < 2**31:
        return "output_tokens should be a whole number from 1 to 2147483647"
    return ""
