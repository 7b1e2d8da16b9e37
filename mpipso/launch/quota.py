"""The share of this machine's cores that a control group leaves to it, as of ``docker --cpus`` or a Kubernetes limit.

Sources: "Control Group v2" (``cpu.max``) and "CFS Bandwidth Control" (``cpu.cfs_quota_us``) of the Linux kernel's
documentation, and cgroups(7) for ``/proc/self/cgroup``.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def cpus(root: Path = _ROOT, own: Path = Path("/proc/self/cgroup")) -> float:
    """As many cores as this process may use at a time, on average; infinite without a limit.

    Parameters
    ----------
    root:
        Where control groups are mounted.
    own:
        Says which of them are this process's.
    """
    least = math.inf
    for folder in _folders(root, own):
        with contextlib.suppress(OSError, ValueError):
            if (whole := folder / "cpu.max").exists():
                words = whole.read_text().split()
            else:
                words = [(folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")]
            quota, period = map(float, words)  # without a limit, the word max or a negative number
            if quota > 0.0 and period > 0.0:
                least = min(least, quota / period)
    return least


def _folders(root: Path, own: Path) -> Iterator[Path]:
    """Those of the groups of this process that may have a limit, and of all above them."""
    with contextlib.suppress(OSError, ValueError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            # The names of controllers may be in another order there.
            for top in {root / controllers, root / "cpu"} if controllers else {root}:
                group = top / path.lstrip("/")
                # Inside of a container, its own group may be mounted as the top, under another path than is told here.
                yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top))
