"""Importance: what matters passes its dummies, what does not stays below them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna

from sweep.report.figures import figures
from sweep.report.importance import importances
from sweep.report.reading import read
from tests.report_studies import confirmed, some_without_batch_norm, study, trial

SEARCH = {"model.dropout": "interval(0,0.7)", "optimizer.lr": "tag(log, interval(0.001,1))"}


def test_a_parameter_without_effect_stays_among_its_dummies(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    rows = []
    for number in range(60):
        dropout, lr = 0.7 * draw.random(), 10 ** (-3 * draw.random())
        value = 0.98 - (dropout - 0.2) ** 2
        params = {"model.dropout": dropout, "optimizer.lr": lr, "optimizer.name": "ab"[number % 2]}
        rows.append(replace(trial(0), number=number, params=params, value=value))
    found = {r.parameter.name: r for r in importances(read(study(tmp_path, rows, search=SEARCH)))}
    assert found["dropout"].share > found["dropout"].floor
    assert found["dropout"].share > 5 * found["lr"].share
    assert found["lr"].share < 2 * found["lr"].floor
    assert next(iter(found)) == "dropout"
    assert (
        sum(r.share for r in found.values()) == 1.0
        or abs(sum(r.share for r in found.values()) - 1) < 1e-9
    )


def test_every_scored_momentum_counts(tmp_path: Path) -> None:
    reading = read(confirmed(tmp_path))
    found = {row.parameter.name: row for row in importances(reading)}
    assert found["bn_momentum"].share > found["bn_momentum"].floor
    (axes,) = figures(reading.study)["importance"].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list(found)


def test_networks_without_batch_norm_leave_momentum_out(tmp_path: Path) -> None:
    results = some_without_batch_norm(tmp_path)
    found = importances(read(results))
    assert {row.parameter.name for row in found} == {"dropout", "norm"}


def test_few_trials_or_equal_ones_have_no_importance(tmp_path: Path) -> None:
    assert importances(read(study(tmp_path, 9))) == []
    equal = [replace(trial(i), value=0.9) for i in range(30) if trial(i).status == "complete"]
    assert importances(read(study(tmp_path, equal))) == []


def test_optuna_is_as_loud_afterwards_as_before(tmp_path: Path) -> None:
    before = optuna.logging.get_verbosity()
    importances(read(study(tmp_path, 32)))
    assert optuna.logging.get_verbosity() == before
