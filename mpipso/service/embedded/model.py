"""A small model with random weights: enough for a real server to do real work, without downloading one.

It is a llama-architecture GGUF file (27 M weights, Q8_0, 29 MB) with a byte-level BPE tokenizer in which each of the
load generator's :func:`words` is exactly one token. Only these words have non-zero rows in the output matrix, so a
greedy answer holds nothing else: it never ends early, never splits a UTF-8 character, and has as many words as tokens.

``python -m mpipso.service.embedded.model`` prints the path of the file, which is made on first use.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mpipso.errors import MpipsoError, UserError
from mpipso.service.clients.vocabulary import CONSONANTS, VOWELS, words

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFWriter

VERSION = 2
"""Changes whenever the bytes of the file would: an old file in a cache is then left alone."""

SEED = 20_250_101
CONTEXT = 8192
# Few layers with little attention and much feed-forward: most of the work is then matrix products, in which a server
# gains by decoding requests together, as it does with large models.
LAYERS = 2
WIDTH = 512
HEADS = 2
HEAD_WIDTH = 64
FEED_FORWARD = 8192

END_OF_TEXT = "<|endoftext|>"

BLOCK = 32
"""A Q8_0 block holds 32 weights: one half-precision scale, then 32 signed bytes (ggml-common.h, ``block_q8_0``)."""


def model_path(cache: Path | None = None) -> Path:
    """The model file, made in ``cache`` unless an intact one is there; any number of processes may call this at once.

    ``cache`` is by default ``$XDG_CACHE_HOME/mpipso`` or ``~/.cache/mpipso``.

    Raises
    ------
    UserError
        The ``embedded`` extra is not installed, or there is no cache that can be written.
    """
    folder = default_cache() if cache is None else cache
    path = folder / f"random-llama-27m-q8_0-v{VERSION}.gguf"
    if _intact(path):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / f"{path.name}.lock"):
            if not _intact(path):
                _generate(path)
    except OSError as error:
        raise UserError(f"{error.filename or folder}: cannot be written: {error.strerror or error}") from None
    return path


def default_cache() -> Path:
    """The cache folder of this user."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification says that a relative path is to be ignored.
    if Path(base).is_absolute():
        return Path(base) / "mpipso"
    try:
        return Path.home() / ".cache" / "mpipso"
    except RuntimeError:
        raise UserError(
            "the embedded model has no place: set HOME or XDG_CACHE_HOME, as this user has no home"
        ) from None


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _intact(path: Path) -> bool:
    try:
        return _sidecar(path).read_text() == _digest(path)
    except OSError:
        return False


def _digest(path: Path) -> str:
    """The line that ``sha256sum`` prints, computed once for each state of the file: every start of a service asks."""
    status = path.stat()
    return _computed_digest(path, status.st_ino, status.st_size, status.st_mtime_ns)


@functools.cache
def _computed_digest(path: Path, *state: int) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return f"{digest.hexdigest()}  {path.name}\n"


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        # Some network file systems have no locks. Two processes then do the same work: both files are whole and equal.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _generate(path: Path) -> None:
    """Write the model and its checksum; a reader sees the old files or the new ones, never half of one."""
    try:
        from gguf import GGUFWriter
    except ImportError as error:
        raise UserError(f"the embedded model needs gguf: pip install gguf ({error})") from None
    with tempfile.TemporaryDirectory(prefix=".model-", dir=path.parent) as folder:
        unfinished = Path(folder) / path.name
        writer = GGUFWriter(unfinished, "llama")
        _add_shape(writer)
        _add_tokenizer(writer)
        _add_weights(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        _sidecar(unfinished).write_text(_digest(unfinished))
        unfinished.replace(path)
        _sidecar(unfinished).replace(_sidecar(path))


def _add_shape(writer: GGUFWriter) -> None:
    from gguf import LlamaFileType

    writer.add_name("mpipso random llama 27M")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_key_length(HEAD_WIDTH)
    writer.add_value_length(HEAD_WIDTH)
    writer.add_rope_dimension_count(HEAD_WIDTH)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(_vocabulary()))
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)


