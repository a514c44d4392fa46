"""Weight layers: linear or convolution, their norm bounded or not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _MaxNorm(nn.Module):
    """Keeps the norm of the weights into each unit at `max_norm` or below (Srivastava et al. 2014).

    Whatever an optimizer wrote is projected when the next training forward begins, in place, and
    evaluation computes with projected weights: only a weight that is read in between may be longer.
    """

    weight: Tensor
    max_norm: float

    def bound(self, max_norm: float) -> None:
        if not max_norm > 0:
            raise ValueError(f"max_norm: expected None or a number above 0, got {max_norm!r}")
        self.max_norm = max_norm

    def project(self) -> None:
        # Through `data`, for the weights are as they were if a backward is still to come.
        self.weight.data.renorm_(2, 0, self.max_norm)

    def bounded(self) -> Tensor:
        if not self.training:
            return self.weight.renorm(2, 0, self.max_norm)
        self.project()
        return self.weight

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, max_norm={self.max_norm:g}"


class MaxNormLinear(_MaxNorm, nn.Linear):
    """`torch.nn.Linear` whose rows have norms of at most `max_norm`; the bias is free.

    Shapes: [B, inputs] -> [B, outputs]. Errors: ValueError unless max_norm > 0.
    """

    def __init__(self, inputs: int, outputs: int, max_norm: float, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.bound(max_norm)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.bounded(), self.bias)


class MaxNormConv2d(_MaxNorm, nn.Conv2d):
    """`torch.nn.Conv2d` whose filters have norms of at most `max_norm`; the bias is free.

    Shapes: [B, inputs, H, W] -> [B, outputs, H, W]. Errors: ValueError unless max_norm > 0.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, max_norm: float, *, bias: bool = True
    ) -> None:
        super().__init__(inputs, outputs, kernel, padding="same", bias=bias)
        self.bound(max_norm)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.bounded(), self.bias, padding="same")


def weight_layer(
    inputs: int,
    outputs: int,
    *,
    kernel: int | None = None,
    bias: bool = True,
    max_norm: float | None = None,
) -> nn.Linear | nn.Conv2d:
    """A linear layer, or with `kernel` a convolution that keeps the size of the image."""
    if kernel is None:
        if max_norm is None:
            return nn.Linear(inputs, outputs, bias=bias)
        return MaxNormLinear(inputs, outputs, max_norm, bias=bias)
    if max_norm is None:
        return nn.Conv2d(inputs, outputs, kernel, padding="same", bias=bias)
    return MaxNormConv2d(inputs, outputs, kernel, max_norm, bias=bias)


def unbounded(layer: MaxNormLinear | MaxNormConv2d) -> nn.Linear | nn.Conv2d:
    """The same weights, projected a last time and shared, in a layer of torch's own."""
    layer.project()
    outputs, inputs, *kernel = layer.weight.shape
    with torch.device("meta"):  # nothing is drawn for weights that are given
        size = kernel[0] if kernel else None
        plain = weight_layer(inputs, outputs, kernel=size, bias=layer.bias is not None)
    plain.weight, plain.bias = layer.weight, layer.bias
    return plain
