"""vLLM's adapter: what would be started. That vLLM understands it was tried with vLLM 0.32 itself, by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tomli
import yaml
from service import model_servers
from service.model_servers import ONE, TWO

from mpipso.config import Config, templates
from mpipso.config.file import parse
from mpipso.search.space import Space
from mpipso.service.engines.base import ENGINES, missing_commands, service_commands

SEQS = {"name": "max_num_seqs", "type": "int", "min": 1, "max": 9}
ENGINE = ENGINES.create("vllm")


@pytest.fixture(autouse=True)
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return model_servers.in_path("vllm", tmp_path, monkeypatch)


def config(parameter: dict[str, Any] = SEQS, **service: Any) -> Config:
    return model_servers.config("vllm", parameter, **service)


def test_on_one_node_it_serves_the_model_with_the_known_flags(vllm: str) -> None:
    told = config(model="org/m", env={"HF_HUB_OFFLINE": "1"})
    assert list(ENGINE.problems(told)) == []
    (start,) = ENGINE.starts(told, {"max_num_seqs": 5}, ONE)
    assert " ".join(start.command) == f"{vllm} serve org/m --host 127.0.0.1 --port 8000 --max-num-seqs 5"
    assert start.env["HF_HUB_OFFLINE"] == "1" and "VLLM_HOST_IP" not in start.env
    assert ENGINE.model_name(told) == "org/m"
    assert ENGINE.health_url(told, {}, ONE) == "http://127.0.0.1:8000/health"


def test_it_is_looked_for_on_every_node_and_told_once_where_it_is_missing(vllm: str) -> None:
    told = config(model="m", stop_command=("halt",))
    assert service_commands(told) == {"service.command": vllm, "service.stop_command": "halt"}
    Path(vllm).unlink()
    assert service_commands(told)["service.command"] == "vllm"
    assert missing_commands(told) == ["service.stop_command: command not found: halt"]
    assert [problem for problem in ENGINE.problems(told) if "vllm is not in PATH" in problem]
    assert service_commands(config(command=("serve",))) == {"service.command": "serve"}


@pytest.mark.parametrize(("value", "flag"), [(True, "--enable-prefix-caching"), (False, "--no-enable-prefix-caching")])
def test_a_switch_is_said_both_ways(value: bool, flag: str) -> None:
    told = config({"name": "enable_prefix_caching", "type": "bool"}, model="m")
    assert ENGINE.starts(told, {"enable_prefix_caching": value}, ONE)[0].command[-1] == flag


@pytest.mark.parametrize(
    ("content", "added"),
    [
        ("enable-prefix-caching: false  # slow\nseed: 0\n", {"no-enable-prefix-caching": True}),
        ("async_scheduling: off\n", {"no-async_scheduling": True}),
        ("&a enable-prefix-caching: true\nenforce-eager: false\n", {}),
        ("enable-prefix-caching: 'no'\n", {}),
        ("[a]\n", None),
    ],
)
def test_a_switch_is_off_in_its_file_as_the_server_heeds_it(content: str, added: dict[str, bool] | None) -> None:
    told = config(model="m", config_file={"template": "f.yaml", "content": content})
    written = (ENGINE.file(told, {"max_num_seqs": 5}, ONE, 0) or b"").decode()
    assert written.startswith(content)
    assert added is None or yaml.safe_load(written) == yaml.safe_load(content) | added
    own = config(model="m", command=("serve",), config_file={"template": "f.yaml", "content": content})
    assert ENGINE.file(own, {"max_num_seqs": 5}, ONE, 0) == content.encode()


@pytest.mark.parametrize("value", [True, False])
def test_a_switch_with_a_path_is_said_both_ways(value: bool) -> None:
    prefix = {"name": "p", "type": "bool", "path": "enable-prefix-caching"}
    told = config(prefix, model="m", config_file={"template": "f.yaml", "content": "enable-prefix-caching: true"})
    off = {} if value else {"no-enable-prefix-caching": True}
    assert yaml.safe_load(ENGINE.file(told, {"p": value}, ONE, 0) or b"") == {"enable-prefix-caching": value} | off


def test_on_several_nodes_every_node_runs_it_and_all_but_the_master_are_headless(vllm: str) -> None:
    file = {"template": "flags.yaml", "content": "tensor-parallel-size: 8"}
    told = config(model="m", env={"VLLM_LOGGING_LEVEL": "DEBUG"}, config_file=file)
    worker, master = ENGINE.starts(told, {"max_num_seqs": 5}, TWO)
    mp = "--master-addr 10.0.0.6 --master-port 29500 --distributed-executor-backend mp"
    assert (worker.node, master.node) == (0, 1)
    assert " ".join(worker.command) == (
        f"{vllm} serve m --config /work/a/flags.yaml --nnodes 2 --node-rank 1 {mp} --headless --max-num-seqs 5"
    )
    assert " ".join(master.command) == (
        f"{vllm} serve m --config /work/b/flags.yaml --host 10.0.0.6 --port 8000 --nnodes 2 --node-rank 0 {mp} "
        "--max-num-seqs 5"
    )
    assert [start.env["VLLM_HOST_IP"] for start in (worker, master)] == ["10.0.0.5", "10.0.0.6"]
    assert worker.env["VLLM_LOGGING_LEVEL"] == "DEBUG"
    own = config(model="m", env={"VLLM_HOST_IP": "192.168.0.1"})
    assert {start.env["VLLM_HOST_IP"] for start in ENGINE.starts(own, {"max_num_seqs": 5}, TWO)} == {"192.168.0.1"}


@pytest.mark.parametrize("path", [None, "api-server-count"])
def test_flags_of_the_server_that_clients_talk_to_are_the_master_s_alone(path: str | None) -> None:
    """Where it is headless vLLM refuses them."""
    content = "api-server-count: 2  # many\ndata_parallel_hybrid_lb: true\nseed: 0\n"
    parameter = {"name": "api_server_count", "type": "int", "min": 1, "max": 8}
    told = config(
        parameter | ({"path": path} if path else {}), model="m", config_file={"template": "f.yaml", "content": content}
    )
    assert list(ENGINE.problems(told)) == []
    worker, master = ENGINE.starts(told, {"api_server_count": 4}, TWO)
    assert "--api-server-count" not in worker.command
    assert master.command[-2:] == (("--distributed-executor-backend", "mp") if path else ("--api-server-count", "4"))
    worker_file, master_file = (
        yaml.safe_load(ENGINE.file(told, {"api_server_count": 4}, TWO, node) or b"") for node in (0, 1)
    )
    assert worker_file == {"seed": 0}
    assert master_file == {"api-server-count": 4 if path else 2, "data_parallel_hybrid_lb": True, "seed": 0}
    own = config(parameter, command=("vllm",), worker_command=("vllm", "{node_rank}"))
    assert ENGINE.starts(own, {"api_server_count": 4}, TWO)[0].command[-2:] == ("--api-server-count", "4")
    variable = config(parameter | {"env": "SERVERS"}, model="m")
    assert ENGINE.starts(variable, {"api_server_count": 4}, TWO)[0].env["SERVERS"] == "4"


def test_a_command_of_the_user_s_is_all_that_is_started() -> None:
    told = config(model="m", command=("/opt/vllm", "serve", "{model}", "--port", "{port}"))
    (start,) = ENGINE.starts(told, {"max_num_seqs": 5}, TWO)
    assert start.command == ("/opt/vllm", "serve", "m", "--port", "8000", "--max-num-seqs", "5")
    assert ENGINE.model_name(told) == ""
    worker, _ = ENGINE.starts(
        config(command=("vllm",), worker_command=("vllm", "{node_rank}")), {"max_num_seqs": 5}, TWO
    )
    assert worker.command == ("vllm", "1", "--max-num-seqs", "5")


def test_workers_of_another_program_take_no_flags_where_the_command_calls_parameters_by_name() -> None:
    """As where Ray brings the nodes together."""
    script = "ray start --head --port {master_port} && exec vllm serve m --port {port} --max-num-seqs {max_num_seqs}"
    joining = ("ray", "start", "--address", "{master_addr}:{master_port}", "--block")
    told = config(command=("bash", "-c", script), worker_command=joining)
    assert not list(ENGINE.problems(told))
    worker, master = ENGINE.starts(told, {"max_num_seqs": 5}, TWO)
    assert worker.command == ("ray", "start", "--address", "10.0.0.6:29500", "--block")
    assert master.command[2:] == ("ray start --head --port 29500 && exec vllm serve m --port 8000 --max-num-seqs 5",)


@pytest.mark.parametrize(
    ("service", "parameter", "problem"),
    [
        ({}, SEQS, "service.model or service.command: is required for engine = 'vllm'"),
        ({"model": "m", "worker_command": ("w",)}, SEQS, "service.worker_command: has no effect without"),
        ({"model": "m"}, {**SEQS, "name": "max_num_seq"}, "did you mean 'max_num_seqs'?"),
        ({"model": "m"}, {"name": "enforce_eager", "type": "int", "min": 0, "max": 1}, 'should be type = "bool"'),
        ({"model": "m"}, {"name": "kv_cache_dtype", "type": "bool"}, "should be a value for --kv-cache-dtype"),
        ({"model": "m", "config_file": {"template": "flags.json"}}, SEQS, "vLLM reads its flags from YAML"),
    ],
)
def test_mistakes_are_told_before_anything_starts(
    service: dict[str, Any], parameter: dict[str, Any], problem: str
) -> None:
    (line,) = ENGINE.problems(config(parameter, **service))
    assert problem in line


@pytest.mark.parametrize(
    ("served", "name"),
    [
        *(("chat", "chat"), ("[chat, m]", "chat"), ("", "org/m"), ("7", "7")),
        *(("{model}", "org/m"), ('"{model}-fp8"', "org/m-fp8"), ('["{model}", chat]', "org/m")),
        *(("{max_num_seqs}", ""), ('"m-{port}"', ""), ('"${model}"', "${model}")),
    ],
)
def test_the_model_is_known_by_the_name_under_which_it_is_served(served: str, name: str) -> None:
    file = {"template": "f.yaml", "content": f"served-model-name: {served}"}
    assert ENGINE.model_name(config(model="org/m", config_file=file)) == name
    assert ENGINE.model_name(config(model="org/m", config_file={"template": "f.yaml", "content": "a: ["})) == "org/m"


def test_that_there_is_no_vllm_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    (line,) = ENGINE.problems(config(model="m"))
    assert line.startswith("service.command: vllm is not in PATH")
    assert list(ENGINE.problems(config(command=("/opt/vllm",)))) == []


def test_the_template_is_a_configuration_without_mistakes() -> None:
    told = parse(templates.template("vllm"), "vllm.toml")
    assert list(ENGINE.problems(told)) == []
    default = Space(told.parameters, told.constraints).baseline
    assert default is not None and default["max_num_seqs"] == 256


def test_the_template_searches_nothing_of_which_vllm_warns_and_no_more_sequences_than_the_load_can_use() -> None:
    told = parse(templates.template("vllm"), "vllm.toml")
    searched = {each.name: each for each in told.parameters}
    assert "enable_chunked_prefill" not in searched
    assert searched["max_num_seqs"].max == 256
    assert told.benchmark.requests == 8 * told.benchmark.load({})["concurrency"]


def test_what_else_the_template_names_are_flags_with_their_values() -> None:
    told = re.findall(r"(?m)^# \* (\w+): ([^;]+); \S", templates.template("vllm"))
    candidates = [(name, tomli.loads(f"choices = [{values}]")["choices"]) for name, values in told]
    assert len(candidates) == templates.template("vllm").count("\n# * ")
    assert [name for name, _ in candidates][-1] == "enable_chunked_prefill"
    for name, choices in candidates:
        switch = isinstance(choices[0], bool)
        parameter = (
            {"name": name, "type": "bool"} if switch else {"name": name, "type": "choice", "choices": (*choices,)}
        )
        searched = config(parameter, model="m")
        assert list(ENGINE.problems(searched)) == []
        flag = f"--{name.replace('_', '-')}"
        for value in choices:
            said = (flag if value else f"--no-{flag[2:]}",) if switch else (flag, str(value))
            assert ENGINE.starts(searched, {name: value}, ONE)[0].command[-len(said) :] == said