def _vocabulary() -> list[str]:
    """Tokens in the spelling of GPT-2's byte-level BPE: all bytes, what the merges pass through, the words, the end."""
    space = _byte_characters()[ord(" ")]
    starts = [space + first for first in CONSONANTS]
    stems = [start + vowel for start in starts for vowel in VOWELS]
    return [*_byte_characters(), *starts, *stems, *(space + word[1:] for word in words()), END_OF_TEXT]


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte (``bytes_to_unicode`` of GPT-2's encoder)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    unprintable = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + unprintable.index(byte)) for byte in range(256)]


def _add_tokenizer(writer: GGUFWriter) -> None:
    from gguf import TokenType

    tokens = _vocabulary()
    multiple = [token for token in tokens[256:] if token != END_OF_TEXT]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token == END_OF_TEXT else TokenType.NORMAL for token in tokens])
    # The order is the priority: every word is built letter by letter, from its space on.
    writer.add_token_merges([f"{token[:-1]} {token[-1]}" for token in multiple])
    writer.add_eos_token_id(tokens.index(END_OF_TEXT))
    writer.add_add_bos_token(False)


def _add_weights(writer: GGUFWriter) -> None:
    import numpy as np

    # The raw stream of a bit generator is the same in all versions of NumPy; what a Generator makes of it is not.
    stream = np.random.PCG64(SEED)
    vocabulary = len(_vocabulary())
    ones = np.ones(WIDTH, dtype=np.float32)
    _add(writer, "token_embd.weight", _random_rows(stream, vocabulary, WIDTH, 1.0))
    for layer in range(LAYERS):
        heads = HEADS * HEAD_WIDTH
        for name in ("attn_q", "attn_k", "attn_v"):
            _add(writer, f"blk.{layer}.{name}.weight", _random_rows(stream, heads, WIDTH, WIDTH**-0.5))
        _add(writer, f"blk.{layer}.attn_output.weight", _random_rows(stream, WIDTH, heads, heads**-0.5))
        for name in ("ffn_gate", "ffn_up"):
            _add(writer, f"blk.{layer}.{name}.weight", _random_rows(stream, FEED_FORWARD, WIDTH, WIDTH**-0.5))
        _add(writer, f"blk.{layer}.ffn_down.weight", _random_rows(stream, WIDTH, FEED_FORWARD, FEED_FORWARD**-0.5))
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", ones)
    writer.add_tensor("output_norm.weight", ones)
    # The logits of the words have a standard deviation of 4, all others are 0: the largest of the 1280 is positive.
    output = _random_rows(stream, vocabulary, WIDTH, 4 * WIDTH**-0.5)
    is_word = np.zeros(vocabulary, dtype=bool)
    is_word[-1 - len(words()) : -1] = True
    output[~is_word] = 0
    _add(writer, "output.weight", output)


def _random_rows(stream: np.random.PCG64, rows: int, columns: int, deviation: float) -> np.ndarray:
    """Uniform random weights of the given standard deviation as Q8_0: bytes of shape (rows, columns / 32 * 34)."""
    import numpy as np

    raw = np.asarray(stream.random_raw(rows * columns // 8), dtype="<u8")
    # Some kernels of llama.cpp negate a weight within its byte, where -128 would overflow.
    weights = np.maximum(raw.view(np.int8), -127).reshape(rows, columns // BLOCK, BLOCK)
    scale = np.array([deviation * 3**0.5 / 127], dtype="<f2").view(np.int8)
    blocks = np.empty((rows, columns // BLOCK, 2 + BLOCK), dtype=np.int8)
    blocks[..., :2] = scale
    blocks[..., 2:] = weights
    return blocks.view(np.uint8).reshape(rows, -1)


def _add(writer: GGUFWriter, name: str, weights: np.ndarray) -> None:
    from gguf import GGMLQuantizationType

    writer.add_tensor(name, weights, raw_dtype=GGMLQuantizationType.Q8_0)


def main() -> int:
    try:
        print(model_path())
    except MpipsoError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
