"""What tests of servers of a model begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mpipso.config import Config
from mpipso.service.engines.base import Layout
from mpipso.service.node import Share

ONE = Layout((Share("a", "10.0.0.5"),), 0, 8000, 29500, ("/work",), ("/work/flags.yaml",))
TWO = Layout(
    (Share("a", "10.0.0.5"), Share("b", "10.0.0.6")),
    1,
    8000,
    29500,
    ("/work/a", "/work/b"),
    ("/work/a/flags.yaml", "/work/b/flags.yaml"),
)


def in_path(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Something that is called like that is all that is in the PATH; it is never run."""
    program = folder / name
    program.touch(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return str(program)


def config(engine: str, *parameters: dict[str, Any], **service: Any) -> Config:
    return Config.model_validate(
        {
            "service": {"engine": engine, **service},
            "benchmark": {"client": "openai"},
            "objective": {"maximize": "output_throughput"},
            "parameters": parameters,
        }
    )
