"""Engines: the commands, environments and health checks that follow from a configuration."""

from __future__ import annotations

import dataclasses
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mpipso.config import Benchmark, Config, Quality, Service, templates
from mpipso.config.file import parse
from mpipso.service.clients.base import CLIENTS
from mpipso.service.engines.base import ENGINES, Layout, missing_commands
from mpipso.service.node import Share
from mpipso.service.reasons import ERROR, MEMORY, NAMED, OTHER

ONE = Layout((Share("a", "10.0.0.5", (0, 1), (2, 3)),), 0, 8000, 29500, ("/work",), ("/work/config.json",))
TWO = Layout(
    (Share("a", "10.0.0.5", (0,), (0, 1)), Share("b", "10.0.0.6", (1, 2), (2,))),
    1,
    8000,
    29500,
    ("/work/a", "/work/b"),
    ("/work/a/c.json", "/work/b/c.json"),
)


def config(service: dict[str, Any], *parameters: dict[str, Any], **more: Any) -> Config:
    default = {"name": "n", "type": "int", "min": 1, "max": 9, "flag": "--n"}
    return Config.model_validate(
        {
            "service": {"engine": "command", **service},
            "benchmark": {"client": "openai"},
            "objective": {"maximize": "output_throughput"},
            "parameters": parameters or (default,),
            **more,
        }
    )


def problems(told: Config) -> list[str]:
    return list(ENGINES.create(told.service.engine).problems(told))


def test_every_engine_is_found_by_name() -> None:
    assert {"command", "llamacpp"} <= set(ENGINES.names())


def test_workers_come_first_and_everyone_knows_its_place() -> None:
    words = ("{node_rank}", "{nnodes}", "{node_addr}", "{master_addr}", "{master_port}", "{host}", "{port}")
    more = ("{config}", "{work_dir}", "{devices}", "{device_count}", "{cores}", "{core_count}", "{n}")
    told = config(
        {"command": ("m", *words, *more), "worker_command": ("w", *words, *more), "env": {"A": "{node_rank}"}}
    )
    worker, master = ENGINES.create("command").starts(told, {"n": 5}, TWO)
    assert (worker.node, master.node) == (0, 1)
    common = ["2", "10.0.0.6", "29500", "10.0.0.6", "8000"]
    place = ["/work/a/c.json", "/work/a", "0,1", "2", "0", "1", "5", "--n", "5"]
    assert list(worker.command) == ["w", "1", common[0], "10.0.0.5", *common[1:], *place]
    place = ["/work/b/c.json", "/work/b", "2", "1", "1,2", "2", "5", "--n", "5"]
    assert list(master.command) == ["m", "0", common[0], "10.0.0.6", *common[1:], *place]
    assert worker.env == {
        "MPIPSO_NODE_RANK": "1",
        "MPIPSO_NNODES": "2",
        "MPIPSO_NODE_ADDRS": "10.0.0.6,10.0.0.5",
        "MPIPSO_MASTER_ADDR": "10.0.0.6",
        "MPIPSO_MASTER_PORT": "29500",
        "MPIPSO_PORT": "8000",
        "MPIPSO_CONFIG": "/work/a/c.json",
        "A": "1",
    }
    assert master.env["MPIPSO_NODE_RANK"] == "0" and master.env["MPIPSO_CONFIG"] == "/work/b/c.json"


def test_a_service_on_one_node_stays_on_loopback() -> None:
    (start,) = ENGINES.create("command").starts(config({"command": ("m", "{host}", "{node_addr}")}), {"n": 5}, ONE)
    assert start.command == ("m", "127.0.0.1", "127.0.0.1", "--n", "5")


def test_hosts_that_have_the_same_address_are_still_two() -> None:
    alike = [replace(TWO, nodes=tuple(Share(host, "169.254.3.1") for host in hosts)) for hosts in ("ab", "aa")]
    assert [layout.host for layout in alike] == ["169.254.3.1", "127.0.0.1"]


def test_without_a_worker_command_only_the_master_starts() -> None:
    (start,) = ENGINES.create("command").starts(config({"command": ("./start.sh",)}), {"n": 5}, TWO)
    assert start.node == 1


def test_a_tuned_variable_overrides_the_service_s_own() -> None:
    told = config({"command": ("m",), "env": {"N": "1", "B": "2"}}, {"name": "n", "type": "bool", "env": "N"})
    (start,) = ENGINES.create("command").starts(told, {"n": True}, ONE)
    assert (start.env["N"], start.env["B"]) == ("true", "2")


