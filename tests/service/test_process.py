"""Commands, keepers, environments and ports, with real processes and sockets.

What commands do on a node, whatever carries them there, is in ``node_interface.py``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bed.job import wait_until
from faults.disk import fill, small_disk

from mpipso.errors import EvaluationFailed
from mpipso.service import keeper as proc
from mpipso.service import ports, process
from mpipso.service.environment import scrubbed_environment
from mpipso.service.process import Kept, run

ENV = scrubbed_environment(os.environ)


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


def keep(folder: Path, argv: list[str], **more: Any) -> Kept:
    options: dict[str, Any] = {"env": ENV, "cwd": None, "log": folder / "log", "cores": None, "grace": 0.2, **more}
    return Kept.start(argv, **options)


def logged(folder: Path) -> str:
    """What a service that :func:`keep` started there has said."""
    log = folder / "log"
    return log.read_text() if log.exists() else ""


def tagged(tag: str) -> list[int]:
    """The live processes with ``TAG=tag`` in their environment: found without the code under test."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"TAG={tag}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


# --- run ---


def test_a_signal_is_a_negative_code() -> None:
    assert run(["sh", "-c", "kill -KILL $$"], timeout=20).exit_code == -signal.SIGKILL


def test_a_flood_is_drained_until_the_time_is_over() -> None:
    done = run(["yes"], timeout=0.5)
    assert done.timed_out
    assert len(done.stdout) == process.OUTPUT_LIMIT and set(done.stdout) == {"y", "\n"}
    assert done.cut


@pytest.mark.parametrize(("more", "cut"), [(0, False), (1, True), (10_000_000, True)])
def test_whether_the_beginning_of_an_output_is_kept_is_known(more: int, cut: bool) -> None:
    done = run(["head", "-c", str(process.OUTPUT_LIMIT + more), "/dev/zero"], timeout=20)
    assert len(done.stdout) == process.OUTPUT_LIMIT
    assert done.cut == cut


def test_what_a_command_leaves_in_the_background_ends_with_it() -> None:
    tag = f"background{os.getpid()}"
    done = run(["sh", "-c", "setsid sleep 1000 & sleep 1000 & exit 5"], timeout=20, env={**ENV, "TAG": tag})
    assert done.exit_code == 5 and not done.timed_out
    assert tagged(tag) == []


def test_commands_run_from_many_threads_at_once() -> None:
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda n: run(["sh", "-c", f"echo {n}; exit {n}"], timeout=60), range(16)))
    assert [(each.exit_code, each.stdout) for each in done] == [(n, f"{n}\n") for n in range(16)]


