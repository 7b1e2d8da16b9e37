"""The rooms of the house: what their docstrings say is in them, and which parts of the package may know which."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import mpipso

HOUSE = Path(mpipso.__file__).parent
ROOMS = {
    "search": {"config", "search"},
    "cluster": {"config", "cluster", "service"},
    "service": {"config", "service"},
    "record": {"config", "record"},
    "config": {"config"},
    "launch": {"config", "launch", "record", "cluster"},
}
"""Each room, and the rooms of which it may import something."""
STOREYS = (
    {"__main__"},
    {"cli"},
    {"check"},
    {"launch", "run"},
    {"runrecord"},
    {"root"},
    {"roles", "farewell", "overdue"},
    {"rendezvous"},
    {"tuning", "notes", "manual", "outsiders", "links"},
    {"agreement", "startup", "conflicts", "incumbent", "messages", "output", "terminal", "worth"},
    {"search", "cluster", "service", "record", "config"},
    {"redact", "signals", "edition", "timelimits"},
    {"evaluation", "score", "launched", "logtext", "suspension", "flags"},
    {"errors", "batch"},
    {"wording"},
)
"""From top to bottom, the rooms and the modules beside them: each imports only what is further down, of its own storey
only what ``ROOMS`` says."""


def imported(path: Path) -> Iterator[str]:
    """The modules of which a file imports something, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(room: str) -> list[Path]:
    found = sorted((HOUSE / room).rglob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("room", [*ROOMS, "service/clients"])
def test_a_room_s_docstring_names_all_of_its_files(room: str) -> None:
    said = ast.get_docstring(ast.parse((HOUSE / room / "__init__.py").read_text())) or ""
    names = {path.stem for path in (HOUSE / room).glob("*.py")} - {"__init__"}
    assert names <= set(re.findall(r"``(\w+)``", said))


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_knows_only_those_below_it(room: str) -> None:
    known = {
        (path.name, module.split(".")[1])
        for path in files(room)
        for module in imported(path)
        if module.startswith("mpipso.") and module.split(".")[1] in ROOMS
    }
    assert {other for _, other in known} <= ROOMS[room], sorted(known)


def test_arrows_run_down_from_the_command_line() -> None:
    storey = {name: number for number, names in enumerate(STOREYS) for name in names}
    parts = {path.stem for path in HOUSE.glob("*.py")} - {"__init__"} | {*ROOMS}
    assert parts == {*storey}
    upward = {
        (part, other)
        for path in HOUSE.rglob("*.py")
        for module in imported(path)
        if (part := path.relative_to(HOUSE).parts[0].removesuffix(".py")) in parts
        and (other := f"{module}.".split(".")[1]) in parts
        and module.startswith("mpipso.")
        and storey[other] <= storey[part]
        and other not in ROOMS.get(part, ())
    }
    assert not upward


def test_only_the_cluster_knows_mpi() -> None:
    knows = {path for path in HOUSE.rglob("*.py") if any(each.split(".")[0] == "mpi4py" for each in imported(path))}
    assert knows
    assert {path.relative_to(HOUSE).parts[0] for path in knows} == {"cluster"}


@pytest.mark.parametrize("room", ["search", "record"])
def test_what_is_tried_and_what_is_kept_know_no_processes(room: str) -> None:
    knows = {path.name for path in files(room) if {"psutil", "subprocess"} & {*imported(path)}}
    assert not knows
