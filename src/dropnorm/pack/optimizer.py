"""`LaneOptimizer`: Adam, AdamW and SGD with settings and step counts for each lane."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, TypeAlias

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
        self._count = torch.zeros(())  # of the step under way, as torch's kernels want it
        for parameter in self._parameters():
            self.state[parameter] = {name: torch.zeros_like(parameter) for name in STATE[kinds[0]]}

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
        if not parameters:
            return loss  # what was to be updated is: see `lane_updates`
        if all(p.device.type == "cpu" for p in parameters):
            updates = self.lane_updates(parameters)
            gradients = _by_lane([_gradient(p) for p in parameters])
            for update, gradient in zip(updates, gradients, strict=True):
                update(gradient)
        else:
            self.together(parameters)
            self.steps += 1
        return loss

    def lane_updates(self, parameters: Sequence[nn.Parameter] | None = None) -> list[Update]:
        """For each lane what makes a step with its gradients of the parameters (None: of all).

        On the CPU, and for as long as lanes and tensors stay what and where they are.
        """
        parameters = self._parameters() if parameters is None else parameters
        names = STATE[self.lanes[0].name]
        state = {name: [self.state[p][name] for p in parameters] for name in names}
        if self._views is None or not self._views.hold(parameters, state):
            self._views = Views(parameters, state)
        total = self.total_steps()
        views = enumerate(self._views.lanes)
        return [partial(self._update, lane, total, view) for lane, view in views]

    def _update(self, lane: int, total: float, view: View, gradients: list[Tensor]) -> None:
        settings, rate = self.lanes[lane], self._rate(lane, total)
        self.steps[lane] += 1
        self._count.fill_(self.steps[lane])
        update_lane(settings, rate, self._count, *view, gradients)

    def rates(self) -> list[float]:
        """The learning rate that each lane's next step has."""
        total = self.total_steps()
        return [self._rate(lane, total) for lane in range(len(self.lanes))]

    def _rate(self, lane: int, total: float) -> float:
        return self.lanes[lane].rate(self.steps[lane].item(), total)

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

    @torch.no_grad()
    def together(self, parameters: Sequence[nn.Parameter]) -> None:
        """The same update, equal to rounding, with kernels over all lanes."""
        numbers = self._numbers.next(self.lanes, self.steps.tolist, self.total_steps)
        update = update_together
        if usable(parameters[0]):
            from dropnorm.kernels.updates import update_fused as update  # needs Triton
        for p in parameters:
            update(p, _gradient(p), self.state[p], numbers)


View: TypeAlias = tuple[list[Tensor], Mapping[str, list[Tensor]]]  # a lane's parameters and state
Update: TypeAlias = Callable[[list[Tensor]], None]  # makes a step with a lane's gradients


class Views:
    """For each lane its slices of parameters and state, for as long as these stay where they are.

    Slicing them anew at every step would take longer than the update of a small network.
    """

    def __init__(self, parameters: Sequence[Tensor], state: Mapping[str, list[Tensor]]) -> None:
        self._places = places((*parameters, *chain(*state.values())))
        weights = _by_lane([parameter.detach() for parameter in parameters])
        by_name = {name: _by_lane(tensors) for name, tensors in state.items()}
        self.lanes: list[View] = [
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
