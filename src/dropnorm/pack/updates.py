"""One step of Adam, AdamW or SGD: of one lane with torch's fused kernels, or of all together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from dropnorm.optimizers import Optimizer, shares

STATE = {
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
    "sgd": ("momentum_buffer",),
}  # what each kind keeps for a parameter
AHEAD = 64  # steps whose numbers are made at a time
_EPS = 1e-8  # torch's


def update_lane(
    settings: Optimizer,
    lr: float,
    step: Tensor,
    parameters: list[Tensor],
    state: Mapping[str, list[Tensor]],
    gradients: list[Tensor],
) -> None:
    """One lane's step in place, the `step`th (0-d); `state` has a list for each name of STATE."""
    shared: dict[str, Any] = {"lr": lr, "weight_decay": settings.weight_decay, "maximize": False}
    if settings.name == "sgd":
        # A buffer of zeros makes the first step what torch's is: the gradient itself.
        momenta: list[Tensor | None] = [*state["momentum_buffer"]]
        shared |= {"momentum": settings.momentum, "nesterov": settings.nesterov}
        sgd(parameters, gradients, momenta, dampening=0.0, fused=True, **shared)
        return
    # What `torch.optim.adam` comes to; its way there takes longer than this.
    steps = [step] * len(parameters)
    update = torch._fused_adamw_ if settings.name == "adamw" else torch._fused_adam_
    update(
        parameters, gradients, state["exp_avg"], state["exp_avg_sq"], [], steps,
        beta1=settings.betas[0], beta2=settings.betas[1], eps=_EPS, amsgrad=False, **shared,
    )  # fmt: skip


class Numbers:
    """All that `update_together` needs to know of K lanes for their next step.

    Made on the device for some steps at a time, so that a step costs the host next to nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._coming: Iterator[dict[str, Tensor]] = iter(())

    def forget(self) -> None:
        """For when a lane gets other settings, or another step count."""
        self._coming = iter(())

    def next(
        self,
        lanes: Sequence[Optimizer],
        steps: Callable[[], Sequence[int]],
        total: Callable[[], float],
    ) -> dict[str, Tensor]:
        """Those of step `steps()[k] + 1` of each lane k, float32 [K] each.

        `total()` is how long a schedule is. Errors: ValueError for one without an end.
        """
        numbers = next(self._coming, None)
        if numbers is None:
            table = step_numbers(lanes, steps(), total(), self._device)
            rows = zip(*(values.unbind() for values in table.values()), strict=True)
            self._coming = (dict(zip(table, row, strict=True)) for row in rows)
            numbers = next(self._coming)
        return numbers


def step_numbers(
    lanes: Sequence[Optimizer], steps: Sequence[int], total: float, device: torch.device
) -> dict[str, Tensor]:
    """`Numbers` of the next `AHEAD` steps of K lanes, after `steps[k]` each: [AHEAD, K] each.

    Computed in float64: at first 1 - beta^step has few digits left in float32.
    """
    ahead = torch.arange(AHEAD, device=device, dtype=torch.float64).unsqueeze(1)
    step = torch.tensor(list(steps), dtype=torch.float64).to(device) + ahead
    rows = [[s.lr, s.weight_decay, *s.betas, s.momentum, float(s.nesterov)] for s in lanes]
    table = torch.tensor(rows, dtype=torch.float64).t().contiguous().to(device)
    lr, decay, first, second, momentum, nesterov = table.unbind()
    lr = lr * shares(lanes, step, total)
    if lanes[0].name == "sgd":
        numbers = {"lr": lr, "decay": decay, "momentum": momentum, "nesterov": nesterov}
    else:
        decoupled = lanes[0].name == "adamw"
        numbers = {
            "decay": torch.zeros_like(decay) if decoupled else decay,
            "shrink": 1 - lr * decay if decoupled else torch.ones_like(lr),
            "first": 1 - first,
            "second": 1 - second,
            "size": lr / (1 - first ** (step + 1)),
            "correction": (1 - second ** (step + 1)).sqrt(),
        }
    return {name: values.float().expand(AHEAD, -1) for name, values in numbers.items()}


def update_together(
    p: Tensor, gradient: Tensor, state: Mapping[str, Tensor], n: Mapping[str, Tensor]
) -> None:
    """A step of one parameter [K, ...] in all lanes, in place, with the `Numbers` of it."""
    shape = (-1, *[1] * (p.dim() - 1))
    n = {name: values.view(shape) for name, values in n.items()}
    gradient = torch.addcmul(gradient, p, n["decay"])
    if "momentum" in n:
        momenta = state["momentum_buffer"].mul_(n["momentum"]).add_(gradient)
        ahead = torch.addcmul(gradient, momenta, n["momentum"])
        p.sub_(torch.where(n["nesterov"] > 0, ahead, momenta).mul_(n["lr"]))
        return
    p.mul_(n["shrink"])
    state["exp_avg"].lerp_(gradient, n["first"])
    state["exp_avg_sq"].lerp_(gradient.square_(), n["second"])
    deviation = (state["exp_avg_sq"].sqrt() / n["correction"]).add_(_EPS)
    p.sub_((state["exp_avg"] / deviation).mul_(n["size"]))
