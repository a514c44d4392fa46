"""Dropout of K lanes, each with its own rate and keys."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from dropnorm.pack.layer import LaneLayer, Run
from dropnorm.random import keep_mask, keep_mask_on_device


class LaneDropout(LaneLayer):
    """`Dropout` for each lane: rate, seed and step [K]. Its masks are those of the plain layers.

    Shapes: [K, B, ...] -> the same. Errors: ValueError for a layer that has no seed.
    """

    rate: Tensor
    seed: Tensor
    step: Tensor

    def settings(self, layer: nn.Module) -> dict[str, Tensor]:
        if layer.seed is None:
            raise ValueError("pack: expected seeded dropout, got seed None; call seed_dropout")
        rate = torch.as_tensor(layer.rate)
        return {"rate": rate, "seed": torch.tensor(layer.seed), "step": torch.tensor(layer.step)}

    def lanes(self) -> Iterable[Run]:
        if not self.training:
            return itertools.repeat(_same)
        self.step.add_(1)
        keys = zip(self.rate.tolist(), self.seed.tolist(), self.step.tolist(), strict=True)
        return [partial(_drop, rate=rate, seed=seed, step=step) for rate, seed, step in keys]

    def together(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        self.step.add_(1)
        keep = keep_mask_on_device(x.shape, self.rate, self.seed, self.step).to(x.dtype)
        return x * (keep / (1 - self.rate.to(x.dtype)).view(-1, *[1] * (x.dim() - 1)))


def _drop(x: Tensor, rate: float, seed: int, step: int) -> Tensor:
    if rate == 0:
        return x
    double = x.dtype == torch.float64
    return x * keep_mask(x.shape, rate, seed, step, 1 / (1 - rate), double).to(x.dtype)


def _same(x: Tensor) -> Tensor:
    return x
