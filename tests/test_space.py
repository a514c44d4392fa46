"""Ranges as typed: what they mean, what Optuna makes of them, and what is wrong with others."""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from sweep.space import Dimension, parse_dimension, write_params

READ = {
    "interval(0, 0.7)": FloatDistribution(0, 0.7),
    "interval(-2,-0.5)": FloatDistribution(-2, -0.5),
    "interval(1,8)": FloatDistribution(1, 8),
    "int(interval(1,8))": IntDistribution(1, 8),
    "tag(log, interval(0.001, 1))": FloatDistribution(0.001, 1, log=True),
    "int(tag(log,interval(1,64)))": IntDistribution(1, 64, log=True),
    "range(1,10,2)": IntDistribution(1, 9, step=2),
    "range(5,20,5)": IntDistribution(5, 15, step=5),  # the end is left out
    "range(4)": IntDistribution(0, 3),
    "range(0,1,0.25)": FloatDistribution(0, 0.75, step=0.25),
    "choice(relu, gelu)": CategoricalDistribution(("relu", "gelu")),
    "relu,gelu": CategoricalDistribution(("relu", "gelu")),
    "choice(relu,null)": CategoricalDistribution(("relu", None)),
    "null,0.1": CategoricalDistribution((None, 0.1)),
    "choice(true,false)": CategoricalDistribution((True, False)),
    "choice('a b',\"3\",3)": CategoricalDistribution(("a b", "3", 3)),
    "choice([64], [256,256])": CategoricalDistribution(("[64]", "[256,256]")),
    "[relu, null]": CategoricalDistribution(("relu", None)),
    "  choice( a , b )": CategoricalDistribution(("a", "b")),
}
GRAMMAR = "expected interval(a,b), tag(log,interval(a,b)), choice(x,y) or range(start,stop,step), "
REFUSED = {
    "interval(0.5,0.1)": "expected finite numbers, low < high, got interval(0.5,0.1)",
    "interval(0,inf)": "expected finite numbers, low < high, got interval(0,inf)",
    "interval(a,b)": f"{GRAMMAR}got interval(a,b)",
    "interval(0,1": f"{GRAMMAR}got interval(0,1",
    "tag(log,interval(0,1))": "expected low > 0 for a log scale, got tag(log,interval(0,1))",
    "tag(lgo,interval(1,2))": "expected the tag log or none, got lgo",
    "tag(log,choice(1,2))": "expected a tag on an interval only, got tag(log,choice(1,2))",
    "tag(log,range(1,9))": "expected a tag on an interval only, got tag(log,range(1,9))",
    "range(3,4)": "expected at least two values, start < stop and step > 0, got range(3,4)",
    "range(9,1)": "expected at least two values, start < stop and step > 0, got range(9,1)",
    "range(9,1,-1)": "expected at least two values, start < stop and step > 0, got range(9,1,-1)",
    "choice(relu)": "expected two or more different choices, got choice(relu)",
    "choice(relu,relu)": "expected two or more different choices, got choice(relu,relu)",
    "choice(1,true)": "expected two or more different choices, got choice(1,true)",
    "choice([64,64])": "expected two or more different choices, got choice([64,64])",
    "choice(nan,1)": "expected finite numbers, got choice(nan,1)",
    "choice({a:1},b)": "expected choices that are names, numbers or lists, got choice({a:1},b)",
    "glob(*)": f"{GRAMMAR}got glob(*); a fixed value needs no search",
    "relu": f"{GRAMMAR}got relu; a fixed value needs no search",
}


@pytest.mark.parametrize("text", READ)
def test_a_range_becomes_the_distribution_it_says(text: str) -> None:
    assert parse_dimension("a.b", text).distribution() == READ[text]


@pytest.mark.parametrize("text", REFUSED)
def test_a_range_that_cannot_be_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(ValueError) as raised:
        parse_dimension("a.b", text)
    assert str(raised.value) == REFUSED[text]


