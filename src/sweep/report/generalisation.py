"""Dropout against what it is for: the metric on validation, and the generalisation gap.

The gap is the validation NLL less the training loss of the last epoch, which is measured with
dropout on: with much dropout it is below zero although nothing generalises better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sweep.confirm.estimates import mean_of
from sweep.confirm.findings import Interval
from sweep.parameters import Parameter
from sweep.report.drawing import Point, blank, legend, marks, scale
from sweep.report.reading import ENOUGH, Reading
from sweep.report.slices import draw_slice, draw_trend
from sweep.report.theme import LIGHT

_FRESH = "fresh seeds: mean, 95 % interval"


def draw_dropout(reading: Reading, width: int) -> Figure | None:
    """None unless dropout was searched."""
    dropout = reading.dropout
    if dropout is None or not reading.ended:
        return None
    points = gaps(reading)
    panels = 2 if len(points) >= ENOUGH else 1
    stacked = width < 500
    figure = blank(width, 330 + (250 * (panels - 1) if stacked else 0))
    grid = figure.subplots(panels if stacked else 1, 1 if stacked else panels, squeeze=False).flat
    factor = reading.metric.factor
    arms = {a.name: _scaled(a.validation, factor) for a in reading.answer.arms if a.validation}
    ends = [end for a in arms.values() for end in (a.low, a.high) if math.isfinite(end)]
    handles = draw_slice(grid[0], reading, dropout, ends)
    grid[0].set_ylabel(reading.metric.axis)
    fresh = _draw_arms(grid[0], reading, dropout, arms.get)
    if panels == 2:
        _draw_gap(grid[1], reading, dropout, points)
    legend(figure, [*handles, *fresh], width)
    return figure


def gaps(reading: Reading) -> list[Point]:
    """The gap of every complete trial that has one, against its dropout."""
    dropout = reading.dropout
    found = [(t, gap_of(t.metrics)) for t in reading.complete] if dropout else []
    return [
        Point(t, x, gap)
        for t, gap in found
        if gap is not None and dropout and (x := dropout.number(t)) is not None
    ]


def gap_of(metrics: Mapping[str, float]) -> float | None:
    """Validation NLL less training loss, in nats; None if either is missing or not finite."""
    gap = metrics.get("val_nll", math.nan) - metrics.get("train_loss", math.nan)
    return gap if math.isfinite(gap) else None


def _draw_gap(axes: Axes, reading: Reading, dropout: Parameter, points: Sequence[Point]) -> None:
    scale(axes, "x", dropout)
    axes.set_ylabel("validation NLL \N{MINUS SIGN} training loss (nats)")
    axes.grid(axis="y", color=LIGHT["rule"], lw=0.8)
    axes.set_axisbelow(True)
    axes.axhline(0.0, color=LIGHT["pruned"], lw=1.0, zorder=1)
    marks(axes, reading, points)
    draw_trend(axes, dropout, points)
    found = {a.name: gap_on_fresh_seeds(reading, a.name) for a in reading.answer.arms}
    axes.update_datalim([(dropout.low, gap.mean) for gap in found.values() if gap], updatex=False)
    axes.autoscale_view(scalex=False)
    _draw_arms(axes, reading, dropout, found.get)


def gap_on_fresh_seeds(reading: Reading, arm: str) -> Interval | None:
    """An arm's gap over its fresh seeds."""
    rows = [r for r in reading.study.confirm if r.arm == arm]
    gaps = [gap for r in rows if (gap := gap_of(r.metrics)) is not None]
    return mean_of(np.array(gaps)).interval(len(gaps)) if gaps else None


def _scaled(interval: Interval, factor: float) -> Interval:
    mean, low, high = (factor * x for x in (interval.mean, interval.low, interval.high))
    return Interval(mean, low, high, interval.count)


def _draw_arms(
    axes: Axes, reading: Reading, dropout: Parameter, of: Callable[[str], Interval | None]
) -> list[Line2D]:
    """Every confirmed arm at its dropout; what lies beyond the axis is drawn at its edge."""
    drawn = False
    limits = axes.get_ylim()
    for arm in reading.answer.arms:
        x, y = arm.params.get(dropout.key), of(arm.name)
        if y is None or not isinstance(x, (int, float)):
            continue
        ends = (y.low, y.high) if math.isfinite(y.half) else (y.mean, y.mean)
        low, mean, high = np.clip((ends[0], y.mean, ends[1]), *limits)
        axes.plot([x, x], [low, high], color=LIGHT["failed"], lw=1.6, zorder=11, clip_on=False)
        axes.plot([x], [mean], zorder=12, clip_on=False, label=f"fresh {arm.name}", **_MARK)
        drawn = True
    return [Line2D([], [], label=_FRESH, **_MARK)] if drawn else []


_MARK: dict[str, Any] = {
    "color": LIGHT["failed"], "marker": "s", "markersize": 5.5, "lw": 1.6,
    "markerfacecolor": LIGHT["card"], "markeredgewidth": 1.6,
}  # fmt: skip
