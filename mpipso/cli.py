"""The command line: ``mpipso [tune|launch|check|init|report]``; without a command it tunes."""

from __future__ import annotations

import argparse
import difflib
import io
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import mpipso
from mpipso.cluster.facts import rank_in, ranks_in
from mpipso.config import templates
from mpipso.errors import MpipsoError, UserError, print_error
from mpipso.flags import bounded
from mpipso.launch.limits import LEAST_SILENCE, Limits
from mpipso.output import Printer, open_streams, printing
from mpipso.startup import Options
from mpipso.wording import suggestion

_OVERRIDES: tuple[tuple[str, str, Any, str], ...] = (
    (
        "--nodes-per-group",
        "parallel.nodes_per_group",
        int,
        "nodes that one service instance spans (2; 1 without hosts or -np)",
    ),
    ("--devices-per-node", "parallel.devices_per_node", int, "accelerators of each node"),
    (
        "--mode",
        "parallel.mode",
        str,
        "single_node: groups may share a node; multi_node: one rank per node; auto (by hosts)",
    ),
    (
        "--particles",
        "search.particles",
        int,
        "particles per iteration (8 to 16, or as many as there are groups)",
    ),
    ("--schedule", "search.schedule", str, "which results a proposal may see: generation, window or async"),
    (
        "--window",
        "search.window",
        int,
        "with --schedule window, proposals under way at a time (1.5 per service group)",
    ),
    ("--evaluations", "search.evaluations", int, "evaluations, baseline and repeats included, the final race not"),
    ("--iterations", "search.iterations", int, "end after this many iterations of --particles evaluations each"),
    ("--time-limit", "search.time_limit", float, "seconds of the whole run after which no evaluation is started"),
    ("--stagnation", "search.stagnation", int, "end after this many evaluations without a better configuration"),
    ("--target", "search.target", float, "end when the objective's metric has reached this value"),
    ("--seed", "search.seed", int, "seed of the search: the same seed and the same results give the same proposals"),
    ("--output", "output", str, "folder in which the run's own folder is made"),
    ("--share-cores", "parallel.share_cores", None, "let each group on a host use all of its cores instead of a share"),
    ("--ssh", "parallel.ssh", None, "use ssh to reach hosts of named groups on which no rank runs"),
)
"""Flags that replace a value of the configuration file: dotted key, type (None: a switch, which means true), help."""
_RANKS = "number of ranks (one per named host; on this machine alone one per node of named groups, or per core up to 8)"
_CONTRADICTIONS = (
    ("resume", "warm_start", "a resumed run knows what it knew; give it to a new run"),
    ("resume", "run_name", "a resumed run stays in its folder"),
    ("csv", "pareto", "a table for programs has all configurations"),
    ("nodes", "parallel.nodes_per_group", "the nodes that are named say how many make a group"),
)
"""Pairs of flags the second of which would have no effect, and why."""


class _Parser(argparse.ArgumentParser):
    """Tells a mistake in one line, as all mistakes are told, and guesses no flag from its beginning."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 2 bad input, 3 and 4 as in ``errors.py``, 128 + n for signal n."""
    words = _joined(sys.argv[1:] if argv is None else argv)
    open_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a character that the locale lacks must not cost the report
        sys.stdout.reconfigure(errors="replace")
    try:
        code = _run(words)
    except MpipsoError as error:
        # Every rank has found it, and one is to tell. A shell that a rank has started may run another command.
        if isinstance(error, UserError) and words[0] == "tune" and rank_in(os.environ) != 0:
            return 0
        print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return code


def _run(words: list[str]) -> int:
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help", "--version")):
        words.insert(0, "tune")
    try:
        arguments = _parse(words)
    except UserError as error:
        if words[0] != "tune" or ranks_in(os.environ) == 1:
            raise
        # Ranks with other code may have understood these words, and would wait for this one.
        from mpipso.run import tune

        return tune(error)
    code: int = arguments.run(arguments)
    return code


