"""The diagnostics of the confirmed settings as a table, and in a sentence which of them are large.

In rows they are plain differences; here costs and gaps are oriented: positive is what is lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from sweep.confirm.estimates import mean_of
from sweep.confirm.findings import Interval
from sweep.confirm.wording import listed
from sweep.metric import MISSING
from sweep.report.confirmed import Sheet, arms, comparisons, verdicts
from sweep.report.reading import Reading
from sweep.results import ConfirmRow

_NLL = "val_nll"
_LAYERS = 6  # with more, only their mean is shown
_SHIFTED = 1.2  # a variance; dropout 0.1 directly before a norm shifts it by 1.16
_OF_LOSS = 0.02  # a cost in NLL, as a share of it
_DEAD = 0.05
_UNTRUE = 0.02  # ECE
_BY_HEART = 0.01  # a generalisation gap of an accuracy; of other metrics as a share of them

_ABOUT = (
    "What dropout and batch norm did to the weights of each training on fresh seeds, after its "
    "last epoch; means with their 95 % intervals. Costs and gaps are positive where something is "
    "lost. Of each layer and seed: load_study(…).frame('confirm')."
)
_SMALL = {  # what it says that a kind is not large
    "variance_shift": "the running averages fit the weights",
    "dead_units": "few units are dead",
    "ece": "the probabilities can be trusted",
    "gap": "new data fare about as well as those trained on",
}
_MEANING = {  # what it is, and what it means when large
    "variance_shift": (
        "Running variance against that of training batches without dropout, as a factor.",
        "Large: dropout before the norm shifts it, or the running average lags.",
    ),
    "lag_cost": (
        "What precise statistics, gathered with dropout on, would gain.",
        "Large: the running averages lag; use PreciseBatchNorm or another bn_momentum.",
    ),
    "shift_cost": (
        "What gathering them with dropout off would gain on top.",
        "Large: dropout shifts the variance; PreciseBatchNorm, or dropout after the last norm.",
    ),
    "dead_units": (
        "ReLU units that are 0 for all of validation.",
        "Large: capacity is lost; a lower learning rate may help.",
    ),
    "ece": (
        "How far confidence is from accuracy.",
        "Large: calibrate before probabilities are taken at their word.",
    ),
    "gap": (
        "Training less validation, both without dropout.",
        "Large: examples are learned by heart; more dropout, weight decay or data may help.",
    ),
}


@dataclass(frozen=True)
class Diagnostic:
    """One row of the table. `value` is oriented and in shown units; `is_large` judges a mean."""

    name: str  # with its unit, if any
    kind: str  # whose meaning it has
    decimals: int
    value: Callable[[ConfirmRow], float | None]
    is_large: Callable[[Interval], bool]

    def of(self, rows: Sequence[ConfirmRow]) -> Interval | None:
        """Its mean over an arm's seeds; None if it was not measured."""
        found = [v for row in rows if (v := self.value(row)) is not None and math.isfinite(v)]
        return mean_of(np.array(found)).interval(len(found)) if found else None

    def show(self, interval: Interval | None) -> str:
        if interval is None:
            return MISSING
        text = f"{interval.mean:.{self.decimals}f}".replace("-", "\N{MINUS SIGN}")
        half = f" ± {interval.half:.{self.decimals}f}" if math.isfinite(interval.half) else ""
        return text + half


def sheets(reading: Reading) -> list[Sheet]:
    """All tables of the confirmation, in order."""
    found = (arms(reading), comparisons(reading), verdicts(reading), diagnostics(reading))
    return [sheet for sheet in found if sheet is not None]


def diagnostics(reading: Reading) -> Sheet | None:
    """Every confirmed setting's; None if none was measured."""
    names = [arm.name for arm in reading.answer.arms if arm.seeds]
    rows = {name: [r for r in reading.study.confirm if r.arm == name] for name in names}
    if not any(row.diagnostics for row in reading.study.confirm):
        return None
    measured = []
    for one in _diagnostics(reading):
        found = {name: one.of(rows[name]) for name in names}
        if any(found.values()):
            measured.append((one, found))
    kinds = [one.kind for one, _ in measured]
    notes = _notes(kinds)
    table = [
        [one.name, *map(one.show, found.values()), note]
        for (one, found), note in zip(measured, notes, strict=True)
    ]
    large = dict.fromkeys(said for one, found in measured if (said := _where_large(one, found)))
    small = listed([phrase for kind, phrase in _SMALL.items() if kind in kinds])
    said = f"Large here: {'; '.join(large)}." if large else f"None of these is large: {small}."
    looks = ["text", *["number"] * len(names), "note"]
    heads = ["diagnostic", *names, "what it means"]
    return Sheet("Diagnostics", f"{said} {_ABOUT}", heads, looks, table)


