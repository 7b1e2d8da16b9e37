"""Until when a session may start evaluations, and what it leaves to the final race."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mpipso import batch
from mpipso.errors import UserError
from mpipso.timelimits import RACE_SHARE, RESERVE, TimeLimits, nothing_left, require_time


@dataclass
class Clock:
    now: float = 50.0

    def __call__(self) -> float:
        return self.now


def test_without_a_limit_it_is_never_late() -> None:
    limits = TimeLimits(None, 1e9, {"SLURM_JOB_END_TIME": "unknown"})
    assert limits.seconds is None
    assert not limits.over(1e9, (1e9, 1e9))


def test_a_limit_is_on_what_is_started_and_earlier_sessions_count() -> None:
    clock = Clock()
    limits = TimeLimits(100.0, 40.0, {}, clock)
    assert limits.seconds == 60.0
    clock.now += 59.0
    assert not limits.over(1000.0)
    clock.now += 1.0
    assert limits.over(0.0)
    assert limits.seconds == 0.0


@pytest.mark.parametrize("name", ["SLURM_JOB_END_TIME", "MPIPSO_END_TIME"])
def test_before_the_end_of_a_job_only_what_will_end_is_started(name: str) -> None:
    clock = Clock()
    limits = TimeLimits(None, 0.0, {name: str(int(time.time() + RESERVE + 1000))}, clock)
    assert limits.seconds == pytest.approx(1000.0, abs=5.0)
    clock.now += 890.0
    assert not limits.over(100.0)
    assert limits.over(120.0)


def test_the_earlier_end_of_a_job_counts() -> None:
    for slurm_end, script_end in (("2000000000", "3000000000"), ("3000000000", "2000000000")):
        assert TimeLimits(None, 0.0, {"SLURM_JOB_END_TIME": slurm_end, "MPIPSO_END_TIME": script_end}).end == 2e9


@pytest.mark.parametrize("text", ["", "soon", "08:00:00", "1.8e9", "1790000000000", "-1", "28800"])
def test_what_is_no_end_of_a_job_is_refused_by_name(text: str) -> None:
    with pytest.raises(UserError, match=f"^MPIPSO_END_TIME={text}: .*it is when the job ends, in seconds since 1970"):
        require_time({"MPIPSO_END_TIME": text})


def test_a_job_without_time_is_refused_but_the_restart_of_one_ends_in_order() -> None:
    late = {"MPIPSO_END_TIME": str(int(time.time() + RESERVE))}
    with pytest.raises(UserError, match="leaves no time"):
        require_time(late)
    require_time({**late, "MPIPSO_RESTARTS": "2"})
    require_time({"MPIPSO_END_TIME": str(int(time.time() + RESERVE + 1000))})
    require_time({})


def test_a_limit_that_earlier_sessions_have_spent_is_told() -> None:
    assert nothing_left(None, 1e9) == nothing_left(100.0, 99.0) == ""
    assert nothing_left(100.0, 100.0).startswith(
        "search.time_limit is 100 s for all sessions together, and those so far took"
    )


class TestTheEndOfASlurmJobThatIsNotInTheEnvironment:
    def limits(
        self, tmp_path: Path, squeue: str, clock: Callable[[], float] = time.monotonic, **environment: str
    ) -> TimeLimits:
        tool = tmp_path / "squeue"
        tool.write_text(f"#!/bin/sh\n{squeue}\n")
        tool.chmod(0o755)
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7", **environment}
        return TimeLimits(None, 0.0, environment, clock)

    def test_is_asked_for(self, tmp_path: Path) -> None:
        end = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + RESERVE + 1000))
        asked = f'[ "$SLURM_TIME_FORMAT $*" = "standard --noheader --jobs 7 --format %A %e" ] && echo 7 {end}'
        limits = self.limits(tmp_path, asked, SLURM_TIME_FORMAT="relative")
        assert limits.seconds == pytest.approx(1000.0, abs=10.0)

    def test_is_that_of_the_own_task_in_an_array(self, tmp_path: Path) -> None:
        """The number of one of the tasks is that of the array, too; then Slurm tells of all."""
        now = time.time()
        ends = [time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now + RESERVE + left)) for left in (500, 1000, 2000)]
        limits = self.limits(tmp_path, f"echo '8 {ends[0]}'; echo '7 {ends[1]}'; echo '9 {ends[2]}'")
        assert limits.seconds == pytest.approx(1000.0, abs=10.0)

    @pytest.mark.parametrize("variable", [{}, {"SLURM_JOB_END_TIME": "SOON"}])
    def test_is_asked_for_again_before_the_search_ends_for_its_sake(
        self, tmp_path: Path, variable: dict[str, str]
    ) -> None:
        """The job may have got more time, or was suspended; not each question takes its time."""
        now = time.time()
        asked = tmp_path / "asked"
        variable = dict.fromkeys(variable, f"{now + RESERVE + 100:.0f}")
        clock = Clock()

        def set_end(seconds: float) -> None:
            end = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now + RESERVE + seconds))
            (tmp_path / "end").write_text(f"7 {end}\n")

        set_end(100.0)
        limits = self.limits(tmp_path, f"echo >> {asked}; cat {tmp_path}/end", clock, **variable)
        asked.write_text("")
        assert not limits.over(10.0), "and there is no question before it is late"
        assert asked.read_text() == ""
        clock.now += 95.0
        assert limits.over(10.0)
        assert limits.over(10.0)
        assert asked.read_text() == "\n"
        set_end(1000.0)
        clock.now += 60.0
        assert not limits.over(10.0)
        assert limits.end == pytest.approx(now + RESERVE + 1000.0, abs=2.0)
        clock.now += 800.0
        assert not limits.over(10.0)
        assert limits.over(10.0, race=(80.0, 1e6)), "the race has its share of the new time"
        set_end(50.0)
        clock.now += 1200.0
        assert limits.over(10.0), "an earlier end than it was is no news"
        assert limits.end == pytest.approx(now + RESERVE + 1000.0, abs=2.0)

    @pytest.mark.parametrize("squeue", ["echo 7 NONE", "echo 7 N/A", "exit 1", "sleep 60"])
    def test_is_none_if_slurm_does_not_say(self, tmp_path: Path, squeue: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(batch, "LIMIT", 1.0)
        assert self.limits(tmp_path, squeue).seconds is None


def test_a_job_that_comes_back_has_no_end() -> None:
    limits = TimeLimits(None, 0.0, {"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": "1", "MPIPSO_REQUEUE": "1"})
    assert limits.seconds is None
    assert TimeLimits(None, 0.0, {"SLURM_JOB_END_TIME": "1", "MPIPSO_REQUEUE": "0"}).seconds == 0.0
    assert TimeLimits(None, 0.0, {"MPIPSO_END_TIME": "1", "MPIPSO_REQUEUE": "1"}).seconds is None
    assert TimeLimits(100.0, 40.0, {"MPIPSO_REQUEUE": "1"}, Clock()).seconds == 60.0, "its own limit stays"


def test_the_search_leaves_time_to_the_race_but_not_too_much() -> None:
    clock = Clock()
    limits = TimeLimits(100.0, 0.0, {}, clock)
    clock.now += 100.0 * (1.0 - RACE_SHARE) - 1.0
    assert not limits.over(5.0, race=(20.0, 1e6))
    clock.now += 2.0
    assert limits.over(5.0, race=(20.0, 1e6))
    assert not limits.over(5.0, race=(5.0, 10.0))
    assert not limits.over(5.0, race=(30.0, 1e6)), "not even the least of a race has room"
    assert not limits.over(5.0), "the race may begin"


def test_a_session_that_begins_late_does_nothing() -> None:
    assert TimeLimits(100.0, 100.0, {}, Clock()).over(0.0, race=(5.0, 10.0))
