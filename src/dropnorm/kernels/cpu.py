"""The loops of `loops` on tensors: batch norm in training, and what tracks its statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dropnorm.kernels import averages, loops
from dropnorm.kernels.evaluated import normalise_and_rectify

NO_DROP: loops.Drop = (-(1 << 15), 1.0, 0, 0)
NO_FLOOR = -math.inf

_TYPES = (torch.float32, torch.float64)


def fits(x: Tensor) -> bool:
    """Whether `rows` can be had: not of another type, device or order; that is left to torch."""
    if not _is_ours(x) or not x.numel():
        return False
    if x.dim() == 4:
        return x.is_contiguous(memory_format=torch.channels_last)
    return x.dim() == 2 and x.is_contiguous()


def _is_ours(x: Tensor) -> bool:
    """Whether loops may look at its numbers: not under torch.func's transforms, nor if it is fake.

    (A `Parameter` has a type of its own, and is left to torch too.)
    """
    ours = type(x) is Tensor and x.device.type == "cpu" and x.dtype in _TYPES
    return ours and not torch._C._are_functorch_transforms_active()


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
    """Weight and bias as arrays; where a norm has none, one that changes nothing."""
    scale = np.ones(channels, np.float32) if weight is None else weight.detach().numpy()
    return scale, np.zeros_like(scale) if bias is None else bias.detach().numpy()


def check_batch(x: Tensor) -> None:
    """Raises torch's ValueError for a batch of one value per channel, which has no variance."""
    if x.numel() == x.shape[1]:
        got = list(x.shape)
        raise ValueError(f"expected more than 1 value per channel when training, got {got}")


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    floor: float = NO_FLOOR,
    drop: loops.Drop = NO_DROP,
) -> tuple[Tensor, Tensor, Tensor]:
    """x normalised by its own statistics, with those: mean and *unbiased* variance, [C] each.

    In the same loop it gets a floor (0 is ReLU), and dropout behind that floor. x must be one that
    `fits`. Errors: ValueError for a batch of one value per channel.
    """
    check_batch(x)
    y, mean, var = _BatchNorm.apply(x, weight, bias, eps, floor, drop)  # type: ignore[no-untyped-call]
    return y, mean, var


