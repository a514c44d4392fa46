"""`MomentumBank`: the scores of many batch norm momenta from one training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
from torch import nn

from dropnorm.bank import MOMENTA, Bank, weights
from dropnorm.callbacks.aside import replay_validation
from dropnorm.callbacks.callback import Callback
from dropnorm.callbacks.layers import norms_in
from dropnorm.callbacks.watch import Watch, watch
from dropnorm.evaluation import evaluating


class MomentumBank(Callback):
    """Keeps a running average per momentum while a module trains, and validates with each of them.

    Momentum shapes what evaluation reads, never the training; so one training gives the curve that
    `len(momenta)` trainings would have given, at the price of as many validations. None among the
    momenta is the cumulative average. Norms may be ours or torch's, in any module.

    Before every `every_n_epochs`th validation, the module's own validation (its `validation_step`
    and hooks) runs once for each momentum, on the side. Afterwards

        bank.curve["val_accuracy"]              # {0.001: 0.21, ..., 1.0: 0.96, None: 0.95}
        bank.best("val_accuracy")               # 0.1
        bank.use(module, 0.1)                   # its averages into the module

    Logs: every metric of the module as <metric>/bn_momentum_<momentum>; that is where the curve is
    when a strategy trained in other processes. Of several processes the first one's averages count,
    as they do for a module's own under DDP.

    Source: Ioffe & Szegedy 2015, whose training step does not read the averages.
    Errors: ValueError for a module without batch norm, or momenta out of range.
    """

    def __init__(
        self, momenta: Sequence[float | None] = MOMENTA, *, every_n_epochs: int = 1
    ) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"every_n_epochs: expected 1 or more, got {every_n_epochs!r}")
        weights(momenta)  # refuses momenta out of range, before any training
        self.momenta = tuple(momenta)
        self.every_n_epochs = every_n_epochs
        self.curve: dict[str, dict[float | None, float]] = {}
        self._bank: Bank | None = None
        self._resumed: Mapping[str, Any] | None = None
        self._watches: list[Watch] = []
        self._due = False

    def best(self, metric: str, mode: str = "max") -> float | None:
        """The momentum whose `metric` is highest, or lowest with mode "min"; ties go to the first.

        Errors: ValueError for a metric that has no curve, or one of nothing but NaN.
        """
        if metric not in self.curve:
            known = ", ".join(self.curve) or "none before a validation"
            raise ValueError(f"metric: expected one of {known}, got {metric!r}")
        curve = {m: value for m, value in self.curve[metric].items() if not math.isnan(value)}
        if not curve:
            raise ValueError(f"metric: expected a number for some momentum, got NaN for {metric}")
        return (max if mode == "max" else min)(curve, key=lambda momentum: curve[momentum])

    def use(self, module: nn.Module, momentum: float | None) -> None:
        """Puts the averages of one momentum into the module's norms, its own parameter aside.

        Errors: ValueError for a momentum that is not in the bank, for a module other than what was
        trained (a part of it has other names), or before training.
        """
        if self._bank is None:
            raise ValueError("MomentumBank: expected averages from a training, got none; fit first")
        averages = self._bank.column(self._bank.index(momentum))
        if unknown := averages.keys() - module.state_dict().keys():
            raise ValueError(
                f"MomentumBank: expected the module that was trained, got {type(module).__name__} "
                f"without {min(unknown)}; give `use` what the Trainer got"
            )
        module.load_state_dict(averages, strict=False)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        norms = norms_in(pl_module, "MomentumBank")
        if self._resumed is None:
            self._bank = Bank.of(pl_module, self.momenta)
        else:
            averages = {n: a.to(pl_module.device) for n, a in self._resumed["averages"].items()}
            self._bank = Bank(**{**self._resumed, "averages": averages})
            self._resumed = None
        self._watches = [watch(self._bank, name, norm) for name, norm in norms.items()]

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._due = not trainer.sanity_checking and bool(self._watches)
        self._due &= (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if not self._due or self._bank is None:
            return
        # By way of the CPU: broadcast, a tensor would come back on the first process's device.
        averages = {
            name: trainer.strategy.broadcast(average.cpu()).to(pl_module.device)
            for name, average in self._bank.averages.items()
        }
        self.curve = {}
        for m, momentum in enumerate(self.momenta):
            with evaluating(pl_module) as norms:
                for name, (mean, var) in averages.items():
                    norms[name].running_mean, norms[name].running_var = mean[m], var[m]
                for metric, value in replay_validation(trainer, pl_module).items():
                    self.curve.setdefault(metric, {})[momentum] = value.item()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._due:
            values = {
                f"{metric}/bn_momentum_{'none' if momentum is None else f'{momentum:g}'}": value
                for metric, curve in self.curve.items()
                for momentum, value in curve.items()
            }
            pl_module.log_dict(values, sync_dist=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._let_go()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._let_go()

    def _let_go(self) -> None:
        for watching in self._watches:
            watching.end()
        self._watches = []

    def state_dict(self) -> dict[str, Any]:
        return {} if self._bank is None else self._bank.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict and tuple(state_dict["momenta"]) != self.momenta:
            raise ValueError(
                f"momenta: expected the checkpoint's {tuple(state_dict['momenta'])}, got "
                f"{self.momenta}; go on with MomentumBank({list(state_dict['momenta'])})"
            )
        self._resumed = state_dict or None
