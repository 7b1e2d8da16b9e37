"""Trials as a test asks for them and measures them."""

from __future__ import annotations

from mpipso.config import Limit, ObjectiveSection, Parameter
from mpipso.evaluation import Evaluation, Failure
from mpipso.search.objective import Objective
from mpipso.search.space import Space
from mpipso.search.trials import Trials

BATCH = {"name": "batch", "type": "int", "min": 1, "max": 64, "default": 8, "flag": "--batch"}


class Record:
    """Trials that are asked for and measured by their batch."""

    def __init__(self, *, relative: bool = False, baseline_repeats: int = 1) -> None:
        limits = (Limit(metric="ttft_p99_ms", max="baseline", factor=1.5),) if relative else ()
        section = ObjectiveSection(maximize="output_throughput", slo=limits)
        space = Space((Parameter.model_validate(BATCH),), ())
        self.objective = Objective(section)
        self.trials = Trials(space, self.objective, baseline_repeats)
        self._proposals = 0

    def ask(self, batch: int, label: str = "") -> int:
        number = self.trials.next_number
        self.trials.ask(number, {"batch": batch}, label, self._proposals)
        self._proposals += 1
        return number

    def take(self, number: int, throughput: float | None, latency: float = 100.0, group: int = 0) -> None:
        metrics = {} if throughput is None else {"output_throughput": throughput, "ttft_p99_ms": latency}
        failure = Failure("it broke", "configuration") if throughput is None else None
        configuration = self.trials.of(number).configuration
        self.trials.take(Evaluation(number, 1, group, configuration, metrics=metrics, failure=failure))

    def stop(self, number: int, expected: float) -> None:
        """Its benchmark was stopped early."""
        configuration = self.trials.of(number).configuration
        self.trials.take(Evaluation(number, 1, 0, configuration, first=expected / 2, expected=expected))

    def measure(self, batch: int, throughput: float | None, latency: float = 100.0, label: str = "") -> int:
        number = self.ask(batch, label)
        self.take(number, throughput, latency)
        return number
