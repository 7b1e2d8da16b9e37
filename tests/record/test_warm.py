from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from record.written import Script

from mpipso.config import Config
from mpipso.config.file import parse
from mpipso.errors import UserError
from mpipso.evaluation import Expected
from mpipso.record.journal import Journal, read
from mpipso.record.rows import writes
from mpipso.record.warm import Earlier, from_fields, read_earlier, to_fields
from mpipso.search.knowledge import fitted
from mpipso.search.space import Space

TEXT = """
[service]
engine = "generic"
[benchmark]
client = "generic"
requests = 32
metrics = { watts = "$.power" }
[objective]
maximize = "output_throughput"
[[objective.slo]]
metric = "ttft_p99_ms"
max = 1000.0
[[parameters]]
name = "n"
type = "int"
min = 1
max = 16
default = 1
[[parameters]]
name = "share"
type = "float"
min = 0.0
max = 1.0
default = 0.5
[[parameters]]
name = "flash"
type = "bool"
default = true
[[parameters]]
name = "cache"
type = "choice"
choices = ["f16", "q8", 4, false]
default = "f16"
[[parameters]]
name = "batch"
type = "int"
expression = "n * 2"
"""
CONFIG = parse(TEXT, "test")
WITHOUT_DEFAULTS = parse(re.sub("default = .*", "", TEXT), "test")
SPACE = Space(CONFIG.parameters, CONFIG.constraints)
BASE_SEARCHED = {"n": 1, "share": 0.5, "flash": True, "cache": "f16"}
BASE = {**BASE_SEARCHED, "batch": 2}
HEADER = "n,share,flash,cache,output_throughput,ttft_p99_ms"


def earlier(path: Path, config: Config = CONFIG) -> Earlier:
    return read_earlier(path, config, SPACE.encode)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "results.csv"


def problems(path: Path) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        earlier(path)
    return tuple(line.removeprefix(str(path)) for line in caught.value.problems)


def test_cells_are_typed_by_their_parameters(table: Path) -> None:
    table.write_text(f"{HEADER}\n8, 0.25 ,True,q8,100.5,20\n4.0,1,off,4,50,30\n1,0,1,FALSE,1,1e3\n")
    found = earlier(table)
    assert found.results == [
        ({"n": 8, "share": 0.25, "flash": True, "cache": "q8"}, {"output_throughput": 100.5, "ttft_p99_ms": 20.0}),
        ({"n": 4, "share": 1.0, "flash": False, "cache": 4}, {"output_throughput": 50.0, "ttft_p99_ms": 30.0}),
        ({"n": 1, "share": 0.0, "flash": True, "cache": False}, {"output_throughput": 1.0, "ttft_p99_ms": 1000.0}),
    ]
    assert [type(found.results[1][0][name]) for name in ("n", "share", "cache")] == [int, float, int]
    assert found.source == str(table) and found.description == f"{table}: 3 results"


@pytest.mark.parametrize("cell", ["", "inf", "-inf", "nan", " ", "1.79769e+308"])
def test_a_row_without_a_needed_metric_is_a_failure(table: Path, cell: str) -> None:
    table.write_text(f"{HEADER},watts\n8,0.5,true,q8,{cell},20,7\n4,0.5,true,q8,50,30,\n")
    found = earlier(table)
    assert [metrics for _, metrics in found.results] == [None, {"output_throughput": 50.0, "ttft_p99_ms": 30.0}]
    assert found.description == f"{table}: 2 results, 1 failure among them"


def test_columns_may_stand_in_any_order_and_strange_ones_are_named(table: Path) -> None:
    table.write_text("\ufefftime,watts,ttft_p99_ms,output_throughput,cache,flash,share,n,batch,note\n", "utf-8")
    with table.open("a") as file:
        file.write('1,250,20,100,f16,no,0.5,2,4,"two\nlines, and a comma"\n\n,,,\n')
    found = earlier(table)
    assert found.results == [
        (
            {"n": 2, "share": 0.5, "flash": False, "cache": "f16"},
            {"watts": 250.0, "ttft_p99_ms": 20.0, "output_throughput": 100.0},
        )
    ]
    assert found.description == f"{table}: 1 result; ignored columns: time, note"
    checked = parse(f'{TEXT}[quality]\nmetrics = {{ note = "results.sums.acc,none" }}', "test")
    table.write_text(f"{HEADER},note\n8,0.5,true,q8,100,20,-0.5\n")
    ((_, metrics),) = earlier(table, checked).results
    assert metrics == {"output_throughput": 100.0, "ttft_p99_ms": 20.0, "note": -0.5}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_any_system_has_them(table: Path, end: str) -> None:
    table.write_bytes(f"{HEADER}{end}8,0.5,true,q8,100,20{end}4,0.5,true,q8,50,30{end}".encode())
    assert [configuration["n"] for configuration, _ in earlier(table).results] == [8, 4]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_cells_may_be_separated_otherwise(table: Path, separator: str) -> None:
    table.write_text(f"\n{HEADER},note\n8,0.5,true,q8,100,20,".replace(",", separator) + "1,2,3,4,5,6,7,8\n")
    assert [configuration["n"] for configuration, _ in earlier(table).results] == [8]


