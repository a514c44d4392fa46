"""Folding: a trained network as the plain layers that inference needs."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from dropnorm.blocks import BatchNorm, Block, Dropout, MaxNormConv2d, MaxNormLinear, Residual
from dropnorm.blocks.weights import unbounded

Weighted = nn.Linear | nn.Conv2d


@torch.no_grad()
def fold(network: nn.Module) -> nn.Sequential:
    """A copy of `network` in eval mode with batch norms folded into weights and dropout removed.

    A norm right after a linear or convolution layer goes into that layer; a norm between an
    activation and a linear layer goes into the next one. A norm that feeds a convolution stays: the
    zeros padded around an image would need its shift too, and so do norms that look at the input in
    eval as well: layer, group, RMS. Residual branches fold each by itself. The original is left as
    it was. Linear layers are taken to work on [B, C]: on [B, C, L] they and a norm mean other axes.

    Errors: TypeError unless the network is made of nested `nn.Sequential`s and `Residual`s.
    """
    layers = [_plain(m) for m in _flat(network) if not isinstance(m, Dropout | nn.Dropout)]
    kept: list[nn.Module] = []
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        if isinstance(layer, BatchNorm) and kept and isinstance(kept[-1], Weighted):
            _scale_outputs(kept[-1], *_affine(layer))
        elif isinstance(layer, BatchNorm) and isinstance(following, nn.Linear) and _is_flat(kept):
            _scale_inputs(following, *_affine(layer))
        else:
            kept.append(layer)
    return nn.Sequential(*kept).eval()


def _is_flat(before: Sequence[nn.Module]) -> bool:
    """Whether [B, C] comes out of these layers, as far as one can see."""
    return not before or any(isinstance(layer, nn.Linear | nn.Flatten) for layer in before)


def _flat(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of nested Sequentials in the order in which they run."""
    in_order = (nn.Sequential.forward, Block.forward)
    if isinstance(module, nn.Sequential) and type(module).forward in in_order:
        for child in module:
            yield from _flat(child)
        return
    inner = [] if isinstance(module, Residual) else list(module.modules())[1:]
    if any(isinstance(m, BatchNorm | Dropout) for m in inner):
        raise TypeError(
            f"fold: expected nested nn.Sequential, got {type(module).__name__} with norms or "
            "dropout inside; fold its Sequential parts instead"
        )
    yield module


def _plain(layer: nn.Module) -> nn.Module:
    """A copy that stands by itself: a branch without norms and drops, weights without bounds."""
    if isinstance(layer, Residual):
        folded = Residual(fold(layer.branch))
        folded.drop_path = nn.Identity()
        return folded
    twin = copy.deepcopy(layer)
    return unbounded(twin) if isinstance(twin, MaxNormLinear | MaxNormConv2d) else twin


def _affine(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """The (scale [C], shift [C]) that a norm applies in eval mode."""
    scale = torch.rsqrt(norm.running_var + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


def _scale_outputs(layer: Weighted, scale: Tensor, shift: Tensor) -> None:
    """layer(x) * scale + shift, inside the layer."""
    bias = layer.bias if layer.bias is not None else torch.zeros_like(shift)
    layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.dim() - 1)))
    layer.bias = nn.Parameter(bias * scale + shift)


def _scale_inputs(layer: nn.Linear, scale: Tensor, shift: Tensor) -> None:
    """layer(x * scale + shift), inside the layer."""
    bias = layer.bias if layer.bias is not None else 0.0
    layer.bias = nn.Parameter(bias + layer.weight @ shift)
    layer.weight.mul_(scale)
