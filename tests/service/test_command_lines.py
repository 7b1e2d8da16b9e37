"""Placeholders, flags, environment variables and configuration files: how a value reaches the service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mpipso.config import ConfigFile, Parameter
from mpipso.service.command import config_text, fill, flags, flags_problem, placeholders, text


def parameter(name: str = "p", **more: Any) -> Parameter:
    kind = {"type": "bool"} if more.get("type") == "bool" else {"type": "int", "min": 0, "max": 99}
    return Parameter.model_validate({"name": name, **kind, **more})


def test_placeholders_are_names_in_braces_and_nothing_else() -> None:
    words = ["--a={x}", "{y_1}{y_1}", '{"json": {"z": 1}}', "{1}", "{}", "{ w }"]
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


TEMPLATE = {"Backend": {"Models": [{"name": "a", "npuMemSize": -1}, {"name": "b"}], "keep": [1, 2.5, "x"]}, "off": None}
PATHS = {"Backend.Models.0.npuMemSize": 7, "Backend.Models.1.new.deep": 8, "Backend.keep.2": 9, "top": 10}


@pytest.mark.parametrize("kind", ["json", "yaml"])
def test_a_template_is_kept_but_for_the_values_at_their_paths(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "template"
    path.write_text(json.dumps(TEMPLATE) if kind == "json" else yaml.safe_dump(TEMPLATE))
    file = ConfigFile.model_validate({"template": str(path), "format": kind})
    parameters = [parameter(f"p{n}", path=target) for n, target in enumerate(PATHS)] + [parameter("flagged", flag="-f")]
    values = {f"p{n}": value for n, value in enumerate(PATHS.values())} | {"flagged": 1}
    for _ in range(2):  # the template is not changed by its use
        written = config_text(file, parameters, values)
        tree = json.loads(written) if kind == "json" else yaml.safe_load(written)
        assert tree == {
            "Backend": {
                "Models": [{"name": "a", "npuMemSize": 7}, {"name": "b", "new": {"deep": 8}}],
                "keep": [1, 2.5, 9],
            },
            "off": None,
            "top": 10,
        }
        assert list(tree) == ["Backend", "off", "top"]


@pytest.mark.parametrize("kind", ["json", "yaml"])
def test_without_a_template_the_file_holds_the_paths_alone(kind: str) -> None:
    written = config_text(ConfigFile.model_validate({"format": kind}), [parameter(path="a.b")], {"p": 4})
    assert (json.loads(written) if kind == "json" else yaml.safe_load(written)) == {"a": {"b": 4}}


def test_values_keep_their_type_in_a_file() -> None:
    values = {"i": 1, "f": 0.5, "b": True, "s": "7"}
    parameters = [parameter(name, path=name) for name in values]
    for kind, read in (("json", json.loads), ("yaml", yaml.safe_load)):
        found = read(config_text(ConfigFile.model_validate({"format": kind}), parameters, values))
        assert found == values and [type(found[name]) for name in values] == [int, float, bool, str]


@pytest.mark.parametrize("path", ["list.5", "list.-1", "list.x", "list.0.deeper", "text.a", "list.0.a.b"])
def test_a_path_that_leads_nowhere_is_told(path: str, tmp_path: Path) -> None:
    template = tmp_path / "t.json"
    template.write_text('{"list": [1], "text": "x"}')
    with pytest.raises(ValueError, match=f"path '{path}'"):
        config_text(ConfigFile(template=str(template)), [parameter(path=path)], {"p": 1})


@pytest.mark.parametrize("content", ["", "a:\n", "# nothing\n"])
def test_an_empty_place_in_a_template_is_an_empty_table(content: str, tmp_path: Path) -> None:
    path = tmp_path / "template.yaml"
    path.write_text(content)
    file = ConfigFile(template=str(path), format="yaml")
    assert yaml.safe_load(config_text(file, [parameter(path="a.b")], {"p": 1})) == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("content", "kind", "told"),
    [
        (None, "json", "cannot be read: No such file or directory"),
        (b"\xff\xfe", "json", "cannot be read: not text"),
        (b"{bad", "json", "is not valid json"),
        (b"a: [", "yaml", "is not valid yaml"),
        (b'"text"', "json", "path 'a'"),
    ],
)
def test_a_template_that_is_none_is_told(content: bytes | None, kind: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "template"
    if content is not None:
        path.write_bytes(content)
    file = ConfigFile.model_validate({"template": str(path), "format": kind})
    with pytest.raises(ValueError, match=told):
        config_text(file, [parameter(path="a")], {"p": 1})
