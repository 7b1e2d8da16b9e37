"""Does the load generator measure what an independent one measures? Both put the same load on the same server.

    python -m venv peer && peer/bin/pip install 'vllm[bench]'   # or guidellm==0.8.1
    python tests/benchmarks/loadgen_against_peer.py vllm peer/bin/vllm --requests 64 --runs 8

The embedded server runs on one core, the clients take turns on the others, with new prompts of the same length in every
run. Printed are the figures of each run, then the medians of both, and how far they are apart: the median over the
differences between neighbouring runs, because the speed of a shared machine drifts by more than is to be shown. A
server of another kind, such as ``guidellm mock-server`` whose latencies are known, takes its place with ``--url``.

Two differences are no errors. ``vllm bench serve`` also counts the last event of llama.cpp, which has no text, as the
end of a gap: with 48 tokens its ITL is 2 % shorter. GuideLLM starts the requests that are due at once over some tens of
milliseconds; as the server reads them as one batch, all get their first token together, and its TTFT is shorter by the
mean delay.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mpipso.service.embedded.model import model_path, words

FIGURES = {"output tok/s": 1, "TTFT ms": 1, "TTFT p99 ms": 1, "ITL ms": 2, "TPOT ms": 2, "E2E ms": 0}


def main() -> int:
    options = parse()
    if shutil.which(options.command) is None:
        print(f"{options.command} is not there: pip install {PACKAGES[options.peer]}", file=sys.stderr)
        return 2
    print(f"{'client':17}" + "".join(f"{name:>14}" for name in FIGURES))
    with tempfile.TemporaryDirectory() as folder, server(options) as url:
        clients = {"loadgen": loadgen, options.peer: PEERS[options.peer]}
        loadgen(options, url, Path(folder), seed=0)
        results: dict[str, list[dict[str, float]]] = {name: [] for name in clients}
        for run in range(options.runs):
            # Whoever goes first changes from run to run, so that a drift of the machine favours neither.
            for turn, name in enumerate(sorted(clients, reverse=bool(run % 2))):
                measured = clients[name](options, url, Path(folder), seed=1 + 2 * run + turn)
                results[name].append(measured)
                show(name, measured)
    for name, rows in results.items():
        show(f"{name}, median", {figure: statistics.median(row[figure] for row in rows) for figure in FIGURES})
    pairs = list(zip(results["loadgen"], results[options.peer], strict=True))
    apart = {figure: statistics.median(ours[figure] / peer[figure] - 1 for ours, peer in pairs) for figure in FIGURES}
    print(f"{'difference':17}" + "".join(f"{apart[figure]:+14.1%}" for figure in FIGURES))
    return 0


def parse() -> argparse.Namespace:
    cpus = sorted(os.sched_getaffinity(0))
    flags = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    flags.add_argument("peer", choices=PEERS)
    flags.add_argument("command", nargs="?", default="", help="its executable (default: of its name, on the PATH)")
    flags.add_argument("--runs", type=int, default=6)
    flags.add_argument("--requests", type=int, default=32)
    flags.add_argument("--concurrency", type=int, default=16)
    flags.add_argument("--input-tokens", type=int, default=64)
    flags.add_argument("--output-tokens", type=int, default=48)
    flags.add_argument("--url", default="", help="a running server that serves the model 'm' (default: start one)")
    flags.add_argument("--server-flags", default="-np 16", help="as one word (default: %(default)r)")
    flags.add_argument("--server-cpus", default=str(cpus[0]))
    flags.add_argument("--client-cpus", default=",".join(map(str, cpus[1:] or cpus)))
    options = flags.parse_args()
    options.command = options.command or options.peer
    return options


def show(name: str, row: dict[str, float]) -> None:
    print(f"{name:17}" + "".join(f"{row[figure]:14.{digits}f}" for figure, digits in FIGURES.items()), flush=True)


@contextmanager
def server(options: argparse.Namespace) -> Iterator[str]:
    if options.url:
        yield options.url
        return
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    command = ["taskset", "-c", options.server_cpus, sys.executable, "-m", "mpipso.service.embedded.server"]
    command += ["-m", str(model_path()), "--port", str(port), "--alias", "m", *options.server_flags.split()]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while not healthy(f"http://127.0.0.1:{port}/health"):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("the server did not start")
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def loadgen(options: argparse.Namespace, url: str, folder: Path, seed: int) -> dict[str, float]:
    output = folder / "loadgen.json"
    command = [sys.executable, "-m", "mpipso.service.loadgen", "--base-url", url, "--model", "m", "--close"]
    command += ["--requests", str(options.requests), "--concurrency", str(options.concurrency), "--warmup", "0"]
    command += ["--input-tokens", str(options.input_tokens), "--output-tokens", str(options.output_tokens)]
    run(options, [*command, "--seed", str(seed), "--output", str(output)])
    result = json.loads(output.read_text())
    check(options, result["completed"], result["total_output_tokens"])
    names = ("output_throughput", "ttft_mean_ms", "ttft_p99_ms", "itl_mean_ms", "tpot_mean_ms", "e2e_mean_ms")
    return dict(zip(FIGURES, (result[name] for name in names), strict=True))


def guidellm(options: argparse.Namespace, url: str, folder: Path, seed: int) -> dict[str, float]:
    output = folder / "guidellm.json"
    backend = {"kind": "openai_http", "target": url, "model": "m", "request_format": "/v1/completions"}
    extras = {"body": {"temperature": 0}, "headers": {"Connection": "close"}}
    command = [options.command, "run", "--backend", json.dumps(backend | {"extras": extras})]
    command += ["--profile", f"kind=concurrent,streams={options.concurrency}"]
    command += ["--constraint", f"kind=max_requests,count={options.requests}"]
    command += ["--data", f"kind=json_file,path={prompts(options, folder, seed)}"]
    run(options, [*command, "--output", f"kind=json,path={output}", "--disable-console"])
    measured = json.loads(output.read_text())["benchmarks"][0]["metrics"]
    ttft = measured["time_to_first_token_ms"]["successful"]
    # Its "time per output token" includes the first one; its "inter-token latency" is what others call TPOT.
    tpot = measured["inter_token_latency_ms"]["successful"]["mean"]
    check(options, measured["request_totals"]["successful"], measured["output_token_count"]["successful"]["total_sum"])
    return {
        "output tok/s": measured["output_tokens_per_second"]["successful"]["mean"],
        "TTFT ms": ttft["mean"],
        "TTFT p99 ms": ttft["percentiles"]["p99"],
        "ITL ms": tpot,
        "TPOT ms": tpot,
        "E2E ms": 1000 * measured["request_latency"]["successful"]["mean"],
    }


def vllm(options: argparse.Namespace, url: str, folder: Path, seed: int) -> dict[str, float]:
    tokenizer(folder)
    command = [options.command, "bench", "serve", "--backend", "openai", "--base-url", url, "--model", "m"]
    command += ["--endpoint", "/v1/completions", "--tokenizer", str(folder), "--header", "Connection=close"]
    command += ["--dataset-name", "custom", "--dataset-path", str(prompts(options, folder, seed))]
    command += ["--skip-chat-template", "--num-prompts", str(options.requests), "--disable-tqdm"]
    command += ["--custom-output-len", str(options.output_tokens), "--ignore-eos", "--temperature", "0"]
    command += ["--max-concurrency", str(options.concurrency), "--percentile-metrics", "ttft,tpot,itl,e2el"]
    command += ["--metric-percentiles", "99", "--save-result", "--result-dir", str(folder)]
    run(options, [*command, "--result-filename", "vllm.json"])
    result = json.loads((folder / "vllm.json").read_text())
    check(options, result["completed"], result["total_output_tokens"])
    names = ("output_throughput", "mean_ttft_ms", "p99_ttft_ms", "mean_itl_ms", "mean_tpot_ms", "mean_e2el_ms")
    return dict(zip(FIGURES, (result[name] for name in names), strict=True))


def prompts(options: argparse.Namespace, folder: Path, seed: int) -> Path:
    """A file with a prompt on each line, none of which any other run sees."""
    path = folder / "prompts.jsonl"
    draw = random.Random(f"peer {seed}")
    row = {"output_tokens_count": options.output_tokens}
    rows = [{"prompt": "".join(draw.choices(words(), k=options.input_tokens))} | row for _ in range(options.requests)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tokenizer(folder: Path) -> None:
    """Files from which the transformers library makes a tokenizer that counts words, as the embedded model does."""
    vocabulary = {word.strip(): number for number, word in enumerate(words())}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": next(iter(vocabulary))}
    parts = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    whole = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": model} | parts
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')


PEERS = {"guidellm": guidellm, "vllm": vllm}
"""How each is run, and what to install for it."""
PACKAGES = {"guidellm": "guidellm==0.8.1", "vllm": "vllm[bench]"}


def run(options: argparse.Namespace, command: list[str]) -> None:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "GUIDELLM__MAX_WORKER_PROCESSES": "1"}
    pinned = ["taskset", "-c", options.client_cpus, *command]
    done = subprocess.run(pinned, env=environment, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stderr[-2000:]}")


def check(options: argparse.Namespace, completed: float, tokens: float) -> None:
    wanted = (options.requests, options.requests * options.output_tokens)
    if (completed, tokens) != wanted:
        raise SystemExit(f"completed requests and tokens are {completed:g}, {tokens:g}, not {wanted}")


if __name__ == "__main__":
    sys.exit(main())
