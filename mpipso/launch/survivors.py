"""Which hosts of a job that was lost are still there."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mpipso.batch import ask, squeue, systems
from mpipso.cluster.facts import rank_here
from mpipso.cluster.hosts import Hosts
from mpipso.errors import RunFailed

LIMIT = 10.0
"""Seconds in which a host answers; one that is frozen accepts the connection and says nothing."""
_SLURM_LIMIT = 30.0
"""Seconds for a job step, which the controller has to grant."""
_STEP = ("srun", "--overlap", "--export=ALL", "--mpi=none", "--quiet", "--nodes=1", "--ntasks=1", "--nodelist")
_HOLDING = ("RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING")
"""States of a job that still has its nodes (squeue's manual, "JOB STATE CODES")."""
ABSENCE = 600.0
"""Seconds for which hosts are waited for where too few are left. A switch that starts anew is back by then; and Slurm
has noticed that a node is lost (after ``SlurmdTimeout``, 300 s by default), and ends the job, to requeue it."""
AGAIN = 15.0
"""Seconds from one answer to the next question, while they are waited for."""
_MOST_AT_A_TIME = 64
_POLL = 0.02
_GONE = ("down", "drained", "error", "fail", "future", "inval", "not_resp", "perf", "power", "reboot", "unk")
"""How node states begin that no job step can be started in (sinfo's manual, "NODE STATE CODES"); ``*`` at the end of
any state says that the node does not respond."""


_T = TypeVar("_T")


class TooFew(RunFailed):
    """The hosts that answer cannot form a group."""


def awaiting(look: Callable[[], _T], how: str, tell: Callable[[str], None], given_up: Callable[[], bool]) -> _T:
    """What ``look`` returns, as soon as it finds enough hosts.

    ``tell`` gets a line if they have to be waited for, which begins with ``how`` the job has ended. They are not, or no
    longer, if it is ``given_up``: a signal has come, or no run has begun, so that the name of a host may be a mistake.

    Raises
    ------
    TooFew
        It has not within :data:`ABSENCE` seconds, or nobody waits for it.
    """
    end = time.monotonic() + ABSENCE
    told = False
    while True:
        try:
            return look()
        except TooFew as error:
            again = time.monotonic() + AGAIN
            if given_up() or again > end:
                raise
            if not told:
                tell(f"{how}; {error}: waiting for the others, for {ABSENCE:g} s at most")
            told = True
            while time.monotonic() < again:
                if given_up():
                    raise
                time.sleep(_POLL)


def answering(hosts: Iterable[str], agent: Sequence[str], tell: Callable[[str], None]) -> set[str]:
    """The hosts that answer: on which ``agent``, or inside of a Slurm job a step, can run a command. This one does.

    Where ``agent`` reaches no host, not even this one, the launcher has another way (PBS's or LSF's own, say), and
    nothing is known of the others: all are taken to answer, and ``tell`` gets a line about it.

    Slurm notices a lost node only after minutes (``SlurmdTimeout``), so its own word is not enough; but it is taken if
    no step runs on any host, this one included, since a site may forbid them or have a Slurm without ``--overlap``
    (before 20.11).

    Raises
    ------
    RunFailed
        This Slurm job has ended, and its hosts are no longer its own. Slurm ends one that loses a node, unless it was
        asked for with ``--no-kill``.
    """
    distinct = list(dict.fromkeys(hosts))
    away = strangers(distinct)
    here = set(distinct) - set(away)
    if away and "SLURM_JOB_ID" in os.environ and (states := _slurm_states(distinct)):
        up = [host for host in away if not any(map(_gone, states.get(host, ())))]
        able = succeeding([*here, *up], _STEP, ["true"], limit=_SLURM_LIMIT)
        if not able and _ended(job := os.environ["SLURM_JOB_ID"]):
            raise RunFailed(f"the Slurm job {job} has ended")
        return here | (able or set(up))
    reached = succeeding(away, agent, ["true"])
    if away and not reached and not succeeding([*here] or [socket.gethostname()], agent, ["true"]):
        tell(
            f"{shlex.join(agent)} reaches no host, not even this one: which of them are left is for the launcher to see"
            f"{_another(agent)}"
        )
        return set(distinct)
    return here | reached


def _another(agent: Sequence[str]) -> str:
    """What reaches the hosts of this batch job where ssh does not, in words for Open MPI, which asks for it."""
    better = next((system.agent for system in systems(os.environ) if system.agent), "")
    known = not better or shlex.join(agent).startswith(better)
    return "" if known else f'; in Open MPI, OMPI_MCA_plm_rsh_agent="{better}" reaches them inside of this job'


def strangers(hosts: Iterable[str]) -> list[str]:
    """Those of the names that do not stand for this host."""
    here = Hosts([rank_here(0, devices=False)])
    return [host for host in hosts if here.find(host) is None]


def succeeding(
    hosts: Sequence[str], agent: Sequence[str], command: Sequence[str], *, limit: float | None = None
) -> set[str]:
    """The hosts on which ``command`` ends with code 0 within ``limit`` (:data:`LIMIT`) seconds, all asked at once."""
    if not hosts:
        return set()
    with ThreadPoolExecutor(min(len(hosts), _MOST_AT_A_TIME)) as pool:
        lines = ([*agent, host, shlex.join(command)] for host in hosts)
        answers = pool.map(lambda words: _succeeds(words, LIMIT if limit is None else limit), lines)
        return {host for host, well in zip(hosts, answers, strict=True) if well}


def _succeeds(words: Sequence[str], limit: float) -> bool:
    quiet = subprocess.DEVNULL
    try:
        process = subprocess.Popen(words, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    except OSError:
        return False
    end = time.monotonic() + limit
    # Nobody else gets its number before it is waited for.
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None and time.monotonic() < end:
        time.sleep(_POLL)
    with contextlib.suppress(ProcessLookupError):  # with what ssh has started to reach the host
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait() == 0


def _slurm_states(hosts: Sequence[str]) -> dict[str, list[str]]:
    """The states of the nodes; none if Slurm cannot be asked."""
    words = ["sinfo", "--noheader", "--Node", "--nodes", ",".join(hosts), "--format", "%N %T"]
    states: dict[str, list[str]] = {}
    for line in ask(words).splitlines():  # a node in several partitions has several lines
        name, _, state = line.strip().partition(" ")
        states.setdefault(name, []).append(state)
    return states


def _ended(job: str) -> bool:
    """Whether Slurm knows that a job holds no nodes any more."""
    state = squeue(job, "%T", "--states", "all")
    return bool(state) and state not in _HOLDING


def _gone(state: str) -> bool:
    return state.lower().startswith(_GONE) or state.endswith("*")
