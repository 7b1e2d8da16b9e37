"""How many cores a control group leaves, by trees of the files that the kernel shows."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from mpipso.launch.quota import cpus


def tree(folder: Path, own: str, files: dict[str, str]) -> float:
    for name, text in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    (folder / "own").write_text(own)
    return cpus(folder / "cgroup", folder / "own")


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2.0),
        ("0::/a:b:c\n", {"a:b:c/cpu.max": "200000 100000"}, 2.0),
        ("0::/a/b\n", {"a/cpu.max": "800000 100000", "a/b/cpu.max": "50000 100000"}, 0.5),
        ("0::/not/here\n", {"cpu.max": "300000 100000"}, 3.0),
        ("0::/../../pod\n", {"cpu.max": "300000 100000"}, 3.0),
        ("0::/a\n", {"a/cpu.max": "max 100000", "b/cpu.max": "100000 100000"}, math.inf),
        (
            "5:memory:/b\n3:cpuacct,cpu:/a\n0::/\n",
            {
                "cpu/a/cpu.cfs_quota_us": "250000",
                "cpu/a/cpu.cfs_period_us": "100000",
                "cpu/b/cpu.cfs_quota_us": "50000",
                "cpu/b/cpu.cfs_period_us": "100000",
            },
            2.5,
        ),
        (
            "3:cpu,cpuacct:/a\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "250000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
            2.5,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
        ("0::/\n", {}, math.inf),
        ("0::/\n", {"cpu.max": ""}, math.inf),
        ("nothing\n", {"cpu.max": "100000 100000"}, math.inf),
    ],
)
def test_the_least_limit_of_a_group_and_those_above_it_counts(
    tmp_path: Path, own: str, files: dict[str, str], expected: float
) -> None:
    assert tree(tmp_path, own, files) == expected


def test_where_nothing_is_told_there_is_no_limit(tmp_path: Path) -> None:
    assert cpus(tmp_path / "none", tmp_path / "neither") == math.inf