def test_every_damaged_line_is_told_with_its_number(table: Path) -> None:
    table.write_text(
        f"{HEADER}\n8.5,0.5,true,q8,1,1\n8,0.5,true,q8,1\n8,much,true,q8,1,1\n8,0.5,maybe,q8,1,1\n8,0.5,true,q8,fast,1\n"
    )
    assert problems(table) == (
        ":2: n = '8.5' is not an int",
        ":3: has 5 cells, and the header has 6",
        ":4: share = 'much' is not a float",
        ":5: flash = 'maybe' is not a bool",
        ":6: output_throughput = 'fast' is not a number",
    )
    table.write_text(HEADER + "\n" + "inf,0.5,true,q8,1,1\n" * 30)
    assert len(problems(table)) == 11 and problems(table)[-1] == ": and 20 more lines like these"


def test_missing_and_doubled_columns_are_told_with_what_may_have_been_meant(table: Path) -> None:
    table.write_text("N,share,share,flash,cache,output_troughput\n")
    assert problems(table) == (
        ":1: has no column for the parameter 'n'; did you mean 'N'?",
        ":1: has no column for the metric 'output_throughput'; did you mean 'output_troughput'?",
        ":1: has no column for the metric 'ttft_p99_ms'",
        ":1: has two columns 'share'",
    )


def test_a_column_that_is_missing_stands_for_the_default_unless_another_may_be_meant(table: Path) -> None:
    table.write_text("n,batch,cache,output_throughput,ttft_p99_ms,watts\n8,16,q8,100,20,7\n99,198,f16,100,20,7\n")
    found = earlier(table)
    assert [configuration for configuration, _ in found.results] == [{**BASE_SEARCHED, "n": 8, "cache": "q8"}]
    assert found.description == (
        f"{table}: 1 result; 1 left out: outside the search space (n: 99 is out of bounds); "
        "no parameter there, and counted as the default: share=0.5 flash=true"
    )
    table.write_text("n,shares,FLASH,cache,output_throughput,ttft_p99_ms\n8,0.5,true,q8,100,20\n")
    assert problems(table) == (
        ":1: has no column for the parameter 'share'; did you mean 'shares'?",
        ":1: has no column for the parameter 'flash'; did you mean 'FLASH'?",
    )


def test_a_column_without_a_default_must_not_be_missing_nor_all_of_them(table: Path) -> None:
    table.write_text("n,flash,cache,output_throughput,ttft_p99_ms\n8,true,q8,100,20\n")
    with pytest.raises(UserError, match="1: has no column for the parameter 'share'"):
        earlier(table, WITHOUT_DEFAULTS)
    table.write_text("output_throughput,ttft_p99_ms\n100,20\n")
    assert problems(table) == tuple(f":1: has no column for the parameter {name!r}" for name in BASE_SEARCHED)


def test_a_file_that_is_no_table_is_refused(table: Path, tmp_path: Path) -> None:
    assert problems(table) == (": cannot be read: No such file or directory",)
    table.write_bytes(b"\xff\xfe")
    assert problems(table) == (": cannot be read: is not UTF-8 text",)
    table.write_text("")
    assert problems(table)[0].startswith(":1: has no header")
    table.write_text(f"{HEADER}\n")
    assert problems(table) == (": has no result to begin with",)
    table.write_text(f'{HEADER}\n1,"a"b\n')
    assert problems(table)[0].startswith(":2: is not CSV")


