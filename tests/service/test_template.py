"""The service's own configuration file: what becomes of a template."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from mpipso.config.parameters import Parameter
from mpipso.config.servicefile import ConfigFile
from mpipso.service.template import config_text, loaded, named, new_paths

TEMPLATE = {"Backend": {"Models": [{"name": "a", "npuMemSize": -1}, {"name": "b"}], "keep": [1, 2.5, "x"]}, "off": None}
PATHS = {"Backend.Models.0.npuMemSize": 7, "Backend.Models.1.new.deep": 8, "Backend.keep.2": 9, "top": 10}


def parameter(name: str = "p", **more: Any) -> Parameter:
    return Parameter.model_validate({"name": name, "type": "int", "min": 0, "max": 99, **more})


def file(content: object, kind: str = "json") -> ConfigFile:
    text = content if isinstance(content, str) else yaml.safe_dump(content) if kind == "yaml" else json.dumps(content)
    return ConfigFile.model_validate({"content": text, "format": kind})


def read(text: bytes, kind: str = "json") -> Any:
    return yaml.safe_load(text) if kind == "yaml" else json.loads(text)


@pytest.mark.parametrize("kind", ["json", "yaml"])
def test_a_template_is_kept_but_for_the_values_at_their_paths(kind: str) -> None:
    parameters = [parameter(f"p{n}", path=target) for n, target in enumerate(PATHS)] + [parameter("flagged", flag="-f")]
    values = {f"p{n}": value for n, value in enumerate(PATHS.values())} | {"flagged": 1}
    tree = read(config_text(file(TEMPLATE, kind), parameters, values, {}), kind)
    assert tree == {
        "Backend": {"Models": [{"name": "a", "npuMemSize": 7}, {"name": "b", "new": {"deep": 8}}], "keep": [1, 2.5, 9]},
        "off": None,
        "top": 10,
    }
    assert list(tree) == ["Backend", "off", "top"]


YAML = """\
# one process for each port
ports: 22:22   # as a container has them
version: 1.10
cache: no
on: {mode: 0644, large: 1_000, yes: ~}
when: 2001-12-14
base: &base
  queue: 5
  name: 'no'
worker:
  <<: *base
twin: *base
listen: http://{host}:{port}/ # filled
port: "{port}"
script: |
  serve {host}
    --now
