"""llama.cpp's HTTP server: ``llama-server``, or the same server as the ``xllamacpp`` wheel has it.

``model = "embedded"`` stands for a small random-weight model that mpipso generates, so that everything can be tried
without a download. Flags are those of ``llama-server --help``.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from mpipso.config import Config
from mpipso.service.engines.base import ENGINES, Engine
from mpipso.service.reasons import ERROR, Reason, remoteness

EMBEDDED = "embedded"
_ERROR = re.compile(r"[\d.]+ E (.*)")
"""A line of its log that tells of an error: behind the time, its level."""
_ADDRESS = ("--host", "{host}", "--port", "{port}", "--model")


@ENGINES.register("llamacpp")
class LlamaCpp(Engine):
    """One process on the master node; ready when ``/health`` answers 200."""

    health_path = "/health"
    started_by = "service.model or service.command"
    exports = False
    workers_are_alike = False
    close_connections = True
    known: ClassVar = {
        "n_parallel": {"flag": "--parallel"},
        "n_batch": {"flag": "--batch-size"},
        "n_ubatch": {"flag": "--ubatch-size"},
        "n_ctx": {"flag": "--ctx-size"},
        "n_threads": {"flag": "--threads"},
        "n_threads_batch": {"flag": "--threads-batch"},
        "n_gpu_layers": {"flag": "--n-gpu-layers"},
        "flash_attn": {"flag": "--flash-attn"},
        "cache_type_k": {"flag": "--cache-type-k"},
        "cache_type_v": {"flag": "--cache-type-v"},
        "kv_unified": {"flag": "--kv-unified/--no-kv-unified"},
        "cont_batching": {"flag": "--cont-batching/--no-cont-batching"},
        "poll": {"flag": "--poll"},
        "OMP_WAIT_POLICY": {"env": "OMP_WAIT_POLICY"},
    }

    def model_name(self, config: Config) -> str:
        return "" if config.service.command else Path(config.service.model).stem

    def default_command(self, config: Config) -> tuple[str, ...]:
        model = config.service.model
        if model == EMBEDDED:
            from mpipso.service.embedded.model import model_path

            server: tuple[str, ...] = (sys.executable, "-m", "mpipso.service.embedded.server")
            model = str(model_path())
        else:
            server = (shutil.which("llama-server") or "llama-server",)
        # The name by which the service is recognised before it is measured.
        return (*server, *_ADDRESS, model, "--alias", self.model_name(config)) if model else ()

    def reason(self, log: str, first: bool = False) -> Reason:
        # The first error is the cause; those that follow tell what it led to. Its level alone tells that it is one.
        errors = [said[1].strip() for said in map(_ERROR.match, log.splitlines()) if said]
        return Reason(min(ERROR, remoteness(errors[0])), errors[0]) if errors else super().reason(log, first)

    def problems(self, config: Config) -> Iterator[str]:
        model = config.service.model
        if model == EMBEDDED and importlib.util.find_spec("xllamacpp") is None:
            yield "service.model: 'embedded' needs the extra: pip install 'mpipso[embedded]'"
            return
        if model and model != EMBEDDED and not config.service.command and shutil.which("llama-server") is None:
            yield "service.command: llama-server is not in PATH; install llama.cpp or give its command"
        if model and model != EMBEDDED and not Path(model).is_file():
            yield f"service.model: {model}: no such file"
        yield from self.kind_problems(config)
        yield from super().problems(config)
