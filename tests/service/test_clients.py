"""Benchmark clients: what counts as a measurement, and what as a service that can be measured."""

from __future__ import annotations

import asyncio
import json
import math
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mpipso.config import Config, ObjectiveSection
from mpipso.configfile import parse
from mpipso.errors import EvaluationFailed
from mpipso.evaluation import METRICS
from mpipso.service import ports, process
from mpipso.service.clients.base import CLIENTS, NotReady, Target, require_measured
from mpipso.service.process import Completed

sys.path.insert(0, str(Path(__file__).parent))

from tiny_service import Handler, Server

OUTPUT = {"output_throughput": 100.0, "p99": {"ttft": [{"ms": 7}, {"ms": 9}]}, "completed": 3, "text": "x", "yes": True}
METRIC_MAP = {"output_throughput": "output_throughput", "ttft_p99_ms": "p99.ttft.1.ms", "completed": "completed"}


def config(**benchmark: Any) -> Config:
    return Config.model_validate(
        {
            "service": {"engine": "command"},
            "benchmark": {"client": "command", "command": ("bench",), "metrics": METRIC_MAP, **benchmark},
            "objective": {"maximize": "output_throughput"},
            "parameters": ({"name": "n", "type": "int", "min": 1, "max": 9, "flag": "-n"},),
        }
    )


def target(folder: Path, port: int = 1, model: str = "", close: bool = False) -> Target:
    return Target(
        base_url=f"http://127.0.0.1:{port}",
        host="127.0.0.1",
        port=port,
        model=model,
        seed=42,
        close_connections=close,
        result=folder / "benchmark.json",
        values={"n": 5},
    )


def done(stdout: str = "", stderr: str = "") -> Completed:
    return Completed(0, stdout, stderr, False, False)


def measured(folder: Path, output: str, **benchmark: Any) -> dict[str, float]:
    return dict(CLIENTS.create("command").metrics(config(**benchmark), target(folder), done(output)))


def test_every_client_is_found_by_name() -> None:
    assert {"command", "openai"} <= set(CLIENTS.names())


# --- command ---


@pytest.mark.parametrize(
    "output",
    [
        json.dumps(OUTPUT),
        json.dumps(OUTPUT, indent=2),
        f"starting\n{{not json}}\n{json.dumps(OUTPUT)}\ndone: see log\n",
        f"starting\n{json.dumps(OUTPUT, indent=4)}\ndone",
        f'{{"output_throughput": 1}}\n{json.dumps(OUTPUT)}\n',
    ],
    ids=["one line", "indented", "among logs", "indented among logs", "JSON lines"],
)
@pytest.mark.parametrize("where", ["stdout", "result", "result_file"])
def test_a_result_is_found_wherever_it_is(output: str, where: str, tmp_path: Path) -> None:
    printed, more = "nothing here", {}
    if where == "stdout":
        printed = output
    elif where == "result":
        (tmp_path / "benchmark.json").write_text(output)
    else:
        (tmp_path / "out-5-42.json").write_text(output)
        more = {"result_file": f"{tmp_path}/out-{{n}}-{{seed}}.json"}
    assert measured(tmp_path, printed, **more) == {"output_throughput": 100.0, "ttft_p99_ms": 9.0, "completed": 3.0}


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("missing", "has no 'missing'$"),
        ("throughput", "has no 'throughput'; did you mean 'output_throughput'\\?$"),
        ("p99.ttft.0.msec", r"has no 'p99\.ttft\.0\.msec'; did you mean 'p99\.ttft\.0\.ms'\?$"),
        ("p99.ttft.2.ms", "has no 'p99.ttft.2.ms'"),
        ("p99.ttft.x", "has no 'p99.ttft.x'"),
        ("completed.x", "has no 'completed.x'"),
        ("text", "'text' is 'x', not a finite number"),
        ("yes", "'yes' is True, not a finite number"),
        ("p99", "not a finite number"),
    ],
)
def test_a_metric_that_is_not_there_fails_the_evaluation(path: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(EvaluationFailed, match=told) as error:
        measured(tmp_path, json.dumps(OUTPUT), metrics={"output_throughput": path})
    assert error.value.kind == "configuration"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_no_number_fails_but_elsewhere_it_does_not_matter(value: float, tmp_path: Path) -> None:
    output = json.dumps({"x": value, "output_throughput": 2.5})
    assert "Infinity" in output or "NaN" in output
    only = {"metrics": {"output_throughput": "output_throughput"}}
    assert measured(tmp_path, output, **only) == {"output_throughput": 2.5}
    with pytest.raises(EvaluationFailed, match="not a finite number"):
        measured(tmp_path, output, metrics={"output_throughput": "x"})


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "fast", "missing"])
def test_a_metric_that_is_not_needed_may_be_missing(value: object, tmp_path: Path) -> None:
    result = {"output_throughput": 2.5, "completed": 3, "failed": 0, "other": value, "more": 1}
    if value == "missing":
        del result["other"]
    metrics = {"output_throughput": "output_throughput", "completed": "completed", "failed": "failed"}
    optional = {**metrics, "ttft_p99_ms": "other", "own": "more"}
    found = measured(tmp_path, json.dumps(result), metrics=optional)
    assert found == {"output_throughput": 2.5, "completed": 3, "failed": 0, "own": 1}
    for name in metrics:
        with pytest.raises(EvaluationFailed, match="'other'"):
            measured(tmp_path, json.dumps(result), metrics={**optional, name: "other"})
    limited = ObjectiveSection.model_validate(
        {"maximize": "output_throughput", "slo": ({"metric": "ttft_p99_ms", "max": 5.0},)}
    )
    told = config(metrics=optional).model_copy(update={"objective": limited})
    with pytest.raises(EvaluationFailed, match="'other'"):
        CLIENTS.create("command").metrics(told, target(tmp_path), done(json.dumps(result)))


