from __future__ import annotations

from pathlib import Path

import pytest

from mpipso import batch
from mpipso.batch import SLURM
from mpipso.launch.allocation import Allocation, allocation


@pytest.mark.parametrize("scontrol", ["#!/bin/sh\nsleep 60\n", "#!/bin/sh\nexit 1\n", "no program"])
def test_a_slurm_that_does_not_answer_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scontrol: str
) -> None:
    (tmp_path / "scontrol").write_text(scontrol)
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setattr(batch, "LIMIT", 1.0)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    assert allocation() == Allocation(SLURM, ("n1", "n2"))
