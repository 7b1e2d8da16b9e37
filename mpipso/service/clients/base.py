"""The contract of a benchmark client: the command that measures, and its result in the common vocabulary."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpipso.config import Config
from mpipso.errors import EvaluationFailed
from mpipso.evaluation import Metrics, Value
from mpipso.service.process import Completed
from mpipso.service.registry import Registry


@dataclass(frozen=True)
class Target:
    """What is measured: the service's address and model name, with a seed that is another for each evaluation."""

    base_url: str
    host: str
    port: int
    model: str
    seed: int
    close_connections: bool
    result: Path
    values: Mapping[str, Value]
    """Placeholders for the words of the user's own command."""


class Client:
    """A program that puts load on a service and reports metrics."""

    def problems(self, config: Config) -> Iterator[str]:
        """What is wrong with the configuration from this client's point of view, one line each."""
        return iter(())

    def probe(self, target: Target, timeout: float) -> None:
        """Have one real request answered.

        Raises
        ------
        EvaluationFailed
            The service does not answer as it should.
        """

    def command(self, config: Config, target: Target) -> list[str]:
        """The command line that measures; it may write ``target.result``."""
        raise NotImplementedError

    def metrics(self, config: Config, target: Target, done: Completed) -> Metrics:
        """The metrics of a command that ended with exit code 0.

        Raises
        ------
        EvaluationFailed
            There is no result, or it holds no measurement.
        """
        raise NotImplementedError


def read_json(path: Path) -> Any:
    """The content of a client's result file.

    Raises
    ------
    EvaluationFailed
        The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except OSError:
        raise EvaluationFailed(f"the benchmark client wrote no result file {path.name}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise EvaluationFailed(f"the benchmark client's result file {path.name} is not JSON: {error}") from None


CLIENTS: Registry[Client] = Registry("mpipso.service.clients")
