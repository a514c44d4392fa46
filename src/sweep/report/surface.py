"""The response surface: the metric over two parameters, with the trials that it rests on.

Where every trial has scored a bank of momenta the surface is measured along that axis, and only
across it is anything estimated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sweep.parameters import Parameter
from sweep.report.drawing import Point, blank, legend, marks, scale
from sweep.report.field import draw_field, estimated, measured
from sweep.report.reading import ENOUGH, Reading
from sweep.report.theme import LIGHT
from sweep.results import TrialRow

_LEAST = 3  # momenta that make an axis of measurements
_CROWD = 60  # trainings


def axes_of(reading: Reading) -> tuple[Parameter, Parameter] | None:
    """What the surface lies over: dropout and bn_momentum if searched, else the first two."""
    stars = [reading.dropout, reading.momentum]
    found = sorted(reading.numeric, key=lambda p: stars.index(p) if p in stars else 2)[:2]
    if len(found) < 2:
        return None
    across, up = found if found[0] != reading.momentum else found[::-1]
    return across, up


def scored(
    reading: Reading, across: Parameter, up: Parameter
) -> tuple[list[TrialRow], list[float]]:
    """The trials that were scored at every value of the upward axis, and those values."""
    if up != reading.momentum:
        return [], []
    trials = [t for t in reading.profiled if across.number(t) is not None]
    common = set.intersection(*(_finite(t) for t in trials)) if trials else set()
    shown = sorted(m for m in common if m > 0 or not up.log)
    enough = len(trials) >= ENOUGH and len(shown) >= _LEAST
    return (trials, shown) if enough else ([], [])


def is_crowded(trials: Sequence[TrialRow]) -> bool:
    """Whether single measurements would only hide the colour."""
    return len(trials) > _CROWD


def draw_surface(reading: Reading, width: int) -> Figure | None:
    """None without two numeric parameters. Others vary underneath it and count as noise."""
    found = axes_of(reading)
    if found is None or not reading.ended:
        return None
    across, up = found
    figure = blank(width, 500 if width > 500 else 420)
    axes = figure.subplots()
    scale(axes, "x", across)
    scale(axes, "y", up)
    points = [
        Point(t, x, y)
        for t in reading.ended
        if (x := across.number(t)) is not None and (y := up.number(t)) is not None
    ]
    complete = [p for p in points if p.trial in reading.complete]
    trials, momenta = scored(reading, across, up)
    handles: list[Line2D] = []
    if trials:
        handles = draw_field(axes, reading, measured(reading, across, trials, momenta))
        if not is_crowded(trials):
            columns = [x for t in trials if (x := across.number(t)) is not None]
            handles += _measurements(axes, columns, momenta)
    elif len(complete) >= ENOUGH:
        handles = draw_field(axes, reading, estimated(reading, across, up, complete))
    legend(figure, [*marks(axes, reading, points), *handles], width)
    return figure


def _measurements(axes: Axes, columns: Sequence[float], momenta: Sequence[float]) -> list[Line2D]:
    """A line for each training, with a dot at every momentum that it was scored at."""
    style: dict[str, Any] = {
        "color": LIGHT["muted"],
        "lw": 0.6,
        "alpha": 0.55,
        "label": "measured",
        "marker": ".",
        "markersize": 3.0,
    }
    x = [value for column in columns for value in (*[column] * len(momenta), math.nan)]
    axes.plot(x, [*momenta, math.nan] * len(columns), zorder=2, **style)
    return [Line2D([], [], **style)]


def _finite(trial: TrialRow) -> set[float]:
    assert trial.momentum is not None
    curve = zip(trial.momentum.momenta, trial.momentum.values, strict=True)
    return {momentum for momentum, value in curve if momentum is not None and math.isfinite(value)}
