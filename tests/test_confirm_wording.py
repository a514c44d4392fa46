"""Figures and spans of values, as sentences have them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sweep.confirm.findings import Interval, Level
from sweep.confirm.verdicts import judge
from sweep.confirm.wording import Words, entered, span
from sweep.messages import Value
from sweep.metric import Metric
from sweep.parameters import Parameter

DROPOUT = Parameter("model.dropout", "dropout", True, True, False, 0.0, 0.7, ())


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ((0.15, 0.4), "0.15 to 0.4"),
        ((0.667, 0.7), "0.67 to 0.7"),
        ((0.6674, 0.671), "0.667 to 0.671"),
        ((1 / 3, 1 / 3 + 1e-15), "0.333333333333333 to 0.333333333333334"),
        ((0.6674, 0.6674), "0.67"),
        ((64, 128), "64 to 128"),
        (("relu", "relu"), "relu"),
        ((None, None), "the cumulative average"),
    ],
)
def test_a_run_of_values_has_two_ends_that_differ(run: tuple[Value, Value], said: str) -> None:
    assert span(run) == said


def test_a_range_that_two_digits_do_not_show_has_both_its_ends() -> None:
    words = Words(Metric.of("val_accuracy", [0.9]), 0.0005, [DROPOUT])
    nothing = Interval(0.0, 0.0, 0.0, 5)
    levels = [Level(value, nothing, "as good") for value in (0.667, 0.669, 0.671)]
    levels += [Level(0.7, nothing, "worse")]
    verdict = judge(DROPOUT, levels, 0.669, "5 trainings", None, words)
    assert verdict.clause == "any dropout from 0.667 to 0.671 is as good"


def test_an_average_that_alone_is_as_good_names_its_parameter() -> None:
    momentum = Parameter("model.bn_momentum", "bn_momentum", True, True, True, 0.001, 1.0, ())
    words = Words(Metric.of("val_accuracy", [0.9]), 0.0005, [momentum])
    nothing = Interval(0.0, 0.0, 0.0, 5)
    levels = [Level(0.1, nothing, "as good"), Level(1.0, nothing, "undecided")]
    levels += [Level(None, nothing, "as good")]
    said = "the cumulative average, without a bn_momentum, is as good"
    assert judge(momentum, levels, 0.1, "", None, words).clause.startswith(said)


def test_null_is_what_a_retrofitted_module_came_with_and_elsewhere_a_value() -> None:
    assert entered(replace(DROPOUT, key="retrofit.dropout"), None) == "as it is"
    assert entered(replace(DROPOUT, key="model.max_norm"), None) == "null"
    assert entered(DROPOUT, 0.25678, 3) == "0.257"
