"""What the fields of a journal's events may be, for journals that were damaged or written by somebody else."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from signal import Signals
from typing import Annotated, Any

import tomli
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import NotRequired, TypedDict

from mpipso.errors import FailureKind

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
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return ""
