"""Trials that share shapes, trained as one pack for as long as there are such trials."""

from __future__ import annotations

import logging
import time

from sweep.worker.build import make_trainer
from sweep.worker.desk import Desk, Disconnected
from sweep.worker.lanes import Key
from sweep.worker.ours import Ours
from sweep.worker.packing import Packing, free_memory
from sweep.worker.refill import Refill
from sweep.worker.theirs import Theirs
from sweep.worker.training import Training, next_training

log = logging.getLogger(__name__)


def train_packed(desk: Desk, key: Key) -> None:
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
    free_memory()


def _fit(desk: Desk, key: Key, trainings: list[Training]) -> None:
    """Trains in place: `trainings` are always those in the lanes."""
    packing = packing_of(desk, key, trainings)
    refill = Refill(desk, key, trainings, packing)
    settings = trainings[0].spec.config["trainer"]
    trainer = make_trainer({**settings, "max_epochs": -1}, [refill])
    trainer.fit(packing.pack, *packing.batches(trainer.strategy.root_device))


def packing_of(desk: Desk, key: Key, trainings: list[Training]) -> Packing:
    return (Theirs if key.theirs else Ours)(desk, trainings)


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
