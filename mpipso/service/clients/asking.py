"""Completions over OpenAI's API: what a request holds, what of an answer is read, and the connections of a load."""

from __future__ import annotations

import json
import resource
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import aiohttp

MAX_ANSWER = 1_000_000
"""Bytes of an answer that is no stream, at most."""
OTHER_FILES = 32
"""What the load generator has open besides its connections, at most."""


def question(endpoint: str, text: str | list[dict[str, Any]]) -> dict[str, Any]:
    """What a request to OpenAI's endpoint for completions, or to that for chats, holds of a text, or of messages."""
    if isinstance(text, list):
        return {"messages": text}
    if endpoint.endswith("/chat/completions"):
        return {"messages": [{"role": "user", "content": text}]}
    return {"prompt": text}


async def beginning(answer: aiohttp.ClientResponse) -> str:
    """The text of an answer; of one without an end, the first :data:`MAX_ANSWER` bytes."""
    body = bytearray()
    while len(body) < MAX_ANSWER and (part := await answer.content.read(MAX_ANSWER - len(body))):
        body += part
    return body.decode(errors="replace")


async def served_models(session: aiohttp.ClientSession, base_url: str) -> list[str]:
    """The names at ``/v1/models``; none where the service has no such list."""
    async with session.get(f"{base_url.rstrip('/')}/v1/models", allow_redirects=False) as answer:
        if answer.status != 200:
            return []
        try:
            return [str(model["id"]) for model in json.loads(await beginning(answer))["data"]]
        except (ValueError, LookupError, TypeError, RecursionError):
            return []


def model_among(listed: Sequence[str], users: str) -> str:
    """Which model to ask for where the engine knows no name: the user's, unless the service lists only others.

    A service may list several, as a router does; and what the user calls a file or a folder, it may list as another.
    """
    return users if users in listed else next(iter(listed), users)


def most_connections(requests: int, warmup: int, concurrency: int | None) -> int:
    """How many connections a load may have open at once; without a concurrency, one for each request."""
    most = max(requests, warmup)
    return min(concurrency or most, most)


def allow_connections(number: int) -> None:
    """Raise the soft limit on open files for so many connections, as far as the hard limit lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number + OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
