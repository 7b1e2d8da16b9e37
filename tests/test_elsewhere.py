"""A run is resumed where it was started, from where its relative paths lead."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bed.job import Job
from record.written import Script

from mpipso.config import Quality
from mpipso.config.file import parse
from mpipso.config.templates import EMBEDDED, template
from mpipso.errors import UserError
from mpipso.launched import RESTARTS
from mpipso.record.journal import FILE
from mpipso.record.resume import started_elsewhere
from mpipso.startup import Options, leads_from, read_config

SERVICE = Path(__file__).resolve().parent / "service" / "tiny_service.py"
LIMIT = 60.0
CONFIG = """
output = "runs"
[service]
engine = "command"
command = ["./serve", "--host", "{host}", "--port", "{port}"]
[service.config_file]
template = "plain.json"
[benchmark]
client = "command"
command = ["sh", "measure.sh", "{base_url}"]
metrics = { output_throughput = "x" }
[objective]
maximize = "output_throughput"
[search]
particles = 2
confirm = 0
[parallel]
nodes_per_group = 1
[[parameters]]
name = "token_ms"
type = "float"
min = 0.0
max = 4.0
default = 2.0
flag = "--token-ms"
"""


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a configuration whose files it names by relative paths, after a run of one evaluation in it."""
    folder = tmp_path_factory.mktemp("elsewhere") / "first"
    folder.mkdir()
    (folder / "my.toml").write_text(CONFIG)
    (folder / "plain.json").write_text('{"more": 1}')
    (folder / "measure.sh").write_text("echo '{\"x\": 1}'")
    (folder / "serve").write_text(f'#!/bin/sh\nexec {sys.executable} {SERVICE} "$@"\n')
    (folder / "serve").chmod(0o755)
    assert run(folder, "tune", "--config", "my.toml", "--evaluations", "1")
    return folder


@pytest.fixture
def started(first: Path) -> Iterator[Path]:
    """That folder, which a test may change and move."""
    copy = shutil.copytree(first, first.with_name("copy"), symlinks=True)
    yield first
    shutil.rmtree(first, ignore_errors=True)
    copy.rename(first)


def run(folder: Path, *words: str, code: int = 0) -> str:
    """What such a command prints in a folder."""
    flags = ["--progress", "plain"] if words[0] != "check" else []
    with Job([sys.executable, "-m", "mpipso", *words, *flags], limit=LIMIT, cwd=folder) as job:
        done = job.wait()
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def folders(run_folder: Path) -> list[str]:
    """The folder of each session of the run, none of whose evaluations has failed."""
    events = [json.loads(line) for line in (run_folder / FILE).read_text().splitlines()]
    assert not [event for event in events if event["event"] == "retried" or "failure" in event]
    return [event["cwd"] for event in events if event["event"] in ("started", "resumed")]


def test_elsewhere_it_is_refused_and_the_folder_is_named(started: Path) -> None:
    before = (started / "runs" / "latest" / FILE).read_bytes()
    for command in ("tune", "launch", "check"):
        told = run(started.parent, command, "--resume", "first/runs/latest", "--evaluations", "2", code=2)
        assert told == (
            f"mpipso: first/runs/latest: the run was last started in {started}, from where its relative paths lead: "
            "go on there, or give --config if they lead from here\n"
        )
    assert (started / "runs" / "latest" / FILE).read_bytes() == before
    run(started, "tune", "--resume", "runs/latest", "--evaluations", "2")
    assert folders(started / "runs" / "latest") == [str(started)] * 2


def test_it_goes_on_elsewhere_with_a_configuration_that_is_given(started: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    shutil.copytree(started, second, symlinks=True)
    run(second, "tune", "--resume", "runs/latest", "--config", "my.toml", "--evaluations", "2")
    run(second, "tune", "--resume", "runs/latest", "--evaluations", "3")
    assert folders(second / "runs" / "latest") == [str(started), str(second), str(second)]


def test_ranks_leave_the_question_to_the_launcher_that_supervises_them(
    started: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(resume=started / "runs" / "latest")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="was last started in"):
        read_config(options)
    monkeypatch.setenv(RESTARTS, "3")
    assert read_config(options).service.command[0] == "./serve"


def test_what_was_moved_goes_on_where_it_is(started: Path, tmp_path: Path) -> None:
    moved = started.rename(tmp_path / "moved")
    run(moved, "tune", "--resume", "runs/latest", "--evaluations", "2")
    assert folders(moved / "runs" / "latest") == [str(started), str(moved)]


def test_where_a_run_was_left_may_be_unknown_or_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "away").mkdir()
    away, here = {"cwd": str(tmp_path / "away")}, {"cwd": str(tmp_path)}
    for events in ([{}], [{"cwd": "/no/such"}], [away, here, {}]):
        assert started_elsewhere(events) == ""
    assert started_elsewhere([here, away, {}]) == str(tmp_path / "away")


def test_prompts_lead_from_where_they_are_unless_they_are_here_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "away").mkdir()
    there = tmp_path / "away" / "some.jsonl"
    there.write_text('{"prompt": "a"}')
    digest = hashlib.sha256(there.read_bytes()).hexdigest()
    prompts = f'prompts = "some.jsonl"\nprompts_sha256 = "{digest}"'
    script = Script(config=template(EMBEDDED).replace("input_tokens = 64", prompts))
    script.events[0]["cwd"] = str(tmp_path / "away")
    options = Options(resume=script.save(tmp_path / "run"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"the run was last started in {tmp_path}/away, from where its relative paths"):
        read_config(options)
    (tmp_path / "some.jsonl").write_bytes(there.read_bytes())
    assert read_config(options).benchmark.prompts == "some.jsonl"


def test_nothing_leads_from_anywhere_without_commands_of_the_user_s(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "model").touch()
    embedded = parse(template(EMBEDDED), "", engines=["llamacpp"], clients=["openai"])
    assert not leads_from(str(tmp_path / "there"), embedded)
    own = embedded.model_copy(update={"service": embedded.service.model_copy(update={"model": "model"})})
    assert leads_from(str(tmp_path / "there"), own)
    assert not leads_from(str(tmp_path), own)
    absolute = embedded.service.model_copy(update={"model": str(tmp_path / "there" / "model")})
    assert not leads_from(str(tmp_path), embedded.model_copy(update={"service": absolute}))
    assert leads_from(str(tmp_path), embedded.model_copy(update={"quality": Quality(command=("./check.sh",))}))
