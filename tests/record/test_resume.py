from __future__ import annotations

from pathlib import Path
from typing import Any, TypeGuard, get_args

import pytest
import tomli
import tomli_w
from pydantic import BaseModel
from record.written import Script

from mpipso.config import Config
from mpipso.config.file import parse
from mpipso.errors import UserError
from mpipso.record.resume import FREE, differences, hidden, read_run
from mpipso.startup import Options, read_config

TEXT = """
[service]
engine = "generic"
command = ["serve", "--api-key", "sk-1", "--port", "{port}"]
env = { HF_TOKEN = "hf_1", OMP_NUM_THREADS = "4" }

[benchmark]
client = "generic"
requests = 32

[objective]
maximize = "output_throughput"
[[objective.slo]]
metric = "ttft_p99_ms"
max = 1000.0

[search]
particles = 8

[[parameters]]
name = "n_parallel"
type = "int"
min = 1
max = 16
default = 1

[[parameters]]
name = "flash"
type = "bool"
default = true
"""


def changed(**values: Any) -> Config:
    """The configuration above with other values, by keys with ``__`` for the dot."""
    tree = tomli.loads(TEXT)
    for key, value in values.items():
        *sections, last = key.split("__")
        table = tree
        for section in sections:
            table = table[int(section)] if isinstance(table, list) else table.setdefault(section, {})
        table[last] = value
    return parse(tomli_w.dumps(tree), "test")


SAME = changed()


@pytest.mark.parametrize(
    "values",
    [
        {"search__evaluations": 1000, "search__iterations": 5, "search__time_limit": 60.0},
        {"search__stagnation": 5, "search__target": 500.0, "search__fruitless": 3, "search__retries": 0},
        {"search__evaluation_timeout": 10.0, "search__confirm": 5, "search__leaders": 2},
        {"parallel__nodes_per_group": 4, "parallel__lease": 5.0, "ssh__python": "/usr/bin/python3", "output": "x"},
        {"benchmark__timeout": 5.0, "benchmark__save_requests": True, "quality__timeout": 5.0},
        {"benchmark__early_stop": 0.3},
        {"service__port": 81, "service__work_dir": "/tmp", "service__start_timeout": 5.0, "service__stop_grace": 1.0},
    ],
)
def test_budgets_places_and_patience_may_change(values: dict[str, Any]) -> None:
    assert differences(SAME, changed(**values)) == [] == differences(changed(**values), SAME)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"search__seed": 7}, "search.seed was 0 and is now 7"),
        ({"search__particles": 16}, "search.particles was 8 and is now 16"),
        ({"search__schedule": "async"}, "search.schedule was 'generation' and is now 'async'"),
        ({"search__repeats": 3}, "search.repeats was 2 and is now 3"),
        ({"search__first": [{"n_parallel": 4}]}, "search.first[0].n_parallel was not set and is now 4"),
        ({"benchmark__requests": 64}, "benchmark.requests was 32 and is now 64"),
        ({"benchmark__concurrency": 8}, "benchmark.concurrency was not set and is now 8"),
        ({"quality__command": ["lm_eval"]}, "quality.command was not set and is now ['lm_eval']"),
        ({"quality__metrics__accuracy": "acc,none"}, "quality.metrics.accuracy was not set and is now 'acc,none'"),
        ({"objective__slo__0__max": 900.0}, "objective.slo[0].max was 1000.0 and is now 900.0"),
        ({"parameters__0__max": 32}, "parameters.n_parallel.max was 16.0 and is now 32.0"),
        ({"parameters__1__default": False}, "parameters.flash.default was true and is now false"),
        ({"service__model": "m"}, "service.model was '' and is now 'm'"),
        ({"service__env__OMP_NUM_THREADS": "8"}, "service.env.OMP_NUM_THREADS was '4' and is now '8'"),
        ({"service__env__CACHE": ""}, "service.env.CACHE was not set and is now ''"),
        (
            {"service__command": ["other"]},
            "service.command was ['serve', '--api-key', '***', '--port', '{port}'] and is",
        ),
    ],
)
def test_what_decides_the_search_may_not(values: dict[str, Any], line: str) -> None:
    (found,) = differences(SAME, changed(**values))
    assert found.startswith(line) and "\n" not in found


