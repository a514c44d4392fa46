"""Which layers of a module `retrofit` can replace, and why not the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import torch
from torch import nn
from torch.nn.utils import parametrize

from dropnorm.blocks import BatchNorm, Dropout
from dropnorm.blocks.fusing import is_heard
from dropnorm.pack.layer import LaneLayer
from dropnorm.pack.vmap_layers import LaneNoise, VmapBatchNorm
from dropnorm.patterns import Layers, kind, listed
from dropnorm.standins import TorchDropout, TorchNorm

_OF_PACKS = LaneLayer | LaneNoise | VmapBatchNorm
_COMPILED = "_orig_mod"  # the name that torch.compile gives to what it wraps
_RELATED = nn.modules.dropout._DropoutNd | nn.modules.batchnorm._BatchNorm


def check_changeable(module: nn.Module, layers: Layers) -> None:
    if isinstance(module, _RELATED):
        raise ValueError(
            f"retrofit: expected a module with layers inside, got {type(module).__name__} by "
            "itself, which cannot be replaced in place; put it into nn.Sequential"
        )
    if packed := next((name for name, layer in layers if isinstance(layer, _OF_PACKS)), None):
        raise ValueError(
            f"retrofit: expected a plain module, got a pack's, whose {packed} has several lanes; "
            "retrofit each trial's module before it is packed"
        )


def check_something_to_do(found: Layers, chosen: Layers, left: Mapping[str, str]) -> None:
    if not found:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left.items())
        raise ValueError(
            "retrofit: expected nn.Dropout or nn.BatchNorm layers, or an insert pattern; found "
            + (reasons or listed(chosen))
        )


def reason_to_leave(name: str, layer: nn.Module) -> str | None:
    """Why a layer that has to do with dropout or batch norm stays as it is, if there is a reason.

    Dropout in functional calls has no layer, and no reason can be given.
    """
    if isinstance(layer, torch.jit.ScriptModule):
        return "TorchScript, which runs as it was written; retrofit before torch.jit.script"
    if isinstance(layer, nn.RNNBase | nn.MultiheadAttention) and layer.dropout:
        return f"{type(layer).__name__} has dropout={layer.dropout:g} inside, not as a layer"
    if isinstance(layer, Dropout | BatchNorm) or not isinstance(layer, _RELATED):
        return None
    if isinstance(layer, nn.AlphaDropout | nn.FeatureAlphaDropout):
        return f"{type(layer).__name__} keeps SELU's mean and variance, as dropout would not"
    if name.rpartition(".")[2] == _COMPILED:
        return f"{type(layer).__name__} is compiled by itself; retrofit before torch.compile"
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin):
        return f"{type(layer).__name__} has not seen a batch yet; run one through the module first"
    if parametrize.is_parametrized(layer):
        return f"{kind(layer).__name__} is parametrized, and ours would not be"
    if type(layer) not in get_args(TorchNorm | TorchDropout):
        return f"{type(layer).__name__} is a class of its own, not torch's"
    if is_heard(layer):
        return f"{type(layer).__name__} has hooks of its own"
    if isinstance(layer, TorchDropout):
        return "Dropout with p=1, which drops everything" if layer.p == 1 else None
    if layer.running_mean is None:
        return f"{type(layer).__name__} has no running statistics"
    momentum: Any = layer.momentum
    if momentum == 0:
        return f"{type(layer).__name__} has momentum 0: frozen"
    if momentum is not None and not 0 < momentum <= 1:
        return f"{type(layer).__name__} has momentum {momentum:g}, outside 0 to 1"
    return None
