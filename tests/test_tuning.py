"""The root's side of the search in one process: real strategy, journal and folder; only the measuring is computed.

What a run proposes depends on the seed and the results alone, so it can be interrupted anywhere and goes on the same.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli
import tomli_w
from faults.formula import throughput

from mpipso.config import Config, ObjectiveSection
from mpipso.config.file import parse
from mpipso.errors import FailureKind, RunFailed
from mpipso.evaluation import CONFIRM, REPEAT, Assignment, Configuration, Evaluation, Expected, Failure, Metrics, Value
from mpipso.record.figures import score
from mpipso.record.folders import RunFolder
from mpipso.record.journal import FILE, Journal, read
from mpipso.record.monitor import Monitor
from mpipso.record.outcome import read_outcome
from mpipso.record.screen import Screen
from mpipso.record.warm import Earlier
from mpipso.runrecord import write_end
from mpipso.score import Score
from mpipso.search import strategies
from mpipso.search.budgets import reaches
from mpipso.search.objective import Objective
from mpipso.startup import well_defined
from mpipso.tuning import Tuning

TEXT = (Path(__file__).parent / "faults" / "formula.toml").read_text()
BASELINE = {"batch": 8, "wait": 0, "policy": "greedy"}

Order = Callable[[Sequence[int]], int]
"""Which of the evaluations that run ends next, by number."""
Measure = Callable[[Configuration], Metrics | Failure]


Early = Callable[[Assignment, Metrics], dict[str, Any]]
"""What there is of a whole benchmark, or of one that was stopped early."""


def stopping(assignment: Assignment, metrics: Metrics, *, hope: float = 1.0) -> dict[str, Any]:
    """Half of it is known after the first part; it is stopped if that is below what the best had there."""
    first, pace = metrics["output_throughput"] / 2, assignment.pace
    if pace is None or first >= 0.98 * pace.first:
        return {"metrics": metrics, "first": first}
    return {"first": first, "expected": hope * first * pace.whole / pace.first}


def configured(**changes: object) -> Config:
    """The formula's search with other values, by keys with ``__`` for the dot."""
    tree = tomli.loads(TEXT)
    for key, value in {"search__strategy": "pso", "search__confirm": 0, **changes}.items():
        section, name = key.split("__")
        tree[section][name] = value
    return parse(tomli_w.dumps(tree), "formula.toml")


RELATIVE = {"objective__slo": [{"metric": "ttft_p99_ms", "max": "baseline", "factor": 1.5}]}


def measured(configuration: Configuration) -> Metrics | Failure:
    latency = 50.0 + 3.0 * float(configuration["batch"])
    return {
        "completed": 10.0,
        "failed": 0.0,
        "output_throughput": throughput(dict(configuration)),
        "ttft_p99_ms": latency,
    }


def broken(configuration: Configuration) -> Metrics | Failure:
    return Failure("it broke", "configuration")


def shuffled(seed: int) -> Order:
    random = np.random.default_rng(seed)
    return lambda running: int(random.choice(sorted(running)))


