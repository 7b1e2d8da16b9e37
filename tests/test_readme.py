"""The README: what a user copies is valid, and what can be set can be found, there or in the templates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import tomli
import tomli_w

from mpipso.config import Config, templates
from mpipso.config.file import parse
from mpipso.config.parameters import Section
from mpipso.service.clients.base import CLIENTS
from mpipso.service.engines.base import ENGINES

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?s)```toml\n(.*?)```", README)
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


def sections(kind: Any) -> Iterator[type[Section]]:
    """All tables of a file, from the type of one, or of a field."""
    if isinstance(kind, type) and issubclass(kind, Section):
        yield kind
        for field in kind.model_fields.values():
            yield from sections(field.annotation)
    for part in get_args(kind):
        yield from sections(part)


@pytest.mark.parametrize(
    "key", sorted({key for table in sections(Config) for key in table.model_fields} - {"prompts_sha256"})
)
def test_each_key_of_a_configuration_can_be_found(key: str) -> None:
    text = "\n".join([README, *map(templates.template, templates.names())])
    assert re.search(rf"\b{key} = |[`.\[]{key}[`\]]|\[\w+\.{key}[.\]]", text)
