"""A small inference service of two processes on two nodes, for tests: real sockets, real batching, no model.

Node 1 is the worker: it computes each token, on a TCP port of its own. Node 0 is the master: an OpenAI-like HTTP server
that batches the requests and asks the worker for every token, so without its worker it is not healthy and serves
nothing. The worker is started first, as with real engines, and tries to register until the master is up.

    python two_node_service.py --node-rank 1 --master-addr node0 --port 8000
    python two_node_service.py --node-rank 0 --master-addr node0 --port 8000 --batch 8

``--config FILE`` reads the same options, with underscores, from a JSON file; the command line goes first.

Three options change how fast it is. A step costs the worker STEP_S + LINEAR_S * n + SQUARE_S * n**2 seconds for n
sequences, so ``--batch`` is best near sqrt(STEP_S / SQUARE_S) = 12; ``--delay-us`` is how long a step waits for more
sequences to join it; ``--slots`` is how many requests are served at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import signal
import sys
import time
import uuid
from pathlib import Path
from typing import Any

STEP_S, LINEAR_S, SQUARE_S = 0.003, 0.00005, 0.00002
RETRY_S = 0.2


class WorkerLost(Exception):
    """There is no worker, or it went away."""


class Worker:
    """Computes tokens: a line ``{"states": [...]}`` is answered by a line ``{"states": [...], "tokens": [...]}``."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.connected = asyncio.Event()

    async def run(self) -> None:
        server = await asyncio.start_server(self._serve, "0.0.0.0", self.options.worker_port)
        port = server.sockets[0].getsockname()[1]
        print(f"worker listens on port {port}", flush=True)
        async with server:
            while True:
                await self._register(port)
                await self._until(self.connected.is_set)
                await self._until(lambda: not self.connected.is_set())
                print("worker lost its master", flush=True)

    async def _register(self, port: int) -> None:
        body = json.dumps({"port": port})
        head = f"POST /register HTTP/1.1\r\nHost: {self.options.master_addr}\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        while not self.connected.is_set():
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                if b" 200 " in await asyncio.wait_for(self._post((head + body).encode()), 5):
                    return
            await asyncio.sleep(RETRY_S)

    async def _post(self, request: bytes) -> bytes:
        """The first line of the master's answer."""
        reader, writer = await asyncio.open_connection(self.options.master_addr, self.options.port)
        try:
            writer.write(request)
            return await reader.readline()
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected.set()
        try:
            while line := await reader.readline():
                states = [_next_state(state) for state in json.loads(line)["states"]]
                count = len(states)
                await asyncio.sleep(STEP_S + LINEAR_S * count + SQUARE_S * count**2)
                answer = {"states": states, "tokens": [f" {state[:4]}" for state in states]}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self.connected.clear()
            writer.close()

    @staticmethod
    async def _until(condition: Any) -> None:
        while not condition():
            await asyncio.sleep(RETRY_S)


class Batcher:
    """Gathers the sequences that want a token into steps of the worker."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.slots = asyncio.Semaphore(options.slots)
        self.waiting: list[tuple[str, asyncio.Future[tuple[str, str]]]] = []
        self.arrived = asyncio.Event()
        self.full = asyncio.Event()
        self.link: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.steps = self.tokens = 0

    async def connect(self, host: str, port: int) -> None:
        self.disconnect()
        self.link = await asyncio.open_connection(host, port)
        print(f"worker {host}:{port} joined", flush=True)

    def disconnect(self) -> None:
        if self.link is not None:
            self.link[1].close()
            self.link = None
        waiting, self.waiting = self.waiting, []
        for _, future in waiting:
            if not future.done():
                future.set_exception(WorkerLost("the worker is gone"))

    @property
    def healthy(self) -> bool:
        """Whether the worker's connection is open; a closed one is noticed without a request."""
        if self.link is not None and self.link[0].at_eof():
            self.disconnect()
        return self.link is not None

    async def next_token(self, state: str) -> tuple[str, str]:
        """The sequence's next state and token.

        :raises WorkerLost:
        """
        if not self.healthy:
            raise WorkerLost("there is no worker")
        future: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
        self.waiting.append((state, future))
        self.arrived.set()
        if len(self.waiting) >= self.options.batch:
            self.full.set()
        return await future

    async def run(self) -> None:
        while True:
            await self.arrived.wait()
            if len(self.waiting) < self.options.batch and self.options.delay_us > 0:
                self.full.clear()
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self.full.wait(), self.options.delay_us / 1e6)
            step, self.waiting = self.waiting[: self.options.batch], self.waiting[self.options.batch :]
            if not self.waiting:
                self.arrived.clear()
            if step:
                await self._step(step)

    async def _step(self, step: list[tuple[str, asyncio.Future[tuple[str, str]]]]) -> None:
        try:
            if self.link is None:
                raise ConnectionError
            reader, writer = self.link
            writer.write(json.dumps({"states": [state for state, _ in step]}).encode() + b"\n")
            await writer.drain()
            line = await reader.readline()
            if not line:
                raise ConnectionError
        except ConnectionError:
            self.waiting = step + self.waiting
            self.disconnect()
            return
        answer = json.loads(line)
        self.steps += 1
        self.tokens += len(step)
        for (_, future), state, token in zip(step, answer["states"], answer["tokens"], strict=True):
            if not future.done():
                future.set_result((state, token))


