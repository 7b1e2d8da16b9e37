"""Which accelerators a job may use, and where a host is reached.

There are no accelerators here: fakes of the vendors' tools answer in their format. Nor are there several interfaces: a
fake table has them.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from mpipso.service import facts

LISTED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-21b1ce5a-0f1d-4c6e-a2b1-b2f5e2f1a111)
  MIG 1g.5gb      Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-21b1ce5a-ffff-4c6e-a2b1-b2f5e2f1a222)
"""


ASCEND = """\
\tNPU ID                         Chip ID                        Chip Logic ID                  Chip Name
\t1                              0                              0                              Ascend 910B3
\t1                              1                              -                              Mcu
\t4                              0                              1                              Ascend 910B3
\t4                              1                              -                              Mcu
"""
ASCEND_NEWER = """\
\tNPU ID               Chip ID              Chip Logic ID        Chip Phy-ID          Chip Name
\t2                    0                    0                    4                    Ascend910
\t2                    1                    1                    5                    Ascend910
\t2                    2                    -                    -                    Mcu
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a tool into PATH, alone with those of the system, that prints a text."""

    def put(name: str, text: str) -> None:
        (tmp_path / "listed").write_text(text)
        script = tmp_path / name
        script.write_text(f"#!/bin/sh\ncat {tmp_path}/listed\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return put


@pytest.mark.parametrize(
    ("variable", "devices"),
    [
        (None, (0, 1, 2)),
        ("2,0", (2, 0)),
        ("2, 1", (2, 1)),
        ("1,-1,0", (1,)),
        ("0,1,", (0, 1)),
        ("GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f", (0,)),
        ("GPU-21b1ce5a-f,GPU-5c89", (0, 2)),
        ("GPU-21b1ce5a", ()),
        ("GPU-none", ()),
        ("MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", ()),
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
    ],
)
def test_a_job_gets_no_more_devices_than_its_variable_shows(
    install: Callable[[str, str], None],
    monkeypatch: pytest.MonkeyPatch,
    variable: str | None,
    devices: tuple[int, ...],
) -> None:
    """What is no list of whole devices is left as it is for the service to inherit."""
    install("nvidia-smi", LISTED)
    if variable is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert facts.facts().devices == devices


def test_a_tool_that_hangs_and_cannot_be_killed_holds_nobody_up_and_its_host_is_told(
    install: Callable[[str, str], None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    install("nvidia-smi", "")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 1000\n")
    for variable in facts.DEVICE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    started: list[subprocess.Popen[str]] = []
    # In the middle of a call of a driver no signal reaches a process.
    monkeypatch.setattr(subprocess.Popen, "kill", lambda process: started.append(process))
    monkeypatch.setattr(facts, "LISTING", 0.2, raising=False)
    asked = threading.Thread(target=facts.facts, daemon=True)
    asked.start()
    asked.join(40)
    waits = asked.is_alive()
    for process in started:
        process.send_signal(signal.SIGKILL)
    asked.join(40)
    assert started and not waits
    told = f"mpipso: {socket.gethostname()}: nvidia-smi -L has not ended within 0.2 s"
    assert told in capfd.readouterr().err


@pytest.mark.parametrize(
    ("variables", "devices", "shown_by"),
    [
        ({}, (0, 1, 2), "HIP_VISIBLE_DEVICES"),
        ({"ROCR_VISIBLE_DEVICES": "1,2"}, (1, 2), "ROCR_VISIBLE_DEVICES"),
        ({"ROCR_VISIBLE_DEVICES": "1,2", "HIP_VISIBLE_DEVICES": "0"}, (0,), "HIP_VISIBLE_DEVICES"),
        ({"ROCR_VISIBLE_DEVICES": "GPU-5c89852c"}, (), ""),
        ({"ROCR_VISIBLE_DEVICES": ""}, (), ""),
    ],
)
def test_a_job_on_amd_gets_what_slurm_shows_it(
    install: Callable[[str, str], None],
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    devices: tuple[int, ...],
    shown_by: str,
) -> None:
    install("rocm-smi", "".join(f"GPU[{number}]\t\t: Device ID: 0x740c\n" for number in range(3)))
    for variable in facts.DEVICE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    told = facts.facts()
    assert (told.devices, told.device_variable) == (devices, shown_by)


@pytest.mark.parametrize("listed", [ASCEND, ASCEND_NEWER])
def test_the_chips_of_ascend_go_by_their_logical_ids(
    install: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch, listed: str
) -> None:
    install("npu-smi", listed)
    for variable in facts.DEVICE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    told = facts.facts()
    assert (told.devices, told.device_variable) == ((0, 1), "ASCEND_RT_VISIBLE_DEVICES")


@pytest.mark.parametrize(
    ("four", "own"),
    [
        ((), ("2001:db8::7", "fd00::7")),
        (("10.0.0.7", "192.168.0.7"), ("10.0.0.7", "192.168.0.7", "2001:db8::7", "fd00::7")),
    ],
)
def test_a_node_that_has_only_ipv6_is_found_by_that(
    monkeypatch: pytest.MonkeyPatch, four: tuple[str, ...], own: tuple[str, ...]
) -> None:
    """The interfaces are fakes, as there is no telling what this machine has."""
    six = ("fe80::7%eth0", "2001:db8::7", "fd00::7")
    families = (*((socket.AF_INET6, each) for each in six), *((socket.AF_INET, each) for each in four))
    eth0 = [SimpleNamespace(family=family, address=each) for family, each in families]
    lo = [
        SimpleNamespace(family=socket.AF_INET6, address="::1"),
        SimpleNamespace(family=socket.AF_INET, address="127.0.0.1"),
    ]
    monkeypatch.setattr("psutil.net_if_addrs", lambda: {"lo": lo, "eth0": eth0})
    told = facts.facts()
    assert (told.address, told.aliases) == (own[0], own)
    docker = [SimpleNamespace(family=socket.AF_INET, address="172.17.0.1")]
    monkeypatch.setattr("psutil.net_if_addrs", lambda: {"lo": lo, "docker0": docker, "eth0": eth0})
    assert facts.facts().address == own[0], "a bridge leads nowhere"


@pytest.fixture
def interfaces(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Gives this host other interfaces, a name that stands for ``named``, and a default route from ``routed``."""

    def put(*, named: str = "127.0.1.1", routed: str = "", **addresses: str) -> None:
        table = {
            name: [SimpleNamespace(family=socket.AF_INET, address=address)]
            for name, address in {"lo": "127.0.0.1", **addresses}.items()
        }
        monkeypatch.setattr(facts.psutil, "net_if_addrs", lambda: table)
        monkeypatch.setattr(facts, "resolved", lambda host: {named})
        monkeypatch.setattr(facts, "_source", lambda destination: routed)

    return put


def test_a_host_is_reached_where_its_name_leads_else_where_its_default_route_does(
    interfaces: Callable[..., None],
) -> None:
    two = {"aux0": "192.168.9.1", "eth0": "10.0.0.5"}
    interfaces(named="10.0.0.5", routed="192.168.9.1", **two)
    assert facts.facts().address == "10.0.0.5"
    interfaces(routed="10.0.0.5", **two)
    assert facts.facts().address == "10.0.0.5"
    interfaces(**two)
    assert facts.facts().address == "192.168.9.1"
    assert facts.facts().aliases == ("192.168.9.1", "10.0.0.5")


def test_link_local_addresses_and_those_of_bridges_and_tunnels_lead_to_no_host(interfaces: Callable[..., None]) -> None:
    interfaces(bmc0="169.254.3.1", docker0="172.17.0.1", eth0="10.0.0.5", tun0="10.8.0.2", routed="10.8.0.2")
    assert facts.facts().address == "10.0.0.5"
    interfaces(bmc0="169.254.3.1", docker0="172.17.0.1")
    assert facts.facts().address == "127.0.0.1"


def test_devices_are_shown_by_their_variable_if_it_is_known() -> None:
    assert facts.showing("CUDA_VISIBLE_DEVICES", (2, 3)) == {"CUDA_VISIBLE_DEVICES": "2,3"}
    assert facts.showing("CUDA_VISIBLE_DEVICES", ()) == facts.showing("", (2, 3)) == {}
