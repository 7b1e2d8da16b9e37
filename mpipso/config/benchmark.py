"""The configuration of what measures: what is sent to a running service, and where its result has which metric."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from mpipso.config.parameters import CALLED, Command, Count, CountFromZero, Name, Seconds, Section, adapter
from mpipso.evaluation import METRICS, Configuration, Value

REQUESTS = 32
"""How many requests mpipso's own client sends unless the configuration says it, at least."""
_ROUNDS = 4
"""How many it sends then, at least, for each that is under way at a time in a sweep of concurrencies."""
_MOST_LOADS = 10
"""Of a sweep."""
_LOAD = ("requests", "concurrency", "request_rate")
"""The settings of the load, which may be a parameter's, or several in a sweep."""


class Key(Section):
    """Where a value stands in a table; ``unit`` is that of a number without one."""

    key: Annotated[str, Field(min_length=1)]
    unit: str = ""


class Pattern(Section):
    """A regular expression of Python's; what its only group matches, the last time, is the value.

    ``unit`` is that of a number without one.
    """

    pattern: str
    unit: str = ""

    @field_validator("pattern")
    @classmethod
    def _one_group(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern, re.MULTILINE).groups
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        if groups != 1:
            raise ValueError(f"should have one group, (...), around the number; it has {groups}, and (?:...) is none")
        return pattern


def _kind(where: object) -> str | None:
    if isinstance(where, Mapping) and not {"key", "pattern"} & where.keys():
        return None
    if isinstance(where, Key) or (isinstance(where, Mapping) and "key" in where):
        return "a key with its unit"
    return "a pattern" if isinstance(where, (Mapping, Pattern)) else "a key"


Where = Annotated[
    Annotated[str, Field(min_length=1), Tag("a key")]
    | Annotated[Key, Tag("a key with its unit")]
    | Annotated[Pattern, Tag("a pattern")],
    Discriminator(_kind, custom_error_type="where", custom_error_message="have a key or a pattern"),
]
"""Of a metric in a result."""


def _number_or_name(given: object) -> str:
    if isinstance(given, (list, tuple)):
        return "several numbers"
    return "a parameter" if isinstance(given, str) else "a number"


Rate = Annotated[float, Field(gt=0)]
Called = Annotated[str, Field(pattern=CALLED), Tag("a parameter")]
"""A parameter, by its name in braces, on whose value a setting of the load depends."""
CountOf = Annotated[
    Annotated[Count, Tag("a number")] | Called | Annotated[tuple[Count, ...], Tag("several numbers")],
    Discriminator(_number_or_name),
]
RateOf = Annotated[
    Annotated[Rate, Tag("a number")] | Called | Annotated[tuple[Rate, ...], Tag("several numbers")],
    Discriminator(_number_or_name),
]


class Goodput(Section):
    """What a request that counts for ``request_goodput`` takes at most, in milliseconds."""

    ttft_ms: Annotated[float, Field(gt=0)] | None = None
    tpot_ms: Annotated[float, Field(gt=0)] | None = None
    e2e_ms: Annotated[float, Field(gt=0)] | None = None

    @property
    def limits(self) -> dict[str, float]:
        """The limit on each latency that has one, by its name without the unit."""
        given = self.model_dump(exclude_none=True)
        return {name.removesuffix("_ms"): limit for name, limit in given.items()}

    @model_validator(mode="after")
    def _some(self) -> Goodput:
        if not self.limits:
            raise ValueError("give one or more of ttft_ms, tpot_ms and e2e_ms")
        return self


class Program(Section):
    """A program that is run against the running service, and where its result has which metric.

    ``result_file`` is one name or several, in which ``*`` and ``**`` are wild; each stands for one file. ``timeout`` is
    in seconds.
    """

    timeout: Seconds = 600.0
    command: Command = ()
    result_file: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    metrics: dict[Name, Where] = Field(default_factory=dict)

    @field_validator("result_file", mode="before")
    @classmethod
    def _one_or_several(cls, names: Any) -> Any:
        return ((names,) if names else ()) if isinstance(names, str) else names


class Quality(Program):
    """What is run after the benchmark on the same running service: a check of its answers. Without a command, nothing.

    Its figures are metrics like the benchmark's, under other names.
    """


