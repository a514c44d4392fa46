"""The figures of a study: what is drawn where, read from their artists."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from sweep.report.figures import NARROW, figures
from sweep.report.generalisation import gap_of
from sweep.report.reading import read
from sweep.report.timeline import bars_of
from sweep.results import MomentumCurve, ResultSet
from tests.report_studies import BEGIN, MOMENTA, confirmation, confirmed, profiled, study, trial

T = TypeVar("T")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> ResultSet:
    return confirmed(tmp_path_factory.mktemp("confirmed"))


@pytest.fixture(scope="module")
def drawn(results: ResultSet) -> dict[str, Figure]:
    return figures(results)


def lines(axes: Axes, label: str) -> list[Line2D]:
    return [line for line in axes.get_lines() if line.get_label() == label]


def marks(axes: Axes) -> dict[str, tuple[float, float]]:
    """Where each trial is marked, by the link to its row."""
    return {
        url: (float(x), float(y))
        for drawn in axes.collections
        if isinstance(drawn, PathCollection)
        for url, (x, y) in zip(drawn.get_urls() or [], drawn.get_offsets(), strict=True)
    }


def test_a_full_study_has_every_figure_with_labelled_axes(drawn: dict[str, Figure]) -> None:
    names = ["surface", "momentum", "dropout", "history", "importance", "learning", "pruning"]
    assert list(drawn) == [*names, "timeline"]
    for name, figure in drawn.items():
        assert figure.axes[0].get_xlabel(), name
        assert figure.axes[0].get_ylabel() or name in ("importance", "timeline")


def test_the_surface_is_measured_at_every_momentum_of_every_training(
    results: ResultSet, drawn: dict[str, Figure]
) -> None:
    (line,) = lines(drawn["surface"].axes[0], "measured")
    x, y = (np.asarray(values, dtype=float) for values in line.get_data())
    found = {(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(b)}
    assert found == {
        (t.params["model.dropout"], m) for t in results.complete for m in MOMENTA if m is not None
    }
    low, high = drawn["surface"].axes[1].get_ylim()  # the colour bar
    assert low < 98 < high


def test_a_retrofitted_module_has_the_figures_of_one_with_layers_of_its_own(
    results: ResultSet, drawn: dict[str, Figure]
) -> None:
    def renamed(params: Mapping[str, T]) -> dict[str, T]:
        return {key.replace("model.", "retrofit."): value for key, value in params.items()}

    moved = replace(
        results,
        search=renamed(results.search),
        trials=[replace(t, params=renamed(t.params)) for t in results.trials],
        confirm=[replace(r, params=renamed(r.params)) for r in results.confirm],
    )
    found = figures(moved)
    assert list(found) == list(drawn)
    for name in ("surface", "dropout", "importance"):
        assert marks(found[name].axes[0]) == marks(drawn[name].axes[0])
    (line,), (expected,) = (lines(f["surface"].axes[0], "measured") for f in (found, drawn))
    assert np.array_equal(line.get_data(), expected.get_data(), equal_nan=True)
    assert bars(found["importance"]) == bars(drawn["importance"]) != []
    assert "momentum" in figures(replace(moved, confirm=[]))


def bars(figure: Figure) -> list[float]:
    return [bar.get_width() for bar in figure.axes[0].patches if isinstance(bar, Rectangle)]


def test_of_a_crowd_the_surface_shows_no_single_measurements(tmp_path: Path) -> None:
    axes = figures(confirmed(tmp_path, 120))["surface"].axes[0]
    assert not lines(axes, "measured")
    assert len(marks(axes)) == 120


def test_a_terrible_corner_does_not_flatten_the_rest(tmp_path: Path) -> None:
    rows = [trial(i) for i in range(32)]
    rows[0] = replace(rows[0], value=0.11)
    results = study(tmp_path, rows)
    assert 0.97 < read(results).floor < 0.984
    low, high = figures(results)["surface"].axes[1].get_ylim()
    assert 96.5 < low < high < 99


def test_momentum_curves_are_means_over_fresh_seeds_with_precise_levels(
    results: ResultSet, drawn: dict[str, Figure]
) -> None:
    chosen = read(results).answer.recommended
    assert chosen is not None
    curves = [r.momentum for r in results.confirm if r.arm == chosen.name and r.momentum]
    axes = drawn["momentum"].axes[0]
    (line,) = lines(axes, "running average")
    assert list(np.asarray(line.get_xdata())) == list(MOMENTA[:-1])
    means = 100 * np.mean([c.values for c in curves], axis=0)
    assert np.asarray(line.get_ydata()) == pytest.approx(means[:-1])
    (average,) = lines(axes, "cumulative average")
    assert np.asarray(average.get_ydata()) == pytest.approx(means[-1:])
    for kind in ("off", "on"):
        (level,) = lines(axes, f"precise statistics, dropout {kind}")
        found = [getattr(c, f"dropout_{kind}") for c in curves]
        assert np.asarray(level.get_ydata())[0] == pytest.approx(100 * np.mean(found))
    assert axes.get_xscale() == "log"
    titles = [a.get_title() for a in drawn["momentum"].axes]
    assert titles[-1] == "default: dropout 0\n5 fresh seeds"


def test_without_fresh_seeds_the_momentum_curve_is_the_mean_over_trials(tmp_path: Path) -> None:
    results = confirmed(tmp_path, confirm=())
    (axes,) = figures(results)["momentum"].axes
    assert axes.get_title() == f"mean over {len(results.complete)} trials"


def test_equal_momenta_look_equal(tmp_path: Path) -> None:
    flat = MomentumCurve(MOMENTA, [0.98] * 14, 0.98, 0.98)
    results = study(tmp_path, [replace(profiled(i), momentum=flat) for i in (0, 1, 3)])
    low, high = figures(results)["momentum"].axes[0].get_ylim()
    assert (low, high) == pytest.approx((97.9, 98.1))


def test_dropout_stands_against_the_metric_and_the_gap_with_fresh_intervals(
    results: ResultSet, drawn: dict[str, Figure]
) -> None:
    metric, gap = drawn["dropout"].axes
    for t in results.complete:
        dropout, value = float(str(t.params["model.dropout"])), t.value or 0.0
        assert marks(metric)[f"#trial-{t.number}"] == pytest.approx((dropout, 100 * value))
        assert marks(gap)[f"#trial-{t.number}"] == pytest.approx((dropout, gap_of(t.metrics)))
    for arm in read(results).answer.arms:
        (square,) = lines(metric, f"fresh {arm.name}")
        assert arm.validation is not None
        assert square.get_data()[1] == pytest.approx([100 * arm.validation.mean])
        assert lines(gap, f"fresh {arm.name}")
    assert lines(metric, "average, with 95 % interval")


def test_wide_intervals_end_at_the_axis(tmp_path: Path) -> None:
    fresh = [
        replace(row, metrics={**row.metrics, "val_accuracy": 0.95 + 0.04 * place, "val_nll": place})
        for place, row in enumerate(confirmation("1st", 0, 0.3, 2))
    ]
    drawn = figures(confirmed(tmp_path, confirm=fresh))["dropout"]
    drawn.draw_without_rendering()  # the layout has room: it would warn
    axes = drawn.axes[0]
    low, high = axes.get_ylim()
    assert 90 < low < high < 101
    ticks = sorted(axes.get_yticks())
    assert ticks[-1] <= 100 and high - ticks[-1] < 2 * (ticks[-1] - ticks[-2])
    for panel in drawn.axes:
        low, high = panel.get_ylim()
        for line in panel.get_lines():
            assert all(low <= y <= high for y in np.asarray(line.get_ydata(), dtype=float))
    assert drawn.axes[1].get_ylim()[1] < 2


def test_learning_curves_end_where_trials_were_pruned(
    results: ResultSet, drawn: dict[str, Figure]
) -> None:
    (axes,) = drawn["learning"].axes
    curves = {
        c.get_label(): c.get_segments() for c in axes.collections if isinstance(c, LineCollection)
    }
    counts = {kind: len(found) for kind, found in curves.items()}
    assert counts == {"pruned": 8, "complete": 15, "best": 1}
    assert {len(segment) for segment in curves["pruned"]} == {2}
    assert {x for x, _ in marks(axes).values()} == {2.0} and len(marks(axes)) == 8


def test_the_time_line_has_a_bar_for_each_training_in_the_lanes_of_its_worker(
    results: ResultSet, drawn: dict[str, Figure]
) -> None:
    (axes,) = drawn["timeline"].axes
    bars = [c for c in axes.collections if isinstance(c, PolyCollection)]
    counts = {c.get_label(): len(c.get_paths()) for c in bars}
    assert counts.pop("fresh seed") == len(results.confirm) == 15
    assert sum(counts.values()) == len(results.trials)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["worker-0", "worker-1"]


def test_lanes_are_told_from_the_times_and_long_pauses_are_cut_out(tmp_path: Path) -> None:
    def at(number: int, start: float, end: float) -> object:
        shift = [np.timedelta64(round(x), "s").item() for x in (start, end)]
        return replace(
            profiled(number), worker="w", started=BEGIN + shift[0], finished=BEGIN + shift[1]
        )

    rows = [at(0, 0, 10), at(1, 1, 5), at(2, 5, 9), at(3, 10, 20), at(4, 4000, 4010)]
    bars, cuts = bars_of(read(study(tmp_path, rows)))  # type: ignore[arg-type]
    assert [(b.lane, b.start, b.end) for b in bars] == [
        (0, 0, 10), (1, 1, 5), (1, 5, 9), (0, 10, 20), (0, 20, 30),
    ]  # fmt: skip
    assert cuts == [20]


def test_other_parameters_have_slices(tmp_path: Path) -> None:
    rows = [
        replace(profiled(i), params={**profiled(i).params, "optimizer.lr": 0.001 * (i + 1)})
        for i in range(12)
    ]
    (axes,) = figures(study(tmp_path, rows), NARROW)["slices"].axes
    assert axes.get_xlabel() == "lr"
    assert len(marks(axes)) == 12


def test_a_figure_with_nothing_to_show_is_left_out(tmp_path: Path) -> None:
    assert figures(study(tmp_path, [])) == {}
    bare = [replace(trial(i), params={}) for i in range(3)]
    assert list(figures(study(tmp_path, bare, search={}))) == ["history", "learning"]
