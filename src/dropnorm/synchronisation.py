"""Synchronised batch norm: statistics over the batches of all processes that train a module."""

from __future__ import annotations

from typing import get_args

from torch import nn

from dropnorm.blocks import BatchNorm
from dropnorm.blocks.norms import GhostBatchNorm
from dropnorm.standins import StandInNorm, TorchNorm


def synchronise(module: nn.Module, on_gpu: bool) -> int:
    """Makes every batch norm inside `module` average over its processes; returns how many.

    Ours do it themselves and keep momentum, bank and state. Torch's become `SyncBatchNorm` for a
    GPU; for the CPU, where that refuses to train, layers of ours on the same tensors. Ghost batches
    stay each process's own, since small batches are what they are for. Names and values of the
    `state_dict` stay. To be called before the module is wrapped or an optimizer made.
    """
    found: dict[int, nn.Module] = {}
    for name, layer in list(module.named_modules(remove_duplicate=False)):
        if isinstance(layer, BatchNorm) and not isinstance(layer, GhostBatchNorm):
            layer.synchronised = True
            found[id(layer)] = layer
        elif type(layer) in get_args(TorchNorm) and layer.running_mean is not None:
            if id(layer) not in found:
                new = layer
                if not isinstance(layer, nn.SyncBatchNorm):
                    new = nn.SyncBatchNorm.convert_sync_batchnorm(layer)  # type: ignore[no-untyped-call]
                found[id(layer)] = new if on_gpu else StandInNorm(new)
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, found[id(layer)])
    return len(found)