def test_an_address_of_ipv6_is_in_brackets_in_a_url() -> None:
    six = dataclasses.replace(TWO, nodes=(Share("a", "2001:db8::5"), Share("b", "2001:db8::6")))
    engine = ENGINES.create("command")
    assert six.base_url == "http://[2001:db8::6]:8000"
    told = config({"command": ("m", "{host}"), "health_url": "http://{host}:{port}/health"})
    assert engine.health_url(told, {"n": 1}, six) == "http://[2001:db8::6]:8000/health"
    assert ENGINES.create("llamacpp").health_url(
        told.model_copy(update={"service": Service(engine="llamacpp")}), {}, six
    ) == ("http://[2001:db8::6]:8000/health")
    assert engine.starts(told, {"n": 1}, six)[0].command == ("m", "2001:db8::6", "--n", "1")


def test_health_is_asked_where_the_configuration_says() -> None:
    engine = ENGINES.create("command")
    assert engine.health_url(config({"command": ("m",)}), {"n": 1}, TWO) == ""
    told = config({"command": ("m",), "health_url": "http://{host}:{port}/v2/{n}"})
    assert engine.health_url(told, {"n": 1}, TWO) == "http://10.0.0.6:8000/v2/1"


@pytest.mark.parametrize(
    ("service", "parameter", "told"),
    [
        ({}, {}, "service.command: is required for engine = 'command'"),
        ({"engine": "llamacpp"}, {}, "service.model or service.command: is required for engine = 'llamacpp'"),
        ({"command": ("m", "{prot}")}, {}, "service.command: unknown placeholder {prot}; did you mean 'port'?"),
        ({"command": ("m",), "stop_command": ("{x}",)}, {}, "service.stop_command: unknown placeholder {x}"),
        ({"command": ("m",), "health_url": "http://{hots}"}, {}, "service.health_url: unknown placeholder {hots}"),
        (
            {"command": ("m",), "health_url": "{host}:{port}/health"},
            {},
            "service.health_url = '{host}:{port}/health': should begin with http:// or https://",
        ),
        ({"command": ("m",), "health_url": "http{n}://{host}"}, {}, "should begin with http:// or https://"),
        ({"command": ("m",), "env": {"A": "{x}"}}, {}, "service.env.A: unknown placeholder {x}"),
        (
            {"command": ("m", "{model}")},
            {"name": "model", "flag": None},
            "reaches nothing, as {model} is a placeholder",
        ),
        ({"command": ("m",)}, {"flag": None}, "parameter 'n': reaches nothing; give it a flag, an env or a path"),
        ({"command": ("sh", "-c", "exec m ${n}")}, {"flag": None}, "parameter 'n': reaches nothing; give it a flag"),
        ({"command": ("m",)}, {"flag": None, "path": "a"}, "has a path, but there is no [service.config_file]"),
        (
            {"command": ("m",), "config_file": {"content": '{"a": 1}'}},
            {"flag": None, "path": "a.b"},
            "service.config_file: path 'a.b': nothing to descend into at 'b'",
        ),
        (
            {"command": ("m",), "config_file": {"content": "n {n}", "format": "text"}},
            {"flag": None, "path": "a.b"},
            "parameter 'n': has a path, but service.config_file is a text; use {n} in it, or say format = ",
        ),
        (
            {"command": ("m", "{config}"), "config_file": {"content": "n ${n} {m}", "format": "text"}},
            {"flag": None},
            "parameter 'n': reaches nothing; give it a flag, an env or a path, or use {n} in service.command, in its t",
        ),
    ],
)
def test_mistakes_are_told(service: dict[str, Any], parameter: dict[str, Any], told: str) -> None:
    default = {"name": "n", "type": "int", "min": 1, "max": 9, "flag": "--n"}
    (problem,) = problems(config(service, {**default, **parameter}))
    assert told in problem


@pytest.mark.parametrize(
    "service",
    [
        {"command": ("m", "{n}")},
        {"command": ("sh", "-c", 'exec "${HOME}/m" {n}')},
        {"command": ("m", "{config}")},
        {"command": ("m",), "update_command": ("apply", "{config}")},
        {"command": ("m",), "update_command": ("apply", "{n}")},
        {"command": ("m",), "env": {"N": "{n}"}},
        {"command": ("m",), "config_file": {"content": "n {n}; {unknown} ${x}", "format": "text"}},
    ],
)
def test_a_parameter_may_reach_the_service_by_a_placeholder_or_in_its_file(service: dict[str, Any]) -> None:
    assert problems(config(service, {"name": "n", "type": "int", "min": 1, "max": 9})) == []


