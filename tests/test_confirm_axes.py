"""Which values of a parameter are judged, going by its range."""

from __future__ import annotations

import pytest

from sweep.confirm.axes import grid
from sweep.messages import Value
from sweep.parameters import parameters_of
from sweep.results import TrialRow
from tests.confirmations import results

KEY = "data.interval"  # a key, or a choice, may be called as the grammar's words are


@pytest.mark.parametrize(
    ("text", "tried", "count"),
    [
        ("interval(0,1)", (0.0, 1.0), 33),
        ("tag(log,interval(0.001,1))", (0.001, 1.0), 33),
        ("int(interval(1,9))", (1, 9), 9),
        ("interval(0.9990,0.9995)", (0.9990, 0.9995), 33),  # three digits are the same for all
        ("choice(1,9)", (1, 9), 2),
        ("range(0,1,0.25)", (0.0, 0.25, 0.75), 3),
    ],
)
def test_between_the_ends_of_an_interval_all_is_judged_and_of_others_what_was_tried(
    text: str, tried: tuple[float, ...], count: int
) -> None:
    trials = [TrialRow(i, "complete", {KEY: v}, value=0.9) for i, v in enumerate(tried)]
    (parameter,) = parameters_of(results(trials, search={KEY: text}))
    judged = grid(parameter, tried, tried[0])
    assert len(judged) == count and {*tried} <= {*judged}


def test_a_category_is_no_range_whatever_it_is_called() -> None:
    tried: tuple[Value, ...] = ("interval", "range")
    trials = [TrialRow(i, "complete", {KEY: v}, value=0.9) for i, v in enumerate(tried)]
    (parameter,) = parameters_of(results(trials, search={KEY: "choice(interval,range)"}))
    assert grid(parameter, tried, tried[0]) == ["interval", "range"]
