"""One trial by itself: what cannot be packed, such as a module of somebody else's."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.utilities.model_helpers import is_overridden

from dropnorm.callbacks import MomentumBank
from dropnorm.callbacks.callback import Callback
from sweep.messages import Ended, Report, Saved, Status, TrialSpec
from sweep.worker.build import build, lightning_of, make_trainer
from sweep.worker.desk import Desk
from sweep.worker.metrics import SAVE_EVERY_S, first_broken, require


def train_alone(desk: Desk, spec: TrialSpec) -> Ended:
    """One trial from its initial weights, or from where it was saved, to its end."""
    start = time.monotonic()
    data, module = build(spec)
    bank = ScoredBank(spec.columns, spec.scored) if spec.columns else None
    conversation = Conversation(desk, spec, bank)
    trainer = make_trainer(
        spec.config["trainer"], [*([bank] if bank else []), conversation], module
    )
    with _file(spec.resume) as checkpoint:
        trainer.fit(module, **_served(trainer, data, "fit"), ckpt_path=checkpoint)
    ended = conversation.last_word()
    parent = lightning_of(module).LightningModule
    if spec.test and ended.status == "complete" and is_overridden("test_step", module, parent):
        trainer.test(module, **_served(trainer, data, "test"), verbose=False)
        tested = {k: float(v) for k, v in trainer.callback_metrics.items()}
        ended = replace(ended, metrics={**ended.metrics, **tested})
    elif ended.status == "complete" and desk.is_better(ended.metrics[desk.metric], spec.best):
        if bank is not None and conversation.found:
            bank.use(module, conversation.found[spec.momentum_key])
        ended = replace(ended, checkpoint=_checkpoint(trainer, weights_only=True))
    return replace(ended, seconds=time.monotonic() - start)


class ScoredBank(MomentumBank):
    """A bank that validates its momenta after some epochs only, and logs nothing by itself."""

    def __init__(self, momenta: Sequence[float | None], epochs: Sequence[int]) -> None:
        super().__init__(momenta)
        self._epochs = epochs

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.curve = {}
        if trainer.current_epoch + 1 in self._epochs:
            super().on_validation_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The conversation reports the curve."""


class Conversation(Callback):
    """Reports a trial's metrics after each validated epoch, and stops it when told to."""

    def __init__(self, desk: Desk, spec: TrialSpec, bank: ScoredBank | None) -> None:
        self._desk, self._spec, self._bank = desk, spec, bank
        self._saved_s = time.monotonic()
        self._last = Report(spec.number, 0, {})
        self.found: dict[str, float | None] = {}
        self._status: Status = "complete"
        self._reason: str | None = None

    def last_word(self) -> Ended:
        """How the trial ended, as far as its training tells."""
        last, status = self._last, self._status
        return Ended(
            last.trial, status, last.metrics, reason=self._reason, bank=last.bank, found=self.found
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
        require(self._desk.metric, metrics)
        epoch, number = trainer.current_epoch + 1, self._spec.number
        self._last = self._scored(Report(number, epoch, metrics))
        if broken := first_broken(self._last.metrics):
            self._stop(trainer, "failed", broken)
            return
        if status := self._desk.say([self._last]).get(number):
            self._stop(trainer, status, f"{status} after epoch {epoch}")
        if status == "interrupted" or time.monotonic() - self._saved_s > SAVE_EVERY_S:
            self._desk.say([Saved(number, epoch, _checkpoint(trainer))])
            self._saved_s = time.monotonic()

    def _scored(self, report: Report) -> Report:
        """The report with the bank's curve; its metrics are then those of the best momentum."""
        if self._bank is None or not self._bank.curve:
            return report
        curve, spec = self._bank.curve, self._spec
        require(self._desk.metric, {name: 0.0 for name in curve})
        values = curve[self._desk.metric]
        report = replace(report, bank=tuple(values[momentum] for momentum in spec.columns))
        if spec.momentum_is_fixed:
            return report
        sign = -1.0 if self._desk.direction == "maximize" else 1.0
        best = min(spec.momenta, key=lambda momentum: sign * values[momentum])
        self.found = {spec.momentum_key: best}
        return replace(report, metrics={**report.metrics, **{n: c[best] for n, c in curve.items()}})

    def _stop(self, trainer: pl.Trainer, status: Status, reason: str) -> None:
        self._status, self._reason = status, reason
        trainer.should_stop = True


def _served(
    trainer: pl.Trainer, data: pl.LightningDataModule, stage: Literal["fit", "test"]
) -> dict[str, Any]:
    """The data as this Trainer takes it: one of Lightning's packages knows not the other's."""
    if isinstance(trainer, pl.Trainer) == isinstance(data, pl.LightningDataModule):
        return {"datamodule": data}
    data.trainer = trainer
    data.prepare_data()
    data.setup(stage)
    if stage == "test":
        return {"dataloaders": data.test_dataloader()}
    loaders = data.train_dataloader(), data.val_dataloader()
    return dict(zip(("train_dataloaders", "val_dataloaders"), loaders, strict=True))


def _checkpoint(trainer: pl.Trainer, weights_only: bool = False) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.ckpt"
        trainer.save_checkpoint(path, weights_only=weights_only)
        return path.read_bytes()


@contextmanager
def _file(checkpoint: bytes | None) -> Iterator[Path | None]:
    """The checkpoint as a file, which is what a Trainer reads."""
    if checkpoint is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.ckpt"
        path.write_bytes(checkpoint)
        yield path
