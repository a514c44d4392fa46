"""Asking: Optuna's live study, in memory, and what each trial is made from."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from dropnorm.seeds import derive
from sweep.config import Plan
from sweep.messages import TrialSpec
from sweep.profile import momenta, scored_epochs
from sweep.running import Running
from sweep.strategies import design, make_pruner, make_sampler
from sweep.tpe import KnownSpaceTpe


class Asker:
    """Proposes the study's trials in order of their numbers, and tells Optuna how they ended.

    Every draw is keyed by the study's seed and the trial's number, so a study that was interrupted
    tries what it would have tried.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan, study = plan, plan.study
        self._space = {d.key: d.distribution() for d in plan.asked}
        self._momenta = momenta(plan.profiled) if plan.profiled else ()
        self._design = design(plan.sampler, plan.asked, study.trials, derive(study.seed, "design"))
        self._budget = int(plan.trial["trainer"]["max_epochs"])
        self._study = optuna.create_study(
            study_name=study.name,  # Hyperband draws a trial's bracket from it
            direction=study.direction,
            pruner=make_pruner(plan.pruner, self._budget),
        )
        self._waiting: deque[int] = deque()  # recorded, and not ended: `ask` takes them first
        self._asked = 0

    def recall(self, trial: FrozenTrial) -> None:
        """Takes in a recorded trial; they come in order of their numbers."""
        self._study.add_trial(_only_asked(trial, self._space))
        self._asked += 1
        if not trial.state.is_finished():
            self._waiting.append(trial.number)

    def ask(self) -> Running:
        study = self._plan.study
        if self._waiting:
            number = self._waiting.popleft()
        else:
            number, self._asked = self._asked, self._asked + 1
            if self._design is not None:
                self._study.enqueue_trial(self._design[number])
        seed = derive(study.seed, "sampler", number)
        if isinstance(self._study.sampler, KnownSpaceTpe):
            self._study.sampler.restart(seed)
        else:
            self._study.sampler = make_sampler(self._plan.sampler, seed, self._space)
        trial = self._study.ask(self._space)
        config = self._plan.trial_config(trial.params)
        spec = TrialSpec(number, derive(study.seed, "trial", number), trial.params, config)
        if self._momenta:
            last = int(config["trainer"]["max_epochs"])
            scored = scored_epochs(self._plan.pruner, self._budget, last)
            assert self._plan.profiled is not None
            key = self._plan.profiled.key
            spec = replace(spec, momenta=self._momenta, momentum_key=key, scored=scored)
        return Running(spec, trial)

    def tell(self, running: Running, value: float | None, state: TrialState) -> Mapping[str, Any]:
        """How a trial ended; returns what sampler and pruner have noted in it."""
        return self._study.tell(running.trial, value, state=state).system_attrs

    def notes(self, number: int) -> Mapping[str, Any]:
        """What sampler and pruner have noted in a trial so far."""
        return self._study.get_trials(deepcopy=False)[number].system_attrs


def _only_asked(trial: FrozenTrial, space: Mapping[str, BaseDistribution]) -> FrozenTrial:
    """The trial as the sampler knows it: without the parameters that training found by itself."""
    if trial.params.keys() <= space.keys():
        return trial
    asked = copy(trial)
    asked.params = {key: value for key, value in trial.params.items() if key in space}
    asked.distributions = {key: d for key, d in trial.distributions.items() if key in space}
    return asked
