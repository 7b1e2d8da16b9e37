from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpipso.config import Constraint, Parameter
from mpipso.errors import UserError
from mpipso.evaluation import Value
from mpipso.search.expressions import Expression
from mpipso.search.space import Space


def integer(name: str, low: float, high: float, **more: Any) -> Parameter:
    return Parameter(name=name, type="int", min=low, max=high, **more)


def real(name: str, low: float, high: float, **more: Any) -> Parameter:
    return Parameter(name=name, type="float", min=low, max=high, **more)


def choice(name: str, *choices: Value, **more: Any) -> Parameter:
    return Parameter(name=name, type="choice", choices=choices, **more)


def computed(name: str, kind: Any, expression: str) -> Parameter:
    return Parameter(name=name, type=kind, expression=expression)


def parallel(devices: int, **defaults: int) -> Space:
    degrees = (1, 2, 4, 8, 16)
    return Space(
        [choice(name, *degrees, default=defaults.get(name)) for name in ("tp", "dp", "pp")],
        [Constraint(product=("tp", "dp", "pp"), equals=devices)],
    )


def sample(space: Space, count: int = 4000, seed: int = 0) -> list[dict[str, Value]]:
    return [space.decode(point) for point in np.random.default_rng(seed).random((count, space.dimensions))]


def shares(space: Space, name: str) -> dict[Value, float]:
    found = Counter(configuration[name] for configuration in sample(space))
    return {value: count / found.total() for value, count in found.items()}


# --- decoding -----------------------------------------------------------------------------------------------------


def test_a_configuration_lists_every_parameter_in_the_order_of_the_file() -> None:
    space = Space(
        [computed("total", "int", "rows * width"), integer("rows", 1, 4, ratio_of="width"), integer("width", 2, 2)]
    )
    assert list(space.decode([1.0, 0.0])) == ["total", "rows", "width"]
    assert space.decode([1.0, 0.0]) == {"total": 16, "rows": 8, "width": 2}
    assert space.names == ("rows", "width")


def test_values_are_plain_python_ones() -> None:
    space = Space(
        [
            integer("i", 1, 9),
            integer("k", 1, 9, scale="log"),
            real("f", 0.0, 1.0),
            real("s", 0.0, 1.0, step=0.1),
            Parameter(name="b", type="bool"),
            choice("c", "x", 1),
        ]
    )
    found = space.decode(np.full(6, 0.3))
    assert [type(value) for value in found.values()] == [int, int, float, float, bool, str]
    assert json.loads(json.dumps(found)) == found


def test_the_top_of_every_range_is_reached_at_1_and_points_outside_are_clipped() -> None:
    space = Space(
        [
            integer("i", 1, 9),
            integer("k", 1, 9, scale="log"),
            real("f", 0.1, 0.7),
            real("g", 0.1, 0.7, scale="log"),
            choice("c", "x", "y"),
        ]
    )
    top, bottom = {"i": 9, "k": 9, "f": 0.7, "g": 0.7, "c": "y"}, {"i": 1, "k": 1, "f": 0.1, "g": 0.1, "c": "x"}
    assert space.decode(np.ones(5)) == space.decode(np.full(5, 1.5)) == top
    assert space.decode(np.zeros(5)) == space.decode(np.full(5, -3.0)) == bottom


def test_rounding_does_not_leave_the_bounds() -> None:
    low, high = 0.12345671111, 0.98765439
    space = Space([real("x", low, high), real("y", low, high, scale="log")])
    for found in (space.decode([0.0, 0.0]), space.decode([1.0, 1.0])):
        assert all(low <= float(value) <= high for value in found.values())


@pytest.mark.parametrize("point", [[0.5], [0.5, 0.5, 0.5], [[0.5, 0.5]], [0.5, math.nan]])
def test_a_point_of_the_wrong_shape_is_refused(point: Any) -> None:
    with pytest.raises(ValueError, match="a point has 2 coordinates"):
        Space([integer("a", 1, 2), integer("b", 1, 2)]).decode(point)


def test_steps_carry_no_rounding_error() -> None:
    space = Space([real("x", 0.1, 1.0, step=0.1)])
    values = [space.decode([u])["x"] for u in np.linspace(0, 1, 1000)]
    assert sorted(set(values)) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


def test_the_last_step_does_not_pass_the_maximum() -> None:
    assert set(shares(Space([integer("n", 16, 100, step=32)]), "n")) == {16, 48, 80}


