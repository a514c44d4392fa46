"""Inverted dropout whose rate is a buffer and whose masks are keyed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dropnorm.random import keep_mask, keep_mask_on_device
from dropnorm.seeds import derive


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

    def __init__(self, rate: float = 0.5, *, seed: int | None = None) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"dropout: expected 0 <= rate < 1, got {rate!r}")
        if seed is not None and seed < 0:
            raise ValueError(f"seed: expected None or a number from 0, got {seed!r}")
        self.register_buffer("rate", torch.tensor(float(rate)), persistent=False)
        self.seed = seed
        self.step = 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        self.step += 1
        if self.seed is None:
            self.seed = int(torch.randint(2**63 - 1, ()))
        if x.device.type != "cpu":
            return x * self._mask_on_device(x, self.seed)
        rate = self.rate.item()
        if rate == 0:
            return x
        double = x.dtype == torch.float64
        mask = keep_mask(x.shape, rate, self.seed, self.step, 1 / (1 - rate), double)
        return x * mask.to(x.dtype)

    def _mask_on_device(self, x: Tensor, seed: int) -> Tensor:
        """Nothing here makes the host wait: not even the rate is read back."""
        keys = [torch.full((), key, device=x.device) for key in (seed, self.step)]
        keep = keep_mask_on_device(x.shape, self.rate, *keys)
        return keep.to(x.dtype) / (1 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate.item():g}"


def seed_dropout(network: nn.Module, seed: int) -> None:
    """Key every Dropout of `network` by (seed, its place in the network) and start at step 0."""
    layers = [m for m in network.modules() if isinstance(m, Dropout)]
    for place, layer in enumerate(layers):
        layer.seed = derive(seed, "dropout", place)
        layer.step = 0
