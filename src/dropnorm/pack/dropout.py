"""Dropout of K lanes, each with its own rate and keys."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dropnorm.kernels.cpu import NO_DROP, mask_of
from dropnorm.kernels.loops import Drop
from dropnorm.pack.layer import LaneLayer
from dropnorm.pack.passes import Gradients, Pass, Recorded, Saved
from dropnorm.random import dropping, dropping_on_device


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

    def passes(self, kept: bool) -> Iterable[Pass]:
        if not self.training:
            return itertools.repeat(Recorded(_same))
        return [Dropped(self, lane) for lane in range(len(self.rate))]

    def together(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        self.step.add_(1)
        return x * dropping_on_device(x.shape, self.rate, self.seed, self.step, x.dtype)


class Dropped:
    """`Dropout` of one lane in training: each forward pass is a step."""

    learns = False

    def __init__(self, layer: LaneDropout, lane: int) -> None:
        tensors = layer.rate, layer.seed, layer.step
        self._rate, self._seed, self._step = (t.numpy()[lane : lane + 1] for t in tensors)
        self._known = 0.0, NO_DROP  # a rate, and what drops at it

    def next(self) -> Drop:
        """What the step that begins drops."""
        self._step[0] += 1
        rate, seed, step = self._rate.item(), self._seed.item(), self._step.item()
        if rate != self._known[0]:
            self._known = rate, dropping(rate, seed, step)
        return (*self._known[1][:2], seed, step)

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        drop = self.next()
        if drop[1] == 1:
            return x, None
        mask = mask_of(x.shape, drop, double=x.dtype == torch.float64).to(x.dtype)
        return x * mask, mask

    def backward(self, dy: Tensor, saved: Saved, into: Gradients, wanted: bool) -> Tensor | None:
        return dy if saved is None else dy * saved


def _same(x: Tensor) -> Tensor:
    return x