@pytest.mark.parametrize("output", ["", "no JSON", "[", '"text"', "3"])
def test_no_result_fails_the_evaluation(output: str, tmp_path: Path) -> None:
    with pytest.raises(EvaluationFailed, match="printed no JSON") as error:
        measured(tmp_path, output)
    assert error.value.detail == output
    with pytest.raises(EvaluationFailed, match=r"wrote no result file gone\.json"):
        measured(tmp_path, json.dumps(OUTPUT), result_file=f"{tmp_path}/gone.json")
    (tmp_path / "bad.json").write_text(output)
    with pytest.raises(EvaluationFailed, match=r"result file bad\.json holds no JSON"):
        measured(tmp_path, json.dumps(OUTPUT), result_file=f"{tmp_path}/bad.json")


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ({"completed": 0, "output_throughput": 0.0, "ttft_p99_ms": 0.0}, "completed no request"),
        ({"completed": 3, "failed": 2}, "^2 of 5 requests failed$"),
        ({"failed": 2}, "^2 requests failed$"),
        ({"ttft_p99_ms": 0.0, "output_throughput": 5}, "measured nothing: its ttft_p99_ms is 0"),
        ({"output_throughput": 0}, "measured nothing: its output_throughput is 0"),
    ],
)
def test_zeros_are_not_measurements(result: dict[str, float], told: str, tmp_path: Path) -> None:
    """``vllm bench serve`` ends with exit code 0 and latencies of 0 ms when no request was served."""
    with pytest.raises(EvaluationFailed, match=told):
        measured(tmp_path, json.dumps(result), metrics={name: name for name in result})


def test_requests_that_were_not_completed_have_failed_where_the_result_does_not_tell(tmp_path: Path) -> None:
    """The result of SGLang's benchmark has no key for them."""
    output = json.dumps({"completed": 9, "output_throughput": 90.0})
    counted = {"metrics": {"completed": "completed", "output_throughput": "output_throughput"}, "requests": 24}
    with pytest.raises(EvaluationFailed, match=r"^15 of 24 requests failed$"):
        measured(tmp_path, output, **counted)
    assert measured(tmp_path, output, **counted, min_success_rate=0.3)["failed"] == 15
    with pytest.raises(EvaluationFailed, match=r"completed 9 requests, more than benchmark\.requests = 8 says"):
        measured(tmp_path, output, **{**counted, "requests": 8})


def test_what_is_counted_may_be_limited(tmp_path: Path) -> None:
    limit = {"metric": "failed", "max": 0}
    objective = ObjectiveSection.model_validate({"maximize": "output_throughput", "slo": (limit,)})
    client = CLIENTS.create("command")
    (line,) = client.problems(config().model_copy(update={"objective": objective}))
    assert line.startswith("benchmark.metrics: failed is needed by the objective")
    assert list(client.problems(config(requests=9).model_copy(update={"objective": objective}))) == []


def test_some_zeros_are() -> None:
    result = {"completed": 4, "failed": 0, "tpot_mean_ms": 0.0, "itl_p50_ms": 0.0, "own": 0}
    assert measured(Path("/nowhere"), json.dumps(result), metrics={name: name for name in result}) == result


def test_but_not_of_what_is_optimised(tmp_path: Path) -> None:
    """What ``vllm bench serve`` reports when every request failed, where only this key is read."""
    told = config(metrics={"tpot_mean_ms": "tpot"}).model_copy(
        update={"objective": ObjectiveSection(minimize="tpot_mean_ms")}
    )
    with pytest.raises(EvaluationFailed, match="measured nothing: its tpot_mean_ms is 0"):
        CLIENTS.create("command").metrics(told, target(tmp_path), done(json.dumps({"tpot": 0.0})))
    several_at_once = {"itl_p50_ms": 0.0, "itl_mean_ms": 31.0}
    assert require_measured(several_at_once, wanted=("itl_p50_ms",)) == several_at_once


