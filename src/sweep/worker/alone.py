"""One trial by itself: what cannot be packed, such as a module of somebody else's."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl

from dropnorm.callbacks import MomentumBank
from dropnorm.callbacks.callback import Callback
from dropnorm.draws import seed_draws
from dropnorm.evaluation import norms_of
from sweep.messages import Ended, Report, Saved, TrialSpec
from sweep.worker.build import build, can_test, check_validated, make_trainer
from sweep.worker.desk import Desk
from sweep.worker.draws import KeyedDraws
from sweep.worker.metrics import SAVE_EVERY_S, first_broken, require
from sweep.worker.momentum import of_best
from sweep.worker.scoring import LastDiagnostics


def train_alone(desk: Desk, spec: TrialSpec, rank: int = 0) -> Ended:
    """One trial from its initial weights, or from where it was saved, to its end.

    Of several processes, each with its `rank`, all do the same, and the first has the last word.
    """
    start = time.monotonic()
    data, module = build(spec, rank)
    check_validated(module, data, desk.metric)
    bank = ScoredBank(spec.columns, spec.scored) if spec.columns and norms_of(module) else None
    conversation = Conversation(desk, spec, bank)
    last = LastDiagnostics(spec.epochs) if spec.test else None
    draws = KeyedDraws(spec, rank)
    callbacks: list[Callback] = [draws, *filter(None, (bank, last)), conversation]
    trainer = make_trainer(spec.config["trainer"], callbacks, module)
    draws.attach(trainer, data)
    with _file(spec.resume) as checkpoint:
        trainer.fit(module, **served(trainer, data, "fit"), ckpt_path=checkpoint)
    ended = conversation.last_word
    if ended.status != "complete":
        return replace(ended, seconds=time.monotonic() - start)
    if spec.test or desk.is_better(ended.metrics[desk.metric], spec.best):
        if bank is not None and ended.found:
            bank.use(module, ended.found[spec.momentum_key])  # type: ignore[arg-type]
        ended = replace(ended, checkpoint=_checkpoint(trainer, weights_only=True))
    if last is not None:
        ended = replace(ended, diagnostics=last.values)
    if spec.test and can_test(module, data):
        seed_draws(0, "data")  # a split that is drawn when data are set up is that of training
        trainer.test(module, **served(trainer, data, "test"), verbose=False)
        tested = {k: float(v) for k, v in trainer.callback_metrics.items()}
        ended = replace(ended, metrics={**ended.metrics, **tested})
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


@dataclass(frozen=True)
class Turn:
    """What comes of an epoch: decided by one process, and followed by all."""

    ended: Ended  # how the trial ends if it does so here
    stops: bool = False
    saves: bool = False


class Conversation(Callback):
    """Reports a trial's metrics after each validated epoch, and stops it when told to.

    Of several processes the first one speaks and decides: what a module logs, and what a clock
    says, may differ between them, and if one stopped by itself the others would wait for ever.
    """

    def __init__(self, desk: Desk, spec: TrialSpec, bank: ScoredBank | None) -> None:
        self._desk, self._spec, self._bank = desk, spec, bank
        self._saved_s = time.monotonic()
        self.last_word = Ended(spec.number, "complete")  # as far as training tells

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        turn = self._decide(trainer) if trainer.is_global_zero else None
        turn = trainer.strategy.broadcast(turn)
        assert turn is not None
        self.last_word, trainer.should_stop = turn.ended, trainer.should_stop or turn.stops
        if turn.saves:
            checkpoint = _checkpoint(trainer)  # all processes take part
            if trainer.is_global_zero:
                epoch = trainer.current_epoch + 1
                self._desk.say([Saved(self._spec.number, epoch, checkpoint)])
                self._saved_s = time.monotonic()

    def _decide(self, trainer: pl.Trainer) -> Turn:
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
        require(self._desk.metric, metrics)
        epoch, number = trainer.current_epoch + 1, self._spec.number
        report, found = self._scored(Report(number, epoch, metrics))
        ended = Ended(number, "complete", report.metrics, bank=report.bank, found=found)
        if broken := first_broken(report.metrics, epoch):
            return Turn(replace(ended, status="failed", reason=broken), stops=True)
        status = self._desk.say([report]).get(number)
        saves = status == "interrupted" or time.monotonic() - self._saved_s > SAVE_EVERY_S
        if status:
            ended = replace(ended, status=status, reason=f"{status} after epoch {epoch}")
        return Turn(ended, status is not None, saves)

    def _scored(self, report: Report) -> tuple[Report, dict[str, float | None]]:
        """The report with the bank's curve and the best momentum's metrics, and which that is."""
        if self._bank is None or not self._bank.curve:
            return report, {}
        spec, curve = self._spec, self._bank.curve
        scores = {name: [values[m] for m in spec.columns] for name, values in curve.items()}
        metrics, found = of_best(spec, scores, self._desk)
        bank = tuple(scores[self._desk.metric])
        return replace(report, metrics={**report.metrics, **metrics}, bank=bank), found


def served(
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
        return path.read_bytes() if trainer.is_global_zero else b""


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
