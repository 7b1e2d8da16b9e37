"""A stand-in for mpirun that injects faults: it plays launcher and root at once, and starts no rank.

    python mpirun_stand_in.py FOLDER ... -m mpipso tune ... (--run-name NAME | --resume DIR) ...

FOLDER holds ``attempts.json``, a list of Python programs, one for each call, which use the functions below; the last
one serves for further calls as well. ``calls.jsonl`` there gets the words and the number of restarts of each.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

HERE = Path(sys.argv[1])
WORDS = sys.argv[2:]


def value(flag: str) -> str | None:
    """What follows a flag."""
    return WORDS[WORDS.index(flag) + 1] if flag in WORDS else None


def folder() -> Path:
    """The run's folder."""
    resumed = value("--resume")
    return Path(resumed) if resumed is not None else HERE / "runs" / str(value("--run-name"))


def write(event: str, **fields: object) -> None:
    """A line of the journal."""
    path = folder() / "journal.jsonl"
    number = len(path.read_text().splitlines()) if path.exists() else 0
    with path.open("a") as file:
        file.write(json.dumps({"seq": number, "t": time.time(), "event": event, **fields}) + "\n")


def begin() -> None:
    """The run begins, or goes on."""
    config = Path(str(value("--config"))).read_text()
    write("started" if value("--resume") is None else "resumed", config=config)
    write("asked")


def evaluate(number: int) -> None:
    """An evaluation is completed."""
    write("evaluated", number=number)


def finish(feasible: bool = True) -> None:
    """The run comes to its end."""
    write("finished", incumbent=0, evaluations=1, feasible=feasible, cause="evaluations")


def refuse(*hosts: str) -> NoReturn:
    """The ranks do not go on, because of something of these hosts."""
    from mpipso.launched import note_refusing  # most attempts do without

    note_refusing(folder(), hosts)
    sys.exit(2)


def beat() -> None:
    """Give a sign of life."""
    (folder() / "beat").touch()


def later(seconds: float = 0.0) -> None:
    """Put the supervisor's clock forward once it has seen how things are, and wait until it has drawn its conclusions.

    The clock is that of the fault CLOCK in test_supervise.py, which stands still otherwise.
    """
    clock, draft = HERE / "clock", HERE / "clock-draft"
    now = float(clock.read_text()) if clock.exists() else 0.0
    _wait_for_looks()
    draft.write_text(str(now + seconds))
    draft.replace(clock)
    _wait_for_looks()


def _wait_for_looks() -> None:
    # The turn of the first one may have begun before; the third one begins when the second has come to its end.
    looks = HERE / "looks"
    seen = looks.stat().st_size
    while looks.stat().st_size < seen + 3:
        time.sleep(0.01)


def wait_for(name: str) -> None:
    """Wait until the test has made a file of that name in FOLDER."""
    while not (HERE / name).exists():
        time.sleep(0.01)


def ignore_term(so: bool = True) -> None:
    """Be deaf to SIGTERM, if ``so``."""
    if so:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def hang() -> NoReturn:
    """Do nothing for ever."""
    while True:
        signal.pause()


def die(number: int) -> NoReturn:
    """End by a signal."""
    os.kill(os.getpid(), number)
    hang()


def interruptible() -> NoReturn:
    """Be a run that ends in good order on SIGUSR1."""

    def end(number: int, frame: object) -> None:
        write("interrupted", signal=signal.Signals(number).name)
        sys.exit(128 + number)

    signal.signal(signal.SIGUSR1, end)
    begin()
    hang()


def orphan(argv: list[str], *, session: bool) -> None:
    """Leave a process behind, in this session or in one of its own, whose number ``orphans`` gets."""
    process = subprocess.Popen(argv, start_new_session=session)
    with (HERE / "orphans").open("a") as file:
        file.write(f"{process.pid}\n")


def main() -> None:
    calls = HERE / "calls.jsonl"
    number = len(calls.read_text().splitlines()) if calls.exists() else 0
    with calls.open("a") as file:
        file.write(json.dumps({"words": WORDS, "restarts": os.environ["MPIPSO_RESTARTS"]}) + "\n")
    attempts = json.loads((HERE / "attempts.json").read_text())
    exec(attempts[min(number, len(attempts) - 1)], globals())


if __name__ == "__main__":
    main()
