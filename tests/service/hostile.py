"""A service that does everything a service should not, one mode each; used only in tests.

    python hostile.py MODE [--port PORT] [--requests N] [--shm NAME]

All but ``noisy`` and ``leaky`` listen on 127.0.0.1:PORT, unless told otherwise below, and print ``ready`` when they do.

    good        answers, and ends on TERM: for comparison
    stubborn    ignores TERM
    daemon      double-forks a worker into its own session, with an empty environment, that ignores TERM and listens
    headless    the same, but its leader ends with code 3 as soon as the worker listens
    noisy       writes to its standard output as fast as it can
    early       answers 200 on /health, 503 on everything else, for ever
    crash       ends with code 7 at the request after the first N
    fade        says why it ends and then much that says less at the request after the first N, which fails as its port
                closes; ends with code 0 a second later
    freeze      prints ``frozen`` at the request after the first N, and never answers again
    flood       serves, and writes 10 MB a second to its standard output
    hang        accepts connections and never answers
    respawn     replaces its dead children at once; all ignore TERM, one of them listens
    leaky       leaves a shared-memory file, a named semaphore and a System V segment behind
    retitled    overwrites its environment, as programs that change their title do, in a session of its own
"""

from __future__ import annotations

import _multiprocessing
import argparse
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import resource_tracker, shared_memory

from tiny_service import Server


def serve(port: int, *, requests: int = -1, last: Callable[[], None] = lambda: None, completions: int = 200) -> None:
    """Answer HTTP for ever, completions with status ``completions``; after ``requests`` of them ``last`` happens."""
    left, lock = [requests], threading.Lock()

    def before() -> None:
        with lock:
            left[0] -= 1
            if left[0] == -1:
                last(server)

    server = Server("127.0.0.1", port, model="hostile", status=completions, before=before if requests >= 0 else str)
    print("ready", flush=True)
    server.serve_forever()


def crash(_: Server) -> None:
    print("fatal: the engine is on fire", flush=True)
    os._exit(7)


def fade(server: Server) -> None:
    print("KeyError: 'cmpl-1'\n" + 30_000 * "EngineDeadError: see stack trace (above)\n", flush=True)
    server.shutdown()
    server.server_close()
    threading.Timer(1.0, os._exit, (0,)).start()
    raise ConnectionAbortedError


def freeze(_: Server) -> None:
    print("frozen", flush=True)
    time.sleep(10_000)


def ignore_term() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def detach(mode: str, port: int) -> None:
    """Start this script in ``mode`` as a daemon does: two forks, a session of its own; without any environment."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execve(sys.executable, [sys.executable, __file__, mode, "--port", str(port)], {})
        os._exit(0)


def wait_for_listener(port: int) -> None:
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)


def flood() -> None:
    line = b"".join(b"%07d all work and no play makes a long log file\n" % number for number in range(1000))
    while True:
        os.write(1, line)
        time.sleep(0.005)


def hang(port: int) -> None:
    kept = []
    with socket.create_server(("127.0.0.1", port)) as listener:
        print("ready", flush=True)
        while True:
            kept.append(listener.accept())


def respawn(port: int) -> None:
    def child(first: bool) -> int:
        pid = os.fork()
        if pid == 0:
            if first:
                serve(port)
            while True:
                time.sleep(1)
        return pid

    children = {child(first): first for first in (True, False, False)}
    while True:
        pid, _ = os.wait()
        children[child(children.pop(pid))] = False


def leak(name: str) -> None:
    block = shared_memory.SharedMemory(name, create=True, size=4096)
    resource_tracker.unregister(f"/{name}", "shared_memory")  # or Python itself removes it
    block.buf[0] = 1
    semaphore = _multiprocessing.SemLock(1, 1, 1, f"/{name}-sem", False)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    segment = libc.shmget(0, 4096, 0o600)
    libc.shmat(segment, None, 0)
    print(f"segment {segment}", flush=True)
    print("ready", flush=True)
    time.sleep(10_000)
    del block, semaphore  # which are mapped for as long as they are referred to


def retitle(port: int) -> None:
    """Overwrite the memory that /proc/PID/environ shows: the string area behind ``environ``."""
    if os.fork() == 0:
        os.setsid()
        libc = ctypes.CDLL(None)
        first = ctypes.POINTER(ctypes.c_void_p).in_dll(libc, "environ")[0]
        with open("/proc/self/environ", "rb") as file:  # noqa: PTH123
            length = len(file.read())
        ctypes.memset(first, 0, length)
        ignore_term()
        serve(port)
    time.sleep(10_000)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--requests", type=int, default=0)
    parser.add_argument("--shm", default="")
    told = parser.parse_args()
    match told.mode:
        case "good":
            serve(told.port)
        case "stubborn":
            ignore_term()
            serve(told.port)
        case "daemon" | "headless":
            detach("stubborn", told.port)
            wait_for_listener(told.port)
            if told.mode == "headless":
                sys.exit(3)
            print("ready", flush=True)
            time.sleep(10_000)
        case "noisy":
            print("ready", flush=True)
            line = b"".join(b"%07d all work and no play makes a long log file\n" % number for number in range(1000))
            while True:
                os.write(1, line)
        case "early":
            serve(told.port, completions=503)
        case "crash":
            serve(told.port, requests=told.requests, last=crash)
        case "fade":
            print("ValueError: what was tried first cannot be used", flush=True)
            serve(told.port, requests=told.requests, last=fade)
            time.sleep(10_000)
        case "freeze":
            serve(told.port, requests=told.requests, last=freeze)
        case "flood":
            threading.Thread(target=flood, daemon=True).start()
            serve(told.port)
        case "hang":
            hang(told.port)
        case "respawn":
            ignore_term()
            respawn(told.port)
        case "leaky":
            leak(told.shm)
        case "retitled":
            retitle(told.port)
        case other:
            parser.error(f"no such mode: {other}")


if __name__ == "__main__":
    main()
