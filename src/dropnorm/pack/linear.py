"""Linear layers of K lanes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dropnorm.pack.layer import LaneLayer
from dropnorm.pack.passes import Gradients, Memory, Pass, Saved

# Products with few outputs round differently (seen with MKL) when an operand or the result begins
# off a boundary that torch's own allocations keep. A lane of odd size begins anywhere.
_ALIGNMENT = 64


class LaneLinear(LaneLayer):
    """`nn.Linear` for each lane: weight [K, O, I], bias [K, O] or None. [K, B, I] -> [K, B, O]."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def passes(self, kept: bool) -> Iterable[Pass]:
        memory, lanes = Memory(kept), range(len(self.weight))
        return [Product(self.weight, self.bias, lane, memory) for lane in lanes]

    def together(self, x: Tensor) -> Tensor:
        dtype = _autocast_type(x) or self.weight.dtype
        y: Tensor = _products(x.to(dtype), self.weight.to(dtype))
        return y if self.bias is None else y + self.bias.to(dtype).unsqueeze(1)


class Product:
    """`nn.Linear` of one lane, with the kernels that autograd uses."""

    learns = True

    def __init__(self, weight: Tensor, bias: Tensor | None, lane: int, memory: Memory) -> None:
        self._parameters, self._lane, self._memory = (weight, bias), lane, memory
        self._weight = weight.detach()[lane]
        self._bias = None if bias is None else bias.detach()[lane]
        self._turned = self._weight.t()
        self._in_place = _is_aligned(self._weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        weight, turned, bias = self._weight, self._turned, self._bias
        dtype = _autocast_type(x) or weight.dtype
        if dtype != weight.dtype or not self._in_place:
            weight = _aligned(weight.to(dtype))
            turned, bias = weight.t(), None if bias is None else bias.to(dtype)
        x = _aligned(x if x.dtype == dtype else x.to(dtype))
        y = self._memory.matrix("y", x.shape[0], weight.shape[0], dtype)
        if bias is None:
            torch.mm(x, turned, out=y)
        else:
            torch.addmm(bias, x, turned, out=y)
        return y, (x, weight)

    def backward(self, dy: Tensor, saved: Saved, into: Gradients, wanted: bool) -> Tensor | None:
        dy, (x, weight) = _aligned(dy), saved
        dw = into.place(self._parameters[0], self._lane)
        if _is_aligned(dw) and dw.dtype == dy.dtype:
            torch.mm(dy.t(), x, out=dw)
        else:
            dw.copy_(dy.t() @ x)
        if self._parameters[1] is not None:
            db = into.place(self._parameters[1], self._lane)
            db.copy_(dy.sum(0))  # in the type of dy, as autograd has it
        if not wanted:
            return None
        return torch.mm(dy, weight, out=self._memory.like("dx", x))


def _autocast_type(x: Tensor) -> torch.dtype | None:
    """What autocast wants products in, if it is on: it does not look into functions of our own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _is_aligned(t: Tensor) -> bool:
    return t.data_ptr() % _ALIGNMENT == 0


def _aligned(t: Tensor) -> Tensor:
    return t if _is_aligned(t) else t.clone()


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


_products: Any = _Products.apply
