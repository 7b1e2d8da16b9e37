from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from mpipso.errors import UserError
from mpipso.evaluation import Evaluation, Failure
from mpipso.record.journal import Journal
from mpipso.record.judged import Judged
from mpipso.record.recipe import Start, write_best
from mpipso.record.redact import Redactor
from mpipso.record.report import Outcome, read_outcome, report, summary

BASELINE = {"n_parallel": 1, "n_batch": 2048, "flash": True}
BEST = {"n_parallel": 16, "n_batch": 2048, "flash": True}


def higher(metric: str) -> bool | None:
    return {"output_throughput": True, "ttft_p99_ms": False}.get(metric)


def judged(number: int, configuration: dict[str, bool | int], tokens: float, ttft: float, label: str = "") -> Judged:
    metrics = {"completed": 32.0, "output_throughput": tokens, "ttft_p99_ms": ttft}
    return Judged(Evaluation(number, 1, 0, configuration, label, metrics), fitness=-tokens)


def broken(number: int, cause: str, label: str = "") -> Judged:
    evaluation = Evaluation(number, 1, 0, BASELINE, label, failure=Failure(cause, "configuration"))
    return Judged(evaluation, failed=True, feasible=False)


def outcome(*evaluations: Judged, incumbent: int | None, starts: Sequence[Start] = (), ended: str = "") -> Outcome:
    return Outcome(
        evaluations, incumbent, "output_throughput", higher, Path("runs/night"), starts, 754.0, 1, ended=ended
    )


