from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from record.written import PHASES, Script, plan

from mpipso.record.usage import GroupUsage, Loss, Quarantine, Usage, busy_share, usage


def shares(group: GroupUsage) -> dict[str, float]:
    """Where the seconds went, without what is zero."""
    fields = {name: getattr(group, name) for name in ("start", "benchmark", "stop", "other", "lost", "running")}
    return {name: spent for name, spent in {**fields, "idle": group.idle}.items() if spent}


def test_the_time_of_a_group_is_that_of_its_evaluations_phases_and_the_rest_is_idle() -> None:
    script = Script().assigned(0, 0, 0).assigned(0, 1, 1).evaluated(50, 0, 0).evaluated(60, 1, 1, 60.0).finished(100)
    first, second = usage(script.events).groups
    assert shares(first) == {"start": 20, "benchmark": 25, "stop": 3, "other": 2, "idle": 50}
    assert shares(second) == {"start": 20, "benchmark": 25, "stop": 3, "other": 12, "idle": 40}
    assert (first.seconds, first.evaluations, first.hosts, first.session) == (100, 1, ("a",), 1)


def test_speed_up_is_what_one_group_would_have_taken_over_the_wall_time() -> None:
    script = Script().evaluated(100, 0, 0, 100.0).evaluated(90, 1, 1, 80.0).finished(100)
    found = usage(script.events)
    assert found.speed_up == pytest.approx(1.8) and found.wall == 100 and found.width == 2
    assert found.idle_share == pytest.approx(0.1) and busy_share(found.groups) == pytest.approx(0.9)
    empty = usage(Script().events)
    assert empty.speed_up is None and empty.idle_share == 0.0 and busy_share(empty.groups) == 0.0


def test_an_attempt_that_was_repeated_is_lost_and_counts_once() -> None:
    script = Script().assigned(0, 0, 0).retried(30, 0, 0).assigned(30, 0, 1, attempt=2)
    script.evaluated(80, 0, 1, attempt=2).finished(100)
    first, second = usage(script.events).groups
    assert shares(first) == {"lost": 30, "idle": 70} and second.evaluations == 1 and first.evaluations == 0


def test_a_result_that_says_nothing_about_its_configuration_is_lost_time() -> None:
    script = Script().assigned(0, 0, 0).evaluated(40, 0, 0, 40.0, tokens=None, kind="infrastructure")
    script.evaluated(90, 1, 1, 90.0, tokens=None, kind="configuration", phases={"starting": 90.0}).finished(100)
    found = usage(script.events)
    assert [shares(group) for group in found.groups] == [{"lost": 40, "idle": 60}, {"start": 90, "idle": 10}]
    assert found.durations == [90.0]


@pytest.mark.parametrize("first", ["retried", "lost"])
def test_a_group_ends_with_its_ranks_and_so_does_its_attempt(first: str) -> None:
    script = Script().assigned(10, 0, 1)
    for kind in ("retried", "lost") if first == "retried" else ("lost", "retried"):
        script = script.retried(40, 0, 1) if kind == "retried" else script.lost(40, 1)
    found = usage(script.add(60, "formed", group=2, hosts=["c"], ranks=[3], cores=4).finished(100).events)
    assert [(group.group, group.seconds) for group in found.groups] == [(0, 100), (1, 40), (2, 40)]
    assert shares(found.groups[1]) == {"lost": 30, "idle": 10} and shares(found.groups[2]) == {"idle": 40}
    assert found.losses == [Loss((1,), ("b",), (1,), "its lease ran out")] and found.width == 2


def test_quarantine_is_lost_time_until_it_ends_or_the_session_does() -> None:
    script = Script().add(20, "quarantined", group=0, cause="3 failures in a row", pause=10)
    script.add(35, "probed", group=0, passed=False, cause="port", started=30, ended=35)
    script.add(35, "quarantined", group=0, cause="port", pause=20)
    script.add(60, "probed", group=0, passed=True, cause="", started=55, ended=60).add(60, "readmitted", group=0)
    script.add(70, "quarantined", group=1, cause="baseline failed", pause=10).finished(100)
    found = usage(script.events)
    assert [shares(group) for group in found.groups] == [{"lost": 40, "idle": 60}, {"lost": 30, "idle": 70}]
    assert found.quarantines == [
        Quarantine(0, "3 failures in a row", 40, True),
        Quarantine(1, "baseline failed", 30, False),
    ]


def test_sessions_have_groups_of_their_own_and_the_time_between_is_nobody_s() -> None:
    script = Script(g0=["a"], g1=["b"]).assigned(0, 0, 0).assigned(0, 1, 1).evaluated(50, 0, 0)
    script.resumed(1000, g0=["b"]).assigned(1000, 1, 0).evaluated(1060, 1, 0, 60.0).finished(1100)
    found = usage(script.events)
    assert [(g.session, g.group, g.seconds) for g in found.groups] == [(1, 0, 50), (1, 1, 50), (2, 0, 100)]
    assert shares(found.groups[1]) == {"lost": 50}  # its session was cut short, and it was done again
    assert found.wall == 150 and found.sessions == 2 and found.durations == [50.0, 60.0]


