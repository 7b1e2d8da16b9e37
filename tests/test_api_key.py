"""A service that wants an API key is measured with it, and the key is written nowhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from bed.job import Job

SERVICE = Path(__file__).resolve().parent / "service" / "tiny_service.py"
KEY = "sk-8f3a61c0d2"
CONFIG = f"""
output = "runs"
[service]
engine = "command"
command = ["{sys.executable}", "{SERVICE}", "--port", "{{port}}", "--key-env", "WANTED"]
[benchmark]
client = "openai"
requests = 4
output_tokens = 2
api_key_env = "LLM_LOGIN"
[objective]
maximize = "output_throughput"
[search]
evaluations = 1
confirm = 0
fruitless = 1
retries = 0
[[parameters]]
name = "token_ms"
type = "float"
min = 0.0
max = 4.0
default = 2.0
flag = "--token-ms"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "my.toml"
    path.write_text(CONFIG)
    return path


def run(config: Path, *words: str, code: int, **environment: str) -> str:
    """What such a command prints in the folder of the configuration."""
    with Job([sys.executable, "-m", "mpipso", *words], limit=60, cwd=config.parent, env=environment) as job:
        done = job.wait()
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def written(folder: Path) -> str:
    """All that is in the files of a run."""
    return "\n".join(path.read_text(errors="replace") for path in sorted(folder.rglob("*")) if path.is_file())


def test_a_run_sends_the_key_and_keeps_its_variable_alone(config: Path) -> None:
    """And goes on with that, as its configuration is kept."""
    given = {"LLM_LOGIN": KEY, "WANTED": KEY}
    tune = ("tune", "--progress", "plain")
    told = run(config, *tune, "--config", "my.toml", code=0, **given)
    told += run(config, *tune, "--resume", "runs/latest", "--evaluations", "2", code=0, **given)
    kept = written(config.parent / "runs")
    assert "--api-key-env LLM_LOGIN" in kept and 'api_key_env = "LLM_LOGIN"' in json.dumps(kept).replace("\\", "")
    assert KEY not in kept + told


def test_a_key_that_stands_in_the_configuration_is_not_kept_either(config: Path) -> None:
    config.write_text(CONFIG.replace("[benchmark]", f'env = {{ WANTED = "{KEY}" }}\n[benchmark]'))
    told = run(config, "tune", "--progress", "plain", "--config", "my.toml", code=0, LLM_LOGIN=KEY)
    kept = written(config.parent / "runs")
    assert "WANTED" in kept and KEY not in kept + told


def test_a_wrong_key_is_told_without_it(config: Path) -> None:
    """Also where the service itself writes it into its log."""
    told = run(config, "tune", "--progress", "plain", "--config", "my.toml", code=3, LLM_LOGIN=KEY, WANTED="another")
    assert "HTTP 401" in told and "invalid key: Bearer ***" in told and "benchmark.api_key_env, LLM_LOGIN" in told
    kept = written(config.parent / "runs")
    assert "\ninvalid key: Bearer ***\n" in kept
    assert KEY not in told + kept


@pytest.mark.parametrize(
    ("command", "environment", "why"),
    [
        ("tune", {}, "the environment variable LLM_LOGIN is not set; it is read on every host with a rank"),
        ("launch", {"LLM_LOGIN": ""}, "the environment variable LLM_LOGIN is empty; it is read on every host with"),
        ("check", {"LLM_LOGIN": f"{KEY}\n"}, "the value of LLM_LOGIN has a line break, a space at an end"),
        ("check", {"LLM_LOGIN": f"{KEY} "}, "the value of LLM_LOGIN has a line break, a space at an end"),
        ("check", {"LLM_LOGIN": f"{KEY}é"}, "the value of LLM_LOGIN has a line break, a space at an end"),
    ],
)
def test_a_key_that_cannot_be_sent_is_told_before_anything_starts(
    command: str, environment: dict[str, str], why: str, config: Path
) -> None:
    told = run(config, command, "--config", "my.toml", code=2, **environment)
    (line,) = (line for line in told.splitlines() if line.startswith("mpipso: "))
    assert f"benchmark.api_key_env: {why}" in line
    assert KEY not in told and not (config.parent / "runs").exists()


@pytest.mark.parametrize(("name", "why"), [("MPIPSO_KEY", "a name of launchers' own"), (KEY, "should be the name of")])
def test_a_name_that_holds_no_key_is_told(name: str, why: str, config: Path) -> None:
    config.write_text(CONFIG.replace("LLM_LOGIN", name))
    told = run(config, "check", "--config", "my.toml", code=2, MPIPSO_KEY="x")
    assert why in told and KEY not in told


def test_check_shows_the_name(config: Path) -> None:
    told = run(config, "check", "--config", "my.toml", "--ranks", "1", code=0, LLM_LOGIN=KEY)
    assert "--api-key-env LLM_LOGIN" in told and KEY not in told


def test_a_key_that_is_a_word_leaves_the_record_as_it_is(config: Path) -> None:
    """As it is given to a server that asks for none."""
    told = run(
        config, "tune", "--progress", "plain", "--config", "my.toml", code=0, LLM_LOGIN="openai", WANTED="openai"
    )
    assert "***" not in told
    (run_folder,) = (path for path in (config.parent / "runs").iterdir() if not path.is_symlink())
    more = ("--resume", str(run_folder), "--evaluations", "2")
    run(config, "tune", "--progress", "plain", *more, code=0, LLM_LOGIN="openai", WANTED="openai")