def batch_norm_by_torch(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """`batch_norm` of any x, with torch's kernels; statistics have the `dtype` of the norm's."""
    mean, var = x.new_zeros(2, x.shape[1], dtype=dtype).unbind()
    # With momentum 1 the running averages that torch writes are this batch's own statistics.
    return F.batch_norm(x, mean, var, weight, bias, True, 1.0, eps), mean, var


def evaluate(
    x: Tensor,
    statistics: tuple[Tensor, Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """Batch norm by running mean and variance [C] and ReLU, without gradients; x `fits`.

    The bits are those of torch's kernels where the CPU multiplies and adds in one.
    """
    y, (mean, var) = torch.empty_like(x), (t.numpy() for t in statistics)
    normalise_and_rectify(rows(x), rows(y), mean, var, *affine_of(weight, bias, len(mean)), eps)
    return y


def mask_of(shape: Sequence[int], drop: loops.Drop, double: bool = False) -> Tensor:
    """What `drop` multiplies units by, as a tensor: `kept`, or 0 where a unit is dropped."""
    mask = np.empty(math.prod(shape), np.float64 if double else np.float32)
    loops.draw_mask(mask, drop)
    return torch.from_numpy(mask.reshape(shape))


def can_rectify(x: Tensor) -> bool:
    """Whether `rectify` takes it: its masks are drawn in the order of contiguous units."""
    return _is_ours(x) and x.is_contiguous()


def rectify(x: Tensor, drop: loops.Drop) -> Tensor:
    """ReLU and dropout in one loop. Shapes: any -> the same."""
    y: Tensor = _Rectify.apply(x, drop)  # type: ignore[no-untyped-call]
    return y


def track(
    means: Tensor,
    variances: Tensor,
    momenta: Tensor,
    batch: tuple[Tensor, Tensor],
    batches: Tensor | int,
) -> None:
    """Moves averages [M, C] towards a batch's mean and variance [C], in place, by momenta [M].

    Of one momentum, [], they are [C]. A momentum of 0 is the cumulative average over `batches`,
    this one included. On other devices the host does not wait.
    """
    mean, var = (t if t.dtype == means.dtype else t.to(means) for t in batch)
    if means.device.type == "cpu" and means.dtype in _TYPES and not torch.compiler.is_compiling():
        first, second = (t.numpy().reshape(-1, len(mean)) for t in (means, variances))
        arrays = first, second, momenta.numpy().reshape(-1), mean.numpy(), var.numpy()
        averages.track(*arrays, int(batches))
        return
    momenta = momenta.to(means.device)  # it stays on the host in a module filled from meta
    shares = torch.where(momenta > 0, momenta, 1 / batches).to(means)
    shares = shares.unsqueeze(1) if means.dim() == 2 else shares
    means.lerp_(mean, shares)
    variances.lerp_(var, shares)


def pixels_of(x: Tensor) -> int:
    """How many rows of `rows` are one image's."""
    return x.shape[2] * x.shape[3] if x.dim() == 4 else 1


class _BatchNorm(torch.autograd.Function):
    """(x, weight, bias, eps, floor, drop) -> y, mean, unbiased variance."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        floor: float,
        drop: loops.Drop,
    ) -> tuple[Tensor, Tensor, Tensor]:
        y = torch.empty_like(x)
        array, out, affine = rows(x), rows(y), affine_of(weight, bias, x.shape[1])
        mean, var, inverse = loops.normalise(array, out, *affine, eps, floor, drop, pixels_of(x))
        # Without a floor nobody looks at y. A mask in its place would allow changing y in place,
        # as behind torch's dropout, but writing it takes a third of the pass that makes y.
        ctx.save_for_backward(x, weight, bias, x if floor == NO_FLOOR else y)
        ctx.known = mean, inverse, eps, floor, drop
        statistics = torch.from_numpy(mean), torch.from_numpy(var)
        ctx.mark_non_differentiable(*statistics)
        return y, *statistics

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight, bias, y), (mean, inverse, eps, floor, drop) = ctx.saved_tensors, ctx.known
        nones = None, None, None
        if torch.is_grad_enabled():  # gradients of gradients are wanted
            wanted = ctx.needs_input_grad[:3]
            inputs = [t for t, needs in zip((x, weight, bias), wanted, strict=True) if needs]
            z = F.batch_norm(x, None, None, weight, bias, True, 0.0, eps)
            above = dy if floor == NO_FLOOR else dy * (drop[1] * (y > floor))
            found = iter(torch.autograd.grad(z, inputs, above, create_graph=True))
            return (*(next(found) if needs else None for needs in wanted), *nones)
        dx = torch.empty_like(x)
        above = dy if fits(dy) else torch.empty_like(x).copy_(dy)
        scale, shift = affine_of(weight, bias, x.shape[1])
        d_weight, d_bias = np.empty_like(scale), np.empty_like(shift)
        arrays = rows(above), rows(x), rows(y), rows(dx), scale, mean, inverse
        loops.backward(*arrays, floor, drop[1], d_weight, d_bias)
        dw = None if weight is None else torch.from_numpy(d_weight)
        db = None if bias is None else torch.from_numpy(d_bias)
        return dx, dw, db, *nones


class _Rectify(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, drop: loops.Drop) -> Tensor:
        y = torch.empty_like(x)
        loops.rectify(_flat(x), _flat(y), drop)
        ctx.save_for_backward(y)
        ctx.kept = drop[1]
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # gradients of gradients are wanted
            return dy * (ctx.kept * (y > 0)), None
        dy = dy.contiguous()
        dx = torch.empty_like(dy)
        loops.rectify_backward(_flat(dy), _flat(y), _flat(dx), ctx.kept)
        return dx, None


def _flat(x: Tensor) -> np.ndarray:
    array: np.ndarray = x.detach().numpy()
    return array.reshape(-1)
