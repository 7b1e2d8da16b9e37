"""What would be started on a group's nodes outside a run: what ``mpipso check`` shows and ``best.*`` keep."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from mpipso.cluster.plan import PlacedGroup
from mpipso.config import Config
from mpipso.conflicts import LAST_PORT
from mpipso.evaluation import Configuration
from mpipso.record.folders import remove, write_whole
from mpipso.record.recipe import NodeStart
from mpipso.service.engines.base import ENGINES, Layout
from mpipso.service.facts import showing
from mpipso.wording import ranges

WORK = "best-work"
"""The work folder, beside the files of the best configuration, of a service that is started by hand.

Where several nodes start something each has its own, with its rank behind the name: they may be on one host, or share
their file system.
"""
DEFAULT_PORT = 8080
"""Stands for a port that the configuration leaves open."""


def layout(group: PlacedGroup, port: int, work_dir: str, config_name: str) -> Layout:
    """Where a service runs that is started by hand on the nodes of a group.

    ``work_dir`` is the folder on each node, and ``config_name`` the configuration file in it, or an absolute path. For
    ``port`` 0, which leaves the port open, :data:`DEFAULT_PORT` stands.
    """
    port = port or DEFAULT_PORT
    return Layout(
        hosts=tuple(node.host for node in group.nodes),
        addresses=tuple(node.address or node.host for node in group.nodes),
        master=group.master_node_index,
        port=port,
        master_port=port + (1000 if port + 1000 <= LAST_PORT else -1000),
        work_dirs=tuple(work_dir for _ in group.nodes),
        config_name=config_name,
        devices=tuple(node.devices for node in group.nodes),
        cores=tuple(node.cores for node in group.nodes),
    )


def manual_start(config: Config, group: PlacedGroup, folder: Path, configuration: Configuration) -> list[NodeStart]:
    """The commands that start the service by hand on a group's nodes; its configuration files are written for them.

    Raises
    ------
    RunFailed
        The disk is full or fails.
    """
    engine = ENGINES.create(config.service.engine)
    service = config.service
    suffix = service.config_file.suffix if service.config_file is not None else ".json"
    # What the service writes is not to be mixed with what mpipso has written.
    here, work = folder.resolve(), str(folder.resolve() / WORK)
    placed = layout(group, service.port, work, str(here / f"best-config{suffix}"))
    if len(engine.starts(config, configuration, placed)) > 1:
        placed = dataclasses.replace(placed, work_dirs=tuple(f"{work}-{rank}" for rank in placed.node_ranks))
    plain = json.dumps(dict(configuration), indent=2).encode()
    texts = [engine.file(config, configuration, placed, node) or plain for node in range(len(group.nodes))]
    starts, written = [], set()
    for position, node in enumerate(start.node for start in engine.starts(config, configuration, placed)):
        # Nodes that are told their own addresses have files of their own.
        alike = texts[node] == texts[placed.master]
        name = f"best-config{suffix}" if alike else f"best-config-{placed.node_ranks[node]}{suffix}"
        write_whole(folder / name, texts[node].decode(), 0o600)
        written.add(name)
        own = dataclasses.replace(placed, config_name=str(here / name))
        start = engine.starts(config, configuration, own)[position]
        update = engine.fill(service.update_command, config, configuration, own, node)
        told = (*start.command, *update, *(value for key, value in start.env.items() if key in service.env))
        # The other hosts need not see the folder of the run.
        elsewhere = len({each.host for each in group.nodes}) > 1
        path = str(here / name)
        needed = elsewhere and (service.config_file is not None or any(path in word for word in told))
        starts.append(
            NodeStart(
                group.nodes[node].host,
                start.command,
                {**showing(group.nodes[node].device_variable, group.nodes[node].devices), **start.env},
                placed.node_ranks[node],
                path if needed else "",
                tuple(update),
                own.work_dirs[node] if any(work in word for word in (*told, texts[node].decode())) else "",
                ranges(group.nodes[node].cores) if group.nodes[node].cores else "",
            )
        )
    for file in folder.glob("best-config*"):
        if file.name not in written:  # of a best that had more of them
            remove(file)
    return starts
