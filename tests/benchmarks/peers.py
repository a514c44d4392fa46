"""The peer to beat: a trial as people write it today, with Optuna, Lightning and a DataLoader."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import optuna
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from dropnorm import MNIST


class PlainModule(pl.LightningModule):
    """Linear, BatchNorm1d, ReLU, Dropout for each width, and a head; accuracy and losses logged."""

    def __init__(self, hidden: tuple[int, ...], dropout: float, bn_momentum: float) -> None:
        super().__init__()
        widths, layers = [784, *hidden], list[nn.Module]()
        for i, o in pairwise(widths):
            norm = nn.BatchNorm1d(o, momentum=bn_momentum)
            layers += [nn.Linear(i, o), norm, nn.ReLU(), nn.Dropout(dropout)]
        self.network = nn.Sequential(nn.Flatten(), *layers, nn.Linear(widths[-1], 10))
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        loss = F.cross_entropy(self.network(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        logits = self.network(batch[0])
        self.accuracy(logits, batch[1])
        self.log("val_accuracy", self.accuracy, on_step=False, on_epoch=True)
        self.log("val_nll", F.cross_entropy(logits, batch[1]), on_step=False, on_epoch=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def loaders(batch_size: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """MNIST's fixed split as float tensors behind ordinary DataLoaders."""
    data = MNIST()
    data.setup("fit")
    train, val = data.part("train"), data.part("val")
    sets = [TensorDataset(*part.gather(torch.arange(len(part.labels)))) for part in (train, val)]
    return (
        DataLoader(sets[0], batch_size, shuffle=True, drop_last=True),
        DataLoader(sets[1], 1000),
    )


def optuna_lightning(hidden: tuple[int, ...], epochs: int, batch_size: int = 128) -> float:
    """One trial of an ordinary Optuna study; returns its validation accuracy."""
    train, val = loaders(batch_size)

    def objective(trial: optuna.Trial) -> float:
        dropout = trial.suggest_float("dropout", 0.0, 0.7)
        momentum = trial.suggest_float("bn_momentum", 1e-3, 1.0, log=True)
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(PlainModule(hidden, dropout, momentum), train, val)
        return float(trainer.callback_metrics["val_accuracy"])

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=1)
    return study.best_value
