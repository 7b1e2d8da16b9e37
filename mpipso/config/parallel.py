"""The configuration of nodes: which of them form which service groups, and how those without a rank are reached."""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from mpipso.config.parameters import Count, Seconds, Section

MOST_DEVICES = 1024
"""Of a node: far more than there are."""
LEAST_LEASE = 3.0
"""Seconds: a rank gives a sign of life every 2 s (``roles.BEAT``), and each may be late by half of that."""


class NodeEntry(Section):
    """A node of a hand-written service group; port and user matter only if it is reached over ssh.

    ``address`` is where the others of its group reach it.
    """

    host: Annotated[str, Field(min_length=1)]
    npu_ids: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    address: str = ""
    ssh_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    ssh_user: str = ""

    @field_validator("host")
    @classmethod
    def _named(cls, host: str) -> str:
        if host.startswith("-"):  # which ssh would take for one of its options
            raise ValueError("a host's name does not begin with '-'")
        return host

    @field_validator("address")
    @classmethod
    def _one_of_a_host(cls, address: str) -> str:
        return str(ipaddress.ip_address(address)) if address else ""

    @field_validator("npu_ids")
    @classmethod
    def _distinct(cls, ids: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if ids is not None and len(set(ids)) < len(ids):
            raise ValueError(f"{list(ids)} names a device twice")
        return ids


class GroupEntry(Section):
    """A hand-written service group; the service's master runs on ``nodes[master_node_index]``.

    Without an index of its own, that of the section holds.
    """

    group_id: Annotated[int, Field(ge=0)]
    nodes: Annotated[tuple[NodeEntry, ...], Field(min_length=1)]
    master_node_index: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _disjoint(self) -> GroupEntry:
        named = Counter((node.host, device) for node in self.nodes for device in node.npu_ids or ())
        if twice := [pair for pair, times in named.items() if times > 1]:
            host, device = twice[0]
            raise ValueError(f"device {device} of {host} is given to {named[twice[0]]} nodes of one group")
        return self

    @model_validator(mode="after")
    def _master_exists(self) -> GroupEntry:
        if self.master_node_index is not None and self.master_node_index >= len(self.nodes):
            raise ValueError(
                f"master_node_index = {self.master_node_index} but nodes are counted from 0 to {len(self.nodes) - 1}"
            )
        return self


class Parallel(Section):
    """Which ranks form which service groups; ``devices_per_node`` counts accelerators (NPUs, GPUs).

    Groups take two nodes each unless ``nodes_per_group`` says otherwise or the job has a single rank.
    The nodes of a group reach each other at their addresses in ``network`` (10.0.0.0/24), or where their names lead.
    With ``ssh``, hosts of named groups on which no rank runs are reached over ssh by the leader of their group.
    A rank that has not been heard of for ``lease`` seconds counts as lost: healthy ones, too, are silent for 2 s at a
    time. A group that fails ``quarantine_after`` evaluations in a row gets no more until it measures the baseline,
    which it tries after ``probe_pause`` seconds and, each time that this fails, after twice the pause before.
    """

    enabled: bool = True
    mode: Literal["auto", "single_node", "multi_node"] = "auto"
    nodes_per_group: Count | None = None
    devices_per_node: Annotated[int, Field(ge=0, le=MOST_DEVICES)] | None = None
    device_variable: str = ""
    share_cores: bool = False
    network: str = ""
    ssh: bool = False
    lease: Annotated[float, Field(ge=LEAST_LEASE)] = 30.0
    quarantine_after: Count = 3
    probe_pause: Seconds = 30.0
    master_node_index: Annotated[int, Field(ge=0)] = 0
    service_groups: tuple[GroupEntry, ...] = ()

    @field_validator("network")
    @classmethod
    def _a_network(cls, network: str) -> str:
        return str(ipaddress.ip_network(network)) if network else ""

    @model_validator(mode="after")
    def _distinct_groups(self) -> Parallel:
        ids = [group.group_id for group in self.service_groups]
        twice = sorted({number for number in ids if ids.count(number) > 1})
        if twice:
            raise ValueError(f"group_id {twice[0]} is given to {ids.count(twice[0])} service groups")
        return self


class Ssh(Section):
    """How nodes without a rank are reached, if ``parallel.ssh`` says so; what is left out is as ``~/.ssh/config`` says.

    ``python`` is the interpreter there with mpipso installed, the leader's own path unless given. ``known_hosts`` is
    the file with the hosts' keys, ``identity_files`` are private keys.
    """

    python: str = ""
    connect_timeout: Seconds = 20.0
    known_hosts: str = ""
    identity_files: tuple[str, ...] = ()