def test_what_this_search_has_no_use_for_is_left_out_and_counted(table: Path) -> None:
    rows = [
        "8,0.5,true,q8,1,1",
        "99,0.5,true,q8,1,1",
        "99,0.5,true,q8,1,1",
        "8,0.5,true,f32,1,1",
        "***,0.5,true,q8,1,1",
    ]
    table.write_text("\n".join([HEADER, *rows]))
    found = earlier(table)
    assert len(found.results) == 1
    assert found.description == (
        f"{table}: 1 result; 2 left out: outside the search space (n: 99 is out of bounds); "
        "1 left out: outside the search space (cache: 'f32' is not among the choices); "
        "1 left out: n was hidden as a secret"
    )
    more = ["8,0.5,true,f64,1,1", "98,0.5,true,q8,1,1"]
    table.write_text("\n".join([HEADER, *rows, *more]))
    assert earlier(table).description == f"{found.description}; 2 left out for other reasons"
    table.write_text("\n".join([HEADER, rows[1]]))
    assert problems(table) == (
        ": has no result to begin with: 1 left out: outside the search space (n: 99 is out of bounds)",
    )


def measured(script: Script, number: int, tokens: float | None, **changes: object) -> Script:
    kind = changes.pop("kind", "configuration")
    label = changes.pop("label", "")
    metrics = {} if tokens is None else {"metrics": {"output_throughput": tokens, "ttft_p99_ms": 10.0}}
    return script.evaluated(
        10, number, 0, 5.0, tokens=tokens, configuration={**BASE, **changes}, kind=kind, label=label, **metrics
    )


def test_a_run_gives_one_result_per_configuration(tmp_path: Path) -> None:
    script = measured(Script(config=TEXT), 0, 100.0, label="baseline")
    script = measured(measured(script, 1, 110.0, label="repeat"), 2, 90.0, label="confirm")
    script = measured(measured(script, 3, None, n=2), 4, None, n=3, kind="infrastructure")
    with (measured(script, 5, 7.0, n=99).save(tmp_path) / "journal.jsonl").open("a") as torn:
        torn.write('{"seq":')
    for path in (tmp_path, tmp_path / "journal.jsonl"):
        found = earlier(path)
        assert found.results == [(BASE, {"output_throughput": 100.0, "ttft_p99_ms": 10.0}), ({**BASE, "n": 2}, None)]
        assert found.description == (
            f"{path}: 2 results, 1 failure among them; 1 left out: outside the search space (n: 99 is out of bounds)"
        )


def test_of_a_run_what_was_stopped_early_is_known_by_what_was_expected(tmp_path: Path) -> None:
    """However another search calls it best, if that needs no more; and not beside a whole measurement."""
    script = measured(Script(config=TEXT), 0, 100.0, label="baseline")
    script.stopped(20, 1, 0, 60.0, configuration=BASE | {"n": 2, "batch": 4})
    found = earlier(script.save(tmp_path / "stopped"))
    assert [metrics for _, metrics in found.results][1:] == [{"output_throughput": 60.0}]
    other = parse(TEXT.replace('maximize = "output_throughput"', 'minimize = "e2e_mean_ms"'), "test")
    with pytest.raises(UserError, match=r"has no result to begin with: .*e2e_mean_ms was not measured"):
        earlier(tmp_path / "stopped", other)
    script.evaluated(30, 2, 0, tokens=None, configuration=BASE | {"n": 2, "batch": 4}, label="repeat")
    found = earlier(script.save(tmp_path / "failed"))
    assert [metrics for _, metrics in found.results][1:] == [None], "it was measured again, and failed"


def test_a_run_that_lacks_a_metric_or_hid_a_value_says_so(tmp_path: Path) -> None:
    script = measured(Script(config=TEXT), 0, 100.0).evaluated(20, 1, 0, configuration=BASE | {"n": 2})
    found = earlier(measured(script, 2, 100.0, cache="***").save(tmp_path))
    assert len(found.results) == 1
    assert "1 left out: ttft_p99_ms was not measured; 1 left out: cache was hidden as a secret" in found.description


