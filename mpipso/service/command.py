"""Command lines with placeholders, and the ways by which a parameter's value reaches the service."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mpipso.config import ConfigFile
from mpipso.evaluation import Configuration, Value
from mpipso.parameters import Parameter

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


def placeholders(words: Iterable[str]) -> set[str]:
    """The names that stand in braces; braces around anything but a name, as in JSON, are plain text."""
    return {name for word in words for name in _PLACEHOLDER.findall(word)}


def fill(words: Sequence[str], values: Mapping[str, Value]) -> list[str]:
    """The words with every ``{name}`` replaced.

    Raises
    ------
    KeyError
        A name that ``values`` lacks; configurations are checked for that before a run.
    """
    return [_PLACEHOLDER.sub(lambda match: text(values[match.group(1)]), word) for word in words]


def text(value: Value) -> str:
    """A value as a command line or an environment variable has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def flags(parameter: Parameter, value: Value) -> list[str]:
    """The words that give ``value`` to a command.

    A bool is its flag or nothing, with ``--yes/--no`` one or the other; ``--flag=`` is joined with its value.
    """
    flag = parameter.flag or ""
    if parameter.type == "bool":
        yes, _, no = flag.partition("/")
        return [word for word in [yes if value else no] if word]
    return [flag + text(value)] if flag.endswith("=") else [flag, text(value)]


def shell_script(words: Sequence[str]) -> tuple[str, str, Sequence[str]] | None:
    """The shell that a command calls with ``-c``, the script for it, and the words behind that; None for others.

    The shell need not be the first word: ``env``, ``nice`` and containers begin with their own. What other programs do
    with words that look like a shell is their own matter.
    """
    for place, word in enumerate(words):
        if Path(word).name not in _SHELLS or (place and Path(words[0]).name not in _WRAPPERS):
            continue
        takes_script, rest = False, list(words[place + 1 :])
        while rest and rest[0][:1] in ("-", "+") and rest[0] not in ("-", "--"):
            option = rest.pop(0)
            takes_script |= option.startswith("-") and not option.startswith("--") and "c" in option
            short = not option.startswith("--") and option[-1] in "oO"
            if (short or option in _OPTIONS_WITH_VALUE) and rest:
                rest.pop(0)
        if rest and rest[0] == "--":
            rest.pop(0)
        if takes_script and rest:
            return word, rest[0], rest[1:]
    return None


_SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "ash")
_OPTIONS_WITH_VALUE = ("--rcfile", "--init-file")
_WRAPPERS = (
    *("env", "nice", "ionice", "numactl", "taskset", "stdbuf", "setsid", "nohup", "timeout", "time", "sudo", "exec"),
    *("docker", "podman", "apptainer", "singularity", "srun", "ssh"),
)


def flags_problem(words: Sequence[str], flagged: Sequence[str]) -> str:
    """Why flags of these parameters, appended to a command, would not reach its program; empty if they do.

    What stands behind the script of ``sh -c`` are its arguments: the first one is ``$0``, and ``"$@"`` the others.
    """
    found = shell_script(words)
    unreached = [name for name in flagged if found is None or name not in placeholders([found[1]])]
    if found is None or not unreached:
        return ""
    shell, script, behind = found
    if not re.search(r"\$\{?[@*#1-9]", script):
        why = f"become arguments of {shell}, and its script does not use them"
        instead = 'end it with "$@" and add a word behind it'
    elif not behind and not re.search(r"\$\{?0", script):
        why = f'follow the script of {shell}, where the first word is $0 and not among its "$@"'
        instead = f"add a word behind the script, such as {Path(shell).name!r}"
    else:
        return ""
    return f"the flags of {', '.join(unreached)} {why}; write {{{unreached[0]}}} in the script instead, or {instead}"


def config_text(file: ConfigFile, parameters: Iterable[Parameter], configuration: Configuration) -> bytes:
    """The service's configuration file: the template with the parameters' values at their paths.

    A path is dotted; a number in it is an index into a list, as in ``ModelDeployConfig.ModelConfig.0.npuMemSize``.

    Raises
    ------
    ValueError
        The template cannot be read, or a path leads through something that is neither table nor list.
    """
    tree = read_template(file)
    for parameter in parameters:
        if parameter.path is not None:
            _put(tree, parameter.path, configuration[parameter.name])
    if file.format == "yaml":
        return yaml.safe_dump(tree, sort_keys=False).encode()
    return (json.dumps(tree, indent=2, ensure_ascii=False) + "\n").encode()


def new_paths(file: ConfigFile, parameters: Iterable[Parameter]) -> dict[str, list[str]]:
    """The paths that the template does not hold, so that they will be added, each with those it does hold."""
    held = set(_paths(read_template(file)))
    wanted = [parameter.path for parameter in parameters if parameter.path is not None]
    return {path: sorted(held) for path in wanted if path not in held} if file.template else {}


def _paths(tree: Any, above: str = "") -> Iterator[str]:
    """Every path of a tree, dotted."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, below in pairs:
        yield f"{above}{key}"
        yield from _paths(below, f"{above}{key}.")


def read_template(file: ConfigFile) -> Any:
    """The template's content, a new tree at each call; an empty table without a template."""
    if not file.template:
        return {}
    try:
        content = Path(file.template).read_text()
        tree = yaml.safe_load(content) if file.format == "yaml" else json.loads(content)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"template {file.template} cannot be read: {getattr(error, 'strerror', 'not text')}") from None
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        raise ValueError(f"template {file.template} is not valid {file.format}: {error}") from None
    return {} if tree is None else tree


def _put(tree: Any, path: str, value: Value) -> None:
    *parents, last = path.split(".")
    node = tree
    for part in parents:
        if isinstance(node, dict):
            if node.get(part) is None:  # what YAML makes of a key with nothing behind it
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
