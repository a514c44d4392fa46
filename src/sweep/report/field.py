"""The filled surface of a response figure: bands of equal value, and the region near the top.

Bands are few and flat so that their edges read as contour lines, and so that they stay vector
shapes whose colours follow the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sweep.parameters import Parameter
from sweep.report.drawing import Point
from sweep.report.reading import Reading, value_of, worth_showing
from sweep.report.smooth import Array, smooth
from sweep.report.theme import BANDS, LIGHT
from sweep.results import TrialRow

_GRID = 90  # points a side
_PLACES = np.linspace(-0.02, 1.02, _GRID)


@dataclass(frozen=True)
class Field:
    """Estimated values [y, x] of the metric, and the range of what was measured, as recorded."""

    x: Sequence[float]
    y: Sequence[float]
    values: Array
    floor: float
    top: float


def estimated(reading: Reading, across: Parameter, up: Parameter, points: Sequence[Point]) -> Field:
    """Smooth in both directions through one value a trial."""
    right, top = np.meshgrid(_PLACES, _PLACES)
    at = np.column_stack([right.ravel(), top.ravel()])
    measured = np.array([[across.place(p.x), up.place(p.y)] for p in points])
    values = _bounded([value_of(p.trial) for p in points], reading.sign, reading.floor)
    field = smooth(measured, values, at).reshape(_GRID, _GRID)
    x, y = [across.at(p) for p in _PLACES], [up.at(p) for p in _PLACES]
    return Field(x, y, field, reading.floor, value_of(reading.complete[0]))


def measured(
    reading: Reading, across: Parameter, trials: Sequence[TrialRow], momenta: Sequence[float]
) -> Field:
    """Measured at every momentum of each trial, so smooth across only."""
    places = np.array([[across.place(x)] for t in trials if (x := across.number(t)) is not None])
    rows = [
        dict(zip(t.momentum.momenta, t.momentum.values, strict=True)) for t in trials if t.momentum
    ]
    values = np.array([[row[m] for m in momenta] for row in rows])
    floor = worth_showing(list(values.ravel()), reading.sign, reading.tolerance)
    field = smooth(places, _bounded(values, reading.sign, floor), _PLACES[:, None]).T
    top = float(reading.sign * (reading.sign * values).max())
    return Field([across.at(p) for p in _PLACES], list(momenta), field, floor, top)


def _bounded(values: Array | Sequence[float], sign: float, floor: float) -> Array:
    """Values beyond the floor pulled up to it: one diverged corner would bend everything."""
    return np.asarray(sign * np.maximum(sign * np.asarray(values), sign * floor))


def draw_field(axes: Axes, reading: Reading, field: Field) -> list[Line2D]:
    """Draw a surface with its colour bar and near-best outline."""
    factor = reading.metric.factor
    ends = sorted((field.floor * factor, field.top * factor))
    levels = MaxNLocator(nbins=9, steps=[1, 2, 2.5, 5, 10]).tick_values(*ends)
    count = len(levels) - 1
    colours = [BANDS[round(i * (len(BANDS) - 1) / max(count - 1, 1))] for i in range(count)]
    if reading.sign < 0:
        colours.reverse()
    shown = np.clip(field.values * factor, levels[0], levels[-1])
    filled = axes.contourf(field.x, field.y, shown, levels=levels, colors=colours)
    filled.set(edgecolor="face", linewidth=0.4)  # closes the hairlines between neighbours
    bar = axes.figure.colorbar(filled, ax=axes, fraction=0.05, pad=0.02, aspect=30, drawedges=False)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    bar.set_label(reading.metric.axis, labelpad=8)
    return _outline(axes, reading, field)


def _outline(axes: Axes, reading: Reading, field: Field) -> list[Line2D]:
    better = reading.sign * field.values
    edge = better.max() - reading.tolerance
    if not better.min() < edge < better.max():
        return []
    axes.contour(
        field.x, field.y, better, levels=[edge], colors=LIGHT["outline"], linewidths=1.6, zorder=3
    )
    return [Line2D([], [], color=LIGHT["outline"], lw=1.6, label="near-best region")]
