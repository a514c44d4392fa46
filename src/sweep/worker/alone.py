"""One trial by itself: what cannot be packed, such as a module of somebody else's."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from sweep.messages import Ended, Report, Saved, Status, TrialSpec
from sweep.worker.build import build, make_trainer
from sweep.worker.desk import Desk
from sweep.worker.metrics import SAVE_EVERY_S, first_broken, require


def train_alone(desk: Desk, spec: TrialSpec) -> Ended:
    """One trial from its initial weights, or from where it was saved, to its end."""
    start = time.monotonic()
    data, module = build(spec)
    conversation = Conversation(desk, spec)
    trainer = make_trainer(spec.config["trainer"], [conversation])
    with _file(spec.resume) as checkpoint:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
    metrics, status = conversation.metrics, conversation.status
    value = metrics.get(desk.metric)
    best = status == "complete" and value is not None and desk.is_better(value, spec.best)
    return Ended(
        spec.number,
        status,
        metrics,
        seconds=time.monotonic() - start,
        reason=conversation.reason,
        checkpoint=_checkpoint(trainer, weights_only=True) if best else None,
    )


class Conversation(Callback):
    """Reports a trial's metrics after each validated epoch, and stops it when told to."""

    def __init__(self, desk: Desk, spec: TrialSpec) -> None:
        self._desk, self._number = desk, spec.number
        self._saved_s = time.monotonic()
        self.metrics: dict[str, float] = {}
        self.status: Status = "complete"
        self.reason: str | None = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
        require(self._desk.metric, self.metrics)
        if broken := first_broken(self.metrics):
            self._stop(trainer, "failed", broken)
            return
        epoch = trainer.current_epoch + 1
        stops = self._desk.say([Report(self._number, epoch, self.metrics)])
        if status := stops.get(self._number):
            self._stop(trainer, status, f"{status} after epoch {epoch}")
        if status == "interrupted" or time.monotonic() - self._saved_s > SAVE_EVERY_S:
            self._desk.say([Saved(self._number, epoch, _checkpoint(trainer))])
            self._saved_s = time.monotonic()

    def _stop(self, trainer: pl.Trainer, status: Status, reason: str) -> None:
        self.status, self.reason = status, reason
        trainer.should_stop = True


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
