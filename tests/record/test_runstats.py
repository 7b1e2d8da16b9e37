from __future__ import annotations

from pathlib import Path

import pytest
from record.written import Script, drawn
from rich.console import Group

from mpipso.record.outcome import read_outcome
from mpipso.record.runstats import GroupTable, run_statistics
from mpipso.record.usage import GroupUsage, Usage, usage


def told(script: Script, folder: Path, width: int = 120) -> list[str]:
    return drawn(Group(*run_statistics(read_outcome(script.save(folder)))), width)


def row(lines: list[str], first: str) -> list[str]:
    (line,) = [line for line in lines if line.startswith(f"{first} ")]
    return line.split()


def test_each_group_has_a_row_and_all_together_have_one() -> None:
    script = Script(g0=["node0", "node1"], g1=["node2", "node3"]).evaluated(50, 0, 0).evaluated(80, 1, 1, 80.0)
    lines = drawn(GroupTable(usage(script.finished(100).events)), 80)
    assert lines[0].split() == ["group", "hosts", "evals", "start", "bench", "stop", "other", "idle", "lost", "busy"]
    assert row(lines, "0") == ["0", "node0,node1", "1", "20s", "25s", "3s", "2s", "50s", "-", "50%"]
    assert row(lines, "1") == ["1", "node2,node3", "1", "20s", "25s", "3s", "32s", "20s", "-", "80%"]
    assert row(lines, "all") == ["all", "2", "40s", "50s", "6s", "34s", "1m10s", "-", "65%"]


def test_one_group_on_one_host_needs_neither_hosts_nor_a_sum() -> None:
    lines = drawn(GroupTable(usage(Script(g0=["a", "a"]).evaluated(50, 0, 0).finished(100).events)))
    assert "hosts" not in lines[0] and not any(line.startswith("all") for line in lines)


def test_groups_of_later_sessions_are_told_apart() -> None:
    script = Script(g0=["a"]).evaluated(50, 0, 0).resumed(500, g0=["a"]).evaluated(550, 1, 0).finished(550)
    lines = drawn(GroupTable(usage(script.events)))
    assert [line[:14] for line in lines[2:4]] == ["0 of session 1", "0 of session 2"]


@pytest.mark.parametrize("width", [80, 120])
def test_a_large_cluster_fits_on_a_page(width: int) -> None:
    groups = [
        GroupUsage(1, index, (f"node{index:03d}.cluster.example", "b", "c"), 90_000.0, 30_000.0, 40_000.0 - 100 * index)
        for index in range(64)
    ]
    lines = drawn(GroupTable(Usage(groups, sessions=1)), width)
    assert len(lines) <= 16 and max(map(len, lines)) <= width
    names = [line.split()[0] for line in lines if line[:1].isdigit()]
    assert names == [*(str(index) for index in range(54, 64)), "54"]
    assert any(line.startswith("54 others") for line in lines) and lines[0].split()[-1] == "busy"
    assert row(lines, "63")[-1] == "71%" and row(lines, "all")[-1] == "74%"


@pytest.mark.parametrize(
    ("measuring", "seconds", "told_of"), [(4.0, 50.0, True), (6.0, 50.0, False), (0.4, 9.0, False)]
)
def test_a_benchmark_that_is_short_beside_the_start_is_pointed_out(
    tmp_path: Path, measuring: float, seconds: float, told_of: bool
) -> None:
    phases = {"starting": seconds - measuring, "measuring": measuring}
    script = Script(g0=["a"]).evaluated(100, 0, 0, seconds, phases=phases)
    script.evaluated(200, 1, 0, 60.0, tokens=None, phases={"starting": 60.0})  # has no benchmark
    line = "the benchmark takes 8 % of the time of an evaluation: a longer one would cost little and vary less"
    assert (line in told(script.finished(200), tmp_path)) == told_of


def test_benchmarks_that_were_stopped_early_are_counted(tmp_path: Path) -> None:
    script = Script(g0=["a"]).evaluated(50, 0, 0)
    script.stopped(100, 1, 0, 30.0, phases={"starting": 10.0, "measuring": 20.0})
    script.stopped(150, 2, 0, 40.0, phases={"starting": 10.0, "measuring": 10.0})
    script.evaluated(200, 3, 0, tokens=None).evaluated(250, 4, 0, feasible=False, violations=["late"])
    lines = told(script.finished(250), tmp_path)
    assert lines[0] == "5 evaluations, 1 failed, 1 infeasible, 2 stopped early in 4m10s"
    plain = told(Script(g0=["a"]).evaluated(50, 0, 0).finished(50), tmp_path / "plain")
    assert not any("stopped" in line for line in plain)


