"""The best configuration so far for the operator: ``best.toml`` to read, ``best.sh`` to start the service with it."""

from __future__ import annotations

import re
import shlex
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tomli
import tomli_w

from mpipso.errors import UserError
from mpipso.evaluation import Configuration, Evaluation
from mpipso.record import figures
from mpipso.record.folders import remove, write_whole
from mpipso.redact import Redactor, secret_flag
from mpipso.wording import clean, printable, short_host

TOML = "best.toml"
SCRIPT = "best.sh"

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBER = re.compile(r"-[\d.].*")


@dataclass(frozen=True)
class NodeStart:
    """How one node's part of the service is started by hand.

    Attributes
    ----------
    host:
        The name of the node's host.
    argv:
        The words of the command.
    env:
        The environment variables that are set for it, by name.
    rank:
        The service's own number of the node, None where it has none.
    file:
        The path of a file that must be copied to the node before; empty if none has to.
    update:
        The words of a command that is run on the node before; empty for none.
    folder:
        The path of a folder that is made on the node for the service; empty if it uses none.
    copy:
        The path of a file, and of its copy in the folder; empty if there is to be none.
    cores:
        The cores of the host that this part had in the run, as in ``0-3,8``; empty if that is not known.
    """

    host: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    rank: int | None = None
    file: str = ""
    update: tuple[str, ...] = ()
    folder: str = ""
    copy: tuple[str, ...] = ()
    cores: str = ""


@dataclass(frozen=True)
class Written:
    """What ``best.toml`` holds: the number and configuration of an evaluation, and how to start the service with it."""

    number: int
    configuration: Configuration
    starts: tuple[NodeStart, ...]


def write_best(
    folder: Path,
    evaluation: Evaluation,
    *,
    fitness: float | None,
    score: str,
    starts: Sequence[NodeStart],
    redactor: Redactor | None = None,
) -> None:
    """Write ``best.toml`` and ``best.sh`` into the run's folder, without secrets, each in one step.

    Parameters
    ----------
    evaluation:
        One of the best configuration.
    fitness:
        The objective as a number that is better when it is smaller; None when there is none.
    score:
        The objective's metric and its gain, for people: ``412.3 tok/s (+12.4 %)``.
    starts:
        One per node, in the order in which they are to be started.
    redactor:
        Knows secrets besides those that can be told by the names of variables and flags.

    Raises
    ------
    RunFailed
        The disk is full or fails.
    """
    redactor = redactor or Redactor()
    redactor.spare(map(str, evaluation.configuration.values()))
    for start in starts:
        redactor.learn({"env": start.env, "argv": start.argv, "update": start.update})
    date = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(evaluation.ended))
    run: dict[str, object] = {"evaluation": evaluation.number, "score": score, "date": date}
    if fitness is not None:
        run["fitness"] = fitness
    best = {
        "run": run,
        "configuration": dict(evaluation.configuration),
        "metrics": dict(evaluation.metrics),
        "start": [
            {"host": start.host, "cores": start.cores, "argv": list(start.argv), "env": dict(start.env)}
            for start in starts
        ],
    }
    write_whole(folder / TOML, tomli_w.dumps(redactor.data(best)))
    write_whole(folder / SCRIPT, _script(evaluation, score, date, starts, redactor), 0o755)


def withdraw_best(folder: Path) -> None:
    """Remove ``best.toml``, ``best.sh`` and the service's configuration beside them: the best turned out to be none.

    Raises
    ------
    RunFailed
        The disk fails.
    """
    for path in (folder / SCRIPT, folder / TOML, *folder.glob("best-config*")):
        remove(path)


def read_best(folder: Path) -> Written | None:
    """What ``best.toml`` in the run's folder says, without secrets; None when there is no such file.

    Raises
    ------
    UserError
        The file is damaged.
    """
    path = folder / TOML
    try:
        best = tomli.loads(path.read_text("utf-8", "surrogateescape"))
        starts = tuple(
            NodeStart(_text(entry["host"]), tuple(map(_text, entry["argv"])), _texts(entry["env"]))
            for entry in best["start"]
        )
        configuration = dict(best["configuration"])
        if not all(isinstance(setting, (bool, int, float, str)) for setting in configuration.values()):
            raise TypeError("a setting is no value")
        return Written(int(best["run"]["evaluation"]), configuration, starts)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise UserError(f"{path}: cannot be read as the file that mpipso wrote") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("is no text")
    return value


def _texts(table: Mapping[str, object]) -> dict[str, str]:
    return {name: _text(content) for name, content in dict(table).items()}


def command_words(start: NodeStart, configuration: Configuration) -> list[str]:
    """The variables and the words of a start for people, each as a shell takes it, with ``***`` for secrets.

    No value of the configuration is one, even if it follows ``--max-token``.
    """
    redactor = Redactor()
    redactor.spare(map(str, configuration.values()))
    redactor.learn({"env": start.env, "argv": start.argv})
    variables = [f"{name}={shlex.quote(content)}" for name, content in redactor.data(start.env).items()]
    words = [*variables, *map(shlex.quote, redactor.arguments(start.argv))]
    return ["\n".join(map(printable, word.split("\n"))) for word in words]


