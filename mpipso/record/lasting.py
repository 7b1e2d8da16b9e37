"""Output that lasts as long as its reader, and does no harm when that has gone."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, TextIO, cast

if TYPE_CHECKING:
    from typing_extensions import Buffer


class _Lasting(io.RawIOBase):
    """The bytes of a text stream whose reader may go away, which does not end a run."""

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
    """The stream, whose failures are not told to whoever writes to it."""
    raw = _Lasting(stream)
    return io.TextIOWrapper(cast(BinaryIO, raw), raw.encoding, "replace", newline="\n", write_through=True)
