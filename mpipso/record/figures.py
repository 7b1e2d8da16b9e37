"""How figures are written for people: metrics with units, gains, durations, configurations."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping

from mpipso.evaluation import Configuration, Metrics, Value

#: Says of a metric whether more of it is better, less of it, or neither (None).
Higher = Callable[[str], bool | None]

_UNITS = {
    "duration": "s",
    "request_throughput": "req/s",
    "output_throughput": "tok/s",
    "total_throughput": "tok/s",
}


def unit(metric: str) -> str:
    """The unit of a metric by its name, ``""`` when the name does not tell."""
    return _UNITS.get(metric, "ms" if metric.endswith("_ms") else "")


def usually_higher(metric: str) -> bool | None:
    """Throughputs are good when high, latencies when low, of others the name does not tell."""
    return True if metric.endswith("throughput") else False if unit(metric) == "ms" else None


def number(value: float) -> str:
    """About four significant digits; whole numbers stay whole."""
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
    return f"{round(change, 1) + 0.0:+.1f} %"  # the zero added makes no difference that rounds to -0.0


def score(metric: str, metrics: Metrics, baseline: Metrics | None, *, higher: bool) -> str:
    """One metric and its gain over the baseline, as in ``412.3 tok/s (+12.4 %)``; ``higher`` is better, or less."""
    value = metrics.get(metric)
    if value is None:
        return f"no {metric}"
    reference = (baseline or {}).get(metric)
    change = None if reference is None else gain(metric, reference, value, lambda _: higher)
    return measure(metric, value) if change is None else f"{measure(metric, value)} ({percent(change)})"


def duration(seconds: float) -> str:
    """Seconds in at most two units: ``42s``, ``3m12s``, ``2h05m``, ``3d04h``."""
    whole = max(0, int(seconds))
    for size, large, smaller, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{large}{whole % size // smaller:02d}{small}"
    return f"{whole}s"


def value(setting: Value) -> str:
    """A parameter's value: booleans as in TOML, floats with six digits."""
    if isinstance(setting, bool):
        return str(setting).lower()
    return f"{setting:.6g}" if isinstance(setting, float) else str(setting)


def same(one: Value, other: Value) -> bool:
    """Equality that tells True from 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def key(configuration: Configuration) -> Hashable:
    """Two configurations have the same key if and only if all their values are the :func:`same`."""
    return frozenset((name, isinstance(setting, bool), setting) for name, setting in configuration.items())


def changes(configuration: Configuration, baseline: Configuration | None) -> dict[str, Value]:
    """The part of a configuration that differs from the baseline: all of it without one."""
    if baseline is None:
        return dict(configuration)
    return {
        name: setting
        for name, setting in configuration.items()
        if name not in baseline or not same(setting, baseline[name])
    }


def settings(configuration: Mapping[str, Value]) -> str:
    """``name=value`` for each parameter, on one line."""
    return " ".join(f"{name}={value(setting)}" for name, setting in configuration.items())
