"""One step of Adam, AdamW or SGD: of one lane with torch's fused kernels, or of all together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from dropnorm.optimizers import Optimizer

STATE = {
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
    "sgd": ("momentum_buffer",),
}  # what each kind keeps for a parameter, besides "step"
_EPS = 1e-8  # torch's


def update_lane(
    settings: Optimizer,
    lr: float,
    parameters: list[Tensor],
    gradients: list[Tensor],
    state: Mapping[str, list[Tensor]],
) -> None:
    """One lane's step, in place; `state` has a list for each name of STATE and "step" (0-d)."""
    shared: dict[str, Any] = {"lr": lr, "weight_decay": settings.weight_decay}
    shared |= {"fused": True, "maximize": False}
    if settings.name == "sgd":
        # A buffer of zeros makes the first step what torch's is: the gradient itself.
        momenta: list[Tensor | None] = [*state["momentum_buffer"]]
        shared |= {"momentum": settings.momentum, "nesterov": settings.nesterov}
        sgd(parameters, gradients, momenta, dampening=0.0, **shared)
        return
    adam(
        parameters, gradients, state["exp_avg"], state["exp_avg_sq"], [], state["step"],
        beta1=settings.betas[0], beta2=settings.betas[1], eps=_EPS, amsgrad=False,
        decoupled_weight_decay=settings.name == "adamw", **shared,
    )  # fmt: skip


def lane_numbers(settings: Optimizer, lr: float, step: int) -> dict[str, float]:
    """All that `update_together` needs to know of a lane for its step `step` (the first is 1)."""
    if settings.name == "sgd":
        return {
            "lr": lr,
            "decay": settings.weight_decay,
            "momentum": settings.momentum,
            "nesterov": float(settings.nesterov),
        }
    first, second = settings.betas
    decoupled = settings.name == "adamw"
    return {
        "decay": 0.0 if decoupled else settings.weight_decay,
        "shrink": 1 - lr * settings.weight_decay if decoupled else 1.0,
        "first": 1 - first,
        "second": 1 - second,
        "size": lr / (1 - first**step),
        "correction": (1 - second**step) ** 0.5,
    }


def update_together(
    p: Tensor, gradient: Tensor, state: Mapping[str, Tensor], n: Mapping[str, Tensor]
) -> None:
    """A step of one parameter [K, ...] in all lanes, in place; `n` is `lane_numbers` as tensors."""
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