@pytest.mark.parametrize("value", [0.3, None, True, {"low": 0}])
def test_yaml_that_is_no_range_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="a fixed value needs no search"):
        parse_dimension("a.b", value)


@pytest.mark.parametrize("value", [["relu", None], [[64], [256, 256]], ["a b", "null", "3", 3]])
def test_a_yaml_list_is_a_choice_and_its_text_can_be_read_again(value: list[Any]) -> None:
    dimension = parse_dimension("a.b", value)
    assert [dimension.setting(c) for c in dimension.choices] == value
    assert parse_dimension("a.b", dimension.text) == dimension


@pytest.mark.parametrize("text", READ)
def test_a_range_reads_the_same_from_its_recorded_text(text: str) -> None:
    dimension = parse_dimension("a.b", text)
    assert parse_dimension("a.b", dimension.text) == dimension


def test_lists_pass_through_optuna_as_they_are_typed() -> None:
    dimension = parse_dimension("model.hidden", "choice([64],[256,256])")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    values = [study.ask({"h": dimension.distribution()}).params["h"] for _ in range(8)]
    assert set(values) == {"[64]", "[256,256]"}
    assert [dimension.setting(v) for v in ("[64]", "[256,256]")] == [[64], [256, 256]]


@pytest.mark.parametrize("text", READ)
def test_every_share_of_a_range_is_a_value_of_its_distribution(text: str) -> None:
    dimension = parse_dimension("a.b", text)
    distribution = dimension.distribution()
    shares = [0.0, 1e-9, *(i / 97 for i in range(97)), 1 - 1e-12]
    for value in [*map(dimension.at, shares), *dimension.grid(5), *dimension.corners()]:
        assert distribution._contains(distribution.to_internal_repr(value)), value
    if dimension.kind == "int":
        assert all(type(dimension.at(share)) is int for share in shares)


def test_shares_are_even_on_the_scale_of_the_range() -> None:
    assert parse_dimension("k", "tag(log,interval(0.001,1))").at(1 / 3) == pytest.approx(0.01)
    assert parse_dimension("k", "interval(-1,1)").at(0.25) == pytest.approx(-0.5)
    whole = parse_dimension("k", "int(interval(1,4))")
    assert [whole.at(i / 8) for i in range(8)] == [1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("interval(0,1)", [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("int(interval(1,9))", [1, 3, 5, 7, 9]),
        ("int(interval(1,3))", [1, 2, 3]),
        ("range(1,20,3)", [1, 4, 7, 10, 13, 16, 19]),
        ("range(0,49)", [*range(49)]),  # 1 / 49 * 49 is less than 1
        ("choice(a,b)", ["a", "b"]),
    ],
)
def test_a_grid_holds_the_ends_and_what_lies_evenly_between(text: str, values: list[Any]) -> None:
    assert parse_dimension("k", text).grid(5) == values


def test_a_log_grid_has_equal_ratios() -> None:
    values = parse_dimension("k", "tag(log,interval(0.001,10))").grid(5)
    logs = [math.log10(v) for v in values if isinstance(v, float)]
    assert logs == pytest.approx([-3, -2, -1, 0, 1])


def test_params_are_written_into_a_copy() -> None:
    config = {"model": {"dropout": 0.0, "hidden": [8]}, "data": {}}
    changed = write_params(config, {"model.dropout": 0.5, "data.path": "x"})
    assert changed == {"model": {"dropout": 0.5, "hidden": [8]}, "data": {"path": "x"}}
    assert config == {"model": {"dropout": 0.0, "hidden": [8]}, "data": {}}


def test_a_plain_value_stands_for_itself() -> None:
    assert Dimension("k", "a,b", "categorical", choices=("a", "b")).setting("a") == "a"
    assert parse_dimension("k", "choice('[64]',x)").setting("[64]") == "[64]"
