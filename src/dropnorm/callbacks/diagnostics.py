"""`Diagnostics`: what dropout and batch norm do to a module, measured while it trains."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from dropnorm.callbacks.aside import replay_validation, training_batches
from dropnorm.callbacks.calibration import Calibration
from dropnorm.callbacks.callback import Callback
from dropnorm.callbacks.precise_batch_norm import check_validates, precise_averages
from dropnorm.evaluation import averages_of, evaluating, norms_of

Logits: TypeAlias = Callable[[Any, Any], tuple[Tensor, Tensor]]


class Diagnostics(Callback):
    """Logs, at validation, how far batch norm's averages are off and what that costs.

    The averages are held against precise statistics of `batches` training batches, with dropout on
    and off; every metric M of the module's own validation is measured with all three. Logs, under
    diagnostics/:

    - variance_ratio/<norm>: precise variance, dropout off, over running variance: 1 is no shift.
      Both with the norm's eps, or a channel that is always the same would be infinitely far off.
      variance_shift/<norm> and variance_shift: the mean of max(r, 1/r) over the norm's channels,
      and over those of all norms. (Li, Chen, Hu & Yang 2019.)
    - mean_shift/<norm>: |precise - running mean| in running standard deviations.
    - lag_cost/<metric>: M(precise, dropout on) - M(running), what recalibrating for lag would
      change; shift_cost/<metric>: M(precise, off) - M(precise, on), what dropout's shift costs.
      (Wu & Johnson 2021 have the precise statistics; the split in two is ours.)
    - gap/<metric>: M on the training batches, in eval mode, minus M on validation.
    - dead_units/<relu> and dead_units: the share of `nn.ReLU` channels that are 0 for all of
      validation, of each and of all.
    - ece (15 bins; Naeini et al. 2015), nll (nats) and brier, given `logits`: a function of module
      and batch that returns logits [B, C] and classes int64 [B].

    They are in `values` as well, and with `log=False` only there. A time costs three validations
    and three passes over the batches. Without batch norm there are no shifts and no costs, and a
    time costs one of each. In distributed training, means over processes. Errors: ValueError for a
    module without validation_step.
    """

    def __init__(
        self,
        batches: int = 20,
        *,
        every_n_epochs: int = 1,
        logits: Logits | None = None,
        log: bool = True,
    ) -> None:
        if batches < 1 or every_n_epochs < 1:
            got = f"batches={batches!r}, every_n_epochs={every_n_epochs!r}"
            raise ValueError(f"Diagnostics: expected numbers from 1, got {got}")
        self.batches, self.every_n_epochs, self.logits = batches, every_n_epochs, logits
        self._logs = log  # `log` is Lightning's: it gives every callback the module's own
        self.values: dict[str, float] = {}
        self._calibration = Calibration()
        self._due = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        check_validates(pl_module, "Diagnostics")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
        self._due = due and trainer.state.fn == "fit" and not trainer.sanity_checking
        if not self._due:
            return
        with largest_outputs(pl_module) as largest:
            running = replay_validation(trainer, pl_module)
        self.values = dead_units({n: _over_processes(trainer, m) for n, m in largest.items()})
        if norms_of(pl_module):
            self.values |= self._averages(trainer, pl_module, running)
        training = replay_validation(trainer, pl_module, training_batches(trainer, self.batches))
        self.values |= differences("gap", training, running)

    def _averages(
        self, trainer: pl.Trainer, module: pl.LightningModule, running: dict[str, Tensor]
    ) -> dict[str, float]:
        """What is wrong with the running averages, with which validation logged `running`."""
        on, off = (
            precise_averages(trainer, module, self.batches, dropout=dropout)
            for dropout in (True, False)
        )
        precise_on, precise_off = (_validated_with(trainer, module, a) for a in (on, off))
        lag = differences("lag_cost", precise_on, running)
        return (
            variance_shifts(module, off) | lag | differences("shift_cost", precise_off, precise_on)
        )

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
            if self._logs:
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


def variance_shifts(module: nn.Module, precise: Mapping[str, Tensor]) -> dict[str, float]:
    """How far a module's running averages are from precise ones, by norm and over all channels."""
    values: dict[str, float] = {}
    shifts = []
    for name, norm in norms_of(module).items():
        if f"{name}.running_mean" not in precise:
            continue
        mean, var = averages_of(norm)
        divisor = var + norm.eps
        ratio = (precise[f"{name}.running_var"] + norm.eps) / divisor
        apart = (precise[f"{name}.running_mean"] - mean).abs() / divisor.sqrt()
        shifts.append(torch.maximum(ratio, 1 / ratio))
        values |= {f"variance_ratio/{name}": ratio.mean().item()}
        values |= {f"variance_shift/{name}": shifts[-1].mean().item()}
        values |= {f"mean_shift/{name}": apart.mean().item()}
    return {**values, "variance_shift": torch.cat(shifts).mean().item()} if shifts else values


def differences(
    what: str, of: Mapping[str, Tensor | float], less: Mapping[str, Tensor | float]
) -> dict[str, float]:
    """`what`/<metric>: of each metric that both have, one less the other."""
    return {f"{what}/{name}": float(of[name] - less[name]) for name in less if name in of}


def dead_units(largest: Mapping[str, Tensor]) -> dict[str, float]:
    """The share of dead units, of each ReLU and of all, by what `largest_outputs` found."""
    dead = {name: (most <= 0).float() for name, most in largest.items()}
    values = {f"dead_units/{name}": units.mean().item() for name, units in dead.items()}
    return {**values, "dead_units": torch.cat([*dead.values()]).mean().item()} if dead else values


def _over_processes(trainer: pl.Trainer, most: Tensor) -> Tensor:
    return torch.as_tensor(trainer.strategy.reduce(most, reduce_op="max"))


@contextlib.contextmanager
def largest_outputs(module: nn.Module) -> Iterator[dict[str, Tensor]]:
    """The largest output of each channel of each ReLU, once the block has been left.

    Where a ReLU has several places, those of one width count as one.
    """
    largest: dict[str, Tensor] = {}
    found: dict[tuple[str, int], Tensor] = {}

    def watch(name: str, output: Tensor) -> None:
        # A feature map's unit is its channel; a vector's, its element; a lone dimension, a unit.
        units = output.detach().movedim(1, -1) if output.dim() > 1 else output.detach()
        most = units.reshape(-1, units.shape[-1]).amax(0)
        place = name, len(most)
        found[place] = torch.maximum(found[place], most) if place in found else most

    with contextlib.ExitStack() as hooks:
        for name, layer in module.named_modules():
            if isinstance(layer, nn.ReLU):
                hook = layer.register_forward_hook(lambda m, i, y, name=name: watch(name, y))
                hooks.callback(hook.remove)
        yield largest
    for (name, _), most in found.items():
        largest[name] = torch.cat([largest[name], most]) if name in largest else most
