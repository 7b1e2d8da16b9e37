"""Runs of the search over the formula, under an MPI that survives a dead rank, and what their journals say."""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import tomli
import tomli_w
from bed.job import Job, wait_until
from bed.launchers import CHECKOUT, LAUNCHERS

from mpipso.launch.ranks import Ranks

HERE = Path(__file__).resolve().parent
RANKS = 5
LIMIT = 120.0
"""Seconds after which a run is killed."""
SOON = 60.0
"""Seconds within which what a test waits for happens, on a loaded machine too."""
Event = Mapping[str, Any]


class Course:
    """One run in ``folder``: its configuration, the faults that are injected, the job, the journal.

    ``changes`` are values of the configuration by dotted key.
    """

    def __init__(self, folder: Path, **changes: object) -> None:
        self.folder = folder
        self.control = folder / "control"
        self.control.mkdir(parents=True, exist_ok=True)
        self.runs = folder / "runs"
        text = (HERE / "formula.toml").read_text().replace("@PYTHON@", sys.executable)
        text = text.replace("@FORMULA@", str(HERE / "formula.py")).replace("@CONTROL@", str(self.control))
        tree = tomli.loads(text)
        for key, value in {"output": str(self.runs), **changes}.items():
            *sections, last = key.split("__")
            table = tree
            for section in sections:
                table = table.setdefault(section, {})
            table[last] = value
        self.config = folder / "formula.toml"
        self.config.write_text(tomli_w.dumps(tree))
        self.runs = Path(tree["output"])

    @contextlib.contextmanager
    def started(
        self,
        *flags: str,
        ranks: int = RANKS,
        nodes_per_group: int = 2,
        limit: float = LIMIT,
        program: Sequence[str] = ("-m", "mpipso", "tune"),
    ) -> Iterator[Job]:
        """The job of a Python ``program``, which is killed at the end of the block if it still runs."""
        launcher = next(launcher for launcher in LAUNCHERS if launcher.name == "Open MPI 5")
        if (reason := launcher.available()) is not None:
            pytest.skip(reason)
        words = [sys.executable, *program, "--progress", "plain"]
        words += [*(flags or ("--config", str(self.config))), "--nodes-per-group", str(nodes_per_group)]
        mpirun = launcher.family.command(str(launcher.launcher), Ranks(ranks), ["MPI4PY_LIBMPI"])
        with Job([*mpirun, *words], limit=limit, env=launcher.environment(), cwd=CHECKOUT) as job:
            yield job

    # Faults

    def inject(self, fault: str) -> None:
        (self.control / fault).touch()

    def heal(self, fault: str) -> None:
        (self.control / fault).unlink()

    def measuring(self) -> int:
        """How many benchmark clients run; they do not know of which job they are."""
        lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
        return sum({"measure", str(self.control)} <= set(line) for line in lines)

    # The journal

    def events(self, *kinds: str) -> list[Event]:
        """What the journal says so far, all of it or events of some kinds; a torn line is left out."""
        path = self.runs / "latest" / "journal.jsonl"
        lines = path.read_text(errors="replace").split("\n")[:-1] if path.exists() else []
        events = [json.loads(line) for line in lines]
        return [event for event in events if not kinds or event["event"] in kinds]

    def until(self, job: Job, kind: str, count: int = 1, **fields: object) -> Event:
        """Wait for the ``count``-th event of a kind with these fields."""

        def found() -> list[Event]:
            return [e for e in self.events(kind) if all(e.get(name) == value for name, value in fields.items())]

        wait_until(
            lambda: len(found()) >= count or job.process.poll() is not None, SOON, f"{count} x {kind}\n{job.stdout}"
        )
        assert len(found()) >= count, f"the run ended before {count} x {kind} {fields}: {job.stdout}{job.stderr}"
        return found()[count - 1]

    def everything_counted_once(self) -> None:
        """Every evaluation that was asked for has exactly one result, and there are as many as were wanted."""
        asked = [new["number"] for event in self.events("asked") for new in event["new"]]
        done = Counter(event["number"] for event in self.events("evaluated"))
        assert sorted(done) == asked == list(range(len(asked)))
        assert set(done.values()) == {1}

    def finished(self, job: Job) -> None:
        """The run comes to its end in good order, with nothing lost and nothing left."""
        done = job.wait()
        assert done.returncode == 0, done.stdout + done.stderr
        last = self.events()[-1]
        assert last["event"] == "finished", last
        assert last["evaluations"] == len({n["number"] for n in self.proposals()})
        self.everything_counted_once()

    def proposals(self) -> list[dict[str, Any]]:
        """What was asked for, confirmations left out, in order."""
        return [new for event in self.events("asked") for new in event["new"] if new["label"] != "confirm"]

    def failures(self) -> list[Event]:
        """Attempts that failed, retried or not, with ``kind`` and ``cause``."""
        ended = [{**event, **event["failure"]} for event in self.events("evaluated") if "failure" in event]
        return sorted([*self.events("retried"), *ended], key=lambda event: int(event["seq"]))


def ranks(job: Job) -> dict[int, psutil.Process]:
    """The ranks of a job that run, by number; what they start knows nothing of its rank."""
    found = {}
    for process in job.running(sys.executable, "-m", "mpipso"):
        with contextlib.suppress(psutil.Error):
            number = process.environ().get("PMIX_RANK", "")
            if number.isdecimal():
                found[int(number)] = process
    return found


def all_of(what: Sequence[int], job: Job) -> dict[int, psutil.Process]:
    """These ranks, once they run."""
    wait_until(lambda: set(what) <= ranks(job).keys(), SOON, f"ranks {what} run")
    return ranks(job)
