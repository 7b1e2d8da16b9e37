"""SGLang's adapter: what would be started. That SGLang's parser of flags takes it was tried with 0.5.23, by hand."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from service import model_servers
from service.model_servers import ONE, TWO

from mpipso.config import Config, templates
from mpipso.config.file import parse
from mpipso.search.space import Space
from mpipso.service.engines.base import ENGINES
from mpipso.service.node import Share
from mpipso.service.reasons import ELSEWHERE, ERROR, MEMORY, NAMED

REQUESTS = {"name": "max_running_requests", "type": "int", "min": 1, "max": 9}
CACHE = {"name": "disable_radix_cache", "type": "bool"}
ENGINE = ENGINES.create("sglang")


@pytest.fixture(autouse=True)
def sglang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return model_servers.in_path("sglang", tmp_path, monkeypatch)


def config(*parameters: dict[str, Any], flags: str = "", **service: Any) -> Config:
    file = {"config_file": {"template": "flags.yaml", "content": flags}} if flags else {}
    return model_servers.config("sglang", *(parameters or (REQUESTS,)), **({"model": "org/m"} | file | service))


def test_on_one_node_it_serves_the_model_with_the_known_flags(sglang: str) -> None:
    told = config(env={"HF_HUB_OFFLINE": "1"})
    assert list(ENGINE.problems(told)) == []
    (start,) = ENGINE.starts(told, {"max_running_requests": 5}, ONE)
    served = f"{sglang} serve --model-path org/m --host 127.0.0.1 --port 8000 --max-running-requests 5"
    assert shlex.join(start.command) == served
    assert start.env["HF_HUB_OFFLINE"] == "1" and "SGLANG_HOST_IP" not in start.env
    assert ENGINE.model_name(told) == "org/m"
    assert ENGINE.health_url(told, {}, ONE) == "http://127.0.0.1:8000/health"


@pytest.mark.parametrize(("value", "words"), [(True, ["--disable-radix-cache"]), (False, [])])
def test_a_switch_that_is_false_is_left_out(value: bool, words: list[str]) -> None:
    told = config(CACHE)
    assert list(ENGINE.problems(told)) == []
    assert list(ENGINE.starts(told, {"disable_radix_cache": value}, ONE)[0].command[8:]) == words


@pytest.mark.parametrize(("name", "flag"), [("tp", "--tp-size"), ("pp", "--pp-size"), ("ep_size", "--ep-size")])
def test_sizes_may_have_the_names_that_its_documentation_uses(name: str, flag: str) -> None:
    told = config({"name": name, "type": "choice", "choices": (1, 2)})
    assert ENGINE.starts(told, {name: 2}, ONE)[0].command[-2:] == (flag, "2")


def test_on_several_nodes_every_node_runs_it_and_clients_find_the_master_alone(sglang: str) -> None:
    told = config(flags="tp-size: 16", env={"NCCL_DEBUG": "INFO"})
    worker, master = ENGINE.starts(told, {"max_running_requests": 5}, TWO)
    meeting = "--dist-init-addr 10.0.0.6:29500 --nnodes 2"
    assert (worker.node, master.node) == (0, 1)
    assert shlex.join(worker.command) == (
        f"{sglang} serve --model-path org/m --config /work/a/flags.yaml {meeting} --node-rank 1 "
        "--host 127.0.0.1 --port 0 --max-running-requests 5"
    )
    assert shlex.join(master.command) == (
        f"{sglang} serve --model-path org/m --config /work/b/flags.yaml --host 10.0.0.6 --port 8000 {meeting} "
        "--node-rank 0 --max-running-requests 5"
    )
    assert [start.env["SGLANG_HOST_IP"] for start in (worker, master)] == ["10.0.0.5", "10.0.0.6"]
    assert worker.env["NCCL_DEBUG"] == "INFO"


def test_where_nodes_meet_an_address_of_ipv6_is_in_brackets() -> None:
    six = replace(TWO, nodes=(Share("a", "fd00::5"), Share("b", "fd00::6")))
    assert all(
        "[fd00::6]:29500" in start.command for start in ENGINE.starts(config(), {"max_running_requests": 5}, six)
    )


@pytest.mark.parametrize(
    ("parameter", "value", "flags", "own"),
    [
        ({"name": "attn_dp_size", "type": "choice", "choices": (1, 4)}, 4, "", True),
        ({"name": "attn_dp_size", "type": "choice", "choices": (1, 4)}, 1, "", False),
        ({"name": "enable_dp_attention", "type": "bool"}, True, "", True),
        (CACHE, True, "attention-data-parallel-size: 2", True),
        ({"name": "dp_size", "type": "choice", "choices": (1, 4)}, 4, "", False),
    ],
)
def test_groups_with_attention_data_parallelism_on_one_host_have_ports_of_their_own(
    parameter: dict[str, Any], value: Any, flags: str, own: bool
) -> None:
    """SGLang counts them from the service's port otherwise. Replicas of ``dp_size`` could not all meet at one port."""
    (start,) = ENGINE.starts(config(parameter, flags=flags), {parameter["name"]: value}, ONE)
    assert ("--dist-init-addr 127.0.0.1:29500" in shlex.join(start.command)) == own


