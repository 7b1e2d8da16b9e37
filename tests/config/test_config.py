"""The configuration file: what is accepted, and what is said about what is not."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from mpipso.config import Config, SwarmSection, templates
from mpipso.config.file import load, parse
from mpipso.errors import UserError
from mpipso.service.clients.base import CLIENTS
from mpipso.service.engines.base import ENGINES

KNOWN = {"engines": ("command", "llamacpp"), "clients": ("command", "openai")}
BATCH = {"name": "batch", "type": "int", "min": 1, "max": 64}


def good() -> dict[str, Any]:
    return {
        "service": {"engine": "command", "command": ["serve", "--port", "{port}"]},
        "benchmark": {"client": "openai"},
        "objective": {"maximize": "output_throughput"},
        "parameters": [dict(BATCH)],
    }


def read(data: Mapping[str, Any], **overrides: Any) -> Config:
    return parse(tomli_w.dumps(data), "my.toml", overrides=overrides, **KNOWN)


def problems(data: Mapping[str, Any], **overrides: Any) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        read(data, **overrides)
    return caught.value.problems


def with_parameter(**changes: Any) -> dict[str, Any]:
    return {**good(), "parameters": [{**BATCH, **changes}]}


class TestWhatIsAccepted:
    def test_a_small_file_and_its_defaults(self) -> None:
        config = read(good())
        assert config.service.command == ("serve", "--port", "{port}")
        assert (config.search.particles, config.search.swarm_size) == (None, 8)
        assert config.parallel.nodes_per_group is None
        assert config.output == "mpipso-runs"
        assert config.benchmark.requests == 32
        assert read({**good(), "benchmark": {"client": "command"}}).benchmark.requests is None

    def test_a_tilde_stands_for_the_home_folder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/me")
        data = {**good(), "output": "~/runs"}
        data["service"]["work_dir"] = "~"
        assert (read(data).output, read(data).service.work_dir) == ("/home/me/runs", "/home/me")
        data["service"]["work_dir"] = "a/~"
        assert read(data).service.work_dir == "a/~"
        data["output"] = "~nobody-here/runs"
        assert problems(data) == ("my.toml: output = '~nobody-here/runs': there is no such home folder",)
        assert parse(tomli_w.dumps(data), "journal", earlier=True).output == "~nobody-here/runs"

    def test_a_sweep_of_loads(self) -> None:
        data = {**good(), "benchmark": {"client": "openai", "concurrency": [4, 16, 64]}}
        data["objective"] = {"maximize": "concurrency"}
        benchmark = read(data).benchmark
        assert benchmark.swept == ("concurrency",) and benchmark.load({}) == {}
        loads = [{"requests": 32, "concurrency": 4}, {"requests": 64, "concurrency": 16}]
        assert benchmark.loads({}) == [*loads, {"requests": 256, "concurrency": 64}]
        data["benchmark"] |= {"requests": "{batch}"}
        assert read(data).benchmark.loads({"batch": 9})[2] == {"requests": 9, "concurrency": 64}
        rates = {"client": "openai", "request_rate": [0.5, 2.0]}
        loads = read({**good(), "benchmark": rates}).benchmark.loads({})
        assert loads == [{"requests": 32, "request_rate": 0.5}, {"requests": 32, "request_rate": 2.0}]

    def test_settings_of_the_load_may_be_a_parameter_s(self) -> None:
        data = {**good(), "benchmark": {"client": "openai", "requests": "{sent}", "concurrency": 8}}
        benchmark = read(data).benchmark
        assert benchmark.called == {"requests": "sent"}
        assert benchmark.load({"sent": 99, "n": 1}) == {"requests": 99, "concurrency": 8}

    @pytest.mark.parametrize(
        ("search", "groups", "particles", "window"),
        [
            ({}, 1, 8, None),
            ({}, 2, 8, None),
            ({}, 3, 12, None),
            ({}, 8, 16, None),
            ({}, 20, 20, None),
            ({"particles": 4}, 12, 4, None),
            ({"strategy": "pso"}, 4, 16, None),
            ({"strategy": "pso"}, 20, 20, None),
            ({"schedule": "async"}, 4, 16, None),
            ({"schedule": "window"}, 1, 8, 1),
            ({"schedule": "window"}, 2, 8, 3),
            ({"schedule": "window"}, 12, 16, 18),
            ({"schedule": "window", "window": 3}, 12, 16, 3),
        ],
    )
    def test_sizes_that_are_not_given_suit_the_groups(
        self, search: dict[str, Any], groups: int, particles: int, window: int | None
    ) -> None:
        settled = read({**good(), "search": search}).search.settled(groups)
        assert (settled.particles, settled.window) == (particles, window)
        assert settled.settled(groups + 30) == settled

    def test_whole_numbers_stand_for_floats_but_not_the_other_way(self) -> None:
        data = good()
        data["service"]["start_timeout"] = 60
        assert read(data).service.start_timeout == 60.0
        data["search"] = {"particles": 4.0}
        assert problems(data) == ("my.toml: search.particles = 4.0: should be a valid integer",)

    def test_the_seed_s_shape_of_service_groups(self) -> None:
        data = good()
        nodes = [{"host": "node0", "npu_ids": [0, 1]}, {"host": "node1", "npu_ids": [2, 3]}]
        data["parallel"] = {"enabled": True, "mode": "multi_node", "service_groups": [{"group_id": 0, "nodes": nodes}]}
        (group,) = read(data).parallel.service_groups
        assert [(node.host, node.npu_ids) for node in group.nodes] == [("node0", (0, 1)), ("node1", (2, 3))]

    @pytest.mark.parametrize("engine", templates.names())
    def test_every_template(self, engine: str) -> None:
        read = parse(templates.template(engine), engine, engines=ENGINES.names(), clients=CLIENTS.names())
        assert read.service.engine == (engine if engine in ENGINES.names() else "command")

    def test_a_template_s_file_of_the_service_s_own_can_be_commented_in(self) -> None:
        text = templates.template("command")
        template = re.sub(r"^# (?=\[service\.config_file\]|template =)", "", text, flags=re.MULTILINE)
        known = {"engines": ENGINES.names(), "clients": CLIENTS.names()}
        config = parse(template, "command", **known)
        assert config.service.config_file is not None
        assert config.service.model_copy(update={"config_file": None}) == parse(text, "command", **known).service

    def test_the_swarm_of_a_template_can_be_commented_in_and_has_the_defaults(self) -> None:
        text = templates.template("command").replace('# strategy = "pso"', 'strategy = "pso"')
        before, table, after = text.partition("# [search.swarm]")
        swarm, rest = (table + after).split("\n\n", 1)
        shown = re.sub("(?m)^# (?!chi)", "", swarm)
        config = parse(f"{before}{shown}\n{rest}", "command", engines=ENGINES.names(), clients=CLIENTS.names())
        assert config.search.swarm.model_fields_set == SwarmSection.model_fields.keys() - {"chi"}
        assert config.search.swarm.weights == SwarmSection().weights
        assert config.search.swarm.model_copy(update={"phi1": None, "phi2": None}) == SwarmSection()

    def test_overrides_win_over_the_file_and_make_missing_tables(self) -> None:
        data = {**good(), "search": {"seed": 1}}
        config = read(data, **{"search.seed": 2, "parallel.nodes_per_group": 4, "output": "elsewhere"})
        assert (config.search.seed, config.parallel.nodes_per_group, config.output) == (2, 4, "elsewhere")

    def test_a_configuration_cannot_be_changed(self) -> None:
        section: Any = read(good()).search
        with pytest.raises(ValueError, match="frozen"):
            section.seed = 1

    @given(st.dictionaries(st.sampled_from(["seed", "particles", "retries"]), st.integers(2, 10**6)))
    def test_what_is_dumped_is_read_back(self, search: dict[str, int]) -> None:
        config = read({**good(), "search": search})
        assert read(config.model_dump(exclude_none=True)) == config


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("section", "key", "value", "line"),
        [
            ("search", "particels", 8, "search.particels: unknown key; did you mean 'particles'?"),
            ("search", "particles", "many", "search.particles = 'many': should be a valid integer"),
            ("search", "particles", True, "search.particles = true: should be a valid integer"),
            ("search", "particles", 1, "search.particles = 1: should be greater than or equal to 2"),
            ("search", "evaluations", 0, "search.evaluations = 0: should be greater than or equal to 1"),
            ("service", "engine", "vlm", "service.engine = 'vlm': unknown; known are: command, llamacpp"),
            ("service", "engine", "comand", "service.engine = 'comand': unknown; did you mean 'command'?"),
            (
                "service",
                "engine",
                "mindie",
                "service.engine = 'mindie': should be \"command\"; mpipso init --engine mindie writes what that takes",
            ),
            ("service", "port", 70000, "service.port = 70000: should be less than or equal to 65535"),
            ("service", "env", {"A": 1}, "service.env.A = 1: should be a valid string"),
            ("service", "env", ["A=1"], "service.env = ['A=1']: should be a table"),
            ("service", "start_timeout", float("inf"), "service.start_timeout = inf: should be a finite number"),
            ("service", "stop_grace", -1.0, "service.stop_grace = -1.0: should be greater than or equal to 0"),
            ("service", "command", "serve --x", "service.command = 'serve --x': should be a list"),
            (
                "benchmark",
                "concurrency",
                "64",
                "benchmark.concurrency = '64': should be a number, several, or a parameter's name in braces",
            ),
            ("benchmark", "concurrency", 0, "benchmark.concurrency = 0: should be greater than or equal to 1"),
            (
                "benchmark",
                "request_rate",
                "{a b}",
                "benchmark.request_rate = '{a b}': should be a number, several, or a parameter's name in braces",
            ),
            ("benchmark", "goodput", {"tft_ms": 1}, "benchmark.goodput.tft_ms: unknown key; did you mean 'ttft_ms'?"),
            ("benchmark", "goodput", {"ttft_ms": 0}, "benchmark.goodput.ttft_ms = 0: should be greater than 0"),
            ("benchmark", "goodput", {}, "benchmark.goodput: give one or more of ttft_ms, tpot_ms and e2e_ms"),
            ("benchmark", "metrics", {"x": ""}, "benchmark.metrics.x = '': should have at least 1 character"),
            (
                "benchmark",
                "metrics",
                {"x": {"key": ""}},
                "benchmark.metrics.x.key = '': should have at least 1 character",
            ),
            (
                "benchmark",
                "metrics",
                {"x": {"unit": "s"}},
                "benchmark.metrics.x = {unit = 's'}: should have a key or a pattern",
            ),
            ("search", "evaluations", date(2020, 1, 2), "search.evaluations = 2020-01-02: should be a valid integer"),
            ("search", "seed", [[True, "a"]], "search.seed = [[true, 'a']]: should be a valid integer"),
            ("benchmark", "early_stop", 0, "benchmark.early_stop = 0: should be greater than 0"),
            ("benchmark", "early_stop", 1, "benchmark.early_stop = 1: should be less than 1"),
            ("benchmark", "early_stop", True, "benchmark.early_stop = true: should be a valid number"),
            ("benchmark", "client", "wrk", "benchmark.client = 'wrk': unknown; known are: command, openai"),
            ("parallel", "lease", 2.9, "parallel.lease = 2.9: should be greater than or equal to 3"),
            ("parallel", "mode", "both", "parallel.mode = 'both': should be 'auto', 'single_node' or 'multi_node'"),
            (
                "parallel",
                "devices_per_node",
                -1,
                "parallel.devices_per_node = -1: should be greater than or equal to 0",
            ),
        ],
    )
    def test_a_wrong_value_is_told_with_its_key(self, section: str, key: str, value: Any, line: str) -> None:
        data = good()
        data.setdefault(section, {})[key] = value
        assert problems(data) == (f"my.toml: {line}",)

    def test_a_key_without_letters(self) -> None:
        lines = problems({**good(), "": 1, "search": {"": 1}})
        assert [line.partition("; ")[0] for line in lines] == [
            'my.toml: search."": unknown key',
            'my.toml: "": unknown key',
        ]

    @pytest.mark.parametrize(
        ("changes", "line"),
        [
            ({"min": 9, "max": 3}, "min = 9 is greater than max = 3"),
            ({"default": 65}, "default = 65 is outside min = 1 and max = 64"),
            ({"default": "x"}, "default = 'x' is not of type int"),
            ({"default": True}, "default = True is not of type int"),
            ({"default": 2.5}, "default = 2.5 is not of type int"),
            ({"step": 8, "default": 4}, "default = 4 is not min plus a multiple of step = 8"),
            ({"min": 0, "scale": "log"}, "a log scale needs min > 0, not 0"),
            ({"step": 1, "scale": "log"}, 'a step goes with scale = "linear"'),
            ({"ratio_of": "other", "min": 0}, "a ratio needs min > 0, not 0"),
            ({"ratio_of": "other", "step": 1}, "a ratio has no step"),
            ({"min": 1.5}, "an int needs whole numbers for min, max and step"),
            ({"max": 2**53 + 2}, "an int has bounds of 9.0072e+15 (2**53) at most"),
            ({"max": 2**53 + 2, "ratio_of": "batch"}, "a ratio has a max of 9.0072e+15 (2**53) at most"),
            ({"choices": [1, 2]}, 'an int has min and max, not choices (or is type = "choice")'),
            ({"flag": "--batch", "env": "BATCH"}, "give one of flag, env and path, not several"),
            (
                {"flag": "batch"},
                'flag = \'batch\' should begin with "-" or end with "="; what is given without a flag stands',
            ),
            ({"flag": ""}, "flag = '' should begin with"),
            ({"flag": "-c batch="}, "flag = '-c batch=' would be passed on as one word, just as it stands: "),
            ({"flag": "--set=batch:{batch}="}, "flag = '--set=batch:{batch}=' would be passed on as one word"),
            ({"flag": "/--batch"}, "flag = '/--batch' should begin with"),
            ({"flag": "--on/--off"}, "flag = '--on/--off' would be passed on as one word: only a bool has"),
            ({"type": "bool"}, "a bool has no min, max, step, log scale or ratio_of"),
            ({"expression": "2 * x"}, "an expression computes the value"),
        ],
    )
    def test_a_parameter_that_contradicts_itself(self, changes: dict[str, Any], line: str) -> None:
        (problem,) = problems(with_parameter(**changes))
        assert problem.startswith(f"my.toml: parameter 'batch': {line}")

    @pytest.mark.parametrize(
        ("choices", "default", "line"),
        [
            (["a"], "a", "a choice needs at least two choices"),
            (["a", "a"], "a", "two choices are the same"),
            ([1, 1.0, 2], 1, "two choices are the same"),
            (["a", "b"], "c", "default = 'c' is not among the choices"),
            ([1, 2], True, "default = True is not among the choices"),
            ([1, -(10**400)], 1, "a choice is a number of 1.8e+308 at most"),
        ],
    )
    def test_choices_that_are_none(self, choices: list[Any], default: Any, line: str) -> None:
        data = good()
        data["parameters"] = [{"name": "kind", "type": "choice", "choices": choices, "default": default}]
        assert problems(data) == (f"my.toml: parameter 'kind': {line}",)

    def test_an_earlier_run_may_have_had_larger_numbers(self) -> None:
        data = good()
        part = {"name": "part", "type": "float", "ratio_of": "batch", "min": 0.5, "max": 1e17}
        data["parameters"] += [part, {"name": "kind", "type": "choice", "choices": [1, 10**400]}]
        assert len(problems(data)) == 2
        assert len(parse(tomli_w.dumps(data), "journal", earlier=True).parameters) == 3

    @pytest.mark.parametrize(
        "flag", ["--a", "-a", "/--no-a", "--a/--no-a", "--a/", "--a=1/--a=0", "--a=1/--a=", "/--a="]
    )
    def test_the_flags_of_a_bool(self, flag: str) -> None:
        data = good()
        data["parameters"] = [{"name": "a", "type": "bool", "flag": flag}]
        assert read(data).parameters[0].flag == flag
        for wrong in ("a", "/", "--a/no-a", "a/--no-a", "--a / --no-a"):
            data["parameters"][0]["flag"] = wrong
            (line,) = problems(data)
            told = "would be passed" if " " in wrong else "should begin with"
            assert line.startswith(f"my.toml: parameter 'a': flag = {wrong!r} {told}")

    @pytest.mark.parametrize("flag", ["--a=", "a=", "--a=/--no-a="])
    def test_the_flag_of_a_bool_takes_no_value(self, flag: str) -> None:
        data = good()
        data["parameters"] = [{"name": "a", "type": "bool", "flag": flag}]
        (line,) = problems(data)
        assert line.startswith(f"my.toml: parameter 'a': flag = {flag!r} would be passed on with nothing behind")
        assert parse(tomli_w.dumps(data), "journal", earlier=True).parameters[0].flag == flag

    @pytest.mark.parametrize("flag", ["--a/--no-a", "-a/-b", "--a/"])
    def test_only_a_bool_has_a_flag_for_each_value(self, flag: str) -> None:
        (line,) = problems(with_parameter(flag=flag))
        assert line.startswith(f"my.toml: parameter 'batch': flag = {flag!r} would be passed on as one word: only a")
        assert parse(tomli_w.dumps(with_parameter(flag=flag)), "journal", earlier=True).parameters[0].flag == flag

    @pytest.mark.parametrize("flag", ["--a", "-a=", "--conf=/etc/a=", "--conf=a/-b="])
    def test_the_flag_of_a_number(self, flag: str) -> None:
        assert read(with_parameter(flag=flag)).parameters[0].flag == flag

    @pytest.mark.parametrize(
        ("section", "key", "most"),
        [
            ("parallel", "devices_per_node", 1024),
            ("benchmark", "requests", 2**63 - 1),
            ("benchmark", "warmup", 2**63 - 1),
            ("search", "particles", 2**63 - 1),
            ("search", "confirm", 2**63 - 1),
        ],
    )
    def test_more_than_there_can_be(self, section: str, key: str, most: int) -> None:
        data = good()
        data.setdefault(section, {})[key] = 10**400
        (line,) = problems(data)
        assert line.startswith(f"my.toml: {section}.{key} = 1000")
        assert line.endswith(f": should be less than or equal to {most}")
        data[section][key] = most
        assert getattr(getattr(read(data), section), key) == most

    def test_what_a_flag_has_given_is_not_a_mistake_of_the_file(self) -> None:
        data = {**good(), "search": {"evaluations": 3, "iterations": 0}}
        overrides = {"search.evaluations": 0, "parallel.nodes_per_group": -1, "output": "\0"}
        assert sorted(problems(data, **overrides)) == [
            "--evaluations = 0: should be greater than or equal to 1",
            "--nodes-per-group = -1: should be greater than or equal to 1",
            "--output: holds the character \\u0000, which no command, no variable and no path can have",
            "my.toml: search.iterations = 0: should be greater than or equal to 1",
        ]

    def test_a_table_in_the_place_of_several(self) -> None:
        data = good()
        data["objective"]["slo"] = {"metric": "ttft_p99_ms", "max": 5}
        data["service"]["command"] = {"a": 1}
        data["parallel"] = {"service_groups": [{"group_id": 0, "nodes": {"host": "a"}}]}
        assert sorted(problems(data)) == [
            "my.toml: objective.slo = {metric = 'ttft_p99_ms', max = 5}: should be a list; [[objective.slo]] begins "
            "each of its tables",
            "my.toml: parallel.service_groups[0].nodes = {host = 'a'}: should be a list; "
            "[[parallel.service_groups.nodes]] begins each of its tables",
            "my.toml: service.command = {a = 1}: should be a list",
        ]

    def test_a_parameter_is_called_by_its_name_if_it_has_one(self) -> None:
        data = good()
        data["parameters"] = [
            {**BATCH, "max": "64", "mim": 1},
            {**BATCH, "name": "a b"},
            {**BATCH, "name": 7},
            {"type": "bool", "flag": "\0"},
            {**BATCH, "name": "wait", "flag": "\0", "choices": [[]]},
        ]
        assert [line.partition(" = ")[0].partition("\\u0000")[0] for line in problems(data)] == [
            "my.toml: parameters[3].flag: holds the character ",
            "my.toml: parameter 'wait': flag: holds the character ",
            "my.toml: parameter 'batch': max",
            "my.toml: parameter 'batch': mim: unknown key; did you mean 'min'?",
            "my.toml: parameters[1].name",
            "my.toml: parameters[2].name",
            "my.toml: parameters[3].name: is required",
            "my.toml: parameter 'wait': choices[0]",
        ]

    def test_a_copy_of_a_parameter_is_called_by_its_place(self) -> None:
        data = good()
        data["parameters"] = [BATCH, {**BATCH, "min": 100}, {**BATCH, "name": "other", "minimum": 1}]
        assert problems(data) == (
            "my.toml: parameters[1]: min = 100 is greater than max = 64",
            "my.toml: parameter 'other': minimum: unknown key; did you mean 'min'?",
        )

    def test_of_many_names_those_are_told_that_are_most_like_it(self) -> None:
        data = {**good(), "objective": {"maximize": "tps"}}
        (line,) = problems(data)
        known = line.removeprefix("my.toml: objective: metric 'tps' is unknown; known are: ").split(", ")
        assert len(known) == 27 and "output_throughput" in known
        flags = [{"name": f"flag_{letter * 9}", "type": "bool"} for letter in string.ascii_letters]
        data = {**good(), "constraints": [{"product": ["batch", "bt"], "equals": 8}]}
        data["parameters"] += flags
        (line,) = problems(data)
        known = line.rpartition("; known are: ")[2].split(", ")
        assert len(known) == 41 and known[-1] == "13 more" and "batch" in known

    def test_a_character_that_nothing_takes(self) -> None:
        data = {**good(), "output": "a\0b"}
        data["service"] |= {"command": ["serve", "\0"], "env": {"A": "\0"}, "port": -1}
        told = "holds the character \\u0000, which no command, no variable and no path can have"
        assert sorted(problems(data)) == [
            f"my.toml: output: {told}",
            f"my.toml: service.command[1]: {told}",
            f"my.toml: service.env.A: {told}",
            "my.toml: service.port = -1: should be greater than or equal to 0",
        ]

    def test_a_range_without_end(self) -> None:
        assert problems(with_parameter(max=float("inf"))) == (
            "my.toml: parameter 'batch': max = inf: should be a finite number",
        )
        data = good()
        data["parameters"] = [{"name": "batch", "type": "int", "min": 1}]
        assert problems(data) == ("my.toml: parameter 'batch': min and max are required",)

    def test_names_that_resolve_to_nothing(self) -> None:
        data = good()
        data["parameters"] += [dict(BATCH), {**BATCH, "name": "half", "type": "float", "ratio_of": "btach"}]
        data["constraints"] = [{"product": ["batch", "tp"], "equals": 8}]
        data["objective"] = {"minimize": "ttft_p98_ms", "slo": [{"metric": "tpot", "max": 1.0}]}
        lines = problems(data)
        assert len(lines) == 5
        assert lines[0] == "my.toml: parameter 'batch' is defined twice"
        assert "ratio_of names the unknown 'btach'" in lines[1]
        assert "product names the unknown parameter 'tp'" in lines[2]
        assert lines[3].startswith("my.toml: objective: metric 'ttft_p98_ms' is unknown; did you mean 'ttft_p9")
        assert lines[4].startswith("my.toml: objective.slo: metric 'tpot' is unknown")

    @pytest.mark.parametrize(
        ("constraint", "line"),
        [
            ({}, "constraints[0]: give either product and equals, or an expression"),
            (
                {"product": ["batch", "batch"], "equals": 4, "expression": "batch > 1"},
                "constraints[0]: give either product and equals, or an expression",
            ),
            (
                {"product": ["batch"], "equals": 4},
                "constraints[0]: a product needs two names or more, and what it equals",
            ),
        ],
    )
    def test_constraints_of_no_kind_or_both(self, constraint: dict[str, Any], line: str) -> None:
        data = good()
        data["constraints"] = [constraint]
        assert problems(data) == (f"my.toml: {line}",)

    def test_the_coefficients_of_the_swarm(self) -> None:
        data = good()
        data["search"] = {"strategy": "pso", "swarm": {"form": "constriction", "topology": "ring", "neighbours": 2}}
        assert read(data).search.swarm.topology == "ring"
        data["search"] = {"strategy": "genetic", "swarm": {"chi": 1.5}}
        lines = problems(data)
        assert len(lines) == 2
        assert lines[0].startswith("my.toml: search.strategy")
        assert lines[1].startswith("my.toml: search.swarm.chi")

    @pytest.mark.parametrize(
        ("search", "line"),
        [
            (
                {"swarm": {"phi1": 1.0}},
                "search: coefficients of [search.swarm] go with strategy = \"pso\", not 'surrogate'",
            ),
            (
                {"strategy": "pso", "swarm": {"chi": 0.6}},
                "search.swarm: chi = 0.6 goes with form = \"constriction\", not 'inertia'",
            ),
            (
                {"strategy": "pso", "swarm": {"form": "constriction", "inertia": 0.6}},
                "search.swarm: inertia = 0.6 goes with form = \"inertia\", not 'constriction'",
            ),
            (
                {"strategy": "pso", "swarm": {"form": "constriction", "phi1": 1.5}},
                "search.swarm: chi follows from phi1 + phi2 only where they are more than 4, not 3.55",
            ),
            (
                {"strategy": "pso", "swarm": {"neighbours": 2}},
                "search.swarm: neighbours = 2 goes with topology = \"ring\", not 'global'",
            ),
            (
                {"strategy": "pso", "swarm": {"topology": "ring", "informants": 2}},
                "search.swarm: informants = 2 goes with topology = \"random\", not 'ring'",
            ),
        ],
    )
    def test_coefficients_that_would_have_no_effect(self, search: dict[str, Any], line: str) -> None:
        data = good()
        data["search"] = search
        assert problems(data) == (f"my.toml: {line}",)

    def test_computed_settings_of_the_load_have_to_be_positive(self) -> None:
        data = with_parameter()
        data["parameters"] += [
            {"name": "sent", "type": "int", "expression": "batch - 6"},
            {"name": "rate", "type": "float", "min": 0.5, "max": 2.0},
        ]
        data["benchmark"] = {"client": "openai", "requests": "{sent}", "request_rate": "{rate}"}
        assert [condition.expression for condition in read(data).conditions] == ["sent >= 1"]

    @pytest.mark.parametrize(
        ("benchmark", "line"),
        [
            ({"concurrency": [8]}, "benchmark: concurrency should list two values or more, from the lowest to the"),
            ({"concurrency": [8, 4]}, "benchmark: concurrency should list two values or more, from the lowest to the"),
            ({"concurrency": list(range(1, 12))}, "benchmark: concurrency should list 10 values at most, not 11"),
            ({"request_rate": [1.0, 1.0]}, "benchmark: request_rate should list two values or more, from the lowest"),
            ({"concurrency": [4, 0]}, "benchmark.concurrency[1] = 0: should be greater than or equal to 1"),
            ({"concurrency": [4, "8"]}, "benchmark.concurrency[1] = '8': should be a valid integer"),
            ({"requests": [4, 8]}, "benchmark: several values of requests go with several of concurrency or request_r"),
            (
                {"requests": [4, 8], "concurrency": [1, 2, 3]},
                "benchmark: requests should be one number, or as many as concurrency has",
            ),
            (
                {"concurrency": [4, 8], "request_rate": [1.0, 2.0]},
                "benchmark: give concurrency (closed loop) or request_rate (open loop), not both",
            ),
        ],
    )
    def test_a_sweep_that_is_none(self, benchmark: dict[str, Any], line: str) -> None:
        (found,) = problems({**good(), "benchmark": {"client": "openai", **benchmark}})
        assert found.startswith(f"my.toml: {line}")

    def test_a_sweep_needs_limits_in_numbers_and_its_names_for_itself(self) -> None:
        data = with_parameter(name="concurrency")
        data["benchmark"] |= {"concurrency": [4, 8], "metrics": {"concurrency": "c"}}
        data["objective"]["slo"] = [{"metric": "ttft_p99_ms", "max": "baseline"}]
        first, second, third = problems(data)
        assert "parameter 'concurrency': in a sweep that is the name of benchmark.concurrency; give it another" in first
        assert "benchmark.metrics.concurrency: is told by benchmark.concurrency itself" in second
        assert 'the limit on ttft_p99_ms should be a number, not "baseline"' in third
        data["parameters"][0]["name"] = "requests"
        del data["benchmark"]["metrics"], data["objective"]["slo"]
        assert read(data).benchmark.several == ("requests", "concurrency")
        data["benchmark"] |= {"client": "command", "requests": 9}
        (told,) = problems(data)
        assert "parameter 'requests': in a sweep that is the name of benchmark.requests; give it another one" in told

    def test_a_limit_on_answers_may_refer_to_the_baseline_in_a_sweep(self) -> None:
        data = good()
        data["benchmark"] |= {"concurrency": [4, 8]}
        data["quality"] = {"command": ["ask"], "metrics": {"accuracy": "a"}}
        data["objective"]["slo"] = [{"metric": "accuracy", "min": "baseline"}, {"metric": "itl_p50_ms", "max": 9.0}]
        assert [limit.metric for limit in read(data).objective.absolute.slo] == ["itl_p50_ms"]
        data["objective"]["slo"][0]["metric"] = "accuracz"
        assert problems(data) == ("my.toml: objective.slo: metric 'accuracz' is unknown; did you mean 'accuracy'?",)

    def test_what_earlier_versions_let_pass_is_still_read(self) -> None:
        data = good()
        limits = [{"metric": "completed", "min": 5.0, "factor": 0.9}, {"metric": "completed", "max": 3.0}]
        data["objective"] = {"maximize": "output_throughput", "slo": limits}
        with pytest.raises(UserError):
            read(data)
        assert len(parse(tomli_w.dumps(data), "journal", earlier=True).objective.slo) == 2

    def test_derived_metrics_are_known_and_tell_what_has_to_be_measured(self) -> None:
        data = good()
        limits = [{"metric": "ttft_p95_ms", "max": 9.0}, {"metric": "per_batch", "min": 1.0}]
        expression = f"min(output_throughput, 5 * total_throughput) / {BATCH['name']}"
        data["objective"] = {"maximize": "per_batch", "slo": limits, "derived": {"per_batch": expression}}
        config = read(data)
        assert config.objective.metrics == ("per_batch", "ttft_p95_ms")
        assert config.needed == ("output_throughput", "total_throughput", "ttft_p95_ms")
        assert config.behind(["per_batch"]) == ("output_throughput", "total_throughput")
        assert config.behind(["ttft_p95_ms", "duration"]) == ("ttft_p95_ms", "duration")

    @pytest.mark.parametrize(
        ("derived", "line"),
        [
            ({"x": "output_throughputs / 2"}, "objective.derived.x: 'output_throughputs' is neither a metric nor a"),
            ({"ttft_p99_ms": "duration"}, "objective.derived.ttft_p99_ms: is a metric already"),
            ({BATCH["name"]: "duration"}, f"objective.derived.{BATCH['name']}: is a parameter already"),
            ({"y": "duration", "x": "y"}, "objective.derived.x: 'y' is neither a metric nor a parameter"),
        ],
    )
    def test_derived_metrics_that_cannot_be(self, derived: dict[str, str], line: str) -> None:
        (found,) = problems({**good(), "objective": {"maximize": "output_throughput", "derived": derived}})
        assert line in found

    def test_the_user_s_own_metrics_are_known(self) -> None:
        data = good()
        data["benchmark"]["metrics"] = {"joules": "power.sum"}
        data["objective"] = {"minimize": "joules"}
        assert read(data).objective.metric == "joules"

    def test_what_checks_the_answers_has_metrics_of_its_own(self) -> None:
        quality = {"command": ["lm_eval"], "metrics": {"accuracy": "results.gsm8k.exact_match,strict-match"}}
        limit = {"metric": "accuracy", "min": "baseline", "factor": 0.98}
        data = {**good(), "quality": quality, "objective": {"maximize": "output_throughput", "slo": [limit]}}
        config = read(data)
        assert config.needed == ("output_throughput", "accuracy")
        assert config.measured[-2:] == ("e2e_p99_ms", "accuracy")
        assert config.measuring_timeout == 1200.0 and read(good()).measuring_timeout == 600.0
        assert read(data, **{"benchmark.concurrency": (1, 2, 4), "objective.slo": ()}).measuring_timeout == 3600.0
        assert read(data, **{"objective.derived": {"wrong": "1 - accuracy"}}).objective.derived
        del quality["metrics"]
        (line,) = problems(data)
        assert line.startswith("my.toml: objective.slo: metric 'accuracy' is unknown")

    def test_what_is_to_be_judged_is_no_parameter(self) -> None:
        data = with_parameter(name="ttft_p99_ms")
        data["parameters"] += [{**data["parameters"][0], "name": "duration"}]
        assert read(data).needed == ("output_throughput",)
        data["objective"] |= {"slo": [{"metric": "ttft_p99_ms", "max": 9.0}, {"metric": "ttft_p99_ms", "min": 1.0}]}
        told = "objective.slo: 'ttft_p99_ms' is both a metric and a parameter; give one of them another name"
        assert problems(data) == (f"my.toml: {told}",)
        assert parse(tomli_w.dumps(data), "journal", earlier=True).objective.slo

    @pytest.mark.parametrize(
        ("quality", "line"),
        [
            (
                {"metrics": {"duration": "x"}},
                "quality.metrics.duration: is the name of a benchmark's metric",
            ),
            ({"metrics": {"joules": "x"}}, "quality.metrics.joules: is the name of a benchmark's metric"),
            ({"metric": {}}, "quality.metric: unknown key; did you mean 'metrics'?"),
            ({"metrics": {"a": {"pattern": "x"}}}, "quality.metrics.a.pattern = 'x': should have one group"),
            ({"timeout": 0}, "quality.timeout = 0: should be greater than 0"),
            ({"seed": 1}, "quality.seed: unknown key; known are: command, metrics, result_file, timeout"),
        ],
    )
    def test_a_check_of_answers_that_cannot_be(self, quality: dict[str, Any], line: str) -> None:
        data = {**good(), "benchmark": {"client": "command", "metrics": {"joules": "power.sum"}}}
        (found,) = problems({**data, "quality": {"command": ["check"], **quality}})
        assert found.startswith(f"my.toml: {line}")

    @pytest.mark.parametrize(
        ("objective", "line"),
        [
            ({}, "objective: give either maximize or minimize"),
            ({"maximize": "duration", "minimize": "duration"}, "objective: give either maximize or minimize"),
            (
                {"maximize": "duration", "slo": [{"metric": "duration"}]},
                "objective.slo[0]: give either max or min",
            ),
            (
                {"maximize": "duration", "slo": [{"metric": "duration", "max": 5.0, "factor": 1.1}]},
                'objective.slo[0]: factor = 1.1 goes with "baseline", not with a number',
            ),
            (
                {"maximize": "duration", "slo": [{"metric": "ttft_p99_ms", "max": -1.0}]},
                "objective.slo[0]: max = -1 cannot be kept: ttft_p99_ms is never below 0",
            ),
            (
                {
                    "maximize": "duration",
                    "slo": [
                        {"metric": "ttft_p99_ms", "min": 3000.0},
                        {"metric": "ttft_p99_ms", "max": "baseline"},
                        {"metric": "ttft_p99_ms", "max": 2000.0},
                    ],
                },
                "objective: slo: ttft_p99_ms cannot be at least 3000 and at most 2000",
            ),
            (
                {"maximize": "duration", "slo": [{"metric": "duration", "max": "base"}]},
                "objective.slo[0].max = 'base': should be a valid number or 'baseline'",
            ),
        ],
    )
    def test_an_objective_that_is_none(self, objective: dict[str, Any], line: str) -> None:
        assert problems({**good(), "objective": objective}) == (f"my.toml: {line}",)

    @pytest.mark.parametrize("load", [{"concurrency": [4, 8]}, {"request_rate": [0.5, 1.0]}])
    def test_a_sweep_is_not_stopped_early(self, load: dict[str, Any]) -> None:
        (key,) = load
        data = {**good(), "benchmark": {"client": "openai", "early_stop": 0.3, **load}}
        assert problems(data) == (
            f"my.toml: benchmark: early_stop goes with one load, not with a sweep ({key}), which ends by limits: "
            "leave it out",
        )
        for one in ({key: load[key][0]}, {key: "{batch}"}):
            data["benchmark"] = {"client": "openai", "early_stop": 0.3, **one}
            assert read(data).benchmark.early_stop == 0.3

    def test_both_kinds_of_load_at_once(self) -> None:
        data = good()
        data["benchmark"] |= {"concurrency": 4, "request_rate": 2.0}
        assert problems(data) == (
            "my.toml: benchmark: give concurrency (closed loop) or request_rate (open loop), not both",
        )

    def test_a_request_may_not_take_longer_than_the_benchmark(self) -> None:
        data = good()
        data["benchmark"] |= {"timeout": 60.0, "request_timeout": 60.0}
        assert read(data).benchmark.request_timeout == 60.0
        data["benchmark"]["request_timeout"] = 61.0
        assert problems(data) == (
            "my.toml: benchmark: request_timeout = 61 has no effect: the whole benchmark is stopped after timeout = 60",
        )

    @pytest.mark.parametrize(
        ("group", "line"),
        [
            ({"nodes": [{"host": "-oX"}]}, "nodes[0].host = '-oX': a host's name does not begin with '-'"),
            ({"nodes": [{"host": "a", "npu_ids": [0, 0]}]}, "nodes[0].npu_ids: [0, 0] names a device twice"),
            (
                {"nodes": [{"host": "a", "npu_ids": [0, 1]}, {"host": "a", "npu_ids": [1]}]},
                "service_groups[0]: device 1 of a is given to 2 nodes of one group",
            ),
            ({"nodes": [{"host": "a", "npu_ids": [-1]}]}, "nodes[0].npu_ids[0] = -1: should be greater than"),
            ({"nodes": [{"host": ""}]}, "nodes[0].host = '': should have at least 1 character"),
            ({"nodes": []}, "nodes = []: should have at least 1 item"),
            (
                {"nodes": [{"host": "a"}], "master_node_index": 1},
                "index = 1 but nodes are counted from 0 to 0",
            ),
            ({"nodes": [{"host": "a", "npuids": [1]}]}, "nodes[0].npuids: unknown key; did you mean 'npu_ids'?"),
        ],
    )
    def test_a_service_group_that_is_none(self, group: dict[str, Any], line: str) -> None:
        data = {**good(), "parallel": {"service_groups": [{"group_id": 0, **group}]}}
        (problem,) = problems(data)
        assert problem.startswith("my.toml: parallel.service_groups[0]")
        assert line in problem

    def test_two_groups_with_one_id(self) -> None:
        groups = [{"group_id": 3, "nodes": [{"host": host}]} for host in "ab"]
        assert problems({**good(), "parallel": {"service_groups": groups}}) == (
            "my.toml: parallel: group_id 3 is given to 2 service groups",
        )

    def test_a_key_that_is_no_name(self) -> None:
        data = good()
        data["service"]["env"] = {"A=B": "1"}
        data["benchmark"]["metrics"] = {"a key": "x"}
        data["search"] = {"first": [{"": 3}]}
        should = "should be letters, digits and '_', and begin with no digit"
        assert problems(data) == (
            f"my.toml: service.env: the key 'A=B' {should}",
            f"my.toml: benchmark.metrics: the key 'a key' {should}",
            f"my.toml: search.first[0]: the key '' {should}",
        )
        assert problems(with_parameter(name="a b")) == (f"my.toml: parameters[0].name = 'a b': {should}",)

    def test_everything_wrong_is_told_at_once(self) -> None:
        data = with_parameter(min=9, max=3)
        data["search"] = {"particels": 1, "evaluations": "x"}
        del data["benchmark"]
        lines = problems(data)
        assert len(lines) == 4
        assert "my.toml: benchmark: is required" in lines

    def test_a_table_where_none_belongs(self) -> None:
        assert problems({**good(), "search": 3}) == ("my.toml: search = 3: should be a table",)
        assert problems({**good(), "search": 3}, **{"search.seed": 1}) == ("my.toml: search must be a table",)


class TestTheFile:
    def test_that_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"no\.toml: cannot be read: No such file or directory"):
            load(tmp_path / "no.toml")

    def test_that_is_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="cannot be read: Is a directory"):
            load(tmp_path)

    def test_that_is_not_toml(self, tmp_path: Path) -> None:
        path = tmp_path / "my.toml"
        path.write_text("[search\nseed = 1")
        with pytest.raises(UserError, match=r"my\.toml: is not valid TOML: .*line 1"):
            load(path)

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("a = 1\n[b]\nc = 1\nc  =  2", "(at end of document), where c is set: the key is there already"),
            ("a = 1\n[b]\nc = 1\nc = 2\n", "(at line 4, column 6), where c is set: the key is there already"),
            ('a = "C:\\Users"', "where a is set: in \"...\" a backslash begins an escape: put '...' around it"),
            ('a = "C:\\data"', "where a is set: in \"...\" a backslash begins an escape: put '...' around it"),
            ("a = “x”", "where a is set: these are no quotes in TOML, which has \" and '"),
            ("a = \u2018x\u2019", "where a is set: these are no quotes in TOML, which has \" and '"),
            ("a = True", "where a is set: TOML has true and false in small letters"),
            ("a.b-c = None", "where a.b-c is set: TOML has nothing of that kind: leave the key out"),
            ("client = openai", "where client is set: a text needs quotes"),
            ('{"a": 1}', "(at line 1, column 1): the file is to be TOML, which has no braces around it"),
            ('env = { HF_TOKEN = "hf_QmF0d" X = "1" }', "(at line 1, column 31), where env is set"),
            ("a = [1,\n", "Invalid value (at end of document)"),
            (
                "a = [\n{ b = 1 }\n{ b = 2 }\n]\n",
                "(at line 3, column 1): is a comma missing between two values, or ] behind the last one?",
            ),
            ("a = [1, 2\nb = 3", "where b is set: is a comma missing between two values, or ] behind the last one?"),
        ],
    )
    def test_that_has_a_slip_tells_the_key_and_what_may_be_meant_but_no_value(self, text: str, told: str) -> None:
        with pytest.raises(UserError) as caught:
            parse(text, "my.toml")
        (line,) = caught.value.problems
        assert line.startswith("my.toml: is not valid TOML: ") and line.endswith(told)

    @pytest.mark.parametrize("value", [5000 * "[" + 5000 * "]", 5000 * "1"], ids=["deep", "digits"])
    def test_that_no_program_could_read(self, value: str) -> None:
        with pytest.raises(UserError, match=r"my\.toml: is not valid TOML: ") as caught:
            parse(f"a = {value}", "my.toml")
        assert len(str(caught.value)) < 300

    def test_that_holds_what_no_message_could_show(self) -> None:
        with pytest.raises(UserError, match=r"my\.toml: output = \['x+\.\.\.: should be a valid string") as caught:
            parse(f"output = ['{5000 * 'x'}']", "my.toml")
        assert all(len(line) < 300 for line in caught.value.problems)

    def test_with_a_byte_order_mark(self, tmp_path: Path) -> None:
        path = tmp_path / "my.toml"
        path.write_text(tomli_w.dumps(good()), encoding="utf-8-sig")
        assert load(path) == read(good())

    def test_that_is_not_text(self, tmp_path: Path) -> None:
        path = tmp_path / "my.toml"
        path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(UserError, match="cannot be read: not UTF-8 text"):
            load(path)