def test_a_run_counts_only_as_its_baseline_was_in_what_is_no_parameter_any_more(tmp_path: Path) -> None:
    script = measured(Script(config=TEXT), 0, 100.0, label="baseline", queue=1, old=7, mode=True)
    script = measured(
        measured(script, 1, 90.0, n=2, queue=1, old=7, mode=True), 2, None, n=3, queue=2, old=7, mode=True
    )
    script = measured(measured(script, 3, None, n=4, queue=1, old=7, mode=1), 4, 80.0, n=5, queue=0, old=7, mode=False)
    found = earlier(script.save(tmp_path))
    assert [configuration["n"] for configuration, _ in found.results] == [1, 2]
    assert found.description == (
        f"{tmp_path}: 2 results; 3 left out: no parameter any more, and with another value than queue=1 mode=true"
    )


@pytest.mark.parametrize(
    ("parameter", "service", "kept"),
    [
        ('type = "int"\nmin = 1\nmax = 9\nflag = "--q"', 'command = ["serve", "--q", "2"]', [2]),
        ('type = "int"\nmin = 1\nmax = 9\nflag = "--q="', 'command = ["serve", "--q=2", "--other"]', [2]),
        ('type = "int"\nmin = 1\nmax = 9\nflag = "--q"', 'command = ["serve", "--q", "{n}"]', [1]),
        ('type = "int"\nmin = 1\nmax = 9\nflag = "--q"', 'command = ["serve", "--q", "many"]', [1]),
        ('type = "int"\nmin = 1\nmax = 9\nflag = "--q"', 'command = ["serve", "--q"]', [1]),
        ('type = "int"\nmin = 1\nmax = 9\nenv = "Q"', 'env = { Q = "2" }', [2]),
        ('type = "int"\nmin = 1\nmax = 9\nenv = "Q"', 'env = { R = "2" }', [1]),
        ('type = "int"\nmin = 1\nmax = 9\npath = "a.0.b"', 'config_file = { content = \'{"a": [{"b": 2}]}\' }', [2]),
        ('type = "int"\nmin = 1\nmax = 9\npath = "a.b"', "config_file = { content = '{\"a.b\": 2}' }", [2]),
        (
            'type = "int"\nmin = 1\nmax = 9\npath = "a-b.c-d"',
            'config_file = { content = \'{"a_b": {"c-d": 2}}\' }',
            [2],
        ),
        ('type = "int"\nmin = 1\nmax = 9\npath = "a.1.b"', 'config_file = { content = \'{"a": [{"b": 2}]}\' }', [1]),
        ('type = "int"\nmin = 1\nmax = 9', 'config_file = { format = "yaml", content = "queue: 2" }', [2]),
        ('type = "choice"\nchoices = [1, 2]\nflag = "-q"', 'command = ["serve", "-q", "2"]', [2]),
        ('type = "bool"\nflag = "--q/--no-q"', 'command = ["serve", "--no-q"]', [False]),
        ('type = "bool"\nflag = "--q/--no-q"', 'command = ["serve", "--q"]', [True]),
        ('type = "bool"', 'command = ["serve", "--queue"]', [True]),
        ('type = "bool"', 'command = ["serve", "--no-queue"]', [False]),
    ],
)
def test_what_is_no_parameter_any_more_counts_as_the_service_has_it_now(
    parameter: str, service: str, kept: list[object], tmp_path: Path
) -> None:
    one, two = (True, False) if kept[0] is True or kept[0] is False else (1, 2)
    tuned = f'{TEXT}[[parameters]]\nname = "queue"\n{parameter}\n'
    now = parse(TEXT.replace('engine = "generic"', f'engine = "generic"\n{service}'), "test")
    script = measured(Script(config=tuned), 0, 100.0, label="baseline", queue=one)
    found = earlier(measured(script, 1, 90.0, n=2, queue=two).save(tmp_path), now)
    assert [configuration["queue"] for configuration, _ in found.results] == kept
    assert "1 left out: no parameter any more, and with another value than queue=" in found.description


def test_a_flag_of_what_starts_the_service_is_none_of_a_parameter(tmp_path: Path) -> None:
    queue = '[[parameters]]\nname = "queue"\ntype = "int"\nmin = 1\nmax = 9\nflag = "-n"\n'
    text = TEXT.replace('engine = "generic"', 'engine = "generic"\ncommand = ["nice", "-n", "2", "serve"]')
    script = measured(Script(config=text + queue), 0, 100.0, label="baseline", queue=1)
    found = earlier(measured(script, 1, 90.0, n=2, queue=2).save(tmp_path), parse(text, "test"))
    assert [configuration["queue"] for configuration, _ in found.results] == [1]