def _parse(words: Sequence[str]) -> argparse.Namespace:
    if words[0] not in _SUBCOMMANDS and not words[0].startswith("-"):
        raise UserError(f"{words[0]!r}: unknown command{suggestion(words[0], tuple(_SUBCOMMANDS))}")
    arguments, unknown = _parser().parse_known_args(words)
    if unknown:
        raise UserError(f"unrecognized arguments: {' '.join(unknown)}{_meant(words[0], unknown[0])}")
    for flag, other, why in _CONTRADICTIONS:
        # A script that launches anew or resumes passes all flags on.
        excused = flag == "resume" and arguments.run is _launch
        if not excused and getattr(arguments, flag, None) and getattr(arguments, other, None):
            raise UserError(f"--{_spelled(flag)} cannot be combined with --{_spelled(other)}: {why}")
    return arguments


def _meant(command: str, word: str) -> str:
    """What a user may have meant by a word that is no flag of ``command``, or else where its flags are told."""
    parser = argparse.ArgumentParser()
    _SUBCOMMANDS[command][0](parser)
    close = difflib.get_close_matches(word.partition("=")[0], re.findall(r"--[a-z-]+", parser.format_usage()), 1, 0.75)
    return f"; did you mean {close[0]}?" if close else f"; see mpipso {command} --help"


def _spelled(flag: str) -> str:
    return flag.rsplit(".", 1)[-1].replace("_", "-")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mpipso",
        description="Tune a service that spans nodes with a particle swarm over MPI, on many service groups at once.",
        epilog="On a cluster: mpirun -np 8 --hostfile hosts.txt python -m mpipso --config my.toml",
    )
    parser.add_argument("--version", action="version", version=f"mpipso {mpipso.__version__}")
    commands = parser.add_subparsers(metavar="command", required=True)

    for name, (add, run, what) in _SUBCOMMANDS.items():
        command = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        add(command)
        command.set_defaults(run=run)
    return parser


def _add_tune(command: argparse.ArgumentParser) -> None:
    _add_run_flags(command)
    command.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="HOST",
        help="leave this host out, whether a hostfile or a group names it; the other nodes of its groups form new "
        "ones; may be given several times",
    )
    _add_progress(command)


def _add_launch(command: argparse.ArgumentParser) -> None:
    command.add_argument("-np", "-n", dest="ranks", type=bounded(int, 1), help=_RANKS)
    command.add_argument("--mpirun", help="the launcher to use (mpirun or mpiexec in PATH)")
    command.add_argument(
        "--mpirun-args",
        action="extend",
        type=_words,
        default=[],
        metavar="WORDS",
        help='more launcher flags, quoted as one word: "--mca btl_tcp_if_include eth0 -x NAME"; may be given several '
        "times",
    )
    command.add_argument(
        "--restarts",
        type=bounded(int, 0),
        metavar="N",
        help="restart a lost job on the hosts that answer, at most N times without a completed evaluation in between "
        f"({Limits.restarts}); 0: never",
    )
    command.add_argument(
        "--stuck-after",
        type=bounded(float, LEAST_SILENCE),
        metavar="SECONDS",
        help=f"end and restart a job that has been silent for this long, {LEAST_SILENCE} at least "
        f"({Limits.stuck_after:g}); healthy ones give a sign of life every 2 s",
    )
    command.add_argument(
        "--start-limit",
        type=bounded(float, 0, above=True),
        metavar="SECONDS",
        help=f"end and restart a job whose run has not begun this long after its launch ({Limits.start_limit:g})",
    )
    _add_run_flags(command)
    _add_progress(command)


def _add_check(command: argparse.ArgumentParser) -> None:
    _add_run_flags(command)
    command.add_argument("--ranks", "-np", type=bounded(int, 1), help=_RANKS)


def _add_init(command: argparse.ArgumentParser) -> None:
    command.add_argument("path", nargs="?", type=Path, default=Path("mpipso.toml"), help="file to write (mpipso.toml)")
    command.add_argument(
        "--engine", choices=templates.names(), default=templates.EMBEDDED, help="the service to tune (%(default)s)"
    )
    command.add_argument("--force", action="store_true", help="overwrite an existing file")


def _add_report(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=Path, help="folder of the run, such as mpipso-runs/latest")
    command.add_argument(
        "--csv",
        action="store_true",
        help="print a row per evaluation instead, with its parameters and metrics; --warm-start reads that",
    )
    command.add_argument("--by-load", action="store_true", help="with --csv: a row per evaluation and load of a sweep")
    command.add_argument(
        "--pareto",
        metavar="METRIC",
        help="show instead what a better value of this metric, such as a latency, costs in the objective: the "
        "configurations that no other one beats in both, whatever the limits on these two",
    )


