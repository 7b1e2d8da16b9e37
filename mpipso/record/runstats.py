"""How a run went, for people: what was measured, what failed, what the groups did with their time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from mpipso.logtext import alike, unprefixed
from mpipso.record import figures
from mpipso.record.columns import table_with, width_of
from mpipso.record.outcome import Outcome
from mpipso.record.usage import GroupUsage, Loss, Quarantine, Usage, busy_share
from mpipso.wording import clean, plural

_ROWS = 12
"""Rows of service groups in the table. Of more groups those that lost most time have rows, the others one together."""
_LINES = 8
"""Lines for each kind of fault."""
_NUMBERS = 5
"""Evaluations that are named after a cause."""
_COLUMNS = ("start", "bench", "stop", "other", "idle", "lost")
_LEAST = ("other", "stop", "hosts", "start", "bench", "evals", "lost", "idle")
"""The columns that a narrow terminal can do without, first those that tell least."""
_HOSTS = 8
"""Characters of longer names of hosts that are worth a column."""
_SHORT = 0.1
"""Share of an evaluation's time; a benchmark that takes less is called short."""
_QUICK = 10.0
"""Seconds of an evaluation up to which its benchmark may be short: a repeated measurement takes no longer."""
_ALONE = 1.0001
"""Groups that existed one after another have been there for no larger multiple of the wall time, rounding included."""
_ENDS = {
    "evaluations": "the evaluation budget is spent",
    "iterations": "the iteration budget is spent",
    "time": "the time limit, or the end of the job, was reached",
    "stagnation": "the best has not improved for long enough",
    "target": "the target was reached",
    "exhausted": "every configuration that could be found has been tried",
}


def run_statistics(outcome: Outcome) -> Iterator[RenderableType]:
    """How a run went, line by line: how many evaluations there were, why it ended, what failed, which ranks were lost.

    After these come a table of the groups, how much faster they were than one, and a schedule that would have saved
    time.
    """
    yield from _counts(outcome)
    yield from _faults(outcome)
    if outcome.usage.groups:
        yield ""
        yield GroupTable(outcome.usage)
        if not all(judged.failed for judged in outcome.evaluations):
            yield from _speed(outcome)


class GroupTable:
    """A table of what the service groups did with their time: one row per group, a dozen at most, and one for all.

    Where there is no room the hosts' names are cut, and then columns are left out, first those that tell nothing.
    """

    def __init__(self, usage: Usage) -> None:
        self._usage = usage
        self._hosts = len({host for group in usage.groups for host in group.hosts}) > 1

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        titles = ["group", *(["hosts"] if self._hosts else []), "evals", *_COLUMNS, "busy"]
        total = _cells(self._usage.groups)
        for title in sorted(_LEAST, key=lambda each: total.get(each) != "-"):
            if self._needs(titles, console, options) <= options.max_width:
                break
            titles = [each for each in titles if each != title]
        yield self._table(titles)

    def _needs(self, titles: Sequence[str], console: Console, options: ConsoleOptions) -> int:
        """How many characters wide a table of these columns is, with names of hosts that are cut."""
        table = self._table([title for title in titles if title != "hosts"])
        wide = width_of(table, console, options)
        if "hosts" in titles:
            names = max(len(_hosts(group.hosts)) for group in _shown(self._usage.groups)[0])
            wide += max(len("hosts"), min(names, _HOSTS)) + 1
        return wide

    def _table(self, titles: Sequence[str]) -> Table:
        usage = self._usage
        table = table_with()
        for title in titles:
            words = title in ("group", "hosts")
            table.add_column(title, justify="left" if words else "right", no_wrap=title != "hosts", overflow="ellipsis")
        shown, others = _shown(usage.groups)

        def add(name: str, where: str, groups: Sequence[GroupUsage], style: str | None = None) -> None:
            cells = {"group": name, "hosts": where, **_cells(groups)}
            table.add_row(*(Text(cells[title]) for title in titles), style=style)

        for group in shown:
            name = f"{group.group}" + (f" of session {group.session}" if usage.sessions > 1 else "")
            add(name, _hosts(group.hosts), [group])
        if others:
            add(f"{len(others)} others", "", others)
        if len(usage.groups) > 1:
            table.add_section()
            add("all", "", usage.groups, "bold")
        return table


def _shown(groups: Sequence[GroupUsage]) -> tuple[Sequence[GroupUsage], Sequence[GroupUsage]]:
    """The groups that get a row each, and those that share one."""
    if len(groups) <= _ROWS:
        return groups, []
    worst = sorted(range(len(groups)), key=lambda index: groups[index].useful - groups[index].seconds)[: _ROWS - 2]
    shown = [group for index, group in enumerate(groups) if index in worst]
    return shown, [group for index, group in enumerate(groups) if index not in worst]


def _cells(groups: Sequence[GroupUsage]) -> dict[str, str]:
    """The cells of a row, by the titles of their columns: sums over the groups; without their names and hosts."""
    parts = (
        sum(group.start for group in groups),
        sum(group.benchmark for group in groups),
        sum(group.stop for group in groups),
        sum(group.other + group.running for group in groups),
        sum(group.idle for group in groups),
        sum(group.lost for group in groups),
    )
    evaluations = sum(group.evaluations for group in groups)
    durations = (figures.duration(part) if part else "-" for part in parts)
    return {
        "evals": str(evaluations),
        **dict(zip(_COLUMNS, durations, strict=True)),
        "busy": f"{busy_share(groups):.0%}",
    }


def _hosts(hosts: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(map(clean, hosts)))
    return ",".join(distinct) if len(distinct) <= 2 else f"{distinct[0]}+{len(distinct) - 1}"


