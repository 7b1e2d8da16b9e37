"""TCP ports of this node: which processes listen on a port, and which ports are free."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import socket
from collections.abc import Collection
from pathlib import Path

import psutil

from mpipso.errors import EvaluationFailed

_ALL_ADDRESSES = ("0.0.0.0", "::")


def listeners(port: int) -> list[int | None]:
    """The processes that listen on a TCP port of this host, on any address; None for one that cannot be seen."""
    found = {
        connection.pid
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
    }
    return sorted(found, key=lambda pid: (pid is None, pid))


def may_be_unseen(pids: Collection[int | None], port: int) -> bool:
    """Whether the listener on a port that cannot be seen may be one of these processes.

    One that has capabilities, or is not dumpable, shows its descriptors to root alone; its user is still this one.
    """
    return _users(port) == {os.geteuid()} and any(_hidden(pid) for pid in pids if pid is not None)


def _users(port: int) -> set[int]:
    """The users whose processes listen on a TCP port of this host (proc_net_tcp(5))."""
    tables = (path for path in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")) if path.exists())
    rows = (line.split() for table in tables for line in table.read_text().splitlines()[1:])
    return {int(row[7]) for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port}


def _hidden(pid: int) -> bool:
    """Whether a process does not show its descriptors."""
    try:
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                each.readlink()
    except PermissionError:
        return True
    except OSError:  # it is gone
        return False
    return False


def places(pids: Collection[int | None], exclude: Collection[int] = ()) -> list[str]:
    """Where these processes listen for clients: ``127.0.0.1:8000``, or ``*:8000`` if on every address.

    Left out are the ports in ``exclude``, and those of the range from which the system chooses: a process that lets
    the system choose means the port for its own use.
    """
    first, last = _chosen()
    found = {
        (connection.laddr.port, connection.laddr.ip)
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.pid in pids
    }
    return [
        f"*:{port}" if address in _ALL_ADDRESSES else f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        for port, address in sorted(found)
        if port not in exclude and not first <= port <= last
    ]


def port_holder(port: int, exclude: Collection[int | None] = ()) -> str:
    """Which processes listen on a port, without those in ``exclude``, in words; empty if none does.

    Of a command line only the beginning is told, as secrets may follow.
    """
    words = []
    for pid in (each for each in listeners(port) if each not in exclude):
        try:
            words.append(f"pid {pid} ({_command(psutil.Process(pid))})" if pid else "a process of another user")
        except psutil.Error:
            words.append(f"pid {pid}")
    return ", ".join(words)


def _command(holder: psutil.Process) -> str:
    program, *words = holder.cmdline() or [holder.name()]
    while words and words[0] in ("-u", "-I", "-S", "-B", "-E", "-s"):
        words.pop(0)
    shown = words[:2] if words[:1] == ["-m"] else [word for word in words[:1] if not word.startswith("-")]
    return " ".join([Path(program).name, *shown])


def port_is_free(port: int) -> bool:
    """Whether a service on this node could listen on a TCP port now, on every address of the node."""
    # The last two are what a host says on which IPv6 is switched off.
    return {_bind(address, port) for address in _ALL_ADDRESSES} <= {0, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


def _bind(address: str, port: int) -> int:
    """The number of the system's error (``errno``) when a socket is bound to this address and port; 0 for none."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As servers do: connections of the last service that linger in TIME_WAIT do not count, a listener does.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((address, port))
    except OSError as problem:
        return problem.errno or errno.EINVAL
    return 0


def free_port(exclude: Collection[int] = ()) -> int:
    """A port on which nobody listens, below the range that client connections are given their ports from.

    Chosen at random, so that several groups on one node seldom meet, and from 20000 on: Ray keeps 10002 to 19999 for
    its workers, and its head does not start on one of these.

    Raises
    ------
    EvaluationFailed
        There is none (``infrastructure``).
    """
    low, _ = _chosen()
    first, last = (20_000, low) if low > 21_000 else (2_000, max(low, 10_000))
    begin = random.SystemRandom().randrange(first, last)
    for port in itertools.chain(range(begin, last), range(first, begin)):
        if port not in exclude and port_is_free(port):
            return port
    raise EvaluationFailed("no free port", kind="infrastructure")


def _chosen() -> tuple[int, int]:
    """The first and the last port that the system gives to whoever names none."""
    first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    return int(first), int(last)
