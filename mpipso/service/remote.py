"""The other nodes of a group: calls to another machine's :class:`~mpipso.service.local.LocalNode` as messages.

A leader's :class:`RemoteNode` sends a request, the node's :class:`Agent` carries it out in a thread of its own and
answers with the value or with the failure, which is raised at the leader with the node's name. What carries the
messages is not known here: a rank's agent gets them over MPI, that of a node without a rank over ssh.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any

from mpipso.errors import Cancelled, EvaluationFailed
from mpipso.evaluation import NODE_LOST
from mpipso.service.local import LocalNode
from mpipso.service.node import Node, Share
from mpipso.service.process import Completed
from mpipso.suspension import awake

ANSWER_TIMEOUT = 60.0
"""Seconds after which a node that owes an answer counts as lost, on top of the time the request itself may take."""
START_TIMEOUT = 120.0
"""Seconds that a start may take: a node waits for the memory of its devices, and asks a slow tool for each of them."""

_POLL = 0.1
NO_THREAD = "(ulimit -u, or a limit of the job)"
"""What is said of a host where no thread can be started."""


@dataclass(frozen=True)
class Request:
    """Leader to agent: call this method of your node, and answer with the same number."""

    number: int
    method: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """Agent to leader: what the call of a request returned, or the failure that it raised."""

    number: int
    value: Any = None
    failure: EvaluationFailed | None = None


@dataclass(frozen=True)
class Abandon:
    """Leader to agent: end the command that the request of this number runs."""

    number: int


class Agent:
    """The node's side: carries out the requests of the group's leader on a node.

    Parameters
    ----------
    answer:
        Hands an answer over to the leader; called from any thread.
    """

    METHODS = Node.__abstractmethods__

    def __init__(self, node: LocalNode, answer: Callable[[Answer], None]) -> None:
        self._node = node
        self._answer = answer
        self._abandoned: dict[int, threading.Event] = {}
        self._served = False
        self._pool = _pool()

    def handle(self, message: Request | Abandon) -> None:
        """Begin what a message asks for; returns at once."""
        if isinstance(message, Abandon):
            event = self._abandoned.get(message.number)
            if event is not None:
                event.set()
            return
        if message.method == "execute":
            self._abandoned[message.number] = threading.Event()
        try:
            self._pool.submit(self._serve, message)
            self._served = True
        except RuntimeError as error:
            if self._served:  # it waits in line, for a thread that there is already
                return
            self._pool = _pool()
            self._abandoned.pop(message.number, None)
            cause = f"{self._node.name}: {error} {NO_THREAD}"
            self._answer(Answer(message.number, failure=EvaluationFailed(cause, kind="infrastructure")))

    def close(self) -> None:
        """Give up every command and wait for the threads; nothing is answered any more."""
        self._answer = lambda answer: None
        for event in list(self._abandoned.values()):
            event.set()
        self._pool.shutdown(wait=True)

    def _serve(self, request: Request) -> None:
        self._answer(answer_to(request, self._call, f"{self._node.name}: "))
        self._abandoned.pop(request.number, None)

    def _call(self, request: Request) -> Any:
        if request.method not in self.METHODS:
            raise EvaluationFailed(f"{self._node.name}: unknown request {request.method!r}", kind="infrastructure")
        more = {"cancel": self._abandoned[request.number]} if request.method == "execute" else {}
        return getattr(self._node, request.method)(*request.args, **request.kwargs, **more)


def answer_to(request: Request, call: Callable[[Request], Any], where: str = "") -> Answer:
    """What a call returns for a request, or the failure that it raises; ``where`` begins that of a defect."""
    try:
        return Answer(request.number, call(request))
    except EvaluationFailed as failure:
        return Answer(request.number, failure=failure)
    except Exception as error:  # whatever went wrong here, the leader must hear of it instead of waiting
        cause = f"{where}{request.method} failed: {type(error).__name__}: {error}"
        return Answer(request.number, failure=EvaluationFailed(cause, kind="infrastructure"))


def _pool() -> ThreadPoolExecutor:
    """Several threads, because the leader watches the service while a command of its own still runs."""
    return ThreadPoolExecutor(max_workers=8, thread_name_prefix="agent")


class RemoteNode(Node):
    """The leader's side of one node: every call becomes a request to the node's agent, and waits for its answer.

    Parameters
    ----------
    share:
        The node's.
    work_dir:
        The node's folder for files of the run, on its own machine.
    send:
        Hands a message over to the agent; callable from any thread.
    """

    _numbers = itertools.count()

    def __init__(self, share: Share, work_dir: str, send: Callable[[Request | Abandon], None]) -> None:
        self.share = share
        self.work_dir = work_dir
        self._send = send
        self._waiting: dict[int, Future[Any]] = {}
        self._late: set[int] = set()
        """Starts that nobody waits for any more."""
        self._lost: str | None = None

    def answered(self, answer: Answer) -> None:
        """Take an answer of the node's agent."""
        future = self._waiting.pop(answer.number, None)
        if future is None or future.cancelled():
            if answer.number in self._late and answer.failure is None:
                self._send(Request(next(self._numbers), "stop_service", (answer.value, 0.0), {}))
            self._late.discard(answer.number)
            return
        if answer.failure is not None:
            future.set_exception(answer.failure)
        else:
            future.set_result(answer.value)

    def lost(self, reason: str) -> None:
        """Let every call fail, now and later, because the node is gone; ``reason`` says in words why."""
        self._lost = reason
        for number in list(self._waiting):
            self.answered(Answer(number, failure=self._gone()))

    def execute(
        self,
        command: Sequence[str],
        timeout: float,
        *,
        env: Mapping[str, str] | None = None,
        cancel: threading.Event | None = None,
    ) -> Completed:
        done: Completed = self._call(
            "execute", list(command), timeout, env=dict(env or {}), _limit=timeout, _cancel=cancel
        )
        return done

    def start_service(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        *,
        log: str,
        grace: float,
        stop_command: Sequence[str] = (),
    ) -> str:
        return str(
            self._call(
                "start_service",
                list(command),
                dict(env),
                log=log,
                grace=grace,
                stop_command=list(stop_command),
                _limit=START_TIMEOUT,
            )
        )

    def poll_service(self, handle: str) -> int | None:
        code: int | None = self._call("poll_service", handle)
        return code

    def stop_service(self, handle: str, grace: float | None = None) -> tuple[list[int], int]:
        survivors, killed = self._call("stop_service", handle, grace, _limit=600.0)
        return list(survivors), int(killed)

    def free_port(self, wanted: int, taken: Sequence[int] = (), owner: str = "") -> int:
        return int(self._call("free_port", wanted, list(taken), owner))

    def listener_problem(self, handle: str, port: int) -> str | None:
        problem: str | None = self._call("listener_problem", handle, port)
        return problem

    def listening(self, handle: str, exclude: Sequence[int] = ()) -> list[str]:
        return list(map(str, self._call("listening", handle, list(exclude))))

    def start_folder(self) -> str:
        return str(self._call("start_folder", _limit=600.0))

    def write_chunk(self, path: str, offset: int, data: bytes) -> None:
        self._call("write_chunk", path, offset, data)

    def finish_file(self, path: str, sha256: str, mode: int) -> None:
        self._call("finish_file", path, sha256, mode)

    def read_chunk(self, path: str, offset: int, size: int) -> bytes:
        return bytes(self._call("read_chunk", path, offset, size))

    def log_size(self, path: str) -> int:
        return int(self._call("log_size", path))

    def log_text(self, path: str, since: int, most: int) -> bytes:
        return bytes(self._call("log_text", path, since, most))

    def file_digest(self, path: str) -> tuple[str, int]:
        digest, mode = self._call("file_digest", path)
        return str(digest), int(mode)

    def stopped(self) -> float:
        return float(self._call("stopped"))

    def close(self) -> None:
        if self._lost is None:
            self._call("close", _limit=600.0)

    def ask(self, method: str, *args: Any, **kwargs: Any) -> tuple[int, Future[Any]]:
        """Begin a call, and do not wait; gives the number of its request.

        Raises
        ------
        EvaluationFailed
            The node is lost.
        """
        number = next(self._numbers)
        future: Future[Any] = Future()
        self._waiting[number] = future
        if self._lost is not None:  # asked when lost(), called by another thread, can already see the future
            self._waiting.pop(number, None)
            raise self._gone()
        self._send(Request(number, method, args, kwargs))
        return number, future

    def _call(
        self, method: str, *args: Any, _limit: float = 0.0, _cancel: threading.Event | None = None, **kwargs: Any
    ) -> Any:
        number, future = self.ask(method, *args, **kwargs)
        # A leader that was stopped has heard nothing meanwhile.
        deadline = awake() + _limit + ANSWER_TIMEOUT
        while True:
            try:
                return future.result(timeout=_POLL if _cancel is not None else deadline - awake())
            except FutureTimeout:
                if _cancel is not None and _cancel.is_set():
                    self._send(Abandon(number))
                    raise Cancelled(f"{self.name}: {method} was given up") from None
                if awake() >= deadline:
                    if method == "start_service":
                        self._late.add(number)
                    if self._waiting.pop(number, None) is None:  # it is being answered in this moment
                        self._late.discard(number)
                        continue
                    raise EvaluationFailed(
                        f"{self.name}: no answer to {method} within {_limit + ANSWER_TIMEOUT:g} s",
                        kind="infrastructure",
                    ) from None

    def _gone(self) -> EvaluationFailed:
        return EvaluationFailed(f"{self.name}: {NODE_LOST}: {self._lost}", kind="infrastructure")
