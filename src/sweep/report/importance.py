"""How much each parameter has to do with being among the best: PED-ANOVA, by Optuna.

Among few trials everything looks important, so each parameter stands beside dummies: its own values
dealt out anew among the trials, which can have nothing to do with the result.
Source: Watanabe, Bansal & Hutter, IJCAI 2023.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from sweep.messages import Value
from sweep.metric import plain
from sweep.parameters import Parameter
from sweep.report.drawing import blank, fitting, legend
from sweep.report.reading import Reading, value_of
from sweep.report.theme import LIGHT
from sweep.results import MomentumCurve, TrialRow

_LEAST = 10  # complete trials
_MOST = 1000  # settings that are looked at, spread evenly: more would only take longer
_DUMMIES = 20
_BEST = 0.25  # share of the trials that count as good

Row = dict[str, Value]


class Importance(NamedTuple):
    """A parameter's share of all importance, and what 19 of 20 dummies stay below."""

    parameter: Parameter
    share: float
    floor: float


def importances(reading: Reading) -> list[Importance]:
    """The most important first; empty with too few trials or parameters."""
    trials = reading.complete
    each = max((len(t.momentum.values) for t in reading.profiled if t.momentum), default=1)
    count = min(len(trials), _MOST // each)
    some = [trials[i] for i in np.linspace(0, len(trials) - 1, count).astype(int)]
    shown = [p for p in reading.parameters if all(p.key in t.params for t in some)]
    values = {value_of(t) for t in some}
    if len(some) < _LEAST or len(values) < 2 or len(shown) < 2:
        return []
    found = _divergences(shown, *_rows(reading, shown, some), reading.sign)
    total = sum(found[p.key] for p in shown) or 1.0
    floors = {
        p.key: float(np.quantile([found[_dummy(p, i)] for i in range(_DUMMIES)], 0.95))
        for p in shown
    }
    rows = [Importance(p, found[p.key] / total, floors[p.key] / total) for p in shown]
    return sorted(rows, key=lambda row: -row.share)


def draw_importance(reading: Reading, width: int) -> Figure | None:
    """None with too few trials or parameters."""
    found = importances(reading)
    if not found:
        return None
    figure = blank(width, 130 + 44 * len(found))
    axes = figure.subplots()
    places = np.arange(len(found))
    axes.barh(
        places, [row.floor for row in found], 0.74, color=LIGHT["rule"], label="floor", zorder=1
    )
    colours = [LIGHT["accent"] if r.share > r.floor else LIGHT["pruned"] for r in found]
    axes.barh(places, [row.share for row in found], 0.34, color=colours, zorder=2)
    axes.set_yticks(places, [fitting(row.parameter.name, 20) for row in found])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("share of the importance")
    legend(figure, _handles(found), width)
    return figure


def _handles(found: Sequence[Importance]) -> list[Patch]:
    kinds = {LIGHT["rule"]: "dummies reach this"}
    for row in found:
        above = row.share > row.floor
        kinds[LIGHT["accent" if above else "pruned"]] = (
            "more than chance" if above else "may be chance"
        )
    return [Patch(color=colour, label=label) for colour, label in kinds.items()]


def _dummy(parameter: Parameter, number: int) -> str:
    return f"{parameter.key} dummy {number}"


def _rows(
    reading: Reading, shown: Sequence[Parameter], trials: Sequence[TrialRow]
) -> tuple[list[Row], list[float]]:
    """Settings with their values: all that a trial was scored at, with dummies dealt by trial."""
    draw = np.random.default_rng(0)
    momentum = reading.momentum if reading.momentum in shown else None  # some have no batch norm
    rows, values = [], []
    deals = {p.key: [draw.permutation(len(trials)) for _ in range(_DUMMIES)] for p in shown}
    for place, trial in enumerate(trials):
        base: Row = {}
        for p in shown:
            base[p.key] = _as_axis(p, trial.params[p.key])
            for i, deal in enumerate(deals[p.key]):
                base[_dummy(p, i)] = _as_axis(p, trials[deal[place]].params[p.key])
        if momentum is None or trial.momentum is None:
            rows.append(base)
            values.append(value_of(trial))
            continue
        scored = _scored(momentum, trial.momentum)
        mixed = [draw.permutation(list(scored)) for _ in range(_DUMMIES)]
        for j, (number, value) in enumerate(scored.items()):
            dummies = {_dummy(momentum, i): float(m[j]) for i, m in enumerate(mixed)}
            rows.append({**base, momentum.key: number, **dummies})
            values.append(value)
    return rows, values


def _scored(momentum: Parameter, curve: MomentumCurve) -> dict[float, float]:
    return {
        m: v for m, v in zip(curve.momenta, curve.values, strict=True)
        if m is not None and np.isfinite(v) and momentum.low <= m <= momentum.high
    }  # fmt: skip


def _as_axis(parameter: Parameter, value: Value) -> Value:
    return float(value) if parameter.numeric and value is not None else plain(value)


def _divergences(
    shown: Sequence[Parameter], rows: Sequence[Row], values: Sequence[float], sign: float
) -> Mapping[str, float]:
    import optuna  # half a second that a report of few trials can do without
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
    from optuna.importance import PedAnovaImportanceEvaluator

    kinds: dict[str, BaseDistribution] = {
        p.key: FloatDistribution(p.low, p.high, log=p.log)
        if p.numeric
        else CategoricalDistribution(p.categories)
        for p in shown
    }
    names = {
        n: kinds[p.key] for p in shown for n in (p.key, *(_dummy(p, i) for i in range(_DUMMIES)))
    }
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(direction="minimize")
            trial = optuna.trial.create_trial
            study.add_trials(
                [trial(params=row, distributions=names, value=-sign * value)
                 for row, value in zip(rows, values, strict=True)]
            )  # fmt: skip
            return PedAnovaImportanceEvaluator(target_quantile=_BEST).evaluate(study)
    finally:
        optuna.logging.set_verbosity(level)
