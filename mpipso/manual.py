"""What would be started on a group's nodes outside a run: what ``mpipso check`` shows and ``best.*`` keep."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from mpipso.cluster.plan import PlacedGroup
from mpipso.config import Config
from mpipso.conflicts import LAST_PORT
from mpipso.evaluation import Configuration
from mpipso.record.folders import remove, write_whole
from mpipso.record.recipe import NodeStart
from mpipso.service.engines.base import Layout, Start, engine_of
from mpipso.service.facts import showing
from mpipso.wording import ranges

WORK = "best-work"
"""The work folder, beside the files of the best configuration, of a service that is started by hand.

Where several nodes start something each has its own, with its rank behind the name: they may be on one host, or share
their file system.
"""
DEFAULT_PORT = 8080
"""Stands for a port that the configuration leaves open."""


def layout(group: PlacedGroup, work_dir: str, config: str) -> Layout:
    """Where a service runs that is started by hand on the nodes of a group.

    ``work_dir`` is the folder on each node, and ``config`` the path of the configuration file. If the group's port is
    left open, :data:`DEFAULT_PORT` stands for it.
    """
    port = group.port or DEFAULT_PORT
    return Layout(
        nodes=group.nodes,
        master=group.master_node_index,
        port=port,
        master_port=port + (1000 if port + 1000 <= LAST_PORT else -1000),
        work_dirs=tuple(work_dir for _ in group.nodes),
        configs=tuple(config for _ in group.nodes),
    )


def manual_start(config: Config, group: PlacedGroup, folder: Path, configuration: Configuration) -> list[NodeStart]:
    """The commands that start the service by hand on a group's nodes; its configuration files are written for them.

    Raises
    ------
    RunFailed
        The disk is full or fails.
    """
    engine = engine_of(config)
    placed = _in_folder(config, group, folder.resolve(), configuration)
    texts = _texts(config, configuration, placed)
    starts = engine.starts(config, configuration, placed)
    for start in starts:
        write_whole(Path(placed.configs[start.node]), texts[start.node], 0o600)
    written = {Path(placed.configs[start.node]).name for start in starts}
    for file in folder.glob("best-config*"):
        if file.name not in written:  # of a best that had more of them
            remove(file)
    return [_node_start(config, group, configuration, placed, start, texts[start.node]) for start in starts]


def _in_folder(config: Config, group: PlacedGroup, folder: Path, configuration: Configuration) -> Layout:
    """Where the service runs, with its configuration files in the run's folder."""
    file = config.service.config_file
    suffix = file.suffix if file is not None else ".json"
    # What the service writes is not to be mixed with what mpipso has written.
    work, common = str(folder / WORK), str(folder / f"best-config{suffix}")
    placed = layout(group, work, common)
    if len(engine_of(config).starts(config, configuration, placed)) > 1:
        placed = replace(placed, work_dirs=tuple(f"{work}-{rank}" for rank in placed.node_ranks))
    # Nodes that are told their own addresses have files of their own.
    texts = _texts(config, configuration, placed)
    configs = (
        common if text == texts[placed.master] else str(folder / f"best-config-{rank}{suffix}")
        for text, rank in zip(texts, placed.node_ranks, strict=True)
    )
    return replace(placed, configs=tuple(configs))


def _texts(config: Config, configuration: Configuration, placed: Layout) -> list[str]:
    """The text of the configuration file on each node."""
    engine = engine_of(config)
    files = [engine.file(config, configuration, placed, node) for node in range(len(placed.nodes))]
    return [file.decode() if file else json.dumps(dict(configuration), indent=2) for file in files]


def _node_start(
    config: Config, group: PlacedGroup, configuration: Configuration, placed: Layout, start: Start, text: str
) -> NodeStart:
    service, node, path = config.service, group.nodes[start.node], placed.configs[start.node]
    engine, work_dir = engine_of(config), placed.work_dirs[start.node]
    update = engine.fill(service.update_command, config, configuration, placed, start.node)
    told = (*start.command, *update, *(value for key, value in start.env.items() if key in service.env))
    # The other hosts need not see the folder of the run.
    elsewhere = len({each.host for each in group.nodes}) > 1
    needed = elsewhere and (service.config_file is not None or any(path in word for word in told))
    used = any(work_dir in word for word in (*told, text))
    return NodeStart(
        node.host,
        start.command,
        {**showing(node.device_variable, node.devices), **start.env},
        placed.node_ranks[start.node],
        path if needed else "",
        tuple(update),
        work_dir if used else "",
        (path, str(Path(work_dir) / service.config_name)) if used and service.config_file is not None else (),
        ranges(node.cores) if node.cores else "",
    )
