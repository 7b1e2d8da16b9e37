"""Whether a service that was started can be measured: it is healthy, it is ours, and it has answered a real request."""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mpipso.errors import EvaluationFailed
from mpipso.evaluation import NOT_READY
from mpipso.service.clients.apikey import api_key, headers
from mpipso.service.clients.base import Client, NotReady, Target
from mpipso.service.node import Node, nobody_listens
from mpipso.service.watch import interruptible

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.5
HEALTH_LIMIT = 10.0
"""Seconds for one answer of the health URL."""
COMMAND_LIMIT = 60.0
"""Seconds for one health command: one that hangs, as it asks a service that still loads, is called again."""
LONG = 60.0
"""Seconds after which who waits for a start is told where the log is."""
DYING = 5.0
"""Seconds, at most, from when a service is no longer healthy to its end: it closes its port first."""


@dataclass(frozen=True)
class Readiness:
    """How to tell that a service serves.

    Attributes
    ----------
    master, handle:
        The node of the master process, and the handle of the process there.
    target, client:
        What is to be measured, and the client that will measure it and probes it before.
    health_url, health_command:
        The command decides if there is one, else the URL; with neither, the open port.
    env:
        What is added to the command's environment, as to the service's.
    log:
        Where the log of that process is while it runs, for people.
    explain:
        Says in words what may be why the service is not ready; it is told whether a connection was refused where the
        service should listen.
    reached:
        Set once somebody has listened where the service should.
    """

    master: Node
    handle: str
    target: Target
    client: Client
    health_url: str
    health_command: Sequence[str]
    env: Mapping[str, str]
    log: str
    explain: Callable[[bool], Sequence[str]]
    reached: threading.Event = field(default_factory=threading.Event)

    def wait(self, limit: float, over: threading.Event, tell: Callable[[str], None]) -> None:
        """Return when the service can be measured; ``tell`` is told why it cannot, whenever that changes.

        Of a start that takes :data:`LONG` it is also told where the log is, on a second line.

        Raises
        ------
        EvaluationFailed
            It cannot within ``limit`` seconds, or never will: another process holds its port, the model is another.
        Cancelled
            ``over`` was set.
        """
        began = time.monotonic()
        deadline = began + limit
        pause, told, asked = FIRST_PAUSE, "", False

        def say(what: str) -> None:
            nonlocal told
            where = f";\nits log: {self.log}" if time.monotonic() - began >= LONG else ""
            if f"{what}{where}" != told:
                told = f"{what}{where}"
                tell(told)

        while True:
            try:
                self._check_health(max(1.0, deadline - time.monotonic()), over)
                self._check_owner()
                if not asked:  # one that is refused again and again says why
                    say("the first request is not answered yet")
                asked = True
                interruptible(self.client.probe(self.target, max(1.0, deadline - time.monotonic())), over)
                return
            except NotReady as problem:
                if not (self.health_command or isinstance(problem, _Refused)):
                    self.reached.set()
                if time.monotonic() >= deadline:
                    why = "; ".join([str(problem), *self.explain(isinstance(problem, _Refused))])
                    raise EvaluationFailed(f"{NOT_READY} {limit:g} s: {why}") from None
                say(str(problem))
            over.wait(pause)  # if it is set, the next check says so
            pause = min(2 * pause, LONGEST_PAUSE)

    def outlast(self, over: threading.Event) -> None:
        """Return when the service is healthy, at once if it is; one that is not may be dying, which ``over`` tells.

        It is given :data:`DYING` seconds.

        Raises
        ------
        Cancelled
            ``over`` was set before it was healthy.
        """
        deadline = time.monotonic() + DYING
        while (left := deadline - time.monotonic()) > 0:
            try:
                self._check_health(left, over)
                return
            except (NotReady, EvaluationFailed):
                over.wait(FIRST_PAUSE)

    def _check_health(self, left: float, over: threading.Event) -> None:
        if self.health_command:
            limit = min(left, COMMAND_LIMIT)
            done = self.master.execute(self.health_command, limit, env=self.env, cancel=over)
            if done.timed_out:
                raise NotReady(f"health command {self.health_command[0]} took longer than {limit:.0f} s")
            if done.exit_code:
                raise NotReady(f"health command {self.health_command[0]} ended with exit code {done.exit_code}")
        else:
            if self.health_url:
                own = self.health_url.startswith(f"{self.target.base_url}/")
                sent = headers(api_key(self.target.api_key_env if own else "", os.environ))
                if sent:  # a stranger who was quicker is not to read it
                    interruptible(_listening(self.target, left), over)
                    self._check_owner()
                interruptible(_healthy(self.health_url, sent, min(left, HEALTH_LIMIT)), over)
            interruptible(_listening(self.target, left), over)

    def _check_owner(self) -> None:
        """The port was free before the start, so that whoever else listens there has come in between.

        A health command vouches for its service: one in a container is below no keeper.
        """
        if self.health_command:
            return
        self.reached.set()
        problem = self.master.listener_problem(self.handle, self.target.port)
        if problem == nobody_listens(self.target.port):  # any more, or yet
            raise _Refused(problem)
        if problem is not None:
            raise EvaluationFailed(f"{self.master.name}: {problem}", kind="infrastructure")


async def _healthy(url: str, sent: Mapping[str, str], limit: float) -> None:
    import aiohttp  # slow to import, and most ranks ask no service

    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=limit)) as session,
            # Where it leads may be another service, or this one when it is not measured there.
            session.get(url, headers=sent, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                raise NotReady(f"{url} answers HTTP {answer.status}")
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, UnicodeError):  # the last for a host that is no name
        raise EvaluationFailed(f"service.health_url: {url} is no URL that can be asked") from None
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
        raise _unreachable(url, error) from None


async def _listening(target: Target, left: float) -> None:
    try:
        connecting = asyncio.open_connection(target.host, target.port)
        _, writer = await asyncio.wait_for(connecting, min(left, HEALTH_LIMIT))
    except (asyncio.TimeoutError, OSError) as error:
        raise _unreachable(f"nothing listens on {target.host}:{target.port}", error) from None
    writer.close()


class _Refused(NotReady):
    """Nobody listens where the service should."""


def _unreachable(where: str, error: Exception) -> NotReady:
    """A connection that failed, in the system's words: aiohttp's and asyncio's repeat the address."""
    origin = error.__cause__ if isinstance(error.__cause__, OSError) else error
    number = getattr(origin, "errno", None) or 0
    if number > 0 and not isinstance(origin, ssl.SSLError):  # which numbers its errors in its own way
        words = os.strerror(number)
    elif isinstance(error, asyncio.TimeoutError):
        words = "no answer"
    else:
        words = getattr(origin, "strerror", None) or str(origin) or type(origin).__name__
    return (_Refused if number == errno.ECONNREFUSED else NotReady)(f"{where}: {words}")
