"""Profiling bn_momentum: it shapes evaluation only, so one training scores every value of it.

The sampler searches the other parameters. A trial's value is its best over the bank of momenta, its
bn_momentum is the arg-best, and the whole curve is kept with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sweep.errors import Problem
from sweep.messages import MOMENTUM, RETROFITTED
from sweep.metric import is_of_validation, shortest
from sweep.schema import PrunerSettings
from sweep.space import Dimension
from sweep.trial_config import is_retrofitted

POINTS = 13  # momenta of an interval: four a decade from 0.001 to 1
PACKABLE = "dropnorm.Classifier"


def profiled(
    search: Sequence[Dimension], trial: Mapping[str, Any], metric: str
) -> Dimension | None:
    """The dimension that training itself searches; None if the sampler has to."""
    if not is_of_validation(metric):
        return None
    keys = [RETROFITTED]  # whatever the module, for ours takes the place of its norms
    if trial["model"].get("_target_") == PACKABLE and not is_retrofitted(trial):
        keys.append(MOMENTUM)
    return next((d for d in search if d.key in keys), None)


def without_meaning(search: Sequence[Dimension], trial: Mapping[str, Any]) -> list[Problem]:
    """Why the momentum cannot be searched: a network without batch norm has none.

    And null among those of a module that is retrofitted, where it says to leave each norm its own.
    """
    if left := [d for d in search if d.key == RETROFITTED and None in d.choices]:
        what = f"expected momenta to score, got null from {left[0].text}"
        advice = "leave null out: the default, which is confirmed too, has the module's own"
        return [Problem(RETROFITTED, what, advice)]
    norm = trial["model"].get("norm", "batch")
    searched = {d.key for d in search}
    if MOMENTUM not in searched or "model.norm" in searched or norm in ("batch", "ghost"):
        return []
    advice = f"type {MOMENTUM}=0.1 to search the rest, or model.norm=batch"
    return [Problem(MOMENTUM, f"expected a network with batch norm, got model.norm={norm}", advice)]


def momenta(dimension: Dimension) -> tuple[float | None, ...]:
    """The values that a bank scores: every choice, or `POINTS` over an interval, both ends too."""
    points = dimension.grid(POINTS)
    if dimension.kind == "categorical":
        return tuple(None if p is None else float(p) for p in points)
    values = [float(p) for p in points if p is not None]
    if dimension.step is None:  # between the ends any number will do: short ones
        values[1:-1] = shortest(values)[1:-1]
    return tuple(values)


def scored_epochs(pruner: PrunerSettings, budget: int, last: int) -> tuple[int, ...]:
    """After which epochs the bank is scored: where the pruner may decide, and the last.

    `budget` is the pruner's max_epochs, `last` the trial's own.
    """
    first = max(1, round(pruner.first_rung * budget))
    match pruner.name:
        case "none":
            rungs = []
        case "median":
            rungs = list(range(first, last))
        case "asha" | "hyperband":
            rungs, rung = [], first
            while rung < last:
                rungs.append(rung)
                rung *= pruner.reduction_factor
    return (*rungs, last)
