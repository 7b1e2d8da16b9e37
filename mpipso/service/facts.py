"""What can be found out about the machine that this process runs on: names, addresses, cores and accelerators."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

from mpipso.service.environment import Fingerprint
from mpipso.service.node import Share
from mpipso.signals import launcher

_FAR = "192.0.2.1"
"""A documentation address (RFC 5737), to which nothing leads but the default route."""
_VIRTUAL = re.compile(r"^(lo|docker|veth|virbr|br-|cni|flannel|tun|tap)")
_VENDORS = (
    (("nvidia-smi", "-L"), r"^GPU (\d+):", "CUDA_VISIBLE_DEVICES"),
    # Newer drivers tell the physical id of a chip behind its logical one.
    (("npu-smi", "info", "-m"), r"^\s*\d+\s+\d+\s+(\d+)\s+(?:\S+\s+)?Ascend", "ASCEND_RT_VISIBLE_DEVICES"),
    (("rocm-smi", "--showid"), r"^GPU\[(\d+)\].*Device ID", "HIP_VISIBLE_DEVICES"),
)
"""How to list the accelerators of a vendor, what one of them looks like in the answer, and the vendor's variable."""

_BELOW = {"HIP_VISIBLE_DEVICES": "ROCR_VISIBLE_DEVICES"}
"""What leaves a process fewer devices, which the vendor's own variable then numbers anew: batch systems set it."""

DEVICE_VARIABLES = (*(variable for _, _, variable in _VENDORS), *_BELOW.values())
"""Environment variables that show a process some of the node's devices, by vendor."""
LOOPBACK = "127.0.0.1"
"""The address of a node that has no other."""
NO_DEVICES = ("", "-1", "NoDevFiles")
"""Values of these variables with which a process sees no device."""
LISTING = 20.0
"""Seconds in which a vendor's tool lists the accelerators."""


def showing(variable: str, devices: Sequence[int]) -> dict[str, str]:
    """The environment that shows these devices, and no others, to a process; none without devices or their variable.

    ``variable`` is one of :data:`DEVICE_VARIABLES`, or what the user says instead; empty if that is not known.
    """
    return {variable: ",".join(map(str, devices))} if variable and devices else {}


@dataclass(frozen=True)
class Facts(Share):
    """What a machine is, and what of it the job may use.

    Attributes
    ----------
    aliases:
        Its further names and addresses, but the loopback's.
    differing:
        The environment variables of which a service inherits another value here than on the root's host.
    """

    aliases: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()


def facts(root: Fingerprint | None = None, *, devices: bool = True) -> Facts:
    """What this machine is; ``root`` is the environment of the root's host, None for no comparison with it.

    Without ``devices``, no vendor's tool is asked for them.
    """
    host = socket.gethostname()
    found, variable = _devices(os.environ) if devices else ((), "")
    own = _own_addresses()
    aliases = tuple(address for _, address in own)
    differing = root.differing(os.environ) if root is not None else ()
    return Facts(host, _address(host, own), allowed_cores(), found, variable, aliases, differing)


def allowed_cores() -> tuple[int, ...]:
    """The cores that the job may use on this node.

    ``mpirun`` binds each rank to a core or two, and a service would inherit that; the launcher's own process has what
    the job was really given. Under ``srun`` the rank's own affinity is the allocation.
    """
    own = os.sched_getaffinity(0)
    parent = launcher()
    if parent is not None:
        with contextlib.suppress(OSError):
            own = own | os.sched_getaffinity(parent.pid)
    return tuple(sorted(own))


def resolved(host: str) -> set[str]:
    """The addresses that a name stands for here; none if it stands for nothing."""
    try:
        return {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return set()


def _own_addresses() -> list[tuple[str, str]]:
    """Interfaces with their addresses, those of IPv4 first, but for the loopback."""
    found = [
        (name, address.family, address.address)
        for name, addresses in sorted(psutil.net_if_addrs().items())
        for address in addresses
        if address.family in (socket.AF_INET, socket.AF_INET6) and not ipaddress.ip_address(address.address).is_loopback
    ]
    four = [(name, address) for name, family, address in found if family == socket.AF_INET]
    # One of a link alone is of use only with the name of the interface, which is another on each host.
    six = [
        (name, address)
        for name, family, address in found
        if family == socket.AF_INET6 and not ipaddress.ip_address(address).is_link_local
    ]
    return four + six


def _address(host: str, own: Sequence[tuple[str, str]]) -> str:
    """An address by which other nodes can reach this one; loopback if there is no other.

    Addresses of bridges and tunnels lead to this host's own guests, and link-local ones (a server's own controller has
    the same on every host) no further than one cable.
    """
    usable = [a for name, a in own if not _VIRTUAL.match(name) and not ipaddress.ip_address(a).is_link_local]
    # What the host's name stands for is what the cluster's administrator means to be used.
    named = resolved(host)
    chosen = next((address for address in usable if address in named), "") or _source(_FAR)
    return chosen if chosen in usable else usable[0] if usable else LOOPBACK


def _source(destination: str) -> str:
    """The address of this host from which another would be sent to; nothing is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((destination, 9))
            return str(probe.getsockname()[0])
    except OSError:  # no route leads there
        return ""


def _devices(environ: Mapping[str, str]) -> tuple[tuple[int, ...], str]:
    """Ids of the accelerators this job may use, and the variable that makes some of them visible to a process.

    A variable that is set restricts the job, also where its value names no ids that are known here: a service inherits
    it then as it is. ("", "-1", "NoDevFiles": no device; parts of a device: "MIG-...".)
    """
    for variable in DEVICE_VARIABLES:
        listed = (each.strip() for each in environ.get(variable, "").split(","))
        # As the vendors' libraries read it: what is no number ends the list.
        if numbers := tuple(map(int, itertools.takewhile(str.isdecimal, listed))):
            return numbers, variable
    for command, pattern, variable in _VENDORS:
        if shutil.which(command[0]) is None or _BELOW.get(variable, "") in environ:
            continue
        wanted = [each.strip() for each in environ[variable].split(",")] if variable in environ else None
        if wanted is not None and not all(each.startswith("GPU-") for each in wanted):
            continue
        answer = _listed(command)
        devices = re.findall(pattern, answer, flags=re.MULTILINE)
        if wanted is not None:  # a beginning of an identifier is enough
            found = [re.findall(rf"^GPU (\d+):.*\(UUID: {re.escape(each)}", answer, re.MULTILINE) for each in wanted]
            devices = [each[0] for each in found if len(each) == 1]
            if len(devices) < len(wanted):
                continue
        if devices:
            return tuple(sorted({int(device) for device in devices})), variable
    return (), ""


def _listed(command: Sequence[str]) -> str:
    """What a tool prints; nothing if it cannot run. One that does not end is not waited for, as it may be unkillable.

    That is so in the middle of a call of its driver. A line on standard error names the host then.
    """
    nothing = subprocess.DEVNULL
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=nothing, text=True, errors="replace")
    except OSError:
        return ""
    try:
        return process.communicate(timeout=LISTING)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        threading.Thread(target=process.wait, daemon=True).start()
    told = f"{socket.gethostname()}: {shlex.join(command)} has not ended within {LISTING:g} s"
    print(f"mpipso: {told}: the host counts as one without such accelerators", file=sys.stderr, flush=True)
    return ""
