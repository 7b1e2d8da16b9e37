"""llama.cpp's own HTTP server from the ``xllamacpp`` wheel, under the command line of ``llama-server``.

``python -m mpipso.service.embedded.server -m MODEL --port PORT [-np SLOTS] ...`` can stand in for a ``llama-server``
binary: the flags have its names and meaning (tools/server/README.md of llama.cpp), and one that is not given leaves
what ``llama-server`` would choose, with two exceptions. Nothing is fitted to the memory of the machine (``--fit off``),
because a tuned value must be the value that was measured. And where ``llama-server`` takes one thread per physical core
of the machine, this takes one per physical core that the process may use: more would only wait for each other.

Exit codes: 0 after SIGTERM or SIGINT, 1 when the server cannot start (the reason is on stderr), 2 for bad flags.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mpipso.flags import bounded

if TYPE_CHECKING:
    from xllamacpp import CommonParams

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
FLASH_ATTENTION = {"on": "ENABLED", "off": "DISABLED", "auto": "AUTO"}
_whole = functools.partial(bounded, int, high=2**31 - 1)
"""The type of a flag for what llama.cpp's integers hold."""


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    try:
        from xllamacpp import Server, xllamacpp
    except ImportError as error:
        return _refuse(f"{error}: pip install xllamacpp")
    # When a check of llama.cpp fails, it would start a debugger for a backtrace, which takes many seconds.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    # A signal during the start ends the process at once; Python would hold it back until the model is loaded.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        server = Server(parameters(options))
    except (RuntimeError, ValueError) as error:
        _write_log(xllamacpp.__file__)
        return _refuse(f"llama.cpp did not start, for the reason it gave above: {error}")
    if not server.listening_address.endswith(f":{options.port}"):
        return _refuse(f"listens on {server.listening_address} instead of port {options.port}")
    _wait_for_signal()
    # There is nothing to save, and an orderly end waits for every open stream.
    os._exit(0)


def parser() -> argparse.ArgumentParser:
    """The command line of ``llama-server``, as far as it is supported here."""
    flags = argparse.ArgumentParser("mpipso.service.embedded.server", allow_abbrev=False, description=__doc__)
    add = flags.add_argument
    add("-m", "--model", required=True, help="GGUF file")
    add("-a", "--alias", help="model name that the API shows (default: the file)")
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=_whole(1, high=65535), default=8080, help="port to listen on (default: %(default)s)")
    add("-np", "--parallel", type=_whole(1), help="slots (default: 4, which share one KV cache)")
    add("-c", "--ctx-size", type=_whole(0), help="context of all slots together in tokens; 0: that of the model")
    add("-b", "--batch-size", type=_whole(1), help="tokens in a logical batch (default: 2048)")
    add("-ub", "--ubatch-size", type=_whole(1), help="tokens in a physical batch (default: 512)")
    add("-t", "--threads", type=_whole(-1), help="threads (default, as -1: one per physical core that it may use)")
    add("-tb", "--threads-batch", type=_whole(1), help="threads for prompts and batches (default: as --threads)")
    add("-fa", "--flash-attn", choices=FLASH_ATTENTION, help="flash attention (default: auto)")
    add("-ctk", "--cache-type-k", choices=CACHE_TYPES, help="data type of the K cache (default: f16)")
    add("-ctv", "--cache-type-v", choices=CACHE_TYPES, help="data type of the V cache (default: f16)")
    add("--poll", type=_whole(0, high=100), help="how much threads spin while they wait (default: 50)")
    add("-ngl", "--n-gpu-layers", type=_whole(0), help="layers kept in the memory of an accelerator (default: all)")
    add("--metrics", action="store_true", help="serve Prometheus metrics at /metrics")
    _switch(flags, ("-kvu", "--kv-unified"), ("-no-kvu", "--no-kv-unified"), "one KV cache for all slots")
    _switch(flags, ("-cb", "--cont-batching"), ("-nocb", "--no-cont-batching"), "continuous batching (default: on)")
    return flags


def parameters(options: argparse.Namespace) -> CommonParams:
    """llama.cpp's parameters for a parsed command line."""
    from xllamacpp import CommonParams, ggml_type, llama_flash_attn_type

    params = CommonParams()
    params.fit_params = False
    params.ui = False
    params.model.path = options.model
    params.hostnames = [options.host]
    params.port = options.port
    # Less than 0 is llama-server's own default: 4 slots and a unified KV cache. The library's default is 1 slot.
    params.n_parallel = -1 if options.parallel is None else options.parallel
    if options.alias is not None:
        params.model_alias = {options.alias}
    for name, value in {
        "n_ctx": options.ctx_size,
        "n_batch": options.batch_size,
        "n_ubatch": options.ubatch_size,
        "n_gpu_layers": options.n_gpu_layers,
        "kv_unified": options.kv_unified,
        "cont_batching": options.cont_batching,
        "endpoint_metrics": options.metrics,
    }.items():
        if value is not None:
            setattr(params, name, value)
    if options.flash_attn is not None:
        kind = f"LLAMA_FLASH_ATTN_TYPE_{FLASH_ATTENTION[options.flash_attn]}"
        params.flash_attn_type = llama_flash_attn_type[kind]
    if options.cache_type_k is not None:
        params.cache_type_k = ggml_type[f"GGML_TYPE_{options.cache_type_k.upper()}"]
    if options.cache_type_v is not None:
        params.cache_type_v = ggml_type[f"GGML_TYPE_{options.cache_type_v.upper()}"]
    own = physical_cores(os.sched_getaffinity(0))
    params.cpuparams.n_threads = options.threads if (options.threads or 0) > 0 else own
    if options.threads_batch is not None:
        params.cpuparams_batch.n_threads = options.threads_batch
    if options.poll is not None:
        params.cpuparams.poll = options.poll
        params.cpuparams_batch.poll = options.poll
    return params


def physical_cores(cpus: Iterable[int]) -> int:
    """How many physical cores these CPUs are; hardware threads of one core name the same siblings."""
    siblings = set()
    for cpu in cpus:
        try:
            siblings.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings").read_text())
        except OSError:
            siblings.add(f"cpu{cpu}")
    return len(siblings)


def _switch(flags: argparse.ArgumentParser, on: tuple[str, ...], off: tuple[str, ...], text: str) -> None:
    name = on[-1].strip("-").replace("-", "_")
    flags.add_argument(*on, dest=name, action="store_true", default=None, help=text)
    flags.add_argument(*off, dest=name, action="store_false", default=None, help=argparse.SUPPRESS)


def _wait_for_signal() -> None:
    # The kernel may hand the signal to one of llama.cpp's threads, which would not interrupt signal.pause() here.
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    os.read(woken, 1)


def _write_log(library: str) -> None:
    """Have llama.cpp write what it has logged: a thread of it does, which an exit does not wait for."""
    llama_cpp = ctypes.CDLL(library)
    with contextlib.suppress(AttributeError):  # in C++ these names are nobody's promise
        log = llama_cpp._Z15common_log_mainv
        log.restype = ctypes.c_void_p
        llama_cpp._Z16common_log_flushP10common_log(ctypes.c_void_p(log()))


def _refuse(reason: str) -> int:
    print(f"mpipso.service.embedded.server: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
