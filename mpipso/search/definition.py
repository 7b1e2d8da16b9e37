"""Turns the parameters and constraints that the user has written into domains: which values each parameter takes."""

from __future__ import annotations

import graphlib
import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

from mpipso.config.parameters import Constraint, Parameter
from mpipso.errors import UserError
from mpipso.evaluation import Value
from mpipso.search.dependent import Factor, Product, Ratio
from mpipso.search.domains import Choices, Continuum, Domain, LogInts, Steps, Values, number
from mpipso.search.expressions import Expression
from mpipso.wording import suggestion


def domains(known: Mapping[str, Parameter], constraints: Sequence[Constraint]) -> dict[str, Domain | Expression]:
    """The domain or expression of every parameter by its name, each after those that its values depend on.

    The configuration has been checked for products and ratios that name unknown parameters; expressions that do are
    found here.

    Raises
    ------
    UserError
        Parameters or constraints contradict each other, or an expression is wrong; one line per mistake.
    """
    factors = _factors(known, constraints)
    expressions = _expressions(known.values())
    given: dict[str, Domain | Expression] = {**factors, **expressions}
    found: dict[str, Domain | Expression] = {}
    defaults: dict[str, Value] = {}
    problems: list[str] = []
    for name in _dependency_order(known, factors, expressions):
        parameter = known[name]
        try:
            domain = given.get(name) or _domain(parameter, defaults)
        except ValueError as error:
            problems.append(f"parameter {name!r}: {error}")
            continue
        found[name] = domain
        if parameter.default is not None:
            defaults[name] = typed(parameter, parameter.default)
        elif isinstance(domain, Expression) and all(read in defaults for read in domain.reads):
            defaults[name] = domain.value(defaults)
    if problems:
        raise UserError(problems)
    return found


def typed(parameter: Parameter, value: Value) -> Value:
    """``value`` converted to the type of the parameter: an int or a float; others stay as they are."""
    if parameter.type == "int":
        return int(value)
    return float(value) if parameter.type == "float" else value


def _domain(parameter: Parameter, defaults: Values) -> Domain:
    """The domain of a parameter that is neither an expression nor in a product; ValueError when it cannot be made.

    ``defaults`` are those of the parameters before it, by name.
    """
    if parameter.type == "bool":
        return Choices((False, True))
    if parameter.type == "choice":
        return Choices(parameter.choices)
    low, high = parameter.min, parameter.max
    if low is None or high is None:
        raise ValueError("needs min and max")
    whole, log = parameter.type == "int", parameter.scale == "log"
    default = _optional(parameter.default)
    if parameter.ratio_of is not None:
        other = _optional(defaults.get(parameter.ratio_of))
        return Ratio(parameter.ratio_of, low, high, log=log, whole=whole, default=default, of_default=other)
    if whole and log:
        return LogInts(int(low), int(high))
    if whole or parameter.step is not None:
        return Steps(low, high, parameter.step or 1, whole=whole)
    return Continuum(low, high, log=log, anchor=default)


def _optional(value: Value | None) -> float | None:
    return None if value is None else number(value)


def _expressions(parameters: Iterable[Parameter]) -> dict[str, Expression]:
    return {
        p.name: Expression(f"parameter {p.name!r}", p.expression, p.type)
        for p in parameters
        if p.expression is not None
    }


def _factors(known: Mapping[str, Parameter], constraints: Sequence[Constraint]) -> dict[str, Factor]:
    """The domains of the members of product constraints, by name; UserError when a product cannot be satisfied."""
    problems = []
    factors: dict[str, Factor] = {}
    for constraint in constraints:
        if constraint.equals is None:
            continue
        where = f"constraint {' x '.join(constraint.product)} = {constraint.equals}"
        wrong = [f"{where}: {reason}" for reason in _misfits(known, constraint, factors)]
        problems += wrong
        if wrong:
            continue
        try:
            product = Product(
                {name: _divisors(known[name], constraint.equals) for name in constraint.product}, constraint.equals
            )
        except ValueError as error:
            problems.append(f"{where}: {error}")
            continue
        factors.update((name, Factor(product, position)) for position, name in enumerate(constraint.product))
        defaults = [known[name].default for name in constraint.product]
        if (
            None not in defaults
            and (found := math.prod(int(d) for d in defaults if d is not None)) != constraint.equals
        ):
            problems.append(f"{where}: the defaults have the product {found}")
    if problems:
        raise UserError(problems)
    return factors


