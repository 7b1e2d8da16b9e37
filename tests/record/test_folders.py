from __future__ import annotations

import errno
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpipso.errors import RunFailed, UserError
from mpipso.evaluation import Evaluation, Failure
from mpipso.record.folders import BEAT_FILE, LAUNCH_LOG, RunFolder, safe_names, write_beat, write_whole
from mpipso.record.journal import FILE, Journal
from mpipso.redact import Redactor


def test_a_run_is_named_after_the_time_and_latest_points_to_it(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "runs"
    run = RunFolder.create(output)
    assert re.fullmatch(r"\d{8}-\d{6}", run.path.name) and run.path.is_dir()
    assert (output / "latest").readlink() == Path(run.path.name)


def test_a_taken_name_gets_a_suffix_and_latest_moves_on(tmp_path: Path) -> None:
    names = [RunFolder.create(tmp_path, "night").path.name for _ in range(3)]
    assert names == ["night", "night-2", "night-3"]
    assert (tmp_path / "latest").readlink() == Path("night-3")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", *names]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who alone can give files away: run the tests as root")
def test_a_reserved_folder_of_somebody_else_is_not_taken(tmp_path: Path) -> None:
    planted = RunFolder.reserve(tmp_path, "night")
    os.chown(planted, 12345, -1)
    assert RunFolder.reserve(tmp_path, "night").name == "night-2"
    assert RunFolder.create(tmp_path, "night").path.name == "night-3"


def test_nor_is_one_that_lies_elsewhere(tmp_path: Path) -> None:
    elsewhere = RunFolder.reserve(tmp_path / "elsewhere", "night")
    (tmp_path / "night").symlink_to(elsewhere)
    assert RunFolder.reserve(tmp_path, "night").name == "night-2"


def test_a_draft_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("as it was")
    (tmp_path / f".best.toml.{os.getpid()}").symlink_to(tmp_path / "victim")
    write_whole(tmp_path / "best.toml", "new")
    assert ((tmp_path / "best.toml").read_text(), (tmp_path / "victim").read_text()) == ("new", "as it was")


def test_a_reserved_folder_is_taken_by_its_run_and_by_no_other(tmp_path: Path) -> None:
    reserved = RunFolder.reserve(tmp_path, "night")
    assert [path.name for path in reserved.iterdir()] == [LAUNCH_LOG]
    assert not (tmp_path / "latest").exists(), "a run that never begins is not the latest"
    assert RunFolder.reserve(tmp_path, "night") == reserved, "after a launch from which no run came"
    run = RunFolder.create(tmp_path, "night")
    assert run.path == reserved
    assert (tmp_path / "latest").readlink() == Path("night")
    Journal.create(run.path).close()
    assert RunFolder.create(tmp_path, "night").path.name == "night-2"
    assert RunFolder.reserve(tmp_path, "night").name == "night-3"
    assert len({RunFolder.reserve(tmp_path) for _ in range(3)}) == 3


@pytest.mark.parametrize("name", ["", "..", "a/b", "latest", "-x", ".x", "a b"])
def test_a_run_name_that_is_no_plain_name_is_refused(tmp_path: Path, name: str) -> None:
    for make in (RunFolder.create, RunFolder.reserve):
        with pytest.raises(UserError, match=r"^run name '.*': should be letters, .* its beginning, '\.' and '-',"):
            make(tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_an_unwritable_output_is_told_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for output in (file, file / "below"):
        with pytest.raises(UserError) as caught:
            RunFolder.create(output)
        assert caught.value.problems == (f"output folder {output}: is not a folder; give a folder you can write to",)
    with pytest.raises(UserError, match=r"output folder /proc/runs: .+; give a folder you can write to"):
        RunFolder.create(Path("/proc/runs"))


def test_a_folder_that_cannot_be_reserved_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(Path, "touch", full)
    with pytest.raises(UserError, match=f"^output folder {tmp_path}: Disk quota exceeded; give a folder you can write"):
        RunFolder.reserve(tmp_path)


@pytest.mark.parametrize("how", ["create", "reserve"])
def test_a_name_that_the_locale_does_not_have_is_told_in_one_line(tmp_path: Path, how: str) -> None:
    program = f"from mpipso.record.folders import *; RunFolder.{how}(Path({str(tmp_path)!r} + '/l\\xe4ufe'), 'a')"
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **locale}, capture_output=True, text=True, check=False
    )
    reason = f"output folder {tmp_path}/l\\xe4ufe: this locale has no '\\xe4' in names of files (ascii); "
    assert done.stderr.endswith(f"{reason}set LC_ALL=C.UTF-8, or give another folder\n")


