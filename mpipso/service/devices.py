"""Memory in use on accelerators: whether a device is as free as before a service ran on it.

A process that is gone may leave its memory behind for some seconds, and a driver in trouble keeps it for good. Either
would fail the next start for a reason that has nothing to do with its configuration.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mpipso.errors import EvaluationFailed
from mpipso.service import process

TOLERANCE = 256
"""MiB by which the memory of a free device may differ."""
LOOK = 0.5
QUERY_LIMIT = 30.0
"""Seconds for one call of the vendor's tool."""


@dataclass(frozen=True)
class MemoryUsage:
    """Memory in use on one device, in MiB, and the step in which its tool tells it."""

    used: int
    resolution: int = 0


class DeviceMemory:
    """The memory of some devices of this node; where the vendor's tool is missing, nothing is known or asked for."""

    def __init__(self, devices: Sequence[int]) -> None:
        self._devices = tuple(devices)
        self._free: dict[int, int] = {}

    def settle(self, limit: float, hurry: threading.Event | None = None) -> str:
        """Wait until every device is as free as it has ever been seen; what is still held after ``limit`` seconds.

        The first call only takes note. ``hurry`` ends the waiting, with nothing to complain of.
        """
        deadline = time.monotonic() + limit
        pause = hurry or threading.Event()
        while self._devices and not pause.is_set():
            held = self._held(memory_usage(self._devices))
            if not held:
                break
            if time.monotonic() >= deadline:
                return ", ".join(f"device {device} still holds {_size(size)}" for device, size in held.items())
            pause.wait(LOOK)
        return ""

    def _held(self, usage: Mapping[int, MemoryUsage]) -> dict[int, int]:
        """MiB in use beyond what a free device has, by device."""
        held = {}
        for device, now in usage.items():
            self._free[device] = free = min(now.used, self._free.get(device, now.used))
            if now.used - free > TOLERANCE + now.resolution:
                held[device] = now.used - free
        return held


def memory_usage(devices: Sequence[int]) -> dict[int, MemoryUsage]:
    """Memory in use by device, as ``nvidia-smi`` or ``npu-smi`` tells; devices it does not tell about are left out."""
    if shutil.which("nvidia-smi"):
        usage = _nvidia()
    elif shutil.which("npu-smi"):
        usage = _ascend(devices)
    else:
        usage = {}
    return {device: usage[device] for device in devices if device in usage}


def _nvidia() -> dict[int, MemoryUsage]:
    text = _output("nvidia-smi", "--query-gpu=index,memory.used", "--format=csv,noheader,nounits")
    return {int(index): MemoryUsage(int(used)) for index, used in re.findall(r"(?m)^\s*(\d+)\s*,\s*(\d+)\s*$", text)}


def _ascend(devices: Sequence[int]) -> dict[int, MemoryUsage]:
    """A card may have several chips; devices are counted by chip ("Chip Logic ID"), usages are told by card."""
    rows = re.findall(r"(?m)^\s*(\d+)\s+(\d+)\s+(\d+)\s", _output("npu-smi", "info", "-m"))
    places = {int(device): (int(card), int(chip)) for card, chip, device in rows if int(device) in devices}
    chips: dict[tuple[int, int], MemoryUsage] = {}
    for card in sorted({card for card, _ in places.values()}):
        capacity = percent = None
        for key, value in re.findall(
            r"(?m)^\s*([^:\n]+?)\s*:\s*(\d+)", _output("npu-smi", "info", "-t", "usages", "-i", str(card))
        ):
            if key == "HBM Capacity(MB)":
                capacity = int(value)
            elif key == "HBM Usage Rate(%)":
                percent = int(value)
            elif key == "Chip ID" and capacity is not None and percent is not None:
                chips[card, int(value)] = MemoryUsage(capacity * percent // 100, capacity // 100)
                capacity = percent = None
        if capacity is not None and percent is not None:  # with a single chip some versions do not name it
            chips[card, 0] = MemoryUsage(capacity * percent // 100, capacity // 100)
    return {device: chips[place] for device, place in places.items() if place in chips}


def _output(*command: str) -> str:
    """What a tool prints; nothing if it fails."""
    try:
        done = process.run(command, timeout=QUERY_LIMIT)
    except EvaluationFailed:
        return ""
    return "" if done.exit_code else done.stdout


def _size(mebibytes: int) -> str:
    return f"{mebibytes / 1024:.1f} GiB" if mebibytes >= 1024 else f"{mebibytes} MiB"
