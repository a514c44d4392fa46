"""Optimizer and learning-rate schedule from a few plain settings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

import torch
from torch.optim import lr_scheduler

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
        known = [f.name for f in fields(cls)]
        for key in settings:
            if key not in known:
                near = get_close_matches(key, known, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(known)}"
                raise ValueError(f"optimizer.{key}: unknown key; {hint}")
        return cls(**settings)

    def build(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """The fused `torch.optim` optimizer: one kernel for all parameters, on CPU and CUDA."""
        decay = {"lr": self.lr, "weight_decay": self.weight_decay, "fused": True}
        if self.name == "sgd":
            momentum = {"momentum": self.momentum, "nesterov": self.nesterov}
            return torch.optim.SGD(parameters, **momentum, **decay)
        kind = torch.optim.Adam if self.name == "adam" else torch.optim.AdamW
        return kind(parameters, betas=tuple(self.betas), **decay)

    def schedule_of(
        self, optimizer: torch.optim.Optimizer, steps: int
    ) -> lr_scheduler.LRScheduler | None:
        """The schedule over `steps` batches in all; None when the rate is constant."""
        if self.schedule == "cosine":
            return lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        if self.schedule == "one_cycle":
            return lr_scheduler.OneCycleLR(optimizer, max_lr=self.lr, total_steps=steps)
        return None
