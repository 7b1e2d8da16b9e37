from __future__ import annotations

import pytest

from mpipso.logtext import essence
from mpipso.service.node import quoted
from mpipso.service.reasons import ELSEWHERE, ENDED, ERROR, MEMORY, NAMED, OTHER, of_peer, remoteness, telling

WORKER = "(Worker_TP0 pid=7) ERROR 11-28 05:12:09 [executor.py:63] "
CORE = "(EngineCore pid=6) ERROR 11-28 05:12:09 [core.py:12] "
SERVER = "(APIServer pid=5) ERROR 11-28 05:12:10 [llm.py:6] "
INFO = "(APIServer pid=5) INFO 11-28 05:12:10 [llm.py:6] "
WARNING = "(APIServer pid=5) WARNING 11-28 05:12:10 [llm.py:6] "

POINTS_TO_IT = "engine.exceptions.EngineDeadError: the core has an issue. See stack trace (above) for the root cause."
ACCESS = 'INFO:     127.0.0.1:34782 - "POST /v1/completions HTTP/1.1" 500 Internal Server Error'
TRACEBACK = (
    "Traceback (most recent call last):",
    '  File "/a/core.py", line 3, in run',
    "    busy_loop_func(self, error)",
)
UNDER_LOAD = "\n".join(
    [
        f"{CORE}The core encountered a fatal error.",
        *(f"{CORE}{line}" for line in (*TRACEBACK, "    ~~~~^^^^", "KeyError: 'cmpl-1'")),
        f"{SERVER}output_handler failed.",
        *(f"{SERVER}{line}" for line in (*TRACEBACK, "    raise self.error(outputs) from None", POINTS_TO_IT)),
        SERVER,
        ACCESS,
        "INFO:     Shutting down",
        f"{INFO}stopping",
    ]
)


def test_that_a_peer_has_ended_is_told_where_nothing_nearer_is_known() -> None:
    closed = "RuntimeError: [/src/gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.2]:3772"
    log = "\n".join([f"{CORE}The core encountered a fatal error.", *(f"{CORE}{line}" for line in (*TRACEBACK, closed))])
    assert telling(log) == f"{CORE}{closed}"
    assert of_peer(closed) and not of_peer("ConnectionResetError: [Errno 104] Connection reset by peer")
    assert of_peer("[/src/gloo/transport/tcp/pair.cc:537] Read error [10.88.7.13]:21722: Connection reset by peer.")
    assert of_peer("[/src/gloo/transport/tcp/pair.cc:311] writev [10.88.7.13]:21722: Broken pipe")


def refused(header: str, *lines: str) -> str:
    """How a program ends whose values Pydantic refuses."""
    trailer = "    For further information visit https://errors.pydantic.dev/2.14/v/value_error"
    return "\n".join([*TRACEBACK, f"pydantic_core.ValidationError: 1 validation error for {header}", *lines, trailer])


def test_what_pydantic_refuses_is_named_by_what_it_says_of_the_value() -> None:
    objects = "[type=value_error, input_value=ArgsKwargs((), {'a': 'b'}), input_type=ArgsKwargs]"
    log = refused("Config", f"  Value error, tokens (8) must be greater than or equal to seqs (16). {objects}")
    assert telling(log) == "Value error, tokens (8) must be greater than or equal to seqs (16)."
    other = telling(refused("Config", f"  Value error, heads (4) must be divisible by ranks (3). {objects}"))
    assert essence(other) != essence(telling(log))
    said = "Input should be less than or equal to 1 [type=less_than_equal, input_value=1.5, input_type=float]"
    assert telling(refused("CacheConfig", "gpu_memory_utilization", f"  {said}")) == f"gpu_memory_utilization: {said}"
    field = telling(refused("Config", "a.b", f"  Value error, it is odd {objects}"))
    assert field == "a.b: Value error, it is odd" and remoteness(field) == NAMED


def test_the_reason_of_an_engine_that_dies_under_load_is_what_others_point_to() -> None:
    assert telling(UNDER_LOAD) == f"{CORE}KeyError: 'cmpl-1'"
    without = UNDER_LOAD.replace("KeyError: 'cmpl-1'", "AssertionError")
    assert telling(without) == f"{CORE}AssertionError"
    assert telling(without, first=True) == f"{CORE}The core encountered a fatal error."


CORE_ENDED = f"{WARNING}[shutdown] MPClient: engine core exited unexpectedly; starting cleanup"
KILLED = "\n".join(
    [
        ACCESS,
        CORE_ENDED,
        f"{INFO}[shutdown] MPClient: stopping engine manager",
        f"{SERVER}AsyncLLM output_handler failed.",
        *(f"{SERVER}{line}" for line in (*TRACEBACK, POINTS_TO_IT)),
        ACCESS,
        "INFO:     Finished server process [5]",
    ]
)


