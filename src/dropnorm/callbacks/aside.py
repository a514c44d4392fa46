"""Extra passes over a module's data and its own hooks, without a trace in what comes after.

`replay_validation` runs a whole validation on the side. What it logs comes back; loggers, random
numbers, data order and the loaders' workers are as if it had not happened.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any, TypeAlias

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader

from dropnorm.callbacks.recorder import Recorder
from dropnorm.draws import Draws, seed_draws

Data: TypeAlias = tuple[Any, Any]  # one or more loaders, and how many batches of each


def replay_validation(
    trainer: pl.Trainer, module: pl.LightningModule, data: Data | None = None
) -> dict[str, Tensor]:
    """What the module's own validation logs now, by name, reduced over batches and processes.

    `data` are other batches than those of validation. The module's mode is left as it is. Call it
    when no validation is under way: in `on_validation_start`, say, where the module has no
    half-filled metrics of its own.
    """
    loaders, limits = data or (trainer.val_dataloaders, trainer.num_val_batches)
    several = isinstance(limits, list) and len(limits) > 1
    with _recorded(trainer, module) as recorder:
        module.on_validation_start()
        module.on_validation_epoch_start()
        for batch, index, loader in _batches(trainer, module, loaders, limits):
            recorder.at(batch, loader if several else None)
            place = (batch, index, loader) if several else (batch, index)
            module.on_validation_batch_start(batch, index, loader)
            outputs = trainer.strategy.validation_step(*place)
            module.on_validation_batch_end(outputs, batch, index, loader)
        recorder.at(None, None)
        module.on_validation_epoch_end()
        module.on_validation_end()
    return recorder.results()


def training_batches(trainer: pl.Trainer, count: int) -> Data:
    """The first batches of the training set, the same ones every time even if it is shuffled."""
    return trainer.train_dataloader, count


def _batches(
    trainer: pl.Trainer, module: pl.LightningModule, loaders: Any, limits: Any
) -> Iterator[tuple[Any, int, int]]:
    """(batch on the device, its index, its loader's index), with the module's transfer hooks."""
    combined = CombinedLoader(tree_map(_another, loaders), "sequential")
    combined.limits = limits
    with _untouched(module, combined.flattened):
        for batch, index, loader in iter(combined):
            batch = trainer.precision_plugin.convert_input(batch)
            batch = module._on_before_batch_transfer(batch, loader)
            yield trainer.strategy.batch_to_device(batch, dataloader_idx=loader), index, loader


def _another(loader: Any) -> Any:
    """One that may be iterated beside the loader: those that know where they are do so apart."""
    is_stateful = hasattr(loader, "load_state_dict") and not isinstance(loader, DataLoader)
    return copy.copy(loader) if is_stateful else loader


@contextlib.contextmanager
def _recorded(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[Recorder]:
    """What the module logs inside the block goes to the recorder and nowhere else."""
    recorder = Recorder(trainer, module)
    loggers = trainer.loggers
    trainer.loggers = [DummyLogger() for _ in loggers]
    # On the instance, before the class's method; `log_dict` calls it too.
    vars(module)["log"] = recorder.log
    try:
        yield recorder
    finally:
        del vars(module)["log"]
        trainer.loggers = loggers


@contextlib.contextmanager
def _untouched(module: pl.LightningModule, loaders: list[Any]) -> Iterator[None]:
    """Random numbers and the loaders' own state are afterwards as before; inside, keyed."""
    draws = [Draws(loader) for loader in (None, *loaders)]
    # A loader with persistent workers has one iterator, which is in the middle of an epoch.
    running = [(dl, dl._iterator) for dl in loaders if getattr(dl, "persistent_workers", False)]
    for loader, _ in running:
        loader._iterator = None
    devices = [module.device] if module.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            for loader in (None, *loaders):
                seed_draws(0, "aside", loader=loader)
            yield
    finally:
        for stand in draws:
            stand.go_on()
        for loader, iterator in running:
            loader._iterator = iterator
