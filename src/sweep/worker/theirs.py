"""Packs of other people's modules, which keep to the protocol of `dropnorm.pack.protocol`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden

from dropnorm.data.images import ImageData
from dropnorm.pack.loaders import LaneLoaders
from dropnorm.pack.vmapped import VmappedPack
from sweep.worker.build import build_data, lightning_of
from sweep.worker.desk import Desk
from sweep.worker.fitness import BEGUN_IN_A_PACK, set_up
from sweep.worker.momentum import take_scores
from sweep.worker.packing import from_bytes, image_batches, to_bytes
from sweep.worker.scoring import forward_context
from sweep.worker.training import Training


class Theirs:
    """A `Packing` of modules that vmap runs; a `model` is the trial's plain module."""

    def __init__(self, desk: Desk, trainings: Sequence[Training]) -> None:
        first = trainings[0].spec
        self._desk, self._data = desk, set_up(first)
        self.pack = VmappedPack(
            [training.model for training in trainings],
            seeds=[training.spec.seed for training in trainings],
            epochs=first.config["trainer"]["max_epochs"],
            momenta=first.columns or None,
        )
        self._momenta = first.columns
        parent = lightning_of(trainings[0].model).LightningModule
        self._tests = is_overridden("test_step", trainings[0].model, parent)

    def batches(self, device: torch.device) -> tuple[Iterable[Any], Iterable[Any]]:
        data, ages = self._data, self.pack.ages
        if isinstance(data, ImageData):
            return image_batches(data, ages, device)
        return LaneLoaders(data.train_dataloader(), ages), data.val_dataloader()

    def start(self, lane: int, training: Training) -> None:
        saved = training.spec.resume
        snapshot = from_bytes(None if saved is None else saved.removeprefix(BEGUN_IN_A_PACK))
        self.pack.refill(lane, training.model, seed=training.spec.seed, snapshot=snapshot)

    def score(self, due: Sequence[tuple[int, Training]]) -> None:
        if not self._momenta or not due:
            return
        lanes, trainings = zip(*due, strict=True)
        columns = range(len(self._momenta))
        found = self._evaluated("val_", lanes, self._data.val_dataloader(), columns)
        for training, scores in zip(trainings, found, strict=True):
            take_scores(training, scores, self._desk)

    def complete(self, lane: int, training: Training, is_better: bool) -> None:
        spec = training.spec
        if spec.test or is_better:
            momentum = training.found.get(spec.momentum_key, ...)
            training.checkpoint = to_bytes(self.pack.checkpoint(lane, momentum))
        if spec.test and self._tests:
            data = build_data(spec)  # set up for testing only, beside that which trains
            data.prepare_data()
            data.setup("test")
            (found,) = self._evaluated("test_", [lane], data.test_dataloader(), [None])
            training.metrics |= {name: value for name, (value,) in found.items()}

    def save(self, lane: int) -> bytes:
        return BEGUN_IN_A_PACK + to_bytes(self.pack.lane_snapshot(lane))

    def _evaluated(
        self, prefix: str, lanes: Sequence[int], loader: Any, columns: Sequence[int | None]
    ) -> list[dict[str, list[float]]]:
        with forward_context(self.pack):
            found = self.pack.evaluate(lanes, _placed(self.pack.trainer, loader), columns)
        return [{prefix + name: v for name, v in scores.items()} for scores in found]


def _placed(trainer: pl.Trainer, loader: Any) -> Iterator[Any]:
    """Validation batches as the Trainer has them: as many, in its precision, on its device."""
    limit = trainer.limit_val_batches
    most = int(len(loader) * limit) if isinstance(limit, float) else limit
    for index, batch in enumerate(loader):
        if index >= most:
            return
        batch = trainer.precision_plugin.convert_input(batch)
        yield trainer.strategy.batch_to_device(batch)