def _script(evaluation: Evaluation, score: str, date: str, starts: Sequence[NodeStart], redactor: Redactor) -> str:
    configuration = redactor.data(evaluation.configuration)
    lines = [
        "#!/bin/sh",
        "# Starts the service with the best configuration that mpipso found:",
        f"# evaluation {evaluation.number}, {clean(redactor.text(score))}, {date}",
        *(f"#   {name} = {clean(figures.value(setting))}" for name, setting in configuration.items()),
        *([f"# measured at {evaluation.load}"] if evaluation.load else []),
    ]
    labels = _labels(starts)
    if len(starts) > 1:
        lines.append(f"# Run it on each node, in this order: {clean(', '.join(names[0] for names in labels))}")
    lines += ["set -eu", *_enter(), ""]
    if len(starts) == 1:
        lines += _section(starts[0], "", redactor)
    else:
        lines.append('case "${1:-$(hostname -s)}" in')
        for start, names in zip(starts, labels, strict=True):
            lines += [f"{'|'.join(map(shlex.quote, names))})", *_section(start, "    ", redactor), "    ;;"]
        known = shlex.quote("usage: best.sh NODE, with NODE one of: " + " ".join(names[0] for names in labels))
        lines += ["*)", f"    echo {known} >&2", "    exit 2", "    ;;", "esac"]
    return "\n".join(lines) + "\n"


def _enter() -> list[str]:
    """The lines of the script that change to where the run was started, as relative paths are meant from there."""
    try:
        here = Path.cwd()
    except OSError:  # it is gone
        return []
    missing = shlex.quote(f"{here} is not here: relative paths of the command may lead nowhere")
    return [f"cd {shlex.quote(str(here))} 2>/dev/null || echo {missing} >&2"]


def _section(start: NodeStart, indent: str, redactor: Redactor) -> list[str]:
    cores = "core" if start.cores.isdecimal() else "cores"
    lines = [f"# In the run, a service had {cores} {start.cores} of {start.host}."] if start.cores else []
    if start.file:
        missing = shlex.quote(f"{start.file} is not here: copy it along with this script, to the same path")
        lines.append(f"[ -e {shlex.quote(start.file)} ] || {{ echo {missing} >&2; exit 1; }}")
    if start.folder:
        lines.append("# What the service writes here stays: remove it before a start that needs a new folder.")
        lines.append(f"mkdir -p {shlex.quote(str(Path(start.copy[-1]).parent) if start.copy else start.folder)}")
    if start.copy:
        lines.append(shlex.join(("cp", *start.copy)))
    unusual = []
    for name, content in start.env.items():
        if not _VARIABLE.fullmatch(name):
            # A shell cannot export such a name, env(1) can pass it on.
            unusual.append(f"{shlex.quote(name)}={_quoted(name, content, redactor)}")
        elif _hides(name, content, redactor):
            lines += [f": {_demand(name)}", f"export {name}"]
        else:
            lines.append(f"export {name}={shlex.quote(content)}")
    if start.update:
        lines.append(" ".join(_words(start.update, redactor)))
    flags: list[list[str]] = [["exec", *(["env", *unusual] if unusual else [])]]
    for argument, word in zip(start.argv, _words(start.argv, redactor), strict=True):
        if argument.startswith("-") and not _NUMBER.fullmatch(argument):
            flags.append([])
        flags[-1].append(word)
    command = f" \\\n{indent}    ".join(" ".join(line) for line in flags)
    return [indent + line for line in (*lines, command)]


def _words(argv: Sequence[str], redactor: Redactor) -> list[str]:
    """The arguments quoted for a shell; secret ones are taken from a variable named after their flag."""
    words = []
    before = ""
    for argument in argv:
        flag, equals, content = argument.partition("=") if argument.startswith("-") else ("", "", argument)
        if (secret := secret_flag(argument)) and secret[1] is not None:
            flag, equals, content = secret[0], "=", secret[1]
        if equals:
            words.append(f"{shlex.quote(flag)}={_quoted(flag.rpartition('=')[2], content, redactor)}")
        else:
            words.append(shlex.quote(argument) if flag else _quoted(before, argument, redactor))
        before = "" if equals else flag
    return words


def _hides(name: str, content: str, redactor: Redactor) -> bool:
    return redactor.is_secret(name, content) or redactor.text(content) != content


def _quoted(name: str, content: str, redactor: Redactor) -> str:
    return _demand(name or "SECRET") if _hides(name, content, redactor) else shlex.quote(content)


def _demand(name: str) -> str:
    variable = re.sub(r"\W", "_", name.lstrip("-")).upper() if name.startswith("-") else re.sub(r"\W", "_", name)
    return f'"${{{variable}:?set {variable} first}}"'


def _labels(starts: Sequence[NodeStart]) -> list[list[str]]:
    """What names each node: its host and its short name; where nodes share a host, ``host/0``, ``host/1`` by rank."""
    total = Counter(start.host for start in starts)
    short = Counter(short_host(host) for host in total)
    seen: Counter[str] = Counter()
    labels = []
    for start in starts:
        host = start.host
        if total[host] > 1:
            labels.append([f"{host}/{seen[host] if start.rank is None else start.rank}"])
            seen[host] += 1
        else:
            brief = short_host(host)
            labels.append([host, brief] if brief != host and short[brief] == 1 else [host])
    return labels
