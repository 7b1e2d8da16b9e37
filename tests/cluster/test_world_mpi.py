"""Messages between the ranks of a real MPI world, and the node interface over them.

Run as ``mpirun -n 4 python -m pytest --only-mpi``. Every test is collective: an assertion that fails on one rank must
not leave the others waiting, so ranks meet only by messages with a deadline.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpipso.cluster.channel import Channel
from mpipso.cluster.plan import PlacedNode
from mpipso.cluster.world import MpiWorld
from mpipso.errors import EvaluationFailed
from mpipso.service.local import LocalNode
from mpipso.service.node import CHUNK, Share
from mpipso.service.remote import Agent, RemoteNode

pytestmark = pytest.mark.mpi(min_size=4)

DEADLINE = 60.0
BIG = 10_000_000


@pytest.fixture(scope="module")
def world() -> MpiWorld:
    return MpiWorld()


def pump(world: MpiWorld, channel: Channel, until: Callable[[], object], took: Callable[[int, Any], object]) -> None:
    """Nap and take messages until a condition holds; this rank's own messages leave meanwhile."""
    end = time.monotonic() + DEADLINE
    while not (until() and channel.idle):
        for source, message in channel.take():
            took(source, message)
        world.nap()
        assert time.monotonic() < end, "not within the deadline"


def exchange(world: MpiWorld, channel: Channel, count: int) -> dict[int, list[Any]]:
    """Take ``count`` messages; by source."""
    got: dict[int, list[Any]] = {}
    pump(
        world,
        channel,
        lambda: sum(map(len, got.values())) >= count,
        lambda source, message: got.setdefault(source, []).append(message),
    )
    return got


def test_values_are_gathered_on_rank_0_and_scattered_and_shared_from_there(world: MpiWorld) -> None:
    assert world.size >= 4
    gathered = world.gather(world.rank * 10)
    assert gathered == ([rank * 10 for rank in range(world.size)] if world.rank == 0 else [])
    assert world.scatter([f"for {number // 10}" for number in gathered]) == f"for {world.rank}"
    assert world.bcast({"from": world.rank}) == {"from": 0}
    assert "MPI" in world.library


def test_messages_of_each_rank_arrive_in_order(world: MpiWorld) -> None:
    channel = world.channel()
    for number in range(50):
        for dest in range(world.size):
            channel.post(dest, number)
    got = exchange(world, channel, 50 * world.size)
    assert got == {source: list(range(50)) for source in range(world.size)}, "this rank's own among them"


def test_big_and_small_messages_keep_their_order(world: MpiWorld) -> None:
    channel = world.channel()
    dest = (world.rank + 1) % world.size
    source = (world.rank - 1) % world.size
    blob = bytes([world.rank]) * BIG
    for message in ("before", blob, "after"):
        channel.post(dest, message)
    got = exchange(world, channel, 3)
    assert got == {source: ["before", bytes([source]) * BIG, "after"]}


def test_posting_returns_at_once_though_nobody_takes(world: MpiWorld) -> None:
    channel = world.channel()
    other = world.channel()
    if world.rank == 0:
        channel.post(1, b"x" * BIG)
        assert not channel.idle
        # Rank 1 takes nothing from the channel until this arrives.
        other.post(1, "now")
        pump(world, other, lambda: True, lambda *_: None)
        pump(world, channel, lambda: True, lambda *_: None)
    elif world.rank == 1:
        exchange(world, other, 1)
        assert len(exchange(world, channel, 1)[0][0]) == BIG


def test_any_thread_may_post_and_wakes_the_main_thread(world: MpiWorld) -> None:
    channel = world.channel()
    threads = [threading.Thread(target=channel.post, args=(0, (world.rank, number))) for number in range(4)]
    for thread in threads:
        thread.start()
    if world.rank == 0:
        got = exchange(world, channel, 4 * world.size)
        assert {source: sorted(messages) for source, messages in got.items()} == {
            source: [(source, number) for number in range(4)] for source in range(world.size)
        }
    for thread in threads:
        thread.join()
    pump(world, channel, lambda: True, lambda *_: None)