class Benchmark(Program):
    """How a running service is measured. Lengths are in tokens, times in seconds.

    A benchmark in which fewer than ``min_success_rate`` of the requests were served is no measurement. A request has
    failed if it takes longer than ``request_timeout`` (default: ``timeout``, the limit of the whole). ``requests`` is
    what mpipso's own client sends; for another program it is what should be sent, from which failures are computed.
    ``requests``, ``concurrency`` and ``request_rate`` may be a parameter's: its name in braces. Several values of
    ``concurrency`` or ``request_rate`` are a sweep: a service is measured at each, and what counts is the best.
    ``api_key_env`` is the name of an environment variable that holds the key which the own client sends.
    ``prompts`` is a file with what the own client asks, in place of random words; its digest is found out, and stands
    for it in the journal. ``ignore_eos`` asks for answers that do not end by themselves. With ``early_stop`` a
    benchmark ends after the first part of its requests if the objective's metric, a throughput, is worse there, by more
    than this share, than that of the best configuration was.
    """

    client: str
    endpoint: Literal["/v1/completions", "/v1/chat/completions"] = "/v1/completions"
    requests: CountOf | None = None
    prompts: str = ""
    prompts_sha256: str = ""
    input_tokens: Count = 64
    output_tokens: Count = 48
    ignore_eos: bool = True
    concurrency: CountOf | None = None
    request_rate: RateOf | None = None
    warmup: CountFromZero = 2
    keep_alive: bool = True
    api_key_env: str = ""
    save_requests: bool = False
    goodput: Goodput | None = None
    seed: int = 0
    request_timeout: Seconds | None = None
    min_success_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    early_stop: Annotated[float, Field(gt=0, lt=1)] | None = None

    @property
    def called(self) -> dict[str, str]:
        """The names of the parameters whose values are settings of the load, by setting."""
        given = ((key, getattr(self, key)) for key in _LOAD)
        return {key: name[1:-1] for key, name in given if isinstance(name, str)}

    @property
    def several(self) -> tuple[str, ...]:
        """The settings of the load that differ within a sweep."""
        return tuple(key for key in _LOAD if isinstance(getattr(self, key), tuple))

    @property
    def swept(self) -> tuple[str, ...]:
        """What is swept, ``concurrency`` or ``request_rate``; nothing if a service is measured at one load."""
        return tuple(key for key in self.several if key != "requests")

    @property
    def spoken(self) -> tuple[str, ...]:
        """The settings of the load that a command may call by name: in a sweep all that are given."""
        return tuple(key for key in _LOAD if self.swept and getattr(self, key) is not None)

    @property
    def measured(self) -> tuple[str, ...]:
        """The names of all metrics that there may be; what is swept is one, as that of the load that counts."""
        return tuple(dict.fromkeys((*METRICS, *self.metrics, *self.swept)))

    def load(self, configuration: Configuration) -> dict[str, Value]:
        """The settings of every load that are given, with the values that a configuration has for them."""
        given = {key: getattr(self, key) for key in _LOAD if key not in self.several}
        given |= {key: configuration.get(name) for key, name in self.called.items()}
        return {key: value for key, value in given.items() if value is not None}

    def loads(self, configuration: Configuration) -> list[dict[str, Value]]:
        """The settings of each load at which a service is measured, one after another; of a sweep, from the lowest."""
        common = self.load(configuration)
        if not self.several:
            return [common]
        rows = zip(*(getattr(self, key) for key in self.several), strict=True)
        return [common | dict(zip(self.several, row, strict=True)) for row in rows]

    @field_validator("client")
    @classmethod
    def _known(cls, client: str, info: ValidationInfo) -> str:
        return adapter("clients", client, info)

    @model_validator(mode="before")
    @classmethod
    def _requests_of_the_own_client(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or data.get("client") != "openai":
            return data
        given = data.get("concurrency")
        if isinstance(given, tuple) and all(isinstance(each, int) for each in given):
            return {"requests": tuple(max(REQUESTS, _ROUNDS * each) for each in given), **data}
        return {"requests": REQUESTS, **data}

    @model_validator(mode="after")
    def _one_loop(self) -> Benchmark:
        if self.concurrency is not None and self.request_rate is not None:
            raise ValueError("give concurrency (closed loop) or request_rate (open loop), not both")
        return self

    @model_validator(mode="after")
    def _a_sweep(self) -> Benchmark:
        for key in self.swept:
            values = getattr(self, key)
            if len(values) < 2 or any(one >= other for one, other in itertools.pairwise(values)):
                raise ValueError(f"{key} should list two values or more, from the lowest to the highest")
            if len(values) > _MOST_LOADS:
                raise ValueError(f"{key} should list {_MOST_LOADS} values at most, not {len(values)}")
        if isinstance(self.requests, tuple):
            if not self.swept:
                raise ValueError("several values of requests go with several of concurrency or request_rate")
            if len(self.requests) != len(getattr(self, self.swept[0])):
                raise ValueError(f"requests should be one number, or as many as {self.swept[0]} has")
        return self

    @model_validator(mode="after")
    def _stopped_at_one_load(self) -> Benchmark:
        if self.early_stop is not None and self.swept:
            raise ValueError(
                f"early_stop goes with one load, not with a sweep ({self.swept[0]}), which ends by limits: leave it out"
            )
        return self

    @model_validator(mode="after")
    def _lengths_of_prompts(self) -> Benchmark:
        if self.prompts and "input_tokens" in self.model_fields_set:
            raise ValueError(
                f"input_tokens = {self.input_tokens} has no effect: prompts = {self.prompts!r} has its own"
            )
        return self

    @model_validator(mode="after")
    def _a_request_within_the_whole(self) -> Benchmark:
        if self.request_timeout is not None and self.request_timeout > self.timeout:
            raise ValueError(
                f"request_timeout = {self.request_timeout:g} has no effect: the whole benchmark is stopped after "
                f"timeout = {self.timeout:g}"
            )
        return self
