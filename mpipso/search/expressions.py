"""Expressions over parameters: values computed from others, and conditions that configurations must satisfy."""

from __future__ import annotations

import ast
import math
import sys
from types import CodeType

import simpleeval

from mpipso.config.parameters import names_in
from mpipso.errors import UserError
from mpipso.evaluation import Value
from mpipso.search.domains import Values, tidy
from mpipso.wording import shortened

_ALWAYS = (ast.Constant, ast.Name, ast.Load, ast.UnaryOp, ast.USub, ast.BinOp, ast.Add, ast.Sub, ast.Mult)
"""Syntax that gives a value whatever numbers it reads, unlike a division."""
_PLAIN = (
    *_ALWAYS,
    ast.UAdd,
    ast.Not,
    ast.Div,
    ast.FloorDiv,
    ast.Mod,
    ast.BoolOp,
    ast.And,
    ast.Or,
    ast.IfExp,
    ast.Compare,
    ast.Eq,
    ast.NotEq,
    ast.Lt,
    ast.LtE,
    ast.Gt,
    ast.GtE,
)
"""Syntax that Python itself may evaluate: with numbers it takes bounded time and memory, so that no evaluator has to
watch over it."""
_NUMBERS = (bool, int, float)
_NO_VALUE = (ArithmeticError, LookupError, TypeError, ValueError, AttributeError)
"""Exceptions by which the evaluation of an expression says that it has no value."""
_TOO_DEEP = "is too long or nested too deeply"
SHOWN = 200
"""The most characters of an expression that a message shows."""


def _power(base: float, exponent: float) -> float:
    # A whole number too large for a float cannot be the value of a parameter, and computing it may fill the memory.
    if (
        isinstance(base, int)
        and isinstance(exponent, int)
        and abs(base) > 1
        and base.bit_length() * exponent > 2 * sys.float_info.max_exp
    ):
        raise OverflowError("the power is too large")
    result: float = simpleeval.safe_power(base, exponent)
    return result


def _modulo(value: float, divisor: float) -> float:
    if isinstance(value, str):  # there % formats, and the result may be of any length
        raise TypeError("% is for numbers")
    return value % divisor


class Expression:
    """A value that is computed from the values of other parameters.

    Attributes
    ----------
    reads:
        The parameters whose values decide its own.
    total:
        Whether it has a value whatever numbers it reads, unlike a division.

    Raises
    ------
    UserError
        ``text`` is not an expression.
    """

    FUNCTIONS = {  # noqa: RUF012 - a constant table
        "min": min,
        "max": max,
        "int": int,
        "float": float,
        "round": round,
        "abs": abs,
        "ceil": math.ceil,
        "floor": math.floor,
        "str": str,
    }
    OPERATORS = simpleeval.DEFAULT_OPERATORS | {ast.Pow: _power, ast.Mod: _modulo}

    def __init__(self, where: str, text: str, kind: str) -> None:
        """``where`` says whose expression it is and begins every message; ``kind`` is the type of its value."""
        self._where = f"{where}: expression {shortened(text, SHOWN)!r}"
        self.text, self._kind = text, kind
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError) as error:
            reason = error.msg if isinstance(error, SyntaxError) else str(error)
            raise UserError(f"{self._where}: {reason}") from None
        except (RecursionError, MemoryError):  # the latter of Python's parser
            raise UserError(f"{self._where}: {_TOO_DEEP}") from None
        if any(isinstance(node, (ast.Attribute, ast.JoinedStr)) for node in ast.walk(self._tree)):
            raise UserError(f"{self._where}: has a method or an f-string, which expressions do not have")
        self.reads = names_in(text)
        self.total = all(isinstance(node, _ALWAYS) for node in ast.walk(self._tree))
        self._code = self._compiled()

    def value(self, values: Values) -> Value:
        """The value, given those that it reads; UserError where it has none, or one of the wrong type."""
        names = {name: values[name] for name in self.reads}
        try:
            if self._code is not None and all(type(value) in _NUMBERS for value in names.values()):
                return self._typed(eval(self._code, {"__builtins__": {}}, names))
            evaluator = simpleeval.SimpleEval(self.OPERATORS, self.FUNCTIONS, names)
            return self._typed(evaluator.eval(self.text, previously_parsed=self._tree))
        except RecursionError:  # where Python's parser takes more than the evaluator does
            raise UserError(f"{self._where}: {_TOO_DEEP}") from None
        except (simpleeval.InvalidExpression, *_NO_VALUE) as error:
            known = ", ".join(f"{name} = {values[name]!r}" for name in self.reads)
            raise UserError(f"{self._where}: {error}" + (f" (with {known})" if known else "")) from None

    def _compiled(self) -> CodeType | None:
        """Code that Python runs many times as fast as the evaluator; None unless it is plain arithmetic on numbers."""
        for node in ast.walk(self._tree):
            if not isinstance(node, _PLAIN) or (isinstance(node, ast.Constant) and type(node.value) not in _NUMBERS):
                return None
        try:
            return compile(ast.Expression(self._tree), "<expression>", "eval")
        except (RecursionError, MemoryError):
            return None

    def _typed(self, result: object) -> Value:
        """``result`` as a value of this type; TypeError or ValueError when it is none."""
        if not isinstance(result, (bool, int, float, str)):
            raise TypeError(f"gives a {type(result).__name__}, not a {self._kind}")
        if self._kind == "bool":
            return bool(result)
        if self._kind == "choice" and isinstance(result, str):
            return result
        if not math.isfinite(float(result)):
            raise ValueError(f"gives {result}")
        if self._kind == "choice":
            return result
        return round(float(result)) if self._kind == "int" else tidy(float(result))


class Condition:
    """A known constraint: an expression that has to be true of every configuration that is tried.

    Raises
    ------
    UserError
        ``text`` is not an expression.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._expression = Expression("constraint", text, "bool")
        self.reads = self._expression.reads

    def problem(self, values: Values) -> str:
        """Why it cannot be computed with these values; empty when it can."""
        try:
            self._expression.value(values)
        except UserError as error:
            return str(error)
        return ""

    def holds(self, values: Values) -> bool:
        """Whether it is true of a configuration; false where it has no value, as after a division by zero."""
        try:
            return bool(self._expression.value(values))
        except UserError:
            return False