def test_a_command_of_the_user_s_is_all_that_is_started() -> None:
    command = ("python3", "-m", "sglang.launch_server", "--port", "{port}")
    (start,) = ENGINE.starts(config(command=command), {"max_running_requests": 5}, TWO)
    assert shlex.join(start.command) == "python3 -m sglang.launch_server --port 8000 --max-running-requests 5"
    assert ENGINE.model_name(config(command=command)) == ""


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        (config(model=""), "service.model or service.command: is required for engine = 'sglang'"),
        (config(worker_command=("w",)), "service.worker_command: has no effect without"),
        (config({**REQUESTS, "name": "max_running_request"}), "parameter 'max_running_request': reaches nothing"),
        (config({**REQUESTS, "name": "disable_radix_cache"}), 'should be type = "bool"'),
        (config({**CACHE, "name": "tp"}), "should be a value for --tp-size"),
        (config(config_file={"template": "f.json"}), "SGLang reads its flags from YAML"),
        (config(flags="tp_size: 8"), "tp_size: SGLang takes no flag with _; write tp-size"),
        (config({**REQUESTS, "path": "page_size"}, flags="a: 1"), "page_size: SGLang takes no flag with _; write page"),
        (config(CACHE, flags="disable-radix-cache: true"), "cannot be false as long as service.config_file says disab"),
    ],
)
def test_mistakes_are_told_before_anything_starts(told: Config, problem: str) -> None:
    (line,) = ENGINE.problems(told)
    assert problem in line


def test_what_a_parameter_says_both_ways_may_be_in_the_file() -> None:
    assert list(ENGINE.problems(config(CACHE, flags="disable-radix-cache: false\ntp-size: 8"))) == []
    own = {**CACHE, "flag": "--a/--b"}
    assert list(ENGINE.problems(config(own, flags="disable-radix-cache: true"))) == []
    assert list(ENGINE.problems(config(REQUESTS, flags="max-running-requests: 8"))) == []  # the command line wins
    nested = {**REQUESTS, "path": "cuda-graph-config.decode.max_bs"}  # only what is before the first dot is a flag
    assert list(ENGINE.problems(config(nested, flags="cuda-graph-config: {decode: {max_bs: 8}}"))) == []


def test_the_model_is_known_by_the_name_under_which_it_is_served() -> None:
    assert ENGINE.model_name(config(flags="served-model-name: chat")) == "chat"


@pytest.mark.parametrize(
    ("devices", "flags", "problem"),
    [
        ((8, 8), "tp-size: 8\npp-size: 2", ""),
        ((8, 8, 8), "tp-size: 8", "tensor_parallel_size = 8: cannot be shared evenly by 3 nodes"),
        (
            (8, 8),
            "tp-size: 8\ndp-size: 2",
            "data_parallel_size = 2 is for one node; over several there is attn_dp_size",
        ),
        (
            (0, 0),
            "dp: 1",
            "tensor_parallel_size or pipeline_parallel_size is needed, as a parameter or in service.config_file",
        ),
        ((0, 0), "dp: 2", "data_parallel_size = 2 is for one node; over several there is attn_dp_size"),
        ((8,), "tp-size: 8\ndp-size: 8\nenable-dp-attention: true", ""),
        ((8,), "tp-size: 8\nattn-dp-size: 8", ""),
        ((8,), "tp: 16", "tensor_parallel_size = 16: 16 devices are needed, and it has 8"),
    ],
)
def test_sizes_that_it_refuses_are_told_before_anything_starts(
    devices: tuple[int, ...], flags: str, problem: str
) -> None:
    assert ENGINE.group_problem(config(flags=flags), devices) == problem


def test_of_sizes_that_are_tuned_the_baseline_s_or_else_the_least_have_to_be_right() -> None:
    told = config({"name": "tensor_parallel_size", "type": "choice", "choices": (2, 4)}, flags="tp-size: 8")
    assert ENGINE.group_problem(told, (2,)) == ""
    ways = {"name": "tp", "type": "int", "min": 1, "max": 8}
    assert ENGINE.group_problem(config(ways), (4, 4)) == ""  # some of its values are even
    assert "shared evenly" in ENGINE.group_problem(config({**ways, "default": 3}), (4, 4))
    either = config({"name": "enable_dp_attention", "type": "bool"}, flags="tp: 4\ndp: 4")
    assert ENGINE.group_problem(either, (4,)) == ""


def test_that_there_is_no_sglang_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    (line,) = ENGINE.problems(config())
    assert line.startswith("service.command: sglang is not in PATH")


def test_the_template_is_a_configuration_without_mistakes() -> None:
    told = parse(templates.template("sglang"), "sglang.toml")
    assert list(ENGINE.problems(told)) == []
    default = Space(told.parameters, told.constraints).baseline
    assert default is not None and default["mem_fraction_static"] == 0.88


