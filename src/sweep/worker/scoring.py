"""All momenta of a bank, and precise statistics, scored on the weights of one lane."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import nn

from dropnorm.bank import Bank, score
from dropnorm.data import EvalBatches
from dropnorm.data.images import ImageData
from dropnorm.data.parts import PartName
from dropnorm.pack import Pack
from dropnorm.precise import recalibrate
from sweep.worker.desk import Desk
from sweep.worker.training import Training

PRECISE_BATCHES = 50  # means and variances over some thousand images, exact to a percent
_TIE = "val_nll"  # of momenta with equal accuracy the one with the lower loss is better


def score_momenta(pack: Pack, lane: int, training: Training, data: ImageData, desk: Desk) -> None:
    """Scores the bank after an epoch; the trial's metrics become those of its best momentum.

    A network without batch norm has nothing that a momentum could shape, and keeps its own.
    """
    spec, bank = training.spec, pack.bank(lane)
    if not bank.averages:
        return
    network = pack.classifier(lane).network.to(pack.device)
    with forward_context(pack):
        columns = score(network, bank, _batches(data, "val", pack))
    training.bank = tuple(columns[desk.metric])
    if spec.momentum_is_fixed:
        return
    sign = -1.0 if desk.direction == "maximize" else 1.0
    values, ties = columns[desk.metric], columns[_TIE]
    best = min(range(len(spec.momenta)), key=lambda m: (sign * values[m], ties[m]))
    training.metrics |= {name: column[best] for name, column in columns.items()}
    training.found = {spec.momentum_key: spec.momenta[best]}


def score_precise(pack: Pack, lane: int, training: Training, data: ImageData, desk: Desk) -> None:
    """The study's metric with precise statistics, gathered with dropout off and on."""
    network = pack.classifier(lane).network.to(pack.device)
    rows = data.train_rows()[: PRECISE_BATCHES * data.batch_size].to(pack.device)
    part = data.part("train", pack.device)
    with forward_context(pack):
        for name, dropout in (("dropout_off", False), ("dropout_on", True)):
            some = (part.gather(batch) for batch in torch.split(rows, data.batch_size))
            network.load_state_dict(recalibrate(network, some, dropout=dropout), strict=False)
            training.precise[name] = _evaluate(network, data, "val", pack)[desk.metric]


def look_at_the_test_set(pack: Pack, lane: int, training: Training, data: ImageData) -> None:
    """Adds test_accuracy, test_nll and test_ece to the trial's metrics."""
    network = pack.classifier(lane).network.to(pack.device)
    with forward_context(pack):
        metrics = _evaluate(network, data, "test", pack)
    training.metrics |= {name.replace("val_", "test_"): value for name, value in metrics.items()}


def _evaluate(network: nn.Module, data: ImageData, part: PartName, pack: Pack) -> dict[str, float]:
    """The metrics of a network as it is: a bank of one column begins with its averages."""
    columns = score(network, Bank.of(network, [None]), _batches(data, part, pack))
    return {name: values[0] for name, values in columns.items()}


def _batches(data: ImageData, part: PartName, pack: Pack) -> EvalBatches:
    return EvalBatches(data.part(part, pack.device), data.eval_batch_size)


def forward_context(pack: Pack) -> AbstractContextManager[None]:
    """The Trainer's precision, which its own loops set by themselves."""
    return pack.trainer.precision_plugin.forward_context()
