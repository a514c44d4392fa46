"""Modules and data of somebody else's that keep to the protocol of packs, written to a folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sweep import load_study
from sweep.__main__ import main
from sweep.results import ResultSet

# A user's file. Data in DataLoaders, a shuffle and an augmentation that draws from torch's
# generator, and a last batch that is a short one.
MODULE = """
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, random_split
import {lightning} as pl

class Points(Dataset):
    def __init__(self, count):
        g = torch.Generator().manual_seed(5)
        self.y = torch.randint(4, (count,), generator=g)
        centres = torch.randn(4, 12, generator=g)
        self.x = centres[self.y] + 1.5 * torch.randn(count, 12, generator=g)
    def __len__(self):
        return len(self.y)
    def __getitem__(self, i):
        return self.x[i] + 0.1 * torch.randn(12), self.y[i]

class Data(pl.LightningDataModule):
    def __init__(self, batch_size=16, workers=0):
        super().__init__()
        self.batch_size, self.workers = batch_size, workers
    def setup(self, stage):
        self.train, self.rest = random_split(Points(200), [136, 64])
        all, held_out = self.rest.dataset, self.rest.indices
        self.held_out = [(all.x[i], all.y[i]) for i in held_out]
    def train_dataloader(self):
        workers = dict(num_workers=self.workers, persistent_workers=self.workers > 0)
        return DataLoader(self.train, self.batch_size, shuffle=True, **workers)
    def val_dataloader(self):
        return DataLoader(self.held_out, 48)
    def test_dataloader(self):
        return DataLoader(self.held_out, 48)

class Mine(pl.LightningModule):
    def __init__(self, width=16, lr=1e-2, smoothing=0.0, explode=1.0):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Linear(12, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 4),
        )
        self.lr, self.smoothing = lr, smoothing
        self.register_buffer("explode", torch.tensor(float(explode)))

    def forward(self, x):
        return self.net(x)

    def loss(self, batch):
        x, y = batch
        return F.cross_entropy(self(x), y, label_smoothing=self.smoothing) * self.explode

    def metrics(self, batch):
        logits = self(batch[0])
        right = (logits.argmax(1) == batch[1]).float().mean()
        return {{"acc": right, "nll": F.cross_entropy(logits, batch[1])}}

    def training_step(self, batch, index):
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, index):
        self.log_dict({{f"val_{{k}}": v for k, v in self.metrics(batch).items()}})

    def test_step(self, batch, index):
        self.log_dict({{f"test_{{k}}": v for k, v in self.metrics(batch).items()}})

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)

class Plain(Mine):
    loss = None
    def training_step(self, batch, index):
        return F.cross_entropy(self(batch[0]), batch[1])

class Bare(Mine):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.net = nn.Sequential(*[m for m in self.net if not isinstance(m, nn.BatchNorm1d)])
"""
STUDY = """\
# @package _global_
defaults:
  - override /model: own
  - override /data: own
study:
  name: mine
  trials: 5
  metric: val_nll
  direction: minimize
model:
  _target_: {name}.Mine
data:
  _target_: {name}.Data
search:
  retrofit.dropout: interval(0, 0.5)
  retrofit.bn_momentum: tag(log, interval(0.001, 1))
  model.lr: tag(log, interval(0.001, 0.03))
"""
# In float64 a pack and a trial alone differ by rounding that stays small, see test_vmapped.
PRECISE = "trainer.precision=64-true"
QUICK = ("trainer.max_epochs=4", "executor=inline", "confirm.seeds=0", "pruner=none", PRECISE)


def write(folder: Path, lightning: str = "pytorch_lightning") -> str:
    """The module's file and a study's, `+study=mine --config-dir conf`; returns its import name."""
    name = f"mine_{lightning.replace('.', '_')}"
    (folder / f"{name}.py").write_text(MODULE.format(lightning=lightning))
    (folder / "conf" / "study").mkdir(parents=True, exist_ok=True)
    (folder / "conf" / "study" / "mine.yaml").write_text(STUDY.format(name=name))
    return name


def studied(folder: Path, text: str, *words: str) -> ResultSet:
    """Runs the study of this YAML from `folder`, which is the one that commands are typed in."""
    name = re.search(r"name: (\w+)", text)
    assert name is not None
    (folder / "conf" / "study").mkdir(parents=True)
    (folder / "conf" / "study" / f"{name[1]}.yaml").write_text(text)
    assert main([f"+study={name[1]}", "--config-dir", "conf", *words]) == 0
    return load_study(f"sweeps/{name[1]}")


def typed(said: str) -> dict[str, Any]:
    """What the lines of Python that `best` prints define: they are typed as they stand there."""
    lines = [line.strip() for line in said[said.index("\n    # ") :].splitlines()]
    names: dict[str, Any] = {}
    exec("\n".join(lines), names)
    return names
