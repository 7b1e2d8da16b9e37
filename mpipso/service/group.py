"""The life cycle of one evaluation on one service group.

Update the configuration, start workers then master, wait until the service serves, measure it, stop it, so that nothing
runs between two evaluations. Every step has a limit, and a process that dies on any node ends the evaluation.
"""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from mpipso.config import Config
from mpipso.errors import Cancelled, EvaluationFailed, FailureKind
from mpipso.evaluation import Assignment, Configuration, Evaluation, Failure, Metrics, Pace, load_name
from mpipso.logtext import says_in_use
from mpipso.redact import Redactor
from mpipso.score import Score
from mpipso.service.clients.base import Client, Target
from mpipso.service.clients.quality import QualityClient
from mpipso.service.engines.base import Engine, Layout, Start
from mpipso.service.facts import showing
from mpipso.service.local import LocalNode
from mpipso.service.measuring import Measuring, targets_of
from mpipso.service.node import Node
from mpipso.service.readiness import Readiness
from mpipso.service.reasons import ELSEWHERE
from mpipso.service.running import Running, ends, tails
from mpipso.service.stops import Stops
from mpipso.service.timing import Phases, TimeLimit
from mpipso.service.watch import LOOK, watching
from mpipso.suspension import awake

CANCEL_GRACE = 5.0
"""Seconds between TERM and KILL, at most, for a service whose evaluation is cancelled."""


class Judge(Protocol):
    """What the metrics of a configuration are worth."""

    def score(self, assignment: Assignment, metrics: Metrics) -> Score:
        """How good they are, where a service is measured at several loads."""

    def value(self, configuration: Configuration, metrics: Metrics) -> float | None:
        """The metric that is optimised, if it is above 0; None if they do not tell it, or it is not."""


@dataclass(eq=False)
class ServiceGroup:
    """A service instance that spans the nodes of a group; used by one thread at a time.

    Parameters
    ----------
    nodes:
        The group's nodes; ``nodes[0]`` is the leader's own, where the benchmark client runs.
    master:
        Index of the node that runs the service's master process.
    judge:
        Knows the objective.
    progress:
        Is told what the evaluation does now, in one word, and what that waits for.
    port:
        Where the service listens; 0 for any free port.
    """

    group_id: int
    nodes: Sequence[Node]
    master: int
    config: Config
    engine: Engine
    client: Client
    judge: Judge
    progress: Callable[[str, str], None]
    port: int = 0
    local: LocalNode = field(init=False)
    """The first node."""

    def __post_init__(self) -> None:
        if not isinstance(self.nodes[0], LocalNode):
            raise TypeError("the first node of a group is its leader's own")
        self.local = self.nodes[0]

    def evaluate(self, assignment: Assignment, cancel: threading.Event) -> Evaluation:
        """Measure one configuration; whatever happens is an :class:`Evaluation`, and nothing is left running."""
        return _Attempt(self, assignment, cancel).evaluate()

    def close(self) -> None:
        """Release everything on every node.

        Raises
        ------
        EvaluationFailed
            A node does not answer, or cannot; the others are released all the same.
        """
        problems = []
        for node in reversed(self.nodes):
            try:
                node.close()
            except EvaluationFailed as error:
                problems.append(error.cause)
        if problems:
            raise EvaluationFailed("; ".join(problems), kind="infrastructure")


