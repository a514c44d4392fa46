"""The peer to beat: a trial as people write it today, with Optuna, Lightning and a DataLoader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from dropnorm import MNIST, BatchNorm, Dropout
from dropnorm.networks import NETWORKS


class PlainModule(pl.LightningModule):
    """Torch's own layers in the order of `mlp` or `cnn`; accuracy and losses logged."""

    def __init__(self, settings: Mapping[str, Any], dropout: float, bn_momentum: float) -> None:
        super().__init__()
        like = NETWORKS[settings.get("network", "mlp")](hidden=settings["hidden"], dropout=dropout)
        self.network = plain(like, bn_momentum)
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


def plain(network: nn.Module, bn_momentum: float) -> nn.Sequential:
    """The layers of a network of ours in a row, with torch's own in the places of ours."""
    layers: list[nn.Module] = []
    norm: type[nn.Module] = nn.BatchNorm1d
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            norm = nn.BatchNorm2d if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d
        if isinstance(layer, Dropout):
            layer = nn.Dropout(float(layer.rate))
        elif isinstance(layer, BatchNorm):
            layer = norm(layer.num_features, momentum=bn_momentum)
        if not list(layer.children()):
            layers.append(layer)
    return nn.Sequential(*layers)


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


def optuna_lightning(
    settings: Mapping[str, Any], epochs: int, batch_size: int = 128, part: float = 1.0
) -> float:
    """One trial of an ordinary Optuna study, over `part` of each epoch; its validation accuracy."""
    train, val = loaders(batch_size)

    def objective(trial: optuna.Trial) -> float:
        dropout = trial.suggest_float("dropout", 0.0, 0.7)
        momentum = trial.suggest_float("bn_momentum", 1e-3, 1.0, log=True)
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
            limit_train_batches=part, limit_val_batches=part,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(PlainModule(settings, dropout, momentum), train, val)
        return float(trainer.callback_metrics["val_accuracy"])

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=1)
    return study.best_value
