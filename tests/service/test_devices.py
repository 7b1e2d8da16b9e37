"""Device memory must be as free after a service as before it.

There is no accelerator here: a fake ``nvidia-smi`` or ``npu-smi`` in PATH injects the fault. It answers in the format
of the real tool, from files that the tests write.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bed.job import wait_until

from mpipso.errors import EvaluationFailed
from mpipso.service import devices
from mpipso.service import local as local_module
from mpipso.service.devices import DeviceMemory, MemoryUsage, memory_usage
from mpipso.service.local import LocalNode
from mpipso.service.node import Share

FREE = {0: 400, 1: 400, 2: 3, 3: 3}
NPU_MAP = """\
	NPU ID                         Chip ID                        Chip Logic ID                  Chip Name
	0                              0                              0                              Ascend 910
	0                              1                              1                              Ascend 910
	0                              2                              -                              Mcu
	1                              0                              2                              Ascend 910
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in PATH for fake tools; none is in it yet."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(devices, "LOOK", 0.02)
    return folder


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def gpus(tools: Path) -> Callable[[dict[int, int]], None]:
    """Sets what the fake ``nvidia-smi`` tells."""
    usage = tools / "usage"
    asked = tools / "looks"
    script(tools / "nvidia-smi", f'echo >> {asked}; [ "$1" = --query-gpu=index,memory.used ] && cat {usage}')

    def use(used: dict[int, int]) -> None:
        new = tools / "new"
        new.write_text("".join(f"{device}, {mebibytes}\n" for device, mebibytes in used.items()))
        new.replace(usage)

    use(FREE)
    return use


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalNode]:
    made = LocalNode(Share("node0", devices=(2, 3), device_variable="CUDA_VISIBLE_DEVICES"), str(tmp_path))
    yield made
    made.close()


def start(local: LocalNode) -> str:
    return local.start_service(["sleep", "1000"], {}, log="log", grace=0.1)


def test_without_a_tool_or_without_devices_nothing_is_asked(tools: Path) -> None:
    assert memory_usage([0, 1]) == {}
    assert DeviceMemory([0, 1]).settle(0.0) == ""
    script(tools / "nvidia-smi", f"touch {tools}/asked")
    assert DeviceMemory([]).settle(0.0) == ""
    assert not (tools / "asked").exists()


def test_a_tool_that_fails_knows_nothing(tools: Path) -> None:
    script(tools / "nvidia-smi", "echo 0, 5; exit 9")
    assert memory_usage([0]) == {}
    script(tools / "nvidia-smi", "echo '0, [N/A]'; echo '1, 5'")
    assert memory_usage([0, 1]) == {1: MemoryUsage(5)}


def test_memory_that_is_not_given_back_fails_the_stop_with_the_device(
    local: LocalNode, gpus: Callable[[dict[int, int]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_module, "HELD_AFTER", 0.2)
    monkeypatch.setattr(local_module, "HELD_BEFORE", 0.2)
    handle = start(local)
    gpus(FREE | {0: 50_000, 3: 12 * 1024 + 3})
    with pytest.raises(EvaluationFailed, match=r"^node0: device 3 still holds 12\.0 GiB after the stop$") as error:
        local.stop_service(handle)
    assert error.value.kind == "infrastructure"
    assert local.stop_service(handle) == ([], 0)  # it has been stopped
    with pytest.raises(EvaluationFailed, match=r"^node0: device 3 still holds 12\.0 GiB before the start$"):
        start(local)
    gpus(FREE)
    assert local.stop_service(start(local))[0] == []


def test_memory_that_comes_back_slowly_is_waited_for(
    local: LocalNode, gpus: Callable[[dict[int, int]], None], tools: Path
) -> None:
    handle = start(local)
    keeper = local._services[handle].keeper
    gpus(FREE | {2: 30_000})
    stopping = threading.Thread(target=local.stop_service, args=(handle,))
    stopping.start()
    wait_until(lambda: not keeper.pids())
    looks = (tools / "looks").stat().st_size
    wait_until(lambda: (tools / "looks").stat().st_size >= looks + 3)  # the last of them after two that found it held
    assert stopping.is_alive()
    gpus(FREE | {2: 3 + devices.TOLERANCE})
    stopping.join(20)
    assert not stopping.is_alive()


def test_who_is_in_a_hurry_does_not_wait_for_devices(local: LocalNode, gpus: Callable[[dict[int, int]], None]) -> None:
    handle = start(local)
    gpus(FREE | {2: 30_000})
    began = time.monotonic()
    assert local.stop_service(handle, 0.1)[0] == []
    assert time.monotonic() - began < local_module.HELD_AFTER / 2


def test_the_usage_of_every_chip_is_read_from_npu_smi(tools: Path) -> None:
    (tools / "map").write_text(NPU_MAP)
    chips = "".join(
        f"\tHBM Capacity(MB)               : 65536\n\tHBM Usage Rate(%)              : {rate}\n"
        f"\tAicore Usage Rate(%)           : 0\n\tChip ID                        : {chip}\n\n"
        for chip, rate in ((0, 4), (1, 50))
    )
    (tools / "usages-0").write_text(f"\tNPU ID                         : 0\n\tChip Count : 2\n\n{chips}")
    single = "\tNPU ID : 1\n\tChip Count : 1\n\tHBM Capacity(MB) : 32768\n\tHBM Usage Rate(%) : 10\n"
    (tools / "usages-1").write_text(single)
    script(tools / "npu-smi", f'[ "$2" = -m ] && cat {tools}/map\n[ "$3" = usages ] && cat {tools}/usages-$5\nexit 0')
    assert memory_usage([0, 1, 2]) == {0: MemoryUsage(2621, 655), 1: MemoryUsage(32768, 655), 2: MemoryUsage(3276, 327)}
    memory = DeviceMemory([0])
    assert memory.settle(0.0) == ""
    (tools / "usages-0").write_text(chips.replace(": 4\n", ": 5\n"))  # the last digit of what the tool tells
    assert memory.settle(0.0) == ""
    (tools / "usages-0").write_text(chips.replace(": 4\n", ": 24\n"))
    assert memory.settle(0.0) == "device 0 still holds 12.8 GiB"
