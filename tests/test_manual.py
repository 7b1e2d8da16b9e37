"""How the best configuration is started by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mpipso.cluster.plan import PlacedGroup, PlacedNode
from mpipso.config import Config
from mpipso.config.file import parse
from mpipso.manual import manual_start


def spanning(more: str = "", command: str = "{port}") -> Config:
    """A service of a master and workers, without the rest of a run."""
    text = f"""
[service]
engine = "command"
command = ["serve", "{command}"]
worker_command = ["work"]
{more}
[benchmark]
client = "command"
command = ["measure"]
[objective]
maximize = "output_throughput"
[[parameters]]
name = "batch"
type = "int"
min = 1
max = 9
default = 2
env = "BATCH"
"""
    return parse(text, "spanning.toml")


def group_on(*hosts: str) -> PlacedGroup:
    return PlacedGroup(0, tuple(PlacedNode(rank, host, host, (0,), ()) for rank, host in enumerate(hosts)))


def test_the_commands_by_hand_tell_the_ranks_of_their_nodes(tmp_path: Path) -> None:
    starts = manual_start(spanning(), group_on("a", "a", "a"), tmp_path, {"batch": 3})
    assert [(start.host, start.rank) for start in starts] == [("a", 1), ("a", 2), ("a", 0)]
    assert all(start.env["MPIPSO_NODE_RANK"] == str(start.rank) for start in starts)
    assert (tmp_path / "best-config.json").exists()


def test_what_is_done_by_hand_on_a_node_is_for_that_node(tmp_path: Path) -> None:
    file = """update_command = ["apply", "{config}", "{node_rank}"]
[service.config_file]
content = '{"port": "{port}", "ip": "{node_addr}", "file": "{config}"}'"""
    (tmp_path / "best-config-2.json").write_text("of a best before")
    starts = manual_start(spanning(file, command="--config={config}"), group_on("a", "b"), tmp_path, {"batch": 3})
    assert not (tmp_path / "best-config-2.json").exists()
    worker, master = (str(tmp_path.resolve() / f"best-config{rank}.json") for rank in ("-1", ""))
    assert [start.update for start in starts] == [("apply", worker, "1"), ("apply", master, "0")]
    assert [start.file for start in starts] == [worker, master]
    assert starts[1].argv == ("serve", f"--config={master}")
    assert json.loads(Path(worker).read_text()) == {"port": 8080, "ip": "b", "file": worker}
    assert json.loads(Path(master).read_text()) == {"port": 8080, "ip": "a", "file": master}
    assert Path(master).stat().st_mode & 0o777 == 0o600, "it may hold secrets, and some services insist"


@pytest.mark.parametrize(
    ("where", "used"),
    [("", False), ("--data={work_dir}", True), ('[service.config_file]\ncontent = \'{"data": "{work_dir}"}\'', True)],
)
def test_a_service_that_is_started_by_hand_has_a_work_folder_of_its_own(where: str, used: bool, tmp_path: Path) -> None:
    config = spanning(command=where) if where.startswith("--") else spanning(where)
    work = tmp_path.resolve() / "best-work"
    starts = manual_start(config, group_on("a"), tmp_path, {"batch": 3})
    assert [start.folder for start in starts] == ([str(work)] if used else [""])
    assert not work.exists(), "it is made where and when the service is started"


@pytest.mark.parametrize(("command", "copied"), [("--data={work_dir}", True), ("{config}", False)])
def test_the_work_folder_by_hand_has_the_configuration_file_by_its_name(
    command: str, copied: bool, tmp_path: Path
) -> None:
    config = spanning("[service.config_file]\nname = 'conf/Caddyfile'\ncontent = 'x'", command=command)
    folder = tmp_path.resolve()
    (start,) = manual_start(config, group_on("a"), tmp_path, {"batch": 3})
    copy = (f"{folder}/best-config.txt", f"{folder}/best-work/conf/Caddyfile")
    assert start.copy == (copy if copied else ())


@pytest.mark.parametrize("hosts", [("a", "a"), ("a", "b")])
def test_nodes_that_are_started_by_hand_share_no_work_folder(hosts: tuple[str, ...], tmp_path: Path) -> None:
    file = "update_command = ['clear', '{work_dir}']\n[service.config_file]\ncontent = '{\"data\": \"{work_dir}\"}'"
    starts = manual_start(spanning(file, command="--config={config}"), group_on(*hosts), tmp_path, {"batch": 3})
    for start, rank in zip(starts, (1, 0), strict=True):
        work = f"{tmp_path.resolve()}/best-work-{rank}"
        assert (start.rank, start.folder, start.update) == (rank, work, ("clear", work))
    assert [
        json.loads((tmp_path / name).read_text())["data"] for name in ("best-config.json", "best-config-1.json")
    ] == [f"{tmp_path.resolve()}/best-work-{rank}" for rank in (0, 1)]


def test_a_service_by_hand_has_its_text_with_the_best_values(tmp_path: Path) -> None:
    file = "[service.config_file]\nname = 'nginx.conf'\ncontent = 'listen {port}; # {batch} ${batch}'"
    (start,) = manual_start(spanning(file, command="{config}"), group_on("a"), tmp_path, {"batch": 3})
    assert start.argv == ("serve", str(tmp_path.resolve() / "best-config.conf"))
    assert (tmp_path / "best-config.conf").read_text() == "listen 8080; # 3 ${batch}"


@pytest.mark.parametrize(
    ("config", "hosts", "needing"),
    [
        (spanning(), ("a", "b"), []),
        (spanning(command="--config={config}"), ("a", "b"), ["a"]),
        (spanning(command="--config={config}"), ("a", "a"), []),
        (spanning("[service.config_file]"), ("a", "b"), ["b", "a"]),
        (spanning("[service.env]\nSETTINGS = '{config}'"), ("a", "b"), ["b", "a"]),
    ],
)
def test_hosts_that_do_not_see_the_folder_need_the_configuration_file(
    config: Config, hosts: tuple[str, ...], needing: list[str], tmp_path: Path
) -> None:
    starts = manual_start(config, group_on(*hosts), tmp_path, {"batch": 3})
    path = str(tmp_path.resolve() / "best-config.json")
    assert [start.host for start in starts if start.file == path] == needing
    assert {start.file for start in starts} <= {"", path}
