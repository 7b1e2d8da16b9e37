"""What is tuned, as it stands in the configuration: parameters with domains and targets, and known constraints."""

from __future__ import annotations

import ast
import re
import sys
import typing
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from mpipso.evaluation import Value
from mpipso.wording import suggestion

NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
CALLED = r"^\{[A-Za-z_][A-Za-z0-9_]*\}$"
Name = Annotated[str, Field(pattern=NAME)]
_NO_WORD = re.compile(r"\s|\{[A-Za-z_][A-Za-z0-9_]*\}")
"""What a flag does not hold: a blank, or a placeholder."""
_OF_A_BOOL = re.compile(r"-[^=/]*/(-.*)?")
"""A flag for true, and one for false or none."""
_EXACT = 2**53
"""Up to which a float tells all whole numbers apart."""
MOST = 2**63 - 1
"""The largest whole number of TOML, which stands for no limit in many a file."""
Count = Annotated[int, Field(ge=1, le=MOST)]
CountFromZero = Annotated[int, Field(ge=0, le=MOST)]
Seconds = Annotated[float, Field(gt=0)]
Command = tuple[str, ...]


def adapter(kind: str, chosen: str, info: ValidationInfo) -> str:
    """The name of an engine or client (of a ``kind``, plural); ValueError if it is known that there is none such."""
    known = (info.context or {}).get(kind)
    if known is not None and chosen not in known:
        raise ValueError(f"unknown{suggestion(chosen, known)}")
    return chosen


def lenient(info: ValidationInfo) -> bool:
    """Whether what is validated, as it is of an earlier run, may be what earlier versions let pass."""
    return bool((info.context or {}).get("earlier"))


