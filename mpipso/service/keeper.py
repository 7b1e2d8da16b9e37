"""The keeper: a small process between a rank and what the rank starts, so that nothing of it outlives the rank.

Stand-alone on purpose: one file and the standard library only, so that it starts quickly and without the packages of
its rank, as ``python -I -S keeper.py``. One JSON object per line, both ways.

On standard input, first the order: ``argv``, ``env`` (complete), ``cwd`` or null, ``log`` (path), ``errors`` (path for
the standard error, else it goes to the log), ``cores`` (list, or null for all that the kernel allows), ``grace``
(seconds from TERM to KILL), ``mark``, ``log_limit`` (bytes), ``stop_command`` (argv), ``folder`` (of the rank's files,
which goes too if the rank is dead in the end), ``passing`` (whether it is a command whose shared memory stays if it
ends by itself with exit code 0). Then ``{"stop": true}``, perhaps with another ``grace``. The end of the input means
that the rank is dead, and stops as well; so do TERM, INT and HUP.

On standard output: ``{"started": pid}`` or ``{"failed": why}``; ``{"known": ...}`` whenever the service's processes or
shared memory change, for the case that the keeper itself is killed; ``{"exited": code}`` when the leader ends (-signal
if by a signal); last ``{"gone": {"killed": n, "survivors": [pid], "shm": [name]}}``.

Why nothing escapes: the keeper is a child subreaper (prctl(2), Linux 3.4), so whatever loses its parent, however often
it forks or calls setsid, becomes the keeper's child; it is done when ``waitpid`` says that it has no child left.
"""

# pathlib is slow to import and slower to walk /proc with.
# ruff: noqa: PTH108, PTH110, PTH115, PTH116, PTH119, PTH120, PTH123, PTH208

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import select
import signal
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

MARK = "MPIPSO_MARK"
SHM = "/dev/shm"
OPENED = ("nccl-", "sglang_", "vllm_")  # shared memory that is opened as any file is, by its name
HASTY = 2.0  # seconds of grace when nobody is left to wait for the service
FIRST = 5.0  # seconds, and a third of the grace at most, for those who may have their own way to end the others
SHELLS = {b"ash", b"bash", b"busybox", b"dash", b"ksh", b"sh", b"zsh"}
STOP_COMMAND = 5.0  # seconds, at least, for the user's own stop command; in a hurry, at most
UNKILLABLE = 10.0  # seconds after KILL; a process in the middle of a driver call may need some
LOOK = 0.5  # seconds between two looks at processes, shared memory and log
SHARE = 0.005  # of one core, at most, for those looks: the service under test needs the cores
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, IPC_RMID = 1, 36, 0

libc = ctypes.CDLL(None, use_errno=True)


class Process(NamedTuple):
    """A live process; ``start`` (clock ticks since boot) tells it from a later one with the same pid."""

    pid: int
    parent: int
    session: int
    start: int


def _read(path: str) -> bytes:
    """The content of a file below /proc; empty when the process is gone or not ours to see."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def process(pid: int) -> Process | None:
    """The process with that pid, or None when it is dead, reaped or not (fields: proc_pid_stat(5))."""
    text = _read(f"/proc/{pid}/stat")
    if not text:
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    # A process whose first thread has ended shows as a zombie although its other threads run on.
    if fields[0] in (b"Z", b"X") and int(fields[17]) <= 1:
        return None
    return Process(pid, int(fields[1]), int(fields[3]), int(fields[19]))


def processes() -> dict[int, Process]:
    """Every live process that can be seen, by pid."""
    found = (process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {each.pid: each for each in found if each is not None}


def descendants(roots: Iterable[int], table: dict[int, Process]) -> dict[int, Process]:
    """What stands below ``roots`` in ``table``, without the roots."""
    children: dict[int, list[Process]] = {}
    for each in table.values():
        children.setdefault(each.parent, []).append(each)
    found: dict[int, Process] = {}
    queue = list(roots)
    while queue:
        for child in children.get(queue.pop(), ()):
            if child.pid not in found:
                found[child.pid] = child
                queue.append(child.pid)
    return found


def marked(mark: str, table: dict[int, Process]) -> dict[int, Process]:
    """The processes of this user that were started with ``mark`` in their environment.

    A process that changes its title (setproctitle) may overwrite the very memory that is read here, so that the mark is
    a second net below the subreaper, never the only one.
    """
    entry, user = f"{MARK}={mark}".encode(), os.geteuid()
    found = {}
    for pid, each in table.items():
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}").st_uid == user and entry in _read(f"/proc/{pid}/environ").split(b"\0"):
                found[pid] = each
    return found


def lives(each: Process) -> bool:
    """Whether it does, and its pid has not become another's."""
    now = process(each.pid)
    return now is not None and now.start == each.start


