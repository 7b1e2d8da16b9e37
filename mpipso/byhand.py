"""What would be started on a group's nodes outside a run: what ``mpipso check`` shows and ``best.*`` keep."""

from __future__ import annotations

import json
from pathlib import Path

from mpipso.cluster.plan import PlacedGroup
from mpipso.config import Config
from mpipso.evaluation import Configuration
from mpipso.record.folders import replace
from mpipso.record.recipe import Start
from mpipso.service.engines.base import ENGINES, Layout

DEFAULT_PORT = 8080
"""Stands for a port that the configuration leaves open."""


def layout(config: Config, group: PlacedGroup, port: int, work_dir: str, config_name: str) -> Layout:
    """A start on the nodes of a group, with the same folder on each; ``port`` 0 is one that is left open."""
    port = port or DEFAULT_PORT
    return Layout(
        addresses=tuple(node.address or node.host for node in group.nodes),
        master=group.master_node_index,
        port=port,
        master_port=port + 1000,
        work_dirs=tuple(work_dir for _ in group.nodes),
        config_name=config_name,
        devices=tuple(node.devices for node in group.nodes),
        cores=tuple(node.cores for node in group.nodes),
    )


def by_hand(config: Config, group: PlacedGroup, folder: Path, configuration: Configuration) -> list[Start]:
    """The commands that start the service by hand on a group's nodes; its configuration file is written for them.

    Raises
    ------
    RunFailed
        The disk is full or fails.
    """
    engine = ENGINES.create(config.service.engine)
    file = config.service.config_file
    name = f"best-config.{file.format if file is not None else 'json'}"
    content = engine.file(config, configuration) or json.dumps(dict(configuration), indent=2).encode()
    replace(folder / name, content.decode())
    placed = layout(config, group, config.service.port, str(folder.resolve()), name)
    path = str(folder.resolve() / name)
    starts = []
    for start in engine.starts(config, configuration, placed):
        node = group.nodes[start.node]
        told = (*start.command, *(value for key, value in start.env.items() if key in config.service.env))
        # The other hosts need not see the folder of the run.
        elsewhere = len({node.host for node in group.nodes}) > 1
        needed = elsewhere and (file is not None or any(path in word for word in told))
        env = {**node.visibility, **start.env}
        starts.append(Start(node.host, start.command, env, placed.node_ranks[start.node], path if needed else ""))
    return starts
