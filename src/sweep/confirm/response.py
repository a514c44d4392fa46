"""The verdicts on parameters that each training has one value of, from arms and trials together.

A few arms say little on a range, so the search's trials are read, too, through a surface that
knows how noisy they are. The verdicts are about the recommended setting with one value changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np

from sweep.confirm.arms import sign_of
from sweep.confirm.estimates import ALPHA, Array, seeds_to_tell
from sweep.confirm.findings import Interval, Level, Standing, Verdict
from sweep.confirm.surface import Measured, draw_differences, hold_together
from sweep.confirm.verdicts import judge, unknown
from sweep.confirm.wording import Words, plural
from sweep.messages import Value
from sweep.report.metric import plain
from sweep.report.parameters import Parameter
from sweep.results import MomentumCurve, ResultSet

_ENOUGH = 6  # trainings at different settings before a surface says anything
_MOST = 300  # trainings that a surface is drawn through, the latest: the time is cubic in them
_GRID = 33  # values of a range
_DEAD = 10  # losses so many times the median are of runs that went wrong, not of the surface

Training = tuple[Mapping[str, Value], int, float]  # parameters, seed, value


def response_verdicts(
    results: ResultSet,
    parameters: Sequence[Parameter],
    recommended: Mapping[str, Value],
    noise: float | None,
    words: Words,
) -> list[Verdict]:
    """One verdict for each parameter, all at once: the surface is drawn over them together."""
    usable = {p.key: p for p in parameters}
    trainings = [t for t in _trainings(results) if _point(parameters, t[0]) is not None][-_MOST:]
    settings = {tuple(str(params[key]) for key in usable) for params, _, _ in trainings}
    base = _point(parameters, recommended)
    if base is None or len(settings) < max(_ENOUGH, len(usable) + 2):
        reason = f"{plural(len(settings), 'setting')} trained to the end"
        return [unknown(p, f"only {reason}") for p in parameters]
    measured = _measured(trainings, parameters, sign_of(results))
    grids = [_grid(p, measured.points[:, i], trainings, recommended[p.key])
             for i, p in enumerate(parameters)]  # fmt: skip
    at = [base]
    for i, (parameter, grid) in enumerate(zip(parameters, grids, strict=True)):
        at += [(*base[:i], _coordinate(parameter, v) or 0.0, *base[i + 1 :]) for v in grid]
    draws = draw_differences(measured, np.array(at))[:, 1:]
    ends = np.cumsum([len(grid) for grid in grids])[:-1]
    seeds = None if noise is None else seeds_to_tell(noise, words.margin)
    evidence = f"{plural(len(trainings), 'training')} at {plural(len(settings), 'setting')}"
    return [
        judge(p, _levels(part, grid, len(trainings), words.margin), _same(recommended[p.key], grid),
              evidence, seeds, words)
        if len(grid) > 1 else unknown(p, "all trainings had one value of it")
        for p, part, grid in zip(parameters, np.split(draws, ends, axis=1), grids, strict=True)
    ]  # fmt: skip
