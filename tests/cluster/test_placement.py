"""Which ranks form which groups, and what is said when they cannot."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpipso.cluster.hosts import Hosts, expand_node_list, parse_hostfile, parse_nodes, read_hostfile
from mpipso.cluster.placement import form_groups, regrouped
from mpipso.cluster.plan import PlacedGroup, PlacedNode, Plan, Rank, with_port
from mpipso.config.file import parse
from mpipso.config.parallel import GroupEntry, NodeEntry, Parallel
from mpipso.config.templates import template
from mpipso.errors import UserError
from mpipso.notes import notes
from mpipso.service.clients.base import CLIENTS
from mpipso.service.engines.base import ENGINES
from mpipso.wording import ranges

CORES = tuple(range(8))


def ranks_on(*hosts: str, cores: tuple[int, ...] = CORES, devices: tuple[int, ...] = ()) -> list[Rank]:
    variable = "CUDA_VISIBLE_DEVICES" if devices else ""
    return [Rank(i, host, f"10.0.0.{i}", cores, devices, variable) for i, host in enumerate(hosts)]


def group(
    number: int, *hosts: str, master: int | None = None, npu_ids: Sequence[tuple[int, ...] | None] = ()
) -> GroupEntry:
    ids = npu_ids or [None] * len(hosts)
    nodes = tuple(NodeEntry(host=host, npu_ids=own) for host, own in zip(hosts, ids, strict=True))
    return GroupEntry(group_id=number, nodes=nodes, master_node_index=master)


def placed(plan: Plan) -> list[list[int]]:
    return [[node.rank for node in group.nodes] for group in plan.groups]


def masters(plan: Plan) -> list[str]:
    return [group.master.host for group in plan.groups]


def problem(ranks: Sequence[Rank], parallel: Parallel, hosts: Sequence[str] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        form_groups(ranks, parallel, hosts=hosts)
    assert len(caught.value.problems) == 1
    assert "\n" not in caught.value.problems[0]
    return caught.value.problems[0]


def test_what_is_lost_is_not_this_host_because_there_is_nothing_else() -> None:
    left = regrouped([group(0, "localhost"), group(1, "node1")], ["node1"])
    assert [[node.host for node in entry.nodes] for entry in left] == [["localhost"]]


class TestHostfile:
    def test_every_dialect_and_comments(self) -> None:
        text = "# all\nnode0\nnode1 slots=2  # two\n\nnode2:3\nnode3 slots = 4 max_slots=8\n10.0.0.7\na-b.example.org"
        text += "\nnode4 count=3\nnode5 cpu=2\nnode6 max-slots=8 slots=5\nme@node7 slots=2\nm.e@node8:2"
        assert parse_hostfile(text, "hosts.txt") == [
            ("node0", 1),
            ("node1", 2),
            ("node2", 3),
            ("node3", 4),
            ("10.0.0.7", 1),
            ("a-b.example.org", 1),
            ("node4", 3),
            ("node5", 2),
            ("node6", 5),
            ("me@node7", 2),
            ("m.e@node8", 2),
        ]

    @pytest.mark.parametrize(
        "line", ["node0 node1", "node0 slots=two", "node0 slots=0", "node0:x", "node0,node1", "-oX"]
    )
    def test_a_line_that_is_none_of_these_is_told_with_its_number(self, line: str) -> None:
        with pytest.raises(UserError) as caught:
            parse_hostfile(f"node9\n{line}\n{line}", "hosts.txt")
        assert [text.split(" is not ")[0] for text in caught.value.problems] == [
            f"hosts.txt:2: {line!r}",
            f"hosts.txt:3: {line!r}",
        ]

    @pytest.mark.parametrize(
        ("key", "meant"),
        [("slot", "slots"), ("maxslots", "max_slots"), ("usrname", "username"), ("Slots", "slots")],
    )
    def test_a_word_that_is_misspelled_is_told(self, key: str, meant: str) -> None:
        with pytest.raises(UserError) as caught:
            parse_hostfile(f"node8 slots=1 {key}=2\nnode9 rack=3", "hosts.txt")
        (line,) = caught.value.problems
        assert line.startswith(f"hosts.txt:1: {key}: unknown key; did you mean '")
        assert meant.replace("_", "") in line.replace("_", "").replace("-", "")

    def test_words_of_other_launchers_are_left_to_them(self) -> None:
        assert parse_hostfile("n1 gpu=2\nn2 cpus=4 rack=3", "hosts.txt") == [("n1", 1), ("n2", 4)]

    @pytest.mark.parametrize("line", ["[::1]:1", "fe80::1", "::1 slots=2", "me@2001:db8::7", "[2001:db8::7]"])
    def test_an_address_of_ipv6_is_told(self, line: str) -> None:
        with pytest.raises(UserError, match="write a name instead of an address of IPv6"):
            parse_hostfile(line, "hosts.txt")

    @pytest.mark.parametrize("content", [b"node0\r\nnode1\r\n", b"\xef\xbb\xbfnode0\nnode1\n"])
    def test_a_file_of_windows_is_told_with_what_mends_it(self, tmp_path: Path, content: bytes) -> None:
        """Launchers cannot read it."""
        path = tmp_path / "my hosts.txt"
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            read_hostfile(path)
        assert "\n" not in str(caught.value)
        subprocess.run(["sh", "-c", str(caught.value).rpartition("misread: ")[2]], check=True)
        assert read_hostfile(path) == [("node0", 1), ("node1", 1)]

    def test_a_file_without_a_host(self) -> None:
        with pytest.raises(UserError, match=r"hosts\.txt: names no host"):
            parse_hostfile("# nothing\n", "hosts.txt")

    def test_a_file_that_cannot_be_read(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="hostfile cannot be read: No such file or directory"):
            read_hostfile(tmp_path / "hosts.txt")
        (tmp_path / "binary").write_bytes(b"\xff\xfe")
        with pytest.raises(UserError, match="hostfile cannot be read: not text"):
            read_hostfile(tmp_path / "binary")


class TestNodeLists:
    def test_nodes_of_the_command_line(self) -> None:
        groups = parse_nodes("node0, node1:node2,node3")
        assert [[node.host for node in group.nodes] for group in groups] == [["node0", "node1"], ["node2", "node3"]]
        assert [group.group_id for group in groups] == [0, 1]

    @pytest.mark.parametrize("text", ["", "a,,b", "a:", "a,b::c"])
    def test_an_empty_name_is_refused(self, text: str) -> None:
        with pytest.raises(UserError, match="an empty name"):
            parse_nodes(text)

    @pytest.mark.parametrize(
        ("text", "names"),
        [
            ("login", ["login"]),
            ("node[0-3,7]", ["node0", "node1", "node2", "node3", "node7"]),
            ("n[08-10],login,gpu-[1]", ["n08", "n09", "n10", "login", "gpu-1"]),
            ("r[0-1]n[2,4]", ["r0n2", "r0n4", "r1n2", "r1n4"]),
            ("node[0-1].example.org", ["node0.example.org", "node1.example.org"]),
        ],
    )
    def test_slurm_s_short_form(self, text: str, names: list[str]) -> None:
        assert expand_node_list(text) == names

    @pytest.mark.parametrize("text", ["node[0-3", "node[3-0]", "node[a-c]", "node[]", "node]0[", "n[0-999999999]"])
    def test_what_is_no_list_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"list of hosts|range of hosts|nor a range"):
            expand_node_list(text)

    @given(st.lists(st.integers(0, 99999), min_size=1, unique=True))
    def test_numbers_in_brackets_are_the_hosts_in_order(self, numbers: list[int]) -> None:
        text = f"node[{','.join(map(str, numbers))}]"
        assert expand_node_list(text) == [f"node{number}" for number in numbers]


class TestNames:
    def test_full_names_short_names_and_addresses(self) -> None:
        hosts = Hosts([Rank(0, "node0.example.org", "10.0.0.1", aliases=("10.0.0.1", "192.168.0.1")), Rank(1, "node1")])
        for name in ("node0.example.org", "node0", "10.0.0.1", "192.168.0.1"):
            assert hosts.find(name) == "node0.example.org"
        assert hosts.find("node1.example.org") == "node1"
        assert hosts.problem("node0") is None

    def test_the_user_on_a_host_does_not_matter(self) -> None:
        assert Hosts(ranks_on("node0", "node1")).find("me@node1") == "node1"

    def test_upper_and_lower_case_are_the_same(self) -> None:
        hosts = Hosts(ranks_on("Node0", "node1.Example.org"))
        assert [hosts.find(name) for name in ("node0", "NODE1", "Node0.example.org")] == [
            *("Node0", "node1.Example.org", "Node0"),
        ]
        assert hosts.find("node1.example.org") == "node1.Example.org"

    def test_two_full_names_that_differ_are_two_hosts(self) -> None:
        assert Hosts([Rank(0, "node0.a.org")]).find("node0.b.org") is None

    def test_a_short_name_of_two_hosts_is_not_guessed(self) -> None:
        hosts = Hosts([Rank(0, "node0.a.org"), Rank(1, "node0.b.org")])
        assert hosts.find("node0") is None
        assert hosts.problem("node0") == "node0 may be node0.a.org or node0.b.org: write the full name"
        assert hosts.find("node0.b.org") == "node0.b.org"

    def test_addresses_are_not_shortened(self) -> None:
        assert Hosts([Rank(0, "10.0.0.1")]).find("10.9.9.9") is None

    def test_localhost_is_the_only_host_there_is_or_nobody(self) -> None:
        assert Hosts(ranks_on("a", "a")).find("localhost") == "a"
        several = Hosts(ranks_on("a", "b"))
        assert several.find("127.0.0.1") is None
        assert several.problem("localhost") == (
            "localhost is another host on every node: write the name of the one that is meant"
        )


class TestGroups:
    def test_two_nodes_each_unless_told_otherwise(self) -> None:
        ranks = ranks_on("a", "b", "c", "d")
        assert placed(form_groups(ranks, Parallel())) == [[0, 1], [2, 3]]
        assert placed(form_groups(ranks, Parallel(nodes_per_group=4))) == [[0, 1, 2, 3]]
        assert placed(form_groups(ranks, Parallel(nodes_per_group=1))) == [[0], [1], [2], [3]]
        assert placed(form_groups(ranks_on("a"), Parallel())) == [[0]]

    def test_ranks_that_do_not_divide_are_spare_and_named(self) -> None:
        result = form_groups(ranks_on("a", "b", "c", "d", "e"), Parallel(nodes_per_group=2))
        assert placed(result) == [[0, 1], [2, 3]]
        (spare,) = result.spares
        assert (spare.node.rank, spare.node.host, spare.reason) == (4, "e", "left over: groups take 2 nodes each")

    def test_too_few_ranks_for_one_group(self) -> None:
        assert problem(ranks_on("a", "b"), Parallel(nodes_per_group=3)) == (
            "2 ranks cannot form a group of 3 nodes: start more ranks (mpirun -np, sbatch --nodes) or lower "
            "--nodes-per-group"
        )

    @given(st.permutations(["node0", "node1", "node2", "node3"]))
    def test_a_hostfile_forms_the_same_groups_whatever_the_order_of_the_ranks(self, order: list[str]) -> None:
        hosts = ["node0", "node1", "node2", "node3"]
        result = form_groups(ranks_on(*order), Parallel(), hosts=hosts)
        assert {frozenset(node.host for node in group.nodes) for group in result.groups} == {
            frozenset(hosts[:2]),
            frozenset(hosts[2:]),
        }
        assert result.groups[0].nodes[0].rank == 0, "the root leads group 0"
        for index, placed_group in enumerate(result.groups):
            assert all(result.index_of(node.rank) == index for node in placed_group.nodes)

    def test_names_are_matched_short_and_long(self) -> None:
        ranks = ranks_on("node1.example.org", "node0.example.org", "node3", "node2")
        hosts = ["node0", "node1", "node2.example.org", "node3.example.org"]
        assert placed(form_groups(ranks, Parallel(), hosts=hosts)) == [[0, 1], [3, 2]]

    def test_a_hostfile_with_a_host_that_is_not_in_the_job(self) -> None:
        text = problem(ranks_on("a", "b"), Parallel(), hosts=["a", "x", "y"])
        assert text.startswith("no rank of this job runs on x; no rank of this job runs on y: the job runs on a, b")

    def test_a_hostfile_with_more_hosts_than_there_are_ranks(self) -> None:
        result = form_groups(ranks_on("a", "b"), Parallel(), hosts=["a", "b", "c", "d"])
        assert placed(result) == [[0, 1]]
        assert result.idle == ("c", "d")

    def test_a_launcher_that_put_all_ranks_on_the_first_host(self) -> None:
        text = problem(ranks_on("a", "a"), Parallel(), hosts=["a", "b"])
        assert text.startswith(
            "no rank of this job runs on b: the job runs on a, with several ranks on a (2); "
            "mpirun --map-by ppr:1:node starts one per node"
        )

    def test_slots_without_a_rank_are_ignored(self) -> None:
        hosts = ["a"] * 8 + ["b"] * 8
        assert placed(form_groups(ranks_on("a", "b"), Parallel(), hosts=hosts)) == [[0, 1]]

    def test_the_hostfile_s_leftover_is_spare(self) -> None:
        result = form_groups(ranks_on("c", "b", "a"), Parallel(nodes_per_group=2), hosts=["c", "a", "b"])
        assert placed(result) == [[0, 2]]
        assert [(spare.node.rank, spare.node.host) for spare in result.spares] == [(1, "b")]

    def test_groups_named_one_by_one_win_over_the_hostfile(self) -> None:
        parallel = Parallel(service_groups=(group(7, "b", "a"), group(3, "c")))
        result = form_groups(ranks_on("a", "b", "c", "d"), parallel, hosts=["a", "b", "c", "d"])
        assert placed(result) == [[0, 1], [2]], "rank 0 leads its group though it is named second"
        assert [group.group_id for group in result.groups] == [7, 3]
        assert [(spare.node.host, spare.reason) for spare in result.spares] == [("d", "not named in any group")]

    def test_the_root_s_group_comes_first(self) -> None:
        parallel = Parallel(service_groups=(group(0, "c", "b"), group(1, "a")))
        result = form_groups(ranks_on("a", "b", "c"), parallel)
        assert placed(result) == [[0], [2, 1]]
        assert [group.group_id for group in result.groups] == [1, 0]

    def test_the_root_must_be_in_a_group(self) -> None:
        text = problem(ranks_on("a", "b"), Parallel(service_groups=(group(0, "b"),)))
        assert text.startswith("rank 0 belongs to no group")

    def test_a_host_in_more_groups_than_it_has_ranks(self) -> None:
        text = problem(ranks_on("a", "b"), Parallel(service_groups=(group(0, "a"), group(1, "a"))))
        assert (
            text == "the groups name a more often than there are ranks of this job; each place in a group needs a rank"
        )

    def test_the_master_is_the_node_that_was_meant_whoever_leads(self) -> None:
        result = form_groups(ranks_on("a", "b", "c"), Parallel(service_groups=(group(0, "b", "c", "a", master=1),)))
        (only,) = result.groups
        assert only.nodes[0].rank == 0
        assert only.master.host == "c"

    @pytest.mark.parametrize("named", [(), (group(0, "a", "b"), group(1, "c", "d"))])
    @pytest.mark.parametrize("hosts", [None, ["a", "b", "c", "d"]])
    def test_the_master_of_every_group_is_where_the_section_says(
        self, named: tuple[GroupEntry, ...], hosts: list[str] | None
    ) -> None:
        second = Parallel(master_node_index=1, service_groups=named)
        assert masters(form_groups(ranks_on("a", "b", "c", "d"), second, hosts=hosts)) == ["b", "d"]

    def test_the_master_of_every_group_is_where_the_section_says_with_groups_of_the_command_line(self) -> None:
        second = Parallel(master_node_index=1, service_groups=parse_nodes("a,b:c,d"))
        assert masters(form_groups(ranks_on("a", "b", "c", "d"), second)) == ["b", "d"]

    def test_a_group_may_have_its_master_elsewhere_than_the_section_says(self) -> None:
        second = Parallel(master_node_index=1, service_groups=(group(0, "a", "b", master=0), group(1, "c", "d")))
        assert masters(form_groups(ranks_on("a", "b", "c", "d"), second)) == ["a", "d"]

    @pytest.mark.parametrize("named", [(), (group(0, "a"), group(1, "b"))])
    def test_a_master_beyond_the_group(self, named: tuple[GroupEntry, ...]) -> None:
        beyond = Parallel(nodes_per_group=1, master_node_index=1, service_groups=named)
        assert problem(ranks_on("a", "b"), beyond) == "parallel.master_node_index = 1, but group 0 has 1 node"

    def test_parallel_can_be_switched_off(self) -> None:
        assert placed(form_groups(ranks_on("a", "b"), Parallel(enabled=False))) == [[0, 1]]
        text = problem(ranks_on("a", "b", "c", "d"), Parallel(enabled=False))
        assert text.startswith("parallel.enabled = false allows one group, but 4 ranks form 2")


class TestSharedHosts:
    def test_more_than_one_rank_per_node_is_refused(self) -> None:
        for mode in ("auto", "multi_node"):
            text = problem(ranks_on("a", "a", "b", "c"), Parallel(mode=mode))
            assert text.startswith("more than one rank on a (2): start one rank per node")
        assert problem(ranks_on("a", "a"), Parallel(mode="multi_node")).startswith("more than one rank on a (2)")

    def test_in_single_node_mode_groups_share_hosts(self) -> None:
        result = form_groups(ranks_on("a", "a", "b", "b"), Parallel(mode="single_node", nodes_per_group=1))
        assert [(group.nodes[0].host, group.nodes[0].cores) for group in result.groups] == [
            ("a", (0, 1, 2, 3)),
            ("a", (4, 5, 6, 7)),
            ("b", (0, 1, 2, 3)),
            ("b", (4, 5, 6, 7)),
        ]

    def test_services_whose_masters_share_a_host_count_their_ports_up(self) -> None:
        ranks, alone = ranks_on("a", "b", "a", "a"), Parallel(mode="single_node", nodes_per_group=1)
        assert [group.port for group in form_groups(ranks, alone, port=8000).groups] == [8000, 8000, 8001, 8002]
        assert [group.port for group in form_groups(ranks, alone, port=0).groups] == [0, 0, 0, 0]
        taken = {("a", 8000), ("a", 8002), ("a", 8003), ("b", 8001)}
        nodes = tuple(PlacedNode(rank, "a") for rank in range(3))
        ports = [with_port(PlacedGroup(0, nodes[:size]), 8000, taken).port for size in (1, 2, 3)]
        assert ports == [8001, 8004, 8004]

    @pytest.mark.parametrize(
        ("hosts", "size", "ports"),
        [
            ("aaaaaa", 3, [8000, 8003]),
            ("abab", 2, [8000, 8001]),
            ("abbb", 2, [8000, 8002]),
            ("abbabb", 3, [8000, 8002]),
        ],
    )
    def test_each_node_of_a_group_has_a_port_of_its_own(self, hosts: str, size: int, ports: list[int]) -> None:
        groups = form_groups(ranks_on(*hosts), Parallel(mode="single_node", nodes_per_group=size), port=8000).groups
        assert [group.port for group in groups] == ports
        places = [place for group in groups for place in group.ports]
        assert len({*places}) == len(places) == len(hosts)

    def test_groups_on_one_host_have_disjoint_cores_and_devices(self) -> None:
        result = form_groups(ranks_on(*"aaaa", devices=(4, 5, 6, 7)), Parallel())
        first, second = result.groups
        assert [(node.cores, node.devices) for node in first.nodes] == [((0, 1, 2, 3), (4,)), ((0, 1, 2, 3), (5,))]
        assert [(node.cores, node.devices) for node in second.nodes] == [((4, 5, 6, 7), (6,)), ((4, 5, 6, 7), (7,))]

    def test_shares_are_equal_and_the_rest_is_unused(self) -> None:
        result = form_groups(ranks_on("a", "a", "a"), Parallel(nodes_per_group=1))
        assert [group.nodes[0].cores for group in result.groups] == [(0, 1), (2, 3), (4, 5)]

    def test_cores_can_be_shared(self) -> None:
        result = form_groups(ranks_on("a", "a", cores=(0,)), Parallel(nodes_per_group=1, share_cores=True))
        assert [group.nodes[0].cores for group in result.groups] == [(0,), (0,)]

    def test_groups_for_which_no_core_is_left_are_spare(self) -> None:
        result = form_groups(ranks_on(*"aaaaaa", cores=(0, 1)), Parallel())
        assert placed(result) == [[0, 1], [2, 3]]
        assert [result.node(rank).rank for rank in range(6)] == list(range(6))
        assert [(s.node.rank, s.reason) for s in result.spares] == [
            (4, "a has no core left of 2 for more groups"),
            (5, "a has no core left of 2 for more groups"),
        ]

    def test_groups_for_which_no_device_is_left_are_spare(self) -> None:
        result = form_groups(ranks_on("a", "a", devices=(0,)), Parallel(nodes_per_group=1))
        assert [group.nodes[0].devices for group in result.groups] == [(0,)]
        assert [spare.reason for spare in result.spares] == ["a has no device left of 1 for more groups"]
        ignored = form_groups(ranks_on("a", "a", devices=(0,)), Parallel(nodes_per_group=1, devices_per_node=0))
        assert [group.nodes[0].devices for group in ignored.groups] == [(), ()]

    def test_ranks_that_were_bound_to_cores_of_their_own_share_them_all(self) -> None:
        ranks = [Rank(0, "a", cores=(0, 1)), Rank(1, "a", cores=(2, 3))]
        result = form_groups(ranks, Parallel(nodes_per_group=1))
        assert [group.nodes[0].cores for group in result.groups] == [(0, 1), (2, 3)]

    @given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 24), st.integers(0, 8))
    def test_nothing_is_ever_given_twice_and_no_rank_is_forgotten(
        self, count: int, size: int, cores: int, devices: int
    ) -> None:
        if size > count:
            return
        ranks = ranks_on(*["a"] * count, cores=tuple(range(cores)), devices=tuple(range(devices)))
        result = form_groups(ranks, Parallel(nodes_per_group=size))
        owned = [(set(g.nodes[0].cores), {d for n in g.nodes for d in n.devices}) for g in result.groups]
        assert all(mine for mine, _ in owned), "every group has a core"
        owned += [(set(spare.node.cores), set(spare.node.devices)) for spare in result.spares]
        assert sum(len(mine) for mine, _ in owned) == len(set().union(*(mine for mine, _ in owned)))
        assert sum(len(mine) for _, mine in owned) == len(set().union(*(mine for _, mine in owned)))
        everyone = [node.rank for group in result.groups for node in group.nodes] + [s.node.rank for s in result.spares]
        assert sorted(everyone) == list(range(count))


class TestDevices:
    def test_devices_per_node_counts_from_zero_where_none_were_found(self) -> None:
        result = form_groups(ranks_on("a", "b"), Parallel(devices_per_node=2))
        assert [node.devices for node in result.groups[0].nodes] == [(0, 1), (0, 1)]

    def test_devices_per_node_takes_the_first_of_those_that_were_found(self) -> None:
        result = form_groups(ranks_on("a", devices=(4, 5, 6, 7)), Parallel(devices_per_node=2))
        assert result.groups[0].nodes[0].devices == (4, 5)

    def test_more_devices_than_there_are(self) -> None:
        assert problem(ranks_on("a", "b", devices=(0, 1)), Parallel(devices_per_node=8)) == (
            "parallel.devices_per_node = 8, but fewer devices were found on a (2), b (2)"
        )

    def test_npu_ids_are_taken_as_written(self) -> None:
        parallel = Parallel(service_groups=(group(0, "a", npu_ids=[(2, 3)]), group(1, "a", npu_ids=[(0,)])))
        result = form_groups(ranks_on("a", "a", devices=(0, 1, 2, 3)), parallel)
        assert [group.nodes[0].devices for group in result.groups] == [(2, 3), (0,)]

    def test_npu_ids_that_are_not_there(self) -> None:
        parallel = Parallel(service_groups=(group(0, "a", npu_ids=[(1, 2, 7)]),))
        assert problem(ranks_on("a", devices=(0, 1)), parallel) == (
            "npu_ids of a name 2, 7, but the devices found there are 0, 1"
        )

    def test_groups_that_share_a_device(self) -> None:
        parallel = Parallel(service_groups=(group(4, "a", npu_ids=[(0, 1)]), group(9, "a", npu_ids=[(1, 2)])))
        assert problem(ranks_on("a", "a"), parallel) == (
            "device 1 of a is given to groups 4 and 9: groups that share a node need disjoint npu_ids"
        )

    def test_the_configured_variable_wins_over_the_detected_one(self) -> None:
        ranks = ranks_on("a", devices=(0,))
        assert form_groups(ranks, Parallel()).groups[0].nodes[0].device_variable == "CUDA_VISIBLE_DEVICES"
        given = Parallel(device_variable="MY_DEVICES")
        assert form_groups(ranks, given).groups[0].nodes[0].device_variable == "MY_DEVICES"


def test_numbers_are_shown_as_ranges() -> None:
    assert [ranges(()), ranges((5,)), ranges((0, 1, 2, 3, 8, 10, 11))] == ["none", "5", "0-3,8,10-11"]


class TestAddresses:
    """Where the nodes of a group reach each other."""

    def ranks(self) -> list[Rank]:
        return [Rank(i, f"n{i}", f"192.168.0.{i}", (0,), aliases=(f"192.168.0.{i}", f"10.0.0.{i}")) for i in range(2)]

    def addresses(self, parallel: Parallel) -> list[str]:
        return [node.address for node in form_groups(self.ranks(), parallel).groups[0].nodes]

    def test_in_the_network_that_is_named(self) -> None:
        assert self.addresses(Parallel()) == ["192.168.0.0", "192.168.0.1"]
        assert self.addresses(Parallel(network="10.0.0.0/24")) == ["10.0.0.0", "10.0.0.1"]

    def test_at_the_address_that_is_given(self) -> None:
        nodes = (NodeEntry(host="n0"), NodeEntry(host="n1", address="172.16.0.9"))
        groups = (GroupEntry(group_id=0, nodes=nodes),)
        assert self.addresses(Parallel(service_groups=groups)) == ["192.168.0.0", "172.16.0.9"]

    def test_the_network_does_not_matter_to_nodes_with_an_address_of_their_own_nor_to_spares(self) -> None:
        nodes = tuple(NodeEntry(host=f"n{i}", address=f"172.16.0.{i}") for i in range(2))
        ranks = [*self.ranks(), Rank(2, "n2", "192.168.0.2", (0,), aliases=("192.168.0.2",))]
        own = Parallel(service_groups=(GroupEntry(group_id=0, nodes=nodes),), network="10.9.0.0/24")
        assert [node.address for node in form_groups(ranks, own).groups[0].nodes] == ["172.16.0.0", "172.16.0.1"]
        assert [spare.node.host for spare in form_groups(ranks, Parallel(network="10.0.0.0/24")).spares] == ["n2"]

    def test_a_host_without_an_address_in_the_network(self) -> None:
        with pytest.raises(UserError, match=r"^parallel\.network = '10\.0\.0\.0/31': no address in it on n2$"):
            form_groups(
                [Rank(i, f"n{i}", "x", (0,), aliases=(f"10.0.0.{i}",)) for i in range(4)],
                Parallel(network="10.0.0.0/31"),
            )

    def test_hosts_of_which_nothing_is_known_yet_may_have_one(self) -> None:
        ranks = [*self.ranks()[:1], Rank(-1, "far"), Rank(1, "named", "named")]
        placed = form_groups(ranks, Parallel(network="10.0.0.0/24", nodes_per_group=3))
        assert [node.address for node in placed.groups[0].nodes] == ["10.0.0.0", "named", ""]

    @pytest.mark.parametrize("section", [{"network": "10.0.0.1/24"}, {"network": "eth0"}])
    def test_what_is_no_network(self, section: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="network"):
            Parallel(**section)

    def test_hosts_at_one_address_are_pointed_out(self) -> None:
        config = parse(template("llamacpp"), "template", engines=ENGINES.names(), clients=CLIENTS.names())
        twins = form_groups([Rank(i, f"n{i}", "10.0.2.15", (0,)) for i in range(2)], Parallel())
        (line,) = notes(config, twins)
        assert line.startswith(
            "group 0: n0, n1 have the same address, 10.0.2.15, by which they may not reach each other"
        )
        assert not list(notes(config, form_groups(self.ranks(), Parallel())))