def test_a_variable_that_is_set_to_nothing_is_set() -> None:
    (line,) = differences(changed(service__env__CACHE=""), SAME)
    assert line == "service.env.CACHE was '' and is now not set"


def test_choices_are_compared_as_a_service_is_told_them() -> None:
    def choosing(*values: Any) -> Config:
        return changed(parameters=[{"name": "tp", "type": "choice", "choices": values}])

    assert differences(choosing(1, 2), choosing(1.0, 2.0)) == ["parameters.tp.choices was [1, 2] and is now [1.0, 2.0]"]
    assert differences(choosing("***", 2), choosing("hf_1", 2)) == []


def test_parameters_are_compared_by_name_and_in_their_order() -> None:
    tree = tomli.loads(TEXT)
    tree["parameters"].reverse()
    assert differences(SAME, parse(tomli_w.dumps(tree), "test")) == [
        "the order of parameters was ['n_parallel', 'flash'] and is now ['flash', 'n_parallel']"
    ]
    del tree["parameters"][0]
    less = parse(tomli_w.dumps(tree), "test")
    assert differences(SAME, less) == ["parameter 'flash' is gone"]
    assert differences(less, SAME) == ["parameter 'flash' is new"]


def test_a_configuration_file_is_compared_by_what_it_says() -> None:
    def serving(content: str) -> Config:
        return changed(service__config_file={"content": content})

    one, same, other = map(
        serving, ('{"batch": 1, "port": 80}', '{ "batch": 1,\n  "port": 80 }', '{"batch": 2, "port": 80}')
    )
    assert differences(one, same) == []
    assert differences(one, other) == ["service.config_file.content.batch was 1 and is now 2"]


def test_a_factor_without_effect_is_no_difference() -> None:
    tree = tomli.loads(TEXT)
    tree["objective"]["slo"][0]["factor"] = 0.9
    assert differences(parse(tomli_w.dumps(tree), "test", earlier=True), SAME) == []


def test_the_limit_of_a_benchmark_counts_where_failed_requests_do() -> None:
    some = {"benchmark__min_success_rate": 0.9, "benchmark__client": "openai"}
    assert differences(changed(**some), changed(**some, benchmark__timeout=5.0)) == [
        "benchmark.timeout was 600.0 and is now 5.0"
    ]
    own = {**some, "benchmark__request_timeout": 4.0}
    program = {**some, "benchmark__client": "command"}
    assert differences(changed(**program), changed(**program, benchmark__timeout=5.0)) == []
    assert differences(changed(**own), changed(**own, benchmark__timeout=5.0)) == []


def test_a_long_value_is_cut_to_one_line() -> None:
    (line,) = differences(SAME, changed(service__command=["serve", "x" * 500]))
    assert len(line) < 200


def test_of_long_values_that_is_shown_in_which_they_differ() -> None:
    bench = ["bench", "serve", "--base-url", "{base_url}", "--model", "{model}", "--num-prompts", "256", "--ignore-eos"]
    one, other = (changed(benchmark__command=[*bench, "--max-concurrency", n, *"-" * 40]) for n in ("64", "32"))
    assert differences(one, other) == [
        "benchmark.command was ...--max-concurrency', '64', '-', '-', '-', '-', '-', '-', '... "
        "and is now ...--max-concurrency', '32', '-', '-', '-', '-', '-', '-', '..."
    ]


