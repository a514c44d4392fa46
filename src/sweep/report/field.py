"""The filled surface of a response figure: bands of equal value, and the region near the top.

Bands are few and flat so that their edges read as contour lines, and so that they stay vector
shapes whose colours follow the page.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sweep.report.drawing import Point
from sweep.report.parameters import Parameter
from sweep.report.reading import Reading, value_of
from sweep.report.smooth import Array, smooth
from sweep.report.theme import BANDS, LIGHT

_GRID = 90  # points a side


def draw_field(
    axes: Axes, reading: Reading, across: Parameter, up: Parameter, points: Sequence[Point]
) -> list[Line2D]:
    """Draw the smooth surface of the complete trials with its colour bar and near-best outline."""
    places = np.linspace(-0.02, 1.02, _GRID)
    right, top = np.meshgrid(places, places)
    at = np.column_stack([right.ravel(), top.ravel()])
    measured = np.array([[across.place(p.x), up.place(p.y)] for p in points])
    # Values beyond the floor are pulled up to it: one diverged corner would bend everything.
    values = reading.sign * np.array([value_of(p.trial) for p in points])
    values = np.maximum(values, reading.sign * reading.floor)
    field = reading.sign * smooth(measured, values, at).reshape(_GRID, _GRID)
    x, y = [across.at(p) for p in places], [up.at(p) for p in places]
    _bands(axes, reading, x, y, field)
    return _outline(axes, reading, x, y, field)


def _bands(axes: Axes, reading: Reading, x: list[float], y: list[float], field: Array) -> None:
    factor = reading.metric.factor
    ends = sorted((reading.floor * factor, value_of(reading.complete[0]) * factor))
    levels = MaxNLocator(nbins=9, steps=[1, 2, 2.5, 5, 10]).tick_values(*ends)
    count = len(levels) - 1
    colours = [BANDS[round(i * (len(BANDS) - 1) / max(count - 1, 1))] for i in range(count)]
    if reading.sign < 0:
        colours.reverse()
    shown = np.clip(field * factor, levels[0], levels[-1])
    filled = axes.contourf(x, y, shown, levels=levels, colors=colours)
    filled.set(edgecolor="face", linewidth=0.4)  # closes the hairlines between neighbours
    figure = axes.figure
    bar = figure.colorbar(filled, ax=axes, fraction=0.05, pad=0.02, aspect=30, drawedges=False)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    bar.set_label(reading.metric.axis, labelpad=8)


def _outline(
    axes: Axes, reading: Reading, x: list[float], y: list[float], field: Array
) -> list[Line2D]:
    better = reading.sign * field
    edge = better.max() - reading.tolerance
    if not better.min() < edge < better.max():
        return []
    axes.contour(x, y, better, levels=[edge], colors=LIGHT["outline"], linewidths=1.6, zorder=3)
    return [Line2D([], [], color=LIGHT["outline"], lw=1.6, label="near-best region")]
