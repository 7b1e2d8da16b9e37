from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from mpipso.errors import UserError
from mpipso.record.folders import RunFolder
from mpipso.record.journal import Journal
from mpipso.record.place import lock


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The file system answers with an error to whoever wants a lock."""

    def fail(file: object, how: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", fail)


def test_a_lock_is_taken_once_and_given_up_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("a") as one, path.open("a") as other:
        assert lock(one) is True
        assert lock(other) is False
        one.close()
        assert lock(other) is True


@pytest.mark.parametrize("answer", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP], indirect=True)
@pytest.mark.usefixtures("answer")
def test_a_file_system_without_locks_keeps_nobody_out(tmp_path: Path) -> None:
    with (tmp_path / "file").open("a") as file:
        assert lock(file) is None
    reserved = RunFolder.reserve(tmp_path, "a")
    assert RunFolder.reserve(tmp_path, "a") == reserved
    with Journal.create(reserved), Journal.open(reserved) as again:
        assert again.past == []


@pytest.mark.parametrize("answer", [errno.EIO], indirect=True)
@pytest.mark.usefixtures("answer")
def test_a_disk_that_fails_is_told_by_the_journal_and_stops_no_launch(tmp_path: Path) -> None:
    reserved = RunFolder.reserve(tmp_path, "a")
    assert RunFolder.reserve(tmp_path, "a") == reserved
    with pytest.raises(UserError, match="cannot be read: Input/output error"):
        Journal.create(reserved)