def names_in(expression: str) -> tuple[str, ...]:
    """The names that an expression reads, each once; none in what is no expression, which is told elsewhere."""
    try:
        nodes = list(ast.walk(ast.parse(expression.strip(), mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    return tuple(dict.fromkeys(node.id for node in nodes if isinstance(node, ast.Name) and id(node) not in called))


class Section(BaseModel):
    """A table of the file: frozen, strict about types, no unknown keys, no infinite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Parameter(Section):
    """One thing to tune, and where its value goes.

    A parameter is searched (``min`` and ``max``, ``choices``, or ``type = "bool"``), a ``ratio_of`` another (``min``
    and ``max`` bound the ratio), or computed from others by an ``expression``. Its value reaches the service as a
    command-line ``flag``, an environment variable ``env``, or the ``path`` inside the service's configuration file;
    an engine that knows the name needs none of them. The flag of a bool is ``--yes/--no``, ``--yes`` or ``/--no``.
    """

    name: Name
    type: Literal["int", "float", "bool", "choice"]
    min: float | None = None
    max: float | None = None
    step: Annotated[float, Field(gt=0)] | None = None
    scale: Literal["linear", "log"] = "linear"
    choices: tuple[Value, ...] = ()
    default: Value | None = None
    ratio_of: Name | None = None
    expression: str | None = None
    flag: str | None = None
    env: Name | None = None
    path: str | None = None

    @property
    def searched(self) -> bool:
        """Whether the parameter is a dimension of the search space."""
        return self.expression is None

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags that may stand on the command line: of a bool the one for true and the one for false."""
        words = (self.flag or "").split("/", 1) if self.type == "bool" else [self.flag or ""]
        return tuple(filter(None, words))

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Parameter:
        problems = list(self._domain_problems())
        if sum(target is not None for target in (self.flag, self.env, self.path)) > 1:
            problems.append("give one of flag, env and path, not several")
        problems += self._flag_problems()
        if not lenient(info):
            problems += [*self._choice_problems(), *self._size_problems(), *self._value_problems()]
        if self.default is not None and self.expression is None and not problems:
            problems += self._default_problems()
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _domain_problems(self) -> typing.Iterator[str]:
        bounded = self.min is not None or self.max is not None
        if self.expression is not None:
            if bounded or self.choices or self.default is not None or self.ratio_of or self.step:
                yield "an expression computes the value: leave out min, max, step, choices, default and ratio_of"
        elif self.type in ("bool", "choice"):
            if bounded or self.step or self.scale == "log" or self.ratio_of:
                yield f"a {self.type} has no min, max, step, log scale or ratio_of"
            if self.type == "bool" and self.choices:
                yield "a bool has no choices"
            if self.type == "choice" and len(self.choices) < 2:
                yield "a choice needs at least two choices"
        else:
            yield from self._range_problems()

    def _choice_problems(self) -> typing.Iterator[str]:
        # Configurations are told apart by the values of their parameters, and 1.0 is 1 there, but not true.
        if len({(isinstance(choice, bool), choice) for choice in self.choices}) < len(self.choices):
            yield "two choices are the same"

    def _size_problems(self) -> typing.Iterator[str]:
        """Numbers with which floats cannot be computed."""
        if any(isinstance(choice, int) and abs(choice) > sys.float_info.max for choice in self.choices):
            yield f"a choice is a number of {sys.float_info.max:.2g} at most"
        if self.ratio_of is not None and self.max is not None and self.max > _EXACT:
            yield f"a ratio has a max of {_EXACT:g} (2**53) at most"

    def _range_problems(self) -> typing.Iterator[str]:
        if self.choices:
            yield f'an {self.type} has min and max, not choices (or is type = "choice")'
        if self.min is None or self.max is None:
            yield "min and max are required"
            return
        if self.min > self.max:
            yield f"min = {self.min:g} is greater than max = {self.max:g}"
        if self.scale == "log" and self.min <= 0:
            yield f"a log scale needs min > 0, not {self.min:g}"
        if self.ratio_of is not None:
            if self.min <= 0:
                yield f"a ratio needs min > 0, not {self.min:g}"
            if self.step is not None:
                yield "a ratio has no step"
        elif self.type == "int" and any(
            bound is not None and bound != int(bound) for bound in (self.min, self.max, self.step)
        ):
            yield "an int needs whole numbers for min, max and step"
        elif self.type == "int" and max(abs(self.min), abs(self.max)) > _EXACT:
            yield f"an int has bounds of {_EXACT:g} (2**53) at most, up to which all whole numbers can be told apart"
        if self.step is not None and self.scale == "log":
            yield 'a step goes with scale = "linear"'

    def _flag_problems(self) -> typing.Iterator[str]:
        if self.flag is None:
            return
        if _NO_WORD.search(self.flag):
            yield (
                f"flag = {self.flag!r} would be passed on as one word, just as it stands: what holds several words, or "
                f"placeholders, stands in service.command, with {{{self.name}}} for the value"
            )
            return
        if not self.flags or not all(word.startswith("-") or word.endswith("=") for word in self.flags):
            yield (
                f'flag = {self.flag!r} should begin with "-" or end with "="; what is given without a flag stands in '
                f"service.command as {{{self.name}}}"
            )

    def _value_problems(self) -> typing.Iterator[str]:
        """Flags with which the value does not reach the service."""
        # An empty value that is the opposite of another one, or of the default, may be meant: "--save=60/--save=".
        meant = (self.flag or "").startswith("/") or not all(word.endswith("=") for word in self.flags)
        if self.type == "bool" and self.flags and not meant:
            yield (
                f'flag = {self.flag!r} would be passed on with nothing behind "=", as a bool has no value: use '
                'type = "choice" with choices such as ["on", "off"]'
            )
        if self.type != "bool" and _OF_A_BOOL.fullmatch(self.flag or ""):
            yield f"flag = {self.flag!r} would be passed on as one word: only a bool has a flag for each of two values"

    def _default_problems(self) -> typing.Iterator[str]:
        value = self.default
        if self.type == "bool":
            if not isinstance(value, bool):
                yield f"default = {value!r} is not a bool"
        elif self.type == "choice":
            if repr(value) not in map(repr, self.choices):
                yield f"default = {value!r} is not among the choices"
        elif (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or (self.type == "int" and value != int(value))
        ):
            yield f"default = {value!r} is not of type {self.type}"
        elif self.ratio_of is None and self.min is not None and self.max is not None:
            if not self.min <= value <= self.max:
                yield f"default = {value!r} is outside min = {self.min:g} and max = {self.max:g}"
            elif self.step is not None and abs((value - self.min) / self.step % 1.0 - 0.5) < 0.5 - 1e-9:
                yield f"default = {value!r} is not min plus a multiple of step = {self.step:g}"


class Constraint(Section):
    """What configurations must satisfy to be tried at all.

    Either the ``product`` of some int or choice parameters ``equals`` a number, as in tp x dp x pp = number of devices,
    or an ``expression`` over parameters is true, as in ``n_ubatch <= n_batch``.
    """

    product: tuple[Name, ...] = ()
    equals: Annotated[int, Field(ge=1)] | None = None
    expression: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Constraint:
        if (self.expression is None) == (not self.product and self.equals is None):
            raise ValueError("give either product and equals, or an expression")
        if self.expression is None and (len(self.product) < 2 or self.equals is None):
            raise ValueError("a product needs two names or more, and what it equals")
        return self