def test_an_engine_that_is_killed_says_nothing_and_the_reason_is_what_is_said_of_its_end() -> None:
    assert telling(KILLED) == telling(KILLED, first=True) == CORE_ENDED
    survived = f"{SERVER}ImportError: no plugin\n{INFO}without it\n"
    assert telling(survived + KILLED) == CORE_ENDED
    older = f"{SERVER}Engine core proc EngineCore_DP0 died unexpectedly, shutting down client."
    assert telling(KILLED.replace(CORE_ENDED, older)) == older


@pytest.mark.parametrize("kind", ["completion", "chat completion"])
def test_that_an_answer_was_cut_off_is_no_reason_for_the_end_of_the_engine(kind: str) -> None:
    cut_off = "\n".join(f"{SERVER}{line}" for line in (f"Error in {kind} stream generator.", *TRACEBACK, POINTS_TO_IT))
    assert telling(f"{KILLED}\n{cut_off}") == telling(f"{KILLED}\n{cut_off}", first=True) == CORE_ENDED
    bug = cut_off.replace(POINTS_TO_IT, "KeyError: 'cmpl-1'")
    assert telling(bug, first=True) == f"{SERVER}KeyError: 'cmpl-1'"


@pytest.mark.parametrize(
    "cause",
    [
        f"{CORE}KeyError: 'x'",
        f"{CORE}AssertionError",
        f"{CORE}torch.OutOfMemoryError: CUDA out of memory.",
        f"{CORE}Worker proc VllmWorker-1 died unexpectedly (exit code: -9), shutting down executor.",
    ],
)
def test_what_the_engine_or_its_workers_say_is_nearer_than_that_it_ended(cause: str) -> None:
    assert telling(f"{cause}\n{KILLED}") == cause


def test_of_several_exceptions_the_first_is_the_reason_if_the_others_follow_from_it() -> None:
    several = "ValueError: a\nKeyError: b\nbye"
    assert (telling(several), telling(several, first=True)) == ("KeyError: b", "ValueError: a")
    memory = f"{several}\ntorch.OutOfMemoryError: c\nMemoryError: d"
    assert telling(memory, first=True) == "torch.OutOfMemoryError: c"
    assert telling("loading\nserving", first=True) == "serving"


CAUGHT = "\n".join([*TRACEBACK, "ModuleNotFoundError: No module named 'flash_attn'"])
TOO_LONG = "[2026-11-28 08:00:01.123+08:00] [1] [2] [server] [ERROR] [config.cpp:123] : maxSeqLen 4096 is too large"
FLAG = "server: error: unrecognized arguments: --foo"


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (f"{CAUGHT}\nusing the built-in attention\n{TOO_LONG}\nINFO: stopping", TOO_LONG),
        (f"ConnectionError: [Errno 111] refused, retrying\nconnected\n{FLAG}", FLAG),
        (f"{CAUGHT}\n{INFO}using the built-in attention\n{FLAG}", FLAG),
        (f"{CORE}KeyError: 7\n{CORE.replace('ERROR', 'INFO')}gone on\n{SERVER}lost", f"{SERVER}lost"),
        (f"{CAUGHT}\nusing another\nValueError: a\nerror: stopping", "ValueError: a"),
        (f"ValueError: a\nConnectionError: b\nconnected\n{FLAG}\nKeyError: c", "KeyError: c"),
        (f"{CAUGHT}\nusing another", CAUGHT.splitlines()[-1]),
    ],
)
def test_an_exception_that_was_survived_is_no_reason_if_another_error_follows(log: str, reason: str) -> None:
    assert telling(log) == reason


@pytest.mark.parametrize(
    "between",
    [
        "  a line that goes on with it",
        f"{INFO}loading",
        "(EngineCore pid=6) Process EngineCore_0:",
        "[rank0]:[W1128 a.cpp:1] Warning: destroy_process_group() was not called before program exit",
        "Aborted (core dumped)",
        ACCESS,
        "",
    ],
)
def test_what_another_process_says_and_what_belongs_to_an_end_does_not_tell_that_an_exception_was_survived(
    between: str,
) -> None:
    error = f"{CORE}KeyError: 'x'"
    assert telling(f"{error}\n{between}\n{SERVER}It has been lost") == error


BOXED = """\
00:01:06.408 WARNING  no error was looked for (system_controller.py:1)
00:01:06.415 ERROR    All 12 requests failed (system_controller.py:2370)

╭─ AIPerf System Exit Errors ────────────────────────────────╮
│ • Service: system_controller                               │
│    Error: Unknown                                          │
│    Reason: All 12 requests failed. No response was         │
│            collected — see prior log output for each       │
│            request's error details.                        │
╰────────────────────────────────────────────────────────────╯
Log File: /tmp/logs/aiperf.log
"""
REFUSED = """\
Usage: guidellm run [OPTIONS]
╭─ Error ────────────────────────────────────────────────────╮
│ Invalid value for '--profile': 'x' is not one of 'error',  │
│ 'sweep'.                                                   │
╰────────────────────────────────────────────────────────────╯
"""


