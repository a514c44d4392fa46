"""`compiled`: loops over numpy arrays, by Numba.

They do what happens between matrix products on the CPU, where a call of torch's costs as much as
its work. Each is compiled once a machine and type of its arguments, at its first call, and kept on
disk. Products and sums are never contracted, and sums have a fixed order: bits do not depend on
where arrays lie, on threads, or on what else is computed in the same loop. (`contracted` is for the
bits of a kernel of torch's that is.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """The function, compiled. Others run meanwhile: it gives up Python's lock.

    Where neither this folder nor the user's cache can be written, every process compiles anew.
    """
    return _compiled(function, fastmath=False)


def contracted(function: F) -> F:
    """`compiled`, but a product and the sum it goes into are rounded once, where the CPU can."""
    return _compiled(function, fastmath={"contract"})


def _compiled(function: F, **how: Any) -> F:
    how |= {"error_model": "numpy", "nogil": True}
    try:
        fast: Any = njit(cache=True, **how)(function)
    except RuntimeError as error:
        if "cannot cache function" not in str(error):
            raise
        fast = njit(**how)(function)
    # Numba compiles in Python, at a first call, and `torch.compile` must not look into that.
    disable: Any = torch.compiler.disable
    fast._compile_for_args = disable(fast._compile_for_args)
    return cast(F, fast)
