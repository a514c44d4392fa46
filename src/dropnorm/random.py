"""Keyed random numbers: every draw is a pure function of (seed, purpose, step).

There is no stream to fast-forward: a trial trained alone, beside others, or after a crash asks for
the same keys and sees the same draws. Seeds for one-off purposes (initial weights, data order) come
from `seeds.derive`; dropout drops afresh at every step what `dropping` says.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from dropnorm.kernels import loops
from dropnorm.kernels.cpu import mask_of
from dropnorm.seeds import derive

LEVELS = 1 << 16  # a unit is kept or dropped by one 16-bit number, so rates have steps of 1.5e-5
COARSE = 1 - 1 / 128  # a rate above which such a step is more than a thousandth of what is kept
_HASHES = 1 << 32


@contextlib.contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """Torch's CPU generator seeded for one purpose inside the block, as it was before after it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, *purpose))
        yield


def keep_mask(
    shape: Sequence[int], rate: float, seed: int, step: int, kept: float = 1, double: bool = False
) -> Tensor:
    """A mask on the CPU, 0 where a unit is dropped and `kept` elsewhere, keyed by (seed, step).

    SFC64 starts from the key itself, and each 64-bit word decides four units: 15 times cheaper than
    Bernoulli draws. Every bit of a word is random, the sign bits of all four numbers included.
    """
    return mask_of(shape, (threshold(rate) - LEVELS // 2, float(kept), seed, step), double)


def dropping(rate: float, seed: int, step: int) -> loops.Drop:
    """What a loop has to know to drop units as `keep_mask` does, and to scale the others."""
    dropped = threshold(rate)
    if rate == 1:
        scale = 0.0
    else:
        scale = 1 / (1 - rate) if rate <= COARSE else LEVELS / (LEVELS - dropped)
    return dropped - LEVELS // 2, scale, seed, step


def threshold(rate: float) -> int:
    """How many of the 65,536 levels drop a unit, so that P(drop) is `rate` to within 8e-6.

    One of them always keeps: at a rate of 1 it is the scale that is 0. Errors: ValueError for a
    rate that is no probability, as one can be that was written into a layer.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"dropout: expected 0 <= rate < 1, got {rate!r}")
    return min(round(rate * LEVELS), LEVELS - 1)


def words(seed: int, step: int, count: int) -> np.ndarray:
    """`count` uint64 words of SFC64 started at the state (seed, step, 0)."""
    drawn: np.ndarray = loops.draw(4 * count, seed, step).view(np.uint64)
    return drawn


def keep_mask_on_device(shape: Sequence[int], rate: Tensor, seed: Tensor, step: Tensor) -> Tensor:
    """A float32 mask made on the device of `rate`, keyed by (seed, step), without host work.

    `rate`, `seed` and `step` are 0-d, or [K] for K lanes with `shape` [K, ...]: each lane draws
    from its own key. A unit's 32 bits are a hash of its index and the key: no stream to wait for.
    They all count, so P(drop) is `rate` to within 3e-10.
    """
    dropped = (rate.reshape(-1, 1).double() * _HASHES).long()
    lanes = rate.numel()
    numbers = hashes(math.prod(shape) // max(lanes, 1), seed, step)
    return (numbers >= dropped).to(torch.float32).view(tuple(shape))


def dropping_on_device(
    shape: Sequence[int], rate: Tensor, seed: Tensor, step: Tensor, dtype: torch.dtype
) -> Tensor:
    """`keep_mask_on_device` scaled, to 1 / (1 - rate) rounded once to `dtype`; 0 at a rate of 1."""
    scale = torch.where(rate < 1, 1 / (1 - rate), 0.0).to(dtype)
    by_lane = scale.view(-1, *[1] * (len(shape) - 1)) if rate.dim() else scale
    return keep_mask_on_device(shape, rate, seed, step).to(dtype) * by_lane


def hashes(units: int, seed: Tensor, step: Tensor) -> Tensor:
    """`units` numbers of 32 bits a lane, [K, units] in int64, made on the device of the key.

    `seed` and `step` are 0-d (K = 1) or [K]. A number is a hash of its index and its lane's key.
    """
    index = torch.arange(units, device=seed.device, dtype=torch.int64)
    seed, step = seed.reshape(-1, 1), step.reshape(-1, 1)
    key = _mix(_mix(seed) ^ (seed >> 32) ^ step)
    return _mix(_mix(index ^ key) + (key >> 7))


def _mix(x: Tensor) -> Tensor:
    """Wellons' `lowbias32` on the low 32 bits of int64: (github.com/skeeto/hash-prospector)."""
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)
