"""Output that raises no error and does not hold its writer up: its reader may have gone, or may not read for hours."""

from __future__ import annotations

import io
import os
import select
import threading
from typing import TYPE_CHECKING, BinaryIO, TextIO, cast

if TYPE_CHECKING:
    from typing_extensions import Buffer

_ROOM = 1 << 20
"""Bytes that wait for a reader; what comes on top of them is left out."""
_CHUNK = 4096


class _Waiting(io.RawIOBase):
    """What takes bytes and writes them to a text stream until that fails for the first time; a thread does the waiting.

    A stream without a descriptor is in memory, and has them at once.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream
        self.encoding = stream.encoding or "utf-8"
        self._left = bytearray()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        try:
            self._descriptor = stream.fileno()
        except (OSError, ValueError):
            self._descriptor = -1

    def writable(self) -> bool:
        return True

    def write(self, content: Buffer, /) -> int:
        data = bytes(content)
        if self._descriptor < 0:
            self._at_once(data)
            return len(data)
        with self._changed:
            if self._stream is not None and len(self._left) + len(data) <= _ROOM:
                self._left += data
                self._changed.notify_all()
                if self._thread is None:
                    # Not by way of the stream, whose lock a thread that never comes back would hold at the exit.
                    self._thread = threading.Thread(target=self._write_on, name="output", daemon=True)
                    self._thread.start()
        return len(data)

    def behind(self) -> bool:
        with self._changed:
            return bool(self._left)

    def drain(self, limit: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._left, limit)

    def _at_once(self, data: bytes) -> None:
        if self._stream is not None:
            try:
                self._stream.write(data.decode(self.encoding))
                self._stream.flush()
            except (OSError, ValueError):  # The latter is what a closed file raises.
                self._stream = None

    def _write_on(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._left)
                chunk = bytes(self._left[:_CHUNK])
            written: int | None = 0
            try:
                written = os.write(self._descriptor, chunk)
            except BlockingIOError:  # who shares a terminal may have set it so
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except OSError:
                written = None
            with self._changed:
                if written is None:
                    self._stream = None
                del self._left[:written]
                self._changed.notify_all()


class Lasting(io.TextIOWrapper):
    """A stream that writes to another one until that fails, and nowhere from then on.

    Writing to it raises no error and does not wait; of what is written while nobody reads, a megabyte is kept.
    """

    def __init__(self, stream: TextIO) -> None:
        self._waiting = _Waiting(stream)
        encoding = self._waiting.encoding
        super().__init__(cast(BinaryIO, self._waiting), encoding, "replace", newline="\n", write_through=True)

    @property
    def behind(self) -> bool:
        """Whether something waits for the reader."""
        return self._waiting.behind()

    def drain(self, limit: float) -> bool:
        """Wait until all has been written, for ``limit`` seconds at most; whether it has."""
        return self._waiting.drain(limit)


def silence(stream: TextIO) -> None:
    """What is still written to a stream whose reader has gone, also by Python at its exit, goes nowhere."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)