def test_two_parameters_do_not_set_the_same_variable() -> None:
    one = {"name": "n", "type": "int", "min": 1, "max": 9, "env": "THREADS"}
    assert problems(config({"command": ("m",)}, one, {**one, "name": "m"})) == [
        "parameters: several have env = 'THREADS'; only one of them would have an effect"
    ]


def test_a_name_in_a_text_of_an_expression_is_no_parameter() -> None:
    one = {"name": "n", "type": "int", "min": 1, "max": 9}
    other = {"name": "m", "type": "choice", "flag": "--m"}
    used, unused = {**other, "expression": "'a' if n else 'b'"}, {**other, "expression": "'n'"}
    assert problems(config({"command": ("m",)}, one, used)) == []
    (line,) = problems(config({"command": ("m",)}, one, unused))
    assert line.startswith("parameter 'n': reaches nothing")


def test_values_that_a_shell_would_take_apart_are_refused() -> None:
    shell, choice = ("sh", "-c", "serve {n}"), {"name": "n", "type": "choice", "choices": ("a", "$(b)")}
    for key in ("command", "worker_command", "update_command", "stop_command", "health_command"):
        (line,) = problems(config({"command": ("serve", "{n}"), key: shell}, choice))
        assert line.startswith(f"service.{key}: sh would take {{n}} = '$(b)' apart or run it")
    path = {"command": ("sh", "-c", "serve {n} {model} {config} {work_dir}"), "work_dir": "/a b", "model": "/m;"}
    told = problems(config(path))
    assert [line.partition(" apart")[0].partition("take ")[2] for line in told] == [
        "{config} = '/a b/config.json'",
        "{model} = '/m;'",
        "{work_dir} = '/a b'",
    ]


def test_flags_that_a_shell_would_swallow_are_refused() -> None:
    shell = ("bash", "-c", "exec serve")
    (line,) = problems(config({"command": shell}))
    assert line.startswith("service.command: the flags of n become arguments of bash")
    (line,) = problems(config({"command": ("serve",), "worker_command": shell}))
    assert line.startswith("service.worker_command: the flags of n become arguments of bash")
    assert problems(config({"command": shell}, {"name": "n", "type": "int", "min": 1, "max": 9, "env": "N"})) == []
    alone = {"engine": "llamacpp", "model": "embedded", "worker_command": ("sh", "-c", "exec rpc-server")}
    assert problems(config(alone)) == []


def test_a_parameter_that_feeds_another_need_not_reach_the_service() -> None:
    base = {"name": "n", "type": "int", "min": 1, "max": 9}
    total = {"name": "total", "type": "int", "expression": "n * 2", "flag": "--total"}
    assert problems(config({"command": ("m",)}, base, total)) == []
    other = {**total, "expression": "n2 * 2"}
    (line,) = problems(config({"command": ("m", "{n2}")}, base, {**base, "name": "n2"}, other))
    assert line.startswith("parameter 'n': reaches nothing")


@pytest.mark.parametrize(
    ("benchmark", "name", "told"),
    [
        ({"client": "openai", "concurrency": "{n}"}, "n", False),
        ({"client": "openai", "request_rate": "{n}"}, "n", False),
        ({"client": "openai", "concurrency": 8}, "n", True),
        ({"client": "command", "command": ("bench", "-c", "{n}")}, "n", False),
        ({"client": "openai", "concurrency": "{seed}"}, "seed", False),
        ({"client": "command", "command": ("bench", "{seed}")}, "seed", True),
        ({"client": "command", "command": ("bench", "{port}")}, "port", True),
    ],
)
def test_a_parameter_may_be_one_of_the_benchmark_alone(benchmark: dict[str, Any], name: str, told: bool) -> None:
    data = config({"command": ("m", "{port}")}, {"name": name, "type": "int", "min": 1, "max": 9})
    found = problems(data.model_copy(update={"benchmark": Benchmark.model_validate(benchmark)}))
    assert [re.split("[,;]", line)[0] for line in found] == [f"parameter {name!r}: reaches nothing"] * told
    if "command" in benchmark:
        found = problems(data.model_copy(update={"quality": Quality(command=benchmark["command"])}))
        assert [re.split("[,;]", line)[0] for line in found] == [f"parameter {name!r}: reaches nothing"] * told


def test_the_engine_s_own_target_gives_way_to_the_user_s() -> None:
    told = config(
        {"engine": "llamacpp", "model": "embedded"},
        {"name": "n_batch", "type": "int", "min": 1, "max": 9},
        {"name": "n_ubatch", "type": "int", "min": 1, "max": 9, "flag": "-ub"},
    )
    assert [each.flag for each in ENGINES.create("llamacpp").resolved(told)] == ["--batch-size", "-ub"]


