"""Batch norm over the batches of all processes, from plain all-reduces: on CPUs and GPUs alike."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def are_several(group: Any = None) -> bool:
    """Whether this process trains with others; None stands for all there are."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1


def normalise_together(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: Any = None
) -> tuple[Tensor, Tensor, Tensor]:
    """`x` normalised by the statistics of all processes' batches, each of however many rows.

    Half precision is computed in float32, as torch does. Gradients flow through the statistics to
    every process. Every process of the group has to call it, or the others wait.

    Shapes: [B, C, ...] -> the same, and the joint batch's mean and unbiased variance, [C] each.
    """
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    dims = [d for d in range(x.dim()) if d != 1]
    per_channel = [1, -1, *[1] * (x.dim() - 2)]
    rows = wide.new_tensor([x.numel() / x.shape[1]])
    sums = _summed(torch.cat([wide.sum(dims), rows]), group)
    count = sums[-1].detach()
    mean = sums[:-1] / count
    centred = wide - mean.view(per_channel)
    var = _summed(centred.square().sum(dims), group) / count
    scale = torch.rsqrt(var + eps)
    y = centred * (scale if weight is None else scale * weight).view(per_channel)
    y = y if bias is None else y + bias.view(per_channel)
    return y.to(x.dtype), mean.detach(), var.detach() * count / (count - 1)


def _summed(x: Tensor, group: Any) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(x, group)  # type: ignore[no-untyped-call]
    return total


class _SumOverProcesses(torch.autograd.Function):
    """An all-reduce through which gradients flow back: torch has none that is public."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None