def failing(rank: str, *said: str) -> str:
    """What a scheduler writes that fails; ``scheduler.py`` of SGLang 0.5.23."""
    traceback = 'Traceback (most recent call last):\n  File "/s/scheduler.py", line 6353, in run\n    self.run()'
    hit = f"[2026-11-28 08:00:01 {rank}] Scheduler hit an exception: {traceback}"
    return "\n".join([hit, *said, "", ""])


NO_POOL = "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. Current value: 0.1"
NO_STATE = "RuntimeError: Not enough GPU memory for hybrid (mamba/linear-attention) state cache. Computed 0"
NO_ROOM = (
    "RuntimeError: SWA pool cap (8 tokens, 1.00 GiB) leaves no room for the full KV pool within the available 1 GiB"
)
GRAPH = (
    "Exception: Capture cuda graph failed: CUDA out of memory. Tried to allocate 2 GiB\nPossible solutions:\n1. set --"
)
LOST = "RuntimeError: [gloo/transport/tcp/pair.cc:544] Connection closed by peer [10.0.0.5]:1234"
QUIT = "[2026-11-28 08:00:02] Received sigquit from a child process. It usually means the child failed."
DIED = (
    "RuntimeError: Rank 0 scheduler died during initialization (exit code: -9). If exit code is -9 (SIGKILL), a common "
    "cause is the OS OOM killer. Run `dmesg -T | grep -i oom` to check."
)
ABOVE = "RuntimeError: Initialization failed. Please see the error messages above."
UNFINISHED = (
    "ValueError: TP rank 1 could finish the model loading, but there are other ranks that didn't finish loading. It is "
    "likely due to unexpected failures (e.g., OOM) or a slow node."
)
CRASHED = (
    "[2026-11-28 08:00:02] Subprocess scheduler_0 (pid=7) crashed with exit code -6. Triggering SIGQUIT for cleanup..."
)
KILLED = "[2026-11-28 08:00:02] Scheduler or DataParallelController 7 terminated with -9"
LEFT_OUT = "[2026-11-28 08:00:01 TP1] Ignore import error when loading sglang.srt.models.bert: No module named 'bert'"
DURING = "During handling of the above exception, another exception occurred:"
NO_CACHE = "ValueError: Loaded weights leave no GPU memory for the KV cache under --mem-fraction-static=0.1"
HANGS = "[2026-11-28 08:00:02 TP0] Scheduler watchdog timeout (self.watchdog_timeout=300, self.soft=False)"
TAKEN = "ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 30000): address already in use"
REFUSED = "usage: sglang serve [-h]\nsglang serve: error: unrecognized arguments: --tp_size 8"
UNEVEN = "Traceback (most recent call last):\nAssertionError: tp_size must be divisible by number of nodes"


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (failing("TP0", NO_POOL) + failing("TP1", LOST) + QUIT, (MEMORY, NO_POOL)),
        (failing("TP0", NO_STATE) + QUIT, (MEMORY, NO_STATE)),
        (failing("TP0", NO_ROOM) + QUIT, (MEMORY, NO_ROOM)),
        (failing("TP0", GRAPH) + QUIT, (MEMORY, GRAPH.splitlines()[0])),
        (failing("TP0", "ValueError: bad") + failing("TP1", LOST) + QUIT, (NAMED, "ValueError: bad")),
        (f"ImportError: no flashinfer\n{failing('TP0', 'ValueError: bad')}{QUIT}", (NAMED, "ValueError: bad")),
        (failing("TP0", "AssertionError") + failing("TP1", LOST) + QUIT, (ERROR, "AssertionError")),
        (failing("TP1", "ValueError: bad") + f"{ABOVE}\n", (NAMED, "ValueError: bad")),
        (failing("TP1", "ValueError: bad") + f"{DIED}\n", (NAMED, "ValueError: bad")),
        (f"[2026-11-28 08:00:02] loading\n{UNFINISHED}\n{DIED}", (ELSEWHERE, DIED)),
        (f"[2026-11-28 08:00:02] serving\n{CRASHED}\n{QUIT}", (ERROR, CRASHED)),
        (f"[2026-11-28 08:00:02 TP0] Decode batch\n{HANGS}\n\n{QUIT}", (ERROR, HANGS)),
        (f"EOFError\n\n{DURING}\n\n{DIED}", (ELSEWHERE, DIED)),
        (f"{LEFT_OUT}\n{KILLED}\n[2026-11-28 08:00:03] Sleeping 5 seconds", (ERROR, KILLED)),
        (failing("TP0", NO_CACHE) + QUIT, (MEMORY, NO_CACHE)),
        (f"{TAKEN}\nReadTimeout: timed out\nThe server is fired up\n{CRASHED}\n{QUIT}", (ERROR, TAKEN)),
        (REFUSED, (ERROR, REFUSED.splitlines()[1])),
        (UNEVEN, (NAMED, UNEVEN.splitlines()[1])),
    ],
)
def test_why_it_ended_is_found_in_its_log(log: str, reason: tuple[int, str]) -> None:
    assert ENGINE.reason(log) == reason


def test_a_watchdog_that_only_warns_is_no_reason() -> None:
    warns = HANGS.replace("soft=False", "soft=True")
    assert ENGINE.reason(f"{warns}\n[2026-11-28 08:00:03] bye")[1].endswith("bye")
