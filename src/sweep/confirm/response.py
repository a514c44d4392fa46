"""The verdicts on parameters that each training has one value of, from arms and trials together.

A few arms say little on a range, so the search's trials are read, too, through a surface that
knows how noisy they are. The verdicts are about the recommended setting with one value changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from sweep.confirm.axes import coordinate, grid, point
from sweep.confirm.estimates import ALPHA, Array, seeds_to_tell
from sweep.confirm.findings import Interval, Level, Standing, Verdict
from sweep.confirm.surface import Measured, draw_differences, hold_together
from sweep.confirm.verdicts import judge, unknown
from sweep.confirm.wording import Words, plural
from sweep.messages import Value
from sweep.metric import plain
from sweep.parameters import Parameter
from sweep.results import ConfirmRow, ResultSet, TrialRow

_ROLE = "the recommended {}"
_ENOUGH = 6  # settings before a surface says anything
_MOST = 150  # trials that a surface is drawn through: the time is cubic in them
_DEAD = 10  # losses so many times the median are of runs that went wrong, not of the surface


@dataclass(frozen=True)
class Training:
    """One training to the end: its place, its seed, and its value, of which more is better."""

    params: Mapping[str, Value]
    place: tuple[float, ...]
    seed: int
    value: float


def response_verdicts(
    results: ResultSet,
    parameters: Sequence[Parameter],
    recommended: Mapping[str, Value],
    noise: float | None,
    words: Words,
) -> list[Verdict]:
    """One verdict for each parameter, all at once: the surface is drawn over them together."""
    trainings = _trainings(results, parameters)
    settings = len({t.place for t in trainings})
    base = point(parameters, recommended)
    if base is None or settings < max(_ENOUGH, len(parameters) + 2):
        reason = f"only {plural(settings, 'setting')} trained to the end"
        return [unknown(p, reason) for p in parameters]
    grids = {p.key: _grid(p, trainings, recommended[p.key]) for p in parameters}
    draws = draw_differences(
        _measured(trainings, parameters), _along(base, parameters, grids)
    )[:, 1:]  # fmt: skip
    evidence = f"{plural(len(trainings), 'training')} of {plural(settings, 'setting')}"
    seeds = None if noise is None else seeds_to_tell(noise, words.margin)
    verdicts, end = [], 0
    for parameter in parameters:
        values = grids[parameter.key]
        start, end = end, end + len(values)
        if len(values) < 2:
            verdicts.append(unknown(parameter, "all trainings had the same value of it"))
            continue
        levels = _levels(draws[:, start:end], values, len(trainings), words.margin)
        value = recommended[parameter.key]
        best = value if parameter.numeric else plain(value)
        verdicts.append(judge(parameter, levels, best, evidence, seeds, words, _ROLE))
    return verdicts


def _trainings(results: ResultSet, parameters: Sequence[Parameter]) -> list[Training]:
    """Of search and confirmation, each setting and seed once."""
    sign, found = results.sign, {}
    step = max(1, math.ceil(len(results.complete) / _MOST))
    rows: list[TrialRow | ConfirmRow] = [*results.complete[::step], *results.confirm]
    for row in rows:
        place, value = point(parameters, row.params), _value(row, results)
        if place is not None and math.isfinite(value):
            training = Training(row.params, place, row.seed, sign * value)
            found[place, row.seed, value] = training
    return list(found.values())


def _value(row: TrialRow | ConfirmRow, results: ResultSet) -> float:
    """What the search would have seen: of a profiled momentum the best over its curve."""
    if isinstance(row, TrialRow):
        return math.nan if row.value is None else row.value
    finite = [v for v in row.momentum.values if math.isfinite(v)] if row.momentum else []
    if finite:
        return max(finite, key=lambda value: results.sign * value)
    return row.metrics.get(results.metric, math.nan)


def _grid(parameter: Parameter, trainings: Sequence[Training], recommended: Value) -> list[Value]:
    return grid(parameter, [t.params[parameter.key] for t in trainings], recommended)


def _measured(trainings: Sequence[Training], parameters: Sequence[Parameter]) -> Measured:
    values = [t.value for t in trainings]
    usual = median(max(values) - v for v in values)
    floor = max(values) - _DEAD * usual if usual > 0 else min(values)
    numbers = {seed: i for i, seed in enumerate(dict.fromkeys(t.seed for t in trainings))}
    return Measured(
        points=np.array([t.place for t in trainings]),
        categorical=np.array([not p.numeric for p in parameters]),
        seeds=np.array([numbers[t.seed] for t in trainings]),
        values=np.array([max(v, floor) for v in values]),
    )


def _along(
    base: tuple[float, ...], parameters: Sequence[Parameter], grids: Mapping[str, Sequence[Value]]
) -> Array:
    """The recommended point, then those with one coordinate changed, parameter by parameter."""
    places = [base]
    for i, parameter in enumerate(parameters):
        for value in grids[parameter.key]:
            changed = coordinate(parameter, value)
            assert changed is not None
            places.append((*base[:i], changed, *base[i + 1 :]))
    return np.array(places)


def _levels(draws: Array, values: Sequence[Value], count: int, margin: float) -> list[Level]:
    """Standings that all hold together with 95 %, for what is worse by more than the margin."""
    good = hold_together(draws >= -margin, 1 - ALPHA)
    # A value must be worse by more than does not matter: the surface is only about right.
    worse = hold_together(draws < -margin, 1 - ALPHA / 2)
    low, high = np.quantile(draws, [ALPHA / 2, 1 - ALPHA / 2], axis=0)
    levels = []
    for i, value in enumerate(values):
        standing: Standing = "as good" if good[i] else "worse" if worse[i] else "undecided"
        mean = float(draws[:, i].mean())
        half = float(high[i] - low[i]) / 2
        levels.append(Level(value, Interval(mean, mean - half, mean + half, count), standing))
    return levels
