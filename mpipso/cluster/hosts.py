"""Names of hosts as users and schedulers write them (host files, ``--nodes``, Slurm's lists), and whose they are."""

from __future__ import annotations

import difflib
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from mpipso.cluster.plan import Rank
from mpipso.config.parallel import GroupEntry, NodeEntry
from mpipso.errors import UserError
from mpipso.service.facts import resolved
from mpipso.wording import short_host

LOCAL = ("localhost", "127.0.0.1")
HOST = r"(?:[\w.][\w.\-]*@)?[A-Za-z0-9_.][A-Za-z0-9_.\-]*"
"""A pattern of a host in a hostfile, with the user to be there or without."""
_SLOTS = ("slots", "count", "cpu", "cpus")
_KEYS = {
    *_SLOTS,
    *(form.format(key) for key in _SLOTS for form in ("{}_max", "{}-max", "max_{}", "max-{}")),
    *("username", "user_name", "user-name", "port", "boards", "sockets", "cores", "cpu_set", "cpu-set"),
    *("sockets_per_board", "sockets-per-board", "cores_per_socket", "cores-per-socket"),
    *("user", "binding"),
}
"""What Open MPI's host files have, and those of MPICH."""
_NEAR = 0.85
"""From which likeness on (0 to 1) an unknown key counts as a known one misspelled; others may be another MPI's."""
_MOST = 100_000
"""How many hosts a list may stand for, at most; more is a slip of the pen."""


def parse_hostfile(text: str, source: str) -> list[tuple[str, int]]:
    """Hosts and their slots, in order: lines of ``host``, ``host slots=N`` (Open MPI) or ``host:N`` (MPICH).

    A host may be ``user@host``, which is returned as written: that is how ssh takes it.
    Open MPI's other names for slots, ``count`` and ``cpu``, are known too. Empty lines and everything after ``#`` are
    ignored; further ``key=value`` words are the launcher's.

    Raises
    ------
    UserError
        A line is none of these, or has what looks like a known word misspelled; with file, line number and line.
    """
    hosts: list[tuple[str, int]] = []
    problems: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        entry = line.split("#", 1)[0].strip()
        if not entry:
            continue
        match = re.fullmatch(rf"({HOST})(?::(\d+))?((?:\s+[A-Za-z_-]+\s*=\s*\S+)*)", entry)
        given = dict(re.findall(r"\s([A-Za-z_-]+)\s*=\s*(\S+)", entry))
        slots = [given[key] for key in _SLOTS if key in given]
        count = slots[0] if slots else match.group(2) if match and match.group(2) else "1"
        strange = [key for key in given if key not in _KEYS]
        slips = {key: near[0] for key in strange if (near := difflib.get_close_matches(key.lower(), _KEYS, 1, _NEAR))}
        if slips:
            problems += [
                f"{source}:{number}: {key}: unknown key; did you mean {meant!r}?" for key, meant in slips.items()
            ]
        elif re.match(r"(?:\S+@)?[\[\dA-Fa-f]*:[\dA-Fa-f]*:", entry):
            problems.append(f"{source}:{number}: {line.strip()!r}: write a name instead of an address of IPv6")
        elif match is None or not count.isdecimal() or int(count) < 1:
            problems.append(f"{source}:{number}: {line.strip()!r} is not 'host', 'host slots=N' or 'host:N'")
        elif len(count) > 9 or int(count) > _MOST:
            problems.append(f"{source}:{number}: {line.strip()!r} has more than {_MOST} slots")
        else:
            hosts.append((match.group(1), int(count)))
    if not hosts and not problems:
        problems.append(f"{source}: names no host")
    if problems:
        raise UserError(problems)
    return hosts


