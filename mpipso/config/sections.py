"""The configuration: one TOML file as validated, frozen data. Every section refuses unknown keys."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from mpipso.config import templates
from mpipso.config.benchmark import Benchmark, Quality
from mpipso.config.objective import ObjectiveSection
from mpipso.config.parallel import Parallel, Ssh
from mpipso.config.parameters import (
    MOST,
    Command,
    Constraint,
    Count,
    CountFromZero,
    Name,
    Parameter,
    Seconds,
    Section,
    adapter,
    lenient,
    names_in,
)
from mpipso.config.servicefile import ConfigFile
from mpipso.evaluation import Value
from mpipso.wording import suggestion

ScheduleKind = Literal["generation", "window", "async"]
"""Which results a proposal may see: :class:`Search` says what each kind means."""


def _in_home(path: str, info: ValidationInfo) -> str:
    """A path in which ``~`` at the beginning stands for a home folder, as for a shell."""
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:
        if lenient(info):
            return path
        raise ValueError("there is no such home folder") from None


Folder = Annotated[str, AfterValidator(_in_home)]


class Service(Section):
    """How one instance of the service is started, found healthy and stopped."""

    engine: str
    model: str = ""
    command: Command = ()
    worker_command: Command = ()
    update_command: Command = ()
    stop_command: Command = ()
    env: dict[Name, str] = Field(default_factory=dict)
    config_file: ConfigFile | None = None
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    health_url: str = ""
    health_command: Command = ()
    start_timeout: Seconds = 600.0
    stop_grace: Annotated[float, Field(ge=0)] = 10.0
    work_dir: Folder = ""

    @property
    def config_name(self) -> str:
        """The name of the service's configuration file in a node's work folder."""
        file = self.config_file
        return "config.json" if file is None else file.name or f"config{file.suffix}"

    @field_validator("engine")
    @classmethod
    def _known(cls, engine: str, info: ValidationInfo) -> str:
        try:
            return adapter("engines", engine, info)
        except ValueError:
            if engine not in templates.names():
                raise
            raise ValueError(f'should be "command"; mpipso init --engine {engine} writes what that takes') from None


class SwarmSection(Section):
    """The coefficients of the classic swarm; what they mean, and where their defaults are from: search/swarm.py.

    ``chi`` belongs to constriction, and follows from ``phi1 + phi2`` where that is more than 4; ``inertia`` belongs to
    inertia; ``phi1`` and ``phi2`` are the weights of the particle's own best and of its informants' best.
    ``neighbours`` is how far along the ring a particle sees to either side, ``informants`` how many particles each one
    informs in the random topology. ``max_velocity`` is a share of the range, 0 for no limit.
    """

    form: Literal["constriction", "inertia"] = "inertia"
    chi: Annotated[float, Field(gt=0, le=1)] | None = None
    phi1: Annotated[float, Field(ge=0)] | None = None
    phi2: Annotated[float, Field(ge=0)] | None = None
    inertia: Annotated[float, Field(ge=0)] = 0.7213
    topology: Literal["global", "ring", "random"] = "global"
    neighbours: Count = 1
    informants: Count = 3
    max_velocity: Annotated[float, Field(ge=0)] = 0.5
    moves: Literal["synchronous", "asynchronous"] = "asynchronous"

    @model_validator(mode="after")
    def _what_has_an_effect(self) -> SwarmSection:
        default = SwarmSection.model_construct()
        for name, key, wanted in (
            ("chi", "form", "constriction"),
            ("inertia", "form", "inertia"),
            ("neighbours", "topology", "ring"),
            ("informants", "topology", "random"),
        ):
            value, chosen = getattr(self, name), getattr(self, key)
            if value != getattr(default, name) and chosen != wanted:
                raise ValueError(f'{name} = {value} goes with {key} = "{wanted}", not {chosen!r}')
        if self.form == "constriction" and self.chi is None and sum(self.weights) <= 4.0:
            raise ValueError(f"chi follows from phi1 + phi2 only where they are more than 4, not {sum(self.weights):g}")
        return self

    @property
    def weights(self) -> tuple[float, float]:
        """``phi1`` and ``phi2``."""
        usual = 2.05 if self.form == "constriction" else 1.1931
        return usual if self.phi1 is None else self.phi1, usual if self.phi2 is None else self.phi2


_LEAST_PARTICLES = {"surrogate": 8, "pso": 16}
"""By strategy. A classic swarm needs some to explore with."""
_ENOUGH_PARTICLES = 16
"""No more are given to groups to have several of an iteration each."""


class Search(Section):
    """How the search goes on, and when it ends.

    ``schedule`` says which results a proposal may see: with ``generation`` all of earlier iterations of ``particles``,
    with ``window`` those of proposals at least ``window`` before it, with ``async`` what is there. Sizes that are not
    given suit the number of service groups (:meth:`settled`).

    The search ends when one of the budgets is spent: ``evaluations``, ``iterations`` (of ``particles`` evaluations
    each), ``time_limit`` in seconds of the whole run, ``stagnation`` (evaluations without a better configuration),
    ``target`` (a value of the objective's metric); and fails after ``fruitless`` iterations in which every evaluation
    failed.

    ``baseline_repeats`` and ``repeats`` say how often the baseline, at the beginning, and the leader of each iteration
    are measured, so that the noise is known; at the end, the ``leaders`` best configurations race: they and the
    baseline are measured up to ``confirm`` times more. ``retries`` is how often an evaluation is repeated for reasons
    that lie outside its configuration, ``evaluation_timeout`` a limit in seconds on all of its phases together.

    ``first`` holds configurations that are measured right after the baseline: parameters by name, those that are not
    named at their defaults.
    """

    strategy: Literal["surrogate", "pso"] = "surrogate"
    swarm: SwarmSection = SwarmSection()
    schedule: ScheduleKind = "generation"
    window: Count | None = None
    particles: Annotated[int, Field(ge=2, le=MOST)] | None = None
    evaluations: Count = 128
    iterations: Count | None = None
    time_limit: Seconds | None = None
    stagnation: Count | None = None
    target: float | None = None
    fruitless: Count = 5
    seed: Annotated[int, Field(ge=0)] = 0
    retries: CountFromZero = 2
    evaluation_timeout: Seconds | None = None
    baseline_repeats: Count = 2
    repeats: Count = 2
    leaders: Count = 3
    confirm: CountFromZero = 2
    first: tuple[dict[Name, Value], ...] = ()

    @property
    def swarm_size(self) -> int:
        """How many particles an iteration has."""
        return self.particles or _LEAST_PARTICLES[self.strategy]

    @property
    def batch(self) -> int:
        """How many consecutive proposals do without each other's results: those of an iteration, or a window.

        It has no meaning for the schedule ``async``.
        """
        return self.window or self.swarm_size

    def sized(self, particles: int, window: int) -> Search:
        """The same with these sizes in the place of those that are not given."""
        sizes = {"particles": self.particles or particles}
        if self.schedule == "window":
            sizes["window"] = self.window or window
        return self.model_copy(update=sizes)

    def settled(self, groups: int) -> Search:
        """The same with all sizes, so that a run keeps them whatever becomes of its ``groups``.

        Sizes that are not given are small, since the proposals of a batch do not learn from each other. But there are
        up to four particles for each group, lest groups wait for long at the end of each iteration.
        """
        particles = max(self.swarm_size, min(4 * groups, _ENOUGH_PARTICLES), groups)
        return self.sized(particles, groups + groups // 2)

    @model_validator(mode="after")
    def _window_of_a_window(self) -> Search:
        if self.window is not None and self.schedule != "window":
            raise ValueError(f'window = {self.window} goes with schedule = "window", not {self.schedule!r}')
        return self

    @model_validator(mode="after")
    def _swarm_of_the_classic_strategy(self) -> Search:
        if self.strategy != "pso" and self.swarm != SwarmSection():
            raise ValueError(f'coefficients of [search.swarm] go with strategy = "pso", not {self.strategy!r}')
        return self


class Config(Section):
    """The whole file."""

    service: Service
    benchmark: Benchmark
    quality: Quality = Quality()
    objective: ObjectiveSection
    search: Search = Search()
    parallel: Parallel = Parallel()
    ssh: Ssh = Ssh()
    parameters: Annotated[tuple[Parameter, ...], Field(min_length=1)]
    constraints: tuple[Constraint, ...] = ()
    output: Folder = "mpipso-runs"

    def having(self, section: str, **values: object) -> Config:
        """The same with other ``values`` in a section, by their keys."""
        return self.model_copy(update={section: getattr(self, section).model_copy(update=values)})

    @property
    def conditions(self) -> tuple[Constraint, ...]:
        """The constraints, and what is implied: settings of the load that are computed have to be positive."""
        computed = {parameter.name for parameter in self.parameters if not parameter.searched}
        least = {"requests": ">= 1", "concurrency": ">= 1", "request_rate": "> 0"}
        called = ((key, name) for key, name in self.benchmark.called.items() if name in computed)
        return (*self.constraints, *(Constraint(expression=f"{name} {least[key]}") for key, name in called))

    @property
    def measured(self) -> tuple[str, ...]:
        """The names of all metrics that there may be, but for derived ones."""
        return (*self.benchmark.measured, *self.quality.metrics)

    @property
    def measuring_timeout(self) -> float:
        """Seconds that measuring a service takes at most, at all loads."""
        quality = self.quality.timeout if self.quality.command else 0.0
        # At all but the lowest, a benchmark that fails is run once more.
        return (2 * len(self.benchmark.loads({})) - 1) * self.benchmark.timeout + quality

    @property
    def needed(self) -> tuple[str, ...]:
        """The metrics that have to be measured so that a result can be judged, each once."""
        return self.behind(self.objective.metrics)

    def behind(self, metrics: Iterable[str]) -> tuple[str, ...]:
        """The metrics that have to be measured so that these are known, which may be derived ones, each once."""
        parameters, derived = {parameter.name for parameter in self.parameters}, self.objective.derived
        read = (names_in(derived[name]) if name in derived else (name,) for name in metrics)
        return tuple(dict.fromkeys(name for names in read for name in names if name not in parameters))

    def _sweep_problems(self, names: Collection[str]) -> Iterator[str]:
        taken = self.benchmark.spoken if self.benchmark.client == "command" else self.benchmark.swept
        for key in taken:
            if key in names:
                yield f"parameter {key!r}: in a sweep that is the name of benchmark.{key}; give it another one"
        for key in self.benchmark.swept:
            if key in self.benchmark.metrics:
                yield f"benchmark.metrics.{key}: is told by benchmark.{key} itself, which lists several values"
            for limit in self.objective.slo:
                if limit.relative and limit.metric in {*self.benchmark.measured, *self.objective.derived}:
                    yield (
                        f'objective.slo: the limit on {limit.metric} should be a number, not "baseline": among the '
                        f"values of benchmark.{key} that one counts which is the best within the limits"
                    )

    @model_validator(mode="after")
    def _names_resolve(self, info: ValidationInfo) -> Config:
        problems = []
        names = [parameter.name for parameter in self.parameters]
        problems += [
            f"parameter {name!r} is defined twice" for name in sorted({n for n in names if names.count(n) > 1})
        ]
        for parameter in self.parameters:
            if parameter.ratio_of is not None and parameter.ratio_of not in names:
                meant = suggestion(parameter.ratio_of, names)
                problems.append(
                    f"parameter {parameter.name!r}: ratio_of names the unknown {parameter.ratio_of!r}{meant}"
                )
        for constraint in self.constraints:
            problems += [
                f"constraint: product names the unknown parameter {n!r}{suggestion(n, names)}"
                for n in constraint.product
                if n not in names
            ]
        problems += self._sweep_problems(names)
        problems += [
            f"quality.metrics.{name}: is the name of a benchmark's metric; give it another one"
            for name in self.quality.metrics
            if name in self.benchmark.measured
        ]
        measured = set(self.measured)
        for name, expression in self.objective.derived.items():
            if name in measured or name in names:
                problems.append(f"objective.derived.{name}: is a {'parameter' if name in names else 'metric'} already")
            for read in names_in(expression):
                if read not in measured and read not in names:
                    problems.append(
                        f"objective.derived.{name}: {read!r} is neither a metric nor a parameter"
                        f"{suggestion(read, [*measured, *names])}"
                    )
                elif read in measured and read in names:
                    problems.append(f"objective.derived.{name}: {read!r} is both a metric and a parameter")
        wanted = [
            ("objective", self.objective.metric),
            *(("objective.slo", limit.metric) for limit in self.objective.slo),
        ]
        if not lenient(info):
            problems += [
                f"{key}: {name!r} is both a metric and a parameter; give one of them another name"
                for key, name in dict.fromkeys(wanted)
                if name in measured and name in names
            ]
        measured |= set(self.objective.derived)
        problems += [
            f"{key}: metric {name!r} is unknown{suggestion(name, measured)}"
            for key, name in wanted
            if name not in measured
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self
