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
from typing import NamedTuple, TypedDict, Unpack

from torch import nn

from dropnorm.blocks import Block, Residual
from dropnorm.blocks.choice import one_of
from dropnorm.blocks.variants import noise_layer

PLACES = ("every_block", "last_block", "head", "input")


class BlockOptions(TypedDict, total=False):
    """What every block of a network shares; see `Block`."""

    norm: str
    activation: str
    dropout: float
    bn_momentum: float | None
    order: Sequence[str]
    noise: str
    groups: int
    ghost_batch: int
    max_norm: float | None


def mlp(
    input_shape: Sequence[int] = (1, 28, 28),
    classes: int = 10,
    *,
    hidden: Sequence[int] = (256, 256),
    dropout_at: str = "every_block",
    residual: bool = False,
    drop_path: float = 0.0,
    **options: Unpack[BlockOptions],
) -> nn.Sequential:
    """Flatten, a linear block for each width of `hidden`, and a linear head.

    `dropout_at` is every_block; last_block; head, which is right before it and so after the last
    norm, whatever the order; or input, before all. With `residual`, blocks with as many outputs as
    inputs get a way around them, and `drop_path` is the rate at which the last of these is dropped,
    growing linearly up to it (stochastic depth; see `DropPath`).

    Shapes: [B, *input_shape] -> [B, classes] (logits). Errors: ValueError from `Block`, and for
    `residual` without such a block.
    """
    widths = [math.prod(input_shape), *_listed("hidden", hidden)]
    shapes = [_Shape(i, o) for i, o in pairwise(widths)]
    layers = _layers(shapes, options, dropout_at, residual, drop_path)
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


def cnn(
    input_shape: Sequence[int] = (1, 28, 28),
    classes: int = 10,
    *,
    channels: Sequence[int] = (32, 64),
    kernel: int = 3,
    hidden: Sequence[int] = (128,),
    dropout_at: str = "every_block",
    residual: bool = False,
    drop_path: float = 0.0,
    **options: Unpack[BlockOptions],
) -> nn.Sequential:
    """A convolution block and a halving max-pool for each of `channels`, then `mlp` on the rest.

    Shapes: [B, *input_shape] -> [B, classes] (logits), input_shape = (C, H, W).
    Errors: as `mlp`, for another input_shape, and when there are more poolings than the image can
    halve.
    """
    if len(input_shape) != 3:
        got = tuple(input_shape)
        raise ValueError(f"input_shape: expected (channels, height, width), got {got}")
    colours, height, width = input_shape
    if min(height, width) >> len(_listed("channels", channels)) == 0:
        raise ValueError(f"channels: {len(channels)} poolings leave nothing of {height}x{width}")
    depths = [colours, *channels]
    left = depths[-1] * (height >> len(channels)) * (width >> len(channels))
    widths = [left, *_listed("hidden", hidden)]
    shapes = [_Shape(i, o, kernel) for i, o in pairwise(depths)]
    shapes += [_Shape(i, o) for i, o in pairwise(widths)]
    layers = _layers(shapes, options, dropout_at, residual, drop_path)
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


NETWORKS: dict[str, Callable[..., nn.Sequential]] = {"mlp": mlp, "cnn": cnn}


def settings_of(network: str) -> list[str]:
    """The names of a network's keyword arguments, those of its blocks included."""
    parameters = inspect.signature(NETWORKS[network]).parameters.values()
    own = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    return [*own, *BlockOptions.__annotations__]


def _listed(name: str, widths: Sequence[int]) -> Sequence[int]:
    if isinstance(widths, int):
        raise ValueError(f"{name}: expected a list of widths, got {widths}; type [{widths}]")
    return widths


class _Shape(NamedTuple):
    """A block's inputs, outputs, and its kernel if it is a convolution."""

    inputs: int
    outputs: int
    kernel: int | None = None


def _layers(
    shapes: Sequence[_Shape],
    options: BlockOptions,
    dropout_at: str,
    residual: bool,
    drop_path: float,
) -> list[nn.Module]:
    """All but the head: convolution blocks, each with its pooling, a flattening, linear blocks."""
    one_of("dropout_at", dropout_at, PLACES)
    blocks: list[nn.Module] = []
    for shape in shapes:
        last = len(blocks) == len(shapes) - 1
        here = dropout_at == "every_block" or (dropout_at == "last_block" and last)
        settings = options if here else {**options, "dropout": None}
        blocks.append(Block(shape.inputs, shape.outputs, kernel=shape.kernel, **settings))
    if residual:
        blocks = _with_ways_around(blocks, shapes, drop_path)
    elif drop_path:
        what = f"expected 0 without residual blocks, got {drop_path!r}"
        raise ValueError(f"drop_path: {what}; set residual=True")
    images = sum(shape.kernel is not None for shape in shapes)
    stages = [layer for block in blocks[:images] for layer in (block, nn.MaxPool2d(2))]
    layers = [*stages, nn.Flatten(), *blocks[images:]]
    match dropout_at:
        case "input":
            layers.insert(0, _noise(options))
        case "head":
            layers.append(_noise(options))
    return layers


def _with_ways_around(
    blocks: Sequence[nn.Module], shapes: Sequence[_Shape], drop_path: float
) -> list[nn.Module]:
    """Blocks that return what they take become residual, ever more of the later ones dropped."""
    fitting = [place for place, shape in enumerate(shapes) if shape.inputs == shape.outputs]
    if not fitting:
        got = ", ".join(f"{shape.inputs} to {shape.outputs}" for shape in shapes) or "no block"
        what = f"expected a block with as many outputs as inputs, got {got}"
        raise ValueError(f"residual: {what}; type for example hidden=[256, 256]")
    rates = {place: drop_path * nth / len(fitting) for nth, place in enumerate(fitting, 1)}
    return [Residual(b, rates[k]) if k in rates else b for k, b in enumerate(blocks)]


def _noise(options: BlockOptions) -> nn.Module:
    """The noise that blocks would have, as a layer of its own."""
    rate, activation = options.get("dropout", 0.0), options.get("activation", "relu")
    return noise_layer(options.get("noise", "dropout"), rate, activation)
