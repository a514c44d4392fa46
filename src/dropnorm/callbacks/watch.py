"""Batch statistics taken from the norms of a training module to a bank, for next to nothing."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dropnorm.bank import Bank
from dropnorm.blocks import BatchNorm
from dropnorm.evaluation import Norm, averages_of


class Watch(Protocol):
    """A norm that tells a bank of every training batch, until `end`."""

    def end(self) -> None: ...


def watch(bank: Bank, name: str, norm: Norm) -> Watch:
    """The bank's norm `name` is told of every batch that `norm` trains on."""
    return _Ours(bank, name, norm) if isinstance(norm, BatchNorm) else _Torchs(bank, name, norm)


class _Ours:
    """Listens where a `BatchNorm` tracks: once a batch, or once for each part of a ghost one."""

    def __init__(self, bank: Bank, name: str, norm: BatchNorm) -> None:
        self._bank, self._name, self._norm = bank, name, norm
        # On the instance, before the class's. Bound, for a copy of the norm then has a copy of this
        # and of the bank; a closure would go on with the originals.
        vars(norm)["_track"] = self._tracked

    def _tracked(self, mean: Tensor, var: Tensor) -> None:
        type(self._norm)._track(self._norm, mean, var)
        self._bank.update(self._name, mean, var)

    def end(self) -> None:
        vars(self._norm).pop("_track", None)


class _Torchs:
    """Lends one of torch's norms scratch averages for each forward, and moves its own afterwards.

    With momentum 1 a norm writes the batch's own statistics, synchronised ones included. Its own
    averages move as they would have, to rounding.
    """

    def __init__(self, bank: Bank, name: str, norm: Norm) -> None:
        self._bank, self._name, self._norm = bank, name, norm
        self._own: tuple[float | None, Tensor, Tensor] | None = None
        self._handles = [
            norm.register_forward_pre_hook(self._before),
            norm.register_forward_hook(self._after),
        ]

    def end(self) -> None:
        self._give_back()
        for handle in self._handles:
            handle.remove()

    def _before(self, norm: nn.Module, args: Any) -> None:
        self._give_back()  # of a forward that failed, which somebody may have caught
        if self._norm.training:
            mean, var = averages_of(self._norm)
            self._own = self._norm.momentum, mean, var
            self._norm.momentum = 1.0
            self._norm.running_mean = torch.zeros_like(mean)
            self._norm.running_var = torch.zeros_like(var)

    @torch.no_grad()
    def _after(self, norm: nn.Module, args: Any, output: Any) -> None:
        if self._own is None:
            return
        momentum, mean, var = self._own
        batch_mean, batch_var = averages_of(self._norm)
        self._give_back()
        if momentum is None:
            momentum = 1 / int(self._norm.num_batches_tracked or 1)
        mean.lerp_(batch_mean, momentum)
        var.lerp_(batch_var, momentum)
        self._bank.update(self._name, batch_mean, batch_var)

    def _give_back(self) -> None:
        if self._own is not None:
            self._norm.momentum, self._norm.running_mean, self._norm.running_var = self._own
            self._own = None
