"""A bed of emulated hosts on one Linux machine, for tests that need several nodes.

Every host has its own network, UTS, IPC, PID and mount namespaces: a name (node0, node1, ...), an address, an sshd
with keys, and empty /tmp, /dev/shm, /run and home directories; the rest of the file system is the machine's. A bridge
in a namespace of its own joins them, so nothing touches the machine's network and beds never meet.

Nothing has to be cleaned up by name. The namespaces exist as long as the bed's process holds them open, and a host
ends when its standard input does: the bed is gone when its owner is, however it dies. Only its directory can outlive
it, and the next bed removes that.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil

from .job import Job, wait_until

SUBNET = "10.77.0"
_MASKED = (Path("/tmp"), Path("/dev/shm"), Path("/run"), Path("/root"))
_PREFIX = "mpipso-bed-"
_TOOLS = ("/usr/sbin/sshd", "ssh", "ssh-keygen", "ip", "nsenter", "unshare")

_SSHD = """\
Port 22
HostKey {bed}/hostkey
AuthorizedKeysFile {bed}/ssh/id_ed25519.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
UseDNS no
MaxStartups 100
MaxSessions 100
PrintMotd no
"""

_SSH = """\
Host *
  BatchMode yes
  StrictHostKeyChecking yes
  HashKnownHosts no
  ConnectTimeout 5
