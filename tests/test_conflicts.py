"""What keeps a configuration from running on the groups that were formed."""

from __future__ import annotations

import pytest

from mpipso.cluster.plan import PlacedGroup, PlacedNode, Plan
from mpipso.config import Config, Quality
from mpipso.conflicts import address_problems, fitting, loopback_problems, placement_problems, port_problems


@pytest.mark.parametrize(
    ("nodes", "lonely"),
    [
        ([("a", "10.0.0.1"), ("b", "10.0.0.2")], ""),
        ([("a", "10.0.0.1"), ("b", "127.0.0.1")], "b"),
        ([("a", "127.0.0.1"), ("b", "127.0.0.1")], "a, b"),
        ([("a", "127.0.0.1"), ("a", "127.0.0.1")], ""),
        ([("a", "127.0.0.1")], ""),
    ],
)
def test_a_host_with_no_address_but_loopback_is_no_part_of_a_group(nodes: list[tuple[str, str]], lonely: str) -> None:
    placed = tuple(PlacedNode(rank, host, address, (), ()) for rank, (host, address) in enumerate(nodes))
    told = loopback_problems(Plan((PlacedGroup(0, placed),)))
    assert [line.partition(":")[0] for line in told] == ([lonely] if lonely else [])


def test_the_last_port_will_do_for_a_group_whose_other_nodes_need_none() -> None:
    config = Config.model_validate(
        {
            "service": {"engine": "vllm", "model": "m", "port": 65535},
            "benchmark": {"client": "openai"},
            "objective": {"maximize": "output_throughput"},
            "parameters": ({"name": "n", "type": "bool", "flag": "--n"},),
        }
    )
    nodes = tuple(PlacedNode(rank, host) for rank, host in enumerate("ab"))
    assert port_problems(config, Plan((PlacedGroup(0, nodes, port=65535),))) == []


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llamacpp"])
@pytest.mark.parametrize(("hosts", "told"), [(("a", "a"), True), (("a", "b"), False)])
def test_a_benchmark_of_a_fixed_port_would_load_another_group_s_service(
    engine: str, hosts: tuple[str, ...], told: bool
) -> None:
    config = Config.model_validate(
        {
            "service": {"engine": engine, "model": "m", "port": 8000},
            "benchmark": {"client": "command", "command": ("bench", "--port", "8000"), "metrics": {"rate": "r"}},
            "objective": {"maximize": "rate"},
            "parameters": ({"name": "n", "type": "bool", "flag": "--n"},),
        }
    )
    nodes = [PlacedNode(rank, host, "10.0.0.1", (), ()) for rank, host in enumerate(hosts)]
    placed = Plan(tuple(PlacedGroup(rank, (node,), port=8000 + told * rank) for rank, node in enumerate(nodes)))
    line = "benchmark.command: cannot know which service to load, as 2 groups share a"
    assert [each.startswith(line) for each in address_problems(config, placed)] == [True] * told
    told_which = {"benchmark": config.benchmark.model_copy(update={"command": ("bench", "{port}")})}
    checked = config.model_copy(update={**told_which, "quality": Quality(command=("check", "--port", "8000"))})
    line = "quality.command: cannot know which service to check, as 2 groups share a"
    assert [each.startswith(line) for each in address_problems(checked, placed)] == [True] * told


def test_groups_that_cannot_share_a_model_are_told_once_for_each_reason() -> None:
    config = Config.model_validate(
        {
            "service": {"engine": "vllm", "model": "m"},
            "benchmark": {"client": "openai"},
            "objective": {"maximize": "output_throughput"},
            "parameters": ({"name": "tensor_parallel_size", "type": "choice", "choices": (8, 16)},),
        }
    )

    def group(index: int, devices: int) -> PlacedGroup:
        nodes = [
            PlacedNode(rank, f"n{rank}", "10.0.0.1", (), tuple(range(devices)), "CUDA_VISIBLE_DEVICES")
            for rank in (2 * index, 2 * index + 1)
        ]
        return PlacedGroup(index, tuple(nodes))

    told = placement_problems(config, Plan((group(0, 4), group(1, 2), group(2, 2), group(3, 0))))
    assert told == ["group 1 of 2 nodes (n2+n3): tensor_parallel_size = 8: 8 devices are needed, and it has 4"]
    fits = fitting(config)
    assert [fits(group(index, devices)) for index, devices in enumerate((4, 2, 0))] == [True, False, True]


def test_that_ranks_of_one_host_share_its_devices_is_told() -> None:
    config = Config.model_validate(
        {
            "service": {
                "engine": "vllm",
                "model": "m",
                "config_file": {"format": "yaml", "content": "tensor-parallel-size: 8"},
            },
            "benchmark": {"client": "openai"},
            "objective": {"maximize": "output_throughput"},
            "parameters": ({"name": "max_num_seqs", "type": "int", "min": 1, "max": 9},),
        }
    )
    nodes = [PlacedNode(rank, "a", "10.0.0.1", (), tuple(range(4 * rank, 4 * rank + 4))) for rank in (0, 1)]
    groups = tuple(PlacedGroup(index, (node,)) for index, node in enumerate(nodes))
    told = "group 0 of 1 node (a): tensor_parallel_size = 8: 8 devices are needed, and it has 4"
    shared = "; 2 groups share what its hosts have: fewer ranks, with -np, leave each more"
    assert placement_problems(config, Plan(groups)) == [told + shared]
    assert placement_problems(config, Plan(groups[:1])) == [told]
