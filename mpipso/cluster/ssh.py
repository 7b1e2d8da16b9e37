"""Nodes without a rank: the ssh connections of a leader, each with an agent (``service/agent.py``) at its other end.

Only keys let the leader in and only known hosts are spoken to: no passwords, no agent forwarding, no key is ever added
to a file. ``~/.ssh/config`` holds for what the configuration leaves open.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import sys
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import asyncssh

from mpipso.cluster.plan import PlacedNode
from mpipso.config.parallel import Ssh
from mpipso.edition import edition
from mpipso.errors import EvaluationFailed, UserError
from mpipso.service.environment import Fingerprint
from mpipso.service.facts import Facts
from mpipso.service.node import Share
from mpipso.service.remote import Abandon, Answer, RemoteNode, Request
from mpipso.service.wire import Alive, Lines, Message, Ready, decode, encode, tuples

T = TypeVar("T")

SILENCE = 15.0
"""Seconds without a sign of life after which leader and agent take each other for lost: both speak up every few."""
START_LIMIT = 60.0
"""Seconds for Python and mpipso to start on the node, which may load them over a slow file system."""
ANSWER_LIMIT = 120.0
"""Seconds for the node to tell what it is; vendors' tools are asked for its devices."""
LEAVE_LIMIT = 10.0

_READ = 1 << 18
_NOISE = 1 << 16
_SYSTEM_KNOWN_HOSTS = "/etc/ssh/ssh_known_hosts"


