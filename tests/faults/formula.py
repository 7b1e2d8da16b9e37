"""A service whose speed is a known function of its configuration, and the client that measures it: for tests of faults.

    python formula.py serve --port PORT --config FILE
    python formula.py measure --url http://HOST:PORT

The same configuration always measures the same, so that a run with faults can be compared with one without. Everything
else is real: processes, sockets, time. ``--control DIR`` names a folder whose files inject faults: ``hang`` keeps the
benchmark waiting for as long as it is there, ``sick-NAME`` makes every start on host or group directory NAME fail.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


def throughput(values: dict[str, Any]) -> float:
    """Best at batch = 40, wait = 10 and the policy ``fair``: 1000."""
    batch, wait = int(values["batch"]), int(values["wait"])
    return 1000.0 - abs(batch - 40) * 9.0 - abs(wait - 10) * 7.0 - (0.0 if values["policy"] == "fair" else 150.0)


def seconds(values: dict[str, Any]) -> float:
    """How long a measurement takes, different for each configuration."""
    return 0.2 + (int(values["batch"]) * 7 + int(values["wait"]) * 13) % 10 * 0.05


class Handler(BaseHTTPRequestHandler):
    values: dict[str, Any]
    control: Path | None

    def do_GET(self) -> None:
        body: dict[str, Any] = {}
        if self.path == "/measure":
            time.sleep(seconds(self.values))
            while self.control is not None and (self.control / "hang").exists():
                time.sleep(0.05)
            body = {"completed": 10, "failed": 0, "output_throughput": throughput(self.values)}
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("serve", "measure"))
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--url", default="")
    parser.add_argument("--control", type=Path)
    told = parser.parse_args()
    if told.role == "measure":
        with urllib.request.urlopen(f"{told.url}/measure") as answer:
            print(answer.read().decode())
        return
    sick = told.control is not None and any((told.control / f"sick-{core}").exists() for core in _cores())
    if sick:
        sys.exit("fault injected: this node cannot start anything")
    Handler.values = json.loads(told.config.read_text())
    Handler.control = told.control
    Server(("", told.port), Handler).serve_forever()


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))


if __name__ == "__main__":
    main()