def test_a_real_folder_named_latest_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    with pytest.raises(UserError, match="latest: is not a symbolic link"):
        RunFolder.create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["latest"]


def test_only_a_folder_with_a_journal_is_opened_as_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not the folder of a run"):
        RunFolder.open(tmp_path)
    run = RunFolder.create(tmp_path, "a")
    Journal.create(run.path).close()
    assert RunFolder.open(tmp_path / "latest").path == run.path
    with pytest.raises(UserError, match=rf"; did you mean {tmp_path / 'latest'}\?$"):
        RunFolder.open(tmp_path)


def test_an_evaluation_is_kept_with_its_files(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, Redactor({"HF_TOKEN": "hf_secret"}))
    files = {"service/node0.log": b"\xff loading with hf_secret\n", "command.txt": b"serve --port 80\n"}
    metrics = {"output_throughput": 0.1 + 0.2, "ttft_p99_ms": float("nan")}
    run.save(Evaluation(7, 1, 0, {"n": 8, "on": True}, metrics=metrics, files=files))
    folder = tmp_path / "evaluations" / "0007-1"
    assert folder == run.evaluation(7, 1)
    assert json.loads((folder / "configuration.json").read_text()) == {"n": 8, "on": True}
    assert json.loads((folder / "metrics.json").read_text()) == {"output_throughput": 0.1 + 0.2, "ttft_p99_ms": None}
    assert (folder / "service" / "node0.log").read_bytes() == b"\xff loading with ***\n"
    assert (folder / "command.txt").read_bytes() == b"serve --port 80\n"
    assert not (folder / "failure.json").exists()


def test_one_that_was_stopped_early_is_kept_with_what_was_expected(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "a")
    run.save(Evaluation(8, 1, 0, {"n": 8}, first=0.5, expected=0.1 + 0.2, files={"benchmark-first.json": b"{}"}))
    folder = run.evaluation(8, 1)
    assert json.loads((folder / "stopped.json").read_text()) == {"first": 0.5, "expected": 0.1 + 0.2}
    assert {path.name for path in folder.iterdir()} == {"configuration.json", "stopped.json", "benchmark-first.json"}
    run.save(Evaluation(9, 1, 0, {"n": 8}, metrics={"x": 1.0}, first=0.5))
    assert {path.name for path in run.evaluation(9, 1).iterdir()} == {"configuration.json", "metrics.json"}


def test_a_failed_evaluation_is_kept_with_its_cause(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "a")
    run.save(Evaluation(8, 2, 0, {}, failure=Failure("out of memory", "configuration", "last lines")))
    folder = run.evaluation(8, 2)
    assert json.loads((folder / "failure.json").read_text()) == {
        "cause": "out of memory",
        "kind": "configuration",
        "detail": "last lines",
    }
    assert not (folder / "metrics.json").exists()


def test_probes_that_failed_are_kept_whatever_their_numbers(tmp_path: Path) -> None:
    for session in range(2):  # each of which counts its probes anew
        run = RunFolder(tmp_path)
        failure = Failure("no answer", "configuration")
        run.save_probe(Evaluation(-1, 1, 0, {}, failure=failure, files={"service.log": f"{session}".encode()}))
    kept = [(tmp_path / "evaluations" / name / "service.log").read_text() for name in ("probe-1", "probe-2")]
    assert kept == ["0", "1"]


