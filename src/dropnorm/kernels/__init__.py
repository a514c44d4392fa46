"""Kernels of our own: loops compiled by Numba for the CPU, Triton's for packs on CUDA.

On the CPU `cpu` gives tensors to `loops` and `averages`, and says which ones. Whoever has tensors
on CUDA asks `usable` first, then imports `fused` (norm, activation and dropout) or `updates` (a
step of the optimizer): importing this package loads no Triton.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor


def usable(x: Tensor) -> bool:
    """Whether the kernels can take this tensor: on CUDA, and no float64, for they sum in float32.

    PyTorch's builds for CUDA bring Triton along on Linux; elsewhere packs go without.
    """
    return x.is_cuda and x.dtype != torch.float64 and _has_triton()


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
