from __future__ import annotations

import fcntl
import io
import os
import re
import select
import struct
import termios
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.text import Text

from mpipso.evaluation import Configuration, Evaluation, Failure
from mpipso.record.lasting import Lasting
from mpipso.record.monitor import Monitor
from mpipso.record.screen import Screen

BASELINE = {"n_parallel": 1, "n_batch": 2048, "flash": True}


class Clock:
    """Seconds that pass only when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def plain(clock: Clock, output: io.StringIO) -> Monitor:
    monitor = Monitor(32, {0: "node1 node2", 1: "node3 node4"}, output, Screen("plain"), clock=clock)
    monitor.started(baseline=BASELINE)
    return monitor


@pytest.fixture
def live(clock: Clock, output: io.StringIO) -> Iterator[Monitor]:
    monitor = Monitor(8, {0: "node1 node2", 1: "node3 node4"}, output, Screen("live", 100, 24), clock=clock)
    monitor.started("mpipso", baseline=BASELINE)
    yield monitor
    monitor.stop()


def measured(number: int, group: int, seconds: float = 40.0, **changes: bool | int | str) -> Evaluation:
    return Evaluation(number, 1, group, {**BASELINE, **changes}, metrics={"x": 1.0}, started=0.0, ended=seconds)


def failed(number: int, group: int, cause: str) -> Evaluation:
    configuration: Configuration = {**BASELINE, "n_parallel": 64}
    return Evaluation(number, 1, group, configuration, failure=Failure(cause, "configuration"))


def draw(live: Monitor, clock: Clock) -> None:
    """Have the display show how things are."""
    clock.now += 1
    live.tick()


def screen(output: io.StringIO) -> list[str]:
    """What a terminal of 100 columns shows after the rules of the few control sequences that are used."""
    lines, row = [""], 0
    for text, control in re.findall(r"([^\x1b\n\r]+)|(\x1b\[[0-9;?]*[A-Za-z]|\n|\r)", output.getvalue()):
        if text:
            lines[row] += text
        elif control == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif control.endswith("A"):
            row -= int(control[2:-1] or 1)
        elif control == "\x1b[2K":
            lines[row] = ""
        else:
            assert control == "\r" or control.endswith(("m", "h", "l")), repr(control)
    return [line.rstrip() for line in lines]


def test_plain_lines_are_exactly_these(plain: Monitor, clock: Clock, output: io.StringIO) -> None:
    plain.note("2 groups of 2 nodes")
    plain.assigned(0, 0, "baseline", BASELINE)
    clock.now += 42.9
    baseline = Evaluation(0, 1, 0, BASELINE, "baseline", metrics={"x": 1.0}, started=0, ended=40)
    plain.evaluated(baseline, "366.8 tok/s", best=True)
    plain.evaluated(measured(1, 1, n_parallel=8, n_batch=512), "412.3 tok/s (+12.4 %)", best=True)
    clock.now += 60
    plain.evaluated(failed(2, 0, "out of memory at start"), "", best=False)
    plain.evaluated(measured(3, 1, flash=False), "99.1 tok/s (-73.0 %)", best=False)
    plain.evaluated(measured(4, 1), "1 tok/s", best=False, violations=["ttft_p99_ms 1530 > 1020"])
    plain.retried(1, 5, "port 8000 is taken")
    clock.now += 10_000
    plain.quarantined(1, "3 failures in a row", 90.0)
    plain.readmitted(1)
    plain.lost(1, "no sign of life for 30 s")
    plain.stop()
    assert output.getvalue() == (
        "[   0s] 2 groups of 2 nodes\n"
        "[  42s]  1/32 group 0  #0 *366.8 tok/s  baseline\n"
        "[  42s]  2/32 group 1  #1 *412.3 tok/s (+12.4 %)  n_parallel=8 n_batch=512\n"
        "[ 102s]  3/32 group 0  #2  failed: out of memory at start  n_parallel=64\n"
        "[ 102s]  4/32 group 1  #3  99.1 tok/s (-73.0 %)   flash=false\n"
        "[ 102s]  5/32 group 1  #4  1 tok/s  infeasible: ttft_p99_ms 1530 > 1020  baseline\n"
        "[ 102s] group 1  #5 will be tried again: port 8000 is taken\n"
        "[ 2h48] group 1  in quarantine for 1m30s: 3 failures in a row\n"
        "[ 2h48] group 1  takes part again\n"
        "[ 2h48] group 1  lost: no sign of life for 30 s\n"
    )


def test_that_a_benchmark_was_stopped_early_is_told_and_counted(
    plain: Monitor, live: Monitor, clock: Clock, output: io.StringIO
) -> None:
    stopped = Evaluation(5, 1, 0, {**BASELINE, "n_parallel": 8}, first=1.0, expected=2.0, started=0.0, ended=40.0)
    plain.evaluated(stopped, "2 tok/s", best=False)
    assert output.getvalue().endswith("  1/32 group 0  #5  2 tok/s  stopped early  n_parallel=8\n")
    live.evaluated(stopped, "2 tok/s", best=False)
    draw(live, clock)
    assert any(line.endswith("1 stopped") and "infeasible" not in line for line in screen(output))


def test_foreign_text_cannot_draw_on_the_terminal(plain: Monitor, output: io.StringIO) -> None:
    plain.note("a\x1b[2Jb\nc [bold]d[/bold]")
    plain.evaluated(failed(1, 0, "line 1\r\nline 2"), "", best=False)
    assert output.getvalue() == (
        "[   0s] a [2Jb c [bold]d[/bold]\n[   0s]  1/32 group 0  #1  failed: line 1 line 2  n_parallel=64\n"
    )


def test_numbers_of_different_width_leave_the_columns_aligned(clock: Clock, output: io.StringIO) -> None:
    monitor = Monitor(120, {0: "a"}, output, Screen("plain"), clock=clock)
    monitor.started(baseline=BASELINE)
    for number in (7, 42, 119):
        monitor.evaluated(measured(number, 0), "x", best=False)
    monitor.expect(8)
    monitor.evaluated(measured(119, 0), "x", best=False)
    assert [line.partition("group 0 ")[2] for line in output.getvalue().splitlines()] == [
        "  #7  x  baseline",
        " #42  x  baseline",
        "#119  x  baseline",
        "#119  x  baseline",
    ]


def test_what_is_measured_again_is_named(plain: Monitor, output: io.StringIO) -> None:
    for label, configuration in (("repeat", BASELINE), ("confirm", {**BASELINE, "n_parallel": 8}), ("", BASELINE)):
        plain.evaluated(Evaluation(0, 1, 0, configuration, label, metrics={"x": 1.0}), "x", best=False)
    ends = [line.rsplit("  ", 1)[1] for line in output.getvalue().splitlines()]
    assert ends == ["repeat baseline", "confirm n_parallel=8", "baseline"]


def test_silence_is_broken_after_half_a_minute(plain: Monitor, clock: Clock, output: io.StringIO) -> None:
    plain.assigned(0, 1, "", BASELINE)
    plain.phase(0, "starting", "nothing listens\non port 8000")
    clock.now += 29.9
    plain.tick()
    assert output.getvalue() == ""
    clock.now += 0.1
    plain.tick()
    plain.tick()
    assert output.getvalue() == "[  30s] 0/32 group 0 #1 starting 30s (nothing listens on port 8000); ETA -\n"
    plain.phase(0, "measuring")
    plain.note("x")
    clock.now += 29.9
    plain.tick()
    assert output.getvalue().count("\n") == 2
    clock.now += 0.1
    plain.tick()
    assert output.getvalue().splitlines()[2] == "[  60s] 0/32 group 0 #1 measuring 1m00s; ETA -"


def test_the_sign_of_life_of_many_groups_is_short(clock: Clock, output: io.StringIO) -> None:
    monitor = Monitor(99, {group: f"node{group}" for group in range(8)}, output, Screen("plain"), clock=clock)
    monitor.started(baseline=BASELINE)
    for group in range(7):
        monitor.assigned(group, group, "", BASELINE)
        monitor.phase(group, "measuring" if group else "starting")
    clock.now += 30
    monitor.tick()
    assert output.getvalue() == "[  30s] 0/99 6 groups measuring, 1 groups starting; ETA -\n"


def test_the_time_to_come_counts_groups_work_under_way_and_the_limit(clock: Clock, output: io.StringIO) -> None:
    monitor = Monitor(10, {0: "a", 1: "b"}, output, Screen("plain"), clock=clock)
    monitor.started(baseline=BASELINE, time_limit=1000)

    def eta() -> str:
        clock.now += 30
        monitor.tick()
        return output.getvalue().rsplit("ETA ", 1)[1].strip()

    monitor.evaluated(measured(0, 0, 100.0), "", best=False)
    monitor.evaluated(measured(1, 1, 100.0), "", best=False)
    monitor.assigned(0, 2, "", BASELINE)
    monitor.assigned(1, 3, "", BASELINE)
    # 6 in the queue and two with 70 s to go, on two groups.
    assert eta() == "6m10s"
    monitor.lost(1, "gone")
    # 7 in the queue and one with 40 s to go, on one group.
    assert eta() == "12m20s"
    monitor.readmitted(1)
    # 7 in the queue and one with 10 s to go, on two groups.
    assert eta() == "5m55s"
    monitor.quarantined(1, "3 failures in a row", 30.0)
    assert eta() == "11m40s"
    monitor.expect(1000)
    assert eta() == "14m10s"
    clock.now += 810
    monitor.assigned(0, 4, "", BASELINE)
    # What has begun has 70 s to go, though the limit is over in 10.
    assert eta() == "1m10s"


def test_without_a_baseline_whole_configurations_are_shown_until_it_is_measured(
    clock: Clock, output: io.StringIO
) -> None:
    monitor = Monitor(3, {0: "a"}, output, Screen("plain"), clock=clock)
    monitor.started()
    monitor.evaluated(measured(1, 0, n_parallel=8), "x", best=False)
    monitor.evaluated(Evaluation(0, 1, 0, BASELINE, "baseline", metrics={"x": 1.0}), "x", best=False)
    monitor.evaluated(measured(2, 0, n_parallel=8), "x", best=False)
    assert [line.rsplit("  ", 1)[1] for line in output.getvalue().splitlines()] == [
        "n_parallel=8 n_batch=2048 flash=true",
        "baseline",
        "n_parallel=8",
    ]


def test_the_live_display_shows_groups_progress_and_incumbent(live: Monitor, clock: Clock, output: io.StringIO) -> None:
    live.assigned(0, 1, "", {**BASELINE, "n_parallel": 8})
    live.phase(0, "measuring")
    live.assigned(1, 2, "confirm", {**BASELINE, "n_batch": 512})
    live.phase(1, "starting", "HTTP 503")
    clock.now += 75
    best = measured(1, 0, 75.0, n_parallel=8)
    live.evaluated(best, "412.3 tok/s (+12.4 %)", best=True)
    live.incumbent = 1, "412.3 tok/s (+12.4 %)", best.configuration
    live.evaluated(failed(9, 0, "out of memory"), "", best=False)
    live.tick()
    clock.now += 1
    live.tick()
    lines = screen(output)
    assert lines[:3] == [
        "[   0s] mpipso",
        "[  75s] 1/8 group 0 #1 *412.3 tok/s (+12.4 %)  n_parallel=8",
        "[  75s] 2/8 group 0 #9  failed: out of memory  n_parallel=64",
    ]
    rule, progress, header, _, *rows, incumbent = [line for line in lines[3:] if line]
    assert set(rule) == {"─"} and len(rule) == 100
    assert progress.startswith("2/8 ━") and progress.endswith("1m16s  ETA 1m33s  1 failed")
    assert header.split() == ["group", "nodes", "#", "evaluates", "phase", "time"]
    assert [row.split() for row in rows] == [
        ["0", "node1", "node2", "idle"],
        ["1", "node3", "node4", "2", "confirm", "n_batch=512", "HTTP", "503", "starting", "1m16s"],
    ]
    assert incumbent == "best   #1  412.3 tok/s (+12.4 %)  n_parallel=8"


def test_the_live_display_leaves_only_the_lines_above_it(live: Monitor, output: io.StringIO) -> None:
    live.note("one")
    live.stop()
    live.stop()
    assert [line for line in screen(output) if line] == ["[   0s] mpipso", "[   0s] one"]
    assert output.getvalue().rindex("\x1b[?25h") > output.getvalue().rindex("\x1b[?25l")


def test_it_draws_at_most_four_times_a_second(live: Monitor, clock: Clock, output: io.StringIO) -> None:
    def draws() -> int:
        return output.getvalue().count("group")

    clock.now += 1
    live.tick()
    before = draws()
    for _ in range(100):
        clock.now += 0.01
        live.phase(0, "measuring")
        live.tick()
    assert 3 <= draws() - before <= 4


def test_no_line_is_wider_and_the_display_not_higher_than_the_terminal(clock: Clock, output: io.StringIO) -> None:
    groups = dict.fromkeys(range(64), "a-very-long-host-name.cluster.example another-one")
    monitor = Monitor(100, groups, output, Screen("live", 60, 16), clock=clock)
    monitor.started(baseline=BASELINE)
    for group in range(64):
        monitor.assigned(group, group, "", {f"a_long_parameter_name_{n}": n for n in range(9)})
    clock.now += 1
    monitor.tick()
    drawn = screen(output)
    monitor.stop()
    assert max(map(len, drawn)) <= 60 and len(drawn) <= 16
    assert any("+ 55 groups" in line and "55 busy" in line for line in drawn)


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_the_place_of_a_log_can_be_read_on_any_terminal(columns: int, clock: Clock, output: io.StringIO) -> None:
    log = "its log: node17:/scratch/job-123456/mpipso-abcdefgh/service-0-node17.log"
    monitor = Monitor(8, {0: "node17", 1: "node18"}, output, Screen("live", columns, 10), clock=clock)
    monitor.started(baseline=BASELINE)
    monitor.assigned(0, 1, "", {**BASELINE, "n_parallel": 8})
    monitor.phase(0, "starting", f"nothing listens on node17:8000: Connection refused;\n{log}")
    draw(monitor, clock)
    drawn = screen(output)
    assert " ".join(drawn).count(f" group 0: {log} ") == 1
    assert any(log.split()[-1] in line for line in drawn), "in one piece"
    assert any("n_parallel=8  nothing" in line for line in drawn) and max(map(len, drawn)) <= columns
    monitor.phase(0, "measuring")
    draw(monitor, clock)
    assert not any("its log" in line for line in screen(output))
    monitor.phase(0, "starting", "no answer;\nits log: " + 3 * columns * "x")
    draw(monitor, clock)
    drawn = screen(output)
    monitor.stop()
    assert len([line for line in drawn if line]) <= 10 and any("n_parallel=8  no answer " in line for line in drawn)


def test_a_lost_group_is_shown_until_it_works_again(live: Monitor, clock: Clock, output: io.StringIO) -> None:
    live.assigned(1, 3, "", BASELINE)
    live.lost(1, "no sign of life")
    draw(live, clock)
    assert any(line.split()[-1:] == ["lost"] and "no sign of life" in line for line in screen(output))
    live.assigned(1, 4, "", BASELINE)
    draw(live, clock)
    assert not any(line.split()[-1:] == ["lost"] for line in screen(output))
    live.quarantined(1, "3 failures in a row", 30.0)
    draw(live, clock)
    assert any(line.split()[-1:] == ["quarantine"] and "3 failures" in line for line in screen(output))
    live.readmitted(1)
    draw(live, clock)
    assert any(line.split()[-1:] == ["idle"] for line in screen(output))


def test_a_late_result_does_not_clear_what_the_group_does_now(live: Monitor, clock: Clock, output: io.StringIO) -> None:
    live.assigned(1, 4, "", BASELINE)
    live.evaluated(measured(3, 1), "x", best=False)
    draw(live, clock)
    assert any("node3" in line and " 4 " in line for line in screen(output))


def test_no_colour_is_honoured(monkeypatch: pytest.MonkeyPatch, clock: Clock, output: io.StringIO) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monitor = Monitor(8, {0: "a"}, output, Screen("live"), clock=clock)
    monitor.started("x")
    monitor.evaluated(failed(1, 0, "x"), "", best=False)
    monitor.stop()
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", output.getvalue())


@pytest.mark.parametrize("mode", ["plain", "live"])
def test_an_output_that_went_away_does_not_end_the_run(mode: str, tmp_path: Path, clock: Clock) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        monitor = Monitor(8, {0: "a"}, stream, Screen("live" if mode == "live" else "plain"), clock=clock)
        monitor.started("x")
        os.close(reading)
        for _ in range(3):
            monitor.note("nobody reads this")
            clock.now += 60
            monitor.tick()
        monitor.stop()
        # What the stream still buffers has no reader either.
        os.dup2(os.open(tmp_path / "rest", os.O_WRONLY | os.O_CREAT), stream.fileno())


@pytest.mark.parametrize("mode", ["plain", "live"])
def test_an_output_that_nobody_reads_holds_the_run_up_at_no_time_and_has_its_lines_later(mode: str) -> None:
    clock = Clock()
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    stream = os.fdopen(writing, "w")
    told: list[float] = []

    def go_on() -> None:
        monitor = Monitor(8, {0: "a"}, stream, Screen("live" if mode == "live" else "plain"), clock=clock)
        monitor.started("mpipso")
        for count in range(300):
            monitor.note(f"line {count}.")
            clock.now += 60
            monitor.tick()
        begun = time.monotonic()
        monitor.stop()
        told.append(time.monotonic() - begun)

    # In a thread, as code that waits for the reader would not come back.
    going = threading.Thread(target=go_on, daemon=True)
    going.start()
    going.join(60)
    stuck = going.is_alive()
    text = b""
    while b"line 299." not in text:
        assert select.select([reading], [], [], 10)[0], text[-200:]
        text += os.read(reading, 1 << 16)
    assert not stuck and told[0] < 10
    assert re.findall(rb"line (\d+)\.", text) == [str(count).encode() for count in range(300)]
    assert text.count(b"no group is busy") < 200, "there is nobody to see the signs of life"
    os.close(reading)


def test_of_what_nobody_reads_only_so_much_is_kept() -> None:
    reading, writing = os.pipe()
    stream = os.fdopen(writing, "w")
    output = Lasting(stream)
    for _ in range(5000):
        output.write(999 * "x" + "\n")
    assert output.behind and not output.drain(0.1)
    with ThreadPoolExecutor(1) as pool, os.fdopen(reading) as file:
        text = pool.submit(file.read)
        assert output.drain(60)
        output.write("the rest")
        assert output.drain(60) and not output.behind
        stream.close()
        *lines, last = text.result(60).splitlines()
    assert set(lines) == {999 * "x"} and 1000 < len(lines) < 1300, "they are left out whole"
    assert last == "the rest"


def test_a_terminal_that_lacks_a_character_gets_a_question_mark(clock: Clock) -> None:
    raw = io.BytesIO()
    monitor = Monitor(8, {0: "a"}, io.TextIOWrapper(raw, "ascii"), Screen("plain"), clock=clock)
    monitor.started("5 → 昇")
    assert raw.getvalue() == b"[   0s] 5 ? ?\n"


def test_the_display_follows_the_size_of_a_real_terminal(clock: Clock) -> None:
    master, slave = os.openpty()
    output = io.StringIO()

    def resize(columns: int) -> None:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    resize(70)
    monitor = Monitor(8, {0: "a"}, output, Screen("live", 100, 24, os.ttyname(slave)), clock=clock)
    monitor.started()
    widths = []
    for columns in (70, 50):
        resize(columns)
        output.seek(0)
        output.truncate()
        clock.now += 1
        monitor.tick()
        widths.append(max(len(line) for line in Text.from_ansi(output.getvalue()).plain.splitlines()))
    monitor.stop()
    os.close(master)
    os.close(slave)
    assert widths == [70, 50]
