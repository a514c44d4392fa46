"""Optimizer and learning-rate schedule from a few plain settings."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch.optim import lr_scheduler

from dropnorm.names import check_names

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine", "one_cycle")


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
        if self.lr <= 0:
            raise ValueError(f"optimizer.lr: expected a positive number, got {self.lr!r}")

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Optimizer:
        """From a plain dict; an unknown key is an error that names the nearest known one."""
        check_names("optimizer", settings, [f.name for f in fields(cls)])
        return cls(**settings)

    def build(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """The fused `torch.optim` optimizer: one kernel for all parameters, on CPU and CUDA."""
        shared: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay, "fused": True}
        if self.name == "sgd":
            momentum, nesterov = self.momentum, self.nesterov
            return torch.optim.SGD(parameters, momentum=momentum, nesterov=nesterov, **shared)
        kind = torch.optim.Adam if self.name == "adam" else torch.optim.AdamW
        first, second = self.betas
        return kind(parameters, betas=(first, second), **shared)

    def schedule_of(
        self, optimizer: torch.optim.Optimizer, steps: float
    ) -> lr_scheduler.LRScheduler | None:
        """The schedule over `steps` batches in all; None when the rate is constant.

        Errors: ValueError for a schedule over a training without an end (`steps` infinite).
        """
        if self.schedule == "constant":
            return None
        if math.isinf(steps):
            raise ValueError(
                f"optimizer.schedule: {self.schedule} expects a training with an end, got none; "
                "set the Trainer's max_epochs or max_steps"
            )
        if self.schedule == "cosine":
            return lr_scheduler.CosineAnnealingLR(optimizer, T_max=int(steps))
        # Without cycle_momentum=False torch would replace `momentum` and `betas` by its own.
        return lr_scheduler.OneCycleLR(
            optimizer, max_lr=self.lr, total_steps=int(steps), cycle_momentum=False
        )
