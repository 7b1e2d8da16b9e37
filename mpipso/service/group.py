"""The life cycle of one evaluation on one service group.

Update the configuration, stop what ran before, start workers then master, wait until the service serves, measure it,
stop it. Every step has a limit, and a process that dies on any node ends the evaluation.
"""

from __future__ import annotations

import asyncio
import shlex
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from mpipso.config import Config
from mpipso.errors import Cancelled, EvaluationFailed
from mpipso.evaluation import Assignment, Configuration, Evaluation, Failure, Metrics
from mpipso.service.clients.base import Client, Target
from mpipso.service.engines.base import Engine, Layout, Start
from mpipso.service.node import LocalNode, Node

WATCH = 0.3
"""Seconds between two looks at whether every process of the service still runs."""
LOG_BYTES = 256 * 1024
"""How much of the end of a log travels into the evaluation's folder."""
TAIL_LINES = 20
LINE = 160
"""How much of a log's telling line goes into the cause."""


@dataclass(frozen=True)
class Running:
    """A process of the service: where it runs, how it is addressed there, and its log."""

    node: Node
    handle: str
    log: str


class ServiceGroup:
    """A service instance that spans the nodes of a group; used by one thread at a time.

    Parameters
    ----------
    nodes:
        The group's nodes; ``nodes[0]`` is the leader's own, where the benchmark client runs.
    master:
        Index of the node that runs the service's master process.
    progress:
        Is told what the evaluation does now, in one word.
    port:
        Where the service listens; 0 for any free port.
    """

    def __init__(
        self,
        group_id: int,
        nodes: Sequence[Node],
        master: int,
        config: Config,
        engine: Engine,
        client: Client,
        progress: Callable[[str], None],
        *,
        port: int = 0,
    ) -> None:
        if not isinstance(nodes[0], LocalNode):
            raise TypeError("the first node of a group is its leader's own")
        self.group_id = group_id
        self._local = nodes[0]
        self._nodes = tuple(nodes)
        self._master = master
        self._config = config
        self._engine = engine
        self._client = client
        self._progress = progress
        self._port = port
        self._running: list[Running] = []
        self._files: dict[str, bytes] = {}

    def evaluate(self, assignment: Assignment, cancel: threading.Event) -> Evaluation:
        """Measure one configuration; whatever happens is an :class:`Evaluation`, and nothing is left running."""
        started = time.time()
        metrics: Metrics = {}
        failure: Failure | None = None
        self._files = {}
        try:
            metrics = self._measure(assignment, cancel)
        except EvaluationFailed as error:
            failure = Failure(error.cause, error.kind, error.detail)
        except Cancelled:
            failure = Failure("cancelled", "cancelled")
        try:
            self._collect_logs()
            self.stop()
        except EvaluationFailed as error:
            failure = failure or Failure(error.cause, error.kind, error.detail)
        return Evaluation(
            assignment.number,
            assignment.attempt,
            self.group_id,
            assignment.configuration,
            assignment.label,
            metrics if failure is None else {},
            failure,
            started,
            time.time(),
            self._files,
        )

    def stop(self) -> None:
        """Stop the service on every node, the master first, so that no client sees half a service.

        Raises
        ------
        EvaluationFailed
            A process survived even SIGKILL, or a node does not answer.
        """
        problems = []
        for running in reversed(self._running):
            try:
                survivors = running.node.stop_service(running.handle)
            except EvaluationFailed as error:
                problems.append(error.cause)
            else:
                if survivors:
                    problems.append(f"{running.node.name}: processes {survivors} cannot be killed")
        self._running = []
        if problems:
            raise EvaluationFailed("; ".join(problems), kind="infrastructure")

    def close(self) -> None:
        """Release everything on every node."""
        for node in reversed(self._nodes):
            node.close()

    def _measure(self, assignment: Assignment, cancel: threading.Event) -> Metrics:
        folder = f"{assignment.number:04d}-{assignment.attempt}"
        layout = self._layout(folder)
        configuration = assignment.configuration
        self._progress("configuring")
        starts = self._engine.starts(self._config, configuration, layout)
        self._record(starts, configuration, layout)
        self._update_config(starts, configuration, layout)
        self.stop()
        self._progress("starting")
        self._start(starts, configuration, layout, folder)
        target = self._target(assignment, layout, folder)
        self._await_ready(target, configuration, layout, cancel)
        self._progress("measuring")
        return self._run_benchmark(target, cancel)

    def _layout(self, folder: str) -> Layout:
        file = self._config.service.config_file
        master = self._nodes[self._master]
        port = master.free_port(self._port)
        return Layout(
            addresses=tuple(node.address for node in self._nodes),
            master=self._master,
            port=port,
            master_port=master.free_port(0, [port]),
            work_dirs=tuple(node.work_dir for node in self._nodes),
            config_name=file.name if file is not None and file.name else f"{folder}/config.json",
            devices=tuple(node.devices for node in self._nodes),
            cores=tuple(node.cores for node in self._nodes),
        )

    def _update_config(self, starts: Sequence[Start], configuration: Configuration, layout: Layout) -> None:
        service = self._config.service
        content = self._engine.file(self._config, configuration)
        if content is not None:
            self._files["service-config"] = content
        for index in dict.fromkeys(start.node for start in starts):
            self._nodes[index].update_config(
                configuration,
                path=layout.config_name,
                content=content,
                command=self._engine.fill(service.update_command, self._config, configuration, layout),
                timeout=service.start_timeout,
            )

    def _start(self, starts: Sequence[Start], configuration: Configuration, layout: Layout, folder: str) -> None:
        service = self._config.service
        stop_command = self._engine.fill(service.stop_command, self._config, configuration, layout)
        for start in starts:
            node = self._nodes[start.node]
            log = f"{folder}/service-{layout.node_ranks[start.node]}-{node.name}.log"
            handle = node.start_service(
                start.command,
                start.env,
                log=log,
                grace=service.stop_grace,
                stop_command=stop_command if start.node == self._master else (),
            )
            self._running.append(Running(node, handle, log))

    def _target(self, assignment: Assignment, layout: Layout, folder: str) -> Target:
        result = Path(self._local.work_dir) / folder / "benchmark.json"
        result.parent.mkdir(parents=True, exist_ok=True)
        return Target(
            base_url=f"http://{layout.host}:{layout.port}",
            host=layout.host,
            port=layout.port,
            model=self._engine.model_name(self._config),
            seed=self._config.benchmark.seed + assignment.number * 1000 + assignment.attempt,
            close_connections=self._engine.close_connections,
            result=result,
            values=assignment.configuration,
        )

    def _await_ready(
        self, target: Target, configuration: Configuration, layout: Layout, cancel: threading.Event
    ) -> None:
        limit = self._config.service.start_timeout
        deadline = time.monotonic() + limit
        pause = 0.05
        while True:
            if cancel.is_set():
                raise Cancelled("cancelled while starting")
            self._check_alive("while starting")
            problem = self._not_ready(target, configuration, layout, deadline)
            if problem is None:
                return
            if time.monotonic() >= deadline:
                raise EvaluationFailed(f"not ready within {limit:g} s: {problem}", detail=self._tail())
            time.sleep(pause)
            pause = min(2 * pause, 0.5)

    def _not_ready(self, target: Target, configuration: Configuration, layout: Layout, deadline: float) -> str | None:
        """Why the service cannot be measured yet; None when it is healthy, is ours and has answered a request."""
        service = self._config.service
        left = max(1.0, deadline - time.monotonic())
        url = self._engine.health_url(self._config, configuration, layout)
        if service.health_command:
            command = self._engine.fill(service.health_command, self._config, configuration, layout)
            done = self._nodes[self._master].execute(command, left)
            problem = f"health command ended with exit code {done.exit_code}" if done.exit_code else None
        elif url:
            problem = asyncio.run(_health(url, min(left, 10.0)))
        else:
            problem = _refused(target)
        if problem is None and not service.health_command:
            # A master that was started by a script, or that hands over to a child, is found below its keeper as well.
            problem = self._nodes[self._master].listener_problem(self._running[-1].handle, target.port)
        if problem is None:
            try:
                self._client.probe(target, left)
            except EvaluationFailed as error:
                problem = f"{error.cause} {error.detail}".strip()
        return problem

    def _run_benchmark(self, target: Target, cancel: threading.Event) -> Metrics:
        over = threading.Event()
        died: list[EvaluationFailed] = []
        done_watching = threading.Event()

        def watch() -> None:
            while not done_watching.wait(WATCH):
                try:
                    self._check_alive("during the benchmark")
                except EvaluationFailed as error:
                    died.append(error)
                if died or cancel.is_set():
                    over.set()
                    return

        watcher = threading.Thread(target=watch, name="watch")
        watcher.start()
        limit = self._config.benchmark.timeout
        command = self._client.command(self._config, target)
        self._files["benchmark-command.txt"] = shlex.join(command).encode() + b"\n"
        try:
            done = self._local.execute(command, limit, cancel=over)
        except Cancelled:
            if died:
                raise died[0] from None
            raise
        finally:
            done_watching.set()
            watcher.join()
        self._files["benchmark.log"] = (done.stdout + done.stderr).encode()[-LOG_BYTES:]
        if target.result.exists():
            self._files["benchmark.json"] = target.result.read_bytes()[-32 * LOG_BYTES :]
        self._check_alive("during the benchmark")
        if done.timed_out:
            raise EvaluationFailed(f"the benchmark took longer than {limit:g} s", detail=_lines(done.stderr))
        if done.exit_code:
            raise EvaluationFailed(
                f"the benchmark client ended with exit code {done.exit_code}",
                kind="infrastructure",
                detail=_lines(done.stderr or done.stdout),
            )
        return self._client.metrics(self._config, target, done)

    def _check_alive(self, when: str) -> None:
        for running in self._running:
            code = running.node.poll_service(running.handle)
            if code is not None:
                how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
                detail = self._tail(running)
                reason = self._engine.reason(detail)[:LINE]
                raise EvaluationFailed(f"{running.node.name}: the service {how} {when}: {reason}", detail=detail)

    def _record(self, starts: Sequence[Start], configuration: Configuration, layout: Layout) -> None:
        text = []
        for start in starts:
            text.append(f"# {self._nodes[start.node].name}, node rank {layout.node_ranks[start.node]}")
            text += [f"export {name}={shlex.quote(value)}" for name, value in sorted(start.env.items())]
            text += [shlex.join(start.command), ""]
        self._files["command.txt"] = "\n".join(text).encode()

    def _collect_logs(self) -> None:
        for running in self._running:
            self._files[Path(running.log).name] = running.node.read_chunk(running.log, -LOG_BYTES, LOG_BYTES)

    def _tail(self, running: Running | None = None) -> str:
        running = running or self._running[-1]
        return _lines(running.node.read_chunk(running.log, -LOG_BYTES, LOG_BYTES).decode(errors="replace"))


def _lines(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-TAIL_LINES:])


def _refused(target: Target) -> str | None:
    try:
        socket.create_connection((target.host, target.port), timeout=2.0).close()
    except OSError as error:
        return f"port {target.port}: {error.strerror or error}"
    return None


async def _health(url: str, timeout: float) -> str | None:
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout)) as session,
            session.get(url) as answer,
        ):
            return None if answer.status == 200 else f"{url} answers HTTP {answer.status}"
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
        return f"{url}: {str(error) or type(error).__name__}"
