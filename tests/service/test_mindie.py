"""MindIE's template: what would be started and written with it, and that MindIE would not refuse what is proposed.

What MindIE reads and refuses is from its documentation (MindIE-LLM, docs/en/user_guide/user_manual) and its own checks
(src/config_manager); no MindIE runs here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from service.model_servers import TWO

from mpipso.cli import main
from mpipso.config import Config, Search, templates
from mpipso.config.file import parse
from mpipso.score import Score
from mpipso.search.space import Space
from mpipso.search.strategies import create
from mpipso.service.engines.base import ENGINES

NAMES: tuple[Literal["surrogate", "pso"], ...] = ("surrogate", "pso")
ENGINE = ENGINES.create("command")
TEXT = templates.template("mindie")


@pytest.fixture
def told() -> Config:
    return parse(TEXT, "mindie.toml")


def space_of(config: Config) -> Space:
    return Space(config.parameters, config.constraints)


def written(config: Config, configuration: dict[str, Any], node: int = 0) -> Any:
    text = ENGINE.file(config, configuration, TWO, node)
    assert text is not None
    return json.loads(text)


def refusals(file: Any) -> Iterator[str]:
    """What MindIE has against its configuration file."""
    backend, server = file["BackendConfig"], file["ServerConfig"]
    schedule, deployed = backend["ScheduleConfig"], backend["ModelDeployConfig"]
    (model,) = deployed["ModelConfig"]
    for key, low, high in (
        ("maxBatchSize", 1, 819200),
        ("maxPrefillBatchSize", 1, schedule["maxBatchSize"]),
        ("maxPreemptCount", 0, schedule["maxBatchSize"]),
        ("maxPrefillTokens", deployed["maxInputTokenLen"], 4194304),
        ("maxIterTimes", 1, deployed["maxSeqLen"]),
        ("maxQueueDelayMicroseconds", 500, 1000000),
        ("prefillTimeMsPerReq", 0, 1000),
        ("decodeTimeMsPerReq", 0, 1000),
        ("maxFirstTokenWaitTime", 0, 3600000),
    ):
        if type(schedule[key]) is not int or not low <= schedule[key] <= high:
            yield key
    if type(schedule["supportSelectBatch"]) is not bool:
        yield "supportSelectBatch"
    if schedule["maxPreemptCount"] and not model["cpuMemSize"]:
        yield "cpuMemSize"
    if server["port"] == backend["multiNodesInferPort"] or not 1024 <= server["port"] <= 65535:
        yield "port"
    if [len(devices) for devices in backend["npuDeviceIds"]] != [model["worldSize"]] * backend["modelInstanceNumber"]:
        yield "npuDeviceIds"


def test_the_daemon_runs_on_every_node_with_its_own_file_and_address(told: Config) -> None:
    assert list(ENGINE.problems(told)) == []
    worker, master = ENGINE.starts(told, space_of(told).baseline or {}, TWO)
    assert (worker.node, master.node) == (0, 1)
    for start, folder in ((worker, "/work/a"), (master, "/work/b")):
        assert start.command[-1] == f"source ./mindie_env.sh; cd {folder} && mindie_llm_server; exit $?"
    assert [start.env["MIES_CONFIG_JSON_PATH"] for start in (worker, master)] == list(TWO.configs)
    assert [start.env["MIES_CONTAINER_IP"] for start in (worker, master)] == ["10.0.0.5", "10.0.0.6"]
    for start in (worker, master):
        assert start.env["RANK_TABLE_FILE"] == "/models/ranktable-10.0.0.6.json"
        assert (start.env["MASTER_IP"], start.env["MASTER_PORT"]) == ("10.0.0.6", "29500")
        assert start.env["NPU_MEMORY_FRACTION"] == "0.8"
    assert ENGINE.health_url(told, {}, TWO) == "http://10.0.0.6:8000/v2/health/ready"
    looked = ENGINE.fill(told.service.update_command, told, {}, TWO, 0)[-1]
    assert looked.strip().startswith("""grep -F '"10.0.0.5"' $RANK_TABLE_FILE || {""")


@pytest.mark.parametrize(("node", "address"), [(0, "10.0.0.5"), (1, "10.0.0.6")])
def test_each_node_has_a_file_with_its_address_and_the_values_at_their_places(
    told: Config, node: int, address: str
) -> None:
    baseline = space_of(told).baseline
    assert baseline is not None
    tuned = {"max_batch_size": 300, "max_prefill_tokens": 4096, "support_select_batch": True, "max_preempt_count": 8}
    file = written(told, baseline | tuned | {"cpu_mem_size": 5}, node)
    server, backend = file["ServerConfig"], file["BackendConfig"]
    assert (server["ipAddress"], server["managementIpAddress"]) == (address, address)
    assert (server["port"], server["managementPort"], server["metricsPort"]) == (8000, 8000, 8000)
    assert backend["multiNodesInferEnabled"] is True
    (model,) = backend["ModelDeployConfig"]["ModelConfig"]
    assert (model["modelName"], model["cpuMemSize"]) == (told.service.model, 5)
    schedule = backend["ScheduleConfig"]
    assert (schedule["maxBatchSize"], schedule["maxPrefillTokens"], schedule["maxPreemptCount"]) == (300, 4096, 8)
    assert schedule["supportSelectBatch"] is True and schedule["maxPrefillBatchSize"] == 50
    assert list(refusals(file)) == []


def test_the_defaults_are_what_the_file_has_already(told: Config) -> None:
    """So that it shows what is served by default, and every path is one that MindIE knows."""
    file = told.service.config_file
    baseline = space_of(told).baseline
    assert file is not None and baseline is not None
    plain = ENGINE.file(told.model_copy(update={"parameters": ()}), {}, TWO, 0)
    assert plain is not None and written(told, baseline) == json.loads(plain)
    assert list(refusals(json.loads(plain))) == []


def test_the_load_fits_the_lengths_in_the_file(told: Config) -> None:
    backend = written(told, space_of(told).baseline or {})["BackendConfig"]
    lengths, load = backend["ModelDeployConfig"], told.benchmark
    assert load.input_tokens <= lengths["maxInputTokenLen"]
    assert load.output_tokens <= backend["ScheduleConfig"]["maxIterTimes"]
    assert load.input_tokens + load.output_tokens <= lengths["maxSeqLen"]


def test_what_mindie_refuses_is_never_proposed(told: Config) -> None:
    space = space_of(told)
    random = np.random.default_rng(0)
    found = [space.decode(point) for point in random.random((500, space.dimensions))]
    refused = [bool(list(refusals(written(told, each)))) for each in found]
    assert any(refused)
    assert not any(bad and space.valid(each) for bad, each in zip(refused, found, strict=True))
    for name in NAMES:
        strategy = create(Search(strategy=name, seed=1), space, in_flight=4)
        for number in range(20):
            (point,) = strategy.ask(1)
            file = written(told, space.decode(point))
            assert list(refusals(file)) == []
            schedule = file["BackendConfig"]["ScheduleConfig"]
            # The better, the nearer to what would be refused.
            strategy.tell(number, Score(False, schedule["maxBatchSize"] - float(schedule["maxPrefillBatchSize"])))


def test_how_the_devices_are_shared_out_can_be_commented_in() -> None:
    before, begin, rest = TEXT.partition("# How the devices")
    block, end, after = rest.partition("# What breaks")
    told = parse(before + begin + re.sub(r"^# ?", "", block, flags=re.MULTILINE) + end + after, "mindie.toml")
    assert list(ENGINE.problems(told)) == []
    space, shared = space_of(told), set()
    for point in np.random.default_rng(0).random((50, space.dimensions)):
        (model,) = written(told, space.decode(point))["BackendConfig"]["ModelDeployConfig"]["ModelConfig"]
        shared.add((model["tp"], model["dp"]))
    assert shared == {(4, 4), (8, 2), (16, 1)}


def test_check_shows_what_is_started_on_two_nodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "my.toml"
    assert main(["init", str(path), "--engine", "mindie"]) == 0
    assert main(["check", "--config", str(path), "--nodes", "127.0.0.2,127.0.0.3"]) == 0
    shown = capsys.readouterr().out
    for address in ("127.0.0.2", "127.0.0.3"):
        assert f"MIES_CONTAINER_IP={address} RANK_TABLE_FILE=/models/ranktable-127.0.0.2.json" in shown
    assert "note:" not in shown