@dataclass
class Session:
    """One session of a run in ``folder``, with groups that take the next assignment when they are free."""

    folder: Path
    config: Config
    groups: int = 2
    measure: Measure = measured
    order: Order = min
    killed: bool = False
    """Whether services have to be killed."""
    cut: str = ""
    """At which load of a sweep each benchmark fails, and why."""
    swept: bool = False
    """Whether a service is measured at several loads, of which another one is the best at each time."""
    least: int = 0
    """How many of these loads every other measurement reaches; 0 for all."""
    early: Early | None = None
    """What is left of a benchmark that may be stopped early."""
    lines: int | None = None
    """How many lines the journal may have before the session is killed."""
    assigned: list[Assignment] = field(default_factory=list)
    shown: io.StringIO = field(default_factory=io.StringIO)

    def run(self, earlier: Sequence[Earlier] = ()) -> Tuning:
        """The session until its end, or until it is killed."""
        fresh = not (self.folder / FILE).exists()
        past = [] if fresh else read(self.folder / FILE)
        with Journal.create(self.folder) if fresh else Journal.open(self.folder) as journal:
            journal.write("started" if fresh else "resumed", config="", objective=self.config.objective.metric)
            monitor = Monitor(
                self.config.search.evaluations, dict.fromkeys(range(self.groups), "node"), self.shown, Screen("plain")
            )
            tuning = self._tuning(journal, monitor, past)
            for each in earlier:
                tuning.learn(each)
            self._search(tuning)
            return tuning

    def _tuning(self, journal: Journal, monitor: Monitor, past: Sequence[Mapping[str, Any]]) -> Tuning:
        search = self.config.search
        space = well_defined(self.config)
        in_flight = self.groups if search.schedule == "async" else search.batch
        strategy = strategies.create(search, space, in_flight=in_flight)
        folder = RunFolder(self.folder)
        return Tuning(self.config, space, strategy, folder, journal, monitor, lambda configuration: [], past)

    def _search(self, tuning: Tuning) -> None:
        queue: list[Assignment] = []
        running: dict[int, tuple[int, Assignment]] = {}
        confirming = False
        while True:
            idle = self.groups - len(running) - len(queue)
            queue += tuning.confirmations(1) if confirming and not running and not queue else ()
            queue += () if confirming else tuning.propose(max(0, idle))
            if not queue and not running:
                if confirming:
                    break
                assert tuning.cause, "it ends for a reason"
                confirming = True
                continue
            free = iter(set(range(self.groups)) - {group for group, _ in running.values()})
            while queue and len(running) < self.groups:
                assignment = queue.pop(0)
                running[assignment.number] = (next(free), assignment)
                tuning.assigned(running[assignment.number][0], assignment)
                self.assigned.append(assignment)
            number = self.order(list(running))
            group, assignment = running.pop(number)
            tuning.evaluated(self._evaluation(group, assignment))
        assert tuning.conclude() == (tuning.incumbent is not None)

    def _evaluation(self, group: int, assignment: Assignment) -> Evaluation:
        what = self.measure(assignment.configuration)
        told: dict[str, Any] = {"failure": what} if isinstance(what, Failure) else {"metrics": what}
        begun = 1000.0 + assignment.number
        if self.swept and not isinstance(what, Failure):
            number, rate = assignment.number, what["output_throughput"]
            rates = {load: rate * (1.0 + (load == 1 + number % 3) + load / 10) for load in (1, 2, 3)}
            loads = {
                f"concurrency {load}": {**what, "output_throughput": rate, "concurrency": float(load)}
                for load, rate in rates.items()
                if load <= (self.least or 3) or number % 2 == 0
            }
            told = {"loads": loads, "metrics": max(loads.values(), key=lambda each: each["output_throughput"])}
        if self.early is not None and not isinstance(what, Failure):
            told = self.early(assignment, what)
        return Evaluation(
            assignment.number,
            assignment.attempt,
            group,
            assignment.configuration,
            assignment.label,
            started=begun,
            killed=self.killed,
            cut=f"{self.cut} after {assignment.number} s" if self.cut else "",
            **{"ended": begun + 1.0 + float(assignment.configuration["batch"]) / 10, **told},
        )

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        return [event for event in read(self.folder / FILE) if event["event"] in kinds]

    def proposals(self) -> list[tuple[int, str, Mapping[str, Value]]]:
        return [(n["number"], n["label"], n["configuration"]) for e in self.events("asked") for n in e["new"]]


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Path]:
    """A new folder each time."""
    return (_made(tmp_path / f"run-{number}") for number in itertools.count(1))


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def cut(source: Path, target: Path, line: int, *, torn: bool = False) -> int:
    """Copy the first lines of a journal, as a crash leaves them; returns how many evaluations they complete."""
    lines = (source / FILE).read_bytes().splitlines(keepends=True)
    rest = lines[line][: len(lines[line]) // 2] if torn and line < len(lines) else b""
    (target / FILE).write_bytes(b"".join(lines[:line]) + rest)
    return sum(event["event"] == "evaluated" for event in read(target / FILE))


SCHEDULES: Mapping[str, Mapping[str, object]] = {
    "generation": {"search__schedule": "generation"},
    "window": {"search__schedule": "window", "search__window": 4},
    "async": {"search__schedule": "async"},
}


class TestTiming:
    @pytest.mark.parametrize("strategy", ["pso", "surrogate"])
    @pytest.mark.parametrize("schedule", ["generation", "window"])
    def test_proposals_do_not_depend_on_the_order_of_results_or_the_number_of_groups(
        self, schedule: str, strategy: str, folders: Iterator[Path]
    ) -> None:
        config = configured(**SCHEDULES[schedule], search__strategy=strategy, search__repeats=2)
        plain = Session(next(folders), config)
        plain.run()
        for groups, order in ((1, min), (2, max), (3, shuffled(1)), (5, shuffled(2)), (40, max)):
            other = Session(next(folders), config, groups=groups, order=order)
            other.run()
            assert other.proposals() == plain.proposals()
        assert len({str(each) for _, _, each in plain.proposals()}) > 12

    def test_another_seed_is_another_search(self, folders: Iterator[Path]) -> None:
        sessions = [Session(next(folders), configured(search__seed=seed)) for seed in (1, 2)]
        for session in sessions:
            session.run()
        assert sessions[0].proposals() != sessions[1].proposals()

    def test_a_generation_waits_for_all_results_of_the_one_before(self, folders: Iterator[Path]) -> None:
        session = Session(next(folders), configured(), groups=40)
        session.run()
        for event in session.events("asked"):
            first = event["new"][0]["number"]
            done = [e["number"] for e in session.events("evaluated") if e["seq"] < event["seq"]]
            assert sorted(done) == list(range(first)), "all that was asked before, and nothing else"
        assert [len(event["new"]) for event in session.events("asked")] == [6, 6, 6]

    def test_a_window_proposes_as_soon_as_what_it_may_see_is_there(self, folders: Iterator[Path]) -> None:
        session = Session(next(folders), configured(**SCHEDULES["window"]), groups=40, order=min)
        session.run()
        out = 0
        for event in read(session.folder / FILE):
            out += {"asked": 1, "evaluated": -1}.get(event["event"], 0)
            assert out <= 4
        told = [event["told"] for event in session.events("asked")]
        assert told == [[], [], [], [], *[[number] for number in range(len(told) - 4)]]

    def test_the_longest_of_a_generation_begin_first_once_durations_are_known(self, folders: Iterator[Path]) -> None:
        session = Session(next(folders), configured(), groups=2)
        session.run()
        first, second = session.assigned[:6], session.assigned[6:12]
        assert first[0].configuration == BASELINE
        expected = [each.seconds for each in second]
        assert expected == sorted(expected, reverse=True)
        assert expected[0] > expected[-1] > 0

    def test_one_group_alone_begins_with_what_was_proposed_first_and_ends_with_repeats(
        self, folders: Iterator[Path]
    ) -> None:
        session = Session(next(folders), configured(search__repeats=2, search__confirm=0), groups=1)
        session.run()
        for first in range(0, len(session.assigned), 6):
            generation = session.assigned[first : first + 6]
            again = [each.label == REPEAT and each.configuration != BASELINE for each in generation]
            ends = [(late, each.number) for late, each in zip(again, generation, strict=True)]
            assert ends == sorted(ends)
        assert any(each.label == REPEAT for each in session.assigned)


class TestEarlyStop:
    @staticmethod
    def stopped(session: Session) -> list[int]:
        return sorted(event["number"] for event in session.events("evaluated") if "expected" in event)

    @pytest.mark.parametrize(
        ("schedule", "strategy", "more"),
        [
            ("generation", "surrogate", {}),
            ("window", "pso", {}),
            ("window", "pso", RELATIVE | {"search__baseline_repeats": 3}),
        ],
    )
    def test_what_is_stopped_does_not_depend_on_the_order_of_results_or_the_number_of_groups(
        self, schedule: str, strategy: str, more: dict[str, Any], folders: Iterator[Path]
    ) -> None:
        config = configured(**SCHEDULES[schedule], **more, search__strategy=strategy, search__repeats=2)
        plain = Session(next(folders), config, early=stopping)
        plain.run()
        assert len(self.stopped(plain)) >= 3
        paces = {each.number: each.pace for each in plain.assigned}
        for groups, order in ((3, shuffled(1)), (40, max)):
            other = Session(next(folders), config, groups=groups, order=order, early=stopping)
            other.run()
            assert other.proposals() == plain.proposals() and self.stopped(other) == self.stopped(plain)
            assert {each.number: each.pace for each in other.assigned} == paces

    @pytest.mark.parametrize(
        ("schedule", "strategy", "relative"),
        [
            ("generation", "pso", True),
            ("generation", "surrogate", False),
            ("window", "pso", False),
            ("window", "surrogate", True),
            ("async", "pso", True),
            ("async", "surrogate", False),
        ],
    )
    def test_a_run_in_which_some_were_goes_on_as_if_nothing_had_happened(
        self, schedule: str, strategy: str, relative: bool, folders: Iterator[Path]
    ) -> None:
        more = RELATIVE if relative else {}
        again_and_again = {"search__repeats": 2, "search__baseline_repeats": 2, "search__confirm": 1}
        config = configured(**SCHEDULES[schedule], **again_and_again, **more, search__strategy=strategy)
        whole = Session(next(folders), config, early=stopping)
        best = whole.run().incumbent
        early = self.stopped(whole)
        assert early and best not in early
        paces = {each.number: each.pace for each in whole.assigned}
        lines = (whole.folder / FILE).read_bytes().splitlines()
        after = [line for line, text in enumerate(lines, 1) if b'"expected"' in text]
        for line in {after[0], after[-1]}:
            again = Session(next(folders), config, early=stopping)
            cut(whole.folder, again.folder, line)
            tuning = again.run()
            assert again.proposals() == whole.proposals(), f"cut after line {line}"
            assert self.stopped(again) == early and tuning.incumbent == best
            if schedule != "async":
                assert all(paces[each.number] == each.pace for each in again.assigned)

    def test_what_was_is_never_the_best_nor_measured_again(self, folders: Iterator[Path]) -> None:
        """However much is expected of it; how that compares is told all the same."""

        def hopeful(assignment: Assignment, metrics: Metrics) -> dict[str, Any]:
            return stopping(assignment, metrics, hope=100.0)

        for schedule in SCHEDULES:
            config = configured(**SCHEDULES[schedule], search__repeats=2, search__confirm=2)
            session = Session(next(folders), config, early=hopeful)
            tuning = session.run()
            early = self.stopped(session)
            assert early and tuning.incumbent not in early
            assert not {event["number"] for event in session.events("incumbent")} & {*early}
            again = [configuration for _, label, configuration in session.proposals() if label]
            assert not any(configuration in again for n, _, configuration in session.proposals() if n in early)
            assert all(each.pace is None for each in session.assigned if each.label)
            told = [line for line in session.shown.getvalue().splitlines() if "stopped early" in line]
            assert len(told) == len(early) and all(
                re.search(r" tok/s \(\+\d+.* %\) +stopped early ", line) for line in told
            )
            outcome = read_outcome(session.folder)
            best = outcome.best
            assert best is not None and best.number == tuning.incumbent and best.score.feasible

    def test_how_long_an_evaluation_takes_is_told_by_the_others(self, tmp_path: Path) -> None:
        def long(assignment: Assignment, metrics: Metrics) -> dict[str, Any]:
            told = stopping(assignment, metrics)
            return {**told, "ended": 9000.0} if "expected" in told else told

        session = Session(tmp_path, configured(), early=long)
        tuning = session.run()
        early = self.stopped(session)
        every = {result.number: result.seconds for result in tuning.trials.results}
        assert len(early) >= 2 and all(every[number] > 1000.0 for number in early)
        others = [seconds for number, seconds in every.items() if number not in early]
        assert tuning.evaluation_seconds == np.quantile(others, 0.9, method="higher") < 1000.0


class TestResume:
    @pytest.mark.parametrize("torn", [False, True])
    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_a_journal_cut_at_any_line_goes_on_as_if_nothing_had_happened(
        self, schedule: str, torn: bool, folders: Iterator[Path]
    ) -> None:
        config = configured(**SCHEDULES[schedule], search__repeats=2, search__baseline_repeats=2, search__confirm=1)
        whole = Session(next(folders), config)
        best = whole.run().incumbent
        lines = len((whole.folder / FILE).read_bytes().splitlines())
        for line in range(1, lines + 1, 1 if schedule == "generation" and not torn else 4):
            again = Session(next(folders), config)
            done = cut(whole.folder, again.folder, line, torn=torn)
            completed = {event["number"] for event in again.events("evaluated")}
            tuning = again.run()
            assert again.proposals() == whole.proposals(), f"cut after line {line}"
            assert not completed & {assignment.number for assignment in again.assigned}, "nothing is measured again"
            assert len(again.events("evaluated")) == len(whole.proposals())
            assert len(again.assigned) == len(whole.proposals()) - done
            assert tuning.incumbent == best, f"cut after line {line}"

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_so_does_the_surrogate(self, schedule: str, folders: Iterator[Path]) -> None:
        config = configured(**SCHEDULES[schedule], search__strategy="surrogate", search__repeats=2)
        whole = Session(next(folders), config)
        whole.run()
        lines = len((whole.folder / FILE).read_bytes().splitlines())
        for line in range(2, lines, 13):
            again = Session(next(folders), config)
            cut(whole.folder, again.folder, line)
            again.run()
            assert again.proposals() == whole.proposals(), f"cut after line {line}"

    def test_a_run_may_be_cut_again_and_again(self, folders: Iterator[Path]) -> None:
        config = configured()
        whole = Session(next(folders), config)
        whole.run()
        source = whole.folder
        for line in (40, 30, 20, 10):
            again = Session(next(folders), config)
            cut(source, again.folder, line)
            again.run()
            assert again.proposals() == whole.proposals()
            source = again.folder

    def test_attempts_of_what_was_in_flight_go_on_counting(self, folders: Iterator[Path]) -> None:
        whole = Session(next(folders), configured())
        whole.run()
        again = Session(next(folders), configured())
        cut(whole.folder, again.folder, 3)
        assert [event["number"] for event in again.events("assigned")] == [0]
        again.run()
        assert [(each.number, each.attempt) for each in again.assigned[:2]] == [(0, 2), (1, 1)]

    def test_what_was_cut_short_keeps_its_files_and_is_repeated_beside_them(self, folders: Iterator[Path]) -> None:
        folder = next(folders)
        first = Session(folder, configured(search__evaluations=1))
        with Journal.create(folder) as journal:
            journal.write("started", config="", objective="output_throughput")
            tuning = first._tuning(journal, Monitor(1, {0: "node"}, io.StringIO(), Screen("plain")), [])
            (assignment,) = tuning.propose(1)
            tuning.assigned(0, assignment)
            before = (folder / FILE).read_text()
            failure = Failure("cancelled", "cancelled")
            tuning.given_up(replace(assignment.evaluation(0), failure=failure, files={"service.log": b"loading"}))
            assert (folder / FILE).read_text() == before, "nothing else of it counts"
        again = Session(folder, configured(search__evaluations=1))
        assert again.run().cause == "evaluations"
        assert [(each.number, each.attempt) for each in again.assigned] == [(0, 2)]
        assert sorted(each.name for each in (folder / "evaluations").iterdir()) == ["0000-1", "0000-2"]
        assert (folder / "evaluations/0000-1/service.log").read_bytes() == b"loading"

    def test_what_was_cut_short_and_cannot_be_kept_is_no_other_end(self, tmp_path: Path) -> None:
        session = Session(tmp_path, configured(search__evaluations=1))
        with Journal.create(tmp_path) as journal:
            tuning = session._tuning(journal, Monitor(1, {0: "node"}, session.shown, Screen("plain")), [])
            (assignment,) = tuning.propose(1)
            (tmp_path / "evaluations").touch()
            tuning.given_up(replace(assignment.evaluation(0), failure=Failure("cancelled", "cancelled")))
        assert "evaluations/0000-1" in session.shown.getvalue()

    def test_the_best_is_known_though_the_line_that_names_it_was_torn(self, folders: Iterator[Path]) -> None:
        """The last evaluation is the best one, and the run was killed before it could say so."""
        config = configured(search__evaluations=2, search__particles=2)
        whole = Session(next(folders), config)
        whole.run()
        line = whole.events("incumbent")[-1]["seq"]
        again = Session(next(folders), config)
        cut(whole.folder, again.folder, line, torn=True)
        assert again.run().incumbent == whole.events("incumbent")[-1]["number"]

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_a_smaller_budget_leaves_what_is_beyond_it_to_a_larger_one(
        self, schedule: str, folders: Iterator[Path]
    ) -> None:
        whole = Session(next(folders), configured(**SCHEDULES[schedule]))
        whole.run()
        again = Session(next(folders), configured(**SCHEDULES[schedule], search__evaluations=8))
        lines = [event["event"] for event in read(whole.folder / FILE)]
        cut(whole.folder, again.folder, lines.index("asked", lines.index("evaluated")) + 1)
        again.run()
        assert sorted(event["number"] for event in again.events("evaluated")) == list(range(8))
        again.config = configured(**SCHEDULES[schedule])
        again.run()
        assert sorted(event["number"] for event in again.events("evaluated")) == list(range(18))

    def test_the_counter_counts_the_confirmations_of_earlier_sessions(self, tmp_path: Path) -> None:
        Session(tmp_path, configured(search__confirm=1, search__evaluations=12)).run()
        again = Session(tmp_path, configured(search__confirm=1), groups=1)
        again.run()
        told = [(int(done), int(total)) for done, total in re.findall(r"(\d+)/(\d+) group", again.shown.getvalue())]
        assert all(done <= total for done, total in told)
        assert told[-1][0] == told[-1][1]

    def test_the_counter_does_not_count_on_what_an_early_end_has_left_out(self, tmp_path: Path) -> None:
        session = Session(tmp_path, configured(search__target=600.0, search__confirm=1), groups=1)
        tuning = session.run()
        assert tuning.cause == "target" and len(tuning.trials.searched) < session.config.search.evaluations
        told = [(int(done), int(total)) for done, total in re.findall(r"(\d+)/(\d+) group", session.shown.getvalue())]
        race = [total for done, total in told if done > len(tuning.trials.searched)]
        assert race and set(race) == {told[-1][0]} == {len(session.events("evaluated"))}

    @pytest.mark.parametrize("budget", [4, 8, 11])
    def test_the_counter_does_not_exceed_its_total_though_more_is_done_than_the_budget(
        self, budget: int, folders: Iterator[Path]
    ) -> None:
        whole = Session(next(folders), configured())
        whole.run()
        again = Session(next(folders), configured(search__confirm=1, search__evaluations=budget), groups=1)
        cut(whole.folder, again.folder, whole.events("evaluated")[9]["seq"] + 1)
        again.run()
        told = [(int(done), int(total)) for done, total in re.findall(r"(\d+)/(\d+) group", again.shown.getvalue())]
        assert told and all(done <= total for done, total in told)
        assert told[-1][0] == told[-1][1]

    def test_the_counter_leaves_out_what_a_race_that_is_over_did_not_measure(self, folders: Iterator[Path]) -> None:
        whole = Session(next(folders), configured(search__confirm=1, search__evaluations=12))
        whole.run()
        again = Session(next(folders), configured(search__confirm=1), groups=1)
        cut(whole.folder, again.folder, whole.events("asked")[-1]["seq"] + 1)
        tuning = again.run()
        assert tuning.trials.waiting, "its confirmations were asked for, and others later"
        told = re.findall(r"(\d+)/(\d+) group", again.shown.getvalue())
        assert int(told[-1][0]) == int(told[-1][1]) == len(again.events("evaluated"))

    def test_more_evaluations_than_before_go_on_with_the_same_search(self, folders: Iterator[Path]) -> None:
        long, short = (Session(next(folders), configured(search__evaluations=count)) for count in (18, 12))
        long.run()
        short.run()
        more = Session(short.folder, configured(search__evaluations=18))
        more.run()
        assert more.proposals() == long.proposals()


class TestKilled:
    @pytest.mark.parametrize("killed", [True, False])
    def test_that_services_have_to_be_killed_is_told_once(self, killed: bool, tmp_path: Path) -> None:
        session = Session(tmp_path, configured(service__stop_grace=7.0), groups=1, killed=killed)
        session.run()
        lines = [line for line in session.shown.getvalue().splitlines() if "had to kill" in line]
        assert len(lines) == killed
        assert all("group 0 #0 had" in line and "within 7 s of TERM (service.stop_grace)" in line for line in lines)


class TestSweeps:
    def test_the_load_counts_at_which_the_means_are_best(self, tmp_path: Path) -> None:
        session = Session(tmp_path, configured(search__evaluations=6, search__baseline_repeats=3), groups=1, swept=True)
        tuning = session.run()
        found = [event for event in session.events("evaluated") if event["configuration"] == BASELINE]
        rates: dict[str, list[float]] = {}
        for event in found[:3]:
            # By itself, the one measured first counts at its best load, which is another one each time.
            for load, metrics in event["loads"].items():
                rates.setdefault(load, []).append(metrics["output_throughput"])
            best = max(rates, key=lambda load: sum(rates[load]))
            assert event["metrics"] == event["loads"][best]
        own = {
            max(event["loads"], key=lambda load, at=event: at["loads"][load]["output_throughput"]) for event in found
        }
        assert len(own) > 1
        together = tuning.trials.reference()
        assert together is not None and together["output_throughput"] == pytest.approx(sum(rates[best]) / 3)
        assert f"concurrency {together['concurrency']:g}" == best

    def test_a_load_that_few_have_reached_does_not_count(self, tmp_path: Path) -> None:
        session = Session(tmp_path, configured(search__baseline_repeats=2), groups=1, swept=True, least=1)
        session.run()
        first, second, *_ = (event for event in session.events("evaluated") if event["configuration"] == BASELINE)
        assert list(first["loads"]) == ["concurrency 1", "concurrency 2", "concurrency 3"]
        assert list(second["loads"]) == ["concurrency 1"] and second["metrics"] == second["loads"]["concurrency 1"]

    @pytest.mark.parametrize("cut", ["", "concurrency 8: no answer"])
    def test_that_a_load_fails_is_told_once_for_each_cause(self, cut: str, tmp_path: Path) -> None:
        session = Session(tmp_path, configured(), groups=1, cut=cut)
        session.run()
        told = "group 0 #0 counts by its lower loads, as it failed at concurrency 8: no answer after 0 s (told once)"
        assert session.shown.getvalue().count("counts by its lower loads") == bool(cut)
        assert (told in session.shown.getvalue()) == bool(cut)
        assert all(event.get("cut", "").startswith(cut) for event in session.events("evaluated"))


class TestBudgets:
    def end(self, folder: Path, **changes: object) -> tuple[Session, Tuning]:
        session = Session(folder, configured(**changes))
        return session, session.run()

    def test_evaluations(self, tmp_path: Path) -> None:
        session, tuning = self.end(tmp_path, search__evaluations=10)
        assert tuning.cause == "evaluations"
        assert len(session.events("evaluated")) == 10

    def test_iterations(self, tmp_path: Path) -> None:
        session, tuning = self.end(tmp_path, search__iterations=2)
        assert tuning.cause == "iterations"
        assert len(session.events("evaluated")) == 12

    def test_a_target(self, tmp_path: Path) -> None:
        session, tuning = self.end(tmp_path, search__target=600.0)
        assert tuning.cause == "target"
        assert len(session.events("evaluated")) < 18
        assert min(event["fitness"] for event in session.events("evaluated")) <= -600.0

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_a_target_that_one_measurement_reached_by_luck_ends_nothing(self, schedule: str, tmp_path: Path) -> None:
        class Lucky(Session):
            def _evaluation(self, group: int, assignment: Assignment) -> Evaluation:
                evaluation = super()._evaluation(group, assignment)
                found = 650.0 if evaluation.number == 3 else 500.0
                return replace(evaluation, metrics={**evaluation.metrics, "output_throughput": found})

        config = configured(**SCHEDULES[schedule], search__target=600.0, search__repeats=2, search__evaluations=40)
        session = Lucky(tmp_path, config)
        assert session.run().cause == "evaluations"
        again = [number for number, _, each in session.proposals() if each == session.proposals()[3][2]]
        assert len(again) == 2, "it was measured once more"

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_a_target_that_two_measurements_reach_ends_the_search(self, schedule: str, tmp_path: Path) -> None:
        session, tuning = self.end(tmp_path, **SCHEDULES[schedule], search__target=600.0, search__repeats=2)
        assert tuning.cause == "target"
        assert len(session.events("evaluated")) < 18

    def test_a_target_of_what_is_minimised_is_reached_from_above(self) -> None:
        search, objective = configured(search__target=5.0).search, Objective(ObjectiveSection(minimize="e2e_mean_ms"))
        scores = [Score(failed=False, fitness=fitness) for fitness in (4.9, 5.0, 5.1)]
        reached = [reaches(search, objective, score) for score in (*scores, Score(failed=True))]
        assert reached == [True, True, False, False]

    def test_a_target_that_is_not_reached_ends_nothing(self, tmp_path: Path) -> None:
        _, tuning = self.end(tmp_path, search__target=5000.0)
        assert tuning.cause == "evaluations"

    @pytest.mark.parametrize(("best", "evaluations"), [(0, 12), (3, 12), (4, 18)])
    def test_stagnation(self, best: int, evaluations: int, tmp_path: Path) -> None:
        class Flat(Session):
            def _evaluation(self, group: int, assignment: Assignment) -> Evaluation:
                found = 200.0 if assignment.number == best else 100.0
                return replace(super()._evaluation(group, assignment), metrics={"output_throughput": found})

        session = Flat(tmp_path, configured(search__stagnation=8, search__evaluations=100))
        assert session.run().cause == "stagnation"
        told = "after the first iteration that sees eight without a better one"
        assert len(session.events("evaluated")) == evaluations, told

    def test_the_same_evaluations_whatever_the_order_of_results(self, folders: Iterator[Path]) -> None:
        config = configured(search__stagnation=5, search__evaluations=60)
        counts = set()
        for seed in range(4):
            session = Session(next(folders), config, order=shuffled(seed), groups=3)
            session.run()
            counts.add(len(session.events("evaluated")))
        assert len(counts) == 1

    def test_a_space_that_is_exhausted(self, tmp_path: Path) -> None:
        tree = tomli.loads(TEXT)
        tree["search"] |= {"strategy": "pso", "confirm": 0, "evaluations": 50}
        tree["parameters"][0] |= {"min": 7, "max": 8}
        tree["parameters"][1] |= {"max": 1}
        session = Session(tmp_path, parse(tomli_w.dumps(tree), "formula.toml"))
        assert session.run().cause == "exhausted"
        assert len(session.events("evaluated")) == 8
        assert len({str(each) for _, _, each in session.proposals()}) == 8

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_a_search_in_which_everything_fails_ends_with_the_causes(self, schedule: str, tmp_path: Path) -> None:
        changes = {**SCHEDULES[schedule], "search__fruitless": 2, "search__evaluations": 100}
        session = Session(tmp_path, configured(**changes), measure=lambda _: Failure("no memory left", "configuration"))
        with pytest.raises(RunFailed, match=r"all of the last 12 evaluations failed:\n  12 x no memory left"):
            session.run()
        assert len(session.events("evaluated")) < 20

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_a_benchmark_that_never_works_ends_the_run_soon(self, schedule: str, tmp_path: Path) -> None:
        def unread(configuration: Configuration) -> Metrics | Failure:
            return Failure("the benchmark's result has no 'tokens'", "measurement")

        session = Session(tmp_path, configured(**SCHEDULES[schedule], search__evaluations=100), measure=unread)
        with pytest.raises(
            RunFailed, match=r"each of the first \d+ evaluations failed alike:\n  the benchmark's result"
        ):
            session.run()
        assert 6 <= len(session.events("evaluated")) <= 12

    def test_once_it_was_repaired_the_run_can_go_on(self, tmp_path: Path) -> None:
        def unread(configuration: Configuration) -> Metrics | Failure:
            return Failure("the benchmark's result has no 'tokens'", "measurement")

        config = configured(search__evaluations=18)
        with pytest.raises(RunFailed, match="failed alike"):
            Session(tmp_path, config, measure=unread).run()
        assert Session(tmp_path, config).run().cause == "evaluations"

    def test_whichever_node_they_failed_on(self, tmp_path: Path) -> None:
        nodes = itertools.cycle(["n0", "n1.cluster"])

        def refused(configuration: Configuration) -> Metrics | Failure:
            return Failure(f"{next(nodes)}: update command apply ended with exit code 1: no such file", "measurement")

        with pytest.raises(RunFailed, match="failed alike"):
            Session(tmp_path, configured(search__evaluations=18), measure=refused).run()

    def test_one_configuration_that_fails_again_and_again_says_nothing_of_others(self, tmp_path: Path) -> None:
        def refused(configuration: Configuration) -> Metrics | Failure:
            failure = Failure("the benchmark client ended with exit code 1", "measurement")
            return failure if configuration == BASELINE else measured(configuration)

        config = configured(search__baseline_repeats=6, **SCHEDULES["window"])
        assert Session(tmp_path, config, measure=refused).run().cause == "evaluations"

    def test_a_service_that_never_starts_ends_the_run_soon_whatever_its_process_number(self, tmp_path: Path) -> None:
        pids = itertools.count(27001)

        def refused(configuration: Configuration) -> Metrics | Failure:
            pid = next(pids)
            where = f"/tmp/mpipso-ab{pid}x/start-{pid}_xy/config.json"
            return Failure(
                f"n0: the service exited with code 3 while starting: {pid} bad flag in {where}", "configuration"
            )

        session = Session(tmp_path, configured(search__evaluations=100), measure=refused)
        with pytest.raises(
            RunFailed, match=r"each of the first \d+ evaluations failed alike:\n  n0: .*2700\d bad flag"
        ):
            session.run()
        assert 6 <= len(session.events("evaluated")) <= 12

    @pytest.mark.parametrize(
        ("told", "soon"),
        [
            ("vllm: error: unrecognized arguments: --such-flag {}", True),
            ("error: unexpected argument '--{}such-flag' found", True),
            ("the value {} does not fit", False),
        ],
    )
    def test_so_does_one_that_does_not_know_a_flag_whatever_its_value(
        self, told: str, soon: bool, tmp_path: Path
    ) -> None:
        words = itertools.cycle(["no-", ""] if "'" in told else ["some", "text", "or other"])

        def refused(configuration: Configuration) -> Metrics | Failure:
            return Failure(f"n0: the service exited: {told.format(next(words))}", "configuration")

        session = Session(tmp_path, configured(search__evaluations=100, search__fruitless=3), measure=refused)
        with pytest.raises(RunFailed, match="of the first .* failed alike" if soon else "all of the last 18 "):
            session.run()

    @pytest.mark.parametrize(("told", "soon"), [("[Errno 98] Address already in use", True), ("no answer", False)])
    def test_so_does_one_whose_processes_take_each_other_s_port_but_not_a_node_that_is_sick(
        self, told: str, soon: bool, tmp_path: Path
    ) -> None:
        def refused(configuration: Configuration) -> Metrics | Failure:
            return Failure(f"n0: the service exited with code 1 while starting: OSError: {told}", "infrastructure")

        session = Session(tmp_path, configured(search__evaluations=100, search__fruitless=3), measure=refused)
        alike = rf"each of the first \d+ evaluations failed alike:\n  n0: .*{re.escape(told)}"
        with pytest.raises(RunFailed, match=alike if soon else "all of the last 18 evaluations failed:"):
            session.run()
        assert (len(session.events("evaluated")) <= 12) == soon

    @pytest.mark.parametrize(
        "told",
        [
            "out of memory: got 5 GiB",
            "std::bad_alloc",
            "CUBLAS_STATUS_ALLOC_FAILED",
            "was killed by signal 9",
            "ValueError: mem_fraction_static=0.5 leaves no room for the full KV pool",
            "npu block num is 0, try a larger npuMemSize",
        ],
    )
    def test_one_that_lacks_memory_may_start_with_less(self, told: str, tmp_path: Path) -> None:
        def refused(configuration: Configuration) -> Metrics | Failure:
            return Failure(f"n0: the service: {told}", "configuration")

        session = Session(tmp_path, configured(search__evaluations=100, search__fruitless=3), measure=refused)
        with pytest.raises(RunFailed, match=rf"all of the last 18 evaluations failed:\n  18 x n0: the service: {told}"):
            session.run()

    def test_one_that_started_with_the_user_s_own_configuration_starts_with_others(self, tmp_path: Path) -> None:
        def refused(configuration: Configuration) -> Metrics | Failure:
            return measured(configuration) if configuration == BASELINE else Failure("it exited", "configuration")

        limit = {"objective__slo": [{"metric": "ttft_p99_ms", "max": 1.0}]}
        for evaluations in (1, 13):  # resumed, so that all of the session's own failed alike
            session = Session(tmp_path, configured(**limit, search__evaluations=evaluations), measure=refused)
            assert session.run().cause == "evaluations"

    def test_benchmarks_that_fail_for_different_reasons_do_not(self, tmp_path: Path) -> None:
        def refused(configuration: Configuration) -> Metrics | Failure:
            return Failure(f"{configuration['batch']} of 64 requests failed", "measurement")

        session = Session(tmp_path, configured(search__evaluations=20), measure=refused)
        assert session.run().cause == "evaluations"

    def test_so_does_one_in_which_a_metric_is_always_missing(self, tmp_path: Path) -> None:
        def lacking(configuration: Configuration) -> Metrics | Failure:
            return {"completed": 10.0, "failed": 0.0}

        with pytest.raises(RunFailed, match="x output_throughput was not measured"):
            Session(tmp_path, configured(search__evaluations=60), measure=lacking).run()

    def test_what_the_root_says_ends_it_too(self, tmp_path: Path) -> None:
        _, tuning = self.end(tmp_path)
        tuning.stop("time")
        assert tuning.cause == "evaluations", "the first reason counts"


def until_race(whole: Session) -> tuple[Sequence[Mapping[str, Any]], int, int]:
    """The events of a whole run, which of them asks for its race, and what was the best until then."""
    events = read(whole.folder / FILE)
    asked = [seq for seq, event in enumerate(events) if event["event"] == "asked"][-1]
    return events, asked, [event["number"] for event in events[:asked] if event["event"] == "incumbent"][-1]


def concluded(whole: Session, again: Session, line: int) -> int | None:
    """The best of a run that ends when it has come to this line of the whole one's journal."""
    cut(whole.folder, again.folder, line)
    with Journal.open(again.folder) as journal:
        monitor = Monitor(24, {0: "node"}, io.StringIO(), Screen("plain"))
        tuning = again._tuning(journal, monitor, read(again.folder / FILE))
        assert tuning.conclude()
    return tuning.incumbent


def test_what_is_kept_in_the_run_s_folder_is_not_kept_in_memory(tmp_path: Path) -> None:
    class Loud(Session):
        def _evaluation(self, group: int, assignment: Assignment) -> Evaluation:
            return replace(super()._evaluation(group, assignment), files={"service.log": b"ready"})

    tuning = Loud(tmp_path, configured()).run()
    assert tuning.trials.results and not any(result.files for result in tuning.trials.results)
    assert len(list(tmp_path.glob("evaluations/*/service.log"))) == len(tuning.trials.results)


class TestRace:
    def test_its_time_is_that_of_its_rounds_and_of_what_runs_before_it(self, tmp_path: Path) -> None:
        tuning = Session(tmp_path, configured(search__confirm=2, search__leaders=3)).run()
        seconds = tuning.evaluation_seconds
        taken = sorted(result.seconds for result in tuning.trials.results)
        assert seconds == taken[math.ceil(0.9 * (len(taken) - 1))] > 0.0
        assert tuning.race_seconds(1) == (5 * seconds, 9 * seconds), "of two, and of four, each twice"
        assert tuning.race_seconds(3) == (3 * seconds, 4 * seconds)
        assert tuning.race_seconds(0) == (0.0, 0.0)

    @pytest.mark.parametrize("confirm", [0, 2])
    def test_it_is_told_that_there_was_no_time_for_all_of_it(self, confirm: int, folders: Iterator[Path]) -> None:
        """At the end of a run that was not interrupted."""
        whole = Session(next(folders), configured(search__confirm=confirm))
        assert not whole.run().lacks_race
        events = read(whole.folder / FILE)
        ends = [(seq, each["label"] == CONFIRM) for seq, each in enumerate(events, 1) if each["event"] == "evaluated"]
        raced = [seq for seq, of_race in ends if of_race]
        for line in (max(seq for seq, of_race in ends if not of_race), *raced):
            again = Session(next(folders), whole.config)
            cut(whole.folder, again.folder, line)
            with Journal.open(again.folder) as journal:
                monitor = Monitor(24, {0: "node"}, io.StringIO(), Screen("plain"))
                tuning = again._tuning(journal, monitor, read(again.folder / FILE))
                assert write_end(journal, tuning, None) == 0
            assert read(again.folder / FILE)[-1].get("race_cut", False) == (confirm > 0 and line != raced[-1])

    def test_the_winner_of_an_earlier_one_takes_time_too(self, tmp_path: Path) -> None:
        session = Session(tmp_path, configured(search__confirm=1, search__leaders=1, search__evaluations=12))
        session.run()
        session.config = configured(search__confirm=1, search__leaders=1)
        with Journal.open(tmp_path) as journal:
            monitor = Monitor(18, {0: "node"}, io.StringIO(), Screen("plain"))
            tuning = session._tuning(journal, monitor, read(tmp_path / FILE))
            least, most = tuning.race_seconds(1)
            assert tuning.propose(1), "so that race is over, and there will be another one"
            assert tuning.race_seconds(1) == (least, pytest.approx(most + tuning.evaluation_seconds))

    def test_what_is_left_of_one_is_given_out_until_it_is_measured(self, folders: Iterator[Path]) -> None:
        """It may have been dropped when it was late, before the batch system moved the end of the job."""
        whole = Session(next(folders), configured(search__confirm=1, search__leaders=2))
        whole.run()
        again = Session(next(folders), whole.config)
        cut(whole.folder, again.folder, until_race(whole)[1] + 1)
        with Journal.open(again.folder) as journal:
            monitor = Monitor(24, {0: "node"}, io.StringIO(), Screen("plain"))
            tuning = again._tuning(journal, monitor, read(again.folder / FILE))
            first, *rest = tuning.confirmations(1)
            assert rest and [each.number for each in (first, *rest)] == tuning.trials.waiting
            tuning.evaluated(again._evaluation(0, first))
            assert [each.number for each in tuning.confirmations(1)] == [each.number for each in rest]

    def test_without_one_it_takes_no_time(self, tmp_path: Path) -> None:
        tuning = Session(tmp_path, configured(search__confirm=0)).run()
        assert tuning.race_seconds(1) == (0.0, 0.0)


class TestRepeats:
    def test_the_baseline_is_measured_again_right_after_it(self, tmp_path: Path) -> None:
        session = Session(tmp_path, configured(search__baseline_repeats=3))
        session.run()
        assert [(label, each) for _, label, each in session.proposals()[:3]] == [
            ("baseline", BASELINE),
            ("repeat", BASELINE),
            ("repeat", BASELINE),
        ]
        assert BASELINE not in [each for _, _, each in session.proposals()[3:]]
        assert len(session.events("evaluated")) == 18, "repeats are part of the budget"

    def test_the_leader_of_each_iteration_is_measured_again_as_often_as_wanted(self, tmp_path: Path) -> None:
        session = Session(tmp_path, configured(search__repeats=2, search__evaluations=24))
        session.run()
        repeats = [(number, each) for number, label, each in session.proposals() if label == "repeat"]
        assert repeats
        fitness = {event["number"]: event["fitness"] for event in session.events("evaluated")}
        for number, configuration in repeats:
            assert number % 6 == 0, "at the beginning of an iteration"
            before = {n: fitness[n] for n, _, _ in session.proposals() if n < number}
            leader = min(before, key=lambda n: (before[n], n))
            assert configuration == session.proposals()[leader][2]
        assert len({str(each) for _, each in repeats}) == len(repeats), "each at most twice in all"

    def test_confirmations_are_for_the_baseline_and_the_leaders(self, tmp_path: Path) -> None:
        session = Session(tmp_path, configured(search__confirm=2, search__leaders=1))
        tuning = session.run()
        confirmed = [each for _, label, each in session.proposals() if label == "confirm"]
        assert tuning.incumbent is not None
        best = session.proposals()[tuning.incumbent][2]
        assert confirmed == [BASELINE, best, BASELINE, best]

    @pytest.mark.parametrize(("groups", "turns"), [(1, 1), (2, 2), (3, 1), (5, 3), (6, 2), (64, 3)])
    def test_the_race_goes_in_turns(self, groups: int, turns: int, folders: Iterator[Path]) -> None:
        """So what changes with time changes for the baseline as well as for the others."""
        whole = Session(next(folders), configured(search__confirm=3, search__leaders=2))
        whole.run()
        again = Session(next(folders), whole.config)
        asked = [seq for seq, event in enumerate(read(whole.folder / FILE)) if event["event"] == "asked"]
        cut(whole.folder, again.folder, asked[-3])
        with Journal.open(again.folder) as journal:
            monitor = Monitor(24, {0: "node"}, io.StringIO(), Screen("plain"))
            tuning = again._tuning(journal, monitor, read(again.folder / FILE))
            raced = [str(each.configuration) for each in tuning.confirmations(groups)]
        assert len(set(raced)) == 3
        assert raced == turns * raced[:3]

    def test_a_fast_configuration_that_breaks_a_limit_in_the_race_beats_nobody(self, tmp_path: Path) -> None:
        """It is at the edge of the limit, and was lucky in the search; in the race the next best is as good as ever."""

        class Edge(Session):
            def _evaluation(self, group: int, assignment: Assignment) -> Evaluation:
                evaluation = super()._evaluation(group, assignment)
                fastest = self.proposals()[1][2]
                found = {str(BASELINE): 100.0, str(fastest): 500.0}.get(str(assignment.configuration), 200.0)
                latency = 510.0 if found == 500.0 and assignment.label == "confirm" else 490.0
                noise = 1.0 + 0.01 * (evaluation.number % 3)
                return replace(evaluation, metrics={"output_throughput": found * noise, "ttft_p99_ms": latency})

        limit = [{"metric": "ttft_p99_ms", "max": 500.0}]
        session = Edge(tmp_path, configured(search__confirm=2, search__leaders=3, objective__slo=limit))
        best = session.run().incumbent
        assert best is not None
        assert session.proposals()[best][2] not in (BASELINE, session.proposals()[1][2])

    @pytest.mark.parametrize("highest", [36, 8])
    def test_a_leader_that_fails_when_it_is_confirmed_is_not_the_best(self, highest: int, tmp_path: Path) -> None:
        """Large batches had a lucky start in the search: others race then, and the baseline is left at last."""

        @dataclass
        class Lucky(Session):
            def _evaluation(self, group: int, assignment: Assignment) -> Evaluation:
                evaluation = super()._evaluation(group, assignment)
                if assignment.label == "confirm" and int(str(assignment.configuration["batch"])) > highest:
                    return replace(evaluation, metrics={}, failure=Failure("out of memory", "configuration"))
                return evaluation

        session = Lucky(tmp_path, configured(search__confirm=2, search__leaders=2))
        best = session.run().incumbent
        raced = {str(each) for _, label, each in session.proposals() if label == "confirm"}
        assert len(raced) > 3, "the baseline, both leaders, and more"
        assert best is not None
        assert int(str(session.proposals()[best][2]["batch"])) <= highest
        written = tomli.loads((tmp_path / "best.toml").read_text())["run"]
        told = written["fitness"]
        assert written["evaluation"] == best
        assert Lucky(tmp_path, session.config).run().incumbent == best, "a resumed run knows what was refuted"
        assert tomli.loads((tmp_path / "best.toml").read_text())["run"]["fitness"] == told

    def test_what_fails_in_a_race_is_not_to_be_used_while_that_goes_on(self, tmp_path: Path) -> None:
        failed: list[Configuration] = []

        class Watched(Session):
            def _evaluation(self, group: int, assignment: Assignment) -> Evaluation:
                evaluation = super()._evaluation(group, assignment)
                if assignment.label != "confirm":
                    return evaluation
                assert tomli.loads((tmp_path / "best.toml").read_text())["configuration"] not in failed
                if assignment.configuration == BASELINE:
                    return evaluation
                failed.append(assignment.configuration)
                return replace(evaluation, metrics={}, failure=Failure("out of memory", "configuration"))

        Watched(tmp_path, configured(search__confirm=1, search__leaders=2)).run()
        assert len(failed) >= 4

    def test_the_files_have_what_all_measurements_of_the_best_say_together(self, tmp_path: Path) -> None:
        written: list[float] = []

        class Varying(Session):
            def _evaluation(self, group: int, assignment: Assignment) -> Evaluation:
                evaluation = super()._evaluation(group, assignment)
                if assignment.number > 0:
                    written.append(tomli.loads((tmp_path / "best.toml").read_text())["run"]["fitness"])
                rate = 1000.0 - assignment.number if assignment.configuration == BASELINE else 1.0
                return replace(evaluation, metrics={**evaluation.metrics, "output_throughput": rate})

        Varying(tmp_path, configured(search__confirm=0, search__baseline_repeats=3), groups=1).run()
        assert written[:3] == [-1000.0, -999.5, -999.0]

    def test_a_race_on_nodes_that_fail_says_nothing_about_the_best(self, tmp_path: Path) -> None:
        class Lost(Session):
            def _evaluation(self, group: int, assignment: Assignment) -> Evaluation:
                evaluation = super()._evaluation(group, assignment)
                lost = Failure("no sign of life", "infrastructure")
                return replace(evaluation, metrics={}, failure=lost) if assignment.label == "confirm" else evaluation

        session = Lost(tmp_path, configured(search__confirm=1, search__leaders=1))
        best = session.run().incumbent
        fitness = {event["number"]: event["fitness"] for event in session.events("evaluated") if "fitness" in event}
        assert best == min(fitness, key=lambda number: (fitness[number] is None, fitness[number] or 0.0, number))
        assert (tmp_path / "best.sh").exists()

    class Falling(Session):
        """Whatever is measured in the race fails there."""

        def _evaluation(self, group: int, assignment: Assignment) -> Evaluation:
            evaluation = super()._evaluation(group, assignment)
            if assignment.label == "confirm":
                return replace(evaluation, metrics={}, failure=Failure("out of memory", "configuration"))
            found = 1.0 if assignment.configuration == BASELINE else 900.0
            return replace(evaluation, metrics={**evaluation.metrics, "output_throughput": found})

    def test_when_nothing_works_that_was_confirmed_there_is_no_best(self, tmp_path: Path) -> None:
        class Falling(self.Falling):
            def _evaluation(self, group: int, assignment: Assignment) -> Evaluation:
                kept, told = (tmp_path / "best.sh").exists(), read_outcome(tmp_path).best if assignment.number else None
                assert (told is not None) == kept, "what a report calls the best has its files, at every moment"
                return super()._evaluation(group, assignment)

        session = Falling(tmp_path, configured(search__confirm=1, search__leaders=3, search__evaluations=6))
        for _ in range(2):  # once more, resumed
            assert session.run().incumbent is None
            assert not (tmp_path / "best.sh").exists()
            (tmp_path / "best.sh").write_text("as if the session had been killed before it was removed")

    def test_the_next_ones_race_twice_at_most(self, tmp_path: Path) -> None:
        session = self.Falling(tmp_path, configured(search__confirm=1, search__leaders=2, search__evaluations=12))
        best = session.run().incumbent
        raced = [each for _, label, each in session.proposals() if label == "confirm" and each != BASELINE]
        assert len(raced) == 6, "in three races of two"
        assert best is not None and session.proposals()[best][2] not in raced, "what no race has refuted"

    def test_the_display_has_the_best_of_the_moment_in_a_race_and_after_a_resume(self, tmp_path: Path) -> None:
        shown: list[tuple[int | None, int | None]] = []

        class Watched(self.Falling):
            def _evaluation(self, group: int, assignment: Assignment) -> Evaluation:
                shown.append((tuning.incumbent, monitor.incumbent and monitor.incumbent[0]))
                return super()._evaluation(group, assignment)

        config = configured(search__confirm=1, search__leaders=3, search__evaluations=6)
        session = Watched(tmp_path, config, groups=1)
        monitor = Monitor(6, {0: "node"}, io.StringIO(), Screen("plain"))
        with Journal.create(tmp_path) as journal:
            journal.write("started", config="", objective="output_throughput")
            tuning = session._tuning(journal, monitor, [])
            session._search(tuning)
        assert len(shown) > 6 and all(one == other for one, other in shown)
        assert len({number for number, _ in shown}) > 2, "there were several"
        assert tuning.incumbent is None and monitor.incumbent is None, "and in the end none"
        known = max(done for done, (number, _) in enumerate(shown) if number is not None)
        lines = (tmp_path / FILE).read_text().splitlines(keepends=True)
        measured = [line for line, text in enumerate(lines) if '"event":"evaluated"' in text.replace(" ", "")]
        (tmp_path / FILE).write_text("".join(lines[: measured[known - 1] + 1]))
        with Journal.open(tmp_path) as journal:
            again = Monitor(6, {0: "node"}, io.StringIO(), Screen("plain"))
            number = session._tuning(journal, again, read(tmp_path / FILE)).incumbent
        assert number is not None and again.incumbent is not None
        assert again.incumbent[0] == number and "tok/s" in again.incumbent[1]

    def test_what_a_finished_run_has_refuted_is_not_written_again(self, tmp_path: Path) -> None:
        session = self.Falling(tmp_path, configured(search__confirm=1, search__leaders=3, search__evaluations=6))
        session.run()
        with Journal.open(tmp_path) as journal:
            journal.write("finished", incumbent=None)
            monitor = Monitor(6, {0: "node"}, io.StringIO(), Screen("plain"))
            assert session._tuning(journal, monitor, read(tmp_path / FILE)).incumbent is None
        assert not (tmp_path / "best.sh").exists()

    @pytest.mark.parametrize(("found", "better"), [(103.0, False), (200.0, True)])
    def test_what_is_better_within_the_noise_alone_is_not_the_best(
        self, found: float, better: bool, tmp_path: Path
    ) -> None:
        class Noisy(Session):
            def _evaluation(self, group: int, assignment: Assignment) -> Evaluation:
                evaluation = super()._evaluation(group, assignment)
                told = (90.0, 110.0)[assignment.number % 2] if assignment.configuration == BASELINE else found
                return replace(evaluation, metrics={**evaluation.metrics, "output_throughput": told})

        session = Noisy(tmp_path, configured(search__baseline_repeats=4, search__evaluations=8), groups=1)
        assert session.run().incumbent == (4 if better else 0)
        chosen = [event["number"] for event in session.events("incumbent")]
        assert chosen == ([0, 4] if better else [0])
        assert [int(starred) for starred in re.findall(r"#(\d+) +\*", session.shown.getvalue())] == chosen

    @pytest.mark.parametrize("killed", [False, True])
    def test_the_only_one_within_the_limits_is_given_up_if_it_fails_when_it_is_measured_again(
        self, killed: bool, tmp_path: Path
    ) -> None:
        class Only(Session):
            def _evaluation(self, group: int, assignment: Assignment) -> Evaluation:
                evaluation = super()._evaluation(group, assignment)
                if assignment.label == "repeat":
                    return replace(evaluation, metrics={}, failure=Failure("out of memory", "configuration"))
                latency = 10.0 if assignment.number == 2 else 99.0
                return replace(evaluation, metrics={**evaluation.metrics, "ttft_p99_ms": latency})

        slo = ({"metric": "ttft_p99_ms", "max": 50.0},)
        config = configured(objective__slo=slo, search__repeats=2, search__evaluations=9)
        session = Only(tmp_path, config, groups=1)
        assert session.run().incumbent is None
        assert [event["number"] for event in session.events("incumbent")] == [2]
        assert not (tmp_path / "best.sh").exists()
        if killed:
            lines = (tmp_path / FILE).read_text().splitlines(keepends=True)
            (gone,) = [line for line, text in enumerate(lines) if '"withdrawn"' in text]
            (tmp_path / FILE).write_text("".join(lines[:gone]))
            assert Only(tmp_path, config, groups=1).run().incumbent is None
            assert len(session.events("withdrawn")) == 1

    def test_a_best_that_fails_when_it_is_measured_again_gives_way(self, tmp_path: Path) -> None:
        class Once(Session):
            def _evaluation(self, group: int, assignment: Assignment) -> Evaluation:
                evaluation = super()._evaluation(group, assignment)
                if assignment.label == "repeat":
                    return replace(evaluation, metrics={}, failure=Failure("out of memory", "configuration"))
                return evaluation

        session = Once(tmp_path, configured(search__repeats=2, search__evaluations=7), groups=1)
        best = session.run().incumbent
        (again,) = [each for _, label, each in session.proposals() if label == "repeat"]
        chosen = [session.proposals()[event["number"]][2] for event in session.events("incumbent")]
        assert again == chosen[-2] and best is not None
        assert session.proposals()[best][2] == chosen[-1] != again

    def test_a_race_that_was_cut_is_run_to_its_end(self, folders: Iterator[Path]) -> None:
        config = configured(search__confirm=2, search__leaders=2)
        whole = Session(next(folders), config)
        best = whole.run().incumbent
        lines = [event["event"] for event in read(whole.folder / FILE)]
        asked = [seq for seq, event in enumerate(lines) if event == "asked"][-1]
        for line in range(asked + 1, len(lines)):
            again = Session(next(folders), config)
            cut(whole.folder, again.folder, line)
            # As after the end of a time limit: nothing more is proposed, only the race is left.
            with Journal.open(again.folder) as journal:
                monitor = Monitor(24, {0: "node"}, io.StringIO(), Screen("plain"))
                tuning = again._tuning(journal, monitor, read(again.folder / FILE))
                tuning.stop("time")
                while assignments := tuning.confirmations(1):
                    for assignment in assignments:
                        tuning.evaluated(again._evaluation(0, assignment))
                tuning.conclude()
            assert tuning.incumbent == best, f"cut after line {line}"
            assert again.proposals() == whole.proposals()
            assert not tuning.trials.waiting

    def test_a_race_that_came_to_the_best_is_heeded(self, folders: Iterator[Path]) -> None:
        """The best had a lucky start, and time ends the race after the baseline and it were measured again."""

        class Lucky(Session):
            def _evaluation(self, group: int, assignment: Assignment) -> Evaluation:
                evaluation = super()._evaluation(group, assignment)
                if assignment.label == "confirm" and assignment.configuration != BASELINE:
                    return replace(evaluation, metrics={**evaluation.metrics, "output_throughput": 1.0})
                return evaluation

        whole = Lucky(next(folders), configured(search__confirm=1, search__leaders=2), groups=1)
        assert whole.run().incumbent == 0
        events, asked, found = until_race(whole)
        assert found != 0
        confirmed = [seq for seq, event in enumerate(events) if event["event"] == "evaluated" and seq > asked]
        for line, best in ((confirmed[0] + 1, found), (confirmed[1] + 1, 0)):
            assert concluded(whole, Lucky(next(folders), whole.config), line) == best, f"cut after line {line}"

    def test_a_race_that_did_not_come_to_all_leaves_what_the_search_says(self, folders: Iterator[Path]) -> None:
        whole = Session(next(folders), configured(search__confirm=1, search__leaders=2))
        whole.run()
        events, asked, found = until_race(whole)
        for line in range(asked + 1, len(events) - 1):
            told = concluded(whole, Session(next(folders), whole.config), line)
            assert told == found != 0, f"cut after line {line}"

    def test_the_files_that_tell_the_best_are_there_after_a_cut(self, folders: Iterator[Path]) -> None:
        whole = Session(next(folders), configured())
        whole.run()
        lines = read(whole.folder / FILE)
        for line in (number for number, event in enumerate(lines, start=1) if event["event"] == "incumbent"):
            again = Session(next(folders), configured())
            cut(whole.folder, again.folder, line)
            with Journal.open(again.folder) as journal:
                again._tuning(
                    journal, Monitor(24, {0: "node"}, io.StringIO(), Screen("plain")), read(again.folder / FILE)
                )
            best = tomli.loads((again.folder / "best.toml").read_text())
            assert best["run"]["evaluation"] == lines[line - 1]["number"]

    def test_only_what_was_measured_is_marked_as_the_new_best(self, folders: Iterator[Path]) -> None:
        """The best fails when it is measured again, and another one takes its place."""

        class Lucky(Session):
            def _evaluation(self, group: int, assignment: Assignment) -> Evaluation:
                evaluation = super()._evaluation(group, assignment)
                if assignment.label == REPEAT and assignment.configuration != BASELINE:
                    return replace(evaluation, metrics={}, failure=Failure("it broke", "configuration"))
                return evaluation

        session = Lucky(next(folders), configured(search__strategy="surrogate", search__repeats=2))
        session.run()
        tried = {each["number"]: each["configuration"] for event in session.events("asked") for each in event["new"]}
        events = read(session.folder / FILE)
        pairs = itertools.pairwise(events)
        won = [(event["number"], after["number"]) for event, after in pairs if after["event"] == "incumbent"]
        marked = [int(number) for number in re.findall(r"#(\d+) +\*", session.shown.getvalue())]
        assert marked == [number for number, best in won if tried[number] == tried[best]]
        assert len(marked) < len(won)


class TestRaceAfterRace:
    """A run that has ended with its race is resumed for more evaluations, on machines of another speed."""

    @dataclass
    class Machine(Session):
        speed: float = 1.0

        def _evaluation(self, group: int, assignment: Assignment) -> Evaluation:
            evaluation = super()._evaluation(group, assignment)
            found = self.speed * evaluation.metrics["output_throughput"] * (1.0 + 0.001 * (evaluation.number % 3))
            return replace(evaluation, metrics={**evaluation.metrics, "output_throughput": found})

    @pytest.mark.parametrize("speed", [1.0, 0.5, 1.5])
    def test_all_are_measured_again_that_are_compared(self, speed: float, tmp_path: Path) -> None:
        budget = {"search__evaluations": 12, "search__confirm": 2, "search__leaders": 2}
        first = self.Machine(tmp_path, configured(**budget)).run().incumbent
        second = self.Machine(tmp_path, configured(**{**budget, "search__evaluations": 18}), speed=speed)
        tuning = second.run()
        asked = second.proposals()
        last = max(number for number, label, _ in asked if label != "confirm")
        assert len(asked) > last + 1
        again = [each for number, label, each in asked if label == "confirm" and number > last]
        assert first is not None and tuning.incumbent is not None
        for configuration in (BASELINE, asked[first][2], asked[tuning.incumbent][2]):
            assert again.count(configuration) == 2
        outcome = read_outcome(tmp_path)
        assert outcome.baseline is not None and outcome.best is not None
        for measured in (outcome.baseline, outcome.best):
            truth = speed * throughput(dict(measured.configuration))
            assert measured.metrics["output_throughput"] == pytest.approx(truth, rel=0.01)
        figures = outcome.best.metrics, outcome.baseline.metrics
        written = tomli.loads((tmp_path / "best.toml").read_text())["run"]["score"]
        assert written == score("output_throughput", *figures, higher=True), "against the baseline in the same race"
        truths = [throughput(dict(asked[number][2])) for number in (first, tuning.incumbent)]
        assert truths[1] >= 0.99 * truths[0], "however much faster others were in the second session"

    @dataclass
    class Table(Session):
        """Measures what stands in a table, by batch and whether it is in the race: throughput and latency, or not."""

        measure: Measure = lambda _: {}
        table: Mapping[tuple[int, bool], tuple[float, float] | None] = field(default_factory=dict)
        over: Callable[[Assignment], bool] = lambda _: False
        """Before which measurement the time is over."""
        tuning: Tuning | None = None

        class TimeOver(Exception):
            pass

        def _evaluation(self, group: int, assignment: Assignment) -> Evaluation:
            if self.over(assignment):
                raise self.TimeOver
            evaluation = super()._evaluation(group, assignment)
            key = int(str(assignment.configuration["batch"])), assignment.label == "confirm"
            found = self.table.get(key, (1.0 + key[0] / 1000.0, 1000.0))
            if found is None:
                return replace(evaluation, metrics={}, failure=Failure("it broke", "configuration"))
            noise = 1.0 + 0.0005 * (assignment.number % 3)
            metrics = {"completed": 1.0, "output_throughput": noise * found[0], "ttft_p99_ms": found[1]}
            return replace(evaluation, metrics=metrics)

        def _tuning(self, *arguments: Any) -> Tuning:
            self.tuning = super()._tuning(*arguments)
            return self.tuning

        def best(self) -> int | None:
            """The batch of the best configuration when the session is over."""
            with contextlib.suppress(self.TimeOver):
                self.run()
            assert self.tuning is not None
            with Journal.open(self.folder) as journal:
                self.tuning._journal = self.tuning._incumbent._journal = journal
                self.tuning.conclude()
            number = self.tuning.incumbent
            return None if number is None else int(str(self.tuning.trials.of(number).configuration["batch"]))

    @staticmethod
    def of(evaluations: int, *first: int, **changes: object) -> Config:
        config = configured(search__evaluations=evaluations, search__confirm=2, search__leaders=2, **changes)
        tree = tomli.loads(tomli_w.dumps(config.model_dump(exclude_none=True, exclude_defaults=True)))
        tree["parameters"] = tree["parameters"][:1]
        tree["search"]["first"] = [{"batch": batch} for batch in first]
        return parse(tomli_w.dumps(tree), "formula.toml")

    @staticmethod
    def same(**values: tuple[float, float]) -> dict[tuple[int, bool], tuple[float, float] | None]:
        """In the race as in the search."""
        return {(int(batch[1:]), raced): value for batch, value in values.items() for raced in (False, True)}

    def test_the_winner_of_the_last_race_is_in_the_next_one_not_that_of_an_earlier_one(self, tmp_path: Path) -> None:
        lucky = {(40, False): (90.0, 1.0), (40, True): (65.0, 1.0), (50, False): (95.0, 1.0), (50, True): (66.0, 1.0)}
        sessions = (
            (self.of(3, 20, 25), self.same(_8=(10.0, 1.0), _20=(100.0, 1.0), _25=(40.0, 1.0)), 20),
            (self.of(4, 20, 25, 30), self.same(_8=(5.0, 1.0), _20=(30.0, 1.0), _25=(20.0, 1.0), _30=(60.0, 1.0)), 30),
            (
                self.of(6, 20, 25, 30, 40, 50),
                {**self.same(_8=(10.0, 1.0), _20=(60.0, 1.0), _30=(120.0, 1.0)), **lucky},
                30,
            ),
        )
        for config, table, best in sessions:
            assert self.Table(tmp_path, config, table=table).best() == best

    def test_a_race_that_is_cut_after_the_baseline_leaves_the_winner_before(self, tmp_path: Path) -> None:
        """On a machine twice as fast: what it measured before is not held against the baseline of today."""
        relative = {"objective__slo": [{"metric": "ttft_p99_ms", "max": "baseline"}]}
        table = self.same(_8=(10.0, 100.0), _20=(100.0, 90.0))
        assert self.Table(tmp_path, self.of(3, 20, **relative), table=table).best() == 20
        faster = self.same(_8=(20.0, 50.0), _20=(200.0, 45.0), _30=(30.0, 45.0))
        again = self.Table(tmp_path, self.of(4, 20, 30, **relative), groups=1, table=faster)
        again.over = lambda each: each.label == "confirm" and each.configuration["batch"] != 8
        assert again.best() == 20

    @pytest.mark.parametrize("good", [0, 1])
    def test_the_files_compare_with_the_baseline_as_the_summary_does_although_that_failed(
        self, good: int, tmp_path: Path
    ) -> None:
        """In the race it fails always, or all but once; the machine is slower by then."""
        failed = 0

        class Failing(self.Table):
            def _evaluation(self, group: int, assignment: Assignment) -> Evaluation:
                nonlocal failed
                evaluation = super()._evaluation(group, assignment)
                if assignment.label != "confirm" or assignment.configuration["batch"] != 8 or failed == 2 - good:
                    return evaluation
                failed += 1
                return replace(evaluation, metrics={}, failure=Failure("killed", "configuration"))

        table = {(8, False): (10.0, 1.0), (20, False): (50.0, 1.0), (8, True): (5.0, 1.0), (20, True): (20.0, 1.0)}
        session = Failing(tmp_path, self.of(2, 20), groups=1, table=table)
        assert session.best() == 20
        outcome = read_outcome(tmp_path)
        assert failed == 2 - good and outcome.baseline is not None and outcome.best is not None
        figures = outcome.best.metrics, outcome.baseline.metrics
        ratio = figures[0]["output_throughput"] / figures[1]["output_throughput"]
        assert ratio == pytest.approx(4.0 if good else 5.0, rel=0.01)
        written = tomli.loads((tmp_path / "best.toml").read_text())
        told = score("output_throughput", *figures, higher=True)
        assert written["run"]["score"] == told and told in (tmp_path / "best.sh").read_text()
        assert written["metrics"] == figures[0]
        assert written["run"]["fitness"] == -figures[0]["output_throughput"]
        assert session.tuning is not None and session.tuning._incumbent.told == told

    @pytest.mark.parametrize("baseline", [False, True])
    def test_the_files_have_the_figures_of_the_race_also_when_the_search_goes_on(
        self, baseline: bool, tmp_path: Path
    ) -> None:
        """Without a baseline, or one that works: as the summary."""
        search = {(8, False): None, (20, False): (100.0, 1.0), (30, False): (50.0, 1.0)}
        race = {(8, True): None, (20, True): (60.0, 1.0), (30, True): (40.0, 1.0)}
        for evaluations, confirm in ((2 + baseline, 2), (3 + baseline, 0)):
            config = self.of(evaluations, 20, 30, search__repeats=2, search__particles=2 + baseline)
            if not baseline:
                (batch,) = config.parameters
                config = config.model_copy(update={"parameters": (batch.model_copy(update={"default": None}),)})
            session = self.Table(tmp_path, config.having("search", confirm=confirm), table={**search, **race})
            assert session.best() == 20
        asked = session.proposals()
        raced = max(number for number, label, _ in asked if label == "confirm")
        assert any(number > raced and label == "repeat" and each["batch"] == 20 for number, label, each in asked)
        best = read_outcome(tmp_path).best
        assert best is not None and best.metrics["output_throughput"] == pytest.approx(60.0, rel=0.01)
        assert tomli.loads((tmp_path / "best.toml").read_text())["metrics"] == best.metrics

    def test_it_is_judged_by_what_the_baseline_measured_in_it(self, tmp_path: Path) -> None:
        relative = {"objective__slo": [{"metric": "ttft_p99_ms", "max": "baseline"}]}
        table = {
            (8, False): (10.0, 100.0),
            (20, False): (50.0, 90.0),
            (8, True): (5.0, 200.0),
            (20, True): (30.0, 180.0),
        }
        session = self.Table(tmp_path, self.of(2, 20, **relative), groups=1, table=table)
        assert session.best() == 20
        raced = [number for number, label, each in session.proposals() if label == "confirm" and each["batch"] == 20]
        first = {event["number"]: event["feasible"] for event in session.events("evaluated") if event["judged"]}
        last = {event["number"]: event["feasible"] for event in session.events("judged")}
        assert [(first[number], last[number]) for number in raced] == [(True, True)] * 2, "at once, and in the end"

    def test_who_has_lost_the_race_is_not_brought_back_by_its_luck_in_the_search(self, tmp_path: Path) -> None:
        table = {**self.same(_8=(10.0, 1.0), _30=(100.0, 1.0)), (20, False): (120.0, 1.0), (20, True): (80.0, 1.0)}
        assert self.Table(tmp_path, self.of(6, 20, 30), table=table).best() == 30
        again = self.Table(tmp_path, self.of(12, 20, 30), table=table, over=lambda each: each.label == "confirm")
        assert again.best() == 30

    def test_what_one_race_refuted_and_the_next_did_not_stands(self, tmp_path: Path) -> None:
        good = self.same(_8=(10.0, 1.0), _20=(100.0, 1.0), _30=(50.0, 1.0))
        assert self.Table(tmp_path, self.of(6, 20, 30), table={**good, (20, True): None}).best() == 30
        assert self.Table(tmp_path, self.of(8, 20, 30), table=good).best() == 20
        cut = self.Table(tmp_path, self.of(10, 20, 30), table=good, over=lambda each: each.label == "confirm")
        assert cut.best() == 20

    def test_a_target_is_measured_again_though_an_earlier_session_has_confirmed_it(self, tmp_path: Path) -> None:
        changes = {"search__target": 90.0, "search__repeats": 2}
        table = self.same(_8=(10.0, 1.0), _20=(100.0, 1.0))
        assert self.Table(tmp_path, self.of(2, 20, **changes), table=table).best() == 20
        again = self.Table(tmp_path, self.of(30, 20, **changes), table=table)
        assert again.run().cause == "target"


class TestReport:
    """What is read from the journal alone."""

    @dataclass
    class Noisy(Session):
        """Is fast where a configuration is measured first, and then not."""

        seen: Counter[str] = field(default_factory=Counter)

        def _evaluation(self, group: int, assignment: Assignment) -> Evaluation:
            evaluation = super()._evaluation(group, assignment)
            key = str(assignment.configuration)
            latency = evaluation.metrics["ttft_p99_ms"] * (0.3, 1.2, 1.2)[self.seen[key] % 3]
            self.seen[key] += 1
            return replace(evaluation, metrics={**evaluation.metrics, "ttft_p99_ms": latency})

    @pytest.mark.parametrize("limit", [{"max": 80.0}, {"max": "baseline", "factor": 1.2}])
    @pytest.mark.parametrize("confirm", [0, 3])
    def test_it_judges_configurations_as_the_search_does(
        self, limit: Mapping[str, object], confirm: int, tmp_path: Path
    ) -> None:
        slo = {"objective__slo": [{"metric": "ttft_p99_ms", **limit}]}
        config = configured(**slo, search__confirm=confirm, search__repeats=3, search__baseline_repeats=3)
        tuning = self.Noisy(tmp_path, config).run()
        trials, several = tuning.trials, 0
        for measured in read_outcome(tmp_path).configurations:
            trial = trials.of(measured.number)
            raced = trials.raced(trial, trials.race)
            expected = trials.score(trial, raced or trials.searched, confirmed=bool(raced))
            assert expected is not None
            assert (measured.failed, measured.score.feasible) == (expected.failed, expected.feasible)
            assert measured.score.violation == pytest.approx(expected.violation)
            assert measured.score.fitness == pytest.approx(expected.fitness)
            several += 0 < len(measured.broken) < len(measured.good)
        assert several, "of some configurations not all measurements say the same"


class TestRelativeLimits:
    def test_what_arrives_before_the_baseline_is_written_unjudged_and_judged_later(self, tmp_path: Path) -> None:
        session = Session(tmp_path, configured(**RELATIVE), groups=6, order=max)
        session.run()
        first = session.events("evaluated")[:6]
        assert [event["number"] for event in first] == [5, 4, 3, 2, 1, 0]
        assert [event["judged"] for event in first] == [False] * 6
        judged = session.events("judged")
        assert [event["number"] for event in judged] == [5, 4, 3, 2, 1, 0]
        limit = 1.5 * (50 + 3 * 8)
        for event, result in zip(judged, first, strict=True):
            assert event["feasible"] == (result["metrics"]["ttft_p99_ms"] <= limit)
        assert all(event["judged"] for event in session.events("evaluated")[6:])
        told = [*judged, *session.events("evaluated")[6:]]
        chosen = [event["number"] for event in session.events("incumbent")]
        assert [int(starred) for starred in re.findall(r"#(\d+) +\*", session.shown.getvalue())] == chosen
        assert any(event["violations"] for event in told)
        assert all(bool(event["violations"]) == (event["violation"] > 0) for event in told)

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_a_run_that_is_cut_before_the_baseline_is_known_goes_on(
        self, schedule: str, folders: Iterator[Path]
    ) -> None:
        config = configured(**RELATIVE, **SCHEDULES[schedule], search__baseline_repeats=2, search__confirm=1)
        whole = Session(next(folders), config, groups=4, order=max)
        best = whole.run().incumbent
        lines = len((whole.folder / FILE).read_bytes().splitlines())
        for line in range(1, lines + 1, 5):
            again = Session(next(folders), config, groups=4, order=max)
            cut(whole.folder, again.folder, line)
            tuning = again.run()
            judged = {e["number"] for e in again.events("judged")}
            judged |= {e["number"] for e in again.events("evaluated") if e["judged"]}
            assert judged == {number for number, _, _ in again.proposals()}, f"cut after line {line}"
            if schedule != "async":  # there it depends on the order of results, which is another after a cut
                assert again.proposals() == whole.proposals()
                assert tuning.incumbent == best

    @pytest.mark.parametrize(("first", "told"), [(3.0, True), (1.2, False)])
    def test_a_baseline_that_measures_differently_is_told(self, first: float, told: bool, tmp_path: Path) -> None:
        class Cold(Session):
            def _evaluation(self, group: int, assignment: Assignment) -> Evaluation:
                evaluation = super()._evaluation(group, assignment)
                slower = {"ttft_p99_ms": 100.0 * (first if evaluation.number == 0 else 1.0)}
                return replace(evaluation, metrics={**evaluation.metrics, **slower})

        session = Cold(tmp_path, configured(**RELATIVE, search__baseline_repeats=2))
        session.run()
        line = "the baseline measured ttft_p99_ms between 100 and 300"
        assert session.shown.getvalue().count(line) == int(told)

    def test_a_baseline_that_fails_ends_the_run(self, folders: Iterator[Path]) -> None:
        config = configured(**RELATIVE)

        def failing(configuration: Configuration) -> Metrics | Failure:
            return broken(configuration) if configuration == BASELINE else measured(configuration)

        session = Session(next(folders), config, measure=failing)
        for _ in range(2):
            with pytest.raises(RunFailed, match="the baseline configuration failed: it broke"):
                session.run()
        assert len(session.events("evaluated")) < 6

    @pytest.mark.parametrize(
        ("cause", "advice"),
        [
            ("not ready within 8 s: no answer", "give a longer service.start_timeout, limits as numbers, or defaults"),
            ("it broke", "give limits as numbers, or defaults"),
        ],
    )
    def test_what_helps_against_a_baseline_that_fails_is_told(self, cause: str, advice: str, tmp_path: Path) -> None:
        session = Session(tmp_path, configured(**RELATIVE), measure=lambda _: Failure(cause, "configuration"))
        with pytest.raises(RunFailed, match=f": {advice} that work, and start a new run; "):
            session.run()

    def test_a_baseline_that_fails_once_in_three_times_does_not(self, tmp_path: Path) -> None:
        config = configured(**RELATIVE, search__baseline_repeats=3)
        turns = iter([Failure("it broke", "configuration")])

        def flaky(configuration: Configuration) -> Metrics | Failure:
            return next(turns, measured(configuration)) if configuration == BASELINE else measured(configuration)

        session = Session(tmp_path, config, measure=flaky, groups=1)
        assert session.run().cause == "evaluations"

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_fewer_evaluations_than_repeats_of_the_baseline_are_judged_all_the_same(
        self, schedule: str, folders: Iterator[Path]
    ) -> None:
        changes = {**RELATIVE, **SCHEDULES[schedule], "search__baseline_repeats": 3}
        session = Session(next(folders), configured(**changes, search__evaluations=2), groups=1)
        assert session.run().incumbent == 0
        assert [event["number"] for event in session.events("judged")] == [0, 1]
        session.config = configured(**changes)
        tuning = session.run()
        assert [event["number"] for event in session.events("judged")] == [0, 1, 0, 1, 2], "by all three, once there"
        whole = Session(next(folders), configured(**changes), groups=1)
        assert tuning.incumbent == whole.run().incumbent
        assert session.proposals() == whole.proposals()

    def test_what_waits_for_the_baseline_may_have_come_from_a_group_that_is_no_more(
        self, folders: Iterator[Path]
    ) -> None:
        whole = Session(next(folders), configured(**RELATIVE), groups=6, order=max)
        whole.run()
        first = next(event["seq"] for event in whole.events("judged"))
        again = Session(next(folders), configured(**RELATIVE), groups=1)
        cut(whole.folder, again.folder, first - 1)
        again.run()
        assert [event["number"] for event in again.events("judged")] == [5, 4, 3, 2, 1, 0]

    def test_an_asynchronous_search_asks_for_all_repeats_of_the_baseline(self, tmp_path: Path) -> None:
        config = configured(**RELATIVE, **SCHEDULES["async"], search__baseline_repeats=8)
        assert Session(tmp_path, config).run().cause == "evaluations"

    def test_an_asynchronous_search_waits_for_the_baseline_after_the_first_proposals(self, tmp_path: Path) -> None:
        config = configured(**RELATIVE, **SCHEDULES["async"], search__baseline_repeats=2)
        session = Session(tmp_path, config, groups=30, order=max)
        session.run()
        assert len(session.events("asked")[0]["new"]) <= 30
        known = next(event["seq"] for event in session.events("judged"))
        blind = [new for event in session.events("asked") if event["seq"] < known for new in event["new"]]
        assert len(blind) >= 2


class TestWarmStart:
    def earlier(self, folder: Path) -> Earlier:
        session = Session(folder, configured(search__evaluations=12, search__seed=9))
        session.run()
        results = [(event["configuration"], event["metrics"]) for event in session.events("evaluated")]
        best: Configuration = {"batch": 40, "wait": 10, "policy": "fair"}
        told = measured(best)
        assert not isinstance(told, Failure)
        return Earlier("an earlier run", [*results, (best, told)], "an earlier run: 13 results")

    @pytest.mark.parametrize("early", [False, True])
    @pytest.mark.parametrize("strategy", ["pso", "surrogate"])
    def test_what_is_learned_is_in_the_journal_and_used_again_after_a_cut(
        self, strategy: str, early: bool, folders: Iterator[Path]
    ) -> None:
        """If benchmarks were stopped early as well, so that their figures are only what was expected."""
        earlier = self.earlier(next(folders))
        if early:
            stopped = [(at, Expected(figures)) for at, figures in earlier.results if figures is not None]
            earlier = replace(earlier, results=[*stopped[:10], *earlier.results[10:]])
        config = configured(search__strategy=strategy)
        whole = Session(next(folders), config)
        whole.run([earlier])
        (learned,) = whole.events("learned")
        assert learned["source"] == "an earlier run"
        assert len(learned["results"]) == 13
        assert "learned from an earlier run: 13 results\n" in whole.shown.getvalue()
        cold = Session(next(folders), config)
        cold.run()
        assert cold.proposals() != whole.proposals(), "it makes a difference"
        for line in (2, 9, 25):
            again = Session(next(folders), config)
            cut(whole.folder, again.folder, line)
            again.run()
            assert again.proposals() == whole.proposals()

    @pytest.mark.parametrize("strategy", ["pso", "surrogate"])
    def test_limits_relative_to_the_baseline_still_have_it_measured_here(
        self, strategy: str, folders: Iterator[Path]
    ) -> None:
        earlier = self.earlier(next(folders))
        session = Session(next(folders), configured(**RELATIVE, search__strategy=strategy))
        assert session.run([earlier]).cause == "evaluations"
        assert session.proposals()[0][1:] == ("baseline", BASELINE)

    def test_what_cannot_be_used_is_told_with_its_reason(self, tmp_path: Path) -> None:
        told = measured({"batch": 9, "wait": 0, "policy": "fair"})
        assert not isinstance(told, Failure)
        earlier = Earlier("a table", [({"batch": 9, "wait": 0, "policy": "fair"}, told)], "a table: 1 results")
        session = Session(tmp_path, configured(**RELATIVE))
        session.run([earlier])
        assert "learned nothing from a table: 1 results; " in session.shown.getvalue()
        assert "1 not used: limits are relative to the baseline, which is not among the" in session.shown.getvalue()


class TestWhatGoesWrong:
    @pytest.mark.parametrize("kind", ["configuration", "measurement", "infrastructure"])
    def test_a_retried_attempt_is_written_with_its_cause_and_leaves_no_result(
        self, kind: FailureKind, tmp_path: Path
    ) -> None:
        session = Session(tmp_path, configured())
        tuning = session.run()
        again = Session(tmp_path, configured(search__evaluations=19))
        with Journal.open(tmp_path) as journal:
            monitor = Monitor(19, {0: "node"}, io.StringIO(), Screen("plain"))
            tuning = again._tuning(journal, monitor, read(tmp_path / FILE))
            (assignment,) = tuning.propose(1)
            tuning.assigned(0, assignment)
            failure = Failure("the rank died", kind)
            failed = Evaluation(assignment.number, 1, 0, assignment.configuration, failure=failure)
            tuning.retried(failed)
            assert tuning.propose(1) == [], "the dispatcher tries it again"
        (retried,) = session.events("retried")
        assert (retried["kind"], retried["cause"]) == (kind, "the rank died")
        assert session.run().cause == "evaluations"

    def test_probes_use_what_is_known_to_work(self, folders: Iterator[Path]) -> None:
        assert Session(next(folders), configured()).run().known_good() == BASELINE

        def failing(configuration: Configuration) -> Metrics | Failure:
            return broken(configuration) if configuration == BASELINE else measured(configuration)

        session = Session(next(folders), configured(), measure=failing)
        tuning = session.run()
        assert tuning.incumbent is not None
        assert tuning.known_good() == session.proposals()[tuning.incumbent][2]
