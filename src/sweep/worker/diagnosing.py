"""Diagnostics of a module that keeps to the protocol of packs, with no Trainer of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dropnorm.callbacks.diagnostics import (
    dead_units,
    differences,
    largest_outputs,
    variance_shifts,
)
from dropnorm.evaluation import evaluating, norms_of
from dropnorm.pack.protocol import has_method
from dropnorm.precise import recalibrate

BATCHES = 20  # of training, as many as `dropnorm.callbacks.Diagnostics` takes


class _Measured(nn.Module):
    """A module whose forward is what it measures on a batch."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Any) -> dict[str, Tensor]:
        if has_method(self.module, "metrics"):
            found: dict[str, Tensor] = self.module.metrics(batch)
            return found
        return {"loss": self.module.loss(batch)}


@torch.no_grad()
def diagnose_module(
    module: nn.Module, validation: Callable[[], Iterable[Any]], training: Sequence[Any]
) -> dict[str, float]:
    """What `dropnorm.callbacks.Diagnostics` finds of a trial by itself, by the same names.

    `validation` is asked up to three times; `training` are some batches of training. Both are on
    the module's device and in its precision. `module` is used up: its averages are others.
    """
    measured = _Measured(module)
    with largest_outputs(module) as largest:
        running = _means(measured, validation())
    found = dead_units(largest) | differences("gap", _means(measured, training), running)
    if not norms_of(module):
        return found
    on, off = (recalibrate(measured, [(b,) for b in training], dropout=d) for d in (True, False))
    found |= variance_shifts(module, {k.removeprefix("module."): v for k, v in off.items()})
    precise_on, precise_off = (_means(measured, validation(), some) for some in (on, off))
    lag = differences("lag_cost", precise_on, running)
    return found | lag | differences("shift_cost", precise_off, precise_on)


def _means(
    measured: _Measured, batches: Iterable[Any], averages: Mapping[str, Tensor] | None = None
) -> dict[str, float]:
    """The module's metrics over all rows, by the names of validation; with other averages."""
    sums: dict[str, float] = {}
    rows = 0
    if averages is not None:
        measured.load_state_dict(averages, strict=False)
    with evaluating(measured):
        for batch in batches:
            size = len(tree_leaves(batch)[0])
            rows += size
            for name, value in measured(batch).items():
                sums[name] = sums.get(name, 0.0) + size * float(value)
    return {f"val_{name}": total / rows for name, total in sums.items()}
