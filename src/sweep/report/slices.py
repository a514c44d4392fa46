"""One parameter at a time: the trials against each, and a line that is smooth over the others.

Dropout and a profiled bn_momentum have better figures of their own and are left to them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sweep.parameters import Parameter
from sweep.report.drawing import Point, blank, jitter, legend, level, limit, marks, scale
from sweep.report.reading import ENOUGH, Reading
from sweep.report.smooth import smooth_band
from sweep.report.theme import LIGHT

_STEPS = 120


def draw_slices(reading: Reading, width: int) -> Figure | None:
    """None without a parameter that no other figure shows."""
    shown = [p for p in reading.parameters if not _elsewhere(reading, p)]
    if not shown or not reading.ended:
        return None
    columns = min(len(shown), 1 if width < 500 else 2)
    rows = math.ceil(len(shown) / columns)
    figure = blank(width, 60 + 250 * rows)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes in grid.flat[len(shown) :]:
        axes.remove()
    handles: dict[str, Line2D] = {}
    for axes, parameter in zip(grid.flat, shown, strict=False):
        for handle in draw_slice(axes, reading, parameter):
            handles.setdefault(str(handle.get_label()), handle)
    for row in grid:
        row[0].set_ylabel(reading.metric.axis)
    legend(figure, list(handles.values()), width)
    return figure


def _elsewhere(reading: Reading, parameter: Parameter) -> bool:
    scored = [reading.momentum] if reading.profiled else []
    return parameter in (reading.dropout, *scored)


def draw_slice(
    axes: Axes, reading: Reading, parameter: Parameter, also: Sequence[float] = ()
) -> list[Line2D]:
    """The study's metric of every trial against one parameter, with room for values `also`."""
    scale(axes, "x", parameter)
    limit(axes, reading, also)
    points = [
        Point(t, x if parameter.numeric else x + jitter(t), level(reading, t))
        for t in reading.ended
        if (x := parameter.number(t)) is not None
    ]
    handles = marks(axes, reading, points)
    complete = [p for p in points if p.trial in reading.complete]
    return [*handles, *draw_trend(axes, parameter, complete)]


def draw_trend(axes: Axes, parameter: Parameter, points: Sequence[Point]) -> list[Line2D]:
    """What the points amount to on average over all other settings, with its 95 % interval."""
    if not parameter.numeric or len(points) < ENOUGH:
        return []
    measured = np.array([parameter.place(p.x) for p in points])
    places = np.linspace(measured.min(), measured.max(), _STEPS)
    values = np.array([p.y for p in points])
    line, half = smooth_band(measured[:, None], values, places[:, None])
    at = [parameter.at(p) for p in places]
    axes.fill_between(
        at, line - half, line + half, color=LIGHT["accent"], alpha=0.16, lw=0, zorder=1
    )
    style: dict[str, Any] = {
        "color": LIGHT["accent"],
        "lw": 1.8,
        "label": "average, with 95 % interval",
    }
    return list(axes.plot(at, line, alpha=0.8, zorder=2, **style))