def _misfits(known: Mapping[str, Parameter], constraint: Constraint, taken: Container[str]) -> Iterator[str]:
    """Why parameters cannot be members of a product constraint; ``taken`` are the members of other products."""
    for name in sorted(set(constraint.product)):
        parameter = known[name]
        if constraint.product.count(name) > 1:
            yield f"{name!r} is named twice"
        elif name in taken:
            yield f"{name!r} is in another product already"
        elif parameter.expression is not None or parameter.ratio_of is not None:
            yield f"{name!r} is computed from others, so it cannot be chosen to fit"
        elif parameter.type != "int" and not (
            parameter.type == "choice" and all(type(choice) is int for choice in parameter.choices)
        ):
            yield f"{name!r} is neither an int nor a choice of ints"


MAX_TRIED = 10_000_000
"""The most whole numbers that are tried as divisors of a product: about a second's work."""


def _divisors(parameter: Parameter, product: int) -> list[int]:
    """The values of an int or a choice of ints that divide ``product``; ValueError if finding them takes too long."""
    if parameter.type == "choice":
        return [value for value in map(int, parameter.choices) if value > 0 and product % value == 0]
    low, high, step = int(parameter.min or 0), int(parameter.max or 0), int(parameter.step or 1)
    values, root = range(low, min(high, product) + 1, step), math.isqrt(product)
    if (values.stop - values.start) // step <= min(root, MAX_TRIED):
        return [value for value in values if value > 0 and product % value == 0]
    if root > MAX_TRIED:
        raise ValueError(f"{parameter.name!r} has too many values to find those that divide it: give narrower bounds")
    divisors = {each for value in range(1, root + 1) if product % value == 0 for each in (value, product // value)}
    return sorted(value for value in divisors if value in values)


def _dependency_order(
    known: Mapping[str, Parameter], factors: Mapping[str, Factor], expressions: Mapping[str, Expression]
) -> tuple[str, ...]:
    """The names of all parameters, each after those that its values depend on.

    UserError when they depend on each other in a circle, on unknown parameters, or, as ratios, on what is not numeric.
    """
    problems = []
    reads: dict[str, list[str]] = {}
    for name, parameter in known.items():
        reads[name] = []
        if name in expressions:
            reads[name] += expressions[name].reads
            problems += [
                f"parameter {name!r}: expression {parameter.expression!r} names the unknown {other!r}"
                f"{suggestion(other, known)}"
                for other in expressions[name].reads
                if other not in known
            ]
        elif name in factors:
            reads[name] += factors[name].reads
        elif parameter.ratio_of is not None:
            reads[name].append(parameter.ratio_of)
            if not _numeric(known[parameter.ratio_of]):
                problems.append(
                    f"parameter {name!r}: ratio_of names {parameter.ratio_of!r}, whose values are not numbers"
                )
    if problems:
        raise UserError(problems)
    try:
        return tuple(graphlib.TopologicalSorter(reads).static_order())
    except graphlib.CycleError as error:
        cycle: list[str] = error.args[1]
        raise UserError(f"parameters depend on each other in a circle: {' -> '.join(reversed(cycle))}") from None


def _numeric(parameter: Parameter) -> bool:
    if parameter.type == "choice":
        return bool(parameter.choices) and all(type(choice) in (int, float) for choice in parameter.choices)
    return parameter.type != "bool"