def test_of_a_table_of_sweeps_the_loads_that_count_are_read(tmp_path: Path) -> None:
    path = tmp_path / "peers.csv"
    rows = "1,concurrency 1,false,50,9", "1,concurrency 4,true,80,9", "2,concurrency 1,true,60,9"
    path.write_text("\n".join(["n,load,counts,output_throughput,ttft_p99_ms", *rows]))
    found = earlier(path)
    assert [metrics and metrics["output_throughput"] for _, metrics in found.results] == [80.0, 60.0]


def test_a_value_that_was_never_measured_leaves_nothing(tmp_path: Path) -> None:
    queue = '[[parameters]]\nname = "queue"\ntype = "choice"\nchoices = ["a", "b"]\nflag = "-q"\n'
    now = parse(TEXT.replace('engine = "generic"', 'engine = "generic"\ncommand = ["serve", "-q", "c"]'), "test")
    script = measured(Script(config=TEXT + queue), 0, 100.0, label="baseline", queue="a")
    with pytest.raises(UserError, match="1 left out: no parameter any more, and with another value than queue=c"):
        earlier(script.save(tmp_path), now)


def test_a_run_of_which_nothing_is_as_its_baseline_was_says_so(tmp_path: Path) -> None:
    script = measured(Script(config=TEXT), 0, None, label="baseline", queue=1, kind="infrastructure")
    assert problems(measured(script, 1, 90.0, queue=2).save(tmp_path)) == (
        ": has no result to begin with: 1 left out: no parameter any more, and with another value than queue=1",
    )


def test_what_was_computed_in_a_run_is_no_choice_of_its_own(tmp_path: Path) -> None:
    total = '[[parameters]]\nname = "total"\ntype = "int"\nexpression = "2 * n"\nflag = "-t"\n'
    script = measured(Script(config=TEXT + total), 0, 100.0, label="baseline", total=2)
    assert len(earlier(measured(script, 1, 90.0, n=2, total=4).save(tmp_path)).results) == 2


def test_a_fixed_load_is_known_where_it_has_become_a_parameter(tmp_path: Path) -> None:
    fixed, tuned = (TEXT.replace("requests = 32", text) for text in ("requests = 8", 'requests = "{n}"'))
    script = Script(config=fixed)
    metrics = {"output_throughput": 100.0, "ttft_p99_ms": 10.0}
    script.evaluated(10, 0, 0, configuration={"share": 0.5, "flash": True, "cache": "f16"}, metrics=metrics)
    found = earlier(script.save(tmp_path), parse(tuned, "test"))
    assert [configuration["n"] for configuration, _ in found.results] == [8]
    assert found.description.endswith(": 1 result")


def test_a_load_that_was_tuned_counts_where_it_was_as_it_is_fixed_now(tmp_path: Path) -> None:
    clients = '[[parameters]]\nname = "clients"\ntype = "int"\nmin = 1\nmax = 9\ndefault = 2\n'
    tuned = TEXT.replace("requests = 32", 'requests = 32\nconcurrency = "{clients}"') + clients
    now = parse(TEXT.replace("requests = 32", "requests = 32\nconcurrency = 4"), "test")
    script = measured(Script(config=tuned), 0, 100.0, label="baseline", clients=2)
    found = earlier(measured(script, 1, 90.0, n=2, clients=4).save(tmp_path), now)
    assert [configuration["n"] for configuration, _ in found.results] == [2]
    assert "1 left out: no parameter any more, and with another value than clients=4" in found.description
    assert "measured otherwise" not in found.description
    computed = tuned.replace("min = 1\nmax = 9\ndefault = 2", 'expression = "2 * n"')
    script = measured(Script(config=computed), 0, 100.0, label="baseline", clients=2)
    found = earlier(measured(script, 1, 90.0, n=2, clients=4).save(tmp_path / "computed"), now)
    assert [configuration["n"] for configuration, _ in found.results] == [2]