def test_a_reason_is_quoted_without_the_box_around_it() -> None:
    reason = (
        "All 12 requests failed. No response was collected — see prior log output for each request's error details."
    )
    assert telling(BOXED) == f"Reason: {reason}"
    without = BOXED.partition("\n\n")[0]
    assert quoted(telling(without)) == "All 12 requests failed (system_controller.py:2370)"
    assert telling(REFUSED) == "Error: Invalid value for '--profile': 'x' is not one of 'error', 'sweep'."
    for plain in ("│", "├── error", "━━━━ 1/1 it/s"):
        assert telling(plain) == plain
    assert telling("╭──╮\n│ ValueError: a │\n│ bye │\n╰──╯") == "ValueError: a"


def test_a_reason_in_a_box_goes_on_with_what_stands_below_it_whatever_that_is() -> None:
    box = """\
╭─ AIPerf System Exit Errors ────────────────────────────────╮
│ • Service: dataset_manager                                 │
│    Error: CommandError                                     │
│    Reason: Failed to load tokenizer 'x':                   │
│            HFValidationError: Repo id must be in the form  │
│            'name'                                          │
│    Hint: none                                              │
╰────────────────────────────────────────────────────────────╯
"""
    assert telling(box) == (
        "Reason: Failed to load tokenizer 'x': HFValidationError: Repo id must be in the form 'name'"
    )


@pytest.mark.parametrize(
    "reason", ["Failed to load tokenizer 'x'", "Dataset configuration failed: ConnectionError: Max retries exceeded"]
)
def test_of_several_reasons_in_a_box_the_one_is_told_that_is_no_sequel_of_another(reason: str) -> None:
    box = f"""\
00:02:14.168 ERROR    Failed for SystemController: Failed to perform operation 'Configure Profiling' (mixin.py:354)
00:02:14.169 INFO     System state: configuring -> shutdown (system_controller.py:700)

╭─ AIPerf System Exit Errors ──────────────────────────────────────────────────╮
│ • Service: dataset_manager                                                   │
│    Operation: Configure Profiling                                            │
│    Error: CommandError                                                       │
│    Reason: {reason:66}│
│                                                                              │
│ • Service: system_controller                                                 │
│    Operation: Starting                                                       │
│    Error: HookError                                                          │
│    Reason: HookError("SystemController._start_services: Failed to perform    │
│            operation 'Configure Profiling'")                                 │
│    Cause: LifecycleOperationError("Failed to perform operation 'Configure    │
│            Profiling'")                                                      │
╰──────────────────────────────────────────────────────────────────────────────╯
Log File: /tmp/logs/aiperf.log
"""
    assert telling(box) == f"Reason: {reason}"


def test_a_line_that_states_an_error_says_more_than_one_that_has_the_word() -> None:
    assert telling("ERROR 11-28 05:12:10 [a.py:6] it is lost\nsee above for error details") == (
        "ERROR 11-28 05:12:10 [a.py:6] it is lost"
    )
    assert telling(f"{FLAG}\nno more errors; error count: 1") == FLAG
    assert telling("AssertionError\nan error happened") == "AssertionError"
    assert telling("an error\nanother error") == "another error"
    assert telling("WARNING: limits are low, which can cause errors like `OSError: too many`\nloading: 40 %") == (
        "loading: 40 %"
    )


@pytest.mark.parametrize(
    "last",
    [
        "terminate called after throwing an instance of 'std::runtime_error'",
        'Exception in thread "main" java.lang.IllegalStateException',
        "Fatal error in PMPI_Init: invalid communicator",
        "CUDA error 719 at kernel.cu:12",
        "panic: runtime error",
    ],
)
def test_what_a_runtime_says_last_counts_more_than_an_error_that_was_survived(last: str) -> None:
    assert telling(f"[ERROR] could not load an optional plugin\nserving\n{last}") == last


def test_missing_memory_is_the_reason_also_if_it_seems_to_be_survived() -> None:
    memory = "torch.OutOfMemoryError: no"
    assert telling(f"{memory}\ngoing on\nKeyError: 7\ngoing on\n{FLAG}") == memory


def test_what_the_launcher_of_several_ranks_says_of_one_that_failed_points_to_it() -> None:
    launcher = "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:"
    log = f"ValueError: a\nE1128 08:00:01.1 7 api.py:8] failed (exitcode: 1) local_rank: 0\n{launcher}\nrun.py FAILED"
    assert remoteness(launcher) == ELSEWHERE and telling(log) == "ValueError: a"