class Master:
    """The HTTP side."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.batcher = Batcher(options)

    async def run(self) -> None:
        application = web.Application()
        application.add_routes(
            [
                web.get("/health", self.health),
                web.get("/metrics", self.metrics),
                web.get("/v1/models", self.models),
                web.post("/v1/completions", self.completions),
                web.post("/register", self.register),
            ]
        )
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "0.0.0.0", self.options.port).start()
        print(f"master listens on port {self.options.port}", flush=True)
        await self.batcher.run()

    async def health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.batcher.healthy else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=f"steps_total {self.batcher.steps}\ntokens_total {self.batcher.tokens}\n")

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self.options.model, "object": "model"}]})

    async def register(self, request: web.Request) -> web.Response:
        await self.batcher.connect(str(request.remote), (await request.json())["port"])
        return web.Response()

    async def completions(self, request: web.Request) -> web.StreamResponse:
        wanted = await request.json()
        if wanted.get("model") != self.options.model:
            return _error(404, f"the model {wanted.get('model')!r} does not exist")
        if not self.batcher.healthy:
            return _error(503, "there is no worker")
        prompt = wanted["prompt"]
        words = prompt.split() if isinstance(prompt, str) else prompt
        limit = int(wanted.get("max_tokens", 16))
        usage = {"prompt_tokens": len(words), "completion_tokens": limit, "total_tokens": len(words) + limit}
        state = hashlib.sha256(json.dumps(prompt).encode()).hexdigest()
        async with self.batcher.slots:
            if wanted.get("stream"):
                return await self._stream(request, wanted, state, limit, usage)
            text = ""
            try:
                for _ in range(limit):
                    state, token = await self.batcher.next_token(state)
                    text += token
            except WorkerLost as lost:
                return _error(500, str(lost))
        return web.json_response({**self._chunk(uuid.uuid4().hex, text, "length"), "usage": usage})

    async def _stream(
        self, request: web.Request, wanted: dict[str, Any], state: str, limit: int, usage: dict[str, int]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        name = uuid.uuid4().hex
        try:
            for index in range(limit):
                state, token = await self.batcher.next_token(state)
                await _event(response, self._chunk(name, token, "length" if index == limit - 1 else None))
        except WorkerLost as lost:
            await _event(response, {"error": {"message": str(lost), "code": 500}})
            return response
        if (wanted.get("stream_options") or {}).get("include_usage"):
            await _event(response, {**self._chunk(name, "", None), "choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    def _chunk(self, name: str, text: str, finish_reason: str | None) -> dict[str, Any]:
        return {
            "id": f"cmpl-{name}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self.options.model,
            "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}],
        }


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "code": status}}, status=status)


async def _event(response: web.StreamResponse, content: dict[str, Any]) -> None:
    await response.write(f"data: {json.dumps(content)}\n\n".encode())


def _next_state(state: str) -> str:
    return hashlib.sha256(state.encode()).hexdigest()


def parse(argv: list[str]) -> argparse.Namespace:
    """The options, those of the configuration file included."""
    parser = argparse.ArgumentParser(description="A two-node service for tests.")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--node-rank", type=int, default=0)
    parser.add_argument("--nnodes", type=int, default=2)
    parser.add_argument("--master-addr", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--worker-port", type=int, default=0, help="0: any free one")
    parser.add_argument("--model", default="two-node")
    parser.add_argument("--batch", type=int, default=1, help="most sequences in a step")
    parser.add_argument("--delay-us", type=int, default=0, help="how long a step waits to be filled")
    parser.add_argument("--slots", type=int, default=4, help="requests served at once")
    config = parser.parse_args(argv).config
    if config is not None:
        values = json.loads(config.read_text())
        unknown = set(values) - {action.dest for action in parser._actions}
        if unknown:
            parser.error(f"{config}: unknown {', '.join(sorted(unknown))}")
        parser.set_defaults(**values)
    options = parser.parse_args(argv)
    if options.nnodes != 2 or options.node_rank not in (0, 1):
        parser.error("the service has two nodes, 0 and 1")
    if min(options.batch, options.slots) < 1 or options.delay_us < 0:
        parser.error("batch and slots are at least 1, delay-us at least 0")
    return options


def main() -> None:
    global web
    options = parse(sys.argv[1:])
    if options.node_rank == 0:
        from aiohttp import web  # which takes half a second, and the worker needs nothing of it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    asyncio.run((Worker if options.node_rank else Master)(options).run())


if __name__ == "__main__":
    main()
