from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mpipso.cluster.plan import PlacedGroup, PlacedNode, Plan
from mpipso.config import Benchmark, Config, Limit, ObjectiveSection, Quality, Search
from mpipso.notes import notes, regrouping_note
from mpipso.startup import settled


def plan(*groups: Sequence[int]) -> dict[str, Any]:
    """Groups by the numbers of cores of their nodes."""
    return {"groups": [{"group": i, "hosts": [], "cores": [[*range(n)] for n in g]} for i, g in enumerate(groups)]}


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (plan([2]), plan([1], [1]), "1 group of 1 node with 2 cores, now 2 groups of 1 node with 1 core"),
        (plan([8, 8]), plan([8]), "1 group of 2 nodes with 8 cores each, now 1 group of 1 node with 8 cores"),
        (
            plan([4], [4, 8]),
            plan([4], [2]),
            "1 group of 1 node with 4 cores and 1 group of 2 nodes with 4 and 8 cores, now 1 group of 1 node with 4 "
            "cores and 1 group of 1 node with 2 cores",
        ),
    ],
)
def test_other_groups_than_those_of_the_earlier_session_are_told(
    before: dict[str, Any], now: dict[str, Any], told: str
) -> None:
    start, end = "service groups differ from the earlier session's: ", ": what was measured before may not compare"
    assert regrouping_note(before, now) == f"{start}{told}{end}"


@pytest.mark.parametrize("before", [{}, {"groups": [{"group": 0, "hosts": ["a"]}]}, plan([1]), plan([1], [2])])
def test_as_many_nodes_and_cores_are_not_nor_what_is_not_known(before: dict[str, Any]) -> None:
    assert regrouping_note(before, plan([1], [1], [1])) is None


def of(engine: str, **service: Any) -> Config:
    parameter = {"name": "n", "type": "int", "min": 1, "max": 2, "flag": "--n"}
    return Config.model_validate(
        {
            "service": {"engine": engine, **service},
            "benchmark": {"client": "openai"},
            "objective": {"maximize": "output_throughput"},
            "parameters": (parameter,),
        }
    )


def limited(**limit: Any) -> Config:
    objective = ObjectiveSection(maximize="output_throughput", slo=(Limit(metric="ttft_p99_ms", **limit),))
    return of("command", command=OWN).model_copy(update={"objective": objective})


FLAGS = {"format": "yaml", "content": "tensor-parallel-size: 4"}
BOTH = FLAGS | {"content": "{tensor-parallel-size: 8, data-parallel-size: 2}"}
OWN = ("/opt/vllm", "serve", "m", "--port", "{port}")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (of("vllm", model="m", config_file=FLAGS), "the service uses 4 of the 16 devices of its group"),
        (of("vllm", model="m"), "the service uses 1 of the 16 devices of its group"),
        (of("vllm", model="m", config_file=FLAGS | {"content": "{tensor-parallel-size: 8, pp: 2}"}), ""),
        (
            of("vllm", model="m", config_file=BOTH),
            "",
        ),
        (of("vllm", model="m", config_file=FLAGS | {"content": "device: cpu"}), ""),
        (of("sglang", model="m", config_file=FLAGS | {"content": "{tp-size: 8, pp-size: 2}"}), ""),
        (of("command", command=OWN), ""),
        (
            of("command", command=OWN).model_copy(
                update={"benchmark": Benchmark(client="openai", requests=4, concurrency=8)}
            ),
            "benchmark.concurrency = 8: of requests = 4 no more than these are ever under way",
        ),
        (
            of("command", command=OWN).model_copy(
                update={"benchmark": Benchmark(client="openai", requests=4, concurrency=(2, 8))}
            ),
            "benchmark.concurrency = 8: of requests = 4 no more than these are ever under way",
        ),
        (
            of("command", command=OWN).model_copy(
                update={"benchmark": Benchmark(client="openai", requests=1, concurrency="{n}")}
            ),
            "benchmark.concurrency = 2 at most: of requests = 1 no more than these are ever under way",
        ),
        (
            of("command", command=OWN).model_copy(update={"quality": Quality(metrics={"accuracy": "acc"})}),
            "quality.metrics: neither the objective nor a limit needs any, so the best may be one with bad answers; "
            'an [[objective.slo]] of metric = "accuracy" limits them',
        ),
        (of("vllm", command=OWN, worker_command=OWN), ""),
        (of("vllm", command=OWN, worker_command=OWN, model="/not/here"), ""),
        (of("vllm", model="/not/here", config_file=BOTH), "service.model: /not/here is not there on this host"),
        (of("vllm", model="/usr", config_file=BOTH), ""),
        (of("vllm", command=OWN), "service.command: without a service.worker_command nothing is started on b"),
        (
            of("vllm", command=OWN, worker_command=OWN, config_file=FLAGS),
            "service.config_file: no command uses {config}",
        ),
        (of("command", command=("sh", "-c", "serve $MPIPSO_CONFIG {port}"), config_file=FLAGS), ""),
        (of("command", command=OWN, update_command=("cp", "{config}", "/etc"), config_file=FLAGS), ""),
        (of("command", command=("serve", "--conf-dir", "{work_dir}", "{port}"), config_file=FLAGS), ""),
        (of("command", command=OWN, config_file=FLAGS), "service.config_file: no command uses {config}"),
        (limited(min="baseline"), ""),
        (limited(max="baseline"), ""),
        (limited(min="baseline", factor=0.95), ""),
        (limited(min="baseline", factor=1.05), "objective.slo: ttft_p99_ms has to be at least 1.05 times what"),
        (limited(max="baseline", factor=0.95), "objective.slo: ttft_p99_ms has to be at most 0.95 times what"),
    ],
)
def test_devices_nodes_and_files_that_are_of_no_use_are_pointed_out(config: Config, told: str) -> None:
    nodes = [PlacedNode(rank, host, f"10.0.0.{rank}", devices=tuple(range(8))) for rank, host in enumerate("ab")]
    found = list(notes(config, Plan((PlacedGroup(0, tuple(nodes)),))))
    assert len(found) == bool(told)
    assert not told or found[0].startswith(told)


