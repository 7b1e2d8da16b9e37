"""Groups with hosts on which no rank runs, so that their leader reaches them over ssh."""

from __future__ import annotations

from typing import Literal

import pytest

from mpipso.cluster.hosts import parse_nodes
from mpipso.cluster.placement import form_groups, led, named_without_rank
from mpipso.cluster.plan import Rank
from mpipso.config.parallel import Parallel
from mpipso.errors import UserError

RANKS = [Rank(0, "node0", "10.0.0.10", (0, 1)), Rank(1, "node2", "10.0.0.12", (0, 1))]


def groups(text: str, mode: Literal["auto", "single_node"] = "auto") -> Parallel:
    return Parallel(service_groups=parse_nodes(text), mode=mode)


def test_only_hosts_on_which_no_rank_runs_are_named_without_one() -> None:
    assert named_without_rank(RANKS, groups("node0,node1:10.0.0.12,node3")) == [Rank(-1, "node1"), Rank(-2, "node3")]
    assert named_without_rank(RANKS, Parallel(), ["node2", "node3", "node3", "node0"]) == [Rank(-1, "node3")]
    assert named_without_rank(RANKS, Parallel()) == []
    assert named_without_rank(RANKS, groups("node0,localhost")) == [], "which host that is cannot be told"


def test_a_leader_is_a_rank_wherever_the_group_names_it() -> None:
    parallel = groups("node1,node0:node3,node4,node2")
    placed = form_groups([*RANKS, *named_without_rank(RANKS, parallel)], parallel)
    assert [[node.host for node in group.nodes] for group in placed.groups] == [
        ["node0", "node1"],
        ["node2", "node3", "node4"],
    ]
    # The first named stays the master.
    assert [group.nodes[group.master_node_index].host for group in placed.groups] == ["node1", "node3"]
    assert [node.transport for node in placed.groups[1].nodes] == ["mpi", "ssh", "ssh"]
    assert [placed.index_of(rank) for rank in (0, 1)] == [0, 1]


def test_a_group_without_any_rank_has_no_leader() -> None:
    parallel = groups("node0,node2:node3,node4")
    with pytest.raises(UserError, match=r"group 1 \(node3, node4\) has no rank, but its leader must be one"):
        form_groups([*RANKS, *named_without_rank(RANKS, parallel)], parallel)


def test_what_is_left_of_groups_forms_none_without_a_rank() -> None:
    assert led(parse_nodes("node0,node2:node3,node4:node1,10.0.0.12"), RANKS) == tuple(
        entry for entry in parse_nodes("node0,node2:node3,node4:node1,10.0.0.12") if entry.group_id != 1
    )


def test_groups_share_a_host_without_a_rank_as_they_share_one_with_ranks() -> None:
    parallel = groups("node0,big:node2,big", mode="single_node")
    known = [
        Rank(rank.rank, rank.host, "10.0.0.99", (0, 1, 2, 3), (6, 7), "V")
        for rank in named_without_rank(RANKS, parallel)
    ]
    placed = form_groups([*RANKS, *known], parallel)
    assert [(group.nodes[1].cores, group.nodes[1].devices) for group in placed.groups] == [
        ((0, 1), (6,)),
        ((2, 3), (7,)),
    ]


def test_a_host_without_a_rank_is_never_spare() -> None:
    parallel = groups("node0,big:node2,big", mode="single_node")
    small = [Rank(rank.rank, rank.host, "10.0.0.99", (0,)) for rank in named_without_rank(RANKS, parallel)]
    placed = form_groups([*RANKS, *small], parallel)
    assert len(placed.groups) == 1
    assert [spare.node.rank for spare in placed.spares] == [1]


def test_without_ssh_the_message_tells_of_it() -> None:
    with pytest.raises(UserError, match=r"no rank of this job runs on node9: .*; with --ssh \(parallel\.ssh = true\)"):
        form_groups(RANKS, groups("node0,node9:node2"))
