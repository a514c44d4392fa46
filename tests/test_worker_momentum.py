"""Which momentum of a bank is best, for every kind of worker; ties included."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sweep.messages import MOMENTUM, TrialSpec
from sweep.worker.desk import Desk
from sweep.worker.momentum import best_column, take_scores
from sweep.worker.training import Training

SPEC = TrialSpec(0, 0, {}, {}, momenta=(0.01, 0.1, 1.0))  # the cumulative average is scored too


def desk(metric: str = "val_accuracy", direction: str = "maximize") -> Desk:
    return Desk("a", lambda worker, events: [], metric, direction)


@pytest.mark.parametrize(
    ("scores", "column"),
    [
        ({"val_accuracy": [0.5, 0.7, 0.6, 0.9]}, 1),  # the average's is for comparison only
        ({"val_accuracy": [0.7, 0.7, 0.7, 0.7], "val_nll": [0.3, 0.2, 0.4, 0.1]}, 1),
        ({"val_accuracy": [0.6, 0.7, 0.7, 0.7], "val_loss": [0.1, 0.3, 0.2, 0.1]}, 2),
        ({"val_accuracy": [0.7, 0.7, 0.7, 0.7], "val_nll": [0.2, 0.2, 0.2, 0.2]}, 0),
        ({"val_accuracy": [0.6, 0.7, 0.7, 0.7]}, 1),
    ],
)
def test_of_equals_the_one_with_the_lower_loss_is_best(
    scores: dict[str, list[float]], column: int
) -> None:
    assert best_column(SPEC, scores, desk()) == column


def test_smaller_is_better_if_the_study_says_so() -> None:
    assert best_column(SPEC, {"val_nll": [0.3, 0.4, 0.2, 0.1]}, desk("val_nll", "minimize")) == 2


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_momenta_that_give_no_number_are_not_best(direction: str) -> None:
    scores = {"val_nll": [math.nan, 0.3, 0.3, 0.2], "val_loss": [0.1, math.nan, 0.2, 0.3]}
    assert best_column(SPEC, scores, desk("val_loss", direction)) == (direction == "maximize") * 2
    assert best_column(SPEC, scores, desk("val_nll", direction)) != 0


def test_metric_that_is_not_scored_is_named() -> None:
    with pytest.raises(ValueError, match="never logs val_accuracy; it logs val_f1"):
        best_column(SPEC, {"val_f1": [0.0] * 4}, desk())


@pytest.mark.parametrize("fixed", [False, True])
def test_a_trial_takes_the_metrics_of_its_best_momentum_unless_it_is_fixed(fixed: bool) -> None:
    given: dict[str, Any] = {"momenta": SPEC.momenta, "momentum_is_fixed": fixed}
    training = Training(TrialSpec(0, 0, {}, {}, **given), None, metrics={"train_loss": 1.0})
    scores = {"val_accuracy": [0.5, 0.7, 0.6, 0.9], "val_nll": [3.0, 2.0, 1.0, 0.5]}
    take_scores(training, scores, desk())
    assert training.bank == (0.5, 0.7, 0.6, 0.9)
    assert training.found == ({} if fixed else {MOMENTUM: 0.1})
    best = {} if fixed else {"val_accuracy": 0.7, "val_nll": 2.0}
    assert training.metrics == {"train_loss": 1.0, **best}


def test_without_scores_a_trial_keeps_what_it_has() -> None:
    training = Training(SPEC, None, metrics={"val_accuracy": 0.4})
    take_scores(training, {}, desk())
    assert (training.bank, training.metrics) == ((), {"val_accuracy": 0.4})
