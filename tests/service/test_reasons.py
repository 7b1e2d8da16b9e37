from __future__ import annotations

import pytest

from mpipso.logtext import essence
from mpipso.service.node import quoted
from mpipso.service.reasons import ELSEWHERE, ERROR, MEMORY, NAMED, OTHER, remoteness, telling

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
    assert telling(without) == f"{SERVER}output_handler failed."
    assert telling(without, first=True) == f"{CORE}The core encountered a fatal error."


def test_of_several_exceptions_the_first_is_the_reason_if_the_others_follow_from_it() -> None:
    several = "ValueError: a\nKeyError: b\nbye"
    assert (telling(several), telling(several, first=True)) == ("KeyError: b", "ValueError: a")
    memory = f"{several}\ntorch.OutOfMemoryError: c\nMemoryError: d"
    assert telling(memory, first=True) == "torch.OutOfMemoryError: c"
    assert telling("loading\nserving", first=True) == "serving"


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
        (POINTS_TO_IT, ELSEWHERE),
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
