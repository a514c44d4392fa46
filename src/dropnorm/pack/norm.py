"""Batch norms of K lanes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropnorm.bank import begun, weights
from dropnorm.blocks import BatchNorm
from dropnorm.pack.layer import LaneLayer, merged, parted
from dropnorm.pack.normalised import Averages, Normalised
from dropnorm.pack.passes import Memory, Pass, Recorded


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

    def passes(self, kept: bool) -> Iterable[Pass]:
        affine, memory = list(self.parameters()), Memory(kept)
        if not self.training:
            averages = zip(self.running_mean, self.running_var, strict=True)
            runs = [partial(_evaluate, averages=pair, eps=self.eps) for pair in averages]
            return [Recorded(run, affine, k) for k, run in enumerate(runs)]
        counts = self.num_batches_tracked.numpy()
        return [
            Normalised(affine, k, self.eps, counts[k : k + 1], self._averages(k), memory)
            for k in range(len(counts))
        ]

    def _averages(self, lane: int) -> list[Averages]:
        """What a lane's batches move: its running averages, and its bank."""
        mean, var, momentum = (
            tensor.numpy()[lane : lane + 1]
            for tensor in (self.running_mean, self.running_var, self.momentum)
        )
        if not self.momenta:
            return [(mean, var, momentum)]
        bank, momenta = self.bank.numpy()[lane], self.bank_momentum.numpy()[lane]
        return [(mean, var, momentum), (bank[0], bank[1], momenta)]

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
        cumulative = self.num_batches_tracked.to(self.momentum.dtype).reciprocal_()
        share = _filled(self.momentum, cumulative)
        if not self.momenta:
            return share, None
        return share, _filled(self.bank_momentum, cumulative.unsqueeze(1)).unsqueeze(2)


def _filled(momentum: Tensor, cumulative: Tensor) -> Tensor:
    """The cumulative average's part in the place of every 0."""
    return torch.where(momentum > 0, momentum, cumulative)


def _evaluate(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    averages: tuple[Tensor, Tensor],
    eps: float,
) -> Tensor:
    return F.batch_norm(x, *averages, weight, bias, eps=eps)
