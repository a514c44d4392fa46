"""Several training steps of every lane, with what a Trainer does around a step done once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from torch import Tensor

from dropnorm.pack.batches import Burst
from dropnorm.pack.clipping import Clip
from dropnorm.pack.layer import LaneLayer
from dropnorm.pack.losses import lane_loss
from dropnorm.pack.optimizer import LaneOptimizer
from dropnorm.pack.passes import OneLane


@dataclass(frozen=True)
class Steps:
    """How the steps of a burst are made: as the Trainer would make them, one by one."""

    optimizer: LaneOptimizer
    clip: Clip | None

    @classmethod
    def of(cls, trainer: pl.Trainer, optimizer: LaneOptimizer) -> Steps:
        """Errors: ValueError for a Trainer that accumulates gradients over its batches."""
        if trainer.accumulate_grad_batches != 1:
            raise ValueError(
                "accumulate_grad_batches: expected 1 where several batches come at once, got "
                f"{trainer.accumulate_grad_batches}; type LaneBatches(..., at_once=1)"
            )
        clip = Clip.of(trainer.gradient_clip_val, trainer.gradient_clip_algorithm)
        return cls(optimizer, clip)

    @torch.no_grad()
    def in_turn(
        self, burst: Burst, network: LaneLayer, smoothing: Sequence[float], loss_sums: Tensor
    ) -> Tensor:
        """Trains each lane on its batches, one lane after the other, on the CPU.

        So weights, gradients and moments of one lane stay in the caches from step to step. Adds
        each loss to `loss_sums` [K]; returns the last ones, [K].
        """
        updates = self.optimizer.lane_updates()
        plan = network.plan(len(updates), kept=True)
        gradients, last = OneLane(plan.parameters), torch.zeros_like(loss_sums)
        lanes = zip(plan.lanes, updates, smoothing, loss_sums, last, strict=True)
        for k, (passes, update, share, loss_sum, latest) in enumerate(lanes):
            for x, y in burst.of(k):
                logits, saved = passes.forward(x)
                loss, gradient = lane_loss(logits, y, share)
                passes.backward(gradient, saved, gradients, wanted=False)
                if self.clip is not None:
                    self.clip.lane(gradients.tensors)
                update(gradients.tensors)
                loss_sum += loss
            latest.copy_(loss)
        return last

    def together(
        self,
        burst: Burst,
        losses_of: Callable[[Tensor, Tensor], Tensor],
        count: Callable[[Tensor], None],
    ) -> Tensor:
        """Trains all lanes on a batch each, burst after burst, on other devices; the last losses.

        `losses_of` a batch are [K]; `count` is told of them.
        """
        for x, y in burst:
            losses = losses_of(x, y)
            losses.sum().backward()  # type: ignore[no-untyped-call]
            if self.clip is not None:
                self.clip.lanes(self.optimizer.param_groups[0]["params"])
            self.optimizer.step()
            self.optimizer.zero_grad()
            count(losses)
        return losses.detach()