def test_a_sweep_is_known_by_the_load_that_counted_where_that_has_become_a_parameter(tmp_path: Path) -> None:
    clients = '[[parameters]]\nname = "clients"\ntype = "int"\nmin = 1\nmax = 9\ndefault = 2\n'
    now = parse(TEXT.replace("requests = 32", 'requests = 32\nconcurrency = "{clients}"') + clients, "test")
    swept = TEXT.replace("requests = 32", "requests = 32\nconcurrency = [4, 8]")
    script = Script(config=swept)
    rates = {4.0: 50.0, 8.0: 90.0}
    four, eight = ({"output_throughput": r, "ttft_p99_ms": 10.0, "concurrency": load} for load, r in rates.items())
    for number, loads in enumerate(([four, eight], [four])):
        configuration = {"share": 0.5, "flash": True, "cache": "f16", "n": number + 1}
        told = {f"concurrency {each['concurrency']:g}": each for each in loads}
        script.evaluated(10, number, 0, configuration=configuration, metrics=loads[-1], loads=told)
    found = earlier(script.save(tmp_path), now)
    known = [(each["n"], each["clients"], (metrics or {})["output_throughput"]) for each, metrics in found.results]
    assert known == [(1, 4, 50.0), (1, 8, 90.0), (2, 4, 50.0)]


@pytest.mark.parametrize(("name", "more"), [("clients", ""), ("concurrency", ""), ("clients", ", '--quiet'")])
def test_a_sweep_of_a_command_is_known_by_its_loads_where_a_parameter_has_their_place(
    tmp_path: Path, name: str, more: str
) -> None:
    command = TEXT.replace('client = "generic"', "client = 'command'\ncommand = ['bench', '-c{concurrency}', '{n}']")
    swept = command.replace("requests = 32", "requests = 32\nconcurrency = [4, 8]")
    words = f"'-c{{{name}}}', '{{n}}'{more}]"
    tuned = command.replace("'-c{concurrency}', '{n}']", words)
    clients = f'[[parameters]]\nname = "{name}"\ntype = "int"\nmin = 1\nmax = 9\ndefault = 2\n'
    rates = {4.0: 50.0, 8.0: 90.0}
    four, eight = ({"output_throughput": r, "ttft_p99_ms": 10.0, "concurrency": load} for load, r in rates.items())
    configuration = {"share": 0.5, "flash": True, "cache": "f16", "n": 1}
    loads = {"concurrency 4": four, "concurrency 8": eight}
    script = Script(config=swept).evaluated(10, 0, 0, configuration=configuration, metrics=eight, loads=loads)
    found = earlier(script.save(tmp_path), parse(tuned + clients, "test"))
    known = [(each[name], (metrics or {})["output_throughput"]) for each, metrics in found.results]
    assert known == [(4, 50.0), (8, 90.0)]
    assert ("measured otherwise: benchmark.command" in found.description) == bool(more)
    assert "benchmark.concurrency" not in found.description and "counted as the default" not in found.description


def test_that_a_load_which_was_tuned_is_swept_now_is_told(tmp_path: Path) -> None:
    clients = '[[parameters]]\nname = "clients"\ntype = "int"\nmin = 1\nmax = 9\ndefault = 2\n'
    tuned = TEXT.replace("requests = 32", 'requests = 32\nconcurrency = "{clients}"') + clients
    now = parse(TEXT.replace("requests = 32", "requests = 32\nconcurrency = [2, 4]"), "test")
    found = earlier(measured(Script(config=tuned), 0, 100.0, label="baseline", clients=2).save(tmp_path), now)
    assert "measured otherwise: benchmark.concurrency was '{clients}' and is now [2, 4]" in found.description


def test_without_a_baseline_what_is_no_parameter_any_more_is_ignored_and_named(tmp_path: Path) -> None:
    script = measured(measured(Script(config=TEXT), 0, 100.0, queue=1, old=7), 1, None, n=2, queue=2, old=7)
    found = earlier(script.save(tmp_path))
    assert found.description == (
        f"{tmp_path}: 2 results, 1 failure among them; "
        "ignored parameters, without a baseline to compare with: queue, old"
    )


def test_what_was_no_parameter_in_a_run_counts_as_its_default(tmp_path: Path) -> None:
    script = Script(config=TEXT)
    metrics = {"output_throughput": 100.0, "ttft_p99_ms": 10.0}
    for number in (1, 2, 8):
        script.evaluated(10, number, 0, configuration={"n": number, "share": 0.5, "flash": True}, metrics=metrics)
    folder = script.save(tmp_path)
    found = earlier(folder)
    assert found.results == [({**BASE_SEARCHED, "n": number}, metrics) for number in (1, 2, 8)]
    assert found.description == f"{folder}: 3 results; no parameter there, and counted as the default: cache=f16"
    with pytest.raises(UserError, match=r"no result to begin with: 3 left out: .*\(cache is missing\)"):
        earlier(folder, WITHOUT_DEFAULTS)
    config = parse(f"{TEXT}[[constraints]]\nexpression = \"n < 8 or cache != 'f16'\"", "test")
    space = Space(config.parameters, config.constraints)
    constrained = read_earlier(folder, config, lambda given: fitted(space, given))
    assert [configuration["n"] for configuration, _ in constrained.results] == [1, 2]
    assert "1 left out: outside the search space (constraint: " in constrained.description


