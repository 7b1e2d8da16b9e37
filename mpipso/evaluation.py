"""The data that travels between the rooms: an assignment goes out to a group, an evaluation comes back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field
from statistics import fmean

from mpipso.errors import FailureKind

Value = bool | int | float | str
Configuration = Mapping[str, Value]
Metrics = Mapping[str, float]

BASELINE, REPEAT, CONFIRM, PROBE = "baseline", "repeat", "confirm", "probe"
"""Labels: why a configuration is measured when not as a plain particle."""
LONGEST_DURATION = 30 * 86400.0
"""Seconds beyond which a duration says that a clock was set, not that something took so long."""
CLOCK_JUMP = 60.0
"""Seconds beyond which two clocks that disagree say that one of them was set."""
LARGEST = 1e100
"""What no measurement exceeds: programs print the largest float, 1.8e308, for a number that they do not have, and sums
and squares of such would be no numbers any more."""
GOODPUT = "request_goodput"
"""The metric of the requests that kept to limits of their own."""
THROUGHPUTS = ("request_throughput", "output_throughput", "total_throughput")
LATENCIES = ("ttft", "tpot", "itl", "e2e")
STATISTICS = ("mean", "p50", "p90", "p95", "p99")

METRICS = (
    "completed",
    "failed",
    "duration",
    *THROUGHPUTS,
    GOODPUT,
    *(f"{latency}_{statistic}_ms" for latency in LATENCIES for statistic in STATISTICS),
)
"""The common vocabulary, whatever the client. Throughputs and goodput are per second, ``duration`` is in seconds,
latencies in milliseconds: time to first token, time per output token (first token excluded), gap between two chunks,
end to end."""


class Expected(dict[str, float]):
    """Metrics of a benchmark that was stopped early: the objective's alone, as it was expected to be in the end."""


FIRST_PART = 0.25
"""The share of a benchmark's requests after which it is stopped if it is behind."""


@dataclass(frozen=True)
class Pace:
    """What the objective's metric was for the best configuration: by the first part of its requests, and of all.

    By a first part a throughput is that of the tokens that were worked on, which compares with other first parts only.
    """

    first: float
    whole: float


@dataclass(frozen=True)
class Assignment:
    """What the root asks a group's leader for: measure ``configuration``, as the ``attempt``-th try at ``number``.

    ``number`` counts the evaluations of a run from 0, and ``attempt`` from 1; probes have numbers below 0.
    """

    number: int
    attempt: int
    configuration: Configuration
    label: str = ""
    """Why it is measured: :data:`BASELINE`, :data:`REPEAT`, :data:`CONFIRM`, :data:`PROBE`, empty for a particle."""
    seconds: float = 0.0
    """How long it is expected to take; 0 when nothing is known yet."""
    elsewhere: tuple[int, ...] = ()
    """Groups that have measured this configuration, or begun to, in a race in the same one; another is preferred."""
    pace: Pace | None = None
    """What its benchmark is stopped early for if it is far behind; None if it goes to its end."""

    def evaluation(self, group: int) -> Evaluation:
        """An evaluation of this assignment on a group, of which nothing more is known: no metrics, failure or times."""
        return Evaluation(self.number, self.attempt, group, self.configuration, self.label)


NOT_READY = "not ready within"
"""How the cause of a failure begins if the service needed longer than ``start_timeout``."""
NODE_LOST = "node lost"
"""What the cause of a failure says, behind the node's name, of one that its group hears nothing of."""


@dataclass(frozen=True)
class Failure:
    """Why an evaluation has no metrics.

    ``cause`` says why in one line, ``kind`` what is to blame, and ``detail`` holds the last lines of a log that tells.
    """

    cause: str
    kind: FailureKind
    detail: str = ""

    @property
    def silent(self) -> bool:
        """Whether the failure says nothing about the configuration that was to be measured."""
        return self.kind in ("infrastructure", "cancelled")

    @property
    def node_lost(self) -> bool:
        """Whether a node is to blame that the group hears nothing of; a log may have these words, too."""
        return self.kind == "infrastructure" and re.match(rf"\S+: {NODE_LOST}: ", self.cause) is not None


def load_name(key: str, value: float) -> str:
    """A load of a sweep in words, as ``concurrency 8``."""
    return f"{key} {value:g}"