def hostfile_text(path: Path) -> str:
    """The text of a file that names hosts; UserError if it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise UserError(f"{path}: hostfile cannot be read: {reason}") from None


def read_hostfile(path: Path) -> list[tuple[str, int]]:
    """The hosts and slots of a file, as :func:`parse_hostfile` returns them.

    Raises
    ------
    UserError
        The file cannot be read, here or by launchers, or one of its lines is wrong.
    """
    text = hostfile_text(path)
    if text.startswith("\ufeff") or "\r" in text:
        mend = rf"sed -i '1s/^\xEF\xBB\xBF//; s/\r$//' {shlex.quote(str(path))}"
        raise UserError(f"{path}: has the line ends or the byte order mark of Windows, which launchers misread: {mend}")
    return parse_hostfile(text, str(path))


def parse_nodes(text: str) -> tuple[GroupEntry, ...]:
    """The groups of ``"node0,node1:node2,node3"``: a colon stands between groups, a comma between nodes of a group.

    Raises
    ------
    UserError
        A name is empty, or no name of a host.
    """
    groups = [[host.strip() for host in group.split(",")] for group in text.split(":")]
    if not all(host for group in groups for host in group):
        raise UserError(f"--nodes {text!r}: an empty name; write it as 'node0,node1:node2,node3'")
    if wrong := [host for group in groups for host in group if host.startswith("-")]:
        raise UserError(f"--nodes {text!r}: {wrong[0]!r}: a host's name does not begin with '-'")
    return tuple(
        GroupEntry(group_id=number, nodes=tuple(NodeEntry(host=host) for host in group))
        for number, group in enumerate(groups)
    )


def expand_node_list(text: str) -> list[str]:
    """Host names from Slurm's short form: ``node[0-2,7],login`` gives node0, node1, node2, node7, login.

    Leading zeros are kept (``n[08-10]``), and a name may have several brackets (``rack[0-1]n[0-3]``). The format is
    that of ``SLURM_JOB_NODELIST``, as ``scontrol show hostnames`` expands it (Slurm's documentation, "hostlist").

    Raises
    ------
    ValueError
        The text is no such list.
    """
    names = [name for part in _outside_brackets(text) for name in _expand(part)]
    if len(names) > _MOST:
        raise ValueError(f"{text!r} stands for more than {_MOST} hosts")
    return names


def _outside_brackets(text: str) -> list[str]:
    parts = re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text)
    if ",".join(parts) != text.strip(","):
        raise ValueError(f"{text!r} is not a list of hosts")
    return [part.strip() for part in parts]


def _expand(part: str) -> list[str]:
    match = re.search(r"\[([^\]]*)\]", part)
    if match is None:
        return [part]
    middles: list[str] = []
    for item in match.group(1).split(","):
        bounds = re.fullmatch(r"(\d+)(?:-(\d+))?", item.strip())
        if bounds is None:
            raise ValueError(f"{part!r}: {item!r} is neither a number nor a range")
        first, last = bounds.group(1), bounds.group(2) or bounds.group(1)
        if not int(first) <= int(last) < int(first) + _MOST:
            raise ValueError(f"{part!r}: {item!r} is not a range of hosts")
        middles += [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    tails = _expand(part[match.end() :])
    if len(middles) * len(tails) > _MOST:
        raise ValueError(f"{part!r} stands for more than {_MOST} hosts")
    return [part[: match.start()] + middle + tail for middle in middles for tail in tails]


class Hosts:
    """Finds a host of the job by its full name, its short name or an address, as launchers shorten names freely.

    Upper and lower case are the same in names (RFC 4343). Neither the user in ``user@host`` matters nor a dot at the
    end, by which no domain is to be added (RFC 1034).
    """

    def __init__(self, ranks: Sequence[Rank]) -> None:
        """``localhost`` is the host of the ``ranks`` if they have only one."""
        self.names: dict[str, None] = {}
        self._named: dict[str, str] = {}
        self._exact: dict[str, set[str]] = defaultdict(set)
        self._by_short: dict[str, set[str]] = defaultdict(set)
        for rank in ranks:
            if rank.host in self.names:
                continue
            self.names[rank.host] = None
            self._named[_key(rank.host)] = rank.host
            self._by_short[short_host(_key(rank.host))].add(rank.host)
            for alias in (rank.address, *rank.aliases):
                self._exact[_key(alias)].add(rank.host)
        if len(self.names) == 1 and any(rank.rank >= 0 for rank in ranks):
            for name in LOCAL:
                self._exact[name].update(self.names)

    @classmethod
    def of(cls, names: Iterable[str], *ranks: Rank) -> Hosts:
        """Hosts of which nothing is known but a name, and those of ``ranks``."""
        return cls([*ranks, *(Rank(-1, name) for name in names)])

    def find(self, name: str) -> str | None:
        """The host that ``name`` stands for, by the name that its ranks give; None if it is none or several."""
        found = self._candidates(name)
        return found.pop() if len(found) == 1 else None

    def absent(self, name: str) -> bool:
        """Whether ``name`` stands for none of these hosts, and is not ``localhost`` either."""
        return not self._candidates(name) and _key(name) not in LOCAL

    def problem(self, name: str) -> str | None:
        """Why :meth:`find` finds no host of that name, in words; None if it finds one."""
        found = self._candidates(name)
        if len(found) > 1:
            return f"{name} may be {' or '.join(sorted(found))}: write the full name"
        if not found and _key(name) in LOCAL:
            return f"{name} is another host on every node: write the name of the one that is meant"
        return None if found else f"no rank of this job runs on {name}"

    def _candidates(self, name: str) -> set[str]:
        name = _key(name)
        if name in self._named:
            return {self._named[name]}
        if name in self._exact:
            return set(self._exact[name])
        # Two full names that differ are two hosts; a short name on either side is enough if only one host has it.
        return {host for host in self._by_short.get(short_host(name), ()) if "." not in name or "." not in _key(host)}


def addresses(host: str) -> tuple[str, ...]:
    """The addresses that a host, or ``user@host``, has by that name here; none if it is not known."""
    return tuple(resolved(host.rpartition("@")[2]))


def _key(name: str) -> str:
    return name.rpartition("@")[2].casefold().removesuffix(".")
