from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tomli

from mpipso.errors import RunFailed, UserError
from mpipso.evaluation import Evaluation
from mpipso.record.recipe import SCRIPT, TOML, NodeStart, Written, command_words, read_best, withdraw_best, write_best

SHOW = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"
"""Prints what it was started with."""
EVALUATION = Evaluation(7, 1, 0, {"n_parallel": 8, "kv": True}, metrics={"output_throughput": 412.3}, ended=1e9)
NASTY = "a b'c\"$HOME`id`\\\n;é"


def write(folder: Path, *starts: NodeStart, score: str = "412.3 tok/s (+12.4 %)") -> Path:
    write_best(folder, EVALUATION, fitness=-412.3, score=score, starts=starts)
    return folder / SCRIPT


def run(script: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [script, *arguments], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


def shown(result: subprocess.CompletedProcess[str]) -> tuple[list[str], dict[str, str]]:
    assert result.returncode == 0, result.stderr
    arguments, environment = json.loads(result.stdout)
    return arguments, environment


def test_the_file_holds_configuration_metrics_run_and_commands(tmp_path: Path) -> None:
    start = NodeStart("node1", ("serve", "--port", "80"), {"OMP_WAIT_POLICY": "passive"})
    write(tmp_path, start)
    best = tomli.loads((tmp_path / TOML).read_text())
    assert best["configuration"] == {"n_parallel": 8, "kv": True}
    assert best["metrics"] == {"output_throughput": 412.3}
    assert best["run"]["evaluation"] == 7 and best["run"]["fitness"] == -412.3
    assert best["run"]["date"].startswith("2001-09-")
    assert read_best(tmp_path) == Written(7, {"n_parallel": 8, "kv": True}, (start,))


def test_the_cores_of_the_measurement_are_told(tmp_path: Path) -> None:
    start = NodeStart("node1", ("serve",), cores="0-3")
    script = write(tmp_path, start)
    assert "# In the run, a service had cores 0-3 of node1.\nexec serve" in script.read_text()
    assert tomli.loads((tmp_path / TOML).read_text())["start"][0]["cores"] == "0-3"


def test_the_script_is_readable_with_one_flag_per_line(tmp_path: Path) -> None:
    argv = ("python3", "-m", "server", "--parallel", "8", "--offset", "-1", "--verbose", "--model", "my model")
    script = write(tmp_path, NodeStart("node1", argv, {"OMP_WAIT_POLICY": "passive"}))
    header, _, body = script.read_text().partition(" >&2\n\n")
    assert header.startswith("#!/bin/sh\n# Starts the service")
    assert "#   n_parallel = 8\n#   kv = true\nset -eu\n" in header
    assert body == (
        "export OMP_WAIT_POLICY=passive\n"
        "exec python3 \\\n    -m server \\\n    --parallel 8 \\\n    --offset -1 \\\n    --verbose \\\n"
        "    --model 'my model'\n"
    )


def test_the_script_starts_the_service_with_exactly_these_arguments_and_variables(tmp_path: Path) -> None:
    arguments = (NASTY, "--flag", NASTY, f"--other={NASTY}", "", "-5")
    environment = {"PLAIN": NASTY, "odd.name": NASTY}
    script = write(tmp_path, NodeStart("node1", (sys.executable, "-c", SHOW, *arguments), environment))
    given, variables = shown(run(script))
    assert tuple(given) == arguments
    assert environment.items() <= variables.items()


def test_what_is_run_on_a_node_before_is_run_with_its_variables(tmp_path: Path) -> None:
    update = ("sh", "-c", f'echo "$A $1" > {tmp_path}/applied', "sh", NASTY)
    script = write(tmp_path, NodeStart("node1", (sys.executable, "-c", SHOW), {"A": "1"}, update=update))
    shown(run(script))
    assert (tmp_path / "applied").read_text() == f"1 {NASTY}\n"


def test_the_script_runs_where_the_run_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my start.sh").write_text("#!/bin/sh\necho started\n")
    (tmp_path / "my start.sh").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    script = write(tmp_path, NodeStart("node1", ("./my start.sh",)))
    monkeypatch.chdir("/")
    assert run(script).stdout == "started\n"


@pytest.mark.parametrize("gone", ["before", "after"])
def test_the_script_works_where_that_folder_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str) -> None:
    folder = tmp_path / "start"
    folder.mkdir()
    monkeypatch.chdir(folder)
    if gone == "before":
        folder.rmdir()
    script = write(tmp_path, NodeStart("node1", ("/bin/echo", "started")))
    monkeypatch.chdir("/")
    if gone == "after":
        folder.rmdir()
    done = run(script)
    assert done.stdout == "started\n"
    assert ("relative paths of the command" in done.stderr) == (gone == "after")


