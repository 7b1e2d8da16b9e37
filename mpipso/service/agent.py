"""The agent of a node that has no rank: ``python -m mpipso.service.agent SILENCE``, as the leader starts it over ssh.

Serves its leader's requests (``wire.py``) from standard input to standard output. When the input ends, or says nothing
for ``SILENCE`` seconds, the leader or the way to it is lost: the agent ends, and with it, by their keepers, the
services that it started.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mpipso.edition import edition
from mpipso.errors import EvaluationFailed
from mpipso.service.environment import Fingerprint
from mpipso.service.facts import facts
from mpipso.service.local import LocalNode
from mpipso.service.node import Share
from mpipso.service.remote import Abandon, Agent, Answer, Request, answer_to
from mpipso.service.wire import Alive, Lines, Message, Ready, decode, encode, tuples

_READ = 1 << 18


class AgentServer:
    """One node that a leader reaches from outside of the job: tells what it is, then becomes part of a group."""

    def __init__(self, answers: int) -> None:
        self._answers = answers
        self._writing = threading.Lock()
        self._node: LocalNode | None = None
        self._agent: Agent | None = None

    def say(self, message: Message) -> None:
        """Send a message, from any thread."""
        try:
            line = memoryview(encode(message))
        except ValueError as error:
            number = message.number if isinstance(message, Answer) else 0
            line = memoryview(encode(Answer(number, failure=EvaluationFailed(str(error), kind="infrastructure"))))
        # That nobody reads any more is told by the end of the input.
        with self._writing, contextlib.suppress(BrokenPipeError):
            while line:
                line = line[os.write(self._answers, line) :]

    def handle(self, message: Message) -> None:
        """Do what the leader asks for, or begin to."""
        if isinstance(message, Abandon) and self._agent is not None:
            self._agent.handle(message)
        elif isinstance(message, Request):
            if message.method == "facts":
                self._answer(message, _facts)
            elif message.method == "join":
                self._answer(message, self._join)
            elif self._agent is not None:
                self._agent.handle(message)
            else:
                failure = EvaluationFailed(f"{message.method} before join", kind="infrastructure")
                self.say(Answer(message.number, failure=failure))

    def leave(self) -> None:
        """Remove what files there are; processes are left to their keepers, which are quicker without a leader."""
        if self._node is not None:
            shutil.rmtree(self._node.work_dir, ignore_errors=True)

    def _answer(self, request: Request, function: Callable[..., Any]) -> None:
        self.say(answer_to(request, lambda asked: function(*asked.args, **asked.kwargs)))

    def _join(self, work_dir: str, **share: Any) -> str:
        self._node = LocalNode(Share(**tuples(share)), work_dir)
        self._agent = Agent(self._node, self.say)
        return self._node.work_dir


def _facts(folder: str, commands: Sequence[str], root: Mapping[str, Any]) -> dict[str, Any]:
    """This machine, and which of ``commands`` it lacks; from here on work in ``folder`` if it exists, as ranks do.

    ``root`` is the fingerprint of the environment on the root's host.
    """
    if Path(folder).is_dir():
        os.chdir(folder)
    return asdict(facts(Fingerprint(**root))) | {
        "missing": [command for command in commands if shutil.which(command) is None]
    }


def _lines(requests: int, silence: float) -> Iterator[bytes]:
    """Lines of the leader until it is lost."""
    lines = Lines()
    while select.select([requests], [], [], silence)[0] and (data := os.read(requests, _READ)):
        yield from lines.feed(data)


def main(silence: float) -> None:
    """Serve until the leader is lost or has hung up."""
    # Nothing that is printed, and no child, may come between the leader's lines and the agent's.
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    post = AgentServer(answers)
    post.say(Ready(edition()))
    code = 0
    try:
        for line in _lines(requests, silence):
            message = decode(line)
            if not isinstance(message, Alive):
                post.handle(message)
    except ValueError as error:
        print(error, file=sys.stderr, flush=True)
        code = 2
    post.leave()
    # Threads that still serve a request are not waited for.
    os._exit(code)


if __name__ == "__main__":
    main(float(sys.argv[1]))
