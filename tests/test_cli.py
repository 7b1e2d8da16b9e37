"""The command line: its commands, and bad input told in one line each with exit code 2 and nothing started."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import tomli
import tomli_w
from record.written import Script

from mpipso.cli import main
from mpipso.config import templates
from mpipso.errors import LOST
from mpipso.launch.jobs import local_ranks
from mpipso.launch.limits import Limits
from mpipso.startup import Options

CONFIG = """
output = "{folder}/runs"
[service]
engine = "command"
command = ["{folder}/serve", "{{port}}"]
[benchmark]
client = "openai"
requests = 4
[objective]
maximize = "output_throughput"
[[parameters]]
name = "batch"
type = "int"
min = 1
max = 64
flag = "--batch"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A valid configuration whose service leaves a mark when it is started."""
    serve = tmp_path / "serve"
    serve.write_text(f"#!/bin/sh\ntouch {shlex.quote(str(tmp_path / 'started'))}\nsleep 60\n")
    serve.chmod(0o755)
    path = tmp_path / "my.toml"
    path.write_text(CONFIG.format(folder=tmp_path))
    return path


def mpipso(
    *words: object, env: Mapping[str, str] | None = None, before: Sequence[str] = (), stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, sys.executable, "-m", "mpipso", *map(str, words)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "200", **(env or {})},
    )


def refused(config: Path, *words: object, env: Mapping[str, str] | None = None) -> list[str]:
    """The lines that are told; exit code 2, no traceback, nothing started."""
    done = mpipso(*words, env=env)
    lines = done.stderr.splitlines()
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert all(line.startswith("mpipso: ") for line in lines), done.stderr
    assert not (config.parent / "started").exists()
    assert not (config.parent / "runs").exists()
    return [line.removeprefix("mpipso: ") for line in lines]


def change(config: Path, old: str, new: str) -> None:
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))


def test_several_mistakes_in_the_file_are_told_at_once(config: Path) -> None:
    change(config, "min = 1", "min = 100")
    change(config, "requests = 4", 'request = 4\nwarmup = "two"')
    change(config, 'engine = "command"', 'engine = "commando"')
    assert sorted(refused(config, "--config", config)) == [
        f"{config}: benchmark.request: unknown key; did you mean 'requests'?",
        f"{config}: benchmark.warmup = 'two': should be a valid integer",
        f"{config}: parameter 'batch': min = 100 is greater than max = 64",
        f"{config}: service.engine = 'commando': unknown; did you mean 'command'?",
    ]


@pytest.mark.parametrize(
    ("bounds", "found"),
    [
        ("max = 1", ["parameter 'batch': min is max, so that it has one value only"]),
        ("max = 64\nstep = 64", ["parameter 'batch': step = 64 is more than max - min, so that it has one value only"]),
        ("max = 64\nstep = 63", []),
        ("max = 0.3\nstep = 0.1\ntype = 'float'", []),
    ],
)
def test_check_notes_a_parameter_of_one_value(
    bounds: str, found: list[str], config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "float" in bounds:
        change(config, 'type = "int"\nmin = 1', "min = 0.2")
    change(config, "max = 64", bounds)
    assert notes(config, capsys, "--ranks", "1") == found


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "max = 64",
            f"max = {2**53}",
            "{config}: parameter 'batch': has too many values: give a larger step, narrower bounds, or",
        ),
        (
            'type = "int"',
            'type = "float"\nstep = 1e-30',
            "{config}: parameter 'batch': has too many values: give a larger step",
        ),
        (
            'type = "int"\nmin = 1\nmax = 64',
            'type = "float"\nmin = -1e308\nmax = 1e308',
            "{config}: parameter 'batch': has bounds that are too far apart for a float",
        ),
        (
            "min = 1\nmax = 64",
            "expression = 'str(64)[2]'",
            "{config}: parameter 'batch': expression 'str(64)[2]': string index out of range",
        ),
        ('flag = "--batch"', 'env = "A=B"', "{config}: parameter 'batch': env = 'A=B': "),
        (
            "[objective]",
            "[search]\nfirst = [{ batch = '4' }]\n[objective]",
            "{config}: search.first[0]: batch: '4' is not of type",
        ),
        (
            "[objective]",
            f"[search]\nfirst = [{{ batch = {10**400} }}]\n[objective]",
            f"{{config}}: search.first[0]: batch: {10**400} is not of type",
        ),
    ],
)
def test_values_that_no_parameter_can_have(
    old: str, new: str, line: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(config, old, new)
    (found,) = told(capsys, "--config", config)
    assert found.startswith(line.format(config=config)), found


def test_a_parameter_may_be_a_part_of_a_url(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(config, "[benchmark]", 'health_url = "http://{host}:8000{batch}"\n[benchmark]')
    assert main(["check", "--ranks", "1", "--config", str(config)]) == 0, capsys.readouterr()


@pytest.mark.parametrize("url", ["http://{host}:{port}x/", "http://", "http://{host:{port}/", "https://{host}:99999/"])
def test_a_url_that_nobody_could_ask(url: str, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(config, "[benchmark]", f'health_url = "{url}"\n[benchmark]')
    assert told(capsys, "--config", config) == [f"{config}: service.health_url = {url!r}: is no URL that can be asked"]
    change(config, url, "HTTP://[::1]:{port}/health?of={batch}")
    assert main(["check", "--config", str(config), "--ranks", "1"]) == 0


def test_constraints_that_nothing_satisfies(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(config, "[[parameters]]", '[[constraints]]\nexpression = "batch > 100"\n[[parameters]]')
    (found,) = told(capsys, "--config", config)
    assert found.startswith("constraints: no configuration was found that satisfies all of them")
    assert refused(config, "--config", config) == [found]


def test_names_that_no_host_can_have(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = told(capsys, "--config", config, "--nodes", f"node..1,{'n' * 70}")
    assert found == f"names that cannot be resolved here: node..1, {'n' * 70}"


def test_what_the_engine_misses_and_what_the_search_contradicts_are_told_at_once(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(config, '"{port}"]', '"{prot}"]')
    change(config, "[objective]", "[search]\nfirst = [{ btach = 2 }]\n[objective]")
    lines = told(capsys, "--config", config)
    assert lines[0].startswith(f"{config}: service.command: unknown placeholder {{prot}}")
    assert lines[1].startswith(f"{config}: search.first[0]: btach is not searched; did you mean 'batch'?")


def test_a_configuration_file_that_is_missing(config: Path) -> None:
    path = config.with_name("no.toml")
    assert refused(config, "--config", path) == [f"{path}: cannot be read: No such file or directory"]


def test_an_output_folder_that_cannot_be_written(config: Path) -> None:
    (line,) = refused(config, "--config", config, "--output", config / "below")
    assert line.startswith(f"output folder {config}/below: ")


def test_check_tells_of_an_output_folder_that_cannot_be_written(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = config.with_name("nowhere")
    nowhere.symlink_to("gone")
    for output in (config, config / "below", nowhere, nowhere / "below"):
        (line,) = told(capsys, "--config", config, "--output", output)
        assert line == f"output folder {output}: is not a folder; give a folder you can write to"
    (config.parent / "latest").mkdir()
    (line,) = told(capsys, "--config", config, "--output", config.parent)
    assert "latest: is not a symbolic link" in line


def test_a_work_folder_that_cannot_be_made(config: Path) -> None:
    change(config, "[benchmark]", f'work_dir = "{config}/below"\n[benchmark]')
    (line,) = refused(config, "--config", config)
    assert f"work_dir {config}/below cannot be made: Not a directory" in line


def test_a_command_that_is_not_found(config: Path) -> None:
    change(config, f"{config.parent}/serve", "no-such-server")
    (line,) = refused(config, "--config", config)
    assert line.startswith("service.command: command not found: no-such-server (on ")


def test_a_port_that_is_in_use(config: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        port = int(holder.stdout.readline())
        change(config, "[benchmark]", f"port = {port}\n[benchmark]")
        (line,) = refused(config, "--config", config)
        assert f"port {port} is in use by " in line
        assert str(holder.pid) in line
    finally:
        holder.kill()
        holder.wait()


_HOLDER = (
    "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); "
    "time.sleep(60)"
)


def told(capsys: pytest.CaptureFixture[str], *words: object) -> list[str]:
    """The lines that ``mpipso check`` refuses its input with."""
    assert main(["check", *map(str, words)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    return [line.removeprefix("mpipso: ") for line in output.err.splitlines()]


def test_a_port_that_is_too_high_for_all_groups(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(config, "[benchmark]", "port = 65535\n[benchmark]\n")
    words = ["--config", config, "--ranks", "2", "--nodes-per-group", "1", "--share-cores"]
    assert told(capsys, *words) == [
        "service.port = 65535: groups that share a host count up from it, to 65536; the last port is 65535"
    ]


def test_a_hostfile_that_is_missing_or_wrong(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config.with_name("hosts.txt")
    assert refused(config, "--config", config, "--hostfile", path) == [
        f"{path}: hostfile cannot be read: No such file or directory"
    ]
    path.write_text("node0 slots=many\n")
    assert told(capsys, "--config", config, "--hostfile", path) == [
        f"{path}:1: 'node0 slots=many' is not 'host', 'host slots=N' or 'host:N'"
    ]
    path.write_text(f"node0\nnode1:{10**20}\nnode2:100001\n")
    assert told(capsys, "--config", config, "--hostfile", path) == [
        f"{path}:2: 'node1:{10**20}' has more than 100000 slots",
        f"{path}:3: 'node2:100001' has more than 100000 slots",
    ]


def test_devices_that_no_service_could_be_shown(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # none of the vendors' tools, whatever this machine has
    monkeypatch.setenv("COLUMNS", "200")
    words = ["--config", config, "--npus-per-node", "4", "--ranks", "1"]
    (line,) = told(capsys, *words)
    assert line.startswith("devices 0-3 of ")
    assert "set parallel.device_variable (CUDA_VISIBLE_DEVICES, ASCEND_RT_VISIBLE_DEVICES" in line
    change(config, "[benchmark]", "[parallel]\ndevice_variable = 'ASCEND_RT_VISIBLE_DEVICES'\n[benchmark]")
    assert main(["check", *map(str, words)]) == 0
    assert "0-3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "problem"),
    [("0,1", True), ("{devices}", False), ("", False), ("-1", False)],
)
def test_a_variable_that_would_show_every_group_the_same_devices(
    value: str, problem: bool, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parallel = 'devices_per_node = 4\ndevice_variable = "MY_DEVICES"'
    change(config, '"{port}"]', f'"{{port}}"]\nenv = {{ MY_DEVICES = "{value}" }}')
    change(config, "[benchmark]", f"[parallel]\n{parallel}\n[benchmark]")
    if problem:
        assert told(capsys, "--config", config, *TWO_GROUPS) == [
            "service.env.MY_DEVICES = '0,1': would take the place of the devices that each group is given; "
            "leave it out, or use {devices} in it"
        ]
    else:
        assert notes(config, capsys, *TWO_GROUPS) == []
    assert notes(config, capsys, "--ranks", "1") == [], "a group that has the host for itself may be shown less"
    change(config, "env = { MY_DEVICES", "env = { CUDA_VISIBLE_DEVICES")
    assert notes(config, capsys, *TWO_GROUPS) == [], "which is not the variable of this host"


def test_a_parameter_that_would_show_every_group_the_same_devices(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(config, 'flag = "--batch"', 'env = "MY_DEVICES"')
    change(config, "[benchmark]", '[parallel]\ndevices_per_node = 4\ndevice_variable = "MY_DEVICES"\n[benchmark]')
    assert told(capsys, "--config", config, *TWO_GROUPS) == [
        "parameter 'batch': env = 'MY_DEVICES' would take the place of the devices that each group is given; "
        "let it be used in service.command"
    ]
    assert notes(config, capsys, "--ranks", "1") == []


def test_a_variable_of_devices_where_there_are_none_is_left_alone(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(config, "[benchmark]", 'env = { CUDA_VISIBLE_DEVICES = "0" }\n[benchmark]')
    assert notes(config, capsys, "--ranks", "1", "--devices-per-node", "0") == []


BENCH = 'client = "command"\ncommand = ["echo", "{words}"]\nmetrics = {{ output_throughput = "x" }}'
TWO_GROUPS = ("--ranks", "2", "--nodes-per-group", "1", "--share-cores")


@pytest.mark.parametrize(
    ("port", "words", "why"),
    [
        (0, ("--ranks", "1"), "service.port = 0 stands for any free port"),
        (8000, TWO_GROUPS, "2 groups share {host}, each with a port of its own"),
        (8000, ("--ranks", "1"), ""),
        (8000, ("--nodes", "127.0.0.2:127.0.0.3"), ""),
    ],
)
def test_a_benchmark_that_would_load_another_service(
    port: int, words: tuple[str, ...], why: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(config, 'client = "openai"\nrequests = 4', BENCH.format(words="http://127.0.0.1:8000"))
    change(config, "[benchmark]", f"port = {port}\n[benchmark]")
    if why:
        assert told(capsys, "--config", config, *words) == [
            f"benchmark.command: cannot know which service to load, as {why.format(host=socket.gethostname())}: "
            "use {base_url} or {port} in it"
        ]
        for named in ("{base_url}", "{host}:{port}"):
            change(config, "http://127.0.0.1:8000", named)
            assert notes(config, capsys, *words) == []
            change(config, named, "http://127.0.0.1:8000")
    else:
        assert notes(config, capsys, *words) == []
    change(config, ', "{port}"]', "]")
    assert not [line for line in notes(config, capsys, *words) if line.startswith("benchmark")], "its port is its own"


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("sqrt(output_throughput)", "Function 'sqrt' not defined"),
        ("output_throughput / 'a'", "unsupported operand"),
        ("output_throughput / (batch - batch)", "division by zero"),
        ("output_throughput / round(duration / 60)", ""),
        ("output_throughput / (failed == 0)", ""),
        ("output_throughput / (output_throughput > 100)", ""),
        ("(request_throughput * 10 - output_throughput * 9) ** 0.5", ""),
    ],
)
def test_check_refuses_a_derived_metric_that_never_has_a_value(
    expression: str, told: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(config, 'maximize = "output_throughput"', f'maximize = "own"\nderived = {{ own = "{expression}" }}')
    assert main(["check", "--config", str(config), "--ranks", "1"]) == (2 if told else 0)
    if told:
        assert told in capsys.readouterr().err


def test_ctrl_c_while_modules_are_imported_is_no_traceback() -> None:
    """The fault is injected where the import of ``mpipso.cli`` begins, as it cannot be timed."""
    script = """
