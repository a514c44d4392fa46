"""Optuna's TPE without what it does anew for every trial though nothing has changed.

It draws what Optuna's draws, in every digit; a test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState


class KnownSpaceTpe(TPESampler):
    """TPE for a space that is known beforehand, and for one study. `restart` seeds it anew.

    Optuna's looks through all trials for the parameters they share, and translates each parameter
    of each trial into numbers, at every ask. `space` None: so does this one.
    """

    def __init__(
        self, space: Mapping[str, BaseDistribution] | None, *, seed: int, **settings: Any
    ) -> None:
        super().__init__(seed=seed, **settings)
        self._known = (
            None if space is None else {k: d for k, d in sorted(space.items()) if not d.single()}
        )
        self._numbers: dict[int, tuple[float, ...]] = {}  # of trials that have ended

    def restart(self, seed: int) -> None:
        """Draws from here on as a new sampler with this seed would."""
        self._rng.rng.seed(seed % 2**32)
        self._random_sampler._rng.rng.seed(seed % 2**32)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        if self._known is None or not self._multivariate:
            return super().infer_relative_search_space(study, trial)
        return self._known

    def _get_internal_repr(
        self, trials: list[FrozenTrial], search_space: dict[str, BaseDistribution], study: Study
    ) -> dict[str, np.ndarray]:
        if search_space is not self._known:
            return super()._get_internal_repr(trials, search_space, study)
        rows = []
        for trial in trials:
            row = self._numbers.get(trial.number)
            if row is None:
                params = self._get_params(trial, study)
                if not search_space.keys() <= params.keys():
                    continue
                row = tuple(d.to_internal_repr(params[key]) for key, d in search_space.items())
                if trial.state != TrialState.RUNNING:
                    self._numbers[trial.number] = row
            rows.append(row)
        columns = np.asarray(rows, dtype=float).reshape(len(rows), len(search_space))
        return {key: columns[:, i].copy() for i, key in enumerate(search_space)}
