"""The end of a pack's epoch: report every lane, end what is over, start others in their places."""

from __future__ import annotations

import time

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from sweep.messages import Event, Ready, Saved
from sweep.worker.desk import Desk
from sweep.worker.lanes import Key
from sweep.worker.metrics import SAVE_EVERY_S, first_broken, require
from sweep.worker.packing import Packing
from sweep.worker.training import Training, next_training


class Refill(Callback):
    """Keeps the lanes of a pack busy. `trainings` has the trial of each lane, in order."""

    def __init__(self, desk: Desk, key: Key, trainings: list[Training], packing: Packing) -> None:
        self._desk, self._key, self._packing = desk, key, packing
        self._trainings = trainings
        self._saved_s = time.monotonic()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Trials that were cut short go on where they were saved."""
        for lane, training in enumerate(self._trainings):
            if training.spec.resume is not None:
                self._packing.start(lane, training)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._packing.watch(self._trainings)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        lanes = list(enumerate(self._trainings))
        for lane, training in lanes:
            training.epoch += 1
            training.metrics = self._packing.pack.metrics(lane)
        self._packing.score([(lane, training) for lane, training in lanes if training.is_scored])
        for training in self._trainings:
            self._judge(training)
        running = [training for training in self._trainings if training.status is None]
        stops = self._desk.say([training.report() for training in running])
        for lane, training in lanes:
            if status := stops.get(training.spec.number):
                training.end(status, f"{status} after epoch {training.epoch}")
            elif training.status is None and training.is_over:
                training.end("complete")
                value = training.metrics[self._desk.metric]
                is_better = self._desk.is_better(value, training.spec.best)
                self._packing.complete(lane, training, is_better)
        if events := [*self._saves(), *self._ends()]:
            self._desk.say(events)
        self._refill(trainer)

    def _judge(self, training: Training) -> None:
        if training.is_over or not training.spec.test:  # a confirmation is judged by its last epoch
            require(self._desk.metric, training.metrics)
        if broken := first_broken(training.metrics, training.epoch):
            training.end("failed", broken)

    def _saves(self) -> list[Event]:
        """Now and then of what goes on, and always of what is cut short."""
        due = time.monotonic() - self._saved_s > SAVE_EVERY_S
        statuses = (None, "interrupted") if due else ("interrupted",)
        self._saved_s = time.monotonic() if due else self._saved_s
        return [
            Saved(training.spec.number, training.epoch, self._packing.save(lane))
            for lane, training in enumerate(self._trainings)
            if training.status in statuses
        ]

    def _ends(self) -> list[Event]:
        """Of the trials that have ended, and a request for as many others."""
        ended = [training.last_word() for training in self._trainings if training.status]
        free = self._desk.lanes - len(self._trainings) + len(ended) - len(self._desk.waiting)
        return [*ended, Ready(free)] if ended and free > 0 else [*ended]

    def _refill(self, trainer: pl.Trainer) -> None:
        """Other trials take the places of those that ended; lanes without one are dropped."""
        for lane, training in enumerate(self._trainings):
            if training.status and (following := next_training(self._desk, self._key)):
                self._trainings[lane] = following
                self._packing.start(lane, following)
        keep = [lane for lane, training in enumerate(self._trainings) if not training.status]
        if not keep:
            trainer.should_stop = True
        elif len(keep) < len(self._trainings):
            self._packing.pack.shrink(keep)
        self._trainings[:] = [self._trainings[lane] for lane in keep]
