"""Learning curves: the metric of every trial by epoch, the pruned ones ending in a mark."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sweep.report.drawing import Point, blank, legend, marks
from sweep.report.reading import Reading
from sweep.report.theme import LIGHT
from sweep.results import TrialRow

_STYLES = {  # kind -> colour, width, opacity
    "pruned": (LIGHT["pruned"], 0.9, 0.6),
    "complete": (LIGHT["accent"], 1.0, 0.55),
    "best": (LIGHT["best"], 2.2, 1.0),
}
_MANY = 40  # curves of one kind; more are fainter
_HIDDEN = 0.03  # share of all values that may lie below the axis: starts, and what diverged


def draw_learning(reading: Reading, width: int) -> Figure | None:
    """None unless a trial has reported two epochs."""
    trials = [t for t in reading.ended if t.curve and t.status != "failed"]
    if max((len(t.curve) for t in trials), default=0) < 2:
        return None
    figure = blank(width, 320)
    axes = figure.subplots()
    axes.set(xlabel="epoch", ylabel=reading.metric.axis)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.grid(axis="y", color=LIGHT["rule"], lw=0.8)
    axes.set_axisbelow(True)
    factor = reading.metric.factor
    handles: list[Line2D] = []
    for order, (kind, (colour, lw, alpha)) in enumerate(_STYLES.items()):
        lines = [
            [(e, factor * v) for e, v in t.curve.items()] for t in trials if _is(reading, t, kind)
        ]
        if lines:
            alpha *= min(1.0, (_MANY / len(lines)) ** 0.5)
            drawn = LineCollection(lines, colors=colour, linewidths=lw, alpha=alpha, label=kind)
            drawn.set_zorder(2 + order)
            axes.add_collection(drawn)
            handles.append(Line2D([], [], color=colour, lw=lw, label=kind))
    values = factor * np.array([v for t in trials for v in t.curve.values() if math.isfinite(v)])
    worst, best = np.quantile(reading.sign * values, [_HIDDEN, 1.0])
    room = 0.06 * (best - worst) or 1.0
    axes.set_ylim(*sorted((reading.sign * (worst - room), reading.sign * (best + room))))
    axes.set_xlim(0.7, max(e for t in trials for e in t.curve) + 0.3)
    low, high = axes.get_ylim()
    ends = [
        Point(t, float(e), min(max(factor * t.curve[e], low), high))
        for t in trials
        if t.status == "pruned" and math.isfinite(t.curve[e := max(t.curve)])
    ]
    marks(axes, reading, ends)
    legend(figure, handles[::-1], width)
    return figure


def _is(reading: Reading, trial: TrialRow, kind: str) -> bool:
    return (trial is reading.best) == (kind == "best") and (kind == "best" or trial.status == kind)
