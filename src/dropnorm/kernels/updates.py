"""One step of Adam, AdamW or SGD in all lanes as one kernel for each parameter.

As a dozen kernels it would read and write every weight a dozen times, and with many lanes that
takes longer than the training pass itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import triton
import triton.language as tl
from torch import Tensor
from triton.language import constexpr, tensor

from dropnorm.kernels.code import jit

_BLOCK = 1024


def update_fused(
    p: Tensor, gradient: Tensor, state: Mapping[str, Tensor], n: Mapping[str, Tensor]
) -> None:
    """`dropnorm.pack.updates.update_together` in one kernel, equal to rounding.

    Every number of `n` is float32 with K elements. Shapes: p, gradient and states [K, ...], each
    contiguous but for the gradient.
    """
    per_lane = p[0].numel()
    grid = (triton.cdiv(per_lane, _BLOCK), len(p))
    # Said out loud, for Triton is about to change its default.
    options = {"BLOCK": _BLOCK, "enable_fp_fusion": True}
    gradient = gradient.contiguous()
    if "momentum" in n:
        buffer, numbers = state["momentum_buffer"], (n["lr"], n["decay"])
        sgd[grid](p, gradient, buffer, *numbers, n["momentum"], n["nesterov"], per_lane, **options)
        return
    adam[grid](
        p, gradient, state["exp_avg"], state["exp_avg_sq"],
        n["decay"], n["shrink"], n["first"], n["second"], n["size"], n["correction"],
        per_lane, **options,
    )  # fmt: skip


@jit
def _weights(per_lane: tensor, BLOCK: constexpr) -> tensor:
    """This program's lane (grid axis 1), where its block of weights lies, and which there are."""
    lane = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    return lane, lane * per_lane + i, i < per_lane


@jit
def _decayed(
    p: tensor, gradient: tensor, decay: tensor, lane: tensor, place: tensor, inside: tensor
) -> tensor:
    """Weights, and their gradients with the decay that belongs to them."""
    w = tl.load(p + place, inside, 0.0)
    return w, tl.load(gradient + place, inside, 0.0) + w * tl.load(decay + lane)


@jit
def adam(
    p: tensor, gradient: tensor, exp_avg: tensor, exp_avg_sq: tensor,
    decay: tensor, shrink: tensor, first: tensor, second: tensor,
    size: tensor, correction: tensor, per_lane: tensor, BLOCK: constexpr,
) -> None:  # fmt: skip
    """A step of Adam or AdamW; what has an element for each lane is one of `Numbers`."""
    lane, place, inside = _weights(per_lane, BLOCK)
    w, g = _decayed(p, gradient, decay, lane, place, inside)
    m = tl.load(exp_avg + place, inside, 0.0)
    v = tl.load(exp_avg_sq + place, inside, 0.0)
    m += (g - m) * tl.load(first + lane)
    v += (g * g - v) * tl.load(second + lane)
    deviation = tl.sqrt_rn(v) / tl.load(correction + lane) + 1e-8
    w = w * tl.load(shrink + lane) - m / deviation * tl.load(size + lane)
    tl.store(exp_avg + place, m, inside)
    tl.store(exp_avg_sq + place, v, inside)
    tl.store(p + place, w, inside)


@jit
def sgd(
    p: tensor, gradient: tensor, momenta: tensor,
    lr: tensor, decay: tensor, momentum: tensor, nesterov: tensor,
    per_lane: tensor, BLOCK: constexpr,
) -> None:  # fmt: skip
    """A step of SGD; what has an element for each lane is one of `Numbers`."""
    lane, place, inside = _weights(per_lane, BLOCK)
    w, g = _decayed(p, gradient, decay, lane, place, inside)
    share = tl.load(momentum + lane)
    m = tl.load(momenta + place, inside, 0.0) * share + g
    step = tl.where(tl.load(nesterov + lane) > 0.0, g + m * share, m)
    tl.store(momenta + place, m, inside)
    tl.store(p + place, w - step * tl.load(lr + lane), inside)
