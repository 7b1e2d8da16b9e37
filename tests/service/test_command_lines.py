"""Placeholders, flags, environment variables and configuration files: how a value reaches the service."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpipso.config import Parameter
from mpipso.service.command import fill, flags, flags_problem, placeholders, script_problems, text


def parameter(name: str = "p", **more: Any) -> Parameter:
    kind = {"type": "bool"} if more.get("type") == "bool" else {"type": "int", "min": 0, "max": 99}
    return Parameter.model_validate({"name": name, **kind, **more})


def test_placeholders_are_names_in_braces_and_nothing_else() -> None:
    words = ["--a={x}", "{y_1}{y_1}", '{"json": {"z": 1}}', "{1}", "{}", "{ w }", "${x}"]
    assert placeholders(words) == {"x", "y_1"}
    assert fill(words, {"x": 1, "y_1": "b"}) == ["--a=1", "bb", *words[2:]]


def test_a_value_that_looks_like_a_placeholder_is_not_filled_again() -> None:
    assert fill(["{a}"], {"a": "{b}", "b": "no"}) == ["{b}"]


def test_an_unknown_placeholder_is_an_error() -> None:
    with pytest.raises(KeyError):
        fill(["{unknown}"], {})


@pytest.mark.parametrize(
    ("value", "written"), [(True, "true"), (False, "false"), (3, "3"), (0.1, "0.1"), (1e-9, "1e-09"), ("a b", "a b")]
)
def test_values_are_written_as_programs_read_them(value: Any, written: str) -> None:
    assert text(value) == written


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_loses_nothing(value: float) -> None:
    assert float(text(value)) == value


@pytest.mark.parametrize(
    ("flag", "kind", "value", "words"),
    [
        ("--n", "int", 3, ["--n", "3"]),
        ("--n=", "int", 3, ["--n=3"]),
        ("--yes", "bool", True, ["--yes"]),
        ("--yes", "bool", False, []),
        ("--yes/--no", "bool", True, ["--yes"]),
        ("--yes/--no", "bool", False, ["--no"]),
        ("/--no", "bool", True, []),
        ("/--no", "bool", False, ["--no"]),
    ],
)
def test_flags(flag: str, kind: str, value: Any, words: list[str]) -> None:
    assert flags(parameter(flag=flag, type=kind), value) == words


@pytest.mark.parametrize(
    "words",
    [
        ("bash", "-c", "exec serve"),
        ("/bin/sh", "-ec", "exec serve"),
        ("bash", "-euo", "pipefail", "-c", "exec serve"),
        ("bash", "-ceuo", "pipefail", "exec serve"),
        ("bash", "-l", "-c", "serve", "name"),
        ("bash", "-c", "-l", "serve"),
        ("zsh", "-lc", "serve"),
        ("dash", "+e", "-c", "--", "serve"),
        ("bash", "-o", "pipefail", "-c", "serve", "x", "y"),
        ("bash", "--norc", "--rcfile", "f", "-c", "serve"),
        ("env", "A=1", "nice", "bash", "-c", "serve {m}"),
    ],
)
def test_flags_behind_a_script_that_does_not_use_them_are_told(words: tuple[str, ...]) -> None:
    problem = flags_problem(words, ["n", "m"])
    told = "n" if "{m}" in " ".join(words) else "n, m"
    assert problem.startswith(f"the flags of {told} become arguments of ")
    assert 'write {n} in the script instead, or end it with "$@" and add a word behind it' in problem


@pytest.mark.parametrize(
    "words",
    [
        ("serve",),
        ("bash", "start.sh"),
        ("bash", "-e", "start.sh", "-c"),
        ("bash", "--norc", "start.sh"),
        ("bash", "-c"),
        ("serve", "--shell", "bash"),
        ("bash", "-c", 'exec serve "$@"', "bash"),
        ("bash", "-c", "exec serve $*", "bash"),
        ("bash", "-c", 'exec serve "${@}"', "bash"),
        ("bash", "-c", 'exec "$0" "$@"'),
        ("bash", "-ceuo", "pipefail", 'exec serve "$@"', "x"),
        ("bash", "-c", "exec serve --n=$2 --m=$4", "bash"),
        ("./start", "sh", "-c", "serve"),
        ("bash", "-c", "exec serve --n {n} --m={m}"),
    ],
)
def test_flags_that_reach_their_program(words: tuple[str, ...]) -> None:
    assert flags_problem(words, ["n", "m"]) == ""


def test_the_first_flag_behind_a_script_is_no_argument_of_it() -> None:
    told = flags_problem(("sh", "-c", 'exec serve "$@"'), ["n"])
    assert told.startswith(
        'the flags of n follow the script of sh, where the first word is $0 and not among its "$@"; '
    )
    assert told.endswith("or add a word behind the script, such as 'sh'")


@pytest.mark.parametrize(
    ("script", "value", "safe"),
    [
        ("serve --x {x}", "a-b.c/d:e=1,2", True),
        ("serve --x {x}", 3, True),
        ("serve --x {x}", -0.5, True),
        ("serve {x}", "", True),
        ("serve --x {x}", "a b", False),
        ("serve --x={x}", "$(touch /tmp/x)", False),
        ("serve --x {x}", ";reboot", False),
        ("serve --x '{x}'", '$(a b) "c"', True),
        ("serve --x '--y={x}' --z \"$HOME\"", "a b", True),
        ("serve --x '{x}'", "it's", False),
        ('serve --x "{x}"', "it's a b", True),
        ('serve --x "{x}"', "$(touch /tmp/x)", False),
        ('serve --x "{x}"', 'a"b', False),
        ('serve --x \\"{x}\\"', "a b", False),
        ("serve '{x}' {x}", "a b", False),
    ],
)
def test_a_value_that_a_shell_would_take_apart_is_not_put_into_its_script(script: str, value: Any, safe: bool) -> None:
    told = list(script_problems(("/bin/bash", "-c", script), {"x": ("y", value)}))
    assert len(told) == (not safe)
    if not safe:
        assert told[0].startswith(
            f"/bin/bash would take {{x}} = {value!r} apart or run it where it stands in the script"
        )
        assert told[0].endswith("""["/bin/bash", "-c", 'exec serve "$@"', "bash", "{x}"]""")
    assert list(script_problems(("bash", "-c", 'exec serve "$@"', "bash", "{x}"), {"x": (value,)})) == []
    assert list(script_problems(("serve", script), {"x": (value,)})) == []
