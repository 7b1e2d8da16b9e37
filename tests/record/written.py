"""Journals written by hand: events at given times, and what is printed of them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

Event = dict[str, Any]

SERVICE = """
[service]
engine = "command"
command = ["serve"]
[benchmark]
client = "openai"
requests = 1
[objective]
maximize = "output_throughput"
"""
"""A configuration but for its parameters."""
PHASES = {"configuring": 1.0, "starting": 20.0, "measuring": 25.0, "stopping": 3.0}


class Script:
    """Collects events as a root would write them; ``t`` is in seconds."""

    def __init__(
        self, config: str = "", objective: str = "output_throughput", command: str = "", **groups: Sequence[str]
    ) -> None:
        self.events: list[Event] = []
        more = {"command": command} if command else {}
        planned = plan(groups or {"g0": ["a"], "g1": ["b"]})
        self.add(0, "started", config=config, objective=objective, plan=planned, **more)

    def add(self, t: float, event: str, **fields: Any) -> Script:
        self.events.append({"seq": len(self.events), "t": float(t), "event": event, **fields})
        return self

    def resumed(self, t: float, config: str = "", **groups: Sequence[str]) -> Script:
        return self.add(t, "resumed", config=config, plan=plan(groups))

    def assigned(self, t: float, number: int, group: int, attempt: int = 1) -> Script:
        return self.add(t, "assigned", number=number, attempt=attempt, group=group)

    def evaluated(
        self,
        t: float,
        number: int,
        group: int,
        seconds: float = 50.0,
        *,
        tokens: float | None = 100.0,
        label: str = "",
        configuration: Mapping[str, Any] | None = None,
        phases: Mapping[str, float] = PHASES,
        attempt: int = 1,
        kind: str = "configuration",
        cause: str = "out of memory",
        **verdict: Any,
    ) -> Script:
        """A result that took ``seconds``, until ``t``; without ``tokens`` a failure."""
        outcome: Event = {"metrics": {"completed": 32.0, "output_throughput": tokens}}
        if tokens is None:
            outcome = {"failure": {"cause": cause, "kind": kind, "detail": ""}}
        return self.add(
            t,
            "evaluated",
            **{
                "number": number,
                "attempt": attempt,
                "group": group,
                "label": label,
                "configuration": {"n": number} if configuration is None else dict(configuration),
                **outcome,
                "started": t - seconds,
                "ended": t,
                "phases": dict(phases),
                "fitness": None if tokens is None else -tokens,
                "feasible": tokens is not None,
                "failed": tokens is None,
                "violations": [],
                "judged": True,
                **verdict,
            },
        )

    def stopped(self, t: float, number: int, group: int, expected: float, seconds: float = 50.0, **more: Any) -> Script:
        """A benchmark that was stopped early."""
        told = {"metrics": {}, "first": expected / 2, "expected": expected, "fitness": -expected, "feasible": False}
        return self.evaluated(t, number, group, seconds, **{**told, **more})

    def retried(self, t: float, number: int, group: int, attempt: int = 1, cause: str = "port 8080 is held") -> Script:
        return self.add(t, "retried", number=number, attempt=attempt, group=group, kind="infrastructure", cause=cause)

    def lost(self, t: float, *groups: int, ranks: Sequence[int] = (1,), cause: str = "its lease ran out") -> Script:
        return self.add(t, "lost", ranks=list(ranks), hosts=["b"], groups=list(groups), cause=cause)

    def finished(self, t: float, incumbent: int | None = None, cause: str = "evaluations") -> Script:
        return self.add(t, "finished", incumbent=incumbent, evaluations=0, feasible=0, cause=cause)

    def save(self, folder: Path) -> Path:
        """Write the journal; returns the folder."""
        folder.mkdir(exist_ok=True)
        lines = [json.dumps(event) + "\n" for event in self.events]
        (folder / "journal.jsonl").write_text("".join(lines))
        return folder


def plan(groups: Mapping[str, Sequence[str]]) -> Event:
    listed = [{"group": index, "hosts": list(hosts), "cores": []} for index, hosts in enumerate(groups.values())]
    return {"groups": listed, "spares": []}


def drawn(renderable: RenderableType, width: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable, crop=False)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]
