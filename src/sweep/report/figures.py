"""A study's figures as matplotlib objects, ready for a notebook, a page or a file.

Widths are in pixels at 72 dots an inch, so that fonts keep their size on a page. Nothing here
touches pyplot: figures need no closing, and no display.
"""

from __future__ import annotations

import math

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sweep.report.drawing import Point, jitter, legend, level, limit, marks, scale
from sweep.report.field import draw_field
from sweep.report.parameters import Parameter
from sweep.report.reading import ENOUGH, Reading, read, value_of
from sweep.report.smooth import smooth
from sweep.report.theme import LIGHT, STYLE
from sweep.results import ResultSet

WIDE, NARROW = 760, 340


def figures(study: ResultSet, width: int = WIDE) -> dict[str, Figure]:
    """The figures that this study has something to show in, by name."""
    reading = read(study)
    found: dict[str, Figure] = {}
    if len(reading.numeric) >= 2:
        found["surface"] = surface(study, width)
    if reading.parameters:
        found["slices"] = slices(study, width)
    if reading.ended:
        found["history"] = history(study, width)
    return found


def surface(study: ResultSet, width: int = WIDE) -> Figure:
    """The metric over the first two numeric parameters: a smooth surface and the measured trials.

    Other parameters vary underneath it and count as noise.
    """
    reading = read(study)
    if len(reading.numeric) < 2:
        raise ValueError(
            f"a surface needs two numeric parameters, the study {study.name!r} has "
            f"{[p.name for p in reading.numeric]}: draw slices(study) instead"
        )
    across, up = reading.numeric[:2]
    with mpl.rc_context(STYLE):
        figure = _figure(width, 500 if width > 500 else 420)
        axes = figure.subplots()
        scale(axes, "x", across)
        scale(axes, "y", up)
        points = [
            Point(t, x, y)
            for t in reading.ended
            if (x := across.number(t)) is not None and (y := up.number(t)) is not None
        ]
        complete = [p for p in points if p.trial in reading.complete]
        handles = draw_field(axes, reading, across, up, complete) if len(complete) >= ENOUGH else []
        legend(figure, [*marks(axes, reading, points), *handles], width)
    return figure


def slices(study: ResultSet, width: int = WIDE) -> Figure:
    """The metric against each searched parameter; the line is smooth over all the others."""
    reading = read(study)
    if not reading.parameters:
        raise ValueError(
            f"slices need a searched parameter, the study {study.name!r} has none: "
            "draw history(study) instead"
        )
    columns = min(len(reading.parameters), 1 if width < 500 else 2)
    rows = math.ceil(len(reading.parameters) / columns)
    with mpl.rc_context(STYLE):
        figure = _figure(width, 60 + 250 * rows)
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for axes in grid.flat[len(reading.parameters) :]:
            axes.remove()
        handles: dict[str, Line2D] = {}
        for axes, parameter in zip(grid.flat, reading.parameters, strict=False):
            for handle in _slice(axes, reading, parameter):
                handles.setdefault(str(handle.get_label()), handle)
        for row in grid:
            row[0].set_ylabel(reading.metric.axis)
        legend(figure, list(handles.values()), width)
    return figure


def _slice(axes: Axes, reading: Reading, parameter: Parameter) -> list[Line2D]:
    scale(axes, "x", parameter)
    limit(axes, reading)
    points = [
        Point(t, x if parameter.numeric else x + jitter(t), level(reading, t))
        for t in reading.ended
        if (x := parameter.number(t)) is not None
    ]
    handles = marks(axes, reading, points)
    complete = [(p.x, p.y) for p in points if p.trial in reading.complete]
    if parameter.numeric and len(complete) >= ENOUGH:
        across, values = np.array(complete).T
        ends = parameter.place(across.min()), parameter.place(across.max())
        places = np.linspace(*ends, 200)
        measured = np.array([parameter.place(x) for x in across])
        line = smooth(measured[:, None], values, places[:, None])
        (drawn,) = axes.plot(
            [parameter.at(p) for p in places], line, color=LIGHT["accent"], lw=1.8, alpha=0.8,
            zorder=2, label="smoothed",
        )  # fmt: skip
        handles.append(drawn)
    return handles


def history(study: ResultSet, width: int = WIDE) -> Figure:
    """The metric of every trial in the order they were asked for, and the best so far."""
    reading = read(study)
    with mpl.rc_context(STYLE):
        figure = _figure(width, 320)
        axes = figure.subplots()
        limit(axes, reading)
        axes.set(xlabel="trial", ylabel=reading.metric.axis)
        axes.xaxis.set_major_locator(
            MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
        )
        handles = []
        if reading.complete:
            ordered = sorted(reading.complete, key=lambda t: t.number)
            values = reading.sign * np.array([value_of(t) for t in ordered])
            best = reading.sign * np.maximum.accumulate(values) * reading.metric.factor
            numbers = [*(t.number for t in ordered), max(t.number for t in reading.ended)]
            handles = axes.plot(
                numbers, [*best, best[-1]], drawstyle="steps-post", color=LIGHT["accent"], lw=1.8,
                zorder=2, label="best so far",
            )  # fmt: skip
        points = [Point(t, float(t.number), level(reading, t)) for t in reading.ended]
        legend(figure, [*marks(axes, reading, points), *handles], width)
    return figure


def _figure(width: int, height: int) -> Figure:
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06, hspace=0.05, wspace=0.04)
    return Figure(figsize=(width / 72, height / 72), dpi=72, layout=layout)
