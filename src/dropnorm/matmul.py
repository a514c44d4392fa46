"""The fastest backend for float32 matrix products that stays at float32 accuracy.

With another backend, or another number of threads, products round differently. Whoever wants the
same bits again takes note of `arithmetic`, and gives it to `use_arithmetic`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch

# On CPUs without AMX, "bf16" routes products to oneDNN, which still computes in true float32 and on
# some machines runs at twice MKL's speed. With AMX it would really use bf16: hence the probe.
SETTINGS = ("none", "bf16")
FP32_ERROR = 2e-6  # relative; float32 products of this size have 3e-7, bf16 ones 3e-3
WORTH_IT = 1.25  # times as fast as the default, in each of so many rounds: what is nearly as fast
ROUNDS = 3  # would be chosen by chance, and processes of one machine would round differently

_matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Backend:
    """One setting of `torch.backends.mkldnn.matmul.fp32_precision`, as measured here."""

    setting: str
    gflops: float
    error: float

    def __str__(self) -> str:
        library = "default library" if self.setting == "none" else "oneDNN"
        return f"{library}, {self.gflops:.0f} GFLOP/s, relative error {self.error:.1e}"


def choose_matmul_backend(size: int = 512, repeats: int = 7) -> Backend:
    """Measures each setting on one product and leaves the fastest accurate one switched on.

    Another than the default has to be `WORTH_IT` again and again, so that processes of one machine
    agree, however busy it is. Affects float32 products on the CPU, in the whole process. Takes
    about 0.1 s, or 0.3 where another may be worth it.
    """
    for _ in range(ROUNDS):
        default, *others = _measure(size, repeats)
        worth = [m for m in others if m.error < FP32_ERROR and m.gflops > WORTH_IT * default.gflops]
        best = max(worth, key=lambda m: m.gflops, default=default)
        if best is default:
            break
    _matmul.fp32_precision = best.setting
    return best


def arithmetic() -> dict[str, int | str]:
    """How products are computed on the CPU in this process: threads, and the setting in use."""
    return {"threads": torch.get_num_threads(), "matmul": _matmul.fp32_precision}


def use_arithmetic(threads: int, matmul: str) -> None:
    """Computes as a process did whose `arithmetic` this was: on its kind of machine, to the bit."""
    torch.set_num_threads(threads)
    _matmul.fp32_precision = matmul


def _measure(size: int, repeats: int) -> list[Backend]:
    """Each setting on the same product, by turns, so that what else runs slows all of them."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, size, size, generator=generator).unbind()
    exact = a.double() @ b.double()
    seconds = dict.fromkeys(SETTINGS, math.inf)
    errors = {}
    for _ in range(repeats):
        for setting in SETTINGS:
            _matmul.fp32_precision = setting
            start = time.perf_counter()
            product = a @ b
            seconds[setting] = min(seconds[setting], time.perf_counter() - start)
            errors[setting] = float((product.double() - exact).norm() / exact.norm())
    return [Backend(s, 2 * size**3 / seconds[s] / 1e9, errors[s]) for s in SETTINGS]
