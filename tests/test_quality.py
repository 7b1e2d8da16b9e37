"""A search in which the fastest configurations give bad answers: a real run of one rank, with a real service."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import tomli
from bed.job import Job
from faults.course import Course

CHECK = """
import json, sys, urllib.request
values = json.load(urllib.request.urlopen(f"{sys.argv[1]}/values"))
print(json.dumps({"results": {"sums": {"exact_match,none": 0.8 if values["policy"] == "greedy" else 0.1}}}))
"""
"""Asks the running service, which answers badly with the policy that is faster."""
FAST, GOOD = {"batch": 40, "wait": 10, "policy": "fair"}, {"batch": 40, "wait": 10, "policy": "greedy"}
LIMIT = 120.0


@pytest.mark.parametrize("limit", [[{"metric": "accuracy", "min": "baseline", "factor": 0.98}], []])
def test_a_fast_configuration_whose_answers_are_bad_does_not_win(limit: list[object], tmp_path: Path) -> None:
    quality = {"command": [sys.executable, "-c", CHECK, "{base_url}"], "timeout": 30.0}
    course = Course(
        tmp_path,
        quality=quality | {"metrics": {"accuracy": "results.sums.exact_match,none"}},
        objective__slo=limit,
        search__first=[FAST, GOOD],
        search__evaluations=3,
        parallel__devices_per_node=0,
        parallel__device_variable="",
    )
    words = ["tune", "--config", str(course.config), "--nodes-per-group", "1", "--progress", "plain"]
    with Job([sys.executable, "-m", "mpipso", *words], limit=LIMIT) as job:
        course.finished(job)
        shown = job.stdout
    for event in course.events("evaluated"):
        assert event["metrics"]["accuracy"] == (0.8 if event["configuration"]["policy"] == "greedy" else 0.1)
    folder = course.runs / "latest"
    best = tomli.loads((folder / "best.toml").read_text())
    assert best["configuration"] == (GOOD if limit else FAST)
    assert best["metrics"]["accuracy"] == (0.8 if limit else 0.1)
    assert ("accuracy 0.1 < 0.784 (0.98 x baseline)" in shown) is bool(limit)
    assert "an [[objective.slo]] of metric" not in shown if limit else "note: quality.metrics: neither" in shown
    kept = folder / "evaluations" / "0000-1"
    assert {"benchmark.log", "quality.log", "quality-command.txt"} <= {file.name for file in kept.iterdir()}
    assert json.loads((kept / "metrics.json").read_text())["accuracy"] == 0.8
