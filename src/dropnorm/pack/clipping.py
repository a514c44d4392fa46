"""Gradient clipping of every lane by itself, as a Trainer would clip the trial alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Clip:
    """The norm of a lane's gradients over all parameters, or their values, are `most` at most.

    For one lane what torch's `clip_grad_norm_` or `clip_grad_value_` does, bitwise on the CPU.
    """

    most: float
    by_norm: bool = True

    @classmethod
    def of(cls, most: float | None, algorithm: str | None) -> Clip | None:
        """From a Trainer's `gradient_clip_val` and `gradient_clip_algorithm`; None: no clipping."""
        return cls(float(most), algorithm in (None, "norm")) if most else None

    @torch.no_grad()
    def lane(self, gradients: list[Tensor]) -> None:
        """Clips the gradients of one lane, in place."""
        if self.by_norm:
            norm = torch.nn.utils.get_total_norm(gradients)
            torch._foreach_mul_(gradients, (self.most / (norm + 1e-6)).clamp(max=1.0))
        elif gradients:
            torch._foreach_clamp_min_(gradients, -self.most)
            torch._foreach_clamp_max_(gradients, self.most)

    @torch.no_grad()
    def lanes(self, parameters: Iterable[nn.Parameter]) -> None:
        """Clips the gradients, [K, ...], of parameters that have some, in place."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            return
        if not self.by_norm:
            self.lane(gradients)
        elif all(gradient.device.type == "cpu" for gradient in gradients):
            for lane in zip(*(gradient.unbind() for gradient in gradients), strict=True):
                self.lane(list(lane))
        else:
            norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
            scale = (self.most / (norms + 1e-6)).clamp(max=1.0)
            for gradient in gradients:
                gradient.mul_(scale.view(-1, *[1] * (gradient.dim() - 1)))
