"""The way of K lanes through a network on the CPU, lane by lane, with gradients written out.

Autograd would record and walk some twenty nodes a lane. Here a lane goes forward and back by its
`Pass`, and where a graph is wanted after all, autograd sees one node for the whole network
(`through_lanes`). What is computed is what autograd would compute, with the kernels of the plain
layers and in their order: a lane's bits are those of the plain network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Saved: TypeAlias = Any  # what a pass keeps of its way forward for its way back


class Pass(Protocol):
    """One lane's way through one layer, forward and back; `learns`: it has parameters.

    It keeps nothing between steps but views of its lane, so that it can serve all of them.
    """

    learns: bool

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        """[B, ...] -> [B, ...], and what `backward` needs. It leaves x as it is."""

    def backward(self, dy: Tensor, saved: Saved, into: Gradients, wanted: bool) -> Tensor | None:
        """Puts the parameters' gradients into their places; returns that of x if it is wanted."""


class Memory:
    """Where the passes of a layer put what they compute.

    `kept`, it is the same place at every step and for all lanes, which stays in the caches; that
    goes if a lane has been back before the next one sets out, and nobody else holds its results.
    """

    def __init__(self, kept: bool) -> None:
        self._kept: dict[str, Tensor] | None = {} if kept else None

    def like(self, name: str, x: Tensor) -> Tensor:
        """An uninitialised tensor of the shape, type and order in memory of x."""
        return self._place(name, x.shape, x.dtype, x.stride())

    def matrix(self, name: str, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor [rows, columns]."""
        return self._place(name, (rows, columns), dtype, (columns, 1))

    def _place(
        self, name: str, shape: Sequence[int], dtype: torch.dtype, stride: Sequence[int]
    ) -> Tensor:
        if self._kept is None:
            return torch.empty_strided(shape, stride, dtype=dtype)
        kept = self._kept.get(name)
        if kept is None or (kept.shape, kept.dtype, kept.stride()) != (shape, dtype, stride):
            kept = self._kept[name] = torch.empty_strided(shape, stride, dtype=dtype)
        return kept


class Chain:
    """Passes one after the other."""

    def __init__(self, passes: Sequence[Pass]) -> None:
        self._passes = passes
        learners = [place for place, one in enumerate(passes) if one.learns]
        self._first = learners[0] if learners else len(passes)
        self.learns = bool(learners)

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        saved = []
        for one in self._passes:
            x, mine = one.forward(x)
            saved.append(mine)
        return x, saved

    def backward(self, dy: Tensor, saved: Saved, into: Gradients, wanted: bool) -> Tensor | None:
        last = 0 if wanted else self._first
        for place in reversed(range(last, len(self._passes))):
            dx = self._passes[place].backward(dy, saved[place], into, wanted or place > last)
            if dx is None:
                return None
            dy = dx
        return dy if wanted else None


class Recorded:
    """Any function of x and of a lane's slices of parameters, by autograd after all."""

    def __init__(
        self, run: Callable[..., Tensor], parameters: Sequence[Tensor] = (), lane: int = 0
    ) -> None:
        self._run, self._parameters, self._lane = run, parameters, lane
        self.learns = bool(parameters)

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        inputs = [x, *(parameter[self._lane] for parameter in self._parameters)]
        with torch.enable_grad():
            inputs = [tensor.detach().requires_grad_() for tensor in inputs]
            y = self._run(*inputs)
        return y.detach(), (y, inputs)

    def backward(self, dy: Tensor, saved: Saved, into: Gradients, wanted: bool) -> Tensor | None:
        y, inputs = saved
        inputs = inputs if wanted else inputs[1:]
        found = list(torch.autograd.grad(y, inputs, dy, retain_graph=True))
        dx = found.pop(0) if wanted else None
        for parameter, gradient in zip(self._parameters, found, strict=True):
            into.place(parameter, self._lane).copy_(gradient)
        return dx


class Gradients(Protocol):
    """Where a pass puts the gradients of its lane's part of packed parameters [K, ...]."""

    def place(self, parameter: Tensor, lane: int) -> Tensor: ...


class OneLane:
    """A place for the gradients of one lane at a time, and the same for all of them."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.tensors = [torch.empty_like(p[0]) for p in parameters]
        self._places = {id(p): t for p, t in zip(parameters, self.tensors, strict=True)}

    def place(self, parameter: Tensor, lane: int) -> Tensor:
        return self._places[id(parameter)]


class AllLanes:
    """A place for the gradients of every lane."""

    def __init__(self) -> None:
        self._memory: dict[int, tuple[Tensor, tuple[Tensor, ...]]] = {}

    def place(self, parameter: Tensor, lane: int) -> Tensor:
        if id(parameter) not in self._memory:
            memory = torch.empty_like(parameter)
            self._memory[id(parameter)] = memory, memory.unbind()
        return self._memory[id(parameter)][1][lane]

    def take(self, parameter: Tensor) -> Tensor:
        """All lanes'; autograd makes it `parameter.grad` without a copy if nobody else has it."""
        return self._memory.pop(id(parameter))[0]


class Plan:
    """The passes of all lanes of a network, for as long as they are what they were made for."""

    def __init__(
        self,
        lanes: Sequence[Pass],
        parameters: Sequence[Tensor],
        buffers: Sequence[Tensor],
        flags: Sequence[bool],
    ) -> None:
        self.lanes, self.parameters = lanes, parameters
        self._flags, self._tensors = flags, [*parameters, *buffers]
        self._places = places(self._tensors)

    def holds(self, flags: Sequence[bool]) -> bool:
        """Whether the layers train or not as then, and no tensor has moved in memory."""
        return self._flags == flags and self._places == places(self._tensors)


def places(tensors: Iterable[Tensor]) -> list[int]:
    """Where in memory tensors are: views of them are good for as long as that is the same."""
    return [tensor.data_ptr() for tensor in tensors]


class _Lanes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: Plan, *parameters: Tensor) -> Tensor:
        ctx.plan = plan
        pairs = [lane.forward(one) for lane, one in zip(plan.lanes, x.unbind(), strict=True)]
        outputs, ctx.saved = zip(*pairs, strict=True)
        return torch.stack(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        wanted, into = ctx.needs_input_grad[0], AllLanes()
        steps = zip(ctx.plan.lanes, dy.unbind(), ctx.saved, strict=True)
        dx = [lane.backward(gradient, saved, into, wanted) for lane, gradient, saved in steps]
        taken = [into.take(parameter) for parameter in ctx.plan.parameters]
        return torch.stack(dx) if wanted else None, None, *taken


def through_lanes(x: Tensor, plan: Plan) -> Tensor:
    """The pass [K, B, ...] -> [K, B, ...] of the plan's lanes."""
    y: Tensor = _Lanes.apply(x, plan, *plan.parameters)  # type: ignore[no-untyped-call]
    return y
