"""The parts that a study's figures share: how trials are marked, axes scaled, legends placed.

A trial that lies beyond an axis, or has no value, is drawn at its edge: none is left out silently.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from sweep.metric import plain
from sweep.parameters import Parameter
from sweep.report.reading import Reading, value_of
from sweep.report.theme import LIGHT
from sweep.results import TrialRow

_MARKS: dict[str, dict[str, Any]] = {
    "pruned": {"marker": "D", "s": 0.5, "facecolor": LIGHT["card"], "edgecolor": LIGHT["pruned"]},
    "failed": {"marker": "X", "s": 1.6, "facecolor": LIGHT["failed"], "edgecolor": LIGHT["card"]},
    "complete": {"marker": "o", "s": 1.0, "facecolor": LIGHT["card"], "edgecolor": LIGHT["ink"]},
    "near the best": {
        "marker": "o", "s": 1.0, "facecolor": LIGHT["best"], "edgecolor": LIGHT["ink"],
    },
    "best": {"marker": "*", "s": 7.0, "facecolor": LIGHT["best"], "edgecolor": LIGHT["ink"]},
}  # fmt: skip
_AREA = 38.0  # of a mark, in square points; marks of hundreds of trials are smaller
_CHARACTER, _HANDLE = 6.2, 46.0  # of a legend: width of a letter, and of the rest of an entry
_EDGE = 0.06  # of the axis: how far behind the floor the trials beyond it are drawn


def blank(width: int, height: int) -> Figure:
    """A figure of so many pixels at 72 dots an inch, so that fonts keep their size on a page."""
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06, hspace=0.05, wspace=0.04)
    return Figure(figsize=(width / 72, height / 72), dpi=72, layout=layout)


class Point(NamedTuple):
    """Where a trial is drawn."""

    trial: TrialRow
    x: float
    y: float


def level(reading: Reading, trial: TrialRow) -> float:
    """A trial's height on a value axis, in shown units: at the edge if beyond or without one."""
    value = value_of(trial)
    if math.isfinite(value) and reading.sign * (value - reading.floor) >= 0:
        return value * reading.metric.factor
    return _ends(reading)[0] * reading.metric.factor


def _ends(reading: Reading) -> tuple[float, float]:
    """The edge beyond the floor, and the best value; of an empty axis if nothing is complete."""
    if reading.best is None:
        return 0.0, 1.0
    top = value_of(reading.best)
    return reading.floor - _EDGE * (top - reading.floor), top


def limit(axes: Axes, reading: Reading, also: Sequence[float] = ()) -> None:
    """Limit a value axis to what is worth showing, with a strip at its edge for all the rest.

    `also` are values, in shown units, that may be better than every trial's: the axis grows for
    them, but no further than to twice its length, nor beyond 0 and 100 %.
    """
    edge, best = (end * reading.metric.factor for end in _ends(reading))
    span = best - edge or reading.sign  # no difference at all if every value is zero
    possible = [min(max(v, 0.0), 100.0) for v in also] if reading.metric.unit == "%" else also
    top = best + span * min(max([0.0, *((v - best) / span for v in possible)]), 1.0)
    span = top - edge or span
    strip = edge - _EDGE * span, edge + _EDGE * span
    axes.set_ylim(*sorted((strip[0], top + 0.08 * span)))
    ticks = MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]).tick_values(*sorted((strip[1], top)))
    labels = ScalarFormatter(useOffset=False)
    labels.create_dummy_axis()
    shown = [t for t in ticks if 0 <= (t - strip[1]) / span <= 1] if reading.complete else []
    names = labels.format_ticks(shown)
    axes.grid(axis="y", color=LIGHT["rule"], lw=0.8)
    axes.set_axisbelow(True)
    if any(level(reading, t) == edge for t in reading.ended):
        axes.axhspan(*strip, color=LIGHT["rule"], alpha=0.45, lw=0, zorder=0)
        shown, names = [*shown, edge], [*names, "off scale"]
    axes.set_yticks(shown, names)


def marks(axes: Axes, reading: Reading, points: Sequence[Point]) -> list[Line2D]:
    """Draw the trials, each linked to its row, and return a legend entry for each kind drawn."""
    near = {t.number for t in reading.near}
    crowded = min(max(2400 / max(len(points), 1), 14), _AREA)
    handles: list[Line2D] = []
    for order, (kind, style) in enumerate(_MARKS.items()):
        some = [p for p in points if _kind(reading, near, p.trial) == kind]
        if not some:
            continue
        area = _AREA if kind == "best" else crowded
        size, style = style["s"], style | {"s": style["s"] * area}
        style |= {"linewidth": 0.9, "zorder": 4 + order}
        drawn = axes.scatter([p.x for p in some], [p.y for p in some], clip_on=False, **style)
        drawn.set_urls([f"#trial-{p.trial.number}" for p in some])
        handles.append(
            Line2D(
                [], [], linestyle="none", marker=style["marker"], label=kind,
                markersize=math.sqrt(size * _AREA), markerfacecolor=style["facecolor"],
                markeredgecolor=style["edgecolor"], markeredgewidth=0.9,
            )
        )  # fmt: skip
    return handles[::-1]


def _kind(reading: Reading, near: set[int], trial: TrialRow) -> str:
    if trial is reading.best:
        return "best"
    if trial.number in near:
        return "near the best"
    return trial.status


def jitter(trial: TrialRow) -> float:
    """A sideways step that keeps trials of one category apart, the same at every drawing."""
    return 0.36 * (trial.number * 0.618034 % 1.0 - 0.5)


def scale(axes: Axes, which: Literal["x", "y"], parameter: Parameter) -> None:
    """Scale and label one axis for a parameter, over its whole range and no more."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_label_text(fitting(parameter.name, 32))
    set_limits = axes.set_xlim if which == "x" else axes.set_ylim
    if not parameter.numeric:
        _name(axis, parameter.categories)
        set_limits(-0.5, len(parameter.categories) - 0.5)
        return
    if parameter.log:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        decades = math.log10(parameter.high / parameter.low)
        axis.set_major_locator(LogLocator(subs=(1.0,) if decades >= 2 else (1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: plain(float(value))))
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10]))
    set_limits(parameter.at(-0.02), parameter.at(1.02))


def _name(axis: Axis, categories: Sequence[str]) -> None:
    labels = [fitting(name, 16) for name in categories]
    axis.set_ticks(range(len(labels)), labels)
    if sum(map(len, labels)) + 3 * len(labels) > 42:  # more characters than fit side by side
        for label in axis.get_ticklabels():
            label.set(rotation=30, ha="right", rotation_mode="anchor")


def fitting(name: str, most: int) -> str:
    """A name cut in its middle to fit, with nothing that matplotlib would take for mathematics."""
    if len(name) > most:
        name = f"{name[: most // 2]}…{name[len(name) - most // 2 + 1 :]}"
    return name.replace("$", r"\$")


def legend(figure: Figure, handles: Sequence[Artist], width: int) -> None:
    """One legend for the whole figure, below it, in as many columns as fit."""
    if handles:
        longest = max(len(str(handle.get_label())) for handle in handles)
        columns = max(1, min(len(handles), 6, int(width / (_CHARACTER * longest + _HANDLE))))
        figure.legend(
            handles=list(handles), loc="outside lower center", ncols=columns, handletextpad=0.4
        )