class _Attempt:
    """One evaluation on a group: what is known of it so far, and nothing of those before."""

    def __init__(self, group: ServiceGroup, assignment: Assignment, cancel: threading.Event) -> None:
        self._group = group
        self._local = group.local
        self._nodes = group.nodes
        self._config = group.config
        self._engine = group.engine
        self._client = group.client
        self._assignment = assignment
        self._configuration = assignment.configuration
        self._cancel = cancel
        self._running: list[Running] = []
        self._files: dict[str, bytes] = {}
        self._loads: dict[str, Metrics] = {}
        self._cut = ""
        self._first: float | None = None
        self._expected: float | None = None
        self._phases = Phases()
        self._stops = Stops()
        self._killed = False

    def evaluate(self) -> Evaluation:
        """Do it, once; as :meth:`ServiceGroup.evaluate`."""
        # Unix times for people; the clock that gives them may be set at any time, and the difference must not tell it.
        started, began = time.time(), awake()
        problem, suspended = "", False
        over = TimeLimit(self._cancel, self._config.search.evaluation_timeout)
        try:
            metrics, failure = self._outcome(over)
            if failure is None or failure.kind != "cancelled":
                failure, suspended = self._stops.blamed(self._nodes, failure)
        finally:
            over.close()
            self._enter("stopping")
            problem = self._stop()
        if problem and failure is None:
            failure = Failure(problem, "infrastructure")
        elif problem and failure:
            failure = Failure(failure.cause, failure.kind, f"{failure.detail}\n{problem}".strip())
        return replace(
            self._assignment.evaluation(self._group.group_id),
            metrics=metrics if failure is None else {},
            loads=self._loads if failure is None else {},
            cut=self._cut if failure is None else "",
            first=self._first if failure is None else None,
            expected=self._expected if failure is None else None,
            failure=failure,
            started=started,
            ended=started + awake() - began,
            phases=self._phases.ended(),
            files=self._files,
            # One that has failed may be in a state in which it ends no more.
            killed=self._killed and failure is None,
            suspended=suspended,
        )

    def _enter(self, phase: str) -> None:
        self._phases.enter(phase)
        self._group.progress(phase, "")

    def _outcome(self, over: threading.Event) -> tuple[Metrics, Failure | None]:
        """What was measured, or why nothing was."""
        try:
            return self._measure(over), None
        except EvaluationFailed as error:
            return {}, Failure(error.cause, error.kind, error.detail)
        except Cancelled:
            if self._cancel.is_set():
                return {}, Failure("cancelled", "cancelled")
            limit = self._config.search.evaluation_timeout
            return {}, Failure(f"it took longer than {limit:g} s in all", "configuration", tails(self._running))

    def _measure(self, over: threading.Event) -> Metrics:
        self._enter("configuring")
        self._stops.begin(self._nodes)
        layout = self._layout([node.start_folder() for node in self._nodes])
        starts = self._starts(layout)
        self._record(starts, layout)
        self._update_config(starts, layout, over)
        self._enter("starting")
        self._start(starts, layout)
        targets = targets_of(self._config, self._engine, self._client, layout, self._assignment, self._local.work_dir)
        readiness = self._readiness(targets[0], layout, starts[-1].env)
        with watching(lambda: self._check_alive("while starting", layout.port, readiness.reached), over) as ended:
            try:
                readiness.wait(self._config.service.start_timeout, ended, partial(self._group.progress, "starting"))
            except EvaluationFailed as error:
                detail = error.detail or tails(self._running)
                raise EvaluationFailed(error.cause, kind=error.kind, detail=detail) from None
        self._enter("measuring")
        found = self._run(self._client, targets, readiness, over, self._assignment.pace)
        if not found:  # it was stopped early
            return {}
        if self._config.quality.command:
            checked = QualityClient()
            self._group.progress("measuring", checked.section)
            targets = targets_of(self._config, self._engine, checked, layout, self._assignment, self._local.work_dir)
            (quality,) = self._run(checked, targets, readiness, over, None)
            found = [{**metrics, **quality} for metrics in found]
        for key in self._config.benchmark.swept:
            self._loads = {load_name(key, metrics[key]): metrics for metrics in found}
        return found[0] if len(found) == 1 else min(found, key=partial(self._group.judge.score, self._assignment))

    def _run(
        self, client: Client, targets: Sequence[Target], readiness: Readiness, over: threading.Event, pace: Pace | None
    ) -> list[Metrics]:
        """What a client measures on the service at each load, as long as that lives; nothing if it is stopped early."""
        told = partial(self._group.progress, "measuring")
        value = partial(self._group.judge.value, self._configuration)
        measuring = Measuring(self._local, self._config, client, self._engine.reason, self._files, told, value, pace)
        for running in self._running:
            running.begin()
        with watching(lambda: self._check_alive(f"during the {client.title}"), over) as ended:
            try:
                found = measuring.run(targets, ended)
            except EvaluationFailed:
                readiness.outlast(ended)
                raise
            self._cut = self._cut or measuring.cut
            if client is self._client:
                self._first, self._expected = measuring.first, measuring.expected
            # A service may have died without a word that its client had counted as a failure.
            readiness.outlast(ended)
            return found

    def _layout(self, folders: Sequence[str]) -> Layout:
        master = self._nodes[self._group.master]
        port = master.free_port(self._group.port)
        return Layout(
            nodes=tuple(node.share for node in self._nodes),
            master=self._group.master,
            port=port,
            master_port=master.free_port(0, [port]),
            work_dirs=tuple(folders),
            configs=tuple(str(Path(folder) / self._config.service.config_name) for folder in folders),
        )

    def _starts(self, layout: Layout) -> list[Start]:
        """The processes of one start; a value that fits nowhere is the configuration's fault."""
        try:
            content = self._engine.file(self._config, self._configuration, layout, layout.master)
            if content is not None:
                self._files["service-config"] = content
            return self._engine.starts(self._config, self._configuration, layout)
        except ValueError as error:
            raise EvaluationFailed(str(error)) from None

    def _record(self, starts: Sequence[Start], layout: Layout) -> None:
        # In the finished text, a short secret is hard to tell from a part of another word.
        redactor = Redactor()
        redactor.spare(map(str, self._configuration.values()))
        text = []
        for start in starts:
            node = self._nodes[start.node]
            env = {**showing(node.share.device_variable, node.share.devices), **start.env}
            text.append(f"# {node.name}, node rank {layout.node_ranks[start.node]}")
            text += [f"export {name}={shlex.quote(value)}" for name, value in sorted(redactor.data(env).items())]
            text += [shlex.join(redactor.arguments(start.command)), ""]
        self._files["command.txt"] = "\n".join(text).encode("utf-8", "surrogateescape")

    def _update_config(self, starts: Sequence[Start], layout: Layout, over: threading.Event) -> None:
        service = self._config.service
        for index, env in {start.node: start.env for start in starts}.items():
            self._nodes[index].update_config(
                self._configuration,
                path=layout.configs[index],
                content=self._engine.file(self._config, self._configuration, layout, index),
                command=self._engine.fill(service.update_command, self._config, self._configuration, layout, index),
                env=env,
                timeout=service.start_timeout,
                cancel=over,
            )

    def _start(self, starts: Sequence[Start], layout: Layout) -> None:
        service = self._config.service
        for start in starts:
            node, rank = self._nodes[start.node], layout.node_ranks[start.node]
            log = f"service-{rank}-{node.name}.log"
            handle = node.start_service(
                start.command,
                start.env,
                log=log,
                grace=service.stop_grace,
                stop_command=self._engine.fill(
                    service.stop_command, self._config, self._configuration, layout, start.node
                ),
            )
            worker = "the worker" if len(starts) == 2 else f"worker {rank}"
            role = "the service" if len(starts) == 1 else worker if rank else "the master"
            self._running.append(Running(node, role, handle, log))

    def _readiness(self, target: Target, layout: Layout, env: Mapping[str, str]) -> Readiness:
        service, running = self._config.service, self._running[-1]
        return Readiness(
            master=running.node,
            handle=running.handle,
            target=target,
            client=self._client,
            health_url=self._engine.health_url(self._config, self._configuration, layout),
            health_command=self._engine.fill(service.health_command, self._config, self._configuration, layout),
            env=env,
            log=f"{running.node.name}:{Path(running.node.work_dir) / running.log}",
            explain=partial(self._explain, layout.master_port),
        )

    def _check_alive(self, when: str, port: int = 0, reached: threading.Event | None = None) -> None:
        """Raise if this node was stopped, or a process of the service has ended.

        With ``port`` that may be because of another process, if that took it. So it is if the service says that any
        other port of its own was in use.
        ``reached`` is set once somebody has listened on that port.
        """
        if stopped := self._stops.told([self._local]):
            raise EvaluationFailed(stopped, kind="infrastructure")
        causes, told = ends(self._running, self._engine, when, heard=reached is None or reached.is_set())
        if causes:
            taken = self._taken(port) if port else []
            kind: FailureKind = "infrastructure" if taken or says_in_use(causes[0]) else "configuration"
            raise EvaluationFailed("; ".join([*taken, *causes]), kind=kind, detail=tails(told))

    def _explain(self, master_port: int, refused: bool) -> list[str]:
        """What may be why the service is not ready, in words.

        It listens elsewhere, if it was ``refused`` that it listens where it should, or one of its processes, which may
        have ended below one that stays, has told of an error.
        """
        hints = []
        master = self._running[-1]
        if refused and (places := master.node.listening(master.handle, [master_port])):
            hints.append(f"the service listens on {', '.join(places)} of {master.node.name} instead")
        told = [(running.reason(self._engine), running) for running in self._running]
        reason, running = min(told, key=lambda each: each[0].remoteness)
        if reason.remoteness < ELSEWHERE:
            hints.append(f"{running.node.name}: {running.role} says: {reason.line}")
        return hints

    def _taken(self, port: int) -> list[str]:
        """Who else holds the port of the master, in words; empty if nobody does."""
        try:
            self._nodes[self._group.master].free_port(port, owner=self._running[-1].handle)
        except EvaluationFailed as error:
            return [error.cause]
        return []

    def _stop(self) -> str:
        """Stop the service on all nodes at once and collect its logs; what could not be done, in words."""
        running, self._running = self._running, []
        if not running:
            return ""
        problems: list[str] = []

        def stop(each: Running, grace: float | None) -> None:
            try:
                survivors, killed = each.node.stop_service(each.handle, grace)
            except EvaluationFailed as error:
                problems.append(error.cause)
            else:
                self._killed = self._killed or (killed > 0 and not self._cancel.is_set())
                if survivors:
                    problems.append(f"{each.node.name}: processes {survivors} cannot be killed")

        hurry = min(CANCEL_GRACE, self._config.service.stop_grace)
        with ThreadPoolExecutor(max_workers=2 * len(running)) as pool:
            hurried = self._cancel.is_set()
            stops: list[Future[None]] = [pool.submit(stop, each, hurry if hurried else None) for each in running]
            while not all(future.done() for future in stops):
                if self._cancel.is_set() and not hurried:
                    hurried = True
                    stops += [pool.submit(stop, each, hurry) for each in running]
                wait([future for future in stops if not future.done()], timeout=LOOK)
        for each in running:
            self._files[each.log] = each.kept()
        return "; ".join(dict.fromkeys(problems))
