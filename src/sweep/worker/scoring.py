"""Precise statistics and diagnostics, on the weights of one lane."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TypeAlias

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from dropnorm.bank import Bank, score
from dropnorm.callbacks.diagnostics import (
    Diagnostics,
    dead_units,
    differences,
    largest_outputs,
    variance_shifts,
)
from dropnorm.data import EvalBatches
from dropnorm.data.images import ImageData
from dropnorm.data.parts import PartName
from dropnorm.evaluation import norms_of
from dropnorm.pack import Pack
from dropnorm.precise import recalibrate
from sweep.worker.desk import Desk
from sweep.worker.training import Training

log = logging.getLogger(__name__)

PRECISE = 5000  # training images for precise statistics: 10^3 to 10^4 suffice (Wu & Johnson 2021)
SUBSET = 5000  # training images that the generalisation gap is measured on, the same in all trials

Averages: TypeAlias = Mapping[str, Tensor]  # running_mean and running_var of each norm, by name


def score_precise(pack: Pack, lane: int, training: Training, data: ImageData, desk: Desk) -> None:
    """The study's metric with precise statistics, gathered with dropout off and on."""
    network = pack.classifier(lane).network.to(pack.device)
    with forward_context(pack):
        _, scores = _precise(network, data, pack)
    training.precise = {name: values[desk.metric] for name, values in scores.items()}


def diagnose(pack: Pack, lane: int, training: Training, data: ImageData, desk: Desk) -> None:
    """What `dropnorm.callbacks.Diagnostics` finds, and what `score_precise` does, in one.

    A pass over validation, one over `SUBSET`, and those that precise statistics take.
    """
    trial = pack.classifier(lane).to(pack.device)  # layers are named as in a trial alone
    network = trial.network
    with forward_context(pack):
        with largest_outputs(trial) as largest:
            running = _evaluate(network, data, "val", pack)
        found = dead_units(largest)
        rows = data.train_rows()[:SUBSET].to(pack.device)
        part = data.part("train", pack.device)
        subset = (part.gather(some) for some in torch.split(rows, data.eval_batch_size))
        found |= differences("gap", _scores(network, [], subset)[0], running)
        if norms_of(network):
            precise, scores = _precise(network, data, pack)
            off, on = scores["dropout_off"], scores["dropout_on"]
            named = {f"network.{name}": value for name, value in precise["dropout_off"].items()}
            found |= variance_shifts(trial, named)
            found |= differences("lag_cost", on, running) | differences("shift_cost", off, on)
            training.precise = {name: values[desk.metric] for name, values in scores.items()}
    training.diagnostics = found


class LastDiagnostics(Diagnostics):
    """Diagnostics of the last epoch, of a trial by itself; nothing is logged.

    A module of somebody else's that cannot be diagnosed is confirmed all the same.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__(every_n_epochs=epochs, log=False)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Without validation_step there is no validation to diagnose."""

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        try:
            super().on_validation_start(trainer, pl_module)
        except Exception as error:
            log.warning("no diagnostics of this trial: %s: %s", type(error).__name__, error)


def _precise(
    network: nn.Module, data: ImageData, pack: Pack
) -> tuple[dict[str, Averages], dict[str, dict[str, float]]]:
    """Precise statistics gathered with dropout off and on, and validation's metrics with each."""
    count = max(PRECISE // data.batch_size, 1) * data.batch_size  # whole batches, as in training
    rows = data.train_rows()[:count].to(pack.device)
    part = data.part("train", pack.device)
    averages: dict[str, Averages] = {}
    for name, dropout in (("dropout_off", False), ("dropout_on", True)):
        some = (part.gather(batch) for batch in torch.split(rows, data.batch_size))
        averages[name] = recalibrate(network, some, dropout=dropout)
    scores = _scores(network, [*averages.values()], batches_of(data, "val", pack))
    return averages, dict(zip(averages, scores, strict=True))


def look_at_the_test_set(pack: Pack, lane: int, training: Training, data: ImageData) -> None:
    """Adds test_accuracy, test_nll and test_ece to the trial's metrics."""
    network = pack.classifier(lane).network.to(pack.device)
    with forward_context(pack):
        metrics = _evaluate(network, data, "test", pack)
    training.metrics |= {name.replace("val_", "test_"): value for name, value in metrics.items()}


def _evaluate(network: nn.Module, data: ImageData, part: PartName, pack: Pack) -> dict[str, float]:
    """The metrics of a network as it is."""
    return _scores(network, [], batches_of(data, part, pack))[0]


def _scores(
    network: nn.Module, averages: Sequence[Averages], batches: Iterable[tuple[Tensor, Tensor]]
) -> list[dict[str, float]]:
    """The metrics of a network with each of these averages; with its own if there are none.

    They take the columns of a bank: what runs before the first norm runs once for all of them.
    """
    bank = Bank.of(network, [None] * max(len(averages), 1))
    for name, columns in bank.averages.items():
        for m, entries in enumerate(averages):
            parts = entries[f"{name}.running_mean"], entries[f"{name}.running_var"]
            columns[:, m] = torch.stack(parts)
    columns_of = score(network, bank, batches)
    return [
        {name: values[m] for name, values in columns_of.items()} for m in range(len(bank.momenta))
    ]


def batches_of(data: ImageData, part: PartName, pack: Pack) -> EvalBatches:
    return EvalBatches(data.part(part, pack.device), data.eval_batch_size)


def forward_context(pack: pl.LightningModule) -> AbstractContextManager[None]:
    """The Trainer's precision, which its own loops set by themselves."""
    return pack.trainer.precision_plugin.forward_context()
