"""The embedded service: its model file, and llama.cpp's server under llama-server's command line."""

from __future__ import annotations

import fcntl
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("xllamacpp")
pytest.importorskip("gguf")

from mpipso.config.file import parse
from mpipso.config.templates import EMBEDDED, template
from mpipso.errors import UserError
from mpipso.rendezvous import _problems_here
from mpipso.service.clients.base import CLIENTS
from mpipso.service.clients.vocabulary import words
from mpipso.service.embedded import model, server
from mpipso.service.engines.base import ENGINES
from mpipso.startup import Options

SERVER = (sys.executable, "-m", "mpipso.service.embedded.server")


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.model_path(tmp_path_factory.mktemp("cache"))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def call(port: int, path: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data, timeout=20) as answer:
        return json.load(answer)


def wait_until_healthy(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        try:
            call(port, "/health")
            return
        except OSError:
            time.sleep(0.02)
    raise AssertionError("not healthy in time")


@contextmanager
def running(gguf: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    port = free_port()
    command = [*SERVER, "-m", str(gguf), "--port", str(port), "-t", "1", *flags]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until_healthy(process, port)
            yield process, port
        finally:
            process.kill()


def refused(gguf: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SERVER, "-m", str(gguf), *flags], capture_output=True, text=True, timeout=60)


# --- the model -------------------------------------------------------------------------------------------------------


def test_the_model_has_the_same_bytes_every_time(gguf: Path, tmp_path: Path) -> None:
    again = model.model_path(tmp_path)
    assert again != gguf
    assert again.read_bytes() == gguf.read_bytes()
    assert 25e6 < gguf.stat().st_size < 35e6


def test_an_intact_model_is_not_made_again(gguf: Path) -> None:
    before = gguf.stat()
    assert model.model_path(gguf.parent) == gguf
    assert (gguf.stat().st_ino, gguf.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_model_that_has_not_changed_is_not_read_again(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model.model_path(gguf.parent)
    monkeypatch.delattr("hashlib.sha256")
    assert model.model_path(gguf.parent) == gguf


@pytest.mark.parametrize("damage", ["truncated", "one bit", "no checksum"])
def test_a_damaged_model_is_replaced(gguf: Path, tmp_path: Path, damage: str) -> None:
    path = tmp_path / gguf.name
    path.write_bytes(gguf.read_bytes())
    checksum = tmp_path / f"{gguf.name}.sha256"
    checksum.write_text((gguf.parent / checksum.name).read_text())
    model.model_path(tmp_path)  # knows it as intact
    if damage == "truncated":
        os.truncate(path, 1_000_000)
    elif damage == "one bit":
        with path.open("r+b") as file:
            file.seek(20_000_000)
            byte = file.read(1)[0]
            file.seek(20_000_000)
            file.write(bytes([byte ^ 1]))
    else:
        checksum.unlink()
    assert model.model_path(tmp_path) == path
    assert path.read_bytes() == gguf.read_bytes()
    assert checksum.exists()


def test_several_processes_get_the_model_at_once(gguf: Path, tmp_path: Path) -> None:
    with ProcessPoolExecutor(4) as pool:
        paths = set(pool.map(model.model_path, [tmp_path] * 4))
    assert paths == {tmp_path / gguf.name}
    assert (tmp_path / gguf.name).read_bytes() == gguf.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {gguf.name, f"{gguf.name}.sha256", f"{gguf.name}.lock"}


def test_a_cache_that_cannot_be_written_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        model.model_path(tmp_path / "file" / "cache")


@pytest.mark.parametrize(
    ("base", "expected"), [("/x/y", "/x/y/mpipso"), ("rel", "~/.cache/mpipso"), ("", "~/.cache/mpipso")]
)
def test_the_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch, base: str, expected: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", base)
    assert model.default_cache() == Path(expected).expanduser()


def test_a_user_without_a_home_has_to_name_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a container's user may be; the user data base is a fake that knows nobody."""
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(UserError, match="set HOME or XDG_CACHE_HOME"):
        model.model_path()
    config = parse(template(EMBEDDED), "template", engines=ENGINES.names(), clients=CLIENTS.names())
    (problem,) = _problems_here(Options(), config)  # on one host of several, where others would wait for it
    assert problem == "the embedded model has no place: set HOME or XDG_CACHE_HOME, as this user has no home"


def test_the_command_prints_the_path(gguf: Path) -> None:
    environment = os.environ | {"XDG_CACHE_HOME": str(gguf.parent)}
    command = [sys.executable, "-m", "mpipso.service.embedded.model"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{gguf.parent}/mpipso/{gguf.name}\n"


# --- the server ------------------------------------------------------------------------------------------------------


def test_words_are_tokens_in_prompts_and_answers(gguf: Path) -> None:
    vocabulary = words()
    assert len(set(vocabulary)) == len(vocabulary)
    with running(gguf, "-np", "4") as (_, port):
        all_words = call(port, "/tokenize", {"content": "".join(vocabulary)})["tokens"]
        assert len(set(all_words)) == len(all_words) == len(vocabulary)
        for seed in range(3):
            prompt = "".join(random.Random(seed).choices(vocabulary, k=17))
            body = {"prompt": prompt, "max_tokens": 40, "temperature": 0}
            answer = call(port, "/v1/completions", body)
            assert answer["usage"]["prompt_tokens"] == 17
            assert answer["usage"]["completion_tokens"] == 40
            assert answer["choices"][0]["finish_reason"] == "length"
            text = answer["choices"][0]["text"]
            assert re.findall(" [a-z]{3}", text) == [f" {word}" for word in text.split()]
            assert len(text.split()) == 40
            assert set(text.split()) <= {word.strip() for word in vocabulary}


def test_flags_reach_llama_cpp(gguf: Path) -> None:
    with running(gguf, "-np", "3", "-c", "3072", "--alias", "tiny", "--metrics") as (_, port):
        props = call(port, "/props")
        assert props["total_slots"] == 3
        assert props["default_generation_settings"]["n_ctx"] == 1024
        assert call(port, "/v1/models")["data"][0]["id"] == "tiny"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            assert b"llamacpp:" in answer.read()


def test_without_flags_it_is_as_llama_server_would_be() -> None:
    params = server.parameters(server.parser().parse_args(["-m", "F"]))
    assert params.n_parallel == -1
    assert (params.n_ctx, params.n_batch, params.n_ubatch) == (0, 2048, 512)
    assert params.cpuparams_batch.n_threads == -1
    assert params.cont_batching
    assert not params.endpoint_metrics
    assert not params.fit_params
    assert not params.reuse_port


def test_it_takes_as_many_threads_as_it_may_use_cores() -> None:
    allowed = os.sched_getaffinity(0)
    script = "from mpipso.service.embedded.server import *; import sys;"
    script += "os.sched_setaffinity(0, {int(sys.argv[1])});"
    script += "print(parameters(parser().parse_args(['-m', 'F'])).cpuparams.n_threads)"
    command = [sys.executable, "-c", script, str(min(allowed))]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\n"
    cores = server.physical_cores(allowed)
    assert 1 <= cores <= len(allowed)
    assert server.parameters(server.parser().parse_args(["-m", "F"])).cpuparams.n_threads == cores
    assert server.parameters(server.parser().parse_args(["-m", "F", "-t", "7"])).cpuparams.n_threads == 7


def test_every_flag_sets_its_parameter() -> None:
    line = (
        "-m F --host 0.0.0.0 --port 99 -np 2 -c 512 -b 64 -ub 32 -t 3 -tb 4 -fa on -ctk q8_0 -ctv iq4_nl -kvu"
        " --poll 7 -nocb --metrics -a N -ngl 5"
    )
    params = server.parameters(server.parser().parse_args(line.split()))
    assert (params.model.path, params.hostnames, params.port, params.model_alias) == ("F", ["0.0.0.0"], 99, {"N"})
    assert (params.n_parallel, params.n_ctx, params.n_batch, params.n_ubatch) == (2, 512, 64, 32)
    assert (params.cpuparams.n_threads, params.cpuparams_batch.n_threads) == (3, 4)
    assert (params.cpuparams.poll, params.cpuparams_batch.poll) == (7, 7)
    assert params.flash_attn_type.name == "LLAMA_FLASH_ATTN_TYPE_ENABLED"
    assert (params.cache_type_k.name, params.cache_type_v.name) == ("GGML_TYPE_Q8_0", "GGML_TYPE_IQ4_NL")
    assert (params.kv_unified, params.cont_batching, params.endpoint_metrics) == (True, False, True)
    assert params.n_gpu_layers == 5


@pytest.mark.parametrize("name", server.CACHE_TYPES)
def test_llama_cpp_knows_every_cache_type(name: str) -> None:
    params = server.parameters(server.parser().parse_args(["-m", "F", "-ctk", name, "-ctv", name]))
    assert params.cache_type_k.name == params.cache_type_v.name == f"GGML_TYPE_{name.upper()}"


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("-fa", "off", "-ctv", "q8_0"), "quantized V cache requires flash_attn"),
        (("-np", "300"), "n_seq_max must be <= 256"),
        (("-np", "8", "-b", "4"), "n_outputs_max"),
    ],
)
def test_what_llama_cpp_refuses_ends_with_its_reason(gguf: Path, flags: tuple[str, ...], reason: str) -> None:
    done = refused(gguf, "--port", str(free_port()), *flags)
    assert done.returncode not in (0, 2)
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_all_that_llama_cpp_has_said_is_written_before_it_ends(gguf: Path) -> None:
    model = f"{gguf.parent}{'/.' * 1800}/{gguf.name}"  # one that makes its log longer than what a pipe holds
    command = [*SERVER, "-m", model, "--port", str(free_port()), "-np", "300"]
    said = b""
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
        while piece := os.read(process.stderr.fileno(), 4096):
            said += piece
            time.sleep(0.1)  # its thread falls behind, as on a busy machine
    *_, last, own = said.decode().splitlines()
    assert last.endswith("exiting due to model loading error")
    assert own.startswith("mpipso.service.embedded.server: llama.cpp did not start")
    assert b"n_seq_max must be <= 256" in said


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "F.gguf").write_text("nothing")
    done = refused(tmp_path / "F.gguf", "--port", str(free_port()))
    assert done.returncode == 1
    assert "F.gguf" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "flags",
    [("--port", "0"), ("--port", "65536"), ("-np", "0"), ("-b", "x"), ("-b", str(2**31)), ("-fa", "1"), ("-zz",)],
)
def test_bad_flags_have_exit_code_2(gguf: Path, flags: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as stop:
        server.main(["-m", str(gguf), *flags])
    assert stop.value.code == 2


def test_a_second_server_does_not_share_the_port(gguf: Path) -> None:
    with running(gguf) as (first, port):
        done = refused(gguf, "--port", str(port))
        assert done.returncode == 1
        assert str(port) in done.stderr
        assert "Traceback" not in done.stderr
        assert first.poll() is None
        assert call(port, "/health") == {"status": "ok"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_during_an_answer(gguf: Path, number: signal.Signals) -> None:
    with running(gguf) as (process, port), socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        body = json.dumps({"prompt": " bak", "max_tokens": 4000, "stream": True, "ignore_eos": True}).encode()
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        while b"data:" not in client.recv(4096):
            pass
        process.send_signal(number)
        assert process.wait(20) == 0


def test_a_signal_ends_it_while_it_starts(gguf: Path) -> None:
    command = [*SERVER, "-m", str(gguf), "--port", str(free_port())]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.terminate()
        assert process.wait(20) in (0, -signal.SIGTERM)
        assert b"Traceback" not in process.stderr.read()
