"""What ranks do together at start-up, with rank 0 to produce the outcome.

A mistake of the user's that any rank finds is raised on every rank, so that rank 0 alone can tell it and all leave
together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from mpipso.cluster.world import World
from mpipso.errors import UserError

T = TypeVar("T")


def agreed(world: World, produce: Callable[[], T]) -> T:
    """What rank 0 produces, on every rank; or its error."""
    return dealt(world, lambda: [produce()] * world.size)


def dealt(world: World, produce: Callable[[], Sequence[T]]) -> T:
    """What rank 0 produces for this rank, by rank; or its error, on every rank."""
    outcomes: Sequence[T | UserError] = []
    if world.rank == 0:
        try:
            outcomes = produce()
        except UserError as error:
            outcomes = [error] * world.size
    own = world.scatter(outcomes)
    if isinstance(own, UserError):
        raise own
    return own


def on_root(world: World, produce: Callable[[], T]) -> T | None:
    """What rank 0 produces, on rank 0 alone; or its error, on every rank."""
    made: T | None = None
    mistake: UserError | None = None
    if world.rank == 0:
        try:
            made = produce()
        except UserError as error:
            mistake = error
    told = world.bcast(mistake)
    if told is not None:
        raise told
    return made


def none_wrong(problems: Sequence[tuple[str, str]], *, say_where: bool = True) -> None:
    """Raise what the ranks found, once for each problem, with the hosts that have it; ``say_where`` if it does not."""
    hosts: dict[str, list[str]] = {}
    for host, problem in problems:
        hosts.setdefault(problem, []).append(host)
    if hosts:
        lines = [f"{problem}{_on(names) if say_where else ''}" for problem, names in hosts.items()]
        raise UserError(lines, hosts=list(dict.fromkeys(name for names in hosts.values() for name in names if name)))


def _on(hosts: Sequence[str]) -> str:
    names = [name for name in dict.fromkeys(hosts) if name]
    return f" (on {', '.join(names)})" if names else ""
