"""`Recorder`: takes the place of a module's `log`, and reduces as Lightning does."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.data import extract_batch_size
from torch import Tensor
from torchmetrics import Metric

REDUCTIONS = ("mean", "sum", "min", "max")


@dataclass
class _Running:
    """One name's values so far: their (weighted) sum, or their least or greatest."""

    reduction: str
    value: Tensor
    weight: float

    def add(self, value: Tensor, weight: float) -> None:
        if self.reduction in ("min", "max"):
            self.value = getattr(torch, f"{self.reduction}imum")(self.value, value)
        else:
            self.value = self.value + value * (weight if self.reduction == "mean" else 1)
            self.weight += weight


class Recorder:
    """Collects what a module logs per epoch: means weighted by batch size, sums, extremes, metrics.

    Values are always reduced over the processes, `sync_dist` or not, so that all have the same.
    Errors: ValueError for a `reduce_fx` other than mean, sum, min and max.
    """

    def __init__(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._trainer = trainer
        self._module = module
        self._signature = inspect.signature(type(module).log)
        self._running: dict[str, _Running] = {}
        self._metrics: dict[str, Metric] = {}
        self._batch: Any = None
        self._loader: int | None = None

    def at(self, batch: Any, loader: int | None) -> None:
        """What comes next is logged at this batch of this loader (None: there is only one)."""
        self._batch, self._loader = batch, loader

    def log(self, *args: Any, **kwargs: Any) -> None:
        call = self._signature.bind(self._module, *args, **kwargs)
        call.apply_defaults()
        given = call.arguments
        name, value = given["name"], given["value"]
        if given["on_epoch"] is False:
            return
        if self._loader is not None and given["add_dataloader_idx"]:
            name = f"{name}/dataloader_idx_{self._loader}"
        if isinstance(value, Metric):
            self._metrics[name] = value
        else:
            self._add(name, value, given["reduce_fx"], given["batch_size"])

    def _add(self, name: str, value: Any, reduce_fx: Any, batch_size: int | None) -> None:
        reduction = reduce_fx if isinstance(reduce_fx, str) else _name_of(reduce_fx)
        if reduction not in REDUCTIONS:
            known = ", ".join(REDUCTIONS)
            raise ValueError(f"log({name!r}): expected reduce_fx {known}, got {reduce_fx!r}")
        value = torch.as_tensor(value, device=self._module.device).detach().float().mean()
        if batch_size is None:
            averaged = reduction == "mean" and self._batch is not None
            batch_size = extract_batch_size(self._batch) if averaged else 1
        if name in self._running:
            self._running[name].add(value, batch_size)
        else:
            start = value * batch_size if reduction == "mean" else value
            self._running[name] = _Running(reduction, start, batch_size)

    def results(self) -> dict[str, Tensor]:
        """One number a name; the module's own metrics are reset, as Lightning resets them."""
        found = {name: self._reduced(running) for name, running in self._running.items()}
        found |= {name: metric.compute().float() for name, metric in self._metrics.items()}
        for metric in self._metrics.values():
            metric.reset()
        return found

    def _reduced(self, running: _Running) -> Tensor:
        reduce = self._trainer.strategy.reduce
        if running.reduction != "mean":
            return torch.as_tensor(reduce(running.value, reduce_op=running.reduction))
        both = torch.stack([running.value, running.value.new_tensor(running.weight)])
        total, weight = torch.as_tensor(reduce(both, reduce_op="sum")).unbind()
        return total / weight


def _name_of(reduce_fx: Callable[..., Any]) -> str:
    return getattr(reduce_fx, "__name__", "")
