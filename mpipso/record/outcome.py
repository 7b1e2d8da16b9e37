"""All that a report needs to know of a run, read from its journal."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import tomli

from mpipso.config import Limit, Search
from mpipso.errors import UserError
from mpipso.evaluation import BASELINE, CONFIRM, Configuration, Metrics, mean, reference, together
from mpipso.launched import REQUEUE
from mpipso.record import figures, journal, recipe
from mpipso.record.again import is_here, resume_command
from mpipso.record.figures import Higher
from mpipso.record.folders import BEAT_FILE, check_run
from mpipso.record.judged import Judged, results
from mpipso.record.measured import Measured, by_configuration
from mpipso.record.resume import as_before
from mpipso.record.usage import BEGINNINGS, ENDINGS, Usage, usage
from mpipso.record.whatif import IDLE, Saving, ScheduleChoice, saving

Event = Mapping[str, Any]

NO_BASELINE = "the baseline configuration failed"
"""How the cause of a run begins that failed with its baseline; to resume it is in vain, as its journal says so."""
_GONE = 30.0
"""Seconds after the last sign of life of a root, which gives one every two, from which on it is taken for gone."""
_QUIET = 10.0
"""Seconds from which on it may be gone: whoever knows that it was killed is told how to go on."""


@dataclass(frozen=True)
class Outcome:
    """What came of a run, finished or not.

    Attributes
    ----------
    evaluations:
        Every evaluation with its verdict, those of the baseline, repeats and confirmations included.
    incumbent:
        The number of an evaluation of the best configuration, None when there is none.
    objective:
        The name of the metric that was optimised.
    higher:
        Whether more of a metric is better, by its name; None for neither.
    folder:
        The folder of the run.
    starts:
        The commands that start the service with the best configuration, one per node.
    ended:
        How the run is, if it did not come to its end, in words that go on from "The run is"; empty when it did.
    cause:
        Which budget ended a run that did come to its end, by its name in the journal.
    race_cut:
        Whether there was no time for its final race, or for all of it.
    failure:
        Why the run could not go on, empty if it could.
    resume:
        The command that goes on with the run, empty where there is nothing to go on with.
    usage:
        What the groups did with their time.
    retries:
        How often attempts were repeated because a node, a port or the client failed, by cause.
    schedule:
        The schedule that was used, and its size.
    no_starts:
        Why there are no ``starts`` although the run has written some: a sentence.
    config:
        The configuration that the run's last session had, as TOML without its secrets.
    defaults:
        The baseline configuration, if the run has one and has asked for it.
    away:
        The folder from which relative paths of ``starts`` lead; empty if it is this one, or not known.
    slo:
        The limits of the objective.
    baseline_repeats:
        How many of the baseline's first measurements limits relative to it refer to.
    confirm:
        How often the final race measures each; 0 if there is none.
    """

    evaluations: Sequence[Judged]
    incumbent: int | None
    objective: str
    higher: Higher
    folder: Path
    starts: Sequence[recipe.NodeStart] = ()
    ended: str = ""
    cause: str = ""
    race_cut: bool = False
    failure: str = ""
    resume: str = ""
    usage: Usage = field(default_factory=Usage)
    retries: Mapping[str, int] = field(default_factory=dict)
    schedule: ScheduleChoice | None = None
    no_starts: str = ""
    config: str = ""
    defaults: Configuration | None = None
    away: str = ""
    slo: Sequence[Limit] = ()
    baseline_repeats: int = 1
    confirm: int = 1

    @cached_property
    def configurations(self) -> Sequence[Measured]:
        """The evaluations by configuration, in the order in which the configurations came first.

        Baseline and best count by the last race that both are in: the machines may have changed since another one. If
        there is none, all count by the search. A race in which the baseline always failed compares nothing; if it did
        so everywhere, there is nothing to compare.
        """
        every = by_configuration(self.evaluations)
        baseline, best = self._baseline_of(every), self._best_of(every)
        if baseline is None or best is None:
            return every
        races = [*(race for race in best.races if race in baseline.races), None]
        comparing = [race for race in races if replace(baseline, race=race).good]
        if not comparing:  # not even by a race that the best was not in
            return [replace(each, race=None) if each is baseline else each for each in every]
        if best.race == baseline.race == comparing[0]:
            return every
        if (race := comparing[0]) is not None:
            return [replace(each, race=race) if each in (baseline, best) else each for each in every]
        return [replace(each, race=None) for each in every]

    @cached_property
    def baseline(self) -> Measured | None:
        """The baseline configuration with its measurements; None when there is none."""
        return self._baseline_of(self.configurations)

    def _baseline_of(self, every: Sequence[Measured]) -> Measured | None:
        labelled = next((each for each in every if _has_label(each, BASELINE)), None)
        if labelled is not None or self.defaults is None:
            return labelled
        # Of several measurements that were under way at a time, a repeat may be back before the first one.
        own = figures.key(self.defaults)
        return next((each for each in every if figures.key(each.configuration) == own), None)

    @property
    def best(self) -> Measured | None:
        """The best configuration with its measurements; None when there is none."""
        return self._best_of(self.configurations)

    def _best_of(self, every: Sequence[Measured]) -> Measured | None:
        numbers = ((each, judged.evaluation.number) for each in every for judged in each.measurements)
        return next((each for each, number in numbers if number == self.incumbent), None)

    @property
    def limits(self) -> Mapping[str, str]:
        """The limits of the objective as text, by their metrics: ``<= 2000 ms``, of several ``>= 1 ms, <= 5 ms``.

        Relative ones are told as the numbers that the best was held against, or as ``>= 0.95 x baseline`` where that is
        not known.
        """
        baseline = self._reference(None if self.best is None else self.best.race)
        texts: dict[str, list[str]] = {}
        for limit in self.slo:
            texts.setdefault(limit.metric, []).append(_limit(limit, baseline.get(limit.metric)))
        return {metric: ", ".join(each) for metric, each in texts.items()}

    def broken(self, metrics: Metrics, measured: Sequence[Judged]) -> dict[str, str]:
        """The limits that metrics break, in words, by the limits' metrics; none by what is not known.

        The metrics are the mean of the ``measured`` ones of a configuration; relative limits are those of the search or
        the race to which each belongs.
        """
        return {
            limit.metric: limit.in_words(value, bound)
            for limit, value, bound in self._held_against(metrics, measured)
            if limit.excess(value, bound) > 0
        }

    def log_ratios(self, metrics: Metrics, measured: Sequence[Judged]) -> tuple[float, ...]:
        """How metrics compare with each limit, as in a :class:`mpipso.score.Score`; as for :meth:`broken`."""
        held = self._held_against(metrics, measured)
        return tuple(
            math.nan if math.isnan(value + bound) else limit.log_ratio(value, bound) for limit, value, bound in held
        )

    def _held_against(self, metrics: Metrics, measured: Sequence[Judged]) -> Iterator[tuple[Limit, float, float]]:
        """Each limit with the value of its metric and the number that this is held against; NaN where not known."""
        if self.baseline is not None and measured and measured[0] in self.baseline.measurements:
            # It always keeps them where it counts, however its measurements vary.
            baseline = together([judged.evaluation for judged in measured])
        else:
            baseline = mean([self._reference(self._races.get(judged.evaluation.number)) for judged in measured])
        for limit in self.slo:
            bound = limit.bound(baseline.get(limit.metric))
            yield limit, metrics.get(limit.metric, math.nan), math.nan if bound is None else bound

    def _reference(self, race: int | None) -> Metrics:
        """What limits relative to the baseline refer to in a race or, without one, in the search; may be empty."""
        baseline = self.baseline
        if baseline is None:
            return {}
        measured = sorted((judged.evaluation for judged in baseline.measurements), key=lambda each: each.number)
        first = [each for each in measured if each.label != CONFIRM][: self.baseline_repeats]
        raced = () if race is None else baseline.races.get(race, ())
        return reference(first, [judged.evaluation for judged in raced])

    @cached_property
    def _races(self) -> Mapping[int, int]:
        """The races of confirmations, by the numbers of these."""
        races = ((race, several) for each in self.configurations for race, several in each.races.items())
        return {judged.evaluation.number: race for race, several in races for judged in several}

    @property
    def searched(self) -> Sequence[Judged]:
        """The evaluations of the search: all but the confirmations."""
        return [judged for judged in self.evaluations if judged.evaluation.label != CONFIRM]

    @property
    def saving(self) -> Saving | None:
        """The schedule that would have saved most wall time; None if groups hardly idled, or none would have."""
        if self.schedule is None or self.usage.idle_share <= IDLE:
            return None
        return saving(self.usage.durations, self.usage.width, self.schedule)


def read_outcome(folder: Path, *, failure: str = "") -> Outcome:
    """The outcome of the run in ``folder``, as far as its journal goes.

    ``failure`` is why the run could not go on, empty if it could; a journal on a full disk does not say so itself.

    Raises
    ------
    UserError
        There is no such folder, it has no journal, or the journal is damaged.
    """
    check_run(folder)
    path = folder / journal.FILE
    events = journal.read(path)
    if not events or events[0]["event"] != "started":
        raise UserError(f"{path}: does not begin with the start of a run")
    try:
        return _outcome(folder, events, failure)
    except (KeyError, TypeError, AttributeError, tomli.TOMLDecodeError) as error:
        raise UserError(f"{path}: an event lacks what this version expects: {error}") from None


def _outcome(folder: Path, events: Sequence[Event], failure: str) -> Outcome:
    objective = events[0]["objective"]
    session = next(event for event in reversed(events) if event["event"] in BEGINNINGS)
    text = session["config"]
    config = tomli.loads(text)
    retries = Counter(event["cause"] for event in events if event["event"] == "retried")
    last = next(event for event in reversed(events) if event["event"] in (*BEGINNINGS, *ENDINGS))
    if failure and last["event"] in BEGINNINGS:
        last = {"event": "failed", "cause": failure}
    ended = _ended(folder, last)
    over = ended in ("", _GOING_ON) or last.get("cause", "").startswith(NO_BASELINE) or _comes_back(last)
    cwd = session.get("cwd", "")
    evaluations = results(events)
    asked = [new for event in events if event["event"] == "asked" for new in event.get("new", ())]
    outcome = Outcome(
        evaluations=evaluations,
        incumbent=_measured(_incumbent(events), asked, evaluations),
        objective=objective,
        higher=_directions(config),
        folder=folder,
        ended=ended,
        cause=last.get("cause", "") if last["event"] == "finished" else "",
        race_cut=last.get("race_cut", False),
        failure=last["cause"] if last["event"] == "failed" else "",
        resume="" if over else resume_command(folder, text, session.get("command", ""), cwd, session.get("system", "")),
        usage=usage(events),
        retries=retries,
        schedule=_schedule(config),
        config=text,
        defaults=next((new["configuration"] for new in asked if new["label"] == BASELINE), None),
        away=cwd if cwd and not is_here(cwd) else "",
        # Without validation: other keys may be of another version.
        slo=[Limit.model_construct(**limit) for limit in config.get("objective", {}).get("slo", ())],
        baseline_repeats=_search(config, "baseline_repeats").baseline_repeats,
        confirm=_search(config, "confirm").confirm,
    )
    return _with_starts(outcome)


def _with_starts(outcome: Outcome) -> Outcome:
    """The outcome with the commands of ``best.toml``, or why these are not to be used.

    A session that ended between the journal's line and the file has left an earlier best there. A file that is damaged
    is no reason to tell nothing of a run.
    """
    try:
        written = recipe.read_best(outcome.folder)
    except UserError as error:
        return replace(outcome, no_starts=f"{error}; --resume writes it anew")
    if written is None or outcome.best is None:
        return outcome
    if figures.key(written.configuration) == figures.key(outcome.best.configuration):
        return replace(outcome, starts=written.starts)
    renewed = "is about to be renewed" if outcome.ended == _GOING_ON else "--resume renews it"
    return replace(outcome, no_starts=f"{recipe.SCRIPT} is of #{written.number}, not of the best: {renewed}")


def _comes_back(last: Event) -> bool:
    """Whether the run's last event is an interruption after which its Slurm job starts again and goes on with it."""
    return last["event"] == "interrupted" and os.environ.get(REQUEUE) == "1"


