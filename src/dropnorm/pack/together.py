"""`Together`: what every pack is to a Trainer, whatever its lanes are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from dropnorm.optimizers import Optimizer
from dropnorm.pack.batches import LaneBatches
from dropnorm.pack.clipping import Clip
from dropnorm.pack.optimizer import LaneOptimizer


class Progress(Protocol):
    """What is known of the trial in a lane; `metrics` are those of its last validation.

    `moments` are what its optimizer is to begin with, if the trial was begun elsewhere.
    """

    batches: int
    metrics: dict[str, float]
    moments: dict[str, Any] | None

    @property
    def seed(self) -> int: ...

    @property
    def optimizer(self) -> Optimizer: ...


L = TypeVar("L", bound=Progress)


class Together(pl.LightningModule, Generic[L]):
    """K trials as one LightningModule: their ages, their metrics, their optimizer.

    A kind of pack adds its network, how it trains and validates a batch (`_count` its losses), what
    it has measured (`_computed`), and how lanes leave its network (`_keep`).
    """

    def __init__(self, lanes: Sequence[L], epochs: int | None) -> None:
        super().__init__()
        self._lanes, self._uncounted = list(lanes), 0  # batches since the lanes were looked at
        self.epochs = epochs
        self._optimizer: LaneOptimizer | None = None
        self._loss_sum = torch.zeros(len(self.lanes))
        self._rows = torch.zeros(len(self.lanes))  # that `_loss_sum` is of

    @property
    def lanes(self) -> list[L]:
        """The trials, with all their batches counted: a step does not go through the lanes."""
        for lane in self._lanes if self._uncounted else ():
            lane.batches += self._uncounted
        self._uncounted = 0
        return self._lanes

    def _computed(self, prefix: str) -> list[dict[str, float]]:
        """Metrics of each lane over the batches since the last time, which begin anew."""
        raise NotImplementedError

    def lane_snapshot(self, lane: int) -> dict[str, Any]:
        """All that a trial needs to go on in another lane."""
        raise NotImplementedError

    def _go_on(self, lane: int, snapshot: dict[str, Any]) -> None:
        """Fills a lane with its own trial as it was in a snapshot."""
        raise NotImplementedError

    def _keep(self, lanes: Sequence[int]) -> None:
        """Drops all other lanes from the network."""
        raise NotImplementedError

    def metrics(self, lane: int) -> dict[str, float]:
        """The lane's validation metrics (val_...) and train_loss of the last validated epoch.

        After `Trainer.test` its test metrics (test_...).
        """
        return dict(self.lanes[lane].metrics)

    def failed(self, lane: int) -> bool:
        """Whether the lane's last metrics are not all finite; refill it or drop it."""
        return not all(map(math.isfinite, self.lanes[lane].metrics.values()))

    def ages(self) -> list[tuple[int, int]]:
        """(seed, epoch) of each lane, the first epoch being 0: what its data order depends on."""
        return [(lane.seed, self._epoch(lane)) for lane in self.lanes]

    def shrink(self, keep: Sequence[int]) -> None:
        """Drops all lanes but these, which take the places 0, 1, ... in this order."""
        keep = list(keep)
        if not keep:
            raise ValueError("pack: expected at least one lane to keep, got none; stop the Trainer")
        self._keep(keep)
        self._lanes = [self.lanes[lane] for lane in keep]
        self._loss_sum, self._rows = self._loss_sum[keep], self._rows[keep]
        if self._optimizer is not None:
            self._optimizer.keep(keep)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["lanes"] = [self.lane_snapshot(lane) for lane in range(len(self.lanes))]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on from a Trainer's checkpoint, taken at the end of an epoch, with as many lanes."""
        theirs, mine = len(checkpoint["lanes"]), len(self.lanes)
        if theirs != mine:
            raise ValueError(f"pack: expected a checkpoint of {mine} lanes, got one of {theirs}")
        for lane, snapshot in enumerate(checkpoint["lanes"]):
            self._go_on(lane, snapshot)

    def _epoch(self, lane: L) -> int:
        return int(lane.batches // self._batches_of_an_epoch()) if lane.batches else 0

    def _batches_of_an_epoch(self) -> float:
        trainer = self.trainer
        count, loader = trainer.num_training_batches, trainer.train_dataloader
        return loader.batches_in(int(count)) if isinstance(loader, LaneBatches) else count

    def _count(self, losses: Tensor, rows: int = 1) -> None:
        """Takes in a training batch: its loss in each lane, [K], of so many rows."""
        self._loss_sum = self._loss_sum.to(losses.device) + rows * losses.detach()
        self._rows += rows
        self._uncounted += 1

    def on_validation_epoch_end(self) -> None:
        for lane, metrics in zip(self.lanes, self._computed("val_"), strict=True):
            lane.metrics = metrics
        losses = (self._loss_sum / self._rows.to(self._loss_sum.device)).tolist()
        for lane, loss, rows in zip(self.lanes, losses, self._rows.tolist(), strict=True):
            if rows:
                lane.metrics["train_loss"] = loss
        self._loss_sum, self._rows = map(torch.zeros_like, (self._loss_sum, self._rows))

    def _forget_losses(self, lane: int) -> None:
        self._loss_sum[lane] = self._rows[lane] = 0

    def on_test_epoch_end(self) -> None:
        for lane, metrics in zip(self.lanes, self._computed("test_"), strict=True):
            lane.metrics = metrics

    def _make_optimizer(self, parameters: Iterable[nn.Parameter]) -> LaneOptimizer:
        """For `configure_optimizers`. Errors: ValueError for a precision with a shared scale."""
        precision = str(self.trainer.precision)
        if precision.startswith("16") or precision == "bf16-true":
            raise ValueError(f"precision: a pack expects bf16-mixed or 32-true, got {precision}")
        lanes = [lane.optimizer for lane in self.lanes]
        self._optimizer = LaneOptimizer(parameters, lanes, self._total_steps)
        for lane in range(len(self.lanes)):
            self._begin_updates(lane)
        return self._optimizer

    def _begin_updates(self, lane: int) -> None:
        """Tells the optimizer, once there is one, of a lane's trial."""
        if self._optimizer is not None:
            state = self.lanes[lane]
            self._optimizer.restart(lane, state.optimizer, state.moments)
            state.moments = None

    def _moments(self, lane: int) -> dict[str, Any] | None:
        """What the optimizer knows of a lane's trial, for it to go on elsewhere."""
        return self._optimizer.moments(lane) if self._optimizer else self.lanes[lane].moments

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if clip := Clip.of(gradient_clip_val, gradient_clip_algorithm):
            clip.lanes(optimizer.param_groups[0]["params"])

    def _total_steps(self) -> float:
        epochs = self.epochs or self.trainer.max_epochs or -1
        return epochs * self._batches_of_an_epoch() if epochs > 0 else math.inf
