"""The tables of the confirmation: their numbers against plain statistics of the rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from sweep.report import build_report
from sweep.report.confirmed import arms, comparisons, verdicts
from sweep.report.reading import Reading, read
from sweep.results import ResultSet
from tests.report_studies import Page, confirmation, confirmed, study


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    return read(confirmed(tmp_path_factory.mktemp("confirmed")))


def values(results: ResultSet, arm: str, metric: str) -> list[float]:
    return [100 * r.metrics[metric] for r in results.confirm if r.arm == arm]


def mean(found: list[float]) -> str:
    half = stats.sem(found) * stats.t.ppf(0.975, len(found) - 1)
    return f"{np.mean(found):.2f} ± {half:.2f}"


def test_every_arm_has_its_means_intervals_and_shrinkage(reading: Reading) -> None:
    sheet = arms(reading)
    assert sheet is not None
    names = ["setting", "dropout", "bn_momentum", "test (%)", "validation (%)"]
    assert sheet.heads[:5] == names
    assert [row[0] for row in sheet.rows] == ["1st", "2nd", "default"]
    for row, arm in zip(sheet.rows, reading.answer.arms, strict=True):
        assert row[3] == mean(values(reading.study, arm.name, "test_accuracy"))
        assert row[4] == mean(values(reading.study, arm.name, "val_accuracy"))
        assert row[-1] == "5"
    fresh = np.mean(values(reading.study, "1st", "val_accuracy"))
    best = reading.best
    assert best is not None and best.value is not None
    assert float(sheet.rows[0][6].split(" ± ")[0]) == pytest.approx(
        100 * best.value - fresh, abs=0.006
    )
    assert sheet.rows[2][5:7] == ["\N{EN DASH}", "\N{EN DASH}"]
    chosen = reading.answer.recommended
    assert chosen is not None and sheet.marked is not None
    assert sheet.rows[sheet.marked][0] == chosen.name


def test_comparisons_say_difference_p_and_verdict(reading: Reading) -> None:
    sheet = comparisons(reading)
    assert sheet is not None
    for row, found in zip(sheet.rows, reading.answer.comparisons, strict=True):
        assert row[0] == f"{found.arm} against {found.against}"
        shown = float(row[2].split(" ± ")[0].replace("\N{MINUS SIGN}", "-"))
        assert shown == pytest.approx(100 * found.difference.mean, abs=0.006)
        assert row[3] == "< 0.001" if found.holm < 0.001 else f"{found.holm:.3f}"


def test_each_parameter_has_its_verdict_in_words(reading: Reading) -> None:
    sheet = verdicts(reading)
    assert sheet is not None
    assert [row[0] for row in sheet.rows] == ["dropout", "bn_momentum"]
    assert [row[2] for row in sheet.rows] == [v.sentence for v in reading.answer.verdicts]


def test_without_a_confirmation_there_is_no_table_of_arms(tmp_path: Path) -> None:
    reading = read(study(tmp_path, 8))
    assert arms(reading) is None and comparisons(reading) is None
    assert verdicts(reading) is not None


def test_one_seed_has_means_without_intervals(tmp_path: Path) -> None:
    rows = [*confirmation("1st", 0, 0.3, 1), *confirmation("default", None, 0.0, 1)]
    sheet = arms(read(confirmed(tmp_path, confirm=rows)))
    assert sheet is not None
    assert all("±" not in cell for row in sheet.rows for cell in row)


def test_the_page_and_the_markdown_hold_the_same_tables(reading: Reading) -> None:
    page = build_report(reading.study)
    for sheet in (arms(reading), comparisons(reading), verdicts(reading)):
        assert sheet is not None
        assert Page(page).table(sheet.title) == [list(sheet.heads), *map(list, sheet.rows)]
        assert f"## {sheet.title}" in page.with_name("REPORT.md").read_text()