import sys
from mpipso.__main__ import main

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "mpipso.cli":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize(
    ("service", "words", "noted"),
    [
        ("", ("--ranks", "1"), "service.port = 0 stands for any free port"),
        ("port = 8000", TWO_GROUPS, "2 groups share {host}, each with a port of its own"),
        ("port = 8000", ("--ranks", "1"), ""),
        ('env = { LISTEN = "{port}" }', ("--ranks", "1"), ""),
        ('update_command = ["echo", "{port}"]', ("--ranks", "1"), ""),
        ('config_file = { content = \'{"port": "{port}"}\' }\nenv = { CONF = "{config}" }', ("--ranks", "1"), ""),
        ('config_file = { content = "{port}", format = "text" }\nenv = { C = "{config}" }', ("--ranks", "1"), ""),
    ],
)
def test_check_notes_a_service_that_is_not_told_its_port(
    service: str, words: tuple[str, ...], noted: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(config, ', "{port}"]', "]")
    change(config, "[benchmark]", f"{service}\n[benchmark]")
    line = (
        f"service.command: does not use {{port}}, and {noted.format(host=socket.gethostname())}, which the service "
        "cannot know, unless it reads MPIPSO_PORT in its environment"
    )
    assert notes(config, capsys, *words) == ([line] if noted else [])


def test_check_notes_a_configuration_file_that_does_not_tell_the_port(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(config, ', "{port}"]', ', "{config}"]')
    change(config, 'flag = "--batch"', 'path = "batch"')
    change(config, "[benchmark]", """config_file = { content = '{"port": 80, "batch": 1}' }\n[benchmark]""")
    (line,) = notes(config, capsys, "--ranks", "1")
    assert line.startswith(
        "service.command: does not use {port}, nor does its configuration file, and service.port = 0"
    )


@pytest.mark.parametrize(
    ("file", "told_of"),
    [
        ("template = '/no/such.json'", "template /no/such.json cannot be read: No such file or directory"),
        ("template = 'a.json'\ncontent = '{}'", "give template, a file, or content, its text, not both"),
        ("content = '{'", "its content is not valid json: "),
        ("content = 'a: &a {<<: *a}'\nformat = 'yaml'", "not valid yaml: a table is merged into itself"),
        ("name = '/tmp/x.json'", "should lead to a place below the work folder; update_command"),
        ("name = 'a/../../x.json'", "should lead to a place below the work folder; update_command"),
        ("name = './'", "is the work folder itself; it should be the name of a file in it"),
    ],
)
def test_a_configuration_file_that_cannot_be_made(
    file: str, told_of: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(config, "[benchmark]", f"[service.config_file]\n{file}\n[benchmark]")
    (line,) = told(capsys, "--config", config)
    assert line.startswith(f"{config}: service.config_file") and told_of in line


def test_a_script_that_names_the_variable_of_its_port(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(config, f'"{config.parent}/serve", "{{port}}"', """"sh", "-c", "serve $MPIPSO_PORT {batch}\"""")
    change(config, 'flag = "--batch"', "")
    assert notes(config, capsys) == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--seed", "x"], "argument --seed: invalid int value: 'x'; see mpipso tune --help"),
        (["--sed", "1"], "unrecognized arguments: --sed 1; did you mean --seed?"),
        (["--evaluation=3"], "unrecognized arguments: --evaluation=3; did you mean --evaluations?"),
        (["report", "runs", "--zzz"], "unrecognized arguments: --zzz; see mpipso report --help"),
        (["tun"], "'tun': unknown command; did you mean 'tune'?"),
        (
            ["check", "--ranks", "0"],
            "argument --ranks/-np: '0' is not a whole number of at least 1; see mpipso check --help",
        ),
        (["--nodes", "a:b", "--hostfile", "h"], "argument --hostfile: not allowed with argument --nodes"),
        (
            ["launch", "--nodes", "a,b", "--nodes-per-group", "1"],
            "--nodes cannot be combined with --nodes-per-group: the nodes that are named say how many make a group",
        ),
        (
            ["--resume", "runs/latest", "--warm-start", "peers.csv"],
            "--resume cannot be combined with --warm-start: a resumed run knows what it knew; give it to a new run",
        ),
        (
            ["check", "--resume", "a", "--run-name", "b"],
            "--resume cannot be combined with --run-name: a resumed run stays in its",
        ),
        (
            ["launch", "--resume", "a", "--run-name", "b", "--warm-start", "c"],
            "a: there is no such folder",
        ),
        (["check", "--nodes", "a,-oX"], "--nodes 'a,-oX': '-oX': a host's name does not begin with '-'"),
        (["check", "--nodes", "a,,b"], "--nodes 'a,,b': an empty name; write it as 'node0,node1:node2,node3'"),
        (["check", "--run-name", "../x"], "run name '../x': should be letters, digits, '_' and, but for its beginning"),
        (["check", "--particles", "1"], "--particles = 1: should be greater than or equal to 2"),
        (["check", "--mode", "both"], "--mode = 'both': should be 'auto', 'single_node' or 'multi_node'"),
        (["check", "--ranks", "2", "--nodes-per-group", "3"], "2 ranks cannot form a group of 3 nodes"),
        (["report", "no-such-folder"], "no-such-folder: there is no such folder"),
        (["launch", "--mpirun", "no-such-mpirun"], "no-such-mpirun: command not found"),
        (["launch", "--mpirun", "/bin/true"], "neither Open MPI nor MPICH"),
        (
            ["launch", "--restarts", "x"],
            "argument --restarts: 'x' is not a whole number of at least 0; see mpipso launch --help",
        ),
        (["launch", "--stuck-after", "9"], "argument --stuck-after: '9' is not a number of at least 10"),
        (["launch", "--start-limit", "soon"], "argument --start-limit: 'soon' is not a number above 0"),
    ],
)
def test_a_wrong_flag(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    told = capsys.readouterr().err
    assert line in told
    assert told.count("\n") == 1
    assert told.startswith("mpipso: ")


def test_a_wrong_flag_under_a_launcher_is_told_by_rank_0_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, "1")
            assert main(["--seed", "x"]) == 0
            assert capsys.readouterr().err == ""
            patch.setenv(variable, "0")
            assert main(["--seed", "x"]) == 2
            assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("command", ["check", "report", "launch"])
def test_a_rank_s_own_shell_is_told_what_is_wrong(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PMI_RANK", "1")
    assert main([command, "--sed", "1"]) == 2
    assert "--sed" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["tune", "launch", "check"])
def test_a_wrong_end_of_the_job(command: str, config: Path) -> None:
    (line,) = refused(config, command, "--config", config, env={"MPIPSO_END_TIME": "28800"})
    assert line.startswith("MPIPSO_END_TIME=28800: leaves no time; it is when the job ends, in seconds since 1970")


def test_what_is_not_said_of_the_supervision_is_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Limits] = []
    monkeypatch.setattr(
        "mpipso.launch.supervised.launch", lambda _options, _ranks, _mpirun, limits, _more: given.append(limits)
    )
    for words in ([], ["--restarts", "0"], ["--stuck-after", "900", "--start-limit", "60.5"]):
        main(["launch", *words])
        assert given.pop().words() == words


def test_what_begins_with_a_dash_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Options] = []
    monkeypatch.setattr("mpipso.launch.supervised.launch", lambda options, *_: given.append(options))
    overrides = {"search.target": -1.0, "parallel.ssh": True}
    options = Options(Path("-my.toml"), overrides, name="night", warm_start=(Path("-a.csv"), Path("b")))
    main(["launch", *options.words()])
    assert given == [options]


