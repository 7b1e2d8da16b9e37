"""The benchmark of a running service: the client is run, and its result read and kept."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Sequence

from mpipso.config import Config
from mpipso.errors import Cancelled, EvaluationFailed
from mpipso.evaluation import Metrics
from mpipso.service.clients.base import Client, Target
from mpipso.service.clients.result import Results, logs
from mpipso.service.local import LocalNode
from mpipso.service.node import last_lines, quoted
from mpipso.service.process import Completed
from mpipso.service.reasons import Reason
from mpipso.service.running import LOG_BYTES


class Measuring:
    """Runs the benchmark client on a node.

    Parameters
    ----------
    reason:
        Finds the line of the client's output that tells best why it has ended.
    files:
        Is given what is kept of the benchmark: the command, its output and results, by name.
    """

    def __init__(
        self,
        node: LocalNode,
        config: Config,
        client: Client,
        reason: Callable[[str], Reason],
        files: dict[str, bytes],
    ) -> None:
        self._node = node
        self._config = config
        self._client = client
        self._reason = reason
        self._files = files

    def run(self, target: Target, over: threading.Event) -> Metrics:
        """Measure a service.

        Raises
        ------
        EvaluationFailed
            The client failed, or there is no measurement.
        Cancelled
            ``over`` was set.
        """
        command = self._client.command(self._config, target)
        self._files["benchmark-command.txt"] = shlex.join(command).encode() + b"\n"
        folder = target.result.parent
        # The next one must not find what this one writes, whatever that is and however it is named.
        with self._node.new_folder(str(folder)):
            try:
                return self._measured(command, target, over)
            except (EvaluationFailed, Cancelled):
                self._files |= logs(folder, LOG_BYTES // 4)
                raise

    def _measured(self, command: Sequence[str], target: Target, over: threading.Event) -> Metrics:
        limit = self._config.benchmark.timeout
        results = Results(self._client.result_files(self._config, target))
        output = ""
        try:
            done = self._node.execute(command, limit, cancel=over)
            output = done.stdout + done.stderr
        except Cancelled as cancelled:
            output = cancelled.output
            raise
        finally:
            self._files["benchmark.log"] = output.encode()[-LOG_BYTES:]
            self._files |= results.kept(32 * LOG_BYTES)
        self._check(done, limit)
        try:
            results.require_fresh()
            return self._client.metrics(self._config, target, done)
        except EvaluationFailed as error:
            raise EvaluationFailed(error.cause, kind="measurement", detail=error.detail) from None

    def _check(self, done: Completed, limit: float) -> None:
        detail = last_lines(done.stderr or done.stdout)
        if done.timed_out:
            raise EvaluationFailed(f"the benchmark took longer than {limit:g} s", detail=detail)
        if done.exit_code and (problem := self._node.unwritable()):
            raise EvaluationFailed(
                f"{self._node.name}: the benchmark client ended where {problem}", kind="infrastructure"
            )
        if done.exit_code:
            why = quoted(self._reason(detail).line)
            cause = f"the benchmark client ended with exit code {done.exit_code}{f': {why}' if why else ''}"
            raise EvaluationFailed(cause, kind="measurement", detail=detail)
