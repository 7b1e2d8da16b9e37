from __future__ import annotations

import socket
from pathlib import Path

import pytest

from mpipso.cluster.facts import rank_here
from mpipso.launch.survivors import strangers


def test_who_this_host_is_does_not_depend_on_its_accelerators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The vendors' tools take seconds, or hang."""
    for name in ("nvidia-smi", "npu-smi", "rocm-smi"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for variable in ("CUDA_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.delenv(variable, raising=False)
    assert strangers([socket.gethostname(), "node.invalid"]) == ["node.invalid"]
    assert not (tmp_path / "asked").exists()
    rank_here(0)
    assert (tmp_path / "asked").exists()