def test_a_split_makes_a_channel_for_each_colour_ordered_by_key(world: MpiWorld) -> None:
    alone = world.size - 1
    color = None if world.rank == alone else world.rank % 2
    channel = world.split(color, key=-world.rank)
    members = [rank for rank in reversed(range(world.size)) if rank != alone and rank % 2 == color]
    if color is None:
        assert channel is None
        return
    assert channel is not None
    assert (channel.rank, channel.size) == (members.index(world.rank), len(members))
    channel.post(0, world.rank)
    if channel.rank == 0:
        got = exchange(world, channel, len(members))
        assert got == {seat: [rank] for seat, rank in enumerate(members)}
    pump(world, channel, lambda: True, lambda *_: None)


def test_channels_do_not_mix(world: MpiWorld) -> None:
    first, second = world.channel(), world.channel()
    dest, source = (world.rank + 1) % world.size, (world.rank - 1) % world.size
    second.post(dest, "second")
    first.post(dest, "first")
    assert exchange(world, first, 1) == {source: ["first"]}
    assert exchange(world, second, 1) == {source: ["second"]}


def test_a_waiting_rank_does_not_spin(world: MpiWorld) -> None:
    channel = world.channel()
    begun, wall = time.process_time(), time.monotonic()
    while time.monotonic() - wall < 1.0:
        assert channel.take() == []
        world.nap()
    assert time.process_time() - begun < 0.3
    world.bcast(world.gather(None))


def test_a_node_of_another_rank_behaves_as_one_s_own(world: MpiWorld, tmp_path: Path) -> None:
    """Rank 0 leads, ranks 1 to 3 are members; each does what the leader's thread asks of it."""
    channel = world.channel()
    if world.rank != 0:
        node = LocalNode(Share(f"node{world.rank}"), str(tmp_path))
        agent = Agent(node, lambda answer: channel.post(0, answer))
        channel.post(0, node.work_dir)
        over: list[object] = []
        pump(
            world,
            channel,
            lambda: over,
            lambda _, message: over.append(0) if message == "over" else agent.handle(message),
        )
        agent.close()
        assert not Path(node.work_dir).exists()
        return

    places = exchange(world, channel, world.size - 1)
    nodes = {
        rank: RemoteNode(
            PlacedNode(rank, f"node{rank}", "127.0.0.1", (), ()), place, lambda m, rank=rank: channel.post(rank, m)
        )
        for rank, (place,) in places.items()
    }
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3 * CHUNK + 5))
    source.chmod(0o750)
    found: dict[int, object] = {}

    def use(rank: int) -> None:
        node = nodes[rank]
        node.upload_file(source, "there")
        node.download_file("there", tmp_path / f"back{rank}")
        done = node.execute([sys.executable, "-c", f"print({rank}); raise SystemExit({rank})"], 30)
        slow = node.execute([sys.executable, "-c", "import time; time.sleep(60)"], 0.5)
        with pytest.raises(EvaluationFailed) as caught:
            node.file_digest("nowhere")
        node.close()
        found[rank] = (done.exit_code, done.stdout, slow.timed_out, caught.value.cause)

    threads = {rank: threading.Thread(target=use, args=(rank,)) for rank in nodes}
    for thread in threads.values():
        thread.start()
    pump(
        world,
        channel,
        lambda: not any(thread.is_alive() for thread in threads.values()),
        lambda rank, answer: nodes[rank].answered(answer),
    )
    for rank in nodes:
        channel.post(rank, "over")
    pump(world, channel, lambda: True, lambda *_: None)
    for rank in nodes:
        assert found[rank] == (
            rank,
            f"{rank}\n",
            True,
            f"node{rank}: nowhere cannot be read: No such file or directory",
        )
        back = tmp_path / f"back{rank}"
        assert back.read_bytes() == source.read_bytes()
        assert back.stat().st_mode & 0o7777 == 0o750
