from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpipso.errors import RunFailed, UserError
from mpipso.evaluation import FIRST_PART, Evaluation, Failure
from mpipso.record.journal import FILE, Journal, finite, read
from mpipso.record.judged import Judged, from_fields, judgement, results
from mpipso.redact import Redactor
from mpipso.score import Score


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.create(tmp_path, Redactor()) as journal:
        yield journal


def test_events_are_numbered_timed_and_on_the_disk_at_once(journal: Journal) -> None:
    before = time.time()
    journal.write("asked", iteration=0, particles=[1], new=[{"number": 1, "label": "", "configuration": {"a": 1}}])
    journal.write("assigned", number=1, attempt=1, group=0)
    first, second = read(journal.path)
    assert (first["seq"], second["seq"]) == (0, 1)
    assert first["event"] == "asked" and first["new"] == [{"number": 1, "label": "", "configuration": {"a": 1}}]
    assert before <= first["t"] <= second["t"] <= time.time()


def test_events_are_also_timed_by_a_clock_that_is_never_set(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((2e9, 1e9))
    monkeypatch.setattr("mpipso.record.journal.time", SimpleNamespace(time=lambda: next(times), monotonic=monotonic))
    journal.write("assigned", number=1, attempt=1, group=0)
    journal.write("interrupted", signal="SIGTERM")
    first, second = read(journal.path)
    assert (first["t"], second["t"]) == (2e9, 1e9)
    assert 0 <= first["up"] <= second["up"] < 60


@given(st.lists(st.floats()))
def test_floats_round_trip_exactly_and_what_json_lacks_is_null(values: list[float]) -> None:
    text = json.dumps(finite({"v": values}), allow_nan=False)
    assert json.loads(text)["v"] == [value if math.isfinite(value) else None for value in values]


def test_not_a_number_is_written_as_null(journal: Journal) -> None:
    journal.write("incumbent", number=1, fitness=math.nan, nested=[{"x": (math.inf, 1.5)}])
    assert b"NaN" not in journal.path.read_bytes() and b"Infinity" not in journal.path.read_bytes()
    (event,) = read(journal.path)
    assert event["fitness"] is None and event["nested"] == [{"x": [None, 1.5]}]


def test_any_text_round_trips(journal: Journal) -> None:
    text = "昇騰 \u2028 \x00 \ud800 \n"
    journal.write("lost", number=1, attempt=1, cause=text)
    assert read(journal.path)[0]["cause"] == text
    assert journal.path.read_bytes().count(b"\n") == 1


def test_a_folder_that_was_moved_or_removed_is_noticed_and_found(tmp_path: Path) -> None:
    folder, moved = tmp_path / "a", tmp_path / "b"
    folder.mkdir()
    with Journal.create(folder, Redactor()) as journal:
        journal.write("interrupted", signal="SIGTERM")
        journal.check_place()
        folder.rename(moved)
        with pytest.raises(RunFailed, match=rf"{folder}: the run's folder was moved or .* journal is in {moved} now$"):
            journal.check_place()
        assert journal.folder == moved
        folder.mkdir()
        (folder / FILE).touch()  # which is that of another run
        assert journal.folder == moved
        (moved / FILE).unlink()
        assert journal.folder is None
        with pytest.raises(RunFailed, match=r"was moved or removed while the run went on$"):
            journal.check_place()


@pytest.mark.parametrize(("problem", "there"), [(errno.EIO, True), (errno.ESTALE, False)])
def test_a_disk_that_does_not_answer_has_not_lost_the_journal(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, problem: int, there: bool
) -> None:
    """A file server that is away for a moment is no reason to end a run; a file that another host has removed is."""

    def failing(descriptor: int) -> os.stat_result:
        raise OSError(problem, os.strerror(problem))  # the fault

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", failing)
        folder = journal.folder
    assert folder == (journal.path.parent if there else None)


def test_a_torn_last_line_is_left_out_and_cut_off_by_the_next_writer(journal: Journal, tmp_path: Path) -> None:
    for number in range(3):
        journal.write("assigned", number=number, attempt=1, group=0)
    journal.close()
    whole = journal.path.read_bytes()
    lines = whole.splitlines(keepends=True)
    kept = b"".join(lines[:2])
    for length in range(len(lines[2])):
        journal.path.write_bytes(kept + lines[2][:length])
        assert [event["number"] for event in read(journal.path)] == [0, 1]
    with Journal.open(tmp_path, Redactor()) as again:
        assert journal.path.read_bytes() == kept
        again.write("interrupted", signal="SIGTERM")
    assert [(event["seq"], event["event"]) for event in read(journal.path)] == [
        (0, "assigned"),
        (1, "assigned"),
        (2, "interrupted"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        b'{"seq":1,"t":1.0,"eve',
        b"",
        b"\x00\x00",
        b"[]",
        b'{"seq":2,"t":1.0,"event":"lost"}',
        b'{"seq":1,"t":NaN,"event":"lost"}',
        b'{"seq":1,"t":1.0}',
    ],
)
def test_a_damaged_line_is_refused_with_file_and_line(journal: Journal, tmp_path: Path, line: bytes) -> None:
    journal.write("interrupted", signal="SIGINT")
    journal.close()
    damaged = journal.path.read_bytes() + line + b"\n"
    journal.path.write_bytes(damaged)
    for use in (lambda: read(journal.path), lambda: Journal.open(tmp_path)):
        with pytest.raises(UserError, match=rf"{FILE}:2: is not .*the journal is damaged"):
            use()
    assert journal.path.read_bytes() == damaged


def test_how_to_go_on_without_the_damaged_part_is_told(journal: Journal) -> None:
    for _ in range(3):
        journal.write("interrupted", signal="SIGTERM")
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(b"".join([*lines[:2], b"\0\n", lines[2]]))
    hint = "to go on from before that, keep a copy and leave only the first 2 lines in it"
    with pytest.raises(UserError, match=rf":3: is not a line of JSON: the journal is damaged; {hint}$"):
        read(journal.path)
    journal.path.write_bytes(b"".join(lines[:2]))
    assert len(read(journal.path)) == 2


def test_a_second_process_may_read_but_not_write(journal: Journal, tmp_path: Path) -> None:
    journal.write("interrupted", signal="SIGINT")
    program = (
        "import sys, pathlib\n"
        "from mpipso.errors import UserError\n"
        "from mpipso.record.journal import Journal, read, FILE\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "print(len(read(folder / FILE)))\n"
        "try:\n    Journal.open(folder)\nexcept UserError as error:\n    print(error)\n"
    )

    def other() -> list[str]:
        run = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
        return run.stdout.splitlines()

    assert other() == ["1", f"{journal.path}: another process is writing this journal; wait for it or stop it"]
    journal.close()
    assert other() == ["1"]


def test_a_writer_killed_at_any_time_leaves_a_journal_that_can_be_continued(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from mpipso.record.journal import Journal\n"
        "journal = Journal.create(pathlib.Path(sys.argv[1]))\n"
        "for number in range(10**6):\n"
        "    journal.write('assigned', number=number, attempt=1, group=0)\n"
        "    print(number, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        for _ in range(20):
            last = int(writer.stdout.readline())
        writer.kill()
    with Journal.open(tmp_path) as journal:
        journal.write("interrupted", signal="SIGKILL")
    events = read(tmp_path / FILE)
    assert len(events) >= last + 2 and events[-1]["event"] == "interrupted"
    assert [event["seq"] for event in events] == list(range(len(events)))


def test_a_full_disk_ends_the_run_and_names_the_file(journal: Journal) -> None:
    # The kernel's own full device takes the place of the open file.
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, journal._file.fileno())
    os.close(full)
    with pytest.raises(RunFailed, match=f"{FILE}: cannot be written: No space left on device"):
        journal.write("interrupted", signal="SIGINT")


def test_a_line_for_which_the_disk_had_no_room_is_taken_back(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib, resource\n"
        "from mpipso.errors import RunFailed\n"
        "from mpipso.record.journal import Journal\n"
        "journal = Journal.create(pathlib.Path(sys.argv[1]))\n"
        "journal.write('lost', number=1, attempt=1, cause='x')\n"
        "hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))\n"
        "try:\n    journal.write('lost', number=2, attempt=1, cause='y' * 1000)\n"
        "except RunFailed as error:\n    print(error)\n"
        "journal.write('interrupted', signal='SIGINT')\n"
    )
    run = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    assert run.stdout == f"{tmp_path / FILE}: cannot be written: File too large\n"
    assert [event["event"] for event in read(tmp_path / FILE)] == ["lost", "interrupted"]
    assert (tmp_path / FILE).read_bytes().endswith(b"}\n")


def test_secrets_are_not_written(tmp_path: Path) -> None:
    with Journal.create(tmp_path, Redactor({"HF_TOKEN": "hf_from_environment"})) as journal:
        config = '[service]\nport = 80\nargv = ["--api-key", "sk-in-argv"]\nenv = { DB_PASSWORD = "pass-in-config" }\n'
        journal.write("started", config=config, env={"MY_SECRET": "in-a-field", "N_TOKENS": "12"})
        detail = "refused pass-in-config and hf_from_environment and sk-in-argv"
        journal.evaluated(Judged(Evaluation(1, 1, 0, {}, failure=Failure("no", "configuration", detail)), Score(True)))
    started, evaluated = read(tmp_path / FILE)
    assert started["config"] == config.replace("sk-in-argv", "***").replace("pass-in-config", "***")
    assert started["env"] == {"MY_SECRET": "***", "N_TOKENS": "12"}
    assert evaluated["failure"]["detail"] == "refused *** and *** and ***"


def test_a_journal_is_neither_overwritten_nor_conjured_up(journal: Journal, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        Journal.create(tmp_path)
    with pytest.raises(UserError, match=r"elsewhere.*cannot be opened: No such file"):
        Journal.open(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"elsewhere.*cannot be read: No such file"):
        read(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    "judged",
    [
        Judged(
            Evaluation(7, 2, 1, {"a": True, "b": "x"}, "confirm", metrics={"output_throughput": 412.3}, ended=2.5),
            Score(False, True, 0.5, -412.3, ("ttft_p99_ms 1530 > 1020",)),
            Score(False, False, 0.0, -400.0),
        ),
        Judged(Evaluation(8, 1, 0, {}, failure=Failure("gone", "infrastructure", "log")), Score(True)),
        Judged(Evaluation(9, 1, 0, {}, metrics={"x": 2.0}, loads={"c 1": {"x": 1.0}, "c 2": {}}, cut="c 3: no")),
        Judged(Evaluation(9, 1, 0, {}, metrics={"x": 2.0}, first=0.1 + 0.2), Score(False, fitness=-2.0)),
        Judged(Evaluation(9, 1, 0, {}, first=0.1, expected=0.1 + 0.2), Score(False, fitness=-0.1 - 0.2)),
    ],
)
def test_an_evaluation_comes_back_from_the_journal_as_it_went_in(journal: Journal, judged: Judged) -> None:
    journal.evaluated(judged)
    assert from_fields(read(journal.path)[0]) == judged


def test_one_that_was_stopped_early_comes_back_as_one_that_shows_no_limit_to_be_kept(journal: Journal) -> None:
    score = Score(False, fitness=5.0, fidelity=FIRST_PART, log_ratios=(math.nan,))
    journal.evaluated(Judged(Evaluation(9, 1, 0, {}, first=4.0, expected=5.0), score))
    journal.evaluated(Judged(Evaluation(8, 1, 0, {}, metrics={"x": 5.0}, first=4.0), Score(False, fitness=5.0)))
    told, whole = read(journal.path)
    assert (told["first"], told["expected"], told["metrics"], told["fitness"]) == (4.0, 5.0, {}, 5.0)
    assert (told["failed"], told["feasible"], told["violations"], told["judged"]) == (False, False, [], True)
    assert whole["first"] == 4.0 and whole["feasible"] and "expected" not in whole
    (stopped, other) = map(from_fields, (told, whole))
    assert stopped.score is not None and other.score is not None
    assert (stopped.score.fidelity, other.score.fidelity) == (FIRST_PART, 1.0)
    assert stopped.evaluation.stopped and not stopped.feasible and not stopped.failed
    assert other.feasible and not other.evaluation.stopped


def test_a_verdict_that_had_to_wait_for_the_baseline_is_folded_in(journal: Journal) -> None:
    waiting = Judged(Evaluation(1, 1, 0, {"n": 1}, metrics={"x": 1.0}))
    baseline = Judged(Evaluation(0, 1, 1, {"n": 0}, "baseline", metrics={"x": 2.0}), Score(False, fitness=-2.0))
    journal.evaluated(waiting)
    journal.evaluated(baseline)
    assert results(read(journal.path)) == [waiting, baseline]
    decided = Judged(waiting.evaluation, Score(False, True, 0.1, -1.0, ("late",)))
    journal.write("judged", number=1, **judgement(decided))
    assert results(read(journal.path)) == [decided, baseline]


def test_a_verdict_on_an_evaluation_that_is_not_there_is_nothing() -> None:
    assert results([{"event": "judged", "number": 7}]) == []


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ('"t": 1' + "0" * 400, "t: Input should be "),
        ('"t": 1' + "0" * 5000, "is not a line of JSON"),
        ('"t": 1.0, "new": ' + "[" * 100_000 + "]" * 100_000, "is not a line of JSON"),
        ('"t": 1.0, "configuration": 3', "configuration: Input should be a valid dictionary"),
        ('"t": 1.0, "metrics": {"ttft": "3"}', "metrics.ttft: Input should be a valid number"),
        ('"t": 1.0, "first": "fast"', "first: Input should be a valid number"),
        ('"t": 1.0, "expected": null', "expected: Input should be a valid number"),
        ('"t": 1.0, "cause": true', "cause: Input should be a valid string"),
        ('"t": 1.0, "config": "a = ' + "[" * 9000 + '"', "config: Value error, is nested too deeply"),
        ('"t": 1.0, "number": 1e3', "number: Input should be a valid integer"),
        ('"t": 1.0, "signal": "SIGNONE"', "signal: String should match pattern"),
        ('"t": 1.0, "plan": {"groups": [3]}', "plan.groups.0: Input should be a valid dictionary"),
    ],
)
def test_a_field_that_nobody_could_have_written_is_told_with_its_line(tmp_path: Path, fields: str, wrong: str) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(f'{{"seq": 0, "t": 1.0, "event": "started"}}\n{{"seq": 1, "event": "evaluated", {fields}}}\n')
    with pytest.raises(UserError) as caught:
        read(path)
    (line,) = caught.value.problems
    assert line.startswith(f"{path}:2: {wrong}")
    assert len(line) < 1000