@pytest.mark.parametrize(
    "parameter",
    [
        integer("x", 1, 8),
        integer("x", 0, 70, step=10),
        real("x", 0.0, 0.7, step=0.1),
        choice("x", *"abcdefgh"),
    ],
)
def test_every_value_is_about_equally_likely(parameter: Parameter) -> None:
    found = shares(Space([parameter]), "x")
    assert len(found) == 8
    assert all(abs(share - 1 / 8) < 0.03 for share in found.values())


def test_on_a_log_scale_an_int_is_as_likely_as_its_cell_is_wide() -> None:
    found = shares(Space([integer("x", 1, 16, scale="log")]), "x")
    for k in range(1, 17):
        width = math.log((k + 0.5) / (k - 0.5)) / math.log(16.5 / 0.5)
        assert found[k] == pytest.approx(width, abs=0.03)


def test_on_a_log_scale_the_decades_of_a_float_are_equally_likely() -> None:
    below = [c["x"] for c in sample(Space([real("x", 0.01, 100.0, scale="log")]))]
    assert np.mean(np.array(below) < 1.0) == pytest.approx(0.5, abs=0.03)


def test_floats_are_short_enough_to_read() -> None:
    for configuration in sample(Space([real("x", 0.5, 0.95), real("y", 0.001, 1.0, scale="log")]), 200):
        assert all(len(repr(value)) <= 12 for value in configuration.values())


# --- ratios and expressions ---------------------------------------------------------------------------------------


def test_a_ratio_multiplies_the_other_parameter_and_is_at_least_1() -> None:
    space = Space(
        [integer("batch", 1, 64), integer("chunk", 1, 4, ratio_of="batch"), real("x", 0.5, 2, ratio_of="batch")]
    )
    for found in sample(space, 500):
        batch, chunk, x = (float(found[name]) for name in ("batch", "chunk", "x"))
        assert batch <= chunk <= 4 * batch
        assert 0.5 * batch <= x <= 2 * batch
    part = Parameter(name="part", type="int", min=0.01, max=1, ratio_of="batch")
    tiny = Space([integer("batch", 1, 2), part])
    assert min(int(found["part"]) for found in sample(tiny, 200)) == 1


def test_ratios_may_form_a_chain() -> None:
    space = Space([integer("c", 2, 2, ratio_of="b"), integer("b", 3, 3, ratio_of="a"), integer("a", 5, 5)])
    assert space.decode([0.5, 0.5, 0.5]) == {"c": 30, "b": 15, "a": 5}


def test_a_ratio_of_an_expression_follows_it() -> None:
    space = Space([integer("r", 2, 2, ratio_of="e"), computed("e", "int", "a + 1"), integer("a", 3, 3)])
    assert space.decode([0.5, 0.5]) == {"r": 8, "e": 4, "a": 3}


@pytest.mark.parametrize(
    ("expression", "kind", "value"),
    [
        ("max(a, 5) + min(a, 5)", "int", 8),
        ("ceil(a / 2)", "int", 2),
        ("a / 2", "int", 2),
        ("floor(a / 2) + abs(-1)", "float", 2.0),
        ("0.1 * a", "float", 0.3),
        ("a > 2", "bool", True),
        ("str(a) + 'x' + name", "choice", "3xs"),
        ("round(a / 7, 2)", "choice", 0.43),
        ("int(1.9) if a == 3 else float(a)", "choice", 1),
    ],
)
def test_an_expression_computes_a_value_of_the_declared_type(expression: str, kind: str, value: Value) -> None:
    space = Space([integer("a", 3, 3), choice("name", "s", "t"), computed("e", kind, expression)])
    found = space.decode([0.5, 0.0])["e"]
    assert repr(found) == repr(value)


