"""Packs and plain trials on a small part of MNIST, for the tests that compare them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropnorm import MNIST, Classifier
from dropnorm.pack import LaneBatches, Pack

BATCH, ROWS = 50, 200
MLP: dict[str, Any] = {"network": "mlp", "hidden": [37, 24]}  # odd sizes: lanes start unaligned
CNN: dict[str, Any] = {"network": "cnn", "channels": [3, 5], "hidden": [11]}
TRIALS: list[dict[str, Any]] = [
    {"seed": 1, "dropout": 0.3, "optimizer": {"lr": 1e-3, "schedule": "cosine"}},
    {"seed": 2, "bn_momentum": None, "label_smoothing": 0.1, "optimizer": {"weight_decay": 0.1}},
    {"seed": 3, "dropout": 0.5, "bn_momentum": 1.0, "optimizer": {"betas": (0.5, 0.9)}},
    {"seed": 4, "dropout": 0.1, "optimizer": {"lr": 1e-2, "schedule": "one_cycle"}},
    {"seed": 5, "bn_momentum": 0.01, "label_smoothing": 0.2},
    {"seed": 6, "dropout": 0.2},
    {"seed": 7, "dropout": 0.7, "optimizer": {"lr": 3e-2}},
    {"seed": 8, "dropout": 0.4, "bn_momentum": 0.5, "optimizer": {"lr": 1e-4}},
]


def trials(network: dict[str, Any], which: Sequence[int] = range(8)) -> list[dict[str, Any]]:
    return [{**network, **TRIALS[k]} for k in which]


def quiet_trainer(folder: Path, epochs: int, **settings: Any) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=epochs, accelerator="cpu", default_root_dir=folder, logger=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        limit_val_batches=1, **{"enable_checkpointing": False, **settings},
    )  # fmt: skip


class AfterEpoch(pl.Callback):
    """What a worker does between epochs."""

    def __init__(self, act: Callable[[Pack, int], None]) -> None:
        self.act = act

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Pack)
        self.act(pl_module, trainer.current_epoch + 1)


def data(**settings: Any) -> MNIST:
    return MNIST(train_size=ROWS, batch_size=BATCH, eval_batch_size=500, **settings)


def fit_pack(
    folder: Path,
    pack: Pack,
    epochs: int = 2,
    at_once: int = 3,
    ckpt_path: Path | None = None,
    **settings: Any,
) -> Pack:
    """Of an epoch's four batches a burst has three, and another the one that is left."""
    source = data()
    source.setup("fit")
    rows = source.train_rows()
    batches = LaneBatches(source.part("train"), rows, BATCH, pack.ages, at_once)
    trainer = quiet_trainer(folder, epochs, **settings)
    trainer.fit(pack, batches, source.val_dataloader(), ckpt_path=ckpt_path)
    return pack


def fit_alone(
    folder: Path, trial: dict[str, Any], epochs: int = 2, **settings: Any
) -> tuple[Classifier, dict[str, float]]:
    """The plain module under its own Trainer, and its metrics."""
    model = Classifier(**trial)
    for layer in model.network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.forward = partial(_channels_last, layer)  # type: ignore[method-assign]
    trainer = quiet_trainer(folder, epochs, **settings)
    trainer.fit(model, data(seed=trial["seed"]))
    return model, {name: float(value) for name, value in trainer.callback_metrics.items()}


def _channels_last(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """The layer in the memory format of packs on the CPU; contiguous, sums run in another order."""
    x, weight = (t.to(memory_format=torch.channels_last) for t in (x, layer.weight))
    return F.conv2d(x, weight, layer.bias, padding=layer.padding)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Bitwise, but for the sign of zero."""
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def state(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.state_dict())