def test_secrets_may_be_hidden_on_one_side_or_renewed_but_what_is_around_them_counts() -> None:
    kept = changed(service__env__HF_TOKEN="***", service__command=["serve", "--api-key", "***", "--port", "{port}"])
    assert differences(kept, SAME) == [] == differences(SAME, kept)
    assert differences(kept, changed(service__env__HF_TOKEN="hf_2")) == []
    spelt = [changed(service__env__HF_TOKEN="hf_of_mine", service__model=f"hub?hf_of_mine&{n}") for n in (1, 2)]
    assert differences(*spelt) == ["service.model was 'hub?***&1' and is now 'hub?***&2'"]
    glued = changed(service__command=["serve", "--api-key=***"])
    assert differences(glued, changed(service__command=["serve", "--api-key=sk-2"])) == []
    assert len(differences(glued, changed(service__command=["serve", "--other=sk-2"]))) == 1


def test_a_run_is_read_with_the_configuration_of_its_last_session(tmp_path: Path) -> None:
    script = Script(config="a = 1").evaluated(10, 0, 0).resumed(20, "a = 2")
    with (script.save(tmp_path) / "journal.jsonl").open("a") as torn:
        torn.write('{"seq":3,"t":30')
    text, events = read_run(tmp_path)
    assert text == "a = 2" and events == script.events


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(
    ("before", "particles", "window"),
    [
        ("", 16, None),
        ("particles = 8", 8, None),
        ("schedule = 'window'", 16, 16),
        ("schedule = 'window'\nparticles = 6", 6, 6),
        ("schedule = 'window'\nparticles = 6\nwindow = 3", 6, 3),
    ],
)
def test_a_run_keeps_the_sizes_that_it_had(
    before: str, particles: int, window: int | None, given: bool, tmp_path: Path
) -> None:
    """Earlier versions wrote them only where they were given, and had one size for all."""
    tree = tomli.loads(TEXT.replace("particles = 8", before))
    tree["service"] = {"engine": "command", "command": ["python3", "{port}", "{config}"]}
    tree["benchmark"]["client"] = "openai"
    folder = Script(config=tomli_w.dumps(tree)).save(tmp_path)
    tree["search"] = {key: value for key, value in tree["search"].items() if key == "schedule"}
    mine = tmp_path / "my.toml"
    mine.write_text(tomli_w.dumps(tree))
    search = read_config(Options(config=mine if given else None, resume=folder)).search.settled(40)
    assert (search.particles, search.window) == (particles, window)


def test_a_configuration_without_its_secrets_must_be_given_again(tmp_path: Path) -> None:
    text = '[service]\ncommand = ["serve", "--api-key=***"]\nenv = { HF_TOKEN = "***", A = "1" }\n'
    Script(config=text).save(tmp_path)
    with pytest.raises(
        UserError, match=r"jsonl: service\.command, service\.env\.HF_TOKEN: secrets are not kept; give .*"
    ):
        read_run(tmp_path)
    assert read_run(tmp_path, config_given=True)[0] == text
    with pytest.raises(UserError, match="here: its configuration is not valid TOML"):
        hidden("*** = [", "here")


def test_a_folder_without_a_run_to_go_on_with_is_refused(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"is not the folder of a run \(it has no journal\.jsonl\)"):
        read_run(tmp_path)
    journal.write_text("")
    with pytest.raises(UserError, match=r"jsonl: is not a folder"):
        read_run(journal)
    with pytest.raises(UserError, match="does not begin with the start of a run: there is nothing to go on with"):
        read_run(tmp_path)
    journal.write_text('{"seq":0,"t":1,"event":"started"}\n')
    with pytest.raises(UserError, match="has no configuration"):
        read_run(tmp_path)
    journal.write_text('{"seq":0,"t":1,"event":"started"}\n{"seq":\n')
    with pytest.raises(UserError, match=r"journal\.jsonl:2: is not a line of JSON: the journal is damaged"):
        read_run(tmp_path)


@pytest.mark.parametrize("key", FREE)
def test_what_a_resumed_run_may_change_is_a_key_of_the_configuration(key: str) -> None:
    model: type[BaseModel] = Config
    *sections, last = key.split(".")
    for section in sections:
        annotation = model.model_fields[section].annotation
        (model,) = (each for each in (annotation, *get_args(annotation)) if is_a_model(each))
    assert last in model.model_fields


def is_a_model(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
