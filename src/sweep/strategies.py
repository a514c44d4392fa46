"""Optuna's samplers and pruners by name, with this project's seeds and rungs."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from dropnorm.seeds import derive
from sweep.messages import Value
from sweep.schema import PrunerSettings, SamplerSettings
from sweep.space import Dimension


def make_sampler(settings: SamplerSettings, seed: int) -> BaseSampler:
    """A sampler for one `ask`, seeded for it.

    A sampler made once would repeat its draws when a study is resumed; one made for each trial from
    (study seed, trial number) draws the same whether or not the study was interrupted.
    """
    seed %= 2**32
    match settings.name:
        case "tpe":
            return optuna.samplers.TPESampler(
                seed=seed,
                multivariate=settings.multivariate,
                n_startup_trials=settings.n_startup_trials,
            )
        case "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=settings.n_startup_trials)
        case "cmaes":
            return optuna.samplers.CmaEsSampler(
                seed=seed, n_startup_trials=settings.n_startup_trials
            )
        case _:
            return optuna.samplers.RandomSampler(seed=seed)


def design(
    settings: SamplerSettings, search: Sequence[Dimension], total: int, seed: int
) -> list[dict[str, Value]] | None:
    """At most `total` points of a design known beforehand; None for samplers that look first.

    `grid` takes every combination, shuffled, so that a smaller budget still covers the whole;
    `qmc` takes scrambled Halton points, which stay even however many are used.
    """
    rows: list[tuple[Value, ...]]
    if settings.name == "grid":
        rows = list(itertools.product(*(d.grid(settings.points) for d in search)))
        random.Random(seed).shuffle(rows)
    elif settings.name == "qmc":
        from scipy.stats import qmc  # half a second that only this sampler needs

        shares = qmc.Halton(len(search), rng=seed).random(total)
        rows = [tuple(d.at(u) for d, u in zip(search, row, strict=True)) for row in shares]
    else:
        return None
    keys = [d.key for d in search]
    return [dict(zip(keys, row, strict=True)) for row in rows[:total]]


def make_pruner(settings: PrunerSettings, epochs: int) -> BasePruner:
    """A pruner whose first decision comes at `first_rung` of the epochs, never at the first epoch."""
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
                n_startup_trials=settings.startup_trials, n_warmup_steps=first - 1
            )
        case "none":
            return optuna.pruners.NopPruner()


def is_control(seed: int, number: int, share: float) -> bool:
    """Whether this trial is never pruned, so that pruning itself can be checked afterwards."""
    return derive(seed, "control", number) % 10_000 < share * 10_000
