"""Packs of `Classifier`s on image data."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dropnorm.data import EvalBatches
from dropnorm.data.images import ImageData
from dropnorm.pack import LaneBatches, Pack
from sweep.worker.build import build_data
from sweep.worker.desk import Desk
from sweep.worker.momentum import take_scores
from sweep.worker.packing import from_bytes, image_batches, to_bytes
from sweep.worker.scoring import (
    batches_of,
    diagnose,
    forward_context,
    look_at_the_test_set,
    score_precise,
)
from sweep.worker.training import Training

AT_ONCE = 16  # batches to a step of the Trainer, whose own work then takes a hundredth of the time


class Ours:
    """A `Packing` of `Classifier`s, whose `model` is what their constructor takes."""

    def __init__(self, desk: Desk, trainings: Sequence[Training]) -> None:
        first = trainings[0].spec
        data = build_data(first)
        assert isinstance(data, ImageData)
        self._desk, self._data = desk, data
        self.pack = Pack(
            [training.model for training in trainings],
            epochs=first.epochs,
            momenta=first.columns or None,
        )
        # A Trainer that trains on a part of an epoch counts its batches one by one.
        self._at_once = (
            AT_ONCE if first.config["trainer"].get("limit_train_batches", 1.0) == 1.0 else 1
        )
        self._has_banks = bool(first.columns and self.pack.bank(0).averages)

    def batches(self, device: torch.device) -> tuple[LaneBatches, EvalBatches]:
        return image_batches(self._data, self.pack.ages, device, self._at_once)

    def start(self, lane: int, training: Training) -> None:
        self.pack.refill(lane, training.model, from_bytes(training.spec.resume))

    def watch(self, trainings: Sequence[Training]) -> None:
        self.pack.watch([k for k, training in enumerate(trainings) if self._tells(training)])

    def _tells(self, training: Training) -> bool:
        """Whether validation after the epoch under way tells what is not known without it.

        A profiled trial's metrics are then those of its best momentum, where the bank is scored;
        and a confirmation is judged by its last epoch.
        """
        spec, epoch = training.spec, training.epoch + 1
        if spec.test:
            return epoch >= spec.epochs
        return spec.momentum_is_fixed or not self._has_banks or epoch not in spec.scored

    def score(self, due: Sequence[tuple[int, Training]]) -> None:
        if not due:
            return
        lanes, trainings = zip(*due, strict=True)
        with forward_context(self.pack):
            found = self.pack.score(lanes, batches_of(self._data, "val", self.pack))
        for training, scores in zip(trainings, found, strict=True):
            take_scores(training, scores, self._desk)

    def complete(self, lane: int, training: Training, is_better: bool) -> None:
        spec = training.spec
        if spec.test:
            diagnose(self.pack, lane, training, self._data, self._desk)
            look_at_the_test_set(self.pack, lane, training, self._data)
        elif training.bank:
            score_precise(self.pack, lane, training, self._data, self._desk)
        if spec.test or is_better:
            momentum = training.found.get(spec.momentum_key, ...)
            training.checkpoint = to_bytes(self.pack.checkpoint(lane, momentum))

    def save(self, lane: int) -> bytes:
        return to_bytes(self.pack.lane_snapshot(lane))
