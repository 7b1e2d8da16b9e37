"""What a journal's events say, and what their fields may be in one that was damaged or written by somebody else.

Besides ``seq``, ``t``, ``up`` and ``event``, which all have:

=============== =======================================================================================
event           fields
=============== =======================================================================================
``started``     version, config (the effective configuration file's text), seed, objective (the metric's name),
                plan ({groups: [{group, hosts, cores}], spares: [host]});
                cwd (the folder from which relative paths lead);
                command (how it was launched, as a shell takes it), where a launcher of ours says so;
                system (of the batch job in which it was, by name);
                differing ({hosts, names of variables}), where services inherit another environment than on the
                root's host
``resumed``     version, config, plan, cwd, command, system, differing: the same of a later session of the run; group
                numbers begin anew; lived (seconds from the last event before this one to the last sign of life of the
                root that wrote it), where that session was cut short
``learned``     source, results ([{configuration, metrics or null, expected}]) of an earlier run, for a warm start;
                expected is true where its benchmark was stopped early, so that the metrics are what was expected
``asked``       told (the numbers of the evaluations whose results the new ones are the first to see),
                new ([{number, label, configuration}])
``assigned``    number, attempt, group
``retried``     number, attempt, group, kind, cause: the attempt failed and another one follows
``evaluated``   number, attempt, group, label, configuration, metrics or failure ({cause, kind, detail}),
                loads (metrics by load, of a sweep), cut (at which of these it failed, and why),
                first (the objective's metric by the first part of the benchmark, which compares with others of first
                parts), expected (that of the whole, if it was stopped then, and so has no metrics), started, ended,
                phases, fitness, feasible, failed, violations, violation (their sum, relative to the limits);
                ``judged`` is false when the baseline was not known yet, and a ``judged`` event follows; together
                ({fitness, feasible, failed, violations, violation}), where its configuration was measured before, in
                the search or in the same race: what all these measurements are worth, by their mean
``judged``      number, fitness, feasible, failed, violations, violation, together: what became of an earlier
                ``evaluated``
``incumbent``   number, fitness
``withdrawn``   nothing: there is no incumbent any more
``lost``        ranks, hosts, groups (those that ended with them), cause
``formed``      group, hosts, ranks, cores: a new group, of ranks that had become spare
``quarantined`` group, cause, pause (seconds until it is probed)
``probed``      group, passed, cause, started, ended
``readmitted``  group
``finished``    incumbent (a number or null), evaluations, feasible, cause (what ended it: ``evaluations``,
                ``iterations``, ``time``, ``stagnation``, ``target``, ``exhausted``), race_cut (true where there was
                no time for the final race, or for all of it)
``interrupted`` signal (its name)
``failed``      cause: the run could not go on
=============== =======================================================================================
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from signal import Signals
from typing import Annotated, Any, Literal

import tomli
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import NotRequired, TypedDict

from mpipso.errors import FailureKind

Event = Literal[
    "started",
    "resumed",
    "learned",
    "asked",
    "assigned",
    "retried",
    "evaluated",
    "judged",
    "incumbent",
    "withdrawn",
    "lost",
    "formed",
    "quarantined",
    "probed",
    "readmitted",
    "finished",
    "interrupted",
    "failed",
]
"""The kinds of events: what each says, and which fields it has, is in the table above."""

Seconds = Annotated[float, Field(ge=-1e11, le=1e11)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Setting = bool | Whole | Number | str
Metrics = dict[str, Number | None]


def _shallow(text: str) -> str:
    try:
        with contextlib.suppress(tomli.TOMLDecodeError):  # whoever needs the configuration tells that it is no TOML
            tomli.loads(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    return text


class _Failure(TypedDict):
    cause: str
    kind: FailureKind
    detail: str


class _Group(TypedDict):
    group: Whole
    hosts: list[str]
    cores: NotRequired[list[list[Whole]]]


class _Plan(TypedDict, total=False):
    groups: list[_Group]
    spares: list[str]


class _New(TypedDict):
    number: Whole
    label: str
    configuration: dict[str, Setting]


class _Result(TypedDict):
    configuration: dict[str, Setting]
    metrics: Metrics | None


class _Verdict(TypedDict):
    fitness: Number | None
    feasible: bool
    failed: bool
    violations: list[str]
    violation: Number | None


@with_config(ConfigDict(strict=True))
class _Fields(TypedDict, total=False):
    """The fields of events of all kinds. None is required here: whoever reads a kind of event knows what it has."""

    event: str
    t: Seconds
    up: Seconds
    version: str
    config: Annotated[str, AfterValidator(_shallow)]
    objective: str
    plan: _Plan
    command: str
    cwd: str
    system: str
    lived: Seconds
    source: str
    results: list[_Result]
    told: list[Whole]
    new: list[_New]
    number: Whole
    attempt: Whole
    group: Whole
    label: str
    configuration: dict[str, Setting]
    metrics: Metrics
    loads: dict[str, Metrics]
    cut: str
    race_cut: bool
    first: Number
    expected: Number
    failure: _Failure | None
    started: Seconds
    ended: Seconds
    phases: dict[str, Seconds]
    fitness: Number | None
    feasible: bool | Whole | None
    failed: bool
    violations: list[str]
    violation: Number | None
    together: _Verdict | None
    judged: bool
    kind: FailureKind
    cause: str
    ranks: list[Whole]
    hosts: list[str]
    groups: list[Whole]
    pause: Seconds
    passed: bool
    incumbent: Whole | None
    evaluations: Whole
    signal: Annotated[str, Field(pattern=rf"^({'|'.join(Signals.__members__)}|signal \d+)$")]


_FIELDS = TypeAdapter(_Fields)


def problem(event: Mapping[str, Any]) -> str:
    """What is wrong with a field of an event, as ``told.0: Input should be a valid integer``; ``""`` for nothing.

    Only the first field that is wrong is told. Fields that no event of this version has are left alone.
    """
    try:
        _FIELDS.validate_python(event)
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return ""
