"""`Pack`: K trials of one signature as one LightningModule.

pack = Pack([{"hidden": [512], "dropout": rate} for rate in (0.0, 0.2, 0.5)])
batches = LaneBatches(data.part("train"), data.train_rows(), 128, pack.ages)
Trainer(max_epochs=5).fit(pack, batches, data.val_dataloader())
pack.metrics(0)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from dropnorm.module import Classifier
from dropnorm.pack.lane import Lane, check_same
from dropnorm.pack.optimizer import LaneOptimizer, clip_lanes
from dropnorm.pack.scores import Scores, lane_losses
from dropnorm.pack.sequential import dropout_steps, keep_lanes, lane_state, put_lane, stack
from dropnorm.pack.signature import shape_settings

Batch = tuple[Tensor, Tensor]


class Pack(pl.LightningModule):
    """K trials trained as one model under an ordinary Trainer, each as if it were alone.

    Built from the constructor arguments of one `Classifier` a lane, all of one `signature`. Between
    epochs a lane can be given to another trial (`refill`) and lanes can be dropped (`shrink`); in
    the middle of an epoch a lane would go on with the other trial's batches. The Trainer's
    `gradient_clip_val` clips every lane by itself. A lane that diverges is marked as `failed` and
    leaves the others as they are. `epochs` is how long a trial trains, which its schedule needs; by
    default as long as the Trainer.

    Shapes: x [K, B, *input_shape], or [B, *input_shape] shared by all lanes -> [K, B, classes].
    Errors: ValueError for lanes of different signatures, and for float16, whose gradient scale all
    lanes would share; TypeError for networks that have no packed form.
    """

    def __init__(self, lanes: Sequence[Mapping[str, Any]], *, epochs: int | None = None) -> None:
        super().__init__()
        if not lanes:
            raise ValueError("pack: expected the settings of at least one lane, got none")
        self._shapes = shape_settings(lanes[0])
        trials = [self._trial(hparams) for hparams in lanes]
        self.lanes = [Lane.of(trial) for trial in trials]
        self.network = stack([trial.network for trial in trials])
        self.epochs = epochs
        self._input_dims = 1 + len(trials[0].hparams["input_shape"])
        self._optimizer: LaneOptimizer | None = None
        self._scores: Scores | None = None
        self._loss_sum = torch.zeros(len(lanes))
        self._batches = 0

    def metrics(self, lane: int) -> dict[str, float]:
        """The lane's val_accuracy, val_nll, val_ece and train_loss of the last validated epoch.

        After `Trainer.test`: test_accuracy, test_nll and test_ece.
        """
        return dict(self.lanes[lane].metrics)

    def failed(self, lane: int) -> bool:
        """Whether the lane's last metrics are not all finite; refill it or drop it."""
        return self.lanes[lane].failed

    def ages(self) -> list[tuple[int, int]]:
        """(seed, epoch) of each lane, the first epoch being 0: what its data order depends on."""
        return [(lane.seed, self._epoch(lane)) for lane in self.lanes]

    def lane_state(self, lane: int) -> dict[str, Tensor]:
        """A copy of the lane's weights and buffers, named as in the plain network."""
        return lane_state(self.network, lane)

    def classifier(self, lane: int) -> Classifier:
        """The lane's trial as a plain `Classifier` on the CPU: a copy."""
        trial = self._trial(self.lanes[lane].hparams)
        trial.network.load_state_dict(self.lane_state(lane))
        trial.on_load_checkpoint({"dropout_steps": dropout_steps(self.network, lane)})
        return trial

    def checkpoint(self, lane: int) -> dict[str, Any]:
        """What `torch.save` makes a file of that `Classifier.load_from_checkpoint` reads."""
        trial, state = self.classifier(lane), self.lanes[lane]
        checkpoint = {
            "pytorch-lightning_version": version("pytorch-lightning"),
            "epoch": self._epoch(state),
            "global_step": state.batches,
            "state_dict": trial.state_dict(),
            "hyper_parameters": dict(state.hparams),
        }
        trial.on_save_checkpoint(checkpoint)
        return checkpoint

    def refill(self, lane: int, hparams: Mapping[str, Any]) -> None:
        """Starts another trial in a lane, in place: weights, keys, optimizer, all as if alone."""
        trial = self._trial(hparams)
        put_lane(self.network, lane, trial.network)
        self.lanes[lane] = Lane.of(trial)
        self._loss_sum[lane] = 0
        if self._optimizer is not None:
            self._optimizer.restart(lane, trial.optimizer_settings)

    def shrink(self, keep: Sequence[int]) -> None:
        """Drops all lanes but these, which take the places 0, 1, ... in this order."""
        keep = list(keep)
        if not keep:
            raise ValueError("pack: expected at least one lane to keep, got none; stop the Trainer")
        keep_lanes(self.network, keep)
        self.lanes = [self.lanes[lane] for lane in keep]
        self._loss_sum = self._loss_sum[keep]
        if self._optimizer is not None:
            self._optimizer.keep(keep)

    def _epoch(self, lane: Lane) -> int:
        return int(lane.batches // self.trainer.num_training_batches) if lane.batches else 0

    def _trial(self, hparams: Mapping[str, Any]) -> Classifier:
        check_same(self._shapes, shape_settings(hparams))
        return Classifier(**hparams)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == self._input_dims:
            x = x.expand(len(self.lanes), *x.shape)
        logits: Tensor = self.network(x)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, y = batch
        losses = lane_losses(self(x), y, [lane.label_smoothing for lane in self.lanes])
        self._loss_sum = self._loss_sum.to(losses.device) + losses.detach()
        self._batches += 1
        for lane in self.lanes:
            lane.batches += 1
        return losses.sum()  # of means: a lane's gradient is that of the trial alone

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        x, y = batch
        if self._scores is None:
            self._scores = Scores(len(self.lanes), x.device)
        self._scores.update(self(x), y)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        metrics = self._computed("val_")
        if self._batches:
            metrics["train_loss"] = (self._loss_sum / self._batches).tolist()
            self._loss_sum, self._batches = torch.zeros_like(self._loss_sum), 0
        self._hand_out(metrics)

    def on_test_epoch_end(self) -> None:
        self._hand_out(self._computed("test_"))

    def _computed(self, prefix: str) -> dict[str, list[float]]:
        assert self._scores is not None
        values = self._scores.compute()
        self._scores = None
        return {prefix + name: value.tolist() for name, value in values.items()}

    def _hand_out(self, metrics: Mapping[str, list[float]]) -> None:
        for k, lane in enumerate(self.lanes):
            lane.metrics = {name: values[k] for name, values in metrics.items()}

    def configure_optimizers(self) -> LaneOptimizer:
        precision = str(self.trainer.precision)
        if precision.startswith("16"):
            raise ValueError(f"precision: a pack expects bf16-mixed or 32-true, got {precision}")
        lanes = [lane.optimizer for lane in self.lanes]
        self._optimizer = LaneOptimizer(self.network.parameters(), lanes, self._total_steps)
        return self._optimizer

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            clip_lanes(self.network.parameters(), gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _total_steps(self) -> float:
        epochs = self.epochs or self.trainer.max_epochs or -1
        return epochs * self.trainer.num_training_batches if epochs > 0 else math.inf