def test_a_run_with_none_of_the_parameters_is_not_counted_as_the_baseline(tmp_path: Path) -> None:
    script = Script(config=TEXT).evaluated(10, 0, 0, configuration={"queue": 1}, metrics={"ttft_p99_ms": 10.0})
    assert "no result to begin with" in problems(script.save(tmp_path))[0]


def test_a_run_with_another_workload_is_marked_as_such(tmp_path: Path) -> None:
    folder = measured(Script(config=TEXT.replace("requests = 32", "requests = 8")), 0, 100.0).save(tmp_path)
    assert earlier(folder).description.endswith("1 result; measured otherwise: benchmark.requests was 8 and is now 32")
    text = TEXT.replace("requests = 32", "requests = 8\nconcurrency = 4\nseed = 7\nwarmup = 0")
    folder = measured(Script(config=text), 0, 100.0).save(tmp_path)
    assert re.search(r"measured otherwise: benchmark\.requests was [^,]*, .* and 1 more$", earlier(folder).description)
    folder = measured(Script(config=f'{TEXT}[quality]\ncommand = ["check"]'), 0, 100.0).save(tmp_path)
    assert earlier(folder).description.endswith("measured otherwise: quality.command was ['check'] and is now not set")
    early = TEXT.replace("requests = 32", "requests = 32\nearly_stop = 0.3")
    folder = measured(Script(config=early), 0, 100.0).save(tmp_path)
    assert earlier(folder).description.endswith(": 1 result"), "whole benchmarks measure the same"
    folder = measured(Script(config="[service]\nnew_key = 1"), 0, 100.0).save(tmp_path)
    assert "its configuration is of another version" in earlier(folder).description


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    assert problems(tmp_path)[0].startswith(": is not the folder of a run")
    Script(config=TEXT).save(tmp_path)
    assert problems(tmp_path) == (": has no result to begin with",)
    Script(config=TEXT).add(1, "evaluated", number=0).save(tmp_path)
    assert problems(tmp_path)[0].startswith("/journal.jsonl: an event lacks what this version expects")


def test_what_was_learned_can_be_journalled(tmp_path: Path) -> None:
    results = [({"n": 1}, {"x": 2.0}), ({"n": 2}, None), ({"n": 3}, Expected(x=4.0))]
    with Journal.create(tmp_path) as journal:
        journal.write("learned", **to_fields(Earlier("a", results, "")))
    (event,) = read(tmp_path / "journal.jsonl")
    assert event["source"] == "a"
    assert event["results"] == [
        {"configuration": {"n": 1}, "metrics": {"x": 2.0}},
        {"configuration": {"n": 2}, "metrics": None},
        {"configuration": {"n": 3}, "metrics": {"x": 4.0}, "expected": True},
    ]
    assert from_fields(event) == results
    assert [isinstance(metrics, Expected) for _, metrics in from_fields(event)] == [False, False, True]


@given(st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()))
def test_a_choice_is_recognised_by_what_python_writes_for_it(choice: bool | int | float | str) -> None:
    assert writes(str(choice), choice)


ROWS = st.lists(
    st.tuples(
        st.integers(1, 16),
        st.floats(0.0, 1.0, width=16),
        st.booleans(),
        st.sampled_from(["f16", "q8", 4, False]),
        st.floats(1.0, 1e6),
    ),
    min_size=1,
    max_size=5,
)


@given(ROWS)
def test_a_table_comes_back_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple]) -> None:
    path = tmp_path_factory.mktemp("tables") / "results.csv"
    lines = [",".join(map(str, (*row, 10))) for row in rows]
    path.write_text("\n".join([HEADER, *lines]))
    found = [
        (*configuration.values(), (metrics or {})["output_throughput"])
        for configuration, metrics in earlier(path).results
    ]
    assert found == rows and [list(map(type, row)) for row in found] == [list(map(type, row)) for row in rows]
