"""Draws of a trial by itself, keyed: they depend on its seed and the epoch, and nothing else.

So it is the same trial wherever it runs, resumed or not, and the one that a lane of a pack would
be. What a data module draws when it is set up, as a split may be, is the same in all trials.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from torch import nn
from torch.utils._pytree import tree_leaves

from dropnorm.blocks import Dropout
from dropnorm.callbacks.callback import Callback
from dropnorm.draws import key_loader, seed_draws
from sweep.messages import TrialSpec
from sweep.trial_config import devices_per_trial

_STEPS = "keyed_dropout_steps"


class KeyedDraws(Callback):
    """Keys the epochs of a training, once `attach` has told it of the data.

    Of several processes each draws by its `rank`; the order of their data is the Trainer's then.
    """

    def __init__(self, spec: TrialSpec, rank: int = 0) -> None:
        self._spec, self._rank = spec, rank
        self._go_on: list[Any] = []

    def attach(self, trainer: pl.Trainer, data: pl.LightningDataModule) -> None:
        """To be called just before `fit`."""
        seed_draws(0, "data")
        if devices_per_trial(self._spec.config) > 1:
            return
        make = data.train_dataloader
        progress: Any = trainer.fit_loop.epoch_progress

        def train_dataloader() -> Any:
            loaders = make()
            self._go_on = [
                # Not `current_epoch`, which is one behind when a resumed training begins.
                key_loader(loader, self._spec.seed, lambda: int(progress.current.processed))
                for loader in tree_leaves(loaders)
            ]
            return loaders

        vars(data)["train_dataloader"] = train_dataloader  # on the instance, before the class's

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[_STEPS] = [layer.step for layer in _dropouts(pl_module)]

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Masks are keyed by how many there were before, which no `state_dict` has."""
        for layer, step in zip(_dropouts(pl_module), checkpoint[_STEPS], strict=True):
            layer.step = step

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        purpose = ("rank", self._rank, trainer.current_epoch)
        seed_draws(self._spec.seed, *purpose)
        for go_on in self._go_on:
            go_on()


def _dropouts(module: nn.Module) -> list[Dropout]:
    return [layer for layer in module.modules() if isinstance(layer, Dropout)]
