"""`Diagnostics`: what dropout and batch norm do to a module, measured while it trains."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from dropnorm.callbacks.aside import replay_validation, training_batches
from dropnorm.callbacks.calibration import Calibration
from dropnorm.callbacks.callback import Callback
from dropnorm.callbacks.layers import norms_in
from dropnorm.callbacks.precise_batch_norm import check_module, precise_averages
from dropnorm.evaluation import averages_of, evaluating

Logits: TypeAlias = Callable[[Any, Any], tuple[Tensor, Tensor]]


class Diagnostics(Callback):
    """Logs, at validation, how far batch norm's averages are off and what that costs.

    The averages are held against precise statistics of `batches` training batches, with dropout on
    and off; every metric M of the module's own validation is measured with all three. Logs, under
    diagnostics/:

    - variance_ratio/<norm>: precise variance, dropout off, over running variance: 1 is no shift.
      variance_shift: the mean of max(r, 1/r) over all channels. (Li, Chen, Hu & Yang 2019.)
    - mean_shift/<norm>: |precise - running mean| in running standard deviations.
    - lag_cost/<metric>: M(precise, dropout on) - M(running), what recalibrating for lag would
      change; shift_cost/<metric>: M(precise, off) - M(precise, on), what dropout's shift costs.
      (Wu & Johnson 2021 have the precise statistics; the split in two is ours.)
    - gap/<metric>: M on the training batches, in eval mode, minus M on validation.
    - dead_units/<relu>: the share of `nn.ReLU` channels that are 0 for all of validation.
    - ece (15 bins; Naeini et al. 2015), nll (nats) and brier, given `logits`: a function of module
      and batch that returns logits [B, C] and classes int64 [B].

    They are in `values` as well. A time costs three validations and three passes over the batches.
    In distributed training, means over processes. Errors: ValueError for a module without batch
    norm or without validation_step.
    """

    def __init__(
        self, batches: int = 20, *, every_n_epochs: int = 1, logits: Logits | None = None
    ) -> None:
        if batches < 1 or every_n_epochs < 1:
            got = f"batches={batches!r}, every_n_epochs={every_n_epochs!r}"
            raise ValueError(f"Diagnostics: expected numbers from 1, got {got}")
        self.batches, self.every_n_epochs, self.logits = batches, every_n_epochs, logits
        self.values: dict[str, float] = {}
        self._calibration = Calibration()
        self._due = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        check_module(pl_module, "Diagnostics")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
        self._due = due and trainer.state.fn == "fit" and not trainer.sanity_checking
        if not self._due:
            return
        on, off = (
            precise_averages(trainer, pl_module, self.batches, dropout=dropout)
            for dropout in (True, False)
        )
        with _largest(pl_module) as largest:
            running = replay_validation(trainer, pl_module)
        self.values = _shifts(pl_module, off)
        self.values |= _dead(trainer, largest)
        precise_on, precise_off = (_validated_with(trainer, pl_module, a) for a in (on, off))
        training = replay_validation(trainer, pl_module, training_batches(trainer, self.batches))
        for metric, value in running.items():
            self.values |= {
                f"lag_cost/{metric}": (precise_on[metric] - value).item(),
                f"shift_cost/{metric}": (precise_off[metric] - precise_on[metric]).item(),
                f"gap/{metric}": (training[metric] - value).item(),
            }

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._due and self.logits is not None:
            self._calibration.update(*self.logits(pl_module, batch))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._due:
            self.values |= self._calibration.compute()
            named = {f"diagnostics/{name}": value for name, value in self.values.items()}
            pl_module.log_dict(named, sync_dist=True)


def _validated_with(
    trainer: pl.Trainer, module: pl.LightningModule, averages: dict[str, Tensor]
) -> dict[str, Tensor]:
    with evaluating(module) as norms:
        for name, norm in norms.items():
            if f"{name}.running_mean" in averages:
                norm.running_mean = averages[f"{name}.running_mean"]
                norm.running_var = averages[f"{name}.running_var"]
        return replay_validation(trainer, module)


def _shifts(module: nn.Module, precise: dict[str, Tensor]) -> dict[str, float]:
    """How far the running averages are from precise ones, by norm and over all channels."""
    values: dict[str, float] = {}
    ratios = []
    for name, norm in norms_in(module, "Diagnostics").items():
        if f"{name}.running_mean" not in precise:
            continue
        mean, var = averages_of(norm)
        ratio = precise[f"{name}.running_var"] / var
        apart = (precise[f"{name}.running_mean"] - mean).abs() / (var + norm.eps).sqrt()
        values |= {f"variance_ratio/{name}": ratio.mean().item()}
        values |= {f"mean_shift/{name}": apart.mean().item()}
        ratios.append(torch.maximum(ratio, 1 / ratio))
    return {**values, "variance_shift": torch.cat(ratios).mean().item()} if ratios else values


def _dead(trainer: pl.Trainer, largest: dict[str, Tensor]) -> dict[str, float]:
    reduce = trainer.strategy.reduce
    most = {name: torch.as_tensor(reduce(m, reduce_op="max")) for name, m in largest.items()}
    return {f"dead_units/{name}": (m <= 0).float().mean().item() for name, m in most.items()}


@contextlib.contextmanager
def _largest(module: nn.Module) -> Iterator[dict[str, Tensor]]:
    """The largest output of each channel of each ReLU inside the block."""
    largest: dict[str, Tensor] = {}

    def watch(name: str, output: Tensor) -> None:
        # A feature map's unit is its channel; a vector's, its element; a lone dimension, a unit.
        units = output.detach().movedim(1, -1) if output.dim() > 1 else output.detach()
        most = units.reshape(-1, units.shape[-1]).amax(0)
        largest[name] = torch.maximum(largest[name], most) if name in largest else most

    with contextlib.ExitStack() as hooks:
        for name, layer in module.named_modules():
            if isinstance(layer, nn.ReLU):
                hook = layer.register_forward_hook(lambda m, i, y, name=name: watch(name, y))
                hooks.callback(hook.remove)
        yield largest
