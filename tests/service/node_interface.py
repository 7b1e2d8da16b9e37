"""The node interface as tests: what every node can do, whatever carries the calls to it.

A test file imports the classes and gives them a fixture ``node``: a node named node7 on this machine, with the devices
2 and 5 and the device variable TINY_DEVICES, whose ``work_dir`` the tests may look into.
"""

from __future__ import annotations

import hashlib
import os
import random
import socket
import sys
import threading
from pathlib import Path

import pytest
from bed.job import alive, wait_until

from mpipso.errors import Cancelled, EvaluationFailed
from mpipso.service.node import CHUNK, Node

PYTHON = sys.executable


def python(program: str, *arguments: object) -> list[str]:
    return [PYTHON, "-c", program, *map(str, arguments)]


class TestExecute:
    def test_exit_code_and_both_streams(self, node: Node) -> None:
        done = node.execute(python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"), 30)
        assert (done.exit_code, done.stdout, done.stderr) == (3, "out\n", "err\n")
        assert not done.timed_out

    def test_no_shell_touches_the_words(self, node: Node) -> None:
        words = ["$HOME", "a b", "*", "; false", "ü"]
        assert node.execute(python("import sys; print(sys.argv[1:])", *words), 30).stdout == f"{words}\n"

    def test_environment_is_added_and_devices_are_shown(self, node: Node) -> None:
        program = "import os; print(os.environ['SPEED'], os.environ['TINY_DEVICES'], 'PATH' in os.environ)"
        assert node.execute(python(program), 30, env={"SPEED": "9"}).stdout == "9 2,5 True\n"

    def test_at_the_timeout_the_whole_tree_is_killed_and_says_so(self, node: Node, tmp_path: Path) -> None:
        pids = tmp_path / "pids"
        child = "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
        program = (
            "import os, subprocess, sys, time\n"
            f"child = subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True)\n"
            f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
            "print('begun', flush=True)\n"
            "time.sleep(60)"
        )
        for timeout in (0.5, 2.0, 8.0, 32.0):
            done = node.execute(python(program), timeout)
            if done.stdout:  # or the machine was too slow for this to mean anything
                break
        assert done.timed_out
        assert done.stdout == "begun\n"
        assert done.exit_code < 0
        assert [pid for pid in map(int, pids.read_text().split()) if alive(pid)] == []

    def test_output_is_bounded_and_its_end_is_kept(self, node: Node) -> None:
        # A line written in the moment of a cut may be lost, so the end comes after the last one.
        program = (
            "import os, sys, time\n"
            "os.write(1, b'x' * 30_000_000)\n"
            "while not 3_000_000 < os.fstat(1).st_size < 8_000_000: time.sleep(0.01)\n"
            "print('end')"
        )
        done = node.execute(python(program), 60)
        assert done.exit_code == 0
        assert done.stdout.endswith("end\n")
        assert len(done.stdout) == 1_000_000

    def test_it_can_be_given_up(self, node: Node, tmp_path: Path) -> None:
        mark = tmp_path / "pid"
        program = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(1000)"
        cancel = threading.Event()

        def give_up() -> None:
            wait_until(lambda: mark.exists() and mark.read_text(), what="the command runs")
            cancel.set()

        thread = threading.Thread(target=give_up)
        thread.start()
        with pytest.raises(Cancelled):
            node.execute(python(program), 1000, cancel=cancel)
        thread.join()
        wait_until(lambda: not alive(int(mark.read_text())), what="the command is gone")

    def test_a_command_that_is_not_there_is_told_with_the_node_s_name(self, node: Node) -> None:
        with pytest.raises(EvaluationFailed, match=r"node7: .*no-such-command") as caught:
            node.execute(["no-such-command"], 10)
        assert caught.value.kind == "infrastructure"


class TestFiles:
    @pytest.mark.parametrize("size", [0, 1, CHUNK, 5 * CHUNK + 17])
    def test_up_and_down_again_whatever_the_size(self, node: Node, tmp_path: Path, size: int) -> None:
        content = random.Random(size).randbytes(size)
        source, back = tmp_path / "source", tmp_path / "back"
        source.write_bytes(content)
        source.chmod(0o741)
        node.upload_file(source, "folder/file.bin")
        there = Path(node.work_dir) / "folder" / "file.bin"
        assert there.read_bytes() == content
        assert there.stat().st_mode & 0o7777 == 0o741
        assert node.file_digest("folder/file.bin") == (hashlib.sha256(content).hexdigest(), 0o741)
        node.download_file("folder/file.bin", back)
        assert back.read_bytes() == content
        assert back.stat().st_mode & 0o7777 == 0o741
        assert [path.name for path in there.parent.iterdir()] == ["file.bin"], "no part is left"

    def test_a_file_is_replaced_in_one_step(self, node: Node) -> None:
        node.write_file("config.json", b"old")
        there = Path(node.work_dir) / "config.json"
        node.write_chunk("config.json", 0, b"new")
        assert there.read_bytes() == b"old"
        with there.open("rb") as reader:
            node.finish_file("config.json", hashlib.sha256(b"new").hexdigest(), 0o600)
            assert reader.read() == b"old", "who has the old file open keeps it"
        assert there.read_bytes() == b"new"

    def test_what_arrives_damaged_never_takes_the_file_s_place(self, node: Node) -> None:
        node.write_file("config.json", b"old")
        node.write_chunk("config.json", 0, b"new")
        with pytest.raises(EvaluationFailed, match=r"node7: config\.json arrived damaged"):
            node.finish_file("config.json", hashlib.sha256(b"something else").hexdigest(), 0o600)
        assert (Path(node.work_dir) / "config.json").read_bytes() == b"old"

    def test_the_end_of_a_file_can_be_read_alone(self, node: Node) -> None:
        node.write_file("log", b"0123456789")
        assert [node.read_chunk("log", -4, 100), node.read_chunk("log", -40, 3)] == [b"6789", b"012"]
        assert node.read_chunk("log", 10, 5) == b""
        assert node.log_text("log", 0, node.log_size("log")) == b"0123456789"

    def test_a_file_that_is_not_there(self, node: Node, tmp_path: Path) -> None:
        with pytest.raises(EvaluationFailed, match=r"node7: no-file cannot be read: No such file") as caught:
            node.download_file("no-file", tmp_path / "back")
        assert caught.value.kind == "infrastructure"
        assert list(tmp_path.glob("*back*")) == []

    def test_a_place_that_cannot_be_written(self, node: Node) -> None:
        node.write_file("file", b"")
        with pytest.raises(EvaluationFailed, match=r"node7: file/below cannot be written: "):
            node.write_file("file/below", b"")


class TestStartFolder:
    def test_it_is_empty_and_the_one_before_is_gone(self, node: Node, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        before = Path(node.start_folder())
        assert before.parent == Path(node.work_dir)
        node.write_file(f"{before}/config.json", b"{}")
        (before / "link").symlink_to(tmp_path / "elsewhere")
        after = Path(node.start_folder())
        assert list(after.iterdir()) == [] and not before.exists()
        assert (tmp_path / "elsewhere").exists()


class TestUpdateConfig:
    def test_parameters_are_written_as_json_and_the_command_sees_them(self, node: Node) -> None:
        config = Path(node.work_dir) / "config.json"
        check = python("import json, sys; sys.exit(json.load(open(sys.argv[1])) != {'batch': 8})", config)
        node.update_config({"batch": 8}, command=check)

    def test_given_text_is_written_as_it_is(self, node: Node) -> None:
        node.update_config({"batch": 8}, path="my.yaml", content=b"batch: 8\n")
        assert (Path(node.work_dir) / "my.yaml").read_bytes() == b"batch: 8\n"

    def test_a_command_that_fails(self, node: Node) -> None:
        with pytest.raises(EvaluationFailed, match=r"node7: update command .* ended with exit code 1") as caught:
            node.update_config({}, command=python("raise SystemExit('no space left')"))
        assert caught.value.kind == "measurement"
        assert caught.value.cause.endswith(": no space left")
        assert "no space left" in caught.value.detail

    def test_a_command_that_takes_too_long(self, node: Node) -> None:
        with pytest.raises(EvaluationFailed, match=r"node7: update command .* took longer than 0.5 s"):
            node.update_config({}, command=python("import time; time.sleep(60)"), timeout=0.5)


class TestService:
    LISTENER = (
        "import socket, sys, time\n"
        "server = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        "print('listening', flush=True)\n"
        "time.sleep(60)"
    )

    def test_from_start_to_stop(self, node: Node) -> None:
        port = node.free_port(0)
        handle = node.start_service(python(self.LISTENER, port), {}, log="service.log", grace=5.0)
        wait_until(lambda: node.listener_problem(handle, port) is None, what="it listens")
        assert node.poll_service(handle) is None
        assert node.listening(handle) == [f"127.0.0.1:{port}"]
        assert node.listening(handle, [port]) == []
        assert node.read_chunk("service.log", 0, 100) == b"listening\n"
        with pytest.raises(EvaluationFailed, match=f"node7: port {port} is in use by "):
            node.free_port(port)
        assert node.free_port(port, owner=handle) == port
        assert node.stop_service(handle)[0] == []
        assert node.stop_service(handle) == ([], 0), "stopping again is allowed"
        assert node.free_port(port) == port

    def test_a_service_that_ignores_term_is_killed_and_says_so(self, node: Node) -> None:
        stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
        handle = node.start_service(python(stubborn), {}, log="service.log", grace=0.1)
        wait_until(lambda: node.read_chunk("service.log", 0, 100), what="it ignores TERM")
        assert node.stop_service(handle) == ([], 1)

    def test_a_listener_that_is_not_the_service(self, node: Node) -> None:
        handle = node.start_service(python("import time; time.sleep(60)"), {}, log="service.log", grace=1.0)
        with socket.create_server(("127.0.0.1", 0)) as stranger:
            port = stranger.getsockname()[1]
            problem = node.listener_problem(handle, port) or ""
            assert str(os.getpid()) in problem or "python" in problem
            with pytest.raises(EvaluationFailed, match=f"port {port} is in use by "):
                node.free_port(port, owner=handle)
        assert node.listener_problem(handle, port) == f"nothing listens on port {port}"
        node.stop_service(handle)

    def test_a_service_that_ends_has_an_exit_code(self, node: Node) -> None:
        handle = node.start_service(python("raise SystemExit(7)"), {}, log="service.log", grace=1.0)
        wait_until(lambda: node.poll_service(handle) is not None, what="it has ended")
        assert node.poll_service(handle) == 7
        node.stop_service(handle)

    def test_a_port_that_others_of_the_group_took_is_not_given_again(self, node: Node) -> None:
        taken = [node.free_port(0) for _ in range(3)]
        assert node.free_port(0, taken) not in taken

    def test_close_stops_what_runs_and_leaves_no_folder(self, node: Node) -> None:
        handle = node.start_service(
            python("import os, time; print(os.getpid(), flush=True); time.sleep(60)"), {}, log="service.log", grace=1.0
        )
        wait_until(lambda: node.read_chunk("service.log", 0, 100), what="it runs")
        pid = int(node.read_chunk("service.log", 0, 100))
        assert node.poll_service(handle) is None
        node.close()
        assert not alive(pid)
        assert not Path(node.work_dir).exists()
