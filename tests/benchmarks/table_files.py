"""Writes tables of configurations in the format that ``optimisers.py`` reads and describes."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Table = Mapping[tuple[Any, ...], float]
"""The cost of each configuration, to be minimised, by the values of the columns; inf where it failed."""


@dataclass(frozen=True)
class Column:
    name: str
    type: Literal["ord", "cat"]
    values: tuple[Any, ...]


def ordered(name: str, *values: float) -> Column:
    return Column(name, "ord", values)


def category(name: str, *values: str) -> Column:
    return Column(name, "cat", values)


def write(
    folder: Path,
    name: str,
    columns: Sequence[Column],
    table: Table,
    *,
    sparse: bool = False,
    limited: Sequence[str] = (),
    more: Mapping[tuple[Any, ...], Sequence[float]] | None = None,
) -> None:
    """Write ``NAME.csv`` and ``NAME.json``, and print a line on what is in them.

    Of a ``sparse`` table, a configuration that is not in it costs what the nearest one costs; else it has failed. Where
    there are ``limited`` metrics, ``more`` holds, for what has not failed, the rate and the ratio of each of those to
    its limit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(column.name for column in columns), "__value", *(["__rate", *limited] if limited else [])])
        writer.writerows([*values, value, *(more or {}).get(values, [])] for values, value in table.items())
    finite = [value for value in table.values() if math.isfinite(value)]
    best = min(finite)
    about = {"space": [vars(column) for column in columns], "sparse": sparse, "limited": list(limited)}
    about |= {"opt": best, "median": statistics.median(finite)}
    (folder / f"{name}.json").write_text(json.dumps(about, indent=1))
    good = sum(value <= best + 0.05 * abs(best) for value in finite)
    failed = len(table) - len(finite)
    print(f"{name}: {len(table)} configurations, {failed} failed, {good} within 5 % of the best", flush=True)
