"""The search space: turns points of the unit cube into configurations and back."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from mpipso.config.parameters import Constraint, Parameter
from mpipso.errors import UserError
from mpipso.evaluation import Configuration, Value
from mpipso.search.arrays import Array
from mpipso.search.definition import domains, typed
from mpipso.search.domains import Domain, Values
from mpipso.search.expressions import Condition, Expression
from mpipso.wording import suggestion

_MOST_LISTED = 100_000
"""The most combinations of values that are listed, or tried one by one, which bounds the time and the memory."""
_MANY = 64
"""The most values of a parameter that are tried at a time; of more values, so many are drawn."""


class Space:
    """The configurations that can be tried, as points of the unit cube [0, 1]^d.

    Each searched parameter is a dimension, except the last member of a product constraint, which the others determine.
    In a random point every value of a dimension is about equally likely; on a log scale, it is as likely as its cell is
    wide.

    Attributes
    ----------
    names:
        The dimensions, by parameter, in the order of the file.
    baseline:
        The user's own configuration: the default of every searched parameter; None when no parameter has one.

    Raises
    ------
    UserError
        Parameters or constraints that contradict each other, or some defaults without the others, one line per mistake.
    """

    def __init__(self, parameters: Sequence[Parameter], constraints: Sequence[Constraint] = ()) -> None:
        self._parameters = {parameter.name: parameter for parameter in parameters}
        # Each after those that its values depend on.
        found = domains(self._parameters, constraints)
        self._order = tuple(found)
        self._reads = {name: each.reads for name, each in found.items()}
        self._domains = {name: each for name, each in found.items() if isinstance(each, Domain)}
        self._expressions = {name: each for name, each in found.items() if isinstance(each, Expression)}
        self.names = tuple(name for name in self._parameters if name in self._domains and self._domains[name].free)
        self._axis = {name: axis for axis, name in enumerate(self.names)}
        if not self.names:
            raise UserError("no parameter is left to search")
        # An expression that cannot be computed is reported here, before anything is started.
        probes = [self.decode(np.full(self.dimensions, u)) for u in (0.0, 0.5, 1.0)]
        if problems := self._without_value(probes):
            raise UserError(problems)
        self._conditions = _conditions(constraints, probes)
        self.baseline: Configuration | None = self._find_baseline()

    @property
    def dimensions(self) -> int:
        return len(self.names)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Every parameter, in the order of the file."""
        return tuple(self._parameters.values())

    def decode(self, point: ArrayLike) -> dict[str, Value]:
        """The configuration at ``point``, of shape (dimensions,); coordinates outside [0, 1] are clipped.

        Returns the value of every parameter, in the order of the file. An expression without a value (a division by
        zero) gives nan, and the configuration is not valid. Raises ValueError when ``point`` has another shape or nan.
        """
        u = np.asarray(point, dtype=float)
        if u.shape != (self.dimensions,) or np.isnan(u).any():
            raise ValueError(f"a point has {self.dimensions} coordinates, not {u.tolist()}")
        coordinates = np.clip(u, 0.0, 1.0).tolist()
        values: dict[str, Value] = {}
        for name in self._order:
            at = coordinates[self._axis[name]] if name in self._axis else 0.5
            values[name] = self._value(name, at, values)
        return {name: values[name] for name in self._parameters}

    def encode(self, configuration: Configuration) -> Array:
        """The centre of the cell of ``configuration``, of shape (dimensions,).

        The values of expressions may be left out. Raises ValueError when the space does not contain the configuration.
        """
        point = np.full(self.dimensions, 0.5)
        values: dict[str, Value] = {}
        for name in self._order:
            at = 0.5
            if name in self._domains:
                if name not in configuration:
                    raise ValueError(f"{name} is missing")
                try:
                    undefined = self._undefined(name, values)
                    at = 0.5 if undefined else self._domains[name].encode(configuration[name], values)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None
            values[name] = self._value(name, at, values)
            if name in self._axis:
                point[self._axis[name]] = at
        return point

    def key(self, configuration: Configuration) -> str:
        """Canonical text: two configurations of this space are the same if and only if their keys are."""
        searched = [(p, configuration[p.name]) for p in self._parameters.values() if p.searched]
        return json.dumps({p.name: value if _nan(value) else typed(p, value) for p, value in searched})

    def valid(self, configuration: Configuration) -> bool:
        """Whether the configuration, with every parameter in it, satisfies the known constraints."""
        return self.broken(configuration) == ""

    def broken(self, configuration: Configuration) -> str:
        """The text of the first constraint that is not satisfied, or else of the first expression without a value.

        Empty when the configuration, with every parameter in it, is valid.
        """
        for condition in self._conditions:
            if not condition.holds(configuration):
                return condition.text
        for name, expression in self._expressions.items():
            if _nan(configuration[name]):
                return expression.text
        return ""

    @property
    def constrained(self) -> tuple[int, ...]:
        """The dimensions that decide whether a configuration is valid, ascending."""
        return self._axes(self._deciding)

    @property
    def _deciding(self) -> set[str]:
        """The parameters whose values tell whether a configuration is valid."""
        partial = [name for name, expression in self._expressions.items() if not self._surely(expression)]
        return self._behind([*partial, *(name for condition in self._conditions for name in condition.reads)])

    def _surely(self, expression: Expression) -> bool:
        """Whether an expression has a value whatever values it reads."""
        return expression.total and all(self._parameters[read].type in ("int", "float") for read in expression.reads)

    @cached_property
    def decided(self) -> Array:
        """Valid settings of the dimensions that decide on validity, as points with all others at 0.5.

        Of shape (n, dimensions). If these dimensions can be set in at most 100 000 ways, they are all valid settings.
        Else they are the valid ones among the first so many, and those that changes reach from these and from the
        default, so that no corner of the space is preferred. There are none if a deciding dimension is continuous.
        """
        deciding = self._deciding
        names = [name for name in self._order if name in deciding]
        if any(domain.continuous for name, domain in self._domains.items() if name in deciding):
            return np.empty((0, self.dimensions))
        ways = self._listed(names)
        found = [values for values in itertools.islice(ways, _MOST_LISTED) if self._allowed(values)]
        if next(ways, None) is not None:
            found = self._walked(names, found)
        points = np.full((len(found), self.dimensions), 0.5)
        for point, values in zip(points, found, strict=True):
            for name in set(names) & set(self.names):
                point[self._axis[name]] = self._domains[name].encode(values[name], values)
        return points

    def _allowed(self, values: Values) -> bool:
        """Whether these values of the deciding parameters make a configuration valid."""
        return not self.broken({**dict.fromkeys(self._order, 0), **values})

    def _walked(self, names: Sequence[str], found: Sequence[dict[str, Value]]) -> list[dict[str, Value]]:
        """``found``, and the valid settings that are reached from it and from the default by many random changes.

        A change is of two parameters at a time, since that of a single one would break a condition on a product, a sum
        or a number of switches.
        """
        random, tries = np.random.default_rng(0), _MOST_LISTED
        start = [] if self.baseline is None else [{name: self.baseline[name] for name in names}]
        pool = list({tuple(values.values()): values for values in (*start, *found)}.values())
        known = {tuple(values.values()) for values in pool}
        free = [name for name in names if name in self._axis and not self._reads[name]]
        while pool and free and tries > 0:
            # Settings that were found later are taken more often, which leads away from the start.
            base = pool[int(len(pool) * np.sqrt(random.random()))]
            changed = random.choice(free, size=min(2, len(free)), replace=False)
            for pair in itertools.product(*(self._some(name, random) for name in changed)):
                tries -= 1
                values = self._following(names, {**base, **dict(zip(changed, pair, strict=True))}, random)
                if values is not None and (key := tuple(values.values())) not in known and self._allowed(values):
                    known.add(key)
                    pool.append(values)
        return pool

    def _some(self, name: str, random: np.random.Generator) -> list[Value]:
        """The values of a parameter, or a random choice of them where there are many."""
        domain = self._domains[name]
        if domain.count({}) <= _MANY:
            return list(domain.options({}))
        return [domain.decode(u, {}) for u in random.random(_MANY).tolist()]

    def _following(
        self, names: Sequence[str], values: dict[str, Value], random: np.random.Generator
    ) -> dict[str, Value] | None:
        """``values`` made consistent in place: expressions are computed, and a value that others no longer allow is
        replaced by one that they do. None if they allow none.
        """
        for name in names:
            if name in self._expressions:
                values[name] = self._value(name, 0.5, values)
            elif self._undefined(name, values):
                return None
            elif self._reads[name] and values[name] not in (options := self._options(name, values)):
                left = list(options)
                if not left:
                    return None
                values[name] = left[random.integers(len(left))]
        return values

    @property
    def dependent(self) -> dict[int, tuple[int, ...]]:
        """For each dimension whose cells depend on other dimensions: the latter and itself, in ascending order."""
        return {self._axis[name]: self._axes(self._behind([name])) for name in self.names if self._reads[name]}

    @property
    def ordered(self) -> tuple[bool, ...]:
        """For each dimension, whether neighbouring cells hold similar values; if not, any two differ equally."""
        return tuple(self._domains[name].ordered for name in self.names)

    @property
    def continuous(self) -> bool:
        """Whether the configurations can be neither counted nor listed."""
        return any(domain.continuous for domain in self._domains.values())

    def levels(self, most: int) -> list[Array]:
        """For each dimension, in order, its :meth:`Domain.levels`."""
        return [self._domains[name].levels(most) for name in self.names]

    def axes(self, most: int) -> dict[int, Domain]:
        """The domains, by the index of the dimension, of the ordered dimensions with more than ``most`` values.

        For a ratio it is the domain of its multiples. Members of products are left out.
        """
        found = {self._axis[name]: self._domains[name].axis for name in self.names if self._domains[name].ordered}
        return {axis: domain for axis, domain in found.items() if domain is not None and domain.count({}) > most}

    def configurations(self) -> Iterator[dict[str, Value]]:
        """Every configuration, valid or not, in a fixed order. Raises TypeError when a dimension is continuous."""
        for values in self._listed(self._order):
            yield {name: values[name] for name in self._parameters}

    def size(self) -> float:
        """The number of distinct configurations, valid or not; infinite with floats, or if too many to be counted."""
        if self.continuous:
            return math.inf
        read = self._read_by_counts()
        # What others read is listed; the rest is only counted.
        partial: list[tuple[dict[str, Value], float]] = [({}, 1.0)]
        for name in self._order:
            if name in read:
                every = (({**values, name: v}, count) for values, count in partial for v in self._options(name, values))
                partial = list(itertools.islice(every, _MOST_LISTED + 1))
                if len(partial) > _MOST_LISTED:
                    return math.inf
            else:
                partial = [(values, count * self._count(name, values)) for values, count in partial]
        return sum(count for _, count in partial)

    def _value(self, name: str, at: float, values: Values) -> Value:
        """The value of a parameter at ``at``, in [0, 1]; nan if it is an expression without a value, or reads one."""
        if self._undefined(name, values):
            return math.nan
        if name in self._domains:
            return self._domains[name].decode(at, values)
        try:
            return self._expressions[name].value(values)
        except UserError:
            return math.nan

    def _options(self, name: str, values: Values) -> Iterable[Value]:
        """Every value of a parameter, given those that it reads; only nan if one of these has no value."""
        if self._fixed(name, values):
            return (self._value(name, 0.5, values),)
        return self._domains[name].options(values)

    def _count(self, name: str, values: Values) -> float:
        return 1 if self._fixed(name, values) else self._domains[name].count(values)

    def _fixed(self, name: str, values: Values) -> bool:
        """Whether the values that a parameter reads, if any, leave it one value."""
        return name in self._expressions or self._undefined(name, values)

    def _undefined(self, name: str, values: Values) -> bool:
        """Whether a parameter reads another one that has no value."""
        return any(_nan(values[read]) for read in self._reads[name])

    def _without_value(self, probes: Sequence[Values]) -> list[str]:
        """Why expressions have no value for any of ``probes``, one line each.

        An expression that has none because it reads another one without a value is left out.
        """
        problems = []
        for name, expression in self._expressions.items():
            if all(_nan(probe[name]) for probe in probes) and not any(self._undefined(name, probe) for probe in probes):
                try:
                    expression.value(probes[0])
                except UserError as error:
                    problems.append(str(error))
        return problems

    def _listed(self, names: Iterable[str]) -> Iterator[dict[str, Value]]:
        """Every combination of the values of ``names``, in which each comes after those that it reads."""
        partial: Iterator[dict[str, Value]] = iter(({},))
        for name in names:
            partial = self._extended(partial, name)
        return partial

    def _extended(self, partial: Iterable[dict[str, Value]], name: str) -> Iterator[dict[str, Value]]:
        return ({**values, name: value} for values in partial for value in self._options(name, values))

    def _axes(self, names: Iterable[str]) -> tuple[int, ...]:
        return tuple(sorted(self._axis[name] for name in names if name in self._axis))

    def _behind(self, names: Iterable[str]) -> set[str]:
        """``names`` and all parameters that their values depend on."""
        behind: set[str] = set()
        pending = list(names)
        while pending:
            name = pending.pop()
            if name not in behind:
                behind.add(name)
                pending += self._reads[name]
        return behind

    def _read_by_counts(self) -> set[str]:
        """The parameters whose values decide how many values other parameters have."""
        read: set[str] = set()
        for name in reversed(self._order):
            if name in self._domains or name in read:
                read.update(self._reads[name])
        return read

    def _find_baseline(self) -> dict[str, Value] | None:
        """The configuration of the defaults, None without any; UserError if some are missing, or it is not valid."""
        searched = [parameter for parameter in self._parameters.values() if parameter.searched]
        defaults = {parameter.name: parameter.default for parameter in searched if parameter.default is not None}
        if not defaults:
            return None
        if missing := [parameter.name for parameter in searched if parameter.name not in defaults]:
            raise UserError([f"parameter {name!r}: default is missing, and others have one" for name in missing])
        try:
            default = self.decode(self.encode(defaults))
        except ValueError as error:
            raise UserError(f"the defaults are no configuration of the search space: {error}") from None
        broken = [condition for condition in self._conditions if not condition.holds(default)]
        if broken:
            raise UserError([_broken_by_default(condition, default) for condition in broken])
        return default


def _conditions(constraints: Sequence[Constraint], probes: Sequence[Values]) -> tuple[Condition, ...]:
    """The constraints that are expressions; UserError for those that cannot be computed for any of ``probes``."""
    conditions = tuple(Condition(c.expression) for c in constraints if c.expression is not None)
    problems = []
    for condition in conditions:
        unknown = [name for name in condition.reads if name not in probes[0]]
        where = f"constraint: expression {condition.text!r}"
        problems += [f"{where} names the unknown {name!r}{suggestion(name, probes[0])}" for name in unknown]
        if not unknown and not condition.reads:
            problems.append(f"{where} names no parameter")
        elif not unknown and all(found := [condition.problem(probe) for probe in probes]):
            problems.append(found[0])
    if problems:
        raise UserError(problems)
    return conditions


def _nan(value: Value) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _broken_by_default(condition: Condition, default: Values) -> str:
    values = ", ".join(f"{name} = {default[name]!r}" for name in condition.reads)
    return f"constraint: expression {condition.text!r} does not hold for the defaults ({values})"
