"""A run with real prompts: what is sent, what is kept of them, and when it cannot go on."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
from bed.job import Job

from mpipso.record.journal import FILE, read

pytest.importorskip("xllamacpp")

CONFIG = """
output = "runs"
[service]
engine = "llamacpp"
model = "embedded"
start_timeout = 60.0
[benchmark]
client = "openai"
requests = 4
warmup = 1
output_tokens = 6
prompts = "prompts.jsonl"
ignore_eos = false
[objective]
maximize = "output_throughput"
[search]
evaluations = 1
confirm = 0
[[parameters]]
name = "n_parallel"
type = "int"
min = 1
max = 4
"""
PROMPTS = [{"prompt": f"Confidential question {number}", "output_tokens": 2 + number} for number in range(5)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my.toml").write_text(CONFIG)
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, PROMPTS)))
    return tmp_path


def run(folder: Path, *words: str, code: int = 0) -> str:
    """What such a command prints in the folder of the configuration."""
    flags = ("--progress", "plain") if words[0] == "tune" else ()
    with Job([sys.executable, "-m", "mpipso", *words, *flags], limit=120, cwd=folder) as job:
        done = job.wait()
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_run_sends_the_prompts_keeps_their_digest_and_goes_on_with_the_same(folder: Path) -> None:
    run(folder, "tune", "--config", "my.toml")
    (result,) = (folder / "runs" / "latest" / "evaluations").glob("*/benchmark.json")
    measured = json.loads(result.read_text())
    # One of the five is the warm-up's; those that are measured ask for as many tokens as their lines say.
    assert measured["completed"] == 4 and measured["total_output_tokens"] + measured["short"] <= 20
    journal = (folder / "runs" / "latest" / FILE).read_text()
    kept = "".join(path.read_text(errors="replace") for path in (folder / "runs").rglob("*") if path.is_file())
    assert hashlib.sha256((folder / "prompts.jsonl").read_bytes()).hexdigest() in journal
    assert "Confidential" not in kept
    run(folder, "tune", "--resume", "runs/latest", "--evaluations", "2")
    assert len([event for event in read(folder / "runs" / "latest" / FILE) if event["event"] == "evaluated"]) == 2
    (folder / "prompts.jsonl").write_text(json.dumps(PROMPTS[0]))
    for words in (("tune",), ("tune", "--config", "my.toml"), ("check",), ("launch",)):
        told = run(folder, *words, "--resume", "runs/latest", "--evaluations", "3", code=2)
        assert (
            "cannot be resumed, this is a different search: prompts.jsonl, benchmark.prompts, has another content"
            in told
        )
    (folder / "prompts.jsonl").unlink()
    told = run(folder, "tune", "--resume", "runs/latest", "--evaluations", "3", code=2)
    assert "benchmark.prompts: prompts.jsonl cannot be read: No such file" in told
    (folder / "else").mkdir()
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, PROMPTS)))
    told = run(folder / "else", "tune", "--resume", "../runs/latest", "--evaluations", "3", code=2)
    assert f"the run was last started in {folder}, from where its relative paths lead: go on there, or give" in told


@pytest.mark.parametrize("command", ["check", "tune", "launch"])
def test_prompts_that_are_wrong_are_told_before_anything_starts(command: str, folder: Path) -> None:
    with (folder / "prompts.jsonl").open("a") as file:
        file.write('\n{"prompt": ""}')
    told = run(folder, command, "--config", "my.toml", code=2)
    assert [line for line in told.splitlines() if line.startswith("mpipso: ")] == [
        "mpipso: my.toml: benchmark.prompts: prompts.jsonl:6: prompt should be a text, and not empty"
    ]
    assert not (folder / "runs").exists()


def test_check_shows_what_is_sent_and_notes_what_is_sent_again(folder: Path) -> None:
    told = run(folder, "check", "--config", "my.toml", "--ranks", "1")
    assert " --prompts prompts.jsonl --prompts-sha256 " in told and " --no-ignore-eos" in told
    assert "note: benchmark" not in told
    (folder / "my.toml").write_text(CONFIG.replace("requests = 4", "requests = 5"))
    told = run(folder, "check", "--config", "my.toml", "--ranks", "1")
    assert "note: benchmark.prompts: prompts.jsonl has 5 prompts for 5 requests and a warm-up of 1: " in told
