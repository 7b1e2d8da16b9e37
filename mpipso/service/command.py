"""Command lines with placeholders, and the flags by which a parameter's value reaches the service."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from mpipso.config.parameters import Parameter
from mpipso.evaluation import Value

PLACEHOLDER = re.compile(r"(?<!\$)\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""Braces around anything but a name, as in JSON, are plain text, and ``${name}`` is somebody else's variable."""


def placeholders(words: Iterable[str]) -> set[str]:
    """The names that stand in braces."""
    return {name for word in words for name in PLACEHOLDER.findall(word)}


def fill(words: Sequence[str], values: Mapping[str, Value]) -> list[str]:
    """The words with every ``{name}`` replaced.

    Raises
    ------
    KeyError
        A name that ``values`` lacks; configurations are checked for that before a run.
    """
    return [PLACEHOLDER.sub(lambda match: text(values[match.group(1)]), word) for word in words]


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


def choices(parameters: Iterable[Parameter]) -> dict[str, Sequence[Value]]:
    """The values of those parameters that may be a text."""
    return {parameter.name: parameter.choices for parameter in parameters if parameter.type == "choice"}


def script_problems(words: Sequence[str], values: Mapping[str, Iterable[Value]]) -> Iterator[str]:
    """Where the script of ``sh -c`` holds a placeholder with a value that the shell would take apart or run.

    ``values`` are those that placeholders may have, as far as they are known. Quotes of the script are taken into
    account, and an empty value may be meant to be no word at all.
    """
    found = shell_script(words)
    if found is None:
        return
    shell, script, _ = found
    quoted = _QUOTED.findall(script)
    single, double = placeholders(one for one, _ in quoted), placeholders(two for _, two in quoted)
    bare = placeholders([_QUOTED.sub("", script)])
    for name in sorted(placeholders([script]) & set(values)):
        for value in filter(None, map(text, values[name])):
            if (
                (name in single and "'" in value)
                or (name in double and re.search(r'["$`\\]', value))
                or (name in bare and value != shlex.quote(value))
            ):
                yield (
                    f"{shell} would take {{{name}}} = {value!r} apart or run it where it stands in the script; let it "
                    f'be an argument: [{json.dumps(shell)}, "-c", \'exec serve "$@"\', {json.dumps(Path(shell).name)}, '
                    f'"{{{name}}}"]'
                )
                break


_QUOTED = re.compile(r"""\\.|'([^']*)'|"((?:\\.|[^"\\])*)\"""", re.DOTALL)
"""What is quoted in a script, in single quotes or in double ones."""


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
