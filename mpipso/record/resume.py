"""Going on with an earlier run: what its journal says, and whether a configuration goes on with the same search."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli

from mpipso.config import Config, Search
from mpipso.errors import UserError
from mpipso.record import journal
from mpipso.record.folders import check_run
from mpipso.record.usage import BEGINNINGS
from mpipso.redact import HIDDEN, Redactor
from mpipso.wording import shortened

FREE = (
    "search.evaluations",
    "search.iterations",
    "search.time_limit",
    "search.stagnation",
    "search.target",
    "search.fruitless",
    "search.retries",
    "search.evaluation_timeout",
    "search.confirm",
    "search.leaders",
    "benchmark.timeout",
    "benchmark.early_stop",
    "benchmark.save_requests",
    "benchmark.api_key_env",
    "benchmark.prompts",
    "quality.timeout",
    "service.port",
    "service.config_file.template",
    "service.work_dir",
    "service.start_timeout",
    "service.stop_grace",
    "parallel",
    "ssh",
    "output",
)
"""Keys, with all below them, in which a resumed run may differ from what it goes on with: budgets, where it runs, and
how patient it is. Everything else decides what is proposed, or what a measurement is worth beside the others."""
_SIZE = 16
"""Particles, and proposals of a window, in runs of versions whose journals do not tell them unless they were given."""
_NAMED = "parameters"
"""A list whose tables have names: they are compared by name."""
_ORDER = f"the order of {_NAMED}"
_LONGEST = 63
"""Characters of a value in a message."""


def read_run(folder: Path, *, config_given: bool = False) -> tuple[str, list[dict[str, Any]]]:
    """The text of the configuration that the last session of a run had, and all events of its journal.

    Parameters
    ----------
    folder:
        The folder of the run.
    config_given:
        Whether the user gives the configuration, so that the text may lack its secrets.

    Raises
    ------
    UserError
        There is no such folder, it has no journal, the journal is damaged or has no configuration, or the
        configuration lacks its secrets, which are not kept, and is not given.
    """
    path = folder / journal.FILE
    check_run(folder)
    events = journal.read(path)
    if not events or events[0]["event"] != "started":
        raise UserError(f"{path}: does not begin with the start of a run: there is nothing to go on with")
    text = [event.get("config") for event in events if event["event"] in BEGINNINGS][-1]
    if not isinstance(text, str):
        raise UserError(f"{path}: has no configuration: the journal is damaged, or of another version")
    if not config_given and (keys := hidden(text, str(path))):
        raise UserError(f"{path}: {', '.join(keys)}: secrets are not kept; give the configuration again with --config")
    return text, events


def started_elsewhere(events: Sequence[Mapping[str, Any]]) -> str:
    """The folder in which a run was last started, if it is not this one; empty if it is, is not here, or is unknown."""
    folder: str = next((event["cwd"] for event in reversed(events) if event.get("cwd")), "")
    if not folder or not os.access(folder, os.X_OK):
        return ""
    return "" if Path(folder).samefile(Path()) else folder


def hidden(text: str, source: str) -> list[str]:
    """The dotted keys of a configuration's text whose values hold ``***`` in place of a secret.

    Raises
    ------
    UserError
        The text, which ``source`` names, is not TOML.
    """
    if HIDDEN not in text:
        return []
    try:
        tree = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise UserError(f"{source}: its configuration is not valid TOML: {error}") from None
    return [key for key, value in _flat(tree).items() if HIDDEN in str(value)]


def as_before(search: Search) -> Search:
    """The search of an earlier session, with the sizes that its version gave it."""
    return search.sized(_SIZE, search.particles or _SIZE)


def differences(old: Config, new: Config) -> list[str]:
    """Why the configuration ``new`` cannot go on with a run of the configuration ``old``: one line per different key.

    Empty when it can. Keys in :data:`FREE` may differ, and so may a secret that is ``***`` on one side.
    """
    tables = [_tables(old), _tables(new)]
    before, after = map(_flat, tables)
    redactor = Redactor()
    redactor.learn(tables)
    load = new.benchmark
    # The own client counts requests that failed as that long.
    counts = load.client == "openai" and load.min_success_rate < 1 and load.request_timeout is None
    decisive = "benchmark.timeout" if counts else ""
    names = [[parameter.name for parameter in config.parameters] for config in (old, new)]
    gone, added = ([name for name in one if name not in other] for one, other in (names, names[::-1]))
    lines = [f"parameter {name!r} is gone" for name in gone] + [f"parameter {name!r} is new" for name in added]
    told = (_ORDER, *(f"parameters.{name}." for name in (*gone, *added))) if lines else ()
    for key in dict.fromkeys([*before, *after]):
        if (_is_free(key) and key != decisive) or key.startswith(told) or _unchanged(key, before, after):
            continue
        if key == "benchmark.prompts_sha256" and before.get(key) and after.get(key):
            lines.append(f"{after.get('benchmark.prompts')}, benchmark.prompts, has another content")
            continue
        was, now = _shown([redactor.data({key: values.get(key)})[key] for values in (before, after)])
        lines.append(f"{key} was {was} and is now {now}")
    return lines


def _tables(config: Config) -> dict[str, Any]:
    """The configuration with the content of the service's configuration file as a table, however it is written."""
    tables = config.model_dump()
    for limit in tables["objective"]["slo"]:
        if "baseline" not in (limit["max"], limit["min"]):
            limit["factor"] = 1.0  # which had no effect
    if (file := config.service.config_file) is not None:
        with contextlib.suppress(ValueError):
            tables["service"]["config_file"]["content"] = file.plain()
    return tables