def test_the_command_is_filled_with_the_target(tmp_path: Path) -> None:
    words = ("bench", "{base_url}", "{host}", "{port}", "{model}", "{seed}", "{result}", "{n}")
    line = CLIENTS.create("command").command(config(command=words), target(tmp_path, 99, "m"))
    assert line == ["bench", "http://127.0.0.1:99", "127.0.0.1", "99", "m", "42", f"{tmp_path}/benchmark.json", "5"]


def test_the_model_is_the_service_s_where_its_engine_knows_no_name_for_it(tmp_path: Path) -> None:
    told = config(command=("bench", "{model}"))
    named = told.model_copy(update={"service": told.service.model_copy(update={"model": "/models/m"})})
    client = CLIENTS.create("command")
    assert client.command(named, target(tmp_path)) == ["bench", "/models/m"]
    assert client.command(named, target(tmp_path, model="alias")) == ["bench", "alias"]


def test_mistakes_are_told() -> None:
    def problems(**benchmark: Any) -> list[str]:
        told = config(**benchmark)
        return list(CLIENTS.create(told.benchmark.client).problems(told))

    assert problems() == []
    missing = problems(command=(), metrics={})
    assert [line.split(":")[0] for line in missing] == ["benchmark.command", "benchmark.metrics"]
    assert problems(command=("x", "{prot}"))[0].startswith("benchmark.command: unknown placeholder {prot}; known are:")
    (line,) = problems(result_file="out-{port}.json")
    assert line.startswith("benchmark.result_file: out-{port}.json can be the same for two groups")
    assert problems(result_file="out-{seed}.json") == problems(result_file="{result}") == []
    (line,) = problems(min_success_rate=0.9)
    assert line.startswith("benchmark.min_success_rate: has no effect unless")
    assert problems(min_success_rate=0.9, metrics={**METRIC_MAP, "failed": "failed"}) == []
    (line,) = problems(min_success_rate=0.9, metrics={"output_throughput": "x"})
    assert line.startswith("benchmark.min_success_rate: has no effect unless")
    assert problems(min_success_rate=0.9, requests=9) == problems(requests=32) == []
    (line,) = problems(requests=32, metrics={**METRIC_MAP, "failed": "failed"})
    assert line.startswith("benchmark.requests = 32: ") and line.endswith("benchmark.metrics names the key of failed")
    (line,) = problems(requests=32, metrics={"output_throughput": "x"})
    assert line.startswith("benchmark.requests = 32: ") and line.endswith("does not name the key of completed")
    assert [line.split(":")[0] for line in problems(keep_alive=False)] == ["benchmark.keep_alive"]
    assert problems(client="openai", metrics={}) == [
        "benchmark.command: belongs to client = 'command', not to 'openai'"
    ]


def test_the_benchmark_that_the_readme_shows_is_a_valid_one(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (block,) = [text for text in re.findall(r"(?s)```toml\n(.*?)```", readme) if 'client = "command"\n' in text]
    rest = """
        [service]
        engine = "command"
        command = ["vllm", "serve", "{model}", "--port", "{port}"]
        model = "/models/m"
        [objective]
        maximize = "output_throughput"
        [[parameters]]
        name = "max_num_seqs"
        type = "int"
        min = 1
        max = 256
        flag = "--max-num-seqs"
    """
    told = parse(block + rest, "README.md", engines=("command",), clients=CLIENTS.names())
    client = CLIENTS.create("command")
    assert list(client.problems(told)) == []
    assert set(told.benchmark.metrics) <= set(METRICS)
    words = client.command(told, target(tmp_path))
    assert words[words.index("--result-filename") + 1] == f"{tmp_path}/benchmark.json"
    assert words[words.index("--model") + 1] == "/models/m"


# --- openai ---


class Service:
    """The tiny service in a thread; ``replace`` may change how it answers."""

    def __init__(self, **options: Any) -> None:
        self.server = Server("127.0.0.1", 0, **options)
        self.port = int(self.server.server_address[1])
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def service() -> Iterator[Callable[..., Service]]:
    made: list[Service] = []

    def make(**options: Any) -> Service:
        made.append(Service(**options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def probe(aim: Target, timeout: float = 10.0) -> None:
    asyncio.run(CLIENTS.create("openai").probe(aim, timeout))


@pytest.mark.parametrize("close", [False, True])
def test_a_service_that_gives_a_token_is_ready(service: Callable[..., Service], close: bool, tmp_path: Path) -> None:
    port = service(model="tiny").port
    probe(target(tmp_path, port, "tiny", close))
    probe(target(tmp_path, port, "", close))


def test_another_model_is_refused_for_good(service: Callable[..., Service], tmp_path: Path) -> None:
    with pytest.raises(EvaluationFailed, match="the service serves other, not tiny"):
        probe(target(tmp_path, service(model="other").port, "tiny"))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"choices": [{"text": ""}]}, "answered without a token"),
        ({"choices": []}, "answered without a token"),
        ([], "answered without a token"),
        ({"choices": [{"text": ""}], "usage": {"completion_tokens": 0}}, "answered without a token"),
        ({"choices": [{"text": ""}], "usage": {"completion_tokens": 1}}, None),
        ({"choices": [{"text": " a"}]}, None),
    ],
)
def test_an_answer_must_hold_a_token(
    service: Callable[..., Service], answer: Any, told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "do_POST", lambda self: self.answer(200, answer))
    aim = target(tmp_path, service().port)
    if told is None:
        probe(aim)
    else:
        with pytest.raises(NotReady, match=told):
            probe(aim)