def _speed(outcome: Outcome) -> Iterator[Text]:
    usage = outcome.usage
    if usage.speed_up is not None and _several_at_a_time(usage):
        useful = figures.duration(sum(group.useful for group in usage.groups))
        wall = figures.duration(usage.wall)
        yield Text(f"{useful} of evaluations in {wall}: {usage.speed_up:.2f} times as fast as one group")
    if (share := _benchmark_share(outcome)) < _SHORT:
        longer = "a longer one would cost little and vary less"
        yield Text(f"the benchmark takes {100 * share:.0f} % of the time of an evaluation: {longer}", "yellow")
    if (better := outcome.saving) is not None:
        yield Text(f"groups idled for {100 * usage.idle_share:.0f} % of their time: {better}", "yellow")


def _several_at_a_time(usage: Usage) -> bool:
    """Whether groups existed side by side; those of several sessions, or one in place of another, need not have."""
    return sum(group.seconds for group in usage.groups) > _ALONE * usage.wall


def _benchmark_share(outcome: Outcome) -> float:
    """The benchmark's share of the time of evaluations that have a result; 1 if these are quick, or none has."""
    every = [judged.evaluation for judged in outcome.evaluations]
    measured = [evaluation for evaluation in every if evaluation.good]
    seconds = sum(evaluation.seconds for evaluation in measured)
    if seconds <= _QUICK * len(measured):
        return 1.0
    return sum(evaluation.phases.get("measuring", evaluation.seconds) for evaluation in measured) / seconds


def _counts(outcome: Outcome) -> Iterator[Text]:
    searched = outcome.searched
    confirmations = len(outcome.evaluations) - len(searched)
    failed = sum(judged.failed for judged in searched)
    stopped = sum(judged.evaluation.stopped for judged in searched)
    infeasible = sum(not judged.feasible and not judged.failed for judged in searched) - stopped
    unjudged = sum(not judged.failed and judged.score is None for judged in searched)
    counted = [f"{len(searched)} {plural(len(searched), 'evaluation')}", f"{failed} failed", f"{infeasible} infeasible"]
    counted += [f"{stopped} stopped early"] if stopped else []
    counted += [f"{unjudged} not judged{'' if outcome.failure else ' yet'}"] if unjudged else []
    counted += [f"{confirmations} {plural(confirmations, 'confirmation')}"] if confirmations else []
    counted += [f"{retried} retried"] if (retried := sum(outcome.retries.values())) else []
    sessions = f", {outcome.usage.sessions} sessions" if outcome.usage.sessions > 1 else ""
    yield Text(f"{', '.join(counted)} in {figures.duration(outcome.usage.wall)}{sessions}")
    if outcome.cause:
        yield Text(f"ended because {_ENDS.get(outcome.cause, clean(outcome.cause))}")


def _faults(outcome: Outcome) -> Iterator[Text]:
    failed = (judged.evaluation for judged in outcome.evaluations if judged.failed)
    causes = alike((_cause(each.failure.cause), each.number) for each in failed if each.failure is not None)
    named = {f"{cause} ({_numbers(numbers)})": len(numbers) for cause, numbers in causes.items()}
    yield from _at_most(_counted(named, "failed"), "red")
    retries = alike((_cause(cause), count) for cause, count in outcome.retries.items())
    yield from _at_most(_counted({cause: sum(counts) for cause, counts in retries.items()}, "retried"), "yellow")
    yield from _at_most([_lost(loss) for loss in outcome.usage.losses], "red")
    quarantines = alike((_cause(quarantine.cause), quarantine) for quarantine in outcome.usage.quarantines)
    yield from _at_most([_quarantined(cause, several) for cause, several in quarantines.items()], "yellow")


def _cause(told: str) -> str:
    return unprefixed(clean(told))


def _at_most(lines: Sequence[str], style: str) -> Iterator[Text]:
    for line in lines[:_LINES]:
        yield Text(f"  {line}", style)
    if len(lines) > _LINES:
        yield Text(f"  and {len(lines) - _LINES} more of these; see the journal", style)


def _counted(causes: Mapping[str, int], what: str) -> list[str]:
    return [f"{count} {what}: {cause}" for cause, count in sorted(causes.items(), key=lambda pair: -pair[1])]


def _numbers(numbers: Sequence[int]) -> str:
    """The first numbers of evaluations, as in ``#3, #7, ...``."""
    first = [f"#{number}" for number in sorted(numbers)[:_NUMBERS]]
    return ", ".join([*first, "..."] if len(numbers) > _NUMBERS else first)


def _lost(loss: Loss) -> str:
    ranks = _named("rank", loss.ranks)
    hosts = f" on {', '.join(dict.fromkeys(map(clean, loss.hosts)))}" if loss.hosts else ""
    groups = f" with {_named('group', loss.groups)}" if loss.groups else ""
    return f"lost {ranks}{hosts}{groups}: {clean(loss.cause)}"


def _named(word: str, numbers: Sequence[int]) -> str:
    return f"{plural(len(numbers), word)} {', '.join(map(str, numbers))}".rstrip()


def _quarantined(cause: str, several: Sequence[Quarantine]) -> str:
    """A line that tells of all quarantines that had the same cause."""
    groups = _named("group", sorted({quarantine.group for quarantine in several}))
    seconds = figures.duration(sum(quarantine.seconds for quarantine in several))
    back = sum(quarantine.readmitted for quarantine in several)
    if len(several) == 1:
        return f"{groups} in quarantine for {seconds}, {'readmitted' if back else 'not readmitted'}: {cause}"
    return f"{groups} in quarantine {len(several)} times, for {seconds} in all, {back or 'never'} readmitted: {cause}"