@pytest.mark.parametrize(
    ("load", "under_way"),
    [
        ({"concurrency": 8}, ""),
        ({"concurrency": 9}, "concurrency = 9 of requests = 32 are"),
        ({"concurrency": "{n}"}, ""),
        ({"request_rate": 4.0}, ""),
        ({}, "all of requests = 32 are"),
    ],
)
def test_an_early_stop_that_spares_little_is_pointed_out(load: dict[str, Any], under_way: str) -> None:
    benchmark = Benchmark(client="openai", requests=32, early_stop=0.25, **load)
    config = of("command", command=OWN).model_copy(update={"benchmark": benchmark})
    plan = Plan((PlacedGroup(0, (PlacedNode(0, "a", "10.0.0.1"),)),))
    told = [note for note in notes(config, plan) if note.startswith("benchmark.early_stop: spares")]
    assert len(told) == bool(under_way)
    assert all(note.startswith(f"benchmark.early_stop: spares little, as {under_way} under way") for note in told)


def sweep(*slo: dict[str, Any], minimize: str = "ttft_p99_ms", **benchmark: Any) -> Config:
    """A configuration with derived metrics and a check of answers."""
    return of("command", command=OWN).model_copy(
        update={
            "benchmark": Benchmark.model_validate({"client": "openai", "concurrency": (8, 32), **benchmark}),
            "objective": ObjectiveSection.model_validate(
                {"minimize": minimize, "slo": slo, "derived": {"sum_ms": "1000 / request_throughput"}}
            ),
            "quality": Quality(metrics={"accuracy": "acc"}),
        }
    )


ACCURATE = {"metric": "accuracy", "min": 0.5}


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (sweep(ACCURATE), "ttft_p99_ms grows with the load, so that of a sweep concurrency 8 is the best; measure at"),
        (sweep(ACCURATE, {"metric": "tpot_mean_ms", "max": 50.0}), "ttft_p99_ms grows with the load"),
        (sweep(ACCURATE, concurrency=None, request_rate=(0.5, 1.0)), "ttft_p99_ms grows with the load, so that of"),
        (sweep(ACCURATE, concurrency=8), ""),
        (sweep(ACCURATE, {"metric": "output_throughput", "min": 500.0}), ""),
        (sweep(ACCURATE, {"metric": "duration", "max": 60.0}), ""),
        (sweep(ACCURATE, {"metric": "sum_ms", "max": 60.0}), ""),
        (sweep(ACCURATE, minimize="sum_ms"), ""),
        (sweep(ACCURATE, minimize="accuracy"), ""),
    ],
)
def test_a_sweep_of_which_the_lowest_load_is_always_the_best_is_pointed_out(config: Config, told: str) -> None:
    found = [line for line in notes(config, Plan(())) if "sweep" in line]
    assert len(found) == bool(told)
    assert not told or found[0].startswith(f"objective.minimize: {told}")