"""


def test_yaml_stays_as_it_was_written() -> None:
    parameters = [parameter(path="version"), parameter("s", path="new.deep"), parameter("f", path="on.rate")]
    values = {"p": True, "s": "off", "f": 1e-05}
    written = config_text(file(YAML, "yaml"), parameters, values, {"host": "h", "port": 80}).decode()
    changed = {
        "1.10": "true",
        "~}": 'null, "rate": 1.0e-05}',
        "http://{host}:{port}/ #": '"http://h:80/"        #',
        '"{port}"': "80",
        "{host}\n": "h\n",
        "--now\n": '--now\n"new":\n  "deep": "off"\n',
    }
    expected = YAML
    for old, new in changed.items():
        assert expected.count(old) == 1
        expected = expected.replace(old, new)
    assert written == expected


def test_what_aliases_stand_for_follows_and_an_alias_becomes_what_is_set() -> None:
    def queues(**paths: str) -> dict[str, int]:
        parameters = [parameter(name, path=path) for name, path in paths.items()]
        tree = read(config_text(file(YAML, "yaml"), parameters, {"a": 7, "b": 8}, {}), "yaml")
        assert all(tree[table]["name"] == "no" for table in ("base", "worker", "twin"))
        return {table: tree[table]["queue"] for table in ("base", "worker", "twin")}

    assert queues(a="base.queue") == {"base": 7, "worker": 7, "twin": 7}
    assert queues(a="twin.queue") == {"base": 5, "worker": 5, "twin": 7}
    assert queues(a="worker.queue", b="twin.queue") == {"base": 5, "worker": 7, "twin": 8}
    nested = "a: &a {b: {c: 1, d: 2}}\ne: {<<: *a}\nf: [*a]\n"
    parameters = [parameter("p", path="e.b.c"), parameter("q", path="f.0.b.c")]
    tree = read(config_text(file(nested, "yaml"), parameters, {"p": 3, "q": 4}, {}), "yaml")
    assert [found["b"] for found in (tree["a"], tree["e"], tree["f"][0])] == [{"c": n, "d": 2} for n in (1, 3, 4)]


@pytest.mark.parametrize("kind", ["json", "yaml"])
def test_placeholders_are_filled_and_alone_they_keep_their_type(kind: str) -> None:
    template = {"port": "{port}", "urls": ["http://{host}:{port}/", "{unknown}"], "chat": "{{ a }} {'port': 1}", "n": 1}
    values = {"port": 8000, "host": "10.0.0.1"}
    tree = read(config_text(file(template, kind), [], {}, values), kind)
    assert tree == {**template, "port": 8000, "urls": ["http://10.0.0.1:8000/", "{unknown}"]}


def test_in_yaml_a_placeholder_needs_no_quotes() -> None:
    content = (
        "port: {port}  # not {cpus}\nname: {host}\nmany: [{port}, 2, {other}, {port: 1}, {cores: }]\ndeep:\n  port:\n"
    )
    told = file(content, "yaml")
    assert named(told) == {"port", "host", "other"}
    text = config_text(told, [], {}, {"port": 8000, "host": "no", "cores": 4})
    assert b"8000" in text and b'"no"' in text and b"# not {cpus}" in text
    many = [8000, 2, {"other": None}, {"port": 1}, {"cores": None}]
    assert read(text, "yaml") == {"port": 8000, "name": "no", "many": many, "deep": {"port": None}}


def test_what_a_parameter_is_set_to_is_not_filled_again() -> None:
    chosen = Parameter.model_validate({"name": "p", "type": "choice", "choices": ("{port}", "x"), "path": "a"})
    assert read(config_text(file({"a": 1}), [chosen], {"p": "{port}"}, {"port": 1})) == {"a": "{port}"}


@pytest.mark.parametrize("kind", ["json", "yaml"])
def test_without_a_template_the_file_holds_the_paths_alone(kind: str) -> None:
    written = config_text(ConfigFile.model_validate({"format": kind}), [parameter(path="a.b")], {"p": 4}, {})
    assert read(written, kind) == {"a": {"b": 4}}


@pytest.mark.parametrize("kind", ["json", "yaml"])
def test_values_keep_their_type_in_a_file(kind: str) -> None:
    values = {"i": 1, "f": 0.5, "b": True, "s": "7"}
    parameters = [parameter(name, path=name) for name in values]
    found = read(config_text(ConfigFile.model_validate({"format": kind}), parameters, values, {}), kind)
    assert found == values and [type(found[name]) for name in values] == [int, float, bool, str]


@pytest.mark.parametrize("path", ["list.5", "list.-1", "list.²", "list.x", "list.0.deeper", "text.a", "list.0.a.b"])
def test_a_path_that_leads_nowhere_is_told(path: str) -> None:
    with pytest.raises(ValueError, match=f"path '{path}'"):
        config_text(file({"list": [1], "text": "x"}), [parameter(path=path)], {"p": 1}, {})


@pytest.mark.parametrize(
    ("tree", "path"),
    [
        ({"pool.write.size": 4, "name": "a"}, "pool.write.size"),
        ({"pool.write": {"size": 4}}, "pool.write.size"),
        ({"pool": {"write.size": 4}, "pool.write": {"queue": 1}}, "pool.write.size"),
        ({"pool": {"write": {"size": 4}}, "pool.write": {"queue": 1}}, "pool.write.size"),
        ({"pools": [{"a.b": 4}]}, "pools.0.a.b"),
    ],
)
@pytest.mark.parametrize("kind", ["json", "yaml"])
def test_a_key_may_hold_dots(tree: dict[str, Any], path: str, kind: str) -> None:
    template, parameters = file(tree, kind), [parameter(path=path)]
    assert not new_paths(template, parameters)
    written = config_text(template, parameters, {"p": 7}, {})
    assert read(written, kind) == json.loads(json.dumps(tree).replace("4", "7"))


@pytest.mark.parametrize("kind", ["json", "yaml"])
def test_what_is_new_goes_below_the_longest_key_that_is_there(kind: str) -> None:
    template, parameters = file({"pool": {}, "pool.write": {"queue": 1}}, kind), [parameter(path="pool.write.size.max")]
    assert list(new_paths(template, parameters)) == ["pool.write.size.max"]
    tree = read(config_text(template, parameters, {"p": 7}, {}), kind)
    assert tree == {"pool": {}, "pool.write": {"queue": 1, "size": {"max": 7}}}


def test_a_key_of_yaml_may_be_a_number() -> None:
    parameters = [parameter("p", path="pools.1.size"), parameter("q", path="pools.2.size")]
    template = file("pools: {1: {size: 4}, 2: {size: 8}, '2': {size: 9}}", "yaml")
    tree = read(config_text(template, parameters, {"p": 5, "q": 6}, {}), "yaml")
    assert tree == {"pools": {1: {"size": 5}, 2: {"size": 8}, "2": {"size": 6}}}


def test_an_alias_below_a_key_with_dots_becomes_what_is_set() -> None:
    template = file("a.b: &a {x: 1}\nc.d: *a\n", "yaml")
    assert read(config_text(template, [parameter(path="a.b.x")], {"p": 2}, {}), "yaml")["c.d"] == {"x": 2}
    assert read(config_text(template, [parameter(path="c.d.x")], {"p": 2}, {}), "yaml") == {
        "a.b": {"x": 1},
        "c.d": {"x": 2},
    }


@pytest.mark.parametrize("content", ["", "a:\n", "# nothing\n"])
def test_an_empty_place_in_a_template_is_an_empty_table(content: str) -> None:
    assert read(config_text(file(content, "yaml"), [parameter(path="a.b")], {"p": 1}, {}), "yaml") == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("content", "kind", "told"),
    [
        (None, "json", "cannot be read: No such file or directory"),
        (b"\xff\xfe", "json", "cannot be read: not text"),
        (b"{bad", "json", "is not valid json"),
        (b"a: [", "yaml", "is not valid yaml: expected the node content, but found '<stream end>', line 1$"),
        (b"a: 1\n b: 2", "yaml", "is not valid yaml: mapping values are not allowed here, line 2$"),
        (b"a: \x01", "yaml", "is not valid yaml: unacceptable character .*$"),
        (b"a: &a\n  <<: *a", "yaml", "is not valid yaml: a table is merged into itself$"),
        (b'"text"', "json", "path 'a'"),
    ],
)
def test_a_template_that_is_none_is_told(content: bytes | None, kind: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "template"
    if content is not None:
        path.write_bytes(content)
    template = ConfigFile.model_validate({"template": str(path), "format": kind})
    with pytest.raises(ValueError, match=told):
        config_text(loaded(template), [parameter(path="a")], {"p": 1}, {})


def test_a_template_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(ValueError, match=r"template .*pipe\.json is a pipe"):
        loaded(ConfigFile.model_validate({"template": str(tmp_path / "pipe.json")}))


@pytest.mark.parametrize("kind", ["json", "yaml", "text"])
def test_a_template_may_begin_with_a_byte_order_mark(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "template"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    written = config_text(loaded(ConfigFile.model_validate({"template": str(path), "format": kind})), [], {}, {})
    assert json.loads(written) == {"a": 1}


NGINX = b"""\
worker_processes {workers};\r
events { worker_connections {connections}; }
http {server {
    sendfile {sendfile};  # {unknown}
    listen {port}; set $at ${host}; location ~ ^/[a-z]{2,}/{ return 200 '{"a": {}}'; }
    add_header Where \xc3\xbcber;
}}
"""


def test_a_text_is_kept_but_for_the_names_in_braces(tmp_path: Path) -> None:
    path = tmp_path / "nginx.conf"
    path.write_bytes(NGINX)
    values = {"workers": 2, "connections": 0.5, "sendfile": True, "port": 80, "host": "h"}
    expected = NGINX
    for name, value in (("workers", "2"), ("connections", "0.5"), ("sendfile", "true"), ("port", "80")):
        expected = expected.replace(b"{%b}" % name.encode(), value.encode())
    template = loaded(ConfigFile.model_validate({"template": str(path)}))
    assert config_text(template, [parameter("workers")], {"workers": 2}, values) == expected
    assert named(template) == {"workers", "connections", "sendfile", "unknown", "port"}


@pytest.mark.parametrize(
    ("data", "kind", "suffix"),
    [
        ({}, "json", ".json"),
        ({"content": "{}"}, "json", ".json"),
        ({"template": "a.JSON"}, "json", ".json"),
        ({"template": "a.yml"}, "yaml", ".yaml"),
        ({"template": "/b.d/nginx.conf"}, "text", ".conf"),
        ({"template": "config"}, "text", ".txt"),
        ({"template": "a.tmpl", "name": "conf/a.yaml"}, "yaml", ".yaml"),
        ({"template": "a.tmpl", "name": "conf/a.ini"}, "text", ".ini"),
        ({"template": "nginx.conf", "format": "json"}, "json", ".json"),
        ({"content": "a", "format": "text"}, "text", ".txt"),
    ],
)
def test_the_format_is_what_the_name_ends_in(data: dict[str, str], kind: str, suffix: str) -> None:
    made = ConfigFile.model_validate(data)
    assert (made.format, made.suffix) == (kind, suffix)
    # As the journal has it, in which the template may be left out.
    assert ConfigFile.model_validate(made.model_dump(exclude_defaults=True)) == made


@pytest.mark.parametrize("content", ["2024-01-01: 1\n", "? [a, b]\n: 1\n", "a: &a 1\nb: &a 2\n"])
def test_yaml_has_more_than_json(content: str, recwarn: pytest.WarningsRecorder) -> None:
    odd = file(content, "yaml")
    assert json.dumps(odd.plain()) and not recwarn.list
    assert config_text(odd, [], {}, {}).decode()


@pytest.mark.parametrize(
    "content", ["a: !!bool 1", "a: !!int ''", "%YAML 9.9\n---\na: 1", "x: 1\nx: 2\n", "1: x\ntrue: y\n"]
)
def test_yaml_that_the_library_does_not_take_is_told(content: str) -> None:
    with pytest.raises(ValueError, match="is not valid yaml"):
        file(content, "yaml").tree()


def test_the_values_of_a_key_that_is_there_twice_are_not_told() -> None:
    with pytest.raises(ValueError, match=r'found duplicate key "api_key", line 2$'):
        file("api_key: sk-one\napi_key: sk-two\n", "yaml").tree()


def test_what_only_looks_like_a_directive_is_read() -> None:
    assert file('note: "two\n\n%YAML lines"\n', "yaml").plain()


def test_yaml_of_an_older_version_is_refused_lest_its_values_change() -> None:
    with pytest.raises(ValueError, match="%YAML directive"):
        file("# first\n\n%TAG ! tag:x,2000:\n%YAML 1.1\n---\na: yes\nb: 010\n", "yaml").tree()


def test_infinity_and_nan_are_written_as_yaml_has_them() -> None:
    content = "v: .inf\nw: -.inf\nx: .nan\n"
    assert config_text(file(content, "yaml"), [], {}, {}).decode() == content


def test_a_template_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "template.json"
    path.write_text('{"a": 1}')
    once = loaded(ConfigFile.model_validate({"template": str(path)}))
    path.write_text('{"a": 2}')
    assert read(config_text(loaded(once), [], {}, {})) == {"a": 1}


LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)


@pytest.mark.parametrize(
    ("content", "kind", "told"),
    [
        (LAUGHS, "yaml", "has more than 100000 values"),
        (150 * "[" + 150 * "]", "yaml", "nested more than 100 deep"),
        (30000 * "[", "json", "is not valid json: maximum recursion depth"),
        (200 * "[" + 200 * "]", "json", "nested more than 100 deep"),
        ("a: 2024-99-99", "yaml", "is not valid yaml: month must be in"),
        ('{"a": ' + 5000 * "1" + "}", "json", "is not valid json: Exceeds the limit"),
    ],
)
def test_a_template_without_bounds_is_refused(content: str, kind: str, told: str) -> None:
    with pytest.raises(ValueError, match=f"^its content (is )?{told}"):
        config_text(file(content, kind), [], {}, {})


def test_aliases_are_kept_as_what_they_stand_for() -> None:
    template = "a: &a {x: 1}\nb: *a\n"
    assert read(config_text(file(template, "yaml"), [parameter(path="b.x")], {"p": 2}, {}), "yaml") == {
        "a": {"x": 1},
        "b": {"x": 2},
    }