def test_what_gunicorn_says_of_a_worker_points_to_what_the_worker_says() -> None:
    stamp = "[2026-11-28 20:32:06 +0000] [7] "
    said = [f"{stamp}[ERROR] Exception in worker process", *TRACEBACK, "ModuleNotFoundError: No module named 'app'"]
    said += [
        "No module named 'app'",
        f"{stamp}[INFO] Worker exiting (pid: 8)",
        f"{stamp}[INFO] Control socket listening",
    ]
    said += [f"{stamp}[ERROR] Worker (pid:8) exited with code 3."]
    ended = [f"{stamp}[ERROR] Shutting down: Master", f"{stamp}[ERROR] Reason: Worker failed to boot."]
    halted = [*TRACEBACK, "gunicorn.errors.HaltServer: <HaltServer 'Worker failed to boot.' 3>"]
    for end in ([], ended, halted):
        assert telling("\n".join([*said, *end])) == "ModuleNotFoundError: No module named 'app'"
    assert telling("\n".join(ended)) == ended[-1]


def test_the_mark_of_what_a_log_lacks_is_no_reason() -> None:
    mark = "[... 123 bytes left out ...]"
    assert telling(f"loading\n{mark}\n") == "loading"
    assert telling(mark) == telling("") == "its log is empty"


@pytest.mark.parametrize("said", ["error ", "init fail ", "watchdog timeout ("])
def test_a_long_line_that_says_the_same_again_and_again_does_not_stop_the_rank(said: str) -> None:
    """As a model may that has lost its thread, where its service logs what it answers. It took a quarter of an hour."""
    line = 200_000 // len(said) * said + "error: 1"
    assert telling(line) == line


@pytest.mark.parametrize("line", [SERVER, f"{CORE}    error = self.step_fn()", *TRACEBACK, "    ^^^^^", ""])
def test_code_and_empty_messages_are_no_reason(line: str) -> None:
    log = "\n".join(["loading", '  File "/a/core.py", line 3, in run', line, ""])
    assert telling(log) == "loading"
    logged = f'{SERVER}failed\n{CORE}  File "/a/core.py", line 3, in run\n{line}\n'
    assert telling(logged) == f"{SERVER}failed"


@pytest.mark.parametrize(
    ("line", "rank"),
    [
        ("ValueError: Free memory on device cuda:0 (9/24 GiB) on startup is less than desired GPU memory", MEMORY),
        (f"{WORKER}ValueError: Available memory on node 0 (3/16 GiB) is less than requested memory for kv", MEMORY),
        ("RuntimeError: worker failed with 'Out of memory', check the stack trace above for the root cause", NAMED),
        (f"{CORE}KeyError: 'x'", NAMED),
        ("Exception: no such layer", NAMED),
        ("ValueError: too few tokens, raise max_tokens", NAMED),
        (f"{CORE}AssertionError", ERROR),
        (f"{CORE}It has been lost", ERROR),
        ("prog: error: unrecognized arguments: --foo 3", ERROR),
        (CORE_ENDED, ENDED),
        (POINTS_TO_IT, ELSEWHERE),
        ("ERROR:    Application startup failed. Exiting.", ELSEWHERE),
        ("For further information visit https://errors.pydantic.dev/2.14/v/value_error", ELSEWHERE),
        ("pydantic_core.ValidationError: 2 validation errors for CacheConfig", ELSEWHERE),
        (ACCESS, OTHER),
        (ACCESS.partition(" ")[2].strip(), OTHER),
        (f"{WARNING}cannot raise the limit. This can cause errors like `OSError: [Errno 24] Too many", OTHER),
        (f"{INFO}torch.OutOfMemoryError: caught", OTHER),
        ("(EngineCore pid=6) W1128 17:33:10.203000 2 a.py:53] ValueError: caught", OTHER),
        ("/a/b.py:254: UserWarning: ValueError: no longer raised", OTHER),
        ("ValueError: the level WARNING is unknown", NAMED),
    ],
)
def test_a_line_is_judged_by_what_it_says_behind_its_prefix(line: str, rank: int) -> None:
    assert remoteness(line) == rank


@pytest.mark.parametrize("level", ["WARNING", "INFO"])
def test_the_level_of_what_is_no_error_is_quoted_too(level: str) -> None:
    line = f"(APIServer pid=5) {level} 11-28 05:12:10 [llm.py:6] Found a limit"
    assert quoted(line) == f"{level}: Found a limit"
    assert (
        essence(f"a: it ended: {line}")
        == essence(f"a: it ended: {quoted(line)}")
        == f"a: it ended: {level}: Found a limit"
    )
    assert quoted(f"{CORE}lost") == "lost"
