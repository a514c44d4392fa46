"""Was pruning right: what the report says of studies whose truth is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sweep.report import build_report
from sweep.report.pruning import explain, judge_pruning
from sweep.report.reading import read
from sweep.results import ResultSet, TrialRow
from sweep.strategies import is_control
from tests.report_studies import Page, study

CONFIG = {"study": {"seed": 7}, "pruner": {"control": 0.3}}


def pruned_study(folder: Path, final: Callable[[int], float], count: int = 40) -> ResultSet:
    """The lower half is pruned after epoch 1, but for controls; `final` is by number."""
    half = 0.9 + 0.0005 * count
    rows = []
    for number in range(count):
        early = 0.9 + 0.001 * (number * 7 % count)
        control = is_control(7, number, 0.3)
        params = {"model.dropout": 0.01 * number}
        if early < half and not control:
            rows.append(TrialRow(number, "pruned", params, curve={1: early}))
            continue
        value = final(number)
        row = TrialRow(number, "complete", params, value, curve={1: early, 2: value}, seed=number)
        rows.append(replace(row, doomed=int(early < half)))
    return study(folder, rows, config=CONFIG)


def test_pruning_was_right_where_ranks_stay(tmp_path: Path) -> None:
    reading = read(pruned_study(tmp_path, lambda number: 0.95 + 0.001 * (number * 7 % 40)))
    pruning = judge_pruning(reading)
    assert pruning is not None
    assert pruning.rung == 1 and pruning.rank == pytest.approx(1.0)
    assert pruning.controls and pruning.doomed and not pruning.wrongly
    assert all(t.curve[1] < 0.92 for t in pruning.doomed)
    assert explain(reading, pruning)[-1].endswith(
        f"{len(pruning.doomed)} of them would have been pruned."
    )
    assert not pruning.is_doubtful
    assert explain(reading, pruning)[0].startswith("Nothing speaks against pruning")


def test_a_control_that_looked_bad_and_ended_best_is_a_warning(tmp_path: Path) -> None:
    results = pruned_study(tmp_path, lambda number: 0.99 - 0.001 * (number * 7 % 40))
    pruning = judge_pruning(read(results))
    assert pruning is not None and pruning.rank == pytest.approx(-1.0)
    assert pruning.wrongly and pruning.is_doubtful
    page = Page(build_report(results))
    assert "Pruning may have lost settings" in page.all("ul", "caveats")[0]
    assert page.all("p", "warning")[0].startswith("Pruning may have lost settings")


def test_controls_that_the_pruner_liked_prove_nothing(tmp_path: Path) -> None:
    results = pruned_study(tmp_path, lambda number: 0.95 + 0.001 * (number * 7 % 40))
    reading = read(study(tmp_path, [replace(t, doomed=0) for t in results.trials], config=CONFIG))
    pruning = judge_pruning(reading)
    assert pruning is not None and not pruning.doomed
    assert explain(reading, pruning)[0].startswith("There is no evidence on pruning")


def test_ranks_that_say_nothing_are_a_warning(tmp_path: Path) -> None:
    reading = read(pruned_study(tmp_path, lambda number: 0.9 + 0.002 * (number * 11 % 13)))
    pruning = judge_pruning(reading)
    assert pruning is not None and pruning.rank is not None and abs(pruning.rank) < 0.5
    assert pruning.is_doubtful


def test_where_nothing_was_pruned_there_is_nothing_to_say(tmp_path: Path) -> None:
    results = pruned_study(tmp_path, lambda number: 0.95)
    results = study(tmp_path, results.complete, config=CONFIG)
    assert judge_pruning(read(results)) is None
