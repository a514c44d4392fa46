"""Dropout and batch norm of K lanes for networks that run under `torch.func.vmap`.

vmap knows neither keyed masks nor a momentum for each lane: torch's own layers draw from one
generator for all lanes, and their momentum is a single float.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, TypeGuard, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropnorm.bank import begun, weights
from dropnorm.blocks import BatchNorm, Dropout
from dropnorm.evaluation import Norm, averages_of
from dropnorm.random import dropping_on_device
from dropnorm.standins import StandInNorm, TorchNorm

Momenta: TypeAlias = tuple[float | None, ...]


class LaneNoise(nn.Module):
    """Dropout, or noise of its kind, where every lane's own plain layer draws on the lane's part.

    So draws are those of the trial alone, step counts included. The layers are not submodules: they
    belong to the trials' plain modules, and stay with them when lanes are refilled or dropped.
    """

    def __init__(self, layers: Sequence[Dropout]) -> None:
        super().__init__()
        self.layers = list(layers)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        y: Tensor = _outside_vmap(x, self)
        return y

    def noisy(self, x: Tensor) -> Tensor:
        """[K, ...] -> the same."""
        drops = type(self.layers[0])._noisy_on_device is Dropout._noisy_on_device
        if x.device.type != "cpu" and drops:
            return self.together(x)
        lanes = zip(self.layers, x.unbind(), strict=True)
        return torch.stack([layer.to(x.device)(one) for layer, one in lanes])

    def together(self, x: Tensor) -> Tensor:
        """All lanes in a few kernels; the layers count on the host."""
        for layer in self.layers:
            layer.step += 1
        keys = [[layer.rate.item(), layer.seed, layer.step] for layer in self.layers]
        rate, seed, step = (torch.tensor(column) for column in zip(*keys, strict=True))
        rate, seed, step = rate.to(x.device), seed.to(x.device), step.to(x.device)
        units = (len(x), *self.layers[0]._units(x[0]))
        return x * dropping_on_device(units, rate, seed, step, x.dtype)


class _OutsideVmap(torch.autograd.Function):
    """Hands `LaneNoise` all lanes at once: inside vmap there is only one, and no numbers to read.

    Autograd is outside vmap in a pack, so what happens in `vmap` is differentiated as usual.
    """

    @staticmethod
    def forward(x: Tensor, layer: LaneNoise) -> Tensor:
        raise NotImplementedError("LaneNoise runs under vmap only")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, None], x: Tensor, layer: LaneNoise
    ) -> tuple[Tensor, int]:
        lanes = in_dims[0]
        x = x.expand(info.batch_size, *x.shape) if lanes is None else x.movedim(lanes, 0)
        return layer.noisy(x), 0


_outside_vmap: Any = _OutsideVmap.apply


class VmapBatchNorm(nn.Module):
    """A batch norm, torch's or ours, whose momentum is a buffer and can be stacked like its state.

    A momentum of 0 stands for the cumulative average. State names are those of the plain layer.
    With `momenta` it also carries a bank [2, M, C], as `dropnorm.bank.Bank` has it.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: Tensor
    bank: Tensor
    bank_momentum: Tensor

    def __init__(self, plain: Norm, momenta: Momenta = ()) -> None:
        super().__init__()
        self.eps = plain.eps
        self.register_parameter("weight", plain.weight)
        self.register_parameter("bias", plain.bias)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(plain, name))
        self.momenta = momenta
        for name, value in settings_of(plain, momenta).items():
            self.register_buffer(name, value, persistent=False)
        self.training = plain.training

    def forward(self, x: Tensor) -> Tensor:
        averages = (self.running_mean, self.running_var)
        if not self.training:
            return F.batch_norm(x, *averages, self.weight, self.bias, False, 0.0, self.eps)
        # With momentum 1 torch writes this batch's own statistics into the running averages.
        batch = (torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var))
        y = F.batch_norm(x, *batch, self.weight, self.bias, True, 1.0, self.eps)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            cumulative = self.num_batches_tracked.to(self.momentum.dtype).reciprocal()
            share = torch.where(self.momentum > 0, self.momentum, cumulative)
            for average, value in zip(averages, batch, strict=True):
                average.add_((value - average) * share)  # vmap has no lerp_
            if self.momenta:
                fixed = self.bank_momentum
                shares = torch.where(fixed > 0, fixed, cumulative).unsqueeze(1)
                self.bank.add_((torch.stack(batch).unsqueeze(1) - self.bank) * shares)
        return y


def settings_of(plain: Norm, momenta: Momenta) -> dict[str, Tensor]:
    """What `VmapBatchNorm` keeps of a plain layer besides its state, as it begins."""
    momentum: float | Tensor | None = plain.momentum
    own = {"momentum": torch.tensor(0.0 if momentum is None else float(momentum))}
    if not momenta:
        return own
    bank = begun(*averages_of(plain), len(momenta))
    return {**own, "bank": bank, "bank_momentum": weights(momenta).to(bank)}


KNOWN_NORMS = (BatchNorm, StandInNorm, *get_args(TorchNorm))


def is_norm(layer: nn.Module) -> TypeGuard[Norm]:
    """Whether `VmapBatchNorm` takes its place: a batch norm that keeps running averages."""
    return isinstance(layer, Norm) and layer.running_mean is not None
