"""`PreciseBatchNorm`: running averages replaced by precise statistics of the trained weights."""

from __future__ import annotations

from typing import Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from dropnorm.callbacks.aside import Data, replay_validation, training_batches
from dropnorm.callbacks.callback import Callback
from dropnorm.callbacks.layers import norms_in
from dropnorm.precise import recalibrate

WHEN = ("validation", "end")
_LIGHTNINGS_OWN = ("pytorch_lightning.core.module", "lightning.pytorch.core.module")


class PreciseBatchNorm(Callback):
    """Recalibrates batch norm on training batches, before every validation or when training ends.

    Running averages lag behind weights that still move, and dropout before a norm shifts them.
    With `dropout` on, recalibrating takes away the lag; off, the shift as well, which is what
    evaluation wants. Training goes on from the precise statistics. They come from the module's own
    `validation_step` on the first `batches` batches of the training set, 1,000 to 10,000 examples
    being enough, on the side: what it logs there is not logged.

    In distributed training the statistics are of the batches of all processes.

    Source: Wu & Johnson 2021, PreciseBN; dropout's shift: Li et al. 2019.
    Errors: ValueError for a module without batch norm or without validation_step.
    """

    def __init__(
        self,
        batches: int = 50,
        *,
        dropout: bool = False,
        when: Literal["validation", "end"] = "validation",
    ) -> None:
        if when not in WHEN:
            raise ValueError(f"when: expected one of {', '.join(WHEN)}, got {when!r}")
        if batches < 1:
            raise ValueError(f"batches: expected 1 or more, got {batches!r}")
        self.batches, self.dropout, self.when = batches, dropout, when

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        norms_in(pl_module, "PreciseBatchNorm")
        check_validates(pl_module, "PreciseBatchNorm")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.when == "validation" and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._recalibrate(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.when == "end":
            self._recalibrate(trainer, pl_module)

    def _recalibrate(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        averages = precise_averages(trainer, module, self.batches, dropout=self.dropout)
        module.load_state_dict(averages, strict=False)


def check_validates(module: pl.LightningModule, who: str) -> None:
    """Errors: ValueError for a module without validation_step."""
    if type(module).validation_step.__module__ in _LIGHTNINGS_OWN:
        raise ValueError(f"{who}: expected a validation_step in {type(module).__name__}, got none")


def precise_averages(
    trainer: pl.Trainer, module: pl.LightningModule, batches: int, *, dropout: bool
) -> dict[str, Tensor]:
    """Precise statistics over training batches of all processes, for `load_state_dict`."""
    data = training_batches(trainer, batches)
    # A whole replayed validation is the one batch that `recalibrate` sees.
    entries = recalibrate(_Replayed(trainer, module), [(data,)], dropout=dropout)
    averages = {name.removeprefix("module."): value for name, value in entries.items()}
    if trainer.world_size > 1:
        _pool(trainer, averages)
    return averages


class _Replayed(nn.Module):
    """A module whose forward is its whole validation on some data."""

    def __init__(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        super().__init__()
        self.module = module
        self._trainer = trainer

    def forward(self, data: Data) -> None:
        replay_validation(self._trainer, self.module, data)


def _pool(trainer: pl.Trainer, averages: dict[str, Tensor]) -> None:
    """Statistics of equal shares of the data become those of all of it."""

    def averaged(value: Tensor) -> Tensor:
        return torch.as_tensor(trainer.strategy.reduce(value.clone(), reduce_op="mean"))

    for name in [name for name in averages if name.endswith("running_mean")]:
        mean = averaged(averages[name])
        apart = (averages[name] - mean).square()
        var = name.removesuffix("mean") + "var"
        averages[var] = averaged(averages[var] + apart)
        averages[name] = mean
