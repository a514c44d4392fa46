"""Dropout's relatives: other noise, in the same places, under the same rate and keys.

All are the identity in eval. See `Dropout` for rate, seed and step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dropnorm.blocks.choice import one_of
from dropnorm.blocks.dropout import Dropout
from dropnorm.noise import normal, normal_on_device, uniform, uniform_on_device
from dropnorm.random import keep_mask, keep_mask_on_device

_SELU_FLOOR = -1.0507009873554805 * 1.6732632423543772  # SELU of minus infinity: -lambda * alpha


class ChannelDropout(Dropout):
    """Drops whole channels, for neighbouring pixels carry much the same (Tompson et al. 2015).

    The mask is [B, C, 1, ...]; on [B, C] this is `Dropout`. `torch.nn.Dropout2d` for any image.
    Shapes: [B, C, ...] -> the same.
    """

    def _units(self, x: Tensor) -> Sequence[int]:
        return (*x.shape[:2], *[1] * (x.dim() - 2))


class DropPath(Dropout):
    """Drops all of an example, and with it a residual branch: stochastic depth (Huang et al. 2016).

    They drop the branch of a whole batch and scale it in eval; here each example draws for itself
    and the kept are scaled in training, as in most libraries since. The mask is [B, 1, ...].
    Shapes: [B, ...] -> the same.
    """

    def _units(self, x: Tensor) -> Sequence[int]:
        return (len(x), *[1] * (x.dim() - 1))


class GaussianDropout(Dropout):
    """Multiplies by N(1, rate / (1 - rate)), the variance of dropout (Srivastava et al. 2014, 10).

    Nothing becomes zero. As in Keras. Shapes: any -> the same.
    """

    def _noisy(self, x: Tensor, rate: float, seed: int) -> Tensor:
        noise = normal(x.shape, seed, self.step, _precision(x))
        return x * noise.mul_(math.sqrt(rate / (1 - rate))).add_(1).to(x.dtype)

    def _noisy_on_device(self, x: Tensor, seed: Tensor, step: Tensor) -> Tensor:
        noise = normal_on_device(x.shape, seed, step, _precision(x))
        return x * (1 + noise * (self.rate / (1 - self.rate)).sqrt()).to(x.dtype)


class UniformDropout(Dropout):
    """Multiplies by 1 + r, r ~ U(-rate, rate): Uout, whose beta is `rate` (Li et al. 2019).

    Made to go before batch norm, where it shifts the variance by 3 / (3 + rate^2) only. Its own
    variance is rate^2 / 3: at the same rate it is far weaker than dropout.
    Shapes: any -> the same.
    """

    def _noisy(self, x: Tensor, rate: float, seed: int) -> Tensor:
        noise = uniform(x.shape, seed, self.step, _precision(x))
        return x * noise.mul_(rate).add_(1).to(x.dtype)

    def _noisy_on_device(self, x: Tensor, seed: Tensor, step: Tensor) -> Tensor:
        noise = uniform_on_device(x.shape, seed, step, _precision(x))
        return x * (1 + noise * self.rate).to(x.dtype)


class AlphaDropout(Dropout):
    """Sets units to SELU's lowest value and restores mean 0, variance 1 (Klambauer et al. 2017).

    With q = 1 - rate and s = -lambda * alpha: y = a (x d + s (1 - d)) + b for d ~ Bernoulli(q),
    a = (q + s^2 q (1 - q))^(-1/2) and b = -a (1 - q) s. It means something only after SELU, on
    units that have this mean and variance. `torch.nn.AlphaDropout`. Shapes: any -> the same.
    """

    def _noisy(self, x: Tensor, rate: float, seed: int) -> Tensor:
        keep = keep_mask(x.shape, rate, seed, self.step, double=x.dtype == torch.float64)
        q = 1 - rate
        a = (q + _SELU_FLOOR**2 * q * rate) ** -0.5 if q else 0.0
        return _restored(x, keep.to(x.dtype), a, rate)

    def _noisy_on_device(self, x: Tensor, seed: Tensor, step: Tensor) -> Tensor:
        keep = keep_mask_on_device(x.shape, self.rate, seed, step).to(x.dtype)
        q = 1 - self.rate
        a = torch.where(q > 0, (q + _SELU_FLOOR**2 * q * self.rate).rsqrt(), 0.0)
        return _restored(x, keep, a, self.rate)


def _restored(x: Tensor, keep: Tensor, a: float | Tensor, rate: float | Tensor) -> Tensor:
    """a (x d + s (1 - d)) + b, sorted by what depends on x."""
    return x * (keep * a) + (1 - rate - keep) * (a * _SELU_FLOOR)


def _precision(x: Tensor) -> torch.dtype:
    """The dtype to draw in: narrower inputs get noise rounded once."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


NOISES: dict[str, type[Dropout]] = {
    "dropout": Dropout, "channel": ChannelDropout, "gaussian": GaussianDropout,
    "alpha": AlphaDropout, "uniform": UniformDropout,
}  # fmt: skip


def noise_layer(noise: str, rate: float, activation: str) -> Dropout:
    """The layer of a noise's name. Errors: ValueError for another name, or alpha without SELU."""
    layer = NOISES[one_of("noise", noise, NOISES)](rate)
    if noise == "alpha" and activation != "selu":
        raise ValueError(
            f"noise: expected activation selu with alpha, which keeps its mean and variance, "
            f"got {activation!r}; set activation='selu' or another noise"
        )
    return layer