def _add_progress(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--progress",
        choices=("auto", "live", "plain"),
        default="auto",
        help="how to show progress (auto: live at a terminal)",
    )


def _joined(argv: Sequence[str]) -> list[str]:
    """With ``--mpirun-args WORDS`` as ``--mpirun-args=WORDS``: else ``WORDS`` would be taken for flags of mpipso's."""
    words: list[str] = []
    for word in argv:
        if words and words[-1] == "--mpirun-args":
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


def _words(line: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(line))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{line!r}: {error}") from None


def _add_run_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, help="TOML file (without it the embedded service is tuned)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--hostfile", type=Path, help="hostfile, in mpirun's format; groups are formed in its order")
    where.add_argument("--nodes", help="the hosts of each group: 'node0,node1:node2,node3'")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="resume the run in this folder")
    parser.add_argument("--run-name", help="name of the run's folder (the local time); if it exists, -2 is added")
    parser.add_argument(
        "--warm-start",
        type=Path,
        action="append",
        default=[],
        metavar="DIR|CSV",
        help="begin with the results of an earlier run or of a CSV table; may be given several times",
    )
    for flag, key, kind, text in _OVERRIDES:
        names = [flag, "--npus-per-node"] if flag == "--devices-per-node" else [flag]
        value = {"type": kind, "metavar": key.rsplit(".", 1)[-1].upper()}
        is_so = {"action": "store_const", "const": True}
        parser.add_argument(*names, dest=key, help=text, **(value if kind else is_so))


def _options(arguments: argparse.Namespace) -> Options:
    given = {key: getattr(arguments, key) for _, key, _, _ in _OVERRIDES}
    return Options(
        config=arguments.config,
        overrides={key: value for key, value in given.items() if value is not None},
        hostfile=arguments.hostfile,
        nodes=arguments.nodes,
        progress=getattr(arguments, "progress", "auto"),
        resume=arguments.resume,
        name=arguments.run_name,
        warm_start=tuple(arguments.warm_start),
        without=tuple(getattr(arguments, "without", ())),
    )


def _tune(arguments: argparse.Namespace) -> int:
    from mpipso.run import tune

    return tune(_options(arguments))


def _launch(arguments: argparse.Namespace) -> int:
    from mpipso.launch.supervised import launch

    given = {field.name: getattr(arguments, field.name) for field in fields(Limits)}
    limits = Limits(**{name: value for name, value in given.items() if value is not None})
    return launch(_options(arguments), arguments.ranks, arguments.mpirun, limits, arguments.mpirun_args)


def _check(arguments: argparse.Namespace) -> int:
    from mpipso.check import check

    return check(_options(arguments), arguments.ranks, Printer())


def _init(arguments: argparse.Namespace) -> int:
    from mpipso.launched import COMMAND, called

    path: Path = arguments.path
    try:
        with path.open("w" if arguments.force else "x", encoding="utf-8") as file:
            file.write(templates.template(arguments.engine))
    except FileExistsError:
        raise UserError(f"{path}: exists already; use --force to overwrite it, or name another file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    command = os.environ.get(COMMAND) or shlex.join(called())
    with printing():
        print(f"{path} written; next: {command} check --config {shlex.quote(str(path))}")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from mpipso.record.outcome import read_outcome
    from mpipso.record.pareto import pareto
    from mpipso.record.report import report
    from mpipso.record.table import write_table
    from mpipso.worth import worth

    if arguments.by_load and not arguments.csv:
        raise UserError("--by-load goes with --csv; without it the report tells of the loads of baseline and best")
    outcome = read_outcome(arguments.folder)
    if arguments.csv:
        with printing():
            write_table(outcome, sys.stdout, by_load=arguments.by_load)
    else:
        told = report(outcome, worth(outcome)) if arguments.pareto is None else pareto(outcome, arguments.pareto)
        Printer().print(told, crop=False)
    return 0


_SUBCOMMANDS = {
    "tune": (_add_tune, _tune, "run the search (the default); start it with mpirun or srun, one rank per node"),
    "launch": (_add_launch, _launch, "compose the mpirun line for tune, print it and run it"),
    "check": (_add_check, _check, "check configuration and placement, and show what would be started; starts nothing"),
    "init": (_add_init, _init, "write a commented configuration file"),
    "report": (_add_report, _report, "show the summary of a run, finished or not"),
}
"""What adds the flags of each, what runs it, and what its help says."""
