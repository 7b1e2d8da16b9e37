"""A tiny inference service for tests: a real HTTP server with OpenAI's completions, streamed or not, and no model.

    python tiny_service.py --port PORT [--host HOST] [--model NAME] [--token-ms MS] [--config FILE] [--key-env NAME]

It prints ``ready`` when it listens, answers GET /health and GET /v1/models, and ends on TERM. ``--config`` names a JSON
file with the same options; ``--key-env`` a variable with the key that it wants. With ``--node-rank`` above 0 it is a
worker: it only says so, and waits.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKEN = " bak"


class Server(ThreadingHTTPServer):
    """The server; ``before`` is called before every completion, ``status`` is what everything but /health answers.

    ``only`` is the one path that it completes on, empty for any; on that for chats it answers as a chat. Without its
    ``key`` it refuses requests, with a message that quotes what it was given.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        host: str,
        port: int,
        *,
        model: str = "tiny",
        token_ms: float = 0.0,
        status: int = 200,
        only: str = "",
        key: str = "",
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self.model, self.pause, self.status, self.before = model, token_ms / 1000, status, before
        self.only, self.key = only, key
        super().__init__((host, port), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refused(self) -> bool:
        given = str(self.headers.get("Authorization"))
        if self.path == "/health" or not self.server.key or given == f"Bearer {self.server.key}":
            return False
        print("invalid key:", given, flush=True)
        self.answer(401, {"error": {"message": f"invalid key: {given}"}})
        return True

    def do_GET(self) -> None:
        if self.refused():
            return
        self.answer(200 if self.path == "/health" else self.server.status, {"data": [{"id": self.server.model}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        if self.refused():
            return
        self.server.before()
        tokens = int(asked.get("max_tokens", 1))
        usage = {"prompt_tokens": 1, "completion_tokens": tokens}
        chat = self.path.endswith("/chat/completions")
        if self.server.status != 200:
            self.answer(self.server.status, {"error": {"message": "cannot serve"}})
        elif self.server.only not in ("", self.path):
            self.answer(404, {"error": {"message": "no such path"}})
        elif asked.get("stream"):
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for _ in range(tokens):
                time.sleep(self.server.pause)
                told = {"delta": {"content": TOKEN}} if chat else {"text": TOKEN}
                self.event(json.dumps({"choices": [{**told, "finish_reason": None}]}))
            self.event(json.dumps({"choices": [{"text": "", "finish_reason": "length"}], "usage": usage}))
            self.event("[DONE]")
        else:
            time.sleep(self.server.pause * tokens)
            told = {"message": {"content": TOKEN * tokens}} if chat else {"text": TOKEN * tokens}
            self.answer(200, {"choices": [{**told, "finish_reason": "length"}], "usage": usage})

    def event(self, text: str) -> None:
        self.wfile.write(f"data: {text}\n\n".encode())

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--token-ms", type=float, default=0.0)
    parser.add_argument("--node-rank", type=int, default=0)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--key-env", default="")
    told = parser.parse_args()
    if told.config:
        parser.set_defaults(**json.loads(told.config.read_text()))
        told = parser.parse_args()
    if told.node_rank:
        print(f"worker {told.node_rank} ready", os.environ.get("MPIPSO_MASTER_ADDR", ""), flush=True)
        time.sleep(10_000)
    key = os.environ.get(told.key_env, "")
    server = Server(told.host, told.port, model=told.model, token_ms=told.token_ms, key=key)
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