def _flat(tree: Any) -> dict[str, Any]:
    return dict(_leaves(tree, ""))


def _leaves(tree: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Every value with its dotted key; lists are values, but for those of tables."""
    if isinstance(tree, Mapping):
        for name, content in tree.items():
            yield from _leaves(content, f"{key}.{name}" if key else str(name))
    elif isinstance(tree, (list, tuple)) and tree and all(isinstance(each, Mapping) for each in tree):
        if key == _NAMED:
            yield _ORDER, [each.get("name") for each in tree]
        for index, each in enumerate(tree):
            yield from _leaves(each, f"{key}.{each.get('name')}" if key == _NAMED else f"{key}[{index}]")
    else:
        yield key, tree


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith((f"{free}.", f"{free}[")) for free in FREE)


def _unchanged(key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether a dotted key says the same on both sides."""
    if key.startswith("service.env.") and (key in before) != (key in after):
        return False  # even nothing takes the place of what is inherited
    one, other = before.get(key), after.get(key)
    if key.startswith("parameters.") and key.endswith(".choices"):  # a service is told 1 or 1.0
        return _same(one, other) and list(map(type, one or ())) == list(map(type, other or ()))
    return _same(one, other)


def _same(one: Any, other: Any) -> bool:
    """Equality that tells True from 1, takes what is left out, None and empty for the same, and trusts ``***``."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, str) and isinstance(other, str):
        return one == other or _may_hide(one, other) or _may_hide(other, one)
    if _unset(one) and _unset(other):
        return True
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _unset(value: Any) -> bool:
    return value is None or (isinstance(value, (Mapping, Sequence)) and not value)


def _may_hide(pattern: str, text: str) -> bool:
    """Whether ``text`` is ``pattern`` with something in the place of each ``***``."""
    return re.fullmatch(".+".join(map(re.escape, pattern.split(HIDDEN))), text, re.DOTALL) is not None


def _shown(values: Sequence[Any]) -> list[str]:
    """Two different values as texts for a message, shortened to where they differ."""
    texts = list(map(_text, values))
    alike = sum(1 for _ in itertools.takewhile(lambda pair: len(set(pair)) == 1, zip(*texts, strict=False)))
    if alike > _LONGEST // 2 and max(map(len, texts)) > _LONGEST:
        texts = [f"...{text[alike - _LONGEST // 3 :]}" for text in texts]
    return [shortened(text, _LONGEST) for text in texts]


def _text(value: Any) -> str:
    """A value more or less as TOML has it."""
    if _unset(value) and not isinstance(value, str):
        return "not set"
    return str(value).lower() if isinstance(value, bool) else repr(list(value) if isinstance(value, tuple) else value)
