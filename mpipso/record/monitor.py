"""What an operator sees of a run while it lasts: a live display on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from mpipso.evaluation import BASELINE, Configuration, Evaluation
from mpipso.record import figures
from mpipso.record.lasting import Lasting
from mpipso.record.screen import Screen, terminal_size
from mpipso.wording import clean

_DRAW_CHANGED, _DRAW_CLOCKS = 0.25, 1.0
"""Seconds between two drawings after an event, and while only the clocks move."""
_HEARTBEAT = 30.0
"""Seconds without a line after which plain mode says that the run is alive."""
_FRAME = 6
"""Lines of the live display besides the rows of groups."""
PATIENCE = 2.0
"""Seconds that the end of a run waits for who reads its output."""
_PHASES = {"configuring": "cyan", "starting": "yellow", "measuring": "green", "stopping": "magenta"}


@dataclass
class _Row:
    """A service group and what it is doing; ``number``, of its evaluation, is None while it does nothing.

    ``more`` is what of ``detail`` has to be seen whole. ``out`` is ``lost`` or ``quarantine`` when it takes no part,
    else empty, and ``cause`` says why.
    """

    nodes: str
    number: int | None = None
    label: str = ""
    configuration: Configuration = field(default_factory=dict)
    phase: str = ""
    detail: str = ""
    more: str = ""
    since: float = 0.0
    out: str = ""
    cause: str = ""


class Monitor:
    """Shows the progress of a run; the root calls a method per event and :meth:`tick` from its main loop.

    Parameters
    ----------
    total:
        Evaluations to come, confirmations included.
    groups:
        The names of each service group's nodes, by group.
    stream:
        Where to write. An output that goes away (a closed pipe, a lost connection) does not end a run, and one that
        nobody reads (a stopped terminal) does not hold it up: until it is read again, nothing is drawn.
    screen:
        What it is shown on; a terminal is asked for its size at each drawing.
    clock:
        Monotonic seconds.

    Attributes
    ----------
    incumbent:
        Of the best configuration the number, what it has measured, in words, and itself; None without one.
    output:
        What is written to, by whoever else has something to say there as well.
    """

    def __init__(
        self,
        total: int,
        groups: Mapping[int, str],
        stream: TextIO,
        screen: Screen,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rows = {group: _Row(clean(nodes)) for group, nodes in sorted(groups.items())}
        self._clock = clock
        self._begun = self._drawn = self._spoken = clock()
        self.output = Lasting(stream)
        self._terminal = screen.terminal
        self._total = total
        self._baseline: Configuration | None = None
        self._deadline: float | None = None
        self.incumbent: tuple[int, str, Configuration] | None = None
        self._counts: Counter[str] = Counter()
        self._spent = 0.0
        self._summary_width = 0
        self._changed = True
        self._progress = Progress(
            MofNCompleteColumn(),
            BarColumn(None, complete_style="cyan", finished_style="green"),
            TextColumn("{task.description}"),
            expand=True,
            get_time=clock,
        )
        self._task = self._progress.add_task("")
        self._live: Live | None = None
        if screen.mode == "live":
            console = Console(file=self.output, force_terminal=True, highlight=False, emoji=False)
            console.size = screen.width, screen.height
            self._live = Live(
                get_renderable=lambda: self._display(console),
                console=console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )

    def started(self, *lines: str, baseline: Configuration | None = None, time_limit: float | None = None) -> None:
        """The run begins: print ``lines`` and start the clock. ``time_limit`` is in seconds."""
        self._baseline = baseline
        self._begun = self._clock()
        self.expect_end(time_limit)
        if self._live is not None:
            self._live.start()
        for line in lines:
            self._print(Text(clean(line)))

    def expect_end(self, seconds: float | None) -> None:
        """In how many seconds the search ends at the latest; None for no limit."""
        self._deadline = None if seconds is None else self._clock() + seconds

    def resumed(self, done: int, failed: int, seconds: float) -> None:
        """The run goes on: earlier sessions have ``done`` evaluations, of which some failed, in ``seconds`` altogether.

        Evaluations that are still to be judged are not among them: when they are, :meth:`evaluated` tells of them.
        """
        self._counts["done"] += done
        self._counts["failed"] += failed
        self._spent += seconds

    def expect(self, total: int) -> None:
        """The run has ``total`` evaluations from now on, those that are done included."""
        self._total = total
        self._changed = True

    def assigned(self, group: int, number: int, label: str, configuration: Configuration) -> None:
        """A group begins an evaluation."""
        row = self._rows[group]
        row.number, row.label, row.configuration = number, label, configuration
        row.phase, row.detail, row.more, row.since, row.out = "", "", "", self._clock(), ""
        self._changed = True

    def phase(self, group: int, text: str, detail: str = "") -> None:
        """A group enters a phase of its evaluation, such as ``starting``; ``detail`` is what that waits for.

        Its row may have no room for all of that; what follows on a second line gets lines of its own.
        """
        row = self._rows[group]
        row.phase, row.detail, row.more = clean(text), clean(detail), clean(detail.partition("\n")[2])
        self._changed = True

    def evaluated(self, evaluation: Evaluation, summary: str, best: bool, violations: Sequence[str] = ()) -> None:
        """An evaluation is over.

        Parameters
        ----------
        summary:
            The objective's metric and its gain, as :func:`mpipso.record.figures.score` writes it; unused for a failure.
        best:
            Whether it is the new incumbent.
        violations:
            The limits that it breaks, if any.
        """
        # The group may be one of an earlier session; and a late result must not clear what it has begun since.
        row = self._rows.get(evaluation.group)
        if row is not None and row.number == evaluation.number:
            row.number = None
        if self._baseline is None and evaluation.label == BASELINE:
            self._baseline = evaluation.configuration
        self._spent += evaluation.seconds
        self._counts["done"] += 1
        if evaluation.failure is not None:
            self._counts["failed"] += 1
            outcome = Text(f"failed: {clean(evaluation.failure.cause)}", "red")
        else:
            outcome = Text(clean(summary), "bold green" if best else "")
            if violations:
                self._counts["infeasible"] += 1
                outcome = Text(f"{outcome.plain}  infeasible: {clean('; '.join(violations))}", "yellow")
            if evaluation.stopped:
                self._counts["stopped"] += 1
                outcome = Text(f"{outcome.plain}  stopped early", "dim")
            self._summary_width = min(32, max(self._summary_width, len(clean(summary))))
        outcome.pad_right(self._summary_width - len(outcome))
        total = str(self._total)
        widest = len(f"#{self._total - 1}")  # numbers count from 0
        self._print(
            Text.assemble(
                f"{self._done:>{len(total)}}/{total} group {evaluation.group} {f'#{evaluation.number}':>{widest}} ",
                ("*" if best else " ", "bold green"),
                outcome,
                (f"  {self._named(evaluation.label, evaluation.configuration)}", "dim"),
            )
        )

    def retried(self, group: int, number: int, cause: str) -> None:
        """A group's evaluation failed for reasons outside its configuration and goes back to the queue."""
        row = self._rows[group]
        if row.number == number:
            row.number = None
        self._counts["retried"] += 1
        self._print(Text(f"group {group}  #{number} will be tried again: {clean(cause)}", "yellow"))

    def lost(self, group: int, cause: str) -> None:
        """A group takes no more evaluations, until its next :meth:`assigned`."""
        self._take_out(group, "lost", cause)
        self._print(Text(f"group {group}  lost: {clean(cause)}", "bold red"))

    def quarantined(self, group: int, cause: str, pause: float) -> None:
        """A group takes no part for ``pause`` seconds, after which it has to show that it works."""
        self._take_out(group, "quarantine", cause)
        self._print(Text(f"group {group}  in quarantine for {figures.duration(pause)}: {clean(cause)}", "bold red"))

    def readmitted(self, group: int) -> None:
        """A group in quarantine takes part again."""
        self._rows[group].out = ""
        self._print(Text(f"group {group}  takes part again", "yellow"))

    def _take_out(self, group: int, how: str, cause: str) -> None:
        row = self._rows[group]
        row.number, row.out, row.cause = None, how, clean(cause)

    def formed(self, group: int, nodes: str) -> None:
        """A new group, in the place of one that was lost."""
        self._rows[group] = _Row(clean(nodes))
        self._print(Text(f"group {group}  formed of {clean(nodes)}", "yellow"))

    def note(self, text: str) -> None:
        """Print a line with the time that the run has taken so far."""
        self._print(Text(clean(text)))

    def tick(self) -> None:
        """Draw what has changed, at most four times a second; cheap enough for any main loop."""
        now = self._clock()
        if self.output.behind:
            return
        if self._live is None:
            if now - self._spoken >= _HEARTBEAT:
                self._print(Text(self._heartbeat(now)))
        elif now - self._drawn >= (_DRAW_CHANGED if self._changed else _DRAW_CLOCKS):
            self._draw()

    def stop(self) -> None:
        """Remove the live display, if there is one; may be called again. Who reads is waited for, but not for long."""
        if self._live is not None:
            self._live.stop()
        self.output.drain(PATIENCE)

    @property
    def _done(self) -> int:
        return self._counts["done"]

    def _changes(self, configuration: Configuration) -> str:
        return clean(figures.settings(figures.changes(configuration, self._baseline))) or BASELINE

    def _named(self, label: str, configuration: Configuration) -> str:
        changes = self._changes(configuration)
        return changes if label in ("", changes) else f"{label} {changes}"

    def _print(self, line: Text) -> None:
        now = self._clock()
        self._spoken = now
        self._changed = True
        stamped = Text.assemble((f"[{_stamp(now - self._begun)}] ", "dim"), line)
        if self._live is None:
            self.output.write(stamped.plain.rstrip() + "\n")
        else:
            self._fit()
            self._live.console.print(stamped)

    def _draw(self) -> None:
        if self._live is not None:
            self._fit()
            self._live.refresh()

    def _fit(self) -> None:
        if self._live is not None and self._terminal and (size := terminal_size(self._terminal)):
            self._live.console.size = size

    def _remaining(self, now: float) -> float | None:
        """Seconds to the end: the mean evaluation, over the groups that work, less what is already under way."""
        if not self._done:
            return None
        mean = self._spent / self._done
        running = [now - row.since for row in self._rows.values() if row.number is not None]
        working = sum(not row.out for row in self._rows.values())
        queued = max(0, self._total - self._done - len(running))
        left = [max(0.0, mean - spent) for spent in running]
        remaining = (queued * mean + sum(left)) / max(1, min(working, queued + len(running)))
        # After the deadline nothing is started, and what is under way comes to its end.
        return remaining if self._deadline is None else min(remaining, max(0.0, self._deadline - now, *left))

    def _eta(self, now: float) -> str:
        remaining = self._remaining(now)
        return "ETA -" if remaining is None else f"ETA {figures.duration(remaining)}"

    def _heartbeat(self, now: float) -> str:
        busy = [(group, row) for group, row in self._rows.items() if row.number is not None]
        if len(busy) <= 4:
            doing = ", ".join(
                f"group {group} #{row.number} {row.phase or 'assigned'} {figures.duration(now - row.since)}"
                + (f" ({row.detail})" if row.detail else "")
                for group, row in busy
            )
        else:
            phases = Counter(row.phase or "assigned" for _, row in busy)
            doing = ", ".join(f"{count} groups {phase}" for phase, count in phases.most_common())
        return f"{self._done}/{self._total} {doing or 'no group is busy'}; {self._eta(now)}"

    def _display(self, console: Console) -> RenderableType:
        now = self._clock()
        self._drawn, self._changed = now, False
        status = Text.assemble((figures.duration(now - self._begun), "cyan"), "  ", self._eta(now))
        for what, style in (("failed", "red"), ("infeasible", "yellow"), ("stopped", "dim"), ("retried", "yellow")):
            if self._counts[what]:
                status.append(f"  {self._counts[what]} {what}", style)
        self._progress.update(self._task, completed=self._done, total=self._total, description=status.markup)
        return Group(Rule(style="dim"), self._progress, self._groups(now, console), *self._more(console), self._best())

    def _groups(self, now: float, console: Console) -> Table:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, expand=True, padding=(0, 1, 0, 0), header_style="dim")
        table.add_column("group", justify="right", no_wrap=True)
        table.add_column("nodes", no_wrap=True, max_width=min(24, console.width // 5), overflow="ellipsis")
        table.add_column("#", justify="right", no_wrap=True)
        table.add_column("evaluates", ratio=1, no_wrap=True, overflow="ellipsis")
        table.add_column("phase", no_wrap=True, min_width=10)
        table.add_column("time", justify="right", no_wrap=True, min_width=6)
        room = max(1, console.height - _FRAME)
        shown = len(self._rows) if len(self._rows) <= room else room - 1
        for group, row in list(self._rows.items())[:shown]:
            table.add_row(str(group), row.nodes, *_cells(row, self._changes(row.configuration), now))
        if hidden := list(self._rows.values())[shown:]:
            busy = sum(row.number is not None for row in hidden)
            out = sum(bool(row.out) for row in hidden)
            table.add_row(
                "", Text(f"+ {len(hidden)} groups", "dim"), "", Text(f"{busy} busy, {out} lost or in quarantine", "dim")
            )
        return table

    def _more(self, console: Console) -> Iterator[Text]:
        """What has to be seen whole of the groups that are shown, as far as the terminal has lines for it."""
        room = console.height - _FRAME - len(self._rows)
        for group, row in self._rows.items():
            if row.number is not None and row.more:
                text = Text(f"group {group}: {row.more}", "dim", overflow="fold")
                room -= len(text.wrap(console, console.width))
                if room < 0:
                    return
                yield text

    def _best(self) -> Text:
        if self.incumbent is None:
            return Text("best   none yet", "dim")
        number, summary, configuration = self.incumbent
        told = (clean(summary), "bold green")
        line = Text.assemble(("best", "bold green"), f"   #{number}  ", told, f"  {self._changes(configuration)}")
        line.no_wrap, line.overflow = True, "ellipsis"
        return line


def _cells(row: _Row, changes: str, now: float) -> tuple[RenderableType, ...]:
    if row.out:
        return "", Text(row.cause, "red"), Text(row.out, "bold red"), ""
    if row.number is None:
        return "", "", Text("idle", "dim"), ""
    what = Text.assemble((f"{row.label} ", "bold"), changes) if row.label not in ("", changes) else Text(changes)
    if row.detail:
        what.append(f"  {row.detail.removesuffix(row.more).rstrip('; ')}", "dim")
    phase = Text(row.phase, _PHASES.get(row.phase, ""))
    return str(row.number), what, phase, figures.duration(now - row.since)


def _stamp(seconds: float) -> str:
    """Five characters, for lines that align through the night."""
    whole = int(seconds)
    return f"{whole:4d}s" if whole < 10_000 else f"{whole // 3600}h{whole % 3600 // 60:02d}".rjust(5)