def test_workers_of_llama_cpp_are_no_servers() -> None:
    told = config(
        {"engine": "llamacpp", "model": "embedded", "worker_command": ("rpc-server", "-p", "50052")},
        {"name": "n_batch", "type": "int", "min": 1, "max": 9},
    )
    worker, master = ENGINES.create("llamacpp").starts(told, {"n_batch": 5}, TWO)
    assert worker.command == ("rpc-server", "-p", "50052")
    assert master.command[-2:] == ("--batch-size", "5")


@pytest.mark.parametrize(
    ("parameter", "told"),
    [
        ({"name": "flash_attn", "type": "bool"}, 'should be a value for --flash-attn, as with type = "choice"'),
        ({"name": "kv_unified", "type": "choice", "choices": ("true", "false")}, 'should be type = "bool", not'),
    ],
)
def test_known_parameters_of_llama_cpp_are_what_its_flags_take(parameter: dict[str, Any], told: str) -> None:
    (line,) = problems(config({"engine": "llamacpp", "model": "embedded"}, parameter))
    assert told in line
    assert problems(config({"engine": "llamacpp", "model": "embedded"}, {**parameter, "flag": "--own"})) == []


def test_llama_server_is_started_under_the_name_it_is_recognised_by() -> None:
    engine = ENGINES.create("llamacpp")
    told = config({"engine": "llamacpp", "model": "/models/tiny-1b.Q8_0.gguf"})
    (start,) = engine.starts(told, {"n": 1}, ONE)
    line = " ".join(start.command)
    assert "--host 127.0.0.1 --port 8000 --model /models/tiny-1b.Q8_0.gguf --alias tiny-1b.Q8_0 --n 1" in line
    assert engine.model_name(told) == "tiny-1b.Q8_0"
    assert not any(name.startswith("MPIPSO_") for name in start.env)
    own = config({"engine": "llamacpp", "model": "m.gguf", "command": ("./my-server", "{model}")})
    assert engine.model_name(own) == ""


def test_the_embedded_server_is_this_python_s() -> None:
    pytest.importorskip("gguf")
    engine = ENGINES.create("llamacpp")
    told = config({"engine": "llamacpp", "model": "embedded"})
    command = engine.default_command(told)
    assert command[:3] == (sys.executable, "-m", "mpipso.service.embedded.server")
    assert command[-2:] == ("--alias", "embedded") and Path(command[-3]).exists()


def test_the_reason_is_the_line_that_tells_most() -> None:
    engine = ENGINES.create("command")
    assert engine.reason("loading\nValueError: too many\nbye\n") == (NAMED, "ValueError: too many")
    log = "loading\ntorch.OutOfMemoryError: no\nshutting down\n\n"
    assert engine.reason(log) == (MEMORY, "torch.OutOfMemoryError: no")
    assert engine.reason("one\ntwo\n") == (OTHER, "two")
    assert engine.reason("") == (OTHER, "its log is empty")


def test_the_level_of_a_line_of_llama_cpp_tells_that_it_is_an_error() -> None:
    reason = ENGINES.create("llamacpp").reason
    log = "0.1 I srv  load\n0.2 E llama: V cache needs flash_attn\n0.3 E srv: failed\nmpipso: refused\n"
    assert reason(log) == (ERROR, "llama: V cache needs flash_attn")
    assert reason(f"0.0 I general.name = Vitamin E Assistant\n{log}") == reason(log)
    assert reason("0.1 E ggml: out of memory\n") == (MEMORY, "ggml: out of memory")
    assert reason("0.1 I srv  load\nGGML_ASSERT(p) failed\n") == (OTHER, "GGML_ASSERT(p) failed")


def reason_of(log: str) -> str:
    """The line that an engine without a format of its own names."""
    return ENGINES.create("command").reason(log)[1]


VLLM = """\
(EngineCore pid=7) INFO 11-28 05:12:01 [core.py:93] Free memory 70 GiB; see the docs to avoid running out of memory
(EngineCore pid=7) ERROR 11-28 05:12:09 [core.py:899] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GB
(EngineCore pid=7) Traceback (most recent call last):
(APIServer pid=1) Traceback (most recent call last):
(APIServer pid=1)     raise RuntimeError(
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
shutting down
"""