def _limit(limit: Limit, baseline: float | None) -> str:
    bound = limit.bound(baseline)
    told = f"{limit.factor:g} x baseline" if bound is None else figures.measure(limit.metric, bound)
    return f"{'>=' if limit.max is None else '<='} {told}"


def _has_label(measured: Measured, label: str) -> bool:
    return any(judged.evaluation.label == label for judged in measured.measurements)


_GOING_ON = "still going on"


def _ended(folder: Path, last: Event) -> str:
    """How a run is that did not come to its end, empty if it did; ``last`` is its last beginning or ending."""
    if last["event"] == "finished":
        return ""
    if last["event"] == "interrupted":
        # A launcher passes a request to stop on as USR1, whatever signal its user has sent.
        return "interrupted" if last["signal"] == "SIGUSR1" else f"interrupted by {last['signal']}"
    if last["event"] == "failed":
        return "failed"
    silence = _silence(folder)
    if silence > _GONE:
        return "not finished"
    return _GOING_ON if silence <= _QUIET else f"{_GOING_ON}, but has given no sign of life for {silence:.0f} s"


def _silence(folder: Path) -> float:
    """Seconds since the last sign of life of the root. Opening a file makes NFS ask the server."""
    try:
        with (folder / BEAT_FILE).open("rb") as file:
            return time.time() - os.fstat(file.fileno()).st_mtime
    except OSError:
        return math.inf


