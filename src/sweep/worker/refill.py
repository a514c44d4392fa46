"""The end of a pack's epoch: report every lane, end what is over, start others in their places."""

from __future__ import annotations

import io
import time
from collections.abc import Hashable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from dropnorm.data.images import ImageData
from dropnorm.pack import Pack
from sweep.messages import Event, Ready, Saved
from sweep.worker.desk import Desk
from sweep.worker.metrics import SAVE_EVERY_S, first_broken, require
from sweep.worker.scoring import look_at_the_test_set, score_momenta, score_precise
from sweep.worker.training import Training, next_training


class Refill(Callback):
    """Keeps the lanes of a pack busy. `trainings` has the trial of each lane, in order."""

    def __init__(
        self, desk: Desk, key: Hashable, trainings: list[Training], data: ImageData
    ) -> None:
        self._desk, self._key, self._data = desk, key, data
        self._trainings = trainings
        self._saved_s = time.monotonic()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Trials that were cut short go on where they were saved."""
        assert isinstance(pl_module, Pack)
        for lane, training in enumerate(self._trainings):
            if training.spec.resume is not None:
                _start(pl_module, lane, training)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Pack)
        for lane, training in enumerate(self._trainings):
            self._judge(pl_module, lane, training)
        running = [training for training in self._trainings if training.status is None]
        stops = self._desk.say([training.report() for training in running])
        for lane, training in enumerate(self._trainings):
            if status := stops.get(training.spec.number):
                training.end(status, f"{status} after epoch {training.epoch}")
            elif training.status is None and training.is_over:
                self._complete(pl_module, lane, training)
        if events := [*self._saves(pl_module), *self._ends()]:
            self._desk.say(events)
        self._refill(trainer, pl_module)

    def _judge(self, pack: Pack, lane: int, training: Training) -> None:
        training.epoch += 1
        training.metrics = pack.metrics(lane)
        require(self._desk.metric, training.metrics)
        if broken := first_broken(training.metrics):
            training.end("failed", broken)
        elif training.epoch in training.spec.scored:
            score_momenta(pack, lane, training, self._data, self._desk)

    def _complete(self, pack: Pack, lane: int, training: Training) -> None:
        training.end("complete")
        spec, desk = training.spec, self._desk
        if training.bank:
            score_precise(pack, lane, training, self._data, desk)
        if spec.test:
            look_at_the_test_set(pack, lane, training, self._data)
        elif desk.is_better(training.metrics[desk.metric], spec.best):
            momentum = training.found.get(spec.momentum_key, ...)
            training.checkpoint = _bytes(pack.checkpoint(lane, momentum))

    def _saves(self, pack: Pack) -> list[Event]:
        """Now and then of what goes on, and always of what is cut short."""
        due = time.monotonic() - self._saved_s > SAVE_EVERY_S
        statuses = (None, "interrupted") if due else ("interrupted",)
        self._saved_s = time.monotonic() if due else self._saved_s
        return [
            Saved(training.spec.number, training.epoch, _bytes(pack.lane_snapshot(lane)))
            for lane, training in enumerate(self._trainings)
            if training.status in statuses
        ]

    def _ends(self) -> list[Event]:
        """Of the trials that have ended, and a request for as many others."""
        ended = [training.last_word() for training in self._trainings if training.status]
        free = self._desk.lanes - len(self._trainings) + len(ended) - len(self._desk.waiting)
        return [*ended, Ready(free)] if ended and free > 0 else [*ended]

    def _refill(self, trainer: pl.Trainer, pack: Pack) -> None:
        """Other trials take the places of those that ended; lanes without one are dropped."""
        for lane, training in enumerate(self._trainings):
            if training.status and (following := next_training(self._desk, self._key)):
                self._trainings[lane] = following
                _start(pack, lane, following)
        keep = [lane for lane, training in enumerate(self._trainings) if not training.status]
        if not keep:
            trainer.should_stop = True
        elif len(keep) < len(self._trainings):
            pack.shrink(keep)
        self._trainings[:] = [self._trainings[lane] for lane in keep]


def _start(pack: Pack, lane: int, training: Training) -> None:
    saved = training.spec.resume
    snapshot = None if saved is None else torch.load(io.BytesIO(saved), weights_only=True)
    pack.refill(lane, training.settings, snapshot)


def _bytes(snapshot: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.save(snapshot, file)
    return file.getvalue()
