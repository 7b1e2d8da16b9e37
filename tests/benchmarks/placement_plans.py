"""How long the placement of large jobs takes: ``python tests/benchmarks/placement_plans.py``; each well under 1 s."""

from __future__ import annotations

import random
import time

from mpipso.cluster.hosts import expand_node_list
from mpipso.cluster.placement import form_groups
from mpipso.cluster.plan import Rank
from mpipso.config.parallel import GroupEntry, NodeEntry, Parallel

NODES = 2
CORES, DEVICES = tuple(range(128)), tuple(range(8))


def main() -> None:
    for groups in (64, 1000):
        count = groups * NODES
        hosts = expand_node_list(f"node[0-{count - 1}]")
        shuffled = random.Random(groups).sample(hosts, count)
        ranks = [
            Rank(i, f"{host}.example.org", f"10.0.{i // 256}.{i % 256}", CORES, DEVICES, "CUDA_VISIBLE_DEVICES")
            for i, host in enumerate(shuffled)
        ]
        manual_start = tuple(
            GroupEntry(group_id=g, nodes=tuple(NodeEntry(host=h) for h in hosts[g * NODES : (g + 1) * NODES]))
            for g in range(groups)
        )
        one_host = [Rank(i, "node0", "10.0.0.1", tuple(range(4096)), tuple(range(2048))) for i in range(count)]
        for name, placing in {
            "ranks in order": (ranks, Parallel(), None),
            "hostfile, ranks shuffled": (ranks, Parallel(), hosts),
            "groups named one by one": (ranks, Parallel(service_groups=manual_start), None),
            "all on one host": (one_host, Parallel(), None),
        }.items():
            begun = time.perf_counter()
            result = form_groups(placing[0], placing[1], hosts=placing[2])
            found = [result.index_of(rank.rank) for rank in placing[0]]
            seconds = time.perf_counter() - begun
            assert len(result.groups) == groups and None not in found
            print(f"{groups:5} groups of {NODES} nodes, {name:25} {1000 * seconds:7.1f} ms")


if __name__ == "__main__":
    main()
