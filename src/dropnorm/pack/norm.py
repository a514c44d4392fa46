"""Batch norms of K lanes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropnorm.bank import begun, weights
from dropnorm.blocks import BatchNorm
from dropnorm.pack.layer import LaneLayer, Run, merged, parted

Affine: TypeAlias = Sequence[Tensor | None]  # weight or bias of each lane


class LaneBatchNorm(LaneLayer):
    """`BatchNorm` for each lane: weight, bias and running averages [K, C], momentum [K].

    A momentum of 0 stands for the cumulative average. After `carry` each lane also has a bank,
    [K, 2, M, C]: means and variances for M momenta, as `dropnorm.bank.Bank` has them.
    Shapes: [K, B, C] or [K, B, C, H, W] -> the same.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: Tensor
    bank: Tensor
    bank_momentum: Tensor
    momenta: tuple[float | None, ...] = ()

    def __init__(self, layers: Sequence[BatchNorm]) -> None:
        super().__init__(layers)
        self.eps = layers[0].eps

    def carry(self, momenta: Sequence[float | None]) -> None:
        """Gives every lane a bank, which begins with the running averages as they are now.

        Errors: ValueError for momenta that are out of range.
        """
        self.momenta = tuple(momenta)
        shares = weights(self.momenta).expand(len(self.momentum), -1).clone()
        averages = begun(self.running_mean, self.running_var, len(self.momenta))
        # Not persistent: `lane_state` is what the plain layer knows.
        self.register_buffer("bank", averages, persistent=False)
        self.register_buffer("bank_momentum", shares, persistent=False)

    def settings(self, layer: nn.Module) -> dict[str, Tensor]:
        momentum = layer.momentum
        own = {"momentum": torch.zeros(()) if momentum is None else torch.as_tensor(momentum)}
        if not self.momenta:
            return own
        averages = (torch.as_tensor(layer.running_mean), torch.as_tensor(layer.running_var))
        bank = begun(*averages, len(self.momenta))
        return {**own, "bank": bank, "bank_momentum": weights(self.momenta)}

    def lanes(self) -> Iterable[Run]:
        none = [None] * len(self.running_mean)
        weight, bias = (none if t is None else t.unbind() for t in (self.weight, self.bias))
        return self._training(weight, bias) if self.training else self._evaluating(weight, bias)

    def _evaluating(self, weight: Affine, bias: Affine) -> list[Run]:
        rows = zip(self.running_mean, self.running_var, weight, bias, strict=True)
        return [
            partial(F.batch_norm, running_mean=m, running_var=v, weight=w, bias=b, eps=self.eps)
            for m, v, w, b in rows
        ]

    def _training(self, weight: Affine, bias: Affine) -> list[Run]:
        share, bank_share = self._count()
        mean, var = batch = self.running_mean.new_zeros(2, *self.running_mean.shape)

        def run(x: Tensor, k: int) -> Tensor:
            # With momentum 1 torch writes this batch's own statistics into the running averages.
            y = F.batch_norm(x, mean[k], var[k], weight[k], bias[k], True, 1.0, self.eps)
            self.running_mean[k].lerp_(mean[k], share[k])
            self.running_var[k].lerp_(var[k], share[k])
            if bank_share is not None:
                self.bank[k].lerp_(batch[:, k].unsqueeze(1), bank_share[k])
            return y

        return [partial(run, k=k) for k in range(len(share))]

    def together(self, x: Tensor) -> Tensor:
        lanes = len(x)
        weight, bias = (None if t is None else t.flatten() for t in (self.weight, self.bias))
        if not self.training:
            averages = (self.running_mean.flatten(), self.running_var.flatten())
            y = F.batch_norm(merged(x), *averages, weight, bias, False, 0.0, self.eps)
            return parted(y, lanes)
        mean, var = self.running_mean.new_zeros(2, self.running_mean.numel()).unbind()
        y = F.batch_norm(merged(x), mean, var, weight, bias, True, 1.0, self.eps)
        self.track(mean.view_as(self.running_mean), var.view_as(self.running_var))
        return parted(y, lanes)

    @torch.no_grad()
    def track(self, mean: Tensor, var: Tensor) -> None:
        """Counts a batch of every lane: its mean and its unbiased variance, [K, C] each."""
        share, bank_share = self._count()
        self.running_mean.lerp_(mean, share.unsqueeze(1))
        self.running_var.lerp_(var, share.unsqueeze(1))
        if bank_share is not None:
            self.bank.lerp_(torch.stack((mean, var), 1).unsqueeze(2), bank_share.unsqueeze(1))

    @torch.no_grad()
    def _count(self) -> tuple[Tensor, Tensor | None]:
        """Counts a batch; its part in the running averages [K], and in the banks [K, M, 1]."""
        self.num_batches_tracked.add_(1)
        cumulative = self.num_batches_tracked.to(self.momentum.dtype).reciprocal()
        share = torch.where(self.momentum > 0, self.momentum, cumulative)
        if not self.momenta:
            return share, None
        fixed = self.bank_momentum
        return share, torch.where(fixed > 0, fixed, cumulative.unsqueeze(1)).unsqueeze(2)
