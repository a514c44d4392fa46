"""What follows a weight layer in a block, in one loop on the CPU while it trains."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from dropnorm.blocks.batchnorm import BatchNorm
from dropnorm.blocks.dropout import Dropout
from dropnorm.blocks.together import are_several
from dropnorm.kernels.cpu import NO_DROP, batch_norm, can_rectify, fits, rectify


def in_one_loop(stages: Sequence[nn.Module], x: Tensor) -> tuple[Tensor, int]:
    """What the first of `stages` make of x together, and how many they are.

    Those are batch norm and ReLU, and dropout behind a ReLU, when they train and nobody listens to
    them. Else x and 0. The bits are those of one stage after the other.
    """
    norm = stages[0] if _is(stages[0], BatchNorm) else None
    rest = stages if norm is None else stages[1:]
    if not rest or not _is(rest[0], nn.ReLU) or torch.compiler.is_compiling():
        return x, 0
    drop = rest[1] if len(rest) > 1 and _is(rest[1], Dropout) else None
    taken = sum(stage is not None for stage in (norm, rest[0], drop))
    if isinstance(norm, BatchNorm):
        if not fits(x) or (norm.synchronised and are_several(norm.process_group)):
            return x, 0
        norm._check_input_dim(x)
        draws = drop.draws() if isinstance(drop, Dropout) else NO_DROP
        y, mean, var = batch_norm(x, norm.weight, norm.bias, norm.eps, 0.0, draws)
        norm._track(mean, var)
        return y, taken
    if isinstance(drop, Dropout) and can_rectify(x):
        draws = drop.draws()
        return (F.relu(x) if draws is NO_DROP else rectify(x, draws)), taken
    return x, 0


def _is(stage: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether it is just this layer, in training, and no hook would miss that it runs."""
    return type(stage) is kind and stage.training and not is_heard(stage)


def is_heard(stage: nn.Module) -> bool:
    """Whether somebody wants to know when it runs, by a hook or a `forward` in place of its own."""
    return bool(
        stage._forward_hooks
        or stage._forward_pre_hooks
        or stage._backward_hooks
        or stage._backward_pre_hooks
        or torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
        or "forward" in vars(stage)
    )
