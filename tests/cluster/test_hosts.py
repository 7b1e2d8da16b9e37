from __future__ import annotations

import pytest

from mpipso.cluster.hosts import Hosts
from mpipso.cluster.plan import Rank


@pytest.mark.parametrize("own", ["node0", "node0.example.org", "node0.example.org."])
def test_a_dot_at_the_end_of_a_name_does_not_matter(own: str) -> None:
    hosts = Hosts([Rank(0, own), Rank(1, "node1")])
    assert hosts.find("node0.example.org.") == hosts.find("node0.") == hosts.find("node0") == own
    assert hosts.find("node0.other.org.") == (own if own == "node0" else None)
    assert hosts.absent("node2.") and not hosts.absent("localhost.")