def _notes(kinds: Sequence[str]) -> list[str]:
    """The meaning of each row's kind: two rows of one kind share its sentences."""
    notes = []
    for place, kind in enumerate(kinds):
        nth = kinds[:place].count(kind)
        here = _MEANING[kind][nth : nth + 1] if kinds.count(kind) > 1 else _MEANING[kind]
        notes.append(" ".join(here))
    return notes


def _where_large(one: Diagnostic, found: Mapping[str, Interval | None]) -> str:
    worst = [name for name, interval in found.items() if interval and one.is_large(interval)]
    where = "every setting" if len(worst) == len(found) else f"the {listed(worst)}"
    return f"the {one.name.partition(' (')[0]} of {where}" if worst else ""


def _diagnostics(reading: Reading) -> list[Diagnostic]:
    return [
        *_shifts(reading.study.confirm),
        *_differences(reading, "lag_cost", "lag cost", _matters(reading)),
        *_differences(reading, "shift_cost", "shift cost", _matters(reading)),
        Diagnostic("dead units (%)", "dead_units", 1, _of("dead_units", 100), _above(100 * _DEAD)),
        Diagnostic(
            "ECE, validation", "ece", 4, lambda row: row.metrics.get("val_ece"), _above(_UNTRUE)
        ),
        *_differences(reading, "gap", "generalisation gap", _learned(reading)),
    ]


def _shifts(rows: Sequence[ConfirmRow]) -> list[Diagnostic]:
    """Of each layer, or of all together where there are many."""
    start = "variance_shift/"
    layers = list(dict.fromkeys(k for row in rows for k in row.diagnostics if k.startswith(start)))
    keys = layers if 0 < len(layers) <= _LAYERS else ["variance_shift"]
    return [
        Diagnostic(
            f"variance shift, {key.removeprefix(start)}" if key in layers else "variance shift",
            "variance_shift",
            3,
            _of(key),
            _above(_SHIFTED),
        )
        for key in keys
    ]


def _differences(
    reading: Reading, key: str, name: str, is_large: Callable[[str, Interval], bool]
) -> list[Diagnostic]:
    """Of the study's metric, and of the NLL: a pure error of scale can leave accuracy alone."""
    metric, found = reading.metric, []
    for of in dict.fromkeys((metric.name, _NLL)):
        own = of == metric.name
        factor = reading.sign * metric.factor if own else -1.0
        unit = ("points" if metric.unit == "%" else metric.label) if own else "NLL"
        decimals = metric.decimals if own else 4
        value = _of(f"{key}/{of}", factor)
        found.append(Diagnostic(f"{name} ({unit})", key, decimals, value, partial(is_large, of)))
    return found


def _of(key: str, factor: float = 1.0) -> Callable[[ConfirmRow], float | None]:
    def value(row: ConfirmRow) -> float | None:
        found = row.diagnostics.get(key)
        return None if found is None else factor * found

    return value


def _above(bound: float) -> Callable[[Interval], bool]:
    return lambda interval: interval.mean > bound


def _matters(reading: Reading) -> Callable[[str, Interval], bool]:
    """A cost that is not chance, and larger than what does not matter."""
    bounds = {_NLL: _OF_LOSS * _typical(reading, _NLL)}
    bounds[reading.metric.name] = reading.answer.margin * reading.metric.factor
    return lambda of, interval: interval.mean > bounds[of] and interval.low > 0


def _learned(reading: Reading) -> Callable[[str, Interval], bool]:
    """Judged by the study's metric alone: a small loss is a multiple of a tiny one."""
    metric = reading.metric
    whole = 100.0 if metric.unit == "%" else abs(_typical(reading, metric.name)) * metric.factor
    return lambda of, interval: of == metric.name and interval.mean > _BY_HEART * whole


def _typical(reading: Reading, metric: str) -> float:
    values = [row.metrics[metric] for row in reading.study.confirm if metric in row.metrics]
    return float(np.median(values)) if values else math.inf