def test_nothing_in_the_header_can_become_a_command(tmp_path: Path) -> None:
    evaluation = Evaluation(1, 1, 0, {"mode": "x\ntouch hacked"}, metrics={})
    start = NodeStart("h", ("true",))
    write_best(tmp_path, evaluation, fitness=None, score="1\ntouch hacked", starts=[start])
    subprocess.run([tmp_path / SCRIPT], cwd=tmp_path, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [SCRIPT, TOML]


def test_secrets_are_asked_of_the_operator_instead_of_written(tmp_path: Path) -> None:
    argv = (
        sys.executable,
        "-c",
        SHOW,
        "--api-key",
        "sk-secret",
        "--auth-token=tok-secret",
        "--header",
        "Key hf-secret",
        "WANDB_API_KEY=w-secret",
        "--env=NGC_API_KEY=n-secret",
    )
    start = NodeStart("node1", argv, {"HF_TOKEN": "hf-secret", "LEVEL": "1"})
    script = write(tmp_path, start)
    assert "-secret" not in script.read_text() + (tmp_path / TOML).read_text() + " ".join(command_words(start, {}))
    refused = run(script, HF_TOKEN="")
    assert refused.returncode != 0 and "set HF_TOKEN first" in refused.stderr
    given, variables = shown(
        run(script, HF_TOKEN="mine", API_KEY="k 1", AUTH_TOKEN="k2", HEADER="k3", WANDB_API_KEY="k4", NGC_API_KEY="k5")
    )
    assert given == [
        *("--api-key", "k 1", "--auth-token=k2", "--header", "k3"),
        *("WANDB_API_KEY=k4", "--env=NGC_API_KEY=k5"),
    ]
    assert variables["HF_TOKEN"] == "mine" and variables["LEVEL"] == "1"


def test_a_number_that_was_tuned_is_no_secret_whatever_its_flag(tmp_path: Path) -> None:
    tuned = ("--max_total_token_num", "131072", "--token-ms=2.5", "-e", "MAX_TOKEN=131072")
    argv = (sys.executable, "-c", SHOW, *tuned, "--api-key", "12345678")
    start = NodeStart("node1", argv, {"TOKEN_RATIO": "0.125"})
    evaluation = Evaluation(1, 1, 0, {"total": 131072, "pause": 2.5, "ratio": 0.125}, metrics={})
    write_best(tmp_path, evaluation, fitness=None, score="1", starts=[start])
    given, variables = shown(run(tmp_path / SCRIPT, API_KEY="mine"))
    assert given == [*tuned, "--api-key", "mine"] and variables["TOKEN_RATIO"] == "0.125"
    written = read_best(tmp_path)
    assert written is not None and written.starts[0].argv == (*argv[:-1], "***")
    words = command_words(start, evaluation.configuration)
    assert words[0] == "TOKEN_RATIO=0.125" and words[4:] == [*tuned, "--api-key", "'***'"]


def test_each_node_has_its_section(tmp_path: Path) -> None:
    here = socket.gethostname().partition(".")[0]
    hosts = [f"{here}.cluster.example", "node2", "10.0.0.3"]
    script = write(tmp_path, *(NodeStart(host, (sys.executable, "-c", SHOW, host), {"ME": host}) for host in hosts))
    assert "Run it on each node, in this order: " + ", ".join(hosts) in script.read_text()
    for argument, host in [((), hosts[0]), ((hosts[0],), hosts[0]), (("node2",), "node2"), (("10.0.0.3",), "10.0.0.3")]:
        given, variables = shown(run(script, *argument))
        assert given == [host] and variables["ME"] == host
    unknown = run(script, "10")
    assert unknown.returncode == 2 and unknown.stderr.startswith("usage: best.sh NODE, with NODE one of: ")


def test_nodes_that_share_a_host_are_told_apart(tmp_path: Path) -> None:
    script = write(tmp_path, *(NodeStart("box", (sys.executable, "-c", SHOW, str(node))) for node in range(2)))
    assert [shown(run(script, f"box/{node}"))[0] for node in range(2)] == [["0"], ["1"]]


def test_nodes_that_share_a_host_are_named_by_their_ranks(tmp_path: Path) -> None:
    ranks = (2, 1, 0)  # workers start before the master
    script = write(tmp_path, *(NodeStart("box", (sys.executable, "-c", SHOW, str(rank)), rank=rank) for rank in ranks))
    assert "in this order: box/2, box/1, box/0\n" in script.read_text()
    assert [shown(run(script, f"box/{rank}"))[0] for rank in ranks] == [["2"], ["1"], ["0"]]


def test_a_file_that_a_node_lacks_must_be_copied_along(tmp_path: Path) -> None:
    file = tmp_path / "it's best-config.json"
    script = write(tmp_path, NodeStart("node1", ("echo", "1"), file=str(file)), NodeStart("node2", ("echo", "2")))
    refused = run(script, "node1")
    assert refused.returncode == 1 and refused.stdout == ""
    assert refused.stderr == f"{file} is not here: copy it along with this script, to the same path\n"
    assert run(script, "node2").stdout == "2\n"
    file.touch()
    assert run(script, "node1").stdout == "1\n"


def test_the_service_s_work_folder_is_made_before_it_starts(tmp_path: Path) -> None:
    work = tmp_path / "it's work"
    script = write(tmp_path, NodeStart("node1", ("ls", "-d", str(work)), folder=str(work)))
    assert [run(script).stdout for _ in range(2)] == [f"{work}\n"] * 2


def test_the_service_finds_its_file_in_its_work_folder(tmp_path: Path) -> None:
    file, work = tmp_path / "it's best-config.json", tmp_path / "it's work"
    copy = work / "conf" / "it's.json"
    script = write(tmp_path, NodeStart("node1", ("cat", str(copy)), folder=str(work), copy=(str(file), str(copy))))
    for content in ("of the best\n", "of a better one\n"):
        file.write_text(content)
        assert run(script).stdout == content


def test_a_new_incumbent_replaces_the_old_one(tmp_path: Path) -> None:
    write(tmp_path, NodeStart("h", ("echo", "old")))
    script = write(tmp_path, NodeStart("h", ("echo", "new")))
    assert run(script).stdout == "new\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == [SCRIPT, TOML]


def test_what_is_no_good_is_withdrawn_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    write(tmp_path, NodeStart("h", ("echo", "old")))
    (tmp_path / "best-config.json").write_text("{}")
    (tmp_path / "best-config-1.json").write_text("{}")
    (tmp_path / "journal.jsonl").write_text("")
    for _ in range(2):
        withdraw_best(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["journal.jsonl"]
    (tmp_path / TOML).mkdir()  # what cannot be removed
    with pytest.raises(RunFailed, match="cannot be removed"):
        withdraw_best(tmp_path)


def test_a_damaged_file_is_refused_and_a_missing_one_has_no_commands(tmp_path: Path) -> None:
    assert read_best(tmp_path) is None
    good = 'start = [{ host = "a", argv = ["b"], env = {} }]\nrun = { evaluation = 1 }\nconfiguration = { n = 1 }'
    (tmp_path / TOML).write_text(good)
    assert read_best(tmp_path) == Written(1, {"n": 1}, (NodeStart("a", ("b",)),))
    changes = (
        ("n = 1", "n = []"),
        ("evaluation = 1", "evaluation = inf"),
        ('["b"]', "[3]"),
        ("env = {}", "env = { c = 1 }"),
    )
    wrong = [good.replace(*change) for change in changes]
    for text in ("", "start = 3", "start = []\nrun = 3\nconfiguration = {}", *wrong):
        (tmp_path / TOML).write_text(text)
        with pytest.raises(UserError, match="cannot be read as the file that mpipso wrote"):
            read_best(tmp_path)
