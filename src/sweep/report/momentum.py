"""The metric against BatchNorm's momentum on the same weights, with what precise statistics give.

Curves are of the recommended and the default setting on fresh seeds; before these are trained, the
mean over the search's trials, whose interval holds their differences in dropout, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from sweep.confirm.estimates import Array, mean_of
from sweep.confirm.wording import entered, plural
from sweep.messages import MOMENTUM_KEYS
from sweep.metric import plain
from sweep.report.drawing import blank, legend
from sweep.report.reading import Reading
from sweep.report.theme import LIGHT
from sweep.results import MomentumCurve

_STYLE: dict[str, Any] = {"color": LIGHT["accent"], "marker": "o", "markersize": 4.0}
_PRECISE: dict[str, dict[str, Any]] = {
    "dropout_off": {"color": LIGHT["best"], "lw": 1.8, "label": "precise statistics, dropout off"},
    "dropout_on": {
        "color": LIGHT["ink"], "lw": 1.4, "linestyle": (0, (2, 2)),
        "label": "precise statistics, dropout on",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """Curves that are averaged together."""

    title: str
    curves: Sequence[MomentumCurve]


def panels_of(reading: Reading) -> list[Panel]:
    """The recommended setting and the default on fresh seeds, or all complete trials as one."""
    arms = {arm.name: arm for arm in reading.answer.arms}
    chosen = reading.answer.recommended
    names = dict.fromkeys([chosen.name if chosen else "", "default"])
    found = []
    for name in names:
        curves = [r.momentum for r in reading.study.confirm if r.arm == name and r.momentum]
        if name in arms and curves:
            title = _setting(reading, name)
            found.append(Panel(f"{title}{plural(len(curves), 'fresh seed')}", curves))
    if found:
        return found
    curves = [t.momentum for t in reading.profiled if t.momentum]
    return [Panel(f"mean over {plural(len(curves), 'trial')}", curves)] if curves else []


def _setting(reading: Reading, name: str) -> str:
    """Which arm it is, by the parameters that its curves do not vary."""
    arm = next(a for a in reading.answer.arms if a.name == name)
    others = [p for p in reading.parameters if p.key in arm.params and p.key not in MOMENTUM_KEYS]
    shown = ", ".join(f"{p.name} {entered(p, arm.params[p.key])}" for p in others[:2])
    return f"{name}: {shown}\n" if shown else f"{name}, "


def draw_momentum(reading: Reading, width: int) -> Figure | None:
    """None unless trials have scored several momenta."""
    panels = [p for p in panels_of(reading) if len(_numbers(p.curves)) > 1]
    if not panels:
        return None
    rows, columns = (len(panels), 1) if width < 500 else (1, len(panels))
    figure = blank(width, 130 + 270 * rows if rows > 1 else 380)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    handles: dict[str, Line2D] = {}
    shown: list[float] = []
    for axes, panel in zip(grid.flat, panels, strict=True):
        lines = _draw(axes, reading, panel)
        shown += [float(y) for line in lines for y in np.asarray(line.get_ydata(), dtype=float)]
        handles |= {str(line.get_label()): line for line in lines}
    for axes in grid[:, 0]:
        axes.set_ylabel(reading.metric.axis)
    # By means, as the interval of a collapsed end may be very wide; equal ones look equal.
    room = max(0.08 * (max(shown) - min(shown)), reading.tolerance * reading.metric.factor)
    grid[0, 0].set_ylim(min(shown) - room, max(shown) + room)
    legend(figure, list(handles.values()), width)
    return figure


def _draw(axes: Axes, reading: Reading, panel: Panel) -> list[Line2D]:
    momenta = _numbers(panel.curves)
    factor = reading.metric.factor
    estimate = mean_of(factor * _table(panel.curves, momenta))
    lines = axes.plot(momenta, estimate.mean, label="running average", zorder=4, lw=1.8, **_STYLE)
    if len(panel.curves) > 1:
        ends = estimate.mean - estimate.half, estimate.mean + estimate.half
        axes.fill_between(momenta, *ends, color=LIGHT["accent"], alpha=0.16, lw=0, zorder=1)
    for kind, style in _PRECISE.items():
        found = [v for c in panel.curves if (v := getattr(c, kind)) is not None]
        if found:
            mean = factor * float(np.mean(found))
            lines.append(axes.axhline(mean, zorder=3, **style))
    axes.set_title(panel.title, fontsize=12, color=LIGHT["muted"])
    log = momenta[0] > 0 and momenta[-1] / momenta[0] >= 10
    _scale(axes, log)
    beyond = momenta[-1] * 10**0.25 if log else 1.08 * momenta[-1] - 0.08 * momenta[0]
    return [*lines, *_draw_cumulative(axes, panel, beyond, factor)]


def _draw_cumulative(axes: Axes, panel: Panel, x: float, factor: float) -> list[Line2D]:
    """The cumulative average, which has no place among the momenta: beyond the last."""
    found = [_value(c, None) for c in panel.curves]
    if any(v is None for v in found):
        return []
    mean = mean_of(factor * np.array(found, dtype=float))
    middle, half = float(mean.mean), float(mean.half)
    half = half if math.isfinite(half) else 0.0
    axes.plot([x, x], [middle - half, middle + half], color=LIGHT["accent"], lw=1.6)
    style = _STYLE | {"marker": "D", "linestyle": "none", "markerfacecolor": LIGHT["card"]}
    return list(axes.plot([x], [middle], label="cumulative average", zorder=4, **style))


def _scale(axes: Axes, log: bool) -> None:
    axes.set_xlabel("bn_momentum")
    axes.grid(axis="y", color=LIGHT["rule"], lw=0.8)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_tick_params(labelleft=True)
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(float(value))))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _numbers(curves: Sequence[MomentumCurve]) -> list[float]:
    """The momenta that every curve has a finite value for."""
    finite = [
        {m for m, v in zip(c.momenta, c.values, strict=True) if m is not None and math.isfinite(v)}
        for c in curves
    ]
    return sorted(set.intersection(*finite)) if finite else []


def _table(curves: Sequence[MomentumCurve], momenta: Sequence[float]) -> Array:
    """Values [momenta, curves]."""
    return np.array([[_value(c, m) for c in curves] for m in momenta], dtype=float)


def _value(curve: MomentumCurve, momentum: float | None) -> float | None:
    found = dict(zip(curve.momenta, curve.values, strict=True)).get(momentum)
    return found if found is not None and math.isfinite(found) else None
