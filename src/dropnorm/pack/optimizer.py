"""`LaneOptimizer`: Adam, AdamW and SGD with settings and step counts for each lane."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dropnorm.kernels import usable
from dropnorm.optimizers import Optimizer
from dropnorm.pack.passes import places
from dropnorm.pack.updates import STATE, Numbers, update_lane, update_together


class LaneOptimizer(torch.optim.Optimizer):
    """Updates parameters [K, ...] with the settings of each lane; all lanes have the same kind.

    On the CPU torch's own fused kernels run on the lanes' slices: each lane is bitwise what
    `torch.optim` makes of it. On other devices all lanes are updated together. Every lane counts
    its own steps, for bias corrections and for its schedule over `total_steps()`.

    Errors: ValueError for lanes of different kinds.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lanes: Sequence[Optimizer],
        total_steps: Callable[[], float] = lambda: math.inf,
    ) -> None:
        super().__init__(parameters, {})
        kinds = sorted({settings.name for settings in lanes})
        if len(kinds) != 1:
            raise ValueError(f"optimizer.name: expected one for all lanes, got {', '.join(kinds)}")
        self.lanes = list(lanes)
        self.steps = np.zeros(len(lanes), dtype=np.int64)
        self.total_steps = total_steps
        self._numbers = Numbers(self._parameters()[0].device)
        self._views: Views | None = None
        for parameter in self._parameters():
            state = {name: torch.zeros_like(parameter) for name in STATE[kinds[0]]}
            # A count for each parameter: torch's kernels add 1 to every one they are given.
            self.state[parameter] = {**state, "step": torch.zeros(len(lanes))}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's, without what it does around it: that takes longer than a small product."""
        if not set_to_none:
            super().zero_grad(set_to_none)
            return
        for parameter in self._parameters():
            parameter.grad = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        parameters = [p for p in self._parameters() if p.grad is not None]
        if all(p.device.type == "cpu" for p in parameters):
            self._in_turn(parameters)
        else:
            self.together(parameters)
        self.steps += 1
        return loss

    def rates(self) -> list[float]:
        """The learning rate that each lane's next step has."""
        total, steps = self.total_steps(), self.steps.tolist()
        return [s.rate(step, total) for s, step in zip(self.lanes, steps, strict=True)]

    @torch.no_grad()
    def restart(
        self, lane: int, settings: Optimizer, moments: Mapping[str, Any] | None = None
    ) -> None:
        """A new trial in a lane, in place: its settings, step 0, no moments; or `moments` of it."""
        self._numbers.forget()
        self.lanes[lane] = settings
        self.steps[lane] = 0 if moments is None else moments["step"]
        for number, parameter in enumerate(self._parameters()):
            for name, tensor in self.state[parameter].items():
                tensor[lane] = 0 if moments is None else moments["parameters"][number][name]

    def moments(self, lane: int) -> dict[str, Any]:
        """A copy, on the CPU, of a lane's step count and of its state for each parameter."""
        states = [self.state[parameter] for parameter in self._parameters()]
        copies = [{name: t[lane].to("cpu", copy=True) for name, t in s.items()} for s in states]
        return {"step": int(self.steps[lane]), "parameters": copies}

    def keep(self, lanes: Sequence[int]) -> None:
        """Drops the state of the other lanes; the parameters have already lost theirs."""
        self._numbers.forget()
        self.lanes = [self.lanes[lane] for lane in lanes]
        self.steps = self.steps[list(lanes)]
        for state in self.state.values():
            state.update({name: tensor[list(lanes)] for name, tensor in state.items()})

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.param_groups for p in group["params"]]

    def _in_turn(self, parameters: Sequence[nn.Parameter]) -> None:
        names = (*STATE[self.lanes[0].name], "step")
        state = {name: [self.state[p][name] for p in parameters] for name in names}
        if self._views is None or not self._views.hold(parameters, state):
            self._views = Views(parameters, state)
        gradients = _by_lane([_gradient(p) for p in parameters])
        lanes = zip(self.lanes, self.rates(), gradients, self._views.lanes, strict=True)
        for settings, lr, gradient, (weights, mine) in lanes:
            update_lane(settings, lr, weights, gradient, mine)

    @torch.no_grad()
    def together(self, parameters: Sequence[nn.Parameter]) -> None:
        """The same update, equal to rounding, with kernels over all lanes."""
        numbers = self._numbers.next(self.lanes, self.steps.tolist, self.total_steps)
        update = update_together
        if usable(parameters[0]):
            from dropnorm.kernels.updates import update_fused as update  # needs Triton
        for p in parameters:
            update(p, _gradient(p), self.state[p], numbers)
            self.state[p]["step"].add_(1)  # as torch's kernels do: a lane can go on on a CPU


class Views:
    """For each lane its slices of parameters and state, for as long as these stay where they are.

    Slicing them anew at every step would take longer than the update of a small network.
    """

    def __init__(self, parameters: Sequence[Tensor], state: Mapping[str, list[Tensor]]) -> None:
        self._places = places((*parameters, *chain(*state.values())))
        weights = _by_lane([parameter.detach() for parameter in parameters])
        by_name = {name: _by_lane(tensors) for name, tensors in state.items()}
        self.lanes = [
            (mine, {name: lanes[k] for name, lanes in by_name.items()})
            for k, mine in enumerate(weights)
        ]

    def hold(self, parameters: Sequence[Tensor], state: Mapping[str, list[Tensor]]) -> bool:
        return self._places == places((*parameters, *chain(*state.values())))


def _by_lane(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """For each lane the slices of all tensors."""
    return [list(lane) for lane in zip(*(tensor.unbind() for tensor in tensors), strict=True)]


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


@torch.no_grad()
def clip_lanes(parameters: Iterable[nn.Parameter], max_norm: float) -> None:
    """Scales each lane's gradients so that their norm, over all parameters, is `max_norm` at most.

    For one lane what `torch.nn.utils.clip_grad_norm_` does, bitwise on the CPU.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if all(gradient.device.type == "cpu" for gradient in gradients):
        for lane in _by_lane(gradients):
            norm = torch.nn.utils.get_total_norm(lane)
            torch._foreach_mul_(lane, (max_norm / (norm + 1e-6)).clamp(max=1.0))
        return
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
    scale = (max_norm / (norms + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale.view(-1, *[1] * (gradient.dim() - 1)))
