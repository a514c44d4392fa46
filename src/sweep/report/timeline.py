"""Who trained when: a bar for each trial, and each training on a fresh seed, by worker and lane.

Lanes are told from the times: trials that one worker trains at once lie above each other.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from sweep.report.drawing import blank, legend
from sweep.report.reading import Reading
from sweep.report.theme import LIGHT
from sweep.results import ConfirmRow, TrialRow

_CONFIRMED = "fresh seed"
_COLOURS = {
    "complete": LIGHT["accent"],
    "pruned": LIGHT["pruned"],
    "failed": LIGHT["failed"],
    _CONFIRMED: LIGHT["best"],
}
_HALF = 0.42  # of a bar's height, where lanes are 1 apart
_PAUSE_S = 120.0  # a longer one, with no trial on any worker, is cut out
_UNITS = ((5400.0, 3600.0, "hours"), (150.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))


class Bar(NamedTuple):
    """One training's time in its lane: seconds of the study, pauses left out."""

    row: TrialRow | ConfirmRow
    worker: str
    lane: int
    start: float
    end: float


def bars_of(reading: Reading) -> tuple[list[Bar], list[float]]:
    """The bars of all ended trainings with times, and where pauses were cut out."""
    rows: list[TrialRow | ConfirmRow] = [*reading.ended, *reading.study.confirm]
    found = [
        (r.started, r.finished, r)
        for r in rows
        if r.started and r.finished and r.started <= r.finished
    ]
    found.sort(key=lambda row: row[0])  # of equals, in the order of the rows
    bars, cuts, free = [], [], dict[str, list[dt.datetime]]()
    skipped, latest = dt.timedelta(), found[0][0] if found else dt.datetime.min
    begin = latest
    for started, finished, row in found:
        if (pause := started - latest) > dt.timedelta(seconds=_PAUSE_S):
            cuts.append((latest - begin - skipped).total_seconds())
            skipped += pause
        latest = max(latest, finished)
        lanes = free.setdefault(row.worker or "unknown", [])
        lane = next((i for i, end in enumerate(lanes) if end <= started), len(lanes))
        lanes[lane : lane + 1] = [finished]
        start, end = ((at - begin - skipped).total_seconds() for at in (started, finished))
        bars.append(Bar(row, row.worker or "unknown", lane, start, end))
    return bars, cuts


def draw_timeline(reading: Reading, width: int) -> Figure | None:
    """None unless two trainings have recorded when they ran."""
    bars, cuts = bars_of(reading)
    if len(bars) < 2:
        return None
    workers = sorted({bar.worker for bar in bars})
    lanes = {w: 1 + max(b.lane for b in bars if b.worker == w) for w in workers}
    tops = {w: sum(lanes[v] + 1 for v in workers[:i]) for i, w in enumerate(workers)}
    figure = blank(width, 130 + min(max(190, 26 * sum(lanes.values())), 520))
    axes = figure.subplots()
    last = max(bar.end for bar in bars)
    _, size, unit = next(row for row in _UNITS if last >= row[0])
    for status, colour in _COLOURS.items():
        some = [bar for bar in bars if _kind(bar) == status]
        boxes = [_box(bar, tops[bar.worker] + bar.lane, size) for bar in some]
        drawn = PolyCollection(boxes, facecolor=colour, edgecolor=LIGHT["card"], linewidth=0.6)
        drawn.set_urls(
            [f"#trial-{b.row.number}" if isinstance(b.row, TrialRow) else None for b in some]
        )
        drawn.set_label(status)
        axes.add_collection(drawn)
    for cut in cuts:
        axes.axvline(cut / size, color=LIGHT["ink"], lw=1.0, linestyle=(0, (2, 2)))
    names = [w if len(w) <= 14 else f"{w[:6]}…{w[-6:]}" for w in workers]
    axes.set_yticks([tops[w] + (lanes[w] - 1) / 2 for w in workers], names)
    axes.set_ylim(tops[workers[-1]] + lanes[workers[-1]] - 0.3, -0.7)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, last / size)
    axes.set_xlabel(f"{unit} since the first trial" + (", pauses cut out" if cuts else ""))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    legend(figure, _handles([_kind(bar) for bar in bars]), width)
    return figure


def _kind(bar: Bar) -> str:
    return bar.row.status if isinstance(bar.row, TrialRow) else _CONFIRMED


def _box(bar: Bar, at: float, size: float) -> list[tuple[float, float]]:
    left, right, top, bottom = bar.start / size, bar.end / size, at - _HALF, at + _HALF
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _handles(statuses: Sequence[str]) -> list[Patch]:
    return [Patch(color=c, label=status) for status, c in _COLOURS.items() if status in statuses]
