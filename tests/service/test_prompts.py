"""Real prompts of a file: which are sent, what is wrong with a file, and that all hosts have the same."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mpipso.cluster.plan import PlacedGroup, PlacedNode, Plan
from mpipso.config import Config
from mpipso.config.file import parse
from mpipso.errors import EvaluationFailed, UserError
from mpipso.notes import notes
from mpipso.record.resume import differences
from mpipso.service import loadgen
from mpipso.service.clients import prompts
from mpipso.service.clients.base import CLIENTS
from mpipso.service.clients.prompts import chosen, content
from mpipso.startup import Options, read_config

sys.path.insert(0, str(Path(__file__).parent))

from test_clients import done, target
from test_loadgen import BEGIN, Script, complete, said, usage

PLAN = Plan((PlacedGroup(0, (PlacedNode(0, "h0", "h0", (0,), ()),)),))
COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"
CONFIG = """
output = "{folder}/runs"
[service]
engine = "command"
command = ["sleep", "{{port}}"]
[benchmark]
client = "openai"
requests = 4
{more}
[objective]
maximize = "output_throughput"
[[parameters]]
name = "batch"
type = "int"
min = 1
max = 64
flag = "--batch"
"""


def written(path: Path, *lines: Any) -> str:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return str(path)


@pytest.fixture
def ten(tmp_path: Path) -> str:
    """A file of ten prompts."""
    return written(tmp_path / "ten.jsonl", *({"prompt": f"Question {number}?"} for number in range(10)))


def configured(folder: Path, more: str) -> Options:
    path = folder / "my.toml"
    path.write_text(CONFIG.format(folder=folder, more=more))
    return Options(config=path)


def told(folder: Path, more: str) -> str:
    """The one line that is wrong with these settings of the benchmark."""
    with pytest.raises(UserError) as refused:
        read_config(configured(folder, more))
    (line,) = refused.value.problems
    return line.removeprefix(f"{folder / 'my.toml'}: ")


def sent(script: Script, *flags: str) -> tuple[list[Any], dict[str, Any]]:
    """What the load generator sends, and its result."""

    async def run() -> dict[str, Any]:
        async with await asyncio.start_server(script, "127.0.0.1", 0) as listener:
            url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
            options = loadgen.parser().parse_args(["--base-url", url, "--output", "unused", *flags])
            result, outcomes = await loadgen.measure(options, loadgen.real_prompts(options))
            return result | {"requests": [vars(outcome) for outcome in outcomes]}

    result = asyncio.run(asyncio.wait_for(run(), 30))
    return script.bodies, result


def test_the_order_follows_from_the_common_seed_and_the_warm_up_has_its_own(ten: str) -> None:
    def asked(*flags: str) -> list[str]:
        words = ("--prompts", ten, "--requests", "6", "--warmup", "3", "--output-tokens", "2", "--concurrency", "1")
        return [body["prompt"] for body in sent(Script(complete), *words, *flags)[0]]

    first = asked("--seed", "1")
    assert len(set(first)) == 9 and first != sorted(first)
    assert asked("--seed", "2") == first
    assert asked("--common-seed", "1") != first
    # Another number of requests changes none of those that both send.
    assert asked("--requests", "4")[3:] == first[3:7]


def test_too_few_prompts_are_sent_again_but_those_of_the_warm_up_are_not_measured(ten: str, tmp_path: Path) -> None:
    measured, first = chosen(ten, "", COMPLETIONS, 0, 20, 3)
    texts, others = [str(each.content) for each in measured], {str(each.content) for each in first}
    assert set(Counter(texts).values()) <= {2, 3} and len(set(texts)) == 7
    assert len(others) == 3 and not others & set(texts)
    one = written(tmp_path / "one.jsonl", {"prompt": "x"})
    assert chosen(ten, "", COMPLETIONS, 0, 5, 3, skip=9)[0] == measured[9:14]
    for warmup in (1, 2):
        assert [len(some) for some in chosen(one, "", COMPLETIONS, 0, 3, warmup)] == [3, warmup]
    assert chosen(one, "", COMPLETIONS, 0, 3, 0)[1] == []


def test_a_prompt_is_sent_as_its_endpoint_has_it_and_messages_as_they_are(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "é"}]},
    ]
    lines = (
        {"messages": messages, "output_tokens": 2},
        {"prompt": "ä\u2028b"},
        "",
        {"prompt": "c", "output_tokens": 2},
    )
    path = written(tmp_path / "chats.jsonl", *lines)
    flags = ("--prompts", path, "--requests", "3", "--warmup", "0", "--output-tokens", "7", "--endpoint", CHATS)
    bodies, result = sent(Script(complete), *flags)
    by_length = sorted(((len(body["messages"]), body["max_tokens"], body["messages"]) for body in bodies), key=str)
    assert by_length == [
        (1, 2, [{"role": "user", "content": "c"}]),
        (1, 7, [{"role": "user", "content": "ä\u2028b"}]),
        (2, 2, messages),
    ]
    # Two tokens were all that those asked for which say so; the service had no room for more than that for the other.
    assert (result["completed"], result["failed"], result["short"]) == (2, 1, 0)
    assert "no room" in str(result["errors"])


@pytest.mark.parametrize("file", [True, False])
def test_answers_may_end_by_themselves(ten: str, file: bool) -> None:
    """Then only those that the service cuts short have failed, and tokens count as they were generated."""

    async def some(number: int, writer: asyncio.StreamWriter) -> None:
        ended = said(text="", finish_reason="stop") + usage(2)
        cut = said(text=" b", finish_reason="length") + usage(2)
        full = said(text=" b", finish_reason="length") + usage(9)
        answer = BEGIN + [ended, cut, full][number % 3]
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + answer.encode() + b"data: [DONE]\n\n")

    flags = ("--requests", "6", "--warmup", "0", "--output-tokens", "9", "--no-ignore-eos")
    bodies, result = sent(Script(some), *flags, *(("--prompts", ten) if file else ()))
    assert all("ignore_eos" not in body for body in bodies)
    assert (result["completed"], result["failed"], result["short"]) == (4, 2, 2)
    assert result["total_output_tokens"] == 22
    assert result["output_throughput"] == pytest.approx(22 / result["duration"])
    assert "no room" in str(result["errors"])


@pytest.mark.parametrize("told", [0, None])
@pytest.mark.parametrize(("empty", "why"), [(2, ""), (4, "4 of 6 answers have no tokens"), (6, "6 of 6 answers")])
def test_a_few_answers_may_end_before_they_begin(empty: int, why: str, told: int | None, tmp_path: Path) -> None:
    async def some(number: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)
        said_nothing = said(text="", finish_reason="stop") + ("" if told is None else usage(told))
        answer = said_nothing if number <= empty else BEGIN + said(text=" b", finish_reason="length") + usage(2)
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + answer.encode() + b"data: [DONE]\n\n")

    flags = ("--requests", "6", "--warmup", "0", "--output-tokens", "2")
    _, refused = sent(Script(some), *flags)
    assert (refused["completed"], refused["failed"], refused["empty"]) == (6 - empty, empty, 0)
    _, result = sent(Script(some), *flags, "--no-ignore-eos")
    counts = [result[key] for key in ("completed", "failed", "short", "empty", "counted_chunks", "total_output_tokens")]
    assert counts == [6, 0, empty, empty, 0, 2 * (6 - empty)]
    at_once = [each for each in result["requests"] if each["empty"]]
    assert all(each["e2e"] == each["ttft"] >= 0.05 and each["itls"] == [] for each in at_once)
    aim = target(tmp_path)
    aim.result.write_text(json.dumps(result))
    with pytest.raises(EvaluationFailed, match=why) if why else contextlib.nullcontext():
        CLIENTS.create("openai").metrics(read_config(configured(tmp_path, "")), aim, done())


def test_without_usage_the_length_of_a_real_prompt_is_not_made_up(ten: str) -> None:
    async def silent(_: int, writer: asyncio.StreamWriter) -> None:
        answer = BEGIN + said(text=" b", finish_reason="length") + "data: [DONE]\n\n"
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + answer.encode())

    _, result = sent(Script(silent), "--prompts", ten, "--requests", "3", "--warmup", "0", "--output-tokens", "2")
    assert (result["completed"], result["total_input_tokens"], result["total_output_tokens"]) == (3, 0, 6)


GOOD = {"prompt": "secret text"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{'prompt': 'secret text'}", "is not JSON"),
        ('{"prompt": "secret text"', "is not JSON"),
        (5000 * "[", "is not JSON"),
        (r'{"prompt": "a\ud83d"}', "is not JSON"),
        ('{"prompt": "a", "output_tokens": NaN}', "is not JSON"),
        ('["secret text"]', "is no JSON object"),
        ({"promt": "secret text"}, "unknown key 'promt'; did you mean 'prompt'?"),
        ({**GOOD, "id": 7}, "unknown key 'id'; known are: messages, output_tokens, prompt"),
        ({"output_tokens": 5}, "should have either prompt or messages"),
        ({**GOOD, "messages": [{}]}, "should have either prompt or messages"),
        ({"prompt": ""}, "prompt should be a text, and not empty"),
        ({"prompt": [1, 2]}, "prompt should be a text, and not empty"),
        ({"messages": []}, "messages should be a list of objects, and not empty"),
        ({"messages": ["secret text"]}, "messages should be a list of objects, and not empty"),
        ({"messages": [{}]}, 'messages go with endpoint = "/v1/chat/completions", not with "/v1/completions"'),
        *(
            ({**GOOD, "output_tokens": n}, "output_tokens should be a whole number from 1 to 2147483647")
            for n in (0, 1.5, "9", True, 2**31)
        ),
    ],
)
def test_a_line_that_is_wrong_is_told_with_its_number_and_without_its_text(
    line: Any, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "p.jsonl", GOOD, "", line, GOOD)
    assert told(tmp_path, f'prompts = "{path}"') == f"benchmark.prompts: {path}:3: {why}"
    flags = ("--base-url", "http://h:1", "--output", str(tmp_path / "F.json"), "--prompts", path, "--requests", "3")
    assert loadgen.main(flags) == 2
    assert capsys.readouterr().err == f"{path}:3: {why}\n"


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    empty = written(tmp_path / "empty.jsonl", "", " ")
    assert told(tmp_path, f'prompts = "{empty}"') == f"benchmark.prompts: {empty} has no prompts"
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        assert told(tmp_path, f'prompts = "{path}"') == f"benchmark.prompts: {path} is no file"
    path = tmp_path / "none"
    why = f"{path} cannot be read: No such file or directory"
    assert told(tmp_path, f'prompts = "{path}"') == f"benchmark.prompts: {why}"


def test_settings_that_contradict_prompts_are_told(ten: str, tmp_path: Path) -> None:
    why = f"benchmark: input_tokens = 64 has no effect: prompts = {ten!r} has its own"
    assert told(tmp_path, f'prompts = "{ten}"\ninput_tokens = 64') == why
    digest = content(ten, COMPLETIONS).sha256
    why = "benchmark.prompts_sha256: is found out from benchmark.prompts: leave it out"
    assert told(tmp_path, f'prompts = "{ten}"\nprompts_sha256 = "{digest}"') == why
    client = CLIENTS.create("command")
    data = parse(CONFIG.format(folder=tmp_path, more=""), "x").model_dump(exclude_none=True)
    data["benchmark"] = {"client": "command", "command": ("x",), "metrics": {"output_throughput": "x"}}
    data["benchmark"] |= {"prompts": "none", "ignore_eos": False}
    lines = [line.partition("; ")[0] for line in client.problems(Config.model_validate(data))]
    assert lines == [f"benchmark.{key}: belongs to client = 'openai'" for key in ("prompts", "ignore_eos")]


def test_random_prompts_may_have_answers_that_end_by_themselves(tmp_path: Path) -> None:
    config = read_config(configured(tmp_path, "ignore_eos = false\ninput_tokens = 9"))
    words = CLIENTS.create("openai").command(config, target(tmp_path))
    assert "--no-ignore-eos" in words and "--input-tokens" in words and "--prompts" not in words


def test_a_host_with_another_file_is_told(ten: str, tmp_path: Path) -> None:
    config = read_config(configured(tmp_path, f'prompts = "{ten}"'))
    client = CLIENTS.create("openai")
    assert list(client.problems(config)) == []
    written(Path(ten), {"prompt": "other"})
    assert list(client.problems(config)) == [f"benchmark.prompts: {ten} is another file than on the root's host"]
    Path(ten).unlink()
    assert list(client.problems(config)) == [f"benchmark.prompts: {ten} cannot be read: No such file or directory"]


def test_a_file_that_changes_during_the_run_fails_its_evaluations(
    ten: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = read_config(configured(tmp_path, f'prompts = "{ten}"'))
    written(Path(ten), {"prompt": "other"})
    words = CLIENTS.create("openai").command(config, replace(target(tmp_path), values={"batch": 1}))
    assert loadgen.main(words[3:]) == 2
    assert capsys.readouterr().err == f"{ten} has changed since the run began\n"


def test_a_process_reads_the_file_once(ten: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    lines = prompts._lines
    monkeypatch.setattr(prompts, "_lines", lambda *args: read.append(args) or lines(*args))
    config = read_config(configured(tmp_path, f'prompts = "{ten}"'))
    assert list(CLIENTS.create("openai").problems(config)) == []
    assert len(read) == 1


def test_other_prompts_are_another_workload_wherever_they_are(ten: str, tmp_path: Path) -> None:
    before = read_config(configured(tmp_path, f'prompts = "{ten}"'))
    moved = Path(ten).rename(tmp_path / "moved.jsonl")
    assert differences(before, read_config(configured(tmp_path, f'prompts = "{moved}"'))) == []
    written(moved, GOOD)
    (line,) = differences(before, read_config(configured(tmp_path, f'prompts = "{moved}"')))
    assert line == f"{moved}, benchmark.prompts, has another content"
    (line,) = differences(before, read_config(configured(tmp_path, "")))
    assert line.endswith("and is now ''")


@pytest.mark.parametrize(("requests", "repeated"), [("8", False), ("9", True), ('"{batch}"', True)])
def test_prompts_that_are_sent_again_are_noted(requests: str, repeated: bool, ten: str, tmp_path: Path) -> None:
    options = configured(tmp_path, f'prompts = "{ten}"')
    assert options.config is not None
    options.config.write_text(options.config.read_text().replace("requests = 4", f"requests = {requests}"))
    most = "64" if "batch" in requests else requests
    note = f"benchmark.prompts: {ten} has 10 prompts for {most} requests and a warm-up of 2: some are sent again, which"
    lines = [line for line in notes(read_config(options), PLAN) if line.startswith("benchmark.prompts")]
    assert [line.startswith(note) for line in lines] == ([True] if repeated else [])