def _incumbent(events: Sequence[Event]) -> int | None:
    told = {"incumbent": "number", "withdrawn": "", "finished": "incumbent"}
    numbers: list[int | None] = [event.get(told[event["event"]]) for event in events if event["event"] in told]
    return numbers[-1] if numbers else None


def _measured(number: int | None, asked: Sequence[Event], evaluations: Sequence[Judged]) -> int | None:
    """The number if that evaluation has a result, else that of another evaluation of its configuration, which has."""
    numbers = [judged.evaluation.number for judged in evaluations]
    own = next((figures.key(new["configuration"]) for new in asked if new["number"] == number), None)
    if number in numbers or own is None:
        return number
    same = (j.evaluation.number for j in evaluations if figures.key(j.evaluation.configuration) == own)
    return next(same, number)


def _directions(config: Mapping[str, Any]) -> Higher:
    """Which metrics are good when high, by a configuration's objective and limits, else as usual for their units."""
    objective = config.get("objective", {})
    limits = [(limit["metric"], "min" in limit) for limit in objective.get("slo", ())]
    # One on either side leaves it open.
    known = {metric: least for metric, least in limits if (metric, not least) not in limits}
    known |= {objective[key]: key == "maximize" for key in ("maximize", "minimize") if key in objective}
    return lambda metric: known.get(metric, figures.usually_higher(metric))


def _schedule(config: Mapping[str, Any]) -> ScheduleChoice:
    known = _search(config, "schedule", "window", "particles")
    return ScheduleChoice(known.schedule, as_before(known).batch)


def _search(config: Mapping[str, Any], *keys: str) -> Search:
    """The ``search`` table of a configuration, from which defaults are left out, with some of its keys."""
    # Without validation: other keys may be of another version.
    table = config.get("search", {})
    return Search.model_construct(**{key: table[key] for key in keys if key in table})
