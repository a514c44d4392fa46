"""Studies with a known truth, searched and confirmed as the real ones are, in rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sweep.results import ConfirmRow, MomentumCurve, ResultSet, TrialRow

DROPOUT, MOMENTUM = "model.dropout", "model.bn_momentum"
MOMENTA = (0.001, 0.01, 0.1, 1.0, None)
NOISE = 0.001  # SD between seeds; of 0.1 points, as on MNIST


def flat(x: float) -> float:
    return 0.0


def results(
    trials: Sequence[TrialRow] = (), confirm: Sequence[ConfirmRow] = (), **changes: Any
) -> ResultSet:
    found = ResultSet(
        name="known",
        folder=Path("sweeps/known"),
        metric="val_accuracy",
        direction="maximize",
        total=len(trials),
        search={DROPOUT: "interval(0,0.7)"},
        config={},
        trials=list(trials),
        confirm=list(confirm),
    )
    return replace(found, **changes)


def row(arm: str, seed: int, validation: float, test: float | None = None, **changes: Any) -> Any:
    """A training of an arm; its place among the search's trials is its name's number."""
    metrics = {"val_accuracy": validation}
    metrics |= {} if test is None else {"test_accuracy": test}
    trial = None if arm == "default" else int(arm[0]) - 1
    found = ConfirmRow(arm, trial, {DROPOUT: 0.5 if trial is None else 0.1 * trial}, seed, metrics)
    return replace(found, **changes)


def study(
    rng: np.random.Generator,
    truth: Callable[[float], float] = flat,
    trials: int = 24,
    seeds: int = 5,
    noise: float = NOISE,
    of_momentum: Mapping[float | None, float] | None = None,
) -> ResultSet:
    """Dropout drawn at random; the best three and the default on fresh seeds that they share.

    `truth` is the accuracy by dropout, less 0.98; `of_momentum` what a momentum adds to it.
    """

    def value(dropout: float) -> float:
        return 0.98 + truth(dropout) + noise * float(rng.normal())

    def curve(value: float) -> MomentumCurve | None:
        if of_momentum is None:
            return None
        wobble = NOISE / 10 * rng.normal(size=len(of_momentum))
        return MomentumCurve([*of_momentum], list(value + wobble + [*of_momentum.values()]))

    drawn = [float(x) for x in rng.uniform(0, 0.7, trials)]
    values = [value(x) for x in drawn]
    search = [
        TrialRow(i, "complete", {DROPOUT: x}, value=v, seed=i, momentum=curve(v))
        for i, (x, v) in enumerate(zip(drawn, values, strict=True))
    ]
    if of_momentum is not None:
        search = [replace(t, params={**t.params, MOMENTUM: 0.1}) for t in search]
    best = sorted(search, key=lambda t: -(t.value or 0))[:3]
    arms = [(name, t.number, t.params) for name, t in zip(("1st", "2nd", "3rd"), best, strict=True)]
    rest = {MOMENTUM: 0.1} if of_momentum is not None else {}
    arms.append(("default", None, {DROPOUT: 0.5, **rest}))
    fresh = []
    for seed in range(10**6, 10**6 + seeds):
        shared = noise * float(rng.normal())
        for name, number, params in arms:
            v = 0.6 * shared + 0.98 + truth(params[DROPOUT]) + 0.8 * noise * float(rng.normal())
            metrics = {"val_accuracy": v, "test_accuracy": v + 0.5 * noise * float(rng.normal())}
            fresh.append(ConfirmRow(name, number, params, seed, metrics, curve(v)))
    space = {DROPOUT: "interval(0,0.7)"}
    if of_momentum is not None:
        space[MOMENTUM] = "tag(log, interval(0.001,1))"
    return results(search, fresh, search=space)


def most_of(studies: int, chance: float) -> float:
    """The largest share of studies that a chance of at most that explains: four SDs above it."""
    return chance + 4 * (chance * (1 - chance) / studies) ** 0.5
