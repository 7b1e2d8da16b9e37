"""What is told of errors, and of foreign text in them."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from mpipso.errors import EvaluationFailed, UserError, print_error
from mpipso.wording import clean


def test_foreign_text_cannot_move_the_cursor_or_break_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert clean("a\x1b[2J\r\nb\tc\x9bd  e") == "a [2J b c d e"
    print_error(UserError("of \x1b]0;title\x07  a service\n  its \x9b log"))
    assert capsys.readouterr().err == "mpipso: of  ]0;title   a service\nmpipso:   its   log\n"


def test_nobody_to_read_an_error_does_not_change_the_exit_code() -> None:
    words = [sys.executable, "-m", "mpipso", "check", "--config", "/no/such/file"]
    done = subprocess.run(["bash", "-c", '"$@" 2>/dev/full', "bash", *words], check=False, timeout=60)
    assert done.returncode == 2


def test_an_error_travels_between_ranks_with_all_that_it_tells() -> None:
    failure = pickle.loads(pickle.dumps(EvaluationFailed("no memory", kind="infrastructure", detail="of a log")))  # noqa: S301
    assert isinstance(failure, EvaluationFailed)
    assert (failure.cause, failure.kind, failure.detail) == ("no memory", "infrastructure", "of a log")
    mistake = pickle.loads(pickle.dumps(UserError(["one", "two"])))  # noqa: S301
    assert isinstance(mistake, UserError)
    assert mistake.problems == ("one", "two")
