"""Numbers on a command line: which are taken, and what is said of the others."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from mpipso.flags import bounded


@pytest.mark.parametrize(
    ("kind", "taken"),
    [
        (bounded(int, 1), {"1": 1, "12": 12, "9" * 400: int("9" * 400)}),
        (bounded(int, -1, 100), {"-1": -1, "100": 100}),
        (bounded(float, 0, above=True), {"0.5": 0.5, "1e3": 1000.0}),
        (bounded(float, 10), {"10": 10.0}),
    ],
)
def test_what_is_taken(kind: Callable[[str], float], taken: dict[str, float]) -> None:
    assert {word: kind(word) for word in taken} == taken


@pytest.mark.parametrize(
    ("kind", "words", "wanted"),
    [
        (bounded(int, 1), ["0", "1.5", "x", "", "9" * 5000], "whole number of at least 1"),
        (bounded(int, 1, 65535), ["0", "65536"], "whole number from 1 to 65535"),
        (bounded(float, 0, above=True), ["0", "-1", "nan", "inf", "soon"], "number above 0"),
        (bounded(float, 10), ["9.9"], "number of at least 10"),
    ],
)
def test_what_is_refused(kind: Callable[[str], float], words: list[str], wanted: str) -> None:
    for word in words:
        with pytest.raises(argparse.ArgumentTypeError) as caught:
            kind(word)
        assert str(caught.value) == f"{word!r} is not a {wanted}"