@pytest.mark.parametrize(
    ("search", "told"),
    [
        ({}, ""),
        ({"schedule": "async"}, ""),
        ({"particles": 12}, ""),
        ({"particles": 4}, "search.particles = 4: the search keeps no more than these of 12 service groups busy"),
        (
            {"schedule": "window", "window": 3},
            "search.window = 3: the search keeps no more than these of 12 service groups busy",
        ),
    ],
)
def test_groups_that_the_schedule_leaves_idle_are_pointed_out(search: dict[str, Any], told: str) -> None:
    config = Config.model_validate(
        {
            "service": {"engine": "command", "command": ("serve", "--port", "{port}")},
            "benchmark": {"client": "openai"},
            "objective": {"maximize": "output_throughput"},
            "parameters": ({"name": "n", "type": "int", "min": 1, "max": 2, "flag": "--n"},),
            "search": search,
        }
    )
    nodes = [PlacedNode(rank, f"node{rank}", f"10.0.0.{rank}", (), ()) for rank in range(12)]
    placed = Plan(tuple(PlacedGroup(rank, (node,)) for rank, node in enumerate(nodes)))
    found = list(notes(settled(config, placed), placed))
    assert found == ([told] if told else [])


@pytest.mark.parametrize(
    ("search", "limit", "told"),
    [
        ({"evaluations": 10}, 2000.0, ""),
        ({"evaluations": 9}, 2000.0, "particles = 8"),
        ({"evaluations": 9, "repeats": 1}, 2000.0, ""),
        ({"evaluations": 8}, 2000.0, "particles = 8"),
        ({"evaluations": 1}, 2000.0, "particles = 8"),
        ({"evaluations": 64, "iterations": 1}, 2000.0, "particles = 8"),
        ({"evaluations": 64, "iterations": 2}, 2000.0, ""),
        ({"evaluations": 6, "schedule": "window", "window": 6}, 2000.0, "window = 6"),
        ({"evaluations": 7, "schedule": "window", "window": 6}, 2000.0, ""),
        ({"evaluations": 7, "schedule": "window", "window": 6}, "baseline", "window = 6"),
        ({"evaluations": 8, "schedule": "window", "window": 6}, "baseline", ""),
        ({"evaluations": 2, "schedule": "async"}, 2000.0, ""),
    ],
)
def test_an_early_stop_that_no_proposal_can_have_is_pointed_out(
    search: dict[str, Any], limit: float | str, told: str
) -> None:
    benchmark = Benchmark(client="openai", requests=64, concurrency=8, early_stop=0.2)
    more = {"benchmark": benchmark, "search": Search(**{"particles": 8, "baseline_repeats": 2, **search})}
    config = limited(max=limit).model_copy(update=more)
    start = "benchmark.early_stop: stops none, as all evaluations are proposed before any result can be judged; make "
    assert list(notes(config, Plan(()))) == ([f"{start}more of them, or lower search.{told}"] if told else [])


@pytest.mark.parametrize(
    ("service", "hosts", "told"),
    [
        ({"engine": "vllm", "model": "m"}, "aab", True),
        ({"engine": "vllm", "model": "m"}, "ab", False),
        ({"engine": "vllm", "model": "m", "env": {"VLLM_PORT": "{master_port}"}}, "aa", False),
        ({"engine": "command", "command": ("/opt/bin/vllm", "serve", "--port", "{port}")}, "aa", True),
        ({"engine": "command", "command": ("serve", "--port", "{port}")}, "aa", False),
    ],
)
def test_a_first_port_for_all_services_of_vllm_on_a_host_is_pointed_out(
    service: dict[str, Any], hosts: str, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"benchmark": {"client": "openai"}, "objective": {"maximize": "output_throughput"}}
    parameters = ({"name": "n", "type": "int", "min": 1, "max": 2, "flag": "--n"},)
    config = Config.model_validate({"service": service, "parameters": parameters, **settings})
    nodes = [PlacedNode(rank, host, "10.0.0.1", (), ()) for rank, host in enumerate(hosts)]
    placed = Plan(tuple(PlacedGroup(rank, (node,)) for rank, node in enumerate(nodes)))
    line = (
        "VLLM_PORT = 29500: services of groups that share a may take the same ports when they start together; "
        "leave it out"
    )
    monkeypatch.delenv("VLLM_PORT", raising=False)
    assert list(notes(config, placed)) == []
    monkeypatch.setenv("VLLM_PORT", "29500")
    assert list(notes(config, placed)) == [line] * told
