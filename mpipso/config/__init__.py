"""The configuration of a run: one TOML file as validated, frozen data.

``sections`` are its tables, with ``parameters`` (what is searched, and conditions on it), ``benchmark`` (load and
result, and the check of answers), ``objective`` (metric and limits), ``parallel`` (nodes and groups) and
``servicefile`` (the service's own configuration file) apart. ``file`` reads them and explains mistakes, ``templates``
are the commented files that come with mpipso, and ``yamltext`` changes YAML without rewriting it.
"""

from mpipso.config.benchmark import Benchmark, Key, Pattern, Program, Quality
from mpipso.config.objective import Limit, ObjectiveSection
from mpipso.config.parameters import Constraint, Parameter
from mpipso.config.sections import Config, ScheduleKind, Search, Service, SwarmSection

__all__ = [
    "Benchmark",
    "Config",
    "Constraint",
    "Key",
    "Limit",
    "ObjectiveSection",
    "Parameter",
    "Pattern",
    "Program",
    "Quality",
    "ScheduleKind",
    "Search",
    "Service",
    "SwarmSection",
]
