"""What the log of a process of the service says of its end under load."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mpipso.service.engines.base import ENGINES
from mpipso.service.local import LocalNode
from mpipso.service.node import Share
from mpipso.service.reasons import ERROR, NAMED, OTHER
from mpipso.service.running import Running, ends

COMMAND = ENGINES.create("command")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "service.log"


@pytest.fixture
def process(tmp_path: Path, log: Path) -> Iterator[Running]:
    node = LocalNode(Share("node0"), work_dir=str(tmp_path))
    yield Running(node, "the service", "0", str(log))
    node.close()


def test_an_error_of_the_start_is_not_blamed_if_llama_cpp_has_one_under_load(process: Running, log: Path) -> None:
    log.write_text("0.1 E ggml_cuda_init: failed to initialize CUDA\n0.2 I main: listening\n")
    process.begin()
    with log.open("a") as more:
        more.write("0.3 I slot launch\n0.4 E alloc: failed to allocate buffer of size 5\nGGML_ASSERT(p) failed\n")
    llama = ENGINES.create("llamacpp")
    assert process.reason(llama) == (ERROR, "alloc: failed to allocate buffer of size 5")


def test_what_is_said_after_a_log_was_cut_is_found(process: Running, log: Path) -> None:
    log.write_text("loading\n" * 1000)
    process.begin()
    log.write_text("loading\n\n[... 7000 bytes left out ...]\nRuntimeError: died of it\n" + "more\n" * 100)
    assert process.reason(COMMAND, lately=True) == (NAMED, "RuntimeError: died of it")
    assert b"died of it" in process.kept()


def test_of_a_log_that_says_nothing_under_load_an_earlier_line_is_quoted(process: Running, log: Path) -> None:
    log.write_text("loading\nlistening\n")
    process.begin()
    assert process.reason(COMMAND) == (OTHER, "listening")
    assert process.reason(COMMAND, lately=True) == (OTHER, "its log is empty")


@pytest.mark.parametrize(
    ("code", "log_text", "said"),
    [
        (-9, "(EngineCore pid=6) INFO 11-28 05:12:09 [core.py:12] Enabled custom fusions: norm_quant\n", ""),
        (-9, 'INFO:     127.0.0.1:34782 - "POST /v1/completions HTTP/1.1" 200 OK\n', ""),
        (-9, "", ""),
        (-9, "RuntimeError: no\nINFO: stopping\n", ": RuntimeError: no"),
        (-11, "INFO: loading\n", ": INFO: loading"),
        (1, "INFO: loading\n", ": INFO: loading"),
    ],
)
def test_of_a_process_that_was_killed_no_line_is_quoted_that_tells_of_no_error(
    process: Running, log: Path, code: int, log_text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.write_text(log_text)
    monkeypatch.setattr(process.node, "poll_service", lambda _handle: code)
    (cause,), told = ends([process], COMMAND, "while starting", heard=False)
    how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
    assert (cause, told) == (f"node0: the service {how} while starting{said}", [process])


@pytest.mark.parametrize("code", [1, -9])
def test_who_has_lost_its_connection_to_another_is_told_after_that_one_however_it_ends(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SGLang always kills itself."""
    monkeypatch.setattr(LocalNode, "poll_service", lambda *_: code)
    lost = "RuntimeError: [/src/gloo/transport/tcp/pair.cc:537] Read error [10.0.0.2]: Connection reset by peer"
    several = []
    for name, line in (("node0", lost), ("node1", "Scheduler or DataParallelController 304 terminated with -9")):
        log = tmp_path / name
        log.write_text(f"{line}\n")
        several.append(Running(LocalNode(Share(name), work_dir=str(tmp_path)), "the process", "0", str(log)))
    causes, _ = ends(several, ENGINES.create("sglang"), "while starting", heard=True)
    assert [cause.partition(":")[0] for cause in causes] == ["node1", "node0"]
    for each in several:
        each.node.close()