@pytest.mark.parametrize(
    ("expression", "kind", "complaint"),
    [
        ("a +", "int", "invalid syntax"),
        ("", "int", "invalid syntax"),
        ("b + 1", "int", "names the unknown 'b'"),
        ("a; a", "int", "invalid syntax"),
        ("open('x')", "choice", "not defined"),
        ("a / (a - 3)", "int", "division by zero (with a = 3)"),
        ("'x' + a", "choice", "with a = 3"),
        ("(-a) ** 0.5", "float", "gives a complex"),
        ("'many'", "int", "could not convert"),
        ("float('nan')", "float", "gives nan"),
        ("rand()", "float", "not defined"),
    ],
)
def test_a_wrong_expression_is_told_at_once(expression: str, kind: str, complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        Space([integer("a", 3, 3), computed("e", kind, expression)])
    assert complaint in str(caught.value)
    assert "parameter 'e'" in str(caught.value)


def test_where_an_expression_has_no_value_the_configuration_is_not_valid() -> None:
    space = Space([integer("a", 1, 5), computed("e", "int", "12 // (a - 3)"), integer("r", 1, 2, ratio_of="e")])
    listed = list(space.configurations())
    assert [each["a"] for each in listed if not space.valid(each)] == [3]
    assert len(listed) == space.size()
    gap = next(each for each in listed if each["a"] == 3)
    assert space.broken(gap) == "12 // (a - 3)"
    assert space.constrained == (0,)
    assert not space.valid(space.decode(space.encode(gap)))


def test_an_expression_over_what_may_be_text_decides_on_validity() -> None:
    space = Space([choice("b", "auto", 1, 2), integer("c", 5, 9), computed("a", "int", "b * (c - 9)")])
    assert space.constrained == (0, 1)
    texts = [each for each in space.configurations() if each["b"] == "auto"]
    assert not any(map(space.valid, texts))
    assert len({space.key(each) for each in space.configurations()}) == space.size()


def test_a_ratio_of_an_expression_without_a_value_has_a_key_of_its_own() -> None:
    space = Space([integer("b", 0, 4), computed("e", "int", "100 // b"), integer("r", 1, 2, ratio_of="e")])
    assert len({space.key(each) for each in space.configurations()}) == space.size()


def test_defaults_for_which_an_expression_has_no_value_are_refused() -> None:
    with pytest.raises(UserError, match="by zero"):
        Space([integer("a", 1, 5, default=3), computed("e", "int", "12 // (a - 3)")])


def test_a_circle_is_told_with_its_names() -> None:
    with pytest.raises(UserError, match="in a circle") as caught:
        Space([integer("a", 1, 2, ratio_of="b"), integer("b", 1, 2, ratio_of="e"), computed("e", "int", "a")])
    assert all(name in str(caught.value) for name in ("a", "b", "e"))
    with pytest.raises(UserError, match="e -> e"):
        Space([integer("a", 1, 2), computed("e", "int", "e + a")])


@pytest.mark.parametrize("other", [Parameter(name="o", type="bool"), choice("o", "x", 1), computed("o", "choice", "1")])
def test_a_ratio_of_something_that_is_no_number_is_refused(other: Parameter) -> None:
    with pytest.raises(UserError, match="whose values are not numbers"):
        Space([integer("a", 1, 2, ratio_of="o"), other])


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ([computed("e", "int", "1")], "no parameter is left to search"),
        ([integer("a", 0, 2**53)], "too many values"),
        ([integer("a", 1, 2**53, scale="log")], "too many values"),
    ],
)
def test_an_impossible_space_is_refused(parameters: list[Parameter], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        Space(parameters)


# --- products -----------------------------------------------------------------------------------------------------


def test_only_combinations_with_the_product_are_proposed_and_all_of_them() -> None:
    space = parallel(8)
    assert space.names == ("tp", "dp")
    found = {tuple(map(int, configuration.values())) for configuration in sample(space)}
    assert found == {(t, d, p) for t in (1, 2, 4, 8) for d in (1, 2, 4, 8) for p in (1, 2, 4, 8) if t * d * p == 8}


def test_the_first_of_a_product_takes_its_values_equally_often() -> None:
    assert all(abs(share - 0.25) < 0.03 for share in shares(parallel(8), "tp").values())


def test_a_value_without_a_completion_is_never_picked() -> None:
    space = Space([choice("tp", 1, 2, 3, 5), integer("dp", 2, 4)], [Constraint(product=("tp", "dp"), equals=6)])
    assert shares(space, "tp").keys() == {2, 3}


def test_the_steps_of_an_int_in_a_product_are_kept() -> None:
    space = Space([integer("a", 0, 12, step=2), integer("b", 1, 12)], [Constraint(product=("a", "b"), equals=12)])
    assert shares(space, "a").keys() == {2, 4, 6, 12}


@pytest.mark.parametrize(
    ("parameters", "products", "complaint"),
    [
        ([choice("a", 2, 4), choice("b", 2, 4)], [(("a", "b"), 6)], "no combination of a, b has the product 6"),
        ([choice("a", 1, 2), choice("b", "1", 2)], [(("a", "b"), 2)], "'b' is neither an int nor a choice of ints"),
        ([choice("a", 1, 2), real("b", 1.0, 2.0)], [(("a", "b"), 2)], "'b' is neither an int nor a choice of ints"),
        ([choice("a", 1, 2), integer("b", 1, 2, ratio_of="a")], [(("a", "b"), 2)], "'b' is computed from others"),
        ([choice("a", 1, 2), computed("b", "int", "a")], [(("a", "b"), 2)], "'b' is computed from others"),
        ([choice("a", 1, 2), choice("b", 1, 2)], [(("a", "a"), 2)], "'a' is named twice"),
        (
            [choice("a", 1, 2), choice("b", 1, 2), choice("c", 1, 2)],
            [(("a", "b"), 2), (("b", "c"), 2)],
            "'b' is in another product already",
        ),
        (
            [choice("a", 1, 2, default=2), choice("b", 1, 2, default=2)],
            [(("a", "b"), 2)],
            "the defaults have the product 4",
        ),
    ],
)
def test_an_impossible_product_is_refused(
    parameters: list[Parameter], products: list[tuple[tuple[str, ...], int]], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        Space(parameters, [Constraint(product=names, equals=equals) for names, equals in products])


def test_the_factors_of_a_large_product_are_found_in_time() -> None:
    """By division up to its root, this would take minutes."""
    equals = 1_000_003 * 999_983 * 8
    few = [integer("a", 1, 10), choice("b", 0, 4, 1_000_003), integer("c", 999_900, 1_000_000)]
    space = Space(few, [Constraint(product=("a", "b", "c"), equals=equals)])
    assert (shares(space, "a").keys(), shares(space, "b").keys()) == ({8}, {1_000_003})
    many = [integer("a", 0, 2**40, step=4), integer("b", 1, 2**40)]
    assert shares(Space(many, [Constraint(product=("a", "b"), equals=2**20)]), "a").keys() <= {
        2**n for n in range(2, 21)
    }
    with pytest.raises(UserError, match=r"'a' has too many values to find those that divide it: give narrower bounds"):
        Space(many, [Constraint(product=("a", "b"), equals=1_000_000_016_000_000_063)])


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        Space([integer("a", 0, 2**53), integer("b", 1, 2**53, scale="log"), integer("c", 1, 2)])
    assert len(caught.value.problems) == 2


def test_powers_of_whole_numbers_are_as_large_as_a_float_may_be() -> None:
    space = Space([integer("a", 1, 9), computed("b", "float", "2**1000 * a"), computed("c", "int", "a**3 % 7")])
    assert space.decode(np.zeros(1)) == {"a": 1, "b": pytest.approx(2.0**1000), "c": 1}
    with pytest.raises(UserError, match="int too large to convert to float"):
        Space([integer("a", 1, 9, default=1), computed("b", "choice", "2**1000 * 2**100 * a")])


@pytest.mark.parametrize(
    "text",
    ["-a / b", "a % b + a // b", "b if a > b > 1 else +a", "not a and b or a * b", "a + 2.5 * b - True"],
)
@pytest.mark.parametrize("kind", ["int", "float", "bool", "choice"])
def test_plain_arithmetic_is_what_the_evaluator_makes_of_it(text: str, kind: str) -> None:
    for a, b in itertools.product((0, 1, -3, 2.5, True, 10**400), (0, 2, 1e300, False)):
        found = []
        for written in (text, f"({text}) if str(0) else 0"):  # the evaluator's, for the function
            try:
                found.append(repr(Expression("", written, kind).value({"a": a, "b": b})))
            except UserError as error:
                found.append(str(error).rpartition("': ")[2])
        assert found[0] == found[1]


# --- conditions ---------------------------------------------------------------------------------------------------


def condition(text: str) -> list[Constraint]:
    return [Constraint(expression=text)]


def test_a_configuration_is_valid_when_every_condition_holds() -> None:
    constraints = [*condition("a <= b"), *condition("c == 'x' or e > 4")]
    space = Space(
        [integer("a", 1, 9), integer("b", 1, 9), choice("c", "x", "y"), computed("e", "int", "2 * a")], constraints
    )
    assert space.valid(space.decode(space.encode({"a": 3, "b": 3, "c": "y"})))
    assert not space.valid(space.decode(space.encode({"a": 4, "b": 3, "c": "x"})))
    assert space.broken(space.decode(space.encode({"a": 2, "b": 3, "c": "y"}))) == "c == 'x' or e > 4"
    assert space.constrained == (0, 1, 2)


def test_where_a_condition_has_no_value_it_does_not_hold() -> None:
    space = Space([integer("a", 0, 4), integer("b", 0, 4)], condition("a % b == 0"))
    assert not space.valid({"a": 1, "b": 0})
    assert space.valid({"a": 4, "b": 2})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a <= gone", "constraint: expression 'a <= gone' names the unknown 'gone'"),
        ("a <=", "constraint: expression 'a <=': invalid syntax"),
        ("1 < 2", "constraint: expression '1 < 2' names no parameter"),
        ("open(a) == 1", "constraint: expression 'open(a) == 1': Function 'open' not defined"),
        ("a + 'x' == 1", "constraint: expression"),
        ("a > 5", "constraint: expression 'a > 5' does not hold for the defaults (a = 5)"),
        (" + ".join(5000 * ["int(a)"]), "...': is too long or nested too deeply"),
        (" + ".join(600 * ["int(a)"]), "...': is too long or nested too deeply"),
        (5000 * "-" + "int(a)", "----...': is too long or nested too deeply"),
        ("'a'.ljust(10**10) == a", "has a method or an f-string, which expressions do not have"),
        ("f'{a:10000000000}' == 1", "has a method or an f-string, which expressions do not have"),
        ("'%10000000000d' % a == 1", "% is for numbers"),
        ("9**3999999 * 9**3999999 > a", "the power is too large"),
        ("a / 0.0 > 1", "division by zero"),
    ],
)
def test_an_impossible_condition_is_told_at_once(text: str, complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        Space([integer("a", 1, 9, default=5)], condition(text))
    assert complaint in str(caught.value)


def test_every_configuration_can_be_listed_once() -> None:
    space = Space(
        [
            choice("tp", 1, 2, 4),
            choice("pp", 1, 2, 4),
            integer("r", 1, 2, ratio_of="tp"),
            Parameter(name="b", type="bool"),
        ],
        [Constraint(product=("tp", "pp"), equals=4)],
    )
    listed = [space.key(configuration) for configuration in space.configurations()]
    assert len(listed) == len(set(listed)) == space.size()


# --- what models need to know -------------------------------------------------------------------------------------


def test_numbers_in_order_are_neighbours_and_other_choices_are_not() -> None:
    space = Space(
        [
            choice("degrees", 1, 2, 4),
            choice("down", 8.5, 4, 2),
            choice("large", 1, 10**308),
            choice("mixed", 1, 4, 2),
            choice("words", "a", "b"),
            Parameter(name="flag", type="bool"),
        ]
    )
    assert space.ordered == (True, True, True, False, False, False)


def test_levels_are_centres_of_cells_and_no_more_than_asked_for() -> None:
    space = Space([integer("few", 1, 5), integer("many", 1, 10_000, scale="log"), integer("r", 1, 2, ratio_of="few")])
    few, many, ratio = space.levels(33)
    assert ratio == pytest.approx((np.arange(33) + 0.5) / 33)
    assert few == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    assert len(many) <= 33
    assert space.dependent == {2: (0, 2)}


FINE = (
    integer("linear", 1, 1024),
    integer("log", 1, 8192, scale="log"),
    integer("step", 8, 512, step=8),
    real("float", 0.5, 0.95),
    real("narrow", 0.0, 1.0, step=0.001),
    Parameter(name="choice", type="choice", choices=tuple(range(0, 500, 5))),
    integer("huge", 1, 2**40),
)


@pytest.mark.parametrize("parameter", FINE, ids=lambda parameter: parameter.name)
def test_drawn_levels_are_other_cells_each_time_and_come_close_to_the_best(parameter: Parameter) -> None:
    space = Space([parameter, integer("few", 1, 5)])
    axes = space.axes(33)
    assert set(axes) == {0}
    best = [space.encode(space.decode(np.array([u, 0.5])))[0] for u in (0.37, 0.0, 1.0)]
    drawn = [axes[0].drawn(20, offset, np.array(best)) for offset in (0.0, 0.3, 0.999)]
    assert not np.array_equal(drawn[0], drawn[1])
    for levels in drawn:
        assert len(levels) <= 21 + 3 + 24 and np.all(np.diff(levels) > 0)
        assert [space.encode(space.decode(np.array([u, 0.5])))[0] for u in levels] == list(levels)
        assert set(best) <= set(levels)
        assert np.diff(levels).max() <= 2 / 20 + 1e-9, "no part of the axis is left out"
        values = [space.decode(np.array([u, 0.5]))[parameter.name] for u in levels]
        at = values.index(space.decode(np.array([best[0], 0.5]))[parameter.name])
        steps = [abs(float(values[at + side]) - float(values[at])) for side in (-1, 1)]
        if parameter.type == "float" and parameter.step is None:
            assert max(steps) <= 0.45 / 1000
        else:
            step = parameter.step or 1 if parameter.type != "choice" else 5
            assert steps == pytest.approx([step, step]), "the next values on both sides"


def test_drawn_levels_are_round_where_they_can_be() -> None:
    space = Space([integer("seqs", 1, 1024, scale="log"), integer("tokens", 256, 16384, step=256)])
    for axis, wanted in ((0, {2**n for n in range(11)}), (1, {1024, 2048, 4096, 8192})):
        levels = space.axes(33)[axis].drawn(20, 0.5, np.array([0.9]))
        points = np.full((len(levels), 2), 0.5)
        points[:, axis] = levels
        values = {space.decode(point)[space.names[axis]] for point in points}
        assert len(wanted & values) >= len(wanted) - 1


def test_a_ratio_is_drawn_by_what_it_multiplies_with_and_a_product_not_at_all() -> None:
    degrees = tuple(2**n for n in range(40))
    space = Space(
        [
            integer("seqs", 1, 8),
            integer("tokens", 1, 64, ratio_of="seqs"),
            Parameter(name="tp", type="choice", choices=degrees),
            Parameter(name="pp", type="choice", choices=degrees),
        ],
        [Constraint(product=("tp", "pp"), equals=2**39)],
    )
    assert {space.names[axis] for axis in space.axes(33)} == {"tokens"}


@pytest.mark.parametrize("default", [None, (4, 4, 4)])
def test_ways_to_be_valid_are_found_all_over_a_space_that_is_too_large_to_be_listed(
    default: tuple[int, int, int] | None,
) -> None:
    """Of 262 144 ways 28 are valid, those with the first degree above 24 beyond what is listed."""
    names = ("tp", "dp", "pp")
    own = dict(zip(names, default, strict=True)) if default else dict.fromkeys(names)
    space = Space(
        [
            *(integer(name, 1, 64, default=own[name]) for name in names),
            real("share", 0.0, 1.0, default=default and 0.5),
        ],
        [Constraint(expression="tp * dp * pp == 64")],
    )
    found = [space.decode(point) for point in space.decided]
    assert all(space.valid(configuration) for configuration in found)
    degrees = [tuple(configuration[name] for name in names) for configuration in found]
    assert len(degrees) == len(set(degrees)) >= 25
    assert {first for first, *_ in degrees} == {1, 2, 4, 8, 16, 32, 64}


def test_ways_to_be_valid_follow_what_is_computed() -> None:
    space = Space(
        [
            *(integer(name, 1, 80, default=16) for name in ("a", "b", "c")),
            Parameter(name="half", type="int", expression="a // 2"),
            integer("tokens", 1, 4, ratio_of="a", default=32),
        ],
        [Constraint(expression="half * b == 8 * c and tokens <= 100")],
    )
    found = [space.decode(point) for point in space.decided]
    assert found and all(space.valid(configuration) for configuration in found)
    assert len({configuration["a"] for configuration in found}) > 5


# --- the baseline -------------------------------------------------------------------------------------------------


def test_the_default_is_every_parameters_default() -> None:
    space = Space(
        [
            integer("seqs", 1, 512, scale="log", default=256),
            integer("tokens", 1, 64, ratio_of="seqs", scale="log", default=8192),
            real("memory", 0.5, 0.95, default=0.9),
            real("odd", 0.0, 1.0, default=0.123456789012345),
            Parameter(name="prefix", type="bool", default=False),
            choice("kv", "auto", "fp8", default="auto"),
            computed("twice", "int", "2 * seqs"),
        ]
    )
    assert space.baseline == {
        "seqs": 256,
        "tokens": 8192,
        "memory": 0.9,
        "odd": 0.123456789012345,
        "prefix": False,
        "kv": "auto",
        "twice": 512,
    }


def test_without_any_default_there_is_no_baseline() -> None:
    assert Space([integer("a", 1, 2), computed("e", "int", "a")]).baseline is None


def test_missing_defaults_are_told_one_line_each() -> None:
    with pytest.raises(UserError) as caught:
        Space([integer("a", 1, 2, default=1), integer("b", 1, 2), integer("c", 1, 2)])
    assert [problem.split("'")[1] for problem in caught.value.problems] == ["b", "c"]


def test_a_default_whose_ratio_is_out_of_bounds_is_refused() -> None:
    with pytest.raises(UserError, match="parameter 'b': default = 50 is 5 x the default of 'a'"):
        Space([integer("a", 1, 20, default=10), integer("b", 1, 4, ratio_of="a", default=50)])
    with pytest.raises(UserError, match=r"parameter 'b': default = 1 is 0\.2 x the default of 'a'"):
        Space([integer("a", 1, 20, default=5), integer("b", 0.5, 1, ratio_of="a", default=1)])


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize(("low", "high", "default"), [(0.5, 1.0, 2), (0.1, 0.3, 2), (0.01, 0.05, 1)])
def test_a_default_is_kept_that_is_within_the_bounds_only_as_ratios_are_rounded(
    low: float, high: float, default: int, scale: str
) -> None:
    space = Space([integer("a", 1, 20, default=5), integer("b", low, high, ratio_of="a", scale=scale, default=default)])
    assert space.baseline == {"a": 5, "b": default}


def test_the_default_of_a_product_is_kept() -> None:
    assert parallel(16, tp=4, dp=4, pp=1).baseline == {"tp": 4, "dp": 4, "pp": 1}


# --- identity -----------------------------------------------------------------------------------------------------


def test_configurations_are_the_same_when_their_keys_are() -> None:
    space = Space([choice("c", 1, True, "1"), real("f", 0.0, 4.0), computed("e", "int", "f")])
    keys = {space.key({"c": c, "f": 2.0, "e": 2}) for c in (1, True, "1")}
    assert len(keys) == 3
    assert space.key({"f": 2, "c": 1}) == space.key({"c": 1, "f": 2.0, "e": 2})


@pytest.mark.parametrize(
    ("configuration", "complaint"),
    [
        ({"i": 5}, "c is missing"),
        ({"i": 11, "c": "x"}, "i: 11 is out of bounds"),
        ({"i": 5, "c": "z"}, "c: 'z' is not among the choices"),
        ({"i": "5", "c": "x"}, "i: '5' is not a number"),
    ],
)
def test_a_configuration_from_elsewhere_is_refused(configuration: dict[str, Value], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Space([integer("i", 1, 10), choice("c", "x", "y")]).encode(configuration)


def test_what_expressions_computed_is_not_needed_to_encode() -> None:
    space = Space([integer("a", 1, 4), computed("e", "int", "2 * a"), integer("r", 1, 3, ratio_of="e")])
    assert space.decode(space.encode({"a": 3, "r": 9})) == {"a": 3, "e": 6, "r": 9}


def test_a_configuration_without_the_product_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves no way to the product 8"):
        parallel(8).encode({"tp": 4, "dp": 4, "pp": 1})


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (Space([integer("a", 1, 10), Parameter(name="b", type="bool"), computed("e", "int", "a")]), 20),
        (Space([integer("a", 1, 10), real("x", 0.0, 1.0)]), math.inf),
        (Space([integer("a", 1, 10), real("x", 0.5, 1.0, ratio_of="a")]), math.inf),
        (parallel(8), 10),
        (Space([integer("a", 1, 3), integer("b", 1, 2, ratio_of="a"), choice("c", 1, 2)]), 2 * (2 + 3 + 4)),
        (Space([choice("a", 2, 4), integer("e2", 1, 2, ratio_of="e"), computed("e", "int", "a / 2")]), 2 + 3),
        (Space([integer("a", 1, 10**7), integer("b", 1, 2, ratio_of="a")]), math.inf),
    ],
)
def test_the_size_is_the_number_of_distinct_configurations(space: Space, size: float) -> None:
    assert space.size() == size


