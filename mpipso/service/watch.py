"""Work that is given up as soon as the service dies below it or the evaluation is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from mpipso.errors import Cancelled, EvaluationFailed

WATCH = 0.3
"""Seconds between two looks at whether every process of the service still runs."""
LOOK = 0.05
"""Seconds until work that waits for an answer notices that it is to be given up."""


@contextlib.contextmanager
def watching(alive: Callable[[], None], cancel: threading.Event) -> Iterator[threading.Event]:
    """Watch the service while the block runs; the event it is given is set when the block should give up.

    Whatever the block raises, a death is the better explanation: a client that fails because the service has died
    tells only of refused connections.

    Parameters
    ----------
    alive:
        Raises :class:`~mpipso.errors.EvaluationFailed` when a process of the service has ended. Called in a thread.

    Raises
    ------
    EvaluationFailed
        What ``alive`` raised.
    Cancelled
        ``cancel`` was set.
    """
    over = threading.Event()
    finished = threading.Event()
    deaths: list[EvaluationFailed] = []

    def watch() -> None:
        while not (deaths or cancel.is_set() or finished.is_set()):
            try:
                alive()
            except EvaluationFailed as death:
                deaths.append(death)
            else:
                finished.wait(WATCH)
        over.set()

    watcher = threading.Thread(target=watch, name="watch")
    watcher.start()
    try:
        yield over
    except (EvaluationFailed, Cancelled):
        # The client may hear of the death before the keeper's word has arrived here.
        over.wait(WATCH)
        raise
    finally:
        finished.set()
        watcher.join()
        if not deaths and not cancel.is_set():
            alive()
        if deaths:
            raise deaths[0]
        if cancel.is_set():
            raise Cancelled("the evaluation was cancelled")


def interruptible(work: Coroutine[Any, Any, None], over: threading.Event) -> None:
    """Do ``work``.

    Raises
    ------
    Cancelled
        ``over`` was set before it was done.
    """

    async def attend() -> None:
        task = asyncio.ensure_future(work)
        while not over.is_set():
            done, _ = await asyncio.wait({task}, timeout=LOOK)
            if done:
                return task.result()
        task.cancel()
        await asyncio.wait({task})
        raise Cancelled("given up")

    asyncio.run(attend())
