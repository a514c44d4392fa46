"""Linear layers of K lanes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropnorm.pack.layer import LaneLayer, Run

# Products with few outputs round differently (seen with MKL) when an operand or the result begins
# off a boundary that torch's own allocations keep. A lane of odd size begins anywhere.
_ALIGNMENT = 64


class LaneLinear(LaneLayer):
    """`nn.Linear` for each lane: weight [K, O, I], bias [K, O] or None. [K, B, I] -> [K, B, O]."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def lanes(self) -> Iterable[Run]:
        weight, bias = self._operands()
        biases = [None] * len(weight) if bias is None else bias.unbind()
        if not (torch.is_grad_enabled() and weight.requires_grad):
            pairs = zip(weight.unbind(), biases, strict=True)
            return [partial(_evaluate, weight=w, bias=b) for w, b in pairs]
        gradient = _Gradient(weight)
        operands = enumerate(zip(_split(weight, gradient), biases, strict=True))
        return [partial(_product, weight=w, bias=b, into=(gradient, k)) for k, (w, b) in operands]

    def together(self, x: Tensor) -> Tensor:
        weight, bias = self._operands()
        y: Tensor = _products(x.to(weight.dtype), weight)
        return y if bias is None else y + bias.unsqueeze(1)

    def _operands(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias as autocast wants them: it does not look into functions of our own."""
        device = self.weight.device.type
        if not torch.is_autocast_enabled(device):
            return self.weight, self.bias
        dtype = torch.get_autocast_dtype(device)
        return self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype)


class _Gradient:
    """Where the lanes of one backward pass put their gradients of a weight [K, O, I]."""

    def __init__(self, weight: Tensor) -> None:
        self._like = weight
        self._memory: Tensor | None = None

    def lane(self, lane: int) -> Tensor:
        if self._memory is None:
            self._memory = torch.empty_like(self._like)
        return self._memory[lane]

    def take(self) -> Tensor | None:
        """All of it; autograd makes it `weight.grad` without a copy if nobody else has it."""
        memory, self._memory = self._memory, None
        return memory


class _Split(torch.autograd.Function):
    """A packed weight as its K lanes, whose gradients come side by side in a `_Gradient`.

    With `Tensor.unbind` autograd would copy them there, which is a tenth of a step's time.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, gradient: _Gradient) -> tuple[Tensor, ...]:
        ctx.gradient = gradient
        return weight.unbind()

    @staticmethod
    def backward(ctx: Any, *lanes: Tensor) -> tuple[Tensor | None, None]:
        for k, lane in enumerate(lanes):
            mine = ctx.gradient.lane(k)
            if mine.data_ptr() != lane.data_ptr():  # zeros: nothing was computed with this lane
                mine.copy_(lane)
        return ctx.gradient.take(), None


class _Product(torch.autograd.Function):
    """F.linear of one lane, with the kernels that autograd uses; puts dW in its place."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, into: tuple[_Gradient, int]
    ) -> Tensor:
        x, weight = _aligned(x), _aligned(weight)
        ctx.save_for_backward(x, weight)
        ctx.into = into
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), dy = ctx.saved_tensors, _aligned(dy)
        dx = dy @ weight if ctx.needs_input_grad[0] else None
        db = dy.sum(0) if ctx.needs_input_grad[2] else None
        gradient, lane = ctx.into
        dw: Tensor = gradient.lane(lane)
        if _is_aligned(dw):
            torch.mm(dy.t(), x, out=dw)
        else:
            dw.copy_(dy.t() @ x)
        return dx, dw, db, None


def _is_aligned(t: Tensor) -> bool:
    return t.data_ptr() % _ALIGNMENT == 0


def _aligned(t: Tensor) -> Tensor:
    return t if _is_aligned(t) else t.clone()


def _evaluate(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(_aligned(x), _aligned(weight), bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, into: tuple[_Gradient, int]) -> Tensor:
    y: Tensor = _apply(x.to(weight.dtype), weight, bias, into)
    return y


class _Products(torch.autograd.Function):
    """x W^T for all lanes at once. Autograd's dW would come transposed, and be copied once more."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.bmm(x, weight.mT)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        return (torch.bmm(dy, weight) if ctx.needs_input_grad[0] else None), torch.bmm(dy.mT, x)


_split: Any = _Split.apply
_apply: Any = _Product.apply
_products: Any = _Products.apply
