"""What measures a running service: a client is run, at one load after another, and its result read and kept."""

from __future__ import annotations

import contextlib
import itertools
import shlex
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mpipso.config import Config
from mpipso.errors import Cancelled, EvaluationFailed
from mpipso.evaluation import THROUGHPUTS, Assignment, Metrics, Pace, load_name
from mpipso.service.clients.base import Client, Target
from mpipso.service.clients.result import Results, logs, read
from mpipso.service.clients.stats import WORK
from mpipso.service.early import EarlyStop
from mpipso.service.engines.base import Engine, Layout
from mpipso.service.local import LocalNode
from mpipso.service.node import last_lines, quoted
from mpipso.service.process import Completed
from mpipso.service.reasons import Reason, states
from mpipso.service.running import LOG_BYTES


class Measuring:
    """Runs a client on a node.

    Parameters
    ----------
    reason:
        Finds the line of the client's output that tells best why it has ended.
    files:
        Is given what is kept of its run: the command, its output and results, by name.
    progress:
        Is told which load is measured, in words.
    value:
        The objective's metric, by metrics; None if these do not tell it.
    pace:
        What a benchmark is stopped early for, at one load; None if it goes to its end.

    Attributes
    ----------
    cut:
        At which load of a sweep the client failed, and why, where there are metrics of lower ones; else empty.
    first, expected:
        What the objective's metric was after the first part of the requests; and what it was expected to be in the end
        of a benchmark that was stopped then. None where nobody looked, or nothing was stopped.
    """

    def __init__(
        self,
        node: LocalNode,
        config: Config,
        client: Client,
        reason: Callable[[str], Reason],
        files: dict[str, bytes],
        progress: Callable[[str], None],
        value: Callable[[Metrics], float | None],
        pace: Pace | None = None,
    ) -> None:
        self._node = node
        self._config = config
        self._client = client
        self._reason = reason
        self._files = files
        self._progress = progress
        self._value = value
        self._pace = pace
        self._looks = client.section == Client.section and config.benchmark.early_stop is not None
        self.cut = ""
        self.first: float | None = None
        self.expected: float | None = None

    def run(self, targets: Sequence[Target], over: threading.Event) -> list[Metrics]:
        """Measure a service at each load, the lowest first; returns the metrics at each, with a swept load among them.

        No higher load follows one at which a latency is above its limit, or the client fails: of a failure that may be
        its own, twice, as in an evaluation at one load. There are no metrics of a benchmark that was stopped early.

        Raises
        ------
        EvaluationFailed
            The client failed, or there is no measurement, at the first load.
        Cancelled
            ``over`` was set.
        """
        swept = [key for key in self._config.benchmark.swept if key in targets[0].load]
        if not swept:
            try:
                return [self._once(targets[0], self._files, over)]
            except Cancelled:
                if self.expected is None or over.is_set():
                    raise
                return []
        (key,) = swept
        found: list[Metrics] = []
        for target in targets:
            load = load_name(key, float(target.load[key]))
            self._progress(load)
            try:
                metrics = {**self._tried(target, targets if found else (), over), key: float(target.load[key])}
            except EvaluationFailed as error:
                if not found or error.kind == "infrastructure":
                    raise
                self.cut = f"{load}: {error.cause}"
                break
            found.append(metrics)
            if self._overloaded(metrics):
                break
        return found

    def _tried(self, target: Target, others: Sequence[Target], over: threading.Event) -> Metrics:
        """The metrics at a load of a sweep; where there are ``others``, a client that fails is run once more."""
        (key,) = self._config.benchmark.swept
        kept: dict[str, bytes] = {}
        try:
            return self._once(target, kept, over)
        except EvaluationFailed as error:
            if not others or error.kind != "measurement":
                raise
            # The service must not have in its cache what is sent now: other prompts than it was sent before.
            sent = sum(int(each.load.get("requests", 0)) for each in others)
            return self._once(replace(target, seed=(target.seed + 50) % 2**31, sent=target.sent + sent), kept, over)
        finally:
            name = load_name(key, float(target.load[key])).replace(" ", "-")
            self._files |= {f"{name}-{file}": content for file, content in kept.items()}

    def _overloaded(self, metrics: Metrics) -> bool:
        """Whether a latency is above its limit, which it is under a higher load as well.

        A derived metric need not be, even if it is a time: ``1000 / request_throughput`` falls as the load grows.
        """
        limits = (limit for limit in self._config.objective.slo if limit.metric.endswith("_ms"))
        return any(isinstance(limit.max, float) and metrics.get(limit.metric, 0.0) > limit.max for limit in limits)

    def _once(self, target: Target, files: dict[str, bytes], over: threading.Event) -> Metrics:
        command = self._client.command(self._config, target)
        files[f"{self._client.section}-command.txt"] = f"{shlex.join(command)}\n".encode("utf-8", "surrogateescape")
        folder = target.result.parent
        # The next one must not find what this one writes, whatever that is and however it is named.
        with self._node.new_folder(str(folder)):
            try:
                return self._measured(command, target, files, over)
            except (EvaluationFailed, Cancelled):
                files |= logs(folder, self._client.section, LOG_BYTES // 4)
                raise

    def _measured(
        self, command: Sequence[str], target: Target, files: dict[str, bytes], over: threading.Event
    ) -> Metrics:
        limit, section = self._client.settings(self._config).timeout, self._client.section
        results = Results(self._client.result_files(self._config, target))
        stop = EarlyStop(self._config, over, partial(self._first, target), self._pace)
        output = ""
        try:
            done = self._node.execute(command, limit, cancel=stop)
            stop.ended()
            output = done.stdout + done.stderr
        except Cancelled as cancelled:
            output = cancelled.output
            raise
        finally:
            files[f"{section}.log"] = output.encode()[-LOG_BYTES:]
            files |= results.kept(section, 32 * LOG_BYTES)
            files |= self._kept_first(target)
            self.first, self.expected = stop.first, stop.expected
        self._check(done, limit)
        try:
            results.require_fresh()
            return self._client.metrics(self._config, target, done)
        except EvaluationFailed as error:
            # What reads results calls every client the benchmark's.
            cause = error.cause.replace("the benchmark", f"the {self._client.title}", 1)
            raise EvaluationFailed(cause, kind="measurement", detail=error.detail) from None

    def _first(self, target: Target) -> tuple[float, float] | None:
        """The share of the requests that were served first, and the objective's metric by these; None if not known.

        Of a part in which a request has failed it never is: what becomes of that is seen in the end. It is in tokens
        per second that were worked on, whatever the throughput, and so compares with others of first parts only.
        """
        if not self._looks or not target.first.exists():
            return None
        found = read([target.first])
        if found.get("failed") or WORK not in found:
            return None
        value = self._value(dict.fromkeys(THROUGHPUTS, float(found[WORK])))
        return None if value is None else (found["completed"] / float(target.load["requests"]), value)

    def _kept_first(self, target: Target) -> dict[str, bytes]:
        with contextlib.suppress(OSError):
            if self._looks:
                return {f"{self._client.section}-first.json": target.first.read_bytes()}
        return {}

    def _check(self, done: Completed, limit: float) -> None:
        if not (done.timed_out or done.exit_code):
            return
        detail, reason = self._explained(done)
        if done.timed_out:
            raise EvaluationFailed(f"the {self._client.title} took longer than {limit:g} s", detail=detail)
        if problem := self._node.unwritable():
            raise EvaluationFailed(
                f"{self._node.name}: the {self._client.title} client ended where {problem}", kind="infrastructure"
            )
        why = quoted(reason.line)
        ended = f"the {self._client.title} client ended with exit code {done.exit_code}"
        raise EvaluationFailed(f"{ended}: {why}" if why else ended, kind="measurement", detail=detail)

    def _explained(self, done: Completed) -> tuple[str, Reason]:
        """The last lines of what a client has printed, and the best of them, which says why it has ended.

        It is one of stderr, but for an error that is stated on stdout beside something like a warning.
        """
        streams = [last_lines(stream) for stream in (done.stderr, done.stdout) if stream.strip()] or [""]
        first, *others = map(self._reason, streams)
        nearer = [each for each in others if each.remoteness < first.remoteness and states(each.line)]
        return "\n".join(streams), (nearer or [first])[0]


def targets_of(
    config: Config, engine: Engine, client: Client, layout: Layout, assignment: Assignment, work_dir: str
) -> list[Target]:
    """What a client measures for an assignment, load after load, with results in a folder below ``work_dir``."""
    target = Target(
        base_url=layout.base_url,
        endpoint=config.benchmark.endpoint,
        host=layout.host,
        port=layout.port,
        model=engine.model_name(config),
        unlisted=config.service.model,
        seed=config.benchmark.seed + assignment.number * 1000 + assignment.attempt,
        close_connections=engine.close_connections,
        result=Path(work_dir) / f"{client.section}-{assignment.number}-{assignment.attempt}" / "result.json",
        load={},
        sent=0,
        values=assignment.configuration,
        api_key_env=config.benchmark.api_key_env,
    )
    loads = client.loads(config, assignment.configuration)
    before = itertools.accumulate((int(load.get("requests", 0)) for load in loads), initial=0)
    # The service still runs, and what it has in its cache of one load must not answer another; so seeds differ, by more
    # than there are attempts. Programs take them from 0 to 2**31 - 1, as a rule, and the numbers of probes are below 0.
    return [
        replace(target, load=load, sent=sent, seed=(target.seed + 100 * step) % 2**31)
        for step, (load, sent) in enumerate(zip(loads, before, strict=False))
    ]