def test_how_long_a_root_lived_after_its_last_event_is_what_its_beat_says(tmp_path: Path) -> None:
    """Whatever the times of the files: a clock may be set."""
    run = RunFolder(tmp_path)
    (tmp_path / FILE).write_bytes(b'{"seq":0}\n{"seq":1}\n{"to')
    for number, seconds, lived in ((0, 7e9, 0.0), (1, 300.04, 300.0), (1, 0.3, 0.3), (2, 9.0, 0.0)):
        write_beat(tmp_path / BEAT_FILE, number, seconds)
        os.utime(tmp_path / BEAT_FILE, (2e9, 2e9))
        assert run.lived() == lived
    write_beat(tmp_path / BEAT_FILE, 1, 300.0)
    whole = (tmp_path / BEAT_FILE).read_bytes()
    for torn in (whole[:-1], whole.replace(b".0", b"\0\0"), bytes(len(whole)), whole * 2):
        (tmp_path / BEAT_FILE).write_bytes(torn)
        assert run.lived() == 0.0


def test_in_the_folder_of_an_earlier_version_it_is_the_difference_of_two_files_times(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.lived() == 0.0
    for file, at in ((FILE, 1000.0), (BEAT_FILE, 1300.0)):
        (tmp_path / file).touch()
        os.utime(tmp_path / file, (at, at))
    assert run.lived() == 300.0
    os.utime(tmp_path / FILE)
    assert run.lived() == 0.0


def test_a_beat_is_one_on_a_full_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    beat = tmp_path / BEAT_FILE
    for no_room in (False, True):
        if no_room:
            monkeypatch.setattr(os, "pwrite", full)
        beat.touch()
        os.utime(beat, (1.0, 1.0))
        write_beat(beat, 1, 2.0)
        assert beat.stat().st_mtime > 1.0 and beat.stat().st_size == 26


def test_a_folder_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "a")
    run.path.rename(tmp_path / "moved")
    with pytest.raises(RunFailed, match=r"/a: the run's folder is gone: it was moved or removed$"):
        run.save(Evaluation(1, 1, 0, {"n": 1}, metrics={"x": 1.0}))
    assert not run.path.exists()


def test_no_file_escapes_from_its_folder_or_replaces_our_own(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "runs", "a")
    names = ["../../../escape", "/etc/passwd", "configuration.json", "a/b/c/d", "a", ".hidden", "..", "x" * 400]
    run.save(Evaluation(1, 1, 0, {"n": 1}, files={name: name.encode() for name in names}))
    folder = run.evaluation(1, 1)
    assert json.loads((folder / "configuration.json").read_text()) == {"n": 1}
    kept = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert set(names) <= {content.decode() for content in kept.values()}
    assert {"escape", "etc/passwd", "configuration-2.json", "a/b_c_d", "a-2", "_hidden"} <= kept.keys()
    outside = {path for path in tmp_path.rglob("*") if path.is_file()} - {folder / name for name in kept}
    assert outside == set()


@given(st.lists(st.text(st.sampled_from("ab./\\-\x00é"), max_size=12), unique=True))
def test_safe_names_are_distinct_and_at_most_one_folder_deep(names: list[str]) -> None:
    safe = safe_names(names, taken=["a", "metrics.json"])
    assert list(safe) == names
    paths = [PurePosixPath(path) for path in safe.values()]
    assert len({*paths, PurePosixPath("a")}) == len(names) + 1
    assert all(len(path.parts) <= 2 and not path.is_absolute() and ".." not in path.parts for path in paths)
    assert not {path.parent for path in paths} & {*paths, PurePosixPath("a")}


def test_a_full_disk_ends_the_run_and_names_the_file(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "a")
    folder = run.evaluation(1, 1)
    folder.mkdir(parents=True)
    (folder / "configuration.json").symlink_to("/dev/full")
    with pytest.raises(RunFailed, match=r"0001-1/configuration\.json: cannot be written: No space left on device"):
        run.save(Evaluation(1, 1, 0, {"n": 1}, metrics={"x": 1.0}))


def test_a_replaced_file_keeps_its_old_content_when_the_disk_is_full(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib, resource\n"
        "from mpipso.errors import RunFailed\n"
        "from mpipso.record.folders import write_whole\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "write_whole(path, 'old')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))\n"
        "try:\n    write_whole(path, 'new' * 100)\nexcept RunFailed as error:\n    print(error)\n"
    )
    path = tmp_path / "best.toml"
    run = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert run.stdout == f"{path}: cannot be written: File too large\n"
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_replaced_file_has_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "script", "x", 0o777)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "script").stat().st_mode) == 0o750
