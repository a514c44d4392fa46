"""A study read for a report: its best trial, those as good as it, and the range worth drawing.

`near` holds trials whose difference from the best is too small to act on; it is a statement about
one seed a trial, not a statistical test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from sweep.report.metric import Metric
from sweep.report.parameters import Parameter, parameters_of
from sweep.results import ResultSet, TrialRow

ENOUGH = 5  # complete trials before a median, a smooth curve or a surface says anything


@dataclass(frozen=True)
class Reading:
    """What text and figures share. Values are as recorded; `metric` scales them for readers."""

    study: ResultSet
    metric: Metric
    parameters: Sequence[Parameter]
    complete: Sequence[TrialRow]  # with a finite value, best first
    tolerance: float
    tolerance_words: str
    floor: float  # the worst value worth a place on an axis

    @property
    def sign(self) -> float:
        """1 if more is better, -1 if less is."""
        return 1.0 if self.study.direction == "maximize" else -1.0

    @property
    def best(self) -> TrialRow | None:
        """The best complete trial, the earliest of equals."""
        return self.complete[0] if self.complete else None

    @property
    def near(self) -> list[TrialRow]:
        """The complete trials within the tolerance of the best, the best included."""
        top = value_of(self.complete[0]) if self.complete else 0.0
        slack = self.tolerance * (1 + 1e-9)  # 0.98 - 0.001 is a little more than 0.979
        return [t for t in self.complete if self.sign * (top - value_of(t)) <= slack]

    @property
    def ended(self) -> list[TrialRow]:
        """The trials that figures show: complete, pruned or failed."""
        return [t for t in self.study.trials if t.ended]

    @property
    def numeric(self) -> list[Parameter]:
        """The parameters whose values are numbers."""
        return [p for p in self.parameters if p.numeric]

    def counts(self) -> dict[str, int]:
        """The number of trials of each status that occurs, complete first."""
        found = [t.status for t in self.study.trials]
        order = ("complete", "pruned", "failed", "running", "waiting")
        return {status: found.count(status) for status in order if status in found}


def value_of(trial: TrialRow) -> float:
    """The value to draw a trial at: its own, or the last that was reported; NaN without any."""
    if trial.value is not None:
        return trial.value
    return trial.curve[max(trial.curve)] if trial.curve else math.nan


def read(study: ResultSet) -> Reading:
    """Read a study of any size, also one without a single complete trial."""
    sign = 1.0 if study.direction == "maximize" else -1.0
    complete = sorted(
        (t for t in study.complete if math.isfinite(value_of(t))),
        key=lambda t: (-sign * value_of(t), t.number),
    )
    values = [value_of(t) for t in complete]
    metric = Metric.of(study.metric, values)
    top = values[0] if values else 0.0
    if metric.unit == "%":
        tolerance, words = 0.001, "0.1 percentage points"
    else:
        tolerance, words = 0.01 * abs(top), "1 %"
    # One terrible corner must not flatten the rest: what lies four times as far from the best as
    # the median trial is drawn at the edge. Three tolerances keep pure noise from filling an axis.
    losses = [abs(top - v) for v in values] or [0.0]
    usual = 4 * median(losses) if len(losses) >= ENOUGH else 0.0
    reach = max(3 * tolerance, min(max(losses), usual or math.inf))
    parameters = parameters_of(study)
    return Reading(study, metric, parameters, complete, tolerance, words, top - sign * reach)
