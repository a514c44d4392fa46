"""The metric of every trial in the order they were asked for, and the best so far."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sweep.report.drawing import Point, blank, legend, level, limit, marks
from sweep.report.reading import Reading, value_of
from sweep.report.theme import LIGHT


def draw_history(reading: Reading, width: int) -> Figure | None:
    """None before a trial has ended."""
    if not reading.ended:
        return None
    figure = blank(width, 320)
    axes = figure.subplots()
    limit(axes, reading)
    axes.set(xlabel="trial", ylabel=reading.metric.axis)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    handles: list[Line2D] = []
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