def test_the_reason_is_the_root_cause_where_an_error_points_to_it() -> None:
    assert reason_of(VLLM).endswith("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GB")
    assert reason_of(VLLM.replace("torch.OutOfMemoryError: CUDA out of memory", "ValueError: bad")).endswith(
        "ValueError: bad. Tried to allocate 2 GB"
    )
    assert reason_of("\n".join(VLLM.splitlines()[2:])).endswith("See root cause above. Failed core proc(s): {}")
    hint = "RuntimeError: bad flag\nHint: to avoid out of memory set FOO=1"
    assert reason_of(hint) == "RuntimeError: bad flag"
    handler = "fatal: bad model\nW0101 00:00:00 torch.cc:1] out of memory handler installed"
    assert reason_of(handler) == "fatal: bad model"
    assert reason_of("ValueError: a\nDuring handling of the above exception, another exception occurred:\n") == (
        "ValueError: a"
    )


MINDIE = "[2026-11-28 08:00:01.123456+08:00] [1234] [281] [llm] [{}] [{}] : {}"
NOT_BEGUN = (
    MINDIE.format("ERROR", "model.cpp:12", "[MIE05E01000F] Model init fail"),
    MINDIE.format("ERROR", "infer_instances.cpp:88", "[MIE04E070301] InferInstance failed to init LlmInferEngine"),
    "ERR: Failed to init endpoint! Please check the service log or console output.",
    "Killed",
)


@pytest.mark.parametrize(
    "line",
    [
        MINDIE.format("ERROR", "llm_manager_impl.cpp:122", "maxPrefillTokens should be >= maxInputTokenLen"),
        MINDIE.format("ERROR", "llm_manager_impl.cpp:122", "rank table file invalid"),
        MINDIE.format("ERROR", "npu_block.cpp:7", "npu block num is 0, try a larger npuMemSize"),
        "EL0004: [PID: 1234] Failed to allocate memory.",
        "        Possible Cause: Available memory is insufficient.",
        "ValueError: failed to create the engine: max_model_len is too large",
        "RuntimeError: failed to start the server because the port is taken",
    ],
)
def test_that_something_could_not_begin_is_the_reason_only_if_there_is_no_other(line: str) -> None:
    assert reason_of("\n".join(["loading", line, *NOT_BEGUN])) == line.strip()
    assert reason_of("\n".join(["loading", *NOT_BEGUN])) == NOT_BEGUN[1]


@pytest.mark.parametrize(
    "line",
    [
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
        "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.",
        "RuntimeError: NPU out of memory. Tried to allocate 1.50 GiB",
        "terminate called after throwing an instance of 'std::bad_alloc'",
    ],
)
def test_missing_memory_is_the_reason_whatever_follows(line: str) -> None:
    assert reason_of(f"{line}\nConnectionError: the worker has gone\n") == line


def test_commands_that_this_node_lacks_are_named() -> None:
    told = config({"command": ("/no/such",), "update_command": ("sh",), "stop_command": ("no-such-command",)})
    assert missing_commands(told) == [
        "service.command: command not found: /no/such",
        "service.stop_command: command not found: no-such-command",
    ]
    assert missing_commands(config({"command": ("{work_dir}/x",)})) == []
    checked = config({"command": ("sh",)}).model_copy(update={"quality": Quality(command=("no-such-check", "{model}"))})
    assert missing_commands(checked) == ["quality.command: command not found: no-such-check"]


def test_a_command_line_that_is_one_word_is_told(tmp_path: Path) -> None:
    told = config({"command": ("sh -c {config}", "x"), "stop_command": ("no such",)})
    hint = 'every word is an item of its own: ["sh", "-c", "{config}"]'
    assert missing_commands(told) == [
        f"service.command: command not found: sh -c {{config}}; {hint}",
        "service.stop_command: command not found: no such",
    ]
    (tmp_path / "sh x").touch(0o755)
    assert missing_commands(config({"command": (f"{tmp_path}/sh x",)})) == []


@pytest.mark.parametrize("name", templates.names())
def test_every_template_is_a_valid_configuration(name: str) -> None:
    known = {"engines": ENGINES.names(), "clients": CLIENTS.names()}
    told = parse(templates.template(name), f"{name}.toml", overrides={}, **known)
    assert told.service.engine == (name if name in ENGINES.names() else "command")
    if told.service.engine == "command":  # the others need their services, which are asked for in the PATH
        assert problems(told) == []


def test_the_default_configuration_belongs_to_an_engine_with_a_template() -> None:
    assert templates.EMBEDDED in templates.names()
    assert templates.EMBEDDED in ENGINES.names()
