"""A metric in a benchmark's result: where it stands there, and in which unit."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import operator
import re
import reprlib
from collections import deque
from collections.abc import Container, Iterable, Iterator
from typing import Any

from mpipso.config.servicefile import steps
from mpipso.errors import EvaluationFailed
from mpipso.evaluation import LARGEST, METRICS
from mpipso.wording import listed, suggestion

MAX_KEYS = 1000
"""Among how many keys of a result, which may hold a table per request, one is looked for that was meant."""
_SHOWN = 5
"""How many of the keys are told where none is like the one that is missing."""
MAX_DEPTH = 50
"""In how many tables and lists, one in another, that key is looked for."""
_QUANTITY = re.compile(r"([-+]?(?:\d{1,3}(?:,\d{3})+\.\d+|\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)(?!\d)\s*(\S*)")
"""A number as text, and what stands behind it. A comma is one of thousands where a decimal point follows. Digits belong
together, lest a search tries all ways to part a long run of them."""
_BEHIND = re.compile(r"(?:[.,'_]?\d|[\u00a0\u202f]\d{3}(?!\d)|[^\W\d_])[^\s\x00-\x1f\x7f-\x9f,;:()\[\]{}<>|=\"']*")
"""What goes on with a number, or is its unit, where it stands directly behind: up to the next space or delimiter.
Blanks at which no line breaks part thousands."""
_EXPONENT = re.compile(r"[eE][-+]?\d")
_COMMA = re.compile(r"(?<!\\)\),(?![?*{])")
"""A comma that has to follow the group of a pattern."""
_CUT = re.compile(r"\d\.?$")
"""The end of what stands before a number that a pattern has cut."""
_CUT_THOUSANDS = re.compile(r"(?<![\w.,])[1-9]\d{0,2}(?:,\d{3})*,$")
_THOUSANDS = re.compile(r"\d{3}\.\d")
"""The same where a comma may part thousands, and what follows it then."""
_FAR = 40
"""Characters before a number that may tell whether it is a part of one."""
_SEEN = 5
"""How many of them are shown."""
_NO_COMMA = re.compile(r"\[\^[^\]]*\]|\[[^\]]*(?:\\d|\d)[^\]]*\]|\{\d*,\d*\}")
"""Where a comma in a pattern is none in the text, or may be one in a number."""
_PARTED = re.compile(r"(?<![\w.])\d{1,3}[\u00a0\u202f](?=\d{3}(?!\d))")
"""Such a blank before a number that may be the rest of one, which is no label as ``p50``."""
_SPELT = {
    3600.0: ("h", "hour", "hours"),
    60.0: ("min", "mins", "minute", "minutes"),
    1.0: ("s", "sec", "secs", "second", "seconds"),
    1e-3: ("ms", "msec", "msecs", "millisecond", "milliseconds"),
    1e-6: ("us", "µs", "\u03bcs", "usec", "usecs", "microsecond", "microseconds"),
    1e-9: ("ns", "nsec", "nsecs", "nanosecond", "nanoseconds"),
}
_SECONDS = {unit: seconds for seconds, units in _SPELT.items() for unit in units}
_APART = re.compile(r"[ \t\u00a0]([^\W\d_]+)\b(?![:=-])")
"""The word after a number and one blank, unless it begins what comes next: it may be a unit, or anything else."""
_LINE_END = re.compile(r"[ \t\u00a0.]*(?:[\r\n]|\Z)")
_RATE = re.compile(r"(req|request|tok|token)s?/s")
_NOTHING = ("", "-", "n/a", "nan", "none", "null", "inf", "-inf")
"""What programs write in the place of a number that they do not have."""


class Absent(EvaluationFailed):
    """The result does not hold the metric."""


def number(result: Any, path: str, metric: str, unit: str = "", others: Container[str] = ()) -> float:
    """The number at a dotted path, in the unit that ``metric`` has.

    A number in the path is an index into a list. A number with a unit, a text such as AISBench's ``"13.5 ms"``, is
    converted; one without is in ``unit``, or else in the metric's already.

    Raises
    ------
    Absent
        There is none; with the key that was meant, where one is like it and not among the ``others`` that are in use.
    EvaluationFailed
        What is there is no number, or has a unit that the metric cannot have.
    """
    return _converted(_at(result, path, others), f"the benchmark's {path!r}", metric, unit)


def matched(texts: Iterable[str], pattern: str, metric: str, unit: str = "") -> float:
    """The number that the group of a pattern holds, as :func:`number` takes a text; raises as that does.

    What counts is the last match in the first of the texts that has any. The group has to hold the number as a whole,
    ``12,345.6`` not as ``12``; a unit that stands directly behind it is that of the number, and so is one of time
    behind a blank, if the metric is a time. There ``min`` may be the least of several: it counts as minutes at the end
    of a line, and not at all if ``unit`` is given.
    """
    for text in texts:
        last = deque(re.finditer(pattern, text, re.MULTILINE), maxlen=1)
        if last:
            what = f"the benchmark's '{pattern}'"
            return _converted(_whole(last[0], what, metric, unit), what, metric, unit)
    raise Absent(f"nothing in the benchmark's output matches '{pattern}'")


def unit_problem(unit: str, metric: str) -> str:
    """Why a number of a metric cannot be in a unit, in words; empty if it can be."""
    try:
        _factor(unit, metric, f"unit = {unit!r}")
    except EvaluationFailed as error:
        return error.cause
    return ""


def _whole(found: re.Match[str], what: str, metric: str, unit: str) -> str:
    """What the group of a match holds, with the unit behind it.

    Raises
    ------
    EvaluationFailed
        The group holds a part of a number only, or there is a unit that the metric cannot have, unless the pattern
        itself goes on with what stands there; or a word that may be one, or not, and no ``unit`` is given.
    """
    value = found[1] or ""
    quantity = _QUANTITY.fullmatch(value.strip())
    if quantity is None or quantity[2]:
        return value
    start, end = found.span(1)
    before, after = found.string[max(0, start - _FAR) : start], _BEHIND.match(found.string, end)
    parted = any(each.end() == start for each in _PARTED.finditer(found.string, max(0, start - 4), start + 4))
    if "," not in _NO_COMMA.sub("", found.re.pattern):  # else it may part two numbers
        parted = parted or bool(_CUT_THOUSANDS.search(before) and _THOUSANDS.match(value))
    if value[0].isdigit() and (_CUT.search(before) or parted):
        raise EvaluationFailed(
            f"{what} is {value!r}, and directly before it stands {before[-_SEEN:]!r}: "
            "let the group hold the whole number"
        )
    if after is None:
        return f"{value} {_apart(found, what, unit)}" if _own_unit(metric) else value
    rest = after[0].rstrip(".")
    told = f"{what} is {value!r}, and directly behind it stands {rest!r}"
    if rest[0].isalpha() and not _EXPONENT.match(rest):
        with contextlib.suppress(EvaluationFailed):
            _factor(rest, metric, told)
            return f"{value} {rest}"
        word = re.findall(r"[^\W\d_]+", rest)[0]
        # A sign such as k that may be missing is no end that the pattern names: 12.3k would pass for 12.3.
        optional = len(word) == 1 and f"){word}?" in found.re.pattern
        if found.end() - end >= len(word) and not optional:
            return value
    # Behind a decimal point nothing parts thousands, but two numbers; as the pattern may say of a comma as well.
    if rest[0] in ",\u00a0\u202f" and "." in value:
        return value
    if rest[0] == "," and found.end() > end and _COMMA.search(found.re.pattern):
        return value
    raise EvaluationFailed(f"{told}: let the group hold all of the number, or the pattern go on with what ends it")


def _apart(found: re.Match[str], what: str, unit: str) -> str:
    """The unit of time that stands behind the number of a match and a blank; empty if none does."""
    apart = _APART.match(found.string, found.end(1))
    word = apart[1].lower() if apart else ""
    if apart and word == "min":
        if unit:
            return ""
        if not _LINE_END.match(found.string, apart.end()):
            raise EvaluationFailed(
                f"{what} is {found[1]!r}, and behind it stands 'min', for minutes or for the least of several: "
                "{ pattern = '...', unit = \"...\" } says its unit"
            )
    return word if word in _SECONDS else ""


def _converted(value: Any, what: str, metric: str, unit: str) -> float:
    factor = _factor(unit, metric, f"unit = {unit!r}")
    if isinstance(value, str) and (quantity := _QUANTITY.fullmatch(value.strip())):
        if quantity[2]:
            factor = _factor(quantity[2], metric, f"{what} is {value!r}")
        value = float(quantity[1].replace(",", ""))
    nothing = value.strip().lower() in _NOTHING if isinstance(value, str) else value is None
    if nothing or (isinstance(value, float) and not math.isfinite(value)):
        raise Absent(f"{what} is {value!r}, not a finite number")
    if not isinstance(value, bool) and isinstance(value, (int, float)):
        with contextlib.suppress(OverflowError):  # a whole number may have more digits than a float
            if abs(converted := factor * float(value)) <= LARGEST:
                return converted
            raise Absent(f"{what} is {converted:g}, which no measurement is")
    raise EvaluationFailed(f"{what} is {reprlib.repr(value)}, not a finite number")


def _factor(unit: str, metric: str, told: str) -> float:
    """By what a number in ``unit`` is multiplied to be one of ``metric``, whose name tells its own unit."""
    own = _own_unit(metric)
    if not unit:
        return 1.0
    if own:
        right = "ns, us, ms, s, min or h"
        factor = _SECONDS[unit] / _SECONDS[own] if unit in _SECONDS else None
    elif metric in METRICS and not metric.endswith(("_throughput", "_goodput")):
        right, factor = "no unit", None
    else:
        right = "a unit such as token/s or req/s" if metric in METRICS else "token/s, req/s, % or, named ..._ms, a time"
        factor = 1.0 if _RATE.fullmatch(unit) or (unit == "%" and metric not in METRICS) else None
    if factor is None:
        raise EvaluationFailed(f"{told}, and {metric} takes {right}")
    return factor


def _own_unit(metric: str) -> str:
    """The unit of a metric that is a time, else empty."""
    return "s" if metric == "duration" else "ms" if metric.endswith("_ms") else ""


def _at(result: Any, path: str, others: Container[str]) -> Any:
    """What stands at a path. Keys may contain dots."""
    found, missing = steps(result, path.split("."))
    if not missing:
        return functools.reduce(operator.getitem, found, result)
    keys = list(itertools.islice(_keys(result), MAX_KEYS))
    free = [key for key in keys if key not in others]
    meant, _, known = suggestion(path, free).partition("; known")
    meant = f"; it has {listed(free, most=_SHOWN)}" if known else meant
    raise Absent(f"the benchmark's result has no {path!r}{meant if keys else ', nor any number'}")


def _keys(tree: Any, above: str = "") -> Iterator[str]:
    """The dotted paths of all numbers that have a name, with a unit or without, but for those nested deeply."""
    if above.count(".") > MAX_DEPTH:
        return
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, below in pairs:
        counts = isinstance(below, (int, float)) or (isinstance(below, str) and _QUANTITY.fullmatch(below))
        if counts and isinstance(tree, dict):
            yield f"{above}{key}"
        yield from _keys(below, f"{above}{key}.")
