"""The examples of the README: what a user copies is valid."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tomli
import tomli_w

from mpipso.config.file import parse
from mpipso.service.clients.base import CLIENTS
from mpipso.service.engines.base import ENGINES

BLOCKS = re.findall(r"(?s)```toml\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8"))
REST: dict[str, Any] = {
    "service": {"engine": "vllm", "model": "m"},
    "benchmark": {"client": "openai"},
    "objective": {"maximize": "output_throughput"},
    "parameters": [
        {"name": name, "type": "int", "min": 1, "max": 8} for name in ("tensor_parallel_size", "pipeline_parallel_size")
    ],
}
"""What the examples that show a part of a file leave out."""


def test_it_shows_configurations() -> None:
    assert len(BLOCKS) >= 9


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: str(block).split("\n", 1)[0])
def test_each_configuration_that_it_shows_is_valid(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vllm").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    shown = tomli.loads(block)
    whole = {**REST, **shown, "objective": {**REST["objective"], **shown.get("objective", {})}}
    told = parse(tomli_w.dumps(whole), "README.md", engines=ENGINES.names(), clients=CLIENTS.names())
    assert list(ENGINES.create(told.service.engine).problems(told)) == []
    assert list(CLIENTS.create(told.benchmark.client).problems(told)) == []
