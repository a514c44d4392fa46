"""The diagnostics of the confirmed settings as a table, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from sweep.report import build_report
from sweep.report.diagnostics import diagnostics
from sweep.report.reading import read
from sweep.results import ConfirmRow, ResultSet
from tests.report_studies import Page, confirmed, diagnosed


def changed(folder: Path, change: Callable[[ConfirmRow], ConfirmRow]) -> ResultSet:
    results = confirmed(folder)
    return replace(results, confirm=[change(row) for row in results.confirm])


def shown(mean: float, half: float, decimals: int) -> str:
    return f"{mean:.{decimals}f} ± {half:.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def test_each_setting_has_means_with_intervals_oriented(tmp_path: Path) -> None:
    results = confirmed(tmp_path)
    sheet = diagnostics(read(results))
    assert sheet is not None
    assert sheet.heads == ["diagnostic", "1st", "2nd", "default", "what it means"]
    cells = {row[0]: row[1:-1] for row in sheet.rows}
    kinds = {
        "variance shift, 1.norm": ("variance_shift/1.norm", 1, 3),
        "variance shift, 2.norm": ("variance_shift/2.norm", 1, 3),
        "lag cost (points)": ("lag_cost/val_accuracy", 100, 2),
        "lag cost (NLL)": ("lag_cost/val_nll", -1, 4),
        "shift cost (points)": ("shift_cost/val_accuracy", 100, 2),
        "shift cost (NLL)": ("shift_cost/val_nll", -1, 4),
        "dead units (%)": ("dead_units", 100, 1),
        "generalisation gap (points)": ("gap/val_accuracy", 100, 2),
        "generalisation gap (NLL)": ("gap/val_nll", -1, 4),
    }
    assert cells.keys() == {*kinds, "ECE, validation"}
    for name, (key, factor, decimals) in kinds.items():
        values = [factor * r.diagnostics[key] for r in results.confirm if r.arm == "1st"]
        half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
        assert cells[name][0] == shown(float(np.mean(values)), half, decimals)
    assert cells["ECE, validation"] == ["0.0100 ± 0.0000"] * 3


def test_each_kind_is_explained_once(tmp_path: Path) -> None:
    sheet = diagnostics(read(confirmed(tmp_path)))
    assert sheet is not None
    notes = " ".join(row[-1] for row in sheet.rows)
    assert notes.count("Large:") == 6 and all(row[-1] for row in sheet.rows)


def test_where_all_are_small_that_is_said(tmp_path: Path) -> None:
    sheet = diagnostics(read(confirmed(tmp_path)))
    assert sheet is not None and sheet.about.startswith("None of these is large: ")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("gap/val_accuracy", 0.02, "the generalisation gap of the 1st"),
        ("dead_units", 0.3, "the dead units of the 1st"),
        ("variance_shift/2.norm", 1.5, "the variance shift, 2.norm of the 1st"),
        ("lag_cost/val_accuracy", 0.01, "the lag cost of the 1st"),
        ("shift_cost/val_nll", -0.01, "the shift cost of the 1st"),
    ],
)
def test_what_is_large_is_named_with_its_settings(
    tmp_path: Path, name: str, value: float, said: str
) -> None:
    def change(row: ConfirmRow) -> ConfirmRow:
        return replace(row, diagnostics={**row.diagnostics, name: value + 1e-5 * (row.seed % 3)})

    one = changed(tmp_path, lambda row: change(row) if row.arm == "1st" else row)
    sheet = diagnostics(read(one))
    assert sheet is not None and sheet.about.startswith(f"Large here: {said}. ")
    every = diagnostics(read(changed(tmp_path, change)))
    assert every is not None
    assert every.about.startswith(f"Large here: {said.replace('the 1st', 'every setting')}. ")


def test_a_cost_that_may_be_chance_is_not_called_large(tmp_path: Path) -> None:
    def change(row: ConfirmRow) -> ConfirmRow:
        lag = 0.002 if row.seed == 100 else 0.0
        return replace(row, diagnostics={**row.diagnostics, "lag_cost/val_accuracy": lag})

    sheet = diagnostics(read(changed(tmp_path, change)))
    assert sheet is not None and sheet.about.startswith("None of these is large")


def test_of_many_layers_their_mean_is_shown(tmp_path: Path) -> None:
    many = {f"variance_shift/{i}.norm": 1.0 for i in range(9)}
    results = changed(
        tmp_path, lambda row: replace(row, diagnostics={**diagnosed(row.seed), **many})
    )
    sheet = diagnostics(read(results))
    assert sheet is not None
    names = [row[0] for row in sheet.rows if row[0].startswith("variance")]
    assert names == ["variance shift"]


def test_rows_without_diagnostics_have_no_table(tmp_path: Path) -> None:
    assert diagnostics(read(changed(tmp_path, lambda row: replace(row, diagnostics={})))) is None


def test_a_module_that_logs_little_has_what_there_is(tmp_path: Path) -> None:
    found = {"gap/val_accuracy": 0.001}
    results = changed(
        tmp_path,
        lambda row: replace(
            row, diagnostics=found, metrics={"val_accuracy": row.metrics["val_accuracy"]}
        ),
    )
    sheet = diagnostics(read(results))
    assert sheet is not None
    assert [row[0] for row in sheet.rows] == ["generalisation gap (points)"]


def test_the_page_and_the_markdown_hold_the_table(tmp_path: Path) -> None:
    results = confirmed(tmp_path)
    page, sheet = build_report(results), diagnostics(read(results))
    assert sheet is not None
    assert Page(page).table("Diagnostics") == [list(sheet.heads), *map(list, sheet.rows)]
    assert "## Diagnostics" in page.with_name("REPORT.md").read_text()
