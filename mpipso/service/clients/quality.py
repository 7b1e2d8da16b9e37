"""The check of a service's answers, which is run after the benchmark: any program that tells its result."""

from __future__ import annotations

from collections.abc import Iterator

from mpipso.config import Config, Program, Quality
from mpipso.evaluation import Configuration, Value
from mpipso.service.clients.command import ProgramClient


class QualityClient(ProgramClient):
    """Runs ``quality.command``, if there is one. No client of a benchmark, so it is none of those in ``CLIENTS``."""

    section = "quality"
    title = "quality check"

    def settings(self, config: Config) -> Program:
        return config.quality

    def loads(self, config: Config, configuration: Configuration) -> list[dict[str, Value]]:
        return [{}]

    def problems(self, config: Config) -> Iterator[str]:
        if config.quality == Quality():
            return
        if not config.quality.command:
            yield f"quality.command: {self.required}"
        yield from self.metric_problems(config)
        yield from self.command_problems(config)
