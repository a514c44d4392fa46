"""Trials that share shapes, trained as one pack for as long as there are such trials."""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable

import torch

from dropnorm.data import EvalBatches
from dropnorm.data.images import ImageData
from dropnorm.pack import LaneBatches, Pack
from sweep.worker.build import build_data, make_trainer
from sweep.worker.desk import Desk, Disconnected
from sweep.worker.refill import Refill
from sweep.worker.training import Training, next_training

log = logging.getLogger(__name__)


def train_packed(desk: Desk, key: Hashable) -> None:
    """Trains what waits with this key, and refills lanes with it until none is left.

    If a pack fails as a whole its trials are given back, and the next has half as many lanes; so a
    pack that does not fit shrinks until it does, and a trial that is broken is alone at last.
    """
    trainings: list[Training] = []
    while len(trainings) < desk.lanes and (training := next_training(desk, key)):
        trainings.append(training)
    if not trainings:
        return
    try:
        _fit(desk, key, trainings)
    except Disconnected:
        raise
    except Exception as error:
        _give_up(desk, trainings, error)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # of a pack that did not fit


def _fit(desk: Desk, key: Hashable, trainings: list[Training]) -> None:
    """Trains in place: `trainings` are always those in the lanes."""
    first = trainings[0].spec
    data = build_data(first)
    assert isinstance(data, ImageData)
    settings = first.config["trainer"]
    pack = Pack(
        [training.settings for training in trainings],
        epochs=settings["max_epochs"],
        momenta=first.columns or None,
    )
    refill = Refill(desk, key, trainings, data)
    trainer = make_trainer({**settings, "max_epochs": -1}, [refill])
    device = trainer.strategy.root_device
    train = LaneBatches(data.part("train", device), data.train_rows(), data.batch_size, pack.ages)
    trainer.fit(pack, train, EvalBatches(data.part("val", device), data.eval_batch_size))


def _give_up(desk: Desk, trainings: list[Training], error: Exception) -> None:
    if len(trainings) == 1:
        desk.lanes = desk.most_lanes  # what was too large, or broken, is gone
        desk.fail(trainings[0].spec.number, error, time.monotonic() - trainings[0].start_s)
        return
    desk.lanes = len(trainings) // 2
    what = f"a pack of {len(trainings)} failed with {type(error).__name__}: {error}"
    log.exception("%s; %d lanes now", what, desk.lanes)
    for training in trainings:
        training.end("interrupted", f"{what}; it will run again among {desk.lanes}")
    desk.say([training.last_word() for training in trainings])
