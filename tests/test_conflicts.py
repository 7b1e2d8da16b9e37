"""What keeps a configuration from running on the groups that were formed."""

from __future__ import annotations

import pytest

from mpipso.cluster.plan import PlacedGroup, PlacedNode, Plan
from mpipso.conflicts import loopback_problems


@pytest.mark.parametrize(
    ("nodes", "lonely"),
    [
        ([("a", "10.0.0.1"), ("b", "10.0.0.2")], ""),
        ([("a", "10.0.0.1"), ("b", "127.0.0.1")], "b"),
        ([("a", "127.0.0.1"), ("b", "127.0.0.1")], "a, b"),
        ([("a", "127.0.0.1"), ("a", "127.0.0.1")], ""),
        ([("a", "127.0.0.1")], ""),
    ],
)
def test_a_host_with_no_address_but_loopback_is_no_part_of_a_group(nodes: list[tuple[str, str]], lonely: str) -> None:
    placed = tuple(PlacedNode(rank, host, address, (), ()) for rank, (host, address) in enumerate(nodes))
    told = loopback_problems(Plan((PlacedGroup(0, placed),)))
    assert [line.partition(":")[0] for line in told] == ([lonely] if lonely else [])
