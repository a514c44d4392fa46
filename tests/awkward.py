"""A module of somebody else's that does what it is told to, for the tests of executors."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from threading import Event

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset


class Awkward(pl.LightningModule):
    """Four epochs of a small linear layer; its accuracy is what `deed` says, whatever it learns."""

    def __init__(self, deed: str) -> None:
        super().__init__()
        self.deed = deed
        self.layer = nn.Linear(64, 4)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        x, y = batch
        loss = cross_entropy(self.layer(x.float().flatten(1)), y)
        if self.deed == "raises" and self.current_epoch == 1:
            raise ValueError("as it was told to")
        if self.deed == "dies" and self.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.deed == "loses_a_rank" and self.current_epoch == 1 and self.global_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.deed == "fails_in_a_rank" and self.current_epoch == 1 and self.global_rank == 1:
            raise ValueError("in one of two")
        if self.deed == "hangs" and self.current_epoch == 1:
            Event().wait()
        if self.deed == "is_nan" and self.current_epoch == 1:
            loss = loss * torch.nan
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        accuracy = 0.1 if self.deed == "is_bad" else 0.5 + 0.1 * self.current_epoch
        self.log("val_nll", 0.25)
        if self.deed != "logs_nothing":
            self.log("val_accuracy", accuracy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class BrokenLoader(pl.LightningDataModule):
    """Its loader's process is killed, as it is when the machine has no memory left."""

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(_Deadly(), batch_size=4, num_workers=1)

    def val_dataloader(self) -> DataLoader[Tensor]:
        return self.train_dataloader()


class _Deadly(Dataset[Tensor]):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class Evil:
    """What a checkpoint must never get to run: unpickled, it makes a folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self._folder,)
