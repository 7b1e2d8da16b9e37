"""Output whose reader may go away, as at the end of a pipe or a connection, without an error for its writer."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, TextIO, cast

if TYPE_CHECKING:
    from typing_extensions import Buffer


class _Lasting(io.RawIOBase):
    """What takes bytes and writes them to a text stream, until that fails for the first time."""

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream
        self.encoding = stream.encoding or "utf-8"

    def writable(self) -> bool:
        return True

    def write(self, content: Buffer, /) -> int:
        text = bytes(content)
        self._attempt(lambda stream: stream.write(text.decode(self.encoding)))
        return len(text)

    def flush(self) -> None:
        self._attempt(lambda stream: stream.flush())

    def _attempt(self, action: Callable[[TextIO], object]) -> None:
        if self._stream is not None:
            try:
                action(self._stream)
            except (OSError, ValueError):  # The latter is what a closed file raises.
                self._stream = None


def lasting(stream: TextIO) -> TextIO:
    """A stream that writes to ``stream`` until that fails, and nowhere from then on; writing to it raises no error."""
    raw = _Lasting(stream)
    return io.TextIOWrapper(cast(BinaryIO, raw), raw.encoding, "replace", newline="\n", write_through=True)


def silence(stream: TextIO) -> None:
    """What is still written to a stream whose reader has gone, also by Python at its exit, goes nowhere."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)
