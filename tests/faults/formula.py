"""A service whose speed is a known function of its configuration, and the client that measures it: for tests of faults.

    python formula.py serve --port PORT --config FILE
    python formula.py measure --url http://HOST:PORT

The same configuration always measures the same, so that a run with faults can be compared with one without. Everything
else is real: processes, sockets, time. ``--control DIR`` names a folder whose files inject faults. A file with the name
of a fault makes every evaluation suffer it, ``FAULT-NODE`` those on one node (a service knows its node from the
environment variable ``FORMULA_NODE``), and ``once-FAULT`` exactly one, which takes the file away:

========== ==========================================================
exit       the service ends at its start
unhealthy  the service never becomes healthy
hang       the benchmark waits for as long as the file is there, or for ever if it is one
lack       a metric is missing in the client's report
refuse     most requests fail
nothing    no request is completed
crash      the client crashes
========== ==========================================================
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

NODE = "FORMULA_NODE"


def throughput(values: dict[str, Any]) -> float:
    """Best at batch = 40, wait = 10 and the policy ``fair``: 1000."""
    batch, wait = int(values["batch"]), int(values["wait"])
    return 1000.0 - abs(batch - 40) * 9.0 - abs(wait - 10) * 7.0 - (0.0 if values["policy"] == "fair" else 150.0)


def seconds(values: dict[str, Any]) -> float:
    """How long a measurement takes, different for each configuration."""
    return 0.2 + (int(values["batch"]) * 7 + int(values["wait"]) * 13) % 10 * 0.05


class Control:
    """The folder whose files inject faults."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def lasts(self, fault: str) -> bool:
        """Whether the fault is there for this node."""
        names = (fault, f"{fault}-{os.environ.get(NODE, '')}")
        return self._folder is not None and any((self._folder / name).exists() for name in names)

    def strikes(self, fault: str) -> bool:
        """Whether this evaluation suffers the fault."""
        if self._folder is None:
            return False
        if self.lasts(fault):
            return True
        try:
            (self._folder / f"once-{fault}").unlink()
        except OSError:
            return False
        return True


def serve(port: int, values: dict[str, Any], control: Control) -> None:
    """Be the service with this configuration, for ever."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer  # the client starts faster without

    unhealthy = control.strikes("unhealthy")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body: dict[str, Any] = {}
            if self.path == "/measure":
                time.sleep(seconds(values))
                body = measured(values, control)
            elif self.path == "/values":
                body = values
            data = json.dumps(body).encode()
            self.send_response(503 if unhealthy else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        allow_reuse_address = True

    Server(("", port), Handler).serve_forever()


def measured(values: dict[str, Any], control: Control) -> dict[str, Any]:
    """What the service answers that is measured."""
    while control.lasts("hang"):
        time.sleep(0.05)
    if control.strikes("hang"):
        time.sleep(3600.0)
    found = {"completed": 10, "failed": 0, "output_throughput": throughput(values)}
    if control.strikes("lack"):
        del found["output_throughput"]
    if control.strikes("refuse"):
        found.update(completed=2, failed=8)
    if control.strikes("nothing"):
        found.update(completed=0, failed=10)
    return found


def measure(url: str) -> object:
    """What the service at ``http://HOST:PORT`` answers; urllib takes longer to import than all the rest takes."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"GET /measure HTTP/1.0\r\n\r\n")
        with connection.makefile("rb") as answer:
            return json.loads(answer.read().partition(b"\r\n\r\n")[2])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("serve", "measure"))
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--url", default="")
    parser.add_argument("--control", type=Path)
    told = parser.parse_args()
    control = Control(told.control)
    if told.role == "measure":
        if control.strikes("crash"):
            raise RuntimeError("fault injected: the client crashes")
        print(json.dumps(measure(told.url)))
        return
    if control.strikes("exit"):
        sys.exit("fault injected: this node cannot start anything")
    serve(told.port, json.loads(told.config.read_text()), control)


if __name__ == "__main__":
    main()
