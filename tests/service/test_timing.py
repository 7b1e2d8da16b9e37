"""The limit on the time of a whole evaluation."""

from __future__ import annotations

import threading
import time

import pytest

from mpipso.service.timing import TimeLimit


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_limit_may_be_longer_than_any_clock_runs() -> None:
    before = set(threading.enumerate())
    limit = TimeLimit(threading.Event(), 1e11)
    time.sleep(0.1)  # in which the thread would end
    (clock,) = set(threading.enumerate()) - before
    assert not limit.is_set()
    limit.close()
    clock.join(10.0)
    assert not clock.is_alive()
