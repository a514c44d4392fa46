"""Dropout of K lanes, each with its own rate and keys."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from dropnorm.pack.layer import LaneLayer, Run
from dropnorm.pack.passes import Gradients, Pass, Saved
from dropnorm.random import keep_mask, keep_mask_on_device

Key: TypeAlias = tuple[float, int, int]  # rate, seed and step


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
        return itertools.repeat(_same)

    def passes(self) -> Iterable[Pass]:
        return [Dropped(self.key, lane) for lane in range(len(self.rate))]

    def begin(self) -> None:
        """Draws come from the keys of this step; a layer in eval mode drops nothing."""
        if not self.training:
            self._keys = [(0.0, 0, 0)] * len(self.rate)
            return
        self.step.add_(1)
        rows = self.rate.tolist(), self.seed.tolist(), self.step.tolist()
        self._keys = list(zip(*rows, strict=True))

    def key(self, lane: int) -> Key:
        """That of a lane in the training step under way."""
        return self._keys[lane]

    def together(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        self.step.add_(1)
        keep = keep_mask_on_device(x.shape, self.rate, self.seed, self.step).to(x.dtype)
        return x * (keep / (1 - self.rate.to(x.dtype)).view(-1, *[1] * (x.dim() - 1)))


class Dropped:
    """`Dropout` of one lane, whose key in the training step under way `key` gives."""

    learns = False

    def __init__(self, key: Callable[[int], Key], lane: int) -> None:
        self._key, self._lane = key, lane

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        rate, seed, step = self._key(self._lane)
        if not rate:
            return x, None
        kept, double = 1 / (1 - rate), x.dtype == torch.float64
        mask = keep_mask(x.shape, rate, seed, step, kept, double).to(x.dtype)
        return x * mask, mask

    def backward(self, dy: Tensor, saved: Saved, into: Gradients, wanted: bool) -> Tensor | None:
        return dy if saved is None else dy * saved


def _same(x: Tensor) -> Tensor:
    return x