# --- encode is the inverse of decode ------------------------------------------------------------------------------

decimals = st.integers(-10_000, 10_000).map(lambda n: n / 100)
positive = st.integers(1, 10_000).map(lambda n: n / 100)
anything = st.one_of(st.booleans(), st.integers(-3, 3), st.sampled_from([0.0, 1.0, 0.5, "1", "a", "True"]))


@st.composite
def plain(draw: st.DrawFn, name: str) -> Parameter:
    kind = draw(st.sampled_from(["int", "log int", "float", "log float", "step", "bool", "choice"]))
    if kind == "bool":
        return Parameter(name=name, type="bool", default=draw(st.none() | st.booleans()))
    if kind == "choice":
        values = draw(st.lists(anything, min_size=2, max_size=5, unique_by=repr))
        return choice(name, *values, default=draw(st.none() | st.sampled_from(values)))
    if kind.endswith("int"):
        low, high = sorted(draw(st.tuples(*[st.integers(1 if kind == "log int" else -50, 5000)] * 2)))
        step = draw(st.none() | st.integers(1, 100)) if kind == "int" else None
        default = None if step else draw(st.none() | st.integers(low, high))
        return integer(name, low, high, step=step, scale="log" if kind == "log int" else "linear", default=default)
    low_f, high_f = sorted(draw(st.tuples(*[positive if kind == "log float" else decimals] * 2)))
    if kind == "step":
        return real(name, low_f, high_f, step=draw(positive))
    default_f = draw(st.none() | st.floats(low_f, high_f))
    return real(name, low_f, high_f, scale="log" if kind == "log float" else "linear", default=default_f)


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    parameters = [draw(plain(f"p{i}")) for i in range(draw(st.integers(1, 4)))]
    numbers = [p.name for p in parameters if p.type in ("int", "float")]
    for i in range(draw(st.integers(0, 3)) if numbers else 0):
        low, high = sorted(draw(st.tuples(positive, positive)))
        kind = draw(st.sampled_from(["int", "float"]))
        scale = draw(st.sampled_from(["linear", "log"]))
        of = draw(st.sampled_from(numbers))
        parameters.append(Parameter(name=f"r{i}", type=kind, min=low, max=high, ratio_of=of, scale=scale))
        numbers.append(f"r{i}")
    if numbers and draw(st.booleans()):
        parameters.append(computed("e", "float", f"max(1, {draw(st.sampled_from(numbers))}) / 3"))
        parameters.append(real("of_e", 0.5, 3.0, ratio_of="e"))
    constraints = []
    if draw(st.booleans()):
        equals = draw(st.sampled_from([6, 8, 16, 24]))
        parameters += [choice("tp", 8, 1, 4, 2, 3), integer("dp", 0, 24), integer("pp", 1, 24, scale="log")]
        constraints.append(Constraint(product=tuple(draw(st.permutations(["tp", "dp", "pp"]))), equals=equals))
    if any(parameter.searched and parameter.default is None for parameter in parameters):
        parameters = [parameter.model_copy(update={"default": None}) for parameter in parameters]
    return Space(draw(st.permutations(parameters)), constraints)


