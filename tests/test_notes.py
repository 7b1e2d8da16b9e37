from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mpipso.notes import regrouping_note


def plan(*groups: Sequence[int]) -> dict[str, Any]:
    """Groups by the numbers of cores of their nodes."""
    return {"groups": [{"group": i, "hosts": [], "cores": [[*range(n)] for n in g]} for i, g in enumerate(groups)]}


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (plan([2]), plan([1], [1]), "1 group of 1 node with 2 cores, now 2 groups of 1 node with 1 core"),
        (plan([8, 8]), plan([8]), "1 group of 2 nodes with 8 cores each, now 1 group of 1 node with 8 cores"),
        (
            plan([4], [4, 8]),
            plan([4], [2]),
            "1 group of 1 node with 4 cores and 1 group of 2 nodes with 4 and 8 cores, now 1 group of 1 node with 4 "
            "cores and 1 group of 1 node with 2 cores",
        ),
    ],
)
def test_other_groups_than_those_of_the_earlier_session_are_told(
    before: dict[str, Any], now: dict[str, Any], told: str
) -> None:
    start, end = "service groups differ from the earlier session's: ", ": what was measured before may not compare"
    assert regrouping_note(before, now) == f"{start}{told}{end}"


@pytest.mark.parametrize("before", [{}, {"groups": [{"group": 0, "hosts": ["a"]}]}, plan([1]), plan([1], [2])])
def test_as_many_nodes_and_cores_are_not_nor_what_is_not_known(before: dict[str, Any]) -> None:
    assert regrouping_note(before, plan([1], [1], [1])) is None
