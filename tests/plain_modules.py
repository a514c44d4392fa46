"""LightningModules as people have them, of both of Lightning's packages, and data to train them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch as unified
import pytorch_lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

PACKAGES = [pytorch_lightning, unified]
INPUTS, CLASSES = 12, 3


def network(norm: type[nn.Module] = nn.BatchNorm1d, dropout: float = 0.3) -> nn.Sequential:
    layers = [nn.Linear(INPUTS, 16), norm(16), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(16, 16), norm(16), nn.ReLU(), nn.Linear(16, CLASSES))


def plain_module(package: ModuleType, net: nn.Module | None = None, lr: float = 0.1) -> Any:
    """A module that knows nothing of us, and logs values, metrics and what it sums by hand."""

    class Mine(package.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network() if net is None else net
            self.accuracy = MulticlassAccuracy(CLASSES, average="micro")
            self.right: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            return self.network(x)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = F.cross_entropy(self(batch[0]), batch[1])
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            x, y = batch
            logits = self(x)
            self.accuracy(logits, y)
            self.log("val_accuracy", self.accuracy)
            self.log_dict({"val_nll": F.cross_entropy(logits, y)}, sync_dist=True)
            self.right.append((logits.argmax(-1) == y).float())

        def on_validation_epoch_end(self) -> None:
            self.log("val_by_hand", torch.cat(self.right).mean())
            self.right.clear()

        def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self(batch[0])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=lr)

    return Mine()


def examples(count: int, seed: int) -> TensorDataset:
    """Three overlapping clusters: x [count, 12], y [count]."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (count,), generator=generator)
    centres = torch.randn(CLASSES, INPUTS, generator=torch.Generator().manual_seed(0))
    return TensorDataset(centres[y] + 2 * torch.randn(count, INPUTS, generator=generator) + 1, y)


def loaders(batch: int = 16, shuffle: bool = True) -> dict[str, DataLoader[Any]]:
    """Keyword arguments of `fit`; the last validation batch is a short one."""
    train = DataLoader(examples(128, 1), batch_size=batch, shuffle=shuffle)
    return {
        "train_dataloaders": train,
        "val_dataloaders": DataLoader(examples(90, 2), batch_size=32),
    }


def trainer(package: ModuleType, folder: Path, *callbacks: Any, **settings: Any) -> Any:
    """Without output and files; two epochs unless told otherwise."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    defaults = {"accelerator": "cpu", "enable_checkpointing": False, "max_epochs": 2}
    options = {**quiet, **defaults, "log_every_n_steps": 1, **settings}
    return package.Trainer(default_root_dir=folder, callbacks=list(callbacks), **options)