@settings(max_examples=100, deadline=None)
@given(space=spaces(), seed=st.integers(0, 2**32))
def test_every_reachable_configuration_survives_encode_and_decode(space: Space, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for point in [*rng.random((8, space.dimensions)), *rng.integers(0, 2, (4, space.dimensions)).astype(float)]:
        configuration = space.decode(point)
        encoded = space.encode(configuration)
        assert encoded.shape == (space.dimensions,)
        assert ((encoded >= 0.0) & (encoded <= 1.0)).all()
        again = space.decode(encoded)
        assert again == configuration
        assert space.key(again) == space.key(configuration)


@settings(max_examples=100, deadline=None)
@given(bounds=st.tuples(decimals, decimals), log=st.booleans(), share=st.floats(0, 1))
def test_every_default_survives_encode_and_decode(bounds: tuple[float, float], log: bool, share: float) -> None:
    low, high = sorted(abs(bound) or 1.0 for bound in bounds) if log else sorted(bounds)
    default = min(max(low + share * (high - low), low), high)
    plain_default = real("x", low, high, default=default, scale="log" if log else "linear")
    assert Space([plain_default]).baseline == {"x": default}


@settings(max_examples=100, deadline=None)
@given(
    bounds=st.tuples(positive, positive),
    log=st.booleans(),
    share=st.floats(0, 1),
    other=st.integers(1, 999),
    whole=st.booleans(),
)
def test_every_default_of_a_ratio_survives_encode_and_decode(
    bounds: tuple[float, float], log: bool, share: float, other: int, whole: bool
) -> None:
    low, high = sorted(bounds)
    wanted = other * (low + share * (high - low))
    value: Value = max(1, round(wanted)) if whole else round(wanted, 4) or wanted
    # Rounding may have left the bounds.
    low, high = min(low, value / other), max(high, value / other)
    ratio = Parameter(
        name="y",
        type="int" if whole else "float",
        min=low,
        max=high,
        ratio_of="o",
        default=value,
        scale="log" if log else "linear",
    )
    assert Space([ratio, integer("o", 1, 999, default=other)]).baseline == {"y": value, "o": other}
