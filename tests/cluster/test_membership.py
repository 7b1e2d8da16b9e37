"""Groups that end with a lost rank, and new ones of what is left."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mpipso.cluster.membership import Loss, Membership
from mpipso.cluster.placement import form_groups
from mpipso.cluster.plan import PlacedGroup, PlacedNode, Plan, Rank, Spare
from mpipso.config.parallel import Parallel


def node(rank: int, host: str = "", cores: Sequence[int] = (0,)) -> PlacedNode:
    return PlacedNode(rank, host or f"host{rank}", "10.0.0.1", tuple(cores), (rank,))


def membership(
    groups: Sequence[Sequence[PlacedNode]],
    spares: Sequence[PlacedNode] = (),
    master: int = 0,
    ports: Sequence[int] = (),
) -> Membership:
    every = ports or [0] * len(groups)
    placed = tuple(PlacedGroup(number, tuple(groups[number]), master, port) for number, port in enumerate(every))
    return Membership(Plan(placed, tuple(Spare("left over", each) for each in spares)), min(every))


def pairs(count: int, spares: int = 0) -> Membership:
    """Groups of two nodes, each on a host of its own: 0-1, 2-3, ..."""
    ranks = [node(rank) for rank in range(2 * count + spares)]
    return membership([ranks[2 * i : 2 * i + 2] for i in range(count)], ranks[2 * count :])


def formed(what: Membership) -> dict[int, list[int]]:
    return {number: [each.rank for each in group.nodes] for number, group in what.form()}


def test_what_the_plan_says() -> None:
    ranks = pairs(2, spares=1)
    assert {number: ranks.leader(number) for number in ranks.groups} == {0: 0, 1: 2}
    assert ranks.group_of(3) == 1
    assert ranks.group_of(4) is None
    assert ranks.spares == {4}
    assert ranks.form() == []


def test_a_lost_member_ends_its_group_and_the_leader_leads_it_out() -> None:
    ranks = pairs(2)
    assert ranks.lose(3, dead=True) == Loss("host3", 1, ended=True, leader=2, survivors=(2,))
    assert set(ranks.groups) == {0}
    assert ranks.leaving == {2}
    assert ranks.spares == frozenset()


def test_without_its_leader_each_survivor_leaves_by_itself() -> None:
    ranks = membership([[node(0), node(1), node(2)]])
    assert ranks.lose(0, dead=True) == Loss("host0", 0, ended=True, leader=None, survivors=(1, 2))


def test_a_leader_that_is_lost_while_it_disbands_leaves_its_members_alone() -> None:
    ranks = membership([[node(0)], [node(1), node(2), node(3)]])
    assert ranks.lose(3, dead=True) == Loss("host3", 1, ended=True, leader=1, survivors=(1, 2))
    assert ranks.lose(1, dead=False) == Loss("host1", 1, ended=False, leader=None, survivors=(2,))
    assert ranks.leaving == {2}


def test_two_losses_in_one_group_end_it_once() -> None:
    ranks = membership([[node(0)], [node(1), node(2), node(3)]])
    first, second = ranks.lose(2, dead=True), ranks.lose(3, dead=True)
    assert first == Loss("host2", 1, ended=True, leader=1, survivors=(1, 3))
    assert second == Loss("host3", 1, ended=False, leader=1, survivors=(1,))
    ranks.free(1)
    assert formed(ranks) == {}
    assert set(ranks.groups) == {0}


def test_a_node_that_has_no_rank_has_no_group_to_leave() -> None:
    """It is reached by ssh."""
    ranks = membership([[node(0)], [node(1), node(-1)]])
    assert ranks.lose(1, dead=True) == Loss("host1", 1, ended=True, leader=None, survivors=())
    assert ranks.leaving == frozenset()


def test_a_loss_is_told_once() -> None:
    ranks = pairs(1)
    assert ranks.lose(1, dead=False) is not None
    assert ranks.lose(1, dead=False) is None
    assert ranks.lose(1, dead=True) is None


def test_a_lost_spare_is_no_ones_loss() -> None:
    ranks = pairs(1, spares=1)
    assert ranks.lose(2, dead=True) == Loss("host2", group=None, ended=False, leader=None, survivors=())
    assert ranks.spares == frozenset()


def test_a_new_group_takes_the_place_of_the_ended_one_with_a_number_of_its_own() -> None:
    ranks = pairs(2, spares=1)
    assert ranks.lose(1, dead=True) == Loss("host1", 0, ended=True, leader=0, survivors=(0,))
    assert formed(ranks) == {}, "its leader has not left it yet"
    assert ranks.leaving == {0}
    assert not ranks.free(0)
    assert ranks.leaving == frozenset()
    assert formed(ranks) == {2: [0, 4]}
    assert ranks.leader(2) == 0, "the root leads its own"
    assert ranks.spares == frozenset()
    ranks.lose(4, dead=True)
    ranks.lose(3, dead=True)
    ranks.free(2)
    ranks.free(0)
    assert formed(ranks) == {3: [0, 2]}, "the survivors of two groups make one"
    assert set(ranks.groups) == {3}


def test_a_survivor_alone_waits() -> None:
    ranks = pairs(2)
    ranks.lose(1, dead=True)
    ranks.free(0)
    assert formed(ranks) == {}
    assert ranks.spares == {0}


def test_no_group_forms_where_none_has_ended() -> None:
    ranks = pairs(1, spares=4)
    assert formed(ranks) == {}
    ranks.lose(1, dead=True)
    assert formed(ranks) == {1: [2, 3]}
    ranks.free(0)
    assert formed(ranks) == {}, "its place is taken"


def test_a_rank_that_comes_back_restores_a_group() -> None:
    ranks = pairs(2)
    ranks.lose(3, dead=False)
    ranks.free(2)
    assert formed(ranks) == {}
    assert ranks.free(3), "it was lost and is back"
    assert ranks.lost == set()
    assert formed(ranks) == {2: [2, 3]}


def test_a_rank_that_comes_back_before_the_others_have_left_waits_for_them() -> None:
    ranks = pairs(1)
    ranks.lose(1, dead=False)
    assert ranks.free(1)
    assert formed(ranks) == {}
    assert not ranks.free(0)
    assert formed(ranks) == {1: [0, 1]}


def test_to_say_twice_that_it_is_free_changes_nothing() -> None:
    ranks = pairs(1)
    ranks.lose(1, dead=False)
    ranks.free(0)
    ranks.free(1)
    assert formed(ranks) == {1: [0, 1]}
    assert not ranks.free(1)
    assert ranks.spares == frozenset(), "it has a seat meanwhile"


def test_what_a_rank_said_before_it_died_makes_no_group_of_it() -> None:
    ranks = pairs(1, spares=1)
    ranks.lose(1, dead=False)
    ranks.free(0)
    ranks.lose(2, dead=True)
    ranks.lose(1, dead=True)
    assert not ranks.free(1) and not ranks.free(2)
    assert ranks.spares == {0} and ranks.lost == {1, 2} and ranks.form() == []


def test_a_new_group_keeps_the_place_of_the_master() -> None:
    ranks = membership([[node(0), node(1)]], [node(2)], master=1)
    ranks.lose(1, dead=True)
    ranks.free(0)
    ((_, group),) = ranks.form()
    assert group.master_node_index == 1
    assert group.nodes == (node(0), node(2))


def test_a_new_group_takes_the_lowest_port_that_no_group_has_on_its_master_s_host() -> None:
    ranks = membership([[node(0, "a")], [node(1, "a")], [node(2, "b")]], [node(3, "a")], ports=(8000, 8001, 8000))
    ranks.lose(2, dead=False)
    assert [group.port for _, group in ranks.form()] == [8002]
    ranks.lose(1, dead=True)
    ranks.free(2)
    ((_, on_b),) = ranks.form()
    assert (on_b.master.host, on_b.port) == ("b", 8000)


@pytest.mark.parametrize(("dead", "port"), [(False, 8004), (True, 8002)])
def test_a_rank_that_is_not_heard_of_may_still_hold_its_port(dead: bool, port: int) -> None:
    nodes = [node(rank, "a") for rank in range(5)]
    ranks = membership([nodes[:2], nodes[2:4]], nodes[4:], ports=(8000, 8002))
    ranks.lose(2, dead=dead)
    ranks.free(3)
    ((_, group),) = ranks.form()
    assert group.port == port


def test_nor_is_a_port_free_before_the_ranks_have_left_that_stop_the_service() -> None:
    nodes = [node(rank, "a") for rank in range(5)]
    ranks = membership([nodes[:1], nodes[1:3]], nodes[3:], ports=(8000, 8001))
    ranks.lose(2, dead=True)
    ((_, group),) = ranks.form()
    assert (group.port, ranks.leaving) == (8003, {1})


@pytest.mark.parametrize("dead", [True, False])
def test_but_it_is_on_a_host_that_has_stopped_its_part_of_the_service(dead: bool) -> None:
    """Or a service with a port of its own, of which its command says nothing, would not be found there."""
    ranks = membership([[node(0), node(1), node(2)]], [node(3), node(4)], ports=(8000,))
    ranks.lose(2, dead=dead)
    ranks.free(0)
    ((_, group),) = ranks.form()
    assert (group.master.rank, group.port, ranks.leaving) == (0, 8000, {1})


def test_the_biggest_group_is_restored_first() -> None:
    ranks = membership([[node(0)], [node(1), node(2)], [node(3)]], [node(4)])
    ranks.lose(3, dead=True)
    ranks.lose(2, dead=True)
    ranks.free(1)
    assert formed(ranks) == {3: [1, 4]}


def test_nodes_of_different_hosts_are_not_replaced_by_two_of_one_host() -> None:
    ranks = membership([[node(0, "a"), node(1, "b")]], [node(2, "a"), node(3, "c")])
    ranks.lose(1, dead=True)
    ranks.free(0)
    assert formed(ranks) == {1: [0, 3]}


def test_nodes_that_shared_a_host_may_do_so_again() -> None:
    ranks = membership([[node(0, "a"), node(1, "a")]], [node(2, "a")])
    ranks.lose(1, dead=True)
    ranks.free(0)
    assert formed(ranks) == {1: [0, 2]}


def test_nor_are_those_of_one_host_replaced_by_some_of_several() -> None:
    """Across hosts the same service may be slower."""
    ranks = membership([[node(0, "a"), node(1, "a")], [node(2, "b"), node(3, "b")]], [node(4, "c")])
    for lost, left in ((1, 0), (2, 3)):
        ranks.lose(lost, dead=False)
        ranks.free(left)
    assert formed(ranks) == {}
    ranks.free(2)
    assert formed(ranks) == {2: [2, 3]}
    ranks.free(1)
    assert formed(ranks) == {3: [0, 1]}


@pytest.mark.parametrize(("share_cores", "expected"), [(False, {3: [0, 2]}), (True, {3: [0, 2], 4: [1, 3]})])
def test_no_group_forms_that_would_share_cores_with_another_unless_all_do(
    share_cores: bool, expected: dict[int, list[int]]
) -> None:
    """Nodes of a group that are on one host have the same cores, and those that were lost come back."""
    host = [Rank(rank, "a", "10.0.0.1", tuple(range(6))) for rank in range(6)]
    ranks = Membership(form_groups(host, Parallel(nodes_per_group=2, share_cores=share_cores)))
    for rank in (1, 3):
        ranks.lose(rank, dead=False)
    new = {}
    for rank in (0, 2, 1, 3):
        ranks.free(rank)
        new |= formed(ranks)
    assert new == expected
    ranks.lose(0, dead=True)
    ranks.free(2)
    assert formed(ranks) == ({4: [1, 2]} if not share_cores else {})


def sized(rank: int, devices: int, cores: int = 4) -> PlacedNode:
    """A node on a host of its own."""
    return PlacedNode(rank, f"host{rank}", "10.0.0.1", tuple(range(cores)), tuple(range(devices)))


@pytest.mark.parametrize(("devices", "less"), [(2, sized(1, 1, 8)), (0, sized(1, 0, 3))])
def test_a_place_is_left_to_the_rank_that_was_lost_where_spares_have_less(devices: int, less: PlacedNode) -> None:
    ranks = membership([[sized(0, devices), sized(3, devices)]], [less, sized(2, devices, 0)])
    ranks.lose(3, dead=False)
    ranks.free(0)
    assert formed(ranks) == {}
    ranks.free(3)
    assert formed(ranks) == {1: [0, 3]}


def test_where_a_service_runs_on_devices_a_spare_may_have_fewer_cores() -> None:
    ranks = membership([[sized(0, 2), sized(3, 2)]], [sized(1, 2, 3)])
    ranks.lose(3, dead=False)
    ranks.free(0)
    assert formed(ranks) == {1: [0, 1]}


def test_for_each_seat_there_is_a_rank_that_has_enough_and_no_more_is_needed_than_in_the_plan() -> None:
    ranks = membership([[sized(0, 4), sized(1, 1)]], [sized(2, 1), sized(3, 8)])
    ranks.lose(0, dead=False)
    ranks.free(1)
    assert formed(ranks) == {1: [1, 3]}
    ranks.free(0)
    ranks.lose(3, dead=False)
    ranks.free(1)
    assert formed(ranks) == {2: [0, 1]}


def test_a_group_that_cannot_run_the_service_is_not_formed() -> None:
    """Here it runs on no group with the first spare."""
    group, spares = PlacedGroup(0, (node(0), node(1))), [Spare("left over", node(rank)) for rank in (2, 3)]
    ranks = Membership(Plan((group,), tuple(spares)), 0, lambda group: node(2) not in group.nodes)
    ranks.lose(0, dead=False)
    ranks.free(1)
    assert formed(ranks) == {1: [1, 3]}
    ranks.lose(1, dead=False)
    ranks.free(3)
    assert formed(ranks) == {}
    ranks.free(0)
    assert formed(ranks) == {2: [0, 3]}


def test_nor_is_one_on_a_port_of_which_the_user_s_benchmark_does_not_know() -> None:
    group, spare = PlacedGroup(0, (node(0, "a"),), port=8000), Spare("left over", node(1, "a"))
    ranks = Membership(Plan((group,), (spare,)), 8000, lambda group: group.port == 8000)
    ranks.lose(0, dead=False)
    assert formed(ranks) == {}, "the service of the lost rank may still have it"
    ranks.lose(0, dead=True)
    assert formed(ranks) == {1: [1]}


class TestShares:
    """A spare rank of a host without as many cores or devices left gets what a dead rank there had."""

    def test_so_does_one_that_has_some(self) -> None:
        ranks = membership([[node(0, "a", (0, 1))], [node(1, "a", (2, 3))]], [node(2, "a", (4,))])
        ranks.lose(1, dead=True)
        ((_, group),) = ranks.form()
        assert group.nodes == (PlacedNode(2, "a", "10.0.0.1", (2, 3), (1,)),)

    def test_a_spare_inherits_the_share_of_a_dead_rank(self) -> None:
        ranks = membership([[node(0, "a", (0, 1))], [node(1, "a", (2, 3))]], [node(2, "a", ())])
        ranks.lose(1, dead=True)
        ((number, group),) = ranks.form()
        assert number == 2
        assert group.nodes == (PlacedNode(2, "a", "10.0.0.1", (2, 3), (1,)),)

    def test_also_one_that_has_cores_but_no_devices(self) -> None:
        """Without devices of its own its service would use those of the other groups."""
        spare = PlacedNode(2, "a", "10.0.0.1", (4,), ())
        ranks = membership([[node(0, "a", (0, 1))], [node(1, "a", (2, 3))]], [spare])
        ranks.lose(1, dead=True)
        ((_, group),) = ranks.form()
        assert group.nodes == (PlacedNode(2, "a", "10.0.0.1", (2, 3), (1,)),)

    def test_a_group_that_never_had_devices_needs_none_again(self) -> None:
        bare = PlacedNode(1, "a", "10.0.0.1", (4,), ())
        ranks = membership([[node(0, "a", (0, 1))], [bare]])
        ranks.lose(1, dead=False)
        ranks.free(1)
        assert formed(ranks) == {2: [1]}

    def test_a_spare_without_devices_serves_where_no_group_has_any(self) -> None:
        without = [PlacedNode(rank, "a", "10.0.0.1", (rank,), ()) for rank in (0, 1, 2)]
        ranks = membership([without[:1], without[1:2]], without[2:])
        ranks.lose(1, dead=False)
        assert formed(ranks) == {2: [2]}

    def test_only_one_spare_inherits_however_often_the_death_is_told(self) -> None:
        ranks = membership([[node(0, "a")], [node(1, "a")]], [node(2, "a", ()), node(3, "a", ())])
        for _ in range(3):
            ranks.lose(1, dead=True)
        assert formed(ranks) == {2: [2]}
        ranks.lose(0, dead=False)
        assert formed(ranks) == {}, "the other spare has nothing to work with"

    def test_a_silent_rank_keeps_its_share_until_it_is_dead(self) -> None:
        ranks = membership([[node(0, "a")], [node(1, "a")]], [node(2, "a", ())])
        ranks.lose(1, dead=False)
        assert formed(ranks) == {}, "its service may still run there"
        ranks.lose(1, dead=True)
        assert formed(ranks) == {2: [2]}

    def test_of_two_spares_without_devices_neither_inherits_from_the_other(self) -> None:
        bare = [PlacedNode(rank, "a", "10.0.0.1", (rank,), ()) for rank in (2, 3)]
        ranks = membership([[node(0, "a")], [node(1, "a")]], bare)
        ranks.lose(1, dead=False)
        ranks.lose(2, dead=True)
        assert formed(ranks) == {}, "their services would use the devices of all groups"

    def test_a_spare_of_another_host_does_not_inherit(self) -> None:
        ranks = membership([[node(0, "a")], [node(1, "a")]], [node(2, "b", ())])
        ranks.lose(1, dead=True)
        assert formed(ranks) == {}

    def test_nor_does_one_that_has_a_share_of_its_own(self) -> None:
        ranks = membership([[node(0, "a")], [node(1, "a", (7,))]], [node(2, "a", (5,)), node(3, "a", ())])
        ranks.lose(1, dead=True)
        ranks.lose(0, dead=False)
        assert [(each.nodes[0].rank, each.nodes[0].cores) for _, each in ranks.form()] == [(2, (5,)), (3, (7,))]

    def test_an_heir_that_dies_leaves_it_to_the_next(self) -> None:
        ranks = membership([[node(0, "a")], [node(1, "a", (7,))]], [node(2, "a", ()), node(3, "a", ())])
        ranks.lose(1, dead=True)
        assert formed(ranks) == {2: [2]}
        ranks.lose(2, dead=True)
        ((_, group),) = ranks.form()
        assert (group.nodes[0].rank, group.nodes[0].cores) == (3, (7,))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)])
def test_all_ranks_lost_and_back_in_any_order_form_all_groups_again(order: Sequence[int]) -> None:
    ranks = pairs(2)
    for rank in order:
        ranks.lose(rank, dead=False)
    assert ranks.groups == {}
    for rank in reversed(order):
        ranks.free(rank)
    assert sorted(formed(ranks).values()) == [[0, 1], [2, 3]]
    assert ranks.lost == set()
    assert ranks.leaving == frozenset()
