"""What the root keeps and shows of a run: journal, folder, progress, the best so far, the summary."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tomli_w
from rich.console import Console

import mpipso
from mpipso.cluster.plan import Plan
from mpipso.cluster.world import World
from mpipso.config import Config
from mpipso.errors import FINISHED, NOTHING_FEASIBLE, Alone, RunFailed, print_error
from mpipso.farewell import dismiss
from mpipso.launched import COMMAND, RESTARTS, batch_system, restarts
from mpipso.manual import manual_start
from mpipso.notes import differing_environments, end_note, environment_note, notes, regrouping_note
from mpipso.record.folders import BEAT_FILE, RunFolder
from mpipso.record.journal import Journal
from mpipso.record.lasting import Lasting
from mpipso.record.monitor import PATIENCE, Monitor
from mpipso.record.outcome import read_outcome
from mpipso.record.report import summary
from mpipso.record.usage import BEGINNINGS, ENDINGS, usage
from mpipso.rendezvous import RankContext
from mpipso.root import Root
from mpipso.search import strategies
from mpipso.signals import Interrupts, describe
from mpipso.startup import Options, earlier_results, well_defined
from mpipso.terminal import pick_mode
from mpipso.timelimits import TimeLimits, nothing_left
from mpipso.tuning import Tuning
from mpipso.wording import counted, ranges
from mpipso.worth import worth

_SHORTEST_KEY = 8
"""Characters of a key from which on it is hidden wherever the record has them."""


class RunRecord:
    """What the root keeps and shows of a run; made once everything is known to be well, before anything starts.

    Raises
    ------
    UserError
        The output folder cannot be written, there is nothing to propose or to learn from, or another process is still
        writing the run that is to go on. Nothing is written then.
    """

    def __init__(self, config: Config, plan: Plan, options: Options, world: World) -> None:
        self._config = config
        self._plan = plan
        self._world = world
        self._screen = pick_mode(options.progress, sys.stdout)
        self._resumes = options.resume is not None
        self._lived = 0.0
        self._space = well_defined(config)
        # Both refuse what cannot be searched, and of a run that is refused nothing is left.
        self._strategy = strategies.create(config.search, self._space, in_flight=self._in_flight())
        self._earlier = earlier_results(options, config, self._space)
        if options.resume is not None:
            self._folder = RunFolder.open(options.resume)
            lived = self._folder.lived()
            self._journal = Journal.open(self._folder.path, self._folder.redactor)
            # Of a session that ended in good order, the last event was its end.
            self._lived = 0.0 if self._journal.past[-1]["event"] in ENDINGS else lived
        else:
            self._folder = RunFolder.create(Path(config.output), options.name)
            self._journal = Journal.create(self._folder.path, self._folder.redactor)
        self._past = self._journal.past
        key = os.environ.get(config.benchmark.api_key_env, "")
        # A key that is a word, as for a server that asks for none, would be hidden wherever the record has that word.
        if any(map(str.isdigit, key)) and len(key) >= _SHORTEST_KEY:
            self._folder.redactor.learn({"api_key": key})
        self._folder.redactor.spare(text for p in config.parameters for text in p.choices if isinstance(text, str))
        self._folder.redactor.spare(config.objective.derived.values())

    def keep(self, context: RankContext, interrupts: Interrupts) -> int:
        """Go through rank 0's whole run, from the journal's first line to the summary; returns the exit code."""
        groups = {index: group.hosts for index, group in enumerate(self._plan.groups)}
        hosts, names = differing_environments(self._config, context.differing)
        environments = [environment_note(hosts, names)] if hosts else []
        monitor = Monitor(self._config.search.evaluations, groups, sys.stdout, self._screen)
        failure: RunFailed | None = None
        root: Root | None = None
        begun = self._resumes  # a journal without its first event is none
        with self._journal as journal:
            try:
                placed = self._placed()
                more: dict[str, Any] = {"differing": {"hosts": hosts, "names": names}} if hosts else {}
                self._write_start(journal, placed, more | ({"lived": self._lived} if self._lived else {}))
                begun = True
                tuning = self._tuning(journal, monitor)
                limit, used = self._config.search.time_limit, usage(self._past).wall + self._lived
                limits = TimeLimits(limit, used, os.environ)
                monitor.started(*self._headlines(), baseline=self._space.baseline, time_limit=limits.seconds)
                times = [line for line in (nothing_left(limit, used), end_note(limits.end)) if line]
                for line in (*notes(self._config, self._plan), *environments, *self._regrouped(placed), *times):
                    monitor.note(f"note: {line}")
                beat = self._folder.path / BEAT_FILE
                root = Root(context, tuning, journal, monitor, interrupts, limits, beat=beat)
                root.run()
                code = write_end(journal, tuning, None if root.complete else interrupts.received)
            except RunFailed as error:
                failure = _why(journal, error)
                code = failure.exit_code
                if begun and not _is_for_launcher(failure):
                    with contextlib.suppress(RunFailed):  # the journal may be what has failed
                        journal.write("failed", cause=str(failure))
            finally:
                monitor.stop()
            told = begun and not (failure is not None and _is_for_launcher(failure))
            folder = journal.folder if told else None
        self._tell(monitor.output, folder, failure, [*environments, *self._silent(root)])
        if root is None:
            dismiss(context)
        elif root.abandoned:
            self._world.abort(code)
        return code

    def _in_flight(self) -> int:
        """How many proposals are typically out at once."""
        search = self._config.search
        return len(self._plan.groups) if search.schedule == "async" else search.batch

    def _tuning(self, journal: Journal, monitor: Monitor) -> Tuning:
        publish = partial(manual_start, self._config, self._plan.groups[0], self._folder.path)
        tuning = Tuning(
            self._config,
            self._space,
            self._strategy,
            self._folder,
            journal,
            monitor,
            publish,
            self._past,
        )
        for earlier in self._earlier:
            tuning.learn(earlier)
        return tuning

    def _silent(self, root: Root | None) -> list[str]:
        """A note if ranks do not answer for which a launcher waits that nobody but the user can end."""
        if root is None or not root.silent or not self._world.tolerant or RESTARTS in os.environ:
            return []
        return [f"no answer from {root.silent}: mpirun may go on waiting, and can be ended by hand; the run is over"]

    def _tell(
        self, output: Lasting, folder: Path | None, failure: RunFailed | None, reservations: Sequence[str]
    ) -> None:
        """The summary of the run whose journal is in ``folder``, if there is one; and why the run has failed."""
        live = self._screen.mode == "live"
        width = self._screen.width if live else 100
        # At a terminal NO_COLOR decides.
        no_color = None if live else True
        console = Console(file=output, width=width, force_terminal=live, no_color=no_color, highlight=False)
        if folder is not None:
            outcome = read_outcome(folder, failure=str(failure or ""))
            console.print(summary(outcome, worth(outcome)), crop=False)
        for line in reservations:
            console.print(f"note: {line}", style="yellow", soft_wrap=True, markup=False)
        output.drain(PATIENCE)
        if failure is not None:
            errors = Lasting(sys.stderr)
            print_error(failure, errors)
            errors.drain(PATIENCE)

    def _placed(self) -> dict[str, Any]:
        """The plan as the journal has it."""
        return {
            "groups": [
                {"group": i, "hosts": [n.host for n in g.nodes], "cores": [list(n.cores) for n in g.nodes]}
                for i, g in enumerate(self._plan.groups)
            ],
            "spares": [spare.node.host for spare in self._plan.spares],
        }

    def _regrouped(self, placed: Mapping[str, Any]) -> list[str]:
        """A note if the groups of the session before this one had other shapes."""
        earlier = [event.get("plan", {}) for event in self._past if event["event"] in BEGINNINGS]
        note = regrouping_note(earlier[-1], placed) if earlier else None
        return [note] if note else []

    def _write_start(self, journal: Journal, plan: Mapping[str, Any], more: Mapping[str, Any]) -> None:
        tables = self._config.model_dump(exclude_none=True, exclude_defaults=True)
        if (file := self._config.service.config_file) is not None:
            tree, redactor = file.plain(), self._folder.redactor
            redactor.learn(tree)
            hidden = redactor.settings(tree) if file.format == "text" else redactor.data(tree)
            if hidden != tree:
                tables["service"]["config_file"]["content"] = file.written(hidden)
        text = tomli_w.dumps(tables)
        more = {"cwd": str(Path.cwd()), **more}
        if system := batch_system():
            more = {"system": system, **more}
        if command := os.environ.get(COMMAND):
            more = {"command": self._folder.redactor.line(command), **more}
        if self._resumes:
            journal.write("resumed", version=mpipso.__version__, config=text, plan=plan, **more)
            return
        journal.write(
            "started",
            version=mpipso.__version__,
            config=text,
            seed=self._config.search.seed,
            objective=self._config.objective.metric,
            plan=plan,
            **more,
        )

    def _headlines(self) -> list[str]:
        plan, search = self._plan, self._config.search
        of_kind = {"generation": f"{search.batch} particles per iteration", "window": f"window {search.batch}"}
        schedule = of_kind.get(search.schedule, search.schedule)
        size = f"{counted(self._world.size, 'rank')}, {counted(len(plan.groups), 'service group')}"
        lines = [
            f"mpipso {mpipso.__version__}: {size}, {self._world.library}",
            f"up to {search.evaluations} evaluations, {schedule}, {search.strategy}, seed {search.seed}; "
            f"results in {self._folder.path}" + (" (resumed)" if self._resumes else ""),
            self._protection(),
        ]
        for index, group in enumerate(plan.groups):
            shares = "; ".join(
                f"{node.host}: {f'rank {node.rank}' if node.rank >= 0 else 'over ssh'}, cores {ranges(node.cores)}"
                + (f", devices {ranges(node.devices)}" if node.devices else "")
                for node in group.nodes
            )
            lines.append(f"group {index}: {shares}")
        return lines + [f"spare: rank {spare.node.rank} on {spare.node.host} ({spare.reason})" for spare in plan.spares]

    def _protection(self) -> str:
        """What happens when something is lost, in a line."""
        lease = f"leases of {self._config.parallel.lease:g} s"
        dead = "a dead rank is survived (ULFM)" if self._world.tolerant else "a dead rank ends the job (no ULFM)"
        if most := restarts():
            supervisor = f"the launcher restarts a broken job, {most} times at most"
        else:
            supervisor = "a broken job is not restarted (mpipso launch would)"
        return f"protection: {lease}; {dead}; {supervisor}"


def _is_for_launcher(failure: RunFailed) -> bool:
    """Whether this is not the end of the run: the launcher finds out which hosts are there, and goes on with them."""
    return isinstance(failure, Alone) and restarts() > 0


def _why(journal: Journal, error: RunFailed) -> RunFailed:
    """Why a run cannot go on: its folder is gone, which explains any other error, or else ``error``."""
    try:
        journal.check_place()
    except RunFailed as moved:
        return moved
    return error


def write_end(journal: Journal, tuning: Tuning, interrupted: int | None) -> int:
    """The journal's last line, of a run that has not failed; returns the exit code."""
    if interrupted is not None:
        journal.write("interrupted", signal=describe(interrupted))
        return 128 + interrupted
    journal.check_place()
    # Of a run that was not interrupted, it is for want of time.
    cut = {"race_cut": True} if tuning.lacks_race else {}
    feasible = tuning.conclude()
    evaluations = len(tuning.trials.searched)
    end = {"incumbent": tuning.incumbent, "evaluations": evaluations, "feasible": feasible, "cause": tuning.cause}
    journal.write("finished", **end, **cut)
    return FINISHED if feasible else NOTHING_FEASIBLE
