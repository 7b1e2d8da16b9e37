"""How tables for people look."""

from __future__ import annotations

from rich import box
from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text


def table_with(*titles: str) -> Table:
    """A table with these columns, the first of them to the left, all others to the right."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for position, title in enumerate(titles):
        table.add_column(Text(title), justify="right" if position else "left", overflow="fold")
    return table


def width_of(table: Table, console: Console, options: ConsoleOptions) -> int:
    """How many characters wide a table is where there is room for it."""
    return Measurement.get(console, options.update(width=10_000), table).maximum
