"""Inverted dropout whose rate is a buffer and whose masks are keyed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dropnorm.random import keep_mask, keep_mask_on_device
from dropnorm.seeds import derive

_UNSEEDED = -1


class Dropout(nn.Module):
    """Zeroes units with probability `rate`, scales the others by 1 / (1 - rate); identity in eval.

    `rate` is the probability of *dropping*, as in `torch.nn.Dropout` and Keras (Srivastava et al.
    2014 write p for keeping). It is a buffer: change it in training with `dropout.rate.fill_(0.1)`.

    The mask of a training step is a pure function of (`seed`, `step`); `step` counts the training
    forwards. Left at None, the seed is drawn from torch's generator at the first training forward,
    so `torch.manual_seed` governs it as it does `torch.nn.Dropout`.

    Shapes: any -> the same. Errors: ValueError unless 0 <= rate < 1 and seed >= 0.
    """

    rate: Tensor
    seed: Tensor
    step: Tensor

    def __init__(self, rate: float = 0.5, *, seed: int | None = None) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"dropout: expected 0 <= rate < 1, got {rate!r}")
        if seed is not None and seed < 0:
            raise ValueError(f"seed: expected None or a number from 0, got {seed!r}")
        key = torch.tensor(_UNSEEDED if seed is None else seed)
        self.register_buffer("rate", torch.tensor(float(rate)), persistent=False)
        self.register_buffer("seed", key, persistent=False)
        self.register_buffer("step", torch.tensor(0), persistent=False)
        self._has_seed = False  # asking the buffer makes a GPU wait: once is enough

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if not self._has_seed:
            self._draw_missing_seed()
        self.step.add_(1)
        if x.device.type != "cpu":
            keep = keep_mask_on_device(x.shape, self.rate, self.seed, self.step)
            return x * (keep.to(x.dtype) / (1 - self.rate))
        rate = self.rate.item()
        if rate == 0:
            return x
        keep = keep_mask(x.shape, rate, int(self.seed), int(self.step))
        return x * keep.to(x.dtype).mul_(1 / (1 - rate))

    def _draw_missing_seed(self) -> None:
        if self.seed == _UNSEEDED:
            self.seed.random_()
        self._has_seed = True

    def extra_repr(self) -> str:
        return f"rate={self.rate.item():g}"


def seed_dropout(network: nn.Module, seed: int) -> None:
    """Key every Dropout of `network` by (seed, its place in the network) and start at step 0."""
    layers = [m for m in network.modules() if isinstance(m, Dropout)]
    for place, layer in enumerate(layers):
        layer.seed.fill_(derive(seed, "dropout", place))
        layer.step.zero_()