class TestInit:
    @pytest.mark.parametrize("engine", templates.names())
    def test_writes_a_commented_file_for_the_engine(self, engine: str, tmp_path: Path) -> None:
        path = tmp_path / "my.toml"
        assert main(["init", str(path), "--engine", engine]) == 0
        assert tomli.loads(path.read_text())["service"]["engine"] == ("command" if engine == "mindie" else engine)
        assert path.read_text().startswith("# ")

    @pytest.mark.parametrize(
        ("command", "installed", "following"),
        [
            ("./run.sh", True, "./run.sh"),
            ("", True, "mpipso"),
            ("", False, shlex.join([sys.executable, "-m", "mpipso"])),
        ],
    )
    def test_the_next_command_is_called_as_this_one_was(
        self,
        command: str,
        installed: bool,
        following: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("MPIPSO_COMMAND", command)
        monkeypatch.setenv("PATH", str(tmp_path))
        if installed:
            (tmp_path / "mpipso").touch(0o755)
        path = tmp_path / "my file.toml"
        assert main(["init", str(path)]) == 0
        assert capsys.readouterr().out == f"{path} written; next: {following} check --config '{path}'\n"

    def test_never_overwrites_unless_told_to(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "my.toml"
        path.write_text("mine")
        assert main(["init", str(path)]) == 2
        assert "exists already; use --force" in capsys.readouterr().err
        assert path.read_text() == "mine"
        assert main(["init", str(path), "--force"]) == 0
        assert path.read_text() != "mine"

    def test_where_nothing_can_be_written(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "file").write_text("")
        assert main(["init", str(tmp_path / "file" / "my.toml")]) == 2
        assert "cannot be written: Not a directory" in capsys.readouterr().err


class TestCheck:
    def shown(self, capsys: pytest.CaptureFixture[str], *words: object) -> str:
        assert main(["check", *map(str, words)]) == 0
        return " ".join(capsys.readouterr().out.split())

    def test_shows_what_launch_starts_on_this_machine(self, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert f"service groups at a time: {local_ranks()}" in self.shown(capsys, "--config", config)

    def test_shows_who_does_what_and_the_command(
        self, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "200")
        text = self.shown(capsys, "--config", config, "--ranks", "3", "--share-cores")
        assert "root, leader, master" in text
        assert "spare: left over: groups take 2 nodes each" in text
        assert f"{config.parent}/serve 8080 --batch " in text
        assert not (config.parent / "started").exists()
        assert not (config.parent / "runs").exists()

    def test_shows_the_hosts_of_a_hostfile_once_each(
        self, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "200")
        hostfile = config.with_name("hosts.txt")
        hostfile.write_text("127.0.0.2 slots=8\n127.0.0.3 slots=8\n")
        text = self.shown(capsys, "--config", config, "--hostfile", hostfile, "--npus-per-node", "8")
        assert "0 0 127.0.0.2 root, leader, master as found 0-7 0 1 127.0.0.3 member as found 0-7" in text

    def test_shows_which_hosts_of_a_hostfile_are_used_by_fewer_ranks(
        self, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "200")
        hostfile = config.with_name("hosts.txt")
        hostfile.write_text("127.0.0.2\n127.0.0.3\n127.0.0.4\n")
        text = self.shown(capsys, "--config", config, "--hostfile", hostfile, "-np", "2")
        assert "0 0 127.0.0.2 root, leader, master as found as found 0 1 127.0.0.3 member" in text
        assert "note: fewer ranks than hosts: none is started on 127.0.0.4" in text

    def test_shows_the_groups_of_the_command_line(
        self, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "200")
        text = self.shown(capsys, "--config", config, "--nodes", "127.0.0.2:127.0.0.3")
        assert "0 0 127.0.0.2 root, leader, master" in text
        assert "1 1 127.0.0.3 leader, master" in text

    def test_shows_the_nodes_of_a_slurm_job(
        self, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setenv("PATH", "/nowhere")  # no scontrol, whatever this machine has
        monkeypatch.setenv("SLURM_JOB_NODELIST", "127.0.0.[2-3]")
        text = self.shown(capsys, "--config", config)
        assert "0 0 127.0.0.2 root, leader, master" in text
        assert "0 1 127.0.0.3 member" in text
        for text in ("node[2-", "node1,-1", "\t,2"):
            monkeypatch.setenv("SLURM_JOB_NODELIST", text)
            assert main(["check", "--config", str(config)]) == 2
            assert f"SLURM_JOB_NODELIST: {text!r} is not a list of hosts" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("variable", "more"),
        [
            ("PBS_NODEFILE", ""),
            ("LSB_DJOB_HOSTFILE", ""),
            ("PE_HOSTFILE", " 4 all.q@host UNDEFINED"),
            ("OAR_NODEFILE", ""),
            ("COBALT_NODEFILE", ""),
        ],
    )
    def test_shows_the_nodes_of_a_batch_job(
        self,
        config: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        variable: str,
        more: str,
    ) -> None:
        monkeypatch.setenv("COLUMNS", "200")
        nodefile = config.with_name("nodefile")
        nodefile.write_text("".join(f"127.0.0.{host}{more}\n" for host in (2, 2, 3, 3)))
        monkeypatch.setenv(variable, str(nodefile))
        text = self.shown(capsys, "--config", config)
        assert "0 0 127.0.0.2 root, leader, master" in text
        assert "0 1 127.0.0.3 member" in text
        nodefile.unlink()
        assert main(["check", "--config", str(config)]) == 2
        problem = f"{variable}: {nodefile}: hostfile cannot be read: No such file or directory"
        assert capsys.readouterr().err == f"mpipso: {problem}; name the hosts in a --hostfile\n"

    def test_asks_scontrol_where_there_is_one(
        self, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """The scontrol is a script of this test: a real one needs a cluster."""
        script = tmp_path / "bin" / "scontrol"
        script.parent.mkdir()
        script.write_text('#!/bin/sh\n[ "$*" = "show hostnames odd" ] && printf "127.0.0.4\\n127.0.0.5\\n"\n')
        script.chmod(0o755)
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setenv("PATH", f"{script.parent}:/bin:/usr/bin")
        monkeypatch.setenv("SLURM_JOB_NODELIST", "odd")
        assert "127.0.0.4 root, leader, master" in self.shown(capsys, "--config", config)

    def test_tells_everything_that_is_wrong_with_the_placement(
        self, config: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        change(config, f"{config.parent}/serve", "no-such-server")
        hostfile = config.with_name("hosts.txt")
        hostfile.write_text("nowhere.invalid\n127.0.0.3\n")
        words = ["check", "--config", str(config), "--hostfile", str(hostfile), "--nodes-per-group", "3"]
        assert main(words) == 2
        lines = capsys.readouterr().err.splitlines()
        assert lines == [
            "mpipso: service.command: command not found: no-such-server",
            "mpipso: names that cannot be resolved here: nowhere.invalid",
            "mpipso: 2 ranks cannot form a group of 3 nodes: start more ranks (mpirun -np, sbatch --nodes) or lower "
            "--nodes-per-group",
        ]


def test_help_and_version_say_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    for words, expected in ((["--help"], ("tune", "launch", "check", "init", "report")), (["--version"], ("mpipso ",))):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 0
        text = capsys.readouterr().out
        assert all(word in text for word in expected)


def test_check_hides_secrets(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(config, "[benchmark]", 'env = { HF_TOKEN = "hf_supersecret", LEVEL = "1" }\n[benchmark]\n')
    assert main(["check", "--config", str(config), "--ranks", "1"]) == 0
    out = capsys.readouterr().out
    assert "HF_TOKEN='***' LEVEL=1" in out and "supersecret" not in out


def test_check_shows_what_is_tuned_whatever_its_flag(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(config, '"--batch"', '"--max_total_token_num"\ndefault = 131072')
    change(config, "max = 64", "max = 262144")
    change(config, '"{port}"]', '"{port}", "--token", "12345678"]')
    assert main(["check", "--config", str(config), "--ranks", "1"]) == 0
    out = capsys.readouterr().out
    assert "--max_total_token_num 131072" in out and "--token '***'" in out


def test_check_notes_a_path_that_the_template_lacks(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    template = config.with_name("service.json")
    template.write_text('{"schedule": {"maxBatchSize": 8}, "models": [{"memory": -1}]}')
    change(config, "[benchmark]", f"[service.config_file]\ntemplate = '{template}'\n[benchmark]\n")
    change(config, '"{port}"', '"{port}", "{config}"')
    more = '\n[[parameters]]\nname = "{}"\ntype = "int"\nmin = 1\nmax = 9\npath = "{}"\n'
    paths = ("schedule.maxBatchSizes", "schedule.maxBatchSize", "models.0.memory")
    config.write_text(
        config.read_text() + "".join(more.format(f"p{number}", path) for number, path in enumerate(paths))
    )
    assert main(["check", "--config", str(config), "--ranks", "1"]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert notes == [
        f"note: {template} has no schedule.maxBatchSizes, which is added; did you mean 'schedule.maxBatchSize'?"
    ]
    change(config, f"template = '{template}'", f"format = 'json'\ncontent = '{template.read_text()}'")
    assert main(["check", "--config", str(config), "--ranks", "1"]) == 0
    assert "note: the content of service.config_file has no schedule.maxBatchSizes" in capsys.readouterr().out


def notes(config: Path, capsys: pytest.CaptureFixture[str], *words: object) -> list[str]:
    """The notes of a check that finds nothing wrong."""
    assert main(["check", "--config", *map(str, (config, *(words or ("--ranks", "1"))))]) == 0
    return [line.removeprefix("note: ") for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("--n", "--n", "--n"),
        ("--n=", "--n", "--n"),
        ("--n", "--m", ""),
    ],
)
def test_check_notes_parameters_that_share_a_flag(
    one: str, other: str, same: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = f'[[parameters]]\nname = "other"\ntype = "int"\nmin = 1\nmax = 9\nflag = "{other}"\n'
    config.write_text(config.read_text().replace('"--batch"', f'"{one}"') + second)
    line = f"parameters: several have flag = {same!r}; a service that takes it once heeds only one of them"
    assert notes(config, capsys) == ([line] if same else [])


BOOL = '[[parameters]]\nname = "cache"\ntype = "bool"\ndefault = {default}\nflag = "{flag}"\n'


@pytest.mark.parametrize(
    ("flag", "default", "noted"),
    [
        ("--enable-cache", "true", True),
        ("--enable-cache", "false", False),
        ("--enable-cache/--no-enable-cache", "true", False),
        ("/--no-cache", "true", False),
    ],
)
def test_check_notes_a_bool_that_may_not_be_switched_off(
    flag: str, default: str, noted: bool, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(config, "max = 64", "max = 64\ndefault = 8")
    config.write_text(config.read_text() + BOOL.format(flag=flag, default=default))
    line = (
        "parameter 'cache': false passes no flag, so a service whose own default is true stays true; "
        'say how it is switched off, as in flag = "--enable-cache/--no-enable-cache"'
    )
    assert notes(config, capsys) == ([line] if noted else [])


@pytest.mark.parametrize("more", ["", "failed", "requests"])
def test_check_notes_failures_that_nobody_counts(more: str, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = ', failed = "failed"' if more == "failed" else ""
    lines = ['client = "command"', 'command = ["echo", "{base_url}"]', "requests = 4" if more == "requests" else ""]
    lines.append(f'metrics = {{ output_throughput = "a", completed = "b"{failed} }}')
    change(config, 'client = "openai"\nrequests = 4', "\n".join(lines))
    told = notes(config, capsys)
    assert [line.partition(",")[0] for line in told] == (
        [] if more else ["benchmark.metrics: maps completed but not failed"]
    )


@pytest.mark.parametrize(
    ("metrics", "noted"),
    [
        ("a = 'P', b = 'P'", True),
        ("a = 'P', failed = 'P'", False),
        ("a = 'P', completed = 'x'", False),
        ("a = 'x'", False),
    ],
)
def test_check_notes_a_text_of_which_no_failures_are_read(
    metrics: str, noted: bool, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ['client = "command"', 'command = ["echo", "{base_url}"]', "requests = 4" if "completed" in metrics else ""]
    lines.append(f"metrics = {{ output_throughput = 'y', {metrics} }}".replace("'P'", "{ pattern = '(.*)' }"))
    change(config, 'client = "openai"\nrequests = 4', "\n".join(lines))
    told = "benchmark.metrics: maps neither completed nor failed"
    assert [line.partition(",")[0] for line in notes(config, capsys)] == ([told] if noted else [])


def test_check_notes_requests_that_were_sent_without_those_that_failed(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = 'client = "command"\ncommand = ["echo", "{base_url}"]\nmetrics = { output_throughput = "y", sent = "n" }'
    change(config, 'client = "openai"\nrequests = 4', told)
    assert [line.partition(",")[0] for line in notes(config, capsys)] == ["benchmark.metrics: maps sent but not failed"]


def test_check_notes_nodes_on_which_nothing_is_started(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--nodes", "127.0.0.2,127.0.0.3:127.0.0.4,127.0.0.5")
    assert notes(config, capsys, *words) == []
    change(config, '"{port}"]', '"{port}", "{nnodes}"]')
    assert notes(config, capsys, *words) == [
        "service.command: uses {nnodes}, but without a service.worker_command nothing is started on "
        "127.0.0.3, 127.0.0.5, unless that command does it"
    ]
    assert notes(config, capsys, "--nodes", "127.0.0.2:127.0.0.3") == []
    change(config, "[benchmark]", 'worker_command = ["sleep", "{node_rank}"]\n[benchmark]')
    assert notes(config, capsys, *words) == []


def test_check_shows_the_command_that_applies_a_configuration(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(config, "[benchmark]", 'update_command = ["apply", "{batch}"]\n[benchmark]')
    (config.parent / "apply").write_text("")
    change(config, '"apply"', f'"{config.parent}/apply"')
    (config.parent / "apply").chmod(0o755)
    assert main(["check", "--config", str(config), "--ranks", "1"]) == 0
    lines = [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()]
    assert f"{config.parent}/apply 33" in lines
    assert lines.index(f"{config.parent}/apply 33") + 1 == next(n for n, line in enumerate(lines) if "/serve" in line)


def test_check_takes_the_first_hosts_of_a_file_with_slots(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostfile = config.with_name("hosts.txt")
    hostfile.write_text("127.0.0.2 slots=2\n127.0.0.3 slots=2\n")
    words = ["--config", str(config), "--hostfile", str(hostfile), "--ranks", "2", "--mode", "single_node"]
    assert main(["check", *words, "--nodes-per-group", "1"]) == 0
    assert "127.0.0.3" in capsys.readouterr().out


def test_check_counts_ranks_as_launch_does(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--ranks", "-np"):
        assert main(["check", "--config", str(config), flag, "2", "--nodes-per-group", "1", "--share-cores"]) == 0
        assert "service groups at a time: 2" in " ".join(capsys.readouterr().out.split())


def test_check_shows_the_benchmark_and_the_name_of_the_configuration_file(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(config, '"{port}"]', '"{port}", "{config}"]\nport = 8000\nconfig_file = { name = "served.yaml" }')
    change(config, "max = 64", "max = 64\ndefault = 8")
    words = ["echo", "{base_url}", "{seed}", "--token", "hf_supersecret", "{result}", "{batch}"]
    metrics = '{ output_throughput = "x" }'
    bench = f'client = "command"\nseed = 6\ncommand = {words}\nmetrics = {metrics}'
    change(config, 'client = "openai"\nrequests = 4', bench)
    assert main(["check", "--config", str(config), "--ranks", "1"]) == 0
    out = capsys.readouterr().out.splitlines()
    host = socket.gethostname()
    assert out[-3:] == [
        f"  {host}: {config.parent}/serve 8000 /tmp/mpipso/served.yaml --batch 8",
        "and measure it with:",
        f"  {host}: echo http://127.0.0.1:8000 7 --token '***' /tmp/mpipso/benchmark-0-1/result.json 8",
    ]
    check = 'command = ["echo", "{base_url}", "{result_dir}", "--token", "hf_x"]\nmetrics = { accuracy = "acc,none" }'
    change(config, "[objective]", f"[quality]\n{check}\n[objective]")
    assert main(["check", "--config", str(config), "--ranks", "1"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-3:] == [*out[-2:], f"  {host}: echo http://127.0.0.1:8000 /tmp/mpipso/quality-0-1 --token '***'"]
    assert sum(line.startswith("note: quality.metrics: neither the objective nor a limit") for line in told) == 1
    change(config, '["echo", "{base_url}", "{result_dir}"', '["no-such-check", "{result_dri}"')
    assert main(["check", "--config", str(config), "--ranks", "1"]) == 2
    assert "quality.command: unknown placeholder {result_dri}; did you mean 'result_dir'?" in capsys.readouterr().err
    change(config, "result_dri", "result_dir")
    assert main(["check", "--config", str(config), "--ranks", "1"]) == 2
    assert "quality.command: command not found: no-such-check" in capsys.readouterr().err


def test_check_says_which_port_stands_for_a_free_one(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(config, '"{port}"]', '"{port}", "{master_port}"]')
    told = "Group 0 would start, with the first configuration"
    for port, line in ((0, f"{told} (8080 is a placeholder for a free port):"), (8100, f"{told}:")):
        change(config, "[benchmark]", f"port = {port}\n[benchmark]")
        assert main(["check", "--config", str(config), "--ranks", "1"]) == 0
        out = capsys.readouterr().out.splitlines()
        place = out.index(line)
        assert f"/serve {port or 8080} {(port or 8080) + 1000} " in out[place + 1]
        change(config, f"port = {port}\n", "")


def test_check_reads_what_a_run_would_learn_from(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = config.with_name("peers.csv")
    table.write_text("batch,output_throughput\n8,100\n99,200\n")
    words = ["--config", config, "--ranks", "1", "--warm-start", table]
    assert main(["check", *map(str, words)]) == 0
    assert f"learned from {table}: 1 result; 1 left out: outside the search space" in capsys.readouterr().out
    table.write_text("btach,output_throughput\n8,100\n")
    gone = config.with_name("gone.csv")
    assert told(capsys, *words, "--warm-start", gone) == [
        f"{table}:1: has no column for the parameter 'batch'; did you mean 'btach'?",
        f"{gone}: cannot be read: No such file or directory",
    ]


@pytest.mark.parametrize(
    ("budgets", "cause", "words", "line"),
    [
        ({}, "evaluations", (), "search.evaluations = 2 leaves the resumed run nothing to propose; give a larger "),
        ({}, "evaluations", ("--evaluations", "3"), ""),
        ({}, "evaluations", ("--evaluations", "3", "--time-limit", "500"), ""),
        ({"evaluations": 9}, "time", (), ""),
        ({"iterations": 1}, "iterations", ("--evaluations", "9"), "search.iterations = 1 leaves the resumed run "),
        ({"iterations": 1}, "iterations", ("--evaluations", "9", "--iterations", "2"), ""),
        ({"target": 50.0}, "target", ("--evaluations", "9"), "search.target = 50 leaves the resumed run nothing "),
        ({"target": 50.0}, "target", ("--evaluations", "9", "--target", "99"), ""),
        ({"stagnation": 1}, "stagnation", ("--evaluations", "9"), "search.stagnation = 1 leaves the resumed run "),
        ({"stagnation": 1}, "", (), ""),
        ({"time_limit": 100.0}, "", (), "search.time_limit is 100 s for all sessions together, and those so far took "),
        ({"time_limit": 100.0}, "", ("--time-limit", "500"), ""),
    ],
)
def test_check_notes_that_a_resumed_run_has_nothing_to_do(
    budgets: dict[str, object],
    cause: str,
    words: tuple[str, ...],
    line: str,
    config: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without a ``cause`` the run was interrupted, in its final race."""
    tree = tomli.loads(config.read_text())
    tree["search"] = {"evaluations": 2, "particles": 2, **budgets}
    config.write_text(tomli_w.dumps(tree))
    script = Script(config=config.read_text()).evaluated(50, 0, 0).evaluated(100, 1, 0)
    script.evaluated(120, 2, 1, label="confirm")
    script.finished(130, 0, cause) if cause else script.add(130, "interrupted", signal="SIGINT")
    run = script.save(config.with_name("run"))
    found = notes(config, capsys, "--resume", run, "--ranks", "1", *words)
    assert len(found) == bool(line) and all(note.startswith(line) for note in found)


def test_a_report_is_a_table_for_other_programs_if_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Script().evaluated(50, 0, 0).save(tmp_path)
    assert main(["report", str(tmp_path), "--csv"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header == "evaluation,label,group,started,seconds,result,cause,n,completed,output_throughput"
    assert row == "0,,0,0.0,50.0,feasible,,0,32.0,100.0"


def test_a_report_is_a_pareto_front_if_that_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = Script().evaluated(50, 0, 0)
    script.events[-1]["metrics"]["ttft_p99_ms"] = 12.0
    script.save(tmp_path)
    assert main(["report", str(tmp_path), "--pareto", "ttft_p99_ms"]) == 0
    assert capsys.readouterr().out.splitlines()[2].split() == ["0", "12", "ms", "100", "tok/s", "n=0"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--pareto", "n"], "--pareto n: has not been measured"),
        (["--csv", "--pareto", "e2e_p99_ms"], "--csv cannot be combined with --pareto: a table for programs has all "),
        (["--by-load"], "--by-load goes with --csv; "),
    ],
)
def test_reports_that_cannot_be_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    Script().evaluated(50, 0, 0).save(tmp_path)
    assert main(["report", str(tmp_path), *flags]) == 2
    assert capsys.readouterr().err.startswith(f"mpipso: {message}")


@pytest.fixture(params=["check", "init", "report", "table"])
def told_of(request: pytest.FixtureRequest, config: Path) -> list[object]:
    """The words of a command that prints something and ends."""
    folder = Script().evaluated(50, 0, 0).save(config.with_name("run"))
    commands: dict[str, list[object]] = {
        "check": ["check", "--config", config, "--ranks", 1],
        "init": ["init", "--force", config.with_name("new.toml")],
        "report": ["report", folder],
        "table": ["report", folder, "--csv"],
    }
    return commands[request.param]


def test_a_reader_may_go_away(told_of: list[object]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = mpipso(*told_of, stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_output_that_cannot_be_written_is_told_in_one_line(told_of: list[object]) -> None:
    with Path("/dev/full").open("w") as full:
        done = mpipso(*told_of, stdout=full.fileno())
    assert done.stderr == "mpipso: standard output cannot be written: No space left on device\n"
    assert done.returncode == LOST


def test_whoever_closes_the_output_wants_to_see_nothing(told_of: list[object]) -> None:
    done = mpipso(*told_of, before=("sh", "-c", 'exec "$@" >&-', "sh"))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_shell_that_does_not_know_its_width_sees_all(told_of: list[object]) -> None:
    unknown, usual = (mpipso(*told_of, env={"COLUMNS": width}).stdout for width in ("0", "80"))
    assert unknown == usual != ""


def test_no_flag_is_guessed_from_its_beginning(config: Path) -> None:
    (line,) = refused(config, "--config", config, "--np", "3")
    assert line.startswith("unrecognized arguments: --np 3")
