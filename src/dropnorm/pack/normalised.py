"""Batch norm of one lane in training, with what follows it, in one loop on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dropnorm.kernels import loops
from dropnorm.kernels.averages import track
from dropnorm.kernels.cpu import (
    NO_DROP,
    NO_FLOOR,
    Rows,
    affine_of,
    batch_norm_by_torch,
    check_batch,
    fits,
    pixels_of,
)
from dropnorm.pack.dropout import Dropped
from dropnorm.pack.layer import Rectified
from dropnorm.pack.passes import Chain, Gradients, Memory, Pass, Recorded, Saved

Averages = tuple[np.ndarray, np.ndarray, np.ndarray]  # means and variances [M, C], momenta [M]


class Normalised:
    """`BatchNorm` of one lane, and the ReLU and the dropout that it has taken over.

    Each batch is counted in `batches` [1], and moves `averages`. What the loop does not take, as
    the bfloat16 of autocast, goes through one layer after the other, with torch's kernels.
    """

    def __init__(
        self,
        affine: Sequence[Tensor],
        lane: int,
        eps: float,
        batches: np.ndarray,
        averages: Sequence[Averages],
        memory: Memory,
    ) -> None:
        self._affine, self._lane, self._eps = affine, lane, eps
        self._batches, self._averages, self._memory = batches, averages, memory
        self._x, self._y, self._dy, self._dx = Rows(), Rows(), Rows(), Rows()
        self.learns = bool(affine)
        weight, bias = [p.detach()[lane] for p in affine] or (None, None)
        self._weight, self._bias = affine_of(weight, bias, averages[0][0].shape[1])
        self._floor = NO_FLOOR
        self._drop: Dropped | None = None
        self._stages: list[Pass] = [Recorded(self._by_torch, affine, lane)]
        self._apart = Chain(self._stages)

    def take(self, following: Pass) -> bool:
        """Takes over the pass that follows, if the loop can: whether it has.

        Only behind a ReLU does 0 tell that a unit was dropped, or that no gradient passes anyway.
        """
        if isinstance(following, Rectified) and self._floor == NO_FLOOR:
            self._floor = 0.0
        elif isinstance(following, Dropped) and self._floor == 0 and self._drop is None:
            self._drop = following
        else:
            return False
        self._stages.append(following)
        self._apart = Chain(self._stages)
        return True

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        check_batch(x)
        if not fits(x):
            y, apart = self._apart.forward(x)
            return y, (None, apart)
        y = self._memory.like("y", x)
        drop = self._drop.next() if self._drop else NO_DROP
        arrays = self._x(x), self._y(y), self._weight, self._bias
        mean, var, inverse = loops.normalise(*arrays, self._eps, self._floor, drop, pixels_of(x))
        self._track(mean, var)
        return y, ((x, y, mean, inverse, drop[1]), None)

    def backward(self, dy: Tensor, saved: Saved, into: Gradients, wanted: bool) -> Tensor | None:
        mine, apart = saved
        if mine is None:
            return self._apart.backward(dy, apart, into, wanted)
        x, y, mean, inverse, kept = mine
        dx = self._memory.like("dx", x)
        if not fits(dy):
            dy = torch.empty_like(x).copy_(dy)
        gradients = [into.place(parameter, self._lane).numpy() for parameter in self._affine]
        d_weight, d_bias = gradients or (np.empty_like(mean), np.empty_like(mean))
        arrays = self._dy(dy), self._x(x), self._y(y), self._dx(dx), self._weight, mean, inverse
        loops.backward(*arrays, self._floor, kept, d_weight, d_bias)
        return dx if wanted else None

    def _by_torch(
        self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        kind = torch.float64 if self._averages[0][0].dtype == np.float64 else torch.float32
        y, mean, var = batch_norm_by_torch(x, weight, bias, self._eps, kind)
        self._track(mean.numpy(), var.numpy())
        return y

    def _track(self, mean: np.ndarray, var: np.ndarray) -> None:
        self._batches[0] += 1
        for moved in self._averages:
            track(*moved, mean, var, self._batches[0])


def merged(passes: Sequence[Pass]) -> list[Pass]:
    """The same passes, those that batch norms can take over in them."""
    found: list[Pass] = []
    for one in passes:
        last = found[-1] if found else None
        if not (isinstance(last, Normalised) and last.take(one)):
            found.append(one)
    return found
