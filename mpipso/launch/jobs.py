"""The MPI job of a run: on which hosts, with how many ranks and words; and the same on the hosts that are left."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mpipso.batch import SLURM
from mpipso.cluster.facts import rank_here
from mpipso.cluster.hosts import HOST, Hosts, addresses
from mpipso.cluster.placement import group_size, led, regrouped, too_few
from mpipso.cluster.plan import Rank
from mpipso.config import Config
from mpipso.config.parallel import GroupEntry, Parallel
from mpipso.errors import RunFailed, UserError
from mpipso.launch import quota
from mpipso.launch.allocation import Allocation, allocation
from mpipso.launch.launchers import Launcher
from mpipso.launch.ranks import Ranks
from mpipso.launch.survivors import TooFew, strangers
from mpipso.startup import Options, as_launched, wanted_groups
from mpipso.wording import counted, is_address

MOST_LOCAL_RANKS = 8
"""Ranks that are started on one machine when the user names no number."""


def local_ranks() -> int:
    """How many ranks there are where nobody says on which hosts, nor how many."""
    cores = min(len(os.sched_getaffinity(0)), quota.cpus())
    return min(math.ceil(cores), MOST_LOCAL_RANKS)


def wanted_ranks(options: Options, config: Config, ranks: int | None) -> tuple[Config, Ranks]:
    """The ranks that the user asks for: one on each host that is named, by a hostfile, groups or the batch system.

    They come with the configuration that has the groups of the command line; ``nodes_per_group`` in it is 1 where each
    rank of this machine is a group of its own, as nobody says otherwise.

    On this machine alone, since groups name no other host or those are reached over ssh, there are as many ranks as
    groups have places here, or one per core if no groups are named; in a batch job of one host, no more than it has
    slots if the system counts them.

    Parameters
    ----------
    ranks:
        How many if the user says so.

    Raises
    ------
    UserError
        The hostfile or the list of nodes is wrong, or has hosts that are not in this batch job; or it is not known
        which hosts the job has.
    """
    config, slots = wanted_groups(options, config)
    parallel = config.parallel
    places = [node.host for group in parallel.service_groups for node in group.nodes]
    away = strangers(places) if places else []
    listed = _launched_hosts(slots or [], config)
    named = [] if listed or parallel.ssh or not away else places
    job = _batch_job(needed=not listed and not places)
    allocated = job.hosts if job and not job.slots else ()
    # Inside a Slurm job the launcher knows the hosts by itself, inside others only if it was built for it.
    named = named or ([] if listed or (job and job.system is SLURM) else list(allocated))
    hosts = listed or named or allocated
    if ranks is None and not hosts and not places and parallel.nodes_per_group is None:
        config = config.having("parallel", nodes_per_group=1)
    room = (job and job.slots) or MOST_LOCAL_RANKS
    here = max(1, len(places) - len(away)) if places else min(local_ranks(), room)
    # A batch job of this host alone has it once, whatever the groups have places on it.
    alone = bool(places) and not away and not listed and len(set(hosts)) == 1
    count = ranks or (here if alone else len(hosts)) or here
    wanted = Ranks(count, tuple(hosts), options.hostfile, named=bool(named) and options.hostfile is None)
    if job and job.hosts:
        _in_batch_job(wanted.host_of_each(), job)
    return config, wanted


def _batch_job(*, needed: bool) -> Allocation | None:
    """The batch job that this is in; UserError if its hosts are needed and not known."""
    try:
        job = allocation()
    except UserError:
        if needed:
            raise
        return None
    if needed and job and not job.hosts and job.system is not SLURM:
        raise UserError(f"this {job.system.name} job does not say which hosts it has: name them in a --hostfile")
    return job


def _in_batch_job(hosts: Iterable[str], job: Allocation) -> None:
    """UserError if ranks are to be on hosts that a batch job does not have: launchers hang, or disturb other jobs.

    An address may be that of a host of the job, and the host that this runs on may have a name of its own. All systems
    start a job's script on one of its hosts; only Slurm's salloc starts it where it is called.
    """
    inside = job.system is not SLURM or "SLURMD_NODENAME" in os.environ
    known = Hosts.of(job.hosts, *([rank_here(0, devices=False)] if inside else []))
    if out := [host for host in dict.fromkeys(hosts) if known.absent(host) and not is_address(host)]:
        raise UserError(
            f"{', '.join(out)}: not in this {job.system.name} job, which has {job.told()}; a host that has another "
            "name there can be named by its address"
        )


def _lacking(count: int, size: int, parallel: Parallel, options: Options) -> str | None:
    """What the ranks would say of there being too few of them, if that is certain: over ssh, nodes need none."""
    if parallel.ssh:
        return None
    if not parallel.service_groups:
        return too_few(count, size) if count < size else None
    places = sum(len(group.nodes) for group in parallel.service_groups)
    # Without some of their hosts, groups that have no rank are left out.
    if count >= places or options.without:
        return None
    return f"{counted(count, 'rank')} for {places} places in groups: each place in a group needs a rank"


def _launched_hosts(hosts: list[str], config: Config) -> list[str]:
    """The hosts on which ranks are started, once for each; one gets several only where groups share it.

    ``hosts`` are those of a hostfile, once per slot.
    """
    distinct = list(dict.fromkeys(hosts))
    return hosts if config.parallel.mode == "single_node" or len(distinct) < 2 else distinct


@dataclass(frozen=True)
class Job:
    """What :meth:`command` starts.

    Attributes
    ----------
    path, launcher:
        The launcher's program and family.
    options:
        What the ranks are told.
    ranks:
        How many there are, and on which hosts.
    groups:
        The service groups if the user named them; their hosts may be more than those of ranks, reached over ssh.
    size:
        Nodes of each group otherwise.
    overlap:
        Whether other steps of this Slurm job may hold its hosts.
    loud:
        Whether the launcher says all that it can.
    more:
        Further words of the user for the launcher.
    """

    path: str
    launcher: Launcher
    options: Options
    ranks: Ranks
    groups: tuple[GroupEntry, ...]
    size: int
    overlap: bool = False
    loud: bool = False
    more: tuple[str, ...] = ()

    @classmethod
    def first(
        cls,
        path: str,
        launcher: Launcher,
        options: Options,
        config: Config,
        ranks: int | None,
        more: Sequence[str] = (),
    ) -> Job:
        """The job as the user asks for it, see :func:`wanted_ranks`.

        Raises
        ------
        UserError
            As there, or those ranks cannot form a group.
        """
        before = config.parallel.nodes_per_group
        config, wanted = wanted_ranks(options, config, ranks)
        parallel = config.parallel
        if parallel.nodes_per_group != before:  # the ranks are told how many, and not why
            options = replace(options, overrides={**options.overrides, "parallel.nodes_per_group": 1})
        size = group_size(parallel, wanted.count)
        # What the user adds may be another number of ranks.
        if not more and (problem := _lacking(wanted.count, size, parallel, options)) is not None:
            raise as_launched(UserError(problem), options)
        overlap = "SLURM_STEP_ID" in os.environ
        return cls(path, launcher, options, wanted, parallel.service_groups, size, overlap, more=tuple(more))

    def command(self, forward: Sequence[str]) -> list[str]:
        """The whole command line; ``forward`` names environment variables that ranks on other hosts need."""
        words = self.launcher.command(self.path, self.ranks, forward, overlap=self.overlap, loud=self.loud)
        return [*words, *self.more, sys.executable, "-m", "mpipso", "tune", *self.options.words()]

    def on_what_is_left(self, answering: Collection[str], unfit: Collection[str], folder: Path) -> tuple[Job, str]:
        """The same job as :meth:`on` has it, and which hosts it is without, in words; a hostfile goes into the folder.

        It is on the ``unfit``, by any of their names, as well where it cannot do without them.

        Raises
        ------
        RunFailed
            As there.
        """
        path = next(path for index in itertools.count(2) if not (path := folder / f"hosts-{index}.txt").exists())
        silent = [host for host in dict.fromkeys(self.ranks.hosts) if host not in answering]
        verb = "does" if len(silent) == 1 else "do"
        words = f"; without {', '.join(silent)}, which {verb} not answer" if silent else ""
        by_address = any(map(is_address, self._named()))
        known = Hosts([Rank(-1, host, aliases=addresses(host) if by_address else ()) for host in unfit])
        if out := [host for host in self._named() if known.find(host) is not None]:
            with contextlib.suppress(RunFailed):
                return self.on(answering, path, out), f"{words}; without {', '.join(out)}, which kept it from going on"
        return self.on(answering, path), words

    def without_rank(self, hosts: Iterable[str]) -> list[str]:
        """Those of the hosts that groups name, and that are neither among those of ranks nor this one."""
        known, named = Hosts.of(self.ranks.hosts), set(self._named())
        return strangers(host for host in sorted(hosts) if host in named and known.absent(host))

    def _named(self) -> list[str]:
        """The hosts for ranks, and those of groups, which need no rank."""
        return list(dict.fromkeys([*self.ranks.hosts, *(node.host for group in self.groups for node in group.nodes)]))

    def _called_by_address(self) -> dict[str, str]:
        """Hosts of groups that are named otherwise where ranks are listed, as one of the two names is an address."""
        slots = dict.fromkeys(self.ranks.hosts)
        known = Hosts.of(slots)
        apart = [host for host in self._named() if host not in slots and known.find(host) is None]
        if not any(map(is_address, [*slots, *apart])):
            return {}
        slot_at = {address: slot for slot in slots for address in addresses(slot)}
        return {host: slot_at[address] for host in apart for address in addresses(host) if address in slot_at}

    def on(self, answering: Collection[str], hostfile: Path, unfit: Collection[str] = ()) -> Job:
        """The same job on those of its hosts that answer; their hostfile is written if any host is left out.

        Left out are also the ``unfit``, among them nodes of groups that have no rank.

        Groups that the user named and that have lost a node are left out, and what is left of them forms new groups
        if all were of one size. The groups' size stays as it was.

        Raises
        ------
        RunFailed
            The hosts that answer cannot form a group, or the file cannot be written.
        """
        overlap = "SLURM_JOB_ID" in os.environ
        count, slots = self.ranks.count, self.ranks.hosts
        called = self._called_by_address()
        gone = {*unfit, *(slot for slot in slots if slot not in answering)}
        gone |= {called[host] for host in gone if host in called}
        lost = [host for host in self._named() if host in gone or called.get(host) in gone]
        if not lost:
            return replace(self, overlap=overlap)
        groups = regrouped(self.groups, lost)
        left_in = [node.host for group in groups for node in group.nodes]
        inside = Hosts.of(called.get(host, host) for host in left_in)
        hosts = [host for host in slots if host not in lost and (inside.find(host) or not self.groups)]
        left = min(count, len(hosts)) if slots else count
        if slots and count > len(slots):  # as many times more than there are slots
            left = count * len(hosts) // len(slots)
        size = min(len(group.nodes) for group in self.groups) if self.groups else self.size
        if not (hosts if slots else led(groups, [rank_here(0, devices=False)])) or (left < size and not self.groups):
            up, all_ = len(set(slots).difference(lost)), len(set(slots))
            raise TooFew(f"{up} of {all_} hosts answer, too few for a group of {size}")
        ranks = self.ranks
        if slots:
            self._write(hostfile, hosts)
            ranks = Ranks(left, tuple(hosts), hostfile)
        options = self.options
        if self.groups or options.hostfile is not None:
            options = replace(options, without=tuple(lost))
        if not self.groups:
            options = replace(options, overrides={**options.overrides, "parallel.nodes_per_group": self.size})
        return replace(self, options=options, ranks=ranks, overlap=overlap)

    def _write(self, path: Path, hosts: Collection[str]) -> None:
        """The lines of the user's own hostfile, whose form suits the launcher, or plain names."""
        try:
            if self.ranks.hostfile is None:
                lines = list(hosts)
            else:
                own = self.ranks.hostfile.read_text(encoding="utf-8").splitlines()
                lines = [line for line in own if (name := re.match(HOST, line.strip())) and name.group() in hosts]
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        except OSError as error:
            raise RunFailed(f"{path}: hosts that are left cannot be written: {error.strerror}") from error