def first(leader: int, table: dict[int, Process]) -> list[Process]:
    """Who is to be told first to end: the leader and, as a shell tells nobody, what it has started if it is one."""
    found: list[Process] = []
    queue = [leader]
    while queue:
        pid = queue.pop()
        found += [table[pid]] if pid in table else []
        if _read(f"/proc/{pid}/comm").strip() in SHELLS:
            queue += [each.pid for each in table.values() if each.parent == pid]
    return found


def send(target: Process, number: int) -> bool:
    """Signal ``target``, unless its pid has become another's; whether it was delivered."""
    if not lives(target):
        return False
    try:
        os.kill(target.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def kill_all(find: Callable[[], dict[int, Process]], limit: float = UNKILLABLE) -> tuple[set[int], list[int]]:
    """Kill until ``find`` finds nothing: the pids killed, and those still there after ``limit`` seconds.

    Everything is halted before anything is killed, until no new process turns up: a parent that replaces its dead
    children gets no chance to.
    """
    deadline = time.monotonic() + limit
    killed: set[int] = set()
    while True:
        victims = find()
        halted: set[Process] = set()
        while not halted.issuperset(victims.values()) and time.monotonic() < deadline:
            for each in set(victims.values()) - halted:
                send(each, signal.SIGSTOP)
            halted.update(victims.values())
            victims = find()
        if not victims:
            return killed, []
        killed.update(pid for pid, each in victims.items() if send(each, signal.SIGKILL))
        if time.monotonic() > deadline:
            return killed, sorted(victims)
        time.sleep(0.01)


def files() -> Iterator[tuple[str, int, int]]:
    """The files of shared memory on this host: path, device, inode; shm_open(3) and sem_open(3) have no folders."""
    with contextlib.suppress(OSError), os.scandir(SHM) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                found = entry.stat(follow_symlinks=False)
                yield entry.path, found.st_dev, found.st_ino


class Names:
    """The names of files of shared memory where /proc has one that has gone; good for one look.

    A named semaphore shows by a name that it never has again: sem_open(3) of the GNU C library maps a temporary file,
    links it to where it is to be, and removes the temporary name.
    """

    def __init__(self) -> None:
        self.known: dict[tuple[int, int], str] | None = None

    def now(self, name: str, device: int, inode: int) -> str:
        """The name of a file, empty if it has none any more."""
        if not (name.startswith(SHM + "/") and name.endswith(" (deleted)")):
            return name
        if self.known is None:
            self.known = {(device, inode): path for path, device, inode in files()}
        return self.known.get((device, inode), "")


def mapped(pid: int, names: Names, written: bool = False) -> set[tuple[str, int]]:
    """The shared memory a process maps: (path, inode), and ("sysv", id) for System V segments.

    With ``written``, only what it can write through the mapping: a reader may have another's file.
    """
    found = set()
    for line in _read(f"/proc/{pid}/maps").splitlines():
        if b"/dev/shm/" in line or b"/SYSV" in line:
            _, mode, _, device, inode, name = line.decode("utf-8", "surrogateescape").split(None, 5)
            if written and not ("w" in mode and "s" in mode):
                continue
            # proc_pid_maps(5): a System V segment shows as /SYSV<key> with its id for an inode.
            major, minor = (int(part, 16) for part in device.split(":"))
            name = "sysv" if name.startswith("/SYSV") else names.now(name, os.makedev(major, minor), int(inode))
            found.add((name, int(inode)))
    return {(name, inode) for name, inode in found if name == "sysv" or os.path.dirname(name) == SHM}


def opened(pid: int, names: Names, by_shm_open: bool | None = None) -> set[tuple[str, int]]:
    """The shared memory a process holds open: (path, inode); if told, only by shm_open(3), or only as any file."""
    found = set()
    with contextlib.suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                link = f"/proc/{pid}/fd/{number}"
                name = os.readlink(link)
                if name.startswith(SHM + "/") and by_shm_open in (None, _by_shm_open(pid, number)):
                    file = os.stat(link)
                    found.add((names.now(name, file.st_dev, file.st_ino), file.st_ino))
    return {(name, inode) for name, inode in found if os.path.dirname(name) == SHM}


def _by_shm_open(pid: int, number: str) -> bool:
    """Whether a descriptor is one of shm_open(3), which alone sets O_NOFOLLOW; so it is if it is gone by now."""
    flags = re.search(rb"^flags:\s*([0-7]+)", _read(f"/proc/{pid}/fdinfo/{number}"), re.MULTILINE)
    return flags is None or bool(int(flags[1], 8) & os.O_NOFOLLOW)


def segments() -> dict[int, tuple[int, int]]:
    """The System V segments of this host: id → (creator's pid, number of attaches); sysvipc(5)."""
    rows = [line.split() for line in _read("/proc/sysvipc/shm").splitlines()[1:]]
    return {int(row[1]): (int(row[4]), int(row[6])) for row in rows}


class SharedMemory:
    """The shared memory that a service creates: noted while it lives, removed when nobody uses it any more.

    A file of data, as of a database, may be there as well: in a folder, not mapped, or open as any file is.
    """

    def __init__(self, seen: Iterable[tuple[str, int]] = ()) -> None:
        self._seen = set(seen)
        self._shared: set[tuple[str, int]] = set()
        self._data: set[tuple[str, int]] = set()
        self._before = {("sysv", number) for number in segments()} | {(path, inode) for path, _, inode in files()}

    @property
    def seen(self) -> set[tuple[str, int]]:
        """What is to be removed."""
        return self._seen - (self._data - self._shared)

    def note(self, pids: Iterable[int]) -> None:
        """Add what the processes ``pids`` can write or have created and what was not there before the start."""
        pids, names = set(pids), Names()
        now = {("sysv", number) for number, (creator, _) in segments().items() if creator in pids}
        self._seen |= now.union(*(mapped(pid, names, written=True) for pid in pids)) - self._before
        # What one process has from shm_open(3) another one may open by its path, to look at it.
        self._shared = self._shared.union(*(opened(pid, names, by_shm_open=True) for pid in pids))
        plain = set[tuple[str, int]]().union(*(opened(pid, names, by_shm_open=False) for pid in pids))
        self._data |= {each for each in plain if not os.path.basename(each[0]).startswith(OPENED)}

    def remove(self) -> list[str]:
        """Remove what was noted, is this user's, and is neither mapped nor open anywhere; the names."""
        if not self.seen:
            return []
        names = Names()
        used = set[tuple[str, int]]().union(*(mapped(pid, names) | opened(pid, names) for pid in processes()))
        removed = []
        for name, inode in sorted(self.seen - used):
            if name == "sysv":
                if segments().get(inode, (0, 1))[1] == 0 and libc.shmctl(inode, IPC_RMID, None) == 0:
                    removed.append(f"sysv:{inode}")
                continue
            with contextlib.suppress(OSError):
                found = os.lstat(name)
                if found.st_ino == inode and found.st_uid == os.geteuid():
                    os.unlink(name)
                    removed.append(name)
        return removed


class Log:
    """A log file that the service writes itself and that stays below ``limit`` bytes.

    When it grows beyond, its middle is cut out in place: the first eighth stays, the last quarter is appended again.
    The service writes in append mode, so it goes on behind that, and never waits; a line it writes in that very moment
    may be lost. Renaming would not do, as the service keeps the old file open; not every file system knows holes.
    """

    def __init__(self, path: str, limit: int) -> None:
        self.file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self.regular, self.limit, self.size, self.pause = stat.S_ISREG(os.fstat(self.file).st_mode), limit, 0, 0.02

    def bound(self) -> float:
        """Cut if need be; seconds until the next check: fewer, the faster the file grows."""
        size = os.fstat(self.file).st_size if self.regular else 0
        fast = 4 * (size - self.size) > self.limit - size
        self.pause = max(0.02, self.pause / 4) if fast else min(LOOK, self.pause * 2)
        if size > self.limit:
            head, tail = self.limit // 8, self.limit // 4
            last = os.pread(self.file, tail, size - tail)
            os.ftruncate(self.file, head)
            note = f"\n[... {size - head - tail} bytes left out ...]\n".encode()
            with contextlib.suppress(OSError):  # the disk is full: the service's own lines are lost as well
                os.write(self.file, note + last)
            size = os.fstat(self.file).st_size
        self.size = size
        return self.pause


class StartFailed(Exception):
    """Why the command could not be started, in words."""


class Keeper:
    """One service from its start until nothing of it is left."""

    def __init__(self, order: dict[str, Any], rest: bytes, wake: int) -> None:
        self.order, self.input, self.wake = order, rest, wake
        self.env = {**order["env"], MARK: order["mark"]}
        self.grace = float(order["grace"])
        self.parent, self.output, self.heard = os.getppid(), b"", True
        self.leader = self.stopper = -1
        self.alone = False  # no child is left, not even an adopted one
        self.stopping = self.terminated = False
        self.complete = False  # the leader has ended by itself, with exit code 0
        self.told: list[Process] = []  # who got TERM first
        self.term_at = self.rest_at = self.kill_at = float("inf")
        self.look_at = self.log_at = 0.0
        self.known: dict[str, Any] = {}
        self.memory = SharedMemory()
        self.logs: list[Log] = []

    def run(self) -> None:
        """Start, keep, stop, clean up; whatever goes wrong in between, nothing of the service stays."""
        try:
            self.start()
            while not self.alone and time.monotonic() < self.kill_at:
                self.wait()
                self.reap()
                if not self.alone:
                    self.advance()
        except StartFailed as problem:
            self.tell({"failed": str(problem)})
        finally:
            self.finish()

    def start(self) -> None:
        for path in filter(None, (self.order["log"], self.order.get("errors"))):
            try:
                self.logs.append(Log(path, int(self.order["log_limit"])))
            except OSError as problem:
                raise StartFailed(f"cannot write the log {path}: {problem.strerror}") from None
        for number in map(int, os.listdir("/proc/self/fd")):
            with contextlib.suppress(OSError):
                os.set_inheritable(number, False)
        self.leader = self.spawn(self.order["argv"])
        self.tell({"started": self.leader})

    def spawn(self, argv: list[str]) -> int:
        """Start a command in a session of its own that is killed if the keeper is; its pid, once it runs."""
        keeper = os.getpid()
        pipe: list[int] = []
        try:
            pipe += os.pipe()
            pid = os.fork()
        except OSError as problem:
            for end in pipe:
                os.close(end)
            raise StartFailed(f"cannot run {argv[0]}: {problem.strerror}") from None
        told, tell = pipe
        if pid == 0:
            try:
                os.setsid()
                libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() == keeper:
                    self.become(argv)
            except StartFailed as problem:
                os.write(tell, str(problem).encode())
            except Exception as problem:
                os.write(tell, f"cannot run {argv[:1]}: {problem}".encode())
            finally:
                os._exit(127)
        os.close(tell)
        with open(told, "rb") as file:
            why = file.read()
        if why:
            os.waitpid(pid, 0)
            raise StartFailed(why.decode())
        return pid

    def become(self, argv: list[str]) -> None:
        """In the forked child: put in order what a rank would hand down, then exec."""
        signal.set_wakeup_fd(-1)
        for number in range(1, signal.NSIG):
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
        cores, cwd, name = self.order["cores"], self.order["cwd"], argv[0]
        try:
            # The kernel takes what lies within the job's cpuset; the binding of the rank must not be inherited.
            os.sched_setaffinity(0, range(os.sysconf("SC_NPROCESSORS_CONF")) if cores is None else cores)
        except (OSError, ValueError):
            raise StartFailed(f"cores {cores}: none of them can be used on this node") from None
        try:
            os.chdir(cwd or ".")
        except OSError as problem:
            raise StartFailed(f"cannot enter the working directory {cwd}: {problem.strerror}") from None
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(self.logs[0].file, 1)
        os.dup2(self.logs[-1].file, 2)
        try:
            os.execvpe(name, argv, self.env)
        except OSError as problem:
            why = f"cannot run {name}: {problem.strerror}"
            if problem.errno == errno.ENOENT and "/" in name and os.path.exists(name):
                why = f"cannot run {name}: the interpreter in its first line does not exist"
            elif problem.errno in (errno.ENOENT, errno.ENOTDIR):
                why = f"command not found: {name}"
            elif problem.errno == errno.EACCES:
                why = f"not executable: {name}"
            elif problem.errno == errno.ENOEXEC:
                why = f"not executable: {name} (neither a program nor a script that starts with #!)"
            raise StartFailed(why) from None

    def wait(self) -> None:
        """Sleep until a signal, a command, room for output, or the next thing to do."""
        pause = min(self.look_at, self.log_at, self.term_at, self.rest_at, self.kill_at) - time.monotonic()
        inputs = [self.wake, 0] if self.heard else [self.wake]
        ready, _, _ = select.select(inputs, [1] if self.output else [], [], max(0.0, pause))
        if self.wake in ready and set(os.read(self.wake, 65536)) & {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}:
            self.stop(self.grace)
        if 0 in ready:
            self.obey()
        self.flush()

    def obey(self) -> None:
        """Take commands; the end of the input means that nobody is left to give any."""
        try:
            data = os.read(0, 65536)
        except OSError:
            data = b""
        *lines, self.input = (self.input + data).split(b"\n")
        for command in map(json.loads, lines):
            if command.get("stop") and ("grace" in command or not self.stopping):
                self.stop(float(command.get("grace", self.grace)))
        if not data:
            self.abandoned()

    def abandoned(self) -> None:
        self.heard = False
        # Signals may not reach what the stop command ends, as a container, and nobody else will end it.
        self.stop(min(self.grace, HASTY), max(self.grace, STOP_COMMAND))

    def stop(self, grace: float, patience: float | None = None) -> None:
        """Begin to stop; if that has begun, hurry: ``grace`` is then counted from now and the earlier end holds.

        The stop command gets ``patience``, or else ``grace`` and at least, in a hurry at most, STOP_COMMAND.
        """
        now = time.monotonic()
        if not self.stopping:
            self.stopping, self.grace, self.term_at = True, grace, now
            if self.order.get("stop_command"):
                try:
                    self.stopper = self.spawn(self.order["stop_command"])
                    self.term_at = now + (max(STOP_COMMAND, grace) if patience is None else patience)
                except StartFailed as problem:
                    self.note(f"stop command: {problem}")
        else:
            self.grace = min(self.grace, grace)
            if self.terminated:
                self.kill_at = min(self.kill_at, now + grace)
                self.rest_at = now if self.rest_at < float("inf") else self.rest_at
            else:
                self.term_at = min(self.term_at, now + (min(STOP_COMMAND, grace) if patience is None else patience))

    def note(self, line: str) -> None:
        """Add a line to the log; a full disk must not end what stops the service."""
        with contextlib.suppress(OSError):
            os.write(self.logs[-1].file, f"{line}\n".encode())

    def reap(self) -> None:
        """Bury dead children, adopted ones too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.alone = True
                return
            if pid == 0:
                self.alone = False
                return
            if pid == self.leader:
                self.tell({"exited": os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)})
                self.complete = status == 0 and not self.stopping
                if not self.stopping:  # its workers have no master any more: the service is over
                    self.stop(min(self.grace, HASTY), max(self.grace, STOP_COMMAND))
            elif pid == self.stopper:
                self.term_at = min(self.term_at, time.monotonic())
                if (code := os.waitstatus_to_exitcode(status)) and not self.terminated:
                    self.note(f"stop command: ended with code {code}")

    def advance(self) -> None:
        """Do what is due: TERM, a look at the processes, a look at the logs."""
        now = time.monotonic()
        if self.heard and os.getppid() != self.parent:  # dead, although a process it forked holds its end of the pipe
            self.abandoned()
        if now >= self.term_at:
            self.terminated, self.term_at, self.kill_at = True, float("inf"), now + self.grace
            self.rest_at = now + min(self.grace / 3, FIRST)
            self.look()
            self.told = first(self.leader, self.mine())
            for each in self.told:
                send(each, signal.SIGTERM)
        if self.rest_at < float("inf") and (now >= self.rest_at or not any(map(lives, self.told))):
            self.rest_at = float("inf")
            told = {each.pid for each in self.told}
            for each in self.mine().values():
                if each.pid not in told:
                    send(each, signal.SIGTERM)
        if now >= self.look_at:
            self.look()
        if now >= self.log_at:
            self.log_at = now + min(log.bound() for log in self.logs)

    def mine(self) -> dict[int, Process]:
        table = processes()
        return {**descendants([os.getpid()], table), **marked(self.order["mark"], table)}

    def look(self) -> None:
        """Note the service's processes and shared memory."""
        began = time.process_time()
        below = descendants([os.getpid()], processes())
        self.memory.note(below)
        known = {
            "processes": sorted([each.pid, each.session, each.start] for each in below.values()),
            "shm": sorted(map(list, self.memory.seen)),
        }
        if known != self.known and not self.output:
            self.known = known
            self.tell({"known": known})
        cost = time.process_time() - began
        self.look_at = time.monotonic() + min(10 * LOOK, max(LOOK, cost / SHARE))

    def finish(self) -> None:
        """Kill what is left, remove its shared memory, say so."""
        deadline = time.monotonic() + UNKILLABLE
        self.memory.note(descendants([os.getpid()], processes()))
        killed: set[int] = set()

        def left() -> dict[int, Process]:
            self.reap()
            return self.mine()

        while True:
            more, survivors = kill_all(left, deadline - time.monotonic())
            killed |= more
            self.reap()
            if self.alone or time.monotonic() > deadline:
                break
            time.sleep(0.01)
        for log in self.logs:
            log.bound()
        if self.order.get("folder") and self.orphaned():
            import shutil  # slow to import, and seldom needed

            shutil.rmtree(self.order["folder"], ignore_errors=True)
        stays = self.complete and self.order.get("passing")  # what a command leaves then, it leaves for others
        shm = [] if stays else self.memory.remove()
        self.tell({"gone": {"killed": len(killed), "survivors": survivors, "shm": shm}})
        if self.output:
            select.select([], [1], [], 1.0)
            self.flush()

    def orphaned(self) -> bool:
        """Whether the rank is dead; its pipes close before the kernel gives its children away, on a busy node long."""
        limit = time.monotonic() + (0.0 if self.heard else HASTY)
        while os.getppid() == self.parent and time.monotonic() < limit:
            time.sleep(0.01)
        return os.getppid() != self.parent

    def tell(self, event: dict[str, Any]) -> None:
        self.output += json.dumps(event).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Write what the pipe takes; a rank that does not listen, or is dead, never holds the keeper up."""
        try:
            while self.output:
                self.output = self.output[os.write(1, self.output) :]
        except BlockingIOError:
            pass
        except OSError:
            self.output = b""


def main() -> None:
    with contextlib.suppress(OSError):
        os.setsid()
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    for number in (signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):  # engines send these to parents
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    order = b""
    while b"\n" not in order:
        data = os.read(0, 65536)
        if not data:
            return  # the rank died before it had given an order
        order += data
    line, _, rest = order.partition(b"\n")
    os.set_blocking(1, False)
    Keeper(json.loads(line), rest, wake).run()


if __name__ == "__main__":
    main()
