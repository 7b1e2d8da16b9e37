"""What does not end by its own limits."""

from __future__ import annotations

from cluster.test_dispatch import Groups
from test_tuning import configured

from mpipso.cluster.membership import Membership
from mpipso.cluster.plan import PlacedGroup, PlacedNode, Plan
from mpipso.overdue import SLACK, Overdue


def test_a_rank_that_does_not_leave_its_group_is_as_stuck_as_one_whose_evaluation_does_not_end() -> None:
    config = configured(search__evaluation_timeout=60.0, service__stop_grace=2.0)
    limit = 62.0 + SLACK
    nodes = [PlacedNode(rank, f"h{rank}") for rank in range(6)]
    plan = Plan(tuple(PlacedGroup(number, tuple(nodes[2 * number : 2 * number + 2])) for number in range(3)))
    groups, membership, overdue = Groups(3), Membership(plan), Overdue(config, plan)
    groups.submit([0, 1, 2])
    groups.step()

    def found(now: float) -> dict[int, str]:
        return overdue.ranks(now, groups.dispatcher, membership)

    assert found(limit - 1.0) == {}
    for group, member in ((0, 1), (2, 5)):
        membership.lose(member, dead=True)
        groups.lose(group)
    assert found(limit) == {}
    assert found(limit + 1.0) == {2: "its evaluation does not end"}
    membership.free(4)
    stays = "it does not leave its group"
    assert found(2 * limit + 1.0) == {0: stays, 2: "its evaluation does not end"}
