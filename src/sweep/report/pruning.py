"""Was pruning right? How trials ranked when pruning decided, against how they ended.

Trials that were spared because they looked good say little, so a share of all trials is never
pruned: these controls show what became of trials that looked bad.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from sweep.confirm.wording import plural
from sweep.report.drawing import Point, blank, legend, marks
from sweep.report.reading import Reading, value_of
from sweep.report.theme import LIGHT
from sweep.results import TrialRow

_ENOUGH = 5  # pairs of ranks
_DRAWN = 3  # trials
_RING: dict[str, Any] = {
    "marker": "o", "markersize": 11.0, "markerfacecolor": "none", "linestyle": "none",
    "color": LIGHT["accent"], "markeredgewidth": 1.3, "label": "control",
}  # fmt: skip
_RUG: dict[str, Any] = {
    "marker": "|", "markersize": 10.0, "linestyle": "none", "color": LIGHT["failed"],
    "label": "pruned there",
}  # fmt: skip
_LOW = 0.5  # a rank correlation that is no ground to prune on


@dataclass(frozen=True)
class Pruning:
    """What is known of one rung. `wrongly` are controls that pruning would have lost.

    The pruner would have stopped them, and they ended near the best.
    """

    rung: int  # the epoch after which most trials were pruned
    pruned: int  # how many
    rank: float | None  # Spearman's correlation of the complete trials' values then and at the end
    trials: Sequence[TrialRow]  # complete, with a value at the rung
    controls: Sequence[TrialRow]  # of these, those that could not be pruned
    doomed: Sequence[TrialRow]  # of these, those that the pruner would have stopped
    wrongly: Sequence[TrialRow]

    @property
    def is_doubtful(self) -> bool:
        """Whether a reader should be warned."""
        return bool(self.wrongly) or (self.rank is not None and self.rank < _LOW)


def judge_pruning(reading: Reading) -> Pruning | None:
    """None if nothing was pruned."""
    ends = Counter(max(t.curve) for t in reading.ended if t.status == "pruned" and t.curve)
    if not ends:
        return None
    rung = max(ends, key=lambda epoch: (ends[epoch], -epoch))
    trials = [t for t in reading.complete if math.isfinite(t.curve.get(rung, math.nan))]
    last = max((max(t.curve) for t in trials), default=rung)
    trials = [t for t in trials if last > rung]
    pairs = [(t.curve[rung], value_of(t)) for t in trials]
    rank = float(stats.spearmanr(pairs).statistic) if _varied(pairs) else None
    controls = [t for t in trials if _is_control(reading.study.config, t)]
    near = {t.number for t in reading.near}
    doomed = [t for t in controls if t.doomed]
    wrongly = [t for t in doomed if t.number in near]
    return Pruning(rung, ends.total(), rank, trials, controls, doomed, wrongly)


def explain(reading: Reading, pruning: Pruning) -> list[str]:
    """The verdict first, then what it rests on."""
    found = []
    remedy = "raise pruner.first_rung, or type pruner=none."
    if pruning.wrongly:
        spared = plural(len(pruning.wrongly), "control")
        found.append(
            f"Pruning may have lost settings as good as the best: {spared} that would have been "
            f"pruned ended within {reading.tolerance_words} of it; {remedy}"
        )
    elif pruning.is_doubtful:
        found.append(
            f"Pruning is doubtful: the order of the trials after epoch {pruning.rung} says little "
            f"about the final one; {remedy}"
        )
    elif pruning.doomed:
        found.append("Nothing speaks against pruning: what would have been pruned ended badly.")
    else:
        found.append("There is no evidence on pruning: no control would have been pruned.")
    of = plural(len(pruning.trials), "complete trial")
    if pruning.rank is not None:
        found.append(
            f"Rank correlation between epoch {pruning.rung} and the end: {pruning.rank:.2f}, "
            f"over {of}, most of which were spared because they looked good."
        )
    controls = f"{len(pruning.controls)} of {of} were controls, which nothing can prune"
    found.append(f"{controls}; {len(pruning.doomed)} of them would have been pruned.")
    return found


def draw_pruning(reading: Reading, width: int) -> Figure | None:
    """The value at the rung against the final one; None without pruning or enough trials."""
    pruning = judge_pruning(reading)
    if pruning is None or len(pruning.trials) < _DRAWN:
        return None
    figure = blank(width, 320)
    axes = figure.subplots()
    factor, label = reading.metric.factor, reading.metric.label
    unit = f" ({reading.metric.unit})" if reading.metric.unit else ""
    axes.set(xlabel=f"{label} after epoch {pruning.rung}{unit}", ylabel=f"at the end{unit}")
    axes.grid(color=LIGHT["rule"], lw=0.8)
    axes.set_axisbelow(True)
    points = [
        Point(t, factor * t.curve[pruning.rung], factor * value_of(t)) for t in pruning.trials
    ]
    handles = marks(axes, reading, points)
    rings = [p for p in points if p.trial in pruning.controls]
    if rings:
        axes.plot([p.x for p in rings], [p.y for p in rings], zorder=3, clip_on=False, **_RING)
        handles.append(Line2D([], [], **_RING))
    gone = [factor * value for value in _pruned_at(reading, pruning.rung)]
    low, high = axes.get_xlim()
    shown = [min(max(x, low - 0.5 * (high - low)), high) for x in gone]
    edge = axes.get_ylim()[0 if reading.sign > 0 else 1]
    axes.plot(shown, [edge] * len(shown), clip_on=False, zorder=3, **_RUG)
    handles.append(Line2D([], [], **_RUG))
    legend(figure, handles, width)
    return figure


def _pruned_at(reading: Reading, rung: int) -> list[float]:
    """What the pruned trials had reached at a rung."""
    found = [t.curve.get(rung, math.nan) for t in reading.ended if t.status == "pruned"]
    return [value for value in found if math.isfinite(value)]


def _varied(pairs: Sequence[tuple[float, float]]) -> bool:
    return len(pairs) >= _ENOUGH and all(
        len(set(column)) > 1 for column in zip(*pairs, strict=True)
    )


def _is_control(config: Mapping[str, object], trial: TrialRow) -> bool:
    from sweep.strategies import (
        is_control,
    )  # loads Optuna, which a page without pruning can do without

    study, pruner = config.get("study"), config.get("pruner")
    if not isinstance(study, Mapping) or not isinstance(pruner, Mapping):
        return False
    return is_control(int(study.get("seed", 0)), trial.number, float(pruner.get("control", 0.0)))