@pytest.mark.parametrize("listed", [[], {"data": None}, {"data": [{}]}, {"data": [3]}, {}, "text"])
def test_a_list_of_models_that_is_none_does_not_matter(
    service: Callable[..., Service], listed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.answer(200, listed))
    probe(target(tmp_path, service().port, "tiny"))


def test_a_service_that_is_not_there_yet_is_not_ready(service: Callable[..., Service], tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="the first request was not answered: Cannot connect"):
        probe(target(tmp_path, ports.free_port("")))
    with pytest.raises(NotReady, match=r"answered with HTTP 503: .*cannot serve"):
        probe(target(tmp_path, service(status=503).port))
    with pytest.raises(NotReady, match="not answered within 0 s"):
        probe(target(tmp_path, service(token_ms=1000).port), 0.2)


def load(aim: Target, **benchmark: Any) -> dict[str, float]:
    """Run the real load generator as an evaluation does."""
    quick = {"client": "openai", "requests": 4, "input_tokens": 3, "output_tokens": 2, "warmup": 0}
    told = config(**{"command": (), "metrics": {}, **quick, **benchmark})
    client = CLIENTS.create("openai")
    ended = process.run(client.command(told, aim), timeout=60)
    assert ended.exit_code == 0, ended.stderr
    return dict(client.metrics(told, aim, ended))


def test_a_service_is_measured_in_the_common_vocabulary(service: Callable[..., Service], tmp_path: Path) -> None:
    metrics = load(target(tmp_path, service(token_ms=5).port, "tiny"), concurrency=2)
    assert set(metrics) == set(METRICS)
    assert (metrics["completed"], metrics["failed"]) == (4, 0)
    assert metrics["ttft_p50_ms"] >= 5 and metrics["output_throughput"] > 0


def test_failed_requests_fail_the_evaluation_with_the_most_frequent_reason(
    service: Callable[..., Service], tmp_path: Path
) -> None:
    served = service()
    number, lock = [0], threading.Lock()

    def fail_the_second_and_third() -> None:
        with lock:
            number[0] += 1
            served.server.status = 500 if number[0] in (2, 3) else 200

    served.server.before = fail_the_second_and_third
    with pytest.raises(EvaluationFailed, match=r"^2 of 4 requests failed: HTTP 500: .*cannot serve.* \(2\)$") as error:
        load(target(tmp_path, served.port), concurrency=1)
    assert error.value.kind == "configuration"
    assert "cannot serve" in error.value.detail


def test_a_service_that_serves_nothing_fails_the_evaluation(service: Callable[..., Service], tmp_path: Path) -> None:
    with pytest.raises(EvaluationFailed, match=r"^the benchmark completed no request: HTTP 500: .* \(4\)$"):
        load(target(tmp_path, service(status=500).port))


@pytest.mark.parametrize(
    ("benchmark", "words"),
    [
        ({"concurrency": 3}, ["--concurrency", "3"]),
        ({"request_rate": 2.5}, ["--request-rate", "2.5"]),
        ({"keep_alive": False}, ["--close"]),
        ({"save_requests": True}, ["--save-requests"]),
        ({"warmup": 7}, ["--warmup", "7"]),
    ],
)
def test_the_configuration_reaches_the_load_generator(
    benchmark: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    client = CLIENTS.create("openai")
    plain = client.command(config(client="openai"), target(tmp_path))
    line = client.command(config(client="openai", **benchmark), target(tmp_path))
    assert " ".join(words) in " ".join(line) and " ".join(words) not in " ".join(plain)
    assert "--seed 42" in " ".join(line) and f"--output {tmp_path}/benchmark.json" in " ".join(line)
    assert "--close" in client.command(config(client="openai"), target(tmp_path, close=True))
    assert "--model m" in " ".join(client.command(config(client="openai"), target(tmp_path, model="m")))
