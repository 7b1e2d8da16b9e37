"""A run in which slow configurations are stopped early, and one that goes on after it: real ranks, services, requests.

Each speed is a fifth of the one before, so that no load of the machine makes two of them alike.
"""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import tomli
import tomli_w
from faults.course import Course

SERVER = """
import json, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"data": [{"id": "tiny"}]}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        if not asked.get("stream"):
            self.wfile.write(b'{"choices": [{"text": " bak"}]}')
            return
        for _ in range(asked["max_tokens"]):
            time.sleep(float(sys.argv[2]) / 1000)
            self.wfile.write(b'data: {"choices": [{"text": " bak", "finish_reason": null}]}\\n\\n')
        usage = {"prompt_tokens": 2, "completion_tokens": asked["max_tokens"]}
        last = {"choices": [{"text": "", "finish_reason": "length"}], "usage": usage}
        self.wfile.write(f"data: {json.dumps(last)}\\n\\ndata: [DONE]\\n\\n".encode())

    def log_message(self, *_):
        pass

class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

Server(("", int(sys.argv[1])), Handler).serve_forever()
"""
"""Streams one token after another, so many milliseconds apart."""
FAST, USUAL, SLOW = 20, 100, 500


def early(folder: Path) -> Course:
    """A run on two groups of one node; what is measured first is given."""
    course = Course(folder)
    server = folder / "server.py"
    server.write_text(SERVER)
    parameters: list[dict[str, Any]] = [
        {"name": "pause", "type": "choice", "choices": [FAST, USUAL, SLOW], "default": USUAL, "env": "PAUSE"},
        {"name": "spare", "type": "int", "min": 1, "max": 4, "default": 1, "env": "SPARE"},
    ]
    first = [{"pause": FAST, "spare": 1}, {"pause": SLOW, "spare": 1}, {"pause": USUAL, "spare": 2}]
    search = {"strategy": "pso", "particles": 2, "evaluations": 4, "seed": 1, "baseline_repeats": 1, "repeats": 1}
    tree = {
        "output": str(course.runs),
        "service": {
            "engine": "command",
            "command": [sys.executable, str(server), "{port}", "{pause}"],
            "health_url": "http://{host}:{port}/health",
            "stop_grace": 5.0,
        },
        "benchmark": {
            "client": "openai",
            "requests": 8,
            "concurrency": 2,
            "input_tokens": 2,
            "output_tokens": 3,
            "warmup": 1,
            "early_stop": 0.3,
        },
        "objective": {"maximize": "output_throughput"},
        "search": {**search, "confirm": 0, "first": first},
        "parallel": {"share_cores": True},
        "parameters": parameters,
    }
    course.config.write_text(tomli_w.dumps(tree))
    return course


def check(course: Course, shown: str, evaluations: int, since: int = 0) -> None:
    """All that is slow and was asked for when the fast one was known was stopped, and the fast one is the best."""
    events = {event["number"]: event for event in course.events("evaluated")}
    assert len(events) == evaluations
    slow = [number for number, event in events.items() if event["configuration"]["pause"] != FAST and number > 1]
    stopped = [number for number, event in events.items() if "expected" in event]
    assert {*slow} <= {*stopped} and {2, 3} <= {*slow} and not {0, 1} & {*stopped}
    for number, event in events.items():
        assert not event.get("failure") and event["first"] > 0
        assert bool(event["metrics"]) is (number not in stopped)
    assert f"{evaluations} evaluations, 0 failed, 0 infeasible, {len(stopped)} stopped early in " in shown
    lines = [line for line in shown.splitlines() if "  stopped early  " in line]
    assert all(any(f"#{number} " in line for line in lines) for number in stopped if number >= since)
    folder = course.runs / "latest"
    assert tomli.loads((folder / "best.toml").read_text())["configuration"]["pause"] == FAST
    for number in stopped:
        kept = folder / "evaluations" / f"{number:04}-1"
        assert json.loads((kept / "benchmark-first.json").read_text())["completed"] == 2
        assert set(json.loads((kept / "stopped.json").read_text())) == {"first", "expected"}
        assert not (kept / "metrics.json").exists()


def reported(folder: Path, *flags: str) -> str:
    words = [sys.executable, "-m", "mpipso", "report", str(folder), *flags]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_slow_configurations_are_stopped_early_and_the_fast_one_is_the_best(tmp_path: Path) -> None:
    course = early(tmp_path)
    with course.started(ranks=2, nodes_per_group=1) as job:
        course.finished(job)
        check(course, job.stdout, 4)
    folder = (course.runs / "latest").resolve()
    with course.started("--resume", str(folder), "--evaluations", "6", ranks=2, nodes_per_group=1) as job:
        course.finished(job)
        check(course, job.stdout, 6, since=4)
    rows = list(csv.DictReader(io.StringIO(reported(folder, "--csv"))))
    results = [row["result"] for row in rows]
    assert results[:4] == ["feasible", "feasible", "stopped", "stopped"]
    for row in rows:
        assert float(row["output_throughput"]) > 0 and (row["completed"] == "") is (row["result"] == "stopped")
    table, *_ = reported(folder).split("\n\n")
    ranked = {line.split()[1] for line in table.splitlines() if line[:1].isdigit()}
    assert ranked == {row["evaluation"] for row in rows if row["result"] == "feasible"}