@pytest.mark.parametrize(
    ("argv", "options", "cause"),
    [
        (["no-such-command"], {}, "command not found: no-such-command"),
        (["./no-such-file"], {}, "command not found: ./no-such-file"),
        (["{folder}/plain"], {}, "not executable: {folder}/plain"),
        (["{folder}/text"], {}, "not executable: {folder}/text (neither a program nor a script that starts with #!)"),
        (["{folder}/script"], {}, "cannot run {folder}/script: the interpreter in its first line does not exist"),
        (["true"], {"cwd": "/no/such"}, "cannot enter the working directory /no/such: No such file or directory"),
        (["true"], {"log": "/no/such/log"}, "cannot write the log /no/such/log: No such file or directory"),
        (["true"], {"log": "{folder}"}, "cannot write the log {folder}: Is a directory"),
        (["true"], {"cores": [100_000]}, "cores [100000]: none of them can be used on this node"),
    ],
)
def test_a_command_that_cannot_start_says_why(
    argv: list[str], options: dict[str, Any], cause: str, tmp_path: Path
) -> None:
    for name, text in (("text", "hello"), ("script", "#!/no/such/interpreter\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "plain").touch(0o644)
    options = {
        key: Path(str(value).format(folder=tmp_path)) if key != "cores" else value for key, value in options.items()
    }
    with pytest.raises(EvaluationFailed) as failure:
        keep(tmp_path, [word.format(folder=tmp_path) for word in argv], **options)
    assert failure.value.cause == cause.format(folder=tmp_path)
    assert failure.value.kind == "infrastructure"
    assert failure.value.detail == ""


def test_the_command_is_looked_up_in_its_own_path(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("#!/bin/sh\necho found\n")
    (tmp_path / "mine").chmod(0o755)
    assert run(["mine"], timeout=20, env={"PATH": f"{tmp_path}:/bin:/usr/bin"}).stdout == "found\n"


# --- what the child gets ---

SHOW = """
import json, os, signal
print(json.dumps({
    "env": dict(os.environ), "cwd": os.getcwd(), "cores": sorted(os.sched_getaffinity(0)),
    "stdin": os.readlink("/proc/self/fd/0"), "fds": sorted(map(int, os.listdir("/proc/self/fd"))),
    "leader": os.getpid() == os.getsid(0) == os.getpgrp(),
    "status": dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines()),
}))
"""


def test_the_child_is_clean(tmp_path: Path) -> None:
    """Whatever the rank is bound to, blocks, ignores or holds open."""
    cores = os.sched_getaffinity(0)
    read, write = os.pipe()
    os.set_inheritable(write, True)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    os.sched_setaffinity(0, {min(cores)})
    try:
        done = run(python(SHOW), timeout=20, env={**ENV, "A": "b"}, cwd=tmp_path)
    finally:
        os.sched_setaffinity(0, cores)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGUSR1])
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
        os.close(read)
        os.close(write)
    seen = json.loads(done.stdout)
    assert seen["env"].pop(proc.MARK)
    seen["env"].pop("LC_CTYPE", None)  # set by Python itself
    assert seen["env"] == {**{name: value for name, value in ENV.items() if name != "LC_CTYPE"}, "A": "b"}
    assert seen["cwd"] == str(tmp_path)
    assert set(seen["cores"]) >= cores
    assert seen["stdin"] == "/dev/null"
    assert seen["fds"] == [0, 1, 2, 3]  # 3: the listing itself
    assert seen["leader"]
    assert int(seen["status"]["SigBlk"], 16) == 0
    ignored = {number for number in range(1, 65) if int(seen["status"]["SigIgn"], 16) >> (number - 1) & 1}
    assert ignored <= {signal.SIGPIPE, signal.SIGXFSZ}  # by Python itself


def test_the_child_gets_the_cores_of_its_share() -> None:
    core = max(os.sched_getaffinity(0))
    assert json.loads(run(python(SHOW), timeout=20, cores=[core]).stdout)["cores"] == [core]


def test_the_environment_is_scrubbed_of_the_launcher_and_nothing_else() -> None:
    # fmt: off
    launcher = [
        "OMPI_COMM_WORLD_RANK", "OPAL_PREFIX", "PMIX_RANK", "PMI_SIZE", "PRTE_LAUNCHED", "HYDRA_BSTRAP",
        "MPI_LOCALRANKID", "MPIEXEC_X", "MPIPSO_MARK", "I_MPI_INFO", "SLURM_PROCID", "SLURMD_NODENAME",
        "SRUN_DEBUG", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
        "PBS_NODEFILE", "PBS_O_PATH", "LSB_JOBID", "LS_SUBCWD", "JSM_NAMESPACE_RANK", "FLUX_TASK_RANK",
        "FLUX_URI", "PALS_RANKID", "SGE_TASK_ID", "OAR_NODEFILE", "COBALT_JOBID", "PJM_JOBID", "_CONDOR_SLOT",
    ]
    grid_engine = [
        "NSLOTS", "NHOSTS", "NQUEUES", "QUEUE", "PE", "JOB_ID", "JOB_NAME", "JOB_SCRIPT", "ARC", "REQNAME", "REQUEST",
        "RESTARTED",
    ]
    kept = [
        "PATH", "LD_LIBRARY_PATH", "HOME", "HF_HOME", "HF_TOKEN", "CUDA_VISIBLE_DEVICES",
        "ASCEND_RT_VISIBLE_DEVICES", "NCCL_DEBUG", "HCCL_IF_IP", "GLOO_SOCKET_IFNAME", "OMP_NUM_THREADS",
        "RANKING", "PATH_OMPI_", "ENVIRONMENT", "LSF_BINDIR", "LS_COLORS", "LOADEDMODULES", "MODULEPATH", "LMOD_DIR",
    ]
    # fmt: on
    installed = ["SGE_ROOT", "SGE_CELL", *grid_engine, *kept]
    installed.remove("JOB_ID")
    scrubbed = scrubbed_environment(dict.fromkeys(launcher + installed, "x"))
    assert scrubbed == dict.fromkeys(installed, "x"), "others use these words, too"
    for variables in (["PE_HOSTFILE"], ["SGE_ROOT", "JOB_ID"]):
        scrubbed = scrubbed_environment(dict.fromkeys([*variables, *launcher, *grid_engine, *kept], "x"))
        assert scrubbed == dict.fromkeys([name for name in ("SGE_ROOT", *kept) if name in {*variables, *kept}], "x")


# --- keepers ---


def test_a_service_has_a_pid_a_mark_and_a_log(tmp_path: Path) -> None:
    keeper = keep(tmp_path, ["sh", "-c", "for n in 1 2 3; do echo line $n; done; echo $MPIPSO_MARK; exec sleep 1000"])
    wait_until(lambda: keeper.mark in logged(tmp_path))
    assert keeper.poll() is None
    assert keeper.pids() == [keeper.pid]
    assert logged(tmp_path) == f"line 1\nline 2\nline 3\n{keeper.mark}\n"
    assert keeper.stop() == process.Gone()
    assert keeper.poll() == -signal.SIGTERM
    assert keeper.pids() == []


def test_the_lifeline_does_not_leak_into_other_children(tmp_path: Path) -> None:
    keeper = keep(tmp_path, ["sleep", "1000"])
    assert keeper._process.stdin
    lifeline = Path(f"/proc/self/fd/{keeper._process.stdin.fileno()}").readlink()
    others = [subprocess.Popen(["sleep", "1000"], close_fds=False), keep(tmp_path, ["sleep", "1000"])]
    for other in others:
        held = set()
        for entry in Path(f"/proc/{other.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # a file that was open for a moment, at the program's start
                held.add(entry.readlink())
        assert held and lifeline not in held
    others[0].kill()
    others[0].wait()
    others[1].stop()
    keeper.stop()


def test_a_stop_that_takes_too_long_ends_anyway(tmp_path: Path) -> None:
    keeper = keep(tmp_path, ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"], grace=1000)
    wait_until(lambda: "ready" in logged(tmp_path))
    keeper.stop(timeout=0.3)
    assert keeper.pids() == []
    assert keeper.poll() is not None


LEADS = """
import signal, subprocess, sys, time
def end(*_):
    time.sleep(0.3)
    child.send_signal(signal.SIGUSR1)
signal.signal(signal.SIGTERM, {"ends it": end, "dies": signal.SIG_DFL, "ignores": signal.SIG_IGN}[sys.argv[2]])
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
child.wait()
"""
IS_LED = """
import signal, sys, time
def told(number, _):
    print("told by", signal.Signals(number).name)
    sys.exit()
signal.signal(signal.SIGTERM, told)
signal.signal(signal.SIGUSR1, told)
print("ready", flush=True)
while True:
    time.sleep(0.05)
"""
IN_FRONT = ["sh", "-c", 'trap : TERM; "$@"; true', "sh"]


@pytest.mark.parametrize(
    ("before", "leader", "grace", "by"),
    [
        ([], "ends it", 1000, "SIGUSR1"),
        (["sh", "-c", '"$@"; true', "sh"], "ends it", 1000, "SIGUSR1"),  # a shell that dies of TERM
        (IN_FRONT, "ends it", 1000, "SIGUSR1"),  # and one that waits for its end first
        ([], "dies", 1000, "SIGTERM"),
        ([], "ignores", 12, "SIGTERM"),
    ],
)
def test_who_ends_its_own_processes_is_let_do_so(
    tmp_path: Path, before: list[str], leader: str, grace: float, by: str
) -> None:
    """As SGLang, which takes the end of one that it has not ended for a crash."""
    keeper = keep(tmp_path, [*before, *python(LEADS), IS_LED, leader], grace=grace)
    wait_until(lambda: "ready" in logged(tmp_path))
    assert keeper.stop() == process.Gone()
    assert logged(tmp_path) == f"ready\ntold by {by}\n"


def test_the_stop_command_comes_before_term(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    code = (
        "import os, signal, time\nprint('ready', flush=True)\n"
        f"while not os.path.exists({str(asked)!r}): time.sleep(0.01)\n"
        "signal.signal(15, signal.SIG_IGN); print('asked', flush=True); raise SystemExit(9)"
    )
    # TERM comes when the command has ended: by then the service ignores it, and has the time to end by itself.
    wait = f"touch {asked}; until grep -q asked {tmp_path / 'log'}; do sleep 0.01; done"
    keeper = keep(tmp_path, python(code), stop_command=["sh", "-c", wait], grace=20)
    wait_until(lambda: "ready" in logged(tmp_path))
    assert keeper.poll() is None
    assert keeper.stop() == process.Gone()
    assert keeper.poll() == 9  # TERM would have ended it with -15


def test_the_stop_command_runs_after_an_end_of_its_own_too(tmp_path: Path) -> None:
    """What the service has started out of reach of signals is left then as well, and its end takes as long."""
    asked = tmp_path / "asked"
    keeper = keep(tmp_path, ["false"], stop_command=["sh", "-c", f"sleep 5.5; touch {asked}"], grace=60)
    assert keeper.wait(20) == 1
    assert keeper.stop() == process.Gone()
    assert keeper.poll() == 1
    assert asked.exists()


def test_the_stop_command_has_the_grace_too_and_its_failure_is_in_the_log(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    keeper = keep(tmp_path, ["sleep", "1000"], stop_command=["sh", "-c", f"sleep 5.5; touch {asked}; exit 3"], grace=60)
    assert keeper.stop() == process.Gone()
    assert asked.exists()
    assert logged(tmp_path) == "stop command: ended with code 3\n"


LEFT = """
import os, sys, threading, time
from pathlib import Path
from mpipso.service.environment import scrubbed_environment
from mpipso.service.process import Kept
log, stop_command, stops = sys.argv[1:]
keeper = Kept.start(["sleep", "1000"], env=scrubbed_environment(os.environ), cwd=None, log=Path(log), cores=None,
                    grace=60, stop_command=["sh", "-c", stop_command])
if stops:
    threading.Thread(target=keeper.stop, daemon=True).start()
print("ready", flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("stops", ["", "before"])
def test_the_stop_command_has_the_grace_when_the_rank_is_dead(tmp_path: Path, stops: str) -> None:
    """It may be all that ends a container; the rank may have begun to stop the service ``before`` it died."""
    tag, begun, asked = f"left{os.getpid()}{stops}", tmp_path / "begun", tmp_path / "asked"
    words = [sys.executable, "-c", LEFT, str(tmp_path / "log"), f"touch {begun}; sleep 6; touch {asked}", stops]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env={**os.environ, "TAG": tag}) as rank:
        try:
            assert rank.stdout and rank.stdout.readline() == b"ready\n"
            if stops:
                wait_until(begun.exists)
        finally:
            rank.kill()
    wait_until(lambda: not tagged(tag), 60)
    assert asked.exists()


def test_a_stop_command_that_hangs_or_is_missing_does_not_prevent_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = keep(tmp_path, ["sleep", "1000"], stop_command=["no-such-command"])
    missing.stop()
    assert missing.poll() == -signal.SIGTERM
    assert "stop command: command not found: no-such-command" in logged(tmp_path)
    hanging = keep(tmp_path, ["sleep", "1000"], stop_command=["sleep", "1001"])
    with ThreadPoolExecutor() as pool:
        first = pool.submit(hanging.stop)
        wait_until(lambda: len(hanging.pids()) == 2)
        hanging.stop(grace=0.1)  # the limit of the grace, or of 5 s, holds without this as well
        assert first.result(20).survivors == ()
    assert hanging.poll() == -signal.SIGTERM


def test_an_exit_at_once_is_told_not_raised(tmp_path: Path) -> None:
    keeper = keep(tmp_path, ["sh", "-c", "echo no memory; exit 4"])
    assert keeper.wait(20) == 4
    keeper.stop()
    assert logged(tmp_path) == "no memory\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_keeper_stops_the_service(tmp_path: Path, number: signal.Signals) -> None:
    keeper = keep(tmp_path, ["sleep", "1000"])
    os.kill(keeper._process.pid, number)
    assert keeper.wait(20) == -signal.SIGTERM
    assert keeper.stop() == process.Gone()
    assert keeper._process.returncode == 0


@pytest.mark.parametrize("name", ["QUIT", "USR1", "USR2", "ALRM"])
def test_what_a_service_signals_to_its_parent_does_not_end_its_keeper(tmp_path: Path, name: str) -> None:
    keeper = keep(tmp_path, ["sh", "-c", f"kill -{name} $PPID; exit 3"])
    assert keeper.wait(20) == 3
    assert keeper.stop() == process.Gone()
    assert keeper._process.returncode == 0


def test_workers_end_in_their_own_way_within_the_grace(tmp_path: Path) -> None:
    """The leader goes first, a worker takes its time: it is not killed before the grace is over."""
    code = (
        "import os, signal, sys, time\n"
        "def leave(*_): time.sleep(0.3); print('tidied up', flush=True); os._exit(0)\n"
        "if os.fork() == 0:\n"
        "    os.setsid(); signal.signal(15, leave); print('ready', flush=True)\n"
        "while True: time.sleep(10)"
    )
    keeper = keep(tmp_path, python(code), grace=20)
    wait_until(lambda: "ready" in logged(tmp_path))
    assert keeper.stop() == process.Gone()
    assert "tidied up" in logged(tmp_path)


@pytest.mark.parametrize("deaf", ["full", "closed"])
def test_an_output_that_nobody_reads_does_not_hold_the_keeper_up(tmp_path: Path, deaf: str) -> None:
    """The keeper alone, as a dead or hanging rank leaves it."""
    tag, (read, write) = f"deaf-{deaf}-{os.getpid()}", os.pipe()
    if deaf == "full":
        os.set_blocking(write, False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(write, b"x" * 4096)
        os.set_blocking(write, True)
    else:
        os.close(read)
    order = process._order(["sh", "-c", "sleep 1000 & sleep 1000"], {**ENV, "TAG": tag}, None, None, 0.2)
    alone = subprocess.Popen([sys.executable, "-I", "-S", str(proc.__file__)], stdin=subprocess.PIPE, stdout=write)
    os.close(write)
    assert alone.stdin
    alone.stdin.write(json.dumps({**order, "log": str(tmp_path / "log")}).encode() + b"\n")
    alone.stdin.flush()
    wait_until(lambda: len(tagged(tag)) == 3)
    alone.stdin.close()
    assert alone.wait(20) == 0
    assert tagged(tag) == []
    if deaf == "full":
        os.close(read)


def test_a_keeper_without_an_order_just_ends() -> None:
    done = subprocess.run([sys.executable, "-I", "-S", str(proc.__file__)], input=b"", capture_output=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# --- ports ---


@pytest.fixture
def listener() -> Any:
    with socket.create_server(("127.0.0.1", ports.free_port())) as server:
        yield server


def test_the_holder_of_a_port_is_named_without_its_secrets(tmp_path: Path) -> None:
    port = ports.free_port()
    script = tmp_path / "server.py"
    script.write_text(
        "import socket, sys, time\nserver = socket.create_server(('::1' if '-6' in sys.argv else '127.0.0.1', "
        "int(sys.argv[1])), family=socket.AF_INET6 if '-6' in sys.argv else socket.AF_INET)\ntime.sleep(1000)\n"
    )
    for family in ("-4", "-6"):
        keeper = keep(tmp_path, [sys.executable, "-u", str(script), str(port), family, "--api-key", "secret"])
        wait_until(lambda: ports.listeners(port))
        assert ports.listeners(port) == [keeper.pid]
        name = Path(sys.executable).name
        assert ports.port_holder(port) == f"pid {keeper.pid} ({name} {script})"
        assert not ports.port_is_free(port)
        keeper.stop()
        assert ports.listeners(port) == []
        assert ports.port_holder(port) == ""


def test_a_port_is_free_or_not(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    assert ports.listeners(port) == [os.getpid()]
    assert not ports.port_is_free(port)
    with socket.create_connection(("127.0.0.1", port)):
        served, _ = listener.accept()
    listener.close()
    served.close()  # leaves a connection in TIME_WAIT or nothing, neither of which is in the way
    assert ports.port_is_free(port)


def test_a_port_is_free_where_ipv6_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_bind", lambda address, _: errno.EAFNOSUPPORT if ":" in address else 0)
    assert ports.port_is_free(ports.free_port())


def test_a_free_port_is_none_that_a_client_connection_could_be_given() -> None:
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    free = {ports.free_port() for _ in range(50)}
    assert len(free) > 40
    assert all(1024 <= port < low for port in free)
    taken = set(range(1024, low)) - {min(free)}
    assert ports.free_port(exclude=taken) == min(free)
    with pytest.raises(EvaluationFailed, match="no free port"):
        ports.free_port(exclude=range(1024, 65536))


def test_a_full_disk_does_not_cut_a_stop_short(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, 64):
        code = (
            "import os, signal, time\nsignal.signal(15, lambda *_: (time.sleep(1.0), os._exit(9)))\n"
            "print('ready', flush=True)\nwhile True: time.sleep(1)"
        )
        keeper = keep(disk, python(code), stop_command=["false"], grace=20)
        wait_until(lambda: "ready" in logged(disk))
        fill(disk / "rest")
        fill(disk / "log")
        keeper.stop()
        assert keeper.poll() == 9, "it had its grace, though what its stop command did could not be written"


@pytest.fixture
def refusing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets the system refuse keepers a process after some that they have had, as under ``ulimit -u``.

    The fault is injected, as that limit does not hold for root.
    """

    def refuse(after: int) -> None:
        script = f"""
            import errno, os, runpy
            fork, granted = os.fork, iter(range({after}))
            def refused():
                if next(granted, None) is None:
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                return fork()
            os.fork = refused
            runpy.run_path({str(proc.__file__)!r}, run_name="__main__")
        """
        (tmp_path / "refusing.py").write_text(textwrap.dedent(script))
        monkeypatch.setattr(proc, "__file__", str(tmp_path / "refusing.py"))

    return refuse


REFUSED = os.strerror(errno.EAGAIN)


def test_that_the_system_has_no_process_for_a_service_is_told(refusing: Callable[[int], None], tmp_path: Path) -> None:
    refusing(0)
    with pytest.raises(EvaluationFailed, match=f"^cannot run {sys.executable}: {REFUSED}$") as raised:
        keep(tmp_path, python("pass"))
    assert raised.value.kind == "infrastructure"


def test_a_stop_command_that_gets_no_process_leaves_the_service_its_term(
    refusing: Callable[[int], None], tmp_path: Path
) -> None:
    refusing(1)
    ends = "import signal as s, sys; s.signal(15, lambda *_: sys.exit('ended')); print('up', flush=True); s.pause()"
    service = keep(tmp_path, python(ends), stop_command=["halt"], grace=20.0)
    wait_until(lambda: "up" in logged(tmp_path), 10, "it runs")
    assert service.stop().killed == 0
    assert f"stop command: cannot run halt: {REFUSED}\n" in logged(tmp_path) and "ended" in logged(tmp_path)


def test_a_process_that_cannot_be_had_costs_the_keeper_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> int:
        raise BlockingIOError(errno.EAGAIN, REFUSED)

    monkeypatch.setattr(os, "fork", refused)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(proc.StartFailed):
        proc.Keeper({"env": {}, "mark": "", "grace": 1.0}, b"", 0).spawn(["halt"])
    assert len(list(Path("/proc/self/fd").iterdir())) == before
