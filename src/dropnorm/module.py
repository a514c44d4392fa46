"""`Classifier`: a LightningModule around the networks, for any script with a plain Trainer."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from dropnorm.blocks import Dropout, seed_dropout
from dropnorm.fold import fold
from dropnorm.names import check_names
from dropnorm.networks import NETWORKS, settings_of
from dropnorm.optimizers import Optimizer
from dropnorm.random import seeded
from dropnorm.uncertainty import mc_dropout

Batch = tuple[Tensor, Tensor]


class Classifier(pl.LightningModule):
    """A classifier with dropout and batch norm, its loss, metrics and optimizer.

    All hyperparameters are plain types, so `load_from_checkpoint` works with `weights_only=True`.
    `network` is "mlp" or "cnn", and `architecture` goes to that function (hidden, channels, norm,
    order, activation ...); or it is a module of your own, which you pass again when loading.
    `seed` keys the initial weights and every dropout mask. `mc_samples` > 0 makes `predict_step`
    keep dropout on and average that many passes.

    Shapes: [B, *input_shape] -> logits [B, classes]; targets int64 [B].
    Logs: train_loss, and val_/test_ accuracy, nll (nats) and ece (15 bins), each over the epoch.
    Errors: ValueError for unknown names or values out of range.
    """

    def __init__(
        self,
        network: str | nn.Module = "mlp",
        *,
        input_shape: Sequence[int] = (1, 28, 28),
        classes: int = 10,
        dropout: float = 0.0,
        bn_momentum: float | None = 0.1,
        label_smoothing: float = 0.0,
        optimizer: Mapping[str, Any] | None = None,
        seed: int = 0,
        mc_samples: int = 0,
        **architecture: Any,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["network"] if isinstance(network, nn.Module) else None)
        self.label_smoothing = label_smoothing
        self.mc_samples = mc_samples
        self.optimizer_settings = Optimizer.of(dict(optimizer or {}))
        _check_names(network, architecture)
        if isinstance(network, str):
            blocks = {"dropout": dropout, "bn_momentum": bn_momentum, **architecture}
            with seeded(seed, "init"):
                network = NETWORKS[network](input_shape, classes, **blocks)
        self.network = network
        seed_dropout(self.network, seed)
        self.example_input_array = torch.zeros(2, *input_shape)
        self.val_metrics = _metrics(classes, "val_")
        self.test_metrics = _metrics(classes, "test_")
        self._loss_sum = torch.zeros(())
        self._batches = 0

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self.network(x), y, label_smoothing=self.label_smoothing)
        # Summed on the device: logging every step would cost more than a small network's backward.
        self._loss_sum = self._loss_sum.to(loss.device) + loss.detach()
        self._batches += 1
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        _update(self.val_metrics, self.network(batch[0]), batch[1])

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        _update(self.test_metrics, self.network(batch[0]), batch[1])

    def predict_step(self, batch: Batch | Tensor, batch_idx: int = 0) -> dict[str, Tensor]:
        """Class probabilities [B, classes]; with `mc_samples` also what `mc_dropout` returns."""
        x = batch if isinstance(batch, Tensor) else batch[0]
        if self.mc_samples:
            return mc_dropout(self.network, x, self.mc_samples)
        return {"probabilities": self.network(x).softmax(-1)}

    def on_train_epoch_start(self) -> None:
        self._loss_sum, self._batches = torch.zeros_like(self._loss_sum), 0

    def on_validation_epoch_end(self) -> None:
        metrics = _compute(self.val_metrics)
        if self._batches and self.trainer.state.fn == "fit":
            metrics["train_loss"] = self._loss_sum / self._batches
        self.log_dict(metrics, sync_dist=True)  # the loss is this process's, the others all have

    def on_test_epoch_end(self) -> None:
        self.log_dict(_compute(self.test_metrics), sync_dist=True)

    def configure_optimizers(self) -> Any:
        settings = self.optimizer_settings
        optimizer = settings.build(self.parameters())
        schedule = settings.schedule_of(optimizer, lambda: self.trainer.estimated_stepping_batches)
        if schedule is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["dropout_steps"] = [layer.step for layer in self._dropouts()]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Dropout goes on with the masks that come next, not with those already drawn."""
        for layer, step in zip(self._dropouts(), checkpoint.get("dropout_steps", []), strict=False):
            layer.step = step

    def _dropouts(self) -> list[Dropout]:
        return [layer for layer in self.network.modules() if isinstance(layer, Dropout)]

    def fold(self) -> nn.Sequential:
        """The network for inference: batch norms folded into the weights, dropout gone."""
        return fold(self.network)


def _check_names(network: str | nn.Module, architecture: Mapping[str, Any]) -> None:
    parameters = inspect.signature(Classifier).parameters.values()
    known = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    if isinstance(network, nn.Module):
        check_names(f"Classifier({type(network).__name__})", architecture, known)
    elif network not in NETWORKS:
        raise ValueError(f"network: expected {', '.join(NETWORKS)} or a module, got {network!r}")
    else:
        known = list(dict.fromkeys([*known, *settings_of(network)]))
        check_names(f"Classifier({network})", architecture, known)


def _metrics(classes: int, prefix: str) -> MetricCollection:
    return MetricCollection(
        {
            "accuracy": MulticlassAccuracy(classes, average="micro"),
            "nll": MeanMetric(),
            "ece": MulticlassCalibrationError(classes, n_bins=15),
        },
        prefix=prefix,
        compute_groups=False,
    )


def _update(metrics: MetricCollection, logits: Tensor, y: Tensor) -> None:
    logits = logits.float()
    metrics["accuracy"].update(logits, y)
    metrics["nll"].update(F.cross_entropy(logits, y), weight=len(y))
    metrics["ece"].update(logits.softmax(-1), y)


def _compute(metrics: MetricCollection) -> dict[str, Tensor]:
    values = metrics.compute()
    metrics.reset()
    return values
