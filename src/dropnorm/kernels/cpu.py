"""The loops of `loops` on tensors: batch norm in training, and what tracks its statistics."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dropnorm.kernels import loops

NO_DROP: loops.Drop = (0, 1.0, 0, 0)
NO_FLOOR = -math.inf

_TYPES = (torch.float32, torch.float64)


def fits(x: Tensor) -> bool:
    """Whether `rows` can be had: not of another type, device or order; that is left to torch."""
    if x.device.type != "cpu" or x.dtype not in _TYPES:
        return False
    if x.dim() == 4:
        return x.is_contiguous(memory_format=torch.channels_last)
    return x.dim() == 2 and x.is_contiguous()


def rows(x: Tensor) -> np.ndarray:
    """x [B, C], or [B, C, H, W] with channels last in memory, as rows [N, C] that share its memory.

    It must be one that `fits`.
    """
    array: np.ndarray = x.detach().numpy()
    return array if x.dim() == 2 else array.transpose(0, 2, 3, 1).reshape(-1, x.shape[1])


class Rows:
    """`rows`, remembered for as long as the same tensor is asked for."""

    def __init__(self) -> None:
        self._tensor: Tensor | None = None
        self._array: np.ndarray | None = None

    def __call__(self, x: Tensor) -> np.ndarray:
        if self._array is None or x is not self._tensor:
            self._tensor, self._array = x, rows(x)
        return self._array


def affine_of(
    weight: Tensor | None, bias: Tensor | None, channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias as arrays; of a norm without them those that change nothing."""
    if weight is None or bias is None:
        return np.ones(channels, np.float32), np.zeros(channels, np.float32)
    return weight.detach().numpy(), bias.detach().numpy()


def check_batch(x: Tensor) -> None:
    """Raises torch's ValueError for a batch of one value per channel, which has no variance."""
    if x.numel() == x.shape[1]:
        got = list(x.shape)
        raise ValueError(f"expected more than 1 value per channel when training, got {got}")


def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """x normalised by its own statistics, with those: mean and *unbiased* variance, [C] each.

    Shapes: [B, C, ...] -> the same. Errors: ValueError for a batch of one value per channel.
    """
    check_batch(x)
    if fits(x) and not torch.compiler.is_compiling():
        y, mean, var, _ = _BatchNorm.apply(x, weight, bias, eps)  # type: ignore[no-untyped-call]
        return y, mean, var
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    mean, var = x.new_zeros(2, x.shape[1], dtype=kind).unbind()
    # With momentum 1 the running averages that torch writes are this batch's own statistics.
    return F.batch_norm(x, mean, var, weight, bias, True, 1.0, eps), mean, var


def track(
    means: Tensor,
    variances: Tensor,
    momenta: Tensor,
    batch: tuple[Tensor, Tensor],
    batches: Tensor | int,
) -> None:
    """Moves averages [M, C] towards a batch's mean and variance [C], in place, by momenta [M].

    A momentum of 0 is the cumulative average over `batches`, this one included. On other devices
    the host does not wait.
    """
    if means.device.type == "cpu" and means.dtype in _TYPES:
        averages = means.detach().numpy(), variances.detach().numpy()
        mean, var = (tensor.detach().to(means).numpy() for tensor in batch)
        loops.track(*averages, momenta.numpy(), mean, var, int(batches))
        return
    shares = torch.where(momenta > 0, momenta, 1 / batches).to(means).unsqueeze(1)
    for average, value in zip((means, variances), batch, strict=True):
        average.lerp_(value.to(average), shares)


class _BatchNorm(torch.autograd.Function):
    """(x, weight, bias, eps) -> y, mean, unbiased variance, inverse of the standard deviation."""

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        y = torch.empty_like(x)
        affine = affine_of(weight, bias, x.shape[1])
        found = loops.normalise(rows(x), rows(y), *affine, eps, NO_FLOOR, NO_DROP, 1)
        mean, var, inverse = map(torch.from_numpy, found)
        return y, mean, var, inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, bias, ctx.eps = inputs
        _, mean, var, inverse = output
        ctx.mark_non_differentiable(mean, var, inverse)
        ctx.save_for_backward(x, weight, bias, mean, inverse)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():  # gradients of gradients are wanted
            inputs = [tensor for tensor in (x, weight, bias) if tensor is not None]
            y = F.batch_norm(x, None, None, weight, bias, True, 0.0, ctx.eps)
            found = torch.autograd.grad(y, inputs, dy, create_graph=True)
            return (*found, *[None] * (4 - len(found)))
        dx = torch.empty_like(x)
        above = dy if fits(dy) else torch.empty_like(x).copy_(dy)
        array, (scale, shift) = rows(x), affine_of(weight, bias, x.shape[1])
        d_weight, d_bias = np.empty_like(scale), np.empty_like(shift)
        # y would be needed to see where it is above a floor; there is none.
        arrays = rows(above), array, array, rows(dx), scale, mean.numpy(), inverse.numpy()
        loops.backward(*arrays, NO_FLOOR, 1.0, d_weight, d_bias)
        if weight is None:
            return dx, None, None, None
        return dx, torch.from_numpy(d_weight), torch.from_numpy(d_bias), None
