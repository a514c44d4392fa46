"""A weight layer with its norm, activation and dropout, in any order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dropnorm.blocks.choice import one_of
from dropnorm.blocks.fusing import in_one_loop
from dropnorm.blocks.norms import BATCH_NORMS, NORMS, norm_layer
from dropnorm.blocks.variants import noise_layer
from dropnorm.blocks.weights import weight_layer

__all__ = ["ACTIVATIONS", "NORMS", "ORDER", "Block"]

ORDER = ("norm", "act", "drop")
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "selu": nn.SELU, "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}  # fmt: skip


class Block(nn.Sequential):
    """Linear (with `kernel`: same-size convolution), then norm, activation and dropout by `order`.

    `["norm", "act", "drop"]` is the usual order, `["act", "norm", "drop"]` that of many Keras
    tutorials. The weight layer comes first unless `order` says where: `["norm", "drop", "weight",
    "act"]` is the IC layer (Chen et al. 2019). It has no bias when a batch norm follows it
    directly: the norm would take it out again, and its gradient would be rounding noise.

    `norm` is batch, ghost (in parts of `ghost_batch` examples), layer, group (of channels, `groups`
    of them), rms or none; `bn_momentum` is for the first two. `noise` is what the rate `dropout`
    means: dropout, channel, gaussian, uniform, or with SELU alpha; with None there is no such
    layer. `max_norm` bounds the norm of the weights into each unit. Settings without use are
    ignored, so that a search may vary the norm alone.

    What a block returns is not to be changed in place, for backward reads it, as it does ReLU's own
    output: autograd refuses `h += x`, even behind dropout, where torch's layers allow it. Type
    `h = h + x`, or use `Residual`.

    Shapes: [B, inputs] -> [B, outputs]; with `kernel`: [B, inputs, H, W] -> [B, outputs, H, W].
    Errors: ValueError for unknown names, an incomplete order, or values its layers refuse.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int | None = None,
        norm: str = "batch",
        activation: str = "relu",
        dropout: float | None = 0.0,
        bn_momentum: float | None = 0.1,
        order: Sequence[str] = ORDER,
        noise: str = "dropout",
        groups: int = 8,
        ghost_batch: int = 32,
        max_norm: float | None = None,
    ) -> None:
        super().__init__()
        order = _whole(order)
        weight, after = order.index("weight"), order.index("norm")
        bias = not (norm in BATCH_NORMS and after == weight + 1)
        activate = ACTIVATIONS[one_of("activation", activation, ACTIVATIONS)]
        stages = {
            "weight": weight_layer(inputs, outputs, kernel=kernel, bias=bias, max_norm=max_norm),
            "norm": norm_layer(
                norm,
                outputs if after > weight else inputs,
                images=kernel is not None,
                momentum=bn_momentum,
                groups=groups,
                ghost_batch=ghost_batch,
            ),
            "act": activate(),
            "drop": None if dropout is None else noise_layer(noise, dropout, activation),
        }
        for name in order:
            if (stage := stages[name]) is not None:
                self.add_module(name, stage)

    def forward(self, x: Tensor) -> Tensor:
        waiting = list(self)
        while waiting:
            if isinstance(waiting[0], nn.Conv2d) and x.device.type == "cpu":
                x = _channels_last(x)
            x, taken = in_one_loop(waiting, x) if self.training else (x, 0)
            if not taken:
                x, taken = waiting[0](x), 1
            waiting = waiting[taken:]
        return x


def _whole(order: Sequence[str]) -> list[str]:
    """The order of all four stages."""
    whole = list(order) if "weight" in order else ["weight", *order]
    if sorted(whole) != sorted(("weight", *ORDER)):
        raise ValueError(f"order: expected norm, act and drop, each once, got {list(order)}")
    return whole


def _channels_last(x: Tensor) -> Tensor:
    """Images [B, C, H, W] with the channels of a pixel side by side, as packs have them on the CPU.

    A small network trains 1.75 times faster so. Its weights follow the images by themselves.
    """
    if x.stride(1) == 1:
        return x
    # Not `to(memory_format=...)`: torch.func.vmap has no such thing.
    pixels = x.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format)
    return pixels.permute(0, 3, 1, 2)
