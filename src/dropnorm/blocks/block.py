"""A weight layer with its norm, activation and dropout, in any order."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from dropnorm.blocks.batchnorm import BatchNorm
from dropnorm.blocks.dropout import Dropout

ORDER = ("norm", "act", "drop")
NORMS = ("batch", "none")
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid,
}  # fmt: skip


class Block(nn.Sequential):
    """Linear (with `kernel`: same-size convolution), then norm, activation and dropout by `order`.

    `["norm", "act", "drop"]` is the usual order, `["act", "norm", "drop"]` that of many Keras
    tutorials. The weight layer has no bias when the norm follows it directly: the norm would take
    it out again, and its gradient would be rounding noise.

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
        dropout: float = 0.0,
        bn_momentum: float | None = 0.1,
        order: Sequence[str] = ORDER,
    ) -> None:
        super().__init__()
        if sorted(order) != sorted(ORDER):
            raise ValueError(f"order: expected norm, act and drop, each once, got {list(order)}")
        bias = not (norm == "batch" and order[0] == "norm")
        self.add_module("weight", _weight(inputs, outputs, kernel, bias))
        normed = _known("norm", norm, NORMS) == "batch"
        stages = {
            "norm": BatchNorm(outputs, bn_momentum) if normed else None,
            "act": ACTIVATIONS[_known("activation", activation, ACTIVATIONS)](),
            "drop": Dropout(dropout),
        }
        for name in order:
            if (stage := stages[name]) is not None:
                self.add_module(name, stage)


def _weight(inputs: int, outputs: int, kernel: int | None, bias: bool) -> nn.Module:
    if kernel is None:
        return nn.Linear(inputs, outputs, bias=bias)
    return nn.Conv2d(inputs, outputs, kernel, padding="same", bias=bias)


def _known(what: str, name: str, names: Sequence[str] | dict[str, type[nn.Module]]) -> str:
    if name not in names:
        raise ValueError(f"{what}: expected one of {', '.join(names)}, got {name!r}")
    return name
