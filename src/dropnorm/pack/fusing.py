"""Batch norm, activation and dropout of a packed block as one kernel, where Triton can be had."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dropnorm.kernels import usable
from dropnorm.pack.dropout import LaneDropout
from dropnorm.pack.layer import LaneLayer, Stateless
from dropnorm.pack.norm import LaneBatchNorm


def fused(layers: Sequence[LaneLayer], x: Tensor) -> tuple[Tensor, int]:
    """What the first of `layers` make of x in one kernel, and how many they are.

    Those are a training batch norm and, if they follow, an activation and dropout. Else x and 0: it
    is then up to `together`. Shapes: x [K, B, C, ...] -> the same.
    """
    if not (layers and isinstance(layers[0], LaneBatchNorm) and usable(x)):
        return x, 0
    return run_fused(layers[0], layers[1:], x) if layers[0].training else (x, 0)


def run_fused(norm: LaneBatchNorm, following: Sequence[LaneLayer], x: Tensor) -> tuple[Tensor, int]:
    """`fused`, of layers that begin with a norm in training."""
    from dropnorm.kernels.fused import Keys, activation_name, norm_act_drop  # needs Triton

    rest, name, keys = list(following), None, None
    if rest and isinstance(rest[0], Stateless):
        name = activation_name(rest[0].plain)
        rest = rest[1:] if name else rest
    if rest and type(rest[0]) is LaneDropout and rest[0].training:
        rest[0].step.add_(1)
        keys = Keys(rest[0].rate.float(), rest[0].seed, rest[0].step)
        rest = rest[1:]
    y, mean, var = norm_act_drop(x, norm.weight, norm.bias, norm.eps, name or "none", keys)
    norm.track(mean, var)
    return y, 1 + len(following) - len(rest)
