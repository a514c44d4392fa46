"""A study read for a report: its best trial, those as good as it, and the range worth drawing.

`near` holds trials whose difference from the best is too small to act on; it is a statement about
one seed a trial, not a statistical test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

from sweep.confirm.findings import Answer
from sweep.confirm.summary import summarise
from sweep.messages import MOMENTUM_KEYS
from sweep.metric import Metric
from sweep.parameters import Parameter, parameters_of
from sweep.results import ResultSet, TrialRow

_RATES = ("retrofit.dropout", "model.dropout")
ENOUGH = 5  # complete trials before a median, a smooth curve or a surface says anything


@dataclass(frozen=True)
class Reading:
    """What text and figures share. Values are as recorded; `metric` scales them for readers."""

    study: ResultSet
    answer: Answer
    metric: Metric
    parameters: Sequence[Parameter]
    complete: Sequence[TrialRow]  # with a finite value, best first
    tolerance: float
    tolerance_words: str
    floor: float  # the worst value worth a place on an axis

    @property
    def sign(self) -> float:
        """1 if more is better, -1 if less is."""
        return self.study.sign

    @property
    def best(self) -> TrialRow | None:
        """The best complete trial, the earliest of equals."""
        return self.complete[0] if self.complete else None

    @cached_property
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

    @property
    def profiled(self) -> list[TrialRow]:
        """The complete trials that have scored a curve of momenta, if that is an axis at all."""
        if self.momentum is None:
            return []
        return [t for t in self.complete if t.momentum is not None]

    @property
    def dropout(self) -> Parameter | None:
        """The rate, of retrofitted layers before the module's own, if numbers were searched."""
        return self._first(_RATES)

    @property
    def momentum(self) -> Parameter | None:
        """The momentum, of retrofitted norms before the module's own, if numbers were searched."""
        return self._first(MOMENTUM_KEYS[::-1])

    def _first(self, keys: Sequence[str]) -> Parameter | None:
        found = {p.key: p for p in self.numeric}
        return next((found[key] for key in keys if key in found), None)

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
    sign = study.sign
    complete = sorted(
        (t for t in study.complete if math.isfinite(value_of(t))),
        key=lambda t: (-sign * value_of(t), t.number),
    )
    values = [value_of(t) for t in complete]
    answer = summarise(study)
    top = values[0] if values else 0.0
    if answer.metric.unit == "%":
        tolerance, words = 0.001, "0.1 percentage points"
    else:
        tolerance, words = 0.01 * abs(top), "1 %"
    floor = worth_showing(values, sign, tolerance)
    # Fresh seeds are worse than the search's best: they have a place, too, unless they collapsed.
    low = [
        sign * a.validation.mean - _finite(a.validation.half) for a in answer.arms if a.validation
    ]
    room = sign * top - 2 * abs(top - floor)
    floor = sign * max(min([sign * floor, *low]), room)
    return Reading(
        study, answer, answer.metric, parameters_of(study), complete, tolerance, words, floor
    )


def worth_showing(values: Sequence[float], sign: float, tolerance: float) -> float:
    """The worst value that gets a place on an axis; 0 of none.

    One terrible corner must not flatten the rest: what lies four times as far from the best as the
    median is drawn at the edge. Three tolerances keep pure noise from filling an axis.
    """
    top = sign * max((sign * v for v in values), default=0.0)
    losses = [abs(top - v) for v in values] or [0.0]
    usual = 4 * median(losses) if len(losses) >= ENOUGH else 0.0
    return top - sign * max(3 * tolerance, min(max(losses), usual or math.inf))


def _finite(half: float) -> float:
    return half if math.isfinite(half) else 0.0
