"""Norms to choose from: batch norm, in whole or in ghost batches, and those that know no batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropnorm.blocks.batchnorm import BatchNorm
from dropnorm.blocks.choice import one_of

NORMS = ("batch", "ghost", "layer", "group", "rms", "none")
BATCH_NORMS = ("batch", "ghost")  # they take each channel's mean out, and so a bias before them


class GhostBatchNorm(BatchNorm):
    """Batch norm over parts of the batch, about `ghost_batch` examples each (Hoffer et al. 2017).

    A large batch so keeps the noise of small ones. The running averages see every part in turn, so
    `momentum` is one part's weight: M parts move them as M batches would. A batch that does not
    divide is cut into parts as equal as can be, none smaller than `ghost_batch`. Eval is batch
    norm's.

    Shapes: as `BatchNorm`. Errors: as `BatchNorm`, and ValueError for a ghost_batch below 2.
    """

    def __init__(
        self, channels: int, momentum: float | None = 0.1, *, ghost_batch: int = 32
    ) -> None:
        super().__init__(channels, momentum)
        if ghost_batch < 2:
            raise ValueError(f"ghost_batch: expected 2 or more examples, got {ghost_batch!r}")
        self.ghost_batch = ghost_batch

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        parts = input.tensor_split(max(len(input) // self.ghost_batch, 1))
        return torch.cat([super(GhostBatchNorm, self).forward(part) for part in parts])

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, ghost_batch={self.ghost_batch}"


class RMSNorm(nn.Module):
    """Divides each example by the root of its mean square, and scales each channel by a weight.

    No mean is taken out and nothing is added (Zhang & Sennrich 2019). All of an example is one
    group: of images the pixels too, where `torch.nn.RMSNorm` would need their size.

    Shapes: [B, C, ...] -> the same.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.view(-1, *[1] * (x.dim() - 2))
        return F.rms_norm(x, x.shape[1:], eps=self.eps) * weight

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps:g}"


def norm_layer(
    norm: str,
    channels: int,
    *,
    images: bool,
    momentum: float | None,
    groups: int,
    ghost_batch: int,
) -> nn.Module | None:
    """The layer of a norm's name for [B, channels], or [B, channels, H, W]; None for none.

    Layer norm takes in all of an example, of images the pixels too, with one weight a channel: that
    is group norm with one group (Ba et al. 2016; Wu & He 2018). Settings that a norm does not have
    are unused. Errors: ValueError for another name, and for groups that do not divide the channels.
    """
    match one_of("norm", norm, NORMS):
        case "batch":
            return BatchNorm(channels, momentum)
        case "ghost":
            return GhostBatchNorm(channels, momentum, ghost_batch=ghost_batch)
        case "layer":
            return nn.GroupNorm(1, channels) if images else nn.LayerNorm(channels)
        case "group":
            if groups < 1 or channels % groups:
                raise ValueError(f"groups: expected a divisor of {channels}, got {groups!r}")
            return nn.GroupNorm(groups, channels)
        case "rms":
            return RMSNorm(channels)
    return None
