"""One run: start-up, this rank's role, and the end of it."""

from __future__ import annotations

import hashlib
import json
import sys
import traceback
from pathlib import Path
from typing import Literal, cast

import tomli_w
from rich.console import Console

import mpipso
from mpipso import roles
from mpipso.cluster.plan import Plan, ranges
from mpipso.cluster.world import MpiWorld, World
from mpipso.config import Config
from mpipso.errors import MpipsoError, RunFailed, UserError, print_error
from mpipso.evaluation import Configuration
from mpipso.record.folders import RunFolder, replace
from mpipso.record.journal import Journal
from mpipso.record.monitor import Monitor
from mpipso.record.recipe import Start
from mpipso.record.report import Outcome, summary
from mpipso.record.screen import pick_mode
from mpipso.service.engines.base import ENGINES, Layout
from mpipso.signals import Interrupts, describe, die_with_launcher
from mpipso.startup import Crew, Options, prepare
from mpipso.tuning import Tuning

NOTHING_FOUND = 1
"""Exit code of a run in which no configuration was measured within the limits."""
DEFAULT_PORT = 8080
"""The port in ``best.sh`` when the configuration leaves it open."""


def tune(options: Options) -> int:
    """Take part in a run, as the rank that this process is; returns its exit code."""
    die_with_launcher()
    with Interrupts() as interrupts:
        world = MpiWorld()
        try:
            code = _take_part(world, options, interrupts)
        except MpipsoError as error:
            print_error(error)
            world.abort(error.exit_code)
            raise
        except Exception:  # the other ranks would wait for this one for ever
            traceback.print_exc()
            sys.stderr.flush()
            world.abort(1)
            raise
        world.leave(last=code != 0)
        return code


def _take_part(world: World, options: Options, interrupts: Interrupts) -> int:
    books: list[Books] = []
    try:
        crew = prepare(world, options, lambda config, plan: books.append(Books(config, plan, options, world)))
    except UserError as error:
        if world.rank == 0:
            print_error(error)
        return error.exit_code if world.rank == 0 else 0
    if crew.index is None:
        roles.spare(crew, interrupts)
    elif crew.seat != 0:
        roles.member(crew, interrupts)
    elif world.rank != 0:
        roles.leader(crew, interrupts)
    else:
        return books[0].keep(crew, interrupts)
    return 0


class Books:
    """What the root keeps and shows of a run; made once everything is known to be well, before anything starts.

    Raises
    ------
    UserError
        The output folder cannot be written.
    """

    def __init__(self, config: Config, plan: Plan, options: Options, world: World) -> None:
        self._config = config
        self._plan = plan
        self._world = world
        mode = cast('Literal["auto", "live", "plain"]', options.progress)
        self._screen = pick_mode(mode, sys.stdout)
        self._folder = RunFolder.create(Path(config.output))
        self._journal = Journal.create(self._folder.path, self._folder.redactor)

    def keep(self, crew: Crew, interrupts: Interrupts) -> int:
        """Rank 0's whole run, from the journal's first line to the summary; returns the exit code."""
        config, plan = self._config, self._plan
        groups = {index: group.hosts for index, group in enumerate(plan.groups)}
        total = config.search.evaluations
        mode, width, height, terminal = self._screen
        monitor = Monitor(total, groups, sys.stdout, mode=mode, width=width, height=height, terminal=terminal)
        with self._journal as journal:
            self._write_start(journal)
            tuning = Tuning(config, self._folder, journal, monitor, self._publish)
            monitor.started(*self._headlines(), baseline=tuning.baseline, time_limit=config.search.time_limit)
            failure: RunFailed | None = None
            root = roles.Root(crew, tuning, monitor, interrupts)
            try:
                root.run()
            except RunFailed as error:
                failure = error
            finally:
                monitor.stop()
            ended = "" if failure is None else "not finished"
            if interrupts.received is not None:
                ended = f"interrupted by {describe(interrupts.received)}"
            outcome = tuning.outcome(ended)
            try:
                self._write_end(journal, outcome, interrupts)
            except RunFailed as error:
                failure = failure or error
        live = mode == "live"
        console = Console(width=width if live else 100, force_terminal=live, no_color=not live, highlight=False)
        console.print(summary(outcome))
        if failure is not None:
            print_error(failure)
            return failure.exit_code
        if interrupts.received is not None:
            if root.abandoned:
                sys.stdout.flush()
                self._world.abort(128 + interrupts.received)
            return 128 + interrupts.received
        return 0 if outcome.incumbent is not None else NOTHING_FOUND

    def _write_end(self, journal: Journal, outcome: Outcome, interrupts: Interrupts) -> None:
        if interrupts.received is not None:
            journal.write("interrupted", signal=describe(interrupts.received))
        elif not outcome.ended:
            journal.write("finished", incumbent=outcome.incumbent, evaluations=len(outcome.evaluations))

    def _write_start(self, journal: Journal) -> None:
        text = tomli_w.dumps(self._config.model_dump(exclude_none=True, exclude_defaults=True))
        journal.write(
            "started",
            version=mpipso.__version__,
            config=text,
            sha256=hashlib.sha256(text.encode()).hexdigest(),
            seed=self._config.search.seed,
            objective=self._config.objective.metric,
            plan={
                "groups": [
                    {"group": i, "hosts": [n.host for n in g.nodes], "cores": [list(n.cores) for n in g.nodes]}
                    for i, g in enumerate(self._plan.groups)
                ],
                "spares": [spare.host for spare in self._plan.spares],
            },
        )

    def _headlines(self) -> list[str]:
        plan, search = self._plan, self._config.search
        lines = [
            f"mpipso {mpipso.__version__}: {self._world.size} ranks, {len(plan.groups)} service groups, "
            f"{self._world.library}",
            f"up to {search.evaluations} evaluations, {search.particles} particles per iteration, seed {search.seed}; "
            f"results in {self._folder.path}",
        ]
        for index, group in enumerate(plan.groups):
            shares = "; ".join(
                f"{node.host}: {f'rank {node.rank}' if node.rank >= 0 else 'over ssh'}, cores {ranges(node.cores)}"
                + (f", devices {ranges(node.devices)}" if node.devices else "")
                for node in group.nodes
            )
            lines.append(f"group {index}: {shares}")
        return lines + [f"spare: rank {spare.rank} on {spare.host} ({spare.reason})" for spare in plan.spares]

    def _publish(self, configuration: Configuration) -> list[Start]:
        """The commands that start the service by hand, as group 0 would; its configuration file is written for them."""
        config, group = self._config, self._plan.groups[0]
        engine = ENGINES.create(config.service.engine)
        file = config.service.config_file
        name = f"best-config.{file.format if file is not None else 'json'}"
        content = engine.file(config, configuration) or json.dumps(dict(configuration), indent=2).encode()
        replace(self._folder.path / name, content.decode())
        layout = Layout(
            addresses=tuple(node.address for node in group.nodes),
            master=group.master_node_index,
            port=config.service.port or DEFAULT_PORT,
            master_port=(config.service.port or DEFAULT_PORT) + 1000,
            work_dirs=tuple(str(self._folder.path.resolve()) for _ in group.nodes),
            config_name=name,
            devices=tuple(node.devices for node in group.nodes),
            cores=tuple(node.cores for node in group.nodes),
        )
        return [
            Start(group.nodes[start.node].host, start.command, {**group.nodes[start.node].visibility, **start.env})
            for start in engine.starts(config, configuration, layout)
        ]
