"""How figures are written for people: metrics with units, gains, durations, configurations."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping

from mpipso.evaluation import GOODPUT, Configuration, Metrics, Value

Higher = Callable[[str], bool | None]
"""A function that says of a metric, by its name, whether more of it is better: True, False, or None for neither."""

_UNITS = {
    "duration": "s",
    "request_throughput": "req/s",
    "output_throughput": "tok/s",
    "total_throughput": "tok/s",
    GOODPUT: "req/s",
    "request_rate": "req/s",
}


def unit(metric: str) -> str:
    """The unit of a metric by its name, ``""`` when the name does not tell."""
    return _UNITS.get(metric, "ms" if metric.endswith("_ms") else "")


def usually_higher(metric: str) -> bool | None:
    """Whether more of a metric is better: True for throughputs, False for latencies, None if its name tells nothing."""
    return True if metric.endswith(("throughput", "goodput")) else False if unit(metric) == "ms" else None


def number(value: float) -> str:
    """A number as text: whole ones below a million as they are, others with about four digits; ``-`` if not finite."""
    if not math.isfinite(value):
        return "-"
    size = abs(value)
    if value == int(value) and size < 1e6:
        return str(int(value))
    if 0.001 <= size < 1e6:
        return f"{value:.{max(0, 3 - max(0, math.floor(math.log10(size))))}f}"
    return f"{value:.4g}"


def measure(metric: str, value: float) -> str:
    """A metric's value with its unit, as in ``412.3 tok/s``."""
    return f"{number(value)} {unit(metric)}".rstrip()


def gain(metric: str, baseline: float, value: float, higher: Higher) -> float | None:
    """How much better ``value`` is than ``baseline`` in percent of the baseline; positive is always better.

    None when the metric is neither good nor bad, or the baseline gives no scale.
    """
    better_high = higher(metric)
    if better_high is None or baseline == 0 or not math.isfinite(baseline) or not math.isfinite(value):
        return None
    change = 100.0 * (value - baseline) / abs(baseline)
    return change if better_high else -change


def percent(change: float) -> str:
    """A change, given in percent, with its sign and one decimal, as in ``+12.4 %``."""
    return f"{round(change, 1) + 0.0:+.1f} %"  # the zero added makes no difference that rounds to -0.0


def score(metric: str, metrics: Metrics, baseline: Metrics | None, *, higher: bool) -> str:
    """A metric's value and its gain over the baseline, as in ``412.3 tok/s (+12.4 %)``.

    Parameters
    ----------
    metric:
        The name of the metric.
    metrics, baseline:
        What was measured of a configuration and of the baseline, by name; without a baseline no gain is told.
    higher:
        Whether more of the metric is better; if not, less is.
    """
    value = metrics.get(metric)
    if value is None:
        return f"no {metric}"
    reference = (baseline or {}).get(metric)
    change = None if reference is None else gain(metric, reference, value, lambda _: higher)
    return measure(metric, value) if change is None else f"{measure(metric, value)} ({percent(change)})"


def duration(seconds: float) -> str:
    """Seconds as text in at most two units: ``42s``, ``3m12s``, ``2h05m``, ``3d04h``."""
    whole = max(0, int(seconds))
    for size, large, smaller, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{large}{whole % size // smaller:02d}{small}"
    return f"{whole}s"


def value(setting: Value) -> str:
    """A parameter's value as text: booleans as in TOML, floats with six significant digits."""
    if isinstance(setting, bool):
        return str(setting).lower()
    return f"{setting:.6g}" if isinstance(setting, float) else str(setting)


def same(one: Value, other: Value) -> bool:
    """Whether two values of a parameter are equal; True and 1, which Python takes for equal, are not."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def key(configuration: Configuration) -> Hashable:
    """What a dictionary can have configurations by: equal if and only if all their values are the :func:`same`."""
    return frozenset((name, isinstance(setting, bool), setting) for name, setting in configuration.items())


def changes(configuration: Configuration, baseline: Configuration | None) -> dict[str, Value]:
    """The parameters, with their values, in which a configuration differs from the baseline; all where that is None."""
    if baseline is None:
        return dict(configuration)
    return {
        name: setting
        for name, setting in configuration.items()
        if name not in baseline or not same(setting, baseline[name])
    }


def settings(configuration: Mapping[str, Value]) -> str:
    """A configuration on one line: ``name=value`` for each parameter."""
    return " ".join(f"{name}={value(setting)}" for name, setting in configuration.items())