def drawn(renderable: RenderableType, width: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def cells(lines: list[str], first: str) -> list[str]:
    """The line that begins with a word, cut where two spaces or more stand."""
    (line,) = [line for line in lines if line.startswith(f"{first} ") and "  " in line]
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


RUN = (
    judged(0, BASELINE, 380.0, 1470.0, "baseline"),
    judged(1, {**BASELINE, "n_batch": 512}, 350.0, 1500.0),
    judged(2, BEST, 610.0, 350.0),
    broken(3, "out of memory at start"),
    broken(4, "out of memory at start"),
    broken(5, "no answer"),
)


def test_baseline_and_best_stand_side_by_side_with_signed_gains() -> None:
    lines = drawn(summary(outcome(*RUN, incumbent=2)))
    assert lines[0] == "output_throughput: 380 tok/s -> 610 tok/s (+60.5 %)"
    assert cells(lines, "metric") == ["metric", "baseline #0", "best #2", "gain"]
    assert cells(lines, "output_throughput") == ["output_throughput", "380 tok/s", "610 tok/s", "+60.5 %"]
    assert cells(lines, "ttft_p99_ms") == ["ttft_p99_ms", "1470 ms", "350 ms", "+76.2 %"]
    assert cells(lines, "completed") == ["completed", "32", "32"]
    assert cells(lines, "n_parallel") == ["n_parallel", "1", "16"]
    assert "unchanged: n_batch=2048 flash=true" in lines
    counts = lines.index("6 evaluations, 3 failed, 0 infeasible, 1 retried in 12m34s")
    assert lines[counts + 1 :] == [
        "  2 failed: out of memory at start",
        "  1 failed: no answer",
        "results:  runs/night",
    ]


def test_repeated_measurements_replace_the_lucky_one_and_say_how_many() -> None:
    again = [judged(6, BEST, tokens, 400.0, "confirm") for tokens in (500.0, 520.0, 540.0)]
    lines = drawn(summary(outcome(*RUN, *again, judged(7, BASELINE, 400.0, 1400.0, "confirm"), incumbent=2)))
    assert lines[0] == "output_throughput: 400 tok/s -> 520 tok/s (+30.0 %)"
    assert cells(lines, "output_throughput") == ["output_throughput", "400 tok/s", "520 tok/s", "+30.0 %"]
    assert cells(lines, "metric") == ["metric", "measured again", "mean of 3", "gain"]
    assert any(line.startswith("6 evaluations, 3 failed, 0 infeasible, 4 confirmations") for line in lines)


def test_it_is_said_plainly_when_nothing_beat_the_baseline() -> None:
    lines = drawn(summary(outcome(*RUN[:2], incumbent=0)))
    assert lines[0].startswith("Nothing beat the baseline: the configuration that you have is the best")
    again = judged(6, BEST, 370.0, 400.0, "confirm"), judged(7, BASELINE, 400.0, 1400.0, "confirm")
    lines = drawn(summary(outcome(*RUN, *again, incumbent=2)))
    assert lines[0] == "Nothing beat the baseline once both were measured again: output_throughput -7.5 %."


def test_it_is_said_plainly_when_there_is_no_baseline_or_it_failed() -> None:
    lines = drawn(summary(outcome(*RUN[1:], incumbent=2)))
    assert lines[0] == "There is no baseline to compare with."
    assert cells(lines, "output_throughput") == ["output_throughput", "610 tok/s"]
    assert cells(lines, "n_batch") == ["n_batch", "2048"]
    lines = drawn(summary(outcome(broken(0, "no\nanswer", "baseline"), *RUN[1:], incumbent=2)))
    assert lines[0] == "The baseline failed: no answer."


def test_it_is_said_plainly_when_everything_failed_or_nothing_ran() -> None:
    lines = drawn(summary(outcome(*RUN[3:], incumbent=None)))
    assert lines[0] == "Every evaluation failed (3 of 3)." and "  2 failed: out of memory at start" in lines
    assert drawn(summary(outcome(incumbent=None)))[0] == "Nothing has been evaluated."


def test_limits_that_nothing_met_are_named() -> None:
    late = Judged(RUN[2].evaluation, -610.0, feasible=False, violations=("ttft_p99_ms 350 > 300",))
    assert drawn(summary(outcome(RUN[0], late, incumbent=None)))[0] == (
        "No evaluation met the limits of the objective."
    )
    lines = drawn(summary(outcome(RUN[0], late, incumbent=2)))
    assert "The best breaks a limit: ttft_p99_ms 350 > 300." in lines


def test_the_command_can_be_copied_whole_and_holds_no_secret() -> None:
    argv = ("python3", "-m", "server", "--api-key", "sk-secret", "--model", "/models/" + "x" * 30, "--parallel", "16")
    starts = Start("node1", argv, {"OMP_WAIT_POLICY": "passive"}), Start("node2", ("worker",))
    lines = drawn(summary(outcome(*RUN, incumbent=2, starts=starts)), width=60)
    first = lines.index("on node1:")
    assert lines[first - 1] == "start it: runs/night/best.sh" and lines[-2:] == ["on node2:", "  worker"]
    command = lines[first + 1 : -2]
    assert all(line.endswith(" \\") for line in command[:-1]) and max(map(len, command)) <= 60
    words = " ".join(line.removesuffix("\\") for line in command).split()
    assert words == ["OMP_WAIT_POLICY=passive", *argv[:4], "'***'", *argv[5:]]


def journal_of(folder: Path, *evaluations: Judged, incumbent: int | None = 2) -> Journal:
    journal = Journal.create(folder, Redactor())
    journal.write("started", objective="output_throughput", config="", seed=0)
    for one in evaluations:
        journal.evaluated(one)
    if incumbent is not None:
        journal.write("incumbent", number=incumbent, fitness=-1.0)
    return journal


def test_a_report_comes_from_the_journal_alone(tmp_path: Path) -> None:
    late = Judged(judged(6, {**BEST, "flash": False}, 900.0, 9000.0).evaluation, -900.0, False, False, ("too late",))
    starts = (Start("node1", ("serve", "--parallel", "16")),)
    write_best(tmp_path, RUN[2].evaluation, fitness=-610.0, score="610", starts=starts)
    with journal_of(tmp_path, *RUN, late) as journal:
        journal.write("finished", reason="evaluations", incumbent=2, evaluations=7)
        lines = drawn(report(tmp_path, higher), width=120)
    table = [cells(lines, str(rank)) for rank in range(1, 5)]
    assert table == [
        ["1", "2", "610 tok/s", "+60.5 %", "n_parallel=16"],
        ["2", "0", "380 tok/s", "the baseline"],
        ["3", "1", "350 tok/s", "-7.9 %", "n_batch=512"],
        ["4", "6", "900 tok/s", "+136.8 %", "n_parallel=16 flash=false", "infeasible: too late"],
    ]
    assert "output_throughput: 380 tok/s -> 610 tok/s (+60.5 %)" in lines
    assert lines[-1] == "  serve --parallel 16"


def test_a_report_shows_no_more_than_ten_configurations(tmp_path: Path) -> None:
    many = [judged(number, {"n_parallel": number}, 100.0 + number, 1.0) for number in range(1, 15)]
    with journal_of(tmp_path, *many, incumbent=14):
        lines = drawn(report(tmp_path, higher))
    ranks = [line.split()[:2] for line in lines if "n_parallel=" in line]
    assert ranks == [[str(rank), str(15 - rank)] for rank in range(1, 11)]


def test_without_a_caller_the_run_s_own_objective_says_what_is_better(tmp_path: Path) -> None:
    config = (
        '[objective]\nminimize = "watts"\n[[objective.slo]]\nmetric = "accuracy"\nmin = 0.9\n'
        '[[objective.slo]]\nmetric = "errors"\nmax = 3\n'
    )
    with Journal.create(tmp_path, Redactor()) as journal:
        journal.write("started", objective="watts", config=config)
    better = read_outcome(tmp_path).higher
    names = ("watts", "accuracy", "errors", "output_throughput", "ttft_p99_ms", "completed")
    assert [better(name) for name in names] == [False, True, False, True, False, None]


@pytest.mark.parametrize(
    ("signal", "sentence"),
    [("SIGTERM", "The run is interrupted by SIGTERM;"), (None, "The run is not finished;")],
)
def test_an_unfinished_run_is_reported_as_such(tmp_path: Path, signal: str | None, sentence: str) -> None:
    with journal_of(tmp_path, *RUN) as journal:
        if signal:
            journal.write("interrupted", signal=signal)
    with (tmp_path / "journal.jsonl").open("a") as torn:
        torn.write('{"seq":9,')
    assert any(line.startswith(sentence) for line in drawn(report(tmp_path, higher)))


def test_the_pause_before_a_resumption_is_no_wall_time(tmp_path: Path) -> None:
    events = ((100, "started"), (160, "lost"), (170, "interrupted"), (900, "retried"), (950, "finished"))
    lines = [f'{{"seq":{seq},"t":{t},"event":"{event}","objective":"x"}}\n' for seq, (t, event) in enumerate(events)]
    (tmp_path / "journal.jsonl").write_text("".join(lines))
    found = read_outcome(tmp_path, higher)
    assert (found.seconds, found.retried, found.ended) == (120.0, 1, "")


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"journal\.jsonl: cannot be read"):
        report(tmp_path, higher)
    (tmp_path / "journal.jsonl").write_text('{"seq":0,"t":1,"event":"lost"}\n')
    with pytest.raises(UserError, match="does not begin with the start of a run"):
        report(tmp_path, higher)
    (tmp_path / "journal.jsonl").write_text('{"seq":0,"t":1,"event":"started"}\n')
    with pytest.raises(UserError, match="lacks what this version expects: 'objective'"):
        report(tmp_path, higher)
