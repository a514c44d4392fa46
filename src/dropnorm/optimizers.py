"""Optimizer and learning-rate schedule from a few plain settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.optim import lr_scheduler

from dropnorm.names import check_names

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine", "one_cycle")

_RISE = 0.3  # the share of a one-cycle training that warms up
_START, _END = 1 / 25, 1 / 250_000  # its first and last rate, as parts of `lr`


@dataclass(frozen=True)
class Optimizer:
    """Settings of `torch.optim` and of the schedule over the whole training, stepped every batch.

    `betas` belong to adam and adamw, `momentum` and `nesterov` to sgd; the others ignore them.
    Errors: ValueError for unknown names and values out of range.
    """

    name: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    nesterov: bool = False
    schedule: str = "constant"

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise ValueError(f"optimizer.name: expected {', '.join(OPTIMIZERS)}, got {self.name!r}")
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"optimizer.schedule: expected {', '.join(SCHEDULES)}, got {self.schedule!r}"
            )
        if not 0 < self.lr < math.inf:
            raise ValueError(f"optimizer.lr: expected a positive number, got {self.lr!r}")
        if not 0 <= self.weight_decay < math.inf:
            got = repr(self.weight_decay)
            raise ValueError(f"optimizer.weight_decay: expected 0 or a positive number, got {got}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optimizer.betas: expected 0 <= beta < 1, got {self.betas!r}")
        if not 0 <= self.momentum < math.inf:
            raise ValueError(f"optimizer.momentum: expected 0 or more, got {self.momentum!r}")
        if self.name == "sgd" and self.nesterov and not self.momentum:
            raise ValueError("optimizer.nesterov: expected a momentum above 0, got 0")

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Optimizer:
        """From a plain dict; an unknown key is an error that names the nearest known one."""
        check_names("optimizer", settings, [f.name for f in fields(cls)])
        return cls(**settings)

    def build(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """The fused `torch.optim` optimizer: one kernel for all parameters, on CPU and CUDA."""
        options: dict[str, Any] = {"momentum": self.momentum, "nesterov": self.nesterov}
        if self.name != "sgd":
            options = {"betas": tuple(self.betas)}
        kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
        shared = {"lr": self.lr, "weight_decay": self.weight_decay, "fused": True}
        optimizer: torch.optim.Optimizer = kinds[self.name](parameters, **shared, **options)
        # Else Lightning would not clip gradients in mixed precision: fused ones could scale by
        # themselves. Let it scale before it clips.
        vars(optimizer)["_step_supports_amp_scaling"] = False
        return optimizer

    def schedule_of(
        self, optimizer: torch.optim.Optimizer, steps: Callable[[], float]
    ) -> lr_scheduler.LambdaLR | None:
        """The schedule over `steps()` batches in all; None when the rate is constant.

        `steps` is not asked before the first step has been taken: Lightning would load the data to
        answer, and a resumed training would then start its epoch again instead of going on in it.

        Errors: ValueError at the first step if the training has no end.
        """
        if self.schedule == "constant":
            return None
        return lr_scheduler.LambdaLR(
            optimizer, lambda step: self.share(step, steps() if step else 1.0)
        )

    def rate(self, step: int, steps: float) -> float:
        """The learning rate of step `step` (the first is 0) of `steps`, as the schedule sets it."""
        return self.lr * self.share(step, steps)

    def share(self, step: int, steps: float) -> float:
        """The share of `lr` at a step; a training that goes on beyond `steps` keeps the last.

        Errors: ValueError for a schedule over a training without an end.
        """
        if self.schedule == "constant":
            return 1.0
        return _SHAPES[self.schedule](min(step / self._finite(steps), 1.0))

    def _finite(self, steps: float) -> float:
        if _ends(steps):
            return steps
        raise ValueError(
            f"optimizer.schedule: {self.schedule} expects a training with an end, got none; "
            "set the Trainer's max_epochs or max_steps, or the schedule to constant"
        )


def shares(settings: Sequence[Optimizer], step: Tensor, steps: float) -> Tensor:
    """`Optimizer.share` of many at once, on the device of `step`, in float64 and equal to rounding.

    Shapes: one of the K settings for each of the last axis of step [..., K] -> the same. Errors:
    ValueError for a schedule over a training without an end.
    """
    for one in settings:
        one.share(0, steps)
    if not _ends(steps):
        return torch.ones_like(step, dtype=torch.float64)
    names = [SCHEDULES.index(one.schedule) for one in settings]
    kinds = torch.tensor(names, device=step.device)
    progress = (step.double() / steps).clamp(max=1.0)
    rise = _START + (1 - _START) * _cosines(1 - progress / _RISE)
    fall = _END + (1 - _END) * _cosines((progress - _RISE) / (1 - _RISE))
    one_cycle = torch.where(progress < _RISE, rise, fall)
    falling = torch.where(kinds == SCHEDULES.index("cosine"), _cosines(progress), 1.0)
    return torch.where(kinds == SCHEDULES.index("one_cycle"), one_cycle, falling)


def _ends(steps: float) -> bool:
    return 0 < steps < math.inf  # Lightning says -1 for data without a length


def _cosine(progress: float) -> float:
    """From 1 to 0 (Loshchilov & Hutter 2017)."""
    return (1 + math.cos(math.pi * progress)) / 2


def _one_cycle(progress: float) -> float:
    """From 1/25 to 1 and down to almost 0, as torch's OneCycleLR (Smith & Topin 2019)."""
    if progress < _RISE:
        return _START + (1 - _START) * _cosine(1 - progress / _RISE)
    return _END + (1 - _END) * _cosine((progress - _RISE) / (1 - _RISE))


def _cosines(progress: Tensor) -> Tensor:
    return (1 + (math.pi * progress).cos()) / 2


_SHAPES = {"cosine": _cosine, "one_cycle": _one_cycle}
