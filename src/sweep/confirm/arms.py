"""The arms of a confirmation: their means on fresh seeds, and each against the default.

All arms train on the same seeds, so they are compared seed by seed; arms with fewer than two seeds
in common are compared as independent samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from sweep.confirm.estimates import ALPHA, Estimate, difference_of, holm, mean_of, seeds_to_tell
from sweep.confirm.findings import Arm, Comparison, Interval, Outcome, Split
from sweep.confirm.wording import Words
from sweep.results import ResultSet, TrialRow

DEFAULT = "default"


def sign_of(results: ResultSet) -> float:
    """1 if more is better, -1 if less is."""
    return 1.0 if results.direction == "maximize" else -1.0


def names_of(results: ResultSet) -> dict[Split, str]:
    """The study's metric as the confirmation records it, by split."""
    kind = results.metric.removeprefix("val_")
    on_test: dict[Split, str] = {"test": f"test_{kind}"} if kind != results.metric else {}
    return {"validation": results.metric, **on_test}


def by_seed(results: ResultSet, arm: str, split: Split) -> dict[int, float]:
    """The finite values of an arm; a seed that was trained twice counts once."""
    name = names_of(results).get(split, "")
    found = {r.seed: r.metrics.get(name, math.nan) for r in results.confirm if r.arm == arm}
    return {seed: value for seed, value in found.items() if math.isfinite(value)}


def arms_of(results: ResultSet) -> list[Arm]:
    """Every arm that was trained at least once, in order of first appearance."""
    searched = {trial.number: trial for trial in results.trials}
    values = {row.arm: by_seed(results, row.arm, "validation") for row in results.confirm}
    most = max(map(len, values.values()), default=0)
    arms = []
    for name, validation in values.items():
        first = next(row for row in results.confirm if row.arm == name)
        trial = searched.get(first.trial) if first.trial is not None else None
        arms.append(_arm(results, first.params, name, trial, validation, most))
    return arms


def _arm(
    results: ResultSet,
    params: Mapping[str, object],
    name: str,
    trial: TrialRow | None,
    validation: Mapping[int, float],
    most: int,
) -> Arm:
    mean = _interval(list(validation.values()))
    value = trial.value if trial and trial.value is not None else math.nan
    shrinkage = None
    if mean is not None and math.isfinite(value):
        gap = sign_of(results) * (value - mean.mean)
        shrinkage = Interval(gap, gap - mean.half, gap + mean.half, mean.count)
    return Arm(
        name=name,
        trial=trial.number if trial else None,
        params=params,  # type: ignore[arg-type]
        seeds=tuple(validation),
        missing=most - len(validation),
        validation=mean,
        test=_interval(list(by_seed(results, name, "test").values())),
        searched=value if math.isfinite(value) else None,
        shrinkage=shrinkage,
    )


def _interval(values: Sequence[float]) -> Interval | None:
    return mean_of(np.array(values)).interval(len(values)) if values else None