def test_what_a_session_did_between_its_last_event_and_its_death_is_lost() -> None:
    script = Script(g0=["a"], g1=["b"]).assigned(0, 0, 0).evaluated(50, 0, 0).assigned(50, 1, 0)
    script.add(1000, "resumed", config="", plan=plan({"g0": ["a"]}), lived=300.0).finished(1100)
    found = usage(script.events)
    assert found.wall == 450 and [group.seconds for group in found.groups] == [350, 350, 100]
    assert shares(found.groups[0])["lost"] == 300 and shares(found.groups[1]) == {"idle": 350}


def test_an_attempt_under_way_is_not_lost_yet() -> None:
    script = Script().assigned(10, 0, 0).assigned(40, 1, 1)
    assert [shares(group) for group in usage(script.events).groups] == [{"running": 30, "idle": 10}, {"idle": 40}]


def test_an_attempt_that_a_signal_cut_short_is_lost() -> None:
    script = Script().assigned(10, 0, 0).add(50, "interrupted", signal="SIGTERM")
    assert shares(usage(script.events).groups[0]) == {"lost": 40, "idle": 10}


def test_durations_are_in_the_order_of_proposal_and_leave_confirmations_out() -> None:
    script = Script().evaluated(50, 1, 0, 50.0).evaluated(40, 0, 1, 40.0, label="baseline")
    script.evaluated(70, 2, 0, 20.0, label="repeat").evaluated(90, 3, 0, 20.0, label="confirm").finished(100)
    assert usage(script.events).durations == [40.0, 50.0, 20.0]


def test_phases_never_exceed_the_evaluation() -> None:
    script = Script().evaluated(30, 0, 0, 30.0, phases={"starting": 25.0, "measuring": 25.0, "stopping": 1.0})
    assert shares(usage(script.finished(30).events).groups[0]) == {"start": 25, "benchmark": 5}


def test_nothing_of_a_journal_without_events_or_groups() -> None:
    assert usage([]) == Usage()
    assert usage([{"event": "started", "t": 5.0}]).groups == []


def test_a_clock_that_was_set_changes_nothing_where_another_one_is_known() -> None:
    script = Script().assigned(0, 0, 0).evaluated(50, 0, 0).assigned(50, 1, 0).evaluated(90, 1, 0, 40.0).finished(100)
    expected = usage(script.events)
    events = [{**event, "up": event["t"] + 0.5} for event in script.events]
    for event, step in zip(events, (0.0, 0.0, -9e8, -9e8, 7200.0, 7200.0), strict=True):
        event["t"] += step
    assert usage(events) == expected and expected.wall == 100


def test_in_a_journal_that_knows_no_other_no_time_is_negative_or_absurd() -> None:
    """Earlier versions: the clock is put back by a day during the first evaluation, and is right at the second."""
    script = Script().assigned(0, 0, 0).evaluated(50, 0, 0).assigned(50, 1, 0).evaluated(90, 1, 0, 40.0).finished(100)
    for event in script.events[2:4]:
        event["t"] -= 86400.0
    script.events[2]["ended"] -= 86400.0
    script.events[4]["t"] += 1e9
    script.events[4]["ended"] += 1e9
    script.events[5]["t"] += 1e9
    found = usage(script.events)
    assert found.wall == 10 and found.durations == [49.0, 49.0]
    assert all(value >= 0 for value in shares(found.groups[0]).values())


STEPS = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from(["work", "retry", "lose", "form", "jail", "free", "resume"])),
    max_size=30,
)


@given(STEPS)
def test_the_parts_of_a_group_s_time_add_up_whatever_happens(steps: list[tuple[int, str]]) -> None:
    script = Script()
    for number, (group, step) in enumerate(steps):
        t = 100.0 * number
        if step == "work":
            script.assigned(t, number, group).evaluated(t + 50, number, group, phases=PHASES)
        elif step == "retry":
            script.assigned(t, number, group).retried(t + 50, number, group)
        elif step == "lose":
            script.assigned(t, number, group).lost(t + 50, group)
        elif step == "form":
            script.add(t, "formed", group=group, hosts=["c"], ranks=[2], cores=1)
        elif step == "jail":
            script.add(t, "quarantined", group=group, cause="x", pause=1)
        elif step == "free":
            script.add(t, "readmitted", group=group)
        else:
            script.resumed(t, g0=["a"], g1=["b"])
    found = usage(script.events)
    for each in found.groups:
        parts = each.useful + each.lost + each.running + each.idle
        assert parts >= each.seconds - 1e-9
        assert all(value >= 0 for value in dataclasses.astuple(each) if isinstance(value, float))
    assert found.wall == sum(session[-1] - session[0] for session in _times(script))


def _times(script: Script) -> list[list[float]]:
    sessions: list[list[float]] = []
    for event in script.events:
        if event["event"] in ("started", "resumed"):
            sessions.append([])
        sessions[-1].append(event["t"])
    return sessions
