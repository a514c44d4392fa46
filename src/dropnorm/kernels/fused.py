"""Batch norm, activation and dropout of K lanes as one autograd function of two kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dropnorm.kernels import code

_TILE = 2048  # values that a program holds at a time: no spills, and two programs on a processor
_WARPS = 8
_NAMES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu", nn.GELU: "gelu", nn.SiLU: "silu", nn.SELU: "selu",
    nn.Tanh: "tanh", nn.Sigmoid: "sigmoid",
}  # fmt: skip


class Keys(NamedTuple):
    """What `keep_mask_on_device` needs of K lanes, each [K]: rate float32, seed and step int64."""

    rate: Tensor
    seed: Tensor
    step: Tensor


def activation_name(layer: nn.Module) -> str | None:
    """How the kernels call an activation layer; None if they do not have it."""
    if isinstance(layer, nn.GELU) and layer.approximate != "none":
        return None
    return _NAMES.get(type(layer))


def norm_act_drop(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str = "none",
    keys: Keys | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Training-mode batch norm of each lane, then the activation, then dropout keyed by `keys`.

    Returns y like x; and the batch's mean and unbiased variance, float32 [K, C] and without
    gradient, for the running averages. Masks are those of `keep_mask_on_device`, drawn once more in
    backward; `keys.step` may have gone on by then. y is rounded once, from float32 to x's dtype.

    Shapes: x [K, B, C] or [K, B, C, ...]; weight and bias [K, C] or None (both). Errors: ValueError
    for a batch of one value per channel, as in torch.
    """
    if x[0, :, 0].numel() == 1:
        got = tuple(x.shape)
        raise ValueError(f"expected more than 1 value per channel when training, got shape {got}")
    flat = x.flatten(3) if x.dim() > 3 else x.unsqueeze(3)
    y, mean, var = _apply(_dense(flat), weight, bias, eps, activation, keys)
    return y.view(x.shape) if x.dim() <= 3 else y.unflatten(3, x.shape[3:]), mean, var


class _NormActDrop(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        activation: str,
        keys: Keys | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        lanes, _, channels, _ = x.shape
        y = torch.empty_like(x)
        mean, var, rstd = x.new_empty(3, lanes, channels, dtype=torch.float32).unbind()
        rate, seed, step = keys or (None, None, None)
        key = None if keys is None else torch.empty_like(keys.seed)
        layout = _Layout.of(x)
        code.forward[layout.grid](
            x, y, weight, bias, mean, var, rstd, rate, seed, step, key, *layout.numbers, eps,
            AFFINE=weight is not None, ACTIVATION=activation, DROPS=keys is not None,
            **layout.blocks,
        )  # fmt: skip
        ctx.save_for_backward(x, weight, bias, mean, rstd, rate, key)
        ctx.activation = activation
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd, rate, key = ctx.saved_tensors
        dx = torch.empty_like(x)
        if not _same_layout(dy, x):
            dy = torch.empty_like(x).copy_(dy)
        gradients = (None, None) if weight is None else torch.empty_like(mean.expand(2, -1, -1))
        layout = _Layout.of(x)
        code.backward[layout.grid](
            x, dy, dx, weight, bias, mean, rstd, *gradients, rate, key, *layout.numbers,
            AFFINE=weight is not None, ACTIVATION=ctx.activation, DROPS=key is not None,
            **layout.blocks,
        )  # fmt: skip
        return dx, *gradients, None, None, None


_apply: Any = _NormActDrop.apply


@dataclass(frozen=True)
class _Layout:
    """How programs share a tensor [K, B, C, S]."""

    grid: tuple[int, int]
    numbers: tuple[int, ...]
    blocks: dict[str, int]

    @classmethod
    def of(cls, x: Tensor) -> _Layout:
        lanes, rows, channels, inner = x.shape
        size = rows * inner
        # Threads beside each other read values beside each other: channels, or places of an image.
        wide = min(32, triton.next_power_of_2(channels)) if x.stride(2) == 1 else 1
        tall = min(_TILE // wide, triton.next_power_of_2(size))
        return cls(
            (math.ceil(channels / wide), lanes),
            (size, channels, inner, *x.stride()),
            # Said out loud, for Triton is about to change its default.
            {"BLOCK_N": tall, "BLOCK_C": wide, "num_warps": _WARPS, "enable_fp_fusion": True},
        )


def _dense(x: Tensor) -> Tensor:
    """`x`, copied if new tensors like it would be laid out in another way."""
    return x if _same_layout(x, torch.empty_like(x)) else x.contiguous()


def _same_layout(a: Tensor, b: Tensor) -> bool:
    strides = zip(a.shape, a.stride(), b.stride(), strict=True)
    return all(mine == other for size, mine, other in strides if size > 1)
