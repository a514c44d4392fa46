"""Keyed uniform and normal numbers, for noise that does more than drop or keep.

As masks are, every draw is a pure function of (seed, step), from the same words and hashes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dropnorm.random import LEVELS, hashes, words


def uniform(
    shape: Sequence[int], seed: int, step: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Numbers in (-1, 1) on the CPU, keyed by (seed, step): 65,536 levels, symmetric around 0."""
    units = math.prod(shape)
    levels = torch.from_numpy(words(seed, step, -(-units // 4)).view(np.int16)[:units])
    return _centred(levels, dtype).view(tuple(shape))


def uniform_on_device(
    shape: Sequence[int], seed: Tensor, step: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The same on the device of the key, without host work. For K lanes: key [K], shape [K, ...].

    The numbers are others than on the CPU, as those of masks are.
    """
    numbers = hashes(math.prod(shape) // seed.numel(), seed, step)
    return _centred((numbers >> 16) - LEVELS // 2, dtype).view(tuple(shape))


def normal(
    shape: Sequence[int], seed: int, step: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Standard normal numbers on the CPU, keyed by (seed, step); none is beyond 6.8 (Box & Muller).

    A 64-bit word makes two of them. Source: Box & Muller 1958.
    """
    units = math.prod(shape)
    pairs = words(seed, step, -(-units // 2)).view(np.uint32).reshape(-1, 2)
    exact = torch.from_numpy(pairs.astype(np.float64 if dtype == torch.float64 else np.float32))
    return _box_muller(*exact.unbind(1))[:units].view(tuple(shape))


def normal_on_device(
    shape: Sequence[int], seed: Tensor, step: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The same on the device of the key, without host work. For K lanes: key [K], shape [K, ...].

    The numbers are others than on the CPU, as those of masks are.
    """
    units = math.prod(shape) // seed.numel()
    pairs = hashes(2 * -(-units // 2), seed, step).to(dtype)
    return _box_muller(pairs[:, ::2], pairs[:, 1::2])[:, :units].reshape(tuple(shape))


def _centred(levels: Tensor, dtype: torch.dtype) -> Tensor:
    """16-bit levels from -32,768 up as numbers in (-1, 1): exact, and 0 on average."""
    return (levels.to(dtype) + 0.5) / (LEVELS // 2)


def _box_muller(first: Tensor, second: Tensor) -> Tensor:
    """32-bit numbers [..., n] and [..., n] as normal ones [..., 2n]: the cosines, then the sines.

    Half a level above 0 keeps the logarithm finite.
    """
    radius = ((first + 0.5) * 2**-32).log_().mul_(-2).sqrt_()
    angle = second * (2 * math.pi * 2**-32)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=-1)
