"""What the ranks cannot agree on at the start, with a world of one rank."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, TypeVar, cast

import pytest

from mpipso.cluster.facts import rank_here
from mpipso.cluster.world import World
from mpipso.errors import UserError
from mpipso.launched import RESTARTS, note_refusing, take_refusing
from mpipso.rendezvous import prepare
from mpipso.startup import Options

T = TypeVar("T")


class OneRank:
    """The part of a world in which ranks agree."""

    rank, size = 0, 1

    def gather(self, value: T) -> list[T]:
        return [value]

    def scatter(self, values: Sequence[T]) -> T:
        return values[0]

    def bcast(self, value: T) -> T:
        return value


def never(*_: object) -> NoReturn:
    raise AssertionError("all was well")


WORLD = cast(World, OneRank())


def test_the_host_whose_disk_fails_is_known_to_whoever_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    options = Options(overrides={"service.work_dir": str(tmp_path / "file" / "below")})
    with pytest.raises(UserError, match=r"^[^ ]*: work_dir .* cannot be made: Not a directory$") as caught:
        prepare(WORLD, options, never)
    assert copy.copy(caught.value).hosts == (rank_here(0).host,)


def test_without_its_hosts_a_group_that_has_no_rank_is_not_formed() -> None:
    options = Options(nodes="a,b:c,d:e,f", without=("a", "c"), overrides={"parallel.ssh": True})
    with pytest.raises(UserError, match=r"^no group with a rank can be formed of the hosts that are left$"):
        prepare(WORLD, options, never)


def test_the_launcher_takes_once_what_is_noted_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RESTARTS, raising=False)
    note_refusing(tmp_path, ["a"])
    assert take_refusing(tmp_path) == [], "there is no launcher"
    monkeypatch.setenv(RESTARTS, "2")
    note_refusing(tmp_path, ["a", "b"])
    assert [take_refusing(tmp_path), take_refusing(tmp_path)] == [["a", "b"], []]
    note_refusing(tmp_path / "gone", ["a"])
    note_refusing(None, ["a"])
