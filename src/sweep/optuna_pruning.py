"""`OptunaPruning`: Optuna's pruners, inside your own objective and your own Trainer.

def objective(trial):
    module = MyModule(dropout=trial.suggest_float("dropout", 0, 0.5))
    pruning = OptunaPruning(trial, "val_accuracy")
    trainer = Trainer(callbacks=[pruning], ...)
    trainer.fit(module, data)
    pruning.raise_if_pruned(trainer)
    return trainer.callback_metrics["val_accuracy"].item()
"""

from __future__ import annotations

import optuna
import pytorch_lightning as pl
import torch

from dropnorm.callbacks.callback import Callback

_REPORT = "optuna_report/"  # how values reach the objective from processes that it started
_PRUNED = "optuna_pruned"


class OptunaPruning(Callback):
    """Reports a metric to an Optuna trial after every validation, and stops when it is pruned.

    End the objective with `raise_if_pruned(trainer)`: an exception inside `fit` would kill,
    hang or fail the other processes of a distributed training.

    The metric is averaged over the processes. The first alone reports it and asks the pruner, and
    all stop together, so the others may have any trial, or None. All must train with the same
    parameters: let the objective start them (strategies "ddp_spawn", "ddp_fork", "ddp_notebook"),
    or suggest in one process and tell the others. Reports count validations, from 1.

    Source: Optuna's `Trial.should_prune`; what goes wrong otherwise: optuna#4689, optuna#6043.
    Errors: ValueError when the module does not log `monitor`, with what it does log.
    """

    def __init__(self, trial: optuna.trial.BaseTrial | None, monitor: str = "val_accuracy") -> None:
        self.trial = trial
        self.monitor = monitor
        self.validations = 0
        self._reported: set[int] = set()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        metrics = trainer.callback_metrics
        if self.monitor not in metrics:
            logs = ", ".join(sorted(metrics)) or "nothing"
            got = f"expected a metric that the module logs, got {self.monitor!r}"
            raise ValueError(f"monitor: {got}; it logs {logs}")
        self.validations += 1
        value = trainer.strategy.reduce(metrics[self.monitor].clone(), reduce_op="mean")
        prune = self._report(self.validations, float(value)) if trainer.is_global_zero else False
        if trainer.world_size > 1:
            metrics[f"{_REPORT}{self.validations}"] = torch.as_tensor(value)
        if trainer.strategy.broadcast(prune):
            metrics[_PRUNED] = torch.tensor(float(self.validations))
            trainer.should_stop = True

    def raise_if_pruned(self, trainer: pl.Trainer) -> None:
        """Raises `optuna.TrialPruned` if that is why `trainer.fit` has stopped.

        Where `fit` ran in processes of its own, their reports reach this one's trial here.
        """
        for name, value in trainer.callback_metrics.items():
            if name.startswith(_REPORT) and trainer.is_global_zero:
                self._report(int(name.removeprefix(_REPORT)), value.item())
        if _PRUNED in trainer.callback_metrics:
            at = int(trainer.callback_metrics[_PRUNED])
            raise optuna.TrialPruned(f"{self.monitor} after validation {at}")

    def _report(self, validation: int, value: float) -> bool:
        """Reports a value, but not twice, and asks whether to prune."""
        if self.trial is None:
            return False
        if validation not in self._reported:
            self._reported.add(validation)
            self.trial.report(value, validation)
        return self.trial.should_prune()

    def state_dict(self) -> dict[str, int]:
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.validations = state_dict["validations"]