def mean(several: Sequence[Metrics]) -> dict[str, float]:
    """The mean of each metric that all of several measurements have; empty without measurements."""
    common = [name for name in several[0] if all(name in metrics for metrics in several)] if several else []
    values = {name: [metrics[name] for metrics in several] for name in common}
    # A rounded mean may lie beyond all values, and so beyond a limit that each of them keeps.
    return {name: min(max(fmean(each), min(each)), max(each)) for name, each in values.items()}


def works(good: Sized, every: Sized) -> bool:
    """Whether a configuration counts as one that works: more than half of ``every`` measurement of it was ``good``."""
    return 2 * len(good) > len(every)


@dataclass(frozen=True)
class Evaluation:
    """One attempt at measuring one configuration on one group: its metrics or its failure, never both.

    ``started`` and ``ended`` are Unix times in seconds, ``phases`` the seconds spent in each phase in between
    (``configuring``, ``starting``, ``measuring``, ``stopping``). ``files`` holds the texts of the evaluation's folder
    (command line, environment, logs), by name, on their way from the leader to the root. ``killed`` is set when the
    service, sound until then, did not end within its grace after TERM; ``suspended`` when the failure is that the job
    was suspended meanwhile, for which neither the configuration nor the group is to blame. ``loads`` holds what was
    measured at each load of a sweep, by that in words, from the lowest on; ``metrics`` are those at one of them, and
    ``cut`` tells at which one the benchmark failed, and why. ``first`` is what the objective's metric was by the first
    part of the requests, as in :class:`Pace`, if somebody looked. A benchmark that was stopped then has no metrics;
    ``expected`` is what the objective's would have been at its end if it had gone on as that of the best configuration
    did.
    """

    number: int
    attempt: int
    group: int
    configuration: Configuration
    label: str = ""
    metrics: Metrics = field(default_factory=dict)
    failure: Failure | None = None
    started: float = 0.0
    ended: float = 0.0
    phases: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    killed: bool = False
    suspended: bool = False
    loads: Mapping[str, Metrics] = field(default_factory=dict)
    cut: str = ""
    first: float | None = None
    expected: float | None = None

    @property
    def stopped(self) -> bool:
        """Whether its benchmark was stopped early."""
        return self.expected is not None

    @property
    def good(self) -> bool:
        """Whether it has metrics of a benchmark that went to its end."""
        return self.failure is None and not self.stopped

    @property
    def silent(self) -> bool:
        """Whether it says nothing about its configuration: it failed because of a node, or was cancelled."""
        return self.failure is not None and self.failure.silent

    @property
    def load(self) -> str:
        """The load of a sweep at which its metrics were measured; empty without a sweep."""
        keys = {load.partition(" ")[0] for load in self.loads}
        return next((load_name(key, self.metrics[key]) for key in keys if key in self.metrics), "")

    @property
    def seconds(self) -> float:
        """How long the evaluation took.

        It is the sum of the phases if the clock was set meanwhile, as may be so in a journal of an earlier version.
        """
        elapsed, spent = self.ended - self.started, sum(self.phases.values())
        steady = not self.phases or abs(elapsed - spent) <= CLOCK_JUMP
        return elapsed if 0 <= elapsed <= LONGEST_DURATION and steady else max(0.0, spent)


def at_one_load(several: Sequence[Evaluation]) -> list[Metrics]:
    """What several measurements of a configuration have found; sweeps at the load at which the last of them counts.

    Those that have not reached it are left out.
    """
    load = next((each.load for each in reversed(several) if each.load), "")
    there = [each.loads[load] for each in several if load in each.loads]
    return there or [each.metrics for each in several]


def together(several: Sequence[Evaluation]) -> dict[str, float]:
    """The mean of several measurements of a configuration, of sweeps :func:`at_one_load`."""
    return mean(at_one_load(several))


def reference(first: Sequence[Evaluation], raced: Sequence[Evaluation]) -> dict[str, float]:
    """The metrics that limits relative to the baseline refer to; empty if it failed.

    They are the mean of its ``first`` good measurements in the search. For a race they are the mean of those that
    ``raced`` in it, if one of these is good: a machine changes with the hours, and a first start may be cold.
    """
    return together([each for each in raced if each.good] or [each for each in first if each.good])