class SshNodes:
    """The nodes of one group without a rank; methods are called by one thread and wait.

    Call :meth:`connect` first, then :meth:`join` once the nodes' shares are known, at last :meth:`close`.

    Attributes
    ----------
    nodes:
        The nodes that have joined, by their position in the group.
    """

    def __init__(self, settings: Ssh) -> None:
        self.nodes: dict[int, RemoteNode] = {}
        self._settings = settings
        self._connections: dict[int, AgentConnection] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ssh", daemon=True)
        self._thread.start()

    def connect(self, nodes: Sequence[PlacedNode], commands: Mapping[str, str], root: Fingerprint) -> list[Facts]:
        """Connect to the nodes, all at once; what each of them is.

        Parameters
        ----------
        commands:
            The commands that every node must have, by configuration key.
        root:
            The environment of services on the root's host, to compare with.

        Raises
        ------
        UserError
            With everything that is wrong, one line for each node and mistake.
        """
        self._connections = {node.rank: AgentConnection(self._loop, node, self._settings) for node in nodes}
        found = self._run(self._connect(commands, root))
        problems = [str(line) for each in found if isinstance(each, UserError) for line in each.problems]
        if problems:
            connections = zip(self._connections.values(), found, strict=True)
            raise UserError(problems, hosts=[each.host for each, met in connections if isinstance(met, UserError)])
        return [each for each in found if not isinstance(each, UserError)]

    async def _connect(self, commands: Mapping[str, str], root: Fingerprint) -> list[Facts | UserError]:
        async def connected(connection: AgentConnection) -> Facts | UserError:
            try:
                await connection.open()
                return await connection.facts(commands, root)
            except UserError as error:
                return error

        return list(await asyncio.gather(*map(connected, self._connections.values())))

    def join(self, group: Sequence[PlacedNode], work_dir: str) -> None:
        """Make those nodes of a group without a rank a part of it, each with its share.

        Raises
        ------
        EvaluationFailed
            A node cannot; with its name.
        """
        for seat, placed in enumerate(group):
            if placed.transport == "ssh":
                self.nodes[seat] = self._run(self._connections[placed.rank].join(placed, work_dir))

    def close(self) -> None:
        """Hang up; what the agents still have running ends with them."""
        self._run(self._leave())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _leave(self) -> None:
        await asyncio.gather(*(connection.close() for connection in self._connections.values()))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class AgentConnection:
    """The connection to one node; coroutines run in the loop, :meth:`send` may be called from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, place: PlacedNode, settings: Ssh) -> None:
        self.host = place.host
        self._loop = loop
        self._place = place
        self._settings = settings
        self._python = settings.python or sys.executable
        self._connection: asyncssh.SSHClientConnection | None = None
        self._process: asyncssh.SSHClientProcess[bytes] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._lines = Lines()
        self._complaints = b""
        self._node = RemoteNode(place, "", self.send)
        self._lost: str | None = None

    async def open(self) -> None:
        """Connect, and start the agent.

        Raises
        ------
        UserError
            Either is impossible; what would be right.
        """
        options, known_hosts = self._options()
        limit = self._settings.connect_timeout
        try:
            self._connection = await asyncssh.connect(
                self.host, self._place.ssh_port or (), options=options, known_hosts=known_hosts or b""
            )
        except asyncssh.HostKeyNotVerifiable:
            known = ", ".join(known_hosts) or "no known_hosts file"
            raise self._wrong(
                f"its ssh host key is unknown or has changed according to {known}; "
                f"connect once by hand (ssh {self.host}) and compare the key's fingerprint"
            ) from None
        except asyncssh.PermissionDenied:
            raise self._wrong(
                f"permission denied over ssh for user {options.username}; give a key that is in its authorized_keys "
                f"to the ssh agent here, or name it in ssh.identity_files; the user is ssh_user of the node"
            ) from None
        except asyncssh.Error as error:
            raise self._wrong(f"no ssh connection: {error.reason}") from None
        except asyncio.TimeoutError:
            raise self._wrong(f"no ssh connection within ssh.connect_timeout = {limit:g} s") from None
        except OSError as error:
            raise self._wrong(f"no ssh connection: {error.strerror or error}; is the host's name right?") from None
        command = shlex.join([self._python, "-m", "mpipso.service.agent", str(SILENCE)])
        try:
            self._process = await self._connection.create_process(command, encoding=None)
            self._tasks.append(asyncio.create_task(self._hear_complaints(self._process)))
            await asyncio.wait_for(self._greeting(self._process), START_LIMIT)
        except asyncio.TimeoutError:
            raise self._wrong(f"{self._python} did not start mpipso within {START_LIMIT:g} s") from None
        except asyncssh.Error as error:
            raise self._wrong(f"{self._python} cannot be started over ssh: {error.reason}") from None
        self._tasks.append(asyncio.create_task(self._listen(self._process)))
        self._tasks.append(asyncio.create_task(self._stay()))

    async def facts(self, commands: Mapping[str, str], root: Fingerprint) -> Facts:
        """What the node is; arguments as for :meth:`SshNodes.connect`.

        Raises
        ------
        UserError
            It lacks commands, or does not answer.
        """
        try:
            told: dict[str, Any] = await self._ask("facts", str(Path.cwd()), list(commands.values()), asdict(root))
            lacking = told.pop("missing")
            facts = Facts(**tuples(told))
            peer = self._connection.get_extra_info("peername") if self._connection is not None else None
            if peer and peer[0] in facts.aliases:  # where the leader has found the node
                facts = replace(facts, address=str(peer[0]))
        except EvaluationFailed as failure:
            raise UserError(failure.cause) from None
        missing = [f"{key}: command not found: {word}" for key, word in commands.items() if word in lacking]
        if missing:
            raise UserError([f"{problem} (on {self.host})" for problem in missing])
        return facts

    async def join(self, placed: PlacedNode, work_dir: str) -> RemoteNode:
        """See :meth:`SshNodes.join`."""
        share = {field.name: getattr(placed, field.name) for field in fields(Share)}
        self._node.work_dir = str(await self._ask("join", work_dir, **share))
        self._node.share = placed
        return self._node

    def send(self, message: Request | Abandon) -> None:
        """Hand a message over."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the node lost
            self._loop.call_soon_threadsafe(self._write, message)

    async def close(self) -> None:
        """Hang up, when the agent has left or after a while."""
        if self._process is not None:
            with contextlib.suppress(OSError, asyncssh.Error, asyncio.TimeoutError):
                self._process.stdin.write_eof()
                await asyncio.wait_for(self._process.wait_closed(), LEAVE_LIMIT)
        for task in self._tasks:
            task.cancel()
        if self._connection is not None:
            self._connection.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _options(self) -> tuple[asyncssh.SSHClientConnectionOptions, list[str]]:
        """How to connect, and the files with the keys of known hosts that exist."""
        settings, place = self._settings, self._place
        given: dict[str, Any] = {
            "port": place.ssh_port,  # which the user's configuration may ask for
            "username": place.ssh_user,
            "client_keys": [str(Path(name).expanduser()) for name in settings.identity_files],
        }
        try:
            options = asyncssh.SSHClientConnectionOptions(
                config=(),  # the user's own
                host=self.host,
                preferred_auth="publickey",
                password_auth=False,
                kbdint_auth=False,
                host_based_auth=False,
                gss_auth=False,
                gss_kex=False,
                agent_forwarding=False,
                x11_forwarding=False,
                request_pty=False,
                connect_timeout=settings.connect_timeout,
                login_timeout=settings.connect_timeout,
                keepalive_interval=SILENCE / 3,
                keepalive_count_max=3,
                **{key: value for key, value in given.items() if value},
            )
        except (OSError, ValueError) as error:  # keys and configuration files that cannot be read or understood
            raise self._wrong(f"ssh cannot be set up: {error}") from None
        if settings.known_hosts:
            files = [settings.known_hosts]
        elif isinstance(options.known_hosts, list):
            files = [str(name) for name in options.known_hosts] or ["~/.ssh/known_hosts"]
        else:
            raise self._wrong("~/.ssh/config turns known hosts off; name a file in ssh.known_hosts")
        paths = [Path(name).expanduser() for name in [*files, _SYSTEM_KNOWN_HOSTS]]
        if settings.known_hosts and not paths[0].is_file():
            raise UserError(f"ssh.known_hosts = {settings.known_hosts!r}: there is no such file")
        return options, [str(path) for path in paths if path.is_file()]

    async def _greeting(self, process: asyncssh.SSHClientProcess[bytes]) -> None:
        """Wait for the agent's first word, past what a login shell may print before."""
        heard = 0
        while heard < _NOISE and (data := await process.stdout.read(_READ)):
            heard += len(data)
            for line in self._lines.feed(data):
                with contextlib.suppress(ValueError):
                    ready = decode(line)
                    if isinstance(ready, Ready) and ready.edition != edition():
                        raise self._wrong(
                            f"{self._python} has mpipso {ready.edition}, here is {edition()}; "
                            f"install the same, or set ssh.python"
                        )
                    return
        raise self._wrong(await self._refusal(process))

    async def _refusal(self, process: asyncssh.SSHClientProcess[bytes]) -> str:
        """Why there is no agent, in words."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(process.wait_closed(), LEAVE_LIMIT)
        last = self._last_complaint() or f"exit code {process.exit_status}, without a word"
        if process.exit_status in (126, 127):
            return f"{self._python} cannot be run there ({last}); set ssh.python"
        if "No module named" in last:
            module = last.split("No module named", 1)[1].strip(" )")
            return f"{self._python} has no module {module}: install mpipso in it, or set ssh.python"
        return f"{self._python} does not run mpipso: {last}"

    async def _hear_complaints(self, process: asyncssh.SSHClientProcess[bytes]) -> None:
        with contextlib.suppress(OSError, asyncssh.Error):
            while data := await process.stderr.read(_READ):
                self._complaints = (self._complaints + data)[-_NOISE:]

    def _last_complaint(self) -> str:
        lines = self._complaints.decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else ""

    async def _listen(self, process: asyncssh.SSHClientProcess[bytes]) -> None:
        """Take answers until there can be no more."""
        reason = ""
        try:
            while data := await process.stdout.read(_READ):
                for line in self._lines.feed(data):
                    self._take(decode(line))
        except ValueError as error:
            reason = f"its agent sent {error}"
        except (OSError, asyncssh.Error) as error:
            reason = f"the ssh connection broke: {error}"
        self._lost = reason or f"its agent ended{': ' if self._complaints else ''}{self._last_complaint()}"
        if self._connection is not None:
            self._connection.abort()
        self._node.lost(self._lost)

    async def _stay(self) -> None:
        """Keep the agent from taking its leader for lost."""
        while True:
            await asyncio.sleep(SILENCE / 5)
            self._write(Alive())

    def _take(self, message: Message) -> None:
        if not isinstance(message, Answer):
            raise ValueError(f"{type(message).__name__} instead of an answer")
        self._node.answered(message)

    async def _ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        _, asked = self._node.ask(method, *args, **kwargs)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(asked), ANSWER_LIMIT)
        except asyncio.TimeoutError:
            cause = f"{self.host}: no answer to {method} within {ANSWER_LIMIT:g} s"
            raise EvaluationFailed(cause, kind="infrastructure") from None

    def _write(self, message: Message) -> None:
        if self._process is not None and self._lost is None:
            with contextlib.suppress(OSError, asyncssh.Error):  # which ``_listen`` notices as well
                self._process.stdin.write(encode(message))

    def _wrong(self, what: str) -> UserError:
        return UserError(f"{self.host}: {what}")