def test_nor_do_they_say_how_long_a_benchmark_takes(tmp_path: Path) -> None:
    script = Script(g0=["a"]).evaluated(100, 0, 0, 50.0, phases={"starting": 25.0, "measuring": 25.0})
    for number in range(1, 9):
        script.stopped(100 + number, number, 0, 9.0, 50.0, phases={"starting": 49.0, "measuring": 1.0})
    assert not any(line.startswith("the benchmark takes") for line in told(script.finished(200), tmp_path))


def test_the_gain_over_one_group_is_told(tmp_path: Path) -> None:
    script = Script().evaluated(100, 0, 0, 100.0).evaluated(90, 1, 1, 80.0).finished(100)
    assert "3m00s of evaluations in 1m40s: 1.80 times as fast as one group" in told(script, tmp_path)
    alone = told(Script(g0=["a"]).evaluated(100, 0, 0, 100.0).finished(100), tmp_path / "alone")
    assert not any("as fast as" in line for line in alone)


def test_one_group_at_a_time_is_not_compared_with_one_group(tmp_path: Path) -> None:
    resumed = Script(g0=["a"]).evaluated(50, 0, 0).add(60, "interrupted", signal="SIGTERM")
    resumed.resumed(500, g0=["a"]).evaluated(550, 1, 0).finished(570)
    replaced = Script(g0=["a"]).evaluated(50, 0, 0).lost(60, 0).add(70, "formed", group=1, hosts=["b"])
    replaced.evaluated(120, 1, 1).finished(130)
    for name, script in {"resumed": resumed, "replaced": replaced}.items():
        lines = told(script, tmp_path / name)
        assert any(line.startswith("all ") for line in lines)
        assert not any("as fast as" in line for line in lines)
    resumed = Script(g0=["a"]).evaluated(50, 0, 0).resumed(500, g0=["a"], g1=["b"])
    resumed.evaluated(550, 1, 0).evaluated(550, 2, 1).finished(550)
    assert "2m30s of evaluations in 1m40s: 1.50 times as fast as one group" in told(resumed, tmp_path / "wider")


def waves(script: Script) -> Script:
    """Generations of two on two groups, one of which always waits."""
    for number in range(0, 24, 2):
        t = 50.0 * number
        script.assigned(t, number, 0).assigned(t, number + 1, 1)
        script.evaluated(t + 10, number + 1, 1, 10.0).evaluated(t + 100, number, 0, 100.0)
    return script.finished(1200)


def test_a_schedule_that_would_have_kept_groups_busy_is_named(tmp_path: Path) -> None:
    lines = told(waves(Script(config="[search]\nparticles = 2\n")), tmp_path, 200)
    (line,) = [line for line in lines if line.startswith("groups idled for 45 % of their time: with ")]
    assert "the search would have taken about" in line and "instead of 20m00s" in line


@pytest.mark.parametrize("config", ['[search]\nschedule = "async"\n', "[search]\nparticles = 24\n"])
def test_no_schedule_is_named_where_none_would_have_helped(tmp_path: Path, config: str) -> None:
    assert not any(line.startswith("groups idled") for line in told(waves(Script(config=config)), tmp_path))


def test_what_went_wrong_is_told_with_its_causes(tmp_path: Path) -> None:
    script = Script().retried(10, 0, 0).retried(20, 1, 0, cause="port 8081 is held")
    script.retried(30, 2, 0, cause="disk\nfull")
    script.evaluated(60, 0, 0, tokens=None).evaluated(60, 1, 1, tokens=None).evaluated(
        70, 2, 1, 1.0, tokens=None, cause="x"
    )
    script.add(70, "quarantined", group=0, cause="3 failures in a row", pause=5).add(90, "readmitted", group=0)
    script.lost(95, 0, 1, ranks=(0, 1)).lost(96, ranks=[4]).finished(100, cause="exhausted")
    assert told(script, tmp_path)[:10] == [
        "3 evaluations, 3 failed, 0 infeasible, 3 retried in 1m40s",
        "ended because every configuration that could be found has been tried",
        "  2 failed: out of memory (#0, #1)",
        "  1 failed: x (#2)",
        "  2 retried: port 8080 is held",
        "  1 retried: disk full",
        "  lost ranks 0, 1 on b with groups 0, 1: its lease ran out",
        "  lost rank 4 on b: its lease ran out",
        "  group 0 in quarantine for 20s, readmitted: 3 failures in a row",
        "",
    ]


