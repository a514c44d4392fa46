"""Networks built from blocks: a multilayer perceptron and a small convolutional network.

The two networks of the tutorial that started the project are one line each:

    mlp(hidden=[512], norm="none", dropout=0.5)                 # Dense, ReLU, Dropout, Dense
    mlp(hidden=[512], order=["act", "norm", "drop"])            # Dense, ReLU, BatchNorm, Dense
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypedDict, Unpack

from torch import nn

from dropnorm.blocks import Block


class BlockOptions(TypedDict, total=False):
    """What every block of a network shares; see `Block`."""

    norm: str
    activation: str
    dropout: float
    bn_momentum: float | None
    order: Sequence[str]


def mlp(
    input_shape: Sequence[int] = (1, 28, 28),
    classes: int = 10,
    *,
    hidden: Sequence[int] = (256, 256),
    **options: Unpack[BlockOptions],
) -> nn.Sequential:
    """Flatten, a linear block for each width of `hidden`, and a linear head.

    Shapes: [B, *input_shape] -> [B, classes] (logits). Errors: ValueError from `Block`.
    """
    widths = [math.prod(input_shape), *_listed("hidden", hidden)]
    blocks = [Block(i, o, **options) for i, o in pairwise(widths)]
    return nn.Sequential(nn.Flatten(), *blocks, nn.Linear(widths[-1], classes))


def cnn(
    input_shape: Sequence[int] = (1, 28, 28),
    classes: int = 10,
    *,
    channels: Sequence[int] = (32, 64),
    kernel: int = 3,
    hidden: Sequence[int] = (128,),
    **options: Unpack[BlockOptions],
) -> nn.Sequential:
    """A convolution block and a halving max-pool for each of `channels`, then `mlp` on the rest.

    Shapes: [B, *input_shape] -> [B, classes] (logits), input_shape = (C, H, W).
    Errors: ValueError from `Block`, for another input_shape, and when there are more poolings than
    the image can halve.
    """
    if len(input_shape) != 3:
        got = tuple(input_shape)
        raise ValueError(f"input_shape: expected (channels, height, width), got {got}")
    colours, height, width = input_shape
    if min(height, width) >> len(_listed("channels", channels)) == 0:
        raise ValueError(f"channels: {len(channels)} poolings leave nothing of {height}x{width}")
    depths = [colours, *channels]
    stages: list[nn.Module] = []
    for i, o in pairwise(depths):
        stages += [Block(i, o, kernel=kernel, **options), nn.MaxPool2d(2)]
    left = (depths[-1], height >> len(channels), width >> len(channels))
    return nn.Sequential(*stages, *mlp(left, classes, hidden=hidden, **options))


def _listed(name: str, widths: Sequence[int]) -> Sequence[int]:
    if isinstance(widths, int):
        raise ValueError(f"{name}: expected a list of widths, got {widths}; type [{widths}]")
    return widths


NETWORKS: dict[str, Callable[..., nn.Sequential]] = {"mlp": mlp, "cnn": cnn}


def settings_of(network: str) -> list[str]:
    """The names of a network's keyword arguments, those of its blocks included."""
    parameters = inspect.signature(NETWORKS[network]).parameters.values()
    own = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    return [*own, *BlockOptions.__annotations__]
