"""Packs of other people's modules, which keep to the protocol of `dropnorm.pack.protocol`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils._pytree import tree_map

from dropnorm.data.images import ImageData
from dropnorm.pack.loaders import LaneLoaders
from dropnorm.pack.vmapped import VmappedPack
from sweep.messages import TrialSpec
from sweep.worker.build import can_test
from sweep.worker.desk import Desk
from sweep.worker.diagnosing import BATCHES, diagnose_module
from sweep.worker.fitness import BEGUN_IN_A_PACK, set_up, set_up_for
from sweep.worker.momentum import take_scores
from sweep.worker.packing import from_bytes, image_batches, to_bytes
from sweep.worker.scoring import forward_context
from sweep.worker.training import Training

log = logging.getLogger(__name__)


class Theirs:
    """A `Packing` of modules that vmap runs; a `model` is the trial's plain module."""

    def __init__(self, desk: Desk, trainings: Sequence[Training]) -> None:
        first = trainings[0].spec
        self._desk, self._data = desk, set_up(first)
        self.pack = VmappedPack(
            [training.model for training in trainings],
            seeds=[training.spec.seed for training in trainings],
            epochs=first.epochs,
            momenta=first.columns or None,
        )
        self._momenta = first.columns
        self._tests = can_test(trainings[0].model, self._data)

    def batches(self, device: torch.device) -> tuple[Iterable[Any], Iterable[Any]]:
        return self._batches(device, self.pack.ages)

    def start(self, lane: int, training: Training) -> None:
        saved = training.spec.resume
        snapshot = from_bytes(None if saved is None else saved.removeprefix(BEGUN_IN_A_PACK))
        self.pack.refill(lane, training.model, seed=training.spec.seed, snapshot=snapshot)

    def watch(self, trainings: Sequence[Training]) -> None:
        """A module's own validation always runs whole: only scores of it could be left out."""

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
        if spec.test:
            training.diagnostics = self._diagnosed(lane, spec)
        if spec.test and self._tests:
            data = set_up_for(spec, "test")
            (found,) = self._evaluated("test_", [lane], data.test_dataloader(), [None])
            training.metrics |= {name: value for name, (value,) in found.items()}

    def _diagnosed(self, lane: int, spec: TrialSpec) -> dict[str, float]:
        """What `LastDiagnostics` finds of the trial alone, on batches of the same last epoch."""
        trainer, device = self.pack.trainer, self.pack.device
        try:
            training, validation = self._batches(device, lambda: [(spec.seed, spec.epochs - 1)])
            module = trainer.precision_plugin.convert_module(self.pack.module(lane)).to(device)
            some = _placed(trainer, training, min(BATCHES, int(trainer.num_training_batches)))
            batches = [tree_map(lambda t: t[0], batch) for batch in some]
            with forward_context(self.pack):
                return diagnose_module(module, lambda: _validating(trainer, validation), batches)
        except Exception as error:  # of somebody else's code: it is confirmed all the same
            log.warning("no diagnostics of this trial: %s: %s", type(error).__name__, error)
            return {}

    def save(self, lane: int) -> bytes:
        return BEGUN_IN_A_PACK + to_bytes(self.pack.lane_snapshot(lane))

    def _batches(
        self, device: torch.device, ages: Callable[[], Sequence[tuple[int, int]]]
    ) -> tuple[Iterable[Any], Iterable[Any]]:
        if isinstance(self._data, ImageData):
            return image_batches(self._data, ages, device)
        return LaneLoaders(self._data.train_dataloader(), ages), self._data.val_dataloader()

    def _evaluated(
        self, prefix: str, lanes: Sequence[int], loader: Any, columns: Sequence[int | None]
    ) -> list[dict[str, list[float]]]:
        with forward_context(self.pack):
            found = self.pack.evaluate(lanes, _validating(self.pack.trainer, loader), columns)
        return [{prefix + name: v for name, v in scores.items()} for scores in found]


def _validating(trainer: pl.Trainer, loader: Any) -> Iterator[Any]:
    """Validation batches as the Trainer has them: as many of them, too."""
    limit = trainer.limit_val_batches
    return _placed(trainer, loader, int(len(loader) * limit) if isinstance(limit, float) else limit)


def _placed(trainer: pl.Trainer, batches: Iterable[Any], most: float) -> Iterator[Any]:
    """The first of these batches in the Trainer's precision, on its device."""
    for index, batch in enumerate(batches):
        if index >= most:
            return
        batch = trainer.precision_plugin.convert_input(batch)
        yield trainer.strategy.batch_to_device(batch)
