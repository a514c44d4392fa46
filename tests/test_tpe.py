"""Our TPE against Optuna's own: the same draws, trial by trial."""

from __future__ import annotations

import random

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import TrialState

from sweep.tpe import KnownSpaceTpe

SPACE: dict[str, BaseDistribution] = {
    "width": IntDistribution(16, 512, log=True),
    "dropout": FloatDistribution(0.0, 0.7),
    "norm": CategoricalDistribution(["batch", "layer", "none"]),
    "only": CategoricalDistribution(["one"]),
}


def history(ours: bool, multivariate: bool, trials: int = 60) -> list[dict[str, object]]:
    """What is tried: some trials run together, some are pruned, fail, or never end."""
    draw = random.Random(1)
    study = optuna.create_study(direction="maximize")
    sampler = KnownSpaceTpe(SPACE, seed=0, multivariate=multivariate, n_startup_trials=5)
    running, tried = [], []
    for number in range(trials):
        if ours:
            sampler.restart(number)
            chosen: BaseSampler = sampler
        else:
            chosen = TPESampler(seed=number, multivariate=multivariate, n_startup_trials=5)
        study.sampler = chosen
        running.append(study.ask(SPACE))
        tried.append(dict(running[-1].params))
        while len(running) > draw.randrange(4):
            trial = running.pop(draw.randrange(len(running)))
            match draw.randrange(8):
                case 0:
                    study.tell(trial, state=TrialState.FAIL)
                case 1:
                    trial.report(draw.random(), 1)
                    study.tell(trial, state=TrialState.PRUNED)
                case 2 if number < 20:
                    pass  # it runs on for ever
                case _:
                    study.tell(trial, 1 - (trial.params["dropout"] - 0.3) ** 2)
    return tried


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("multivariate", [True, False])
def test_it_draws_what_optunas_draws(multivariate: bool) -> None:
    assert history(True, multivariate) == history(False, multivariate)
