"""How busy four groups are under each schedule, beside mpi4py.futures and plain scatter/gather; and what that is worth.

    python tests/benchmarks/schedules.py [LANDSCAPES] [--seeds N] [--mean SECONDS]

Every program is given the same 64 durations, which are slept: log-normal with a mean of ``--mean`` seconds, so that a
table takes minutes. As an evaluation takes minutes in earnest, the nap between two looks at MPI is shortened with it:
15 ms of an evaluation of 0.3 s would be a loss that no run knows. The overhead of an evaluation and the CPU of a
waiting rank are measured with the real nap.

Two more tables are computed on a virtual clock, with the real dispatcher, tuning and strategy: the time, in mean
evaluations, until a configuration within 5 % of the best was measured, on tables of measured systems. It starts
``mpirun`` itself.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import heapq
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "tests"), str(CHECKOUT / "tests" / "benchmarks")]

from mpipso.cluster import world as mpi  # noqa: E402
from mpipso.cluster.dispatch import Assigned, Dispatcher, Evaluated  # noqa: E402
from mpipso.cluster.health import ServiceGroupHealthMonitor  # noqa: E402
from mpipso.config import ScheduleKind  # noqa: E402
from mpipso.evaluation import Assignment, Evaluation, Failure  # noqa: E402
from mpipso.search.schedule import Schedule  # noqa: E402

GROUPS = 4
EVALUATIONS = 64
SIGMAS = (0.3, 0.8, 1.2)
NAP = 0.002
"""Seconds between two looks at MPI while durations are scaled down."""
DRAWS = 200
NOOPS = 400
WAIT = 4.0
"""Seconds for which ranks wait while their CPU is measured."""
TARGETS = {"generation 16, longest first": 0.90, "window 12, longest first": 0.90, "async": 0.94}

OURS: Sequence[tuple[str, ScheduleKind, int, float | None]] = (
    ("generation 16, queue order", "generation", 16, None),
    ("generation 16, longest first", "generation", 16, 0.0),
    ("generation 16, longest first, 30 % error", "generation", 16, 0.3),
    ("generation 8, longest first, 30 % error", "generation", 8, 0.3),
    ("window 6, longest first, 30 % error", "window", 6, 0.3),
    ("window 8", "window", 8, None),
    ("window 12", "window", 12, None),
    ("window 12, longest first", "window", 12, 0.0),
    ("window 12, longest first, 30 % error", "window", 12, 0.3),
    ("async", "async", 1, None),
)
"""name, schedule, error of the predicted durations (None: queue order)"""


def durations(sigma: float, mean: float, draw: int) -> list[float]:
    """64 of them, whose mean is ``mean`` exactly."""
    drawn = np.random.default_rng(draw).lognormal(0.0, sigma, EVALUATIONS)
    return [float(value) for value in drawn * mean / drawn.mean()]


def predicted(lengths: Sequence[float], error: float) -> list[float]:
    noise = np.random.default_rng(7).lognormal(0.0, error, len(lengths)) if error else np.ones(len(lengths))
    return [float(value) for value in np.array(lengths) * noise]


class Proposals:
    """What a search would submit when: the rule of the schedule alone."""

    def __init__(self, kind: ScheduleKind, size: int, count: int, order: Sequence[float] | None) -> None:
        self._schedule = Schedule(kind, size)
        self._count = count
        self._order = order
        self._asked = 0
        self._done: set[int] = set()

    def done(self, number: int) -> None:
        self._done.add(number)

    def due(self, idle: int) -> list[Assignment]:
        new: list[int] = []
        while self._asked < self._count:
            sees = self._schedule.sees(self._asked)
            if sees is None:
                together = idle - len(new)
                if together <= 0:
                    break
            elif not self._done.issuperset(range(sees)):
                break
            else:
                together = self._schedule.together(self._asked)
            last = min(self._count, self._asked + together)
            new += range(self._asked, last)
            self._asked = last
        order = self._order
        if order is not None and self._schedule.kind == "generation":
            new.sort(key=lambda number: -order[number])
        return [Assignment(number, 1, {}, "", 0.0 if order is None else order[number]) for number in new]


def computed(lengths: Sequence[float], kind: ScheduleKind, size: int, error: float | None) -> float:
    """The busy share if nothing but the evaluations took time."""
    proposals = Proposals(kind, size, len(lengths), None if error is None else predicted(lengths, error))
    queue: list[Assignment] = []
    running: list[tuple[float, int]] = []
    now, count = 0.0, 0
    while count < len(lengths):
        queue += proposals.due(max(0, GROUPS - len(running) - len(queue)))
        while queue and len(running) < GROUPS:
            at = 0
            if kind == "window":
                oldest = min(queue[0].number, *(number for _, number in running), *(each.number for each in queue))
                at = min(range(len(queue)), key=lambda i: (queue[i].number != oldest, -queue[i].seconds))
            number = queue.pop(at).number
            heapq.heappush(running, (now + lengths[number], number))
        now, number = heapq.heappop(running)
        proposals.done(number)
        count += 1
    return sum(lengths) / GROUPS / now


def typical(sigma: float) -> tuple[int, list[float]]:
    """Of many draws of durations the one whose computed shares are nearest to the mean of all, and that mean."""
    shares = np.array(
        [
            [computed(durations(sigma, 1.0, draw), kind, size, error) for _, kind, size, error in OURS]
            for draw in range(DRAWS)
        ]
    )
    mean = shares.mean(axis=0)
    return int(np.abs(shares - mean).max(axis=1).argmin()), [float(share) for share in mean]


# Programs under mpirun; rank 0 prints a line of JSON.


def ours(
    lengths: Sequence[float], kind: ScheduleKind, size: int, error: float | None, nap: float, wait: float
) -> dict[str, Any]:
    mpi.NAP = nap
    world = mpi.MpiWorld()
    channel = world.channel()
    done: dict[str, Any] = {}

    def evaluate(assignment: Assignment) -> None:
        time.sleep(lengths[assignment.number])
        channel.post(0, Evaluation(assignment.number, assignment.attempt, world.rank, {}))

    def hear(message: object) -> bool:
        if isinstance(message, Assignment):
            threading.Thread(target=evaluate, args=(message,)).start()
        return message == "end"

    if world.rank == 0:
        health = ServiceGroupHealthMonitor(after=100, pause=1.0)
        dispatcher = Dispatcher(channel.post, health, retries=0, rolling=kind == "window")
        for group in range(world.size):
            dispatcher.join(group)
        proposals = Proposals(kind, size, len(lengths), None if error is None else predicted(lengths, error))
        begun, count = time.monotonic(), 0
        while count < len(lengths):
            dispatcher.submit(proposals.due(dispatcher.idle(time.monotonic())))
            dispatcher.step(time.monotonic())
            for _, message in channel.take():
                if isinstance(message, Evaluation):
                    for event in dispatcher.take(message.group, message, time.monotonic()):
                        if isinstance(event, Evaluated):
                            proposals.done(event.evaluation.number)
                            count += 1
                else:
                    hear(message)
            dispatcher.submit(proposals.due(dispatcher.idle(time.monotonic())))
            dispatcher.step(time.monotonic())
            world.nap()
        done["wall"] = time.monotonic() - begun
        for rank in range(1, world.size):
            channel.post(rank, "end")
    over = world.rank == 0
    while not (over and channel.idle):
        for _, message in channel.take():
            over = hear(message) or over
        world.nap()
    used, begun = time.process_time(), time.monotonic()
    while time.monotonic() - begun < wait:
        channel.take()
        world.nap()
    share = (time.process_time() - used) / max(time.monotonic() - begun, 1e-9)
    shares = world.gather(share)
    world.leave(0)
    return {**done, "waiting": statistics.median(shares[1:])} if world.rank == 0 else {}


def waves(lengths: Sequence[float], wait: float) -> dict[str, Any]:
    """Scatter one evaluation to each rank, gather the results, again and again."""
    from mpi4py import MPI

    comm: Any = MPI.COMM_WORLD
    begun = time.monotonic()
    for first in range(0, len(lengths), comm.size):
        time.sleep(comm.scatter(list(lengths[first : first + comm.size]) if comm.rank == 0 else None))
        comm.gather(comm.rank)
    wall = time.monotonic() - begun
    used, begun = time.process_time(), time.monotonic()
    if comm.rank == 0:
        time.sleep(wait)
    comm.bcast(None)
    shares = comm.gather((time.process_time() - used) / (time.monotonic() - begun))
    return {"wall": wall, "waiting": statistics.median(shares[1:])} if comm.rank == 0 else {}


def cpu(_: int) -> tuple[int, float, float]:
    time.sleep(0.3)
    return os.getpid(), time.process_time(), time.monotonic()


def futures(lengths: Sequence[float], size: int, wait: float) -> dict[str, Any]:
    """``mpi4py.futures``, whose master does not evaluate: it is given a rank more."""
    from mpi4py import MPI
    from mpi4py.futures import MPICommExecutor

    entered: Any = MPICommExecutor(MPI.COMM_WORLD, root=0)
    with entered as executor:
        if executor is None:
            return {}
        list(executor.map(time.sleep, [0.05] * GROUPS))
        begun = time.monotonic()
        for first in range(0, len(lengths), size):
            list(executor.map(time.sleep, lengths[first : first + size]))
        wall = time.monotonic() - begun
        before = {pid: (used, at) for pid, used, at in executor.map(cpu, range(GROUPS))}
        time.sleep(wait)
        shares = [
            (used - before[pid][0]) / (at - before[pid][1])
            for pid, used, at in executor.map(cpu, range(GROUPS))
            if pid in before
        ]
        return {"wall": wall, "waiting": statistics.median(shares)}


ROLES: dict[str, Callable[..., dict[str, Any]]] = {"ours": ours, "waves": waves, "futures": futures}


def under_mpi(role: str, ranks: int, *arguments: Any) -> dict[str, Any]:
    from bed.launchers import LAUNCHERS

    launcher = next(launcher for launcher in LAUNCHERS if launcher.available() is None)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(arguments, file)
        file.flush()
        words = [sys.executable, str(Path(__file__).resolve()), "--role", role, "--arguments", file.name]
        done = subprocess.run(
            launcher.command(ranks, words), capture_output=True, text=True, check=False, cwd=CHECKOUT, timeout=300
        )
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            result: dict[str, Any] = json.loads(line)
            return result
    raise RuntimeError(f"{role}: {done.stdout}{done.stderr}")


def busy_shares(mean: float) -> None:
    rows: dict[str, list[str]] = {}
    for sigma in SIGMAS:
        draw, means = typical(sigma)
        lengths = durations(sigma, mean, draw)
        ideal = sum(lengths) / GROUPS
        for (name, kind, size, error), expected in zip(OURS, means, strict=True):
            share = ideal / under_mpi("ours", GROUPS, lengths, kind, size, error, NAP, 0.0)["wall"]
            rows.setdefault(name, []).append(f"{share:.2f} ({expected:.2f})")
        for name, size in (("mpi4py.futures, 16 at a time", 16), ("mpi4py.futures, all at once", EVALUATIONS)):
            wall = under_mpi("futures", GROUPS + 1, lengths, size, 0.0)["wall"]
            rows.setdefault(name, []).append(f"{ideal / wall:.2f}       ")
        wall = under_mpi("waves", GROUPS, lengths, 0.0)["wall"]
        rows.setdefault("waves of 4", []).append(f"{ideal / wall:.2f}       ")
    print(f"busy share of {GROUPS} groups, {EVALUATIONS} evaluations of {mean:g} s, log-normal, nap {NAP * 1e3:g} ms")
    print(f"(in parentheses: computed, mean of {DRAWS} draws of durations; the one that is slept is typical of them)")
    print(f"{'':42}" + "".join(f"    sigma {sigma}" for sigma in SIGMAS))
    for name, shares in rows.items():
        target = f"   target at 0.8: {TARGETS[name]:.2f}" if name in TARGETS else ""
        print(f"{name:42}" + "".join(f"{share:>13}" for share in shares) + target, flush=True)


def overheads() -> None:
    print(f"\n{'':42}  overhead of an evaluation  CPU of a waiting rank")
    nothing = [0.0] * NOOPS
    for name, done in (
        ("ours, nap 15 ms", under_mpi("ours", GROUPS, nothing, "async", 1, None, 0.015, WAIT)),
        ("mpi4py.futures", under_mpi("futures", GROUPS + 1, nothing, NOOPS, WAIT)),
        ("waves of 4", under_mpi("waves", GROUPS, nothing, WAIT)),
    ):
        print(f"{name:42}  {1e3 * done['wall'] / NOOPS:22.2f} ms  {done['waiting']:15.3f} core", flush=True)


# On a virtual clock


def time_to_good(
    folder: str, table: str, kind: ScheduleKind, size: int, sigma: float, seed: int, budget: int, groups: int
) -> tuple[float, bool]:
    """Virtual time until a configuration within 5 % of the best is measured, or until the end, and whether one is."""
    import landscapes  # beside this file

    from mpipso.config import ObjectiveSection, Search
    from mpipso.config.file import load
    from mpipso.record.folders import RunFolder
    from mpipso.record.journal import Journal
    from mpipso.record.monitor import Monitor
    from mpipso.record.screen import Screen
    from mpipso.search import strategies
    from mpipso.startup import well_defined
    from mpipso.tuning import Tuning

    landscape = next(each for each in landscapes.tables(Path(folder)) if each.name == table)
    search = Search(
        schedule=kind,
        window=size if kind == "window" else None,
        particles=size if kind == "generation" else 16,
        evaluations=budget,
        seed=seed,
        baseline_repeats=1,
        repeats=1,
        confirm=0,
    )
    base = load(CHECKOUT / "tests" / "faults" / "formula.toml")
    parameters = tuple(axis.parameter(f"p{index}") for index, axis in enumerate(landscape.axes))
    config = base.model_copy(
        update={"parameters": parameters, "search": search, "objective": ObjectiveSection(minimize="value")}
    )
    space = well_defined(config)
    lengths = np.random.default_rng([seed, 1]).lognormal(0.0, sigma, 2 * budget) / math.exp(sigma**2 / 2)
    strategy = strategies.create(search, space, in_flight=groups if kind == "async" else size)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as scratch, contextlib.ExitStack() as end:
        journal = end.enter_context(Journal.create(Path(scratch)))
        monitor = Monitor(budget, dict.fromkeys(range(groups), ""), io.StringIO(), Screen("plain"))
        folder = RunFolder(Path(scratch))
        tuning = Tuning(config, space, strategy, folder, journal, monitor, lambda _: [])
        running: dict[int, Assignment] = {}
        dispatcher = Dispatcher(
            lambda group, message: running.update({group: message}) if isinstance(message, Assignment) else None,
            ServiceGroupHealthMonitor(after=10**9, pause=1.0),
            retries=0,
            rolling=kind == "window",
        )
        for group in range(groups):
            dispatcher.join(group)
        now, ends = 0.0, list[tuple[float, int]]()
        while True:
            dispatcher.submit(tuning.propose(dispatcher.idle(now)))
            for event in dispatcher.step(now):
                if isinstance(event, Assigned):
                    tuning.assigned(event.group, event.assignment)
                    heapq.heappush(ends, (now + float(lengths[event.assignment.number]), event.group))
            if not ends:
                return now, False
            now, group = heapq.heappop(ends)
            assignment = running.pop(group)
            value = landscape.value([float(u) for u in space.encode(assignment.configuration)])
            if landscape.good(value):
                return now, True
            begun = now - float(lengths[assignment.number])
            told = Evaluation(
                assignment.number,
                1,
                group,
                assignment.configuration,
                metrics={"value": value} if math.isfinite(value) else {},
                failure=None if math.isfinite(value) else Failure("it fails", "configuration"),
                started=begun,
                ended=now,
            )
            for event in dispatcher.take(group, told, now):
                if isinstance(event, Evaluated):
                    tuning.evaluated(event.evaluation)


SCHEDULES: Sequence[tuple[str, ScheduleKind, int]] = (
    ("waves of 4 (generation 4)", "generation", 4),
    ("generation 8", "generation", 8),
    ("generation 16", "generation", 16),
    ("window 6", "window", 6),
    ("window 8", "window", 8),
    ("window 12", "window", 12),
    ("async", "async", 1),
)


def times_to_good(folder: Path, names: Sequence[str], seeds: int, sigma: float, budget: int, groups: int) -> None:
    print(f"\nmean evaluations' time on {groups} groups until within 5 % of the best, sigma {sigma}, {seeds} seeds;")
    print(f"all: geometric mean; each: median (how many of the seeds got there within {budget} evaluations)")
    print(f"{'':28}{'all':>8}" + "".join(f"{name:>18}" for name in names))
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count()) as pool:
        waiting = {
            (name, label): [
                pool.submit(time_to_good, str(folder), name, kind, size, sigma, seed, budget, groups)
                for seed in range(seeds)
            ]
            for label, kind, size in SCHEDULES
            for name in names
        }
        for label, _, _ in SCHEDULES:
            cells, every = [], list[float]()
            for name in names:
                found = [future.result() for future in waiting[name, label]]
                median = statistics.median(time if good else math.inf for time, good in found)
                cells.append(f"{median:9.1f} ({sum(good for _, good in found):2}/{seeds:2})")
                every += [time if good else 1.25 * time for time, good in found]  # it would have taken longer
            mean = statistics.geometric_mean(every)
            print(f"{label:28}{mean:8.1f}" + "".join(f"{cell:>18}" for cell in cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("landscapes", type=Path, nargs="?")
    parser.add_argument("--tables", help="names of landscapes, with commas (default: all of the folder)")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budget", type=int, default=128)
    parser.add_argument("--groups", type=int, default=GROUPS, help="of the times until a good configuration")
    parser.add_argument("--mean", type=float, default=0.3, help="seconds of an evaluation that is slept")
    parser.add_argument("--only", choices=("busy", "overhead", "good"))
    parser.add_argument("--role", choices=tuple(ROLES), help=argparse.SUPPRESS)
    parser.add_argument("--arguments", type=Path, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.role is not None:
        if done := ROLES[told.role](*json.loads(told.arguments.read_text())):
            print(json.dumps(done), flush=True)
        return
    if told.only in (None, "busy"):
        busy_shares(told.mean)
    if told.only in (None, "overhead"):
        overheads()
    if told.landscapes is not None and told.only in (None, "good"):
        names = told.tables.split(",") if told.tables else sorted(path.stem for path in told.landscapes.glob("*.json"))
        for sigma in SIGMAS[:2]:
            times_to_good(told.landscapes, names, told.seeds, sigma, told.budget, told.groups)


if __name__ == "__main__":
    main()
