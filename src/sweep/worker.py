"""The worker: trains the trials it is ordered to, on one device, with Lightning's Trainer.

It says it is ready, is told to start a trial, reports every epoch, says how the trial ended, and is
ready again.
"""

from __future__ import annotations

import inspect
import logging
import math
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.utils import get_class, instantiate
from pytorch_lightning.callbacks import Callback

from dropnorm.matmul import choose_matmul_backend
from sweep.messages import (
    Ended,
    Exchange,
    Order,
    Quit,
    Ready,
    Report,
    Start,
    Status,
    Stop,
    TrialSpec,
    Wait,
)

log = logging.getLogger(__name__)

_NOT_FOR_US = (
    ".*isinstance\\(treespec, LeafSpec\\).*",  # Lightning's own use of a name torch deprecates
    ".*does not have many workers.*",  # batches are slices of resident tensors
)


def work(name: str, exchange: Exchange, metric: str, direction: str) -> None:
    """Trains until told to quit. An error in a trial ends that trial, not the worker."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for advice in _NOT_FOR_US:
        warnings.filterwarnings("ignore", message=advice)
    log.info("matrix products: %s", choose_matmul_backend())
    orders = exchange(name, [Ready()])
    while not any(isinstance(order, Quit) for order in orders):
        orders = exchange(name, [*_obey(name, orders, exchange, metric, direction), Ready()])


def _obey(
    name: str, orders: Sequence[Order], exchange: Exchange, metric: str, direction: str
) -> list[Ended]:
    ended = []
    for order in orders:
        match order:
            case Start(spec=spec):
                ended.append(_train_safely(name, spec, exchange, metric, direction))
            case Wait(seconds=seconds):
                time.sleep(seconds)
    return ended


def _train_safely(
    name: str, spec: TrialSpec, exchange: Exchange, metric: str, direction: str
) -> Ended:
    start = time.monotonic()
    try:
        return train(name, spec, exchange, metric, direction)
    except Exception as error:
        log.exception("trial %d failed", spec.number)
        reason = f"{type(error).__name__}: {error}"
        return Ended(spec.number, "failed", seconds=time.monotonic() - start, reason=reason)


def train(name: str, spec: TrialSpec, exchange: Exchange, metric: str, direction: str) -> Ended:
    """One trial from its initial weights to its end, reported once an epoch."""
    start = time.monotonic()
    data, module = build(spec)
    conversation = Conversation(name, spec.number, exchange, metric)
    trainer = make_trainer(spec.config["trainer"], [conversation])
    trainer.fit(module, datamodule=data)
    metrics = conversation.metrics
    status, reason = conversation.status, conversation.reason
    value = metrics.get(metric)
    best = status == "complete" and value is not None and _beats(value, spec.best, direction)
    return Ended(
        spec.number,
        status,
        metrics,
        seconds=time.monotonic() - start,
        reason=reason,
        checkpoint=_checkpoint(trainer) if best else None,
    )


def build(spec: TrialSpec) -> tuple[pl.LightningDataModule, pl.LightningModule]:
    """Data and module of a trial. A constructor gets seed, optimizer, input_shape and classes if it
    has parameters of these names that the configuration leaves open."""
    config = spec.config
    data = _instantiate(config["data"], {"seed": spec.seed})
    settings = {key: value for key, value in config["optimizer"].items() if value is not None}
    offered = {"seed": spec.seed, "optimizer": settings}
    for name in ("input_shape", "classes"):
        if hasattr(data, name):
            offered[name] = getattr(data, name)
    return data, _instantiate(config["model"], offered)


def _instantiate(config: Mapping[str, Any], offered: Mapping[str, Any]) -> Any:
    accepted = inspect.signature(get_class(config["_target_"])).parameters
    extra = {k: v for k, v in offered.items() if k in accepted and k not in config}
    return instantiate(config, **extra, _convert_="all")


def make_trainer(settings: Mapping[str, Any], callbacks: list[Callback]) -> pl.Trainer:
    """Lightning's Trainer without what costs time or leaves files: the conductor records."""
    return pl.Trainer(
        **settings,
        devices=1,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


class Conversation(Callback):
    """Reports a trial's metrics after each validated epoch, and stops it when told to."""

    def __init__(self, worker: str, number: int, exchange: Exchange, metric: str) -> None:
        self._worker, self._number, self._exchange, self._metric = worker, number, exchange, metric
        self.metrics: dict[str, float] = {}
        self.status: Status = "complete"
        self.reason: str | None = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
        if self._metric not in self.metrics:
            known = ", ".join(sorted(self.metrics)) or "nothing"
            raise ValueError(f"study.metric: the module never logs {self._metric}; it logs {known}")
        if broken := [k for k, v in self.metrics.items() if not math.isfinite(v)]:
            self._stop(trainer, "failed", f"{broken[0]} is {self.metrics[broken[0]]}")
            return
        epoch = trainer.current_epoch + 1
        orders = self._exchange(self._worker, [Report(self._number, epoch, self.metrics)])
        for order in orders:
            if isinstance(order, Stop) and order.trial == self._number:
                self._stop(trainer, order.status, f"{order.status} after epoch {epoch}")

    def _stop(self, trainer: pl.Trainer, status: Status, reason: str) -> None:
        self.status, self.reason = status, reason
        trainer.should_stop = True


def _beats(value: float, best: float | None, direction: str) -> bool:
    if best is None:
        return True
    return value >= best if direction == "maximize" else value <= best


def _checkpoint(trainer: pl.Trainer) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.ckpt"
        trainer.save_checkpoint(path, weights_only=True)
        return path.read_bytes()
