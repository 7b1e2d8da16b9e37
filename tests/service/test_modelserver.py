"""How the nodes of a group share a model, as far as it can be told before anything starts."""

from __future__ import annotations

from typing import Any

import pytest
from service.model_servers import config

from mpipso.service.engines.base import ENGINES

ENGINES_OF_MODELS = ("sglang", "vllm")
SEQS = {"name": "max_num_seqs", "type": "int", "min": 1, "max": 9, "flag": "--seqs"}
UNKNOWN = (0, 0)


def problem(engine: str, devices: tuple[int, ...], *parameters: dict[str, Any], flags: str = "", **service: Any) -> str:
    """Why a group whose nodes have so many devices cannot serve; ``flags`` are those in the server's own file."""
    file = {"config_file": {"template": "f.yaml", "content": flags}} if flags else {}
    told = config(engine, *(parameters or (SEQS,)), **({"model": "m"} | file | service))
    return ENGINES.create(engine).group_problem(told, devices)


def size(name: str, *choices: int | str, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": "choice", "choices": choices, **more}


@pytest.mark.parametrize("engine", ENGINES_OF_MODELS)
def test_groups_of_several_nodes_say_how_they_share_the_model(engine: str) -> None:
    needed = "tensor_parallel_size or pipeline_parallel_size is needed, as a parameter or in service.config_file"
    assert problem(engine, UNKNOWN) == problem(engine, (8, 8), flags="max-model-len: 8") == needed
    assert problem(engine, (8,)) == ""
    assert problem(engine, UNKNOWN, flags="tensor-parallel-size: 2") == ""
    assert problem(engine, UNKNOWN, flags="pipeline_parallel_size: 2") == ""
    assert problem(engine, UNKNOWN, size("tensor_parallel_size", 2, 4)) == ""
    assert problem(engine, UNKNOWN, size("ways", 2, 4, flag="--tensor-parallel-size=")) == ""
    assert problem(engine, UNKNOWN, size("ways", 2, 4, path="tensor-parallel-size"), flags="a: 1") == ""
    assert problem(engine, UNKNOWN, model="", command=("serve",)) == ""


@pytest.mark.parametrize("engine", ENGINES_OF_MODELS)
def test_a_model_is_not_shared_by_more_devices_than_a_group_has(engine: str) -> None:
    said = "tensor_parallel_size = 8, pipeline_parallel_size = 4: 32 devices are needed, and it has 16"
    sizes = (size("tensor_parallel_size", 4, 8, default=8), size("pipeline_parallel_size", 4, 8))
    assert problem(engine, (8, 8), *sizes) == said
    assert problem(engine, (16, 16), *sizes) == problem(engine, (8, 0), *sizes) == ""
    assert problem(engine, (4,), flags="data-parallel-size: 8") == (
        "data_parallel_size = 8: 8 devices are needed, and it has 4"
    )
    tuned = {"name": "tensor_parallel_size", "type": "int", "min": 2, "max": 16}
    assert problem(engine, (2,), tuned, flags="tensor-parallel-size: 8") == ""  # the parameter's flag wins
    assert problem(engine, (1,), tuned) == "tensor_parallel_size = 2: 2 devices are needed, and it has 1"


@pytest.mark.parametrize("engine", ENGINES_OF_MODELS)
def test_nodes_share_a_model_evenly(engine: str) -> None:
    uneven = "tensor_parallel_size = 3: cannot be shared evenly by 2 nodes"
    assert problem(engine, (8, 8), flags="tensor-parallel-size: 3") == uneven
    assert problem(engine, UNKNOWN, size("tensor_parallel_size", 3, 4, default=3)) == uneven
    assert problem(engine, UNKNOWN, size("tensor_parallel_size", 3, 4)) == ""  # 4 may do
    assert problem(engine, (8, 8), flags="tensor-parallel-size: 3\npipeline-parallel-size: 2") == ""


@pytest.mark.parametrize(
    ("engine", "flag"),
    [
        ("vllm", "distributed-executor-backend: ray"),
        ("vllm", "data-parallel-backend: ray"),
        ("vllm", "data-parallel-size-local: 8"),
        ("vllm", "device: cpu"),
        ("sglang", "use-ray: true"),
        ("sglang", "device: cpu"),
    ],
)
def test_a_server_may_have_devices_that_are_not_those_of_its_node(engine: str, flag: str) -> None:
    assert problem(engine, (8,), flags=f"tensor-parallel-size: 16\n{flag}") == ""


@pytest.mark.parametrize(
    ("engine", "flag"),
    [
        ("vllm", "distributed-executor-backend: ray"),
        ("vllm", "headless: true"),
        ("vllm", "master_addr: node0"),
        ("sglang", "dist-init-addr: node0:5000"),
        *((engine, flag) for engine in ENGINES_OF_MODELS for flag in ("nnodes: 4", "node-rank: 0")),
    ],
)
def test_a_file_of_flags_does_not_say_how_several_nodes_become_one_service(engine: str, flag: str) -> None:
    flags = f"tensor-parallel-size: 16\n{flag}"
    told = flag.replace("true", "True")
    assert problem(engine, (8, 8), flags=flags).startswith(f"service.config_file: {told}: ")
    assert problem(engine, (8, 8), flags=flags, command=("serve",)) == ""
    alone = problem(engine, (16,), flags=flags)
    assert alone.startswith(f"service.config_file: {told}: ") == flag.startswith("nnodes")


@pytest.mark.parametrize("engine", ENGINES_OF_MODELS)
@pytest.mark.parametrize(
    "flag",
    [
        *("nnodes: 2", "nnodes: '{nnodes}'", "node-rank: '{node_rank}'", "headless: false", "nnodes:"),
        "distributed-executor-backend: mp",
    ],
)
def test_it_may_say_the_same_as_the_command(engine: str, flag: str) -> None:
    assert problem(engine, (8, 8), flags=f"tensor-parallel-size: 16\n{flag}") == ""


@pytest.mark.parametrize("engine", ENGINES_OF_MODELS)
@pytest.mark.parametrize(
    "parameter",
    [
        {"name": "tensor_parallel_size", "type": "int", "expression": "16 // max_num_seqs"},
        {"name": "tensor_parallel_size", "type": "int", "min": 0.5, "max": 2.0, "ratio_of": "max_num_seqs"},
        size("tensor_parallel_size", "8", "16"),
    ],
)
def test_sizes_that_are_not_known_before_are_not_counted(engine: str, parameter: dict[str, Any]) -> None:
    assert problem(engine, (2, 2), SEQS, parameter) == ""


@pytest.mark.parametrize(("engine", "flag"), [("vllm", "max-model-len"), ("sglang", "context-length")])
def test_requests_longer_than_the_server_takes_are_refused(engine: str, flag: str) -> None:
    def problems(content: str, *parameters: dict[str, Any]) -> list[str]:
        told = config(engine, *(parameters or (SEQS,)), model="m", config_file={"format": "yaml", "content": content})
        load = told.benchmark.model_copy(update={"client": "openai", "input_tokens": 100, "output_tokens": 29})
        found = ENGINES.create(engine).problems(told.model_copy(update={"benchmark": load}))
        return [line for line in found if line.startswith("benchmark.")]

    name = flag.replace("-", "_")
    told = f"benchmark.input_tokens + output_tokens = 129: more than {name} = 128 lets a request have"
    assert problems(f"{flag}: 128") == [told]
    assert problems(f"{flag}: 129") == problems("a: 1") == problems(f"{flag}: 1k") == problems(f"{flag}: -1") == []
    assert problems(f"{flag}: 128", size(name, 64, 256)) == []


@pytest.mark.parametrize("engine", ENGINES_OF_MODELS)
def test_a_file_of_flags_has_to_be_yaml(engine: str) -> None:
    for file, how in (
        ({"content": "a: 1"}, 'say format = "yaml"'),
        ({"template": "f.json"}, "let its name end in .yaml"),
    ):
        found = ENGINES.create(engine).problems(config(engine, SEQS, model="m", config_file=file))
        assert any(line.endswith(f"reads its flags from YAML; {how}") for line in found)


@pytest.mark.parametrize("engine", ENGINES_OF_MODELS)
def test_a_key_that_the_server_wants_has_to_be_sent(engine: str) -> None:
    def problems(content: str, **benchmark: str) -> list[str]:
        told = config(engine, SEQS, model="m", config_file={"format": "yaml", "content": content})
        load = told.benchmark.model_copy(update=benchmark)
        found = ENGINES.create(engine).problems(told.model_copy(update={"benchmark": load}))
        return [line for line in found if line.startswith("benchmark.")]

    (line,) = problems("api-key: sk-1")
    assert line.startswith("benchmark.api_key_env: is required") and "sk-1" not in line
    assert problems("api-key: [sk-1, sk-2]") == [line]
    assert not problems("api-key: ''") and not problems("a: 1")
    assert not problems("api-key: sk-1", api_key_env="LLM_KEY") and not problems("api-key: sk-1", client="command")
