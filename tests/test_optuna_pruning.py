"""OptunaPruning: reports and prunes inside anyone's objective, in one process and in two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from sweep.optuna_pruning import OptunaPruning
from tests.plain_modules import PACKAGES, loaders, plain_module, trainer


class AtSecond(optuna.pruners.BasePruner):
    """Prunes every trial at its second report."""

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return trial.last_step == 2


def study(pruner: optuna.pruners.BasePruner) -> optuna.Study:
    return optuna.create_study(direction="maximize", pruner=pruner)


def objective(package: Any, folder: Path, logged: list[float], **settings: Any) -> Any:
    def run(trial: optuna.Trial) -> float:
        torch.manual_seed(0)
        pruning = OptunaPruning(trial, "val_accuracy")
        fit = trainer(package, folder, pruning, **{"max_epochs": 4, **settings})
        fit.fit(plain_module(package), **loaders(shuffle=False))
        logged.append(fit.callback_metrics["val_accuracy"].item())
        pruning.raise_if_pruned(fit)
        return logged[-1]

    return run


@pytest.mark.parametrize("package", PACKAGES)
def test_pruned_trial_stops_and_is_pruned(tmp_path: Path, package: Any) -> None:
    logged: list[float] = []
    pruned = study(AtSecond())
    pruned.optimize(objective(package, tmp_path, logged), n_trials=1)
    (trial,) = pruned.trials
    assert trial.state == optuna.trial.TrialState.PRUNED
    assert list(trial.intermediate_values) == [1, 2]
    assert trial.intermediate_values[2] == pytest.approx(logged[0])


@pytest.mark.parametrize("package", PACKAGES)
def test_trial_that_is_not_pruned_completes_with_all_its_reports(
    tmp_path: Path, package: Any
) -> None:
    logged: list[float] = []
    whole = study(optuna.pruners.NopPruner())
    whole.optimize(objective(package, tmp_path, logged), n_trials=1)
    assert whole.best_value == logged[0]
    assert list(whole.best_trial.intermediate_values) == [1, 2, 3, 4]  # no sanity check among them


# The module logs one metric without sync_dist, as many do.
@pytest.mark.filterwarnings("ignore:It is recommended to use `self.log")
@pytest.mark.parametrize("package", PACKAGES)
def test_two_processes_report_and_prune_as_one_does(tmp_path: Path, package: Any) -> None:
    """Every process has the same batches here; the objective is in neither of them."""
    trials: list[optuna.trial.FrozenTrial] = []
    for settings in ({}, {"strategy": "ddp_fork", "devices": 2, "use_distributed_sampler": False}):
        pruned = study(AtSecond())
        run = objective(package, tmp_path, [], **settings)
        pruned.optimize(run, n_trials=1)
        trials += pruned.trials
    alone, together = trials
    assert together.state == optuna.trial.TrialState.PRUNED
    assert together.intermediate_values == pytest.approx(alone.intermediate_values)


def test_resumed_training_counts_validations_on(tmp_path: Path) -> None:
    data = loaders()
    first = OptunaPruning(None, "val_accuracy")
    fit = trainer(PACKAGES[0], tmp_path, first, max_epochs=1)
    fit.fit(plain_module(PACKAGES[0]), **data)
    fit.save_checkpoint(tmp_path / "half.ckpt")
    trial = study(optuna.pruners.NopPruner()).ask()
    again = trainer(PACKAGES[0], tmp_path, OptunaPruning(trial, "val_accuracy"), max_epochs=2)
    half = tmp_path / "half.ckpt"
    again.fit(plain_module(PACKAGES[0]), **data, ckpt_path=half, weights_only=True)
    (frozen,) = trial.study.trials
    assert list(frozen.intermediate_values) == [2]


def test_metric_that_is_not_logged_is_refused_with_those_that_are(tmp_path: Path) -> None:
    pruning = OptunaPruning(None, "val_acc")
    with pytest.raises(ValueError, match=r"got 'val_acc'; it logs .*val_accuracy, val_by_hand"):
        trainer(PACKAGES[0], tmp_path, pruning).fit(plain_module(PACKAGES[0]), **loaders())