"""


def missing() -> str | None:
    """Why there can be no bed here, in words for a skipped test; None when there can."""
    lacking = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if os.geteuid() != 0 or lacking:
        found = f": no {', '.join(lacking)}" if lacking else ""
        return f"needs root and openssh-server, iproute2 (apt-get install openssh-server iproute2){found}"
    trial = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    return f"needs the right to make namespaces: {trial.stderr.strip()}" if trial.returncode else None


class Bed:
    """``count`` hosts, up after the ``with`` statement and gone after its block.

    ``share`` names directories that every host sees although they lie where it has its own, such as pytest's
    temporary directory. Methods raise RuntimeError with the tool's own words when the system refuses something.
    """

    def __init__(self, count: int = 8, share: Iterable[Path] = ()) -> None:
        self.nodes = [f"node{index}" for index in range(count)]
        self.directory = Path()
        self._shared = [path.resolve() for path in share]
        self._networks: dict[str, int] = {}
        self._hosts: dict[str, subprocess.Popen[bytes]] = {}
        self._inits: dict[str, int] = {}
        self._cut: set[str] = set()
        self._serial = itertools.count()

    def __enter__(self) -> Bed:
        _remove_leftovers()
        self.directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        try:
            self._prepare()
            self._connect()
            for node in self.nodes:
                self._boot(node)
            for node in self.nodes:
                self._wait_for(node)
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.down()

    def down(self) -> None:
        """End every host and remove every trace of the bed."""
        for pid in self._inits.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for host in self._hosts.values():
            if host.stdin is not None:
                host.stdin.close()
            host.wait()
        for descriptor in self._networks.values():
            os.close(descriptor)
        self._inits, self._hosts, self._networks = {}, {}, {}
        shutil.rmtree(self.directory, ignore_errors=True)

    # Using the hosts

    def address(self, node: str) -> str:
        """The node's IPv4 address; its name resolves to that on every host."""
        return f"{SUBNET}.{10 + self.nodes.index(node)}"

    def hostfile(self, nodes: Iterable[str] | None = None) -> Path:
        """A new host file that every launcher reads: one plain name a line."""
        path = self.directory / f"hostfile-{next(self._serial)}"
        path.write_text("".join(f"{node}\n" for node in (self.nodes if nodes is None else nodes)))
        return path

    def enter(self, node: str) -> list[str]:
        """The words to put before a command so that it runs on the node, in the current directory.

        Signals to the process so started do not reach the command: see :meth:`Job.pid`.
        """
        return ["nsenter", f"--target={self._inits[node]}", "-m", "-u", "-i", "-n", "-p", f"--wd={Path.cwd()}", "--"]

    def job(self, node: str, argv: Sequence[str], *, limit: float, env: Mapping[str, str] | None = None) -> Job:
        """Start a command on the node; after ``limit`` seconds it and whatever runs on any host is killed."""
        own = {"TMPDIR": "/tmp", **(env or {})}
        return Job([*self.enter(node), *argv], limit=limit, env=own, on_expiry=self.clear)

    def run_on(
        self, node: str, argv: Sequence[str], *, limit: float = 60, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the node to its end.

        :raises subprocess.TimeoutExpired: after ``limit`` seconds.
        """
        with self.job(node, argv, limit=limit, env=env) as job:
            return job.wait()

    # Looking at the hosts

    def pids(self, node: str, system: bool = False) -> dict[int, str]:
        """The node's living processes: the machine's number of each, and its command line.

        The first process and sshd (with its sessions) belong to the ``system`` and are left out by default.
        """
        if node not in self._inits:
            return {}
        space = Path(f"/proc/{self._inits[node]}/ns/pid").stat().st_ino
        found = {}
        for process in psutil.process_iter():
            try:
                if Path(f"/proc/{process.pid}/ns/pid").stat().st_ino != space:
                    continue
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                command = " ".join(process.cmdline())
            except (OSError, psutil.Error):
                continue
            own = process.pid == self._inits[node] or command.startswith(("sshd:", "/usr/sbin/sshd"))
            if system or not own:
                found[process.pid] = command
        return found

    def listening(self, node: str) -> set[int]:
        """The TCP ports that something listens on, sshd's apart."""
        return self._listening(node) - {22}

    def shm(self, node: str) -> list[str]:
        """The node's POSIX shared-memory files."""
        return sorted(path.name for path in self._shm(node).iterdir())

    # Doing harm

    def clear(self) -> None:
        """Kill whatever the tests started on any host."""
        for node in self._inits:
            while running := self.pids(node):
                for pid in running:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    def kill_node(self, node: str) -> None:
        """Every process of the node dies at once, sshd included; its network stays, so that peers are told."""
        os.kill(self._inits.pop(node), signal.SIGKILL)
        self._hosts.pop(node).wait()

    def cut(self, node: str) -> None:
        """Pull the node's cable: its processes go on, nobody hears of them."""
        self._cut.add(node)
        self._link(node, "down")

    def heal(self, node: str) -> None:
        """Plug the cable in again; what is sent to the node arrives when this returns."""
        self._link(node, "up")
        self._cut.discard(node)
        for other in self._inits:
            self._ip(self._networks[other], ["neighbour flush dev eth0"])

    def power_off(self, node: str) -> None:
        """The node is gone without a word to its peers."""
        self.cut(node)
        self.kill_node(node)

    def freeze(self, node: str) -> None:
        """Stop every process of the node; its kernel goes on, so that peers see open connections that say nothing."""
        while running := [pid for pid in self.pids(node, system=True) if not _stopped(pid)]:
            for pid in running:  # until what was being forked is stopped as well
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)

    def thaw(self, node: str) -> None:
        """Let the processes of a frozen node go on."""
        for pid in self.pids(node, system=True):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def start(self, node: str) -> None:
        """Boot a node that was killed or powered off."""
        self.heal(node)
        self._boot(node)
        self._wait_for(node)

    def repair(self) -> None:
        """Every host is up and connected again, and nothing that a test started is left on it."""
        for node in self._inits:
            self.thaw(node)
        self.clear()
        for node in self.nodes:
            if node not in self._inits:
                self.start(node)
            elif node in self._cut:
                self.heal(node)
            for name in self.shm(node):
                (self._shm(node) / name).unlink()

    # How it is made

    def _prepare(self) -> None:
        ssh = self.directory / "ssh"
        ssh.mkdir(mode=0o700)
        for key in (ssh / "id_ed25519", self.directory / "hostkey"):
            _tool(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)])
        host_key = (self.directory / "hostkey.pub").read_text()
        (ssh / "known_hosts").write_text("".join(f"{node},{self.address(node)} {host_key}" for node in self.nodes))
        (ssh / "config").write_text(_SSH)
        (self.directory / "sshd_config").write_text(_SSHD.format(bed=self.directory))
        (self.directory / "shadow").write_text("root:*:20000:0:99999:7:::\nsshd:*:20000:0:99999:7:::\n")
        names = "".join(f"{self.address(node)} {node}\n" for node in self.nodes)
        (self.directory / "hosts").write_text(f"127.0.0.1 localhost\n{names}")

    def _connect(self) -> None:
        switch = self._networks["switch"] = _new_network()
        plan = ["link add bridge type bridge", "link set bridge up"]
        for index, node in enumerate(self.nodes):
            network = self._networks[node] = _new_network()
            plan += [
                f"link add port{index} type veth peer name eth0 netns {_path(network)}",
                f"link set port{index} master bridge up",
            ]
        self._ip(switch, plan)
        for node in self.nodes:
            self._ip(
                self._networks[node],
                ["link set lo up", f"address add {self.address(node)}/24 dev eth0", "link set eth0 up"],
            )

    def _boot(self, node: str) -> None:
        masked = [str(path) for path in self._shared if any(path.is_relative_to(mask) for mask in _MASKED)]
        with (self.directory / f"{node}.log").open("wb") as log:
            self._hosts[node] = subprocess.Popen(
                [
                    *("nsenter", f"--net={_path(self._networks[node])}", "--"),
                    *(
                        "unshare",
                        "--uts",
                        "--ipc",
                        "--pid",
                        "--mount",
                        "--fork",
                        "--kill-child=SIGKILL",
                        "--mount-proc",
                    ),
                    *("bash", str(Path(__file__).with_name("node_init.sh")), node, str(self.directory), *masked),
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait_for(self, node: str) -> None:
        host = self._hosts[node]

        def answers() -> bool:
            if host.poll() is not None:
                raise RuntimeError(f"{node} does not boot: {(self.directory / f'{node}.log').read_text().strip()}")
            for child in psutil.Process(host.pid).children():
                self._inits[node] = child.pid
            return node in self._inits and 22 in self._listening(node)

        wait_until(answers, 20, f"{node} answers on port 22")

    def _listening(self, node: str) -> set[int]:
        ports = set()
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{self._inits[node]}/net/{table}").read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if state == "0A":
                    ports.add(int(local.rpartition(":")[2], 16))
        return ports

    def _shm(self, node: str) -> Path:
        return Path(f"/proc/{self._inits[node]}/root/dev/shm")

    def _link(self, node: str, state: str) -> None:
        port, switch = f"port{self.nodes.index(node)}", self._networks["switch"]
        self._ip(switch, [f"link set {port} {state}"])
        # The kernel passes a change of the carrier on to the bridge only about once a second.
        wait_until(
            lambda: f"state {state.upper()}" in self._ip(switch, [f"link show {port}"]), 10, f"{port} is {state}"
        )

    def _ip(self, network: int, lines: Sequence[str]) -> str:
        return _tool(["nsenter", f"--net={_path(network)}", "--", "ip", "-batch", "-"], "\n".join(lines) + "\n")


def _stopped(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _new_network() -> int:
    """A descriptor of a new network namespace, which exists as long as that is open."""
    with subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as maker:
        assert maker.stdin is not None
        assert maker.stdout is not None
        maker.stdin.write(b"\n")
        maker.stdin.flush()
        if not maker.stdout.readline():
            raise RuntimeError("no network namespace can be made here")
        return os.open(f"/proc/{maker.pid}/ns/net", os.O_RDONLY)


def _path(network: int) -> str:
    return f"/proc/{os.getpid()}/fd/{network}"


def _tool(argv: Sequence[str], text: str = "") -> str:
    done = subprocess.run(argv, input=text, text=True, capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


def _remove_leftovers() -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        owner = path.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)) and path.lstat().st_uid == os.geteuid():
            shutil.rmtree(path, ignore_errors=True)