def test_quarantines_of_one_cause_are_told_once(tmp_path: Path) -> None:
    script = Script()
    for number in range(3):
        t, cause = 10.0 * number, f"failures in a row, the last: {8080 + number} is held"
        script.add(t, "quarantined", group=number % 2, cause=cause, pause=5).add(t + 5, "readmitted", group=number % 2)
    script.add(50, "quarantined", group=1, cause="the baseline failed", pause=5).finished(60, cause="exhausted")
    assert [line for line in told(script, tmp_path) if "quarantine" in line] == [
        "  groups 0, 1 in quarantine 3 times, for 15s in all, 3 readmitted: failures in a row, the last: 8080 is held",
        "  group 1 in quarantine for 10s, not readmitted: the baseline failed",
    ]


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (60, ["group", "hosts", "evals", "start", "bench", "idle", "busy"]),
        (40, ["group", "evals", "idle", "busy"]),
        (24, ["group", "busy"]),
    ],
)
def test_columns_that_a_narrow_terminal_has_no_room_for_are_left_out(width: int, titles: list[str]) -> None:
    groups = [GroupUsage(number, 0, (f"node{number}",), 5000.0, 500.0, 4000.0, evaluations=9) for number in (1, 2)]
    lines = drawn(GroupTable(Usage(groups, sessions=2)), width)
    assert lines[0].split() == titles
    assert "…" not in "".join(lines) and max(map(len, lines)) <= width
    assert "0 of session 1" in lines[2] and "90%" in lines[2]


def test_causes_that_differ_in_a_port_are_one_and_a_run_that_failed_gets_no_advice(tmp_path: Path) -> None:
    script = Script()
    for number, port in enumerate((4031, 40112)):
        script.evaluated(10 + number, number, number, tokens=None, cause=f"not ready: http://10.0.0.1:{port}/health")
    lines = told(script.finished(100), tmp_path)
    assert "  2 failed: not ready: http://10.0.0.1:4031/health (#0, #1)" in lines
    assert not any("times as fast" in line or "idled" in line for line in lines)


def test_causes_that_differ_in_what_a_logger_puts_before_them_are_one(tmp_path: Path) -> None:
    script = Script()
    for number in range(2):
        line = f"[2026-11-28 08:00:0{number}.123+08:00] [12{number}] [281] [llm] [ERROR] [a.cpp:8] : [MIE04] no memory"
        script.retried(5 + number, number, 0, cause=f"vm: it ended: {line}")
        script.evaluated(10 + number, number, number, tokens=None, cause=f"vm: it ended: {line}")
    lines = told(script.finished(100), tmp_path)
    assert "  2 failed: vm: it ended: [MIE04] no memory (#0, #1)" in lines
    assert "  2 retried: vm: it ended: [MIE04] no memory" in lines


def test_of_many_evaluations_with_one_cause_the_first_are_named(tmp_path: Path) -> None:
    script = Script()
    for number in (12, 3, 4, 10, 7):
        script.evaluated(10 + number, number, 0, tokens=None)
    assert "  5 failed: out of memory (#3, #4, #7, #10, #12)" in told(script, tmp_path)
    assert "  6 failed: out of memory (#2, #3, #4, #7, #10, ...)" in told(
        script.evaluated(40, 2, 0, tokens=None), tmp_path
    )


def test_many_faults_are_not_told_one_by_one(tmp_path: Path) -> None:
    script = Script()
    for number in range(30):
        script.lost(number, ranks=[number])
    lines = told(script.finished(40), tmp_path)
    assert sum(line.startswith("  lost rank") for line in lines) == 8
    assert "  and 22 more of these; see the journal" in lines


def test_a_run_in_several_sessions_says_so(tmp_path: Path) -> None:
    lines = told(Script().resumed(100, g0=["a"]).resumed(200, g0=["a"]).finished(260), tmp_path)
    assert lines[0] == "0 evaluations, 0 failed, 0 infeasible in 1m00s, 3 sessions"
