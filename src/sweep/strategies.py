"""Optuna's samplers and pruners by name, with this project's seeds and rungs."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from dropnorm.seeds import derive
from sweep.errors import Problem
from sweep.messages import Value
from sweep.schema import PrunerSettings, SamplerSettings
from sweep.space import Dimension
from sweep.tpe import KnownSpaceTpe


def make_sampler(
    settings: SamplerSettings, seed: int, space: Mapping[str, BaseDistribution] | None = None
) -> BaseSampler:
    """A sampler for one `ask`, seeded for it. `space` is all that it will be asked for, if known.

    A sampler made once would repeat its draws when a study is resumed; one made for each trial from
    (study seed, trial number) draws the same whether or not the study was interrupted. CMA-ES keeps
    its state in the system attributes of its trials: they must be resumed with the study.
    """
    seed %= 2**32
    startup = settings.n_startup_trials
    match settings.name:
        case "tpe":
            return KnownSpaceTpe(
                space, seed=seed, multivariate=settings.multivariate, n_startup_trials=startup
            )
        case "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
        case "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=startup)
        case "random" | "grid" | "qmc":  # the `design` of the last two leaves nothing to draw
            return optuna.samplers.RandomSampler(seed=seed)


def unsuited(
    settings: SamplerSettings, search: Sequence[Dimension], profiled: Dimension | None = None
) -> list[Problem]:
    """Why this sampler cannot search this space. CMA-ES would draw at random what is no number.

    `search` is what is left to the sampler when every trial scores all of `profiled`.
    """
    categories = [d.key for d in search if d.kind == "categorical"]
    if settings.name != "cmaes" or (not categories and len(search) > 1):
        return []
    found = f"choices for {', '.join(categories)}" if categories else f"{len(search) or 'none'}"
    if profiled is not None:
        found += f" besides {profiled.key}, which every trial scores whole"
    what = f"expected two or more ranges of numbers for cmaes, got {found}"
    return [Problem("sampler", what, "type sampler=tpe or sampler=gp")]


def design(
    settings: SamplerSettings, search: Sequence[Dimension], total: int, seed: int
) -> list[dict[str, Value]] | None:
    """At most `total` points of a design known beforehand; None for samplers that look first.

    `grid` takes each combination once, in random order, so that a smaller budget still covers the
    whole; `qmc` takes scrambled Halton points, which stay even however many are used. A larger
    total begins with the points of a smaller one.
    """
    if not search:  # training itself finds the rest
        return None
    match settings.name:
        case "grid":
            rows = _grid([d.grid(settings.points) for d in search], total, seed)
        case "qmc":
            from scipy.stats import qmc  # half a second that only this sampler needs

            shares = qmc.Halton(len(search), rng=seed).random(total)
            rows = [[d.at(u) for d, u in zip(search, row, strict=True)] for row in shares]
        case _:
            return None
    return [{d.key: value for d, value in zip(search, row, strict=True)} for row in rows]


def _grid(axes: Sequence[Sequence[Value]], total: int, seed: int) -> list[list[Value]]:
    """Random combinations, each once. They are numbered, because all of them may be too many."""
    size = math.prod(map(len, axes))
    draw = random.Random(seed)
    numbers: dict[int, None] = {}
    while len(numbers) < min(total, size):
        numbers[draw.randrange(size)] = None
    rows = []
    for number in numbers:
        row = []
        for axis in axes:
            number, place = divmod(number, len(axis))
            row.append(axis[place])
        rows.append(row)
    return rows


def make_pruner(settings: PrunerSettings, epochs: int) -> BasePruner:
    """A pruner whose first decision comes after `first_rung` of the epochs; they count from 1."""
    first = max(1, round(settings.first_rung * epochs))
    match settings.name:
        case "asha":
            return optuna.pruners.SuccessiveHalvingPruner(
                min_resource=first, reduction_factor=settings.reduction_factor
            )
        case "hyperband":
            return optuna.pruners.HyperbandPruner(
                min_resource=first, max_resource=epochs, reduction_factor=settings.reduction_factor
            )
        case "median":
            return optuna.pruners.MedianPruner(
                n_startup_trials=settings.startup_trials, n_warmup_steps=first
            )
        case "none":
            return optuna.pruners.NopPruner()


def is_control(seed: int, number: int, share: float) -> bool:
    """Whether this trial is never pruned, so that pruning itself can be checked afterwards."""
    return derive(seed, "control", number) % 10_000 < share * 10_000
